//! RMSNorm, with or without gathering selected rows and mixing their guides; see `shaders/rms_norm.wgsl`.

use super::flags;
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
    /// Splits of what is added to x.
    pub splits: u32,
    /// Elements of a split / 4.
    pub split_stride4: u32,
    /// Zeros.
    pub padding: [u32; 3],
}

/// What a norm does beside normalising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Variant {
    /// Over the selected rows, with their guides mixed in.
    pub gather: bool,
    /// Adds the sum of an addend's splits first.
    pub add: bool,
    /// The result is f16.
    pub half: bool,
    /// Rows are wide: more invocations a row.
    pub wide: bool,
}

/// Columns from which a row is wide.
pub const WIDE: usize = 2048;

/// The kernel over all rows, or over the selected ones. Buffers: x, weight, out, then the selected rows
/// where `gather`, then the addend where `add`.
#[must_use]
pub fn spec(variant: Variant) -> KernelSpec {
    let on = flags([("GATHER", variant.gather), ("ADD", variant.add), ("HALF", variant.half)]);
    let threads = ("THREADS", Define::Number(if variant.wide { 256 } else { 128 }));
    KernelSpec::portable("rms_norm", on.chain([threads]).collect())
}

/// One workgroup a row.
#[must_use]
pub fn grid(rows: u32) -> [u32; 3] {
    [rows, 1, 1]
}
