//! Linear layers.

use remask_core::checkpoint::WeightFormat;
use remask_wgpu::kernels::WEIGHT_FORMATS;
use remask_wgpu::kernels::gemm::{self, Tile};
use remask_wgpu::kernels::linear::{Portable, Shape};
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
    /// Adds to what is there.
    pub residual: bool,
    /// Runs over the selected rows, with the pass computing more.
    pub over_selected: bool,
}

const fn case(rows: usize, cols: usize, out: usize) -> Case {
    Case { rows, cols, out, scale: 1.0, residual: false, over_selected: false }
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
    Case { residual: true, ..case(37, 96, 75) },
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
    let before = uniform(3, c.rows * c.out, 1.0);
    let checkpoint = checkpoint_of(&w, c.out, c.cols);
    let matrix = DeviceMatrix::from_checkpoint(&h.gpu, &checkpoint, "w", [c.out, c.cols], Some(format));
    let matrix = block_on(matrix).unwrap_or_else(|e| panic!("{c:?}: {e}"));
    let device_x = h.upload(&x);
    let out = if c.residual { h.upload(&before) } else { h.poisoned(c.rows * c.out) };
    let dispatches: Vec<_> = matrix
        .parts
        .iter()
        .map(|part| {
            let params = gemm::Params {
                cols4: matrix.cols / 4,
                part_rows: part.rows,
                first: part.first,
                out_stride: matrix.rows,
                over_selected: u32::from(c.over_selected),
                padding: [0; 3],
            };
            let buffers = [&part.buffer, &device_x, &out];
            (strategy.spec(format, c.residual), buffers, params, strategy.grid(c.rows as u32, part.rows))
        })
        .collect();
    let dispatches: Vec<_> = dispatches.iter().map(|(s, b, p, g)| (s.clone(), &b[..], *p, *g)).collect();
    let pass = if c.over_selected { sizes(c.rows * 3, c.rows, 1) } else { sizes(c.rows, 1, 1) };
    h.run(pass, &dispatches);
    let computed: Vec<f32> = h.download(&out, c.rows * c.out);
    // Large products are checked at elements spread over all of them.
    let step = (c.rows * c.out).div_ceil(if c.rows * c.out * c.cols > 1 << 26 { 4096 } else { usize::MAX }) | 1;
    let spread = || (0..c.rows * c.out).step_by(step);
    let mut reference = product_at(&widen(&x), &stored(&w, c.out, c.cols, format), c.cols, c.out, spread());
    if c.residual {
        reference.iter_mut().zip(spread()).for_each(|(r, i)| *r += f64::from(before[i]));
    }
    let computed: Vec<_> = spread().map(|i| computed[i]).collect();
    Tolerance::F32.check(&format!("gemm {c:?} {format} {strategy:?}"), &computed, &reference);
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
