//! Linear layers: the dispatches of one product, by a kernel that was chosen for it.

use remask_core::BackendError;
use remask_core::tensors::Role;

use super::{Before, Over, PartOutline, Planner, Slot, Splits, Step};
use crate::kernels::gemm::{self, End, Fused};
use crate::kernels::gemm_matrix::{self, MatrixEnd, MatrixTile};
use crate::kernels::linear::{Portable, Strategy};

/// A linear layer over what lies in a buffer: f16 in on matrix units, f32 otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// Its weights.
    pub role: Role,
    /// Its bias, where it has one.
    pub bias: Option<Role>,
    /// Its input.
    pub x: Slot,
    /// Its result.
    pub out: Slot,
    /// Its rows.
    pub over: Over,
}

/// What a product on matrix units begins and ends with.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) end: MatrixEnd,
    /// Buffers of the end, beside its output.
    pub(super) with: Vec<Slot>,
    /// Partial sums of squares of each row of x, where x has not been normalised; else 0.
    pub(super) squares: u32,
    /// Of the norm that these are for.
    pub(super) eps: f32,
    /// Key/value heads, for [`MatrixEnd::Rotary`].
    pub(super) kv_heads: u32,
}

impl Ending {
    /// Of a product of what has been normalised, into its output alone.
    pub(super) const fn plain(end: MatrixEnd) -> Self {
        Self { end, with: Vec::new(), squares: 0, eps: 0.0, kv_heads: 0 }
    }
}

impl Planner<'_> {
    /// A linear layer into a buffer of its own.
    pub(super) fn linear(
        &self,
        steps: &mut Vec<Step>,
        product: Product,
        strategy: Strategy,
    ) -> Result<Splits, BackendError> {
        match strategy {
            Strategy::Portable(kernel) => {
                self.portable(steps, kernel, product, None, End::Write)?;
                Ok(Splits::WHOLE)
            }
            Strategy::Matrix(tile) => self.matrix(steps, tile, product, &Ending::plain(MatrixEnd::Sums)),
        }
    }

    /// A linear layer by a kernel that every device can run, over what a norm makes of x where there is one before it.
    ///
    /// # Errors
    /// As [`Planner::pass`].
    pub fn portable(
        &self,
        steps: &mut Vec<Step>,
        kernel: Portable,
        product: Product,
        before: Option<Before>,
        end: End,
    ) -> Result<(), BackendError> {
        let Product { role, bias, x, out, over } = product;
        let matrix = self.weights.get(role)?;
        let fused = Fused { norm: before.is_some(), bias: bias.is_some(), end };
        let rows = self.sizes.of(over);
        for (i, part) in matrix.parts.iter().enumerate() {
            let kernel = match self.strategy(matrix, part.format, rows) {
                Strategy::Portable(own) if part.format != matrix.format() => own,
                _ => kernel,
            };
            let params = gemm::Params {
                cols4: matrix.cols / 4,
                part_rows: part.rows,
                first: part.first,
                out_stride: fused.columns(matrix.rows),
                over: over as u32,
                eps: before.map_or(0.0, |b| b.norm.eps),
                cols: self.architecture.hidden as u32,
                padding: 0,
            };
            let vectors = before.map(|b| b.gain).into_iter().chain(bias).map(Slot::Vector);
            let slots = [self.matrix_slot(role, i), x, out].into_iter().chain(vectors).collect();
            let grid = kernel.grid(rows, fused.columns(part.rows));
            steps.push(Step::new(kernel.spec(part.format, fused), slots, &params, grid));
        }
        Ok(())
    }

    /// A linear layer on matrix units.
    pub(super) fn matrix(
        &self,
        steps: &mut Vec<Step>,
        tile: MatrixTile,
        product: Product,
        ending: &Ending,
    ) -> Result<Splits, BackendError> {
        let Product { role, bias, x, out, over } = product;
        let matrix = self.weights.get(role)?;
        let (rows, columns) = (self.sizes.of(over), ending.end.columns(matrix.rows));
        // One split has no stride, so that its parameters are the same for any number of rows.
        let stride = if tile.splits == 1 { 0 } else { tile.padded(rows) * columns };
        let splits = Splits { count: tile.splits, stride };
        let squared = (ending.squares > 0).then_some(Slot::FewSquares);
        let meeting = tile.splits_meet(ending.end).then_some([Slot::FewSums, Slot::FewArrived]);
        for (i, part) in matrix.parts.iter().enumerate() {
            let params = gemm_matrix::Params {
                cols8: matrix.cols / 8,
                part_rows: part.rows,
                first: part.first,
                out_stride: columns,
                eps: ending.eps,
                extra: match ending.end {
                    MatrixEnd::Rotary { .. } => ending.kv_heads,
                    _ => stride,
                },
                over: over as u32,
                first_row: 0,
            };
            let slots = [self.matrix_slot(role, i), x, out].into_iter().chain(ending.with.iter().copied());
            let slots =
                slots.chain(squared).chain(bias.map(Slot::Vector)).chain(meeting.into_iter().flatten()).collect();
            let spec = gemm_matrix::spec(part.format, tile, ending.end, ending.squares, bias.is_some());
            steps.push(Step::new(spec, slots, &params, gemm_matrix::grid(tile, rows, part.rows)));
        }
        Ok(splits)
    }

    /// Part `i` of the matrix that serves for `role`.
    pub(super) fn matrix_slot(&self, role: Role, i: usize) -> Slot {
        Slot::Matrix(self.weights.named(role), i)
    }

    /// Whether a product of what has been normalised may be computed on matrix units with this tile and end, whatever
    /// its parts' formats.
    pub(super) fn matrix_usable(&self, product: Product, tile: MatrixTile, end: MatrixEnd) -> bool {
        let bias = product.bias.is_some();
        let usable = |part: &PartOutline| self.usable(&gemm_matrix::spec(part.format, tile, end, 0, bias));
        self.weights.get(product.role).is_ok_and(|matrix| matrix.parts.iter().all(usable))
    }
}
