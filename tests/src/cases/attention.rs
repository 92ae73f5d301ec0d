//! Attention over any rows and key ranges.

use remask_wgpu::kernels::{RowRecord, attention};

use crate::data::{uniform, widen};
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

pub(super) struct Case {
    pub name: &'static str,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// (store, first slot seen, one past the last slot seen) of each row.
    pub rows: Vec<(u32, u32, u32)>,
    /// Magnitude of queries and keys.
    pub scale: f32,
}

pub(super) const SLOTS: usize = 200;

fn cases() -> Vec<Case> {
    let all = |rows: usize, keys: u32| vec![(0, 0, keys); rows];
    let case = |name, heads, kv_heads, head_dim, rows| Case { name, heads, kv_heads, head_dim, rows, scale: 1.0 };
    vec![
        case("one row, one key", 1, 1, 8, all(1, 1)),
        case("every row sees all", 4, 4, 16, all(37, 37)),
        case("grouped heads, odd dimension", 6, 2, 10, all(21, 65)),
        case("causal", 2, 1, 64, (0..40).map(|i| (0, 0, i + 1)).collect()),
        case("window", 2, 2, 80, (0..50).map(|i: u32| (0, i.saturating_sub(7), i + 1)).collect()),
        case(
            "blocks of two stores, interleaved",
            2,
            2,
            32,
            (0..24).map(|i| (i / 5 % 2, i / 5 % 2 * 100, i / 5 % 2 * 100 + 50)).collect(),
        ),
        case("few rows, many keys", 2, 2, 128, all(3, 200)),
        case("large heads", 1, 1, 256, all(9, 33)),
        // Scores of thousands: without a running maximum exp overflows.
        Case { scale: 60.0, ..case("large scores", 2, 2, 64, all(18, 70)) },
    ]
}

/// Runs every case.
pub fn run(h: &mut Harness) {
    for case in &cases() {
        for software in [false, true] {
            check(h, case, software);
        }
    }
}

fn check(h: &mut Harness, c: &Case, software: bool) {
    let (stride, width) = ((c.heads + 2 * c.kv_heads) * c.head_dim, c.kv_heads * c.head_dim);
    let qkv = uniform(1, c.rows.len() * stride, c.scale);
    let (keys, values) = (uniform(2, SLOTS * width, c.scale), uniform(3, SLOTS * width, 1.0));
    let row = |(_, key_start, key_end): &(u32, u32, u32)| RowRecord {
        key_start: *key_start,
        key_end: *key_end,
        ..RowRecord::default()
    };
    let rows: Vec<_> = c.rows.iter().map(row).collect();
    let stores: Vec<_> = c.rows.iter().map(|r| r.0).collect();
    let tiles = attention::tiles(&rows, &stores, attention::tile(c.head_dim as u32).0);
    let scale = 1.0 / (c.head_dim as f32).sqrt();
    let params = attention::Params {
        q_stride: stride as u32,
        kv_stride: width as u32,
        group: (c.heads / c.kv_heads) as u32,
        scale,
    };
    let device = [h.upload(&tiles), h.upload(&rows), h.upload(&qkv), h.upload(&keys), h.upload(&values)];
    let out = h.poisoned(c.rows.len() * c.heads * c.head_dim);
    let tensors = [&device[0], &device[1], &device[2], &device[3], &device[4], &out];
    let grid = attention::grid(tiles.len() as u32, c.heads as u32);
    h.run(
        sizes(rows.len(), 1, tiles.len()),
        &[(attention::spec(software, c.head_dim as u32), &tensors[..], params, grid)],
    );

    let reference = reference(c, &widen(&qkv), &widen(&keys), &widen(&values));
    let tolerance = if c.scale > 1.0 {
        // exp turns the rounding of a score of thousands into a relative error of 1e-4.
        Tolerance { relative_l2: 1e-3, relative_max: 5e-3 }
    } else {
        Tolerance::F32_TRANSCENDENTAL
    };
    tolerance.check(&format!("attention, {}", c.name), &h.download(&out, reference.len()), &reference);
}

/// Attention in float64.
pub(super) fn reference(c: &Case, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let (stride, width) = ((c.heads + 2 * c.kv_heads) * c.head_dim, c.kv_heads * c.head_dim);
    let scale = 1.0 / (c.head_dim as f32).sqrt();
    let mut reference = Vec::new();
    for (r, (_, start, end)) in c.rows.iter().enumerate() {
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
    }
    reference
}
