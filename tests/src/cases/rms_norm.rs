//! RMSNorm, alone and with gathered rows and guidance.

use remask_wgpu::kernels::{SelectRecord, rms_norm};

use crate::data::{uniform, widen};
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

/// (rows, columns, magnitude): one vector, fewer than the workgroup, more, large and tiny values.
const CASES: &[(usize, usize, f32)] = &[(1, 4, 1.0), (3, 64, 1.0), (7, 512, 1e4), (2, 4096, 1.0), (5, 60, 1e-4)];

const EPS: f32 = 1e-5;

/// Runs every case.
pub fn run(h: &mut Harness) {
    for (rows, cols, scale) in CASES {
        let x = uniform(1, rows * cols, *scale);
        let weight = uniform(2, *cols, 2.0);
        let buffers = (h.upload(&x), h.upload(&weight), h.poisoned(rows * cols));
        let params = rms_norm::Params { cols4: *cols as u32 / 4, eps: EPS, scale: 0.5, padding: 0 };
        let tensors = [&buffers.0, &buffers.1, &buffers.2];
        h.run(sizes(*rows, 1, 1), &[(rms_norm::spec(false), &tensors[..], params, rms_norm::grid(*rows as u32))]);
        let reference: Vec<_> = (0..*rows).flat_map(|r| normed(&x, &weight, r, 0.5)).collect();
        Tolerance::F32.check(&format!("rms_norm {rows}x{cols}"), &h.download(&buffers.2, rows * cols), &reference);

        gathered(h, &x, &weight, *rows);
    }
}

/// Every row twice, backwards, with the first row as guide.
fn gathered(h: &mut Harness, x: &[f32], weight: &[f32], rows: usize) {
    let cols = weight.len();
    let select: Vec<_> = (0..rows * 2)
        .map(|i| SelectRecord {
            row: (rows - 1 - i / 2) as u32,
            guide: if i % 2 == 0 { (rows - 1 - i / 2) as u32 } else { 0 },
            guide_scale: 1.5,
            ..SelectRecord::default()
        })
        .collect();
    let buffers = (h.upload(x), h.upload(weight), h.poisoned(select.len() * cols), h.upload(&select));
    let params = rms_norm::Params { cols4: cols as u32 / 4, eps: EPS, scale: 1.0, padding: 0 };
    let tensors = [&buffers.0, &buffers.1, &buffers.2, &buffers.3];
    let grid = rms_norm::grid(select.len() as u32);
    h.run(sizes(rows, select.len(), 1), &[(rms_norm::spec(true), &tensors[..], params, grid)]);
    let mix = |s: &SelectRecord| {
        let own = normed(x, weight, s.row as usize, 1.0);
        if s.guide == s.row {
            return own;
        }
        let guide = normed(x, weight, s.guide as usize, 1.0);
        guide.iter().zip(&own).map(|(u, c)| u + (f64::from(s.guide_scale) + 1.0) * (c - u)).collect()
    };
    let reference: Vec<_> = select.iter().flat_map(mix).collect();
    let computed: Vec<f32> = h.download(&buffers.2, select.len() * cols);
    Tolerance::F32.check(&format!("rms_norm gathered {rows}x{cols}"), &computed, &reference);
}

fn normed(x: &[f32], weight: &[f32], row: usize, scale: f64) -> Vec<f64> {
    let cols = weight.len();
    let row = widen(&x[row * cols..(row + 1) * cols]);
    let mean = row.iter().map(|v| v * v).sum::<f64>() / cols as f64;
    let inverse = scale / (mean + f64::from(EPS)).sqrt();
    row.iter().zip(weight).map(|(v, w)| v * inverse * f64::from(*w)).collect()
}
