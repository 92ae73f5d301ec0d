//! The training loss against what the inference path says of the same tokens.

use std::path::Path;

use remask_burn::train::batch::Sampler;
use remask_burn::train::corpus::Tokens;
use remask_burn::train::{run, weights};
use remask_burn::{CpuBackend, Device};
use remask_core::decode::Work;
use remask_core::scheduler::logits;
use remask_core::{Backend, DType, Model, Row, Select};

/// Cross-entropy of the masked tokens in float64, from logits of the CPU backend.
fn expected(model: &Model, batch: &remask_burn::train::batch::Batch) -> f64 {
    let mut backend = CpuBackend::load(model, None, &mut |_| ()).unwrap();
    let (a, length) = (&model.architecture, batch.length);
    let mut rows = Vec::new();
    for sequence in batch.seen.chunks(length) {
        let store = backend.create_store(length as u32).unwrap();
        rows.extend((0..).zip(sequence).map(|(position, token)| Row::of_canvas(a, store, position, *token, length)));
    }
    let select = batch.masked.iter().map(|at| Select::logits(*at, *at % length)).collect();
    let work = Work { rows, select, suppressed: Vec::new(), full_rows: 0 };
    let logits = pollster::block_on(logits(&mut backend, &work)).unwrap();
    let one = |(row, (target, weight)): (&[f32], (&u32, &f32))| {
        let sum: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
        (sum.ln() - f64::from(row[*target as usize])) * f64::from(*weight)
    };
    logits.chunks(backend.head_rows()).zip(batch.targets.iter().zip(&batch.weights)).map(one).sum()
}

#[test]
fn the_loss_is_that_of_the_inference_path() {
    for name in ["llada-mha", "llada-gqa-tied"] {
        let model = Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)).unwrap();
        let a = &model.architecture;
        // The golden model as trained weights, by the container that checkpoints are made of.
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name).join("model.safetensors");
        let device = Device::flex().autodiff();
        let restored = weights::restore(a, &model.tensors, std::fs::read(&file).unwrap(), &device).unwrap();
        let again = weights::container(&model.tensors, &restored, DType::F32).unwrap();
        let restored = weights::restore(a, &model.tensors, again, &device).unwrap();

        let pairs = vec![((0..9).collect(), (20..33).collect()), ((3..8).collect(), (40..50).collect())];
        let tokens = Tokens { stream: (0..180).map(|i| i * 7 % 190).collect(), pairs, too_long: 0 };
        let mask = model.vocabulary.mask.unwrap();
        let sampler = Sampler { tokens: &tokens, sequences: 5, length: 24, pairs: 0.5, mask, pad: 3, seed: 1 };
        for step in 0..4 {
            let batch = sampler.batch(step);
            let loss = run::loss(&restored, a, &batch, &device).into_scalar::<f32>();
            let expected = expected(&model, &batch);
            assert!((f64::from(loss) - expected).abs() < 1e-5 * expected, "{name}, step {step}: {loss} for {expected}");
        }
    }
}
