//! The fused head and masked confidence selection, with its reduction.

use remask_core::TokenSet;
use remask_core::checkpoint::WeightFormat;
use remask_core::random::{Key, gumbel, threefry};
use remask_wgpu::kernels::gemm::Tile;
use remask_wgpu::kernels::gemv::Few;
use remask_wgpu::kernels::linear::Portable;
use remask_wgpu::kernels::select_reduce::{CandidateRecord, NOT_FINITE};
use remask_wgpu::kernels::{SelectRecord, WEIGHT_FORMATS, head_select, select_reduce};

use super::STEP;
use super::gemm::{block_formats, device_matrix, product};
use super::norm::filled_up;
use crate::data::{Weights, uniform, widen};
use crate::harness::{Harness, sizes};

#[derive(Debug, Clone)]
struct Case {
    rows: usize,
    cols: usize,
    ids: usize,
    scale: f32,
    temperature: f32,
    /// Every n-th id is suppressed, for rows of even number; 0 suppresses none.
    suppress_every: usize,
    bias: bool,
}

fn cases() -> Vec<Case> {
    let case = |rows, cols, ids| Case { rows, cols, ids, scale: 1.0, temperature: 0.0, suppress_every: 0, bias: false };
    vec![
        case(1, 32, 2),
        case(1, 64, 65),
        case(17, 96, 211),
        case(33, 64, 8192),
        case(3, 32, 20_001),
        Case { suppress_every: 3, ..case(20, 64, 256) },
        // Logits of hundreds: exp overflows without the running maximum.
        Case { scale: 300.0, ..case(5, 64, 500) },
        Case { temperature: 1.0, suppress_every: 7, ..case(18, 64, 1000) },
        Case { temperature: 0.3, ..case(2, 128, 4096) },
        Case { bias: true, suppress_every: 2, ..case(7, 50, 1003) },
        Case { bias: true, temperature: 1.0, ..case(19, 64, 300) },
    ]
}

/// Cases of formats that come from GGUF alone, which differ from the others in how a weight is read and in nothing
/// else.
fn block_cases() -> Vec<Case> {
    let case = |rows, cols, ids| Case { rows, cols, ids, scale: 1.0, temperature: 0.0, suppress_every: 0, bias: false };
    vec![Case { suppress_every: 5, ..case(18, 256, 211) }, Case { temperature: 1.0, ..case(3, 768, 500) }]
}

/// Runs every case, ties, and rows that are not finite.
pub fn run(h: &mut Harness) {
    for case in cases().iter().step_by(STEP) {
        // A bias is added whatever the format.
        let formats = WEIGHT_FORMATS.into_iter().filter(|f| f.can_be_made() && f.fits(case.cols));
        for format in formats.filter(|f| !(case.bias && *f != WeightFormat::F32)) {
            let (rows, ids) = (case.rows as u32, case.ids as u32);
            let tiled = [false, true].map(|software| Portable::Tiled(Tile::choose(software, rows, ids)));
            let few = (rows <= Few::MOST_ROWS).then(|| Portable::Few(Few::choose(format, rows, ids, case.cols as u32)));
            for strategy in tiled.into_iter().chain(few) {
                check(h, case, format, strategy.for_head());
            }
        }
    }
    for case in &block_cases() {
        for format in block_formats(case.cols) {
            let few = Portable::Few(Few::choose(format, case.rows as u32, case.ids as u32, case.cols as u32));
            let tiled = Portable::Tiled(Tile::choose(true, case.rows as u32, case.ids as u32));
            check(h, case, format, if case.rows as u32 <= Few::MOST_ROWS { few } else { tiled }.for_head());
        }
    }
    ties(h);
    not_finite(h);
}

/// A head `[ids, cols]` as the device is to keep it, and the kernel that goes over it.
struct Head<'a> {
    weights: &'a Weights,
    bias: Option<&'a [f32]>,
    strategy: Portable,
}

/// Runs head_select and select_reduce over one matrix. Records name sets of `suppressed`.
fn select(
    h: &mut Harness,
    head: &Head,
    x: &[f32],
    select: &[SelectRecord],
    suppressed: &[TokenSet],
) -> Vec<CandidateRecord> {
    let Head { weights, bias, strategy } = *head;
    let (ids, cols) = (weights.shape[0], weights.kept.len() / weights.shape[0]);
    let matrix = device_matrix(h, weights);
    let rows = select.len() as u32;
    let strips = head_select::strips(ids as u32);
    let bits: Vec<_> = suppressed.iter().flat_map(|s| s.words().to_vec()).collect();
    let (device_x, device_select, bits) = (h.upload(&filled_up(x, cols)), h.upload(select), h.upload(&bits));
    let device_bias = bias.map(|b| h.upload(b));
    let (partials, out) = (h.poisoned((strips * rows * 8) as usize), h.poisoned(select.len() * 4));
    let head = head_select::Params {
        cols4: matrix.cols / 4,
        part_rows: ids as u32,
        first: 0,
        first_strip: 0,
        strip_tiles: head_select::strip_tiles(ids as u32),
        words: ids.div_ceil(32) as u32,
        padding: [0; 2],
    };
    let mut tensors = vec![&matrix.parts[0].buffer, &device_x, &partials, &device_select, &bits];
    tensors.extend(device_bias.as_ref());
    let (pass, grid) = (sizes(1, select.len(), 1), head_select::grid(strategy, rows, ids as u32));
    h.run(pass, &[(head_select::spec(weights.format, strategy, bias.is_some()), &tensors[..], head, grid)]);
    let reduce = select_reduce::Params { strips, padding: [0; 3] };
    h.run(pass, &[(select_reduce::spec(), &[&partials, &out][..], reduce, select_reduce::grid(rows))]);
    h.download(&out, select.len())
}

/// Whether a row's candidate has the same bits from every kernel, whatever the other rows.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn same_bits(h: &mut Harness) {
    let (cols, ids, most) = (96, 20_001, 40);
    let x = uniform(1, most * cols, 1.0);
    let record = |row: usize| SelectRecord {
        temperature: (row % 2) as f32,
        key: [7, 11],
        position: row as u32,
        ..SelectRecord::default()
    };
    let records: Vec<_> = (0..most).map(record).collect();
    for format in [WeightFormat::F32, WeightFormat::Q4] {
        let weights = Weights::uniform(2, [ids, cols], 0.5, format);
        for software in [true, false] {
            let tiled = |rows: usize| Portable::Tiled(Tile::choose(software, rows as u32, ids as u32));
            let few = |rows: usize| Portable::Few(Few::choose(format, rows as u32, ids as u32, cols as u32));
            let mut counts: Vec<_> = [1, 5, 17].map(|rows| (rows, tiled(rows))).to_vec();
            // Software adapters are never given the kernel of few rows.
            counts.extend([1, 2, 3, 8].map(|rows| (rows, few(rows))).into_iter().filter(|_| !software));
            let mut run = |rows: usize, strategy: Portable| {
                let head = Head { weights: &weights, bias: None, strategy: strategy.for_head() };
                let found = select(h, &head, &x[..rows * cols], &records[..rows], &[TokenSet::new(ids)]);
                bytemuck::cast_slice::<_, u32>(&found).to_vec()
            };
            let all = run(most, tiled(most));
            for (rows, strategy) in counts {
                assert_eq!(run(rows, strategy), all[..rows * 4], "head_select, {rows} rows, {format} {strategy:?}");
            }
        }
    }
}

fn check(h: &mut Harness, c: &Case, format: WeightFormat, strategy: Portable) {
    let x = uniform(1, c.rows * c.cols, c.scale);
    let weights = Weights::uniform(2, [c.ids, c.cols], 0.5, format);
    let mut suppressed = TokenSet::new(c.ids);
    if c.suppress_every > 0 {
        (0..c.ids).step_by(c.suppress_every).for_each(|id| suppressed.insert(id as u32));
    }
    let sets = [suppressed, TokenSet::new(c.ids)];
    let record = |row: usize| SelectRecord {
        row: row as u32,
        guide: row as u32,
        temperature: c.temperature,
        key: [7, 11],
        position: 100 + row as u32,
        suppressed: row as u32 % 2,
        ..SelectRecord::default()
    };
    let records: Vec<_> = (0..c.rows).map(record).collect();
    let bias = uniform(3, c.ids, 3.0);
    let head = Head { weights: &weights, bias: c.bias.then_some(&bias[..]), strategy };
    let found = select(h, &head, &x, &records, &sets);
    let mut logits = product(&widen(&x), &weights.kept, c.rows, c.cols, c.ids);
    if c.bias {
        logits.iter_mut().enumerate().for_each(|(i, l)| *l += f64::from(bias[i % c.ids]));
    }
    for (row, candidate) in found.iter().enumerate() {
        let name = format!("head_select {c:?} {format} {strategy:?} row {row}");
        let logits = &logits[row * c.ids..(row + 1) * c.ids];
        compare(&name, candidate, logits, &records[row], &sets[row % 2]);
    }
}

/// Compares a candidate with what float64 makes of the same logits.
pub(super) fn compare(
    name: &str,
    candidate: &CandidateRecord,
    logits: &[f64],
    select: &SelectRecord,
    suppressed: &TokenSet,
) {
    let live: Vec<_> = (0..logits.len() as u32).filter(|id| !suppressed.contains(*id)).collect();
    let noise = |id: u32| f64::from(gumbel(threefry(Key(select.key), [select.position, id])));
    let temperature = f64::from(select.temperature);
    let score = |id: u32| logits[id as usize] + if temperature > 0.0 { temperature * noise(id) } else { 0.0 };
    let best = live.iter().copied().fold(live[0], |b, id| if score(id) > score(b) { id } else { b });
    // float32 sums may swap two ids whose scores agree to the last digits.
    let slack = 1e-5 * logits.iter().fold(1f64, |m, l| m.max(l.abs()));
    let token = candidate.token;
    assert!(live.contains(&token), "{name}: token {token} is suppressed or does not exist");
    assert!(
        score(best) - score(token) <= slack,
        "{name}: token {token} scores {}, {best} scores {}",
        score(token),
        score(best)
    );

    let mut sorted: Vec<_> = live.iter().map(|id| logits[*id as usize]).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let sum: f64 = sorted.iter().map(|l| (l - sorted[0]).exp()).sum();
    let share = |l: f64| (l - sorted[0]).exp() / sum;
    let entropy: f64 = -sorted.iter().map(|l| share(*l)).filter(|p| *p > 0.0).map(|p| p * p.ln()).sum::<f64>();
    let margin = share(sorted[0]) - sorted.get(1).map_or(0.0, |l| share(*l));
    let near = |what: &str, computed: f32, expected: f64, tolerance: f64| {
        let d = (f64::from(computed) - expected).abs();
        assert!(d <= tolerance, "{name}: {what} {computed}, expected {expected}");
    };
    near("probability", candidate.probability, share(logits[token as usize]), 2e-5 + slack);
    near("entropy", candidate.entropy, entropy, 1e-4 + 10.0 * slack);
    near("margin", candidate.margin, margin, 2e-5 + 2.0 * slack);
}

/// Equal logits go to the lowest id, across lanes, tiles and strips.
fn ties(h: &mut Harness) {
    let (ids, cols) = (20_000, 32);
    let tied = [70, 71, 200, 9000, 19_999];
    let mut w = uniform(1, ids * cols, 0.01);
    for id in tied {
        w[id * cols..(id + 1) * cols].fill(0.5);
    }
    let weights = Weights::of(&w, cols, WeightFormat::F32);
    let mut suppressed = TokenSet::new(ids);
    let record = SelectRecord::default();
    for expected in tied {
        for strategy in strategies(1) {
            let head = Head { weights: &weights, bias: None, strategy };
            let found = select(h, &head, &[1.0; 32], &[record], std::slice::from_ref(&suppressed));
            assert_eq!(found[0].token as usize, expected, "tie");
            assert!(expected == 19_999 || found[0].margin.abs() < 1e-6, "a tie has no margin: {}", found[0].margin);
        }
        suppressed.insert(expected as u32);
    }
}

/// A NaN or infinite logit marks its row, and only its row.
fn not_finite(h: &mut Harness) {
    let (ids, cols) = (300, 32);
    let weights = Weights::uniform(1, [ids, cols], 0.5, WeightFormat::F32);
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = uniform(2, 3 * cols, 1.0);
        x[cols + 5] = poison;
        let records = [0u32, 1, 2].map(|row| SelectRecord { row, guide: row, ..SelectRecord::default() });
        for strategy in strategies(3) {
            let head = Head { weights: &weights, bias: None, strategy };
            let found = select(h, &head, &x, &records, &[TokenSet::new(ids)]);
            let marked: Vec<_> = found.iter().map(|c| c.token == NOT_FINITE).collect();
            assert_eq!(marked, [false, true, false], "{poison}");
        }
    }
}

/// Both kinds of kernel, for a head of many ids.
fn strategies(rows: u32) -> [Portable; 2] {
    let few = Few::choose(WeightFormat::F32, rows, 20_000, 32);
    [Portable::Tiled(Tile::choose(false, rows, 20_000)), Portable::Few(few)].map(Portable::for_head)
}
