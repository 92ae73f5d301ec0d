//! SwiGLU; see `shaders/swiglu.wgsl`.

use crate::wgsl::KernelSpec;

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Columns of the result / 4.
    pub cols4: u32,
    /// Zeros.
    pub padding: [u32; 3],
}

/// The kernel.
#[must_use]
pub fn spec() -> KernelSpec {
    KernelSpec::portable("swiglu", Vec::new())
}

/// Workgroups for `rows` rows of `cols` columns.
#[must_use]
pub fn grid(rows: u32, cols: u32) -> [u32; 3] {
    [(cols / 4).div_ceil(64), rows, 1]
}
