//! Chat templates: that they render as in transformers, that marks stay where they belong, and that no template
//! takes the program down.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cases;
mod fidelity;
mod limits;
mod marks;
mod requests;
mod sources;

use std::path::{Path, PathBuf};

use remask_core::chat::{ChatTemplate, Conversation, MarkedText, TemplateFiles};
use remask_core::{Error, Result};
use serde_json::{Value, json};

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(data(path)).unwrap()
}

fn read_json(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

/// A template with the special tokens of the reference.
fn template(source: &str) -> Result<ChatTemplate> {
    let settings = json!({
        "bos_token": "<s>", "eos_token": { "content": "</s>" }, "pad_token": "<pad>", "unk_token": "<unk>",
        "additional_special_tokens": ["<a>", { "content": "<b>" }], "add_bos_token": true,
    });
    let files =
        TemplateFiles { origin: "m", template: Some(source), settings: Some(&settings), ..TemplateFiles::default() };
    Ok(ChatTemplate::from_files(&files, |_| None)?.unwrap())
}

/// What a template makes of a question, and of variables.
fn render(source: &str, question: &str, variables: Value) -> Result<MarkedText> {
    let Value::Object(variables) = variables else { panic!("variables are a map") };
    template(source)?.render(&Conversation { variables, ..Conversation::ask(question) })
}

/// What a template makes of a question, as plain text.
fn text(source: &str, question: &str) -> String {
    render(source, question, json!({})).unwrap().text
}

/// The parts of a text that came from outside.
fn given(marked: &MarkedText) -> Vec<&str> {
    marked.user.iter().map(|range| &marked.text[range.clone()]).collect()
}

/// What a template is refused with.
fn refusal(source: &str) -> String {
    match render(source, "question", json!({})) {
        Ok(marked) => panic!("{source} wrote {:?}", marked.text.chars().take(80).collect::<String>()),
        Err(error @ Error::Tokenizer { .. }) => error.to_string(),
        Err(other) => panic!("{source}: {other}"),
    }
}
