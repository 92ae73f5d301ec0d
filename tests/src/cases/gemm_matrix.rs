//! Linear layers on matrix units.

use remask_core::checkpoint::WeightFormat;
use remask_wgpu::kernels::gemm_matrix::{self, MatrixEnd, MatrixTile};
use remask_wgpu::kernels::linear::Shape;
use remask_wgpu::order::{Order, fragments_are_as_expected};
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
    (300, 256, 384),
    (32, 4096, 4096),
    (64, 12288, 4096),
    (5, 4096, 24576),
    (128, 4096, 12288),
    (257, 4096, 4096),
    (600, 256, 4096),
    (1024, 256, 24576),
];

/// Asks the device about its fragments.
pub fn probe(h: &mut Harness) {
    let answer = block_on(fragments_are_as_expected(&mut h.gpu)).unwrap_or_else(|e| panic!("fragments: {e}"));
    assert!(answer, "matrices lie in registers otherwise than kernels take them to (see the log)");
}

/// Runs every case in every format that matrix units take, with the tile that is chosen and the smallest, and
/// SwiGLU at its end where the tile can.
pub fn run(h: &mut Harness) {
    for &(rows, cols, out) in CASES {
        for format in [WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4] {
            let shape = Shape { rows: rows as u32, cols: cols as u32, out: out as u32 };
            let tile = MatrixTile::choose(format, shape).unwrap_or_else(|| panic!("{shape:?} {format}: no tile"));
            let case = Case { shape: [rows, cols, out], format, tile, end: MatrixEnd::Sums, scale: 1.0 };
            check(h, &case);
            if out < 4096 {
                check(h, &Case { tile: tile.smallest(), ..case });
                check(h, &Case { tile: MatrixTile { splits: 1, ..tile }, end: MatrixEnd::Add, ..case });
            }
            let paired = MatrixTile::choose_paired(format, shape).filter(|paired| paired.fuses_swiglu());
            if let Some(tile) = paired {
                check(h, &Case { tile, end: MatrixEnd::SwiGlu, ..case });
            }
        }
    }
    let shape = Shape { rows: 20, cols: 256, out: 128 };
    let tile = MatrixTile::choose(WeightFormat::F16, shape).unwrap_or_else(|| panic!("no tile"));
    let case = Case { shape: [20, 256, 128], format: WeightFormat::F16, tile, end: MatrixEnd::Sums, scale: 1e3 };
    check(h, &case);
}

#[derive(Clone, Copy)]
struct Case {
    shape: [usize; 3],
    format: WeightFormat,
    tile: MatrixTile,
    end: MatrixEnd,
    scale: f32,
}

fn check(h: &mut Harness, case: &Case) {
    let Case { shape: [rows, cols, out], format, tile, end, scale } = *case;
    let name = format!("gemm_matrix {rows}x{cols}x{out} {format} {tile:?} {end:?}");
    let padded = tile.padded(rows as u32) as usize;
    let (x, w) = (rounded(&uniform(1, padded * cols, scale)), uniform(2, out * cols, 0.5));
    let checkpoint = checkpoint_of(&w, out, cols);
    let matrix = DeviceMatrix::from_checkpoint(&h.gpu, &checkpoint, "w", [out, cols], Some(format));
    let mut matrix = block_on(matrix).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (order, columns) = match end {
        MatrixEnd::Sums | MatrixEnd::Add => (Order::Fragments, out),
        MatrixEnd::SwiGlu => (Order::Paired, out / 2),
    };
    block_on(matrix.reorder(&mut h.gpu, order)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let halves: Vec<_> = x.iter().map(|v| half::f16::from_f32(*v)).collect();
    let count = padded * columns * tile.splits as usize;
    let before = uniform(3, count, 10.0);
    let device_out = if end == MatrixEnd::Add { h.upload(&before) } else { h.poisoned(count) };
    let device_x = h.upload(&halves);
    let params = gemm_matrix::Params {
        cols8: cols as u32 / 8,
        part_rows: out as u32,
        first: 0,
        out_stride: columns as u32,
        split_cols8: cols as u32 / 8 / tile.splits,
        split_stride: (padded * columns) as u32,
        over_selected: 0,
        first_row: 0,
    };
    let buffers = [&matrix.parts[0].buffer, &device_x, &device_out];
    let grid = gemm_matrix::grid(tile, rows as u32, out as u32);
    h.run(sizes(rows, 1, 1), &[(gemm_matrix::spec(format, tile, end), &buffers[..], params, grid)]);
    let splits: Vec<f32> = match end {
        MatrixEnd::Sums | MatrixEnd::Add => h.download(&device_out, count),
        MatrixEnd::SwiGlu => h.download::<half::f16>(&device_out, count).iter().map(|v| v.to_f32()).collect(),
    };
    // Weights are rounded to f16 on their way to the matrix units, as the kernel does.
    let w: Vec<_> = stored(&w, out, cols, format).iter().map(|v| half::f16::from_f64(*v).to_f64()).collect();
    // Large products are checked at elements spread over all of them.
    let step = (rows * columns / 4096).max(1);
    let spread: Vec<_> = (0..rows * columns).step_by(if step > 1 { step | 1 } else { 1 }).collect();
    let product = |r: usize, c: usize| {
        let row = x[r * cols..][..cols].iter().zip(&w[c * cols..][..cols]);
        row.map(|(a, b)| f64::from(*a) * b).sum::<f64>()
    };
    let element = |i: &usize| {
        let (r, c) = (i / columns, i % columns);
        match end {
            MatrixEnd::Sums => product(r, c),
            MatrixEnd::Add => product(r, c) + f64::from(before[*i]),
            MatrixEnd::SwiGlu => {
                let gate = product(r, c);
                gate / (1.0 + (-gate).exp()) * product(r, columns + c)
            }
        }
    };
    let reference: Vec<_> = spread.iter().map(element).collect();
    let sum = |i: &usize| splits.chunks(padded * columns).map(|s| s[*i]).sum::<f32>();
    let computed: Vec<_> = spread.iter().map(sum).collect();
    let tolerance = match end {
        MatrixEnd::Sums | MatrixEnd::Add => Tolerance::MATRIX,
        MatrixEnd::SwiGlu => Tolerance::F16,
    };
    tolerance.check(&name, &computed, &reference);
}
