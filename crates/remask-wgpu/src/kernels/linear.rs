//! Which kernel computes a linear layer, as a pure function of the adapter and the shape.

use remask_core::Architecture;
use remask_core::architecture::BlockSpec;
use remask_core::checkpoint::WeightFormat;
use serde::{Deserialize, Serialize};

use super::gemm::{self, Fused, Tile};
use super::gemm_matrix::{self, MatrixEnd, MatrixTile};
use super::gemv::{self, Few};
use super::{attention_matrix, fused, head_select};
use crate::order::Order;
use crate::profile::AdapterProfile;
use crate::wgsl::KernelSpec;

/// A kernel for a product `[rows, cols] x [out, cols]^T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Strategy {
    /// float32 activations, and nothing that WebGPU does not always have.
    Portable(Portable),
    /// Matrix units: f16 activations in, splits to be summed out.
    Matrix(MatrixTile),
}

/// A kernel that every device can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Portable {
    /// Each weight is read once; what counts is the rate at which memory gives them.
    Few(Few),
    /// Tiles of rows and columns; what counts is arithmetic.
    Tiled(Tile),
}

/// The arithmetic of a model's linear layers and attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// float32 throughout.
    Full,
    /// f16 factors and float32 sums on matrix units; keys and values are stored in f16.
    Half,
}

/// Narrower models are computed in float32 even where there are matrix units: their passes take as long
/// as their dispatches do.
const MATRIX_HIDDEN: usize = 1024;

impl Arithmetic {
    /// The arithmetic for a model whose matrices are kept in `formats`. Matrix units take over where the
    /// weights are f16 or quantised, and every matrix of a layer has a shape that they can compute; f32
    /// and bf16 weights ask for more than f16 holds.
    #[must_use]
    pub fn choose(profile: &AdapterProfile, a: &Architecture, formats: &[WeightFormat]) -> Self {
        let fits = |format: &WeightFormat, cols: usize, out: usize| gemm_matrix::fits(*format, cols as u32, out as u32);
        let block_fits = |b: &BlockSpec| {
            let (at, ff) = (&b.attention, &b.feed_forward);
            let layers = [
                (a.hidden, at.qkv_width()),
                (at.q_width(), a.hidden),
                (a.hidden, ff.up_width()),
                (ff.hidden, a.hidden),
            ];
            attention_matrix::fits(at.head_dim as u32)
                && layers.iter().all(|(cols, out)| formats.iter().all(|f| fits(f, *cols, *out)))
        };
        let half = MatrixTile::supported(profile) && a.hidden >= MATRIX_HIDDEN && a.distinct_blocks().all(block_fits);
        if half { Self::Half } else { Self::Full }
    }

    /// Rows that buffers need for a pass of `rows` rows: matrix units compute whole tiles.
    #[must_use]
    pub fn room(self, rows: u32) -> u32 {
        match self {
            Self::Full => rows,
            Self::Half => rows.next_multiple_of(128) + gemm_matrix::MOST_ROWS,
        }
    }

    /// Whether matrix units would take over if bf16 matrices were kept as f16, which for almost every
    /// model loses nothing (see [`HalfLoss`](remask_core::checkpoint::HalfLoss)). `stored` are the formats
    /// of the layers' matrices.
    #[must_use]
    pub fn wants_f16(profile: &AdapterProfile, a: &Architecture, stored: &[WeightFormat]) -> bool {
        let narrowed = |f: &WeightFormat| if *f == WeightFormat::Bf16 { WeightFormat::F16 } else { *f };
        let narrowed: Vec<_> = stored.iter().map(narrowed).collect();
        narrowed != stored && Self::choose(profile, a, &narrowed) == Self::Half
    }
}

/// The shape of a product `[rows, cols] x [out, cols]^T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows of x.
    pub rows: u32,
    /// Inner dimension.
    pub cols: u32,
    /// Rows of the weights.
    pub out: u32,
}

impl Strategy {
    /// The kernel for a linear layer, or for a head, with weights in `order`.
    #[must_use]
    pub fn choose(profile: &AdapterProfile, order: Order, format: WeightFormat, shape: Shape) -> Self {
        Self::choose_usable(profile, order, format, shape, None, |_| true)
    }

    /// As [`Strategy::choose`], among the kernels that the device can use, and with `tuned` in place of the
    /// usual one where it is one for such weights. Where it can use none, the first of them: using it says what is wrong.
    #[must_use]
    pub fn choose_usable(
        profile: &AdapterProfile,
        order: Order,
        format: WeightFormat,
        shape: Shape,
        tuned: Option<Self>,
        usable: impl Fn(&KernelSpec) -> bool,
    ) -> Self {
        if let Some(tile) = MatrixTile::choose_in(order, format, shape) {
            let tuned = tuned.and_then(Self::tile).filter(|t| MatrixTile::candidates(format, shape, order).contains(t));
            let mut choices = tuned.into_iter().chain([tile, tile.smallest()]).map(Self::Matrix);
            return choices.find(|c| c.specs(format).iter().all(&usable)).unwrap_or(Self::Matrix(tile));
        }
        let tiled = Self::Portable(Portable::tiled(profile, shape));
        let tuned = tuned.filter(|t| matches!(t, Self::Portable(_)));
        let usual = Self::Portable(Portable::choose(profile, format, shape));
        let mut choices = tuned.into_iter().chain([usual, tiled]);
        choices.find(|c| c.specs(format).iter().all(&usable)).unwrap_or(tiled)
    }

    /// Every kernel that a layer or a head may be computed with.
    fn specs(self, format: WeightFormat) -> Vec<KernelSpec> {
        match self {
            Self::Matrix(tile) => vec![gemm_matrix::spec(format, tile, MatrixEnd::Sums, 0, false)],
            Self::Portable(portable) => {
                let head = head_select::spec(format, portable.for_head(), false);
                fused().into_iter().map(|fused| portable.spec(format, fused)).chain([head]).collect()
            }
        }
    }

    /// The tile of a kernel for matrix units.
    #[must_use]
    pub fn tile(self) -> Option<MatrixTile> {
        if let Self::Matrix(tile) = self { Some(tile) } else { None }
    }

    /// Whether the kernel takes f16 activations.
    #[must_use]
    pub fn is_half(self) -> bool {
        matches!(self, Self::Matrix(_))
    }
}

impl Portable {
    /// The kernel for a linear layer.
    #[must_use]
    pub fn choose(profile: &AdapterProfile, format: WeightFormat, shape: Shape) -> Self {
        let Shape { rows, cols, out } = shape;
        // Software adapters run the tiled kernel of one row as fast, and compile fewer kernels.
        if !profile.is_software() && rows <= Few::MOST_ROWS {
            return Self::Few(Few::choose(format, rows, out, cols));
        }
        Self::tiled(profile, shape)
    }

    /// Every kernel that may be the fastest for a layer: those that are chosen for some shape, which the case
    /// tables test, and that are not plainly too large or too small for this one.
    #[must_use]
    pub fn candidates(profile: &AdapterProfile, format: WeightFormat, shape: Shape) -> Vec<Self> {
        let rows = shape.rows;
        let mut found = vec![Self::choose(profile, format, shape)];
        let widths = [(64, 512), (8192, 1024), (100_000, 4096)];
        if rows <= Few::MOST_ROWS && !profile.is_software() {
            found.extend(widths.map(|(out, cols)| Self::Few(Few::choose(format, rows, out, cols))));
        }
        for rows_of_tile in [1, 2, 4, 8, 17, 33, 65, 4096] {
            let tiles = widths.map(|(out, _)| Tile::choose(profile.is_software(), rows_of_tile, out));
            let fits = |t: &Tile| t.rows() < 2 * rows.max(16) && t.rows() * 16 >= rows;
            found.extend(tiles.into_iter().filter(fits).map(Self::Tiled));
        }
        let mut seen = std::collections::HashSet::new();
        found.retain(|kernel| seen.insert(*kernel));
        found
    }

    fn tiled(profile: &AdapterProfile, shape: Shape) -> Self {
        Self::Tiled(Tile::choose(profile.is_software(), shape.rows, shape.out))
    }

    /// The same kernel as a head that is fused with selection needs it: with as many columns a tile
    /// whatever the rows.
    #[must_use]
    pub fn for_head(self) -> Self {
        match self {
            Self::Tiled(tile) => Self::Tiled(Tile { tn: gemm::HEAD_TILE_N / tile.lanes_n, ..tile }),
            Self::Few(few) => Self::Few(Few { columns: if few.rows == 8 { 2 } else { 4 }, ..few }),
        }
    }

    /// Whether a gated activation is computed by this kernel too, rather than by a dispatch of its own. It takes both
    /// halves one after the other: for tiles on a GPU that is half as many workgroups, each twice as long.
    #[must_use]
    pub fn fuses_gated(self, profile: &AdapterProfile) -> bool {
        profile.is_software() || matches!(self, Self::Few(_))
    }

    /// The kernel of a linear layer with weights of `format`.
    #[must_use]
    pub fn spec(self, format: WeightFormat, fused: Fused) -> KernelSpec {
        match self {
            Self::Few(few) => gemv::spec(format, few, fused),
            Self::Tiled(tile) => gemm::spec(format, tile, fused),
        }
    }

    /// Workgroups for `rows` rows of x and `columns` columns of the result.
    #[must_use]
    pub fn grid(self, rows: u32, columns: u32) -> [u32; 3] {
        match self {
            Self::Few(few) => gemv::grid(few, columns),
            Self::Tiled(tile) => gemm::grid(tile, rows, columns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of the kernel that a device picks.
    fn picked(profile: &AdapterProfile, order: Order, format: WeightFormat, shape: [u32; 3]) -> String {
        let [rows, cols, out] = shape;
        match Strategy::choose(profile, order, format, Shape { rows, cols, out }) {
            Strategy::Portable(Portable::Few(few)) => format!("few {}x{}", few.rows, few.columns),
            Strategy::Portable(Portable::Tiled(t)) => format!("tiled {}x{}", t.rows(), t.columns()),
            Strategy::Matrix(t) => format!("matrix {}x{} in {}", t.m, t.n, t.splits),
        }
    }

    #[test]
    fn a_kernel_that_cannot_be_used_is_stood_in_for() {
        let matrix = AdapterProfile::made_up("DiscreteGpu", true);
        let shape = |rows| Shape { rows, cols: 4096, out: 4096 };
        let picked = |rows, refused: &[&str]| {
            let usable = |spec: &KernelSpec| !refused.contains(&spec.shader);
            Strategy::choose_usable(&matrix, Order::Rows, WeightFormat::F16, shape(rows), None, usable)
        };
        assert!(matches!(picked(8, &[]), Strategy::Portable(Portable::Few(_))));
        assert!(matches!(picked(8, &["gemv"]), Strategy::Portable(Portable::Tiled(_))));
        assert!(matches!(picked(8, &["gemv", "gemm"]), Strategy::Portable(Portable::Tiled(_))));
        assert!(matches!(picked(64, &["gemv"]), Strategy::Portable(Portable::Tiled(_))));

        // Nothing portable reads fragments: the smallest tile stands in, or the choice itself says what is wrong.
        let Strategy::Matrix(chosen) = Strategy::choose(&matrix, Order::Fragments, WeightFormat::F16, shape(64)) else {
            panic!("fragments are for matrix units");
        };
        let without = |refused: &[MatrixTile]| {
            let refused: Vec<_> =
                refused.iter().map(|t| gemm_matrix::spec(WeightFormat::F16, *t, MatrixEnd::Sums, 0, false)).collect();
            let usable = |spec: &KernelSpec| !refused.contains(spec);
            Strategy::choose_usable(&matrix, Order::Fragments, WeightFormat::F16, shape(64), None, usable)
        };
        assert_eq!(without(&[]), Strategy::Matrix(chosen));
        assert_eq!(without(&[chosen]), Strategy::Matrix(chosen.smallest()));
        assert_eq!(without(&[chosen, chosen.smallest()]), Strategy::Matrix(chosen));
    }

    #[test]
    fn kernels_follow_adapter_and_shape() {
        use Order::{Fragments, Paired, Rows};
        use WeightFormat::{Bf16, F16, Q4, Q8};
        let profile = AdapterProfile::made_up;
        let (plain, matrix, software) =
            (profile("DiscreteGpu", false), profile("DiscreteGpu", true), profile("Cpu", false));
        let table = [
            (&plain, Rows, F16, [1, 4096, 12288], "few 1x2"),
            (&plain, Rows, Q8, [8, 4096, 24576], "few 8x2"),
            (&plain, Rows, Bf16, [3, 512, 512], "few 4x1"),
            (&plain, Rows, F16, [1, 24, 12288], "few 1x2"),
            (&plain, Rows, F16, [9, 4096, 12288], "tiled 16x64"),
            (&plain, Rows, Bf16, [150, 512, 512], "tiled 32x32"),
            (&plain, Rows, F16, [1024, 4096, 12288], "tiled 64x64"),
            (&software, Rows, F16, [1, 4096, 12288], "tiled 2x64"),
            (&software, Rows, F16, [150, 4096, 12288], "tiled 32x64"),
            (&matrix, Fragments, F16, [1, 4096, 12288], "matrix 16x64 in 4"),
            (&matrix, Paired, F16, [5, 4096, 24576], "matrix 16x64 in 2"),
            (&matrix, Fragments, F16, [32, 4096, 4096], "matrix 32x64 in 8"),
            (&matrix, Paired, F16, [32, 4096, 24576], "matrix 32x64 in 1"),
            (&matrix, Fragments, Q8, [64, 12288, 4096], "matrix 64x128 in 8"),
            (&matrix, Paired, F16, [64, 4096, 24576], "matrix 64x128 in 1"),
            (&matrix, Paired, Q4, [64, 4096, 24576], "matrix 32x128 in 1"),
            (&matrix, Paired, F16, [128, 4096, 24576], "matrix 64x128 in 1"),
            (&matrix, Fragments, F16, [128, 4096, 24576], "matrix 64x128 in 2"),
            (&matrix, Fragments, F16, [256, 4096, 12288], "matrix 64x128 in 2"),
            (&matrix, Fragments, F16, [128, 4096, 4096], "matrix 64x128 in 4"),
            (&matrix, Fragments, F16, [512, 4096, 12288], "matrix 64x128 in 1"),
            (&matrix, Fragments, F16, [1024, 4096, 12288], "matrix 96x128 in 1"),
            (&matrix, Fragments, F16, [1024, 4096, 4096], "matrix 64x128 in 1"),
            (&matrix, Paired, Q4, [1024, 4096, 24576], "matrix 128x256 in 1"),
            (&matrix, Fragments, Q4, [1024, 4096, 384], "matrix 80x128 in 1"),
            (&matrix, Paired, Q8, [1056, 4096, 24576], "matrix 96x128 in 1"),
            (&matrix, Fragments, Q8, [1056, 4096, 4096], "matrix 80x128 in 1"),
            (&matrix, Fragments, F16, [1056, 4096, 4096], "matrix 80x128 in 1"),
            (&matrix, Fragments, Q8, [400, 4096, 4096], "matrix 128x128 in 1"),
            (&matrix, Fragments, F16, [64, 4096, 12288], "matrix 64x128 in 2"),
            (&matrix, Fragments, F16, [64, 12288, 4096], "matrix 64x128 in 4"),
            (&matrix, Rows, F16, [32, 4096, 4096], "tiled 32x64"),
            (&matrix, Rows, Bf16, [32, 4096, 4096], "tiled 32x64"),
            (&matrix, Rows, F16, [32, 4000, 4096], "tiled 32x64"),
        ];
        for (profile, order, format, shape, expected) in table {
            assert_eq!(picked(profile, order, format, shape), expected, "{order:?} {format} {shape:?}");
        }
    }
}
