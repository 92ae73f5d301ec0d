//! Token embedding; see `shaders/embed.wgsl`.

use remask_core::checkpoint::WeightFormat;

use super::weight_defines;
use crate::wgsl::KernelSpec;

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Columns / 4.
    pub cols4: u32,
    /// Token id of the part's first row.
    pub first: u32,
    /// Rows of the part.
    pub part_rows: u32,
    /// Factor on embeddings.
    pub scale: f32,
}

/// The kernel for tables of `format`.
#[must_use]
pub fn spec(format: WeightFormat) -> KernelSpec {
    KernelSpec::portable("embed", weight_defines(format))
}

/// One workgroup a row.
#[must_use]
pub fn grid(rows: u32) -> [u32; 3] {
    [rows, 1, 1]
}
