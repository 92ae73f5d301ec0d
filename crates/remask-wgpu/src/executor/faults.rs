//! What goes wrong in one pass does not outlive it.

use remask_core::families::parse_config;
use remask_core::{Answer, Backend, Candidate, Keys, Row, Select, StoreId, TokenSet, Want};

use super::*;
use crate::gpu::LimitChoice;

const LENGTH: u32 = 19;

/// Two small layers with 256 ids and so many positions.
fn backend(positions: u32) -> WgpuBackend {
    let config = format!(
        r#"{{"architectures": ["LLaDAModelLM"], "d_model": 64, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 64,
        "vocab_size": 256, "max_sequence_length": {positions}, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "weight_tying": false, "mask_token_id": 255, "eos_token_id": 254}}"#
    );
    let a = parse_config("config.json", &config).unwrap().1;
    let gpu = pollster::block_on(Gpu::open(None, LimitChoice::WebGpuDefault)).unwrap();
    let format = remask_core::checkpoint::WeightFormat::F16;
    pollster::block_on(WgpuBackend::random(gpu, a, format)).unwrap()
}

fn rows(store: StoreId, first: u32, count: u32) -> Vec<Row> {
    let keys = Keys { start: 0, end: count };
    (0..count).map(|slot| Row { store, token: slot * 31 % 200, position: first + slot, slot, keys }).collect()
}

fn run(backend: &mut WgpuBackend, rows: &[Row], select: &[Select]) -> Result<Vec<Answer>, BackendError> {
    let suppressed = [TokenSet::new(256).into()];
    pollster::block_on(backend.forward(&Pass { rows, select, suppressed: &suppressed }))
}

fn candidates(backend: &mut WgpuBackend, rows: &[Row]) -> Result<Vec<Candidate>, BackendError> {
    let select: Vec<_> = (0..rows.len()).map(|row| Select::likeliest(row, row)).collect();
    run(backend, rows, &select).map(|answers| answers.iter().filter_map(Answer::candidate).collect())
}

fn logits(backend: &mut WgpuBackend, rows: &[Row], count: usize) -> Result<Vec<Answer>, BackendError> {
    let select: Vec<_> = (0..count).map(|row| Select::logits(row, row)).collect();
    run(backend, rows, &select)
}

#[test]
fn results_can_be_read_after_a_fault() {
    let mut backend = backend(64);
    let store = backend.create_store(LENGTH).unwrap();
    let expected = candidates(&mut backend, &rows(store, 0, LENGTH)).unwrap();
    // The device reports something while results are on their way.
    let staging = backend.activations.host(Slot::Candidates).unwrap().clone();
    let _unusable = backend.gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("of no use"),
        size: 16,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let found = pollster::block_on(backend.gpu.map(&staging, 16));
    assert!(matches!(found, Err(BackendError::Device { .. })), "{found:?}");
    for _ in 0..2 {
        assert_eq!(candidates(&mut backend, &rows(store, 0, LENGTH)).unwrap(), expected);
    }
}

#[test]
fn a_store_that_finds_no_room_fails_its_own_passes_alone() {
    let mut backend = backend(100_000);
    let first = backend.create_store(LENGTH).unwrap();
    let expected = candidates(&mut backend, &rows(first, 0, LENGTH)).unwrap();
    let large = backend.create_store(50_000).unwrap();
    let limits = backend.gpu.profile.limits;
    backend.gpu.profile.limits.buffer = 1 << 20;
    let error = candidates(&mut backend, &rows(large, 0, LENGTH)).unwrap_err();
    assert!(matches!(error, BackendError::Unsupported { .. } | BackendError::OutOfMemory { .. }), "{error}");
    // What the first store holds is still there, for its own passes.
    let some = rows(first, 0, LENGTH)[4..7].to_vec();
    assert_eq!(candidates(&mut backend, &some).unwrap(), expected[4..7]);
    backend.gpu.profile.limits = limits;
    assert_eq!(candidates(&mut backend, &rows(large, 0, LENGTH)).unwrap(), expected);
    assert_eq!(candidates(&mut backend, &some).unwrap(), expected[4..7]);
    // More slots than keys and values can have are refused as what they are.
    backend.gpu.profile.limits.binding = 1 << 20;
    let error = backend.create_store(50_000).unwrap_err();
    assert!(matches!(&error, BackendError::Unsupported { why, .. } if why.contains("4096 slots")), "{error}");
}

#[test]
fn float32_is_gone_over_to_at_once_or_not_at_all() {
    let mut backend = backend(64);
    backend.arithmetic = Arithmetic::Half;
    backend.arena = Arena::new(&backend.architecture, Arithmetic::Half);
    pollster::block_on(backend.arena.reserve(&backend.gpu, 8)).unwrap();
    let keys = backend.arena.entry(0).unwrap()[0].clone();
    let limits = backend.gpu.profile.limits;
    // Keys and values find no room in float32.
    backend.gpu.profile.limits.buffer = keys.size();
    assert!(pollster::block_on(backend.widen()).is_err());
    assert_eq!(backend.arithmetic, Arithmetic::Half);
    assert_eq!(backend.arena.entry(0).unwrap()[0], keys);
    backend.gpu.profile.limits = limits;
    pollster::block_on(backend.widen()).unwrap();
    assert_eq!(backend.arithmetic, Arithmetic::Full);
    let store = backend.create_store(LENGTH).unwrap();
    assert_eq!(candidates(&mut backend, &rows(store, 0, LENGTH)).unwrap().len(), LENGTH as usize);
}

#[test]
fn as_many_rows_as_the_device_takes_are_computed() {
    let mut backend = backend(64);
    let store = backend.create_store(40).unwrap();
    backend.gpu.profile.limits.workgroups = LENGTH;
    assert_eq!(backend.most_rows(), LENGTH as usize);
    assert_eq!(candidates(&mut backend, &rows(store, 0, LENGTH)).unwrap().len(), LENGTH as usize);
    let error = candidates(&mut backend, &rows(store, 0, LENGTH + 1)).unwrap_err();
    assert!(matches!(&error, BackendError::InvalidPass(why) if why.contains("at most 19")), "{error}");
}

#[test]
fn logits_beyond_a_limit_are_refused_and_nothing_is_lost() {
    let mut backend = backend(64);
    let store = backend.create_store(LENGTH).unwrap();
    let rows = rows(store, 0, 10);
    let expected = logits(&mut backend, &rows, 4).unwrap();
    let limits = backend.gpu.profile.limits;
    backend.gpu.profile.limits.binding = 8 * 1024;
    let error = logits(&mut backend, &rows, 9).unwrap_err();
    let BackendError::InvalidPass(why) = &error else { panic!("{error}") };
    assert!(why.contains("logits of 9 rows") && why.contains("8192") && why.contains("fewer"), "{why}");
    backend.gpu.profile.limits = limits;
    // Where making room fails, what was there serves on.
    backend.gpu.profile.limits.buffer = 8 * 1024;
    assert!(pollster::block_on(backend.activations.reserve_logits(&backend.gpu, 16 * 1024)).is_err());
    backend.gpu.profile.limits = limits;
    assert_eq!(logits(&mut backend, &rows, 4).unwrap(), expected);
    assert_eq!(logits(&mut backend, &rows, 9).unwrap()[..4], expected[..4]);
}

/// A model of a million positions loads at WebGPU's default limits; positions and slots are told apart, and pages of
/// rotary tables make room for each other.
#[test]
fn positions_far_away_are_turned_to() {
    let mut backend = backend(1 << 20);
    let store = backend.create_store(LENGTH).unwrap();
    let near = candidates(&mut backend, &rows(store, 0, LENGTH)).unwrap();
    let far = candidates(&mut backend, &rows(store, (1 << 20) - LENGTH, LENGTH)).unwrap();
    // What counts is how far rows are from each other.
    assert_ne!(near, far);
    for (n, f) in near.iter().zip(&far) {
        assert!((n.entropy - f.entropy).abs() < 1e-2, "{n:?} {f:?}");
    }
    // Room for four pages: of 256 positions, eight pairs, eight bytes.
    backend.gpu.profile.limits.binding = 4 * 256 * 8 * 8;
    for _ in 0..2 {
        for first in [100_000, 200_000, 300_000, 400_000, 500_000] {
            candidates(&mut backend, &rows(store, first, LENGTH)).unwrap();
        }
        assert_eq!(candidates(&mut backend, &rows(store, 0, LENGTH)).unwrap(), near);
    }
    let apart: Vec<_> = rows(store, 0, 5).into_iter().map(|row| Row { position: row.position * 1000, ..row }).collect();
    let error = candidates(&mut backend, &apart).unwrap_err();
    assert!(matches!(&error, BackendError::InvalidPass(why) if why.contains("5 pages")), "{error}");
}

/// Every request has its own suppressed ids, whatever sets others have and had.
#[test]
fn sets_of_suppressed_ids_are_of_a_request() {
    let mut backend = backend(64);
    let store = backend.create_store(LENGTH).unwrap();
    let rows = rows(store, 0, LENGTH);
    let likeliest = candidates(&mut backend, &rows).unwrap();
    // Each row of the pass suppresses what it would have chosen, in turns with nothing.
    let sets: Vec<Arc<TokenSet>> = (0..LENGTH as usize)
        .map(|row| {
            let mut set = TokenSet::new(256);
            if row % 2 == 1 {
                set.insert(likeliest[row].token);
            }
            set.into()
        })
        .collect();
    for turn in 0..3 {
        let select = |row: usize| {
            let want = Want::Candidate { temperature: 0.0, key: Default::default(), suppressed: row as u32 };
            Select { want, ..Select::likeliest(row, row) }
        };
        let select: Vec<_> = (0..rows.len()).map(select).collect();
        let pass = Pass { rows: &rows, select: &select, suppressed: &sets };
        let answers = pollster::block_on(backend.forward(&pass)).unwrap();
        for (row, answer) in answers.iter().enumerate() {
            let found = answer.candidate().unwrap();
            assert_eq!(found == likeliest[row], row % 2 == 0, "row {row}, turn {turn}");
            assert!(!sets[row].contains(found.token));
        }
        // A set of another request in between.
        let mut other = TokenSet::new(256);
        other.insert(turn);
        let suppressed = [other.into()];
        let pass = Pass { rows: &rows, select: &[Select::likeliest(0, 0)], suppressed: &suppressed };
        pollster::block_on(backend.forward(&pass)).unwrap();
    }
}

/// Candidates have the same bits whatever else a pass is asked for, and a pass may be asked for nothing.
#[test]
fn candidates_and_logits_come_of_one_pass() {
    let mut backend = backend(64);
    let store = backend.create_store(LENGTH).unwrap();
    let rows = rows(store, 0, LENGTH);
    let expected = candidates(&mut backend, &rows).unwrap();
    let alone = logits(&mut backend, &rows, 3).unwrap();
    let select = (0..6).map(|i| if i % 2 == 0 { Select::logits(i / 2, 0) } else { Select::likeliest(i, 0) });
    let select = select.collect::<Vec<_>>();
    let mixed = run(&mut backend, &rows, &select).unwrap();
    for (i, answer) in mixed.into_iter().enumerate() {
        match answer {
            Answer::Logits(_) => assert_eq!(answer, alone[i / 2]),
            Answer::Candidate(candidate) => assert_eq!(candidate, expected[i]),
        }
    }
    assert_eq!(run(&mut backend, &rows, &[]).unwrap(), []);
}
