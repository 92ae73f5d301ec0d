//! Models in GGUF files generate what the models generate that they were made from.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use remask_burn::{BurnBackend, CpuBackend, Device};
use remask_core::chat::{Conversation, MarkedText};
use remask_core::checkpoint::{Bytes, WeightFormat};
use remask_core::golden::{Golden, check_case, check_logits};
use remask_core::tokenizer::TokenizerFiles;
use remask_core::{
    Answer, Backend, DecodeOptions, Keys, Model, Pass, Row, Select, StepReport, TextTokenizer, generate,
};
use remask_testkit::gguf::{Meta, Stored, write, write_mixed};
use remask_testkit::model::made_up;
use remask_wgpu::kernels::gemm_matrix::MatrixTile;
use remask_wgpu::{Gpu, LimitChoice, WgpuBackend, adapters};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn tales() -> Model {
    Model::open(&root().join("models/tales-33m")).unwrap()
}

/// The tokenizer's tokens, types and merges, as llama.cpp's converter lists them.
fn tokenizer_pairs(pre: &str) -> Vec<(String, Meta)> {
    let text = std::fs::read_to_string(root().join("models/tales-33m/tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_str(&text).unwrap();
    let model = &tokenizer["model"];
    let mut tokens: Vec<(u64, String, i32)> = Vec::new();
    tokens.extend(model["vocab"].as_object().unwrap().iter().map(|(t, id)| (id.as_u64().unwrap(), t.clone(), 1)));
    let added = tokenizer["added_tokens"].as_array().unwrap();
    tokens.extend(added.iter().map(|t| (t["id"].as_u64().unwrap(), t["content"].as_str().unwrap().to_owned(), 3)));
    tokens.sort_unstable();
    assert!(tokens.iter().enumerate().all(|(i, t)| t.0 == i as u64), "every id has its token");
    let merge = |m: &Value| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap());
    let merges = model["merges"].as_array().unwrap().iter().map(merge).collect();
    let key = |leaf: &str| format!("tokenizer.ggml.{leaf}");
    vec![
        (key("model"), Meta::Text("gpt2".to_owned())),
        (key("pre"), Meta::Text(pre.to_owned())),
        (key("tokens"), Meta::Texts(tokens.iter().map(|t| t.1.clone()).collect())),
        (key("token_type"), Meta::I32s(tokens.iter().map(|t| t.2).collect())),
        (key("merges"), Meta::Texts(merges)),
        (key("add_bos_token"), Meta::Bool(true)),
    ]
}

fn converted(stored: Stored) -> Model {
    let bytes = write(&tales(), stored, tokenizer_pairs("smollm"));
    Model::from_gguf("tales.gguf", Bytes::Owned(bytes), None).unwrap()
}

fn say(model: &Model) -> Vec<u32> {
    let content = "What is the capital of France?".to_owned();
    model.encode_chat(&Conversation::ask(content)).unwrap()
}

fn answer(backend: &mut dyn Backend, model: &Model) -> Vec<u32> {
    let options = DecodeOptions { max_tokens: 16, steps: 8, block_length: 16, ..DecodeOptions::default() };
    let mut watch = |_: &StepReport| ControlFlow::Continue(());
    let prompt = say(model);
    let run = generate(backend, &model.architecture, &model.vocabulary, &prompt, &options, &mut watch);
    pollster::block_on(run).unwrap().canvas.tokens().to_vec()
}

fn on_the_cpu(model: &Model, format: Option<WeightFormat>) -> CpuBackend {
    CpuBackend::load(model, format, &mut |_| ()).unwrap()
}

#[test]
fn every_exact_type_answers_as_the_original() {
    let original = tales();
    let cases = [
        (Stored::F32, WeightFormat::F32),
        (Stored::F16, WeightFormat::F16),
        (Stored::Bf16, WeightFormat::Bf16),
        (Stored::Q8_0, WeightFormat::Q8),
        (Stored::Q4_0, WeightFormat::Q4),
    ];
    for (stored, format) in cases {
        let model = converted(stored);
        assert_eq!(model.requantization(None).unwrap(), None, "{stored:?}");
        let mut backend = on_the_cpu(&model, None);
        assert_eq!(backend.info().weights, format.name(), "{stored:?} is kept as it is");
        let found = answer(&mut backend, &model);
        let expected = answer(&mut on_the_cpu(&original, Some(format)), &original);
        assert_eq!(found, expected, "{stored:?}");
        if stored == Stored::Q8_0 {
            let text = model.text().unwrap().decode(&found[say(&model).len()..], true).unwrap();
            assert!(text.starts_with("The capital of France is Paris"), "{text}");
        }
    }
}

#[test]
fn what_is_requantized_was_asked_for_is_measured_and_answers() {
    let model = converted(Stored::Q4_1);
    let note = model.requantization(Some(WeightFormat::Q8)).unwrap().unwrap();
    assert!(note.starts_with("58 matrices of Q4_1 are kept as q8: they change by 0."), "{note}");
    for format in [None, Some(WeightFormat::F16)] {
        assert!(model.requantization(format).unwrap().is_none(), "{format:?} is no other block");
    }
    for (format, kept) in [(None, "q4_1"), (Some(WeightFormat::Q8), "q8")] {
        let mut backend = on_the_cpu(&model, format);
        assert_eq!(backend.info().weights, kept);
        let tokens = answer(&mut backend, &model);
        let text = model.text().unwrap().decode(&tokens[say(&model).len()..], true).unwrap();
        assert!(text.starts_with("The capital of France is"), "{text}");
    }
}

/// Types by tensor, as llama.cpp mixes them and a bit more: within queries, keys and values, and within gate and up.
fn mix(tensor: &str) -> Stored {
    match tensor {
        "token_embd.weight" => Stored::Q6K,
        "output.weight" => Stored::Q5K,
        "blk.0.attn_v.weight" | "blk.0.ffn_down.weight" => Stored::Q6K,
        "blk.1.attn_k.weight" | "blk.0.attn_output.weight" => Stored::Q5_0,
        "blk.1.attn_output.weight" => Stored::Q5_1,
        "blk.1.ffn_up.weight" => Stored::Q5K,
        "blk.1.ffn_down.weight" => Stored::Q4_1,
        _ => Stored::Q4K,
    }
}

/// A model wide enough for matrix units, in such a mix.
fn mixed() -> Model {
    let config = r#"{"architectures": ["LLaDAModelLM"], "d_model": 1024, "n_layers": 2, "n_heads": 16, "n_kv_heads": 4,
        "mlp_hidden_size": 512, "vocab_size": 256, "max_sequence_length": 128, "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5, "weight_tying": false, "mask_token_id": 255, "eos_token_id": 254}"#;
    let original = made_up(config, |_, _| ());
    let mask = vec![("tokenizer.ggml.mask_token_id".to_owned(), Meta::U32(255))];
    Model::from_gguf("mixed.gguf", Bytes::Owned(write_mixed(&original, mix, mask)), None).unwrap()
}

/// Logits of the first so many positions of a text, all of them in one pass.
fn logits(backend: &mut dyn Backend, count: u32) -> Vec<f64> {
    let store = backend.create_store(count).unwrap();
    let keys = Keys { start: 0, end: count };
    let row = |position| Row { store, token: position * 37 % 250, position, slot: position, keys };
    let rows: Vec<_> = (0..count).map(row).collect();
    let select: Vec<_> = (0..rows.len()).map(|row| Select::logits(row, row)).collect();
    let pass = Pass { rows: &rows, select: &select, suppressed: &[] };
    let found = pollster::block_on(backend.forward(&pass)).unwrap();
    backend.release_store(store);
    found.into_iter().filter_map(Answer::logits).flatten().map(f64::from).collect()
}

/// Weights in mixed blocks are computed with as they are stored: against the same model with its weights in float32.
#[test]
fn mixed_blocks_are_computed_with_as_stored() {
    let model = mixed();
    assert_eq!(model.requantization(None).unwrap(), None);
    let mut backends: Vec<(String, Box<dyn Backend>)> =
        vec![("the CPU".to_owned(), Box::new(on_the_cpu(&model, None)))];
    for adapter in &pollster::block_on(adapters()) {
        let gpu = |matrix_units: bool| {
            let mut gpu = pollster::block_on(Gpu::from_adapter(adapter, LimitChoice::Adapter)).unwrap();
            if !matrix_units {
                gpu.profile.matrix_shapes.clear();
            }
            gpu
        };
        let mut kinds = vec![false];
        kinds.extend(MatrixTile::supported(&gpu(true).profile).then_some(true));
        for units in kinds {
            let backend = pollster::block_on(WgpuBackend::load(gpu(units), &model, None, &mut |_| ())).unwrap();
            let name = format!("{}{}", adapter.get_info().name, if units { ", matrix units" } else { "" });
            backends.push((name, Box::new(backend)));
        }
    }
    assert!(backends.len() > 1, "no adapter: install mesa-vulkan-drivers and libvulkan1");
    let mut plain = BurnBackend::dense(&model, Device::flex(), "float32", &mut |_| ()).unwrap();
    for count in [1, 5, 20, 70] {
        let expected = logits(&mut plain, count);
        let size = expected.iter().map(|v| v * v).sum::<f64>().sqrt();
        for (name, backend) in &mut backends {
            let found = logits(backend.as_mut(), count);
            let error = expected.iter().zip(&found).map(|(e, f)| (e - f) * (e - f)).sum::<f64>().sqrt() / size;
            println!("{name}, {count} rows: {error:.1e}");
            // On matrix units weights and activations are rounded to f16.
            let most = if name.ends_with("matrix units") { 3e-3 } else { 1e-5 };
            assert!(error < most, "{name}, {count} rows: {error}");
        }
    }
    for (name, backend) in &backends {
        let kept = backend.info().weights;
        for format in ["q4_k", "q5_k", "q6_k", "q4_1", "q5_0", "q5_1"] {
            assert!(kept.split(", ").any(|k| k == format), "{name}: {format} of {kept}");
        }
    }
}

#[test]
fn the_tokenizer_is_that_of_the_original() {
    let (original, model) = (tales(), converted(Stored::Q8_0));
    let (ours, theirs) = (original.text().unwrap(), model.text().unwrap());
    for text in [
        "Once upon a time, there was a cat who didn't like 1234 mice.",
        "  two  spaces,\n\nnew lines\tand tabs \n ",
        "Größe, naïve café, 日本語 and 🙂🙂; x² + ½ = ¾? \"Quoted\" (yes)",
        "<|mdm_mask|> and <|eot_id|> are text here; I'LL SHOUT, they've said we're he'd",
        "",
    ] {
        let marked = MarkedText::from_user(text);
        let ids = ours.encode(&marked).unwrap();
        assert_eq!(theirs.encode(&marked).unwrap(), ids, "{text:?}");
        assert_eq!(theirs.decode(&ids, true).unwrap(), text);
        // Outside of a user's text the special tokens are what they spell.
        let plain = MarkedText { text: text.to_owned(), user: Vec::new() };
        assert_eq!(theirs.encode(&plain).unwrap(), ours.encode(&plain).unwrap());
    }
    assert_eq!(say(&original), say(&model));
    assert_eq!(original.vocabulary.mask, model.vocabulary.mask);
    assert_eq!(original.vocabulary.stop, model.vocabulary.stop);
    assert_eq!(original.vocabulary.suppressed, model.vocabulary.suppressed);
    // It can be written out, as quantize does.
    let again = TextTokenizer::from_bytes("tokenizer.json", theirs.to_json().unwrap().as_bytes()).unwrap();
    let marked = MarkedText::from_user("Once 12 upon");
    assert_eq!(again.encode(&marked).unwrap(), ours.encode(&marked).unwrap());
}

#[test]
fn a_tokenizer_that_is_not_known_can_be_given() {
    let bytes = || Bytes::Owned(write(&tales(), Stored::Q8_0, tokenizer_pairs("brand-new")));
    let named_mask = bytes();
    let model = Model::from_gguf("m.gguf", named_mask, None).unwrap();
    let error = model.text().err().unwrap().to_string();
    for words in ["m.gguf", "tokenizer.ggml.pre = \"brand-new\"", "smollm", "--tokenizer tokenizer.json"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    let own = TokenizerFiles::of_path(&root().join("models/tales-33m/tokenizer.json")).unwrap();
    let model = Model::from_gguf("m.gguf", bytes(), Some(&own)).unwrap();
    assert_eq!(say(&model), say(&tales()));
}

#[test]
fn settings_that_no_kernel_computes_are_refused() {
    let original = Model::open(&root().join("tests/golden/llada-mha")).unwrap();
    let open = |more: Vec<(&str, Meta)>| {
        let mut more: Vec<_> = more.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        more.push(("tokenizer.ggml.mask_token_id".to_owned(), Meta::U32(original.vocabulary.mask.unwrap())));
        Model::from_gguf("m.gguf", Bytes::Owned(write(&original, Stored::F32, more)), None)
    };
    assert!(open(vec![]).is_ok());
    let cases = [
        (
            vec![
                ("llada.rope.scaling.type", Meta::Text("longrope".into())),
                ("llada.rope.scaling.factor", Meta::F32(2.0)),
            ],
            "rope.scaling.type = longrope",
        ),
        (vec![("llada.attention.key_length", Meta::U32(99))], "key_length: 99"),
        (vec![("split.count", Meta::U32(3))], "llama-gguf-split --merge"),
        (
            vec![("tokenizer.ggml.unknown", Meta::Bool(true)), ("split.count", Meta::Bool(true))],
            "split.count: expected",
        ),
    ];
    for (more, words) in cases {
        let error = open(more).err().unwrap().to_string();
        assert!(error.contains(words) && error.contains("m.gguf"), "{words}: {error}");
    }
    let without_mask = Model::from_gguf("m.gguf", Bytes::Owned(write(&original, Stored::F32, vec![])), None);
    assert!(without_mask.err().unwrap().to_string().contains("mask_token_id"));
}

/// A file by llama.cpp's own writer against the reference's logits and generations, on every adapter.
#[test]
fn a_converted_golden_passes() {
    let folder = root().join("tests/golden/llada-gqa-tied");
    let (model, golden) = (Model::open(&folder.join("model.gguf")).unwrap(), Golden::open(&folder).unwrap());
    let mut backends: Vec<Box<dyn Backend>> = vec![Box::new(on_the_cpu(&model, None))];
    for adapter in &pollster::block_on(adapters()) {
        let gpu = pollster::block_on(Gpu::from_adapter(adapter, LimitChoice::Adapter)).unwrap();
        backends.push(Box::new(pollster::block_on(WgpuBackend::load(gpu, &model, None, &mut |_| ())).unwrap()));
    }
    assert!(backends.len() > 1, "no adapter: install mesa-vulkan-drivers and libvulkan1");
    for mut backend in backends {
        let error = pollster::block_on(check_logits(backend.as_mut(), &model, &golden)).unwrap();
        assert!(error.passes(), "{}: {error:?}", backend.info().backend);
        for case in &golden.cases {
            let result = pollster::block_on(check_case(backend.as_mut(), &model, case)).unwrap().unwrap();
            assert!(result.passes(), "{}: {result:?}", backend.info().backend);
        }
    }
}
