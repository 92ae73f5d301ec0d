//! RMSNorm and LayerNorm, alone, after an addend, and with gathered rows and guidance.

use remask_core::architecture::NormKind;
use remask_wgpu::kernels::{SelectRecord, norm, padded};
use remask_wgpu::wgsl::KernelSpec;

use crate::data::uniform;
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

/// (rows, columns, magnitude, mean): one vector, fewer than the workgroup, as many, several an invocation, in some fewer
/// than in others; widths that zeros fill up; large and tiny values, and means far above what differs from them.
const CASES: &[(usize, usize, f32, f32)] = &[
    (1, 4, 1.0, 0.0),
    (3, 64, 1.0, 0.0),
    (7, 512, 1e4, 0.0),
    (2, 4096, 1.0, 0.0),
    (5, 60, 1e-4, 0.0),
    (3, 50, 1.0, 0.0),
    (2, 1025, 1.0, 3.0),
    (3, 3080, 1.0, 0.0),
    (1, 8196, 1.0, 0.0),
    (4, 768, 1.0, 1e4),
    (2, 50, 1.0, -3e4),
];

const EPS: f32 = 1e-5;
const AFTER_EPS: f32 = 1e-6;
const KINDS: [NormKind; 2] = [NormKind::Rms, NormKind::Layer];

/// Runs every case, alone, with an addend of several splits, plain or normalised, and into f16.
pub fn run(h: &mut Harness) {
    saturation(h);
    for &(rows, cols, scale, mean) in CASES {
        for kind in KINDS {
            for (splits, after, half) in
                [(0, false, false), (1, false, false), (2, false, true), (4, true, false), (1, true, true)]
            {
                // Rounding of the sum itself is far more than tolerances allow where the mean is large.
                if splits > 0 && mean != 0.0 {
                    continue;
                }
                let variant = norm::Variant { kind, gather: false, splits, after, half };
                let case = Case::new(rows, cols, [scale, mean], variant);
                plain(h, &case);
                gathered(h, &case);
            }
        }
    }
    let variant = norm::Variant { splits: 8, ..norm::Variant::plain(NormKind::Rms) };
    plain(h, &Case::new(3, 512, [1.0, 0.0], variant));
}

/// What goes into a norm.
struct Case {
    name: String,
    rows: usize,
    cols: usize,
    variant: norm::Variant,
    /// Rows of the width that they have on the device.
    x: Vec<f32>,
    addend: Vec<f32>,
    /// Without the zeros at the end.
    weight: Vec<f32>,
    bias: Vec<f32>,
    after_weight: Vec<f32>,
    /// x with what is added to it, in float64 and without the zeros.
    sums: Vec<f64>,
}

impl Case {
    fn new(rows: usize, cols: usize, [scale, mean]: [f32; 2], variant: norm::Variant) -> Self {
        let splits = variant.splits.max(1) as usize;
        let values = |seed, count: usize, scale: f32| uniform(seed, count, scale);
        let x: Vec<f32> = values(1, rows * cols, scale).iter().map(|v| v + mean).collect();
        let addend = values(3, rows * cols * splits, scale);
        let after_weight = values(4, cols, 2.0);
        let added = |i: usize| addend.chunks(x.len()).map(|s| f64::from(s[i])).sum::<f64>();
        let mut added: Vec<f64> = (0..x.len()).map(added).collect();
        if variant.after {
            let eps = f64::from(AFTER_EPS);
            added = added.chunks(cols).flat_map(|row| rms(row, &after_weight, eps)).collect();
        }
        let used = if variant.splits > 0 { 1.0 } else { 0.0 };
        Self {
            name: format!("norm {rows}x{cols}, {scale} beside {mean}, {variant:?}"),
            rows,
            cols,
            variant,
            sums: x.iter().zip(&added).map(|(v, a)| f64::from(*v) + used * a).collect(),
            x: filled_up(&x, cols),
            addend: filled_up(&addend, cols),
            weight: values(2, cols, 2.0),
            bias: values(5, cols, 1.0),
            after_weight,
        }
    }

    /// Columns on the device.
    fn width(&self) -> usize {
        padded(self.cols as u32) as usize
    }

    fn params(&self, scale: f32) -> norm::Params {
        let split_stride4 = (self.rows * self.width() / 4) as u32;
        norm::Params { eps: EPS, scale, split_stride4, over: 1, after_eps: AFTER_EPS, padding: [0; 3] }
    }

    /// The kernel over all rows or the gathered ones, its buffers being x, out and `selected`.
    fn dispatch(&self, h: &mut Harness, [x, out]: [&wgpu::Buffer; 2], selected: Option<&[SelectRecord]>, scale: f32) {
        let vector = |v: &[f32]| h.upload(&filled_up(v, self.cols));
        let (weight, addend) = (vector(&self.weight), h.upload(&self.addend));
        let bias = (self.variant.kind == NormKind::Layer).then(|| vector(&self.bias));
        let after = self.variant.after.then(|| vector(&self.after_weight));
        let records = selected.map(|s| h.upload(s));
        let mut tensors = vec![x, &weight, out];
        tensors.extend(bias.as_ref());
        tensors.extend(records.as_ref());
        tensors.extend((self.variant.splits > 0).then_some(&addend));
        tensors.extend(after.as_ref());
        let variant = norm::Variant { gather: selected.is_some(), ..self.variant };
        let count = selected.map_or(self.rows, <[_]>::len);
        let dispatch = (spec(h, self.cols, variant), &tensors[..], self.params(scale), norm::grid(count as u32));
        h.run(sizes(self.rows, selected.map_or(1, <[_]>::len), 1), &[dispatch]);
    }

    /// A row of the result, before its bias.
    fn normed(&self, row: usize, scale: f64) -> Vec<f64> {
        let row = &self.sums[row * self.cols..(row + 1) * self.cols];
        let normed = match self.variant.kind {
            NormKind::Rms => rms(row, &self.weight, f64::from(EPS)),
            NormKind::Layer => {
                let mean = row.iter().sum::<f64>() / self.cols as f64;
                rms(&row.iter().map(|v| v - mean).collect::<Vec<_>>(), &self.weight, f64::from(EPS))
            }
        };
        normed.iter().map(|v| v * scale).collect()
    }

    /// The same with the bias.
    fn biased(&self, normed: Vec<f64>, scale: f64) -> Vec<f64> {
        let bias = |c: usize| if self.variant.kind == NormKind::Layer { f64::from(self.bias[c]) * scale } else { 0.0 };
        normed.iter().enumerate().map(|(c, v)| v + bias(c)).collect()
    }

    fn check(&self, h: &Harness, name: &str, out: &wgpu::Buffer, reference: &[f64]) {
        let (width, count) = (self.width(), reference.len() / self.cols * self.width());
        let half = self.variant.half;
        let found: Vec<f32> = if half { h.download_halves(out, count) } else { h.download(out, count) };
        // What is left of the mean's rounding is as large as the last digits of what the mean was taken of.
        let tolerance = if half { Tolerance::F16 } else { Tolerance::F32 };
        tolerance.check(name, &without_end(&found, self.cols), reference);
        let end = found.chunks(width).flat_map(|row| &row[self.cols..]);
        assert!(end.copied().all(|v| v == 0.0), "{name}: zeros behind a row stay zeros");
    }
}

/// All rows; the sum is written back.
fn plain(h: &mut Harness, case: &Case) {
    let (x, out) = (h.upload(&case.x), h.poisoned(case.rows * case.width()));
    case.dispatch(h, [&x, &out], None, 0.5);
    let reference: Vec<_> = (0..case.rows).flat_map(|r| case.biased(case.normed(r, 0.5), 0.5)).collect();
    case.check(h, &case.name, &out, &reference);
    let sums: Vec<f32> = h.download(&x, case.x.len());
    Tolerance::F32.check(&format!("{}: the sum", case.name), &without_end(&sums, case.cols), &case.sums);
}

/// Every row twice, backwards, with the first row as guide.
fn gathered(h: &mut Harness, case: &Case) {
    let record = |i: usize| SelectRecord {
        row: (case.rows - 1 - i / 2) as u32,
        guide: if i.is_multiple_of(2) { (case.rows - 1 - i / 2) as u32 } else { 0 },
        guide_scale: 1.5,
        ..SelectRecord::default()
    };
    let select: Vec<_> = (0..case.rows * 2).map(record).collect();
    let (x, out) = (h.upload(&case.x), h.poisoned(select.len() * case.width()));
    case.dispatch(h, [&x, &out], Some(&select), 1.0);
    let mix = |s: &SelectRecord| {
        let own = case.normed(s.row as usize, 1.0);
        let guide = case.normed(s.guide as usize, 1.0);
        let mixed = guide.iter().zip(&own).map(|(u, c)| u + (f64::from(s.guide_scale) + 1.0) * (c - u)).collect();
        case.biased(if s.guide == s.row { own } else { mixed }, 1.0)
    };
    let reference: Vec<_> = select.iter().flat_map(mix).collect();
    case.check(h, &format!("{}, gathered", case.name), &out, &reference);
}

/// Results in f16 that are too large for it, in some columns; in a second row, one that is no number.
fn saturation(h: &mut Harness) {
    let (rows, cols) = (2, 64);
    let mut x = uniform(1, rows * cols, 1.0);
    let weight: Vec<_> = (0..cols).map(|c| if c % 3 == 0 { 3e5 } else { 2.0 }).collect();
    x[cols + 5] = f32::NAN;
    let buffers = (h.upload(&x), h.upload(&weight), h.poisoned(rows * cols));
    let spec = spec(h, cols, norm::Variant { half: true, ..norm::Variant::plain(NormKind::Rms) });
    let tensors = [&buffers.0, &buffers.1, &buffers.2];
    let params = norm::Params { eps: EPS, scale: 1.0, split_stride4: 0, over: 0, after_eps: 0.0, padding: [0; 3] };
    h.run(sizes(rows, 1, 1), &[(spec, &tensors[..], params, norm::grid(rows as u32))]);
    let computed = h.download_halves(&buffers.2, rows * cols);
    let row: Vec<_> = x[..cols].iter().map(|v| f64::from(*v)).collect();
    let reference = rms(&row, &weight, f64::from(EPS));
    assert!(reference.iter().any(|r| r.abs() > 65504.0), "the case is one of saturation");
    Tolerance::F16.check_saturated("norm beyond f16", &computed[..cols], &reference);
    assert!(computed[cols..].iter().all(|v| v.is_nan()), "NaN stays: {:?}", &computed[cols..]);
}

/// The kernel that the device is given.
fn spec(h: &Harness, cols: usize, variant: norm::Variant) -> KernelSpec {
    norm::spec(norm::Lanes::choose(&h.gpu.profile, cols as u32), variant)
}

/// Rows with zeros behind them, as the device has them.
pub(crate) fn filled_up(rows: &[f32], cols: usize) -> Vec<f32> {
    let end = padded(cols as u32) as usize - cols;
    rows.chunks(cols).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, end))).collect()
}

/// The same rows without them.
pub(super) fn without_end(rows: &[f32], cols: usize) -> Vec<f32> {
    rows.chunks(padded(cols as u32) as usize).flat_map(|row| row[..cols].to_vec()).collect()
}

/// RMSNorm of a row.
fn rms(row: &[f64], weight: &[f32], eps: f64) -> Vec<f64> {
    let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
    row.iter().zip(weight).map(|(v, w)| v / (mean + eps).sqrt() * f64::from(*w)).collect()
}
