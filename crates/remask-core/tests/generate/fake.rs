//! A backend that computes nothing, settings of all kinds for it, and an auditor of steps.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use proptest::prelude::*;
use remask_core::backend::BackendInfo;
use remask_core::decode::{Sampling, Strategy as Difficulty};
use remask_core::families::parse_config;
use remask_core::random::{Key, threefry, unit};
use remask_core::{
    Acceptance, AdaptiveSteps, Answer, Architecture, Backend, BackendError, BackendFuture, Cache, Candidate, Canvas,
    Cell, DecodeOptions, Error, Generation, MorConfig, Order, Pass, Revision, Select, StepReport, StoreId, Vocabulary,
    Want, generate,
};

pub const HEAD: u32 = 40;
pub const MASK: u32 = 39;
pub const STOP: u32 = 38;

pub fn architecture() -> Arc<Architecture> {
    let config = format!(
        "{{\"architectures\": [\"LLaDAModelLM\"], \"d_model\": 8, \"n_heads\": 1, \"n_layers\": 1, \
         \"mlp_hidden_size\": 8, \"vocab_size\": {HEAD}, \"max_sequence_length\": 64, \"rope_theta\": 1e4, \
         \"rms_norm_eps\": 1e-5, \"weight_tying\": true, \"mask_token_id\": {MASK}, \"eos_token_id\": {STOP}}}"
    );
    parse_config("config.json", &config).unwrap().1.into()
}

/// Answers from a hash of `seed`, the canvas position and what the select asks for; counts what it saw.
#[derive(Default)]
pub struct Fake {
    pub seed: u32,
    /// Passes that succeed before every further one fails.
    pub fails_after: Option<u32>,
    /// Stores that can be made before making one fails.
    pub most_stores: Option<u32>,
    pub stores: BTreeSet<StoreId>,
    pub made: u32,
    pub passes: u32,
    pub rows: u64,
    pub selected: u64,
    /// Store and token of each row of the last pass.
    pub last: Vec<(u32, u32)>,
    /// Answers depend on the position alone, not on how many passes there were before.
    pub steady: bool,
    /// Candidates may be asked for where there is no hole.
    pub edits: bool,
}

impl Fake {
    pub fn new(seed: u32) -> Self {
        Self { seed, ..Self::default() }
    }

    fn candidate(&self, pass: &Pass, select: &Select) -> Candidate {
        let row = pass.rows[select.row as usize];
        let passes = if self.steady { 0 } else { self.passes };
        let Want::Candidate { temperature, key, suppressed } = select.want else { panic!("the fake has no logits") };
        let key = if temperature > 0.0 { key } else { Key([self.seed, passes]) };
        let bits = threefry(key, [row.position, self.seed]);
        let suppressed = &pass.suppressed[suppressed as usize];
        let token = (0..HEAD).map(|i| (bits[0] % HEAD + i) % HEAD).find(|id| !suppressed.contains(*id)).unwrap();
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

    fn forward<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<Answer>> {
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
        let answers = pass.select.iter().map(|s| Answer::Candidate(self.candidate(pass, s))).collect();
        self.passes += 1;
        self.rows += pass.rows.len() as u64;
        self.selected += pass.select.len() as u64;
        self.last = pass.rows.iter().map(|r| (r.store.0, r.token)).collect();
        Box::pin(async { Ok(answers) })
    }
}

/// Runs a generation on `backend`.
pub fn run(
    backend: &mut Fake,
    prompt: &[u32],
    options: &DecodeOptions,
    watch: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<Generation, Error> {
    let architecture = architecture();
    let vocabulary = Arc::new(Vocabulary::of(&architecture));
    pollster::block_on(generate(backend, &architecture, &vocabulary, prompt, options, watch))
}

pub fn go_on(_: &StepReport) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub fn options() -> impl Strategy<Value = DecodeOptions> {
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
                sampling: Sampling { temperature, seed, ..Sampling::default() },
                stop_ids: Vec::new(),
                ignore_eos: false,
                score_prompt: false,
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
pub fn prompt() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0..HEAD, 0..20)
}

/// Checks every step of a generation as it happens.
pub struct Auditor {
    pub cells: Vec<Cell>,
    pub tokens: Vec<u32>,
    pub steps: u32,
    /// What was said to be settled.
    pub settled: Vec<u32>,
}

impl Auditor {
    pub fn new(canvas: &Canvas) -> Self {
        Self { cells: canvas.cells().to_vec(), tokens: canvas.tokens().to_vec(), steps: 0, settled: Vec::new() }
    }

    /// What was committed were holes of the block at work, each once; what was revised or remasked had
    /// been decided; padding came behind a stop id; nothing else has changed.
    pub fn step(&mut self, report: &StepReport) {
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
        // What is settled stays, and blocks that were left are.
        assert!(!holes(&self.cells, 0..report.settled) && report.settled >= report.block.start);
        assert!(self.tokens[..report.settled].starts_with(&self.settled), "a settled token has changed");
        self.settled = self.tokens[..report.settled].to_vec();
        self.steps += 1;
    }

    fn decide(&mut self, position: usize, token: u32, probability: f32) {
        self.cells[position] = Cell::Decided { step: self.steps, probability };
        self.tokens[position] = token;
    }
}

/// The reference: no cache, no skipping, nothing adaptive.
pub fn plain(options: &DecodeOptions) -> bool {
    options.revision.is_none() && options.adaptive_steps.is_none()
}

pub fn holes(cells: &[Cell], range: Range<usize>) -> bool {
    cells[range].contains(&Cell::Hole)
}
