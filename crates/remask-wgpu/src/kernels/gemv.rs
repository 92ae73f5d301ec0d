//! Linear layers of a few rows; see `shaders/gemv.wgsl`. Parameters are those of [`super::gemm`].

use remask_core::checkpoint::WeightFormat;
use serde::{Deserialize, Serialize};

use super::gemm::Fused;
use super::weight_defines;
use crate::wgsl::{Define, KernelSpec};

/// How a workgroup covers its columns, and how many rows it can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Few {
    /// Rows at most: 1, 2, 4 or 8.
    pub rows: u32,
    /// Columns of an invocation.
    pub columns: u32,
    /// Groups of eight weights of each column that an invocation loads at a time.
    pub unroll: u32,
}

impl Few {
    /// The most rows that this kernel takes.
    pub const MOST_ROWS: u32 = 8;

    /// Columns that share a workgroup's invocations, `THREADS / LANES` of the shader.
    const GROUPS: u32 = 4;

    /// For `rows` rows, at most [`Few::MOST_ROWS`], and `out` columns of `cols` weights. Few columns are
    /// spread over more workgroups; small weights and short rows load more groups at a time.
    #[must_use]
    pub fn choose(format: WeightFormat, rows: u32, out: u32, cols: u32) -> Self {
        let rows = rows.next_power_of_two().min(Self::MOST_ROWS);
        // 16 KiB of workgroup memory hold no more sums.
        let most = if rows == 8 { 2 } else { 4 };
        let columns = [4, 2].into_iter().find(|c| *c <= most && out / c >= 4096).unwrap_or(1);
        let each = if format.is_quantized() { 4 } else { 2 };
        Self { rows, columns, unroll: if cols <= 512 { 2 } else { each * 2 / columns.min(2) } }
    }

    /// Columns of a workgroup.
    #[must_use]
    pub fn tile_columns(self) -> u32 {
        Self::GROUPS * self.columns
    }

    /// The values that `shaders/gemv_tile.wgsl` asks for.
    #[must_use]
    pub fn defines(self, format: WeightFormat) -> Vec<(&'static str, Define)> {
        let mut defines = weight_defines(format);
        defines.push(("WIDE", Define::Flag));
        let numbers = [("ROWS", self.rows), ("COLS", self.columns), ("UNROLL", self.unroll)];
        defines.extend(numbers.map(|(name, value)| (name, Define::Number(value))));
        defines
    }
}

/// The kernel for weights of `format`.
#[must_use]
pub fn spec(format: WeightFormat, few: Few, fused: Fused) -> KernelSpec {
    let mut defines = few.defines(format);
    defines.extend(fused.defines());
    KernelSpec::portable("gemv", defines)
}

/// Workgroups for `columns` columns of the result.
#[must_use]
pub fn grid(few: Few, columns: u32) -> [u32; 3] {
    [columns.div_ceil(few.tile_columns()), 1, 1]
}
