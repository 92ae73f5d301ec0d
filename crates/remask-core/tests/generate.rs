//! The decoding loop against a backend that computes nothing: it checks what it is asked for and
//! answers from a seeded hash. What is true for any answers is true for any model.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use proptest::prelude::*;
use remask_core::backend::BackendInfo;
use remask_core::decode::Strategy as Difficulty;
use remask_core::families::parse_config;
use remask_core::random::{Key, threefry, unit};
use remask_core::{
    Acceptance, AdaptiveSteps, Architecture, Backend, BackendError, BackendFuture, Cache, Candidate, Canvas, Cell,
    DecodeOptions, Error, FinishReason, Generation, MorConfig, Order, Pass, Request, Revision, Select, StepReport,
    StoreId, Vocabulary, fill, fill_all, generate,
};

const HEAD: u32 = 40;
const MASK: u32 = 39;
const STOP: u32 = 38;

fn architecture() -> Architecture {
    let config = format!(
        "{{\"architectures\": [\"LLaDAModelLM\"], \"d_model\": 8, \"n_heads\": 1, \"n_layers\": 1, \
         \"mlp_hidden_size\": 8, \"vocab_size\": {HEAD}, \"max_sequence_length\": 64, \"rope_theta\": 1e4, \
         \"rms_norm_eps\": 1e-5, \"weight_tying\": true, \"mask_token_id\": {MASK}, \"eos_token_id\": {STOP}}}"
    );
    parse_config("config.json", &config).unwrap().1
}

/// Answers from a hash of `seed`, the canvas position and what the select asks for; counts what it saw.
#[derive(Default)]
struct Fake {
    seed: u32,
    /// Passes that succeed before every further one fails.
    fails_after: Option<u32>,
    /// Stores that can be made before making one fails.
    most_stores: Option<u32>,
    stores: BTreeSet<StoreId>,
    made: u32,
    passes: u32,
    rows: u64,
    selected: u64,
    /// Store and token of each row of the last pass.
    last: Vec<(u32, u32)>,
    /// Answers depend on the position alone, not on how many passes there were before.
    steady: bool,
    /// Candidates may be asked for where there is no hole.
    edits: bool,
}

impl Fake {
    fn new(seed: u32) -> Self {
        Self { seed, ..Self::default() }
    }

    fn candidate(&self, pass: &Pass, select: &Select) -> Candidate {
        let row = pass.rows[select.row as usize];
        let passes = if self.steady { 0 } else { self.passes };
        let key = if select.temperature > 0.0 { select.key } else { Key([self.seed, passes]) };
        let bits = threefry(key, [row.position, self.seed]);
        let token = (0..HEAD).map(|i| (bits[0] % HEAD + i) % HEAD).find(|id| !pass.suppressed.contains(*id)).unwrap();
        // Few different probabilities, so that ties occur.
        let probability = (unit([bits[1], bits[0]]) * 8.0).ceil() / 8.0;
        Candidate { token, probability, entropy: 1.0 - probability, margin: probability / 2.0 }
    }
}

impl Backend for Fake {
    fn info(&self) -> BackendInfo {
        BackendInfo { backend: "fake".into(), adapter: "none".into(), weights: "none".into() }
    }

    fn head_rows(&self) -> usize {
        HEAD as usize
    }

    fn create_store(&mut self, capacity: u32) -> Result<StoreId, BackendError> {
        assert!(capacity > 0);
        if self.most_stores.is_some_and(|most| self.made >= most) {
            return Err(BackendError::OutOfMemory { action: "making a store".into(), bytes: 1 });
        }
        self.made += 1;
        self.stores.insert(StoreId(self.made));
        Ok(StoreId(self.made))
    }

    fn release_store(&mut self, store: StoreId) {
        assert!(self.stores.remove(&store), "{store:?} was released twice");
    }

    fn forward<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<Candidate>> {
        for row in pass.rows {
            assert!(self.stores.contains(&row.store) && row.keys.start < row.keys.end && row.token < HEAD);
        }
        for select in pass.select {
            let row = pass.rows[select.row as usize];
            assert!(row.token == MASK || self.edits, "a candidate was asked for where there is no hole");
            // A guide is the same position of another store.
            let twin = select.guide.map(|g| pass.rows[g.row as usize]);
            assert!(twin.is_none_or(|t| t.position == row.position && t.store != row.store));
        }
        if self.fails_after.is_some_and(|passes| self.passes >= passes) {
            return Box::pin(async { Err(BackendError::DeviceLost("as told".into())) });
        }
        let candidates = pass.select.iter().map(|s| self.candidate(pass, s)).collect();
        self.passes += 1;
        self.rows += pass.rows.len() as u64;
        self.selected += pass.select.len() as u64;
        self.last = pass.rows.iter().map(|r| (r.store.0, r.token)).collect();
        Box::pin(async { Ok(candidates) })
    }

    fn logits<'a>(&'a mut self, _: &'a Pass<'a>) -> BackendFuture<'a, Vec<f32>> {
        Box::pin(async { Err(BackendError::InvalidPass("the fake has no logits".into())) })
    }
}

/// Runs a generation on `backend`.
fn run(
    backend: &mut Fake,
    prompt: &[u32],
    options: &DecodeOptions,
    watch: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<Generation, Error> {
    let architecture = architecture();
    let vocabulary = Vocabulary::of(&architecture).unwrap();
    pollster::block_on(generate(backend, &architecture, &vocabulary, prompt, options, watch))
}

fn go_on(_: &StepReport) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn options() -> impl Strategy<Value = DecodeOptions> {
    let acceptance = prop_oneof![
        Just(Acceptance::Quota(Order::LowConfidence)),
        Just(Acceptance::Quota(Order::Random)),
        (0.0f32..=1.0).prop_map(Acceptance::Threshold),
        (0.0f32..=1.0).prop_map(Acceptance::Margin),
        (0.0f32..=2.0).prop_map(Acceptance::Factor),
        (0.0f32..=2.0).prop_map(Acceptance::EntropyBound),
        (0.0f32..=1.0).prop_map(Acceptance::Credit),
        Just(Acceptance::Hierarchy { threshold: 0.9, low: 0.5 }),
        Just(Acceptance::LocalLeap { threshold: 0.9, relaxed: 0.5, radius: 3 }),
        (1usize..9, 0.0f32..=1.0)
            .prop_map(|(max_parallel, threshold)| Acceptance::Parallel { max_parallel, threshold }),
    ];
    let sizes = (1usize..40, 1usize..60, 1usize..50);
    let draws = (prop_oneof![Just(0.0f32), Just(1.0)], prop_oneof![Just(0.0f32), Just(1.5)], any::<u64>());
    let cache = prop_oneof![
        Just(Cache::None),
        Just(Cache::Prefix),
        Just(Cache::Dual),
        (0u32..9).prop_map(|refresh| Cache::Delayed { refresh }),
        (0usize..30, 0usize..30, 0u32..9).prop_map(|(before, after, warm_up)| Cache::Vicinity {
            before,
            after,
            warm_up
        }),
    ];
    let strategy = prop_oneof![
        Just(Difficulty::Confidence),
        Just(Difficulty::Entropy),
        Just(Difficulty::Margin),
        Just(Difficulty::Gradient),
        Just(Difficulty::Fixed),
    ];
    let mor = (1u32..4, 0u32..4, strategy, proptest::option::of(0.0f32..=1.0)).prop_map(
        |(min_recursions, more, strategy, skip_threshold)| MorConfig {
            min_recursions,
            max_recursions: min_recursions + more,
            strategy,
            skip_threshold,
            ..MorConfig::default()
        },
    );
    let steps = (0.3f32..1.0, 0u32..10, 0u32..4).prop_map(|(threshold, min_steps, patience)| AdaptiveSteps {
        threshold,
        min_steps,
        patience,
    });
    let revision = prop_oneof![
        (0.0f32..=1.0, 0u32..4).prop_map(|(threshold, rounds)| Revision::Verify { threshold, rounds }),
        (0.0f32..=1.0, 0u32..4).prop_map(|(threshold, rounds)| Revision::Edit { threshold, rounds }),
    ];
    let second = (proptest::option::weighted(0.3, steps), proptest::option::weighted(0.3, revision));
    let ends = (any::<bool>(), any::<bool>());
    (sizes, acceptance, (cache, proptest::option::of(mor)), draws, second, ends).prop_map(
        |(sizes, acceptance, (cache, mor), (temperature, cfg_scale, seed), second, (early_stop, free_tail))| {
            let (max_tokens, steps, block_length) = sizes;
            DecodeOptions {
                max_tokens,
                steps,
                block_length,
                acceptance,
                temperature,
                seed,
                cfg_scale,
                cache,
                mor,
                adaptive_steps: second.0,
                revision: second.1,
                early_stop,
                free_tail,
            }
        },
    )
}

/// Prompts that hold mask ids too: a user may have typed them.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0..HEAD, 0..20)
}

/// Checks every step of a generation as it happens.
struct Auditor {
    cells: Vec<Cell>,
    tokens: Vec<u32>,
    steps: u32,
}

impl Auditor {
    fn new(canvas: &Canvas) -> Self {
        Self { cells: canvas.cells().to_vec(), tokens: canvas.tokens().to_vec(), steps: 0 }
    }

    /// What was committed were holes of the block at work, each once; what was revised or remasked had
    /// been decided; padding came behind a stop id; nothing else has changed.
    fn step(&mut self, report: &StepReport) {
        assert_eq!(report.step, self.steps);
        assert!(!report.committed.is_empty() || report.candidates.is_empty(), "a step that commits nothing");
        for s in report.committed {
            assert!(report.block.contains(&s.position) && report.candidates.contains(s));
            assert_eq!(self.cells[s.position], Cell::Hole, "position {} was no hole", s.position);
            self.decide(s.position, s.candidate.token, s.candidate.probability);
        }
        for s in report.revised {
            assert!(report.block.contains(&s.position) && self.tokens[s.position] != s.candidate.token);
            assert!(matches!(self.cells[s.position], Cell::Decided { .. }));
            self.decide(s.position, s.candidate.token, s.candidate.probability);
        }
        for position in report.padded {
            assert_eq!(self.cells[*position], Cell::Hole);
            assert!(self.tokens[..*position].contains(&STOP), "padding before the end");
            self.decide(*position, STOP, 1.0);
        }
        for position in report.remasked {
            assert!(report.block.contains(position) && matches!(self.cells[*position], Cell::Decided { .. }));
            self.cells[*position] = Cell::Hole;
            self.tokens[*position] = MASK;
        }
        assert_eq!(report.canvas.cells(), self.cells);
        assert_eq!(report.canvas.tokens(), self.tokens);
        assert!(!holes(&self.cells, 0..report.block.start), "a block was left before it was full");
        self.steps += 1;
    }

    fn decide(&mut self, position: usize, token: u32, probability: f32) {
        self.cells[position] = Cell::Decided { step: self.steps, probability };
        self.tokens[position] = token;
    }
}

/// The reference: no cache, no skipping, nothing adaptive.
fn plain(options: &DecodeOptions) -> bool {
    options.revision.is_none() && options.adaptive_steps.is_none()
}

fn holes(cells: &[Cell], range: Range<usize>) -> bool {
    cells[range].contains(&Cell::Hole)
}

proptest! {
    #[test]
    fn every_step_commits_holes_once(seed: u32, prompt in prompt(), options in options()) {
        let edits = matches!(options.revision, Some(Revision::Edit { .. }));
        let mut backend = Fake { edits, ..Fake::new(seed) };
        let mut auditor = Auditor::new(&Canvas::new(&prompt, options.max_tokens, MASK));
        let done = run(&mut backend, &prompt, &options, &mut |report| {
            auditor.step(report);
            ControlFlow::Continue(())
        })
        .unwrap();

        prop_assert_eq!(&done.canvas.tokens()[..prompt.len()], &prompt[..]);
        prop_assert_eq!(done.canvas.cells(), &auditor.cells[..]);
        prop_assert_eq!(done.canvas.holes(), auditor.cells.iter().filter(|c| **c == Cell::Hole).count());

        // The reported costs are what the backend saw.
        let reported = (done.forward_passes, done.rows_computed, done.rows_selected);
        prop_assert_eq!(reported, (backend.passes, backend.rows, backend.selected));
        prop_assert_eq!(auditor.steps, backend.passes);
        let full = u64::from(done.forward_passes) * (prompt.len() + options.max_tokens) as u64 * u64::from(backend.made);
        prop_assert_eq!(done.rows_of_full_compute, full);
        if let Some(mor) = done.mor {
            prop_assert_eq!(mor.total_tokens_processed, done.rows_computed);
            prop_assert_eq!(mor.tokens_skipped, full - done.rows_computed);
            prop_assert!(edits || mor.total_recursions == done.rows_selected);
            prop_assert_eq!(mor.total_recursions, done.depth.iter().map(|d| u64::from(*d)).sum::<u64>());
        }
        if let (Acceptance::Quota(_), true) = (options.acceptance, plain(&options)) {
            let blocks = options.max_tokens.div_ceil(options.block_length);
            prop_assert!(done.forward_passes as usize <= options.steps.max(blocks));
        }
        prop_assert!(options.revision.is_some() || done.forward_passes as usize <= options.max_tokens);
        let stats = done.acceptance;
        let decided = (options.max_tokens - done.canvas.holes()) as u64;
        prop_assert_eq!(stats.tokens_accepted + stats.tokens_padded, decided + stats.tokens_remasked);
        prop_assert_eq!(backend.made, if options.cfg_scale > 0.0 { 2 } else { 1 });
        prop_assert!(backend.stores.is_empty(), "stores were left behind");

        // An answer ends at its first stop id, before which everything is decided.
        let answer = &done.canvas.tokens()[prompt.len()..];
        let stop = answer.iter().position(|id| *id == STOP);
        prop_assert_eq!(done.finish, if stop.is_some() { FinishReason::Stop } else { FinishReason::Length });
        prop_assert!(!holes(done.canvas.cells(), 0..prompt.len() + stop.unwrap_or(answer.len())));
        prop_assert!(options.early_stop || done.canvas.holes() == 0);
        prop_assert_eq!(done.completion(&[STOP]), &answer[..stop.unwrap_or(answer.len())]);
    }

    #[test]
    fn the_same_seed_gives_the_same_answer(seed: u32, prompt in prompt(), options in options()) {
        let backend = || Fake { edits: true, ..Fake::new(seed) };
        let once = run(&mut backend(), &prompt, &options, &mut go_on).unwrap();
        let again = run(&mut backend(), &prompt, &options, &mut go_on).unwrap();
        prop_assert_eq!(once.canvas, again.canvas);
        prop_assert_eq!(once.forward_passes, again.forward_passes);
    }

    #[test]
    fn stores_are_released_when_the_backend_fails(seed: u32, options in options(), passes in 0u32..6) {
        let mut backend = Fake { fails_after: Some(passes), edits: true, ..Fake::new(seed) };
        match run(&mut backend, &[1, 2], &options, &mut go_on) {
            Ok(done) => prop_assert!(done.forward_passes <= passes),
            Err(e) => prop_assert!(matches!(e, Error::Backend(BackendError::DeviceLost(_))), "{e}"),
        }
        prop_assert!(backend.stores.is_empty());
        // Nor may the first store stay where there is no room for the second.
        let mut backend = Fake { most_stores: Some(passes % 2), edits: true, ..Fake::new(seed) };
        let done = run(&mut backend, &[1, 2], &options, &mut go_on);
        prop_assert_eq!(done.is_ok(), options.cfg_scale == 0.0 && passes % 2 == 1);
        prop_assert!(backend.stores.is_empty());
    }

    #[test]
    fn a_watcher_can_end_a_generation(seed: u32, options in options(), last in 0u32..10) {
        let mut backend = Fake { edits: true, ..Fake::new(seed) };
        let mut watch = |report: &StepReport| {
            if report.step == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let done = run(&mut backend, &[1, 2], &options, &mut watch).unwrap();
        prop_assert_eq!(done.finish == FinishReason::Aborted, backend.passes == last + 1);
        prop_assert!(backend.passes <= last + 1 && backend.stores.is_empty());
        // What is decided by then can still be read.
        let completion = done.completion(&[STOP]);
        prop_assert!(!holes(done.canvas.cells(), 2..2 + completion.len()));
    }
}

proptest! {
    /// The same canvas gets the same tokens alone and beside others of other lengths and options.
    #[test]
    fn requests_that_share_passes_do_not_see_each_other(
        seed: u32, requests in proptest::collection::vec((prompt(), options()), 1..5),
    ) {
        let architecture = architecture();
        let vocabulary = Vocabulary::of(&architecture).unwrap();
        let backend = || Fake { steady: true, edits: true, ..Fake::new(seed) };
        let canvas = |prompt: &[u32], options: &DecodeOptions| Canvas::new(prompt, options.max_tokens, MASK);
        let together: Vec<_> =
            requests.iter().map(|(p, options)| Request { canvas: canvas(p, options), options }).collect();
        let mut steps = vec![0; requests.len()];
        let mut shared = backend();
        let done = pollster::block_on(fill_all(&mut shared, &architecture, &vocabulary, together, &mut |i, report| {
            assert_eq!(report.step, steps[i]);
            steps[i] += 1;
            ControlFlow::Continue(())
        }))
        .unwrap();
        prop_assert_eq!(shared.passes, done.iter().map(|d| d.forward_passes).max().unwrap());
        prop_assert_eq!(shared.rows, done.iter().map(|d| d.rows_computed).sum::<u64>());
        prop_assert!(shared.stores.is_empty());
        for ((prompt, options), done) in requests.iter().zip(done) {
            let alone = run(&mut backend(), prompt, options, &mut go_on).unwrap();
            prop_assert_eq!(alone.canvas, done.canvas);
            prop_assert_eq!(alone.rows_computed, done.rows_computed);
            prop_assert_eq!(alone.finish, done.finish);
        }
    }

    /// Infilling: holes anywhere, what is given stays, mask text among it too.
    #[test]
    fn scattered_holes_are_filled_and_nothing_else(
        seed: u32, tokens in proptest::collection::vec(0..HEAD, 1..50), chosen in any::<u64>(), options in options(),
    ) {
        let architecture = architecture();
        let vocabulary = Vocabulary::of(&architecture).unwrap();
        let with_holes = |(p, token): (usize, &u32)| (chosen >> p & 1 == 0).then_some(*token);
        let canvas = Canvas::with_holes(&tokens.iter().enumerate().map(with_holes).collect::<Vec<_>>(), MASK);
        let mut auditor = Auditor::new(&canvas);
        let mut backend = Fake { edits: true, ..Fake::new(seed) };
        let mut watch = |report: &StepReport| {
            auditor.step(report);
            ControlFlow::Continue(())
        };
        let run = fill(&mut backend, &architecture, &vocabulary, canvas.clone(), &options, &mut watch);
        let done = pollster::block_on(run);
        if canvas.holes() == 0 {
            prop_assert!(done.unwrap_err().to_string().contains("no hole"));
            return Ok(());
        }
        let done = done.unwrap();
        for (position, token) in tokens.iter().enumerate().filter(|(p, _)| !canvas.is_hole(*p)) {
            prop_assert_eq!((done.canvas.tokens()[position], done.canvas.cells()[position]), (*token, Cell::Given));
        }
        // Nothing is left open before what was given.
        let given = (0..tokens.len()).rev().find(|p| !canvas.is_hole(*p)).unwrap_or(0);
        prop_assert!(!holes(done.canvas.cells(), 0..given) && (options.early_stop || done.canvas.holes() == 0));
    }
}

proptest! {
    /// A plain generation that was cut off goes on from its canvas and ends as it would have.
    #[test]
    fn a_cut_off_generation_goes_on_where_it_stood(
        seed: u32, prompt in prompt(), options in options(), last in 0u32..20,
    ) {
        let options = DecodeOptions { mor: None, adaptive_steps: None, revision: None, cache: Cache::None, ..options };
        prop_assume!(!matches!(options.acceptance, Acceptance::Credit(_)));
        let backend = || Fake { steady: true, ..Fake::new(seed) };
        let whole = run(&mut backend(), &prompt, &options, &mut go_on).unwrap();
        let mut stop = |report: &StepReport| {
            if report.step == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let cut = run(&mut backend(), &prompt, &options, &mut stop).unwrap();
        if cut.canvas.holes() > 0 && cut.finish == FinishReason::Aborted && cut.canvas != whole.canvas {
            let architecture = architecture();
            let vocabulary = Vocabulary::of(&architecture).unwrap();
            let mut backend = backend();
            let watch = &mut go_on;
            let run = fill(&mut backend, &architecture, &vocabulary, cut.canvas, &options, watch);
            let rest = pollster::block_on(run).unwrap();
            prop_assert_eq!((rest.canvas, rest.forward_passes), (whole.canvas, whole.forward_passes));
        }
    }
}

#[test]
fn a_short_answer_in_a_long_canvas_costs_little() {
    let options = DecodeOptions { max_tokens: 48, steps: 48, block_length: 12, ..DecodeOptions::default() };
    // A seed whose third token or so is a stop id.
    let stops_early = |seed: &u32| {
        let mut backend = Fake { steady: true, ..Fake::new(*seed) };
        let full = run(&mut backend, &[1, 2], &options, &mut go_on).unwrap();
        (2..6).contains(&full.completion(&[STOP]).len())
    };
    let seed = (0..500).find(stops_early).unwrap();
    let cost = |options: &DecodeOptions| {
        let mut backend = Fake { steady: true, ..Fake::new(seed) };
        let done = run(&mut backend, &[1, 2], options, &mut go_on).unwrap();
        (done.completion(&[STOP]).to_vec(), done.rows_computed, done.finish)
    };
    let full = cost(&options);
    let stopped = cost(&DecodeOptions { early_stop: true, ..options.clone() });
    let freed = cost(&DecodeOptions { early_stop: true, free_tail: true, ..options.clone() });
    assert_eq!((&full.0, full.2), (&stopped.0, stopped.2), "stopping early changes nothing");
    assert_eq!(full.2, freed.2);
    assert!(stopped.1 <= full.1 / 4 && freed.1 < stopped.1, "{} {} {}", full.1, stopped.1, freed.1);
}

#[test]
fn verification_decides_the_doubtful_again() {
    let revision = Some(Revision::Verify { threshold: 1.0, rounds: 2 });
    let options = DecodeOptions { max_tokens: 8, steps: 8, block_length: 8, revision, ..DecodeOptions::default() };
    let mut backend = Fake::new(3);
    let mut remasked = Vec::new();
    let done = run(&mut backend, &[1], &options, &mut |report| {
        remasked.push(report.remasked.len());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((remasked.iter().filter(|n| **n > 0).count(), done.canvas.holes()), (2, 0));
    assert_eq!(remasked.iter().sum::<usize>() as u64, done.acceptance.tokens_remasked);
}

#[test]
fn another_seed_gives_another_answer_where_chance_has_a_say() {
    let answer = |temperature: f32, order: Order, seed: u64| {
        let acceptance = Acceptance::Quota(order);
        let options =
            DecodeOptions { max_tokens: 24, steps: 8, acceptance, temperature, seed, ..DecodeOptions::default() };
        run(&mut Fake::new(1), &[5], &options, &mut go_on).unwrap().canvas
    };
    assert_eq!(answer(0.0, Order::LowConfidence, 1), answer(0.0, Order::LowConfidence, 2));
    assert_ne!(answer(1.0, Order::LowConfidence, 1), answer(1.0, Order::LowConfidence, 2));
    assert_ne!(answer(0.0, Order::Random, 1), answer(0.0, Order::Random, 2));
}

#[test]
fn guidance_hides_the_prompt_from_the_second_store() {
    let options = DecodeOptions { max_tokens: 2, steps: 1, cfg_scale: 0.5, ..DecodeOptions::default() };
    let mut backend = Fake::new(0);
    run(&mut backend, &[7, 8], &options, &mut go_on).unwrap();
    let expected = [(1, 7), (1, 8), (1, MASK), (1, MASK), (2, MASK), (2, MASK), (2, MASK), (2, MASK)];
    assert_eq!(backend.last, expected);
}

#[test]
fn requests_that_cannot_be_run_are_refused_before_anything_is_made() {
    let good = DecodeOptions { max_tokens: 8, steps: 8, block_length: 8, ..DecodeOptions::default() };
    let long = vec![1; 57];
    let table: Vec<(&[u32], DecodeOptions, &str)> = vec![
        (&[1], DecodeOptions { max_tokens: 0, ..good.clone() }, "max tokens is 0"),
        (&[1], DecodeOptions { steps: 0, ..good.clone() }, "steps must be at least 1"),
        (&[1], DecodeOptions { block_length: 0, ..good.clone() }, "block length and steps"),
        (&[1], DecodeOptions { max_tokens: usize::MAX, ..good.clone() }, "exceed the model's 64 positions"),
        (&long, good.clone(), "57 tokens and 8 to fill in exceed the model's 64 positions"),
        (&[1, 40], good.clone(), "prompt id 40 is outside the model's 40 embeddings"),
        (&[1], DecodeOptions { temperature: -0.5, ..good.clone() }, "temperature -0.5"),
        (&[1], DecodeOptions { temperature: f32::NAN, ..good.clone() }, "temperature NaN"),
        (&[1], DecodeOptions { cfg_scale: f32::INFINITY, ..good.clone() }, "cfg scale inf"),
        (&[1], DecodeOptions { acceptance: Acceptance::Threshold(1.5), ..good.clone() }, "threshold 1.5"),
        (&[1], DecodeOptions { acceptance: Acceptance::Threshold(f32::NAN), ..good.clone() }, "threshold NaN"),
        (
            &[1],
            DecodeOptions { revision: Some(Revision::Verify { threshold: 2.0, rounds: 1 }), ..good.clone() },
            "verify",
        ),
        (
            &[1],
            DecodeOptions {
                adaptive_steps: Some(AdaptiveSteps { threshold: -1.0, ..AdaptiveSteps::default() }),
                ..good.clone()
            },
            "adaptive steps",
        ),
    ];
    for (prompt, options, words) in table {
        let mut backend = Fake::new(0);
        let message = run(&mut backend, prompt, &options, &mut go_on).unwrap_err().to_string();
        assert!(message.contains(words), "no {words:?} in: {message}");
        assert_eq!(backend.made, 0, "{words}");
    }
    // Steps that do not divide are no reason to refuse: they are spread, with a note.
    let uneven = DecodeOptions { steps: 7, block_length: 4, ..good.clone() };
    assert_eq!(run(&mut Fake::new(0), &[1], &uneven, &mut go_on).unwrap().notes.len(), 1);
    let few = DecodeOptions { steps: 1, block_length: 4, ..good };
    let done = run(&mut Fake::new(0), &[1], &few, &mut go_on).unwrap();
    assert!(done.forward_passes == 2 && done.notes[0].contains("raised to 2"), "{:?}", done.notes);
}
