//! Blocks of passes of few rows on matrix units, five dispatches each: products end with what the next one begins
//! with. What a dispatch costs before it does anything is a good part of such a pass.

use remask_core::BackendError;
use remask_core::architecture::{Activation, BlockSpec, NormKind, RotaryPairing};
use remask_core::tensors::{BlockRole, Role};

use super::layer::{before_attention, before_feed_forward};
use super::product::{Ending, Product};
use super::{Over, Planner, Slot, Step};
use crate::kernels::gemm_matrix::{self, MatrixEnd, MatrixTile};
use crate::kernels::linear::{Arithmetic, Shape, Strategy};
use crate::order::Order;

/// The tiles of a block's products.
#[derive(Debug, Clone, Copy)]
struct BlockTiles {
    qkv: MatrixTile,
    out: MatrixTile,
    up: MatrixTile,
    down: MatrixTile,
}

impl Planner<'_> {
    /// The dispatches of all blocks, where all of them can be computed so.
    pub(super) fn few(&self) -> Result<Option<Vec<Step>>, BackendError> {
        if self.arithmetic != Arithmetic::Half || self.sizes.rows > MatrixTile::FEW {
            return Ok(None);
        }
        let mut tiles = Vec::new();
        let mut before = None;
        for block in &self.architecture.blocks {
            let Some(of_block) = self.block_tiles(block, before)? else { return Ok(None) };
            before = Some((block, of_block.down));
            tiles.push(of_block);
        }
        self.few_blocks(&tiles).map(Some)
    }

    fn block_tiles(
        &self,
        block: &BlockSpec,
        before: Option<(&BlockSpec, MatrixTile)>,
    ) -> Result<Option<BlockTiles>, BackendError> {
        let a = self.architecture;
        let turned = block.attention.rotary.and_then(|index| a.rotaries.get(index));
        let halves = turned.is_some_and(|r| r.pairing == RotaryPairing::Halves && r.dims == block.attention.head_dim);
        if !halves || !ends_suit(block) {
            return Ok(None);
        }
        let tile = |role, order, end, squares| -> Result<Option<MatrixTile>, BackendError> {
            let matrix = self.weights.get(Role::Block(block.weights, role))?;
            let Some(part) = matrix.whole().filter(|_| matrix.order == order) else { return Ok(None) };
            let shape = Shape { rows: self.sizes.rows, cols: matrix.cols, out: matrix.rows };
            let tuned = self.tuning.kernel(part.format, shape).and_then(Strategy::tile);
            let tuned = tuned.filter(|t| MatrixTile::candidates_few(part.format, shape, end).contains(t));
            let mut choices = tuned.into_iter().chain(MatrixTile::choose_few(part.format, shape, end));
            Ok(choices.find(|tile| self.usable(&gemm_matrix::spec(part.format, *tile, end, squares))))
        };
        let hidden = a.hidden as u32;
        let residual = |role| tile(role, Order::Fragments, MatrixEnd::Residual, 0);
        let (Some(out), Some(down)) = (residual(BlockRole::AttentionOut)?, residual(BlockRole::Down)?) else {
            return Ok(None);
        };
        let of_down = before.map_or(0, |(_, tile)| hidden / tile.n);
        let qkv = tile(BlockRole::Qkv, Order::Fragments, rotary_end(block), of_down)?;
        let up = tile(BlockRole::Up, Order::Paired, MatrixEnd::SwiGlu, hidden / out.n)?;
        Ok(qkv.zip(up).map(|(qkv, up)| BlockTiles { qkv, out, up, down }))
    }

    fn few_blocks(&self, tiles: &[BlockTiles]) -> Result<Vec<Step>, BackendError> {
        let blocks = &self.architecture.blocks;
        let mut steps = Vec::new();
        let Some(first) = blocks.first() else { return Ok(steps) };
        steps.push(self.norm(before_attention(first), Slot::FewNormed, None, true));
        let mut squares = 0;
        for (i, (block, tiles)) in blocks.iter().zip(tiles).enumerate() {
            let role = |role| Role::Block(block.weights, role);
            let product = |role, out| Product { role, bias: None, x: Slot::FewNormed, out, over: Over::Rows };
            let with = vec![
                Slot::Rows,
                Slot::Rotary(block.attention.rotary.unwrap_or(0)),
                Slot::Keys(block.cache),
                Slot::Values(block.cache),
            ];
            let kv_heads = block.attention.kv_heads as u32;
            let ending = Ending { end: rotary_end(block), with, squares, eps: block.attention_norm.eps, kv_heads };
            self.matrix(&mut steps, tiles.qkv, product(role(BlockRole::Qkv), Slot::Qkv), &ending)?;
            let next = blocks.get(i + 1);
            if next.is_none() && self.sizes.selected + self.sizes.logits == 0 {
                // Only keys and values are wanted, and the last are written.
                break;
            }
            steps.push(self.attention(block, true));
            let out = (role(BlockRole::AttentionOut), tiles.out);
            let before = before_feed_forward(block).unwrap_or(before_attention(block));
            squares = self.told(&mut steps, out, Slot::Attended, before.gain)?;
            let ending = Ending { squares, eps: before.norm.eps, ..Ending::plain(MatrixEnd::SwiGlu) };
            self.matrix(&mut steps, tiles.up, product(role(BlockRole::Up), Slot::Activated), &ending)?;
            // After the last block nobody reads what is told.
            let gain = next.map_or(Role::FinalNorm, |next| Role::Block(next.weights, BlockRole::AttentionNorm));
            squares = self.told(&mut steps, (role(BlockRole::Down), tiles.down), Slot::Activated, gain)?;
        }
        Ok(steps)
    }

    /// A layer whose result is added to the residual stream, and told to the next one, whose norm has the weight `gain`.
    /// Returns the partial sums of squares of each row.
    fn told(
        &self,
        steps: &mut Vec<Step>,
        (role, tile): (Role, MatrixTile),
        x: Slot,
        gain: Role,
    ) -> Result<u32, BackendError> {
        let product = Product { role, bias: None, x, out: Slot::Hidden, over: Over::Rows };
        let with = vec![Slot::Vector(gain), Slot::FewNormed, Slot::FewSquares];
        self.matrix(steps, tile, product, &Ending { with, ..Ending::plain(MatrixEnd::Residual) })?;
        Ok(self.architecture.hidden as u32 / tile.n)
    }
}

fn rotary_end(block: &BlockSpec) -> MatrixEnd {
    MatrixEnd::Rotary { head_dim: block.attention.head_dim as u32 }
}

/// Whether products can end with what this block has between them.
fn ends_suit(block: &BlockSpec) -> bool {
    let (at, ff) = (&block.attention, &block.feed_forward);
    let norms = [Some(block.attention_norm), block.feed_forward_norm];
    norms.iter().all(|norm| norm.is_some_and(|n| n.kind == NormKind::Rms))
        && block.after_attention_norm.is_none()
        && block.after_feed_forward_norm.is_none()
        && at.qk_norm.is_none()
        && !(at.qkv_bias || at.out_bias || ff.bias)
        && ff.gated
        && ff.activation == Activation::Silu
}
