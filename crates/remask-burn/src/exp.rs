//! The exponential function in a form that compilers make vectors of; the library's is a call a number.

use pulp::Arch;
use rayon::prelude::*;

/// Below this, exp is less than 1e-37: nothing beside the 1 of the largest.
pub const LEAST: f32 = -85.0;

/// exp of a number in [`LEAST`]`..=0`, to 2e-7 relative: 2^n by the exponent bits times 2^f by its
/// series, with operations that have vector forms everywhere.
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    /// Adding and taking away 1.5 * 2^23 rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts: the first has so few bits that its product with n is exact.
    let f = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let series = 1.0
        + f * (1.0
            + f * (0.5
                + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * (1.0 / 120.0 + f * (1.0 / 720.0 + f * (1.0 / 5040.0)))))));
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    series * power
}

/// `gate / (1 + exp(-gate)) * up` of rows `[rows, 2 * width]`, gate first: `[rows, width]`.
#[must_use]
pub fn swiglu(gate_up: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0f32; gate_up.len() / 2];
    let arch = Arch::new();
    out.par_chunks_mut(width.max(1)).zip(gate_up.par_chunks(2 * width.max(1))).for_each(|(out, gate_up)| {
        let (gate, up) = gate_up.split_at(width);
        arch.dispatch(|| {
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                // Never exp of a positive number, which could overflow.
                let small = exp((-gate.abs()).max(LEAST));
                let share = if *gate < 0.0 { small } else { 1.0 } / (1.0 + small);
                *out = gate * share * up;
            }
        });
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        for i in 0..=85_000 {
            let x = -(i as f32) / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 4e-7 * exact, "exp({x}) = {}", exp(x));
        }
    }

    #[test]
    fn swiglu_agrees_with_float64() {
        let gate: Vec<f32> = (-4000..4000).map(|i| i as f32 / 40.0).collect();
        let up: Vec<f32> = (0..8000).map(|i| (i % 13) as f32 - 6.0).collect();
        let computed = swiglu(&[&gate[..], &up[..], &up[..], &gate[..]].concat(), 8000);
        let exact = |gate: f32, up: f32| f64::from(gate) / (1.0 + (-f64::from(gate)).exp()) * f64::from(up);
        for i in 0..8000 {
            for (computed, exact) in [(computed[i], exact(gate[i], up[i])), (computed[8000 + i], exact(up[i], gate[i]))]
            {
                assert!((f64::from(computed) - exact).abs() <= 1e-6 * exact.abs() + 1e-30, "{computed} for {exact}");
            }
        }
        assert!(swiglu(&[f32::NAN, 1.0, 1.0, f32::NAN], 1).iter().all(|v| v.is_nan()));
    }
}
