//! Linear layers; see `shaders/gemm.wgsl`.

use remask_core::architecture::Activation;
use remask_core::checkpoint::WeightFormat;
use serde::{Deserialize, Serialize};

use super::{activation, flags, weight_defines};
use crate::wgsl::{Define, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Inner dimension / 4.
    pub cols4: u32,
    /// Rows of the weights' part.
    pub part_rows: u32,
    /// Output column of the part's first row.
    pub first: u32,
    /// Columns of the output.
    pub out_stride: u32,
    /// Which rows x has, as `rows_over` of `shaders/pass.wgsl` numbers them.
    pub over: u32,
    /// Added to the mean square where rows are normalised.
    pub eps: f32,
    /// Columns that the mean square is taken over: without the zeros that fill rows up.
    pub cols: u32,
    /// Zero.
    pub padding: u32,
}

/// What a linear layer computes beside its product, where a dispatch of its own would cost more. Buffers: weights, x, out;
/// then the gain of the norm and the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fused {
    /// The rows of x are normalised first (RMSNorm).
    pub norm: bool,
    /// A bias is added to the product.
    pub bias: bool,
    /// What becomes of it then.
    pub end: End,
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// It is the result.
    Write,
    /// It is added to the result.
    Add,
    /// Its first half, through the activation, times its second is the result.
    Gated(Activation),
    /// The result is what the activation makes of it.
    Plain(Activation),
}

impl End {
    /// The end of a feed-forward part's first product.
    #[must_use]
    pub fn of_feed_forward(gated: bool, activation: Activation) -> Self {
        if gated { Self::Gated(activation) } else { Self::Plain(activation) }
    }
}

impl Fused {
    /// The product alone.
    pub const PRODUCT: Self = Self { norm: false, bias: false, end: End::Write };

    /// The values that the shaders ask for.
    pub fn defines(self) -> impl Iterator<Item = (&'static str, Define)> {
        let Self { norm, bias, end } = self;
        let activation = match end {
            End::Gated(activation) | End::Plain(activation) => Some(activation),
            End::Write | End::Add => None,
        };
        let on = [
            ("NORM", norm),
            ("BIAS", bias),
            ("ADD", end == End::Add),
            ("GATED", matches!(end, End::Gated(_))),
            ("ACTIVATES", activation.is_some()),
        ];
        flags(on).chain(activation.map(activation::define))
    }

    /// Columns of the result of a product of `part_rows` columns.
    #[must_use]
    pub fn columns(self, part_rows: u32) -> u32 {
        if matches!(self.end, End::Gated(_)) { part_rows / 2 } else { part_rows }
    }
}

/// Columns of a workgroup's tile over a head, whatever its rows: strips of the head are made of them.
pub const HEAD_TILE_N: u32 = 64;

/// How a workgroup covers its tile: `lanes_m * tm` rows by `lanes_n * tn` columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tile {
    /// Invocations along rows.
    pub lanes_m: u32,
    /// Invocations along columns.
    pub lanes_n: u32,
    /// Rows of an invocation.
    pub tm: u32,
    /// Columns of an invocation.
    pub tn: u32,
    /// Loads of the next stage are under way while one is computed: on GPUs.
    pub prefetch: bool,
}

/// Workgroups that keep a large device busy.
const ENOUGH_WORKGROUPS: u32 = 64;

impl Tile {
    /// The tile for `rows` rows of x and `out` columns: as few rows as there are, since rows past the end
    /// cost as much as rows within; smaller where large ones would leave much of the device without work.
    ///
    /// Software adapters get few invocations with much work each: they switch between invocations at
    /// every barrier, and load from shared memory one invocation at a time.
    #[must_use]
    pub fn choose(software: bool, rows: u32, out: u32) -> Self {
        let [lanes_m, lanes_n, tn, most] = if software { [2, 8, 8, 16] } else { [16, 16, 4, 4] };
        let tm = rows.div_ceil(lanes_m).next_power_of_two().min(most);
        let mut tile = Self { lanes_m, lanes_n, tm, tn, prefetch: !software };
        if !software {
            let workgroups = |t: Self| out.div_ceil(t.columns()) * rows.div_ceil(t.rows());
            if workgroups(tile) < ENOUGH_WORKGROUPS {
                tile.tn = 2;
            }
            while tile.tm > 1 && workgroups(tile) < ENOUGH_WORKGROUPS {
                tile.tm /= 2;
            }
        }
        tile
    }

    /// Whether it is one that software adapters are given. They sum products in an order of their own, so no device is
    /// given both kinds.
    #[must_use]
    pub fn for_software(self) -> bool {
        !self.prefetch
    }

    /// Rows of the tile.
    #[must_use]
    pub fn rows(self) -> u32 {
        self.lanes_m * self.tm
    }

    /// Columns of the tile.
    #[must_use]
    pub fn columns(self) -> u32 {
        self.lanes_n * self.tn
    }

    /// The values that `shaders/gemm_tile.wgsl` asks for.
    #[must_use]
    pub fn defines(self, format: WeightFormat) -> Vec<(&'static str, Define)> {
        let mut defines = weight_defines(format);
        // Stages in turn, and sums that the columns of each go to.
        let (stages, sums_each) = if self.for_software() { (1, 1) } else { (2, 2) };
        let numbers = [
            ("LANES_M", self.lanes_m),
            ("LANES_N", self.lanes_n),
            ("TM", self.tm),
            ("TN", self.tn),
            ("STAGES", stages),
            ("SUMS_EACH", sums_each),
        ];
        defines.extend(numbers.map(|(name, value)| (name, Define::Number(value))));
        defines.extend(flags([("PREFETCH", self.prefetch), ("IN_TURN", self.for_software())]));
        defines
    }
}

/// The kernel for weights of `format`.
#[must_use]
pub fn spec(format: WeightFormat, tile: Tile, fused: Fused) -> KernelSpec {
    let mut defines = tile.defines(format);
    defines.extend(fused.defines());
    KernelSpec::portable("gemm", defines)
}

/// Workgroups for `rows` rows of x and `columns` columns of the result.
#[must_use]
pub fn grid(tile: Tile, rows: u32, columns: u32) -> [u32; 3] {
    [columns.div_ceil(tile.columns()), rows.div_ceil(tile.rows()), 1]
}
