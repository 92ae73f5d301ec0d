//! Vocabularies in GGUF files, as llama.cpp's converter writes them.

use std::collections::HashMap;

use serde_json::json;

use super::added::{AddedToken, STRUCTURE};
use super::decode::Decoder;
use super::frame::Frame;
use super::model::{BpeOptions, Model};
use super::normalize::{Normalizer, Prefix, SPACE_MARK};
use super::patterns;
use super::sentencepiece::{Description, Kind, Piece};
use super::split::Splitter;
use super::{Parts, broken};
use crate::checkpoint::gguf::{Metadata, Value};
use crate::error::{Error, Result};

/// What every kind of vocabulary has.
struct Vocabulary<'a> {
    metadata: &'a Metadata,
    tokens: Vec<&'a str>,
    kinds: Vec<Kind>,
}

/// Reads the vocabulary; `None` where the file has none.
///
/// # Errors
/// [`Error::Tokenizer`] where it is of a kind that this build does not know, or its lists disagree;
/// [`Error::Config`] for a key of the wrong type.
pub(super) fn read(metadata: &Metadata) -> Result<Option<Parts>> {
    let refused = broken(&metadata.file);
    let Some(tokens) = metadata.list("tokenizer.ggml.tokens", "a list of texts", Value::as_text)? else {
        return Ok(None);
    };
    let kinds = metadata.list("tokenizer.ggml.token_type", "a list of whole numbers", Value::as_unsigned)?;
    let kinds = match kinds {
        Some(kinds) => kinds.into_iter().map(Kind::of_number).collect(),
        None => vec![Kind::Normal; tokens.len()],
    };
    if kinds.len() != tokens.len() || u32::try_from(tokens.len()).is_err() {
        return Err(refused(format!("{} tokens but {} token types", tokens.len(), kinds.len())));
    }
    let vocabulary = Vocabulary { metadata, tokens, kinds };
    let parts = match metadata.text("tokenizer.ggml.model")?.unwrap_or("(none)") {
        "gpt2" => vocabulary.byte_level()?,
        "llama" => vocabulary.sentence_piece(false)?,
        "t5" => vocabulary.sentence_piece(true)?,
        "gemma4" => vocabulary.merged_characters()?,
        "bert" => vocabulary.word_piece()?,
        other => {
            return Err(refused(format!(
                "tokenizer.ggml.model = {other:?} is not known (known: gpt2, llama, gemma4, t5, bert); {INSTEAD}"
            )));
        }
    };
    Ok(Some(parts))
}

const INSTEAD: &str = "give the model's own with --tokenizer tokenizer.json";

impl<'a> Vocabulary<'a> {
    fn refused(&self, problem: String) -> Error {
        broken(&self.metadata.file)(problem)
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &'a str, Kind)> {
        (0..).zip(&self.tokens).zip(&self.kinds).map(|((id, text), kind)| (id, *text, *kind))
    }

    /// An id that a key names, where it is one of the vocabulary's.
    fn id(&self, what: &str) -> Result<Option<u32>> {
        let id = self.metadata.size(&format!("tokenizer.ggml.{what}_token_id"))?;
        Ok(id.filter(|id| *id < self.tokens.len()).and_then(|id| u32::try_from(id).ok()))
    }

    fn flag(&self, leaf: &str) -> Result<Option<bool>> {
        self.metadata.flag(&format!("tokenizer.ggml.{leaf}"))
    }

    /// What stands around texts, where the file does not say so by default.
    fn frame(&self, starts: bool, ends: bool, start: Option<u32>, end: Option<u32>) -> Result<Frame> {
        let starts = self.flag("add_bos_token")?.unwrap_or(starts);
        let ends = self.flag("add_eos_token")?.unwrap_or(ends);
        let (before, after) = (self.id("bos")?.or(start).filter(|_| starts), self.id("eos")?.or(end).filter(|_| ends));
        Ok(Frame { before: before.into_iter().collect(), after: after.into_iter().collect() })
    }

    /// Tokens that are found in a text before it is cut.
    fn added(&self) -> Result<Vec<AddedToken>> {
        let model = self.metadata.text("general.name")?.unwrap_or_default().to_lowercase();
        // Phi-3's tokens take the white space behind them; the file does not say so.
        let strips = ["phi-3", "phi3"].iter().any(|name| model.contains(name));
        let special = |kind| matches!(kind, Kind::Control | Kind::Unknown);
        let found = self.numbered().filter(|(_, text, kind)| {
            special(*kind) || *kind == Kind::UserDefined || (*kind == Kind::Normal && STRUCTURE.contains(text))
        });
        let mut seen = std::collections::HashSet::new();
        let found = found.filter(|(_, text, _)| seen.insert(*text));
        Ok(found
            .map(|(id, text, kind)| AddedToken {
                strip_right: strips && special(kind) && !["<unk>", "<s>", "<|endoftext|>"].contains(&text),
                ..AddedToken::new(id, text, special(kind))
            })
            .collect())
    }

    /// Ids by text, without what is unused: of equal texts the first.
    fn ids(&self) -> HashMap<String, u32> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (id, text, _) in self.numbered().filter(|(.., kind)| *kind != Kind::Unused) {
            ids.entry(text.to_owned()).or_insert(id);
        }
        ids
    }

    fn merges(&self, vocab: &HashMap<String, u32>) -> Result<Vec<(String, String)>> {
        let merges = self.metadata.list("tokenizer.ggml.merges", "a list of texts", Value::as_text)?;
        let mut pairs = Vec::new();
        for merge in merges.unwrap_or_default() {
            // The first of a pair may begin with a space, but it is not empty.
            let seam = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            let pair = seam.and_then(|at| Some((merge.get(..at)?, merge.get(at + 1..)?)));
            let (a, b) = pair.ok_or_else(|| self.refused(format!("merge {merge:?} is no pair")))?;
            // Merges of tokens that are unused lead nowhere.
            if [a, b, &format!("{a}{b}")].iter().all(|text| vocab.contains_key(*text)) {
                pairs.push((a.to_owned(), b.to_owned()));
            }
        }
        Ok(pairs)
    }

    /// BPE over bytes, as GPT-2 has it.
    fn byte_level(&self) -> Result<Parts> {
        let pre = self.metadata.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let split = patterns::of_gguf(pre).map_err(|known| {
            self.refused(format!("tokenizer.ggml.pre = {pre:?} is not known (known: {known}); {INSTEAD}"))
        })?;
        let refused = |e| self.refused(e);
        let vocab = self.ids();
        let merges = self.merges(&vocab)?;
        let options = BpeOptions { ignore_merges: split.whole_words, ..BpeOptions::default() };
        Ok(Parts {
            added: self.added()?,
            normalizer: Normalizer::default(),
            splitter: Splitter::byte_level(split.patterns).map_err(refused)?,
            model: Model::bpe(vocab, merges, options).map_err(refused)?,
            decoder: Decoder::byte_level().map_err(refused)?,
            frame: Some(self.frame(split.starts, false, None, None)?),
        })
    }

    /// BPE over characters that SentencePiece marked the spaces of, by a list of merges.
    fn merged_characters(&self) -> Result<Parts> {
        let refused = |e| self.refused(e);
        let vocab = self.ids();
        let merges = self.merges(&vocab)?;
        let options = BpeOptions { byte_fallback: true, ..BpeOptions::default() };
        let marks = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK});
        let spaces = json!({"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "});
        let steps = [spaces, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        Ok(Parts {
            added: self.added()?,
            normalizer: Normalizer::from_json(&marks).map_err(refused)?,
            splitter: Splitter::plain(&[r"[^\n]+|[\n]+"]).map_err(refused)?,
            model: Model::bpe(vocab, merges, options).map_err(refused)?,
            decoder: Decoder::from_json(&json!({"type": "Sequence", "decoders": steps})).map_err(refused)?,
            // Some of these files say that there is no start, wrongly: llama.cpp overrides them too.
            frame: Some(Frame { before: self.id("bos")?.into_iter().collect(), after: Vec::new() }),
        })
    }

    /// SentencePiece's models.
    fn sentence_piece(&self, unigram: bool) -> Result<Parts> {
        let scores = self.metadata.list("tokenizer.ggml.scores", "a list of numbers", |v| match v {
            Value::Float(score) => Some(*score as f32),
            Value::Signed(score) => Some(*score as f32),
            other => other.as_unsigned().map(|score| score as f32),
        })?;
        let scores = scores.unwrap_or_else(|| vec![0.0; self.tokens.len()]);
        if scores.len() != self.tokens.len() {
            return Err(self.refused(format!("{} tokens but {} scores", self.tokens.len(), scores.len())));
        }
        let added = self.added()?;
        let structural = |piece: &Piece<'_>| matches!(piece.kind, Kind::Control | Kind::Unknown);
        // As llama.cpp does, tokens that the user asked for are found in the text as it is; merges may lead to
        // them all the same, but not to those that structure a conversation.
        let kind = |text: &str, kind| match kind {
            Kind::UserDefined | Kind::Normal if STRUCTURE.contains(&text) => Kind::Control,
            Kind::UserDefined if !unigram => Kind::Normal,
            other => other,
        };
        let pieces = self.numbered().zip(scores);
        let pieces = pieces.map(|((_, text, k), score)| Piece { text, score, kind: kind(text, k) });
        let map = self.metadata.list("tokenizer.ggml.precompiled_charsmap", "a list of bytes", |v| {
            // A signed byte in some files.
            let signed = if let Value::Signed(n) = v { i8::try_from(*n).ok().map(|n| n as u8) } else { None };
            signed.or_else(|| v.as_unsigned().and_then(|n| u8::try_from(n).ok()))
        })?;
        let prefix = self.flag("add_space_prefix")?.unwrap_or(!unigram);
        let (start, end) = if unigram { (None, Some(1)) } else { (Some(1), Some(2)) };
        let description = Description {
            pieces: pieces.collect(),
            unigram,
            byte_fallback: true,
            as_suffix: self.flag("treat_whitespace_as_suffix")?.unwrap_or(false),
            bos: None,
            eos: None,
            charsmap: map.unwrap_or_default(),
            prefix,
            remove_extra_spaces: self.flag("remove_extra_whitespaces")?.unwrap_or(false),
            mark_spaces: self.flag("escape_whitespaces")?.unwrap_or(true),
        };
        let exists = |id: Option<u32>| id.filter(|id| (*id as usize) < self.tokens.len());
        let frame = self.frame(!unigram, unigram, exists(start), exists(end))?;
        let prefix = if prefix { Prefix::Always } else { Prefix::Never };
        let parts = description.build(structural, prefix, Some(frame)).map_err(|e| self.refused(e))?;
        Ok(Parts { added, ..parts })
    }

    /// BERT's: whole words first. The file marks the beginnings of words, not what continues them.
    fn word_piece(&self) -> Result<Parts> {
        let refused = |e: String| self.refused(e);
        let mut vocab = HashMap::with_capacity(self.tokens.len());
        for (id, text, kind) in self.numbered() {
            let written = match text.strip_prefix(SPACE_MARK) {
                Some(start) => start.to_owned(),
                None if kind == Kind::Normal => format!("##{text}"),
                None => text.to_owned(),
            };
            vocab.entry(written).or_insert(id);
        }
        let unknown = self.id("unknown")?.unwrap_or(100);
        let unknown = self.tokens.get(unknown as usize).copied().unwrap_or("[UNK]");
        let normalizer = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": self.flag("normalizer.lowercase")?.unwrap_or(true)});
        let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
        let separator = self.id("seperator")?.or(self.id("separator")?);
        Ok(Parts {
            added: self.added()?,
            normalizer: Normalizer::from_json(&normalizer).map_err(refused)?,
            splitter: Splitter::from_json(&json!({"type": "BertPreTokenizer"})).map_err(refused)?,
            model: Model::word_piece(vocab, unknown, "##", 100).map_err(refused)?,
            decoder: Decoder::from_json(&decoder).map_err(refused)?,
            frame: Some(Frame {
                before: self.id("cls")?.or(self.id("bos")?).into_iter().collect(),
                after: separator.into_iter().collect(),
            }),
        })
    }
}
