//! What is wrong with the input comes out as one line on standard error and status 1.

use std::fs::File;
use std::io::{Seek, Write};

use serde_json::json;

use super::{Scratch, TALES, WEIGHT, generate, golden, refused, remask, run, works};

#[test]
fn broken_models_are_refused_in_one_line() {
    type Spoil = fn(&Scratch);
    let table: &[(&str, Spoil, &[&str])] = &[
        ("no config", |m| m.remove("config.json"), &["config.json", "no such file"]),
        ("a config that is none", |m| m.edit("config.json", |b| b.truncate(40)), &["config.json", "not valid JSON"]),
        ("a config of bytes", |m| m.edit("config.json", |b| b[0] = 0xFF), &["config.json", "UTF-8"]),
        (
            "an unknown family",
            |m| m.set("architectures", json!(["Llama\n"])),
            &["config.json", "\"Llama\\n\"", "LLaDAModelLM"],
        ),
        ("too many layers", |m| m.set("n_layers", json!(400)), &["blocks.3.", "missing"]),
        ("a huge vocabulary", |m| m.set("vocab_size", json!(1u64 << 60)), &["config.json: vocab_size", "outside"]),
        ("another width", |m| m.set("d_model", json!(128)), &["wte.weight", "[211, 64]", "[211, 128]"]),
        ("a mask beyond", |m| m.set("mask_token_id", json!(5000)), &["config.json: mask_token_id: 5000", "211"]),
        ("no weights", |m| m.remove("model.safetensors"), &["neither model.safetensors nor"]),
        ("empty weights", |m| m.edit("model.safetensors", Vec::clear), &["model.safetensors: 0 bytes"]),
        (
            "truncated",
            |m| m.edit("model.safetensors", |b| b.truncate(b.len() - 1)),
            &["model.safetensors", "truncated"],
        ),
        (
            "a pointer of Git LFS",
            |m| m.edit("model.safetensors", |b| *b = b"version https://git-lfs.github.com/spec/v1\nsize 9\n".to_vec()),
            &["model.safetensors", "Git LFS pointer", "git lfs pull"],
        ),
        ("a header past the end", |m| m.edit("model.safetensors", |b| b[3] = 1), &["header claims", "truncated"]),
        ("a header that is none", |m| m.edit("model.safetensors", |b| b[8] = b'!'), &["model.safetensors", "JSON"]),
        ("overlap", |m| m.edit_header(|h| h[WEIGHT]["data_offsets"][0] = json!(4)), &[WEIGHT, "overlap"]),
        ("out of range", |m| m.edit_header(|h| h[WEIGHT]["data_offsets"][1] = json!(1u64 << 40)), &[WEIGHT, "exceed"]),
        (
            "another shape",
            |m| m.edit_header(|h| h[WEIGHT]["shape"] = json!([64, 160])),
            &[WEIGHT, "[64, 160]", "[160, 64]"],
        ),
        ("another dtype", |m| m.edit_header(|h| h[WEIGHT]["dtype"] = json!("I32")), &[WEIGHT, "I32", "F32, F16, BF16"]),
        (
            "another name",
            |m| m.edit_header(|h| h["w"] = h.as_object_mut().unwrap().remove(WEIGHT).unwrap()),
            &[WEIGHT, "missing"],
        ),
        ("a name that draws", |m| m.edit_header(|h| h["a\n\u{1b}[31mb"] = json!(1)), &["tensor a", "TensorInfo"]),
        ("a tokenizer that is none", |m| std::fs::write(m.file("tokenizer.json"), "[]").unwrap(), &["tokenizer.json"]),
        (
            "another model's tokenizer",
            |m| m.take(TALES, "tokenizer.json"),
            &["tokenizer.json", "id 8191", "211 embeddings"],
        ),
    ];
    for (what, spoil, words) in table {
        let copy = Scratch::of("llada-mha");
        spoil(&copy);
        refused(what, &run(remask(&["inspect", copy.path()])), words);
    }
}

#[test]
fn names_from_files_are_listed_escaped() {
    let copy = Scratch::of("llada-mha");
    let name = "extra\u{1b}]0;TITLE\u{7}\u{1b}[31mred\r\n\u{9b}m";
    copy.edit_header(|h| h[name] = json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}));
    let ran = works(remask(&["inspect", copy.path()]));
    assert!(!ran.out.contains(|c: char| c.is_control() && c != '\n'), "{:?}", ran.out);
    assert!(ran.out.contains("extra\\u{1b}]0;TITLE\\u{7}\\u{1b}[31mred\\r\\n\\u{9b}m"), "{:?}", ran.out);
}

#[test]
fn models_that_are_not_there_are_named() {
    refused("no folder", &run(remask(&["generate", "--model", "/nowhere", "hi"])), &["/nowhere", "tales-33m"]);

    // A missing shard is no missing model: the names of bundled ones are of no help.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    works(remask(&["synth", path, "--shape", "tiny", "--shard-bytes", "100000"]));
    std::fs::remove_file(folder.path().join("model-00002-of-00003.safetensors")).unwrap();
    let ran = run(remask(&["inspect", path]));
    refused("no shard", &ran, &["cannot open", "model-00002-of-00003.safetensors"]);
    assert!(!ran.err.contains("tales-33m"), "{}", ran.err);

    // The config of a file that is named without a folder lies beside it, not in the root.
    let copy = Scratch::of("llada-mha");
    copy.set("n_layers", json!("three"));
    let mut inspect = remask(&["inspect", "model.safetensors"]);
    inspect.current_dir(copy.path());
    refused("no folder in the name", &run(inspect), &["error: ./config.json: n_layers", "\"three\""]);
}

#[test]
fn requests_that_cannot_be_run_are_refused_in_one_line() {
    let model = golden("llada-mha");
    let long = format!("--prompt-ids {}", vec!["1"; 250].join(","));
    let table: &[(&str, &[&str])] = &[
        (&long, &["250 tokens and 8", "256 positions"]),
        ("--prompt-ids 1,211", &["id 211", "211 embeddings"]),
        ("text", &["no tokenizer.json", "token ids"]),
        ("--prompt-ids 1 --threshold 2", &["threshold 2"]),
        ("--prompt-ids 1 --temperature NaN", &["temperature NaN"]),
        ("--prompt-ids 1 --cfg-scale inf", &["cfg scale inf"]),
        ("--prompt-ids 1 --steps 0", &["steps must be at least 1"]),
        ("--prompt-ids 1 --block-length 0", &["block length"]),
        ("--prompt-ids 1 --adapter nonesuch", &["\"nonesuch\"", "there are"]),
    ];
    for (args, words) in table {
        refused(args, &run(generate(&model, args)), words);
    }
    let usage: &[&[&str]] = &[
        &[],
        &["dream"],
        &["generate", "--max-tokens", "-1"],
        &["generate", "--prompt-ids", "1,x"],
        &["generate", "--prompt-ids", "1", "text"],
        &["generate", "--weights", "q9", "text"],
        &["generate", "--accept", "best", "text"],
        &["generate", "--json", "--watch", "text"],
        &["verify"],
        &["quantize", "in"],
    ];
    for args in usage {
        assert_eq!(run(remask(args)).code, Some(2), "{args:?}");
    }
}

#[test]
fn a_prompt_that_is_no_text_is_refused() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0xFF, 0xFE]).unwrap();
    file.rewind().unwrap();
    let mut command = generate(TALES, "");
    command.stdin(file);
    refused("bytes", &run(command), &["standard input", "UTF-8"]);
}

#[test]
fn without_an_adapter_there_is_a_word_about_drivers() {
    let model = golden("llada-mha");
    let asked = generate(&model, "--prompt-ids 1 --backend wgpu");
    for mut command in [asked, remask(&["verify", &model, "--backend", "wgpu"]), remask(&["devices"])] {
        command.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
        refused("no driver", &run(command), &["adapter", "install", "mesa-vulkan-drivers"]);
    }
}

#[test]
fn weights_that_are_not_numbers_are_named() {
    let copy = Scratch::of("llada-mha");
    copy.poison(WEIGHT);
    refused("as stored", &run(generate(copy.path(), "--prompt-ids 1")), &["model.safetensors", WEIGHT, "NaN"]);
    // Where int8 took it for 0, the model would run on as if nothing were wrong.
    refused(
        "as int8",
        &run(generate(copy.path(), "--prompt-ids 1 --weights q8")),
        &["model.safetensors", WEIGHT, "NaN"],
    );
    refused("verify", &run(remask(&["verify", copy.path()])), &[WEIGHT, "NaN"]);
    let output = copy.file("smaller");
    refused("quantize", &run(remask(&["quantize", copy.path(), output.to_str().unwrap()])), &[WEIGHT, "NaN", "q8"]);
    assert!(!output.exists(), "a refused conversion leaves nothing behind");
}

#[test]
fn output_that_nobody_reads_is_no_panic() {
    let model = golden("llada-mha");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut inspect = remask(&["inspect", &model]);
    inspect.stdout(writer.try_clone().unwrap());
    assert_eq!(run(inspect).err, "", "a reader that has seen enough, as `head` has, is no error");
    let mut inspect = remask(&["inspect", "/nowhere"]);
    inspect.stderr(writer);
    assert_eq!(run(inspect).code, Some(1));
    if let Ok(full) = File::options().write(true).open("/dev/full") {
        let mut inspect = remask(&["inspect", &model]);
        inspect.stdout(full);
        refused("a full disk", &run(inspect), &["No space left"]);
    }
}
