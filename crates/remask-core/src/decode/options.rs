//! Settings of a generation, and whether a model can run with them.

use std::sync::Arc;

use serde::Serialize;

use super::accept::{Acceptance, Order};
use super::cache::Cache;
use super::mor::MorConfig;
use super::sampling::Sampling;
use crate::architecture::Architecture;
use crate::backend::TokenSet;
use crate::canvas::{Canvas, Cell};
use crate::error::{Error, Result};

/// Settings of one generation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecodeOptions {
    /// Holes after the prompt; not looked at where the canvas is given.
    pub max_tokens: usize,
    /// Steps over all blocks, for [`Acceptance::Quota`]; see [`BlockPlan::new`](crate::schedule::BlockPlan::new).
    pub steps: usize,
    /// Holes that are decided together before the next ones are looked at.
    pub block_length: usize,
    /// What a step commits.
    pub acceptance: Acceptance,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Ids that end the answer beside the model's own.
    pub stop_ids: Vec<u32>,
    /// Write on behind the model's own end of a text.
    pub ignore_eos: bool,
    /// Work out the log-probabilities of the prompt's tokens too, as [`Sampling::logprobs`] says. An autoregressive
    /// model's alone; there may then be nothing to write.
    pub score_prompt: bool,
    /// Classifier-free guidance strength; 0 is off. Doubles the rows of every pass.
    pub cfg_scale: f32,
    /// What a pass reuses from the passes before it.
    pub cache: Cache,
    /// Compute hard tokens more often than easy ones; `None` computes all alike.
    pub mor: Option<MorConfig>,
    /// Finish a block at once when the model is sure of all that is left of it.
    pub adaptive_steps: Option<AdaptiveSteps>,
    /// Look again at what was decided.
    pub revision: Option<Revision>,
    /// Stop once an end-of-sequence id and all before it are decided; what follows is left undecided.
    /// The answer is the same.
    pub early_stop: bool,
    /// When an end-of-sequence id is decided, fill every hole behind it with padding and stop
    /// computing those rows: a short answer in a long canvas costs little.
    pub free_tail: bool,
}

/// When a block may be finished early (the convergence test of dfastllm's adaptive steps). The pass that
/// meets it commits every candidate of the block, so no hole is left.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AdaptiveSteps {
    /// Mean probability of the block's candidates that counts as sure.
    pub threshold: f32,
    /// Passes over the text before it may happen.
    pub min_steps: u32,
    /// Passes in a row that must be sure.
    pub patience: u32,
}

impl Default for AdaptiveSteps {
    fn default() -> Self {
        Self { threshold: 0.95, min_steps: 8, patience: 2 }
    }
}

/// How committed tokens are looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Revision {
    /// When a block is full, what was committed below `threshold` (at most half of the block, most
    /// doubtful first) is masked and decided once more, now that the rest is known. The idea is WINO's
    /// (arXiv 2507.18578), whose shadow rows verify each token by itself; here the doubtful are hidden
    /// from each other too.
    Verify {
        /// Probability at commitment below which a token is doubtful.
        threshold: f32,
        /// Times a block may be verified.
        rounds: u32,
    },
    /// Every pass also proposes tokens where the block is decided already; one that is more probable
    /// than `threshold` replaces what stands there. A full block is looked at until nothing changes.
    /// For models trained to edit (LLaDA2.1's token-to-token editing).
    Edit {
        /// Probability above which a proposal replaces a token.
        threshold: f32,
        /// Passes over a full block at most.
        rounds: u32,
    },
}

impl Default for DecodeOptions {
    /// LLaDA's reference settings for 128 tokens.
    fn default() -> Self {
        Self {
            max_tokens: 128,
            steps: 128,
            block_length: 128,
            acceptance: Acceptance::Quota(Order::LowConfidence),
            sampling: Sampling::default(),
            stop_ids: Vec::new(),
            ignore_eos: false,
            score_prompt: false,
            cfg_scale: 0.0,
            cache: Cache::None,
            mor: None,
            adaptive_steps: None,
            revision: None,
            early_stop: false,
            free_tail: false,
        }
    }
}

fn refuse<T>(problem: String) -> Result<T> {
    Err(Error::Request(problem))
}

impl DecodeOptions {
    /// Whether a model of `architecture` can decode `max_tokens` after `prompt` with these settings.
    /// [`generate`](super::generate()) checks it too; callers that load a large model first would rather
    /// know before.
    ///
    /// # Errors
    /// [`Error::Request`] with the setting that cannot be.
    pub fn check(&self, architecture: &Architecture, prompt: &[u32]) -> Result<()> {
        let max_positions = architecture.max_positions;
        check_ids(architecture, prompt)?;
        if self.max_tokens == 0 {
            return refuse("max tokens is 0: there is nothing to fill in".to_owned());
        }
        if prompt.len().saturating_add(self.max_tokens) > max_positions {
            return refuse(format!(
                "the prompt's {} tokens and {} to fill in exceed the model's {max_positions} positions; \
                 shorten the prompt or lower max tokens",
                prompt.len(),
                self.max_tokens
            ));
        }
        if prompt.is_empty() && !architecture.is_diffusion() {
            return refuse("the prompt is empty: an autoregressive model needs a token to go on from".to_owned());
        }
        self.sampling.check(architecture.embedding_rows)?;
        self.check_settings()
    }

    /// Whether a model of `architecture` can fill in the holes of `canvas` with these settings.
    ///
    /// # Errors
    /// [`Error::Request`] with the setting that cannot be.
    pub fn check_canvas(&self, architecture: &Architecture, canvas: &Canvas) -> Result<()> {
        check_ids(architecture, canvas.tokens())?;
        if self.score_prompt && (architecture.is_diffusion() || canvas.is_empty()) {
            return refuse(
                "log-probabilities of a prompt are an autoregressive model's, of one token at least".to_owned(),
            );
        }
        if canvas.holes() == 0 && !self.score_prompt {
            return refuse("the text has no hole: there is nothing to fill in".to_owned());
        }
        if canvas.len() > architecture.max_positions {
            return refuse(format!(
                "the text's {} tokens exceed the model's {} positions; shorten it",
                canvas.len(),
                architecture.max_positions
            ));
        }
        let behind = |c: &&Cell| **c == Cell::Given;
        let holes_end = canvas.cells().iter().rev().take_while(|c| !behind(c)).count();
        if !architecture.is_diffusion() && (canvas.is_hole(0) || holes_end < canvas.holes()) {
            return refuse(format!(
                "{} is autoregressive: it continues a text and cannot fill holes before what is given",
                architecture.name
            ));
        }
        self.sampling.check(architecture.embedding_rows)?;
        self.check_settings()
    }

    /// Ids that end an answer of a model with this vocabulary.
    #[must_use]
    pub fn ends(&self, vocabulary: &Vocabulary) -> Vec<u32> {
        let own = if self.ignore_eos { &[][..] } else { &vocabulary.stop };
        own.iter().chain(&self.stop_ids).copied().collect()
    }

    /// Whether the settings make sense together, whatever the model.
    ///
    /// # Errors
    /// [`Error::Request`] with the setting that does not.
    pub fn check_settings(&self) -> Result<()> {
        if self.block_length == 0 || self.steps == 0 {
            return refuse("block length and steps must be at least 1".to_owned());
        }
        if !(self.cfg_scale.is_finite() && self.cfg_scale >= 0.0) {
            return refuse(format!("cfg scale {} must be 0 or more", self.cfg_scale));
        }
        self.acceptance.check()?;
        if let Some(steps) = self.adaptive_steps {
            check_unit("adaptive steps: threshold", steps.threshold)?;
        }
        match self.revision {
            Some(Revision::Verify { threshold, .. }) => check_unit("verify: threshold", threshold)?,
            Some(Revision::Edit { threshold, .. }) => check_unit("edit: threshold", threshold)?,
            None => {}
        }
        self.mor.as_ref().map_or(Ok(()), MorConfig::check)
    }
}

impl Acceptance {
    /// Whether the rule's numbers make sense.
    ///
    /// # Errors
    /// [`Error::Request`] with the number that does not.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Quota(_) => Ok(()),
            Self::Threshold(t) | Self::Margin(t) | Self::Credit(t) => check_unit("threshold", t),
            Self::Factor(f) => check_positive("factor", f),
            Self::EntropyBound(bound) => check_positive("entropy bound", bound),
            Self::Hierarchy { threshold, low } => check_pair("low threshold", low, threshold),
            Self::LocalLeap { threshold, relaxed, .. } => check_pair("relaxed threshold", relaxed, threshold),
            Self::Parallel { max_parallel: 0, .. } => refuse("max parallel must be at least 1".to_owned()),
            Self::Parallel { threshold, .. } => check_unit("threshold", threshold),
        }
    }
}

fn check_ids(architecture: &Architecture, ids: &[u32]) -> Result<()> {
    let rows = architecture.embedding_rows;
    match ids.iter().find(|id| **id as usize >= rows) {
        Some(id) => refuse(format!("prompt id {id} is outside the model's {rows} embeddings")),
        None => Ok(()),
    }
}

fn check_unit(what: &str, value: f32) -> Result<()> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { refuse(format!("{what} {value} must be between 0 and 1")) }
}

fn check_positive(what: &str, value: f32) -> Result<()> {
    if value.is_finite() && value >= 0.0 { Ok(()) } else { refuse(format!("{what} {value} must be 0 or more")) }
}

fn check_pair(what: &str, low: f32, threshold: f32) -> Result<()> {
    check_unit("threshold", threshold)?;
    check_unit(what, low)?;
    if low <= threshold { Ok(()) } else { refuse(format!("{what} {low} must not exceed the threshold {threshold}")) }
}

/// The ids that decoding treats specially.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// What a diffusion model sees in holes.
    pub mask: Option<u32>,
    /// Ids that end an answer.
    pub stop: Vec<u32>,
    /// What stands behind the end of an answer in the texts that the model learnt from.
    pub pad: Option<u32>,
    /// Ids that are never chosen: the mask, and every id that is no token.
    pub suppressed: Arc<TokenSet>,
}

impl Vocabulary {
    /// What stands where nothing is decided: the mask, or for an autoregressive model, which never sees such a
    /// position, id 0.
    #[must_use]
    pub fn hole(&self) -> u32 {
        self.mask.unwrap_or_default()
    }

    /// The same, but that no end is ever chosen: an answer fills every hole.
    #[must_use]
    pub fn without_ends(&self) -> Self {
        let mut suppressed = TokenSet::clone(&self.suppressed);
        self.stop.iter().for_each(|id| suppressed.insert(*id));
        Self { stop: Vec::new(), suppressed: Arc::new(suppressed), ..self.clone() }
    }

    /// The ids of a model without a tokenizer: the mask id and everything above the vocabulary are
    /// never chosen, the config's end-of-sequence ids stop.
    #[must_use]
    pub fn of(architecture: &Architecture) -> Self {
        let mask = architecture.tokens.mask;
        let mut suppressed = TokenSet::new(architecture.embedding_rows);
        mask.iter().for_each(|id| suppressed.insert(*id));
        for id in architecture.vocab_size..architecture.embedding_rows {
            suppressed.insert(id as u32);
        }
        let stop = architecture.tokens.eos.clone();
        let pad = architecture.tokens.pad.filter(|id| Some(*id) != mask).or(stop.first().copied());
        Self { mask, stop, pad, suppressed: Arc::new(suppressed) }
    }
}
