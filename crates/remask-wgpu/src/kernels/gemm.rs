//! Linear layers; see `shaders/gemm.wgsl`.

use remask_core::checkpoint::WeightFormat;

use super::weight_define;
use crate::wgsl::{Define, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Inner dimension / 4.
    pub cols4: u32,
    /// Rows of the weights' part.
    pub part_rows: u32,
    /// Output column of the part's first row.
    pub first: u32,
    /// Columns of the output.
    pub out_stride: u32,
    /// 1 where the rows of x are the selected ones.
    pub over_selected: u32,
    /// Zeros.
    pub padding: [u32; 3],
}

/// Output columns of a workgroup.
pub const TILE_N: u32 = 64;

/// Rows of a workgroup's tile, in units of 16: as few as the rows need, since rows past the end cost
/// as much as rows within.
#[must_use]
pub fn row_tiles(rows: u32) -> u32 {
    match rows {
        0..=16 => 1,
        17..=32 => 2,
        _ => 4,
    }
}

/// The kernel for `rows` rows of x.
#[must_use]
pub fn spec(format: WeightFormat, rows: u32, residual: bool) -> KernelSpec {
    let mut defines = vec![weight_define(format), ("TM", Define::Number(row_tiles(rows)))];
    if residual {
        defines.push(("RESIDUAL", Define::Flag));
    }
    KernelSpec::portable("gemm", defines)
}

/// Workgroups for `rows` rows of x and `part_rows` rows of the weights.
#[must_use]
pub fn grid(rows: u32, part_rows: u32) -> [u32; 3] {
    [part_rows.div_ceil(TILE_N), rows.div_ceil(16 * row_tiles(rows)), 1]
}
