//! Acceptance rules: pure functions from a step's candidates to the ones that are committed.

use serde::Serialize;

use crate::backend::Candidate;

/// How a step decides what to commit. Every rule commits at least one token, so that decoding ends;
/// among equals the lowest position comes first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Acceptance {
    /// The step's quota of tokens, best first (LLaDA, arXiv 2502.09992).
    Quota(Order),
    /// Every token at least this probable (Fast-dLLM, arXiv 2505.22618).
    Threshold(f32),
    /// The n likeliest for the largest n with (n + 1) (1 - probability of the n-th) below this factor:
    /// the more are committed together, the surer each must be (Fast-dLLM).
    Factor(f32),
    /// In order of entropy, as long as the entropies of those before sum to at most this many nats
    /// (EB-Sampler, arXiv 2505.24857).
    EntropyBound(f32),
    /// Every token whose probability exceeds the runner-up's by at least this.
    Margin(f32),
    /// The likeliest token of every run of holes if it reaches `low`, and every token that reaches
    /// `threshold`: far apart tokens depend little on each other (dInfer's hierarchical decoding).
    Hierarchy {
        /// Probability from which a token is committed wherever it stands.
        threshold: f32,
        /// Probability from which the best of its run is.
        low: f32,
    },
    /// Every token whose probability reaches the threshold after the credit that it earned in earlier
    /// steps is added (dInfer's credit decoding); see [`Credits`](super::credit::Credits).
    Credit(f32),
    /// Every token that reaches `threshold`, and around each of these every token that reaches
    /// `relaxed`: what was just decided makes its neighbours surer (LocalLeap, arXiv 2510.07081).
    LocalLeap {
        /// Probability of an anchor.
        threshold: f32,
        /// Probability that is enough near an anchor.
        relaxed: f32,
        /// Positions on each side of an anchor that are near it.
        radius: usize,
    },
    /// Adaptive parallel decoding without a verifier: the likeliest tokens, at most `max_parallel`, each at least
    /// `threshold` probable. With a verifier, see [`generate_verified`](super::apd::generate_verified).
    Parallel {
        /// Most tokens of a step.
        max_parallel: usize,
        /// Least probability.
        threshold: f32,
    },
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
    /// Greater is committed earlier; see [`Acceptance::score`].
    pub score: f32,
}

impl Acceptance {
    /// What the rule ranks a candidate by, where the candidate alone says it: the probability, the
    /// negative entropy or the margin. A random order and credit come from the decoding's state.
    #[must_use]
    pub fn score(self, candidate: &Candidate) -> f32 {
        match self {
            Self::EntropyBound(_) => -candidate.entropy,
            Self::Margin(_) => candidate.margin,
            _ => candidate.probability,
        }
    }

    /// The candidates to commit, best first: at least one of any, unless `quota` asks for none.
    #[must_use]
    pub fn accept(self, mut candidates: Vec<Scored>, quota: usize) -> Vec<Scored> {
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.position.cmp(&b.position)));
        let reach = |threshold: f32| candidates.iter().take_while(|c| c.score >= threshold).count();
        let count = match self {
            Self::Quota(_) => quota,
            Self::Threshold(t) | Self::Margin(t) | Self::Credit(t) => reach(t).max(1),
            Self::Parallel { max_parallel, threshold } => reach(threshold).min(max_parallel).max(1),
            Self::Factor(factor) => {
                let holds = |(i, c): (usize, &Scored)| ((i + 2) as f32 * (1.0 - c.score) < factor).then_some(i + 1);
                candidates.iter().enumerate().filter_map(holds).max().unwrap_or(1)
            }
            Self::EntropyBound(bound) => {
                let mut sum = 0.0;
                let within = |c: &&Scored| {
                    let before = sum;
                    sum -= c.score;
                    before <= bound
                };
                candidates.iter().take_while(within).count().max(1)
            }
            Self::Hierarchy { threshold, low } => {
                let best = best_of_runs(&candidates);
                return keep(candidates, |c| c.score >= threshold || (c.score >= low && best.contains(&c.position)));
            }
            Self::LocalLeap { threshold, relaxed, radius } => {
                let anchors: Vec<_> = candidates[..reach(threshold)].iter().map(|c| c.position).collect();
                let near = |p: usize| anchors.iter().any(|a| a.abs_diff(p) <= radius);
                return keep(candidates, |c| c.score >= threshold || (c.score >= relaxed && near(c.position)));
            }
        };
        candidates.truncate(count);
        candidates
    }
}

/// The candidates for which `wanted` holds, or the best one alone.
fn keep(sorted: Vec<Scored>, wanted: impl Fn(&Scored) -> bool) -> Vec<Scored> {
    let best = sorted.first().copied();
    let kept: Vec<_> = sorted.into_iter().filter(wanted).collect();
    if kept.is_empty() { best.into_iter().collect() } else { kept }
}

/// Positions of the best candidate of every run of neighbouring positions; `sorted` has the best first.
fn best_of_runs(sorted: &[Scored]) -> Vec<usize> {
    let mut by_position: Vec<_> = sorted.iter().enumerate().map(|(rank, c)| (c.position, rank)).collect();
    by_position.sort_unstable();
    let runs = by_position.chunk_by(|a, b| a.0 + 1 == b.0);
    runs.filter_map(|run| run.iter().min_by_key(|(_, rank)| *rank).map(|(position, _)| *position)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scored(scores: &[f32]) -> Vec<Scored> {
        let candidate = |p| Candidate { token: 1, probability: p, entropy: 0.0, margin: 0.0 };
        scores.iter().enumerate().map(|(i, s)| Scored { position: i, candidate: candidate(*s), score: *s }).collect()
    }

    fn positions(rule: Acceptance, scores: &[f32], quota: usize) -> Vec<usize> {
        rule.accept(scored(scores), quota).iter().map(|s| s.position).collect()
    }

    #[test]
    fn ties_go_to_the_lowest_position() {
        assert_eq!(positions(Acceptance::Quota(Order::LowConfidence), &[0.5, 0.9, 0.5, 0.9], 3), [1, 3, 0]);
    }

    #[test]
    fn rules_take_what_they_say() {
        use Acceptance::*;
        let leap = |radius| LocalLeap { threshold: 0.9, relaxed: 0.7, radius };
        let table: Vec<(Acceptance, &[f32], &[usize])> = vec![
            (Threshold(0.5), &[0.5, 0.4, 0.6], &[2, 0]),
            (Threshold(0.9), &[0.5, 0.4, 0.6], &[2]),
            // (2)(0.1) and (3)(0.2) are below 1, (4)(0.5) is not.
            (Factor(1.0), &[0.9, 0.5, 0.8], &[0, 2]),
            (Factor(1.0), &[0.6, 0.3], &[0]),
            (EntropyBound(0.15), &[-0.3, -0.1, -0.1], &[1, 2]),
            (EntropyBound(0.2), &[-0.3, -0.1, -0.1], &[1, 2, 0]),
            (EntropyBound(0.0), &[-0.3, -0.4], &[0]),
            (Margin(0.3), &[0.2, 0.3, 0.4], &[2, 1]),
            (Parallel { max_parallel: 2, threshold: 0.3 }, &[0.5, 0.4, 0.6], &[2, 0]),
            (Parallel { max_parallel: 8, threshold: 0.45 }, &[0.5, 0.4, 0.6], &[2, 0]),
            (leap(1), &[0.75, 0.95, 0.69, 0.8], &[1, 0]),
            (leap(2), &[0.75, 0.95, 0.69, 0.8], &[1, 3, 0]),
            (leap(2), &[0.75, 0.8], &[1]),
            (Hierarchy { threshold: 0.9, low: 0.5 }, &[0.6, 0.7, 0.95], &[2]),
            (Hierarchy { threshold: 0.9, low: 0.5 }, &[0.4, 0.3], &[0]),
        ];
        for (rule, scores, expected) in table {
            assert_eq!(positions(rule, scores, 0), expected, "{rule:?} of {scores:?}");
        }
    }

    #[test]
    fn a_hierarchy_takes_the_best_of_each_run() {
        let mut candidates = scored(&[0.6, 0.7, 0.55, 0.65]);
        for c in &mut candidates[2..] {
            c.position += 5;
        }
        let taken = Acceptance::Hierarchy { threshold: 0.9, low: 0.5 }.accept(candidates, 0);
        assert_eq!(taken.iter().map(|c| c.position).collect::<Vec<_>>(), [1, 8]);
    }

    fn any_rule() -> impl Strategy<Value = Acceptance> {
        (0usize..9, 0.0f32..1.0, 0.0f32..1.0, 0usize..9).prop_map(|(which, a, b, n)| match which {
            0 => Acceptance::Threshold(a),
            1 => Acceptance::Factor(2.0 * a),
            2 => Acceptance::EntropyBound(a),
            3 => Acceptance::Margin(a),
            4 => Acceptance::Hierarchy { threshold: a.max(b), low: a.min(b) },
            5 => Acceptance::Credit(a),
            6 => Acceptance::LocalLeap { threshold: a.max(b), relaxed: a.min(b), radius: n },
            7 => Acceptance::Parallel { max_parallel: n, threshold: a },
            _ => Acceptance::Quota(Order::LowConfidence),
        })
    }

    proptest! {
        #[test]
        fn every_rule_takes_the_best_and_each_once(
            rule in any_rule(), scores in proptest::collection::vec(0.0f32..1.0, 1..40),
        ) {
            let taken = positions(rule, &scores, 1);
            let best = scores.iter().copied().fold(f32::MIN, f32::max);
            prop_assert_eq!(scores[taken[0]], best);
            let mut once = taken.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), taken.len());
            prop_assert!(taken.windows(2).all(|w| scores[w[0]] >= scores[w[1]]), "best first");
        }

        #[test]
        fn thresholds_take_exactly_what_reaches_them(
            scores in proptest::collection::vec(0.0f32..1.0, 1..40), t in 0.0f32..1.0,
        ) {
            let reach = scores.iter().filter(|s| **s >= t).count();
            prop_assert_eq!(positions(Acceptance::Threshold(t), &scores, 0).len(), reach.max(1));
        }
    }
}
