//! Keys and values as tensors, on any of Burn's devices.

use std::ops::Range;

use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use remask_core::architecture::Attention;
use remask_core::{Row, StoreId};

use crate::dense::Projections;
use crate::stores::{Slots, Stores, by_store};

/// Keys and values, `[1, kv_heads, capacity, head_dim]`: as attention reads them.
#[derive(Debug)]
pub struct TensorSlots([Tensor<4>; 2]);

/// Consecutive rows of a pass that belong to one store.
pub struct Group {
    store: StoreId,
    rows: Range<usize>,
    /// The slots that any of the rows sees.
    keys: Range<usize>,
    /// Slots hidden from some rows, `[1, 1, heads a K/V head * rows, keys]`, true where hidden.
    hidden: Option<Tensor<4, Bool>>,
    /// Rows whose slots follow each other: first row, first slot, count.
    runs: Vec<(usize, usize, usize)>,
}

impl Slots for TensorSlots {
    type Projected = Projections;
    type Plan = Vec<Group>;

    fn new(capacity: usize, a: &Attention, device: &Device) -> Self {
        let empty = || Tensor::zeros([1, a.kv_heads, capacity, a.head_dim], device);
        Self([empty(), empty()])
    }

    fn copy_from(&mut self, other: &Self, count: usize, a: &Attention) {
        let slots = [0..1, 0..a.kv_heads, 0..count, 0..a.head_dim];
        for (to, from) in self.0.iter_mut().zip(&other.0) {
            *to = to.clone().slice_assign(slots.clone(), from.clone().slice(slots.clone()));
        }
    }

    fn plan(rows: &[Row], a: &Attention, device: &Device) -> Vec<Group> {
        let group = |(store, range): (StoreId, Range<usize>)| {
            let own = &rows[range.clone()];
            let first = own.iter().map(|r| r.keys.start).min().unwrap_or(0);
            let end = own.iter().map(|r| r.keys.end).max().unwrap_or(0);
            let keys = first as usize..end as usize;
            let mut runs: Vec<(usize, usize, usize)> = Vec::new();
            for (row, slot) in range.clone().zip(own.iter().map(|r| r.slot as usize)) {
                match runs.last_mut() {
                    Some((_, first, count)) if *first + *count == slot => *count += 1,
                    _ => runs.push((row, slot, 1)),
                }
            }
            let hidden = hidden(own, &keys, a.heads / a.kv_heads, device);
            Group { store, rows: range, keys, hidden, runs }
        };
        by_store(rows).map(group).collect()
    }

    fn attend(
        stores: &mut Stores<Self>,
        entry: usize,
        plan: &Vec<Group>,
        a: &Attention,
        projected: Projections,
    ) -> Tensor<2> {
        let Attention { heads, kv_heads, head_dim, .. } = *a;
        let fresh = [projected.k, projected.v].map(|f| f.swap_dims(0, 1).unsqueeze::<4>());
        for group in plan {
            let Some(Self(stored)) = stores.entry_mut(group.store, entry) else { continue };
            for (stored, fresh) in stored.iter_mut().zip(&fresh) {
                for (row, slot, count) in &group.runs {
                    let values = fresh.clone().narrow(2, *row, *count);
                    stored.inplace(|s| s.slice_assign([0..1, 0..kv_heads, *slot..slot + count, 0..head_dim], values));
                }
            }
        }
        let shared = heads / kv_heads;
        let mut attended = Vec::with_capacity(plan.len());
        for group in plan {
            let Some(Self(stored)) = stores.entry(group.store, entry) else { continue };
            let (count, seen) = (group.rows.len(), group.keys.len());
            // Query heads that share a K/V head are more rows to it.
            let q = projected.q.clone().narrow(0, group.rows.start, count);
            let q = q.swap_dims(0, 1).reshape([1, kv_heads, shared * count, head_dim]);
            let [k, v] = stored.each_ref().map(|s| s.clone().narrow(2, group.keys.start, seen));
            let options = AttentionModuleOptions { scale: Some(f64::from(a.scale)), ..Default::default() };
            let out = attention(q, k, v, group.hidden.clone(), None, options).reshape([heads, count, head_dim]);
            attended.push(out.swap_dims(0, 1).reshape([count, heads * head_dim]));
        }
        if attended.len() == 1 { attended.remove(0) } else { Tensor::cat(attended, 0) }
    }
}

/// Which of `keys` each row must not see, once for every query head of a K/V head; `None` where every
/// row sees all.
fn hidden(rows: &[Row], keys: &Range<usize>, heads: usize, device: &Device) -> Option<Tensor<4, Bool>> {
    let sees = |row: &Row| row.keys.start as usize..row.keys.end as usize;
    if rows.iter().all(|r| sees(r) == *keys) {
        return None;
    }
    let mask: Vec<bool> = rows.iter().flat_map(|r| keys.clone().map(move |k| !sees(r).contains(&k))).collect();
    let data = TensorData::new(mask, [1, 1, rows.len(), keys.len()]);
    Some(Tensor::<4, Bool>::from_data(data, device).repeat_dim(2, heads))
}
