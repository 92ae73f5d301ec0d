//! Rotary embedding and the K/V write.

use remask_core::architecture::{Rotary, RotaryPairing};
use remask_wgpu::kernels::{RowRecord, rotary};

use crate::data::{uniform, widen};
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rotated: usize,
    pairing: RotaryPairing,
}

/// Whole, partial and no rotation, grouped heads, both pairings.
const CASES: &[Case] = &[
    Case { heads: 4, kv_heads: 4, head_dim: 16, rotated: 16, pairing: RotaryPairing::Halves },
    Case { heads: 6, kv_heads: 2, head_dim: 10, rotated: 10, pairing: RotaryPairing::Halves },
    Case { heads: 2, kv_heads: 1, head_dim: 128, rotated: 64, pairing: RotaryPairing::Halves },
    Case { heads: 2, kv_heads: 2, head_dim: 16, rotated: 8, pairing: RotaryPairing::Interleaved },
    Case { heads: 1, kv_heads: 1, head_dim: 8, rotated: 0, pairing: RotaryPairing::Halves },
];

const SLOTS: usize = 20;

/// Runs every case.
pub fn run(h: &mut Harness) {
    for case in CASES {
        check(h, case);
    }
}

fn check(h: &mut Harness, c: &Case) {
    // Positions far apart, slots in another order than rows.
    let rows: Vec<_> = [(0, 7), (4000, 3), (17, 19)]
        .map(|(position, slot)| RowRecord { position, slot, ..RowRecord::default() })
        .to_vec();
    let (heads, width) = (c.heads + 2 * c.kv_heads, c.kv_heads * c.head_dim);
    let qkv = uniform(1, rows.len() * heads * c.head_dim, 1.0);
    let old = uniform(2, SLOTS * width, 1.0);
    let settings = Rotary { theta: 500_000.0, dims: c.rotated, pairing: c.pairing };
    let table = h.upload(&rotary::table(&settings, 4001));
    let (device_rows, device_qkv) = (h.upload(&rows), h.upload(&qkv));
    let (keys, values) = (h.upload(&old), h.upload(&old));
    let params = rotary::Params { heads: c.heads as u32, kv_heads: c.kv_heads as u32, padding: [0; 2] };
    let spec = rotary::spec(c.head_dim as u32, c.rotated as u32, c.pairing == RotaryPairing::Interleaved);
    let tensors = [&device_rows, &table, &device_qkv, &keys, &values];
    h.run(sizes(rows.len(), 1, 1), &[(spec, &tensors[..], params, rotary::grid(rows.len() as u32))]);

    let source = widen(&qkv);
    let (mut expect_qkv, mut expect_keys, mut expect_values) = (source.clone(), widen(&old), widen(&old));
    for (r, row) in rows.iter().enumerate() {
        for head in 0..heads {
            let at = (r * heads + head) * c.head_dim;
            let plain = &source[at..at + c.head_dim];
            let turned = turn(plain, row.position, &settings);
            let slot = row.slot as usize * width;
            if head < c.heads {
                expect_qkv[at..at + c.head_dim].copy_from_slice(&turned);
            } else if head < c.heads + c.kv_heads {
                expect_keys[slot + (head - c.heads) * c.head_dim..][..c.head_dim].copy_from_slice(&turned);
            } else {
                expect_values[slot + (head - c.heads - c.kv_heads) * c.head_dim..][..c.head_dim].copy_from_slice(plain);
            }
        }
    }
    let name = format!("rotary {}+{} heads of {}, {} {:?}", c.heads, c.kv_heads, c.head_dim, c.rotated, c.pairing);
    Tolerance::F32.check(&format!("{name}: queries"), &h.download(&device_qkv, qkv.len()), &expect_qkv);
    Tolerance::F32.check(&format!("{name}: keys"), &h.download(&keys, old.len()), &expect_keys);
    Tolerance::F32.check(&format!("{name}: values"), &h.download(&values, old.len()), &expect_values);
}

fn turn(head: &[f64], position: u32, r: &Rotary) -> Vec<f64> {
    let mut out = head.to_vec();
    for i in 0..r.dims / 2 {
        let (a, b) = match r.pairing {
            RotaryPairing::Halves => (i, i + r.dims / 2),
            RotaryPairing::Interleaved => (2 * i, 2 * i + 1),
        };
        let (sin, cos) = (f64::from(position) * r.theta.powf(-2.0 * i as f64 / r.dims as f64)).sin_cos();
        out[a] = head[a] * cos - head[b] * sin;
        out[b] = head[b] * cos + head[a] * sin;
    }
    out
}
