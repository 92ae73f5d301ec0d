//! Rotary angles of scaled models against the published formulas, in float64.

use std::f64::consts::PI;

use remask_core::architecture::{Rotary, RotaryPairing, RotaryScaling};

fn rotary(theta: f64, dims: usize, scaling: RotaryScaling) -> Rotary {
    Rotary { theta, dims, pairing: RotaryPairing::Halves, scaling }
}

#[test]
fn positions_are_interpolated() {
    let plain = rotary(1e4, 64, RotaryScaling::None).frequencies();
    let linear = rotary(1e4, 64, RotaryScaling::Linear(8.0));
    assert_eq!(linear.amplitude(), 1.0);
    for (plain, scaled) in plain.iter().zip(linear.frequencies()) {
        assert!((plain / 8.0 - scaled).abs() < 1e-15);
    }
}

/// Peng et al., arXiv 2309.00071, equations 17 to 22: the share that is interpolated by the rotations r that a pair
/// makes over the first training's L positions, with the ramp laid over pairs as the authors' code lays it.
#[test]
fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
    let (theta, dims, factor, original) = (1e6f64, 128usize, 4.0, 32768.0);
    for truncate in [false, true] {
        let scaling = RotaryScaling::Yarn {
            factor,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original,
            attention: 0.1 * 4f64.ln() + 1.0,
            truncate,
        };
        let yarn = rotary(theta, dims, scaling);
        assert!((yarn.amplitude() - 1.138_629_436_111_989).abs() < 1e-12);
        // Pair i turns L / wavelength times; solved for i where that is 32, and 1.
        let pair_of = |turns: f64| (original / (2.0 * PI * turns)).ln() / theta.ln() * dims as f64 / 2.0;
        let (mut low, mut high) = (pair_of(32.0), pair_of(1.0));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        for (i, found) in yarn.frequencies().into_iter().enumerate() {
            let plain = 1.0 / theta.powf(2.0 * i as f64 / dims as f64);
            let share = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let expected = plain * (1.0 - share) + plain / factor * share;
            assert!((found - expected).abs() <= 1e-12 * expected, "pair {i}: {found} for {expected}");
        }
        let frequencies = yarn.frequencies();
        assert_eq!(frequencies[0], 1.0);
        let slowest = 1.0 / theta.powf(126.0 / 128.0) / factor;
        assert!((frequencies[63] - slowest).abs() < 1e-12 * slowest);
    }
}

#[test]
fn pairs_have_factors_of_their_own() {
    let plain = rotary(1e4, 8, RotaryScaling::None).frequencies();
    let factors = vec![1.0, 2.0, 4.0, 32.0];
    let scaled = rotary(1e4, 8, RotaryScaling::Factors(factors.clone())).frequencies();
    for ((plain, scaled), factor) in plain.iter().zip(scaled).zip(factors) {
        assert_eq!(plain / factor, scaled);
    }
}
