//! SwiGLU.

use remask_wgpu::kernels::swiglu;

use crate::data::{uniform, widen};
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

/// (rows, columns, magnitude). At ±100 the sigmoid saturates both ways.
const CASES: &[(usize, usize, f32)] = &[(1, 4, 1.0), (3, 160, 4.0), (2, 1344, 1.0), (5, 260, 100.0)];

/// Runs every case.
pub fn run(h: &mut Harness) {
    for (rows, cols, scale) in CASES {
        let x = uniform(1, rows * cols * 2, *scale);
        let (device_x, out) = (h.upload(&x), h.poisoned(rows * cols));
        let params = swiglu::Params { cols4: *cols as u32 / 4, padding: [0; 3] };
        let grid = swiglu::grid(*rows as u32, *cols as u32);
        h.run(sizes(*rows, 1, 1), &[(swiglu::spec(), &[&device_x, &out][..], params, grid)]);
        let row = |r: usize| {
            let row = widen(&x[r * cols * 2..(r + 1) * cols * 2]);
            (0..*cols).map(move |c| row[c] / (1.0 + (-row[c]).exp()) * row[cols + c]).collect::<Vec<_>>()
        };
        let reference: Vec<_> = (0..*rows).flat_map(row).collect();
        Tolerance::F32_TRANSCENDENTAL.check(
            &format!("swiglu {rows}x{cols}"),
            &h.download(&out, rows * cols),
            &reference,
        );
    }
}
