//! The GGUF container and its blocks: what is read is what the format says, and nothing that is broken is
//! believed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic here is a failed test")]

use std::borrow::Cow;

use proptest::prelude::*;
use remask_core::chat::Conversation;
use remask_core::checkpoint::gguf::Value;
use remask_core::checkpoint::{BlockType, Bytes, Checkpoint, Matrix, WeightFormat};
use remask_core::quantize::{dequantize_q4, dequantize_q8};
use remask_core::tensors::TensorKind;
use remask_core::{Model, Result};
use serde_json::Value as Json;

fn bytes_of(hex: &Json) -> Vec<u8> {
    let hex = hex.as_str().unwrap().as_bytes();
    hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Every type against the reference implementation, bit for bit, and in our own formats where they are
/// exact.
#[test]
fn blocks_hold_what_the_reference_says() {
    let fixture: Json = serde_json::from_str(include_str!("gguf-blocks.json")).unwrap();
    let types = fixture["types"].as_object().unwrap();
    assert_eq!(types.len(), 8);
    for (name, case) in types {
        let blocks = BlockType::of_number(case["number"].as_u64().unwrap() as u32).unwrap();
        assert_eq!(blocks.name(), name);
        let bytes = bytes_of(&case["blocks"]);
        let expected: Vec<u32> =
            bytes_of(&case["weights"]).as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let found: Vec<u32> = blocks.dequantize(&bytes).iter().map(|v| v.to_bits()).collect();
        assert_eq!(found, expected, "{name}");
        if blocks.is_exact() {
            let (quants, scales) = blocks.split(&bytes);
            let back = if blocks.format() == WeightFormat::Q4 { dequantize_q4 } else { dequantize_q8 };
            let found: Vec<_> = back(&quants, &scales);
            // Only the sign of a zero may differ.
            let expected: Vec<_> = expected.iter().map(|bits| f32::from_bits(*bits)).collect();
            assert_eq!(found, expected, "{name} in our own format");
        }
    }
}

/// Writes a file piece by piece, as the format's specification has it.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn text(mut self, text: &str) -> Self {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A file of these pairs and tensors `(name, dimensions with the innermost first, type, data)`.
    fn file(pairs: &[Writer], tensors: &[(&str, &[u64], u32, Vec<u8>)]) -> Vec<u8> {
        let mut file = Self::default().raw(b"GGUF").u32(3).u64(tensors.len() as u64).u64(pairs.len() as u64);
        for pair in pairs {
            file = file.raw(&pair.0);
        }
        let mut data = Vec::new();
        for (name, dimensions, number, bytes) in tensors {
            data.resize(data.len().next_multiple_of(32), 0);
            file = file.text(name).u32(dimensions.len() as u32);
            for d in *dimensions {
                file = file.u64(*d);
            }
            file = file.u32(*number).u64(data.len() as u64);
            data.extend(bytes);
        }
        let mut file = file.0;
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
        file
    }
}

fn pair(key: &str, kind: u32) -> Writer {
    Writer::default().text(key).u32(kind)
}

fn small() -> Vec<u8> {
    let pairs = [
        pair("general.architecture", 8).text("llada"),
        pair("byte", 0).raw(&[200]),
        pair("negative", 11).raw(&(-5i64).to_le_bytes()),
        pair("number", 12).raw(&0.5f64.to_le_bytes()),
        pair("on", 7).raw(&[1]),
        pair("list", 9).u32(8).u64(2).text("a").text("b c"),
    ];
    let f32s: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let q8: Vec<u8> = (0..4u8).flat_map(|row| [0, 0x3C].into_iter().chain(vec![row; 32])).collect();
    Writer::file(&pairs, &[("m", &[3, 2], 0, f32s), ("paired", &[32, 4], 8, q8)])
}

fn read(bytes: Vec<u8>) -> Result<(Checkpoint, remask_core::checkpoint::gguf::Metadata)> {
    Checkpoint::from_gguf("m.gguf", Bytes::Owned(bytes))
}

#[test]
fn values_and_tensors_are_read() {
    let (checkpoint, metadata) = read(small()).unwrap();
    let unsigned = |key: &str| metadata.size(key).unwrap();
    assert_eq!((unsigned("byte"), unsigned("gone")), (Some(200), None));
    assert_eq!(metadata.get("negative"), Some(&Value::Signed(-5)));
    assert_eq!((metadata.number("number").unwrap(), metadata.flag("on").unwrap()), (Some(0.5), Some(true)));
    let list = metadata.list("list", "texts", Value::as_text).unwrap();
    assert_eq!(list, Some(vec!["a", "b c"]));
    for (key, words) in [("negative", "a whole number"), ("on", "a whole number")] {
        let error = metadata.size(key).unwrap_err().to_string();
        assert_eq!(error, format!("m.gguf: {key}: expected {words}"));
    }
    let m = checkpoint.get("m").unwrap();
    assert_eq!((m.shape, m.to_f32().unwrap()), (&[2, 3][..], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    let matrix = Matrix::open(&checkpoint, "paired", 4, 32).unwrap();
    assert_eq!((matrix.format, matrix.to_f32(1..3).unwrap()[31]), (WeightFormat::Q8, 1.0));
    assert_eq!(checkpoint.get("paired").unwrap().type_name(), "Q8_0");
}

#[test]
fn broken_files_are_refused_by_key_or_tensor() {
    let key = |w: Writer| Writer::file(&[w], &[]);
    let tensor =
        |dimensions: &[u64], number: u32, bytes: usize| Writer::file(&[], &[("w", dimensions, number, vec![0; bytes])]);
    let header = |version: u32| Writer::default().raw(b"GGUF").u32(version).u64(0).u64(0).0;
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (b"GGU".to_vec(), &["cut off", "3"]),
        (header(1), &["version 1", "2 and 3"]),
        (header(3u32.swap_bytes()), &["big-endian"]),
        (Writer::default().raw(b"GGUF").u32(3).u64(0).u64(9).0, &["metadata pair 0 of 9", "cut off"]),
        (key(pair("a.key", 13)), &["a.key", "type 13"]),
        (key(pair("a.key", 7).raw(&[2])), &["a.key", "neither true nor false"]),
        (key(pair("a.key", 8).u64(u64::MAX)), &["a.key", "cut off"]),
        (key(pair("a.key", 9).u32(8).u64(u64::MAX)), &["a.key", "cut off"]),
        (key(pair("a.key", 9).u32(9).u64(1).u32(9).u64(1).u32(9).u64(1).u32(9).u64(1).u32(9).u64(1)), &["nested"]),
        (key(pair("a.key", 8).u64(1).raw(&[0xFF])), &["a.key", "UTF-8"]),
        (key(pair("general.alignment", 4).u32(24)), &["general.alignment", "24"]),
        (Writer::file(&[pair("k", 7).raw(&[0]), pair("k", 7).raw(&[0])], &[]), &["key k", "twice"]),
        (tensor(&[2, 2], 0, 12), &["tensor w", "16 bytes", "truncated"]),
        (tensor(&[33], 8, 34), &["tensor w", "33", "blocks of 32"]),
        (tensor(&[4], 16, 4), &["tensor w", "type 16", "Q4_K"]),
        (tensor(&[1 << 40, 1 << 40], 0, 4), &["tensor w", "too large"]),
        (tensor(&[1; 5], 0, 4), &["w has 5 dimensions"]),
        (Writer::file(&[], &[("w", &[1], 0, vec![0; 4]), ("w", &[1], 0, vec![0; 4])]), &["tensor w", "twice"]),
    ];
    for (bytes, words) in cases {
        let error = match read(bytes) {
            Ok(_) => panic!("{words:?}: read"),
            Err(e) => e.to_string(),
        };
        for word in words.iter().chain(&["m.gguf"]) {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}

/// Everything that can be asked of whatever was read.
fn use_up(bytes: Vec<u8>) {
    let Ok((checkpoint, _)) = read(bytes.clone()) else { return };
    for t in checkpoint.tensors() {
        let _ = (t.to_f32(), t.has_non_finite());
        if let [rows, cols] = *t.shape
            && let Ok(matrix) = Matrix::open(&checkpoint, t.name, rows, cols)
        {
            for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4] {
                if format.fits(cols) {
                    let _ = matrix.encode(0..rows, format);
                }
            }
        }
    }
    let _ = Model::from_gguf("m.gguf", Bytes::Owned(bytes), None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        use_up([b"GGUF\x03\0\0\0".as_slice(), &bytes].concat());
        use_up(bytes);
    }

    #[test]
    fn damaged_and_truncated_files_never_panic(
        flips in proptest::collection::vec((0usize..700, any::<u8>()), 0..6), length in 0usize..700,
    ) {
        let mut bytes = small();
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(length);
        use_up(bytes);
    }

    #[test]
    fn damaged_models_never_panic(flips in proptest::collection::vec((0usize..1200, any::<u8>()), 1..8)) {
        let mut bytes = golden().into_owned();
        for (at, value) in flips {
            bytes[at] = value;
        }
        let _ = Model::from_gguf("m.gguf", Bytes::Owned(bytes), None);
    }
}

fn golden() -> Cow<'static, [u8]> {
    Cow::Borrowed(include_bytes!("../../../tests/golden/llada-gqa-tied/model.gguf"))
}

#[test]
fn every_prefix_of_a_header_is_refused() {
    let file = small();
    let header = file.len() - 256;
    for length in 0..header {
        assert!(read(file[..length].to_vec()).is_err(), "{length} bytes");
    }
}

/// llama.cpp's own writer, with rows of queries and keys reordered, against the model it was made from.
#[test]
fn a_converted_model_is_the_one_it_was_made_from() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/llada-gqa-tied");
    let original = Model::open(&folder).unwrap();
    let converted = Model::open(&folder.join("model.gguf")).unwrap();
    let (a, b) = (&original.architecture, &converted.architecture);
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
    assert_eq!(original.tensors.len(), converted.tensors.len());
    for (ours, theirs) in original.tensors.iter().zip(&converted.tensors) {
        assert_eq!((ours.role, ours.rows, ours.cols), (theirs.role, theirs.rows, theirs.cols));
        let name = &ours.name;
        if ours.kind == TensorKind::Vector {
            assert_eq!(original.checkpoint.vector(ours).unwrap(), converted.checkpoint.vector(theirs).unwrap());
            continue;
        }
        let all = |model: &Model, spec| Matrix::of(&model.checkpoint, spec).unwrap().to_f32(0..ours.rows).unwrap();
        let expected = all(&original, ours);
        assert_eq!(expected, all(&converted, theirs), "{name}");
        // Rows that begin inside a head.
        let matrix = Matrix::of(&converted.checkpoint, theirs).unwrap();
        assert_eq!(matrix.to_f32(5..23).unwrap(), expected[5 * ours.cols..23 * ours.cols], "{name}, some rows");
    }
}

#[test]
fn chat_templates_by_name() {
    let (tokens, ids) = (["<b>", "<e>", "<u>", "<p>"], ["unknown", "padding"]);
    let mut pairs = vec![
        pair("tokenizer.chat_template", 8).text("{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}"),
        pair("tokenizer.chat_template.tool_use", 8).text("tools"),
        pair("tokenizer.chat_template.rag", 8).text("rag"),
        tokens.iter().fold(pair("tokenizer.ggml.tokens", 9).u32(8).u64(4), |list, token| list.text(token)),
    ];
    pairs.extend((2..).zip(ids).map(|(id, name)| pair(&format!("tokenizer.ggml.{name}_token_id"), 4).u32(id)));
    let (_, metadata) = read(Writer::file(&pairs, &[])).unwrap();
    let family = &remask_core::families::FAMILIES[0];
    let token = |name: &str| Some(if name == "bos_token" { "<b>" } else { "<e>" }.to_owned());
    let template = remask_core::gguf::chat_template("m.gguf", &metadata, family, token).unwrap().unwrap();
    assert_eq!(template.names().collect::<Vec<_>>(), ["default", "rag", "tool_use"]);
    let mut talk = Conversation::ask("x");
    assert_eq!(template.render(&talk).unwrap().text, "<b><e><u><p>");
    talk.tools = Some(Vec::new());
    assert_eq!(template.render(&talk).unwrap().text, "tools");
    talk.template = Some("rag".to_owned());
    assert_eq!(template.render(&talk).unwrap().text, "rag");
    // Without one of its own a file gets its family's.
    let (_, metadata) = read(small()).unwrap();
    let own = remask_core::gguf::chat_template("m.gguf", &metadata, family, token).unwrap().unwrap();
    assert_eq!(Some(own.source()), family.chat_template);
    let broken = [pair("tokenizer.chat_template.tool_use", 8).text("{% if %}")];
    let (_, metadata) = read(Writer::file(&broken, &[])).unwrap();
    let error = remask_core::gguf::chat_template("m.gguf", &metadata, family, token).unwrap_err().to_string();
    assert!(error.starts_with("m.gguf: chat template: line 1: "), "{error}");
}
