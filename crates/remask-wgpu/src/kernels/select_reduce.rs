//! From partial selections to candidates; see `shaders/select_reduce.wgsl`.

use crate::wgsl::KernelSpec;

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Strips over all parts of the head.
    pub strips: u32,
    /// Zeros.
    pub padding: [u32; 3],
}

/// `Candidate` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct CandidateRecord {
    /// Chosen id, or [`NOT_FINITE`].
    pub token: u32,
    /// Probability of the chosen id.
    pub probability: f32,
    /// Entropy of the row in nats.
    pub entropy: f32,
    /// Probability of the likeliest id minus that of the runner-up.
    pub margin: f32,
}

/// Token of a row that had a NaN or an infinite logit.
pub const NOT_FINITE: u32 = u32::MAX;

/// The kernel.
#[must_use]
pub fn spec() -> KernelSpec {
    KernelSpec::portable("select_reduce", Vec::new())
}

/// One workgroup a selected row.
#[must_use]
pub fn grid(selected: u32) -> [u32; 3] {
    [selected, 1, 1]
}
