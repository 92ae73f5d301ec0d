//! Which intermediate results may share a buffer: those that are never alive at the same time.

use std::ops::RangeInclusive;

/// An intermediate result: its size and the operations between which it must stay intact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifetime {
    /// Bytes.
    pub bytes: u64,
    /// From the operation that writes it to the last that reads it.
    pub alive: RangeInclusive<u32>,
}

/// Buffers to make and which of them each result gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferPlan {
    /// Bytes of each buffer.
    pub buffers: Vec<u64>,
    /// Buffer of each result, in the order given.
    pub assigned: Vec<usize>,
}

impl BufferPlan {
    /// Assigns the largest results first, each to the first buffer that is free while it lives
    /// (greedy by size, arXiv 2001.03288).
    #[must_use]
    pub fn new(results: &[Lifetime]) -> Self {
        let mut order: Vec<_> = (0..results.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(results[*i].bytes));
        let mut plan = Self { buffers: Vec::new(), assigned: vec![0; results.len()] };
        let mut tenants: Vec<Vec<usize>> = Vec::new();
        for i in order {
            let free = tenants.iter().position(|t| t.iter().all(|j| !overlap(&results[i].alive, &results[*j].alive)));
            let buffer = free.unwrap_or_else(|| {
                tenants.push(Vec::new());
                plan.buffers.push(results[i].bytes);
                tenants.len() - 1
            });
            tenants[buffer].push(i);
            plan.assigned[i] = buffer;
        }
        plan
    }
}

fn overlap(a: &RangeInclusive<u32>, b: &RangeInclusive<u32>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn live_results_never_share(raw in proptest::collection::vec((1u64..1000, 0u32..20, 0u32..8), 0..30)) {
            let results: Vec<_> =
                raw.iter().map(|(bytes, start, len)| Lifetime { bytes: *bytes, alive: *start..=start + len }).collect();
            let plan = BufferPlan::new(&results);
            for (i, a) in results.iter().enumerate() {
                prop_assert!(a.bytes <= plan.buffers[plan.assigned[i]]);
                for (j, b) in results.iter().enumerate().skip(i + 1) {
                    prop_assert!(plan.assigned[i] != plan.assigned[j] || !overlap(&a.alive, &b.alive));
                }
            }
            let total: u64 = results.iter().map(|r| r.bytes).sum();
            prop_assert!(plan.buffers.iter().sum::<u64>() <= total);
        }
    }
}
