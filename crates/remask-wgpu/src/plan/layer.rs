//! A block in the order that suits any number of rows: what products do not end with are dispatches of their own.

use remask_core::BackendError;
use remask_core::architecture::{BlockSpec, NormKind};
use remask_core::tensors::{BlockRole, Role};

use super::product::{Ending, Product};
use super::{Before, Over, Pending, Planner, Slot, Splits, Step};
use crate::kernels::gemm::End;
use crate::kernels::gemm_matrix::MatrixEnd;
use crate::kernels::linear::{Portable, Strategy};
use crate::kernels::{activation, norm, padded};
use crate::order::Order;
use crate::wgsl::KernelSpec;

/// The norm before a block's attention.
pub(super) fn before_attention(block: &BlockSpec) -> Before {
    let role = |role| Role::Block(block.weights, role);
    let (gain, bias) = (role(BlockRole::AttentionNorm), role(BlockRole::AttentionNormBias));
    Before { norm: block.attention_norm, gain, bias }
}

/// The norm before a block's feed-forward part, where it has one of its own.
pub(super) fn before_feed_forward(block: &BlockSpec) -> Option<Before> {
    let role = |role| Role::Block(block.weights, role);
    let (gain, bias) = (role(BlockRole::FeedForwardNorm), role(BlockRole::FeedForwardNormBias));
    block.feed_forward_norm.map(|norm| Before { norm, gain, bias })
}

/// A linear layer of a block over its rows.
pub(super) fn product(block: &BlockSpec, role: BlockRole, x: Slot, out: Slot) -> Product {
    use BlockRole as R;
    let bias = match role {
        R::Qkv => block.attention.qkv_bias.then_some(R::QkvBias),
        R::AttentionOut => block.attention.out_bias.then_some(R::AttentionOutBias),
        R::Up => block.feed_forward.bias.then_some(R::UpBias),
        _ => block.feed_forward.bias.then_some(R::DownBias),
    };
    let of_block = |role| Role::Block(block.weights, role);
    Product { role: of_block(role), bias: bias.map(of_block), x, out, over: Over::Rows }
}

impl Planner<'_> {
    /// Every block. Returns what is still to be added to the residual stream.
    pub(super) fn layers(&self, steps: &mut Vec<Step>) -> Result<Option<Pending>, BackendError> {
        let mut pending = None;
        let blocks = &self.architecture.blocks;
        for (i, block) in blocks.iter().enumerate() {
            let last = i + 1 == blocks.len() && self.sizes.selected + self.sizes.logits == 0;
            pending = self.layer(steps, block, pending, last)?;
        }
        Ok(pending)
    }

    /// A block; up to its keys and values where only they are wanted.
    fn layer(
        &self,
        steps: &mut Vec<Step>,
        block: &BlockSpec,
        pending: Option<Pending>,
        keys_only: bool,
    ) -> Result<Option<Pending>, BackendError> {
        let side_by_side = block.side_by_side();
        let qkv = product(block, BlockRole::Qkv, Slot::Normed, Slot::Qkv);
        let splits = self.normed(steps, qkv, before_attention(block), pending, side_by_side)?;
        steps.push(self.rotary(block, splits));
        if keys_only {
            return Ok(None);
        }
        let out = product(block, BlockRole::AttentionOut, Slot::Attended, Slot::Hidden);
        let strategy = self.strategy_of(out.role)?;
        steps.push(self.attention(block, strategy.is_half()));
        let after = |norm, gain| Before { norm, gain: Role::Block(block.weights, gain), bias: Role::FinalNormBias };
        let attention_after = block.after_attention_norm.map(|norm| after(norm, BlockRole::AfterAttentionNorm));
        let mut pending = self.residual(steps, out, strategy, attention_after)?;
        if side_by_side && pending.is_some() {
            // No norm comes between that would add it, and there is one addend: one is run for that alone.
            steps.push(self.norm(before_attention(block), Slot::NormedUp, pending.take(), false));
        }

        let down = product(block, BlockRole::Down, Slot::Activated, Slot::Hidden);
        let strategy = self.strategy_of(down.role)?;
        self.up(steps, block, pending, strategy.is_half())?;
        let down_after = block.after_feed_forward_norm.map(|norm| after(norm, BlockRole::AfterFeedForwardNorm));
        self.residual(steps, down, strategy, down_after)
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
        let fusable = |before: Before| Some(before).filter(|b| b.norm.kind == NormKind::Rms);
        match layer {
            BlockRole::Qkv => {
                let before = fusable(before_attention(block));
                self.portable(steps, kernel, product(block, layer, Slot::Hidden, Slot::Qkv), before, End::Write)
            }
            BlockRole::Up => {
                let before = before_feed_forward(block).and_then(fusable);
                self.portable_up(steps, block, kernel, Slot::Hidden, before)
            }
            _ => {
                let x = if layer == BlockRole::Down { Slot::Activated } else { Slot::Attended };
                self.portable(steps, kernel, product(block, layer, x, Slot::Hidden), None, End::Add)
            }
        }
    }

    /// A linear layer over the normalised residual stream: in one dispatch where nothing is pending, the kernel can
    /// normalise, and nobody else reads the normalised rows (`keep`). `product.x` is where these go if a dispatch
    /// of its own makes them.
    fn normed(
        &self,
        steps: &mut Vec<Step>,
        product: Product,
        before: Before,
        pending: Option<Pending>,
        keep: bool,
    ) -> Result<Splits, BackendError> {
        match (self.strategy_of(product.role)?, pending) {
            (Strategy::Portable(kernel), None) if before.norm.kind == NormKind::Rms && !keep => {
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
        pending: Option<Pending>,
        half: bool,
    ) -> Result<(), BackendError> {
        let (ff, own) = (block.feed_forward, before_feed_forward(block));
        let up = product(block, BlockRole::Up, own.map_or(Slot::Normed, |_| Slot::NormedUp), Slot::Up);
        let (matrix, strategy) = (self.weights.get(up.role)?, self.strategy_of(up.role)?);
        // The kernel normalises, a dispatch of its own does, or attention's norm has done so.
        let fused = own
            .filter(|b| matches!(strategy, Strategy::Portable(_)) && pending.is_none() && b.norm.kind == NormKind::Rms);
        let x = if fused.is_some() { Slot::Hidden } else { up.x };
        if let Some(before) = own.filter(|_| fused.is_none()) {
            steps.push(self.norm(before, x, pending, strategy.is_half()));
        }
        let up = Product { x, ..up };
        let end = MatrixEnd::of_feed_forward(ff.gated, ff.activation);
        let fits = strategy.tile().is_some_and(|tile| if ff.gated { tile.fuses_gated() } else { tile.splits == 1 });
        match strategy {
            Strategy::Portable(kernel) if !half => self.portable_up(steps, block, kernel, x, fused),
            Strategy::Matrix(tile)
                if half && matrix.order == end.order() && fits && self.matrix_usable(up, tile, end) =>
            {
                let up = Product { out: Slot::Activated, ..up };
                self.matrix(steps, tile, up, &Ending::plain(end)).map(|_| ())
            }
            Strategy::Portable(kernel) => {
                self.portable(steps, kernel, up, fused, End::Write)?;
                steps.push(self.activation(block, Splits::WHOLE, matrix.order, half));
                Ok(())
            }
            Strategy::Matrix(_) => {
                let splits = self.linear(steps, up, strategy)?;
                steps.push(self.activation(block, splits, matrix.order, half));
                Ok(())
            }
        }
    }

    /// The feed-forward part up to the input of its last layer in float32, with the activation in the same dispatch
    /// where that is worth it.
    fn portable_up(
        &self,
        steps: &mut Vec<Step>,
        block: &BlockSpec,
        kernel: Portable,
        x: Slot,
        before: Option<Before>,
    ) -> Result<(), BackendError> {
        let ff = block.feed_forward;
        let up = product(block, BlockRole::Up, x, Slot::Up);
        // A matrix in parts has a gate and its other half in different ones.
        let whole = self.weights.get(up.role)?.whole().is_some();
        if !ff.gated || whole && kernel.fuses_gated(self.profile) {
            let end = End::of_feed_forward(ff.gated, ff.activation);
            return self.portable(steps, kernel, Product { out: Slot::Activated, ..up }, before, end);
        }
        self.portable(steps, kernel, up, before, End::Write)?;
        steps.push(self.activation(block, Splits::WHOLE, Order::Rows, false));
        Ok(())
    }

    /// The activation of what lies in [`Slot::Up`], into [`Slot::Activated`], in f16 where `half`.
    fn activation(&self, block: &BlockSpec, splits: Splits, order: Order, half: bool) -> Step {
        let (ff, width) = (block.feed_forward, padded(block.feed_forward.hidden as u32));
        let params = activation::Params { cols4: width / 4, split_stride4: splits.stride / 4, padding: [0; 2] };
        let spec = activation::spec(activation::Variant {
            activation: ff.activation,
            gated: ff.gated,
            splits: splits.count,
            half,
            interleaved: order == Order::Paired,
        });
        Step::new(spec, vec![Slot::Up, Slot::Activated], &params, activation::grid(self.sizes.rows, width))
    }

    /// A norm over all rows, which adds what is pending to the residual stream first.
    pub(super) fn norm(&self, before: Before, out: Slot, pending: Option<Pending>, half: bool) -> Step {
        let spec = self.norm_spec(pending, norm::Variant { half, ..norm::Variant::plain(before.norm.kind) });
        let slots = norm_slots(before, out, None, pending);
        let params = norm_params(before, pending, 1.0, Over::Rows);
        Step::new(spec, slots, &params, norm::grid(self.sizes.rows))
    }

    /// The norm that adds what is pending.
    pub(super) fn norm_spec(&self, pending: Option<Pending>, variant: norm::Variant) -> KernelSpec {
        let splits = pending.map_or(0, |p| p.splits.count);
        let variant = norm::Variant { splits, after: pending.is_some_and(|p| p.after.is_some()), ..variant };
        let cols = self.architecture.hidden as u32;
        let spec = norm::spec(norm::Lanes::choose(self.profile, cols), variant);
        if self.usable(&spec) { spec } else { norm::spec(norm::Lanes::portable(cols), variant) }
    }

    /// A linear layer whose result is added to the residual stream: now, or by the next norm where it comes in
    /// splits or goes through a norm of its own first.
    fn residual(
        &self,
        steps: &mut Vec<Step>,
        product: Product,
        strategy: Strategy,
        after: Option<Before>,
    ) -> Result<Option<Pending>, BackendError> {
        let pending = |splits| Some(Pending { splits, after });
        let added = Product { out: Slot::Addend, ..product };
        match strategy {
            _ if after.is_some() => self.linear(steps, added, strategy).map(pending),
            Strategy::Matrix(tile) if tile.splits == 1 && self.matrix_usable(product, tile, MatrixEnd::Add) => {
                self.matrix(steps, tile, product, &Ending::plain(MatrixEnd::Add)).map(|_| None)
            }
            Strategy::Matrix(_) => self.linear(steps, added, strategy).map(pending),
            Strategy::Portable(kernel) => self.portable(steps, kernel, product, None, End::Add).map(|()| None),
        }
    }
}

/// What a norm is bound to: with `select`, over the selected rows.
pub(super) fn norm_slots(before: Before, out: Slot, select: Option<Slot>, pending: Option<Pending>) -> Vec<Slot> {
    let mut slots = vec![Slot::Hidden, Slot::Vector(before.gain), out];
    slots.extend((before.norm.kind == NormKind::Layer).then_some(Slot::Vector(before.bias)));
    slots.extend(select);
    slots.extend(pending.map(|_| Slot::Addend));
    slots.extend(pending.and_then(|p| p.after).map(|after| Slot::Vector(after.gain)));
    slots
}

/// Parameters of a norm that adds what is pending.
pub(super) fn norm_params(before: Before, pending: Option<Pending>, scale: f32, over: Over) -> norm::Params {
    norm::Params {
        eps: before.norm.eps,
        scale,
        split_stride4: pending.map_or(0, |p| p.splits.stride / 4),
        over: over as u32,
        after_eps: pending.and_then(|p| p.after).map_or(0.0, |after| after.norm.eps),
        padding: [0; 3],
    }
}
