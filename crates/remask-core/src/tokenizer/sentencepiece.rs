//! SentencePiece's tokenizer.model: pieces with scores, how text is normalised, and which of its models it is.

use std::collections::HashMap;

use serde_json::json;

use super::Parts;
use super::added::{AddedToken, STRUCTURE};
use super::bytes::ByteIds;
use super::charsmap::Charsmap;
use super::decode::Decoder;
use super::frame::Frame;
use super::model::{Model, Pieces};
use super::normalize::{Normalizer, Prefix, SPACE_MARK, SentencePiece};
use super::prefixes::Prefixes;
use super::protobuf::{Value, fields};
use super::ranked::{self, RankedBpe, Use};
use super::settings::Settings;
use super::split::Splitter;
use super::unigram::{ScoredPiece, Sums, Unigram};

/// So many spaces before a text are removed where any number is.
const MOST_SPACES: usize = 1 << 10;

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// By the number that SentencePiece and GGUF give it; unknown numbers are normal pieces.
    pub(super) fn of_number(number: u64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// One piece; its id is its place.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// What a SentencePiece model says, wherever it is kept.
#[derive(Debug)]
pub(super) struct Description<'a> {
    pub(super) pieces: Vec<Piece<'a>>,
    pub(super) unigram: bool,
    pub(super) byte_fallback: bool,
    pub(super) as_suffix: bool,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) charsmap: Vec<u8>,
    pub(super) prefix: bool,
    pub(super) remove_extra_spaces: bool,
    pub(super) mark_spaces: bool,
}

/// Reads a tokenizer.model.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(bytes: &[u8], settings: &Settings) -> Result<Parts, String> {
    let model = describe(bytes)?;
    let class = settings.class.as_deref().unwrap_or("LlamaTokenizer");
    let frame = match class {
        "T5Tokenizer" => Some(Frame { before: Vec::new(), after: model.eos.into_iter().collect() }),
        // Texts of a unigram model without a config begin with what the model's config says.
        _ if model.unigram && settings.class.is_none() => None,
        _ => Some(Frame { before: model.bos.into_iter().collect(), after: Vec::new() }),
    };
    let prefix = match (model.prefix && settings.add_prefix_space != Some(false), settings.legacy) {
        (false, _) => Prefix::Never,
        (true, Some(false)) => Prefix::First,
        (true, _) => Prefix::Always,
    };
    // Whoever forges the structure of a conversation must not succeed with pieces that the user asked for.
    let special = |piece: &Piece<'_>| {
        matches!(piece.kind, Kind::Control | Kind::Unknown)
            || (piece.kind == Kind::UserDefined && (STRUCTURE.contains(&piece.text) || settings.is_special(piece.text)))
    };
    model.build(special, prefix, frame)
}

impl Description<'_> {
    /// The tokenizer. `special` says which pieces structure texts: no text is cut into those.
    ///
    /// # Errors
    /// Where the map of characters is broken.
    pub(super) fn build(
        self,
        special: impl Fn(&Piece<'_>) -> bool,
        prefix: Prefix,
        frame: Option<Frame>,
    ) -> Result<Parts, String> {
        let numbered = || (0..).zip(&self.pieces);
        let added = numbered().filter(|(_, p)| special(p)).map(|(id, p)| AddedToken::new(id, p.text, true));
        let mut seen = std::collections::HashSet::new();
        let added = added.filter(|t| seen.insert(t.text.clone())).collect();
        let texts = Pieces::new(numbered().map(|(id, p)| (id, p.text.into())));
        let bytes = self.byte_fallback.then(|| ByteIds::new(|text| texts.id(text))).flatten();
        let unknown = numbered().find(|(_, p)| p.kind == Kind::Unknown).map(|(id, _)| id);
        let usable =
            || numbered().filter(|(_, p)| !special(p) && !matches!(p.kind, Kind::Byte | Kind::Control | Kind::Unknown));
        let user_defined = || usable().filter(|(_, p)| p.kind == Kind::UserDefined);
        let texts = texts.with_user_defined(user_defined().map(|(id, _)| id));
        let user_defined = Prefixes::new(user_defined().map(|(id, p)| (p.text.into(), id)));
        let model = if self.unigram {
            let scored = usable().filter(|(_, p)| p.kind != Kind::Unused).map(|(id, p)| ScoredPiece {
                text: p.text.into(),
                id,
                score: f64::from(p.score),
                user_defined: p.kind == Kind::UserDefined,
            });
            let scores = numbered().map(|(id, p)| (id, f64::from(p.score)));
            Model::Unigram(Unigram::new(scored.collect(), unknown, bytes, Sums::Single), texts.with_scores(scores))
        } else {
            let mut pieces: HashMap<Box<str>, _> = HashMap::with_capacity(self.pieces.len());
            for (id, p) in usable() {
                let purpose = match p.kind {
                    Kind::UserDefined => Use::UserDefined,
                    Kind::Unused => Use::Unused,
                    _ => Use::Normal,
                };
                pieces.entry(p.text.into()).or_insert(ranked::Piece { id, score: p.score, purpose });
            }
            Model::Ranked(RankedBpe::new(pieces, unknown, bytes, false), texts)
        };
        // As SentencePiece does: spaces before a text go, those behind it stay.
        let stripped = if self.remove_extra_spaces { MOST_SPACES } else { usize::from(self.prefix) };
        let marks = json!({"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "});
        let strip = (stripped > 0).then(|| json!({"type": "Strip", "content": " ", "start": stripped, "stop": 0}));
        let steps = [marks, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})].into_iter().chain(strip);
        Ok(Parts {
            added,
            normalizer: Normalizer::sentence_piece(SentencePiece {
                charsmap: Charsmap::new(&self.charsmap)?,
                user_defined,
                remove_extra_spaces: self.remove_extra_spaces,
                mark_spaces: self.mark_spaces,
                prefix,
                as_suffix: self.as_suffix,
            }),
            splitter: Splitter::default(),
            model,
            decoder: Decoder::from_json(&json!({"type": "Sequence", "decoders": steps.collect::<Vec<_>>()}))?,
            frame,
        })
    }
}

/// Reads the protocol buffer. Fields that are absent have the defaults of sentencepiece_model.proto.
fn describe(bytes: &[u8]) -> Result<Description<'_>, String> {
    let no_model = "is no SentencePiece model";
    let mut model = Description {
        pieces: Vec::new(),
        unigram: true,
        byte_fallback: false,
        as_suffix: false,
        bos: Some(1),
        eos: Some(2),
        charsmap: Vec::new(),
        prefix: true,
        remove_extra_spaces: true,
        mark_spaces: true,
    };
    for field in fields(bytes) {
        match field.map_err(|e| format!("{no_model}: {e}"))? {
            (1, value) => {
                let id = model.pieces.len();
                model.pieces.push(piece(value).map_err(|e| format!("{no_model}: piece {id} {e}"))?);
            }
            (2, value) => model.trainer(value).map_err(|e| format!("{no_model}: trainer_spec {e}"))?,
            (3, value) => model.normalizer(value).map_err(|e| format!("{no_model}: normalizer_spec {e}"))?,
            _ => (),
        }
    }
    if model.pieces.is_empty() {
        return Err(format!("{no_model}: it has no pieces"));
    }
    if u32::try_from(model.pieces.len()).is_err() {
        return Err(format!("{} pieces are too many", model.pieces.len()));
    }
    let exists = |id: &u32| (*id as usize) < model.pieces.len();
    (model.bos, model.eos) = (model.bos.filter(exists), model.eos.filter(exists));
    Ok(model)
}

const WRONG: &str = "has a field of the wrong kind";

fn piece(value: Value<'_>) -> Result<Piece<'_>, String> {
    let mut piece = Piece { text: "", score: 0.0, kind: Kind::Normal };
    for field in fields(value.bytes().ok_or(WRONG)?) {
        match field? {
            (1, text) => piece.text = text.text().ok_or("is not UTF-8 text")?,
            (2, score) => piece.score = score.float().ok_or(WRONG)?,
            (3, kind) => piece.kind = Kind::of_number(kind.number().ok_or(WRONG)?),
            _ => (),
        }
    }
    Ok(piece)
}

impl Description<'_> {
    fn trainer(&mut self, value: Value<'_>) -> Result<(), String> {
        // Ids are 32-bit numbers, negative where there is no such piece.
        let id = |value: Value<'_>| value.number().map(|n| u32::try_from(n).ok()).ok_or(WRONG);
        for field in fields(value.bytes().ok_or(WRONG)?) {
            match field? {
                (3, kind) => {
                    self.unigram = match kind.number().ok_or(WRONG)? {
                        1 => true,
                        // Characters are BPE without merges.
                        2 | 4 => false,
                        other => return Err(format!("has the model type {other}; this build reads unigram and BPE")),
                    };
                }
                (24, flag) => self.as_suffix = flag.flag().ok_or(WRONG)?,
                (35, flag) => self.byte_fallback = flag.flag().ok_or(WRONG)?,
                (41, value) => self.bos = id(value)?,
                (42, value) => self.eos = id(value)?,
                _ => (),
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, value: Value<'_>) -> Result<(), String> {
        for field in fields(value.bytes().ok_or(WRONG)?) {
            match field? {
                (2, map) => self.charsmap = map.bytes().ok_or(WRONG)?.to_vec(),
                (3, flag) => self.prefix = flag.flag().ok_or(WRONG)?,
                (4, flag) => self.remove_extra_spaces = flag.flag().ok_or(WRONG)?,
                (5, flag) => self.mark_spaces = flag.flag().ok_or(WRONG)?,
                _ => (),
            }
        }
        Ok(())
    }
}
