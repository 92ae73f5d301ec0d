//! Key/value stores as ranges of slots in one arena, so that one pass can carry rows of
//! several stores.

use std::collections::BTreeMap;
use std::ops::Range;

use remask_core::StoreId;

/// Slots at whose multiples stores begin: attention takes keys together that lie between two of them.
const ALIGNMENT: u32 = 64;

/// Which slots belong to which store.
#[derive(Debug, Default)]
pub struct Stores {
    ranges: BTreeMap<StoreId, Range<u32>>,
    next: u32,
}

impl Stores {
    /// A store of `capacity` slots, from a multiple of `ALIGNMENT` on, in the lowest gap that holds it; `None` where it would reach beyond slot `most`.
    pub fn create(&mut self, capacity: u32, most: u32) -> Option<StoreId> {
        let mut taken: Vec<_> = self.ranges.values().cloned().collect();
        taken.sort_by_key(|r| r.start);
        let mut start = 0;
        for range in taken {
            if range.start.saturating_sub(start) >= capacity {
                break;
            }
            start = range.end.next_multiple_of(ALIGNMENT);
        }
        let end = start.checked_add(capacity).filter(|end| *end <= most)?;
        let id = StoreId(self.next);
        self.next += 1;
        self.ranges.insert(id, start..end);
        Some(id)
    }

    /// Gives a store's slots back.
    pub fn release(&mut self, store: StoreId) {
        self.ranges.remove(&store);
    }

    /// Slots of a store.
    #[must_use]
    pub fn slots(&self, store: StoreId) -> Option<Range<u32>> {
        self.ranges.get(&store).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{attention, attention_matrix};

    #[test]
    fn stores_begin_where_attention_begins_to_sum() {
        assert!(ALIGNMENT.is_multiple_of(attention::PIECE));
        assert!([1, 64, 65, 1000].iter().all(|rows| ALIGNMENT.is_multiple_of(attention_matrix::tile(*rows).1)));
    }

    use proptest::prelude::*;

    #[test]
    fn gaps_are_used_again() {
        let mut stores = Stores::default();
        let a = stores.create(10, 256).unwrap();
        let b = stores.create(5, 256).unwrap();
        stores.release(a);
        let c = stores.create(4, 256).unwrap();
        assert_eq!((stores.slots(c), stores.slots(b), stores.slots(a)), (Some(0..4), Some(64..69), None));
        assert_eq!(stores.create(129, 256), None, "128 slots are left behind");
        assert_eq!(stores.create(128, 256).and_then(|d| stores.slots(d)), Some(128..256));
    }

    proptest! {
        #[test]
        fn stores_never_overlap(steps in proptest::collection::vec((1u32..50, any::<bool>()), 1..40)) {
            let mut stores = Stores::default();
            let mut live = Vec::new();
            for (capacity, release) in steps {
                live.extend(stores.create(capacity, u32::MAX));
                if release && live.len() > 1 {
                    stores.release(live.remove(0));
                }
                let mut ranges: Vec<_> = live.iter().filter_map(|s| stores.slots(*s)).collect();
                prop_assert_eq!(ranges.len(), live.len());
                ranges.sort_by_key(|r| r.start);
                prop_assert!(ranges.windows(2).all(|w| w[0].end <= w[1].start));
            }
        }
    }
}
