//! Checkpoints from outside: what a broken file is told, what a good one gives, and that no bytes at
//! all make the reader panic. Files are built by hand, so that no writer can be wrong in the same way.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use half::{bf16, f16};
use proptest::prelude::*;
use remask_core::Result;
use remask_core::checkpoint::{Bytes, Checkpoint, Matrix, ReadAt, WeightFormat, format_of_head};
use remask_core::tensors::{Role, Stored, TensorKind, TensorSpec};
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// A vector of `len` elements called `name`.
fn vector(name: &str, len: usize) -> TensorSpec {
    TensorSpec {
        role: Role::FinalNorm,
        name: name.to_owned(),
        rows: 1,
        cols: len,
        kind: TensorKind::Vector,
        stored: Stored::default(),
    }
}

/// A safetensors file: the header's length, the header, and `data`.
fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A file with one entry of the header, `tensor`, called "w", and `data` bytes after it.
fn one(tensor: Value, data: usize) -> Vec<u8> {
    file_of(&json!({ "w": tensor }).to_string(), &vec![0; data])
}

/// A well-formed file from tensors `(name, dtype, shape, bytes)`.
fn file(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert((*name).to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend_from_slice(bytes);
    }
    file_of(&Value::Object(header).to_string(), &data)
}

fn read(bytes: Vec<u8>) -> Result<Checkpoint> {
    Checkpoint::from_bytes("m.safetensors", Bytes::Owned(bytes))
}

/// The one line that `outcome` fails with. It must hold every one of `words`.
fn refusal<T>(what: &str, outcome: Result<T>, words: &[&str]) {
    let message = match outcome {
        Ok(_) => panic!("{what}: accepted"),
        Err(e) => e.to_string(),
    };
    assert_eq!(message.lines().count(), 1, "{what}: {message}");
    for word in words {
        assert!(message.contains(word), "{what}: no {word:?} in: {message}");
    }
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn broken_containers_are_refused_with_the_numbers() {
    let f32s = |shape: Value, offsets: Value| json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
    let two = |a: [u64; 2], b: [u64; 2], data: usize| {
        let header = json!({"a": f32s(json!([2]), json!(a)), "b": f32s(json!([2]), json!(b))});
        file_of(&header.to_string(), &vec![0; data])
    };
    let whole = one(f32s(json!([2]), json!([0, 8])), 8);
    let claims = |length: u64| [&length.to_le_bytes(), &whole[8..]].concat();
    let table: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", vec![], &["0 bytes", "too short"]),
        ("shorter than a length", whole[..7].to_vec(), &["7 bytes", "too short"]),
        ("header past the end", claims(5000), &["5000", "truncated"]),
        ("header of 100 MB and one", claims(100_000_001), &["100000001", "not a safetensors file"]),
        ("header of every address", claims(u64::MAX), &["18446744073709551615", "not a safetensors file"]),
        ("truncated in the header", whole[..20].to_vec(), &["20", "truncated"]),
        ("truncated in the data", whole[..whole.len() - 1].to_vec(), &["tensor w", "8", "7", "truncated"]),
        ("bytes after the data", [&whole[..], &[0]].concat(), &["8", "9"]),
        ("no JSON", file_of("{\"w\": ", &[]), &["header", "JSON"]),
        ("JSON of another kind", file_of("[1, 2]", &[]), &["header", "JSON", "map"]),
        ("no UTF-8", [&2u64.to_le_bytes()[..], &[0xFF, 0xFE]].concat(), &["header", "JSON"]),
        ("an entry that is no tensor", one(json!(3), 0), &["tensor w", "3"]),
        ("an entry without offsets", one(json!({"dtype": "F32", "shape": [2]}), 8), &["tensor w", "data_offsets"]),
        ("an unknown dtype", one(json!({"dtype": "Q9", "shape": [2], "data_offsets": [0, 8]}), 8), &["tensor w", "Q9"]),
        ("a negative dimension", one(f32s(json!([-2]), json!([0, 8])), 8), &["tensor w", "-2"]),
        (
            "a shape that overflows",
            one(f32s(json!([1u64 << 40, 1u64 << 40]), json!([0, 8])), 8),
            &["tensor w", "1099511627776"],
        ),
        (
            "a size that overflows",
            one(f32s(json!([1u64 << 62]), json!([0, 8])), 8),
            &["tensor w", "4611686018427387904"],
        ),
        (
            "another size than the shape's",
            one(f32s(json!([3]), json!([0, 8])), 8),
            &["tensor w", "[3]", "F32", "8 bytes"],
        ),
        (
            "half a byte",
            one(json!({"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}), 1),
            &["tensor w", "[3]", "F4", "1 bytes"],
        ),
        ("data beyond the end", one(f32s(json!([4]), json!([0, 16])), 8), &["tensor w", "16", "8"]),
        (
            "data up to the last address",
            one(json!({"dtype": "U8", "shape": [u64::MAX], "data_offsets": [0, u64::MAX]}), 8),
            &["tensor w", "18446744073709551615"],
        ),
        ("offsets that run backwards", one(f32s(json!([2]), json!([8, 0])), 8), &["tensor w", "8..0"]),
        ("data that begins late", one(f32s(json!([2]), json!([4, 12])), 12), &["tensor w", "4..12", "gap"]),
        ("overlapping tensors", two([0, 8], [4, 12], 12), &["tensor b", "4..12", "overlap"]),
        ("the same bytes twice", two([0, 8], [0, 8], 8), &["tensor b", "0..8", "overlap"]),
        ("a gap", two([0, 8], [12, 20], 20), &["tensor b", "12..20", "gap"]),
    ];
    for (what, bytes, words) in table {
        refusal(what, read(bytes), &[&["m.safetensors: "], words].concat());
    }
}

#[test]
fn tensors_that_are_not_what_the_config_asks_for_are_refused_by_name() {
    let halves = |n: usize| vec![0; n * 2];
    let checkpoint = read(file(&[
        ("w", "F32", &[2, 4], vec![0; 32]),
        ("ids", "I64", &[2, 4], vec![0; 64]),
        ("narrow", "I8", &[2, 4], vec![0; 8]),
        ("bare", "I8", &[1, 32], vec![0; 32]),
        ("short", "I8", &[2, 32], vec![0; 64]),
        ("short.scale", "F16", &[1, 1], halves(1)),
        ("wide", "I8", &[1, 32], vec![0; 32]),
        ("wide.scale", "F32", &[1, 1], vec![0; 4]),
        ("norm", "I64", &[4], vec![0; 32]),
    ]))
    .unwrap();
    let table: &[(&str, usize, usize, &[&str])] = &[
        ("gone", 2, 4, &["tensor gone", "missing", "[2, 4]"]),
        ("w", 4, 2, &["tensor w", "[2, 4]", "[4, 2]"]),
        ("norm", 2, 2, &["tensor norm", "[4]", "[2, 2]"]),
        ("ids", 2, 4, &["tensor ids", "I64", "F32, F16, BF16"]),
        ("narrow", 2, 4, &["tensor narrow", "I8", "blocks of 32"]),
        ("bare", 1, 32, &["tensor bare.scale", "missing", "[1, 1]"]),
        ("short", 2, 32, &["tensor short.scale", "[1, 1]", "[2, 1]"]),
        ("wide", 1, 32, &["tensor wide.scale", "F32", "F16"]),
    ];
    for (name, rows, cols, words) in table {
        refusal(name, Matrix::open(&checkpoint, name, *rows, *cols), &[&["m.safetensors: "], *words].concat());
    }
    refusal(
        "vector",
        checkpoint.vector(&vector("norm", 4)),
        &["m.safetensors: tensor norm", "I64", "F32, F16, BF16 or F64"],
    );
    refusal("vector", checkpoint.vector(&vector("norm", 5)), &["tensor norm", "[4]", "[5]"]);
    refusal("vector", checkpoint.vector(&vector("gone", 5)), &["tensor gone", "missing", "[5]"]);
}

/// Files by name.
type Files<'a> = Vec<(&'a str, Vec<u8>)>;

/// Writes files and opens their folder as a checkpoint.
fn open_folder(files: &Files) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    Checkpoint::open(folder.path())
}

fn index(map: Value) -> (&'static str, Vec<u8>) {
    ("model.safetensors.index.json", json!({ "weight_map": map }).to_string().into_bytes())
}

fn scalar(name: &str) -> Vec<u8> {
    file(&[(name, "F32", &[1], f32_bytes(&[1.0]))])
}

#[test]
fn shards_open_as_one_checkpoint() {
    let parts = json!({"a": "1.safetensors", "b": "2.safetensors"});
    let files = vec![index(parts), ("1.safetensors", scalar("a")), ("2.safetensors", scalar("b"))];
    let checkpoint = open_folder(&files).unwrap();
    assert_eq!(checkpoint.tensors().map(|t| t.name.to_owned()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(checkpoint.get("b").unwrap().file.ends_with("2.safetensors"));
    assert_eq!((checkpoint.files().count(), checkpoint.vector(&vector("b", 1)).unwrap()), (2, vec![1.0]));
}

#[test]
fn broken_shard_indexes_are_refused_by_file_and_tensor() {
    let (first, second) = (("1.safetensors", scalar("a")), ("2.safetensors", scalar("b")));
    let name = |shard: &str| index(json!({ "a": shard }));
    let both = json!({"a": "1.safetensors", "b": "2.safetensors"});
    let table: Vec<(&str, Files, &[&str])> = vec![
        ("neither file nor index", vec![], &["neither model.safetensors nor model.safetensors.index.json"]),
        ("no JSON", vec![(index(json!({})).0, b"{".to_vec())], &["index.json", "not a shard index"]),
        ("no map", vec![(index(json!({})).0, b"{}".to_vec())], &["index.json", "weight_map"]),
        ("a map of numbers", vec![index(json!({"a": 1}))], &["index.json", "not a shard index"]),
        ("an empty map", vec![index(json!({}))], &["index.json", "names no tensor"]),
        ("a missing shard", vec![index(both.clone()), first.clone()], &["cannot open", "2.safetensors"]),
        (
            "a broken shard",
            vec![index(both.clone()), first.clone(), ("2.safetensors", vec![1])],
            &["2.safetensors: 1 bytes"],
        ),
        (
            "a tensor of no shard",
            vec![index(json!({"a": "1.safetensors", "c": "1.safetensors"})), first.clone()],
            &["1.safetensors: tensor c", "index.json"],
        ),
        (
            "a tensor of an earlier shard",
            vec![
                index(json!({"a": "2.safetensors", "b": "2.safetensors", "c": "1.safetensors"})),
                ("1.safetensors", file(&[("a", "F32", &[0], vec![]), ("c", "F32", &[0], vec![])])),
                second.clone(),
            ],
            &["2.safetensors: tensor a", "index.json"],
        ),
        (
            "one tensor in two shards",
            vec![
                index(both),
                first.clone(),
                ("2.safetensors", file(&[("a", "F32", &[0], vec![]), ("b", "F32", &[0], vec![])])),
            ],
            &["2.safetensors: tensor a", "another shard"],
        ),
        (
            "a shard elsewhere",
            vec![name("../1.safetensors"), first.clone()],
            &["index.json", "\"../1.safetensors\"", "plain file name"],
        ),
        ("a shard below", vec![name("x/1.safetensors")], &["index.json", "plain file name"]),
        ("an absolute shard", vec![name("/etc/hostname")], &["index.json", "plain file name"]),
        ("a shard of another drive", vec![name("C:1.safetensors")], &["index.json", "plain file name"]),
        ("a share", vec![name("\\\\host\\1.safetensors")], &["index.json", "plain file name"]),
        ("the parent folder", vec![name("..")], &["index.json", "plain file name"]),
        ("the folder itself", vec![name(".")], &["index.json", "plain file name"]),
        ("no shard name", vec![name("")], &["index.json", "plain file name"]),
    ];
    for (what, files, words) in table {
        refusal(what, open_folder(&files), words);
    }
    refusal("no file", Checkpoint::open(Path::new("/nowhere/m.safetensors")), &["cannot open /nowhere/m.safetensors"]);
}

/// `rows` x 64 weights that every format holds exactly: half integers, each block with a peak of
/// 127 halves.
fn exact_weights(rows: usize) -> Vec<f32> {
    (0..rows * 64).map(|i| if i % 32 == 5 { 63.5 } else { (i * 7 % 253) as f32 * 0.5 - 63.0 }).collect()
}

/// A file with `weights` as the 64 columns wide matrix "w" in `format`, encoded by hand.
fn file_in(format: WeightFormat, weights: &[f32]) -> Vec<u8> {
    let shape = &[weights.len() / 64, 64][..];
    match format {
        WeightFormat::F32 => file(&[("w", "F32", shape, f32_bytes(weights))]),
        WeightFormat::F16 => {
            file(&[("w", "F16", shape, weights.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect())])
        }
        WeightFormat::Bf16 => {
            file(&[("w", "BF16", shape, weights.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect())])
        }
        WeightFormat::Q8 => {
            let quants = weights.iter().map(|v| (v * 2.0) as i8 as u8).collect();
            let scales = f16::from_f32(0.5).to_le_bytes().repeat(weights.len() / 32);
            file(&[("w", "I8", shape, quants), ("w.scale", "F16", &[shape[0], 2], scales)])
        }
        _ => {
            assert_eq!(format, WeightFormat::Q4);
            let nibble = |v: f32| (v * 2.0 + 8.0) as u8;
            let block = |b: &[f32]| (0..16).map(|j| nibble(b[j]) | nibble(b[j + 16]) << 4).collect::<Vec<_>>();
            let quants = weights.chunks(32).flat_map(block).collect();
            let scales = f16::from_f32(0.5).to_le_bytes().repeat(weights.len() / 32);
            file(&[("w", "U8", &[shape[0], 32], quants), ("w.scale", "F16", &[shape[0], 2], scales)])
        }
    }
}

const FORMATS: [WeightFormat; 4] = [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Q8];

#[test]
fn every_format_converts_into_every_other_for_any_rows() {
    convert(&exact_weights(5), &FORMATS);
    // What int4 holds exactly: half integers, each block with a peak of -8 halves.
    let small = |i: usize| if i % 32 == 5 { -4.0 } else { (i * 7 % 15) as f32 * 0.5 - 3.5 };
    let weights: Vec<_> = (0..5 * 64).map(small).collect();
    convert(&weights, &[WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Q4]);
}

fn convert(weights: &[f32], formats: &[WeightFormat]) {
    for &from in formats {
        let checkpoint = read(file_in(from, weights)).unwrap();
        let matrix = Matrix::open(&checkpoint, "w", 5, 64).unwrap();
        assert_eq!(matrix.format, from);
        for rows in [0..5, 1..3, 4..5, 2..2] {
            let expected = &weights[rows.start * 64..rows.end * 64];
            assert_eq!(matrix.to_f32(rows.clone()).unwrap(), expected, "{from} rows {rows:?}");
            for &to in formats {
                let encoded = matrix.encode(rows.clone(), to).unwrap();
                let lengths: Vec<_> = encoded.planes.iter().map(|p| p.len()).collect();
                let planes: Vec<_> = to.planes().iter().map(|p| p.of(rows.len() * 64)).collect();
                assert_eq!((lengths.iter().sum(), &lengths), (to.bytes(rows.len(), 64), &planes), "{from} to {to}");
                assert_eq!(to.decode(&encoded.planes), expected, "{from} to {to}");
                // Against the same rows encoded by hand.
                let by_hand = read(file_in(to, expected)).unwrap();
                assert_eq!(
                    *encoded.planes[0],
                    *by_hand.get("w").unwrap().bytes().unwrap(),
                    "{from} to {to}, rows {rows:?}"
                );
                let by_hand = by_hand.get("w.scale").map(|t| t.bytes().unwrap());
                assert_eq!(encoded.planes.get(1), by_hand.as_ref(), "{from} to {to}, rows {rows:?}");
            }
        }
    }
}

#[test]
fn weights_that_a_format_cannot_hold_are_refused_by_name() {
    let holding = |value: f32| {
        let mut weights = exact_weights(1);
        weights[40] = value;
        read(file_in(WeightFormat::F32, &weights)).unwrap()
    };
    // NaN would otherwise come out of q8 as an innocent 0, and never be seen again.
    let table = [
        (WeightFormat::F16, 7e4),
        (WeightFormat::Q8, 1e7),
        (WeightFormat::Q8, f32::NAN),
        (WeightFormat::Q8, f32::INFINITY),
        (WeightFormat::Q4, 1e6),
        (WeightFormat::Q4, f32::NAN),
    ];
    for (format, value) in table {
        let checkpoint = holding(value);
        let matrix = Matrix::open(&checkpoint, "w", 1, 64).unwrap();
        let words = ["m.safetensors: tensor w", &value.to_string(), &format.to_string(), "bf16 or f32"];
        refusal("encode", matrix.encode(0..1, format), &words);
        assert!(matrix.encode(0..1, WeightFormat::Bf16).is_ok());
    }
    assert!(holding(f32::NAN).get("w").unwrap().has_non_finite().unwrap());
    assert!(!holding(1.0).get("w").unwrap().has_non_finite().unwrap());
}

/// Does with a checkpoint what a loader does.
fn use_up(checkpoint: &Checkpoint) {
    for t in checkpoint.tensors() {
        let _ = (t.to_f32(), t.has_non_finite());
        checkpoint.will_need(t.name);
        match *t.shape {
            [len] => drop(checkpoint.vector(&vector(t.name, len))),
            [rows, cols] => {
                let Ok(matrix) = Matrix::open(checkpoint, t.name, rows, cols) else { continue };
                for format in FORMATS.into_iter().filter(|f| f.fits(cols)) {
                    let _ = matrix.encode(0..rows, format);
                }
            }
            _ => {}
        }
    }
}

/// Numbers at the edges of what can be multiplied and added up.
fn extreme() -> impl Strategy<Value = u64> {
    // Up to half of the address space: the other reader adds offsets up without a check.
    prop_oneof![0u64..70, 0u64..=u64::MAX / 2, (0u32..63).prop_map(|shift| 1 << shift)]
}

/// A well-formed file of a few tensors with arbitrary types, shapes and data, and up to two numbers of
/// its header replaced.
fn nearly_valid_file() -> impl Strategy<Value = Vec<u8>> {
    let dtype = proptest::sample::select(vec![("F32", 4), ("F16", 2), ("BF16", 2), ("I8", 1), ("I64", 8)]);
    let shape = proptest::collection::vec(prop_oneof![0usize..4, Just(32)], 0..3);
    let tensors = proptest::collection::btree_map("[ab](\\.scale)?", (dtype, shape), 1..5);
    let wrong = proptest::collection::vec((any::<proptest::sample::Index>(), 0usize..5, extreme()), 0..3);
    (tensors, wrong, any::<u8>()).prop_map(|(tensors, wrong, fill)| {
        let (mut entries, mut end) = (Vec::new(), 0);
        for (name, ((dtype, width), shape)) in tensors {
            let begin = end;
            end += shape.iter().product::<usize>() * width;
            entries.push((name, json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]})));
        }
        for (which, part, number) in wrong {
            let entry = &mut which.get_mut(&mut entries).1;
            // Two offsets, then up to two dimensions.
            let part = if part < 2 { entry["data_offsets"].get_mut(part) } else { entry["shape"].get_mut(part - 2) };
            *part.unwrap_or(&mut Value::Null) = json!(number);
        }
        file_of(&serde_json::Map::from_iter(entries).into_iter().collect::<Value>().to_string(), &vec![fill; end])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(bytes).map(|c| use_up(&c));
    }

    #[test]
    fn nearly_valid_files_never_panic_and_are_judged_as_by_the_safetensors_crate(bytes in nearly_valid_file()) {
        let other = SafeTensors::deserialize(&bytes).is_ok();
        let ours = read(bytes).map(|c| use_up(&c));
        prop_assert_eq!(ours.is_ok(), other, "{:?}", ours.map_err(|e| e.to_string()));
    }

    #[test]
    fn damaged_files_never_panic(
        format in proptest::sample::select(&FORMATS[..]),
        hits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        in_header in any::<bool>(),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut bytes = file_in(format, &exact_weights(2));
        let reach = if in_header { 150 } else { bytes.len() };
        for (at, value) in hits {
            bytes[at.index(reach)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = read(bytes).map(|c| use_up(&c));
    }
}

#[test]
fn the_head_of_a_file_tells_its_format() {
    let zeros = |bytes: usize| vec![0u8; bytes];
    let int8 = file(&[
        ("norm", "F32", &[32], zeros(128)),
        ("w", "I8", &[2, 32], zeros(64)),
        ("w.scale", "F16", &[2, 1], zeros(4)),
    ]);
    let whole = int8.len();
    assert_eq!(format_of_head(&int8), Some(WeightFormat::Q8));
    assert_eq!(format_of_head(&int8[..whole - 196]), Some(WeightFormat::Q8), "the data is not looked at");
    assert_eq!(format_of_head(&int8[..whole - 197]), None, "the header is not whole");
    let mixed = file(&[("a", "F32", &[1, 2], zeros(8)), ("b", "F16", &[1, 2], zeros(4))]);
    assert_eq!(format_of_head(&mixed), None);
    for nothing in [&[][..], &[9; 7], &[255; 20], &file(&[])] {
        assert_eq!(format_of_head(nothing), None);
    }
}

/// A file of which all is zero but its beginning; counts what is read of it.
struct Sparse {
    head: Vec<u8>,
    len: u64,
    most: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl ReadAt for Sparse {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, range: std::ops::Range<u64>) -> std::io::Result<Vec<u8>> {
        self.most.fetch_max(range.end - range.start, std::sync::atomic::Ordering::Relaxed);
        if range.start > 100 << 30 {
            return Err(std::io::Error::other("the disk was taken away"));
        }
        // Behind the head, each 4 bytes count the KiB from its end.
        let at = |i: u64| self.head.get(i as usize).copied();
        let behind = |i: u64| {
            let from = i - self.head.len() as u64;
            ((from >> 10) as f32).to_le_bytes()[(from % 4) as usize]
        };
        Ok(range.map(|i| at(i).unwrap_or_else(|| behind(i))).collect())
    }
}

#[test]
fn a_file_larger_than_memory_is_read_by_the_rows_that_are_wanted() {
    let (rows, cols) = (6usize << 20, 256);
    let bytes = (rows * cols) as u64 * 4;
    let f32s = |shape: Value, offsets: [u64; 2]| json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
    let norm = [bytes * 20, bytes * 20 + 1024];
    let header = json!({
        "w": f32s(json!([rows, cols]), [0, bytes]),
        "more": f32s(json!([rows, cols * 19]), [bytes, bytes * 20]),
        "norm": f32s(json!([cols]), norm),
    });
    let head = file_of(&header.to_string(), &[]);
    let (len, most) = (head.len() as u64 + norm[1], std::sync::Arc::default());
    let open = |len| {
        let file = Sparse { head: head.clone(), len, most: std::sync::Arc::clone(&most) };
        Checkpoint::from_bytes("m.safetensors", Bytes::Pieces(Box::new(file)))
    };
    refusal("cut off", open(len - 1), &["tensor norm", "truncated"]);
    let checkpoint = open(len).unwrap();
    assert_eq!(checkpoint.total_bytes(), len);
    let matrix = Matrix::open(&checkpoint, "w", rows, cols).unwrap();
    // A row is a KiB: 5 GiB from the beginning, past what 32 bits can name.
    let first = 5 << 20;
    let found = matrix.encode(first..first + 2, WeightFormat::Bf16).unwrap().planes.remove(0);
    let expected: Vec<_> = (0..512).flat_map(|i| bf16::from_f32((first + i / 256) as f32).to_le_bytes()).collect();
    assert_eq!(*found, *expected);
    assert!(most.load(std::sync::atomic::Ordering::Relaxed) <= 2048);
    refusal(
        "a disk that is gone",
        checkpoint.vector(&vector("norm", cols)),
        &["cannot read m.safetensors", "taken away"],
    );
}
