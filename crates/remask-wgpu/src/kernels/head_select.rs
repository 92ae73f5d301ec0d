//! The head fused with masked confidence selection; see `shaders/head_select.wgsl`.

use remask_core::checkpoint::WeightFormat;

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

/// Ids of a tile, and strips of a part at most: so many that the device stays full, so few that partial
/// selections stay small.
fn tile_and_most_strips(strategy: Portable) -> (u32, u32) {
    match strategy {
        Portable::Few(few) => (few.tile_columns(), 1024),
        Portable::Tiled(_) => (HEAD_TILE_N, TILED_STRIPS),
    }
}

/// Strips of a part at most where many rows are selected.
pub const TILED_STRIPS: u32 = 256;

/// Tiles that one workgroup takes.
#[must_use]
pub fn strip_tiles(strategy: Portable, part_rows: u32) -> u32 {
    let (tile, most) = tile_and_most_strips(strategy);
    part_rows.div_ceil(tile).div_ceil(most).max(1)
}

/// Strips of a part.
#[must_use]
pub fn strips(strategy: Portable, part_rows: u32) -> u32 {
    let (tile, _) = tile_and_most_strips(strategy);
    part_rows.div_ceil(tile).div_ceil(strip_tiles(strategy, part_rows))
}

/// The kernel for a head of `format`.
#[must_use]
pub fn spec(format: WeightFormat, strategy: Portable) -> KernelSpec {
    let defines = match strategy {
        Portable::Few(few) => {
            let mut defines = few.defines(format);
            defines.push(("FEW", Define::Flag));
            defines
        }
        Portable::Tiled(tile) => tile.defines(format),
    };
    KernelSpec::portable("head_select", defines)
}

/// Workgroups for `rows` selected rows and `part_rows` ids.
#[must_use]
pub fn grid(strategy: Portable, rows: u32, part_rows: u32) -> [u32; 3] {
    let row_tiles = match strategy {
        Portable::Few(_) => 1,
        Portable::Tiled(tile) => rows.div_ceil(tile.rows()),
    };
    [strips(strategy, part_rows), row_tiles, 1]
}
