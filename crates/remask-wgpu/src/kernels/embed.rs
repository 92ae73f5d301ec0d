//! Embeddings of tokens and of positions; see `shaders/embed.wgsl`.

use remask_core::checkpoint::WeightFormat;

use super::{flags, weight_defines};
use crate::wgsl::KernelSpec;

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Columns / 4.
    pub cols4: u32,
    /// Token id or position of the part's first row.
    pub first: u32,
    /// Rows of the part.
    pub part_rows: u32,
    /// Factor on embeddings.
    pub scale: f32,
}

/// What a table is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Tokens: the rows' embeddings are written.
    Tokens,
    /// Positions: the rows' embeddings are added to what is there.
    Positions,
}

/// The kernel for tables of `format`.
#[must_use]
pub fn spec(format: WeightFormat, table: Table) -> KernelSpec {
    let mut defines = weight_defines(format);
    defines.extend(flags([("POSITIONS", table == Table::Positions)]));
    KernelSpec::portable("embed", defines)
}

/// One workgroup a row.
#[must_use]
pub fn grid(rows: u32) -> [u32; 3] {
    [rows, 1, 1]
}
