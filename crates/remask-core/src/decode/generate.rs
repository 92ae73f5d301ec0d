//! The decoding loop of masked diffusion models: semi-autoregressive blocks, one pass a step.

use std::ops::{ControlFlow, Range};

use serde::Serialize;

use super::accept::{Acceptance, Order, Scored, accept};
use super::cache::{Cache, Progress};
use super::mor::{Mor, MorConfig, MorStats};
use crate::architecture::Architecture;
use crate::backend::{Backend, Candidate, Guide, Keys, Pass, Row, Select, StoreId, TokenSet};
use crate::canvas::{Canvas, Cell};
use crate::error::{Error, Result};
use crate::random::{Purpose, step_key, threefry, unit};
use crate::schedule::{Block, BlockPlan, quota};

/// Settings of one generation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecodeOptions {
    /// Holes after the prompt.
    pub max_tokens: usize,
    /// Steps over all blocks, for [`Acceptance::Quota`]; see [`BlockPlan::new`].
    pub steps: usize,
    /// Positions that are decided together before the next ones are looked at.
    pub block_length: usize,
    /// What a step commits.
    pub acceptance: Acceptance,
    /// 0 takes the likeliest token; above, Gumbel noise times this is added to the logits.
    pub temperature: f32,
    /// Seed of every random choice.
    pub seed: u64,
    /// Classifier-free guidance strength; 0 is off. Doubles the rows of every pass.
    pub cfg_scale: f32,
    /// What a pass reuses from the passes before it.
    pub cache: Cache,
    /// Compute hard tokens more often than easy ones; `None` computes all alike.
    pub mor: Option<MorConfig>,
    /// Stop after a block that holds an end-of-sequence id; what follows is left undecided.
    pub early_stop: bool,
}

impl Default for DecodeOptions {
    /// LLaDA's reference settings for 128 tokens.
    fn default() -> Self {
        Self {
            max_tokens: 128,
            steps: 128,
            block_length: 128,
            acceptance: Acceptance::Quota(Order::LowConfidence),
            temperature: 0.0,
            seed: 0,
            cfg_scale: 0.0,
            cache: Cache::None,
            mor: None,
            early_stop: false,
        }
    }
}

impl DecodeOptions {
    /// Whether a model of `architecture` can decode `prompt` with these settings. [`generate`] checks it
    /// too; callers that load a large model first would rather know before.
    ///
    /// # Errors
    /// [`Error::Request`] with the setting that cannot be.
    pub fn check(&self, architecture: &Architecture, prompt: &[u32]) -> Result<()> {
        let refuse = |problem: String| Err(Error::Request(problem));
        let (rows, max_positions) = (architecture.embedding_rows, architecture.max_positions);
        if let Some(id) = prompt.iter().find(|id| **id as usize >= rows) {
            return refuse(format!("prompt id {id} is outside the model's {rows} embeddings"));
        }
        let prompt = prompt.len();
        if self.max_tokens == 0 {
            return refuse("max tokens is 0: there is nothing to fill in".to_owned());
        }
        if prompt.saturating_add(self.max_tokens) > max_positions {
            return refuse(format!(
                "the prompt's {prompt} tokens and {} to fill in exceed the model's {max_positions} positions; \
                 shorten the prompt or lower max tokens",
                self.max_tokens
            ));
        }
        if self.block_length == 0 || self.steps == 0 {
            return refuse("block length and steps must be at least 1".to_owned());
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refuse(format!("temperature {} must be 0 or more", self.temperature));
        }
        if !(self.cfg_scale.is_finite() && self.cfg_scale >= 0.0) {
            return refuse(format!("cfg scale {} must be 0 or more", self.cfg_scale));
        }
        if let Acceptance::Threshold(t) = self.acceptance
            && !(0.0..=1.0).contains(&t)
        {
            return refuse(format!("threshold {t} must be between 0 and 1"));
        }
        self.mor.as_ref().map_or(Ok(()), MorConfig::check)
    }
}

/// The ids that decoding treats specially.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// What the model sees in holes.
    pub mask: u32,
    /// Ids that end an answer.
    pub stop: Vec<u32>,
    /// Ids that are never chosen: the mask, and every id that is no token.
    pub suppressed: TokenSet,
}

impl Vocabulary {
    /// The ids of a model without a tokenizer: the mask id and everything above the vocabulary are
    /// never chosen, the config's end-of-sequence ids stop.
    ///
    /// # Errors
    /// [`Error::Request`] where the model has no mask id, so is no diffusion model.
    pub fn of(architecture: &Architecture) -> Result<Self> {
        let mask = architecture.tokens.mask.ok_or_else(|| {
            Error::Request(format!("{} has no mask id: it cannot fill in a canvas", architecture.name))
        })?;
        let mut suppressed = TokenSet::new(architecture.embedding_rows);
        suppressed.insert(mask);
        for id in architecture.vocab_size..architecture.embedding_rows {
            suppressed.insert(id as u32);
        }
        Ok(Self { mask, stop: architecture.tokens.eos.clone(), suppressed })
    }
}

/// What a step did, for watchers.
#[derive(Debug)]
pub struct StepReport<'a> {
    /// Steps done before this one: forward passes, from 0.
    pub step: u32,
    /// Canvas after the step.
    pub canvas: &'a Canvas,
    /// Positions of the block at work.
    pub block: Range<usize>,
    /// What was committed, best first.
    pub committed: &'a [Scored],
    /// Every candidate of the step, for provisional text.
    pub candidates: &'a [Scored],
    /// Positions that the pass computed, in order.
    pub computed: &'a [usize],
    /// Canvas, depths and costs as they stand after the step.
    pub so_far: &'a Generation,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The answer contains an end-of-sequence id.
    Stop,
    /// Every hole was filled without one.
    Length,
    /// The watcher asked to stop.
    Aborted,
}

/// A finished generation and what it cost.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The canvas as it was left. After an early stop holes remain behind the end of the answer.
    pub canvas: Canvas,
    /// Positions of the prompt, before the answer.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub finish: FinishReason,
    /// Forward passes run.
    pub forward_passes: u32,
    /// Rows computed over all passes.
    pub rows_computed: u64,
    /// Rows whose candidates were computed.
    pub rows_selected: u64,
    /// Rows that full compute would have computed in as many passes.
    pub rows_of_full_compute: u64,
    /// Passes in which each position was computed while it was a hole of the block at work.
    pub depth: Vec<u32>,
    /// What adaptive depth did, where it was on.
    pub mor: Option<MorStats>,
    /// Adjustments made to the request, in sentences.
    pub notes: Vec<String>,
}

impl Generation {
    /// The answer's ids up to the first stop id or undecided position.
    #[must_use]
    pub fn completion(&self, stop: &[u32]) -> &[u32] {
        let answer = &self.canvas.tokens()[self.prompt_tokens..];
        let end = (0..answer.len())
            .find(|i| stop.contains(&answer[*i]) || self.canvas.is_hole(self.prompt_tokens + i))
            .unwrap_or(answer.len());
        &answer[..end]
    }
}

/// Fills `options.max_tokens` holes after `prompt`.
///
/// `watch` is called after every step and may end the generation. With the defaults this is LLaDA's
/// reference sampler, token for token; passes over blocks that are already full are not run.
///
/// # Errors
/// [`Error::Request`] before anything is computed; [`Error::Backend`] after. The backend's stores
/// are released either way.
pub async fn generate(
    backend: &mut dyn Backend,
    architecture: &Architecture,
    vocabulary: &Vocabulary,
    prompt: &[u32],
    options: &DecodeOptions,
    watch: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<Generation> {
    options.check(architecture, prompt)?;
    let canvas = Canvas::new(prompt, options.max_tokens, vocabulary.mask);
    fill(backend, architecture, vocabulary, canvas, options, watch).await
}

/// Decides the holes of `canvas`, wherever they are: an answer behind a prompt, gaps in a given text, or
/// a generation that was cut off. `options.max_tokens` is not used; blocks are counted from the first
/// position that was not given.
///
/// What was decided before counts: steps, quotas and random choices go on where the canvas stands, so
/// that a plain generation cut off after any step ends as it would have without the cut.
///
/// # Errors
/// As [`generate`].
pub async fn fill(
    backend: &mut dyn Backend,
    architecture: &Architecture,
    vocabulary: &Vocabulary,
    canvas: Canvas,
    options: &DecodeOptions,
    watch: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<Generation> {
    let open = |cell: &Cell| *cell != Cell::Given;
    let start = canvas.cells().iter().position(open).unwrap_or(canvas.len());
    let end = canvas.cells().iter().rposition(open).map_or(start, |last| last + 1);
    let options = &DecodeOptions { max_tokens: canvas.len() - start, ..options.clone() };
    options.check(architecture, &canvas.tokens()[..start])?;
    let plan = BlockPlan::new(start, end - start, options.block_length, options.steps);
    let length = canvas.len() as u32;
    let passes = canvas.cells().iter().filter_map(|cell| match cell {
        Cell::Decided { step, .. } => Some(step + 1),
        _ => None,
    });
    let passes = passes.max().unwrap_or(0);

    let mut stores = vec![backend.create_store(length)?];
    if options.cfg_scale > 0.0 {
        match backend.create_store(length) {
            Ok(store) => stores.push(store),
            Err(e) => {
                backend.release_store(stores[0]);
                return Err(e.into());
            }
        }
    }
    let run = Run {
        vocabulary,
        architecture,
        options,
        stores: &stores,
        mor: options.mor.map(|config| Mor::new(config, length as usize)),
        computed: Vec::new(),
        output: Generation {
            canvas,
            prompt_tokens: start,
            finish: FinishReason::Length,
            forward_passes: passes,
            rows_computed: 0,
            rows_selected: 0,
            rows_of_full_compute: 0,
            depth: vec![0; length as usize],
            mor: None,
            notes: plan.notes,
        },
    };
    let result = run.all_blocks(backend, &plan.blocks, watch).await;
    for store in stores {
        backend.release_store(store);
    }
    result
}

/// A generation under way.
struct Run<'a> {
    vocabulary: &'a Vocabulary,
    architecture: &'a Architecture,
    options: &'a DecodeOptions,
    stores: &'a [StoreId],
    mor: Option<Mor>,
    /// Positions of the latest pass.
    computed: Vec<usize>,
    output: Generation,
}

impl Run<'_> {
    async fn all_blocks(
        mut self,
        backend: &mut dyn Backend,
        blocks: &[Block],
        watch: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<Generation> {
        for block in blocks {
            if self.block(backend, block, watch).await?.is_break() {
                self.output.finish = FinishReason::Aborted;
                return Ok(self.finish());
            }
            // Everything before the block's end is decided, so a stop id in it is final.
            if self.options.early_stop && self.has_stop(block.positions.clone()) {
                break;
            }
        }
        if self.has_stop(self.output.prompt_tokens..self.output.canvas.len()) {
            self.output.finish = FinishReason::Stop;
        }
        Ok(self.finish())
    }

    fn finish(mut self) -> Generation {
        let decided = self.decided_in(0..self.output.canvas.len());
        self.output.mor = self.mor.map(|mor| mor.stats(&self.output, decided));
        self.output
    }

    fn has_stop(&self, range: Range<usize>) -> bool {
        self.output.canvas.tokens()[range].iter().any(|id| self.vocabulary.stop.contains(id))
    }

    fn decided_in(&self, range: Range<usize>) -> usize {
        self.output.canvas.cells()[range].iter().filter(|cell| matches!(cell, Cell::Decided { .. })).count()
    }

    async fn block(
        &mut self,
        backend: &mut dyn Backend,
        block: &Block,
        watch: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let decided = self.decided_in(block.positions.clone());
        let begun = self.output.canvas.holes_in(block.positions.clone()).count() + decided;
        // Steps that a generation which was cut off has behind it.
        let mut quotas = 0;
        let done = (0..block.steps).take_while(|step| {
            quotas += quota(begun, block.steps, *step).max(1);
            quotas <= decided
        });
        let done = done.count();
        if let Some(mor) = &mut self.mor {
            mor.enter_block();
        }
        for step in 0.. {
            let holes: Vec<_> = self.output.canvas.holes_in(block.positions.clone()).collect();
            if holes.is_empty() {
                break;
            }
            let candidates = self.step(backend, &block.positions, step as u32, &holes).await?;
            let pass = self.output.forward_passes - 1;
            let scored = self.score(&candidates, pass);
            let committed = accept(self.options.acceptance, scored.clone(), quota(begun, block.steps, done + step).max(1));
            for s in &committed {
                self.output.canvas.decide(s.position, s.candidate.token, pass, s.candidate.probability);
            }
            let report = StepReport {
                step: pass,
                canvas: &self.output.canvas,
                block: block.positions.clone(),
                committed: &committed,
                candidates: &scored,
                computed: &self.computed,
                so_far: &self.output,
            };
            if watch(&report).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// One pass over the positions that the cache does not hold and that are worth computing again,
    /// answering the latest candidates at `holes`.
    async fn step(
        &mut self,
        backend: &mut dyn Backend,
        block: &Range<usize>,
        step: u32,
        holes: &[usize],
    ) -> Result<Vec<(usize, Candidate)>> {
        let canvas = &self.output.canvas;
        let length = canvas.len();
        let progress = Progress { canvas, block, step, pass: self.output.forward_passes };
        let mut positions = self.options.cache.positions(&progress);
        if let Some(mor) = &mut self.mor {
            positions = mor.narrow(&progress, positions);
        }
        let mut rows = Vec::with_capacity(positions.len() * self.stores.len());
        for (twin, store) in self.stores.iter().enumerate() {
            for &position in &positions {
                // The unconditional twin sees the mask in place of everything that was given.
                let hidden = twin == 1 && position < self.output.prompt_tokens;
                let keys = self.architecture.visible(position, length);
                rows.push(Row {
                    store: *store,
                    position: position as u32,
                    token: if hidden { self.vocabulary.mask } else { canvas.tokens()[position] },
                    keys: Keys { start: keys.start as u32, end: keys.end as u32 },
                });
            }
        }
        let key = step_key(self.options.seed, self.output.forward_passes, Purpose::Sample);
        let guided = self.stores.len() == 2;
        let guide = |row: usize| Guide { row: (positions.len() + row) as u32, scale: self.options.cfg_scale };
        let select: Vec<_> = (0..positions.len())
            .filter(|row| holes.binary_search(&positions[*row]).is_ok())
            .map(|row| Select {
                row: row as u32,
                guide: guided.then(|| guide(row)),
                temperature: self.options.temperature,
                key,
            })
            .collect();
        let pass = Pass { rows: &rows, select: &select, suppressed: &self.vocabulary.suppressed };
        let candidates = backend.forward(&pass).await?;
        self.output.forward_passes += 1;
        self.output.rows_computed += rows.len() as u64;
        self.output.rows_selected += select.len() as u64;
        self.output.rows_of_full_compute += (length * self.stores.len()) as u64;
        let fresh: Vec<_> =
            select.iter().zip(candidates).map(|(s, candidate)| (positions[s.row as usize], candidate)).collect();
        for (position, _) in &fresh {
            self.output.depth[*position] += 1;
        }
        self.computed = positions;
        let Some(mor) = &mut self.mor else { return Ok(fresh) };
        Ok(mor.observe(holes, &fresh))
    }

    fn score(&self, candidates: &[(usize, Candidate)], pass: u32) -> Vec<Scored> {
        let key = step_key(self.options.seed, pass, Purpose::Remask);
        let random = matches!(self.options.acceptance, Acceptance::Quota(Order::Random));
        candidates
            .iter()
            .map(|(position, candidate)| {
                let score = if random { unit(threefry(key, [*position as u32, 0])) } else { candidate.probability };
                Scored { position: *position, candidate: *candidate, score }
            })
            .collect()
    }
}
