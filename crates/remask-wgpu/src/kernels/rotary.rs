//! Rotary embedding and the K/V write; see `shaders/rotary.wgsl`.

use remask_core::architecture::Rotary;

use crate::wgsl::{Define, Extension, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Splits of queries, keys and values.
    pub splits: u32,
    /// Elements of a split.
    pub split_stride: u32,
}

/// The kernel for heads of `head_dim` elements, the first `rotated` of which turn, over stores in f16
/// where `half_kv`.
#[must_use]
pub fn spec(head_dim: u32, rotated: u32, interleaved: bool, half_kv: bool) -> KernelSpec {
    let mut defines = vec![("HEAD_DIM", Define::Number(head_dim)), ("ROTATED", Define::Number(rotated))];
    if interleaved {
        defines.push(("INTERLEAVED", Define::Flag));
    }
    if half_kv {
        defines.push(("HALF_KV", Define::Flag));
    }
    let extensions = if half_kv { vec![Extension::F16] } else { Vec::new() };
    KernelSpec { shader: "rotary", defines, extensions }
}

/// Workgroups for `rows` rows of `heads` heads of any kind.
#[must_use]
pub fn grid(rows: u32, heads: u32, head_dim: u32) -> [u32; 3] {
    [rows, (heads * head_dim / 2).div_ceil(256), 1]
}

/// `(cos, sin)` of every position and pair, `[positions, dims / 2]`, from float64: shader `sin` is too
/// inexact for large angles. At least one entry, so that a buffer can be made of it.
#[must_use]
pub fn table(rotary: &Rotary, positions: usize) -> Vec<[f32; 2]> {
    let turns = rotary.dims / 2;
    let angle = |p: usize, i: usize| p as f64 * rotary.theta.powf(-2.0 * i as f64 / rotary.dims as f64);
    let turn = |(sin, cos): (f64, f64)| [cos as f32, sin as f32];
    let mut table: Vec<_> = (0..positions).flat_map(|p| (0..turns).map(move |i| turn(angle(p, i).sin_cos()))).collect();
    if table.is_empty() {
        table.push([1.0, 0.0]);
    }
    table
}
