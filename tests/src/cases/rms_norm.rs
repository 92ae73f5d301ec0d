//! RMSNorm, alone and with gathered rows and guidance.

use remask_wgpu::kernels::{SelectRecord, rms_norm};
use remask_wgpu::wgsl::KernelSpec;

use crate::data::uniform;
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

/// (rows, columns, magnitude): one vector, fewer than the workgroup, as many, several an invocation, in some fewer
/// than in others; large and tiny values.
const CASES: &[(usize, usize, f32)] =
    &[(1, 4, 1.0), (3, 64, 1.0), (7, 512, 1e4), (2, 4096, 1.0), (5, 60, 1e-4), (3, 3080, 1.0), (1, 8196, 1.0)];

const EPS: f32 = 1e-5;

/// Runs every case, alone, with an addend of several splits, and into f16.
pub fn run(h: &mut Harness) {
    saturation(h);
    for (rows, cols, scale) in CASES {
        for (splits, half) in [(0, false), (1, false), (2, true), (4, false), (8, true)] {
            let x = uniform(1, rows * cols, *scale);
            let weight = uniform(2, *cols, 2.0);
            let addend = uniform(3, rows * cols * splits.max(1), *scale);
            let sums = summed(&x, &addend, splits);
            let buffers = (h.upload(&x), h.upload(&weight), h.poisoned(rows * cols), h.upload(&addend));
            let params = params(*rows, *cols, 0.5);
            let spec = spec(h, *cols, rms_norm::Variant { gather: false, splits: splits as u32, half });
            let tensors = [&buffers.0, &buffers.1, &buffers.2, &buffers.3];
            let tensors = if splits > 0 { &tensors[..] } else { &tensors[..3] };
            h.run(sizes(*rows, 1, 1), &[(spec, tensors, params, rms_norm::grid(*rows as u32))]);
            let reference: Vec<_> = (0..*rows).flat_map(|r| normed(&sums, &weight, r, 0.5)).collect();
            let name = format!("rms_norm {rows}x{cols} and {splits} splits, half {half}");
            if half {
                Tolerance::F16.check(&name, &h.download_halves(&buffers.2, rows * cols), &reference);
            } else {
                Tolerance::F32.check(&name, &h.download(&buffers.2, rows * cols), &reference);
            }
            Tolerance::F32.check(&format!("{name}: the sum"), &h.download(&buffers.0, rows * cols), &sums);
            gathered(h, &x, &weight, *rows, splits);
        }
    }
}

/// Results in f16 that are too large for it, in some columns; in a second row, one that is no number.
fn saturation(h: &mut Harness) {
    let (rows, cols) = (2, 64);
    let mut x = uniform(1, rows * cols, 1.0);
    let weight: Vec<_> = (0..cols).map(|c| if c % 3 == 0 { 3e5 } else { 2.0 }).collect();
    x[cols + 5] = f32::NAN;
    let buffers = (h.upload(&x), h.upload(&weight), h.poisoned(rows * cols));
    let spec = spec(h, cols, rms_norm::Variant { half: true, ..rms_norm::Variant::default() });
    let tensors = [&buffers.0, &buffers.1, &buffers.2];
    let dispatch = (spec, &tensors[..], params(rows, cols, 1.0), rms_norm::grid(rows as u32));
    h.run(sizes(rows, 1, 1), &[dispatch]);
    let computed = h.download_halves(&buffers.2, rows * cols);
    let reference = normed(&x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), &weight, 0, 1.0);
    assert!(reference.iter().any(|r| r.abs() > 65504.0), "the case is one of saturation");
    Tolerance::F16.check_saturated("rms_norm beyond f16", &computed[..cols], &reference);
    assert!(computed[cols..].iter().all(|v| v.is_nan()), "NaN stays: {:?}", &computed[cols..]);
}

/// The kernel that the device is given.
fn spec(h: &Harness, cols: usize, variant: rms_norm::Variant) -> KernelSpec {
    rms_norm::spec(rms_norm::Lanes::choose(&h.gpu.profile, cols as u32), variant)
}

fn params(rows: usize, cols: usize, scale: f32) -> rms_norm::Params {
    rms_norm::Params { eps: EPS, scale, split_stride4: (rows * cols / 4) as u32, over: 1 }
}

/// x and every split of what is added to it.
fn summed(x: &[f32], addend: &[f32], splits: usize) -> Vec<f64> {
    let added = |i: usize| addend.chunks(x.len()).take(splits).map(|s| f64::from(s[i])).sum::<f64>();
    x.iter().enumerate().map(|(i, v)| f64::from(*v) + added(i)).collect()
}

/// Every row twice, backwards, with the first row as guide.
fn gathered(h: &mut Harness, x: &[f32], weight: &[f32], rows: usize, splits: usize) {
    let cols = weight.len();
    let select: Vec<_> = (0..rows * 2)
        .map(|i| SelectRecord {
            row: (rows - 1 - i / 2) as u32,
            guide: if i % 2 == 0 { (rows - 1 - i / 2) as u32 } else { 0 },
            guide_scale: 1.5,
            ..SelectRecord::default()
        })
        .collect();
    let addend = uniform(3, x.len() * splits.max(1), 1.0);
    let sums = summed(x, &addend, splits);
    let buffers = (h.upload(x), h.upload(weight), h.poisoned(select.len() * cols), h.upload(&select));
    let device_addend = h.upload(&addend);
    let tensors = [&buffers.0, &buffers.1, &buffers.2, &buffers.3, &device_addend];
    let tensors = if splits > 0 { &tensors[..] } else { &tensors[..4] };
    let grid = rms_norm::grid(select.len() as u32);
    let spec = spec(h, cols, rms_norm::Variant { gather: true, splits: splits as u32, half: false });
    let params = params(rows, cols, 1.0);
    h.run(sizes(rows, select.len(), 1), &[(spec, tensors, params, grid)]);
    let mix = |s: &SelectRecord| {
        let own = normed(&sums, weight, s.row as usize, 1.0);
        if s.guide == s.row {
            return own;
        }
        let guide = normed(&sums, weight, s.guide as usize, 1.0);
        guide.iter().zip(&own).map(|(u, c)| u + (f64::from(s.guide_scale) + 1.0) * (c - u)).collect()
    };
    let reference: Vec<_> = select.iter().flat_map(mix).collect();
    let computed: Vec<f32> = h.download(&buffers.2, select.len() * cols);
    Tolerance::F32.check(&format!("rms_norm gathered {rows}x{cols}"), &computed, &reference);
}

fn normed(x: &[f64], weight: &[f32], row: usize, scale: f64) -> Vec<f64> {
    let cols = weight.len();
    let row = &x[row * cols..(row + 1) * cols];
    let mean = row.iter().map(|v| v * v).sum::<f64>() / cols as f64;
    let inverse = scale / (mean + f64::from(EPS)).sqrt();
    row.iter().zip(weight).map(|(v, w)| v * inverse * f64::from(*w)).collect()
}
