//! Attention on matrix units.

use remask_wgpu::kernels::{RowRecord, attention, attention_matrix};

use super::attention::{Case, SLOTS, reference};
use crate::data::{rounded, uniform, widen};
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

fn cases() -> Vec<Case> {
    let all = |rows: usize, keys: u32| vec![(0, 0, keys); rows];
    let case = |name, heads, kv_heads, head_dim, rows| Case { name, heads, kv_heads, head_dim, rows, scale: 1.0 };
    vec![
        case("one row, one key", 1, 1, 64, all(1, 1)),
        case("every row sees all", 4, 4, 128, all(37, 37)),
        case("grouped heads", 6, 2, 64, all(21, 65)),
        case("causal", 2, 1, 64, (0..140).map(|i| (0, 0, i + 1)).collect()),
        case("window", 2, 2, 128, (0..190).map(|i: u32| (0, i.saturating_sub(7), i + 1)).collect()),
        case(
            "blocks of two stores, interleaved",
            2,
            2,
            64,
            (0..24).map(|i| (i / 5 % 2, i / 5 % 2 * 100, i / 5 % 2 * 100 + 50)).collect(),
        ),
        case("few rows, many keys", 2, 2, 128, all(3, 200)),
        case("LLaDA-8B's heads", 32, 32, 128, all(64, 130)),
        // Scores of hundreds: without the largest one taken off exp overflows.
        Case { scale: 20.0, ..case("large scores", 2, 2, 64, all(18, 70)) },
    ]
}

/// Runs every case with the tiles of few, of more and of many rows.
pub fn run(h: &mut Harness) {
    for case in &cases() {
        for rows in [1, 100, 1000] {
            check(h, case, rows);
        }
    }
}

/// `pass_rows` is the size of the pass that the tile is made for.
fn check(h: &mut Harness, c: &Case, pass_rows: u32) {
    let (stride, width) = ((c.heads + 2 * c.kv_heads) * c.head_dim, c.kv_heads * c.head_dim);
    let scale = 1.0 / (c.head_dim as f32).sqrt();
    let qkv = uniform(1, c.rows.len() * stride, c.scale);
    let keys = rounded(&uniform(2, SLOTS * width, c.scale));
    let values = rounded(&uniform(3, SLOTS * width, 1.0));
    let row = |(_, key_start, key_end): &(u32, u32, u32)| RowRecord {
        key_start: *key_start,
        key_end: *key_end,
        ..RowRecord::default()
    };
    let rows: Vec<_> = c.rows.iter().map(row).collect();
    let stores: Vec<_> = c.rows.iter().map(|r| r.0).collect();
    let tiles = attention::tiles(&rows, &stores, attention_matrix::tile(pass_rows).0);
    let params = attention::Params {
        q_stride: stride as u32,
        kv_stride: width as u32,
        group: (c.heads / c.kv_heads) as u32,
        scale,
    };
    let halves = |values: &[f32]| values.iter().map(|v| half::f16::from_f32(*v)).collect::<Vec<_>>();
    let device = [h.upload(&tiles), h.upload(&rows), h.upload(&qkv)];
    let stores = [h.upload(&halves(&keys)), h.upload(&halves(&values))];
    let count = c.rows.len() * c.heads * c.head_dim;
    // The kernel rounds scaled queries to f16.
    let q: Vec<_> = qkv.iter().map(|v| half::f16::from_f32(v * scale).to_f64() / f64::from(scale)).collect();
    let reference = reference(c, &q, &widen(&keys), &widen(&values));
    for half in [false, true] {
        let out = h.poisoned(count);
        let tensors = [&device[0], &device[1], &device[2], &stores[0], &stores[1], &out];
        let spec = attention_matrix::spec(c.head_dim as u32, pass_rows, half);
        let grid = attention::grid(tiles.len() as u32, c.heads as u32);
        h.run(sizes(rows.len(), 1, tiles.len()), &[(spec, &tensors[..], params, grid)]);
        let computed: Vec<f32> = if half { h.download_halves(&out, count) } else { h.download(&out, count) };
        // Shares are rounded to f16, whatever the result is.
        let tolerance = Tolerance { relative_l2: 1e-3, relative_max: 3e-3 };
        tolerance.check(
            &format!("attention_matrix, {}, as of {pass_rows} rows, half {half}", c.name),
            &computed,
            &reference,
        );
    }
}
