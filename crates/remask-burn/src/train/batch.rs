//! What a step sees, and what of it is masked: LLaDA's objective (arXiv 2502.09992, algorithms 1 and 2).
//!
//! A sequence draws t in (0, 1) and each of its tokens is masked with probability t; the loss is the
//! cross-entropy of the masked ones divided by t, a bound on the likelihood. Of a question and answer
//! only the answer and the padding behind it are masked. The t of a batch are spread evenly (one draw
//! a stratum), which leaves each of them uniform and makes the sum steadier.

use remask_core::random::{Key, threefry, unit};

use super::corpus::Tokens;

/// Least masking probability: a sequence with nothing masked teaches nothing.
const LEAST: f32 = 1e-3;

/// Sequences of one step, `[sequences, length]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Number of sequences.
    pub sequences: usize,
    /// Tokens of one sequence.
    pub length: usize,
    /// What the model sees, masks in place.
    pub seen: Vec<u32>,
    /// Indices into `seen` that are masked.
    pub masked: Vec<usize>,
    /// The tokens that belong there.
    pub targets: Vec<u32>,
    /// Factor of each one's cross-entropy: one over t, over the tokens that could have been masked,
    /// over the sequences.
    pub weights: Vec<f32>,
}

/// Draws batches.
pub struct Sampler<'a> {
    /// What is drawn from.
    pub tokens: &'a Tokens,
    /// Sequences of a batch.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Share of sequences that are questions with answers, where there are both kinds.
    pub pairs: f32,
    /// Id of the mask.
    pub mask: u32,
    /// Id that fills up what is behind an answer.
    pub pad: u32,
    /// Seed of every draw.
    pub seed: u64,
}

impl Sampler<'_> {
    /// The batch of `step`: a pure function of the sampler and the step.
    #[must_use]
    pub fn batch(&self, step: u32) -> Batch {
        let key = threefry(Key([self.seed as u32, (self.seed >> 32) as u32]), [step, 0x7261_696E]);
        let draw = |sequence: usize, what: u32| threefry(Key(key), [sequence as u32, what]);
        let mut batch = Batch {
            sequences: self.sequences,
            length: self.length,
            seen: Vec::with_capacity(self.sequences * self.length),
            masked: Vec::new(),
            targets: Vec::new(),
            weights: Vec::new(),
        };
        let spread = unit(draw(self.sequences, 0));
        for sequence in 0..self.sequences {
            let first = self.fill(&mut batch.seen, unit(draw(sequence, 0)), draw(sequence, 1));
            let t = (spread + sequence as f32 / self.sequences as f32).fract();
            let p = (1.0 - LEAST) * t + LEAST;
            let start = sequence * self.length;
            let weight = 1.0 / (p * (self.length - first) as f32 * self.sequences as f32);
            for at in start + first..start + self.length {
                if unit(draw(sequence, 2 + (at - start) as u32)) < p {
                    batch.masked.push(at);
                    batch.targets.push(batch.seen[at]);
                    batch.weights.push(weight);
                    batch.seen[at] = self.mask;
                }
            }
        }
        batch
    }

    /// Adds a sequence and answers the first of its positions that may be masked. `kind` is a number
    /// in (0, 1), `which` random bits.
    fn fill(&self, to: &mut Vec<u32>, kind: f32, which: [u32; 2]) -> usize {
        let (stream, pairs) = (&self.tokens.stream, &self.tokens.pairs);
        let end = to.len() + self.length;
        let which = (u64::from(which[0]) << 32 | u64::from(which[1])) as usize;
        if !pairs.is_empty() && (stream.is_empty() || kind < self.pairs) {
            let (prompt, answer) = &pairs[which % pairs.len()];
            to.extend(prompt.iter().chain(answer));
            to.resize(end, self.pad);
            return prompt.len();
        }
        // A window of the stream, which goes on from its beginning.
        to.extend((0..self.length).map(|i| stream[(which + i) % stream.len()]));
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(tokens: &Tokens) -> Sampler<'_> {
        Sampler { tokens, sequences: 8, length: 16, pairs: 0.5, mask: 99, pad: 98, seed: 7 }
    }

    #[test]
    fn a_batch_depends_on_seed_and_step_alone() {
        let tokens = Tokens { stream: (0..50).collect(), pairs: vec![(vec![60; 4], vec![61; 5])], too_long: 0 };
        let sampler = sampler(&tokens);
        assert_eq!(sampler.batch(3), sampler.batch(3));
        assert_ne!(sampler.batch(3), sampler.batch(4));
        assert_ne!(sampler.batch(3), Sampler { seed: 8, ..sampler }.batch(3));
    }

    #[test]
    fn only_answers_and_their_padding_are_masked() {
        let tokens = Tokens { stream: Vec::new(), pairs: vec![(vec![60; 4], vec![61; 5])], too_long: 0 };
        let mut masked = [0; 16];
        for step in 0..500 {
            let batch = sampler(&tokens).batch(step);
            for (at, target) in batch.masked.iter().zip(&batch.targets) {
                masked[at % 16] += 1;
                assert_eq!((batch.seen[*at], *target), (99, if at % 16 < 9 { 61 } else { 98 }));
            }
            for sequence in batch.seen.chunks(16) {
                assert_eq!(sequence[..4], [60; 4]);
            }
        }
        assert_eq!(masked[..4], [0; 4]);
        // t is uniform, so every other token is masked half of the time.
        assert!(masked[4..].iter().all(|m| (1800..2200).contains(m)), "{masked:?}");
    }

    /// The weighted count of masked tokens has mean 1 whatever t is: the loss is an average.
    #[test]
    fn weights_add_up_to_one_on_average() {
        let tokens = Tokens { stream: (0..50).collect(), pairs: vec![(vec![60; 4], vec![61; 5])], too_long: 0 };
        let sampler = sampler(&tokens);
        let total: f32 = (0..2000).map(|step| sampler.batch(step).weights.iter().sum::<f32>()).sum();
        assert!((total / 2000.0 - 1.0).abs() < 0.03, "{}", total / 2000.0);
    }
}
