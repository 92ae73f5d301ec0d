//! Linear layers on matrix units; see `shaders/gemm_matrix.wgsl`.

use remask_core::architecture::Activation;
use remask_core::checkpoint::WeightFormat;
use serde::{Deserialize, Serialize};

use super::linear::Shape;
use super::{SPLITS, activation, flags, fragment_defines};
use crate::order::Order;
use crate::profile::AdapterProfile;
use crate::wgsl::{Define, Extension, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Inner dimension / 8.
    pub cols8: u32,
    /// Rows of the weights' part.
    pub part_rows: u32,
    /// Output column of the part's first row.
    pub first: u32,
    /// Columns of the output.
    pub out_stride: u32,
    /// Added to the mean square where x, or heads, are to be normalised.
    pub eps: f32,
    /// Elements of a split's output for [`MatrixEnd::Sums`], key/value heads for [`MatrixEnd::Rotary`].
    pub extra: u32,
    /// Which rows x has, as `rows_over` of `shaders/pass.wgsl` numbers them.
    pub over: u32,
    /// Row of the part that the first workgroup begins with.
    pub first_row: u32,
}

/// The tile of a workgroup, and into how many splits the inner dimension is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MatrixTile {
    /// Rows of x.
    pub m: u32,
    /// Rows of the weights.
    pub n: u32,
    /// Columns of a stage.
    pub k: u32,
    /// Subgroups that divide the rows of the weights.
    pub warps: u32,
    /// Subgroups that divide the columns of a stage.
    pub depth: u32,
    /// Splits of the inner dimension.
    pub splits: u32,
}

/// Whether matrix units take `out` rows of `cols` weights of `format`: those of f32 and bf16 ask for more than f16
/// holds, and others come in whole tiles. Quantised weights are rounded to f16.
#[must_use]
pub fn fits(format: WeightFormat, cols: u32, out: u32) -> bool {
    let takes = format == WeightFormat::F16 || format.is_quantized();
    takes && format.fits(cols as usize) && cols.is_multiple_of(128) && out.is_multiple_of(128)
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatrixEnd {
    /// Sums of each split, in float32.
    Sums,
    /// Sums that are added to what is there, in float32; one split.
    Add,
    /// `activated(gate) * up` in f16, of weights in [`Order::Paired`].
    Gated(Activation),
    /// What the activation makes of the product, in f16; one split, or splits that meet.
    Plain(Activation),
    /// As `Add`, and of what is there then the next layer's input is made, but for what a whole row has to be known for.
    Residual,
    /// Queries in float32 and keys are rotated, keys and values stored in f16.
    Rotary {
        /// Elements of a head, all of which turn: pairs of its first and its second half.
        head_dim: u32,
        /// Heads of queries and keys are normalised first, with the same [`Params::eps`] as x.
        head_norm: bool,
    },
}

impl MatrixEnd {
    fn word(self) -> &'static str {
        match self {
            Self::Sums => "sums",
            Self::Add => "add",
            Self::Gated(_) => "gated",
            Self::Plain(_) => "plain",
            Self::Residual => "residual",
            Self::Rotary { .. } => "rotary",
        }
    }

    /// The activation that the result goes through.
    fn activation(self) -> Option<Activation> {
        match self {
            Self::Gated(activation) | Self::Plain(activation) => Some(activation),
            _ => None,
        }
    }

    /// The end of a feed-forward part's first product.
    #[must_use]
    pub fn of_feed_forward(gated: bool, activation: Activation) -> Self {
        if gated { Self::Gated(activation) } else { Self::Plain(activation) }
    }

    /// The order of weights that the end needs.
    #[must_use]
    pub fn order(self) -> Order {
        if matches!(self, Self::Gated(_)) { Order::Paired } else { Order::Fragments }
    }

    /// Columns that `rows` rows of weights make.
    #[must_use]
    pub fn columns(self, rows: u32) -> u32 {
        if matches!(self, Self::Gated(_)) { rows / 2 } else { rows }
    }
}

/// Multiprocessors of an H100. Nothing tells how many another device has: of its size it is a good number.
const MULTIPROCESSORS: u32 = 132;

/// Rows of the largest tile of f16 weights.
pub const MOST_ROWS: u32 = 96;

/// Splits times rows are never more than this where one split has fewer: buffers have room for them.
pub const SPLIT_ROWS: u32 = 512;

impl MatrixTile {
    /// Buffers that a product needs at most.
    pub const STORAGE_BUFFERS: u32 = 12;

    /// Rows of a pass whose products end with what the next layer begins with, in as few dispatches as there can be.
    /// With more rows the few workgroups that end products cost more than dispatches of their own.
    pub const FEW: u32 = 32;

    /// Whether the device's matrix units are those that these kernels are written for: f16 factors,
    /// float32 sums, 16 x 16 x 16, subgroups of 32 (NVIDIA since Turing).
    #[must_use]
    pub fn supported(profile: &AdapterProfile) -> bool {
        let shape = profile.matrix_shapes.iter().any(|s| {
            [s.m, s.n, s.k] == [16; 3] && s.input.eq_ignore_ascii_case("f16") && s.output.eq_ignore_ascii_case("f32")
        });
        let limits = &profile.limits;
        // No browser has them, and none need download what they need.
        !cfg!(target_arch = "wasm32")
            && shape
            && profile.shader_f16
            && profile.subgroups == Some((32, 32))
            && limits.workgroup_bytes >= 48 * 1024
            && limits.invocations >= 512
            && limits.storage_buffers >= Self::STORAGE_BUFFERS
    }

    /// The tile for a product, where this kernel can compute it. Found by trying on an H100: a tile of few
    /// rows holds them all and reads each weight once, one of many rows is as large as memory allows.
    #[must_use]
    pub fn choose(format: WeightFormat, shape: Shape) -> Option<Self> {
        let Shape { rows, cols, out } = shape;
        let quants = format != WeightFormat::F16;
        if !fits(format, cols, out) {
            return None;
        }
        if quants && rows > 512 {
            return Some(Self::of_many_quants(rows, out));
        }
        // The last number is that of workgroups that one multiprocessor runs at a time.
        let ([m, n, k, warps], resident) = match (rows, quants) {
            (0..=16, _) => ([16, 64, 128, 4], 6),
            (17..=32, _) => ([32, 64, 128, 4], 5),
            (_, false) => ([64, 128, 128, 4], 2),
            (33..=256, true) => ([64, 128, 64, 4], 3),
            (_, true) => ([128, 128, 64, 4], 2),
        };
        // Rows of a part come in whole tiles.
        let (n, warps) = if out.is_multiple_of(n) { (n, warps) } else { (128, 4) };
        let mut tile = Self { m, n, k, warps, depth: 1, splits: 1 };
        let workgroups = (out / n) * rows.div_ceil(m);
        let most = (SPLIT_ROWS / tile.padded(rows)).max(1);
        let mut possible = SPLITS.into_iter().filter(|s| *s <= most && (cols / s).is_multiple_of(128));
        let at_a_time = MULTIPROCESSORS * resident;
        let turns = |splits: u32| f64::from((workgroups * splits).div_ceil(at_a_time)) / f64::from(splits);
        tile.splits = match m {
            // What is read counts: enough workgroups to ask for it all the time.
            16 | 32 => {
                let enough = possible.clone().find(|s| workgroups * s * 2 > at_a_time);
                enough.or_else(|| possible.next_back())
            }
            // About as many workgroups as multiprocessors: sums of more splits take longer to write and to add up than
            // they save.
            _ if rows <= 64 && !quants => {
                possible.clone().find(|s| workgroups * s >= 128).or_else(|| possible.next_back())
            }
            // What is computed counts: no multiprocessor idles while others have a turn left.
            _ => possible.min_by(|a, b| turns(*a).total_cmp(&turns(*b))),
        }
        .unwrap_or(1);
        if rows > MOST_ROWS && !quants && tile.splits == 1 {
            // More rows at a time load less, where they leave no more multiprocessors idle at the end.
            let time = |t: &Self| (out / n * rows.div_ceil(t.m)).div_ceil(at_a_time) * t.m;
            return [MOST_ROWS, 80].map(|m| Self { m, k: 64, ..tile }).into_iter().chain([tile]).min_by_key(time);
        }
        Some(tile)
    }

    /// The tile for many rows of int8 or int4 weights: whatever leaves the fewest multiprocessors idle while others take
    /// their last turn.
    fn of_many_quants(rows: u32, out: u32) -> Self {
        // Workgroups that one multiprocessor runs at a time, and the time that an element of a tile takes, relative to the
        // largest tile.
        let tiles =
            [([128, 256, 8], 1, 1.0), ([128, 128, 4], 2, 1.02), ([96, 128, 4], 2, 1.1), ([80, 128, 4], 2, 1.17)];
        let time = |&([m, n, _], resident, each): &([u32; 3], u32, f64)| {
            let turns = (out / n * rows.div_ceil(m)).div_ceil(MULTIPROCESSORS * resident);
            f64::from(turns * resident * m * n) * each
        };
        let possible = tiles.iter().filter(|([_, n, _], ..)| out.is_multiple_of(*n));
        let [m, n, warps] =
            possible.min_by(|a, b| time(a).total_cmp(&time(b))).map_or([128, 128, 4], |(tile, ..)| *tile);
        Self { m, n, k: 64, warps, depth: 1, splits: 1 }
    }

    /// The same for weights in [`Order::Paired`]: one split where rows are not few, so
    /// that the gate is the product's end and nothing has to be written between.
    #[must_use]
    pub fn choose_paired(format: WeightFormat, shape: Shape) -> Option<Self> {
        let tile = Self::choose(format, shape)?;
        if tile.m <= 32 {
            return Some(tile);
        }
        let tile = Self { warps: tile.n / 32, splits: 1, ..tile };
        // Half the rows at a time, so that there are enough workgroups to ask for int8 and int4 all the time.
        let few = format != WeightFormat::F16 && shape.rows <= 64;
        Some(if few { Self { m: 32, k: 128, ..tile } } else { tile })
    }

    /// The tile for weights in `order`, which those in rows do not have.
    #[must_use]
    pub fn choose_in(order: Order, format: WeightFormat, shape: Shape) -> Option<Self> {
        match order {
            Order::Rows => None,
            Order::Fragments => Self::choose(format, shape),
            Order::Paired => Self::choose_paired(format, shape),
        }
    }

    /// The tile for a product of few rows (at most [`MatrixTile::FEW`]) with an end that the splits meet for. Found on an
    /// H100: as many subgroups as memory has to be asked by, two of a workgroup dividing the columns of a stage.
    #[must_use]
    pub fn choose_few(format: WeightFormat, shape: Shape, end: MatrixEnd) -> Option<Self> {
        let Shape { rows, cols, out } = shape;
        // A subgroup has both rows of weights that a gate and the rotary embedding put together.
        let (n, warps) = match end {
            MatrixEnd::Gated(_) => (128, 4),
            MatrixEnd::Rotary { head_dim, .. } => (head_dim, head_dim / 32),
            _ => (64, 4),
        };
        if rows > Self::FEW || !fits(format, cols, out) || !out.is_multiple_of(n) {
            return None;
        }
        let (m, half) = (if rows <= 16 { 16 } else { 32 }, format == WeightFormat::F16);
        let (k, depth) = match (m, end) {
            _ if !cols.is_multiple_of(256) => (128, 1),
            (16, _) | (_, MatrixEnd::Residual) => (256, 2),
            _ if !half => (128, 1),
            (_, MatrixEnd::Rotary { .. }) => (256, 2),
            _ => (128, 2),
        };
        // Memory is asked by enough groups of `warps` subgroups.
        let enough = match end {
            MatrixEnd::Residual => 380,
            MatrixEnd::Rotary { .. } if format == WeightFormat::Q8 && m == 32 => 190,
            _ if half => 190,
            _ => 380,
        };
        let mut possible = SPLITS.into_iter().filter(|s| (cols / s).is_multiple_of(k));
        let suits = |s: &u32| out / n * s * depth >= enough;
        let splits = possible.clone().find(suits).or_else(|| possible.next_back()).unwrap_or(1);
        Some(Self { m, n, k, warps, depth, splits })
    }

    /// Every tile that may be the fastest for a product whose weights are in `order`, the chosen one first.
    #[must_use]
    pub fn candidates(format: WeightFormat, shape: Shape, order: Order) -> Vec<Self> {
        let Shape { rows, cols, out } = shape;
        let Some(chosen) = Self::choose_in(order, format, shape) else { return Vec::new() };
        let shapes: &[[u32; 4]] = match format {
            WeightFormat::F16 => {
                &[[16, 64, 128, 4], [32, 64, 128, 4], [64, 128, 128, 4], [80, 128, 64, 4], [96, 128, 64, 4]]
            }
            _ => &[
                [16, 64, 128, 4],
                [32, 64, 128, 4],
                [64, 128, 64, 4],
                [80, 128, 64, 4],
                [96, 128, 64, 4],
                [128, 128, 64, 4],
                [128, 256, 64, 8],
            ],
        };
        let splits = if order == Order::Paired && rows > Self::FEW { &SPLITS[..1] } else { &SPLITS[..] };
        let tiles = shapes
            .iter()
            .flat_map(|&[m, n, k, warps]| splits.iter().map(move |s| Self { m, n, k, warps, depth: 1, splits: *s }));
        let fits = |t: &Self| {
            let rows_fit = t.m < 2 * rows.max(16) && t.m * 8 >= rows.min(256);
            let room = t.splits == 1 || t.splits * t.padded(rows) <= SPLIT_ROWS;
            rows_fit && room && out.is_multiple_of(t.n) && (cols / t.splits).is_multiple_of(128) && *t != chosen
        };
        [chosen].into_iter().chain(tiles.filter(fits)).collect()
    }

    /// The same for a product of few rows with an end that splits meet for.
    #[must_use]
    pub fn candidates_few(format: WeightFormat, shape: Shape, end: MatrixEnd) -> Vec<Self> {
        let Some(chosen) = Self::choose_few(format, shape, end) else { return Vec::new() };
        let stages = [(128, 1), (128, 2), (256, 2)];
        let tiles = stages.into_iter().flat_map(|(k, depth)| SPLITS.map(|splits| Self { k, depth, splits, ..chosen }));
        let fits = |t: &Self| (shape.cols / t.splits).is_multiple_of(t.k) && *t != chosen;
        [chosen].into_iter().chain(tiles.filter(fits)).collect()
    }

    /// The same, but for sums in the order of the columns: with it a row's bits do not depend on how many rows there are.
    /// Where `order` pairs gate and up, both are a subgroup's own for few rows too, so that the gate is the product's end
    /// for any number.
    #[must_use]
    pub fn in_one_order(self, order: Order) -> Self {
        let tile = Self { splits: 1, depth: 1, ..self };
        if order == Order::Paired && tile.m <= 32 { Self { n: 128, warps: 4, k: 128, ..tile } } else { tile }
    }

    /// The tile that needs least of a device, with the same splits.
    #[must_use]
    pub fn smallest(self) -> Self {
        Self { m: 16, n: 64, k: 128, warps: 4, depth: 1, ..self }
    }

    /// Whether the product's end can be [`MatrixEnd::Gated`]: a subgroup has both factors.
    #[must_use]
    pub fn fuses_gated(self) -> bool {
        self.splits == 1 && self.n / 16 / self.warps == 2
    }

    /// Whether the last of a tile's splits to arrive adds up the others' sums.
    #[must_use]
    pub fn splits_meet(self, end: MatrixEnd) -> bool {
        self.splits > 1 && end != MatrixEnd::Sums
    }

    /// Rows rounded up to whole tiles.
    #[must_use]
    pub fn padded(self, rows: u32) -> u32 {
        rows.next_multiple_of(self.m)
    }
}

/// The kernel for weights of `format`. Where x has not been normalised, `squares` is the number of partial sums of
/// squares that there are of each row; else 0. Where `bias`, one is added to the product before its end. Buffers: weights,
/// x and out, then those of the end (the weights of heads' norms last), then the squares, the bias, and the sums of splits
/// and their counters where splits meet.
#[must_use]
pub fn spec(format: WeightFormat, tile: MatrixTile, end: MatrixEnd, squares: u32, bias: bool) -> KernelSpec {
    let MatrixTile { m, n, k, warps, depth, splits } = tile;
    let invocations = warps * depth * 32;
    let factor_lanes = (invocations / m).min(32);
    let mut defines = fragment_defines(format);
    let per_vector = steps_in_vector(format);
    defines.push(("END", Define::Word(end.word())));
    let (meet, adds) = (tile.splits_meet(end), matches!(end, MatrixEnd::Add | MatrixEnd::Residual));
    let scaled = per_vector > 1;
    let head_norm = matches!(end, MatrixEnd::Rotary { head_norm: true, .. });
    let in_turn = !matches!(end, MatrixEnd::Gated(_) | MatrixEnd::Rotary { .. });
    defines.extend(flags([
        ("SCALED", scaled),
        ("MEET", meet),
        ("MEETS", meet || depth > 1),
        ("ADDS", adds),
        ("ACTIVATES", end.activation().is_some()),
        ("BIAS", bias),
        // Columns of the result are rows of the weights, in the same order.
        ("BIAS_IN_TURN", bias && in_turn),
        ("HEAD_NORM", head_norm),
        ("SQUARES", head_norm || end == MatrixEnd::Residual),
    ]));
    defines.extend(end.activation().map(activation::define));
    let numbers = [
        ("TILE_M", m),
        ("TILE_N", n),
        ("TILE_K", k),
        ("WARPS", warps),
        ("DEPTH", depth),
        ("SPLITS", splits),
        ("FRAGS_M", m / 16),
        ("FRAGS_N", n / 16 / warps),
        ("X_EACH", m * k / 8 / invocations),
        ("PER_VECTOR", per_vector),
        ("VECTORS", k / depth / 16 / per_vector),
        // Scales of a row of weights that an invocation needs in a stage.
        ("SCALES", k / depth / 32),
        ("NORMED", squares),
        // Invocations that add up the squares of a row, and parts that each of them takes.
        ("FACTOR_LANES", factor_lanes),
        ("PARTS_EACH", squares.div_ceil(factor_lanes)),
    ];
    defines.extend(numbers.map(|(name, value)| (name, Define::Number(value))));
    if let MatrixEnd::Rotary { head_dim, .. } = end {
        defines.push(("HEAD_DIM", Define::Number(head_dim)));
    }
    KernelSpec {
        shader: "gemm_matrix",
        defines,
        extensions: vec![Extension::F16, Extension::Subgroups, Extension::Matrix],
    }
}

/// Steps of 16 columns whose weights an invocation loads at a time.
pub(super) fn steps_in_vector(format: WeightFormat) -> u32 {
    match format {
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => 1,
        WeightFormat::Q8 => 2,
        // Those that have nibbles.
        _ => 4,
    }
}

/// Workgroups for `rows` rows of x and `out` rows of the weights.
#[must_use]
pub fn grid(tile: MatrixTile, rows: u32, out: u32) -> [u32; 3] {
    [rows.div_ceil(tile.m), out / tile.n, tile.splits]
}
