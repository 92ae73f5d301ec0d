//! Blocks of passes of few rows on matrix units, five dispatches each: products end with what the next one begins
//! with. What a dispatch costs before it does anything is a good part of such a pass.

use remask_core::BackendError;
use remask_core::architecture::{BlockSpec, NormKind, RotaryPairing};
use remask_core::tensors::{BlockRole, Role};

use super::layer::{before_attention, before_feed_forward, product};
use super::product::{Ending, Product};
use super::{PartOutline, Planner, Slot, Step};
use crate::kernels::gemm_matrix::{self, MatrixEnd, MatrixTile};
use crate::kernels::linear::{Arithmetic, Shape, Strategy};

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
        if self.arithmetic != Arithmetic::Half || self.sizes.rows > MatrixTile::FEW || self.batch_invariant {
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
        let tile = |role, end: MatrixEnd, squares| -> Result<Option<MatrixTile>, BackendError> {
            let Product { role, bias, .. } = product(block, role, Slot::FewNormed, Slot::Hidden);
            let matrix = self.weights.get(role)?;
            // A dispatch a part, whose tiles are whole: heads end with tiles, and what other ends tell of a row they
            // tell of all of it.
            let heads = matches!(end, MatrixEnd::Rotary { .. });
            if matrix.order != end.order() || !heads && matrix.whole().is_none() {
                return Ok(None);
            }
            let (format, shape) =
                (matrix.format(), Shape { rows: self.sizes.rows, cols: matrix.cols, out: matrix.rows });
            let tuned = self.tuning.kernel(format, shape).and_then(Strategy::tile);
            let tuned = tuned.filter(|t| MatrixTile::candidates_few(format, shape, end).contains(t));
            let mut choices = tuned.into_iter().chain(MatrixTile::choose_few(format, shape, end));
            let usable = |tile: &MatrixTile, part: &PartOutline| {
                let spec = gemm_matrix::spec(part.format, *tile, end, squares, bias.is_some());
                part.rows.is_multiple_of(tile.n) && self.usable(&spec)
            };
            Ok(choices.find(|tile| matrix.parts.iter().all(|part| usable(tile, part))))
        };
        let hidden = a.hidden as u32;
        let residual = |role| tile(role, MatrixEnd::Residual, 0);
        let (Some(out), Some(down)) = (residual(BlockRole::AttentionOut)?, residual(BlockRole::Down)?) else {
            return Ok(None);
        };
        let of_down = before.map_or(0, |(_, tile)| hidden / tile.n);
        let qkv = tile(BlockRole::Qkv, rotary_end(block), of_down)?;
        let up = tile(BlockRole::Up, up_end(block), hidden / out.n)?;
        Ok(qkv.zip(up).map(|(qkv, up)| BlockTiles { qkv, out, up, down }))
    }

    fn few_blocks(&self, tiles: &[BlockTiles]) -> Result<Vec<Step>, BackendError> {
        let blocks = &self.architecture.blocks;
        let mut steps = Vec::new();
        let Some(first) = blocks.first() else { return Ok(steps) };
        steps.push(self.norm(before_attention(first), Slot::FewNormed, None, true));
        let mut squares = 0;
        for (i, (block, tiles)) in blocks.iter().zip(tiles).enumerate() {
            let at = &block.attention;
            let mut with = vec![
                Slot::Rows,
                Slot::Rotary(at.rotary.unwrap_or(0)),
                Slot::Keys(block.cache),
                Slot::Values(block.cache),
            ];
            with.extend(at.qk_norm.map(|_| Slot::HeadNorms(block.weights)));
            let (eps, kv_heads) = (block.attention_norm.eps, at.kv_heads as u32);
            let ending = Ending { end: rotary_end(block), with, squares, eps, kv_heads };
            let qkv = product(block, BlockRole::Qkv, Slot::FewNormed, Slot::Qkv);
            self.matrix(&mut steps, tiles.qkv, qkv, &ending)?;
            let next = blocks.get(i + 1);
            if next.is_none() && self.sizes.selected + self.sizes.logits == 0 {
                // Only keys and values are wanted, and the last are written.
                break;
            }
            steps.push(self.attention(block, true));
            let before = before_feed_forward(block).unwrap_or(before_attention(block));
            let out = product(block, BlockRole::AttentionOut, Slot::Attended, Slot::Hidden);
            squares = self.told(&mut steps, out, tiles.out, before.gain)?;
            let ending = Ending { squares, eps: before.norm.eps, ..Ending::plain(up_end(block)) };
            let up = product(block, BlockRole::Up, Slot::FewNormed, Slot::Activated);
            self.matrix(&mut steps, tiles.up, up, &ending)?;
            // After the last block nobody reads what is told.
            let gain = next.map_or(Role::FinalNorm, |next| before_attention(next).gain);
            let down = product(block, BlockRole::Down, Slot::Activated, Slot::Hidden);
            squares = self.told(&mut steps, down, tiles.down, gain)?;
        }
        Ok(steps)
    }

    /// A layer whose result is added to the residual stream, and told to the next one, whose norm has the weight `gain`.
    /// Returns the partial sums of squares of each row.
    fn told(&self, steps: &mut Vec<Step>, product: Product, tile: MatrixTile, gain: Role) -> Result<u32, BackendError> {
        let with = vec![Slot::Vector(gain), Slot::FewNormed, Slot::FewSquares];
        self.matrix(steps, tile, product, &Ending { with, ..Ending::plain(MatrixEnd::Residual) })?;
        Ok(self.architecture.hidden as u32 / tile.n)
    }
}

fn rotary_end(block: &BlockSpec) -> MatrixEnd {
    let at = &block.attention;
    MatrixEnd::Rotary { head_dim: at.head_dim as u32, head_norm: at.qk_norm.is_some() }
}

fn up_end(block: &BlockSpec) -> MatrixEnd {
    MatrixEnd::of_feed_forward(block.feed_forward.gated, block.feed_forward.activation)
}

/// Whether products can end with what this block has between them.
fn ends_suit(block: &BlockSpec) -> bool {
    let norms = [Some(block.attention_norm), block.feed_forward_norm];
    // The kernel has one epsilon, for the norm before and those of heads.
    let heads = block.attention.qk_norm.is_none_or(|norm| norm == block.attention_norm);
    norms.iter().all(|norm| norm.is_some_and(|n| n.kind == NormKind::Rms))
        && heads
        && block.after_attention_norm.is_none()
        && block.after_feed_forward_norm.is_none()
}
