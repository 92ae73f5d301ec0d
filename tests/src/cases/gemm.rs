//! Linear layers.

use remask_core::checkpoint::WeightFormat;
use remask_wgpu::kernels::gemm::{self, End, Fused, Tile};
use remask_wgpu::kernels::linear::{Portable, Shape};
use remask_wgpu::kernels::{FUSED, WEIGHT_FORMATS};
use remask_wgpu::weights::DeviceMatrix;

use crate::blocking::block_on;
use crate::data::{checkpoint_of, stored, uniform, widen};
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
    Case { rows, cols, out, scale: 1.0, fused: FUSED[0], over_selected: false }
}

/// Tile edges and one past them, single rows and columns, inner dimensions that end inside a stage.
pub const CASES: &[Case] = &[
    case(1, 32, 1),
    case(1, 512, 65),
    case(16, 64, 64),
    case(17, 96, 63),
    case(33, 160, 130),
    case(64, 32, 128),
    case(65, 1344, 70),
    case(130, 512, 192),
    Case { scale: 1e4, ..case(20, 256, 40) },
    Case { fused: FUSED[1], ..case(37, 96, 75) },
    Case { fused: FUSED[2], ..case(1, 32, 1) },
    Case { fused: FUSED[2], ..case(35, 160, 75) },
    Case { fused: FUSED[2], scale: 1e4, ..case(66, 512, 130) },
    Case { fused: FUSED[3], ..case(3, 64, 2) },
    Case { fused: FUSED[3], ..case(37, 160, 150) },
    Case { fused: FUSED[3], scale: 1e-4, ..case(65, 512, 260) },
    Case { over_selected: true, ..case(19, 64, 66) },
];

/// Runs every case in every weight format.
pub fn run(h: &mut Harness) {
    for case in CASES {
        for format in WEIGHT_FORMATS.into_iter().filter(|f| f.fits(case.cols)) {
            check_tiles(h, case, format);
        }
    }
    // Inner dimensions that only some formats can hold.
    check_tiles(h, &case(5, 20, 33), WeightFormat::F32);
    check_tiles(h, &case(50, 44, 33), WeightFormat::Bf16);
}

/// Every adapter must be able to run the tiles that are chosen for others: for so few columns, and for
/// so many that tiles are as large as they get.
fn check_tiles(h: &mut Harness, c: &Case, format: WeightFormat) {
    for software in [false, true] {
        for out in [c.out as u32, 100_000] {
            check(h, c, format, Portable::Tiled(Tile::choose(software, c.rows as u32, out)));
        }
    }
}

/// Runs one case with one kernel and compares with float64.
pub(super) fn check(h: &mut Harness, c: &Case, format: WeightFormat, strategy: Portable) {
    let (x, w) = (uniform(1, c.rows * c.cols, c.scale), uniform(2, c.out * c.cols, 0.5));
    let columns = c.fused.columns(c.out as u32) as usize;
    let (before, gain) = (uniform(3, c.rows * columns, 1.0), uniform(4, c.cols, 2.0));
    let checkpoint = checkpoint_of(&w, c.out, c.cols);
    let matrix = DeviceMatrix::from_checkpoint(&h.gpu, &checkpoint, "w", [c.out, c.cols], Some(format));
    let matrix = block_on(matrix).unwrap_or_else(|e| panic!("{c:?}: {e}"));
    let device_x = h.upload(&x);
    let device_gain = h.upload(&gain);
    let out = if c.fused.end == End::Add { h.upload(&before) } else { h.poisoned(c.rows * columns) };
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
                padding: [0; 2],
            };
            let mut buffers = vec![&part.buffer, &device_x, &out];
            if c.fused.norm {
                buffers.push(&device_gain);
            }
            let grid = strategy.grid(c.rows as u32, c.fused.columns(part.rows));
            (strategy.spec(format, c.fused), buffers, params, grid)
        })
        .collect();
    let dispatches: Vec<_> = dispatches.iter().map(|(s, b, p, g)| (s.clone(), &b[..], *p, *g)).collect();
    let pass = if c.over_selected { sizes(c.rows * 3, c.rows, 1) } else { sizes(c.rows, 1, 1) };
    h.run(pass, &dispatches);
    let mut computed: Vec<f32> = h.download(&out, c.rows * columns);
    let x = if c.fused.norm { normalised(&widen(&x), &widen(&gain)) } else { widen(&x) };
    // Large products are checked at elements spread over all of them.
    let large = c.rows * c.out * c.cols > 1 << 26 && c.fused.end != End::SwiGlu;
    let spread = (0..c.rows * c.out).step_by(if large { (c.rows * c.out / 4096) | 1 } else { 1 });
    let mut reference = product_at(&x, &stored(&w, c.out, c.cols, format), c.cols, c.out, spread.clone());
    if large {
        computed = spread.clone().map(|i| computed[i]).collect();
    }
    match c.fused.end {
        End::Write => {}
        End::Add => reference.iter_mut().zip(spread).for_each(|(r, i)| *r += f64::from(before[i])),
        End::SwiGlu => {
            let halves = |row: &[f64]| {
                let (gate, up) = row.split_at(columns);
                gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect::<Vec<_>>()
            };
            reference = reference.chunks(c.out).flat_map(halves).collect();
        }
    }
    let tolerance = if c.fused.end == End::SwiGlu { Tolerance::F32_TRANSCENDENTAL } else { Tolerance::F32 };
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
            for format in [WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4] {
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
