//! Mixture of Recursions at inference: easy tokens are left alone, hard ones are computed again.
//!
//! The idea of trained Mixture-of-Recursions models (arXiv 2507.10524), applied to the steps of a masked
//! diffusion model that was not trained for it. Steps come in cycles. The first pass of a cycle computes
//! what full compute would; from its candidates each undecided token of the block gets a depth, more the
//! harder it is. Pass p of the cycle computes the tokens of depth p and more, and what the pass before
//! decided, against the stored keys and values of the rest. A token that is not computed keeps its last
//! candidate and can be committed by it. Where no token is deep enough, the most doubtful one is computed
//! alone, so that every pass learns something.

use serde::{Deserialize, Serialize};

use super::cache::Progress;
use super::report::Generation;
use crate::backend::Candidate;
use crate::canvas::Cell;
use crate::error::{Error, Result};

/// How the difficulty of a token is read off its candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The probability of the proposed token.
    #[default]
    Confidence,
    /// exp(-entropy): one over the number of tokens the model hesitates between.
    Entropy,
    /// The probability of the likeliest token minus that of the runner-up.
    Margin,
    /// How little the candidate has changed since the token's last pass; its probability at the first.
    Gradient,
    /// Every token gets the largest depth.
    Fixed,
}

/// Settings of adaptive depth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MorConfig {
    /// Passes of a cycle that the easiest tokens take part in.
    pub min_recursions: u32,
    /// Passes of a cycle that the hardest tokens take part in: the length of a cycle.
    pub max_recursions: u32,
    /// What difficulty is.
    pub strategy: Strategy,
    /// A token at least this certain gets the least depth.
    pub confidence_high: f32,
    /// A token at most this certain gets the greatest depth; linear in between.
    pub confidence_low: f32,
    /// Tokens at least this certain are not computed again in the cycle, whatever the least depth is.
    /// `None` makes no exception.
    pub skip_threshold: Option<f32>,
    /// Compute all tokens that are deep enough in one pass; off, the hardest of them alone, one a pass.
    pub batch_by_difficulty: bool,
    /// Add the statistics to the generation's notes.
    pub log_stats: bool,
}

impl Default for MorConfig {
    fn default() -> Self {
        Self {
            min_recursions: 1,
            max_recursions: 3,
            strategy: Strategy::Confidence,
            confidence_high: 0.9,
            confidence_low: 0.5,
            skip_threshold: Some(0.95),
            batch_by_difficulty: true,
            log_stats: false,
        }
    }
}

impl MorConfig {
    /// Whether the settings make sense together.
    ///
    /// # Errors
    /// [`Error::Request`] with the setting that does not.
    pub fn check(&self) -> Result<()> {
        let refuse = |problem: String| Err(Error::Request(format!("mixture of recursions: {problem}")));
        if self.min_recursions == 0 || self.min_recursions > self.max_recursions {
            return refuse(format!(
                "{} to {} recursions; 1 <= least <= most",
                self.min_recursions, self.max_recursions
            ));
        }
        let unit = 0.0..=1.0;
        let (low, high) = (self.confidence_low, self.confidence_high);
        if !unit.contains(&low) || !unit.contains(&high) || low > high {
            return refuse(format!("confidence {low} to {high}; 0 <= low <= high <= 1"));
        }
        if self.skip_threshold.is_some_and(|t| !unit.contains(&t)) {
            return refuse("the skip threshold must be between 0 and 1".to_owned());
        }
        Ok(())
    }

    /// How certain a candidate is, from 0 to 1. `before` is the candidate of the token's last pass.
    fn certainty(&self, now: &Candidate, before: Option<&Candidate>) -> f32 {
        match (self.strategy, before) {
            (Strategy::Confidence, _) | (Strategy::Gradient, None) => now.probability,
            (Strategy::Entropy, _) => (-now.entropy).exp(),
            (Strategy::Margin, _) => now.margin,
            (Strategy::Gradient, Some(b)) if b.token != now.token => 0.0,
            (Strategy::Gradient, Some(b)) => 1.0 - (now.probability - b.probability).abs(),
            (Strategy::Fixed, _) => 0.0,
        }
    }

    /// Passes of the cycle that a token takes part in, for the certainty it was found to have.
    fn depth(&self, certainty: f32) -> u32 {
        if self.strategy != Strategy::Fixed && self.skip_threshold.is_some_and(|t| certainty >= t) {
            return 1;
        }
        let (low, high) = (self.confidence_low, self.confidence_high);
        let hard = if certainty >= high {
            0.0
        } else if certainty <= low {
            1.0
        } else {
            (high - certainty) / (high - low)
        };
        self.min_recursions + (hard * (self.max_recursions - self.min_recursions) as f32).round() as u32
    }
}

/// What adaptive depth did, counted from rows that were really computed.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct MorStats {
    /// Passes.
    pub total_steps: u64,
    /// Rows computed.
    pub total_tokens_processed: u64,
    /// Rows that full compute would have computed in as many passes and that were not.
    pub tokens_skipped: u64,
    /// Tokens found to be at least as certain as the high mark, over all cycles.
    pub easy_tokens: u64,
    /// Tokens in between.
    pub medium_tokens: u64,
    /// Tokens found to be at most as certain as the low mark.
    pub hard_tokens: u64,
    /// Passes that undecided tokens of the block took part in.
    pub total_recursions: u64,
    /// Share of token-layer work saved against full compute, in percent.
    pub compute_saved_pct: f64,
    /// Passes that a token took part in before it was decided, on average.
    pub avg_recursions_per_token: f64,
}

/// Adaptive depth at work.
#[derive(Debug)]
pub(super) struct Mor {
    config: MorConfig,
    /// Passes done in this cycle.
    pass: u32,
    /// Depth in this cycle, by position.
    depth: Vec<u32>,
    /// Certainty that the depth came from, by position.
    certainty: Vec<f32>,
    /// Last candidate, by position.
    latest: Vec<Option<Candidate>>,
    stats: MorStats,
}

impl Mor {
    pub(super) fn new(config: MorConfig, length: usize) -> Self {
        Self {
            config,
            pass: 0,
            depth: vec![0; length],
            certainty: vec![0.0; length],
            latest: vec![None; length],
            stats: MorStats::default(),
        }
    }

    /// A block begins with a cycle of its own: its holes have no candidate yet.
    pub(super) fn enter_block(&mut self) {
        self.pass = 0;
    }

    /// Of the positions that full compute (or the cache) asks for, those that this pass computes.
    pub(super) fn narrow(&mut self, at: &Progress, full: Vec<usize>) -> Vec<usize> {
        if self.pass >= self.config.max_recursions {
            self.pass = 0;
        }
        if self.pass == 0 {
            return full;
        }
        let deep = |p: usize| self.depth[p] > self.pass;
        let holes = || at.canvas.holes_in(at.block.clone());
        let batch = self.config.batch_by_difficulty && holes().any(deep);
        let hardest = holes().min_by(|a, b| self.certainty[*a].total_cmp(&self.certainty[*b]));
        let wanted = |p: &usize| match at.canvas.cells()[*p] {
            Cell::Given => false,
            Cell::Hole if batch => at.block.contains(p) && deep(*p),
            Cell::Hole => hardest == Some(*p),
            Cell::Decided { step, .. } => step + 1 == at.pass,
        };
        (0..at.canvas.len()).filter(wanted).collect()
    }

    /// Takes in a pass's fresh candidates and answers the latest one of every hole in `holes`.
    pub(super) fn observe(&mut self, holes: &[usize], fresh: &[(usize, Candidate)]) -> Vec<(usize, Candidate)> {
        for (position, candidate) in fresh {
            let before = self.latest[*position].replace(*candidate);
            if self.pass == 0 {
                let certainty = self.config.certainty(candidate, before.as_ref());
                self.certainty[*position] = certainty;
                self.depth[*position] = self.config.depth(certainty);
                let class = match certainty {
                    c if c >= self.config.confidence_high => &mut self.stats.easy_tokens,
                    c if c <= self.config.confidence_low => &mut self.stats.hard_tokens,
                    _ => &mut self.stats.medium_tokens,
                };
                *class += 1;
            }
        }
        self.pass += 1;
        holes.iter().filter_map(|p| self.latest[*p].map(|c| (*p, c))).collect()
    }

    /// The statistics of a generation, for `decided` tokens, and a sentence about them where that was
    /// asked for. All but the classes of tokens are what the generation itself has counted.
    pub(super) fn stats(&self, done: &Generation, decided: usize) -> (MorStats, Option<String>) {
        let full = done.rows_of_full_compute;
        let skipped = full.saturating_sub(done.rows_computed);
        let recursions: u64 = done.depth.iter().map(|d| u64::from(*d)).sum();
        let stats = MorStats {
            total_steps: u64::from(done.forward_passes),
            total_tokens_processed: done.rows_computed,
            tokens_skipped: skipped,
            total_recursions: recursions,
            compute_saved_pct: 100.0 * skipped as f64 / full.max(1) as f64,
            avg_recursions_per_token: recursions as f64 / decided.max(1) as f64,
            ..self.stats
        };
        let log = self.config.log_stats.then(|| {
            format!(
                "mixture of recursions: {} passes, {} rows computed, {skipped} skipped ({:.1} % saved), {:.2} recursions \
                 a token; easy {}, medium {}, hard {}",
                stats.total_steps,
                stats.total_tokens_processed,
                stats.compute_saved_pct,
                stats.avg_recursions_per_token,
                stats.easy_tokens,
                stats.medium_tokens,
                stats.hard_tokens
            )
        });
        (stats, log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canvas::Canvas;

    fn candidate(probability: f32) -> Candidate {
        Candidate { token: 1, probability, entropy: 1.0, margin: 0.25 }
    }

    #[test]
    fn depth_is_linear_between_the_marks() {
        let config = MorConfig { max_recursions: 4, skip_threshold: None, ..MorConfig::default() };
        let depths = [0.0, 0.5, 0.64, 0.7, 0.77, 0.9, 1.0].map(|c| config.depth(c));
        assert_eq!(depths, [4, 4, 3, 3, 2, 1, 1]);
        let slow = MorConfig { min_recursions: 2, max_recursions: 4, ..MorConfig::default() };
        assert_eq!([0.9, 0.94, 0.95].map(|c| slow.depth(c)), [2, 2, 1]);
    }

    #[test]
    fn strategies_read_different_signs() {
        let of = |strategy, before: Option<Candidate>| {
            MorConfig { strategy, ..MorConfig::default() }.certainty(&candidate(0.6), before.as_ref())
        };
        assert_eq!(of(Strategy::Confidence, None), 0.6);
        assert!((of(Strategy::Entropy, None) - (-1.0f32).exp()).abs() < 1e-6);
        assert_eq!(of(Strategy::Margin, None), 0.25);
        assert_eq!(of(Strategy::Gradient, None), 0.6);
        assert!((of(Strategy::Gradient, Some(candidate(0.5))) - 0.9).abs() < 1e-6);
        assert_eq!(of(Strategy::Gradient, Some(Candidate { token: 2, ..candidate(0.6) })), 0.0);
        assert_eq!(MorConfig { strategy: Strategy::Fixed, ..MorConfig::default() }.depth(0.0), 3);
    }

    #[test]
    fn impossible_settings_are_refused() {
        let default = MorConfig::default();
        assert!(default.check().is_ok());
        for bad in [
            MorConfig { min_recursions: 0, ..default },
            MorConfig { min_recursions: 5, ..default },
            MorConfig { confidence_low: 0.95, ..default },
            MorConfig { confidence_high: 1.5, ..default },
            MorConfig { confidence_low: f32::NAN, ..default },
            MorConfig { skip_threshold: Some(-0.1), ..default },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    /// One cycle: everything, then the hard ones and what was decided, then all again.
    #[test]
    fn a_cycle_narrows_and_begins_anew() {
        let mut canvas = Canvas::new(&[1], 4, 9);
        let mut mor = Mor::new(MorConfig { max_recursions: 3, ..MorConfig::default() }, 5);
        let all: Vec<_> = (0..5).collect();
        let narrow = |mor: &mut Mor, canvas: &Canvas, pass| {
            mor.narrow(&Progress { canvas, block: &(1..5), step: pass, pass }, (0..5).collect())
        };
        assert_eq!(narrow(&mut mor, &canvas, 0), all);
        let certainties = [0.99, 0.4, 0.97, 0.3];
        let fresh: Vec<_> = (1..5).zip(certainties.map(candidate)).collect();
        assert_eq!(mor.observe(&[1, 2, 3, 4], &fresh).len(), 4);
        canvas.decide(1, 7, 0, 0.99);

        assert_eq!(narrow(&mut mor, &canvas, 1), [1, 2, 4], "the decided one and the hard ones");
        let known = mor.observe(&[2, 3, 4], &[(2, candidate(0.8)), (4, candidate(0.6))]);
        let known: Vec<_> = known.iter().map(|(p, c)| (*p, c.probability)).collect();
        assert_eq!(known, [(2, 0.8), (3, 0.97), (4, 0.6)], "position 3 keeps its candidate");
        for (position, step) in [(2, 1), (4, 1)] {
            canvas.decide(position, 7, step, 0.8);
        }
        assert_eq!(narrow(&mut mor, &canvas, 2), [2, 3, 4], "what was decided and the most doubtful one left");
        assert_eq!(mor.observe(&[3], &[(3, candidate(0.98))]).len(), 1);
        assert_eq!(narrow(&mut mor, &canvas, 3), all, "the next cycle");

        let done = Generation {
            forward_passes: 2,
            rows_computed: 8,
            rows_selected: 7,
            rows_of_full_compute: 10,
            depth: vec![0, 1, 2, 2, 2],
            ..Generation::new(canvas, 1, Vec::new())
        };
        let (stats, log) = mor.stats(&done, 2);
        assert_eq!(log, None);
        assert_eq!((stats.easy_tokens, stats.medium_tokens, stats.hard_tokens), (2, 0, 2));
        assert_eq!((stats.total_tokens_processed, stats.tokens_skipped, stats.total_recursions), (8, 2, 7));
        assert_eq!((stats.compute_saved_pct, stats.avg_recursions_per_token), (20.0, 3.5));
    }
}
