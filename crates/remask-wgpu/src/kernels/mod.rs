//! The kernels: one file each, with the parameters its shader declares, the choice of its
//! specialisation as a pure function of profile and shape, and the size of its dispatch.
//!
//! Adding a kernel touches three files: the shader, a file here, and its case table in `tests/`.

pub mod attention;
pub mod embed;
pub mod gemm;
pub mod gemv;
pub mod head_select;
pub mod linear;
pub mod rms_norm;
pub mod rotary;
pub mod select_reduce;
pub mod swiglu;

use remask_core::checkpoint::WeightFormat;

use self::linear::Strategy;
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

/// What `shaders/weights.wgsl` asks for.
#[must_use]
pub fn weight_defines(format: WeightFormat) -> Vec<(&'static str, Define)> {
    let mut defines = vec![("WEIGHT", Define::Word(format.name()))];
    if matches!(format, WeightFormat::F16 | WeightFormat::Bf16) {
        defines.push(("HALVES", Define::Flag));
    }
    defines
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
        // Every tile and unrolling that rows and widths lead to.
        for (rows, out, cols) in [1, 2, 4, 8, 17, 33, 65, 4096]
            .into_iter()
            .flat_map(|rows| [(rows, 64, 512), (rows, 8192, 1024), (rows, 100_000, 4096)])
        {
            let few = (rows <= gemv::Few::MOST_ROWS).then(|| Strategy::Few(gemv::Few::choose(format, rows, out, cols)));
            let tiles = [false, true].map(|software| Strategy::Tiled(gemm::Tile::choose(software, rows, out)));
            for strategy in few.into_iter().chain(tiles) {
                let head = strategy.for_head();
                specs.push(head_select::spec(format, head));
                specs.extend([false, true].map(|residual| strategy.spec(format, residual)));
            }
        }
    }
    for head_dim in [8, 10, 16, 64, 80, 128, 256] {
        specs.extend([false, true].map(|software| attention::spec(software, head_dim)));
        specs.extend([false, true].map(|interleaved| rotary::spec(head_dim, head_dim / 4 * 2, interleaved)));
    }
    let mut seen = std::collections::HashSet::new();
    specs.retain(|spec| seen.insert(spec.clone()));
    specs
}
