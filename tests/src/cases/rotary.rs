//! Rotary embedding and the K/V write.

use remask_core::architecture::{Rotary, RotaryPairing, RotaryScaling};
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

/// Whole, partial and no rotation, grouped heads, both pairings; heads of four pairs an invocation and of one.
const CASES: &[Case] = &[
    Case { heads: 4, kv_heads: 4, head_dim: 16, rotated: 16, pairing: RotaryPairing::Halves },
    Case { heads: 6, kv_heads: 2, head_dim: 10, rotated: 10, pairing: RotaryPairing::Halves },
    Case { heads: 2, kv_heads: 1, head_dim: 128, rotated: 64, pairing: RotaryPairing::Halves },
    Case { heads: 2, kv_heads: 2, head_dim: 16, rotated: 8, pairing: RotaryPairing::Interleaved },
    Case { heads: 3, kv_heads: 1, head_dim: 128, rotated: 128, pairing: RotaryPairing::Interleaved },
    Case { heads: 2, kv_heads: 1, head_dim: 12, rotated: 4, pairing: RotaryPairing::Interleaved },
    Case { heads: 2, kv_heads: 1, head_dim: 16, rotated: 12, pairing: RotaryPairing::Halves },
    Case { heads: 1, kv_heads: 1, head_dim: 8, rotated: 0, pairing: RotaryPairing::Halves },
];

const SLOTS: usize = 20;

/// Runs every case.
pub fn run(h: &mut Harness) {
    for case in CASES {
        for splits in [1, 2, 8] {
            check::<f32>(h, case, splits, Tolerance::F32);
        }
    }
}

/// Runs every case over stores in f16.
pub fn run_half(h: &mut Harness) {
    for case in CASES {
        check::<half::f16>(h, case, 4, Tolerance::F16);
    }
    saturation(h);
}

/// Keys and values that f16 cannot hold become its largest number, NaN stays; queries are float32.
fn saturation(h: &mut Harness) {
    let rows = h.upload(&[RowRecord::default()]);
    // A buffer of nothing cannot be made.
    let table = h.upload(&[1f32, 0.0]);
    let qkv = [1e6, 2.0, -7e4, 3.0, f32::NAN, 1e30];
    let (qkv, keys, values) = (h.upload(&qkv), h.poisoned(1), h.poisoned(1));
    let variant = rotary::Variant { head_dim: 2, rotated: 0, interleaved: false, splits: 1, half_kv: true };
    let params = rotary::Params { heads: 1, kv_heads: 1, split_stride: 6, padding: 0 };
    let tensors = [&rows, &table, &qkv, &keys, &values];
    h.run(sizes(1, 1, 1), &[(rotary::spec(variant), &tensors[..], params, rotary::grid(variant, 1, 3))]);
    assert_eq!(h.download::<f32>(&qkv, 2), [1e6, 2.0]);
    assert_eq!(h.download_halves(&keys, 2), [-65504.0, 3.0]);
    let values = h.download_halves(&values, 2);
    assert!(values[0].is_nan() && values[1] == 65504.0, "{values:?}");
}

/// `T` is what the stores hold.
fn check<T>(h: &mut Harness, c: &Case, splits: usize, tolerance: Tolerance)
where
    T: bytemuck::Pod,
    f32: From<T>,
    T: Narrow,
{
    // Positions far apart, slots in another order than rows.
    let rows: Vec<_> = [(0, 7), (4000, 3), (17, 19)]
        .map(|(position, slot)| RowRecord { position, slot, turn: position, ..RowRecord::default() })
        .to_vec();
    let (heads, width) = (c.heads + 2 * c.kv_heads, c.kv_heads * c.head_dim);
    let parts: Vec<_> = (0..splits).map(|s| uniform(10 + s as u32, rows.len() * heads * c.head_dim, 1.0)).collect();
    let count = parts[0].len();
    let qkv: Vec<f64> = (0..count).map(|i| parts.iter().map(|p| f64::from(p[i])).sum()).collect();
    let old: Vec<T> = uniform(2, SLOTS * width, 1.0).into_iter().map(T::narrow).collect();
    let settings = Rotary { theta: 500_000.0, dims: c.rotated, pairing: c.pairing, scaling: RotaryScaling::None };
    let table = h.upload(&rotary::table(&settings, 0..4001));
    let (device_rows, device_qkv) = (h.upload(&rows), h.upload(&parts.concat()));
    let (keys, values) = (h.upload(&old), h.upload(&old));
    let params =
        rotary::Params { heads: c.heads as u32, kv_heads: c.kv_heads as u32, split_stride: count as u32, padding: 0 };
    let variant = rotary::Variant {
        head_dim: c.head_dim as u32,
        rotated: c.rotated as u32,
        interleaved: c.pairing == RotaryPairing::Interleaved,
        splits: splits as u32,
        half_kv: size_of::<T>() == 2,
    };
    let grid = rotary::grid(variant, rows.len() as u32, heads as u32);
    let tensors = [&device_rows, &table, &device_qkv, &keys, &values];
    h.run(sizes(rows.len(), 1, 1), &[(rotary::spec(variant), &tensors[..], params, grid)]);

    let widened = |values: &[T]| -> Vec<f64> { values.iter().map(|v| f64::from(f32::from(*v))).collect() };
    let source = qkv;
    let (mut expect_qkv, mut expect_keys, mut expect_values) = (source.clone(), widened(&old), widened(&old));
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
    // Keys and values are left as they were summed from: only queries are written back.
    let first: Vec<f32> = h.download(&device_qkv, count);
    let queries = |values: &[f64]| -> Vec<f64> {
        values.chunks(heads * c.head_dim).flat_map(|row| row[..c.heads * c.head_dim].to_vec()).collect()
    };
    let computed: Vec<f32> = queries(&widen(&first)).into_iter().map(|v| v as f32).collect();
    Tolerance::F32.check(&format!("{name}: queries"), &computed, &queries(&expect_qkv));
    let stored = |buffer| h.download::<T>(buffer, old.len()).into_iter().map(f32::from).collect::<Vec<_>>();
    tolerance.check(&format!("{name}: keys"), &stored(&keys), &expect_keys);
    tolerance.check(&format!("{name}: values"), &stored(&values), &expect_values);
}

/// What stores hold, made from float32.
trait Narrow {
    fn narrow(value: f32) -> Self;
}

impl Narrow for f32 {
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Narrow for half::f16 {
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
}

fn turn(head: &[f64], position: u32, r: &Rotary) -> Vec<f64> {
    let mut out = head.to_vec();
    for i in 0..r.dims / 2 {
        let (a, b) = match r.pairing {
            RotaryPairing::Halves => (i, i + r.dims / 2),
            RotaryPairing::Interleaved => (2 * i, 2 * i + 1),
        };
        [out[a], out[b]] = turn_pair([head[a], head[b]], position, i, r);
    }
    out
}

/// Both elements of pair `i` of a head, turned.
pub(super) fn turn_pair([v, w]: [f64; 2], position: u32, i: usize, r: &Rotary) -> [f64; 2] {
    let (sin, cos) = (f64::from(position) * r.theta.powf(-2.0 * i as f64 / r.dims as f64)).sin_cos();
    [v * cos - w * sin, w * cos + v * sin]
}
