//! Key/value stores, and the rows of a pass sorted out by them.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Device, Tensor};
use remask_core::architecture::{Architecture, Attention, BlockSpec};
use remask_core::{Row, StoreId};

/// The keys and values of one entry in one store: a slot a position.
pub trait Slots: Sized {
    /// Queries, keys and values of the rows of a pass.
    type Projected;

    /// What is worked out once of the rows that a kind of block computes.
    type Plan;

    /// `capacity` slots.
    fn new(capacity: usize, attention: &Attention, device: &Device) -> Self;

    /// Takes over the first `count` slots of `other`, which belongs to blocks like `attention` too. Neither has fewer.
    fn copy_from(&mut self, other: &Self, count: usize, attention: &Attention);

    /// Sorts out `rows`, whose keys are those that blocks like `attention` see.
    fn plan(rows: &[Row], attention: &Attention, device: &Device) -> Self::Plan;

    /// Writes the rows' keys and values into their slots of `entry`; then answers what every row attends to,
    /// `[rows, heads * head_dim]`.
    fn attend(
        stores: &mut Stores<Self>,
        entry: usize,
        plan: &Self::Plan,
        attention: &Attention,
        projected: Self::Projected,
    ) -> Tensor<2>;
}

/// The stores of a backend.
#[derive(Debug)]
pub struct Stores<S> {
    stores: BTreeMap<StoreId, Store<S>>,
    next: u32,
}

/// One store.
#[derive(Debug)]
struct Store<S> {
    capacity: u32,
    /// By cache entry.
    entries: Vec<S>,
}

impl<S> Default for Stores<S> {
    fn default() -> Self {
        Self { stores: BTreeMap::new(), next: 0 }
    }
}

impl<S: Slots> Stores<S> {
    /// A store of `capacity` slots in each of the model's cache entries.
    pub fn create(&mut self, capacity: u32, a: &Architecture, device: &Device) -> StoreId {
        let id = StoreId(self.next);
        self.next = self.next.wrapping_add(1);
        let slots = |block: &BlockSpec| S::new(capacity as usize, &block.attention, device);
        self.stores.insert(id, Store { capacity, entries: a.cached_blocks().map(slots).collect() });
        id
    }

    /// Gives a store's slots back.
    pub fn release(&mut self, store: StoreId) {
        self.stores.remove(&store);
    }

    /// Copies the first `count` slots of a store to another one. False where there are none to copy.
    pub fn copy(&mut self, from: StoreId, to: StoreId, count: u32, a: &Architecture) -> bool {
        let Some(mut target) = self.stores.remove(&to) else { return false };
        let source = self.stores.get(&from).filter(|source| source.capacity.min(target.capacity) >= count);
        if let Some(source) = source {
            let entries = target.entries.iter_mut().zip(&source.entries);
            for (block, (to, from)) in a.cached_blocks().zip(entries) {
                to.copy_from(from, count as usize, &block.attention);
            }
        }
        let copied = source.is_some();
        self.stores.insert(to, target);
        copied
    }

    /// Slots of a store.
    #[must_use]
    pub fn capacity(&self, store: StoreId) -> Option<u32> {
        self.stores.get(&store).map(|s| s.capacity)
    }

    /// A store of one entry.
    #[cfg(test)]
    pub(crate) fn put(&mut self, id: StoreId, slots: S) {
        self.stores.insert(id, Store { capacity: 0, entries: vec![slots] });
    }

    /// The keys and values of an entry of a store.
    pub(crate) fn entry(&self, store: StoreId, entry: usize) -> Option<&S> {
        self.stores.get(&store)?.entries.get(entry)
    }

    /// As [`Stores::entry`], to be written.
    pub(crate) fn entry_mut(&mut self, store: StoreId, entry: usize) -> Option<&mut S> {
        self.stores.get_mut(&store)?.entries.get_mut(entry)
    }
}

/// The plans of a pass: one for all blocks that see the same slots and share heads alike.
pub struct Plans<'a, S: Slots> {
    rows: &'a [Row],
    made: BTreeMap<(Option<usize>, usize), S::Plan>,
}

impl<'a, S: Slots> Plans<'a, S> {
    /// None yet, for these rows.
    #[must_use]
    pub fn new(rows: &'a [Row]) -> Self {
        Self { rows, made: BTreeMap::new() }
    }

    /// The plan of blocks with this attention.
    pub fn of(&mut self, attention: &Attention, device: &Device) -> &S::Plan {
        let kind = (attention.window, attention.heads / attention.kv_heads);
        self.made.entry(kind).or_insert_with(|| {
            let seen: Vec<_> = self.rows.iter().map(|row| within(row, attention.window)).collect();
            S::plan(&seen, attention, device)
        })
    }
}

/// The row as a block with this window has it: of its keys the last `window` up to its slot, at least one.
fn within(row: &Row, window: Option<usize>) -> Row {
    let mut row = *row;
    if let Some(window) = window {
        let first = (row.slot as usize + 1).saturating_sub(window).min(row.keys.end as usize - 1);
        row.keys.start = row.keys.start.max(first as u32);
    }
    row
}

/// Consecutive rows of a pass that belong to one store, as a range of the pass's.
pub(crate) fn by_store(rows: &[Row]) -> impl Iterator<Item = (StoreId, Range<usize>)> {
    let mut start = 0;
    rows.chunk_by(|a, b| a.store == b.store).map(move |group| {
        let range = start..start + group.len();
        start = range.end;
        (group[0].store, range)
    })
}
