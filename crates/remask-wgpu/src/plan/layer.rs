//! A block in the order that suits any number of rows: what products do not end with are dispatches of their own.

use remask_core::BackendError;
use remask_core::architecture::{BlockSpec, Norm};
use remask_core::tensors::{BlockRole, Role};

use super::product::{Before, Ending, Product};
use super::{Over, Planner, Slot, Splits, Step};
use crate::kernels::gemm::End;
use crate::kernels::gemm_matrix::MatrixEnd;
use crate::kernels::linear::{Portable, Strategy};
use crate::kernels::{rms_norm, swiglu};
use crate::order::Order;
use crate::wgsl::KernelSpec;

impl Planner<'_> {
    /// Every block. Returns what lies in [`Slot::Addend`] and is still to be added to the residual stream.
    pub(super) fn layers(&self, steps: &mut Vec<Step>) -> Result<Option<Splits>, BackendError> {
        let mut pending = None;
        let blocks = &self.architecture.blocks;
        for (i, block) in blocks.iter().enumerate() {
            let role = |role| Role::Block(block.weights, role);
            let before = Before { norm: block.attention_norm, gain: role(BlockRole::AttentionNorm) };
            let qkv = Product { role: role(BlockRole::Qkv), x: Slot::Normed, out: Slot::Qkv, over: Over::Rows };
            let splits = self.normed(steps, qkv, before, pending.take())?;
            steps.push(self.rotary(block, splits));
            if i + 1 == blocks.len() && self.sizes.selected + self.sizes.logits == 0 {
                // Only keys and values are wanted, and the last are written.
                return Ok(None);
            }
            let out = role(BlockRole::AttentionOut);
            let strategy = self.strategy_of(out)?;
            steps.push(self.attention(block, strategy.is_half()));
            pending = self.residual(steps, out, Slot::Attended, strategy)?;

            let down = role(BlockRole::Down);
            let strategy = self.strategy_of(down)?;
            self.up(steps, block, pending.take(), strategy.is_half())?;
            pending = self.residual(steps, down, Slot::Activated, strategy)?;
        }
        Ok(pending)
    }

    /// The kernel of a layer over all rows.
    pub(super) fn strategy_of(&self, role: Role) -> Result<Strategy, BackendError> {
        let matrix = self.weights.get(role)?;
        Ok(self.strategy(matrix, matrix.format(), self.sizes.rows))
    }

    /// A linear layer of a block by itself, by a kernel that every device can run, as a pass has it: norms and
    /// activation are part of the layers beside them.
    ///
    /// # Errors
    /// As [`Planner::pass`].
    pub fn alone(
        &self,
        steps: &mut Vec<Step>,
        block: &BlockSpec,
        layer: BlockRole,
        kernel: Portable,
    ) -> Result<(), BackendError> {
        let role = Role::Block(block.weights, layer);
        let product = |x, out| Product { role, x, out, over: Over::Rows };
        let before = |norm, gain| Some(Before { norm, gain: Role::Block(block.weights, gain) });
        match layer {
            BlockRole::Qkv => {
                let before = before(block.attention_norm, BlockRole::AttentionNorm);
                self.portable(steps, kernel, product(Slot::Hidden, Slot::Qkv), before, End::Write)
            }
            BlockRole::Up => {
                let norm = block.feed_forward_norm.unwrap_or(block.attention_norm);
                let before = before(norm, BlockRole::FeedForwardNorm);
                if kernel.fuses_swiglu(self.profile) && self.weights.get(role)?.whole().is_some() {
                    return self.portable(steps, kernel, product(Slot::Hidden, Slot::Activated), before, End::SwiGlu);
                }
                self.portable(steps, kernel, product(Slot::Hidden, Slot::Up), before, End::Write)?;
                steps.push(self.swiglu(block, Splits::WHOLE, Order::Rows, false));
                Ok(())
            }
            _ => {
                let x = if layer == BlockRole::Down { Slot::Activated } else { Slot::Attended };
                self.portable(steps, kernel, product(x, Slot::Hidden), None, End::Add)
            }
        }
    }

    /// A linear layer over the normalised residual stream: in one dispatch where nothing is pending and the
    /// kernel can normalise. `product.x` is where normalised rows go if a dispatch of its own makes them.
    fn normed(
        &self,
        steps: &mut Vec<Step>,
        product: Product,
        before: Before,
        pending: Option<Splits>,
    ) -> Result<Splits, BackendError> {
        match (self.strategy_of(product.role)?, pending) {
            (Strategy::Portable(kernel), None) => {
                let product = Product { x: Slot::Hidden, ..product };
                self.portable(steps, kernel, product, Some(before), End::Write)?;
                Ok(Splits::WHOLE)
            }
            (strategy, pending) => {
                steps.push(self.norm(before, product.x, pending, strategy.is_half()));
                self.linear(steps, product, strategy)
            }
        }
    }

    /// The feed-forward part up to the input of its last layer, in f16 where `half`.
    fn up(
        &self,
        steps: &mut Vec<Step>,
        block: &BlockSpec,
        pending: Option<Splits>,
        half: bool,
    ) -> Result<(), BackendError> {
        let role = Role::Block(block.weights, BlockRole::Up);
        let norm = block.feed_forward_norm.unwrap_or(block.attention_norm);
        let before = Before { norm, gain: Role::Block(block.weights, BlockRole::FeedForwardNorm) };
        let matrix = self.weights.get(role)?;
        let product = |x| Product { role, x, out: Slot::Activated, over: Over::Rows };
        match self.strategy_of(role)? {
            // A matrix in parts has a gate and its other half in different ones.
            Strategy::Portable(kernel)
                if pending.is_none() && kernel.fuses_swiglu(self.profile) && matrix.whole().is_some() && !half =>
            {
                self.portable(steps, kernel, product(Slot::Hidden), Some(before), End::SwiGlu)
            }
            Strategy::Matrix(tile)
                if tile.fuses_swiglu()
                    && matrix.order == Order::Paired
                    && half
                    && self.matrix_usable(&matrix.parts, tile, MatrixEnd::SwiGlu, 0) =>
            {
                steps.push(self.norm(before, Slot::NormedUp, pending, true));
                self.matrix(steps, tile, product(Slot::NormedUp), &Ending::plain(MatrixEnd::SwiGlu)).map(|_| ())
            }
            _ => {
                let product = Product { x: Slot::NormedUp, out: Slot::Up, ..product(Slot::NormedUp) };
                let splits = self.normed(steps, product, before, pending)?;
                steps.push(self.swiglu(block, splits, matrix.order, half));
                Ok(())
            }
        }
    }

    /// SwiGLU of what lies in [`Slot::Up`], into [`Slot::Activated`], in f16 where `half`.
    fn swiglu(&self, block: &BlockSpec, splits: Splits, order: Order, half: bool) -> Step {
        let width = block.feed_forward.hidden as u32;
        let params = swiglu::Params { cols4: width / 4, split_stride4: splits.stride / 4, padding: [0; 2] };
        let spec = swiglu::spec(swiglu::Variant { splits: splits.count, half, interleaved: order == Order::Paired });
        Step::new(spec, vec![Slot::Up, Slot::Activated], &params, swiglu::grid(self.sizes.rows, width))
    }

    /// A norm over all rows, which adds what is pending to the residual stream first.
    pub(super) fn norm(&self, before: Before, out: Slot, pending: Option<Splits>, half: bool) -> Step {
        let mut slots = vec![Slot::Hidden, Slot::Vector(before.gain), out];
        slots.extend(pending.map(|_| Slot::Addend));
        let spec = self.norm_spec(pending, rms_norm::Variant { half, ..rms_norm::Variant::default() });
        let params = norm_params(before.norm, pending, 1.0, Over::Rows);
        Step::new(spec, slots, &params, rms_norm::grid(self.sizes.rows))
    }

    /// The norm that adds what is pending.
    pub(super) fn norm_spec(&self, pending: Option<Splits>, variant: rms_norm::Variant) -> KernelSpec {
        let variant = rms_norm::Variant { splits: pending.map_or(0, |p| p.count), ..variant };
        let cols = self.architecture.hidden as u32;
        let spec = rms_norm::spec(rms_norm::Lanes::choose(self.profile, cols), variant);
        if self.usable(&spec) { spec } else { rms_norm::spec(rms_norm::Lanes::portable(cols), variant) }
    }

    /// A linear layer whose result is added to the residual stream: now, or by the next norm where it
    /// comes in splits.
    fn residual(
        &self,
        steps: &mut Vec<Step>,
        role: Role,
        x: Slot,
        strategy: Strategy,
    ) -> Result<Option<Splits>, BackendError> {
        let matrix = self.weights.get(role)?;
        let product = Product { role, x, out: Slot::Hidden, over: Over::Rows };
        match strategy {
            Strategy::Matrix(tile)
                if tile.splits == 1 && self.matrix_usable(&matrix.parts, tile, MatrixEnd::Add, 0) =>
            {
                self.matrix(steps, tile, product, &Ending::plain(MatrixEnd::Add)).map(|_| None)
            }
            Strategy::Matrix(_) => self.linear(steps, Product { out: Slot::Addend, ..product }, strategy).map(Some),
            Strategy::Portable(kernel) => self.portable(steps, kernel, product, None, End::Add).map(|()| None),
        }
    }
}

/// Parameters of a norm that adds what is pending.
pub(super) fn norm_params(norm: Norm, pending: Option<Splits>, scale: f32, over: Over) -> rms_norm::Params {
    rms_norm::Params { eps: norm.eps, scale, split_stride4: pending.map_or(0, |p| p.stride / 4), over: over as u32 }
}
