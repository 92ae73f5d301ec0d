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
    Acceptance, Architecture, Backend, BackendError, BackendFuture, Cache, Candidate, Cell, DecodeOptions, Error,
    FinishReason, Generation, MorConfig, Order, Pass, Select, StepReport, StoreId, Vocabulary, generate,
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
}

impl Fake {
    fn new(seed: u32) -> Self {
        Self { seed, ..Self::default() }
    }

    fn candidate(&self, pass: &Pass, select: &Select) -> Candidate {
        let row = pass.rows[select.row as usize];
        let key = if select.temperature > 0.0 { select.key } else { Key([self.seed, self.passes]) };
        let bits = threefry(key, [row.position, self.seed]);
        let token = (0..HEAD).map(|i| (bits[0] % HEAD + i) % HEAD).find(|id| !pass.suppressed.contains(*id)).unwrap();
        // Few different probabilities, so that ties occur.
        let probability = (unit([bits[1], bits[0]]) * 8.0).ceil() / 8.0;
        Candidate { token, probability, entropy: 0.0, margin: 0.0 }
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
            assert_eq!(row.token, MASK, "a candidate was asked for where there is no hole");
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
    (sizes, acceptance, (cache, proptest::option::of(mor)), draws, any::<bool>()).prop_map(
        |(sizes, acceptance, (cache, mor), (temperature, cfg_scale, seed), early_stop)| {
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
                early_stop,
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
    steps: u32,
}

impl Auditor {
    fn new(prompt: usize, answer: usize) -> Self {
        Self { cells: [vec![Cell::Given; prompt], vec![Cell::Hole; answer]].concat(), steps: 0 }
    }

    /// What was committed were holes of the block at work, each once; nothing else has changed.
    fn step(&mut self, report: &StepReport) {
        assert_eq!(report.step, self.steps);
        assert!(!report.committed.is_empty(), "a step that commits nothing");
        for s in report.committed {
            assert!(report.block.contains(&s.position) && report.candidates.contains(s));
            let before = &mut self.cells[s.position];
            assert_eq!(*before, Cell::Hole, "position {} was no hole", s.position);
            *before = Cell::Decided { step: report.step, probability: s.candidate.probability };
            assert_eq!(report.canvas.tokens()[s.position], s.candidate.token);
        }
        assert_eq!(report.canvas.cells(), self.cells);
        assert!(!holes(&self.cells, 0..report.block.start), "a block was left before it was full");
        self.steps += 1;
    }
}

fn holes(cells: &[Cell], range: Range<usize>) -> bool {
    cells[range].contains(&Cell::Hole)
}

proptest! {
    #[test]
    fn every_step_commits_holes_once(seed: u32, prompt in prompt(), options in options()) {
        let mut backend = Fake::new(seed);
        let mut auditor = Auditor::new(prompt.len(), options.max_tokens);
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
            prop_assert_eq!(mor.total_recursions, done.rows_selected);
            prop_assert_eq!(mor.total_recursions, done.depth.iter().map(|d| u64::from(*d)).sum::<u64>());
        }
        if let Acceptance::Quota(_) = options.acceptance {
            let blocks = options.max_tokens.div_ceil(options.block_length);
            prop_assert!(done.forward_passes as usize <= options.steps.max(blocks));
        }
        prop_assert!(done.forward_passes as usize <= options.max_tokens);
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
        let once = run(&mut Fake::new(seed), &prompt, &options, &mut go_on).unwrap();
        let again = run(&mut Fake::new(seed), &prompt, &options, &mut go_on).unwrap();
        prop_assert_eq!(once.canvas, again.canvas);
        prop_assert_eq!(once.forward_passes, again.forward_passes);
    }

    #[test]
    fn stores_are_released_when_the_backend_fails(seed: u32, options in options(), passes in 0u32..6) {
        let mut backend = Fake { fails_after: Some(passes), ..Fake::new(seed) };
        match run(&mut backend, &[1, 2], &options, &mut go_on) {
            Ok(done) => prop_assert!(done.forward_passes <= passes),
            Err(e) => prop_assert!(matches!(e, Error::Backend(BackendError::DeviceLost(_))), "{e}"),
        }
        prop_assert!(backend.stores.is_empty());
        // Nor may the first store stay where there is no room for the second.
        let mut backend = Fake { most_stores: Some(passes % 2), ..Fake::new(seed) };
        let done = run(&mut backend, &[1, 2], &options, &mut go_on);
        prop_assert_eq!(done.is_ok(), options.cfg_scale == 0.0 && passes % 2 == 1);
        prop_assert!(backend.stores.is_empty());
    }

    #[test]
    fn a_watcher_can_end_a_generation(seed: u32, options in options(), last in 0u32..10) {
        let mut backend = Fake::new(seed);
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
