//! Model folders as people have them: files that Python or an editor wrote, files that are something else than their
//! name says, and names that a terminal would obey.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use remask_core::checkpoint::Checkpoint;
use remask_core::{Model, Result};
use tempfile::TempDir;

/// A copy of a golden model, to be changed.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/llada-mha");
        let copy = Self(tempfile::tempdir().unwrap());
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(golden.join(name), copy.file(name)).unwrap();
        }
        copy
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.file(name), bytes).unwrap();
    }

    /// Changes config.json as text.
    fn config(&self, change: impl FnOnce(&str) -> String) {
        let text = std::fs::read_to_string(self.file("config.json")).unwrap();
        self.write("config.json", change(&text));
    }

    fn open(&self) -> Result<Model> {
        Model::open(self.0.path())
    }
}

/// The one line that `outcome` fails with. It must hold every one of `words` and nothing that a terminal obeys.
fn refusal<T>(what: &str, outcome: Result<T>, words: &[&str]) {
    let message = match outcome {
        Ok(_) => panic!("{what}: accepted"),
        Err(e) => e.to_string(),
    };
    assert!(!message.contains(|c: char| c.is_control() || c == '\u{202e}'), "{what}: {message:?}");
    for word in words {
        assert!(message.contains(word), "{what}: no {word:?} in: {message}");
    }
}

/// What the config says between its braces, and `more`.
fn and(config: &str, more: &str) -> String {
    let end = config.rfind('}').unwrap();
    format!("{}, {more}}}", &config[..end])
}

#[test]
fn configs_as_python_writes_them_load_as_without() {
    let expected = Folder::new().open().unwrap().architecture;
    let same: &[fn(&str) -> String] = &[
        |c| and(c, r#""time_step_limit": [0.0, Infinity], "low": -Infinity, "n": {"x": NaN}, "s": "NaN, \"Infinity""#),
        |c| format!("\u{feff}{c}\r\n"),
        |c| and(&c.replacen('{', r#"{"n_layers": 77, "#, 1), r#""unused": 1, "unused": 2"#),
    ];
    for change in same {
        let folder = Folder::new();
        folder.config(change);
        folder.write("tokenizer_config.json", "\u{feff}{\"model_max_length\": 1e30, \"x\": Infinity}");
        folder.write("generation_config.json", "\u{feff}{\"unused\": NaN}");
        let model = folder.open().unwrap();
        assert_eq!(model.architecture, expected, "{}", model.config);
    }
}

#[test]
fn numbers_that_are_none_are_refused_where_they_matter() {
    for number in ["Infinity", "-Infinity", "NaN"] {
        for key in ["rope_theta", "n_layers", "d_model", "rms_norm_eps"] {
            let folder = Folder::new();
            // Of two the last one counts.
            folder.config(|c| and(c, &format!("\"{key}\": {number}")));
            refusal(key, folder.open(), &["config.json: ", key, "expected a", number]);
        }
    }
    let deep = Folder::new();
    deep.config(|c| and(c, &format!("\"x\": {}", "[".repeat(500_000))));
    refusal("deep", deep.open(), &["config.json", "recursion limit"]);
}

#[test]
fn files_that_are_something_else_are_called_that() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 4096\n";
    let page = "<!DOCTYPE html>\n<html><body>Not Found</body></html>\n";
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let folder = Folder::new();
        folder.write(name, pointer);
        refusal(name, folder.open(), &[name, "Git LFS pointer", "4096 bytes", "git lfs pull"]);
        folder.write(name, page);
        refusal(name, folder.open(), &[name, "HTML page", "download"]);
    }
    let folder = Folder::new();
    folder.write("config.json", b"\xFF\xFE{\0}\0");
    refusal("UTF-16", folder.open(), &["config.json", "UTF-16", "save it as UTF-8"]);

    let folder = Folder::new();
    let gguf: &[(&[u8], &[&str])] = &[
        (b"", &["0 bytes", "download it again"]),
        (b"GG", &["cut off"]),
        (&[&b"GGML"[..], &[3, 0, 0, 0], &[0; 16]].concat(), &["not a GGUF file", "\"GGML\"", "before GGUF"]),
        (pointer.as_bytes(), &["not a GGUF file", "Git LFS pointer"]),
        (page.as_bytes(), &["not a GGUF file", "HTML page"]),
        (b"PK\x03\x04\0\0\0\0\0\0", &["not a GGUF file", "zip archive"]),
    ];
    for (bytes, words) in gguf {
        folder.write("m.gguf", bytes);
        refusal("a GGUF file", Model::open(&folder.file("m.gguf")), &[&["m.gguf: "], *words].concat());
    }
    std::fs::remove_file(folder.file("config.json")).unwrap();
    refusal("only a GGUF file", folder.open(), &["config.json", "m.gguf is the model"]);
    std::fs::remove_file(folder.file("model.safetensors")).unwrap();
    refusal("weights", Checkpoint::open(folder.0.path()), &["pytorch_model.bin", "m.gguf is the model"]);
}

#[test]
fn names_from_files_are_shown_escaped() {
    let name = "a\u{1b}]0;TITLE\u{7}\u{1b}[31mred\r\n\u{9b}m\u{202e}b";
    let shown = "a\\u{1b}]0;TITLE\\u{7}\\u{1b}[31mred\\r\\n\\u{9b}m\\u{202e}b";
    let json = serde_json::to_string(name).unwrap();
    let broken = format!("{{{json}: {{\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 4]}}}}");
    let folder = Folder::new();
    folder.write("model.safetensors", [&(broken.len() as u64).to_le_bytes()[..], broken.as_bytes(), &[0; 4]].concat());
    refusal("a tensor", folder.open(), &["tensor ", shown]);
    let folder = Folder::new();
    folder.config(|c| and(c, &format!("\"architectures\": [{json}]")));
    refusal("an architecture", folder.open(), &["config.json", "architecture"]);
    let folder = Folder::new();
    folder.config(|c| and(c, &format!("\"rope_theta\": {json}")));
    refusal("a value", folder.open(), &["rope_theta"]);
    refusal("a path", Model::open(Path::new(&format!("/nowhere/{name}"))), &["/nowhere/", shown]);
    let index = format!("{{\"weight_map\": {{\"w\": {json}}}}}");
    let folder = Folder::new();
    std::fs::remove_file(folder.file("model.safetensors")).unwrap();
    folder.write("model.safetensors.index.json", index);
    refusal("a shard", folder.open(), &["cannot open", shown]);
}

#[test]
fn a_tensor_that_a_header_gives_twice_is_refused() {
    let entry = |range: &str| format!("\"w\": {{\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": {range}}}");
    let header = format!("{{{}, {}}}", entry("[0, 4]"), entry("[4, 8]"));
    let folder = Folder::new();
    folder.write("model.safetensors", [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat());
    refusal("twice", folder.open(), &["tensor w is there twice"]);
}
