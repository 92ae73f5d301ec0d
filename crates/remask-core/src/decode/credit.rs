//! Credit: a token that has been the model's choice for several steps is trusted earlier.

use crate::backend::Candidate;

/// Share of the credit that is left a step later.
const DECAY: f32 = 0.8;
/// Power of the probability that a step adds to its choice's credit.
const GAIN_POWER: f32 = 0.2;
/// Weight of ln(1 + credit) beside the logit.
const WEIGHT: f32 = 0.7;

/// Credit of each position's recent choices (dInfer's credit decoding: logits are raised by
/// `0.7 ln(1 + credit)`).
///
/// The credit of the token that is the candidate now is applied exactly; that of tokens that were
/// chosen before and are not now stays out, as their logits are not known here. They are rare and
/// their credit fades, so a candidate is at most trusted a little early.
#[derive(Debug, Default)]
pub struct Credits {
    /// Position, token, credit.
    entries: Vec<(usize, u32, f32)>,
}

impl Credits {
    /// A step passes: credit fades.
    pub(super) fn fade(&mut self) {
        for entry in &mut self.entries {
            entry.2 *= DECAY;
        }
    }

    /// Credits the position's choice and answers its probability with credit.
    pub(super) fn credit(&mut self, position: usize, candidate: &Candidate) -> f32 {
        let gain = candidate.probability.powf(GAIN_POWER);
        let entry = self.entries.iter_mut().find(|e| (e.0, e.1) == (position, candidate.token));
        let credit = match entry {
            Some(entry) => {
                entry.2 += gain;
                entry.2
            }
            None => {
                self.entries.push((position, candidate.token, gain));
                gain
            }
        };
        let raised = candidate.probability * (1.0 + credit).powf(WEIGHT);
        raised / (raised + 1.0 - candidate.probability)
    }

    /// Forgets everything: a new block.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_choice_gains_trust_and_a_changing_one_does_not() {
        let candidate = |token| Candidate { token, probability: 0.5, entropy: 1.0, margin: 0.1 };
        let (mut steady, mut changing) = (Credits::default(), Credits::default());
        let (mut last, mut other) = (0.0, 0.0);
        for step in 0..4 {
            steady.fade();
            changing.fade();
            let now = steady.credit(3, &candidate(7));
            assert!(now > last && now < 1.0, "step {step}: {now} after {last}");
            last = now;
            other = changing.credit(3, &candidate(step));
        }
        // The first step: 0.5 (1 + 0.5^0.2)^0.7 = 0.7751, over that and 0.5.
        assert!((other - 0.6079).abs() < 1e-3, "{other}");
        steady.clear();
        assert!((steady.credit(3, &candidate(7)) - other).abs() < 1e-6);
    }
}
