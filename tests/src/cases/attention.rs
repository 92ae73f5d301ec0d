//! Attention over any rows and key ranges: one list of cases for its three kernels.

use remask_wgpu::kernels::attention_row::{self, Halves};
use remask_wgpu::kernels::{RowRecord, attention, attention_matrix, padded};
use remask_wgpu::wgsl::KernelSpec;

use crate::data::{rounded, uniform, widen};
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

struct Case {
    name: &'static str,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// (store, first slot seen, one past the last slot seen) of each row.
    rows: Vec<(u32, u32, u32)>,
    /// Slots that a row sees up to its own, the last of its range; 0 for all.
    window: u32,
    /// Magnitude of queries and keys.
    scale: f32,
    slope: Slope,
}

/// How the magnitude of keys goes with their slots, and with it which key has a row's largest score.
#[derive(Clone, Copy)]
enum Slope {
    Level,
    Rising,
    Falling,
}

impl Slope {
    fn of(self, slot: usize, slots: usize) -> f32 {
        match self {
            Self::Level => 1.0,
            Self::Rising => (slot + 1) as f32 / slots as f32,
            Self::Falling => (slots - slot) as f32 / slots as f32,
        }
    }
}

fn cases() -> Vec<Case> {
    let all = |rows: usize, keys: u32| vec![(0, 0, keys); rows];
    let causal = |rows: u32| (0..rows).map(|i| (0, 0, i + 1)).collect::<Vec<_>>();
    // Ranges of one store that begin and end anywhere.
    let scattered = |rows: u32| (0..rows).map(|i| (0, i * 37 % 150, i * 37 % 150 + 1 + i * i % 60)).collect();
    let single = |rows: u32| (0..rows).map(|i| (0, i * 29 % 140, i * 29 % 140 + 1)).collect();
    let two_stores = |i: u32| (i / 5 % 2, i / 5 % 2 * 100, i / 5 % 2 * 100 + 50);
    let case = |name, heads, kv_heads, head_dim, rows| Case {
        name,
        heads,
        kv_heads,
        head_dim,
        rows,
        window: 0,
        scale: 1.0,
        slope: Slope::Level,
    };
    vec![
        case("one row, one key", 1, 1, 8, all(1, 1)),
        case("one row, one key, wider", 1, 1, 64, all(1, 1)),
        case("every row sees all", 4, 4, 16, all(37, 37)),
        case("every row sees all, wider", 4, 4, 128, all(37, 37)),
        case("grouped heads of three fours", 6, 2, 12, all(21, 65)),
        case("heads that four does not divide", 6, 3, 10, all(21, 65)),
        case("heads of 2", 3, 1, 2, causal(9)),
        case("heads of 50, causal", 1, 1, 50, causal(70)),
        case("heads of 24", 5, 1, 24, scattered(30)),
        case("heads of 254", 1, 1, 254, all(7, 40)),
        case("grouped heads", 6, 2, 64, all(21, 65)),
        case("causal", 2, 1, 64, causal(140)),
        case("ranges that move on", 2, 2, 80, (0..50).map(|i: u32| (0, i.saturating_sub(7), i + 1)).collect()),
        case("ranges that move on, wider", 2, 2, 128, (0..190).map(|i: u32| (0, i.saturating_sub(7), i + 1)).collect()),
        Case { window: 7, ..case("window", 2, 2, 80, causal(50)) },
        Case { window: 1, ..case("window of itself", 2, 2, 12, causal(20)) },
        Case { window: 40, ..case("window, wider", 4, 2, 128, causal(190)) },
        Case { window: 100, ..case("window, of 64", 2, 1, 64, causal(300)) },
        Case { window: 500, ..case("window that all are within", 2, 1, 64, causal(90)) },
        Case { window: 9, ..case("window over ranges", 4, 2, 64, scattered(65)) },
        Case { window: 1024, ..case("window of few rows", 2, 1, 64, vec![(0, 5, 2100), (0, 0, 1024), (0, 0, 1500)]) },
        case("blocks of two stores, interleaved", 2, 2, 32, (0..24).map(two_stores).collect()),
        case("blocks of two stores, interleaved, wider", 2, 2, 64, (0..24).map(two_stores).collect()),
        case("few rows, many keys", 2, 2, 128, all(3, 200)),
        case("more keys than a workgroup takes at a time", 2, 1, 64, vec![(0, 5, 2100), (0, 0, 1024), (0, 1024, 1025)]),
        case("scattered ranges", 4, 2, 64, scattered(65)),
        case("scattered ranges, wider", 4, 1, 128, scattered(130)),
        case("one key a row, anywhere", 2, 2, 128, single(40)),
        case("a row less than a tile", 2, 2, 128, all(15, 64)),
        case("a tile of 16", 2, 1, 64, all(16, 63)),
        case("a row more than a tile of 16", 2, 1, 128, all(17, 65)),
        case("a row less than a tile of 32", 2, 1, 64, all(31, 129)),
        case("a row less than a tile of 64", 2, 1, 128, scattered(63)),
        case("a tile of 64", 2, 1, 64, scattered(64)),
        case("a row more than a tile of 64", 2, 2, 128, all(65, 31)),
        case("large heads", 1, 1, 256, all(9, 33)),
        case("LLaDA-8B's heads", 32, 32, 128, all(64, 130)),
        // Scores of hundreds and thousands: without the largest one taken off exp overflows.
        Case { scale: 20.0, ..case("large scores", 2, 2, 64, all(18, 70)) },
        Case { scale: 20.0, slope: Slope::Rising, ..case("largest scores last", 2, 1, 64, scattered(70)) },
        Case { scale: 20.0, slope: Slope::Rising, ..case("largest scores last, wider", 2, 2, 128, all(20, 300)) },
        Case { scale: 20.0, slope: Slope::Falling, ..case("largest scores first", 2, 1, 128, scattered(70)) },
        Case { scale: 60.0, ..case("larger scores", 2, 2, 64, all(18, 70)) },
    ]
}

/// How a kernel rounds what it reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    /// Nothing.
    None,
    /// Keys and values are stored in f16.
    Store,
    /// So, and scaled queries are rounded to f16.
    StoreAndQueries,
}

/// A case on a device, and its result in float64.
struct Uploaded {
    rows: Vec<RowRecord>,
    stores: Vec<u32>,
    params: attention::Params,
    rows_buffer: wgpu::Buffer,
    qkv: wgpu::Buffer,
    keys: wgpu::Buffer,
    values: wgpu::Buffer,
    reference: Vec<f64>,
    heads: usize,
}

impl Uploaded {
    fn new(h: &Harness, c: &Case, rounding: Rounding) -> Self {
        let (stride, width) = ((c.heads + 2 * c.kv_heads) * c.head_dim, c.kv_heads * c.head_dim);
        let slots = c.rows.iter().map(|r| r.2).max().unwrap_or(0) as usize;
        let scale = 1.0 / (c.head_dim as f32).sqrt();
        let qkv = uniform(1, c.rows.len() * stride, c.scale);
        let (mut keys, mut values) = (uniform(2, slots * width, c.scale), uniform(3, slots * width, 1.0));
        for (i, key) in keys.iter_mut().enumerate() {
            *key *= c.slope.of(i / width, slots);
        }
        let mut queries = widen(&qkv);
        if rounding != Rounding::None {
            (keys, values) = (rounded(&keys), rounded(&values));
        }
        if rounding == Rounding::StoreAndQueries {
            queries = qkv.iter().map(|v| half::f16::from_f32(v * scale).to_f64() / f64::from(scale)).collect();
        }
        let row = |(_, key_start, key_end): &(u32, u32, u32)| RowRecord {
            slot: key_end - 1,
            key_start: *key_start,
            key_end: *key_end,
            ..RowRecord::default()
        };
        let rows: Vec<_> = c.rows.iter().map(row).collect();
        let store = |values: &[f32]| match rounding {
            Rounding::None => h.upload(values),
            _ => h.upload(&values.iter().map(|v| half::f16::from_f32(*v)).collect::<Vec<_>>()),
        };
        Self {
            params: attention::Params {
                q_stride: stride as u32,
                kv_stride: width as u32,
                group: (c.heads / c.kv_heads) as u32,
                scale,
                window: c.window,
                out_stride: padded((c.heads * c.head_dim) as u32),
                padding: [0; 2],
            },
            stores: c.rows.iter().map(|r| r.0).collect(),
            rows_buffer: h.upload(&rows),
            rows,
            qkv: h.upload(&qkv),
            keys: store(&keys),
            values: store(&values),
            reference: reference(c, &queries, &widen(&keys), &widen(&values)),
            heads: c.heads,
        }
    }

    /// Runs a kernel over tiles of at most `tile_rows` rows.
    fn run_tiles(&self, h: &mut Harness, tile_rows: u32, spec: KernelSpec) -> wgpu::Buffer {
        let tiles = attention::tiles(&self.rows, &self.stores, tile_rows);
        let (tile_buffer, out) = (h.upload(&tiles), h.poisoned(self.reference.len()));
        let tensors = [&tile_buffer, &self.rows_buffer, &self.qkv, &self.keys, &self.values, &out];
        let grid = attention::grid(tiles.len() as u32, self.heads as u32);
        h.run(sizes(self.rows.len(), 1, tiles.len()), &[(spec, &tensors[..], self.params, grid)]);
        out
    }

    /// Runs a kernel row by row.
    fn run_rows(&self, h: &mut Harness, spec: KernelSpec) -> wgpu::Buffer {
        let out = h.poisoned(self.reference.len());
        let tensors = [&self.rows_buffer, &self.qkv, &self.keys, &self.values, &out];
        let grid = attention_row::grid(self.rows.len() as u32, self.heads as u32);
        h.run(sizes(self.rows.len(), 1, 1), &[(spec, &tensors[..], self.params, grid)]);
        out
    }

    fn check(&self, h: &Harness, name: &str, out: &wgpu::Buffer, half: bool, tolerance: Tolerance) {
        let count = self.reference.len();
        let computed: Vec<f32> = if half { h.download_halves(out, count) } else { h.download(out, count) };
        tolerance.check(name, &computed, &self.reference);
    }
}

/// exp turns the rounding of a score of thousands into a relative error of 1e-4.
fn tolerance(c: &Case) -> Tolerance {
    if c.scale > 1.0 { Tolerance { relative_l2: 1e-3, relative_max: 5e-3 } } else { Tolerance::F32_TRANSCENDENTAL }
}

/// Every case by tiles of rows.
pub fn run(h: &mut Harness) {
    for c in &cases() {
        let uploaded = Uploaded::new(h, c, Rounding::None);
        for software in [false, true] {
            let head_dim = c.head_dim as u32;
            let out = uploaded.run_tiles(h, attention::tile(head_dim).0, attention::spec(software, head_dim));
            uploaded.check(h, &format!("attention, {}", c.name), &out, false, tolerance(c));
        }
    }
}

/// Every case row by row.
pub fn run_row(h: &mut Harness) {
    for c in &cases() {
        for store in [false, true] {
            let uploaded = Uploaded::new(h, c, if store { Rounding::Store } else { Rounding::None });
            for out in [false, true] {
                let halves = Halves { store, out };
                let result = uploaded.run_rows(h, attention_row::spec(c.head_dim as u32, halves));
                let tolerance = if out { Tolerance { relative_l2: 1e-3, relative_max: 5e-3 } } else { tolerance(c) };
                uploaded.check(h, &format!("attention_row, {}, {halves:?}", c.name), &result, out, tolerance);
            }
        }
    }
}

/// The cases that matrix units can compute, with the tiles of few, of more and of many rows.
pub fn run_matrix(h: &mut Harness) {
    // Scores of thousands leave f16 queries no digits.
    for c in cases().iter().filter(|c| attention_matrix::fits(c.head_dim as u32) && c.scale < 50.0) {
        let uploaded = Uploaded::new(h, c, Rounding::StoreAndQueries);
        for (rows, half) in [1, 100, 1000].into_iter().flat_map(|rows| [(rows, false), (rows, true)]) {
            let spec = attention_matrix::spec(c.head_dim as u32, rows, c.window > 0, half);
            let out = uploaded.run_tiles(h, attention_matrix::tile(rows).0, spec);
            // Shares are rounded to f16, whatever the result is.
            let tolerance = Tolerance { relative_l2: 1e-3, relative_max: 3e-3 };
            let name = format!("attention_matrix, {}, as of {rows} rows, half {half}", c.name);
            uploaded.check(h, &name, &out, half, tolerance);
        }
    }
}

/// Attention in float64.
fn reference(c: &Case, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let (stride, width) = ((c.heads + 2 * c.kv_heads) * c.head_dim, c.kv_heads * c.head_dim);
    let scale = 1.0 / (c.head_dim as f32).sqrt();
    let mut reference = Vec::new();
    for (r, (_, start, end)) in c.rows.iter().enumerate() {
        let seen = *end - if c.window > 0 { c.window.min(*end) } else { *end };
        let start = &(*start).max(seen);
        for head in 0..c.heads {
            let query = &q[r * stride + head * c.head_dim..][..c.head_dim];
            let at = |slot: u32| slot as usize * width + head * c.kv_heads / c.heads * c.head_dim;
            let score = |slot| query.iter().zip(&k[at(slot)..]).map(|(a, b)| a * b).sum::<f64>() * f64::from(scale);
            let scores: Vec<_> = (*start..*end).map(score).collect();
            let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<_> = scores.iter().map(|s| (s - peak).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mix = |d: usize| (*start..*end).zip(&weights).map(|(s, w)| w * v[at(s) + d]).sum::<f64>() / sum;
            reference.extend((0..c.head_dim).map(mix));
        }
        // The zeros that fill a row up.
        reference.resize((r + 1) * padded((c.heads * c.head_dim) as u32) as usize, 0.0);
    }
    reference
}

/// Whether each row's bits are the same from every kernel, and whichever rows its tile holds: alone, in tiles of all, and
/// beside rows whose stores hold what is no number, out of its sight.
pub(super) fn same_bits(h: &mut Harness) {
    for c in cases().iter().filter(|c| c.rows.len() * c.heads <= 400) {
        let name = format!("attention, {}", c.name);
        let all = Uploaded::new(h, c, Rounding::None);
        let (head_dim, count) = (c.head_dim as u32, all.reference.len());
        let by_row = all.run_rows(h, attention_row::spec(head_dim, Halves::default()));
        let expected: Vec<u32> = h.download(&by_row, count);
        for (software, rows) in [(false, 16), (true, 16), (false, 1), (true, 3)] {
            let rows = attention::tile(head_dim).0.min(rows);
            let out = all.run_tiles(h, rows, attention::spec(software, head_dim));
            let found: Vec<u32> = h.download(&out, count);
            let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{name}: tiles of {rows} rows, software {software}");
        }
    }
    unseen(h);
}

/// Slots that one row of a tile sees and another does not, with a NaN in them.
fn unseen(h: &mut Harness) {
    let rows: Vec<_> = (0..20).map(|i| (0, if i % 2 == 0 { 0 } else { 5 + i / 2 }, 30 + i % 3)).collect();
    let case = |rows| Case { rows, ..cases().remove(1) };
    let with_all = case(rows.clone());
    let mut all = Uploaded::new(h, &with_all, Rounding::None);
    let slots = with_all.rows.iter().map(|r| r.2).max().unwrap_or(0) as usize;
    let mut spoiled = uniform(3, slots * with_all.kv_heads * with_all.head_dim, 1.0);
    // Slot 2 is seen by even rows alone.
    spoiled[2 * with_all.kv_heads * with_all.head_dim..][..with_all.head_dim].fill(f32::NAN);
    let head_dim = with_all.head_dim as u32;
    let row_of = |values: &[u32], r: usize| values[r * values.len() / 20..][..values.len() / 20].to_vec();
    for software in [false, true] {
        let clean = all.run_tiles(h, attention::tile(head_dim).0, attention::spec(software, head_dim));
        let clean: Vec<u32> = h.download(&clean, all.reference.len());
        let values = std::mem::replace(&mut all.values, h.upload(&spoiled));
        let beside = all.run_tiles(h, attention::tile(head_dim).0, attention::spec(software, head_dim));
        let beside: Vec<u32> = h.download(&beside, all.reference.len());
        all.values = values;
        for r in 0..20 {
            let same = row_of(&clean, r) == row_of(&beside, r);
            assert_eq!(same, r % 2 == 1, "attention beside what is no number, row {r}, software {software}");
        }
    }
}
