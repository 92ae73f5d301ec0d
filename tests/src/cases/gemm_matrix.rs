//! Linear layers on matrix units.

use remask_core::checkpoint::WeightFormat;
use remask_wgpu::kernels::gemm_matrix::{self, MatrixTile};
use remask_wgpu::kernels::linear::Shape;
use remask_wgpu::weights::DeviceMatrix;

use crate::blocking::block_on;
use crate::data::{checkpoint_of, rounded, stored, uniform};
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

/// (rows, inner dimension, columns): every tile at its edges, with one split and several, and the shapes
/// of LLaDA-8B's layers.
const CASES: &[(usize, usize, usize)] = &[
    (1, 128, 128),
    (16, 256, 256),
    (17, 1024, 128),
    (32, 128, 384),
    (33, 512, 256),
    (64, 2048, 128),
    (65, 384, 256),
    (130, 1024, 384),
    (300, 256, 512),
    (32, 4096, 4096),
    (64, 12288, 4096),
    (5, 4096, 24576),
    (128, 4096, 12288),
    (257, 4096, 4096),
];

/// Runs every case in every format that matrix units take.
pub fn run(h: &mut Harness) {
    for &(rows, cols, out) in CASES {
        for format in [WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4] {
            check(h, [rows, cols, out], format, 1.0);
        }
    }
    check(h, [20, 256, 128], WeightFormat::F16, 1e3);
}

fn check(h: &mut Harness, [rows, cols, out]: [usize; 3], format: WeightFormat, scale: f32) {
    let shape = Shape { rows: rows as u32, cols: cols as u32, out: out as u32 };
    let tile = MatrixTile::choose(format, shape).unwrap_or_else(|| panic!("{shape:?} {format}: no tile"));
    let name = format!("gemm_matrix {rows}x{cols}x{out} {format} {tile:?}");
    let padded = tile.padded(rows as u32) as usize;
    let (x, w) = (rounded(&uniform(1, padded * cols, scale)), uniform(2, out * cols, 0.5));
    let checkpoint = checkpoint_of(&w, out, cols);
    let matrix = DeviceMatrix::from_checkpoint(&h.gpu, &checkpoint, "w", [out, cols], Some(format));
    let matrix = block_on(matrix).unwrap_or_else(|e| panic!("{name}: {e}"));
    let halves: Vec<_> = x.iter().map(|v| half::f16::from_f32(*v)).collect();
    let (device_x, device_out) = (h.upload(&halves), h.poisoned(padded * out * tile.splits as usize));
    let params = gemm_matrix::Params {
        cols8: cols as u32 / 8,
        part_rows: out as u32,
        first: 0,
        out_stride: out as u32,
        split_cols8: cols as u32 / 8 / tile.splits,
        split_stride: (padded * out) as u32,
        over_selected: 0,
        first_row: 0,
    };
    let buffers = [&matrix.parts[0].buffer, &device_x, &device_out];
    let grid = gemm_matrix::grid(tile, rows as u32, out as u32);
    h.run(sizes(rows, 1, 1), &[(gemm_matrix::spec(format, tile), &buffers[..], params, grid)]);
    let splits: Vec<f32> = h.download(&device_out, padded * out * tile.splits as usize);
    // Weights are rounded to f16 on their way to the matrix units, as the kernel does.
    let w: Vec<_> = stored(&w, out, cols, format).iter().map(|v| half::f16::from_f64(*v).to_f64()).collect();
    // Large products are checked at elements spread over all of them.
    let step = (rows * out / 4096).max(1);
    let spread: Vec<_> = (0..rows * out).step_by(if step > 1 { step | 1 } else { 1 }).collect();
    let element = |i: &usize| {
        let (r, c) = (i / out, i % out);
        let row = x[r * cols..][..cols].iter().zip(&w[c * cols..][..cols]);
        row.map(|(a, b)| f64::from(*a) * b).sum::<f64>()
    };
    let reference: Vec<_> = spread.iter().map(element).collect();
    let sum = |i: &usize| splits.chunks(padded * out).map(|s| s[*i]).sum::<f32>();
    let computed: Vec<_> = spread.iter().map(sum).collect();
    Tolerance::MATRIX.check(&name, &computed, &reference);
}
