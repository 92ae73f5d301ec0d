//! Activations of feed-forward parts.

use remask_core::architecture::Activation;
use remask_wgpu::kernels::{ACTIVATIONS, activation};

use crate::data::uniform;
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

/// (rows, columns, magnitude). At ±100 the sigmoid saturates both ways, at ±2000 f16 results do.
const CASES: &[(usize, usize, f32)] = &[(1, 4, 1.0), (3, 160, 4.0), (2, 1344, 1.0), (5, 260, 100.0), (3, 64, 2000.0)];

/// An activation in float64.
pub(super) fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        // 0.5 x (1 + tanh(u)), without the digits that 1 + tanh loses.
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x / (1.0 + (-2.0 * u).exp())
        }
        Activation::Gelu => 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2),
    }
}

/// Runs every case, from one split and from several, into f32 and f16, in turns of 16 where they go up.
pub fn run(h: &mut Harness) {
    not_a_number(h);
    for a in ACTIVATIONS {
        every_size(h, a);
        for &(rows, cols, scale) in CASES {
            for (splits, gated, interleaved) in
                [(1, false, false), (1, true, false), (2, true, true), (8, true, false), (8, false, false)]
            {
                if interleaved && !cols.is_multiple_of(16) {
                    continue;
                }
                for half in [false, true] {
                    check(
                        h,
                        [rows, cols],
                        scale,
                        activation::Variant { activation: a, gated, splits, half, interleaved },
                    );
                }
            }
        }
    }
}

/// One case.
fn check(h: &mut Harness, [rows, cols]: [usize; 2], scale: f32, v: activation::Variant) {
    let width = if v.gated { 2 * cols } else { cols };
    let parts: Vec<_> = (0..v.splits).map(|s| uniform(1 + s, rows * width, scale)).collect();
    let x: Vec<f64> = (0..rows * width).map(|i| parts.iter().map(|p| f64::from(p[i])).sum()).collect();
    let element = |i: usize| {
        let (row, c) = (&x[i / cols * width..][..width], i % cols);
        match (v.gated, v.interleaved) {
            (false, _) => activated(v.activation, row[c]),
            (true, false) => activated(v.activation, row[c]) * row[cols + c],
            (true, true) => activated(v.activation, row[c / 16 * 32 + c % 16]) * row[c / 16 * 32 + c % 16 + 16],
        }
    };
    let reference: Vec<_> = (0..rows * cols).map(element).collect();
    let (device_x, out) = (h.upload(&parts.concat()), h.poisoned(rows * cols));
    let split_stride4 = (rows * width / 4) as u32;
    let params = activation::Params { cols4: cols as u32 / 4, split_stride4, padding: [0; 2] };
    let grid = activation::grid(rows as u32, cols as u32);
    h.run(sizes(rows, 1, 1), &[(activation::spec(v), &[&device_x, &out][..], params, grid)]);
    let name = format!("activation {rows}x{cols}, {v:?}");
    if v.half {
        Tolerance::F16.check_saturated(&name, &h.download_halves(&out, rows * cols), &reference);
    } else {
        Tolerance::F32_TRANSCENDENTAL.check(&name, &h.download(&out, rows * cols), &reference);
    }
}

/// Inputs of every size: each result by itself is near float64's, small ones too; none overflows.
fn every_size(h: &mut Harness, activation: Activation) {
    let mut x: Vec<f32> = (-3000..3000).map(|i| i as f32 * 0.005 + 0.001).collect();
    x.extend([13.0, 13.5, 40.0, 90.0, 1e3, 1e6, 1e13, 1e20, 3e38].into_iter().flat_map(|v: f32| [v, -v]));
    x.extend([0.0, 1e-30, -1e-30, 1e-6, -1e-6, -0.0]);
    let (device_x, out) = (h.upload(&x), h.poisoned(x.len()));
    let cols = x.len() as u32;
    assert!(cols.is_multiple_of(4), "whole vectors");
    let params = activation::Params { cols4: cols / 4, split_stride4: 0, padding: [0; 2] };
    let v = activation::Variant { activation, gated: false, splits: 1, half: false, interleaved: false };
    h.run(sizes(1, 1, 1), &[(activation::spec(v), &[&device_x, &out][..], params, activation::grid(1, cols))]);
    // Errors relative to the result: of the polynomials 1e-6; a device's own exp may be off by 2|x| + 3 of its
    // last digits, and what its argument was rounded to counts as much, which the others are left with.
    for (x, found) in x.iter().zip(h.download::<f32>(&out, x.len())) {
        let expected = activated(activation, f64::from(*x));
        let tail = match activation {
            Activation::Gelu => 1e-6,
            Activation::Silu => 1e-6 + 4e-7 * f64::from(x.abs()).min(90.0),
            Activation::GeluTanh => 1e-6 + 4e-7 * f64::from(x.abs().powi(3)).min(90.0),
        };
        let error = (f64::from(found) - expected).abs();
        let least = 1e-36;
        assert!(error <= tail * expected.abs() + least, "{activation:?} of {x}: {found}, expected {expected}");
    }
}

/// One number that is none stays so, in f16 too, beside one that is too large for it.
fn not_a_number(h: &mut Harness) {
    for activation in ACTIVATIONS {
        let x = [f32::NAN, 3e3, -4.0, 1.0, 1.0, 3e3, 1.0, 2.0];
        let (device_x, out) = (h.upload(&x), h.poisoned(4));
        let params = activation::Params { cols4: 1, split_stride4: 2, padding: [0; 2] };
        let v = activation::Variant { activation, gated: true, splits: 1, half: true, interleaved: false };
        let dispatch = (activation::spec(v), &[&device_x, &out][..], params, activation::grid(1, 4));
        h.run(sizes(1, 1, 1), &[dispatch]);
        let computed = h.download_halves(&out, 4);
        let third = activated(activation, -4.0) as f32;
        let finite = computed[1] == 65504.0 && (computed[2] - third).abs() < 1e-4;
        assert!(computed[0].is_nan() && finite, "{activation:?}: {computed:?}");
    }
}
