//! The kernels: one file each, with the parameters its shader declares, the choice of its
//! specialisation as a pure function of profile and shape, and the size of its dispatch.
//!
//! Adding a kernel touches three files: the shader, a file here, and its case table in `tests/`.

pub mod attention;
pub mod embed;
pub mod gemm;
pub mod head_select;
pub mod rms_norm;
pub mod rotary;
pub mod select_reduce;
pub mod swiglu;

use remask_core::checkpoint::WeightFormat;

use crate::wgsl::{Define, KernelSpec};

/// `Row` of `shaders/pass.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct RowRecord {
    /// Token id.
    pub token: u32,
    /// Position: its rotary angle.
    pub position: u32,
    /// Absolute slot that its K/V go to.
    pub slot: u32,
    /// First absolute slot it sees.
    pub key_start: u32,
    /// One past the last absolute slot it sees.
    pub key_end: u32,
    /// Zeros.
    pub padding: [u32; 3],
}

/// `Select` of `shaders/pass.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SelectRecord {
    /// Row of the pass.
    pub row: u32,
    /// Unconditional twin, or the row itself.
    pub guide: u32,
    /// Guidance strength.
    pub guide_scale: f32,
    /// Temperature of the noise.
    pub temperature: f32,
    /// Key of the noise.
    pub key: [u32; 2],
    /// Position, the first half of the noise's counter.
    pub position: u32,
    /// Zero.
    pub padding: u32,
}

/// `WEIGHT` of `shaders/weights.wgsl`.
#[must_use]
pub fn weight_define(format: WeightFormat) -> (&'static str, Define) {
    ("WEIGHT", Define::Word(format.name()))
}

/// Formats that every kernel with weights is specialised for.
pub const WEIGHT_FORMATS: [WeightFormat; 4] =
    [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Q8];

/// Every specialisation that this build can ask for, for the tests that compile them all.
#[must_use]
pub fn all_specs() -> Vec<KernelSpec> {
    let mut specs = vec![select_reduce::spec(), swiglu::spec(), rms_norm::spec(false), rms_norm::spec(true)];
    for format in WEIGHT_FORMATS {
        specs.push(embed::spec(format));
        for tile in [false, true]
            .into_iter()
            .flat_map(|software| [1, 17, 33, 65].map(|rows| gemm::Tile::choose(software, rows)))
        {
            specs.push(head_select::spec(format, tile));
            specs.extend([false, true].map(|residual| gemm::spec(format, tile, residual)));
        }
    }
    for head_dim in [8, 10, 16, 64, 80, 128, 256] {
        specs.extend([false, true].map(|software| attention::spec(software, head_dim)));
        specs.extend([false, true].map(|interleaved| rotary::spec(head_dim, head_dim / 4 * 2, interleaved)));
    }
    specs
}
