//! Norms and rotary embedding of heads, and the K/V write; see `shaders/rotary.wgsl`.

use std::ops::Range;

use remask_core::architecture::Rotary;

use super::flags;
use crate::wgsl::{Define, Extension, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of a split.
    pub split_stride: u32,
    /// Of the heads' norms: added to the mean square.
    pub eps: f32,
}

/// What turns, and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// Elements of a head.
    pub head_dim: u32,
    /// Elements of a head that turn, from the first.
    pub rotated: u32,
    /// Pairs are neighbours, and not of the two halves of what turns.
    pub interleaved: bool,
    /// Each head of queries and keys goes through an RMSNorm first.
    pub head_norm: bool,
    /// Splits that queries, keys and values are the sum of.
    pub splits: u32,
    /// Keys and values are stored in f16.
    pub half_kv: bool,
}

/// Invocations of a workgroup.
const THREADS: u32 = 128;

impl Variant {
    /// Heads of a workgroup.
    fn heads(self) -> u32 {
        THREADS / (self.head_dim / 2 / self.width()).max(1)
    }

    /// Pairs of an invocation.
    fn width(self) -> u32 {
        let whole = self.head_dim.is_multiple_of(8) && self.rotated.is_multiple_of(8) && self.rotated > 0;
        if whole { 4 } else { 1 }
    }
}

/// The kernel. Buffers: rows, table, qkv, keys, values; then the weights of the heads' norms, that of queries first.
#[must_use]
pub fn spec(variant: Variant) -> KernelSpec {
    let Variant { head_dim, rotated, interleaved, head_norm, splits, half_kv } = variant;
    let numbers = [("HEAD_DIM", head_dim), ("ROTATED", rotated), ("SPLITS", splits), ("WIDTH", variant.width())];
    let numbers = numbers.map(|(name, value)| (name, Define::Number(value)));
    let on = flags([("INTERLEAVED", interleaved), ("HEAD_NORM", head_norm), ("HALF_KV", half_kv)]);
    let extensions = if half_kv { vec![Extension::F16] } else { Vec::new() };
    KernelSpec { shader: "rotary", defines: numbers.into_iter().chain(on).collect(), extensions }
}

/// Workgroups for `rows` rows of `heads` heads of any kind.
#[must_use]
pub fn grid(variant: Variant, rows: u32, heads: u32) -> [u32; 3] {
    [heads.div_ceil(variant.heads()), rows, 1]
}

/// `(cos, sin)` of these positions and every pair, `[positions, dims / 2]`, from float64: shader `sin` is too
/// inexact for large angles.
#[must_use]
pub fn table(rotary: &Rotary, positions: Range<u32>) -> Vec<[f32; 2]> {
    let (frequencies, amplitude) = (rotary.frequencies(), rotary.amplitude());
    let turn = |position: u32, frequency: &f64| {
        let (sin, cos) = (f64::from(position) * frequency).sin_cos();
        [(cos * amplitude) as f32, (sin * amplitude) as f32]
    };
    positions.flat_map(|p| frequencies.iter().map(move |f| turn(p, f))).collect()
}
