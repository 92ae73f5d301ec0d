//! What a pass consists of, chosen before anything is recorded: its dispatches as plain data, computed from what
//! the adapter offers, the model's shapes, the sizes of the pass, what was tuned and what was refused. Recording
//! ([`crate::record`]) reads it and only dispatches.

mod attention;
mod few;
mod head;
mod layer;
pub mod outline;
mod product;
pub mod sizes;
mod step;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use remask_core::checkpoint::WeightFormat;
use remask_core::tensors::Role;
use remask_core::{Architecture, BackendError};

pub use self::attention::tile_rows;
pub use self::outline::{MatrixOutline, ModelOutline, PartOutline};
pub use self::product::Product;
pub use self::sizes::{Over, PassSizes};
pub use self::step::{Before, Pending, Slot, Splits, Step};
use crate::kernels::embed::{self, Table};
use crate::kernels::gemm_matrix::MatrixTile;
use crate::kernels::linear::{Arithmetic, Shape, Strategy};
use crate::kernels::padded;
use crate::profile::AdapterProfile;
use crate::tuning::Tuning;
use crate::wgsl::KernelSpec;

/// What a plan follows from.
#[derive(Debug, Clone, Copy)]
pub struct Planner<'a> {
    /// What the adapter offers.
    pub profile: &'a AdapterProfile,
    /// What was measured to be fastest on it.
    pub tuning: &'a Tuning,
    /// Kernels that are not used on it, and why.
    pub refused: &'a HashMap<KernelSpec, String>,
    /// Shapes.
    pub architecture: &'a Architecture,
    /// Shapes, formats and orders of the weights.
    pub weights: &'a ModelOutline,
    /// Kind of arithmetic.
    pub arithmetic: Arithmetic,
    /// The order of sums follows from the matrix alone, on matrix units too, whatever rows a pass has.
    pub batch_invariant: bool,
    /// Sizes that the dispatches are large enough for.
    pub sizes: PassSizes,
    /// Elements that a chunk of the head's logits may have.
    pub chunk: u64,
}

impl Planner<'_> {
    /// The dispatches of the pass, in order.
    ///
    /// # Errors
    /// [`BackendError::Weights`] where the model has no matrix for one of its roles.
    pub fn pass(&self) -> Result<Vec<Step>, BackendError> {
        let mut steps = self.embedding()?;
        let pending = match self.few()? {
            Some(layers) => {
                steps.extend(layers);
                None
            }
            None => self.layers(&mut steps)?,
        };
        self.head(&mut steps, pending)?;
        Ok(steps)
    }

    /// The embeddings of the rows' tokens, and of their positions where these are learned.
    fn embedding(&self) -> Result<Vec<Step>, BackendError> {
        let a = self.architecture;
        let tables = [(Role::Embedding, Table::Tokens, a.embedding_scale)].into_iter();
        let tables = tables.chain(a.learned_positions.map(|_| (Role::Positions, Table::Positions, 1.0)));
        let mut steps = Vec::new();
        for (role, table, scale) in tables {
            for (i, part) in self.weights.get(role)?.parts.iter().enumerate() {
                let params = embed::Params { cols4: self.width() / 4, first: part.first, part_rows: part.rows, scale };
                let slots = vec![Slot::Matrix(role, i), Slot::Rows, Slot::Hidden];
                steps.push(Step::new(embed::spec(part.format, table), slots, &params, embed::grid(self.sizes.rows)));
            }
        }
        Ok(steps)
    }

    /// Columns of the residual stream, with what fills them up.
    fn width(&self) -> u32 {
        padded(self.architecture.hidden as u32)
    }

    /// The kernel for a linear layer over so many rows, with weights of `format`.
    fn strategy(&self, matrix: &MatrixOutline, format: WeightFormat, rows: u32) -> Strategy {
        let shape = Shape { rows, cols: matrix.cols, out: matrix.rows };
        if let Some(tile) = MatrixTile::choose_in(matrix.order, format, shape).filter(|_| self.batch_invariant) {
            return Strategy::Matrix(tile.in_one_order(matrix.order));
        }
        let tuned = self.tuning.kernel(format, shape);
        Strategy::choose_usable(self.profile, matrix.order, format, shape, tuned, |spec| self.usable(spec))
    }

    /// Whether a kernel was not refused so far.
    fn usable(&self, spec: &KernelSpec) -> bool {
        !self.refused.contains_key(spec)
    }
}
