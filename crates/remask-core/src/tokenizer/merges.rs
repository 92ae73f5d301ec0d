//! Byte-level BPE as GPT-2 has it: vocab.json with merges.txt, or encoder.json with vocab.bpe.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Parts;
use super::added::AddedToken;
use super::decode::Decoder;
use super::frame::Frame;
use super::model::{BpeOptions, Model};
use super::normalize::Normalizer;
use super::patterns::{GPT2, QWEN2};
use super::settings::Settings;
use super::split::Splitter;

/// Reads the two files.
///
/// # Errors
/// What is wrong with them.
pub(super) fn read(vocab: &[u8], merges: &[u8], settings: &Settings) -> Result<Parts, String> {
    let vocab: HashMap<String, u32> =
        serde_json::from_str(crate::text::decode(vocab)?).map_err(|e| format!("is no JSON of ids by text: {e}"))?;
    let lines = crate::text::decode(merges).map_err(|e| format!("the merges: {e}"))?.lines();
    let lines = lines.enumerate().filter(|(n, line)| !line.is_empty() && (*n > 0 || !line.starts_with("#version")));
    let pair = |(n, line): (usize, &str)| match line.split_once(' ') {
        Some((a, b)) if !b.contains(' ') => Ok((a.to_owned(), b.to_owned())),
        _ => Err(format!("line {} of the merges, {line:?}, is no pair", n + 1)),
    };
    let merges = lines.map(pair).collect::<Result<_, _>>()?;
    let (pattern, normalizer, frame) = match settings.class.as_deref() {
        Some("Qwen2Tokenizer") => (QWEN2, json!({"type": "NFC"}), Frame::default()),
        Some("RobertaTokenizer" | "BartTokenizer") => {
            let id = |text: &str| vocab.get(text).copied();
            let ids = id("<s>").zip(id("</s>")).ok_or("has no <s> and </s>")?;
            (GPT2, Value::Null, Frame { before: vec![ids.0], after: vec![ids.1] })
        }
        _ => (GPT2, Value::Null, Frame::default()),
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": settings.add_prefix_space == Some(true),
        "trim_offsets": true, "use_regex": pattern == GPT2});
    let splitter = if pattern == GPT2 { Splitter::from_json(&bytes) } else { Splitter::byte_level(&[pattern]) };
    // The token that stands between texts is special whether or not a file says so.
    let added = vocab.get("<|endoftext|>").map(|id| AddedToken::new(*id, "<|endoftext|>", true));
    Ok(Parts {
        added: added.into_iter().collect(),
        normalizer: Normalizer::from_json(&normalizer)?,
        splitter: splitter?,
        model: Model::bpe(vocab, merges, BpeOptions::default())?,
        decoder: Decoder::byte_level()?,
        frame: Some(frame),
    })
}
