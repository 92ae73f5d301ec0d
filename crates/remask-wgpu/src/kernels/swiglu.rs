//! SwiGLU; see `shaders/swiglu.wgsl`.

use crate::wgsl::{Define, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Columns of the result / 4.
    pub cols4: u32,
    /// Splits of gate and up.
    pub splits: u32,
    /// Elements of a split / 4.
    pub split_stride4: u32,
    /// Zero.
    pub padding: u32,
}

/// The kernel; its result is f16 where `half`.
#[must_use]
pub fn spec(half: bool) -> KernelSpec {
    KernelSpec::portable("swiglu", if half { vec![("HALF", Define::Flag)] } else { Vec::new() })
}

/// Workgroups for `rows` rows of `cols` columns.
#[must_use]
pub fn grid(rows: u32, cols: u32) -> [u32; 3] {
    [(cols / 4).div_ceil(64), rows, 1]
}
