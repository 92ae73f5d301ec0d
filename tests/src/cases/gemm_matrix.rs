//! Linear layers on matrix units.

use half::f16;
use remask_core::architecture::Activation;
use remask_core::checkpoint::WeightFormat;
use remask_wgpu::kernels::gemm_matrix::{self, MatrixEnd, MatrixTile};
use remask_wgpu::kernels::linear::Shape;
use remask_wgpu::kernels::{RowRecord, WEIGHT_FORMATS};
use remask_wgpu::order::Order;
use remask_wgpu::weights::fragments_are_as_expected;

use super::activation::activated;
use super::gemm::device_matrix;
use crate::blocking::block_on;
use crate::data::{Weights, rounded, uniform};
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

/// [rows, inner dimension, columns], with every end: every tile at its edges, with one split and several.
const CASES: &[[usize; 3]] = &[
    [1, 128, 128],
    [16, 256, 256],
    [17, 1024, 128],
    [32, 128, 384],
    [33, 512, 256],
    [64, 2048, 128],
    [65, 384, 256],
    [130, 1024, 384],
    [300, 256, 512],
    [300, 256, 384],
];

/// Of formats that come from GGUF alone, which differ from the others in how a weight is read and in nothing else.
const BLOCK_CASES: &[[usize; 3]] = &[[1, 256, 128], [17, 1024, 256], [64, 2048, 128], [300, 256, 384]];

const ROTARY: MatrixEnd = MatrixEnd::Rotary { head_dim: 128, head_norm: false };
const SWIGLU: MatrixEnd = MatrixEnd::Gated(Activation::Silu);

/// Layers of LLaDA-8B, some with a smaller inner dimension.
const LAYERS: &[([usize; 3], MatrixEnd)] = &[
    ([32, 4096, 4096], MatrixEnd::Sums),
    ([32, 4096, 4096], MatrixEnd::Residual),
    ([64, 12288, 4096], MatrixEnd::Sums),
    ([9, 12288, 4096], MatrixEnd::Residual),
    ([5, 4096, 24576], SWIGLU),
    ([20, 4096, 12288], ROTARY),
    ([3, 4096, 12288], ROTARY),
    ([128, 4096, 12288], MatrixEnd::Sums),
    ([257, 4096, 4096], MatrixEnd::Sums),
    ([600, 256, 4096], MatrixEnd::Add),
    ([1024, 256, 24576], SWIGLU),
    ([1056, 256, 24576], SWIGLU),
    ([9, 4096, 6144], MatrixEnd::Rotary { head_dim: 128, head_norm: true }),
];

/// Partial sums of squares of a row, an odd number of them.
const SQUARES: usize = 27;
const EPS: f32 = 1e-5;
/// Of the shader: what the residual stream is multiplied with to be kept in f16.
const SHRINK: f64 = 1.0 / 16.0;
/// Elements that a large result is checked at.
const SAMPLE: usize = 4096;

/// Asks the device about its fragments.
pub fn probe(h: &mut Harness) {
    let answer = block_on(fragments_are_as_expected(&mut h.gpu)).unwrap_or_else(|e| panic!("fragments: {e}"));
    assert!(answer, "matrices lie in registers otherwise than kernels take them to (see the log)");
}

/// Runs every case in every format that matrix units take.
pub fn run(h: &mut Harness) {
    for format in WEIGHT_FORMATS {
        let fits = |[_, cols, out]: &[usize; 3]| gemm_matrix::fits(format, *cols as u32, *out as u32);
        let cases = if format.can_be_made() { CASES } else { BLOCK_CASES };
        for &shape in cases.iter().filter(|shape| fits(shape)) {
            let turned = [64, 128].map(|head_dim| MatrixEnd::Rotary { head_dim, head_norm: false });
            let ends = [MatrixEnd::Sums, MatrixEnd::Add, SWIGLU, MatrixEnd::Residual];
            for end in ends.into_iter().chain(turned) {
                for normed in [false, true] {
                    let case = Case { shape, format, end, normed, bias: false, scale: 1.0 };
                    case.tiles().into_iter().for_each(|tile| check(h, &case, tile));
                }
            }
            // The same with biases, and what other families end with.
            let gelu = [MatrixEnd::Gated(Activation::GeluTanh), MatrixEnd::Gated(Activation::Gelu)];
            let plain = [MatrixEnd::Plain(Activation::Gelu), MatrixEnd::Plain(Activation::GeluTanh)];
            let turned = [64, 128].map(|head_dim| MatrixEnd::Rotary { head_dim, head_norm: true });
            for end in ends.into_iter().chain(gelu).chain(plain).chain(turned).chain([ROTARY]) {
                for (normed, bias) in [(false, true), (true, end != ROTARY && !gelu.contains(&end))] {
                    let case = Case { shape, format, end, normed, bias, scale: 1.0 };
                    case.tiles().into_iter().for_each(|tile| check(h, &case, tile));
                }
            }
        }
        for &(shape, end) in LAYERS.iter().filter(|(shape, _)| fits(shape)) {
            let case =
                Case { shape, format, end, normed: matches!(end, MatrixEnd::Rotary { .. }), bias: false, scale: 1.0 };
            case.tiles().into_iter().take(1).for_each(|tile| check(h, &case, tile));
        }
    }
    tuned(h);
    let (shape, format) = ([20, 256, 128], WeightFormat::F16);
    let case = Case { shape, format, end: MatrixEnd::Sums, normed: false, bias: false, scale: 1e3 };
    case.tiles().into_iter().for_each(|tile| check(h, &case, tile));
    saturation(h);
}

/// Tiles that no shape here is given, but that tuning may find to be the fastest.
fn tuned(h: &mut Harness) {
    let shape = [20, 1024, 384];
    let [rows, cols, out] = shape.map(|n| n as u32);
    let of = Shape { rows, cols, out };
    for format in [WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q6K] {
        for end in [SWIGLU, MatrixEnd::Residual, ROTARY] {
            let case = Case { shape, format, end, normed: end != MatrixEnd::Residual, bias: false, scale: 1.0 };
            MatrixTile::candidates_few(format, of, end).into_iter().for_each(|tile| check(h, &case, tile));
        }
        let case = Case { shape, format, end: MatrixEnd::Sums, normed: false, bias: false, scale: 1.0 };
        MatrixTile::candidates(format, of, Order::Fragments).into_iter().for_each(|tile| check(h, &case, tile));
    }
}

/// A residual stream beyond f16 is kept as it is, and what f16 cannot hold of it cut off for the next layer.
fn saturation(h: &mut Harness) {
    let end = MatrixEnd::Residual;
    let case = Case { shape: [5, 128, 128], format: WeightFormat::F16, end, normed: false, bias: false, scale: 6e4 };
    case.tiles().into_iter().for_each(|tile| check(h, &case, tile));
}

#[derive(Clone, Copy)]
struct Case {
    /// Rows, inner dimension, columns.
    shape: [usize; 3],
    format: WeightFormat,
    end: MatrixEnd,
    /// x is not normalised yet.
    normed: bool,
    bias: bool,
    /// Of x.
    scale: f32,
}

impl Case {
    /// The tiles that compute it.
    fn tiles(&self) -> Vec<MatrixTile> {
        let [rows, cols, out] = self.shape.map(|n| n as u32);
        let shape = Shape { rows, cols, out };
        let few = MatrixTile::choose_few(self.format, shape, self.end);
        let usual = MatrixTile::choose(self.format, shape).into_iter().flat_map(|tile| [tile, tile.smallest()]);
        match self.end {
            MatrixEnd::Sums if !self.normed => usual.collect(),
            MatrixEnd::Add if !self.normed => usual.take(1).map(|tile| MatrixTile { splits: 1, ..tile }).collect(),
            MatrixEnd::Residual if self.normed => Vec::new(),
            MatrixEnd::Gated(_) => {
                let paired = MatrixTile::choose_paired(self.format, shape).filter(|t| t.fuses_gated() && !self.normed);
                few.into_iter().chain(paired).collect()
            }
            MatrixEnd::Plain(_) => {
                let whole = usual.take(1).map(|tile| MatrixTile { splits: 1, ..tile }).filter(|_| !self.normed);
                few.into_iter().chain(whole).collect()
            }
            MatrixEnd::Sums | MatrixEnd::Add => Vec::new(),
            MatrixEnd::Residual | MatrixEnd::Rotary { .. } => few.into_iter().collect(),
        }
    }
}

/// What went into a product, as the kernel has it.
struct Inputs {
    x: Vec<f32>,
    weights: Vec<f64>,
    cols: usize,
    /// What each row of the product is multiplied with.
    factors: Vec<f64>,
    /// Of each column, zeros where there is none.
    bias: Vec<f32>,
}

impl Inputs {
    fn product(&self, row: usize, column: usize) -> f64 {
        let (x, w) = (&self.x[row * self.cols..], &self.weights[column * self.cols..][..self.cols]);
        x.iter().zip(w).map(|(a, b)| f64::from(*a) * b).sum::<f64>() * self.factors[row] + f64::from(self.bias[column])
    }
}

/// Elements spread over `count`, all of them where they are few.
fn spread(count: usize) -> impl Iterator<Item = usize> + Clone {
    let step = (count / SAMPLE).max(1);
    (0..count).step_by(if step > 1 { step | 1 } else { 1 })
}

/// Checks the elements `all` of a result.
fn compare(
    tolerance: Tolerance,
    name: &str,
    all: impl Iterator<Item = usize> + Clone,
    computed: impl Fn(usize) -> f32,
    reference: impl Fn(usize) -> f64,
) {
    let found: Vec<_> = all.clone().map(computed).collect();
    tolerance.check(name, &found, &all.map(reference).collect::<Vec<_>>());
}

fn check(h: &mut Harness, case: &Case, tile: MatrixTile) {
    let Case { shape: [rows, cols, out], format, end, normed, bias, scale } = *case;
    let name = format!("gemm_matrix {rows}x{cols}x{out} {format} {tile:?} {end:?}, normed {normed}, bias {bias}");
    let padded = tile.padded(rows as u32) as usize;
    let x = rounded(&uniform(1, padded * cols, scale));
    let weights = Weights::uniform(2, [out, cols], 0.5, format);
    let mut matrix = device_matrix(h, &weights);
    block_on(matrix.reorder(&mut h.gpu, end.order())).unwrap_or_else(|e| panic!("{name}: {e}"));
    let halves: Vec<_> = x.iter().map(|v| f16::from_f32(*v)).collect();
    let device_x = h.upload(&halves);
    let squares: Vec<_> = uniform(4, padded * SQUARES, 1.0).iter().map(|v| v.abs()).collect();
    let factor = |row: &[f32]| {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / cols as f64;
        if normed { 1.0 / (SHRINK * (mean + f64::from(EPS)).sqrt()) } else { 1.0 }
    };
    let inputs = Inputs {
        x,
        // Weights are rounded to f16 on their way to the matrix units, as the kernel does.
        weights: weights.kept.iter().map(|v| f16::from_f64(*v).to_f64()).collect(),
        cols,
        factors: squares.chunks(SQUARES).map(factor).collect(),
        bias: if bias { uniform(6, out, 3.0 * scale) } else { vec![0.0; out] },
    };
    let (device_squares, columns) = (h.upload(&squares), end.columns(out as u32) as usize);
    let counters = (out / tile.n as usize) * padded / tile.m as usize;
    let split_sums = h.poisoned(padded * out * tile.splits as usize);
    let (arrived, device_bias) = (h.upload(&vec![0u32; counters]), h.upload(&inputs.bias));
    let mut launch = |h: &mut Harness, kv_heads: usize, tensors: &[&wgpu::Buffer]| {
        let params = gemm_matrix::Params {
            cols8: cols as u32 / 8,
            part_rows: out as u32,
            first: 0,
            out_stride: columns as u32,
            eps: EPS,
            extra: if end == MatrixEnd::Sums { padded * columns } else { kv_heads } as u32,
            over: 0,
            first_row: 0,
        };
        let mut buffers = vec![&matrix.parts[0].buffer, &device_x];
        buffers.extend(tensors);
        buffers.extend(normed.then_some(&device_squares));
        buffers.extend(bias.then_some(&device_bias));
        if tile.splits_meet(end) {
            buffers.extend([&split_sums, &arrived]);
        }
        let spec = gemm_matrix::spec(format, tile, end, if normed { SQUARES as u32 } else { 0 }, bias);
        h.run(sizes(rows, 1, 1), &[(spec, &buffers[..], params, gemm_matrix::grid(tile, rows as u32, out as u32))]);
        assert_eq!(h.download::<u32>(&arrived, counters), vec![0; counters], "{name}: counters are as they were");
    };
    let all = spread(rows * columns);
    let of = |i: usize| (i / columns, i % columns);
    match end {
        MatrixEnd::Sums | MatrixEnd::Add => {
            let count = padded * columns * tile.splits as usize;
            let before = if end == MatrixEnd::Add { uniform(3, count, 10.0) } else { vec![0.0; count] };
            let device = if end == MatrixEnd::Add { h.upload(&before) } else { h.poisoned(count) };
            launch(h, 0, &[&device]);
            let splits: Vec<f32> = h.download(&device, count);
            let element = |i| inputs.product(of(i).0, of(i).1) + f64::from(before[i]);
            let sum = |i: usize| splits.chunks(padded * columns).map(|s| s[i]).sum::<f32>();
            compare(Tolerance::MATRIX, &name, all, sum, element);
        }
        MatrixEnd::Gated(activation) | MatrixEnd::Plain(activation) => {
            let device = h.poisoned(padded * columns);
            launch(h, 0, &[&device]);
            let found = h.download_halves(&device, rows * columns);
            let element = |i| {
                let ((row, column), columns) = (of(i), columns);
                let first = activated(activation, inputs.product(row, column));
                let gated = matches!(end, MatrixEnd::Gated(_));
                if gated { first * inputs.product(row, columns + column) } else { first }
            };
            let reference: Vec<_> = all.clone().map(element).collect();
            Tolerance::F16.check_saturated(&name, &all.map(|i| found[i]).collect::<Vec<_>>(), &reference);
        }
        MatrixEnd::Residual => residual(h, &name, &inputs, [rows, out], tile, &mut launch),
        MatrixEnd::Rotary { head_dim, head_norm } => {
            rotated(h, &name, &inputs, [rows, out], (head_dim as usize, head_norm), &mut launch);
        }
    }
}

/// Runs the kernel for so many key/value heads over the buffers that its end names.
type Launch<'a> = dyn FnMut(&mut Harness, usize, &[&wgpu::Buffer]) + 'a;

fn residual(
    h: &mut Harness,
    name: &str,
    inputs: &Inputs,
    [rows, out]: [usize; 2],
    tile: MatrixTile,
    launch: &mut Launch<'_>,
) {
    let padded = tile.padded(rows as u32) as usize;
    let (before, gain) = (uniform(3, padded * out, 10.0), uniform(5, out, 2.0));
    let parts = out / tile.n as usize;
    let (device, normed, squares) = (h.upload(&before), h.poisoned(padded * out), h.poisoned(padded * parts));
    let device_gain = h.upload(&gain);
    launch(h, 0, &[&device, &device_gain, &normed, &squares]);
    let found: Vec<f32> = h.download(&device, rows * out);
    let element = |i| inputs.product(i / out, i % out) + f64::from(before[i]);
    compare(Tolerance::MATRIX, name, spread(rows * out), |i| found[i], element);
    // The rest is checked against what is kept in float32, all of it.
    let halves = h.download_halves(&normed, rows * out);
    let weighed = |(i, v): (usize, &f32)| f64::from(*v) * f64::from(gain[i % out]) * SHRINK;
    let reference: Vec<_> = found.iter().enumerate().map(weighed).collect();
    Tolerance::F16.check_saturated(&format!("{name}: weighed"), &halves, &reference);
    let sums: Vec<f32> = h.download(&squares, rows * parts);
    let part = |columns: &[f32]| columns.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let reference: Vec<_> = found.chunks(tile.n as usize).map(part).collect();
    Tolerance::F32.check(&format!("{name}: squares"), &sums, &reference);
}

fn rotated(
    h: &mut Harness,
    name: &str,
    inputs: &Inputs,
    [rows, out]: [usize; 2],
    (head_dim, head_norm): (usize, bool),
    launch: &mut Launch<'_>,
) {
    // Positions far apart, slots in another order than rows and some of them nobody's.
    let record = |row: usize| RowRecord {
        turn: (row * 37 % 4001) as u32,
        position: (row * 37 % 4001) as u32,
        slot: (2 * (rows - 1 - row)) as u32,
        ..RowRecord::default()
    };
    let records: Vec<_> = (0..rows).map(record).collect();
    let total = out / head_dim;
    let kv_heads = (total / 4).max(usize::from(total > 2));
    let heads = total - 2 * kv_heads;
    let table = h.upload(&super::rotary::table(head_dim, &(0..4001).collect::<Vec<_>>()));
    let (device_rows, device) = (h.upload(&records), h.poisoned((rows + 128) * out));
    let width = (kv_heads * head_dim).max(2);
    let before = vec![f16::from_f32(7.0); 2 * rows * width];
    let (keys, values) = (h.upload(&before), h.upload(&before));
    let norms = uniform(8, 2 * head_dim, 2.0);
    let device_norms = h.upload(&norms);
    let mut tensors = vec![&device, &device_rows, &table, &keys, &values];
    tensors.extend(head_norm.then_some(&device_norms));
    launch(h, kv_heads, &tensors);

    let mean_of = |i: usize| {
        let element = |dim| inputs.product(i / total, i % total * head_dim + dim).powi(2);
        (0..head_dim).map(element).sum::<f64>() / head_dim as f64
    };
    let means: Vec<_> = (0..if head_norm { rows * total } else { 0 }).map(mean_of).collect();
    let turned = |row: usize, column: usize| {
        let (head, dim) = (column / head_dim * head_dim, column % head_dim);
        let pair = dim % (head_dim / 2);
        let mut plain = [pair, pair + head_dim / 2].map(|dim| inputs.product(row, head + dim));
        let of_keys = column >= heads * head_dim;
        if head_norm && column < (heads + kv_heads) * head_dim {
            let mean = means[row * total + head / head_dim];
            let weight = |dim: usize| f64::from(norms[if of_keys { head_dim + dim } else { dim }]);
            let by = |dim: usize| weight(dim) / (mean + f64::from(EPS)).sqrt();
            plain = [plain[0] * by(pair), plain[1] * by(pair + head_dim / 2)];
        }
        super::rotary::turn_pair(plain, records[row].position, pair, head_dim)[dim / (head_dim / 2)]
    };
    let queries = heads * head_dim;
    let found: Vec<f32> = h.download(&device, rows * out);
    let (computed, element) = (|i| found[i / queries * out + i % queries], |i| turned(i / queries, i % queries));
    compare(Tolerance::MATRIX, &format!("{name}: queries"), spread(rows * queries), computed, element);
    if kv_heads == 0 {
        return;
    }
    let stored = |buffer| h.download_halves(buffer, 2 * rows * width);
    let (keys, values) = (stored(&keys), stored(&values));
    let all = spread(rows * width);
    let place = |i: usize| (records[i / width].slot as usize) * width + i % width;
    let element = |i| turned(i / width, queries + i % width);
    compare(Tolerance::F16, &format!("{name}: keys"), all.clone(), |i| keys[place(i)], element);
    let element = |i| inputs.product(i / width, queries + width + i % width);
    compare(Tolerance::F16, &format!("{name}: values"), all, |i| values[place(i)], element);
    let untouched = |kept: &[f32]| kept.chunks(width).skip(1).step_by(2).flatten().all(|v| *v == 7.0);
    assert!(untouched(&keys) && untouched(&values), "{name}: slots of no row changed");
}
