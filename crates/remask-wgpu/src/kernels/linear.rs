//! Which kernel computes a linear layer, as a pure function of the adapter and the shape.

use remask_core::checkpoint::WeightFormat;

use super::gemm::{self, Tile};
use super::gemv::{self, Few};
use crate::profile::AdapterProfile;
use crate::wgsl::KernelSpec;

/// A kernel for a product `[rows, cols] x [out, cols]^T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Each weight is read once; what counts is the rate at which memory gives them.
    Few(Few),
    /// Tiles of rows and columns; what counts is arithmetic.
    Tiled(Tile),
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
    /// The kernel for a linear layer.
    #[must_use]
    pub fn choose(profile: &AdapterProfile, format: WeightFormat, shape: Shape) -> Self {
        let Shape { rows, cols, out } = shape;
        // Software adapters run the tiled kernel of one row as fast, and compile fewer kernels.
        if !profile.is_software() && rows <= Few::MOST_ROWS && cols.is_multiple_of(8) {
            return Self::Few(Few::choose(format, rows, out, cols));
        }
        Self::Tiled(Tile::choose(profile.is_software(), rows, out))
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

    /// The kernel of a linear layer with weights of `format`.
    #[must_use]
    pub fn spec(self, format: WeightFormat, residual: bool) -> KernelSpec {
        match self {
            Self::Few(few) => gemv::spec(format, few, residual),
            Self::Tiled(tile) => gemm::spec(format, tile, residual),
        }
    }

    /// Workgroups for `rows` rows of x and `part_rows` rows of the weights.
    #[must_use]
    pub fn grid(self, rows: u32, part_rows: u32) -> [u32; 3] {
        match self {
            Self::Few(few) => gemv::grid(few, part_rows),
            Self::Tiled(tile) => gemm::grid(tile, rows, part_rows),
        }
    }
}
