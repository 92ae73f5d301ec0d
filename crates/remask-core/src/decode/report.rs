//! What a generation says of itself: step by step, and when it is done.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;

use super::accept::Scored;
use super::mor::MorStats;
use super::sampling::Logprobs;
use crate::canvas::Canvas;

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
    /// Every candidate of the step's holes, for provisional text.
    pub candidates: &'a [Scored],
    /// Decided tokens that were replaced.
    pub revised: &'a [Scored],
    /// Positions that were decided and are holes again.
    pub remasked: &'a [usize],
    /// Positions behind the answer's end that were filled with padding.
    pub padded: &'a [usize],
    /// Every position before this one is given, or decided and will not change.
    pub settled: usize,
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
    /// Nothing may follow in the grammar that the answer was kept within.
    Complete,
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
    /// Positions before the first that was not given: the prompt, before the answer.
    pub prompt_tokens: usize,
    /// Ids that end the answer.
    pub ends: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Forward passes run, those before a cut included.
    pub forward_passes: u32,
    /// Tokens of the prompt whose keys and values another generation had computed.
    pub reused_tokens: usize,
    /// Rows computed over all passes.
    pub rows_computed: u64,
    /// Rows whose candidates were computed.
    pub rows_selected: u64,
    /// Rows that full compute would have computed in as many passes.
    pub rows_of_full_compute: u64,
    /// Passes in which each position was computed while it was a hole of the block at work.
    pub depth: Vec<u32>,
    /// What acceptance and its helpers did.
    pub acceptance: AcceptanceStats,
    /// What adaptive depth did, where it was on.
    pub mor: Option<MorStats>,
    /// Log-probabilities by position, of each token when it was committed, where they were asked for.
    pub logprobs: BTreeMap<usize, Logprobs>,
    /// Adjustments made to the request, in sentences.
    pub notes: Vec<String>,
}

/// What became of the candidates of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct AcceptanceStats {
    /// Candidates that were committed.
    pub tokens_accepted: u64,
    /// Candidates that were not, over all passes.
    pub tokens_rejected: u64,
    /// Of the accepted: those that adaptive steps took when the model was sure of the rest of a block.
    pub finished_early: u64,
    /// Decided tokens that were replaced.
    pub tokens_revised: u64,
    /// Decided tokens that were masked again.
    pub tokens_remasked: u64,
    /// Positions behind the end that were filled with padding, without a candidate.
    pub tokens_padded: u64,
}

impl AcceptanceStats {
    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            tokens_accepted: self.tokens_accepted + other.tokens_accepted,
            tokens_rejected: self.tokens_rejected + other.tokens_rejected,
            finished_early: self.finished_early + other.finished_early,
            tokens_revised: self.tokens_revised + other.tokens_revised,
            tokens_remasked: self.tokens_remasked + other.tokens_remasked,
            tokens_padded: self.tokens_padded + other.tokens_padded,
        }
    }
}

impl Generation {
    /// A generation of which nothing has been computed, on a canvas with `prompt_tokens` given at its start.
    #[must_use]
    pub fn new(canvas: Canvas, prompt_tokens: usize, ends: Vec<u32>) -> Self {
        Self {
            ends,
            depth: vec![0; canvas.len()],
            canvas,
            prompt_tokens,
            finish: FinishReason::Length,
            forward_passes: 0,
            reused_tokens: 0,
            rows_computed: 0,
            rows_selected: 0,
            rows_of_full_compute: 0,
            acceptance: AcceptanceStats::default(),
            mor: None,
            logprobs: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// The answer's ids up to the first that ends it, or the first undecided position.
    #[must_use]
    pub fn completion(&self) -> &[u32] {
        let answer = &self.canvas.tokens()[self.prompt_tokens..];
        let end = (0..answer.len())
            .find(|i| self.ends.contains(&answer[*i]) || self.canvas.is_hole(self.prompt_tokens + i))
            .unwrap_or(answer.len());
        &answer[..end]
    }
}
