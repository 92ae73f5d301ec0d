//! SwiGLU.

use remask_wgpu::kernels::swiglu;

use crate::data::uniform;
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

/// (rows, columns, magnitude). At ±100 the sigmoid saturates both ways.
const CASES: &[(usize, usize, f32)] = &[(1, 4, 1.0), (3, 160, 4.0), (2, 1344, 1.0), (5, 260, 100.0)];

/// Runs every case, from one split and from several, into f32 and f16.
pub fn run(h: &mut Harness) {
    for (rows, cols, scale) in CASES {
        for splits in [1, 3] {
            let parts: Vec<_> = (0..splits).map(|s| uniform(1 + s, rows * cols * 2, *scale)).collect();
            let x: Vec<f64> = (0..rows * cols * 2).map(|i| parts.iter().map(|p| f64::from(p[i])).sum()).collect();
            let row = |r: usize| {
                let row = x[r * cols * 2..(r + 1) * cols * 2].to_vec();
                (0..*cols).map(move |c| row[c] / (1.0 + (-row[c]).exp()) * row[cols + c]).collect::<Vec<_>>()
            };
            let reference: Vec<_> = (0..*rows).flat_map(row).collect();
            for half in [false, true] {
                let (device_x, out) = (h.upload(&parts.concat()), h.poisoned(rows * cols));
                let params = swiglu::Params {
                    cols4: *cols as u32 / 4,
                    splits,
                    split_stride4: (rows * cols / 2) as u32,
                    padding: 0,
                };
                let grid = swiglu::grid(*rows as u32, *cols as u32);
                h.run(sizes(*rows, 1, 1), &[(swiglu::spec(half), &[&device_x, &out][..], params, grid)]);
                let name = format!("swiglu {rows}x{cols} of {splits} splits, half {half}");
                if half {
                    Tolerance::F16.check(&name, &h.download_halves(&out, rows * cols), &reference);
                } else {
                    Tolerance::F32_TRANSCENDENTAL.check(&name, &h.download(&out, rows * cols), &reference);
                }
            }
        }
    }
}
