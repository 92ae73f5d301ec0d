//! From a row of logits to its candidate, on the host.

use pulp::Arch;
use remask_core::random::{Key, gumbel, threefry};
use remask_core::{Candidate, TokenSet};

use crate::activation::{LEAST, exp};

/// Stands for logits that do not count, as in the shaders: finite, and far below any that do.
const NOTHING: f32 = -1e30;

/// Elements that are kept apart while a row is summed up, so that compilers make vectors of them.
const LANES: usize = 32;

/// The candidate of `logits` with noise of some temperature, key and position; `None` where a logit that counts is
/// NaN or infinite, or none counts. Suppressed logits are overwritten.
#[must_use]
pub fn candidate(
    logits: &mut [f32],
    (temperature, key, position): (f32, Key, u32),
    suppressed: &TokenSet,
) -> Option<Candidate> {
    for (word, bits) in suppressed.words().iter().enumerate().filter(|(_, bits)| **bits != 0) {
        let ids = (word * 32..logits.len()).zip(0..32).filter(|(_, bit)| bits >> bit & 1 == 1);
        ids.for_each(|(id, _)| logits[id] = NOTHING);
    }
    let arch = Arch::new();
    let (top, second) = arch.dispatch(|| two_largest(logits))?;
    if top <= NOTHING {
        return None;
    }
    let chosen = if temperature > 0.0 {
        let score = |(id, logit): (usize, &f32)| logit + temperature * gumbel(threefry(key, [position, id as u32]));
        let mut best = (NOTHING, 0);
        for (id, score) in logits.iter().enumerate().map(|l| (l.0, score(l))) {
            // Only greater replaces: among equals the lowest id stays.
            if score > best.0 {
                best = (score, id);
            }
        }
        best.1
    } else {
        logits.iter().position(|l| *l == top)?
    };
    let (sum, weighted) = arch.dispatch(|| sums(logits, top));
    let share = |logit: f32| f64::from(logit - top).exp();
    Some(Candidate {
        token: chosen as u32,
        probability: (share(logits[chosen]) / sum) as f32,
        entropy: (sum.ln() - weighted / sum).max(0.0) as f32,
        margin: ((1.0 - share(second)) / sum) as f32,
    })
}

/// The largest and the second largest; `None` where one is NaN or infinite.
#[inline(always)]
fn two_largest(logits: &[f32]) -> Option<(f32, f32)> {
    let (mut tops, mut seconds, mut poison) = ([NOTHING; LANES], [NOTHING; LANES], [0f32; LANES]);
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut tail = [NOTHING; LANES];
    tail[..rest.len()].copy_from_slice(rest);
    for chunk in chunks.iter().chain([&tail]) {
        for lane in 0..LANES {
            let v = chunk[lane];
            // Zero times a NaN or an infinity is NaN, and stays.
            poison[lane] += v * 0.0;
            let lower = if v > tops[lane] { tops[lane] } else { v };
            tops[lane] = if v > tops[lane] { v } else { tops[lane] };
            seconds[lane] = if lower > seconds[lane] { lower } else { seconds[lane] };
        }
    }
    if poison.iter().sum::<f32>() != 0.0 {
        return None;
    }
    let merge = |(top, second): (f32, f32), (t, s): (f32, f32)| (top.max(t), top.min(t).max(second.max(s)));
    Some(tops.into_iter().zip(seconds).fold((NOTHING, NOTHING), merge))
}

/// Sum of `exp(logit - top)`, and of `(logit - top) exp(logit - top)`. Every lane adds up in float32 and
/// hands over to float64 every few chunks: a vocabulary is long.
#[inline(always)]
fn sums(logits: &[f32], top: f32) -> (f64, f64) {
    let (mut sum, mut weighted) = (0f64, 0f64);
    for part in logits.chunks(64 * LANES) {
        let (mut sums, mut weights) = ([0f32; LANES], [0f32; LANES]);
        let (chunks, rest) = part.as_chunks::<LANES>();
        let mut tail = [NOTHING; LANES];
        tail[..rest.len()].copy_from_slice(rest);
        for chunk in chunks.iter().chain([&tail]) {
            for lane in 0..LANES {
                let above = (chunk[lane] - top).max(LEAST);
                let share = exp(above);
                sums[lane] += share;
                weights[lane] += above * share;
            }
        }
        sum += sums.iter().copied().map(f64::from).sum::<f64>();
        weighted += weights.iter().copied().map(f64::from).sum::<f64>();
    }
    (sum, weighted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(logits: &[f32], temperature: f32, suppressed: &[u32]) -> Option<Candidate> {
        let mut set = TokenSet::new(logits.len());
        suppressed.iter().for_each(|id| set.insert(*id));
        candidate(&mut logits.to_vec(), (temperature, Key([1, 2]), 5), &set)
    }

    /// Softmax, entropy and margin in float64 over the ids that count.
    fn reference(logits: &[f32], suppressed: &[u32], token: u32) -> (f64, f64, f64) {
        let counts = |id: &usize| !suppressed.contains(&(*id as u32));
        let mut kept: Vec<_> = (0..logits.len()).filter(counts).map(|id| f64::from(logits[id])).collect();
        kept.sort_by(|a, b| b.total_cmp(a));
        let sum: f64 = kept.iter().map(|l| (l - kept[0]).exp()).sum();
        let share = |l: f64| (l - kept[0]).exp() / sum;
        let entropy = kept.iter().map(|l| -share(*l) * share(*l).max(1e-300).ln()).sum();
        let second = kept.get(1).map_or(0.0, |l| share(*l));
        (share(f64::from(logits[token as usize])), entropy, share(kept[0]) - second)
    }

    #[test]
    fn candidates_agree_with_float64() {
        for (size, scale, suppressed) in
            [(1, 1.0, &[][..]), (31, 8.0, &[3, 30]), (8192, 4.0, &[0, 8191]), (70, 300.0, &[])]
        {
            let number = |i: u32| (threefry(Key([9, 9]), [i, size])[0] as f32 / u32::MAX as f32 - 0.5) * scale;
            let logits: Vec<f32> = (0..size).map(number).collect();
            for temperature in [0.0, 1.0] {
                let found = pick(&logits, temperature, suppressed).unwrap();
                assert!(!suppressed.contains(&found.token));
                let (probability, entropy, margin) = reference(&logits, suppressed, found.token);
                for (found, exact) in
                    [(found.probability, probability), (found.entropy, entropy), (found.margin, margin)]
                {
                    assert!((f64::from(found) - exact).abs() < 2e-6 * exact.max(1.0), "{size}: {found} for {exact}");
                }
            }
        }
    }

    #[test]
    fn ties_go_to_the_lowest_id_and_what_is_not_finite_is_refused() {
        assert_eq!(pick(&[1.0, 3.0, 3.0, 0.0], 0.0, &[]).map(|c| (c.token, c.margin)), Some((1, 0.0)));
        assert_eq!(pick(&[1.0, 3.0, 3.0, 0.0], 0.0, &[1]).map(|c| c.token), Some(2));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(pick(&[0.0, bad, 1.0], 0.0, &[]), None);
            assert!(pick(&[0.0, bad, 1.0], 0.0, &[1]).is_some());
        }
        assert_eq!(pick(&[0.0, 1.0], 0.0, &[0, 1]), None);
    }
}
