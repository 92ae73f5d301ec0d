//! The counter-based generator behind every random choice, the same here and in `shaders/random.wgsl`.
//!
//! Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011):
//! only additions, rotations and exclusive ors of u32, so CPUs, GPUs and browsers agree to the bit.
//! A draw is a pure function of (seed, step, purpose) through the key and (position, token) through
//! the counter: the same seed gives the same text on every backend and for any batching.

use serde::Serialize;

/// Key of one step's draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Key(pub [u32; 2]);

/// What a draw is for: draws for different purposes never share a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Gumbel noise on logits.
    Sample = 1,
    /// The order in which random remasking commits positions.
    Remask = 2,
}

const PARITY: u32 = 0x1BD1_1BDA;
const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];

/// Threefry-2x32-20 of `counter` under `key`.
#[must_use]
pub fn threefry(key: Key, counter: [u32; 2]) -> [u32; 2] {
    let ks = [key.0[0], key.0[1], PARITY ^ key.0[0] ^ key.0[1]];
    let [mut x, mut y] = [counter[0].wrapping_add(ks[0]), counter[1].wrapping_add(ks[1])];
    for round in 0..5u32 {
        for r in ROTATIONS[round as usize % 2] {
            x = x.wrapping_add(y);
            y = y.rotate_left(r) ^ x;
        }
        let next = round as usize + 1;
        x = x.wrapping_add(ks[next % 3]);
        y = y.wrapping_add(ks[(next + 1) % 3]).wrapping_add(round + 1);
    }
    [x, y]
}

/// The key of `step` of a text with `seed`.
#[must_use]
pub fn step_key(seed: u64, step: u32, purpose: Purpose) -> Key {
    Key(threefry(Key([seed as u32, (seed >> 32) as u32]), [step, purpose as u32]))
}

/// A float in (0, 1) from 64 random bits, exact to the last bit down to 2^-33: the exponent is the
/// number of leading zeros of the first word, the mantissa comes from the second.
#[must_use]
pub fn unit(bits: [u32; 2]) -> f32 {
    f32::from_bits(((126 - bits[0].leading_zeros()) << 23) | (bits[1] >> 9))
}

/// Natural logarithm of a positive normal float by the series of atanh, the same operations in the
/// same order as in WGSL, whose own `log` may be wrong by 2^-21 near 1.
#[must_use]
pub fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 127;
    let mut mantissa = f32::from_bits((bits & 0x007F_FFFF) | 0x3F80_0000);
    if mantissa > std::f32::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    exponent as f32 * std::f32::consts::LN_2 + twice_atanh((mantissa - 1.0) / (mantissa + 1.0))
}

/// 2 atanh(z) for |z| <= 1/3, to float precision.
fn twice_atanh(z: f32) -> f32 {
    let z2 = z * z;
    let tail =
        z2 * (1.0 / 3.0 + z2 * (0.2 + z2 * (1.0 / 7.0 + z2 * (1.0 / 9.0 + z2 * (1.0 / 11.0 + z2 * (1.0 / 13.0))))));
    2.0 * z * (1.0 + tail)
}

/// Standard Gumbel noise -ln(-ln(1 - v)) from 64 random bits. The large values, which decide, come
/// from small v, where `unit` and the series keep full relative precision.
#[must_use]
pub fn gumbel(bits: [u32; 2]) -> f32 {
    let v = unit(bits);
    let exponential = if v <= 0.5 { twice_atanh(v / (2.0 - v)) } else { -ln(1.0 - v) };
    -ln(exponential)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threefry_matches_the_published_vectors() {
        // Known-answer tests of the Random123 distribution, threefry2x32 with 20 rounds.
        assert_eq!(threefry(Key([0, 0]), [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry(Key([u32::MAX; 2]), [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        assert_eq!(threefry(Key([0x1319_8a2e, 0x0370_7344]), [0x243f_6a88, 0x85a3_08d3]), [0xc492_3a9c, 0x483d_f7a0]);
    }

    #[test]
    fn ln_is_accurate() {
        for i in 1..2000u32 {
            for x in [i as f32 / 1000.0, i as f32 * 1e-8, i as f32 * 7.0] {
                let exact = f64::from(x).ln();
                assert!((f64::from(ln(x)) - exact).abs() <= 2e-7 * exact.abs().max(1.0), "{x}");
            }
        }
    }

    #[test]
    fn gumbel_has_the_right_moments() {
        let n = 200_000u32;
        let key = step_key(7, 3, Purpose::Sample);
        let draws: Vec<f64> = (0..n).map(|i| f64::from(gumbel(threefry(key, [i, 5])))).collect();
        let mean = draws.iter().sum::<f64>() / f64::from(n);
        let variance = draws.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / f64::from(n);
        assert!((mean - 0.577_215_66).abs() < 0.01, "mean {mean}");
        assert!((variance - std::f64::consts::PI.powi(2) / 6.0).abs() < 0.02, "variance {variance}");
    }

    #[test]
    fn unit_stays_inside_at_the_extremes() {
        for bits in [[0, 0], [u32::MAX, u32::MAX], [0, u32::MAX], [1, 0]] {
            let v = unit(bits);
            assert!(v > 0.0 && v < 1.0, "{bits:?} -> {v}");
            assert!(gumbel(bits).is_finite(), "{bits:?}");
        }
    }
}
