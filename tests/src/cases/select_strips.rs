//! Selections over chunks of logits, with their reduction.

use remask_core::TokenSet;
use remask_wgpu::kernels::select_reduce::{CandidateRecord, NOT_FINITE};
use remask_wgpu::kernels::{SelectRecord, select_reduce, select_strips};

use super::head_select::compare;
use crate::data::{uniform, widen};
use crate::harness::{Harness, sizes};

/// (rows, ids, ids of a chunk, magnitude, temperature, every n-th id is suppressed).
const CASES: &[(usize, usize, usize, f32, f32, usize)] = &[
    (1, 2, 128, 1.0, 0.0, 0),
    (3, 300, 128, 4.0, 0.0, 3),
    (5, 5000, 8192, 4.0, 1.0, 7),
    (2, 9000, 4096, 300.0, 0.0, 0),
];

/// Runs every case, and ties and rows that are not finite.
pub fn run(h: &mut Harness) {
    for &(rows, ids, chunk, scale, temperature, every) in CASES {
        let logits = uniform(1, rows * ids, scale);
        let mut suppressed = TokenSet::new(ids);
        if every > 0 {
            (0..ids).step_by(every).for_each(|id| suppressed.insert(id as u32));
        }
        let record = |row: usize| SelectRecord {
            temperature,
            key: [7, 11],
            position: 100 + row as u32,
            ..SelectRecord::default()
        };
        let records: Vec<_> = (0..rows).map(record).collect();
        let found = select(h, &logits, chunk, &records, &suppressed);
        for (row, candidate) in found.iter().enumerate() {
            let name = format!("select_strips {rows}x{ids} in chunks of {chunk}, row {row}");
            let logits = widen(&logits[row * ids..(row + 1) * ids]);
            compare(&name, candidate, &logits, &records[row], &suppressed);
        }
    }
    let mut tied = vec![0.0; 3 * 5000];
    [70, 300, 4999].into_iter().for_each(|id| tied[id] = 1.0);
    tied[5000 + 17] = f32::NAN;
    tied[10_000 + 4000] = f32::NEG_INFINITY;
    let found = select(h, &tied, 2048, &[SelectRecord::default(); 3], &TokenSet::new(5000));
    assert_eq!(found.iter().map(|c| c.token).collect::<Vec<_>>(), [70, NOT_FINITE, NOT_FINITE]);
}

fn select(
    h: &mut Harness,
    logits: &[f32],
    chunk: usize,
    select: &[SelectRecord],
    suppressed: &TokenSet,
) -> Vec<CandidateRecord> {
    let (rows, ids) = (select.len(), logits.len() / select.len());
    let starts: Vec<_> = (0..ids).step_by(chunk).collect();
    let strips: u32 = starts.iter().map(|s| select_strips::strips(chunk.min(ids - s) as u32)).sum();
    let (records, bits) = (h.upload(select), h.upload(suppressed.words()));
    let (partials, out) = (h.poisoned(strips as usize * rows * 8), h.poisoned(rows * 4));
    let pass = sizes(1, rows, 1);
    let mut first_strip = 0;
    for start in starts {
        let count = chunk.min(ids - start);
        let mut part = vec![f32::NAN; rows * chunk];
        for row in 0..rows {
            part[row * chunk..][..count].copy_from_slice(&logits[row * ids + start..][..count]);
        }
        let device = h.upload(&part);
        let params = select_strips::Params {
            stride: chunk as u32,
            count: count as u32,
            first: start as u32,
            first_strip,
            strip_ids: select_strips::STRIP_IDS,
            words: suppressed.words().len() as u32,
            padding: [0; 2],
        };
        let grid = select_strips::grid(rows as u32, count as u32);
        h.run(pass, &[(select_strips::spec(), &[&device, &partials, &records, &bits][..], params, grid)]);
        first_strip += select_strips::strips(count as u32);
    }
    let params = select_reduce::Params { strips, padding: [0; 3] };
    let grid = select_reduce::grid(rows as u32);
    h.run(pass, &[(select_reduce::spec(), &[&partials, &out][..], params, grid)]);
    h.download(&out, rows)
}
