//! What is read, against what PyTorch says.

use std::ops::Range;

use half::{bf16, f16};
use remask_core::checkpoint::{Bytes, Checkpoint, Matrix, ReadAt, WeightFormat};
use serde_json::{Value, json};

use super::build::{Entry, call, dict, entries, global, int, ints, pickle, storage, tensor, text, tuple, zip};
use super::{data, memory_was_bounded, open, refusal};

/// Files that hold what `expected.json` says.
const SAME: [&str; 5] = ["zip.bin", "zip-protocol5.pt", "legacy.bin", "legacy-protocol1.pt", "legacy-protocol4.pth"];

/// A file that is read in pieces.
struct Piecewise(Vec<u8>);

impl ReadAt for Piecewise {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, range: Range<u64>) -> std::io::Result<Vec<u8>> {
        Ok(self.0[range.start as usize..range.end as usize].to_vec())
    }
}

/// Elements as float64, by PyTorch's name of their type.
fn numbers(dtype: &str, bytes: &[u8]) -> Vec<f64> {
    fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        assert!(bytes.len().is_multiple_of(N));
        bytes.as_chunks::<N>().0.iter().map(|b| number(*b)).collect()
    }
    match dtype {
        "float64" => each(bytes, f64::from_le_bytes),
        "float32" => each(bytes, |b| f32::from_le_bytes(b).into()),
        "float16" => each(bytes, |b| f16::from_le_bytes(b).to_f64()),
        "bfloat16" => each(bytes, |b| bf16::from_le_bytes(b).to_f64()),
        "int64" => each(bytes, |b| i64::from_le_bytes(b) as f64),
        "int32" => each(bytes, |b| i32::from_le_bytes(b).into()),
        "int16" => each(bytes, |b| i16::from_le_bytes(b).into()),
        "int8" => each(bytes, |b: [u8; 1]| i8::from_le_bytes(b).into()),
        "uint8" | "bool" => each(bytes, |b: [u8; 1]| b[0].into()),
        other => panic!("{other}"),
    }
}

#[test]
fn every_file_of_pytorch_holds_what_pytorch_says() {
    let expected: serde_json::Map<String, Value> =
        serde_json::from_slice(&std::fs::read(data("expected.json")).unwrap()).unwrap();
    for file in SAME {
        let mapped = Checkpoint::open(&data(file)).unwrap();
        let pieces = Bytes::Pieces(Box::new(Piecewise(std::fs::read(data(file)).unwrap())));
        let pieces = Checkpoint::from_bytes(file, pieces).unwrap();
        assert_eq!(mapped.tensors().count(), expected.len(), "{file}");
        for (name, tensor) in &expected {
            let view = mapped.get(name).unwrap_or_else(|| panic!("{file}: no {name}"));
            assert_eq!(json!(view.shape), tensor["shape"], "{file}: {name}");
            let bytes = view.bytes().unwrap();
            assert_eq!(bytes.len() as u64, view.len());
            let values: Vec<f64> = serde_json::from_value(tensor["values"].clone()).unwrap();
            assert_eq!(numbers(tensor["dtype"].as_str().unwrap(), &bytes), values, "{file}: {name}");
            assert_eq!(pieces.get(name).unwrap().bytes().unwrap(), bytes, "{file}: {name} in pieces");
        }
        assert_eq!(mapped.aliases(), [vec!["alias", "f32", "same bytes"]], "{file}");
        // A transposed matrix by rows, as a loader reads it, and in another format.
        let matrix = Matrix::open(&mapped, "transposed", 4, 3).unwrap();
        assert_eq!(matrix.to_f32(1..3).unwrap(), [-0.75, 0.25, 1.25, -0.5, 0.5, 1.5]);
        assert_eq!(matrix.encode(2..3, WeightFormat::F16).unwrap().planes[0].len(), 6);
        mapped.tensors().for_each(|t| {
            mapped.will_need(t.name);
            mapped.discard(t.name);
        });
        assert_eq!(
            mapped.get("row").unwrap().to_f32().unwrap(),
            [0.0, 0.25, 0.5, 0.75],
            "pages that were dropped come back"
        );
    }
    memory_was_bounded();
}

#[test]
fn tensors_in_order_are_not_copied() {
    let checkpoint = Checkpoint::open(&data("zip.bin")).unwrap();
    let borrowed = |name| matches!(checkpoint.get(name).unwrap().bytes().unwrap(), std::borrow::Cow::Borrowed(_));
    assert!(borrowed("f32") && borrowed("row") && borrowed("rows") && borrowed("empty"));
    assert!(!borrowed("transposed") && !borrowed("column"));
    let places = ["f32", "alias", "flat"].map(|name| checkpoint.get(name).unwrap().bytes().unwrap().as_ptr());
    assert!(places.iter().all(|p| *p == places[0]), "aliases are the same bytes");
}

#[test]
fn a_state_dict_is_found_where_training_scripts_put_it() {
    for file in ["state-dict.pth", "training.pt", "lightning.ckpt", "parallel.pt", "named.pt"] {
        let checkpoint = Checkpoint::open(&data(file)).unwrap();
        let shapes: Vec<_> = checkpoint.tensors().map(|t| (t.name.to_owned(), t.shape.to_vec())).collect();
        let of = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let expected = [of("norm.bias", &[3]), of("norm.weight", &[3]), of("up.bias", &[3]), of("up.weight", &[3, 2])];
        assert_eq!(shapes, expected, "{file}");
        assert_eq!(checkpoint.get("up.weight").unwrap().to_f32().unwrap(), [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25]);
    }
}

#[test]
fn tensors_that_cannot_be_read_are_an_error_when_they_are_asked_for() {
    let checkpoint = Checkpoint::open(&data("unreadable.bin")).unwrap();
    assert_eq!(checkpoint.get("w").unwrap().to_f32().unwrap(), [-1.0, -0.75, -0.5, -0.25]);
    for (name, words) in [
        ("complex128", ["unreadable.bin: tensor complex128", "complex128", "does not read"]),
        ("sparse", ["tensor sparse", "sparse tensor", "save it as a plain one"]),
        ("quantised", ["tensor quantised", "quantised tensor", "save it as a plain one"]),
    ] {
        assert!(checkpoint.get(name).is_none());
        refusal(name, checkpoint.tensor(name, &[1]).map(drop), &words);
        refusal(name, Matrix::open(&checkpoint, name, 2, 2).map(drop), &words);
    }
    refusal(
        "complex",
        checkpoint.get("complex").unwrap().to_f32(),
        &["tensor complex", "C64", "F32, F16, BF16 or F64"],
    );
}

/// Four float32 numbers over the storage's bytes.
fn floats(key: &str) -> Vec<u8> {
    tensor(storage("FloatStorage", key, 4), 0, &[2, 2], &[2, 1])
}

#[test]
fn what_other_versions_write_is_read() {
    let numbers: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let untyped = || storage("torch.storage.UntypedStorage", "0", 16);
    let hooks = || call(global("collections", "OrderedDict"), &[]);
    let typed = |name: &str, sizes: &[i64]| {
        let dtype = global("torch", name);
        let parts = [untyped(), int(0), ints(sizes), ints(&[1]), vec![0x89], hooks(), dtype, b"N".to_vec()];
        call(global("torch._utils", "_rebuild_tensor_v3"), &parts)
    };
    let rebuild = global("torch._utils", "_rebuild_tensor_v2");
    let parts = tuple(&[storage("FloatStorage", "0", 4), int(1), ints(&[2]), ints(&[1]), vec![0x89], hooks()]);
    let class = global("torch.nn.parameter", "Parameter");
    let of_type = call(global("torch._tensor", "_rebuild_from_type_v2"), &[rebuild, class, parts, dict(&[])]);
    let parameter = [floats("0"), vec![0x88], hooks(), dict(&[("note", int(1))])];
    let first = call(
        global("torch._utils", "_rebuild_tensor"),
        &[storage("FloatStorage", "0", 4), int(0), ints(&[4]), ints(&[1])],
    );
    // As Python 2 wrote an OrderedDict, with its pairs in a list; and a size that is a torch.Size.
    let sized = [
        storage("FloatStorage", "0", 4),
        int(2),
        call(global("torch", "Size"), &[ints(&[2])]),
        ints(&[1]),
        vec![0x89],
        hooks(),
    ];
    let pairs = [
        tuple(&[text("typed"), typed("float32", &[4])]),
        tuple(&[text("eight"), typed("float8_e4m3fn", &[3])]),
        tuple(&[text("short"), typed("uint16", &[2])]),
        tuple(&[text("of type"), of_type]),
        tuple(&[text("parameter"), call(global("torch._utils", "_rebuild_parameter_with_state"), &parameter)]),
        tuple(&[text("first version"), first]),
        tuple(&[text("sized"), call(global("torch._utils", "_rebuild_tensor_v2"), &sized)]),
        tuple(&[text("bytes"), tensor(untyped(), 4, &[4], &[1])]),
    ];
    let list = [b"](", &pairs.concat()[..], b"e"].concat();
    let state = call(global("collections", "OrderedDict"), &[list]);
    for large in [false, true] {
        let file = zip(&entries(&pickle(&state), &[("0", &numbers)]), large);
        let checkpoint = open(file).unwrap();
        let floats = |name: &str| checkpoint.get(name).unwrap().to_f32().unwrap();
        assert_eq!(floats("typed"), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(floats("of type"), [2.0, 3.0]);
        assert_eq!(floats("parameter"), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(floats("first version"), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(floats("sized"), [3.0, 4.0]);
        let kind = |name: &str| checkpoint.get(name).unwrap().type_name();
        assert_eq!([kind("eight"), kind("short"), kind("bytes")], ["F8_E4M3", "U16", "U8"]);
        assert_eq!(*checkpoint.get("bytes").unwrap().bytes().unwrap(), numbers[4..8]);
    }
}

#[test]
fn shards_open_as_one_checkpoint_and_safetensors_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let shard = |name: &str, first: f32| {
        let numbers: Vec<u8> = [first, 0.0, 0.0, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        zip(&entries(&pickle(&dict(&[(name, floats("7"))])), &[("7", &numbers)]), false)
    };
    write("pytorch_model-00001-of-00002.bin", &shard("a", 1.0));
    write("pytorch_model-00002-of-00002.bin", &shard("b", 2.0));
    let map = json!({"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"});
    // As Python writes an index whose size nobody knew.
    let index = format!("\u{feff}{{\"metadata\": {{\"total_size\": NaN}}, \"weight_map\": {map}}}");
    write("pytorch_model.bin.index.json", index.as_bytes());
    let first = |name: &str| Checkpoint::open(folder.path()).unwrap().get(name).map(|t| t.to_f32().unwrap()[0]);
    assert_eq!([first("a"), first("b")], [Some(1.0), Some(2.0)]);

    write("pytorch_model.bin.index.json", index.replace("\"b\":", "\"c\":").as_bytes());
    refusal("another name", Checkpoint::open(folder.path()), &["00002-of-00002.bin: tensor c", "bin.index.json"]);

    write("pytorch_model.bin", &shard("a", 3.0));
    assert_eq!([first("a"), first("b")], [Some(3.0), None], "one file goes before an index");
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &5f32.to_le_bytes()].concat();
    write("model.safetensors", &file);
    assert_eq!(first("a"), Some(5.0));
}

/// An archive of more than 4 GiB: a first storage of zeros, then the rest of the file.
struct Sparse {
    head: Vec<u8>,
    zeros: u64,
    tail: Vec<u8>,
}

impl ReadAt for Sparse {
    fn len(&self) -> u64 {
        self.head.len() as u64 + self.zeros + self.tail.len() as u64
    }

    fn read(&self, range: Range<u64>) -> std::io::Result<Vec<u8>> {
        assert!(range.end - range.start < 1 << 20, "{range:?}");
        let behind = self.head.len() as u64 + self.zeros;
        let at = |i: u64| match i.checked_sub(behind) {
            Some(i) => self.tail[i as usize],
            None => self.head.get(i as usize).copied().unwrap_or(0),
        };
        Ok(range.map(at).collect())
    }
}

#[test]
fn an_archive_beyond_4_gib_is_read_where_it_is() {
    let rows = 5i64 << 20;
    let (length, cols) = (rows as u64 * 1024, 256);
    let large = tensor(storage("FloatStorage", "0", rows * cols), 0, &[rows, cols], &[cols, 1]);
    let pickle = pickle(&dict(&[("large", large), ("w", floats("1"))]));
    let numbers: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut parts = entries(&pickle, &[("0", &[])]);
    let head: usize = zip(&parts[..3], true).windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    parts[2].claims = Some(length);
    // Built without the zeros: everything behind them moves.
    let mut behind = Entry::new("m/data/1", &numbers);
    behind.place = Some(head as u64 + length);
    let version_at = zip(&[&parts[..3], std::slice::from_ref(&behind)].concat(), true);
    let version_at = version_at.windows(4).position(|w| w == b"PK\x01\x02").unwrap() as u64 + length;
    let mut version = parts.pop().unwrap();
    version.place = Some(version_at);
    parts.extend([behind, version]);
    let mut file = zip(&parts, true);
    // The directory and the record at the end of it move as well.
    let directory = file.windows(4).position(|w| w == b"PK\x01\x02").unwrap() as u64;
    let record = file.windows(4).position(|w| w == b"PK\x06\x06").unwrap();
    file[record + 48..record + 56].copy_from_slice(&(directory + length).to_le_bytes());
    let locator = file.windows(4).position(|w| w == b"PK\x06\x07").unwrap();
    file[locator + 8..locator + 16].copy_from_slice(&(record as u64 + length).to_le_bytes());
    let tail = file.split_off(head);
    let file = Sparse { head: file, zeros: length, tail };
    let checkpoint = Checkpoint::from_bytes("m.bin", Bytes::Pieces(Box::new(file))).unwrap();
    assert_eq!(checkpoint.get("w").unwrap().to_f32().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    let matrix = Matrix::open(&checkpoint, "large", rows as usize, 256).unwrap();
    assert_eq!(matrix.to_f32(rows as usize - 2..rows as usize).unwrap(), [0.0; 512]);
}
