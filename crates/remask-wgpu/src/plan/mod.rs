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
pub use self::step::{Slot, Splits, Step};
use crate::kernels::embed;
use crate::kernels::linear::{Arithmetic, Shape, Strategy};
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

    fn embedding(&self) -> Result<Vec<Step>, BackendError> {
        let (a, role) = (self.architecture, Role::Embedding);
        let parts = self.weights.get(role)?.parts.iter().enumerate();
        let step = |(i, part): (usize, &PartOutline)| {
            let params = embed::Params {
                cols4: a.hidden as u32 / 4,
                first: part.first,
                part_rows: part.rows,
                scale: a.embedding_scale,
            };
            let slots = vec![Slot::Matrix(role, i), Slot::Rows, Slot::Hidden];
            Step::new(embed::spec(part.format), slots, &params, embed::grid(self.sizes.rows))
        };
        Ok(parts.map(step).collect())
    }

    /// The kernel for a linear layer over so many rows, with weights of `format`.
    fn strategy(&self, matrix: &MatrixOutline, format: WeightFormat, rows: u32) -> Strategy {
        let shape = Shape { rows, cols: matrix.cols, out: matrix.rows };
        let tuned = self.tuning.kernel(format, shape);
        Strategy::choose_usable(self.profile, matrix.order, format, shape, tuned, |spec| self.usable(spec))
    }

    /// Whether a kernel was not refused so far.
    fn usable(&self, spec: &KernelSpec) -> bool {
        !self.refused.contains_key(spec)
    }
}
