//! The built binary from end to end: what each command prints, and that whatever is wrong with its
//! input comes out as one line and a status. Commands that compute need an adapter, and fail without.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod autoregressive;
mod backends;
mod bench_serve;
mod commands;
mod refusals;
#[cfg(unix)]
mod serve;
#[cfg(feature = "train")]
mod train;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// What a run of the binary came to.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn remask(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    command.args(args).env_remove("REMASK_LOG").stdin(Stdio::null());
    // Tests leave nothing in the home of whoever runs them.
    command.env("REMASK_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
    command
}

fn run(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    assert!(!ran.err.contains("panicked"), "{command:?} panicked:\n{}", ran.err);
    ran
}

/// Runs a command that must succeed. Without an adapter that is a failure with the way to get one.
fn works(command: Command) -> Ran {
    let shown = format!("{command:?}");
    let ran = run(command);
    let adapter = !ran.err.contains("no usable GPU adapter");
    assert!(adapter, "these tests need an adapter; on Debian: apt install mesa-vulkan-drivers libvulkan1");
    assert_eq!(ran.code, Some(0), "{shown}:\n{}", ran.err);
    ran
}

fn json_of(command: Command) -> Value {
    serde_json::from_str(&works(command).out).unwrap()
}

/// `remask generate` for eight tokens of `model`, which are quick on any adapter.
fn generate(model: &str, more: &str) -> Command {
    let mut command = remask(&["generate", "--model", model, "--max-tokens", "8"]);
    command.args(more.split_whitespace());
    command
}

/// Checks that a run said what is wrong in one line with all of `words`, and nothing else.
fn refused(what: &str, ran: &Ran, words: &[&str]) {
    assert_eq!(ran.code, Some(1), "{what}: {}{}", ran.out, ran.err);
    assert!(ran.err.starts_with("error: ") && ran.err.lines().count() == 1, "{what}: {}", ran.err);
    assert!(!ran.err.trim_end().contains(char::is_control), "{what}: {:?}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "{what}: no {word:?} in: {}", ran.err);
    }
    assert_eq!(ran.out, "", "{what}");
}

const TALES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales-33m");

fn golden(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name).display().to_string()
}

/// A golden model's files in a folder of their own, to be spoilt.
struct Scratch(TempDir);

impl Scratch {
    fn of(name: &str) -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        for file in Path::new(&golden(name)).read_dir().unwrap().map(|e| e.unwrap()) {
            std::fs::copy(file.path(), copy.file(file.file_name().to_str().unwrap())).unwrap();
        }
        copy
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.file(name)).unwrap();
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.file(name)).unwrap();
        change(&mut bytes);
        std::fs::write(self.file(name), bytes).unwrap();
    }

    fn edit_json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.edit(name, |bytes| {
            let mut value = serde_json::from_slice(bytes).unwrap();
            change(&mut value);
            *bytes = value.to_string().into_bytes();
        });
    }

    /// Takes over a file of another model.
    fn take(&self, folder: &str, name: &str) {
        std::fs::copy(Path::new(folder).join(name), self.file(name)).unwrap();
    }

    fn set(&self, key: &str, value: Value) {
        self.edit_json("config.json", |config| config[key] = value);
    }

    /// Rewrites the header of the weights and leaves their data as it is.
    fn edit_header(&self, change: impl FnOnce(&mut Value)) {
        self.edit("model.safetensors", |bytes| {
            let (mut header, data) = split(bytes);
            let data = bytes.split_off(data);
            change(&mut header);
            let header = header.to_string();
            *bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
        });
    }

    /// Puts a NaN into one of the weights.
    fn poison(&self, tensor: &str) {
        self.edit("model.safetensors", |bytes| {
            let (header, data) = split(bytes);
            let at = data + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
            bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
    }
}

/// A safetensors file's header, and where its data begins.
fn split(bytes: &[u8]) -> (Value, usize) {
    let data = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..data]).unwrap(), data)
}

/// A matrix of the golden models.
const WEIGHT: &str = "model.transformer.blocks.1.ff_proj.weight";
