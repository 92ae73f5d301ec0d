//! The head fused with masked confidence selection; see `shaders/head_select.wgsl`.

use remask_core::checkpoint::WeightFormat;

use super::flags;
use super::gemm::HEAD_TILE_N;
use super::linear::Portable;
use crate::wgsl::{Define, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Inner dimension / 4.
    pub cols4: u32,
    /// Rows of the head's part.
    pub part_rows: u32,
    /// Token id of the part's first row.
    pub first: u32,
    /// Strips of the parts before.
    pub first_strip: u32,
    /// Tiles of 64 ids that a workgroup takes.
    pub strip_tiles: u32,
    /// Words of a set of suppressed ids.
    pub words: u32,
    /// Zeros.
    pub padding: [u32; 2],
}

/// Bytes of a `Selection` of `shaders/selection.wgsl`.
pub const SELECTION_BYTES: u64 = 32;

/// Strips of a part at most: so many that the device stays full, so few that partial selections stay small. Strips are
/// the same for every number of rows, so that selections are merged in the same order.
pub const MOST_STRIPS: u32 = 512;

/// Tiles that one workgroup takes.
#[must_use]
pub fn strip_tiles(part_rows: u32) -> u32 {
    part_rows.div_ceil(HEAD_TILE_N).div_ceil(MOST_STRIPS).max(1)
}

/// Strips of a part.
#[must_use]
pub fn strips(part_rows: u32) -> u32 {
    part_rows.div_ceil(HEAD_TILE_N).div_ceil(strip_tiles(part_rows))
}

/// The kernel for a head of `format`, with a bias where `bias`. Buffers: weights, x, partial selections, selected rows,
/// suppressed ids; then the bias.
#[must_use]
pub fn spec(format: WeightFormat, strategy: Portable, bias: bool) -> KernelSpec {
    let mut defines = match strategy {
        Portable::Few(few) => {
            let mut defines = few.defines(format);
            defines.push(("FEW", Define::Flag));
            defines
        }
        Portable::Tiled(tile) => tile.defines(format),
    };
    defines.extend(flags([("BIAS", bias)]));
    KernelSpec::portable("head_select", defines)
}

/// Workgroups for `rows` selected rows and `part_rows` ids.
#[must_use]
pub fn grid(strategy: Portable, rows: u32, part_rows: u32) -> [u32; 3] {
    let row_tiles = match strategy {
        Portable::Few(_) => 1,
        Portable::Tiled(tile) => rows.div_ceil(tile.rows()),
    };
    [strips(part_rows), row_tiles, 1]
}
