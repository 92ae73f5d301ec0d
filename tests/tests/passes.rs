//! The contract of a pass: rows over a key/value store, on every adapter of the machine and on the CPU.

use std::ops::ControlFlow;
use std::path::Path;

use remask_burn::CpuBackend;
use remask_core::decode::Defaults;
use remask_core::{
    Answer, Backend, BackendError, Candidate, Canvas, DecodeSettings, Guide, Keys, Model, Pass, Request, Row, Select,
    StepReport, StoreId, TokenSet, fill_all,
};
use remask_wgpu::{Gpu, LimitChoice, WgpuBackend, adapters};

const LENGTH: u32 = 24;

fn model() -> Model {
    Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/llada-mha")).unwrap()
}

fn on_every_backend(test: fn(&mut dyn Backend)) {
    let adapters = pollster::block_on(adapters());
    assert!(!adapters.is_empty(), "no adapter, nothing was tested: install mesa-vulkan-drivers and libvulkan1");
    for adapter in &adapters {
        test(&mut load(adapter));
    }
    test(&mut CpuBackend::load(&model(), None, &mut |_| ()).unwrap());
}

fn load(adapter: &wgpu::Adapter) -> WgpuBackend {
    let gpu = pollster::block_on(Gpu::from_adapter(adapter, LimitChoice::Adapter)).unwrap();
    pollster::block_on(WgpuBackend::load(gpu, &model(), None, &mut |_| ())).unwrap()
}

/// Rows of `positions` of a canvas whose tokens depend on `seed`, every one seeing all of it.
fn rows(store: StoreId, seed: u32, positions: impl Iterator<Item = u32>) -> Vec<Row> {
    let keys = Keys { start: 0, end: LENGTH };
    positions.map(|p| Row { store, token: (p * 31 + seed * 17) % 200, position: p, slot: p, keys }).collect()
}

fn select(row: usize) -> Select {
    Select::likeliest(row, row)
}

fn forward(backend: &mut dyn Backend, rows: &[Row], select: &[Select]) -> Result<Vec<Candidate>, BackendError> {
    let suppressed = [TokenSet::new(backend.head_rows()).into()];
    let answers = pollster::block_on(backend.forward(&Pass { rows, select, suppressed: &suppressed }))?;
    Ok(answers.iter().filter_map(Answer::candidate).collect())
}

fn candidates(backend: &mut dyn Backend, rows: &[Row]) -> Vec<Candidate> {
    let select: Vec<_> = (0..rows.len()).map(select).collect();
    forward(backend, rows, &select).unwrap()
}

#[track_caller]
fn assert_same(a: &[Candidate], b: &[Candidate]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.token, b.token);
        assert!((a.probability - b.probability).abs() < 1e-6, "{a:?} {b:?}");
        assert!((a.entropy - b.entropy).abs() < 1e-5, "{a:?} {b:?}");
    }
}

/// After a full pass the store holds what the rows need: computing some rows again changes nothing.
#[test]
fn some_rows_over_a_filled_store_equal_all_rows() {
    on_every_backend(|backend| {
        let store = backend.create_store(LENGTH).unwrap();
        let all = candidates(backend, &rows(store, 1, 0..LENGTH));
        let some = [3, 4, 9, 23];
        let again = candidates(backend, &rows(store, 1, some.into_iter()));
        let expected: Vec<_> = some.iter().map(|p| all[*p as usize]).collect();
        assert_same(&again, &expected);
    });
}

/// One pass over two requests equals two passes, and growing the arena keeps a store's contents.
#[test]
fn requests_share_a_pass_without_seeing_each_other() {
    on_every_backend(|backend| {
        let a = backend.create_store(LENGTH).unwrap();
        let alone_a = candidates(backend, &rows(a, 1, 0..LENGTH));
        // Enough stores to outgrow the first arena.
        let others: Vec<_> = (0..16).map(|_| backend.create_store(LENGTH).unwrap()).collect();
        let b = others[15];
        let alone_b = candidates(backend, &rows(b, 2, 0..LENGTH));
        assert_same(&candidates(backend, &rows(a, 1, 5..8)), &alone_a[5..8]);

        let mut both = rows(a, 1, 0..LENGTH);
        both.extend(rows(b, 2, 0..LENGTH));
        let expected: Vec<_> = alone_a.iter().chain(&alone_b).copied().collect();
        assert_same(&candidates(backend, &both), &expected);
    });
}

/// Generations of different lengths and settings get the tokens in common passes that they get alone.
#[test]
fn generations_share_passes_and_stay_themselves() {
    on_every_backend(|backend| {
        let model = model();
        let settings = ["{}", r#"{"preset": "quality", "block_length": 4}"#, r#"{"preset": "fast", "cfg_scale": 1}"#];
        let options: Vec<_> = settings
            .map(|json| serde_json::from_str::<DecodeSettings>(json).unwrap().resolve(&Defaults::default()))
            .into();
        let canvas = |i: usize| Canvas::new(&[3, 1, 4, 1, 5][..2 + i], 6 + 5 * i, model.vocabulary.mask.unwrap());
        let request = |i: usize| Request { canvas: canvas(i), options: options[i].clone() };
        let run = |backend: &mut dyn Backend, requests| {
            let watch = &mut |_: usize, _: &StepReport| ControlFlow::Continue(());
            let run = fill_all(backend, &model.architecture, &model.vocabulary, requests, watch);
            pollster::block_on(run).unwrap()
        };
        let together = run(backend, (0..3).map(request).collect());
        for (i, together) in together.iter().enumerate() {
            let alone = &run(backend, vec![request(i)])[0];
            let (alone, together) = (alone.as_ref().unwrap(), together.as_ref().unwrap());
            assert_eq!(alone.canvas.tokens(), together.canvas.tokens(), "request {i}");
            assert_eq!(alone.rows_computed, together.rows_computed);
        }
    });
}

/// A row that sees only part of the store does not depend on the rest.
#[test]
fn keys_outside_of_a_rows_range_do_not_matter() {
    on_every_backend(|backend| {
        let store = backend.create_store(LENGTH).unwrap();
        let range = |rows: Vec<Row>| -> Vec<Row> {
            rows.into_iter().map(|r| Row { keys: Keys { start: 2, end: 12 }, ..r }).collect()
        };
        let first = candidates(backend, &range(rows(store, 1, 2..12)));
        candidates(backend, &rows(store, 7, (0..2).chain(12..LENGTH)));
        assert_same(&candidates(backend, &range(rows(store, 1, 2..12))), &first);
    });
}

/// Guidance of strength 0 is the conditional row; -1 would be the unconditional one.
#[test]
fn guidance_mixes_two_rows() {
    on_every_backend(|backend| {
        let (c, u) = (backend.create_store(LENGTH).unwrap(), backend.create_store(LENGTH).unwrap());
        let mut both = rows(c, 1, 0..LENGTH);
        both.extend(rows(u, 2, 0..LENGTH));
        let plain = candidates(backend, &both);
        let guided = |scale| Select { guide: Some(Guide { row: LENGTH + 6, scale }), ..select(6) };
        let found = forward(backend, &both, &[guided(0.0), guided(-1.0)]).unwrap();
        assert_same(&found, &[plain[6], plain[LENGTH as usize + 6]]);
    });
}

#[test]
fn invalid_passes_are_refused_before_anything_runs() {
    on_every_backend(|backend| {
        let store = backend.create_store(LENGTH).unwrap();
        let good = rows(store, 1, 0..4)[0];
        let bad = [
            ("no rows", vec![]),
            ("unknown store", vec![Row { store: StoreId(99), ..good }]),
            ("slot past the store", vec![Row { slot: LENGTH, ..good }]),
            ("keys past the store", vec![Row { keys: Keys { start: 0, end: LENGTH + 1 }, ..good }]),
            ("no keys", vec![Row { keys: Keys { start: 3, end: 3 }, ..good }]),
            ("token past the embeddings", vec![Row { token: 211, ..good }]),
            ("one slot twice", vec![good, good]),
        ];
        for (what, rows) in bad {
            let error = forward(backend, &rows, &[select(0)]).unwrap_err();
            assert!(matches!(error, BackendError::InvalidPass(_)), "{what}: {error}");
        }
        assert!(matches!(forward(backend, &[good], &[select(1)]), Err(BackendError::InvalidPass(_))));
        assert!(matches!(backend.create_store(0), Err(BackendError::InvalidPass(_))));
        assert!(matches!(backend.create_store(257), Err(BackendError::InvalidPass(_))));
        assert_eq!(candidates(backend, &rows(store, 1, 0..LENGTH)).len(), LENGTH as usize);
    });
}

/// A lost device is an error, stays one, and a new backend takes over.
#[test]
fn a_lost_device_is_reported_and_replaced() {
    for adapter in &pollster::block_on(adapters()) {
        let mut backend = load(adapter);
        let store = backend.create_store(LENGTH).unwrap();
        let expected = candidates(&mut backend, &rows(store, 1, 0..LENGTH));
        backend.gpu().device.destroy();
        for _ in 0..2 {
            let error = forward(&mut backend, &rows(store, 1, 0..LENGTH), &[select(0)]).unwrap_err();
            assert!(matches!(error, BackendError::DeviceLost(_)), "{error}");
        }
        let mut again = load(adapter);
        let store = again.create_store(LENGTH).unwrap();
        assert_same(&candidates(&mut again, &rows(store, 1, 0..LENGTH)), &expected);
    }
}
