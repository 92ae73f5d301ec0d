//! Adaptive parallel decoding with a verifier (Israel et al., arXiv 2506.00413): the diffusion model
//! proposes a run of tokens at once, a small autoregressive model says how well they follow from each
//! other, and a prefix of the run is kept.
//!
//! The diffusion model's marginals cannot say whether two likely tokens are likely together. For each
//! position of the run, left to right, a target is formed, the normalised product
//! `p_diffusion^R p_verifier^(1-R)`, and both the marginal and the target are sampled with the same Gumbel
//! noise. While they agree the run goes on; at the first that do not, the target's token is taken, and
//! the run ends there. The first position has nothing unverified before it and takes the diffusion
//! model's token. Decoding is left to right, so everything before the run is final and only its last
//! `window` positions are computed again (their keys were made when fewer tokens were known).

use std::ops::ControlFlow;

use serde::Serialize;

use super::generating::Work;
use super::options::Vocabulary;
use crate::architecture::Architecture;
use crate::backend::{Backend, BackendFuture, Row, Select, StoreId, TokenSet};
use crate::canvas::Canvas;
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::random::{Key, Purpose, gumbel, step_key, threefry};
use crate::scheduler::logits;

/// A causal language model over the same vocabulary.
pub trait Verifier {
    /// Log-probabilities of the next token after each of `tokens[from - 1..len - 1]`: those that the
    /// tokens at `from..len` are judged by. `[len - from, head rows]`, row by row.
    ///
    /// # Errors
    /// Those of the verifier's device.
    fn log_probabilities<'a>(&'a mut self, tokens: &'a [u32], from: usize) -> BackendFuture<'a, Vec<f32>>;
}

/// Settings of verified decoding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ApdConfig {
    /// Holes after the prompt.
    pub max_tokens: usize,
    /// R: how much the diffusion model counts against the verifier, 0 to 1. At 1 the verifier is not
    /// heard and whole runs are kept.
    pub mixture: f32,
    /// Longest run that is proposed at once.
    pub lookahead: usize,
    /// Decided positions before the run that are computed again.
    pub window: usize,
    /// 0 compares likeliest tokens; above, Gumbel noise times this is added to both log-probabilities.
    pub temperature: f32,
    /// Seed of the noise.
    pub seed: u64,
}

impl Default for ApdConfig {
    fn default() -> Self {
        Self { max_tokens: 128, mixture: 0.7, lookahead: 16, window: 16, temperature: 0.0, seed: 0 }
    }
}

/// A finished generation.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The canvas; holes remain behind the end of the answer.
    pub canvas: Canvas,
    /// Passes of the diffusion model.
    pub forward_passes: u32,
    /// Rows of the diffusion model.
    pub rows_computed: u64,
    /// Tokens that were proposed.
    pub proposed: u64,
    /// Proposed tokens that were kept.
    pub kept: u64,
    /// Tokens of the target that took the place of a rejected proposal.
    pub corrected: u64,
}

/// Fills `config.max_tokens` holes after `prompt`, left to right, until a stop id. `watch` sees the canvas after
/// every run and may end it.
///
/// # Errors
/// [`Error::Request`] before anything is computed; [`Error::Backend`] of either model after.
pub async fn generate_verified(
    backend: &mut dyn Backend,
    verifier: &mut dyn Verifier,
    architecture: &Architecture,
    vocabulary: &Vocabulary,
    prompt: &[u32],
    config: &ApdConfig,
    watch: &mut dyn FnMut(&Canvas) -> ControlFlow<()>,
) -> Result<Verified> {
    config.check(architecture, prompt)?;
    let canvas = Canvas::new(prompt, config.max_tokens, vocabulary.hole());
    let mut lease = Lease::new(backend, 1, canvas.len())?;
    let done = Verified { canvas, forward_passes: 0, rows_computed: 0, proposed: 0, kept: 0, corrected: 0 };
    let mut run = Run { architecture, vocabulary, config, store: lease.store(), next: prompt.len(), done };
    run.all(lease.backend(), verifier, watch).await?;
    Ok(run.done)
}

impl ApdConfig {
    fn check(&self, architecture: &Architecture, prompt: &[u32]) -> Result<()> {
        let refuse = |problem: String| Err(Error::Request(problem));
        if prompt.is_empty() {
            return refuse("the prompt is empty: a verifier needs a token to begin from".to_owned());
        }
        if let Some(id) = prompt.iter().find(|id| **id as usize >= architecture.embedding_rows) {
            return refuse(format!("prompt id {id} is outside the model's {} embeddings", architecture.embedding_rows));
        }
        if self.max_tokens == 0 || prompt.len().saturating_add(self.max_tokens) > architecture.max_positions {
            let (given, most) = (prompt.len(), architecture.max_positions);
            return refuse(format!("{} tokens after {given} do not fit 1 to {most} positions", self.max_tokens));
        }
        if !(0.0..=1.0).contains(&self.mixture) {
            return refuse(format!("mixture {} must be between 0 and 1", self.mixture));
        }
        if self.lookahead == 0 {
            return refuse("lookahead must be at least 1".to_owned());
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refuse(format!("temperature {} must be 0 or more", self.temperature));
        }
        Ok(())
    }
}

struct Run<'a> {
    architecture: &'a Architecture,
    vocabulary: &'a Vocabulary,
    config: &'a ApdConfig,
    store: StoreId,
    /// First position that is not decided.
    next: usize,
    done: Verified,
}

impl Run<'_> {
    async fn all(
        &mut self,
        backend: &mut dyn Backend,
        verifier: &mut dyn Verifier,
        watch: &mut dyn FnMut(&Canvas) -> ControlFlow<()>,
    ) -> Result<()> {
        while self.next < self.done.canvas.len() {
            let length = self.config.lookahead.min(self.done.canvas.len() - self.next);
            let marginals = self.marginals(backend, length).await?;
            let step = self.done.forward_passes - 1;
            let key = step_key(self.config.seed, step, Purpose::Sample);
            let width = backend.head_rows();
            let proposed: Vec<_> = (0..length).map(|i| self.choose(&marginals[i * width..][..width], i, key)).collect();
            let mut tokens = self.done.canvas.tokens()[..self.next].to_vec();
            tokens.extend(&proposed);
            let verdict = verifier.log_probabilities(&tokens, self.next).await?;
            self.done.proposed += length as u64;
            for i in 0..length {
                let own = &marginals[i * width..][..width];
                let token = if i == 0 {
                    proposed[0]
                } else {
                    let target = self.target(own, verdict.get(i * width..).unwrap_or_default());
                    self.choose(&target, i, key)
                };
                let agree = token == proposed[i];
                self.done.canvas.decide(self.next + i, token, step, own[token as usize].exp());
                if agree {
                    self.done.kept += 1
                } else {
                    self.done.corrected += 1
                }
                let ended = self.vocabulary.stop.contains(&token);
                if ended || !agree || i + 1 == length {
                    self.next = if ended { self.done.canvas.len() } else { self.next + i + 1 };
                    break;
                }
            }
            if watch(&self.done.canvas).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The diffusion model's log-probabilities for the next `length` holes.
    async fn marginals(&mut self, backend: &mut dyn Backend, length: usize) -> Result<Vec<f32>> {
        let canvas = &self.done.canvas;
        // All the first time; then what is near the run: keys of the far past hardly change any more,
        // and holes behind the run keep those of their first pass.
        let first = if self.done.forward_passes == 0 { 0 } else { self.next.saturating_sub(self.config.window) };
        let last = if self.done.forward_passes == 0 { canvas.len() } else { self.next + length };
        let row = |p: usize| Row::of_canvas(self.architecture, self.store, p, canvas.tokens()[p], canvas.len());
        let rows: Vec<_> = (first..last).map(row).collect();
        let select: Vec<_> = (self.next..self.next + length).map(|p| Select::logits(p - first, p)).collect();
        let work = Work { rows, select, ..Work::default() };
        let mut logits = logits(backend, &work).await?;
        self.done.forward_passes += 1;
        self.done.rows_computed += work.rows.len() as u64;
        for row in logits.chunks_mut(backend.head_rows()) {
            normalise(row, &self.vocabulary.suppressed);
        }
        Ok(logits)
    }

    /// Log of the normalised product mixture.
    fn target(&self, diffusion: &[f32], verifier: &[f32]) -> Vec<f32> {
        let r = self.config.mixture;
        // What one model rules out stays out, whatever the other's share: infinity times 0 is no number.
        let mix = |(d, v): (&f32, &f32)| {
            if d.is_finite() && v.is_finite() { r * d + (1.0 - r) * v } else { f32::NEG_INFINITY }
        };
        let mut target: Vec<_> = diffusion.iter().zip(verifier).map(mix).collect();
        if target.iter().all(|t| *t == f32::NEG_INFINITY) {
            // Nothing that both models allow: the diffusion model's word counts.
            return diffusion.to_vec();
        }
        normalise(&mut target, &self.vocabulary.suppressed);
        target
    }

    /// The likeliest id, with the noise of position `next + i`; among equals the lowest.
    fn choose(&self, log_probabilities: &[f32], i: usize, key: Key) -> u32 {
        let position = (self.next + i) as u32;
        let mut best = (0, f32::NEG_INFINITY);
        for (id, log) in log_probabilities.iter().enumerate() {
            let noise = match self.config.temperature {
                0.0 => 0.0,
                t => t * gumbel(threefry(key, [position, id as u32])),
            };
            if log + noise > best.1 {
                best = (id as u32, log + noise);
            }
        }
        best.0
    }
}

/// Log-probabilities of logits, with suppressed ids ruled out.
fn normalise(logits: &mut [f32], suppressed: &TokenSet) {
    let mut largest = f32::NEG_INFINITY;
    for (id, logit) in logits.iter_mut().enumerate() {
        if suppressed.contains(id as u32) {
            *logit = f32::NEG_INFINITY;
        }
        largest = largest.max(*logit);
    }
    let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
    let log = largest + sum.ln() as f32;
    for logit in logits {
        *logit -= log;
    }
}
