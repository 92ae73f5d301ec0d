//! Tokenizers of every kind: the ids and texts of the references, special tokens kept apart from a user's text,
//! text by token and as it grows, and files that are broken.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic here is a failed test")]

mod added;
mod formats;
mod hostile;
mod real;
mod streams;

use std::path::{Path, PathBuf};

use remask_core::TextTokenizer;
use remask_core::chat::MarkedText;
use remask_core::tokenizer::TokenizerFiles;
use serde_json::Value;

/// A file of the folder with small tokenizers; its make.py says how they came about.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap()
}

/// A tokenizer of files by name and a tokenizer_config.json.
fn of(files: &[(&str, Vec<u8>)], config: Option<&Value>) -> remask_core::Result<TextTokenizer> {
    let files = files.iter().fold(TokenizerFiles::new(), |all, (name, bytes)| all.with(name, bytes.clone()));
    Ok(files.read("m", config.map(Value::to_string).as_deref())?.expect("a tokenizer"))
}

/// A text of which nothing is a user's.
fn plain(text: &str) -> MarkedText {
    MarkedText { text: text.to_owned(), user: Vec::new() }
}

fn user(text: &str) -> MarkedText {
    MarkedText::from_user(text)
}

/// Every text of a list in `expected` is encoded and, where it says so, decoded as the reference does.
fn agrees(name: &str, tokenizer: &TextTokenizer, expected: &Value, texts: &Value) -> Vec<String> {
    let ids = if expected.is_array() { expected } else { &expected["ids"] };
    let mut differences = Vec::new();
    for (n, text) in texts.as_array().unwrap().iter().enumerate() {
        let text = text.as_str().unwrap();
        let ids: Vec<u32> = ids[n].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        // The tokenizers library finds special tokens in a text, SentencePiece and tiktoken do not.
        let parsed = name.ends_with("vocab.json") || name.ends_with("tokenizer.json");
        let found = tokenizer.encode(&if parsed { plain(text) } else { user(text) }).unwrap();
        if found != ids {
            let pieces =
                |ids: &[u32]| ids.iter().map(|id| tokenizer.token(*id).unwrap_or_default()).collect::<Vec<_>>();
            differences.push(format!("{name}: {text:?}: {:?}, not {:?}", pieces(&found), pieces(&ids)));
        }
        // SentencePiece shows what is unknown in its own way, transformers as its token.
        let decoded = expected["decoded"][n].as_str().filter(|text| !text.contains('\u{2047}'));
        if let Some(decoded) = decoded {
            let found = tokenizer.decode(&ids, false).unwrap();
            if found != decoded {
                differences.push(format!("{name}: {text:?} is decoded as {found:?}, not {decoded:?}"));
            }
        }
    }
    differences
}
