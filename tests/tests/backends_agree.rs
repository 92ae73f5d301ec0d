//! wgpu and the CPU generate the same text, token for token.

use std::ops::ControlFlow;
use std::path::Path;

use remask_burn::CpuBackend;
use remask_core::decode::Sampling;
use remask_core::random::{Key, threefry};
use remask_core::{
    Acceptance, Backend, Cache, DecodeOptions, Generation, Model, MorConfig, Order, StepReport, generate,
};
use remask_wgpu::{Gpu, LimitChoice, WgpuBackend, adapters};

const PROMPTS: u32 = 50;

/// A prompt and settings that depend on `number` alone; every decoder gets its share.
fn request(number: u32) -> (Vec<u32>, DecodeOptions) {
    let draw = |i: u32, below: u32| threefry(Key([number, 0xA63]), [i, 0])[0] % below;
    let prompt = (0..1 + draw(0, 40)).map(|i| draw(100 + i, 190)).collect();
    let options = DecodeOptions {
        max_tokens: 16,
        steps: 8,
        block_length: 8,
        acceptance: match number % 3 {
            0 => Acceptance::Threshold(0.3),
            _ => Acceptance::Quota(Order::LowConfidence),
        },
        sampling: Sampling {
            temperature: if number % 5 == 1 { 0.7 } else { 0.0 },
            seed: u64::from(number),
            ..Sampling::default()
        },
        cfg_scale: if number % 5 == 2 { 1.5 } else { 0.0 },
        cache: if number % 5 == 3 { Cache::Dual } else { Cache::None },
        mor: (number % 5 == 4).then(MorConfig::default),
        early_stop: false,
        ..DecodeOptions::default()
    };
    (prompt, options)
}

fn answer(backend: &mut dyn Backend, model: &Model, number: u32) -> Generation {
    let (prompt, options) = request(number);
    let mut watch = |_: &StepReport| ControlFlow::Continue(());
    let run = generate(backend, &model.architecture, &model.vocabulary, &prompt, &options, &mut watch);
    pollster::block_on(run).unwrap()
}

#[test]
fn fifty_prompts_are_answered_alike() {
    let adapters = pollster::block_on(adapters());
    assert!(!adapters.is_empty(), "no adapter, nothing was compared: install mesa-vulkan-drivers and libvulkan1");
    for name in ["llada-mha", "llada-gqa-tied"] {
        let model = Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)).unwrap();
        let mut cpu = CpuBackend::load(&model, None, &mut |_| ()).unwrap();
        let expected: Vec<_> = (0..PROMPTS).map(|number| answer(&mut cpu, &model, number)).collect();
        for adapter in &adapters {
            let gpu = pollster::block_on(Gpu::from_adapter(adapter, LimitChoice::Adapter)).unwrap();
            let mut backend = pollster::block_on(WgpuBackend::load(gpu, &model, None, &mut |_| ())).unwrap();
            for (number, expected) in (0..).zip(&expected) {
                let found = answer(&mut backend, &model, number);
                let differ =
                    (0..expected.canvas.len()).find(|i| expected.canvas.tokens()[*i] != found.canvas.tokens()[*i]);
                let what = format!("{name}, prompt {number}, {}", adapter.get_info().name);
                assert_eq!(differ, None, "{what}: first different position");
                assert_eq!(expected.rows_computed, found.rows_computed, "{what}: rows");
            }
        }
    }
}
