//! Acceptance rules: pure functions from a step's candidates to the ones that are committed.

use serde::Serialize;

use crate::backend::Candidate;

/// How a step decides what to commit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Acceptance {
    /// The step's quota of tokens, best first (LLaDA, arXiv 2502.09992).
    Quota(Order),
    /// Every token at least this probable, and always the best one (Fast-dLLM, arXiv 2505.22618).
    Threshold(f32),
}

/// What makes one position come before another under a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Highest probability first: the others are remasked.
    LowConfidence,
    /// A fresh random order each step.
    Random,
}

/// A candidate with its position and its rank among the step's candidates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Canvas position.
    pub position: usize,
    /// What the model proposes there.
    pub candidate: Candidate,
    /// Greater is committed earlier: the probability, or a random number.
    pub score: f32,
}

/// The candidates to commit, best first. At least one, unless there are none at all or a quota of
/// none. Ties go to the lowest position.
#[must_use]
pub fn accept(rule: Acceptance, mut candidates: Vec<Scored>, quota: usize) -> Vec<Scored> {
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.position.cmp(&b.position)));
    let count = match rule {
        Acceptance::Quota(_) => quota,
        Acceptance::Threshold(t) => candidates.iter().take_while(|c| c.score >= t).count().max(1),
    };
    candidates.truncate(count);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scored(scores: &[f32]) -> Vec<Scored> {
        let candidate = |p| Candidate { token: 1, probability: p, entropy: 0.0, margin: 0.0 };
        scores.iter().enumerate().map(|(i, s)| Scored { position: i, candidate: candidate(*s), score: *s }).collect()
    }

    fn positions(accepted: &[Scored]) -> Vec<usize> {
        accepted.iter().map(|s| s.position).collect()
    }

    #[test]
    fn ties_go_to_the_lowest_position() {
        let rule = Acceptance::Quota(Order::LowConfidence);
        assert_eq!(positions(&accept(rule, scored(&[0.5, 0.9, 0.5, 0.9]), 3)), [1, 3, 0]);
    }

    #[test]
    fn a_threshold_is_inclusive_and_takes_the_best_where_none_reaches_it() {
        assert_eq!(positions(&accept(Acceptance::Threshold(0.5), scored(&[0.5, 0.4, 0.6]), 0)), [2, 0]);
        assert_eq!(positions(&accept(Acceptance::Threshold(0.9), scored(&[0.5, 0.4, 0.6]), 0)), [2]);
    }

    proptest! {
        #[test]
        fn thresholds_take_exactly_what_reaches_them(
            scores in proptest::collection::vec(0.0f32..1.0, 1..40), t in 0.0f32..1.0,
        ) {
            let taken = accept(Acceptance::Threshold(t), scored(&scores), 0);
            let reach = scores.iter().filter(|s| **s >= t).count();
            prop_assert_eq!(taken.len(), reach.max(1));
            prop_assert!(taken.windows(2).all(|w| w[0].score >= w[1].score));
        }
    }
}
