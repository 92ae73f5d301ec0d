//! Activations of feed-forward parts; see `shaders/activation.wgsl`.

use remask_core::architecture::Activation;

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

/// How the input comes, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// The activation.
    pub activation: Activation,
    /// Gates go through it and are multiplied with ups; or there are ups alone, which go through it.
    pub gated: bool,
    /// Splits that the input is the sum of.
    pub splits: u32,
    /// The result is f16.
    pub half: bool,
    /// Gates and ups lie in turns of 16, and not all gates before all ups. Columns are a multiple of 16 then.
    pub interleaved: bool,
}

/// What `shaders/activations.wgsl` asks for.
#[must_use]
pub fn define(activation: Activation) -> (&'static str, Define) {
    let word = match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_tanh",
        Activation::Gelu => "gelu",
    };
    ("ACTIVATION", Define::Word(word))
}

/// The kernel.
#[must_use]
pub fn spec(variant: Variant) -> KernelSpec {
    let Variant { activation, gated, splits, half, interleaved } = variant;
    let on = flags([("GATED", gated), ("HALF", half), ("INTERLEAVED", interleaved)]);
    let defines = on.chain([define(activation), ("SPLITS", Define::Number(splits))]);
    KernelSpec::portable("activation", defines.collect())
}

/// Workgroups for `rows` rows of `cols` columns.
#[must_use]
pub fn grid(rows: u32, cols: u32) -> [u32; 3] {
    [(cols / 4).div_ceil(256), rows, 1]
}
