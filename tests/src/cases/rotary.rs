//! Norms and rotary embedding of heads, and the K/V write.

use remask_wgpu::kernels::{RowRecord, rotary};

use crate::data::{uniform, widen};
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

#[derive(Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rotated: usize,
    interleaved: bool,
    head_norm: bool,
}

const fn case(heads: usize, kv_heads: usize, head_dim: usize, rotated: usize) -> Case {
    Case { heads, kv_heads, head_dim, rotated, interleaved: false, head_norm: false }
}

/// Whole, partial and no rotation, grouped heads, both pairings, norms; heads of four pairs an invocation and of one, heads
/// that divide a workgroup and that do not, the largest.
const CASES: &[Case] = &[
    case(4, 4, 16, 16),
    case(6, 2, 10, 10),
    case(2, 1, 128, 64),
    case(2, 1, 16, 12),
    case(1, 1, 8, 0),
    case(3, 1, 10, 0),
    case(4, 1, 80, 32),
    case(5, 2, 24, 24),
    case(2, 1, 256, 256),
    case(1, 1, 254, 100),
    Case { interleaved: true, ..case(2, 2, 16, 8) },
    Case { interleaved: true, ..case(3, 1, 128, 128) },
    Case { interleaved: true, ..case(2, 1, 12, 4) },
    Case { head_norm: true, ..case(4, 2, 16, 16) },
    Case { head_norm: true, ..case(6, 2, 10, 10) },
    Case { head_norm: true, ..case(13, 3, 24, 24) },
    Case { head_norm: true, ..case(16, 8, 128, 128) },
    Case { head_norm: true, ..case(2, 1, 256, 64) },
    Case { head_norm: true, interleaved: true, ..case(3, 1, 64, 64) },
];

/// Base of the angle progression.
const THETA: f64 = 500_000.0;
const EPS: f32 = 1e-6;

/// `(cos, sin)` of each pair of a head at these positions.
pub(super) fn table(dims: usize, positions: &[u32]) -> Vec<[f32; 2]> {
    let turn = |p: u32, i: usize| {
        let (sin, cos) = angle(p, i, dims).sin_cos();
        [cos as f32, sin as f32]
    };
    let table: Vec<_> = positions.iter().flat_map(|p| (0..dims / 2).map(move |i| turn(*p, i))).collect();
    // Something must be bound where nothing turns.
    if table.is_empty() { vec![[1.0, 0.0]] } else { table }
}

fn angle(position: u32, pair: usize, dims: usize) -> f64 {
    f64::from(position) * THETA.powf(-2.0 * pair as f64 / dims as f64)
}

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
    let table = h.upload(&table(0, &[]));
    let qkv = [1e6, 2.0, -7e4, 3.0, f32::NAN, 1e30];
    let (qkv, keys, values) = (h.upload(&qkv), h.poisoned(1), h.poisoned(1));
    let variant =
        rotary::Variant { head_dim: 2, rotated: 0, interleaved: false, head_norm: false, splits: 1, half_kv: true };
    let params = rotary::Params { heads: 1, kv_heads: 1, split_stride: 6, eps: EPS };
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
    // Positions far apart whose turns lie in another order, slots in another order than rows.
    let positions = [17, 0, 4000];
    let rows: Vec<_> = [(1, 7), (2, 3), (0, 19)]
        .map(|(turn, slot)| RowRecord { turn, position: positions[turn as usize], slot, ..RowRecord::default() })
        .to_vec();
    let (heads, width) = (c.heads + 2 * c.kv_heads, c.kv_heads * c.head_dim);
    let parts: Vec<_> = (0..splits).map(|s| uniform(10 + s as u32, rows.len() * heads * c.head_dim, 1.0)).collect();
    let count = parts[0].len();
    let qkv: Vec<f64> = (0..count).map(|i| parts.iter().map(|p| f64::from(p[i])).sum()).collect();
    let old: Vec<T> = uniform(2, SLOTS * width, 1.0).into_iter().map(T::narrow).collect();
    let norms = [20, 21].map(|seed| uniform(seed, c.head_dim, 2.0));
    let device_norms = h.upload(&norms.concat());
    let table = h.upload(&table(c.rotated, &positions));
    let (device_rows, device_qkv) = (h.upload(&rows), h.upload(&parts.concat()));
    let (keys, values) = (h.upload(&old), h.upload(&old));
    let params =
        rotary::Params { heads: c.heads as u32, kv_heads: c.kv_heads as u32, split_stride: count as u32, eps: EPS };
    let variant = rotary::Variant {
        head_dim: c.head_dim as u32,
        rotated: c.rotated as u32,
        interleaved: c.interleaved,
        head_norm: c.head_norm,
        splits: splits as u32,
        half_kv: size_of::<T>() == 2,
    };
    let grid = rotary::grid(variant, rows.len() as u32, heads as u32);
    let mut tensors = vec![&device_rows, &table, &device_qkv, &keys, &values];
    tensors.extend(c.head_norm.then_some(&device_norms));
    h.run(sizes(rows.len(), 1, 1), &[(rotary::spec(variant), &tensors[..], params, grid)]);

    let widened = |values: &[T]| -> Vec<f64> { values.iter().map(|v| f64::from(f32::from(*v))).collect() };
    let source = qkv;
    let (mut expect_qkv, mut expect_keys, mut expect_values) = (source.clone(), widened(&old), widened(&old));
    for (r, row) in rows.iter().enumerate() {
        for head in 0..heads {
            let at = (r * heads + head) * c.head_dim;
            let plain = &source[at..at + c.head_dim];
            let turned = turn(c, plain, row.position, norms.get(usize::from(head >= c.heads)));
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
    let name = format!("rotary {c:?}, {splits} splits");
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

/// A head of queries or keys as it leaves the kernel.
fn turn(c: &Case, head: &[f64], position: u32, norm: Option<&Vec<f32>>) -> Vec<f64> {
    let mut out = head.to_vec();
    if let (true, Some(norm)) = (c.head_norm, norm) {
        let mean = head.iter().map(|v| v * v).sum::<f64>() / head.len() as f64;
        out.iter_mut().zip(norm).for_each(|(v, w)| *v *= f64::from(*w) / (mean + f64::from(EPS)).sqrt());
    }
    for i in 0..c.rotated / 2 {
        let (a, b) = if c.interleaved { (2 * i, 2 * i + 1) } else { (i, i + c.rotated / 2) };
        [out[a], out[b]] = turn_pair([out[a], out[b]], position, i, c.rotated);
    }
    out
}

/// Both elements of pair `i` of a head of which `dims` elements turn.
pub(super) fn turn_pair([v, w]: [f64; 2], position: u32, i: usize, dims: usize) -> [f64; 2] {
    let (sin, cos) = angle(position, i, dims).sin_cos();
    [v * cos - w * sin, w * cos + v * sin]
}
