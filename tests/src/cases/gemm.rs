//! Linear layers.

use remask_core::architecture::Activation;
use remask_core::checkpoint::WeightFormat;
use remask_wgpu::kernels::WEIGHT_FORMATS;
use remask_wgpu::kernels::gemm::{self, End, Fused, Tile};
use remask_wgpu::kernels::linear::{Portable, Shape};
use remask_wgpu::weights::DeviceMatrix;

use super::STEP;
use super::activation::activated;
use super::norm::filled_up;
use crate::blocking::block_on;
use crate::data::{Weights, uniform, widen};
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

/// A product `[rows, cols] x [out, cols]^T`.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Rows of x.
    pub rows: usize,
    /// Inner dimension.
    pub cols: usize,
    /// Rows of the weights.
    pub out: usize,
    /// Magnitude of x.
    pub scale: f32,
    /// What is computed beside the product.
    pub fused: Fused,
    /// Runs over the selected rows, with the pass computing more.
    pub over_selected: bool,
}

const fn case(rows: usize, cols: usize, out: usize) -> Case {
    Case { rows, cols, out, scale: 1.0, fused: Fused::PRODUCT, over_selected: false }
}

const fn fused(norm: bool, bias: bool, end: End) -> Fused {
    Fused { norm, bias, end }
}

const SILU: End = End::Gated(Activation::Silu);

/// Tile edges and one past them, single rows and columns, inner dimensions that end inside a stage, or that zeros fill up.
pub const CASES: &[Case] = &[
    case(1, 32, 1),
    case(1, 512, 65),
    case(16, 64, 64),
    case(17, 96, 63),
    case(33, 160, 130),
    case(64, 32, 128),
    case(65, 1344, 70),
    case(130, 512, 192),
    case(5, 20, 33),
    case(50, 50, 33),
    Case { scale: 1e4, ..case(20, 256, 40) },
    Case { fused: fused(false, false, End::Add), ..case(37, 96, 75) },
    Case { fused: fused(false, true, End::Add), ..case(18, 60, 75) },
    Case { fused: fused(false, true, End::Write), ..case(37, 96, 75) },
    Case { fused: fused(false, true, End::Plain(Activation::GeluTanh)), ..case(21, 96, 130) },
    Case { fused: fused(false, true, End::Gated(Activation::Gelu)), ..case(21, 96, 150) },
    Case { fused: fused(true, false, End::Write), ..case(1, 32, 1) },
    Case { fused: fused(true, false, End::Write), ..case(35, 160, 75) },
    Case { fused: fused(true, true, End::Write), ..case(35, 50, 75) },
    Case { fused: fused(true, false, End::Write), scale: 1e4, ..case(66, 512, 130) },
    Case { fused: fused(true, false, SILU), ..case(3, 64, 2) },
    Case { fused: fused(true, false, SILU), ..case(37, 160, 150) },
    Case { fused: fused(true, false, End::Gated(Activation::GeluTanh)), ..case(37, 160, 150) },
    Case { fused: fused(true, true, End::Plain(Activation::Gelu)), ..case(37, 160, 75) },
    Case { fused: fused(true, false, SILU), scale: 1e-4, ..case(65, 512, 260) },
    Case { over_selected: true, ..case(19, 64, 66) },
];

/// Cases of formats that come from GGUF alone, which differ from the others in how a weight is read and in nothing
/// else. Blocks are of 32 or of 256.
const BLOCK_CASES: &[Case] = &[
    case(1, 256, 1),
    case(17, 96, 63),
    case(17, 768, 63),
    case(66, 256, 130),
    Case { fused: fused(false, true, End::Add), ..case(37, 256, 75) },
    Case { fused: fused(true, false, End::Write), scale: 1e4, ..case(35, 160, 75) },
    Case { fused: fused(true, false, End::Write), scale: 1e4, ..case(35, 768, 75) },
    Case { fused: fused(true, false, SILU), ..case(37, 256, 150) },
    Case { over_selected: true, ..case(19, 256, 66) },
];

/// Runs every case in the formats that it is for.
pub fn run(h: &mut Harness) {
    for case in CASES.iter().step_by(STEP) {
        case.formats().for_each(|format| check_tiles(h, case, format));
    }
    for case in BLOCK_CASES.iter().step_by(STEP) {
        block_formats(case.cols).for_each(|format| check_tiles(h, case, format));
    }
}

/// The formats that come from GGUF alone and fit rows of `cols` weights.
pub(super) fn block_formats(cols: usize) -> impl Iterator<Item = WeightFormat> {
    WEIGHT_FORMATS.into_iter().filter(move |f| !f.can_be_made() && f.fits(cols))
}

impl Case {
    /// Products alone in every format that fits; what ends them does not know it, so there two are enough.
    pub(super) fn formats(&self) -> impl Iterator<Item = WeightFormat> {
        let (plain, cols) = (self.fused == Fused::PRODUCT, self.cols);
        let suits = move |f: &WeightFormat| plain || matches!(f, WeightFormat::F32 | WeightFormat::Q4);
        WEIGHT_FORMATS.into_iter().filter(move |f| f.can_be_made() && f.fits(cols) && suits(f))
    }
}

/// Every adapter must be able to run the tiles that are chosen for others: for so few columns, and for
/// so many that tiles are as large as they get.
fn check_tiles(h: &mut Harness, c: &Case, format: WeightFormat) {
    for software in [false, true] {
        let tiles = [c.out as u32, 100_000].map(|out| Tile::choose(software, c.rows as u32, out));
        for tile in &tiles[usize::from(!format.can_be_made())..] {
            check(h, c, format, Portable::Tiled(*tile));
        }
    }
}

/// The matrix on the device.
pub(super) fn device_matrix(h: &Harness, weights: &Weights) -> DeviceMatrix {
    let Weights { checkpoint, shape, format, .. } = weights;
    let matrix = DeviceMatrix::from_checkpoint(&h.gpu, checkpoint, "w", *shape, Some(*format));
    block_on(matrix).unwrap_or_else(|e| panic!("{shape:?} {format}: {e}"))
}

/// What goes into the case.
pub(super) struct Inputs {
    x: Vec<f32>,
    pub(super) w: Weights,
    gain: Vec<f32>,
    bias: Vec<f32>,
    /// What is there before.
    before: Vec<f32>,
}

impl Inputs {
    pub(super) fn new(c: &Case, format: WeightFormat) -> Self {
        let columns = c.fused.columns(c.out as u32) as usize;
        Self {
            x: uniform(1, c.rows * c.cols, c.scale),
            w: Weights::uniform(2, [c.out, c.cols], 0.5, format),
            gain: uniform(4, c.cols, 2.0),
            bias: uniform(5, c.out, 2.0),
            before: uniform(3, c.rows * columns, 1.0),
        }
    }
}

/// Runs one case with one kernel over the first `rows` of its rows.
pub(super) fn run_rows(
    h: &mut Harness,
    c: &Case,
    (inputs, matrix): (&Inputs, &DeviceMatrix),
    strategy: Portable,
    rows: usize,
) -> Vec<f32> {
    let columns = c.fused.columns(c.out as u32) as usize;
    let device_x = h.upload(&filled_up(&inputs.x[..rows * c.cols], c.cols));
    let (device_gain, device_bias) = (h.upload(&filled_up(&inputs.gain, c.cols)), h.upload(&inputs.bias));
    let adds = c.fused.end == End::Add;
    let out = if adds { h.upload(&inputs.before[..rows * columns]) } else { h.poisoned(rows * columns) };
    let dispatches: Vec<_> = matrix
        .parts
        .iter()
        .map(|part| {
            let params = gemm::Params {
                cols4: matrix.cols / 4,
                part_rows: part.rows,
                first: part.first,
                out_stride: columns as u32,
                over: u32::from(c.over_selected),
                eps: EPS,
                cols: c.cols as u32,
                padding: 0,
            };
            let mut buffers = vec![&part.buffer, &device_x, &out];
            buffers.extend(c.fused.norm.then_some(&device_gain));
            buffers.extend(c.fused.bias.then_some(&device_bias));
            let grid = strategy.grid(rows as u32, c.fused.columns(part.rows));
            (strategy.spec(part.format, c.fused), buffers, params, grid)
        })
        .collect();
    let dispatches: Vec<_> = dispatches.iter().map(|(s, b, p, g)| (s.clone(), &b[..], *p, *g)).collect();
    let pass = if c.over_selected { sizes(rows * 3, rows, 1) } else { sizes(rows, 1, 1) };
    h.run(pass, &dispatches);
    h.download(&out, rows * columns)
}

/// Runs one case with one kernel and compares with float64.
pub(super) fn check(h: &mut Harness, c: &Case, format: WeightFormat, strategy: Portable) {
    let inputs = Inputs::new(c, format);
    let matrix = device_matrix(h, &inputs.w);
    let mut computed = run_rows(h, c, (&inputs, &matrix), strategy, c.rows);
    let columns = c.fused.columns(c.out as u32) as usize;
    let x = if c.fused.norm { normalised(&widen(&inputs.x), &widen(&inputs.gain)) } else { widen(&inputs.x) };
    // Large products are checked at elements spread over all of them.
    let gated = matches!(c.fused.end, End::Gated(_));
    let large = c.rows * c.out * c.cols > 1 << 26 && !gated;
    let spread = (0..c.rows * c.out).step_by(if large { (c.rows * c.out / 4096) | 1 } else { 1 });
    let mut reference = product_at(&x, &inputs.w.kept, c.cols, c.out, spread.clone());
    if large {
        computed = spread.clone().map(|i| computed[i]).collect();
    }
    if c.fused.bias {
        reference.iter_mut().zip(spread.clone()).for_each(|(r, i)| *r += f64::from(inputs.bias[i % c.out]));
    }
    match c.fused.end {
        End::Write => {}
        End::Add => reference.iter_mut().zip(spread).for_each(|(r, i)| *r += f64::from(inputs.before[i])),
        End::Plain(activation) => reference.iter_mut().for_each(|r| *r = activated(activation, *r)),
        End::Gated(activation) => {
            let halves = |row: &[f64]| {
                let (gate, up) = row.split_at(columns);
                gate.iter().zip(up).map(|(g, u)| activated(activation, *g) * u).collect::<Vec<_>>()
            };
            reference = reference.chunks(c.out).flat_map(halves).collect();
        }
    }
    let exact = matches!(c.fused.end, End::Write | End::Add);
    let tolerance = if exact { Tolerance::F32 } else { Tolerance::F32_TRANSCENDENTAL };
    tolerance.check(&format!("gemm {c:?} {format} {strategy:?}"), &computed, &reference);
}

const EPS: f32 = 1e-5;

/// RMSNorm of each row of x in float64.
fn normalised(x: &[f64], gain: &[f64]) -> Vec<f64> {
    let row = |row: &[f64]| {
        let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        let scaled = |(v, g): (&f64, &f64)| v * g / (mean + f64::from(EPS)).sqrt();
        row.iter().zip(gain).map(scaled).collect::<Vec<_>>()
    };
    x.chunks(gain.len()).flat_map(row).collect()
}

/// The linear layers of a model at their real sizes, as the device would compute them: LLaDA-8B's, or
/// tales-33m's on a device that computes on the CPU.
pub fn run_layers(h: &mut Harness) {
    let layers: &[(usize, usize)] = if h.gpu.profile.is_software() {
        &[(512, 1536), (512, 2688), (1344, 512)]
    } else {
        &[(4096, 4096), (4096, 12288), (12288, 4096)]
    };
    for rows in [1, 8, 64] {
        for &(cols, out) in layers {
            let formats = [WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4K, WeightFormat::Q6K];
            for format in formats.into_iter().filter(|f| f.fits(cols)) {
                let shape = Shape { rows: rows as u32, cols: cols as u32, out: out as u32 };
                let strategy = Portable::choose(&h.gpu.profile, format, shape);
                check(h, &case(rows, cols, out), format, strategy);
            }
        }
    }
}

/// `x * w^T` in float64.
#[must_use]
pub fn product(x: &[f64], w: &[f64], rows: usize, cols: usize, out: usize) -> Vec<f64> {
    product_at(x, w, cols, out, 0..rows * out)
}

/// Some elements of `x * w^T` in float64.
fn product_at(x: &[f64], w: &[f64], cols: usize, out: usize, elements: impl Iterator<Item = usize>) -> Vec<f64> {
    let row = |r: usize| &x[r * cols..(r + 1) * cols];
    let element = |i: usize| row(i / out).iter().zip(&w[i % out * cols..]).map(|(a, b)| a * b).sum();
    elements.map(element).collect()
}
