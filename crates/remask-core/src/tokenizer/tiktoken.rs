//! Byte-level BPE by rank: tiktoken's files (a token in base64 and its rank a line) and Mistral's tekken.json.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::json;

use super::Parts;
use super::added::AddedToken;
use super::bytes::{shown, text_of_bytes};
use super::decode::Decoder;
use super::frame::Frame;
use super::model::{Model, Pieces};
use super::normalize::Normalizer;
use super::patterns;
use super::ranked::{Piece, RankedBpe, Use};
use super::settings::Settings;
use super::split::Splitter;

/// Ranks are kept in 32-bit floating point, exactly up to here.
const MOST_RANKS: u32 = 1 << 24;

/// Whether a file's first line is that of a tiktoken file.
pub(super) fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\n').next().filter(|line| line.len() < 256);
    let line = line.and_then(|line| std::str::from_utf8(line).ok()).and_then(|line| line.trim_end().split_once(' '));
    line.is_some_and(|(token, rank)| BASE64.decode(token).is_ok() && rank.parse::<u32>().is_ok())
}

/// Special tokens that a tiktoken file's users know of: the files hold none.
fn known_special(name: &str, ranks: u32) -> Vec<AddedToken> {
    let from = |start: u32, texts: &[&str]| -> Vec<AddedToken> {
        (start..).zip(texts).map(|(id, text)| AddedToken::new(id, text, true)).collect()
    };
    let name = name.to_ascii_lowercase();
    let qwen = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    if name.contains("qwen") {
        let extras = if ranks == 151_643 { 205 } else { 0 };
        let extras = (ranks + 3..).take(extras).enumerate();
        let extras = extras.map(|(n, id)| AddedToken::new(id, &format!("<|extra_{n}|>"), true));
        from(ranks, &qwen).into_iter().chain(extras).collect()
    } else if name.contains("cl100k") {
        let mut tokens = from(100_257, &["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]);
        tokens.extend(from(100_276, &["<|endofprompt|>"]));
        tokens
    } else if name.contains("o200k") {
        let mut tokens = from(199_999, &["<|endoftext|>"]);
        tokens.extend(from(200_018, &["<|endofprompt|>"]));
        tokens
    } else if ["r50k", "p50k", "gpt2"].iter().any(|known| name.contains(known)) {
        from(50_256, &["<|endoftext|>"])
    } else if ranks == 128_000 {
        let mut tokens = from(ranks, &["<|begin_of_text|>", "<|end_of_text|>"]);
        tokens.extend(from(ranks + 6, &["<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"]));
        tokens
    } else {
        Vec::new()
    }
}

/// Reads a tiktoken file called `name`.
///
/// # Errors
/// What is wrong with it, or that nothing says how it splits text.
pub(super) fn read(name: &str, bytes: &[u8], settings: &Settings) -> Result<Parts, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    let mut ranks = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let broken = || format!("line {}, {line:?}, is no token in base64 with its rank", n + 1);
        let (token, rank) = line.trim_end().split_once(' ').ok_or_else(broken)?;
        let rank: u32 = rank.parse().map_err(|_| broken())?;
        if rank >= MOST_RANKS {
            return Err(format!("line {} has the rank {rank}, but there are at most {MOST_RANKS}", n + 1));
        }
        ranks.push((BASE64.decode(token).map_err(|_| broken())?, rank));
    }
    let stated = settings.pattern.as_deref();
    let class = settings.class.as_deref();
    let known = stated.and_then(patterns::of_tiktoken).or(stated);
    let known = known.or_else(|| patterns::of_tiktoken(name)).or_else(|| class.and_then(patterns::of_tiktoken));
    let pattern = known.ok_or(
        "nothing says how it splits text: name the expression as \"pat_str\" in tokenizer_config.json, or the file \
         after its encoding (cl100k_base, o200k_base, r50k_base, qwen, llama3)",
    )?;
    let count = ranks.iter().map(|(_, rank)| rank + 1).max().unwrap_or_default();
    let added = known_special(&format!("{name} {}", class.unwrap_or_default()), count);
    let is_qwen = pattern == patterns::QWEN2 || pattern == patterns::QWEN35;
    let starts = added.iter().find(|t| t.text == "<|begin_of_text|>").map(|t| t.id);
    let normalizer = if is_qwen { json!({"type": "NFC"}) } else { serde_json::Value::Null };
    let frame = Frame { before: starts.into_iter().collect(), after: Vec::new() };
    parts(ranks, 0, pattern, added, &normalizer, frame)
}

/// A tokenizer of tokens with ranks, whose ids begin at `first`.
fn parts(
    ranks: Vec<(Vec<u8>, u32)>,
    first: u32,
    pattern: &str,
    added: Vec<AddedToken>,
    normalizer: &serde_json::Value,
    frame: Frame,
) -> Result<Parts, String> {
    let mut pieces = HashMap::with_capacity(ranks.len());
    let mut texts = HashMap::with_capacity(ranks.len());
    for (bytes, rank) in ranks {
        if rank >= MOST_RANKS || bytes.is_empty() {
            return Err(format!(
                "token {} has the rank {rank}; tokens are not empty and ranks below {MOST_RANKS}",
                shown(&bytes)
            ));
        }
        let id = rank.saturating_add(first);
        let piece = Piece { id, score: -(rank as f32), purpose: Use::Normal };
        let text: Box<str> = text_of_bytes(&bytes).into();
        if pieces.insert(text.clone(), piece).is_some() || texts.insert(id, text).is_some() {
            return Err(format!("token {} or its rank {rank} is there twice", shown(&bytes)));
        }
    }
    if let Some(byte) = (0..=255).find(|byte| !pieces.contains_key(text_of_bytes(&[*byte]).as_str())) {
        return Err(format!("has no token for the byte 0x{byte:02X}"));
    }
    Ok(Parts {
        added,
        normalizer: Normalizer::from_json(normalizer)?,
        splitter: Splitter::byte_level(&[pattern])?,
        model: Model::Ranked(RankedBpe::new(pieces, None, None, true), Pieces::new(texts)),
        decoder: Decoder::byte_level()?,
        frame: Some(frame),
    })
}

#[derive(Deserialize)]
struct Tekken {
    config: TekkenConfig,
    vocab: Vec<TekkenToken>,
    special_tokens: Option<Vec<TekkenSpecial>>,
}

#[derive(Deserialize)]
struct TekkenConfig {
    pattern: String,
    default_vocab_size: u32,
    default_num_special_tokens: u32,
}

#[derive(Deserialize)]
struct TekkenToken {
    rank: u32,
    token_bytes: String,
}

#[derive(Deserialize)]
struct TekkenSpecial {
    rank: u32,
    token_str: String,
}

/// The special tokens of files that do not list theirs.
const TEKKEN_SPECIAL: &[&str] = &[
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// Reads a tekken.json. Special tokens come first, so a token's id is its rank behind theirs; tokens beyond the
/// size of the vocabulary are not part of it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read_tekken(bytes: &[u8]) -> Result<Parts, String> {
    let file: Tekken = serde_json::from_slice(bytes).map_err(|e| format!("no tekken.json: {e}"))?;
    let special = file.config.default_num_special_tokens;
    let count = file.config.default_vocab_size.checked_sub(special).filter(|_| special < MOST_RANKS);
    let count = count.ok_or_else(|| format!("default_vocab_size is below its {special} special tokens"))?;
    let listed = file.special_tokens.filter(|listed| !listed.is_empty());
    let named: Vec<(u32, String)> = match listed {
        Some(listed) => listed.into_iter().map(|t| (t.rank, t.token_str)).collect(),
        None => (0..).zip(TEKKEN_SPECIAL).map(|(id, text)| (id, (*text).to_owned())).collect(),
    };
    let mut texts: HashMap<u32, String> = HashMap::new();
    for (id, text) in named {
        if id >= special {
            return Err(format!("special token {text} has the rank {id}, but there are {special} of them"));
        }
        texts.insert(id, text);
    }
    let filler = |id: u32| texts.get(&id).cloned().unwrap_or_else(|| format!("<SPECIAL_{id}>"));
    let added: Vec<_> = (0..special.min(1 << 16)).map(|id| AddedToken::new(id, &filler(id), true)).collect();
    let bos = added.iter().find(|t| t.text == "<s>").map(|t| t.id);
    let kept = file.vocab.into_iter().filter(|t| t.rank < count);
    let decoded = kept.map(|t| {
        let bytes = BASE64.decode(&t.token_bytes);
        Ok((bytes.map_err(|_| format!("the token of rank {} is no base64", t.rank))?, t.rank))
    });
    let frame = Frame { before: bos.into_iter().collect(), after: Vec::new() };
    parts(
        decoded.collect::<Result<_, String>>()?,
        special,
        &file.config.pattern,
        added,
        &serde_json::Value::Null,
        frame,
    )
}
