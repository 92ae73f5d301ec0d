//! Linear layers on matrix units; see `shaders/gemm_matrix.wgsl`.

use remask_core::checkpoint::WeightFormat;

use super::linear::Shape;
use super::weight_defines;
use crate::profile::AdapterProfile;
use crate::wgsl::{Define, Extension, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Inner dimension / 8.
    pub cols8: u32,
    /// Rows of the weights' part.
    pub part_rows: u32,
    /// Output column of the part's first row.
    pub first: u32,
    /// Columns of the output.
    pub out_stride: u32,
    /// Inner dimension of a split / 8.
    pub split_cols8: u32,
    /// Elements of a split's output.
    pub split_stride: u32,
    /// 1 where the rows of x are the selected ones.
    pub over_selected: u32,
    /// Row of the part that the first workgroup begins with.
    pub first_row: u32,
}

/// The tile of a workgroup, and into how many splits the inner dimension is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixTile {
    /// Rows of x.
    pub m: u32,
    /// Rows of the weights.
    pub n: u32,
    /// Columns of a stage.
    pub k: u32,
    /// Subgroups along rows of x.
    pub warps_m: u32,
    /// Subgroups along rows of the weights.
    pub warps_n: u32,
    /// Stages whose loads are under way while one is multiplied.
    pub depth: u32,
    /// Splits of the inner dimension.
    pub splits: u32,
}

/// Workgroups of tiles of `m` rows that a large device runs at a time; what an H100's 132 multiprocessors find
/// registers for. Nothing tells how many another device has: of its size they are good numbers.
fn at_a_time(m: u32) -> u32 {
    match m {
        16 => 320,
        32 => 256,
        64 => 264,
        _ => 132,
    }
}

/// Splits times rows are never more than this where one split has fewer: buffers have room for them.
pub const SPLIT_ROWS: u32 = 512;

impl MatrixTile {
    /// Whether the device's matrix units are those that these kernels are written for: f16 factors,
    /// float32 sums, 16 x 16 x 16, subgroups of 32 (NVIDIA since Turing).
    #[must_use]
    pub fn supported(profile: &AdapterProfile) -> bool {
        let shape = profile.matrix_shapes.iter().any(|s| {
            [s.m, s.n, s.k] == [16; 3] && s.input.eq_ignore_ascii_case("f16") && s.output.eq_ignore_ascii_case("f32")
        });
        let limits = &profile.limits;
        shape
            && profile.shader_f16
            && profile.subgroups == Some((32, 32))
            && limits.workgroup_bytes >= 48 * 1024
            && limits.invocations >= 512
    }

    /// The tile for a product, where this kernel can compute it. Found by trying on an H100: a tile of few
    /// rows holds them all and reads each weight once, one of many rows is as large as memory allows.
    #[must_use]
    pub fn choose(format: WeightFormat, shape: Shape) -> Option<Self> {
        let Shape { rows, cols, out } = shape;
        let quants = matches!(format, WeightFormat::Q8 | WeightFormat::Q4);
        let whole = out.is_multiple_of(128) && cols.is_multiple_of(128);
        if !whole || !(quants || format == WeightFormat::F16) {
            return None;
        }
        let [m, n, k, warps_m, warps_n, depth] = match (rows, quants) {
            (0..=16, _) => [16, 64, 64, 1, 4, 2],
            (17..=32, _) => [32, 64, 64, 2, 2, 2],
            (33..=64, false) => [64, 64, 64, 2, 2, 4],
            (33..=64, true) => [64, 64, 64, 2, 2, 2],
            (_, false) => [128, 128, 64, 2, 4, 1],
            (_, true) => [128, 128, 64, 2, 4, 2],
        };
        let mut tile = Self { m, n, k, warps_m, warps_n, depth, splits: 1 };
        let workgroups = (out / n) * rows.div_ceil(m);
        let most = (SPLIT_ROWS / tile.padded(rows)).clamp(1, 8);
        let turns = |splits: u32| f64::from((workgroups * splits).div_ceil(at_a_time(m))) / f64::from(splits);
        let possible = [1, 2, 4, 8].into_iter().filter(|s| *s <= most && (cols / s).is_multiple_of(128));
        tile.splits = match m {
            // What is read counts: enough workgroups to ask for it all the time.
            16 | 32 => {
                possible.clone().find(|s| workgroups * s >= at_a_time(m)).or_else(|| possible.clone().next_back())
            }
            // What is computed counts: no multiprocessor idle while others have a turn left.
            _ => possible.min_by(|a, b| turns(*a).total_cmp(&turns(*b))),
        }
        .unwrap_or(1);
        while !(cols / tile.splits / k).is_multiple_of(tile.depth) {
            tile.depth /= 2;
        }
        Some(tile)
    }

    /// Rows rounded up to whole tiles.
    #[must_use]
    pub fn padded(self, rows: u32) -> u32 {
        rows.next_multiple_of(self.m)
    }
}

/// The kernel for weights of `format`.
#[must_use]
pub fn spec(format: WeightFormat, tile: MatrixTile) -> KernelSpec {
    let MatrixTile { m, n, k, warps_m, warps_n, depth, .. } = tile;
    let threads = warps_m * warps_n * 32;
    let mut defines = weight_defines(format);
    let in_element = match format {
        WeightFormat::Q8 => 16,
        WeightFormat::Q4 => 32,
        _ => 8,
    };
    if in_element > 8 {
        defines.push(("SCALED", Define::Flag));
    }
    let numbers = [
        ("TILE_M", m),
        ("TILE_N", n),
        ("TILE_K", k),
        ("WARPS_M", warps_m),
        ("WARPS_N", warps_n),
        ("FRAGS_M", m / 16 / warps_m),
        ("FRAGS_N", n / 16 / warps_n),
        ("STEPS", k / 16),
        ("DEPTH", depth),
        ("X_EACH", m * k / 8 / threads),
        ("W_EACH", n * k / in_element / threads),
        ("IN_ELEMENT", in_element),
    ];
    defines.extend(numbers.map(|(name, value)| (name, Define::Number(value))));
    KernelSpec { shader: "gemm_matrix", defines, extensions: vec![Extension::F16, Extension::Matrix] }
}

/// Workgroups for `rows` rows of x and `out` rows of the weights.
#[must_use]
pub fn grid(tile: MatrixTile, rows: u32, out: u32) -> [u32; 3] {
    [rows.div_ceil(tile.m), out / tile.n, tile.splits]
}
