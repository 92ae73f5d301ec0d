//! Attention of all rows: by rows or by tiles, on matrix units or not.

use remask_core::architecture::{BlockSpec, RotaryPairing};

use super::{Planner, Slot, Splits, Step};
use crate::kernels::linear::Arithmetic;
use crate::kernels::{attention, attention_matrix, attention_row, padded, rotary};

/// As many rows as there have to be for attention on matrix units to be computed as it is for any more.
const MANY: u32 = u32::MAX;

/// Rows of an attention tile in a pass of `rows` rows.
#[must_use]
pub fn tile_rows(arithmetic: Arithmetic, head_dim: u32, rows: u32, batch_invariant: bool) -> u32 {
    match arithmetic {
        Arithmetic::Full => attention::tile(head_dim).0,
        Arithmetic::Half => attention_matrix::tile(if batch_invariant { MANY } else { rows }).0,
    }
}

impl Planner<'_> {
    /// Rotation of queries and keys, and the write of keys and values into their slots.
    pub(super) fn rotary(&self, block: &BlockSpec, splits: Splits) -> Step {
        let (a, at) = (self.architecture, &block.attention);
        let turned = at.rotary.and_then(|index| Some((index, a.rotaries.get(index)?)));
        let (heads, kv_heads) = (at.heads as u32, at.kv_heads as u32);
        let variant = rotary::Variant {
            head_dim: at.head_dim as u32,
            rotated: turned.map_or(0, |(_, r)| r.dims as u32),
            interleaved: turned.is_some_and(|(_, r)| r.pairing == RotaryPairing::Interleaved),
            head_norm: at.qk_norm.is_some(),
            splits: splits.count,
            half_kv: self.arithmetic == Arithmetic::Half,
        };
        let eps = at.qk_norm.map_or(0.0, |norm| norm.eps);
        let params = rotary::Params { heads, kv_heads, split_stride: splits.stride, eps };
        let table = Slot::Rotary(turned.map_or(0, |(index, _)| index));
        let mut slots = vec![Slot::Rows, table, Slot::Qkv, Slot::Keys(block.cache), Slot::Values(block.cache)];
        slots.extend(at.qk_norm.map(|_| Slot::HeadNorms(block.weights)));
        let grid = rotary::grid(variant, self.sizes.rows, heads + 2 * kv_heads);
        Step::new(rotary::spec(variant), slots, &params, grid)
    }

    /// Attention of all rows, its result in f16 where `half`.
    pub(super) fn attention(&self, block: &BlockSpec, half: bool) -> Step {
        let (at, sizes) = (&block.attention, self.sizes);
        let (head_dim, heads, kv_heads) = (at.head_dim as u32, at.heads as u32, at.kv_heads as u32);
        let params = attention::Params {
            q_stride: at.qkv_width() as u32,
            kv_stride: at.kv_width() as u32,
            group: heads / kv_heads,
            scale: at.scale,
            window: at.window.unwrap_or(0).min(u32::MAX as usize) as u32,
            out_stride: padded(at.q_width() as u32),
            padding: [0; 2],
        };
        let stores = [Slot::Keys(block.cache), Slot::Values(block.cache)];
        let rows = if self.batch_invariant { MANY } else { sizes.rows };
        // In float32 both ways have the same sums in the same order.
        let by_row = if self.arithmetic == Arithmetic::Full { sizes.rows } else { rows };
        if attention_row::suits(self.profile, self.arithmetic, by_row) {
            let halves = attention_row::Halves { store: self.arithmetic == Arithmetic::Half, out: half };
            let slots = vec![Slot::Rows, Slot::Qkv, stores[0], stores[1], Slot::Attended];
            let spec = attention_row::spec(head_dim, halves);
            return Step::new(spec, slots, &params, attention_row::grid(sizes.rows, heads));
        }
        let spec = match self.arithmetic {
            Arithmetic::Full => attention::spec(self.profile.is_software(), head_dim),
            Arithmetic::Half => attention_matrix::spec(head_dim, rows, at.window.is_some(), half),
        };
        let slots = vec![Slot::Tiles, Slot::Rows, Slot::Qkv, stores[0], stores[1], Slot::Attended];
        Step::new(spec, slots, &params, attention::grid(sizes.tiles, heads))
    }
}
