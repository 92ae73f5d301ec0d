//! Arithmetic on one row at a time, in an order that nothing but the row's width decides.

use pulp::Arch;
use rayon::prelude::*;
use remask_core::architecture::{Norm, NormKind};

/// Elements that are kept apart while a row is summed up, so that compilers make vectors of them.
const LANES: usize = 32;

/// Elements that are worth another thread.
const ELEMENTS_A_TASK: usize = 1 << 14;

/// Calls `work` with every row of `x [rows, width]` and its index, on all threads where there is enough to do. What
/// it does with vectors it dispatches itself: a closure that is not inlined here would be without them.
pub(crate) fn each(x: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let width = width.max(1);
    let rows_a_task = (ELEMENTS_A_TASK / width).max(1);
    if x.len() <= rows_a_task * width {
        x.chunks_exact_mut(width).enumerate().for_each(|(row, values)| work(row, values));
        return;
    }
    x.par_chunks_mut(rows_a_task * width).enumerate().for_each(|(task, rows)| {
        rows.chunks_exact_mut(width).enumerate().for_each(|(i, row)| work(task * rows_a_task + i, row));
    });
}

/// Normalises every row of `x [rows, width]`.
pub(crate) fn normalise_each(x: &mut [f32], width: usize, norm: &Norm, weight: &[f32], bias: Option<&[f32]>) {
    let arch = Arch::new();
    each(x, width, |_, row| arch.dispatch(|| normalise(row, norm, weight, bias)));
}

/// Normalises a row.
#[inline(always)]
pub(crate) fn normalise(row: &mut [f32], norm: &Norm, weight: &[f32], bias: Option<&[f32]>) {
    let count = row.len() as f32;
    if norm.kind == NormKind::Layer {
        let mean = sum(row, |v| v) / count;
        row.iter_mut().for_each(|v| *v -= mean);
    }
    let inverse = 1.0 / (sum(row, |v| v * v) / count + norm.eps).sqrt();
    row.iter_mut().zip(weight).for_each(|(v, w)| *v = *v * inverse * w);
    if let Some(bias) = bias {
        row.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
    }
}

/// The sum of `of` each value: lanes first, then the lanes in order.
#[inline(always)]
pub(crate) fn sum(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += of(chunk[lane]);
        }
    }
    sums.iter_mut().zip(rest).for_each(|(sum, v)| *sum += of(*v));
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_agree_with_float64() {
        for width in [1, 5, 32, 64, 77, 1000] {
            let x: Vec<f32> = (0..2 * width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
            let weight: Vec<f32> = (0..width).map(|i| 1.0 + (i % 5) as f32 / 9.0).collect();
            let bias: Vec<f32> = (0..width).map(|i| (i % 7) as f32 - 3.0).collect();
            for (kind, bias) in [(NormKind::Rms, None), (NormKind::Layer, Some(&bias[..])), (NormKind::Layer, None)] {
                let norm = Norm { kind, eps: 1e-5 };
                let mut found = x.clone();
                normalise_each(&mut found, width, &norm, &weight, bias);
                for (x, found) in x.chunks(width).zip(found.chunks(width)) {
                    let of = |f: &dyn Fn(f64) -> f64| x.iter().map(|v| f(f64::from(*v))).sum::<f64>() / width as f64;
                    let mean = if kind == NormKind::Layer { of(&|v| v) } else { 0.0 };
                    let inverse = 1.0 / (of(&|v| (v - mean) * (v - mean)) + 1e-5).sqrt();
                    for i in 0..width {
                        let scaled = (f64::from(x[i]) - mean) * inverse * f64::from(weight[i]);
                        let exact = scaled + bias.map_or(0.0, |b| f64::from(b[i]));
                        assert!((f64::from(found[i]) - exact).abs() < 2e-5, "{kind:?} {width}: {} {exact}", found[i]);
                    }
                }
            }
        }
    }
}
