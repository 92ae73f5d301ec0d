//! SwiGLU; see `shaders/swiglu.wgsl`.

use super::flags;
use crate::wgsl::{Define, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Columns of the result / 4.
    pub cols4: u32,
    /// Elements of a split / 4.
    pub split_stride4: u32,
    /// Zeros.
    pub padding: [u32; 2],
}

/// How gates and ups come, and what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// Splits that they are the sum of.
    pub splits: u32,
    /// The result is f16.
    pub half: bool,
    /// Gates and ups lie in turns of 16, and not all gates before all ups. Columns are a multiple of 16 then.
    pub interleaved: bool,
}

/// The kernel.
#[must_use]
pub fn spec(variant: Variant) -> KernelSpec {
    let on = flags([("HALF", variant.half), ("INTERLEAVED", variant.interleaved)]);
    KernelSpec::portable("swiglu", on.chain([("SPLITS", Define::Number(variant.splits))]).collect())
}

/// Workgroups for `rows` rows of `cols` columns.
#[must_use]
pub fn grid(rows: u32, cols: u32) -> [u32; 3] {
    [(cols / 4).div_ceil(256), rows, 1]
}
