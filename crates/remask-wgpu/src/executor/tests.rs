use std::collections::HashSet;

use remask_core::checkpoint::WeightFormat;
use remask_core::families::parse_config;
use remask_core::{Backend, Select, Trial};

use super::load::FIRST_PASSES;
use super::*;
use crate::gpu::LimitChoice;
use crate::kernels::gemm_matrix::MatrixTile;
use crate::kernels::linear::{Shape, Strategy};

/// Two small layers with so many ids and positions.
fn architecture(vocabulary: u32, positions: u32, tied: bool) -> Architecture {
    let (mask, end) = (vocabulary - 1, vocabulary - 2);
    let config = format!(
        r#"{{"architectures": ["LLaDAModelLM"], "d_model": 64, "n_layers": 2, "n_heads": 4,
        "mlp_hidden_size": 64, "vocab_size": {vocabulary}, "max_sequence_length": {positions}, "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5, "weight_tying": {tied}, "mask_token_id": {mask}, "eos_token_id": {end}}}"#
    );
    parse_config("config.json", &config).unwrap().1
}

#[test]
fn kernels_of_the_first_passes_are_foreseen() {
    let a = architecture(256, 128, false);
    let mut gpu = pollster::block_on(Gpu::open(None, LimitChoice::WebGpuDefault)).unwrap();
    WgpuBackend::foresee(&mut gpu, &a, WeightFormat::Q8).unwrap();
    let foreseen: HashSet<_> = gpu.begun.keys().cloned().collect();
    assert!(foreseen.len() >= 6, "{}", foreseen.len());
    let mut backend = pollster::block_on(WgpuBackend::random(gpu, a, WeightFormat::Q8)).unwrap();
    for (rows, selected) in FIRST_PASSES {
        let trial = pollster::block_on(Trial::new(&mut backend, 256, rows, rows)).unwrap();
        let select: Vec<_> = (0..selected as usize).map(|row| Select::likeliest(row, row)).collect();
        let pass = Pass { select: &select, ..trial.work().pass() };
        assert_eq!(pollster::block_on(backend.forward(&pass)).unwrap().len(), selected as usize);
    }
    let compiled: HashSet<_> = backend.gpu.kernels.keys().cloned().collect();
    let missed: Vec<_> = compiled.difference(&foreseen).map(crate::wgsl::KernelSpec::label).collect();
    assert_eq!(missed, [""; 0], "compiled without having been foreseen");
    assert!(backend.gpu.begun.is_empty(), "foreseen and not used: {}", backend.gpu.begun.len());
}

#[test]
fn stores_keep_their_contents_in_float32() {
    let a = architecture(64, 64, true);
    let gpu = pollster::block_on(Gpu::open(None, LimitChoice::Adapter)).unwrap();
    let mut backend = pollster::block_on(WgpuBackend::random(gpu, a, WeightFormat::F16)).unwrap();
    backend.arithmetic = Arithmetic::Half;
    backend.arena = Arena::new(&backend.architecture, Arithmetic::Half);
    pollster::block_on(backend.arena.reserve(&backend.gpu, 8)).unwrap();
    let stored: Vec<_> = (0..512u16).map(|i| half::f16::from_f32(f32::from(i) / 7.0 - 20.0)).collect();
    let values = backend.arena.entry(1).unwrap()[1].clone();
    backend.gpu.queue.write_buffer(&values, 0, bytemuck::cast_slice(&stored));
    pollster::block_on(backend.widen()).unwrap();

    let widened = &backend.arena.entry(1).unwrap()[1];
    assert_eq!(widened.size(), values.size() * 2);
    let wide = pollster::block_on(backend.gpu.read(widened, 2048)).unwrap();
    let wide: Vec<f32> = bytemuck::pod_collect_to_vec(&wide);
    assert_eq!(wide, stored.iter().map(|h| h.to_f32()).collect::<Vec<_>>());
}

/// Weights in rows take no notice of tiles, so any of them may turn out to be the fastest.
#[test]
fn tiles_are_measured_by_whole_passes() {
    let gpu = pollster::block_on(Gpu::open(None, LimitChoice::Adapter)).unwrap();
    let a = architecture(64, 64, true);
    let mut backend = pollster::block_on(WgpuBackend::random(gpu, a, WeightFormat::F16)).unwrap();
    let trial = pollster::block_on(Trial::new(&mut backend, 64, 8, 8)).unwrap();
    let tiles: Vec<_> = [1, 2, 4].map(|splits| MatrixTile { m: 16, n: 64, k: 128, warps: 4, depth: 1, splits }).into();
    let shape = Shape { rows: 8, cols: 64, out: 64 };
    let mut tune = |tiles| pollster::block_on(backend.fastest_tile(&trial, tiles, WeightFormat::F16, shape)).unwrap();
    assert_eq!(tune(Vec::new()), None);
    let found = tune(tiles.clone()).unwrap();
    assert!(tiles.iter().any(|tile| found.kernel == Strategy::Matrix(*tile)), "{found:?}");
    assert!(found.us > 0.0 && found.us <= found.default_us && found.default_us < 1e9, "{found:?}");
    assert_eq!((found.rows, found.cols, found.out), (8, 64, 64));
    assert!(backend.gpu.tuning.is_empty(), "what was only tried is forgotten");
}

/// A pass like one before is only submitted, since its commands are there. Whatever came between, it answers the same.
#[test]
fn passes_encoded_ahead_answer_the_same() {
    let gpu = pollster::block_on(Gpu::open(None, LimitChoice::Adapter)).unwrap();
    let mut backend =
        pollster::block_on(WgpuBackend::random(gpu, architecture(256, 512, false), WeightFormat::F16)).unwrap();
    let few = pollster::block_on(Trial::new(&mut backend, 256, 8, 8)).unwrap();
    let more = pollster::block_on(Trial::new(&mut backend, 256, 24, 24)).unwrap();
    let mut forward = |pass: &Pass| pollster::block_on(backend.forward(pass)).unwrap();
    let first = [forward(&few.work().pass()), forward(&more.work().pass())];
    for _ in 0..2 {
        assert_eq!([forward(&few.work().pass()), forward(&more.work().pass())], first);
    }
    // A recording serves all sizes that round up to its own.
    let select: Vec<_> = (0..7).map(|row| Select::likeliest(row, row)).collect();
    assert_eq!(forward(&Pass { select: &select, ..few.work().pass() }), first[0][..7]);
    let ready = backend.ahead.len();
    assert_eq!(ready, 2, "a pass of each recording is ready");
    // Larger buffers take the place of those that the commands name.
    let most = pollster::block_on(Trial::new(&mut backend, 256, 300, 300)).unwrap();
    pollster::block_on(backend.forward(&most.work().pass())).unwrap();
    assert_eq!(backend.ahead.len(), 1, "commands of old buffers are dropped");
    assert_eq!(pollster::block_on(backend.forward(&few.work().pass())).unwrap(), first[0]);
}
