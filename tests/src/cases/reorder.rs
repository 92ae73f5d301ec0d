//! Weights from rows to the order of fragments and back.

use half::f16;
use remask_core::checkpoint::WeightFormat;
use remask_wgpu::kernels::{WEIGHT_FORMATS, gemm_matrix};
use remask_wgpu::order::Order;

use super::gemm::device_matrix;
use crate::blocking::block_on;
use crate::data::Weights;
use crate::harness::Harness;

/// (rows, columns).
const CASES: &[(usize, usize)] = &[(128, 128), (256, 384), (128, 256), (384, 1024)];

/// Runs every case in every format and order.
pub fn run(h: &mut Harness) {
    for &(rows, cols) in CASES {
        for format in WEIGHT_FORMATS.into_iter().filter(|f| gemm_matrix::fits(*f, cols as u32, rows as u32)) {
            for order in [Order::Fragments, Order::Paired] {
                check(h, [rows, cols], format, order);
            }
        }
    }
}

fn check(h: &mut Harness, [rows, cols]: [usize; 2], format: WeightFormat, order: Order) {
    let name = format!("reorder {rows}x{cols} {format} {order:?}");
    let weights = Weights::uniform(7, [rows, cols], 0.5, format);
    let mut matrix = device_matrix(h, &weights);
    let words = format.bytes(rows, cols) / 4;
    let by_rows: Vec<u32> = h.download(&matrix.parts[0].buffer, words);
    block_on(matrix.reorder(&mut h.gpu, order)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let fragments: Vec<u32> = h.download(&matrix.parts[0].buffer, words);
    for (i, expected) in weights.kept.iter().enumerate() {
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
    // The planes of formats with nibbles: weights in words, then the bits above them, what 32 columns share, the rest.
    let nibble = || (words[vector(4) + step % 4] >> [0, 16, 4, 20, 8, 24, 12, 28][element] & 0xF) as usize;
    let high = |bits: usize| {
        let of_lane = (tile * (cols / 64) + step / 4) * 32 + lane;
        let place = step % 4 * 4 + element / 2;
        let word = words[rows * cols / 8 + of_lane * bits + place * bits / 16];
        (word >> (element % 2 * 16 + place * bits % 16)) as usize & ((1 << bits) - 1)
    };
    let shared = |bits: usize, plane: usize| {
        let from = rows * cols / 8 + rows * cols / 32 * bits + plane * (rows * cols / 64);
        let word = words[from + ((tile * (cols / 128) + col / 128) * 8 + r % 8) * 4 + col % 128 / 32];
        (word >> (r / 8 * 16)) as u16
    };
    let half = |bits: usize, plane: usize| f16::from_bits(shared(bits, plane)).to_f64();
    let float = |bits: usize, count: usize, i: usize| {
        let from = rows * cols / 8 + rows * cols / 32 * bits + rows * cols / 64;
        let of_block = (tile * (cols / 256) + col / 256) * 8 + r % 8;
        f64::from(f32::from_bits(words[from + of_block * 2 * count + r / 8 * count + i]))
    };
    let whole = |bits: usize| (nibble() + (high(bits) << 4)) as f64;
    let with_minimum = |bits: usize, q: f64| {
        let [s, t] = shared(bits, 0).to_le_bytes().map(f64::from);
        // One rounding, as in float32.
        f64::from((float(bits, 2, 0) * s * q - float(bits, 2, 1) * t) as f32)
    };
    match format {
        WeightFormat::Q4_1 => f64::from((nibble() as f64 * half(0, 0) + half(0, 1)) as f32),
        WeightFormat::Q5_0 => (whole(1) - 16.0) * half(1, 0),
        WeightFormat::Q5_1 => f64::from((whole(1) * half(1, 0) + half(1, 1)) as f32),
        WeightFormat::Q4K => with_minimum(0, nibble() as f64),
        WeightFormat::Q5K => with_minimum(1, whole(1)),
        WeightFormat::Q6K => {
            let scale = shared(2, 0).to_le_bytes()[col % 32 / 16] as i8;
            float(2, 1, 0) * f64::from(scale) * (whole(2) - 32.0)
        }
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
