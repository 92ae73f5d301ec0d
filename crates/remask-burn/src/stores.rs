//! Key/value stores as tensors, and what the rows of a pass attend to.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use remask_core::architecture::Attention;
use remask_core::{Row, StoreId};

use crate::transformer::Projections;

/// The stores of a backend.
#[derive(Debug, Default)]
pub struct Stores {
    stores: BTreeMap<StoreId, Store>,
    next: u32,
}

/// One store: a slot a position and layer.
#[derive(Debug)]
struct Store {
    capacity: u32,
    /// Keys and values of each layer, `[1, kv_heads, capacity, head_dim]`: as attention reads them.
    layers: Vec<[Tensor<4>; 2]>,
}

impl Stores {
    /// A store of `capacity` slots in each of `layers` layers.
    pub fn create(&mut self, capacity: u32, layers: usize, attention: &Attention, device: &Device) -> StoreId {
        let id = StoreId(self.next);
        self.next += 1;
        let empty = || Tensor::zeros([1, attention.kv_heads, capacity as usize, attention.head_dim], device);
        let layers = (0..layers).map(|_| [empty(), empty()]).collect();
        self.stores.insert(id, Store { capacity, layers });
        id
    }

    /// Gives a store's slots back.
    pub fn release(&mut self, store: StoreId) {
        self.stores.remove(&store);
    }

    /// Slots of a store.
    #[must_use]
    pub fn capacity(&self, store: StoreId) -> Option<u32> {
        self.stores.get(&store).map(|s| s.capacity)
    }
}

/// Consecutive rows of a pass that belong to one store.
struct Group {
    store: StoreId,
    rows: Range<usize>,
    /// The slots that any of the rows sees.
    keys: Range<usize>,
    /// Slots hidden from some rows, `[1, 1, heads a K/V head * rows, keys]`, true where hidden.
    hidden: Option<Tensor<4, Bool>>,
    /// Rows whose slots follow each other: first row, first slot, count.
    runs: Vec<(usize, usize, usize)>,
}

/// The rows of a pass, sorted out once for all layers.
pub struct Plan {
    groups: Vec<Group>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
}

impl Plan {
    /// Sorts out `rows`, which must be valid.
    #[must_use]
    pub fn of(rows: &[Row], a: &Attention, device: &Device) -> Self {
        let mut groups = Vec::new();
        let mut start = 0;
        for rows in rows.chunk_by(|a, b| a.store == b.store) {
            let keys = rows.iter().fold(u32::MAX..0, |k, r| k.start.min(r.keys.start)..k.end.max(r.keys.end));
            let keys = keys.start as usize..keys.end as usize;
            let mut runs: Vec<(usize, usize, usize)> = Vec::new();
            for (row, position) in rows.iter().enumerate().map(|(i, r)| (start + i, r.position as usize)) {
                match runs.last_mut() {
                    Some((_, slot, count)) if *slot + *count == position => *count += 1,
                    _ => runs.push((row, position, 1)),
                }
            }
            groups.push(Group {
                store: rows[0].store,
                rows: start..start + rows.len(),
                hidden: hidden(rows, &keys, a.heads / a.kv_heads, device),
                keys,
                runs,
            });
            start += rows.len();
        }
        Self { groups, heads: a.heads, kv_heads: a.kv_heads, head_dim: a.head_dim, scale: a.scale }
    }

    /// Writes the rows' keys and values of `layer` into their slots; then answers what every row
    /// attends to, `[rows, heads * head_dim]`.
    pub fn attend(&self, stores: &mut Stores, layer: usize, projections: Projections) -> Tensor<2> {
        let (kv_heads, head_dim) = (self.kv_heads, self.head_dim);
        let fresh = [projections.k, projections.v].map(|f| f.swap_dims(0, 1).unsqueeze::<4>());
        for group in &self.groups {
            let Some(store) = stores.stores.get_mut(&group.store) else { continue };
            for (stored, fresh) in store.layers[layer].iter_mut().zip(&fresh) {
                for (row, slot, count) in &group.runs {
                    let values = fresh.clone().narrow(2, *row, *count);
                    stored.inplace(|s| s.slice_assign([0..1, 0..kv_heads, *slot..slot + count, 0..head_dim], values));
                }
            }
        }
        let shared = self.heads / self.kv_heads;
        let mut attended = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let Some(store) = stores.stores.get(&group.store) else { continue };
            let (count, seen) = (group.rows.len(), group.keys.len());
            // Query heads that share a K/V head are more rows to it.
            let q = projections.q.clone().narrow(0, group.rows.start, count);
            let q = q.swap_dims(0, 1).reshape([1, self.kv_heads, shared * count, head_dim]);
            let [k, v] = store.layers[layer].each_ref().map(|s| s.clone().narrow(2, group.keys.start, seen));
            let options = AttentionModuleOptions { scale: Some(f64::from(self.scale)), ..Default::default() };
            let hidden = group.hidden.clone();
            let out = attention(q, k, v, hidden, None, options).reshape([self.heads, count, head_dim]);
            attended.push(out.swap_dims(0, 1).reshape([count, self.heads * head_dim]));
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
