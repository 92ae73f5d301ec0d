//! int8 and int4 weights in blocks of 32 along a row, one f16 scale a block: 1.0625 and 0.5625 bytes a
//! weight.
//!
//! In a safetensors file, tensor `NAME.scale` `[rows, cols / 32]` is F16, and
//! - q8: `NAME` `[rows, cols]` is I8; weight = quant * scale.
//! - q4: `NAME` `[rows, cols / 2]` is U8, 16 bytes a block; byte j holds weight j in its low nibble and
//!   weight j + 16 in its high one; weight = (nibble - 8) * scale.
//!
//! This is the arithmetic and the order of GGUF's q8_0 and q4_0, with quants and scales kept apart so
//! that both stay aligned.

use half::f16;

/// Weights that share one scale.
pub const BLOCK: usize = 32;

/// Name of the tensor that holds the scales of `tensor`.
#[must_use]
pub fn scale_name(tensor: &str) -> String {
    format!("{tensor}.scale")
}

/// The scale of a block whose largest magnitude is `peak`. Infinite or NaN where int8 cannot hold it.
fn scale(peak: f32) -> f16 {
    f16::from_f32(peak / 127.0)
}

/// Quantises weights whose count is a multiple of [`BLOCK`]: `(quants, scales)`.
///
/// The scale is rounded to f16 first and the quants are taken against the rounded one, so that its
/// rounding is not added to theirs. A block that int8 cannot hold (NaN, infinite or too large weights)
/// gets a scale that is not finite.
#[must_use]
pub fn q8(weights: &[f32]) -> (Vec<i8>, Vec<f16>) {
    let mut quants = Vec::with_capacity(weights.len());
    let mut scales = Vec::with_capacity(weights.len() / BLOCK);
    for block in weights.chunks_exact(BLOCK) {
        // max passes over NaN; zero times a NaN or an infinity does not.
        let (peak, poison) = block.iter().fold((0f32, 0f32), |(m, p), v| (m.max(v.abs()), p + v * 0.0));
        let scale = scale(peak + poison);
        let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
        quants.extend(block.iter().map(|v| nearest((v * inverse).clamp(-127.0, 127.0))));
        scales.push(scale);
    }
    (quants, scales)
}

/// Quantises weights whose count is a multiple of [`BLOCK`] to int4: `(bytes, scales)`.
///
/// As in GGUF's q4_0 the weight of the largest magnitude becomes nibble 0, which stands for -8, whatever
/// its sign: of the sixteen steps one more lies on its side of zero. A block that cannot be held gets a
/// scale that is not finite.
#[must_use]
pub fn q4(weights: &[f32]) -> (Vec<u8>, Vec<f16>) {
    let mut bytes = Vec::with_capacity(weights.len() / 2);
    let mut scales = Vec::with_capacity(weights.len() / BLOCK);
    for block in weights.chunks_exact(BLOCK) {
        let peak = block.iter().fold(0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
        let poison: f32 = block.iter().map(|v| v * 0.0).sum();
        let scale = f16::from_f32(peak / -8.0 + poison);
        let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
        let nibble = |v: f32| (nearest((v * inverse).clamp(-8.0, 7.0)) + 8) as u8;
        let (low, high) = block.split_at(BLOCK / 2);
        bytes.extend(low.iter().zip(high).map(|(l, h)| nibble(*l) | nibble(*h) << 4));
        scales.push(scale);
    }
    (bytes, scales)
}

/// Weights of `bytes` (int4, 16 bytes a [`BLOCK`]) and `scales` (f16, little-endian), one a block.
#[must_use]
pub fn dequantize_q4(bytes: &[u8], scales: &[u8]) -> Vec<f32> {
    let scales = scales.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32());
    let value = |nibble: u8, scale: f32| (f32::from(nibble) - 8.0) * scale;
    bytes
        .chunks_exact(BLOCK / 2)
        .zip(scales)
        .flat_map(|(block, s)| {
            let low = block.iter().map(move |b| value(b & 15, s));
            low.chain(block.iter().map(move |b| value(b >> 4, s)))
        })
        .collect()
}

/// Nearest integer of |v| <= 127, ties to even: adding 1.5 * 2^23 leaves it in the lowest bits. `round`
/// is a function call on processors that are asked for nothing newer than SSE2, and this runs once a weight.
fn nearest(v: f32) -> i8 {
    const SHIFT: f32 = 12_582_912.0;
    (v + SHIFT).to_bits() as i8
}

/// Weights of `quants` (int8) and `scales` (f16, little-endian), one scale a [`BLOCK`] quants.
#[must_use]
pub fn dequantize_q8(quants: &[u8], scales: &[u8]) -> Vec<f32> {
    let scales = scales.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32());
    quants
        .chunks_exact(BLOCK)
        .zip(scales)
        .flat_map(|(block, s)| block.iter().map(move |q| f32::from(*q as i8) * s))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn error_is_at_most_half_a_step(weights in proptest::collection::vec(-8.0f32..8.0, BLOCK * 3)) {
            let (quants, scales) = q8(&weights);
            let back = dequantize_q8(bytemuck::cast_slice(&quants), bytemuck::cast_slice(&scales));
            for (i, (w, b)) in weights.iter().zip(&back).enumerate() {
                let step = scales[i / BLOCK].to_f32();
                // The scale's own rounding to f16 can clip the peak by 127 * 2^-11 of a step.
                prop_assert!((w - b).abs() <= step * (0.5 + 127.0 / 2048.0) + 1e-6, "{w} -> {b}, step {step}");
            }
        }
    }

    proptest! {
        #[test]
        fn int4_error_is_at_most_a_step(weights in proptest::collection::vec(-8.0f32..8.0, BLOCK * 3)) {
            let (bytes, scales) = q4(&weights);
            prop_assert_eq!(bytes.len(), weights.len() / 2);
            let back = dequantize_q4(&bytes, bytemuck::cast_slice(&scales));
            for (i, (w, b)) in weights.iter().zip(&back).enumerate() {
                let step = scales[i / BLOCK].to_f32().abs();
                // Half a step, and a whole one at the end of the range that the peak does not lie at.
                prop_assert!((w - b).abs() <= step * 1.01 + 1e-6, "{} -> {}, step {}", w, b, step);
            }
        }
    }

    #[test]
    fn int4_lies_as_in_gguf() {
        let mut weights = [0.0; BLOCK];
        (weights[3], weights[19], weights[31]) = (-8.0, 7.0, 1.0);
        let (bytes, scales) = q4(&weights);
        assert_eq!(scales, [f16::ONE]);
        assert_eq!((bytes[3], bytes[15], bytes[0]), (0xF0, 0x98, 0x88));
        assert_eq!(dequantize_q4(&bytes, bytemuck::cast_slice(&scales)), weights);
        for bad in [f32::NAN, f32::INFINITY, 1e9] {
            weights[5] = bad;
            assert!(!q4(&weights).1[0].is_finite(), "{bad}");
        }
    }

    #[test]
    fn nearest_rounds() {
        for (v, q) in [(0.0, 0), (0.4, 0), (-0.6, -1), (1.5, 2), (2.5, 2), (-126.7, -127), (127.0, 127), (-127.0, -127)]
        {
            assert_eq!(nearest(v), q, "{v}");
        }
    }

    #[test]
    fn what_int8_cannot_hold_shows_in_the_scale() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e9] {
            let mut weights = [1.0; 2 * BLOCK];
            weights[BLOCK + 3] = bad;
            let (_, scales) = q8(&weights);
            assert!(scales[0].is_finite() && !scales[1].is_finite(), "{bad}");
        }
    }

    #[test]
    fn a_zero_block_stays_zero() {
        let (quants, scales) = q8(&[0.0; BLOCK]);
        assert!(dequantize_q8(bytemuck::cast_slice(&quants), bytemuck::cast_slice(&scales)).iter().all(|v| *v == 0.0));
    }
}
