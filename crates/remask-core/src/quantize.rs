//! int8 weights in blocks of 32 along a row, one f16 scale a block: 1.0625 bytes a weight.
//!
//! In a safetensors file, tensor `NAME` `[rows, cols]` is I8 and `NAME.scale` `[rows, cols / 32]` is
//! F16; weight = quant * scale. This is GGUF's q8_0 arithmetic with quants and scales kept apart, so
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
#[must_use]
pub fn scale(peak: f32) -> f16 {
    f16::from_f32(peak / 127.0)
}

/// Quantises weights whose count is a multiple of [`BLOCK`]: `(quants, scales)`.
///
/// The scale is rounded to f16 first and the quants are taken against the rounded one, so that its
/// rounding is not added to theirs.
#[must_use]
pub fn q8(weights: &[f32]) -> (Vec<i8>, Vec<f16>) {
    let mut quants = Vec::with_capacity(weights.len());
    let mut scales = Vec::with_capacity(weights.len() / BLOCK);
    for block in weights.chunks_exact(BLOCK) {
        let peak = block.iter().fold(0f32, |m, v| m.max(v.abs()));
        let scale = scale(peak);
        let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
        quants.extend(block.iter().map(|v| (v * inverse).round().clamp(-127.0, 127.0) as i8));
        scales.push(scale);
    }
    (quants, scales)
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

    #[test]
    fn a_zero_block_stays_zero() {
        let (quants, scales) = q8(&[0.0; BLOCK]);
        assert!(dequantize_q8(bytemuck::cast_slice(&quants), bytemuck::cast_slice(&scales)).iter().all(|v| *v == 0.0));
    }
}
