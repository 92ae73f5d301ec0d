//! What must be refused, and what it must be called.

use remask_core::checkpoint::Checkpoint;

use super::build::{
    Entry, call, dict, entries, global, int, ints, pickle, storage, tensor, text, tuple, with_pickle, with_tensor, zip,
};
use super::{data, memory_was_bounded, open, refusal};

#[test]
fn programs_are_refused_by_name_and_never_run() {
    let marker = std::path::Path::new("/tmp/remask-pickle-executed");
    let before = marker.exists();
    refusal("hostile.bin", Checkpoint::open(&data("hostile.bin")), &["hostile.bin: ", "posix.system", "safetensors"]);
    assert_eq!(marker.exists(), before);
    let run = |callable| call(callable, &[text("touch /tmp/remask-pickle-executed")]);
    let named = |module: &str, name: &str| [text(module), text(name), vec![0x93]].concat();
    let table: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("a call", run(global("os", "system")), &["os.system"]),
        ("a call by the newer instruction", run(named("builtins", "eval")), &["builtins.eval"]),
        ("Python 2's", run(global("__builtin__", "exec")), &["__builtin__.exec"]),
        ("a name that is never called", dict(&[("w", global("subprocess", "Popen"))]), &["subprocess.Popen"]),
        ("torch's own loader", run(global("torch", "load")), &["torch.load"]),
        ("a loader of storages", run(global("torch.storage", "_load_from_bytes")), &["_load_from_bytes"]),
        ("what fetches", run(global("torch.hub", "load")), &["torch.hub.load"]),
        ("what compiles", run(global("torch.utils.cpp_extension", "load")), &["torch.utils.cpp_extension.load"]),
        ("a path through a known module", run(global("torch._utils", "os.system")), &["torch._utils.os.system"]),
        ("a known name elsewhere", run(global("evil", "OrderedDict")), &["evil.OrderedDict"]),
        ("an attribute", run(named("collections", "OrderedDict.fromkeys")), &["OrderedDict.fromkeys"]),
        ("an object by name", b"(ios\nsystem\n".to_vec(), &["os.system"]),
        ("an object of a class", [b"(", &global("os", "system")[..], b"o"].concat(), &["os.system"]),
        ("a registered extension", vec![0x82, 1], &["0x82"]),
        ("a reference by text", b"Pstorage\n".to_vec(), &["0x50"]),
        ("a call of a text", call(text("os.system"), &[]), &["calls a text"]),
        ("a call of a tensor type", call(global("torch", "float32"), &[]), &["float32"]),
        ("a call of a storage class", call(global("torch", "FloatStorage"), &[int(5)]), &["float32"]),
        ("a state for a name", [global("torch", "Size"), dict(&[]), b"b".to_vec()].concat(), &["sets the state"]),
        ("a name that draws", run(global("a\u{1b}[31m", "b\u{202e}")), &["a\\u{1b}[31m.b\\u{202e}"]),
        ("a long name", run(global(&"m".repeat(5000), "n")), &["mmmm.n"]),
        (
            "a tensor by way of something else",
            call(
                global("torch._tensor", "_rebuild_from_type_v2"),
                &[global("torch", "Size"), global("torch", "Tensor"), tuple(&[ints(&[1])]), dict(&[])],
            ),
            &["something else than a tensor"],
        ),
        (
            "a tensor that rebuilds itself",
            call(
                global("torch._tensor", "_rebuild_from_type_v2"),
                &[
                    global("torch._tensor", "_rebuild_from_type_v2"),
                    global("torch", "Tensor"),
                    tuple(&[int(1), int(2), int(3)]),
                    dict(&[]),
                ],
            ),
            &["something else than a tensor"],
        ),
    ];
    for (what, body, words) in table {
        refusal(what, open(with_pickle(&pickle(&body))), &[&["m.bin: "], words].concat());
    }
    assert_eq!(marker.exists(), before);
    for (file, words) in [
        ("module.pt", ["torch.nn.modules.container.Sequential", "state_dict()"]),
        ("script.pt", ["TorchScript", "state_dict()"]),
        ("tensor.pt", ["holds a tensor", "state_dict()"]),
        ("numbers.pt", ["\"a\", \"b\"", "state_dict()"]),
    ] {
        refusal(file, Checkpoint::open(&data(file)), &words);
    }
}

#[test]
fn broken_pickles_are_refused() {
    let protocol = |n: u8| [&[0x80, n], &b"}."[..]].concat();
    let table: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("nothing", vec![], &["data.pkl ends too early"]),
        ("no end", vec![0x80, 2, b'}'], &["data.pkl ends too early"]),
        ("a protocol of the future", protocol(6), &["protocol 6"]),
        ("no pickle", b"\xFF\xFE".to_vec(), &["0xff"]),
        ("an empty stack", b".".to_vec(), &["takes more than it made"]),
        ("an empty stack that is used", b"q\0.".to_vec(), &["did not make"]),
        ("a mark that is not there", b"t.".to_vec(), &["mark"]),
        ("below a mark", b"N(\x86.".to_vec(), &["takes more than it made"]),
        ("a value below a mark", b"]K\x01(a.".to_vec(), &["takes more than it made"]),
        ("a memory that is not there", pickle(b"h\x07"), &["recalls 7"]),
        ("a text that is cut off", pickle(b"X\xFF\xFF\xFF\xFFabc"), &["ends too early"]),
        ("a text of every byte there is", pickle(&[&[0x8D][..], &[0xFF; 8], b"abc"].concat()), &["ends too early"]),
        ("a text that is none", pickle(b"X\x02\0\0\0\xC3\x28"), &["UTF-8"]),
        ("a surrogate", pickle(b"X\x03\0\0\0\xED\xA0\x80"), &["UTF-8"]),
        ("a number that is none", pickle(b"Iabc\n"), &["\"abc\""]),
        ("a key without a value", pickle(b"}(K\x01u"), &["key without a value"]),
        ("keys for a list", pickle(b"](K\x01K\x02u"), &["adds keys to a list"]),
        ("elements for a dictionary", pickle(b"}K\x01a"), &["adds elements to a dictionary"]),
        ("something outside", pickle(&[&tuple(&[text("module"), int(1)])[..], b"Q"].concat()), &["no storage"]),
        (
            "a storage of no class",
            pickle(&[&tuple(&[text("storage"), int(1), text("0"), text("cpu"), int(1)])[..], b"Q"].concat()),
            &["class is a number"],
        ),
        ("a list that holds itself", pickle(b"]q\0h\0a"), &["holds a list"]),
        ("a dictionary that holds itself", pickle(&[&b"}q\0"[..], &text("model"), b"h\0s"].concat()), &["\"model\""]),
        ("no tensors", pickle(&dict(&[])), &["no tensors"]),
        (
            "two models",
            pickle(&dict(&[("a", dict(&[("w", floats())])), ("b", dict(&[("w", floats())]))])),
            &["[\"a\", \"b\"]"],
        ),
    ];
    for (what, pickle, words) in table {
        refusal(what, open(with_pickle(&pickle)), &[&["m.bin: "], words].concat());
    }
    // What keeps a machine busy, or full.
    let busy: Vec<(&str, Vec<u8>)> = vec![
        ("instructions without end", b"N0".repeat(6 << 20)),
        ("marks without end", b"(".repeat(9 << 20)),
        ("lists in lists", b"]".iter().copied().chain(b"](".repeat(3_000_000)).collect()),
    ];
    for (what, body) in busy {
        assert!(open(with_pickle(&pickle(&body))).is_err(), "{what}");
    }
    // Doubled 60 times over by sharing: two to the power of 60 elements, were they written out.
    let mut body = b"]q\0".to_vec();
    for i in 0..60u8 {
        body.extend([b'h', i, b'h', i, 0x86, b'q', i + 1, b'0']);
    }
    body.extend(dict(&[("w", floats()), ("laughs", vec![b'h', 60])]));
    let checkpoint = open(with_pickle(&pickle(&body))).unwrap();
    assert_eq!(checkpoint.tensors().count(), 1);
}

/// Two float32 numbers.
fn floats() -> Vec<u8> {
    tensor(storage("FloatStorage", "0", 12), 0, &[2], &[1])
}

#[test]
fn tensors_that_leave_their_storage_are_refused_by_name() {
    const MOST: i64 = i64::MAX;
    let of = |offset, sizes: &[i64], strides: &[i64]| tensor(storage("FloatStorage", "0", 12), offset, sizes, strides);
    let table: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("one too many", of(0, &[13], &[1]), &["[13]", "48 bytes"]),
        ("one too far", of(1, &[3, 4], &[4, 1]), &["from 1"]),
        ("a stride too far", of(0, &[2, 2], &[11, 1]), &["[11, 1]"]),
        ("an offset beyond", of(12, &[1], &[1]), &["from 12"]),
        ("an offset before", of(-1, &[1], &[1]), &["from -1"]),
        ("the last offset", of(MOST, &[1], &[1]), &["9223372036854775807"]),
        ("a negative size", of(0, &[-1], &[1]), &["size of -1"]),
        ("a negative stride", of(3, &[2], &[-1]), &["stride of -1"]),
        ("a size that overflows", of(0, &[MOST, MOST], &[1, 1]), &["[9223372036854775807, 9223372036854775807]"]),
        ("a stride that overflows", of(0, &[2, 2], &[MOST, MOST]), &["leaves its storage"]),
        ("elements without end", of(0, &[1 << 40, 1 << 20], &[0, 0]), &["repeats a few elements", "contiguous"]),
        ("more elements than can be counted", of(0, &[1 << 40, 1 << 40], &[0, 0]), &["repeats"]),
        (
            "a storage that is too small",
            tensor(storage("FloatStorage", "0", 13), 0, &[1], &[1]),
            &["\"0\" claims 13 float32", "48 bytes"],
        ),
        (
            "a storage of every byte",
            tensor(storage("DoubleStorage", "0", MOST), 0, &[1], &[1]),
            &["9223372036854775807 float64"],
        ),
        ("a storage of less than nothing", tensor(storage("FloatStorage", "0", -1), 0, &[1], &[1]), &["claims -1"]),
        (
            "a storage that is not there",
            tensor(storage("FloatStorage", "5", 1), 0, &[1], &[1]),
            &["storage \"5\" is not"],
        ),
        (
            "a storage elsewhere",
            tensor(storage("FloatStorage", "../../version", 0), 0, &[0], &[1]),
            &["is not in the file"],
        ),
    ];
    for (what, tensor, words) in table {
        refusal(what, open(with_tensor(tensor)), &[&["m.bin: tensor w: "], words].concat());
    }
    for (what, tensor, words) in [
        ("sizes without strides", of(0, &[2, 2], &[1]), "2 sizes and 1 strides"),
        ("nine dimensions", of(0, &[1; 9], &[1; 9]), "9 sizes"),
        (
            "a storage that is none",
            call(global("torch._utils", "_rebuild_tensor"), &[int(0), int(0), ints(&[1]), ints(&[1])]),
            "its storage is a number",
        ),
    ] {
        refusal(what, open(with_tensor(tensor)), &["m.bin: ", words]);
    }
    let twice = [b"}(", &text("w")[..], &floats(), &text("w"), &floats(), b"u"].concat();
    refusal("twice", open(with_pickle(&pickle(&twice))), &["tensor w", "there twice"]);
}

#[test]
fn broken_archives_are_refused() {
    let good = entries(&pickle(&dict(&[("w", floats())])), &[("0", &[0; 48]), ("1", &[0; 48])]);
    assert!(open(zip(&good, false)).is_ok() && open(zip(&good, true)).is_ok());
    let with = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut entries = good.clone();
        change(&mut entries);
        zip(&entries, false)
    };
    let cut = |bytes: usize| {
        let mut file = zip(&good, false);
        file.truncate(file.len() - bytes);
        file
    };
    let end = |at: usize, bytes: &[u8]| {
        let mut file = zip(&good, false);
        let from = file.len() - 22 + at;
        file[from..from + bytes.len()].copy_from_slice(bytes);
        file
    };
    let table: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("cut off", cut(1), &["directory is missing", "truncated"]),
        ("cut in half", cut(300), &["directory is missing", "truncated"]),
        ("only a magic number", b"PK\x03\x04".to_vec(), &["directory is missing"]),
        ("an empty archive", zip(&[], false), &["no data.pkl"]),
        ("another archive", zip(&[Entry::new("word/document.xml", b"")], false), &["no data.pkl", "word/document.xml"]),
        ("two checkpoints", with(&|e| e.push(Entry::new("n/data.pkl", b""))), &["two checkpoints"]),
        ("two entries of a name", with(&|e| e.push(e[2].clone())), &["two entries called m/data/0"]),
        ("compressed", with(&|e| e[2].method = 8), &["m/data/0", "compressed", "zip -0"]),
        ("a compressed pickle", with(&|e| e[0].method = 8), &["m/data.pkl", "compressed"]),
        ("encrypted", with(&|e| e[2].flags |= 1), &["m/data/0", "encrypted"]),
        ("big-endian", with(&|e| e[1].data = b"big\n".to_vec()), &["byteorder", "big"]),
        ("of the future", with(&|e| e[4].data = b"11\n".to_vec()), &["version", "11"]),
        ("another name inside", with(&|e| e[2].own_name = Some("m/data/x".into())), &["another name"]),
        ("a size beyond", with(&|e| e[2].claims = Some(4000)), &["m/data/0", "overlaps"]),
        ("a size into the next", with(&|e| e[2].claims = Some(60)), &["m/data/0", "reaches into the next"]),
        ("on top of another", with(&|e| e[3].place = Some(0)), &["overlaps"]),
        ("a place beyond", with(&|e| e[2].place = Some(0xFFFF_FFF0)), &["m/data/0", "overlaps"]),
        ("a place between", with(&|e| e[2].place = Some(300)), &["reaches into the next"]),
        ("more entries than bytes", end(10, &[0xFF, 0xFF]), &["65535 entries"]),
        ("a directory beyond", end(16, &[0xFF; 4]), &["directory claims", "truncated"]),
        ("a directory of every byte", end(12, &[0xFF; 4]), &["directory claims"]),
        ("a directory elsewhere", end(16, &[1, 0, 0, 0]), &["entry 0", "begin"]),
        ("a part of several", end(4, &[1, 0]), &["several parts"]),
    ];
    for (what, file, words) in table {
        refusal(what, open(file), &[&["m.bin: "], words].concat());
    }
    let mut large = zip(&good, true);
    let locator = large.len() - 22 - 20;
    large[locator + 8..locator + 16].copy_from_slice(&u64::MAX.to_le_bytes());
    refusal("large records beyond", open(large.clone()), &["lies outside"]);
    large[locator + 8..locator + 16].copy_from_slice(&0u64.to_le_bytes());
    refusal("large records elsewhere", open(large), &["not where it should be"]);
    memory_was_bounded_by_much();
}

/// Other tests of this process may hold the pickles that are large on purpose.
fn memory_was_bounded_by_much() {
    if std::env::var_os("NEXTEST").is_some() {
        memory_was_bounded();
    }
}

#[test]
fn broken_files_of_old_are_refused() {
    let good = std::fs::read(data("legacy.bin")).unwrap();
    let replaced = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|w| w == from).unwrap();
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    let table: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("cut off", good[..good.len() - 1].to_vec(), &["ends within storage", "truncated"]),
        ("cut in the description", good[..300].to_vec(), &["within its description", "truncated"]),
        ("another protocol", replaced(b"M\xE9\x03", b"M\xEA\x03"), &["protocol 1001"]),
        ("big-endian", replaced(b"little_endianq\x02\x88", b"little_endianq\x02\x89"), &["big-endian"]),
        ("a program", replaced(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cposix\nsystem\n"), &["posix.system"]),
        ("a magic number that is not alone", replaced(&[0x50, 0x19, b'.'], &[0x50, 0x19, b'K']), &["m.bin: "]),
    ];
    for (what, file, words) in table {
        refusal(what, open(file), &[&["m.bin: "], words].concat());
    }
}

#[test]
fn files_that_are_something_else_are_called_that() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4096\n";
    let table: &[(&[u8], &str)] = &[
        (pointer.as_bytes(), "Git LFS pointer and not the file of 4096 bytes"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"Entry not found", "\"Entry not found\""),
        (b"\x1F\x8B\x08\0\0\0\0\0\0", "gzip archive"),
        (b"\x93NUMPY\x01\0", "NumPy"),
        (b"\x80\x04\x95\0\0\0\0\0\0\0\0N.", "pickle"),
        (b"GGUF\x03\0\0\0\0", "GGUF file"),
    ];
    for (bytes, words) in table {
        refusal(words, open(bytes.to_vec()), &["m.bin: is ", words]);
    }
}
