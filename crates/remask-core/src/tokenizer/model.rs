//! The models that turn normalised words into ids.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};
use tokenizers::Model as _;
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;

use super::added::AddedToken;
use super::bytes::byte_of_token;
use super::ranked::{RankedBpe, Use};
use super::unigram::Unigram;

/// A model.
#[derive(Debug)]
pub(super) enum Model {
    /// One of the tokenizers crate's: BPE by a list of merges, WordPiece, WordLevel.
    Crate(ModelWrapper),
    /// BPE by rank.
    Ranked(RankedBpe, Pieces),
    /// Unigram.
    Unigram(Unigram, Pieces),
}

/// Every piece of a model by its id, those that no text is cut into too.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    by_id: HashMap<u32, Box<str>>,
    ids: HashMap<Box<str>, u32>,
    /// As a unigram model's file has them; empty for others.
    scores: HashMap<u32, f64>,
    /// Those that the user who trained the model asked for.
    user_defined: Vec<u32>,
}

impl Pieces {
    /// From `(id, text)`; of equal texts the first id is found by text.
    pub(super) fn new(pieces: impl IntoIterator<Item = (u32, Box<str>)>) -> Self {
        let mut found = Self::default();
        for (id, text) in pieces {
            found.ids.entry(text.clone()).or_insert(id);
            found.by_id.insert(id, text);
        }
        found
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub(super) fn with_user_defined(mut self, ids: impl IntoIterator<Item = u32>) -> Self {
        self.user_defined = ids.into_iter().collect();
        self
    }

    pub(super) fn with_scores(mut self, scores: impl IntoIterator<Item = (u32, f64)>) -> Self {
        self.scores = scores.into_iter().collect();
        self
    }
}

/// Options of a BPE model in a tokenizer.json.
#[derive(Debug, Default)]
pub(super) struct BpeOptions {
    pub(super) unk_token: Option<String>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    pub(super) fuse_unk: bool,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
}

/// A map from texts to ids whose ids are apart.
///
/// # Errors
/// Where two texts have one id.
pub(super) fn distinct(vocab: &HashMap<String, u32>) -> Result<(), String> {
    let mut seen = HashMap::with_capacity(vocab.len());
    for (text, id) in vocab {
        if let Some(other) = seen.insert(*id, text) {
            let (a, b) = if other < text { (other, text) } else { (text, other) };
            return Err(format!("gives both {a:?} and {b:?} the id {id}"));
        }
    }
    Ok(())
}

impl Model {
    /// BPE by a list of merges.
    ///
    /// # Errors
    /// Where ids are there twice, or a merge is of what the vocabulary does not have: the crate would panic.
    pub(super) fn bpe(
        vocab: HashMap<String, u32>,
        merges: Vec<(String, String)>,
        options: BpeOptions,
    ) -> Result<Self, String> {
        distinct(&vocab)?;
        let prefix = options.continuing_subword_prefix.as_deref().unwrap_or_default();
        for (a, b) in &merges {
            let tail = if prefix.is_empty() { Some(b.as_str()) } else { b.strip_prefix(prefix) };
            let known = tail.is_some_and(|tail| {
                !a.is_empty()
                    && !tail.is_empty()
                    && [a, b, &format!("{a}{tail}")].iter().all(|t| vocab.contains_key(*t))
            });
            if !known {
                return Err(format!("merges {a:?} and {b:?}, but they or what they give are not in the vocabulary"));
            }
        }
        if let Some(unk) = options.unk_token.as_ref().filter(|unk| !unk.is_empty() && !vocab.contains_key(*unk)) {
            return Err(format!("its unknown token {unk:?} is not in the vocabulary"));
        }
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab.into_iter().collect::<AHashMap>(), merges)
            .fuse_unk(options.fuse_unk)
            .byte_fallback(options.byte_fallback)
            .ignore_merges(options.ignore_merges);
        if let Some(unk) = options.unk_token.filter(|unk| !unk.is_empty()) {
            builder = builder.unk_token(unk);
        }
        if let Some(prefix) = options.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = options.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        Ok(Self::Crate(builder.build().map_err(|e| e.to_string())?.into()))
    }

    /// WordPiece: words of at most `most` characters, the longest piece first.
    ///
    /// # Errors
    /// Where ids are there twice, or there is no unknown token.
    pub(super) fn word_piece(
        vocab: HashMap<String, u32>,
        unk: &str,
        prefix: &str,
        most: usize,
    ) -> Result<Self, String> {
        distinct(&vocab)?;
        has_unknown(&vocab, unk)?;
        let model = WordPiece::builder()
            .vocab(vocab.into_iter().collect::<AHashMap>())
            .unk_token(unk.to_owned())
            .continuing_subword_prefix(prefix.to_owned())
            .max_input_chars_per_word(most)
            .build();
        Ok(Self::Crate(model.map_err(|e| e.to_string())?.into()))
    }

    /// A word an id.
    ///
    /// # Errors
    /// Where ids are there twice, or there is no unknown token.
    pub(super) fn word_level(vocab: HashMap<String, u32>, unk: &str) -> Result<Self, String> {
        distinct(&vocab)?;
        has_unknown(&vocab, unk)?;
        let model =
            WordLevel::builder().vocab(vocab.into_iter().collect::<AHashMap>()).unk_token(unk.to_owned()).build();
        Ok(Self::Crate(model.map_err(|e| e.to_string())?.into()))
    }

    /// Ids of a word.
    ///
    /// # Errors
    /// Where it holds what the model has no token for, not even one for unknown words.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        match self {
            Self::Crate(model) => {
                ids.extend(model.tokenize(word).map_err(|e| e.to_string())?.into_iter().map(|token| token.id));
            }
            Self::Ranked(model, _) => ids.extend(model.encode(word)),
            Self::Unigram(model, _) => ids.extend(model.encode(word)?),
        }
        Ok(())
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        match self {
            Self::Crate(model) => model.token_to_id(text),
            Self::Ranked(_, pieces) | Self::Unigram(_, pieces) => pieces.id(text),
        }
    }

    pub(super) fn text(&self, id: u32) -> Option<String> {
        match self {
            Self::Crate(model) => model.id_to_token(id),
            Self::Ranked(_, pieces) | Self::Unigram(_, pieces) => pieces.by_id.get(&id).map(|text| (**text).to_owned()),
        }
    }

    /// Pieces that are found before anything else: added tokens, in a tokenizer.json.
    pub(super) fn user_defined(&self) -> impl Iterator<Item = AddedToken> {
        let pieces = match self {
            Self::Crate(_) => None,
            Self::Ranked(_, pieces) | Self::Unigram(_, pieces) => Some(pieces),
        };
        pieces.into_iter().flat_map(|pieces| {
            let text = |id: &u32| pieces.by_id.get(id).map(|text| AddedToken::new(*id, text, false));
            pieces.user_defined.iter().filter_map(text)
        })
    }

    pub(super) fn ids(&self) -> HashSet<u32> {
        match self {
            Self::Crate(model) => model.get_vocab().into_values().collect(),
            Self::Ranked(_, pieces) | Self::Unigram(_, pieces) => pieces.by_id.keys().copied().collect(),
        }
    }

    /// As a tokenizer.json has it.
    ///
    /// # Errors
    /// Where it cannot be written so.
    pub(super) fn to_json(&self) -> Result<Value, String> {
        match self {
            Self::Crate(model) => serde_json::to_value(model).map_err(|e| e.to_string()),
            Self::Ranked(model, pieces) => Ok(ranked_json(model, pieces)),
            Self::Unigram(model, pieces) => {
                let most = pieces.by_id.keys().max().map_or(0, |id| *id as usize + 1);
                // Ids are places in the list: one that is missing gets a text that no text contains.
                if most > pieces.by_id.len() * 2 + 1024 {
                    return Err("its ids are too far apart for a tokenizer.json".to_owned());
                }
                let piece = |id: u32| match pieces.by_id.get(&id) {
                    Some(text) => json!([text, pieces.scores.get(&id).copied().unwrap_or_default()]),
                    None => json!(["", 0.0]),
                };
                Ok(json!({
                    "type": "Unigram",
                    "unk_id": model.unknown(),
                    "vocab": (0..most as u32).map(piece).collect::<Vec<_>>(),
                    "byte_fallback": has_bytes(pieces),
                }))
            }
        }
    }
}

type AHashMap = tokenizers::models::bpe::Vocab;

fn has_unknown(vocab: &HashMap<String, u32>, unk: &str) -> Result<(), String> {
    if vocab.contains_key(unk) { Ok(()) } else { Err(format!("its unknown token {unk:?} is not in the vocabulary")) }
}

fn has_bytes(pieces: &Pieces) -> bool {
    pieces.ids.keys().filter(|text| byte_of_token(text).is_some()).count() >= 256
}

/// As Hugging Face's converters write it: every way to put a piece together is a merge, the best pieces first.
fn ranked_json(model: &RankedBpe, pieces: &Pieces) -> Value {
    let all = model.pieces();
    let mut order: Vec<_> = all.iter().filter(|(_, p)| p.purpose != Use::UserDefined).collect();
    order.sort_by(|a, b| b.1.score.total_cmp(&a.1.score).then_with(|| a.1.id.cmp(&b.1.id)));
    let mut merges = Vec::new();
    for (text, _) in order {
        let seams = text.char_indices().skip(1).filter_map(|(at, _)| text.split_at_checked(at));
        let ids = |part: &str| all.get(part).filter(|p| p.purpose != Use::UserDefined).map(|p| p.id);
        let mut ways: Vec<_> = seams.filter_map(|(a, b)| Some((ids(a)?, ids(b)?, json!([a, b])))).collect();
        ways.sort_by_key(|(a, b, _)| (*a, *b));
        merges.extend(ways.into_iter().map(|(.., merge)| merge));
    }
    let vocab: Map<String, Value> = pieces.ids.iter().map(|(text, id)| (text.to_string(), json!(id))).collect();
    json!({
        "type": "BPE",
        "unk_token": pieces.ids.contains_key("<unk>").then_some("<unk>"),
        "fuse_unk": true,
        "byte_fallback": has_bytes(pieces),
        "ignore_merges": model.takes_whole_words(),
        "vocab": vocab,
        "merges": merges,
    })
}
