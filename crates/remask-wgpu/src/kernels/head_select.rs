//! The head fused with masked confidence selection; see `shaders/head_select.wgsl`.

use remask_core::checkpoint::WeightFormat;

use super::gemm::{TILE_N, Tile};
use super::weight_define;
use crate::wgsl::KernelSpec;

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
    /// Zeros.
    pub padding: [u32; 3],
}

/// Bytes of a `Selection` of `shaders/selection.wgsl`.
pub const SELECTION_BYTES: u64 = 32;

/// Tiles of 64 ids that one workgroup takes: about 256 strips a head, so that partial selections stay
/// small and the device stays full.
#[must_use]
pub fn strip_tiles(part_rows: u32) -> u32 {
    part_rows.div_ceil(TILE_N).div_ceil(256).max(1)
}

/// Strips of a part.
#[must_use]
pub fn strips(part_rows: u32) -> u32 {
    part_rows.div_ceil(TILE_N).div_ceil(strip_tiles(part_rows))
}

/// The kernel for a head of `format`.
#[must_use]
pub fn spec(format: WeightFormat, tile: Tile) -> KernelSpec {
    let mut defines = vec![weight_define(format)];
    defines.extend(tile.defines());
    KernelSpec::portable("head_select", defines)
}

/// Workgroups for `rows` selected rows and `part_rows` ids.
#[must_use]
pub fn grid(tile: Tile, rows: u32, part_rows: u32) -> [u32; 3] {
    [strips(part_rows), rows.div_ceil(tile.rows()), 1]
}
