//! Kernels that a device cannot compile are stood in for, tuned ones take the place of the usual, and passes
//! answer the same.

use remask_core::checkpoint::WeightFormat;
use remask_core::{Answer, Backend, BackendError, Candidate, Keys, Model, Pass, Row, Select, StoreId, TokenSet};
use remask_testkit::model::{WIDE, claim_matrix_units, made_up};
use remask_wgpu::kernels::fused;
use remask_wgpu::kernels::gemm::{End, Fused};
use remask_wgpu::kernels::gemm_matrix::MatrixTile;
use remask_wgpu::kernels::gemv::{self, Few};
use remask_wgpu::kernels::linear::{Portable, Shape, Strategy};
use remask_wgpu::tuning::Tuned;
use remask_wgpu::{Gpu, LimitChoice, WgpuBackend, adapters};

const LENGTH: u32 = 40;

fn opened() -> Gpu {
    let adapters = pollster::block_on(adapters());
    let adapter = adapters.last().expect("no adapter: install mesa-vulkan-drivers and libvulkan1");
    pollster::block_on(Gpu::from_adapter(adapter, LimitChoice::Adapter)).unwrap()
}

/// An adapter as it is, but without its matrix units, where it has any.
fn gpu() -> Gpu {
    let mut gpu = opened();
    gpu.profile.matrix_shapes.clear();
    gpu
}

fn load(gpu: Gpu, model: &Model) -> WgpuBackend {
    pollster::block_on(WgpuBackend::load(gpu, model, Some(WeightFormat::F16), &mut |_| ())).unwrap()
}

fn candidates(backend: &mut WgpuBackend, store: StoreId, positions: std::ops::Range<u32>) -> Vec<Candidate> {
    let keys = Keys { start: 0, end: LENGTH };
    let rows: Vec<_> = positions.map(|p| Row { store, token: p * 31 % 200, position: p, slot: p, keys }).collect();
    let select: Vec<_> = (0..rows.len()).map(|row| Select::likeliest(row, row)).collect();
    candidates_of_pass(backend, &rows, &select).unwrap()
}

fn candidates_of_pass(
    backend: &mut WgpuBackend,
    rows: &[Row],
    select: &[Select],
) -> Result<Vec<Candidate>, BackendError> {
    let suppressed = [TokenSet::new(backend.head_rows()).into()];
    let answers = pollster::block_on(backend.forward(&Pass { rows, select, suppressed: &suppressed }))?;
    Ok(answers.iter().filter_map(Answer::candidate).collect())
}

/// A full pass, then some rows over what it stored.
fn two_passes(backend: &mut WgpuBackend) -> Vec<Candidate> {
    let store = backend.create_store(LENGTH).unwrap();
    let mut found = candidates(backend, store, 0..LENGTH);
    found.extend(candidates(backend, store, 3..8));
    found
}

/// Logits of two of five rows.
fn some_logits(backend: &mut WgpuBackend) -> Vec<f32> {
    let store = backend.create_store(LENGTH).unwrap();
    let keys = Keys { start: 0, end: 5 };
    let rows: Vec<_> = (0..5).map(|p| Row { store, token: p * 31, position: p, slot: p, keys }).collect();
    let select = [Select::logits(1, 1), Select::logits(4, 4)];
    logits_of_pass(backend, &rows, &select).unwrap()
}

fn logits_of_pass(backend: &mut WgpuBackend, rows: &[Row], select: &[Select]) -> Result<Vec<f32>, BackendError> {
    let answers = pollster::block_on(backend.forward(&Pass { rows, select, suppressed: &[] }))?;
    Ok(answers.into_iter().filter_map(Answer::logits).flatten().collect())
}

#[track_caller]
fn assert_same(found: &[Candidate], expected: &[Candidate]) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert_eq!(f.token, e.token);
        assert!((f.probability - e.probability).abs() < 1e-5, "{f:?} {e:?}");
    }
}

/// naga refuses the matrix kernels on a device that has no matrix units, whatever its profile says: linear
/// layers become portable ones, and for want of attention on matrix units all becomes float32.
#[test]
fn without_matrix_kernels_portable_ones_compute() {
    if MatrixTile::supported(&opened().profile) {
        println!("this adapter has matrix units: there is nothing to claim");
        return;
    }
    let model = made_up(WIDE, |_, _| ());
    let expected = two_passes(&mut load(gpu(), &model));

    let mut claiming = gpu();
    claim_matrix_units(&mut claiming);
    let mut backend = load(claiming, &model);
    assert_eq!(backend.notes(), [""; 0]);
    assert_same(&two_passes(&mut backend), &expected);
    let notes = backend.notes().join("\n");
    assert!(notes.contains("kernel gemm_matrix_f16") && notes.contains("not used on this device"), "{notes}");

    // One that takes too long is as good as one that fails.
    let mut impatient = gpu();
    claim_matrix_units(&mut impatient);
    impatient.patience = std::time::Duration::ZERO;
    let mut backend = load(impatient, &model);
    assert_same(&two_passes(&mut backend), &expected);
    assert!(backend.notes().iter().any(|n| n.contains("takes longer than 0ns")), "{:?}", backend.notes());
}

/// Where an adapter has matrix units, whole passes on them agree with passes in float32 but for the rounding of
/// activations to f16: every tile, tuned ones too, a head of its own and one that is the embedding. Says how many ran.
#[test]
fn passes_on_matrix_units_agree_with_float32() {
    let tied = WIDE.replace("\"weight_tying\": false", "\"weight_tying\": true");
    let large = WIDE
        .replace("\"mlp_hidden_size\": 256", "\"mlp_hidden_size\": 12288")
        .replace("\"max_sequence_length\": 128", "\"max_sequence_length\": 1024");
    let mut ran = 0;
    for adapter in &pollster::block_on(adapters()) {
        let open = || pollster::block_on(Gpu::from_adapter(adapter, LimitChoice::Adapter)).unwrap();
        if !MatrixTile::supported(&open().profile) {
            continue;
        }
        for (config, lengths) in [(WIDE, &[5u32, 40, 100][..]), (&tied, &[40]), (&large, &[64, 130, 600, 1024])] {
            let model = made_up(config, |_, _| ());
            for format in [WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4] {
                let mut plain = open();
                plain.profile.matrix_shapes.clear();
                let load = |gpu| pollster::block_on(WgpuBackend::load(gpu, &model, Some(format), &mut |_| ())).unwrap();
                let (mut exact, mut halved) = (load(plain), load(open()));
                // As they are chosen, and as they are tuned.
                let tuned = lengths.iter().filter(|n| [5, 100].contains(*n)).map(|n| (*n, true));
                for (length, tune) in lengths.iter().map(|n| (*n, false)).chain(tuned) {
                    if tune {
                        let found = pollster::block_on(halved.tune(length.next_power_of_two())).unwrap();
                        assert!(found.len() == 4 && found.iter().all(|t| t.kernel.tile().is_some()), "{found:?}");
                    }
                    let expected = logits_of(&mut exact, length);
                    let found = logits_of(&mut halved, length);
                    assert_eq!(found.len(), expected.len());
                    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                    let error = norm(&mut found.iter().zip(&expected).map(|(f, e)| f - e));
                    let error = error / norm(&mut expected.iter().copied());
                    assert!(error < 1e-2, "{format}, {length} rows: logits are {error:.1e} off");
                    // The head that selects is the head that tells logits.
                    let vocabulary = halved.head_rows();
                    for (row, candidate) in found.chunks(vocabulary).zip(candidates_of(&mut halved, length)) {
                        let best = row.iter().copied().fold(f32::MIN, f32::max);
                        assert!(row[candidate.token as usize] > best - 1e-3, "{format}, {length} rows: {candidate:?}");
                    }
                }
                assert_eq!(halved.notes(), [""; 0]);
            }
        }
        ran += 1;
    }
    println!("{ran} adapters with matrix units");
}

/// What a backend answers to rows over the whole of a store, eight of them selected.
fn of_spread<T>(
    backend: &mut WgpuBackend,
    length: u32,
    want: fn(usize, usize) -> Select,
    ask: impl FnOnce(&mut WgpuBackend, &[Row], &[Select]) -> Result<T, BackendError>,
) -> T {
    let store = backend.create_store(length).unwrap();
    let keys = Keys { start: 0, end: length };
    let rows: Vec<_> = (0..length).map(|p| Row { store, token: p * 31 % 200, position: p, slot: p, keys }).collect();
    let select: Vec<_> = (0..8).map(|i| i * (length as usize - 1) / 7).map(|row| want(row, row)).collect();
    let answer = ask(backend, &rows, &select);
    backend.release_store(store);
    answer.unwrap()
}

fn logits_of(backend: &mut WgpuBackend, length: u32) -> Vec<f32> {
    of_spread(backend, length, Select::logits, logits_of_pass)
}

fn candidates_of(backend: &mut WgpuBackend, length: u32) -> Vec<Candidate> {
    of_spread(backend, length, Select::likeliest, candidates_of_pass)
}

#[test]
fn another_portable_kernel_stands_in_for_one() {
    let model = made_up(WIDE, |_, _| ());
    let hardware = || {
        let mut gpu = gpu();
        gpu.profile.kind = "DiscreteGpu".to_owned();
        gpu
    };
    let mut usual = load(hardware(), &model);
    let expected = two_passes(&mut usual);
    let mut gpu = hardware();
    for fused in fused() {
        for (rows, out) in [256, 512, 1024, 3072].into_iter().flat_map(|out| [(2, out), (5, out)]) {
            let few = Few::choose(WeightFormat::F16, rows, out, 1024);
            gpu.refuse(&gemv::spec(WeightFormat::F16, few, fused), "a test says so");
        }
    }
    let mut backend = load(gpu, &model);
    assert_same(&two_passes(&mut backend), &expected);
    assert!(backend.notes()[0].contains("a test says so"), "{:?}", backend.notes());
    let (found, expected) = (some_logits(&mut backend), some_logits(&mut usual));
    assert!(found.iter().zip(&expected).all(|(f, e)| (f - e).abs() < 1e-3) && found.len() == expected.len());
}

/// A tuned kernel takes the place of the usual one, for its layer and rows only.
#[test]
fn tuned_kernels_compute_the_same() {
    let model = made_up(WIDE, |_, _| ());
    let mut usual = load(gpu(), &model);
    let expected = two_passes(&mut usual);
    let mut tuned = gpu();
    // 40 rows are in the class of 64; 5 rows are not.
    let shape = Shape { rows: 64, cols: 1024, out: 3072 };
    let default = Portable::choose(&tuned.profile, WeightFormat::F16, shape);
    let others = Portable::candidates(&tuned.profile, WeightFormat::F16, shape);
    let kernel = *others.iter().find(|k| **k != default && matches!(k, Portable::Tiled(_))).expect("another tile");
    let (rows, cols, out) = (shape.rows, shape.cols, shape.out);
    tuned.tuning.add(Tuned {
        format: WeightFormat::F16,
        rows,
        cols,
        out,
        kernel: Strategy::Portable(kernel),
        us: 1.0,
        default_us: 2.0,
    });
    let mut backend = load(tuned, &model);
    assert_same(&two_passes(&mut backend), &expected);
    if backend.gpu().profile.timestamps {
        // Queries, keys and values are computed with their norm.
        let normed = Fused { norm: true, bias: false, end: End::Write };
        let uses = |backend: &mut WgpuBackend, count: u32| {
            let store = backend.create_store(LENGTH).unwrap();
            let keys = Keys { start: 0, end: LENGTH };
            let rows: Vec<_> = (0..count).map(|p| Row { store, token: 1, position: p, slot: p, keys }).collect();
            let suppressed = [TokenSet::new(backend.head_rows()).into()];
            let pass = Pass { rows: &rows, select: &[Select::likeliest(0, 0)], suppressed: &suppressed };
            let spans = pollster::block_on(backend.profile(&pass)).unwrap();
            spans.iter().filter(|(name, _)| *name == kernel.spec(WeightFormat::F16, normed).label()).count()
        };
        // Another layer may have it anyway.
        for (count, more) in [(LENGTH, 1), (5, 0)] {
            assert_eq!(uses(&mut backend, count), uses(&mut usual, count) + more, "{count} rows");
        }
    }

    // What is measured is used at once.
    let found = pollster::block_on(usual.tune(8)).unwrap();
    assert_eq!(found.len(), 4);
    assert!(found.iter().all(|t| t.us <= t.default_us && t.us > 0.0), "{found:?}");
    assert_same(&two_passes(&mut usual), &expected);
}
