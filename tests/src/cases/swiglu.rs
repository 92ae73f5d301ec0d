//! SwiGLU.

use remask_wgpu::kernels::swiglu;

use crate::data::uniform;
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

/// (rows, columns, magnitude). At ±100 the sigmoid saturates both ways, at ±2000 f16 results do.
const CASES: &[(usize, usize, f32)] = &[(1, 4, 1.0), (3, 160, 4.0), (2, 1344, 1.0), (5, 260, 100.0), (3, 64, 2000.0)];

/// One number that is none stays so, in f16 too, beside one that is too large for it.
fn not_a_number(h: &mut Harness) {
    let x = [f32::NAN, 3e3, -4.0, 1.0, 1.0, 3e3, 1.0, 2.0];
    let (device_x, out) = (h.upload(&x), h.poisoned(4));
    let params = swiglu::Params { cols4: 1, split_stride4: 2, padding: [0; 2] };
    let spec = swiglu::spec(swiglu::Variant { splits: 1, half: true, interleaved: false });
    h.run(sizes(1, 1, 1), &[(spec, &[&device_x, &out][..], params, swiglu::grid(1, 4))]);
    let computed = h.download_halves(&out, 4);
    assert!(computed[0].is_nan() && computed[1] == 65504.0 && (computed[2] + 0.0719).abs() < 1e-3, "{computed:?}");
}

/// Runs every case, from one split and from several, into f32 and f16, in turns of 16 where they go up.
pub fn run(h: &mut Harness) {
    not_a_number(h);
    for (rows, cols, scale) in CASES {
        for splits in [1, 2, 8] {
            let parts: Vec<_> = (0..splits).map(|s| uniform(1 + s, rows * cols * 2, *scale)).collect();
            let x: Vec<f64> = (0..rows * cols * 2).map(|i| parts.iter().map(|p| f64::from(p[i])).sum()).collect();
            for interleaved in [false, true] {
                if interleaved && !cols.is_multiple_of(16) {
                    continue;
                }
                let row = |r: usize| {
                    let row = x[r * cols * 2..(r + 1) * cols * 2].to_vec();
                    let at = |c: usize| if interleaved { (c / 16 * 32 + c % 16, 16) } else { (c, *cols) };
                    let result = move |(c, to_up): (usize, usize)| row[c] / (1.0 + (-row[c]).exp()) * row[c + to_up];
                    (0..*cols).map(at).map(result).collect::<Vec<_>>()
                };
                let reference: Vec<_> = (0..*rows).flat_map(row).collect();
                for half in [false, true] {
                    let variant = swiglu::Variant { splits, half, interleaved };
                    check(h, (*rows, *cols), variant, &parts.concat(), &reference);
                }
            }
        }
    }
}

/// One case, whose splits are `parts`.
fn check(h: &mut Harness, (rows, cols): (usize, usize), v: swiglu::Variant, parts: &[f32], reference: &[f64]) {
    let (device_x, out) = (h.upload(parts), h.poisoned(rows * cols));
    let split_stride4 = (rows * cols / 2) as u32;
    let params = swiglu::Params { cols4: cols as u32 / 4, split_stride4, padding: [0; 2] };
    let grid = swiglu::grid(rows as u32, cols as u32);
    h.run(sizes(rows, 1, 1), &[(swiglu::spec(v), &[&device_x, &out][..], params, grid)]);
    let name = format!("swiglu {rows}x{cols}, {v:?}");
    if v.half {
        Tolerance::F16.check_saturated(&name, &h.download_halves(&out, rows * cols), reference);
    } else {
        Tolerance::F32_TRANSCENDENTAL.check(&name, &h.download(&out, rows * cols), reference);
    }
}
