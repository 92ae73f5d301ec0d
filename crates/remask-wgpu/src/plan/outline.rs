//! A model's weights as planning sees them: shapes, formats and orders, without a device.

use std::collections::HashMap;
use std::ops::Range;

use remask_core::checkpoint::WeightFormat;
use remask_core::tensors::{self, BlockRole, Role, TensorKind};
use remask_core::{Architecture, BackendError};

use crate::kernels::linear::Arithmetic;
use crate::kernels::{head_select, padded};
use crate::order::Order;

/// A weight matrix `[rows, cols]`, possibly of several tensors stacked by rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatrixOutline {
    /// Output features, with what fills them up.
    pub rows: u32,
    /// Input features, with what fills them up.
    pub cols: u32,
    /// Where in a part a weight lies.
    pub order: Order,
    /// Pieces by rows, in order.
    pub parts: Vec<PartOutline>,
}

/// Consecutive rows of a matrix in one buffer and one format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartOutline {
    /// First row.
    pub first: u32,
    /// Number of rows.
    pub rows: u32,
    /// Storage format.
    pub format: WeightFormat,
}

/// The matrices of a model, by role.
#[derive(Debug, Clone, Default)]
pub struct ModelOutline(HashMap<Role, MatrixOutline>);

/// Matrices of a block, in the order in which a pass uses them.
pub const BLOCK_MATRICES: [BlockRole; 4] = [BlockRole::Qkv, BlockRole::AttentionOut, BlockRole::Up, BlockRole::Down];

/// Elements of each section of a role's rows (of a vector: of itself) that is filled up with zeros to
/// [`padded`]: a row of the residual stream, or gates and ups each. None where nothing is filled up.
#[must_use]
pub fn sections(a: &Architecture, role: Role) -> Option<Vec<usize>> {
    use BlockRole as R;
    match role {
        Role::FinalNorm | Role::FinalNormBias => Some(vec![a.hidden]),
        Role::Embedding | Role::Positions | Role::Head | Role::HeadBias => None,
        Role::Block(_, R::Qkv | R::QkvBias | R::QueryNorm | R::KeyNorm) => None,
        Role::Block(set, R::Up | R::UpBias) => {
            let ff = a.distinct_blocks().nth(set)?.feed_forward;
            Some(vec![ff.hidden; if ff.gated { 2 } else { 1 }])
        }
        Role::Block(..) => Some(vec![a.hidden]),
    }
}

/// Rows (or elements) that a role of `whole` takes on the device.
#[must_use]
pub fn padded_rows(a: &Architecture, role: Role, whole: usize) -> usize {
    sections(a, role).map_or(whole, |sections| sections.iter().map(|s| padded(*s as u32) as usize).sum())
}

/// Rows of each part of a matrix: as many as one binding of `binding` bytes holds.
#[must_use]
pub fn part_ranges(binding: u64, rows: Range<usize>, cols: usize, format: WeightFormat) -> Vec<Range<usize>> {
    let most = (binding as usize / format.bytes(1, cols).max(1)).saturating_sub(1);
    // An even number of rows a part keeps f16 scales on whole words, and whole tiles suit the matrix units.
    let most = if most < 128 { most & !1 } else { most & !127 };
    let starts = rows.clone().step_by(most.max(2));
    starts.map(|start| start..rows.end.min(start + most.max(2))).collect()
}

impl MatrixOutline {
    /// A matrix of one format in rows, in parts that fit a binding of `binding` bytes.
    #[must_use]
    pub fn of(binding: u64, rows: usize, cols: usize, format: WeightFormat) -> Self {
        let part = |r: Range<usize>| PartOutline { first: r.start as u32, rows: r.len() as u32, format };
        let parts = part_ranges(binding, 0..rows, cols, format).into_iter().map(part).collect();
        Self { rows: rows as u32, cols: cols as u32, order: Order::Rows, parts }
    }

    /// The format of its first part, which is that of all where tensors that are stacked agree.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        self.parts.first().map_or(WeightFormat::F32, |p| p.format)
    }

    /// The one part of a matrix that is whole.
    #[must_use]
    pub fn whole(&self) -> Option<&PartOutline> {
        if let [part] = &self.parts[..] { Some(part) } else { None }
    }
}

impl ModelOutline {
    /// A model of `a`'s shape whose matrices are all in `format`.
    #[must_use]
    pub fn uniform(binding: u64, a: &Architecture, format: WeightFormat) -> Self {
        let matrices = tensors::canonical(a).into_iter().filter(|spec| spec.kind == TensorKind::Matrix);
        let outline = |role, rows, cols: usize| {
            (role, MatrixOutline::of(binding, padded_rows(a, role, rows), padded(cols as u32) as usize, format))
        };
        Self(matrices.map(|spec| outline(spec.role, spec.rows, spec.cols)).collect())
    }

    /// Adds a matrix.
    pub fn insert(&mut self, role: Role, matrix: MatrixOutline) {
        self.0.insert(role, matrix);
    }

    /// The matrix of a role; the head of a model that has none of its own is its embedding.
    ///
    /// # Errors
    /// [`BackendError::Weights`] where there is none.
    pub fn get(&self, role: Role) -> Result<&MatrixOutline, BackendError> {
        let missing = || BackendError::Weights(format!("the model has no matrix for {role:?}"));
        self.0.get(&self.named(role)).ok_or_else(missing)
    }

    /// Partial selections that the head makes for a row, at most.
    ///
    /// # Errors
    /// As [`ModelOutline::get`].
    pub fn strips(&self, arithmetic: Arithmetic) -> Result<u32, BackendError> {
        let of_part = |part: &PartOutline| match arithmetic {
            Arithmetic::Full => head_select::strips(part.rows),
            // On matrix units a part is cut where its logits find no more room, too.
            Arithmetic::Half => head_select::MOST_STRIPS,
        };
        Ok(self.get(Role::Head)?.parts.iter().map(of_part).sum())
    }

    /// The role whose matrix serves for `role`.
    #[must_use]
    pub fn named(&self, role: Role) -> Role {
        if role == Role::Head && !self.0.contains_key(&role) { Role::Embedding } else { role }
    }
}
