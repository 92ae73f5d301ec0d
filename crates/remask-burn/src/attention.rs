//! Attention on the CPU: keys and values lie as panels of weights do, and are multiplied by the same kernel.
//!
//! The bits of a row depend on its query and on the slots it sees, in their order, and on nothing else: a product
//! adds up feature after feature (or slot after slot) in a lane of its own, and the softmax is over the row's whole
//! range at once.

use std::ops::Range;

use burn::tensor::{Device, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use remask_core::architecture::Attention;
use remask_core::{Row, StoreId};

use crate::activation::{LEAST, exp};
use crate::kernel::Floats;
use crate::packed::{Rows, tensor};
use crate::panels::{Columns, WIDTH};
use crate::rows::sum;
use crate::stores::{Slots, Stores, by_store};

/// Scores that one task keeps: 256 KiB of them.
const MOST_SCORES: usize = 1 << 16;

/// Query rows that one task multiplies at most: enough for the keys to be read seldom.
const MOST_QUERIES: usize = 48;

/// Rows whose keys and values are written by one thread.
const ROWS_A_WRITE: usize = 8;

/// The keys and values of one entry in one store.
#[derive(Debug)]
pub struct HostSlots {
    /// `[kv_heads, slots / WIDTH, head_dim, WIDTH]`.
    keys: Vec<[f32; WIDTH]>,
    /// `[kv_heads, head_dim / WIDTH, slots, WIDTH]`, the last panel filled up with zeros.
    values: Vec<[f32; WIDTH]>,
    /// A multiple of `WIDTH`.
    slots: usize,
}

/// Rows of one store.
pub struct Group {
    store: StoreId,
    /// The first one's index in the pass.
    first: usize,
    /// Of each row: the slot it is written to, and the slots it sees.
    rows: Vec<(usize, Range<usize>)>,
}

impl Slots for HostSlots {
    type Projected = Rows;
    type Plan = Vec<Group>;

    fn new(capacity: usize, a: &Attention, _: &Device) -> Self {
        let slots = capacity.next_multiple_of(WIDTH);
        let (keys, values) = (a.kv_heads * (slots / WIDTH) * a.head_dim, a.kv_heads * panels(a) * slots);
        Self { keys: vec![[0.0; WIDTH]; keys], values: vec![[0.0; WIDTH]; values], slots }
    }

    fn copy_from(&mut self, other: &Self, count: usize, a: &Attention) {
        // Keys lie in whole panels of slots; what is copied beyond `count` is written before it is read.
        let (of_keys, of_values) = (count.div_ceil(WIDTH) * a.head_dim, count);
        let keys = self.keys.chunks_exact_mut(self.slots / WIDTH * a.head_dim);
        for (to, from) in keys.zip(other.keys.chunks_exact(other.slots / WIDTH * a.head_dim)) {
            to[..of_keys].copy_from_slice(&from[..of_keys]);
        }
        let values = self.values.chunks_exact_mut(self.slots);
        for (to, from) in values.zip(other.values.chunks_exact(other.slots)) {
            to[..of_values].copy_from_slice(&from[..of_values]);
        }
    }

    fn plan(rows: &[Row], _: &Attention, _: &Device) -> Vec<Group> {
        let own = |row: &Row| (row.slot as usize, row.keys.start as usize..row.keys.end as usize);
        let group = |(store, range): (StoreId, Range<usize>)| Group {
            store,
            first: range.start,
            rows: rows[range].iter().map(own).collect(),
        };
        by_store(rows).map(group).collect()
    }

    fn attend(
        stores: &mut Stores<Self>,
        entry: usize,
        plan: &Vec<Group>,
        attention: &Attention,
        projected: Rows,
    ) -> Tensor<2> {
        let Rows { qkv, rows } = projected;
        for group in plan {
            if let Some(slots) = stores.entry_mut(group.store, entry) {
                slots.write(group, attention, &qkv);
            }
        }
        let width = attention.q_width();
        let mut out = vec![0f32; rows * width];
        let target = Columns::of(&mut out, width);
        let tasks: Vec<_> = plan
            .iter()
            .filter_map(|group| Some((group, stores.entry(group.store, entry)?)))
            .flat_map(|(group, slots)| tasks(group, slots, attention))
            .collect();
        let (arch, stride) = (Arch::new(), attention.qkv_width());
        // SAFETY: no two tasks have the same rows and heads.
        let run = |task: &Task| arch.dispatch(Attend { task, attention, qkv: &qkv, stride, target });
        match &tasks[..] {
            [one] => run(one),
            all => all.par_iter().for_each(run),
        }
        tensor(out, [rows, width])
    }
}

/// Panels of a head's values.
fn panels(a: &Attention) -> usize {
    a.head_dim.div_ceil(WIDTH)
}

impl HostSlots {
    /// Writes the keys and values of the group's rows, which lie in `qkv [rows of the pass, qkv width]`.
    fn write(&mut self, group: &Group, a: &Attention, qkv: &[f32]) {
        let (slots, stride) = (self.slots, a.qkv_width());
        let write = |head: usize, keys: &mut [[f32; WIDTH]], values: &mut [[f32; WIDTH]]| {
            for (i, (slot, _)) in group.rows.iter().enumerate() {
                let row = &qkv[(group.first + i) * stride..][..stride];
                let fresh = |which: usize| &row[a.q_width() + which * a.kv_width() + head * a.head_dim..][..a.head_dim];
                let (block, lane) = (slot / WIDTH, slot % WIDTH);
                let features = &mut keys[block * a.head_dim..][..a.head_dim];
                features.iter_mut().zip(fresh(0)).for_each(|(feature, k)| feature[lane] = *k);
                for (panel, v) in fresh(1).chunks(WIDTH).enumerate() {
                    values[panel * slots + slot][..v.len()].copy_from_slice(v);
                }
            }
        };
        let (of_keys, of_values) = (slots / WIDTH * a.head_dim, panels(a) * slots);
        if group.rows.len() <= ROWS_A_WRITE {
            let heads = self.keys.chunks_exact_mut(of_keys).zip(self.values.chunks_exact_mut(of_values));
            heads.enumerate().for_each(|(head, (keys, values))| write(head, keys, values));
        } else {
            let heads = self.keys.par_chunks_exact_mut(of_keys).zip(self.values.par_chunks_exact_mut(of_values));
            heads.enumerate().for_each(|(head, (keys, values))| write(head, keys, values));
        }
    }
}

/// Some rows and the query heads that share a K/V head, or some of those.
struct Task<'a> {
    slots: &'a HostSlots,
    /// Index of the first row in the pass.
    first: usize,
    /// What the rows see.
    seen: Vec<Range<usize>>,
    /// Query heads.
    heads: Range<usize>,
}

fn tasks<'a>(group: &'a Group, slots: &'a HostSlots, a: &Attention) -> Vec<Task<'a>> {
    let shared = a.heads / a.kv_heads;
    // Heads that share keys are computed together, unless threads would have nothing to do.
    let idle = a.kv_heads * group.rows.len().div_ceil(MOST_QUERIES) < rayon::current_num_threads();
    let heads_a_task = if idle { 1 } else { shared };
    let longest = group.rows.iter().map(|(_, seen)| seen.len()).max().unwrap_or(1);
    let most = (MOST_SCORES / longest.next_multiple_of(WIDTH)).min(MOST_QUERIES);
    let rows_a_task = (most / heads_a_task).max(1);
    let mut tasks = Vec::new();
    for (chunk, rows) in group.rows.chunks(rows_a_task).enumerate() {
        for head in (0..a.heads).step_by(heads_a_task) {
            let seen = rows.iter().map(|(_, seen)| seen.clone()).collect();
            let first = group.first + chunk * rows_a_task;
            tasks.push(Task { slots, first, seen, heads: head..head + heads_a_task });
        }
    }
    tasks
}

/// A task to run.
struct Attend<'a> {
    task: &'a Task<'a>,
    attention: &'a Attention,
    /// `[rows of the pass, stride]`, queries first.
    qkv: &'a [f32],
    stride: usize,
    /// `[rows of the pass, q width]`; the task's rows and heads are written.
    target: Columns,
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { task, attention: a, qkv, stride, target } = self;
        let Task { slots: HostSlots { keys, values, slots }, first, seen, heads } = task;
        let (head_dim, blocks) = (a.head_dim, slots / WIDTH);
        let kv_head = heads.start / (a.heads / a.kv_heads);
        // A query row a row and head: the heads of a row are neighbours.
        let count = seen.len() * heads.len();
        let row_of = |query: usize| (first + query / heads.len(), heads.start + query % heads.len());
        let range_of = |query: usize| seen[query / heads.len()].clone();
        let mut queries = Vec::with_capacity(count * head_dim);
        for (row, head) in (0..count).map(row_of) {
            queries.extend(qkv[row * stride + head * head_dim..][..head_dim].iter().map(|q| q * a.scale));
        }

        // Scores of whole blocks of slots; those that a row does not see are never read.
        let lowest = seen.iter().map(|s| s.start).min().unwrap_or(0) / WIDTH;
        let highest = seen.iter().map(|s| s.end).max().unwrap_or(0).div_ceil(WIDTH);
        let (begin, width) = (lowest * WIDTH, (highest - lowest) * WIDTH);
        let mut scores = vec![0f32; count * width];
        let mut sums = vec![[0f32; WIDTH]; count];
        for block in lowest..highest {
            sums.fill([0.0; WIDTH]);
            let weights = &keys[(kv_head * blocks + block) * head_dim..][..head_dim];
            Floats { weights, x: &queries, stride: head_dim, sums: &mut sums }.run(simd);
            for (scores, sums) in scores.chunks_exact_mut(width).zip(&sums) {
                scores[block * WIDTH - begin..][..WIDTH].copy_from_slice(sums);
            }
        }
        let mut inverse = Vec::with_capacity(count);
        for (query, scores) in scores.chunks_exact_mut(width).enumerate() {
            let range = range_of(query);
            inverse.push(1.0 / exponentials(&mut scores[range.start - begin..range.end - begin]));
        }

        // What all rows see they multiply together; what comes before and behind that each by itself, in order.
        let latest = seen.iter().map(|s| s.start).max().unwrap_or(0);
        let earliest = seen.iter().map(|s| s.end).min().unwrap_or(0);
        for panel in 0..panels(a) {
            let values = &values[(kv_head * panels(a) + panel) * slots..][..*slots];
            sums.fill([0.0; WIDTH]);
            let alone = |sums: &mut [[f32; WIDTH]], query: usize, part: Range<usize>| {
                if !part.is_empty() {
                    let x = &scores[query * width + part.start - begin..];
                    Floats { weights: &values[part], x, stride: width, sums: &mut sums[query..=query] }.run(simd);
                }
            };
            if latest < earliest {
                (0..count).for_each(|query| alone(&mut sums, query, range_of(query).start..latest));
                let (weights, x) = (&values[latest..earliest], &scores[latest - begin..]);
                Floats { weights, x, stride: width, sums: &mut sums }.run(simd);
                (0..count).for_each(|query| alone(&mut sums, query, earliest..range_of(query).end));
            } else {
                (0..count).for_each(|query| alone(&mut sums, query, range_of(query)));
            }
            let elements = WIDTH.min(head_dim - panel * WIDTH);
            for (query, sums) in sums.iter_mut().enumerate() {
                sums.iter_mut().for_each(|v| *v *= inverse[query]);
                let (row, head) = row_of(query);
                // SAFETY: this task alone has this row and head.
                unsafe { target.write(row, head * head_dim + panel * WIDTH, &sums[..elements]) };
            }
        }
    }
}

/// Makes scores to `exp(score - largest)`, and answers their sum. NaN stays.
#[inline(always)]
fn exponentials(scores: &mut [f32]) -> f32 {
    let largest = largest(scores);
    for score in scores.iter_mut() {
        let below = *score - largest;
        // A comparison, not max, which would lose NaN.
        *score = exp(if below < LEAST { LEAST } else { below });
    }
    sum(scores, |v| v)
}

#[inline(always)]
fn largest(scores: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut most = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            most[lane] = if chunk[lane] > most[lane] { chunk[lane] } else { most[lane] };
        }
    }
    rest.iter().chain(&most).fold(f32::NEG_INFINITY, |most, v| if *v > most { *v } else { most })
}

#[cfg(test)]
mod tests {
    use remask_core::random::{Key, threefry};

    use super::*;
    use crate::linear::floats;

    fn uniform(seed: u32, count: usize) -> Vec<f32> {
        let number = |i: usize| threefry(Key([seed, 3]), [i as u32, 0])[0] as f32 / u32::MAX as f32 * 4.0 - 2.0;
        (0..count).map(number).collect()
    }

    fn attention(heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
        Attention {
            heads,
            kv_heads,
            head_dim,
            scale: 0.3,
            window: None,
            rotary: None,
            qk_norm: None,
            qkv_bias: false,
            out_bias: false,
        }
    }

    /// What `row` attends to in float64: its query of a head, and the slots it sees.
    fn exact(a: &Attention, kept: &[Vec<f32>], row: &[f32], head: usize, seen: &Range<usize>) -> Vec<f64> {
        let of = |row: &[f32], first: usize| -> Vec<f64> {
            row[first..first + a.head_dim].iter().map(|v| f64::from(*v)).collect()
        };
        let kv_head = head / (a.heads / a.kv_heads);
        let (q, k_at) = (of(row, head * a.head_dim), a.q_width() + kv_head * a.head_dim);
        let score = |slot: usize| -> f64 {
            let dot: f64 = q.iter().zip(of(&kept[slot], k_at)).map(|(q, k)| q * k).sum();
            (dot * f64::from(a.scale)).exp()
        };
        let total: f64 = seen.clone().map(score).sum();
        let mut out = vec![0.0; a.head_dim];
        for slot in seen.clone() {
            let share = score(slot) / total;
            out.iter_mut().zip(of(&kept[slot], k_at + a.kv_width())).for_each(|(o, v)| *o += share * v);
        }
        out
    }

    #[test]
    fn attention_agrees_with_float64() {
        const CAPACITY: usize = 100;
        for (heads, kv_heads, head_dim) in [(4, 4, 12), (6, 2, 24), (4, 1, 64), (2, 2, 80), (3, 3, 1), (64, 1, 8)] {
            let a = attention(heads, kv_heads, head_dim);
            let width = a.qkv_width();
            let mut stores = Stores::<HostSlots>::default();
            let mut slots = HostSlots::new(CAPACITY, &a, &Device::flex());
            let kept: Vec<_> = (0..CAPACITY).map(|slot| uniform(slot as u32, width)).collect();
            let all = Group { store: StoreId(0), first: 0, rows: (0..CAPACITY).map(|slot| (slot, 0..1)).collect() };
            slots.write(&all, &a, &kept.concat());
            stores.put(StoreId(0), slots);
            // Ranges that have much, little or nothing in common, and end anywhere in a block.
            let seen = [0..100, 0..1, 99..100, 31..33, 5..64, 64..96, 0..32, 40..41, 7..99];
            for ranges in [&seen[..], &seen[4..5], &seen[1..3], &[0..30, 10..40, 20..50], &[0..50, 0..51, 0..52]] {
                let rows: Vec<_> = ranges.iter().enumerate().map(|(slot, seen)| (slot, seen.clone())).collect();
                let plan = vec![Group { store: StoreId(0), first: 0, rows }];
                // Rows write what their slots hold already.
                let qkv: Vec<_> = kept[..ranges.len()].concat();
                let projected = Rows { qkv: qkv.clone(), rows: ranges.len() };
                let out = floats(HostSlots::attend(&mut stores, 0, &plan, &a, projected));
                for (i, seen) in ranges.iter().enumerate() {
                    for head in 0..heads {
                        let exact = exact(&a, &kept, &qkv[i * width..(i + 1) * width], head, seen);
                        for (found, exact) in out[(i * heads + head) * head_dim..].iter().zip(exact) {
                            assert!((f64::from(*found) - exact).abs() < 1e-4, "{a:?} {seen:?}: {found} for {exact}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let a = attention(1, 1, 4);
        let mut stores = Stores::<HostSlots>::default();
        stores.put(StoreId(0), HostSlots::new(4, &a, &Device::flex()));
        for bad in [f32::NAN, f32::INFINITY] {
            for at in 0..12 {
                let mut qkv = uniform(1, 12);
                qkv[at] = bad;
                let plan = vec![Group { store: StoreId(0), first: 0, rows: vec![(0, 0..1)] }];
                let out = floats(HostSlots::attend(&mut stores, 0, &plan, &a, Rows { qkv, rows: 1 }));
                assert!(out.iter().any(|v| !v.is_finite()), "{bad} at {at}: {out:?}");
            }
        }
    }
}
