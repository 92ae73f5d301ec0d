//! Weights from rows to the order of fragments and back.

use half::f16;
use remask_core::checkpoint::WeightFormat;
use remask_wgpu::order::Order;
use remask_wgpu::weights::DeviceMatrix;

use crate::blocking::block_on;
use crate::data::{checkpoint_of, stored, uniform};
use crate::harness::Harness;

/// (rows, columns).
const CASES: &[(usize, usize)] = &[(128, 128), (256, 384), (384, 1024)];

/// Runs every case in every format and order.
pub fn run(h: &mut Harness) {
    for &(rows, cols) in CASES {
        for format in [WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4] {
            for order in [Order::Fragments, Order::Paired] {
                check(h, [rows, cols], format, order);
            }
        }
    }
}

fn check(h: &mut Harness, [rows, cols]: [usize; 2], format: WeightFormat, order: Order) {
    let name = format!("reorder {rows}x{cols} {format} {order:?}");
    let values = uniform(7, rows * cols, 0.5);
    let checkpoint = checkpoint_of(&values, rows, cols);
    let matrix = DeviceMatrix::from_checkpoint(&h.gpu, &checkpoint, "w", [rows, cols], Some(format));
    let mut matrix = block_on(matrix).unwrap_or_else(|e| panic!("{name}: {e}"));
    let words = format.bytes(rows, cols) / 4;
    let by_rows: Vec<u32> = h.download(&matrix.parts[0].buffer, words);
    block_on(matrix.reorder(&mut h.gpu, order)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let fragments: Vec<u32> = h.download(&matrix.parts[0].buffer, words);
    for (i, expected) in stored(&values, rows, cols, format).iter().enumerate() {
        let found = element(&fragments, [rows, cols], format, order, [i / cols, i % cols]);
        assert_eq!(found, *expected, "{name}, row {} column {}", i / cols, i % cols);
    }
    block_on(matrix.reorder(&mut h.gpu, Order::Rows)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(h.download::<u32>(&matrix.parts[0].buffer, words), by_rows, "{name}: back to rows");
}

/// The weight of a row and column, found as a kernel on matrix units finds it: by tile, step, lane and element.
fn element(words: &[u32], [rows, cols]: [usize; 2], format: WeightFormat, order: Order, [row, col]: [usize; 2]) -> f64 {
    let (tile, r) = match order {
        Order::Paired if row < rows / 2 => (row / 16 * 2, row % 16),
        Order::Paired => ((row - rows / 2) / 16 * 2 + 1, row % 16),
        _ => (row / 16, row % 16),
    };
    let (step, c) = (col / 16, col % 16);
    let lane = (r % 8) * 4 + (c % 8) / 2;
    let element = c % 2 + (c / 8) * 2 + (r / 8) * 4;
    let vector = |steps: usize| ((tile * (cols / 16 / steps) + step / steps) * 32 + lane) * 4;
    let scale = || {
        let quants = words.len() - rows * cols / 64;
        let word = words[quants + ((tile * (cols / 128) + col / 128) * 8 + r % 8) * 4 + col % 128 / 32];
        f16::from_bits((word >> (r / 8 * 16)) as u16).to_f64()
    };
    match format {
        WeightFormat::Q8 => {
            let word = words[vector(2) + step % 2 * 2 + element / 4];
            let byte = word >> [0, 16, 8, 24][element % 4] & 0xFF;
            (f64::from(byte) - 128.0) * scale()
        }
        WeightFormat::Q4 => {
            let nibble = words[vector(4) + step % 4] >> [0, 16, 4, 20, 8, 24, 12, 28][element] & 0xF;
            (f64::from(nibble) - 8.0) * scale()
        }
        _ => f16::from_bits((words[vector(1) + element / 2] >> (element % 2 * 16)) as u16).to_f64(),
    }
}
