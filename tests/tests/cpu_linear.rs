//! The CPU's linear layer against float64, in every weight format.

use remask_burn::panels::{Panels, vector_levels};
use remask_core::checkpoint::{Matrix, WeightFormat};
use remask_core::quantize;
use remask_testkit::cases::gemm::{CASES, product};
use remask_testkit::data::{Weights, checkpoint_of, uniform, widen};
use remask_testkit::tolerance::Tolerance;

const FORMATS: [WeightFormat; 11] = WeightFormat::ALL;

fn check(rows: usize, cols: usize, out: usize, scale: f32, format: WeightFormat) {
    let x = uniform(1, rows * cols, scale);
    let weights = Weights::exactly(2, [out, cols], 0.5, format);
    let panels = Panels::stack(&[weights.matrix()], Some(format)).unwrap();
    let weights = &weights.kept;
    assert_eq!((panels.rows(), panels.cols(), panels.formats()), (out, cols, vec![format]));
    let reference = product(&widen(&x), weights, rows, cols, out);
    let name = format!("[{rows}, {cols}] x [{out}, {cols}] {format}");
    Tolerance::F32.check(&name, &panels.product(&x, rows), &reference);
    let bias = uniform(3, out, 1.0);
    let biased: Vec<_> = reference.iter().zip(bias.iter().cycle()).map(|(r, b)| r + f64::from(*b)).collect();
    Tolerance::F32.check(&name, &panels.product_and_bias(&x, rows, Some(&bias)), &biased);
    for level in vector_levels() {
        Tolerance::F32.check(&format!("{name} by {level:?}"), &panels.product_by(level, &x, rows, None), &reference);
    }
    for row in [0, out / 2, out - 1] {
        assert_eq!(widen(&panels.row(row)), weights[row * cols..(row + 1) * cols], "{name}, row {row}");
    }
}

#[test]
fn products_agree_with_float64() {
    for format in FORMATS {
        for case in CASES.iter().filter(|c| format.fits(c.cols)) {
            check(case.rows, case.cols, case.out, case.scale, format);
        }
        // Every number of rows that a run over a panel can have, and more than one task.
        for rows in (1..27).chain([97, 300]) {
            check(rows, if format.fits(160) { 160 } else { 768 }, 75, 1.0, format);
        }
    }
    // Inner dimensions that only some formats can hold.
    check(5, 1, 33, 1.0, WeightFormat::F32);
    check(5, 129, 33, 1.0, WeightFormat::F32);
    check(50, 44, 33, 1.0, WeightFormat::Bf16);
}

/// Few rows are multiplied in another way than many, by the same operations: a row of a small pass comes
/// to the bits that it has in a large one.
#[test]
fn a_row_does_not_depend_on_the_others() {
    let (rows, out) = (19, 75);
    let bias = uniform(5, out, 1.0);
    for format in FORMATS {
        let cols = if format.fits(160) { 160 } else { 512 };
        let (x, weights) = (uniform(3, rows * cols, 1.0), Weights::exactly(4, [out, cols], 0.5, format));
        let panels = Panels::stack(&[weights.matrix()], Some(format)).unwrap();
        for level in vector_levels() {
            let all = panels.product_by(level, &x, rows, Some(&bias));
            for count in 1..rows {
                let some = panels.product_by(level, &x[..count * cols], count, Some(&bias));
                assert!(some == all[..count * out], "{count} rows of {format} by {level:?}");
            }
        }
    }
}

/// Stacked matrices that end inside a panel lie one after the other.
#[test]
fn matrices_are_stacked_by_rows() {
    let (heights, cols) = ([20, 45, 3], 64);
    let values: Vec<_> = (0..3).map(|i| uniform(10 + i as u32, heights[i] * cols, 0.5)).collect();
    let checkpoints: Vec<_> = (0..3).map(|i| checkpoint_of(&values[i], heights[i], cols)).collect();
    let sources: Vec<_> = (0..3).map(|i| Matrix::open(&checkpoints[i], "w", heights[i], cols).unwrap()).collect();
    let panels = Panels::stack(&sources, None).unwrap();
    let all = values.concat();
    for row in 0..68 {
        assert_eq!(panels.row(row), all[row * cols..(row + 1) * cols], "row {row}");
    }
    let q8 = Panels::stack(&sources, Some(WeightFormat::Q8)).unwrap();
    let (quants, scales) = quantize::q8(&all);
    let back = quantize::dequantize_q8(bytemuck::cast_slice(&quants), bytemuck::cast_slice(&scales));
    assert_eq!(q8.row(66), back[66 * cols..67 * cols]);
}

/// Matrices of several formats in one stack keep theirs: each row is what it is alone, and so are products.
#[test]
fn stacked_matrices_keep_their_formats() {
    let (formats, heights) =
        ([WeightFormat::Q4K, WeightFormat::Q4K, WeightFormat::Q6K, WeightFormat::F32], [20, 45, 3, 64]);
    let (cols, count) = (512, 4);
    let weights = |i: usize| Weights::exactly(20 + i as u32, [heights[i], cols], 0.5, formats[i]);
    let each: Vec<_> = (0..4).map(weights).collect();
    let sources: Vec<_> = each.iter().map(Weights::matrix).collect();
    let panels = Panels::stack(&sources, None).unwrap();
    assert_eq!(panels.formats(), [WeightFormat::Q4K, WeightFormat::Q6K, WeightFormat::F32]);
    let x = uniform(30, count * cols, 1.0);
    let product = panels.product(&x, count);
    let mut first = 0;
    for source in &sources {
        let alone = Panels::stack(&[*source], None).unwrap();
        let part = alone.product(&x, count);
        for row in 0..source.rows {
            assert_eq!(panels.row(first + row), alone.row(row), "row {}", first + row);
            for r in 0..count {
                assert_eq!(product[r * panels.rows() + first + row], part[r * source.rows + row]);
            }
        }
        first += source.rows;
    }
    assert_eq!((panels.rows(), panels.row(first)), (first, vec![0.0; cols]));
}
