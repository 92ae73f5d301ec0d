//! Reads a tokenizer.json. `truncation` and `padding` are for batches of training data and never obeyed.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Parts;
use super::added::AddedToken;
use super::bytes::ByteIds;
use super::decode::Decoder;
use super::frame::Frame;
use super::model::{BpeOptions, Model, Pieces};
use super::normalize::Normalizer;
use super::split::Splitter;
use super::unigram::{ScoredPiece, Sums, Unigram};

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: FileModel,
}

/// An added token as tokenizer.json and tokenizer_config.json write it.
#[derive(Debug, Deserialize)]
pub(super) struct Added {
    #[serde(default)]
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
}

impl Added {
    pub(super) fn token(self) -> AddedToken {
        AddedToken {
            id: self.id,
            special: self.special,
            single_word: self.single_word,
            strip_left: self.lstrip,
            strip_right: self.rstrip,
            normalized: self.normalized.unwrap_or(!self.special),
            text: self.content,
        }
    }
}

#[derive(Deserialize)]
struct FileModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Vocab,
    merges: Option<Vec<Merge>>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<usize>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

enum Vocab {
    Ids(HashMap<String, u32>),
    Scores(Vec<(String, f64)>),
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary: ids by text, or pieces with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut ids = HashMap::new();
                while let Some((text, id)) = map.next_entry()? {
                    ids.insert(text, id);
                }
                Ok(Vocab::Ids(ids))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocab, A::Error> {
                let mut scores = Vec::new();
                while let Some(piece) = list.next_element()? {
                    scores.push(piece);
                }
                Ok(Vocab::Scores(scores))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Reads one.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn read(bytes: &[u8]) -> Result<Parts, String> {
    let text = crate::json::without_python_numbers(crate::text::decode(bytes)?);
    let file: File = serde_json::from_str(&text).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => format!("not a tokenizer: {e}"),
        _ => format!("not valid JSON: {e}"),
    })?;
    let added: Vec<_> = file.added_tokens.into_iter().map(Added::token).collect();
    let model = file.model.build(&added)?;
    for token in &added {
        let by_place = model.id(&token.text).filter(|id| *id != token.id);
        if let Some(found) = by_place {
            let AddedToken { text, id, .. } = token;
            return Err(format!("gives {text} the id {id}, but by its place in the vocabulary it has {found}"));
        }
        if let Some(other) = model.text(token.id).filter(|other| *other != token.text) {
            return Err(format!("gives {} the id {} of {other:?}", token.text, token.id));
        }
    }
    Ok(Parts {
        added,
        normalizer: Normalizer::from_json(&file.normalizer)?,
        splitter: Splitter::from_json(&file.pre_tokenizer)?,
        model,
        decoder: Decoder::from_json(&file.decoder)?,
        frame: Frame::from_json(&file.post_processor)?,
    })
}

impl FileModel {
    fn build(self, added: &[AddedToken]) -> Result<Model, String> {
        let kind = self.kind.as_deref().unwrap_or(match (&self.vocab, &self.merges) {
            (Vocab::Scores(_), _) => "Unigram",
            (_, Some(_)) => "BPE",
            _ if self.max_input_chars_per_word.is_some() => "WordPiece",
            _ => "WordLevel",
        });
        match (kind, self.vocab) {
            ("BPE", Vocab::Ids(vocab)) => {
                let pair = |merge| match merge {
                    Merge::Pair(a, b) => Ok((a, b)),
                    Merge::Line(line) => match line.split_once(' ') {
                        Some((a, b)) if !b.contains(' ') => Ok((a.to_owned(), b.to_owned())),
                        _ => Err(format!("merge {line:?} is no pair")),
                    },
                };
                let lines = self.merges.ok_or("a BPE model without merges")?.into_iter();
                let lines = lines.filter(|m| !matches!(m, Merge::Line(line) if line.starts_with("#version")));
                let options = BpeOptions {
                    unk_token: self.unk_token,
                    continuing_subword_prefix: self.continuing_subword_prefix,
                    end_of_word_suffix: self.end_of_word_suffix,
                    fuse_unk: self.fuse_unk.unwrap_or(false),
                    byte_fallback: self.byte_fallback.unwrap_or(false),
                    ignore_merges: self.ignore_merges.unwrap_or(false),
                };
                Model::bpe(vocab, lines.map(pair).collect::<Result<_, String>>()?, options)
            }
            ("WordPiece", Vocab::Ids(vocab)) => Model::word_piece(
                vocab,
                self.unk_token.as_deref().unwrap_or("[UNK]"),
                self.continuing_subword_prefix.as_deref().unwrap_or("##"),
                self.max_input_chars_per_word.unwrap_or(100),
            ),
            ("WordLevel", Vocab::Ids(vocab)) => Model::word_level(vocab, self.unk_token.as_deref().unwrap_or("<unk>")),
            ("Unigram", Vocab::Scores(vocab)) => unigram(vocab, self.unk_id, self.byte_fallback == Some(true), added),
            ("BPE" | "WordPiece" | "WordLevel" | "Unigram", _) => {
                Err(format!("not a tokenizer: its vocabulary is no {kind} model's"))
            }
            _ => Err(format!("model type {kind:?} is not known (known: BPE, WordPiece, WordLevel, Unigram)")),
        }
    }
}

fn unigram(
    vocab: Vec<(String, f64)>,
    unknown: Option<u32>,
    byte_fallback: bool,
    added: &[AddedToken],
) -> Result<Model, String> {
    if let Some(id) = unknown.filter(|id| *id as usize >= vocab.len()) {
        return Err(format!("unk_id is {id}, but there are {} pieces", vocab.len()));
    }
    let pieces = Pieces::new((0..).zip(&vocab).map(|(id, (text, _))| (id, text.as_str().into())))
        .with_scores((0..).zip(&vocab).map(|(id, (_, score))| (id, *score)));
    let bytes = byte_fallback.then(|| ByteIds::new(|text| pieces.id(text))).flatten();
    // Text is never cut into what structures it, nor into bytes where it can be cut into characters.
    let special: HashSet<_> = added.iter().filter(|t| t.special).map(|t| t.text.as_str()).collect();
    let reserved = |id: u32, text: &str| {
        Some(id) == unknown
            || special.contains(text)
            || (bytes.is_some() && super::bytes::byte_of_token(text).is_some())
    };
    let scored = (0..)
        .zip(&vocab)
        .filter(|(id, (text, _))| !reserved(*id, text))
        .map(|(id, (text, score))| ScoredPiece { text: text.as_str().into(), id, score: *score, user_defined: false });
    let model = Unigram::new(scored.collect(), unknown, bytes, Sums::Double);
    Ok(Model::Unigram(model, pieces))
}
