//! Keys and values of texts that begin alike: taken over where rows see nothing behind themselves, told truly, and
//! without a trace in the answer.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use remask::core::request::GenerationRequest;
use remask::{Device, Engine, EngineBuilder, Source};

const BEGINNING: &str = "Once upon a time there was a little dog who lived in a small house with a big red door and";

fn open(model: &str, with: fn(EngineBuilder) -> EngineBuilder) -> Engine {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(model);
    with(Engine::builder().model(Source::path(folder, Device::Cpu.opener(None)))).open().unwrap()
}

/// Text and reused tokens of each of some requests, one after the other.
fn ask(engine: &Engine, prompts: &[String], n: usize) -> Vec<(Vec<String>, usize, usize)> {
    let ask = |prompt: &String| {
        let json = serde_json::json!({
            "prompt": {"text": prompt}, "n": n,
            "settings": {"max_tokens": 12, "temperature": 0.7, "seed": 5},
        });
        let request: GenerationRequest = serde_json::from_value(json).unwrap();
        let answer = engine.complete(&request).unwrap();
        let texts = answer.choices.into_iter().map(|choice| choice.text).collect();
        (texts, answer.usage.prompt_tokens, answer.usage.cached_tokens)
    };
    prompts.iter().map(ask).collect()
}

#[test]
fn a_text_that_begins_like_another_is_not_computed_again() {
    let prompts = ["the dog", "the dog", "a cat"].map(|end| format!("{BEGINNING} {end}"));
    let shared = ask(&open("tales-ar-7m", |builder| builder), &prompts, 2);
    let apart = ask(&open("tales-ar-7m", |builder| builder.share_prefixes(false)), &prompts, 2);
    for ((texts, prompt, cached), (alone, _, none)) in shared.iter().zip(&apart) {
        assert_eq!((texts, *none), (alone, 0));
        assert!(cached < prompt);
    }
    let beginning = shared[0].1 - 3;
    let cached: Vec<_> = shared.iter().map(|(.., cached)| *cached).collect();
    assert_eq!((cached[0], cached[1]), (0, shared[1].1 - 1), "all but the token that the next one is read from");
    assert!(cached[2] >= beginning, "{cached:?}");
}

#[test]
fn a_diffusion_model_shares_nothing() {
    let prompts = ["the dog", "the dog"].map(|end| format!("{BEGINNING} {end}"));
    let answers = ask(&open("tales-33m", |builder| builder), &prompts, 1);
    assert!(answers.iter().all(|(.., cached)| *cached == 0));
}
