//! The kernels: one file each, with the parameters its shader declares, the choice of its
//! specialisation as a pure function of profile and shape, and the size of its dispatch.
//!
//! Adding a kernel touches three files: the shader, a file here, and its case table in `tests/`.

pub mod activation;
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
pub mod norm;
pub mod reorder;
pub mod rotary;
pub mod select_reduce;
pub mod select_strips;

use remask_core::architecture::{Activation, NormKind};
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

/// Columns that a row of `width` takes on the device, in activations, weights and vectors alike: what fills it up is
/// zeros, and stays so.
#[must_use]
pub const fn padded(width: u32) -> u32 {
    width.next_multiple_of(8)
}

/// What `shaders/weights.wgsl` asks for.
#[must_use]
pub fn weight_defines(format: WeightFormat) -> Vec<(&'static str, Define)> {
    let mut defines = vec![("WEIGHT", Define::Word(format.name()))];
    if matches!(format, WeightFormat::F16 | WeightFormat::Bf16) {
        defines.push(("HALVES", Define::Flag));
    }
    if let Some(Packed { high, scaling, .. }) = Packed::of(format) {
        let scaling = ("SCALING", Define::Word(scaling));
        defines.extend([("PACKED", Define::Flag), ("HIGH", Define::Number(high)), scaling]);
    }
    defines
}

/// What distinguishes formats that have nibbles first.
#[derive(Debug, Clone, Copy)]
struct Packed {
    /// Bits of a weight above its nibble.
    high: u32,
    /// How weights are scaled.
    scaling: &'static str,
    /// float32 numbers for 256 weights.
    floats: u32,
}

impl Packed {
    fn of(format: WeightFormat) -> Option<Self> {
        let (high, scaling, floats) = match format {
            WeightFormat::Q4_1 => (0, "pair", 0),
            WeightFormat::Q5_0 => (1, "half", 0),
            WeightFormat::Q5_1 => (1, "pair", 0),
            WeightFormat::Q4K => (0, "bytes", 2),
            WeightFormat::Q5K => (1, "bytes", 2),
            WeightFormat::Q6K => (2, "signed", 1),
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 | WeightFormat::Q8 | WeightFormat::Q4 => {
                return None;
            }
        };
        Some(Self { high, scaling, floats })
    }
}

/// The same for kernels that read weights in the order of fragments, or put them there.
fn fragment_defines(format: WeightFormat) -> Vec<(&'static str, Define)> {
    let mut defines = weight_defines(format);
    let packed = Packed::of(format);
    if packed.is_none() {
        defines.push(("HIGH", Define::Number(0)));
    }
    defines.push(("FLOATS", Define::Number(packed.map_or(0, |p| p.floats))));
    defines
}

/// The flags that are on.
pub(crate) fn flags<const N: usize>(all: [(&'static str, bool); N]) -> impl Iterator<Item = (&'static str, Define)> {
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, Define::Flag))
}

/// Formats that every kernel with weights is specialised for.
pub const WEIGHT_FORMATS: [WeightFormat; 11] = WeightFormat::ALL;

/// Every activation.
pub const ACTIVATIONS: [Activation; 3] = [Activation::Silu, Activation::GeluTanh, Activation::Gelu];

/// What linear layers are fused with.
#[must_use]
pub fn fused() -> Vec<Fused> {
    let activated = ACTIVATIONS.into_iter().flat_map(|a| [End::Gated(a), End::Plain(a)]);
    let ends: Vec<_> = [End::Write, End::Add].into_iter().chain(activated).collect();
    let variants = [(false, false), (false, true), (true, false), (true, true)];
    let all = variants.into_iter().flat_map(|(norm, bias)| ends.iter().map(move |end| Fused { norm, bias, end: *end }));
    // What is added to the residual stream is a product of something else.
    all.filter(|fused| !(fused.norm && fused.end == End::Add)).collect()
}

/// Into how many splits matrix units cut a product that the next kernel sums.
pub const SPLITS: [u32; 4] = [1, 2, 4, 8];

/// Every specialisation that this build can ask for, for the tests that compile them all.
#[must_use]
pub fn all_specs() -> Vec<KernelSpec> {
    let mut specs = vec![fragment_probe::spec(), select_reduce::spec(), select_strips::spec()];
    for half in [false, true] {
        for (splits, activation) in SPLITS.into_iter().flat_map(|s| ACTIVATIONS.map(|a| (s, a))) {
            let kinds = [(false, false), (true, false), (true, true)];
            specs.extend(kinds.map(|(gated, interleaved)| {
                activation::spec(activation::Variant { activation, gated, splits, half, interleaved })
            }));
        }
        for splits in [0].into_iter().chain(SPLITS) {
            let kinds = [NormKind::Rms, NormKind::Layer].into_iter().flat_map(|kind| [(kind, false), (kind, true)]);
            let variants: Vec<_> = kinds
                .flat_map(|(kind, after)| {
                    [false, true].map(|gather| norm::Variant { kind, gather, splits, after, half })
                })
                .filter(|v| if v.after { [1, 8].contains(&v.splits) } else { v.kind == NormKind::Rms || v.splits < 2 })
                .collect();
            for lanes in [norm::Lanes::portable, norm::Lanes::subgroups] {
                let lanes = [60, 512, 4096].map(lanes);
                specs.extend(variants.iter().flat_map(|v| lanes.map(|lanes| norm::spec(lanes, *v))));
            }
        }
        for rows in [1, 100, 1000] {
            for window in [false, true] {
                specs.extend([64, 128].map(|head_dim| attention_matrix::spec(head_dim, rows, window, half)));
            }
        }
    }
    // Every end for one width; for the others those that differ most.
    let fused_with = |cols| {
        let gated = Fused { norm: true, bias: true, end: End::Gated(Activation::Gelu) };
        if cols == 512 { fused() } else { vec![Fused::PRODUCT, gated] }
    };
    for format in WEIGHT_FORMATS {
        specs.extend([embed::Table::Tokens, embed::Table::Positions].map(|table| embed::spec(format, table)));
        // Every tile and unrolling that rows and widths lead to.
        for (rows, out, cols) in [1, 2, 4, 8, 17, 33, 65, 4096]
            .into_iter()
            .flat_map(|rows| [(rows, 64, 512), (rows, 8192, 1024), (rows, 100_000, 4096)])
        {
            if rows <= gemv::Few::MOST_ROWS {
                let few = gemv::Few::choose(format, rows, out, cols);
                specs.extend([false, true].map(|bias| head_select::spec(format, Portable::Few(few).for_head(), bias)));
                specs.extend(fused_with(cols).into_iter().map(|fused| gemv::spec(format, few, fused)));
            }
            for tile in [false, true].map(|software| gemm::Tile::choose(software, rows, out)) {
                specs.extend(
                    [false, true].map(|bias| head_select::spec(format, Portable::Tiled(tile).for_head(), bias)),
                );
                specs.extend(fused_with(cols).into_iter().map(|fused| gemm::spec(format, tile, fused)));
            }
        }
        for (rows, out) in
            [1, 17, 33, 65, 257, 1024, 1056].into_iter().flat_map(|rows| [(rows, 384), (rows, 4096), (rows, 24_576)])
        {
            let shape = linear::Shape { rows, cols: 4096, out };
            let tiles = [Order::Fragments, Order::Paired].map(|order| MatrixTile::candidates(format, shape, order));
            for tile in tiles.into_iter().flatten().flat_map(|tile| [tile, tile.smallest()]) {
                let mut push = |end, bias| specs.push(gemm_matrix::spec(format, tile, end, 0, bias));
                push(MatrixEnd::Sums, false);
                push(MatrixEnd::Sums, true);
                if tile.splits == 1 {
                    [false, true].into_iter().for_each(|bias| push(MatrixEnd::Add, bias));
                    push(MatrixEnd::Plain(Activation::GeluTanh), true);
                }
                if tile.fuses_gated() {
                    push(MatrixEnd::Gated(Activation::Silu), false);
                    push(MatrixEnd::Gated(Activation::GeluTanh), true);
                }
            }
        }
        let rotary = [64, 128]
            .into_iter()
            .flat_map(|head_dim| [false, true].map(|head_norm| MatrixEnd::Rotary { head_dim, head_norm }));
        let activated = ACTIVATIONS.into_iter().flat_map(|a| [MatrixEnd::Gated(a), MatrixEnd::Plain(a)]);
        for end in activated.chain([MatrixEnd::Residual]).chain(rotary) {
            for (rows, cols) in [(1, 128), (1, 4096), (17, 128), (17, 4096)] {
                let tiles = MatrixTile::candidates_few(format, linear::Shape { rows, cols, out: 4096 }, end);
                let squares: &[u32] = if end == MatrixEnd::Residual { &[0] } else { &[0, 64] };
                let spec = |tile| squares.iter().map(move |s| gemm_matrix::spec(format, tile, end, *s, cols == 128));
                specs.extend(tiles.into_iter().flat_map(spec));
            }
        }
        if gemm_matrix::fits(format, 128, 128) {
            for order in [Order::Fragments, Order::Paired] {
                specs.extend([false, true].map(|to_rows| reorder::spec(format, order, to_rows)));
            }
        }
    }
    for head_dim in [8, 10, 12, 16, 24, 64, 80, 128, 256] {
        specs.extend([false, true].map(|software| attention::spec(software, head_dim)));
        let kinds = [(false, false), (true, false), (true, true)];
        specs.extend(kinds.map(|(store, out)| attention_row::spec(head_dim, attention_row::Halves { store, out })));
        let kinds = [(false, false), (true, false), (false, true)];
        for (rotated, head_norm) in [(head_dim, false), (head_dim, true), (head_dim / 4 * 2, false), (0, false)] {
            let variants = kinds.into_iter().flat_map(|(interleaved, half_kv)| {
                SPLITS.map(|splits| rotary::Variant { head_dim, rotated, interleaved, head_norm, splits, half_kv })
            });
            specs.extend(variants.map(rotary::spec));
        }
    }
    let mut seen = std::collections::HashSet::new();
    specs.retain(|spec| seen.insert(spec.clone()));
    specs
}
