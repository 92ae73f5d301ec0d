//! RMSNorm, with or without gathering selected rows and mixing their guides; see `shaders/rms_norm.wgsl`.

use crate::wgsl::{Define, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Columns / 4.
    pub cols4: u32,
    /// Added to the mean square.
    pub eps: f32,
    /// Factor on the result.
    pub scale: f32,
    /// Zero.
    pub padding: u32,
}

/// The kernel over all rows, or over the selected ones.
#[must_use]
pub fn spec(gather: bool) -> KernelSpec {
    KernelSpec::portable("rms_norm", if gather { vec![("GATHER", Define::Flag)] } else { Vec::new() })
}

/// One workgroup a row.
#[must_use]
pub fn grid(rows: u32) -> [u32; 3] {
    [rows, 1, 1]
}
