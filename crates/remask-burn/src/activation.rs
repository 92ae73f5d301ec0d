//! Activations, and the exponential function in a form that compilers make vectors of; the library's is a call a
//! number.

use pulp::Arch;
use remask_core::architecture::{Activation, FeedForward};

use crate::rows;

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

/// What the down projection reads: see [`Linear::activated`](crate::linear::Linear::activated).
#[must_use]
pub fn activate(up: &[f32], part: &FeedForward) -> Vec<f32> {
    match part.activation {
        Activation::Silu => by(up, part, silu),
        Activation::GeluTanh => by(up, part, gelu_tanh),
        Activation::Gelu => by(up, part, gelu),
    }
}

fn by(up: &[f32], part: &FeedForward, activation: impl Fn(f32) -> f32 + Copy + Sync) -> Vec<f32> {
    let (arch, width) = (Arch::new(), part.hidden.max(1));
    if !part.gated {
        let mut out = up.to_vec();
        rows::each(&mut out, width, |_, row| arch.dispatch(|| row.iter_mut().for_each(|v| *v = activation(*v))));
        return out;
    }
    let mut out = vec![0f32; up.len() / 2];
    rows::each(&mut out, width, |row, out| {
        let (gate, up) = up[2 * row * width..2 * (row + 1) * width].split_at(width);
        arch.dispatch(|| {
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = activation(*gate) * up;
            }
        });
    });
    out
}

/// `x / (1 + exp(-x))`.
#[inline(always)]
fn silu(x: f32) -> f32 {
    x * logistic(x)
}

/// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`: half of 1 + tanh is the logistic function of twice as much.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const TWICE_ROOT: f32 = 1.595_769;
    x * logistic(TWICE_ROOT * (x + 0.044_715 * x * x * x))
}

/// `0.5 x (1 + erf(x / sqrt(2)))`, with the error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let series = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    // Half of what erf lacks to 1.
    let lacks = 0.5 * series * exp((-z * z).max(LEAST));
    x * if x < 0.0 { lacks } else { 1.0 - lacks }
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
fn logistic(x: f32) -> f32 {
    // Never exp of a positive number, which could overflow.
    let small = exp((-x.abs()).max(LEAST));
    let share = if x < 0.0 { small } else { 1.0 };
    share / (1.0 + small)
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

    fn part(activation: Activation, gated: bool, hidden: usize) -> FeedForward {
        FeedForward { gated, activation, hidden, bias: false }
    }

    /// erf in float64: by its series where that converges well, by a continued fraction of what it lacks to 1 beyond.
    fn erf(x: f64) -> f64 {
        let z = x.abs();
        if z > 2.5 {
            let fraction = (1..80).rev().fold(0.0, |f, k| f64::from(k) / 2.0 / (z + f));
            let lacks = (-z * z).exp() * std::f64::consts::FRAC_2_SQRT_PI / 2.0 / (z + fraction);
            return x.signum() * (1.0 - lacks);
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn activations_agree_with_float64() {
        let gate: Vec<f32> = (-4000..4000).map(|i| i as f32 / 40.0).collect();
        let up: Vec<f32> = (0..8000).map(|i| (i % 13) as f32 - 6.0).collect();
        let root = (2.0 / std::f64::consts::PI).sqrt();
        let exact = |activation, x: f64| match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => 0.5 * x * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh()),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        };
        for (activation, least) in [(Activation::Silu, 0.0), (Activation::GeluTanh, 1e-9), (Activation::Gelu, 1e-6)] {
            let gated = activate(&[&gate[..], &up[..], &up[..], &gate[..]].concat(), &part(activation, true, 8000));
            let plain = activate(&gate, &part(activation, false, 8000));
            for i in 0..8000 {
                let [g, u] = [gate[i], up[i]].map(f64::from);
                for (found, exact) in [
                    (gated[i], exact(activation, g) * u),
                    (gated[8000 + i], exact(activation, u) * g),
                    (plain[i], exact(activation, g)),
                ] {
                    let error = (f64::from(found) - exact).abs();
                    // exp is cut off where it is nothing beside 1.
                    assert!(
                        error <= 2e-6 * exact.abs() + least * g.abs().max(1.0) + 1e-30,
                        "{activation:?} {g}: {found} for {exact}"
                    );
                }
            }
            assert!(activate(&[f32::NAN, 1.0, 1.0, f32::NAN], &part(activation, true, 1)).iter().all(|v| v.is_nan()));
        }
    }
}
