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

/// How a workgroup covers its tile: `lanes_m * tm` rows by `lanes_n * tn` = [`TILE_N`] columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Invocations along rows.
    pub lanes_m: u32,
    /// Invocations along columns.
    pub lanes_n: u32,
    /// Rows of an invocation.
    pub tm: u32,
    /// Columns of an invocation.
    pub tn: u32,
}

impl Tile {
    /// The tile for `rows` rows of x: as few rows as there are, since rows past the end cost as much as
    /// rows within.
    ///
    /// Software adapters get few invocations with much work each: they switch between invocations at
    /// every barrier, and load from shared memory one invocation at a time.
    #[must_use]
    pub fn choose(software: bool, rows: u32) -> Self {
        let [lanes_m, lanes_n, tn, most] = if software { [2, 8, 8, 16] } else { [16, 16, 4, 4] };
        let tm = rows.div_ceil(lanes_m).next_power_of_two().min(most);
        Self { lanes_m, lanes_n, tm, tn }
    }

    /// Rows of the tile.
    #[must_use]
    pub fn rows(self) -> u32 {
        self.lanes_m * self.tm
    }

    /// The values that `shaders/gemm_tile.wgsl` asks for.
    #[must_use]
    pub fn defines(self) -> [(&'static str, Define); 4] {
        [("LANES_M", self.lanes_m), ("LANES_N", self.lanes_n), ("TM", self.tm), ("TN", self.tn)]
            .map(|(name, value)| (name, Define::Number(value)))
    }
}

/// The kernel for weights of `format`.
#[must_use]
pub fn spec(format: WeightFormat, tile: Tile, residual: bool) -> KernelSpec {
    let mut defines = vec![weight_define(format)];
    defines.extend(tile.defines());
    if residual {
        defines.push(("RESIDUAL", Define::Flag));
    }
    KernelSpec::portable("gemm", defines)
}

/// Workgroups for `rows` rows of x and `part_rows` rows of the weights.
#[must_use]
pub fn grid(tile: Tile, rows: u32, part_rows: u32) -> [u32; 3] {
    [part_rows.div_ceil(TILE_N), rows.div_ceil(tile.rows()), 1]
}
