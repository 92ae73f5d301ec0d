//! Which elements of a matrix an invocation holds; see `shaders/fragment_probe.wgsl`.

use crate::wgsl::{Extension, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Zeros.
    pub padding: [u32; 4],
}

/// The kernel.
#[must_use]
pub fn spec() -> KernelSpec {
    KernelSpec { shader: "fragment_probe", defines: Vec::new(), extensions: vec![Extension::F16, Extension::Matrix] }
}

/// Numbers that it writes.
pub const FOUND: usize = 3 * 32 * 8;

/// What it writes where the order is that of `shaders/fragments.wgsl`.
#[must_use]
pub fn expected() -> Vec<f32> {
    let index = |lane: usize, e: usize| {
        let (row, col) = (lane / 4 + e / 4 * 8, lane % 4 * 2 + e % 2 + e / 2 % 2 * 8);
        (16 * row + col) as f32
    };
    let one = (0..32).flat_map(|lane| (0..8).map(move |e| index(lane, e)));
    one.clone().chain(one.clone()).chain(one).collect()
}
