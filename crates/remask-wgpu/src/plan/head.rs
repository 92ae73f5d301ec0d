//! The last norm over the rows that are asked about, the head, and what is answered.

use remask_core::BackendError;
use remask_core::tensors::Role;

use super::layer::{norm_params, norm_slots};
use super::{Before, Over, Pending, Planner, Product, Slot, Step};
use crate::kernels::gemm_matrix::{self, MatrixEnd, MatrixTile};
use crate::kernels::linear::{Portable, Strategy};
use crate::kernels::{head_select, norm, select_reduce, select_strips};

impl Planner<'_> {
    /// Candidates and logits. A row's candidate comes by the same kernels whatever else the pass is asked for.
    pub(super) fn head(&self, steps: &mut Vec<Step>, pending: Option<Pending>) -> Result<(), BackendError> {
        if self.sizes.selected > 0 {
            let strategy = self.gather(steps, pending, Over::Selected)?;
            let strips = match strategy {
                Strategy::Portable(portable) => self.portable_head(steps, portable)?,
                Strategy::Matrix(tile) => self.matrix_head(steps, tile)?,
            };
            let params = select_reduce::Params { strips, padding: [0; 3] };
            let slots = vec![Slot::Partials, Slot::Candidates];
            steps.push(Step::new(select_reduce::spec(), slots, &params, select_reduce::grid(self.sizes.selected)));
        }
        if self.sizes.logits > 0 {
            let strategy = self.gather(steps, pending, Over::Logits)?;
            let (role, bias) = (Role::Head, self.architecture.head_bias.then_some(Role::HeadBias));
            let product = Product { role, bias, x: Slot::Gathered, out: Slot::Logits, over: Over::Logits };
            self.linear(steps, product, strategy)?;
        }
        Ok(())
    }

    /// The last norm over the rows that are asked about. Returns the kernel of the head over them.
    fn gather(&self, steps: &mut Vec<Step>, pending: Option<Pending>, over: Over) -> Result<Strategy, BackendError> {
        let (a, rows, head) = (self.architecture, self.sizes.of(over), self.weights.get(Role::Head)?);
        // Logits and selections come of whole sums.
        let strategy = match self.strategy(head, head.format(), rows) {
            Strategy::Matrix(tile) => Strategy::Matrix(MatrixTile { splits: 1, ..tile }),
            portable @ Strategy::Portable(_) => portable,
        };
        let select = if over == Over::Logits { Slot::SelectLogits } else { Slot::Select };
        let before = Before { norm: a.final_norm, gain: Role::FinalNorm, bias: Role::FinalNormBias };
        let half = strategy.is_half();
        let spec =
            self.norm_spec(pending, norm::Variant { gather: true, half, ..norm::Variant::plain(before.norm.kind) });
        let slots = norm_slots(before, Slot::Gathered, Some(select), pending);
        let params = norm_params(before, pending, a.logit_scale, over);
        steps.push(Step::new(spec, slots, &params, norm::grid(rows)));
        Ok(strategy)
    }

    /// The head fused with selection. Returns the strips of partial selections.
    fn portable_head(&self, steps: &mut Vec<Step>, kernel: Portable) -> Result<u32, BackendError> {
        let (head, selected) = (self.weights.get(Role::Head)?, self.sizes.selected);
        let (kernel, bias) = (kernel.for_head(), self.architecture.head_bias);
        let mut first_strip = 0;
        for (i, part) in head.parts.iter().enumerate() {
            let params = head_select::Params {
                cols4: head.cols / 4,
                part_rows: part.rows,
                first: part.first,
                first_strip,
                strip_tiles: head_select::strip_tiles(part.rows),
                words: self.words(),
                padding: [0; 2],
            };
            let mut slots =
                vec![self.matrix_slot(Role::Head, i), Slot::Gathered, Slot::Partials, Slot::Select, Slot::Suppressed];
            slots.extend(bias.then_some(Slot::Vector(Role::HeadBias)));
            let grid = head_select::grid(kernel, selected, part.rows);
            steps.push(Step::new(head_select::spec(part.format, kernel, bias), slots, &params, grid));
            first_strip += head_select::strips(part.rows);
        }
        Ok(first_strip)
    }

    /// The head on matrix units: as many ids at a time as their logits find room for, and the selection
    /// over these. Returns the strips of partial selections.
    fn matrix_head(&self, steps: &mut Vec<Step>, tile: MatrixTile) -> Result<u32, BackendError> {
        let (head, selected) = (self.weights.get(Role::Head)?, self.sizes.selected);
        let room = (self.chunk / u64::from(tile.padded(selected))).min(u64::from(u32::MAX)) as u32;
        let most = if self.batch_invariant {
            // Whole strips: the same ones for every number of rows.
            let strips = (room / select_strips::STRIP_IDS).max(1) * select_strips::STRIP_IDS;
            strips.min(head.rows.next_multiple_of(128))
        } else {
            // Even chunks, so that the last one fills the device too.
            let chunks = head.rows.div_ceil((room / 128 * 128).max(128));
            head.rows.div_ceil(chunks).next_multiple_of(128)
        };
        let mut strips = 0;
        for (i, part) in head.parts.iter().enumerate() {
            for first_row in (0..part.rows).step_by(most as usize) {
                let ids = most.min(part.rows - first_row);
                let params = gemm_matrix::Params {
                    cols8: head.cols / 8,
                    part_rows: part.rows,
                    first: 0,
                    out_stride: most,
                    eps: 0.0,
                    extra: 0,
                    over: Over::Selected as u32,
                    first_row,
                };
                let spec = gemm_matrix::spec(part.format, tile, MatrixEnd::Sums, 0, false);
                let slots = vec![self.matrix_slot(Role::Head, i), Slot::Gathered, Slot::Chunk];
                steps.push(Step::new(spec, slots, &params, gemm_matrix::grid(tile, selected, ids)));
                let params = select_strips::Params {
                    stride: most,
                    count: ids,
                    first: part.first + first_row,
                    first_strip: strips,
                    strip_ids: select_strips::STRIP_IDS,
                    words: self.words(),
                    padding: [0; 2],
                };
                let slots = vec![Slot::Chunk, Slot::Partials, Slot::Select, Slot::Suppressed];
                let grid = select_strips::grid(selected, ids);
                steps.push(Step::new(select_strips::spec(), slots, &params, grid));
                strips += select_strips::strips(ids);
            }
        }
        Ok(strips)
    }

    /// Words of a set of suppressed ids.
    fn words(&self) -> u32 {
        self.architecture.embedding_rows.div_ceil(32) as u32
    }
}
