//! Models of both kinds on one device: their passes take turns, and neither notices the other.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use remask::core::request::GenerationRequest;
use remask::{Collector, Device, Engine, Source};

const MODELS: [&str; 2] = ["tales-33m", "tales-ar-7m"];

/// An engine of these models, all on the best GPU's device, be it a software one.
fn open(models: &[&str]) -> Engine {
    let openers = Device::Gpu(None).openers(None, models.len());
    let folder = |model: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(model);
    let add = |builder: remask::EngineBuilder, (model, opener)| builder.model(Source::path(folder(model), opener));
    models.iter().copied().zip(openers).fold(Engine::builder(), add).open().unwrap()
}

/// The texts of some requests to each model, all under way at once.
fn texts(engine: &Engine) -> Vec<String> {
    let ask = |(model, number): (_, usize)| {
        let json = serde_json::json!({
            "prompt": {"text": format!("There were {number} dogs")},
            "settings": {"max_tokens": 8, "temperature": 0.8, "seed": number},
        });
        let request: GenerationRequest = serde_json::from_value(json).unwrap();
        engine.handle().ask(&model, &request).unwrap()
    };
    let models = engine.handle().models();
    let asked: Vec<_> = models.iter().flat_map(|model| [2, 3].map(|number| ask((model.clone(), number)))).collect();
    let text = |mut events: remask::Events| {
        let mut collector = Collector::of(&events);
        events.by_ref().for_each(|event| collector.take(event).unwrap());
        collector.finish().unwrap().choices.remove(0).text
    };
    asked.into_iter().map(text).collect()
}

#[test]
fn models_share_a_device_and_do_not_notice() {
    let together = texts(&open(&MODELS));
    let apart: Vec<_> = MODELS.iter().flat_map(|model| texts(&open(&[model]))).collect();
    assert_eq!(together, apart);
    assert!(together.iter().all(|text| !text.is_empty()), "{together:?}");
}
