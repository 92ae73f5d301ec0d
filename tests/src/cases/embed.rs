//! Embeddings of tokens and of positions.

use remask_wgpu::kernels::{RowRecord, WEIGHT_FORMATS, embed};

use super::gemm::device_matrix;
use crate::data::{Weights, uniform};
use crate::harness::{Harness, sizes};
use crate::tolerance::Tolerance;

/// Runs every weight format, whole and in two parts.
pub fn run(h: &mut Harness) {
    let ids = 37;
    let rows: Vec<_> = [(0, 9), (36, 36), (5, 0), (5, 1), (17, 9)]
        .map(|(token, position)| RowRecord { token, position, ..RowRecord::default() })
        .to_vec();
    for format in WEIGHT_FORMATS {
        let cols = if format.fits(96) { 96 } else { 768 };
        let table = Weights::uniform(1, [ids, cols], 1.0, format);
        let matrix = device_matrix(h, &table);
        let weights = &matrix.parts[0].buffer;
        for of in [embed::Table::Tokens, embed::Table::Positions] {
            let before = uniform(2, rows.len() * cols, 1.0);
            let (device_rows, positions) = (h.upload(&rows), of == embed::Table::Positions);
            let out = if positions { h.upload(&before) } else { h.poisoned(rows.len() * cols) };
            let params = embed::Params { cols4: cols as u32 / 4, first: 0, part_rows: ids as u32, scale: 2.0 };
            let tensors = [weights, &device_rows, &out];
            let grid = embed::grid(rows.len() as u32);
            h.run(sizes(rows.len(), 1, 1), &[(embed::spec(format, of), &tensors[..], params, grid)]);
            let element = |i: usize| {
                let row = &rows[i / cols];
                let index = if positions { row.position } else { row.token };
                let added = if positions { f64::from(before[i]) } else { 0.0 };
                table.kept[index as usize * cols + i % cols] * 2.0 + added
            };
            let reference: Vec<_> = (0..rows.len() * cols).map(element).collect();
            Tolerance::F32.check(&format!("embed {of:?} {format}"), &h.download(&out, rows.len() * cols), &reference);
        }
    }
    parts(h);
}

/// A part that does not hold a row's token must leave the row alone.
fn parts(h: &mut Harness) {
    let cols = 8;
    let (low, high) = (uniform(1, 3 * cols, 1.0), uniform(2, 2 * cols, 1.0));
    let rows: Vec<_> = [4, 2, 3].map(|token| RowRecord { token, ..RowRecord::default() }).to_vec();
    let (device_low, device_high) = (h.upload(&low), h.upload(&high));
    let (device_rows, out) = (h.upload(&rows), h.poisoned(rows.len() * cols));
    let params = |first, part_rows| embed::Params { cols4: cols as u32 / 4, first, part_rows, scale: 1.0 };
    let spec = embed::spec(remask_core::checkpoint::WeightFormat::F32, embed::Table::Tokens);
    let grid = embed::grid(rows.len() as u32);
    let (first, second) = ([&device_low, &device_rows, &out], [&device_high, &device_rows, &out]);
    h.run(
        sizes(rows.len(), 1, 1),
        &[(spec.clone(), &first[..], params(0, 3), grid), (spec, &second[..], params(3, 2), grid)],
    );
    let row = |token: u32| {
        if token < 3 { &low[token as usize * cols..][..cols] } else { &high[(token as usize - 3) * cols..][..cols] }
    };
    let reference: Vec<_> = rows.iter().flat_map(|r| row(r.token).iter().map(|v| f64::from(*v))).collect();
    Tolerance::F32.check("embed in parts", &h.download(&out, rows.len() * cols), &reference);
}
