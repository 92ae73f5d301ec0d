//! Selections over chunks of logits; see `shaders/select_strips.wgsl`.

use crate::wgsl::KernelSpec;

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Columns of the logits' buffer.
    pub stride: u32,
    /// Ids of the chunk.
    pub count: u32,
    /// Id of the chunk's first column.
    pub first: u32,
    /// Strips of the chunks before.
    pub first_strip: u32,
    /// Ids of a strip.
    pub strip_ids: u32,
    /// Words of a set of suppressed ids.
    pub words: u32,
    /// Zeros.
    pub padding: [u32; 2],
}

/// Ids that one workgroup takes.
pub const STRIP_IDS: u32 = 2048;

/// Strips of a chunk.
#[must_use]
pub fn strips(ids: u32) -> u32 {
    ids.div_ceil(STRIP_IDS)
}

/// The kernel.
#[must_use]
pub fn spec() -> KernelSpec {
    KernelSpec::portable("select_strips", Vec::new())
}

/// Workgroups for `rows` selected rows and a chunk of `ids`.
#[must_use]
pub fn grid(rows: u32, ids: u32) -> [u32; 3] {
    [strips(ids), rows, 1]
}
