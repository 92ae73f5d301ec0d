//! The kernels: one file each, with the parameters its shader declares, the choice of its
//! specialisation as a pure function of profile and shape, and the size of its dispatch.
//!
//! Adding a kernel touches three files: the shader, a file here, and its case table in `tests/`.

pub mod attention;
pub mod attention_matrix;
pub mod attention_row;
pub mod embed;
pub mod fragment_probe;
pub mod gemm;
pub mod gemm_matrix;
pub mod gemv;
pub mod head_select;
pub mod linear;
pub mod reorder;
pub mod rms_norm;
pub mod rotary;
pub mod select_reduce;
pub mod select_strips;
pub mod swiglu;

use remask_core::checkpoint::WeightFormat;

use self::gemm::{End, Fused};
use self::gemm_matrix::{MatrixEnd, MatrixTile};
use self::linear::Portable;
use crate::order::Order;
use crate::wgsl::{Define, KernelSpec};

/// `Row` of `shaders/pass.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct RowRecord {
    /// Token id.
    pub token: u32,
    /// Position: its learned embedding.
    pub position: u32,
    /// Absolute slot that its K/V go to.
    pub slot: u32,
    /// First absolute slot it sees.
    pub key_start: u32,
    /// One past the last absolute slot it sees.
    pub key_end: u32,
    /// Where its position's cosines and sines lie in rotary tables.
    pub turn: u32,
    /// Zeros.
    pub padding: [u32; 2],
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
    /// Position of the predicted token, the first half of the noise's counter.
    pub position: u32,
    /// The set of ids that are never chosen.
    pub suppressed: u32,
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

/// The flags that are on.
pub(crate) fn flags<const N: usize>(all: [(&'static str, bool); N]) -> impl Iterator<Item = (&'static str, Define)> {
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, Define::Flag))
}

/// Formats that every kernel with weights is specialised for.
pub const WEIGHT_FORMATS: [WeightFormat; 5] =
    [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Q8, WeightFormat::Q4];

/// What linear layers are fused with.
pub const FUSED: [Fused; 4] = [
    Fused { norm: false, end: End::Write },
    Fused { norm: false, end: End::Add },
    Fused { norm: true, end: End::Write },
    Fused { norm: true, end: End::SwiGlu },
];

/// Into how many splits matrix units cut a product that the next kernel sums.
pub const SPLITS: [u32; 4] = [1, 2, 4, 8];

/// Every specialisation that this build can ask for, for the tests that compile them all.
#[must_use]
pub fn all_specs() -> Vec<KernelSpec> {
    let mut specs = vec![fragment_probe::spec(), select_reduce::spec(), select_strips::spec()];
    for half in [false, true] {
        for splits in SPLITS {
            let variants = [false, true].map(|interleaved| swiglu::Variant { splits, half, interleaved });
            specs.extend(variants.map(swiglu::spec));
        }
        for splits in [0].into_iter().chain(SPLITS) {
            let variants = [false, true].map(|gather| rms_norm::Variant { gather, splits, half });
            for lanes in [rms_norm::Lanes::portable, rms_norm::Lanes::subgroups] {
                let lanes = [60, 512, 4096].map(lanes);
                specs.extend(variants.into_iter().flat_map(|v| lanes.map(|lanes| rms_norm::spec(lanes, v))));
            }
        }
        for rows in [1, 100, 1000] {
            specs.extend([64, 128].map(|head_dim| attention_matrix::spec(head_dim, rows, half)));
        }
    }
    for format in WEIGHT_FORMATS {
        specs.push(embed::spec(format));
        // Every tile and unrolling that rows and widths lead to.
        for (rows, out, cols) in [1, 2, 4, 8, 17, 33, 65, 4096]
            .into_iter()
            .flat_map(|rows| [(rows, 64, 512), (rows, 8192, 1024), (rows, 100_000, 4096)])
        {
            if rows <= gemv::Few::MOST_ROWS {
                let few = gemv::Few::choose(format, rows, out, cols);
                specs.push(head_select::spec(format, Portable::Few(few).for_head()));
                specs.extend(FUSED.map(|fused| gemv::spec(format, few, fused)));
            }
            for tile in [false, true].map(|software| gemm::Tile::choose(software, rows, out)) {
                specs.push(head_select::spec(format, Portable::Tiled(tile).for_head()));
                specs.extend(FUSED.map(|fused| gemm::spec(format, tile, fused)));
            }
        }
        for (rows, out) in
            [1, 17, 33, 65, 257, 1024, 1056].into_iter().flat_map(|rows| [(rows, 384), (rows, 4096), (rows, 24_576)])
        {
            let shape = linear::Shape { rows, cols: 4096, out };
            let tiles = [Order::Fragments, Order::Paired].map(|order| MatrixTile::candidates(format, shape, order));
            for tile in tiles.into_iter().flatten().flat_map(|tile| [tile, tile.smallest()]) {
                specs.push(gemm_matrix::spec(format, tile, MatrixEnd::Sums, 0));
                if tile.splits == 1 {
                    specs.push(gemm_matrix::spec(format, tile, MatrixEnd::Add, 0));
                }
                if tile.fuses_swiglu() {
                    specs.push(gemm_matrix::spec(format, tile, MatrixEnd::SwiGlu, 0));
                }
            }
        }
        let rotary = [64, 128].map(|head_dim| MatrixEnd::Rotary { head_dim });
        for end in [MatrixEnd::SwiGlu, MatrixEnd::Residual].into_iter().chain(rotary) {
            for (rows, cols) in [(1, 128), (1, 4096), (17, 128), (17, 4096)] {
                let tiles = MatrixTile::candidates_few(format, linear::Shape { rows, cols, out: 4096 }, end);
                let squares: &[u32] = if end == MatrixEnd::Residual { &[0] } else { &[0, 64] };
                let spec = |tile| squares.iter().map(move |s| gemm_matrix::spec(format, tile, end, *s));
                specs.extend(tiles.into_iter().flat_map(spec));
            }
        }
        if gemm_matrix::fits(format, 128, 128) {
            for order in [Order::Fragments, Order::Paired] {
                specs.extend([false, true].map(|to_rows| reorder::spec(format, order, to_rows)));
            }
        }
    }
    for head_dim in [8, 12, 16, 64, 80, 128, 256] {
        specs.extend([false, true].map(|software| attention::spec(software, head_dim)));
        let kinds = [(false, false), (true, false), (true, true)];
        specs.extend(kinds.map(|(store, out)| attention_row::spec(head_dim, attention_row::Halves { store, out })));
        let kinds = [(false, false), (true, false), (false, true)];
        for rotated in [head_dim, head_dim / 4 * 2] {
            let variant = rotary::Variant { head_dim, rotated, interleaved: false, splits: 1, half_kv: false };
            let kinds = kinds.map(|(interleaved, half_kv)| rotary::Variant { interleaved, half_kv, ..variant });
            specs
                .extend(kinds.iter().flat_map(|v| SPLITS.map(|splits| rotary::spec(rotary::Variant { splits, ..*v }))));
        }
    }
    let mut seen = std::collections::HashSet::new();
    specs.retain(|spec| seen.insert(spec.clone()));
    specs
}
