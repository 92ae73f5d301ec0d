//! Tokenizers: text to ids and back, with a user's text kept apart from special tokens, and the ids that must
//! never be generated.
//!
//! They are read from tokenizer.json, vocab.json with merges.txt, SentencePiece's tokenizer.model, tekken.json,
//! tiktoken's files and GGUF vocabularies ([`TokenizerFiles`], [`TextTokenizer::from_gguf`]). Whatever the file,
//! text goes the same way: added tokens are found, the rest is normalised, cut into words and given to a model.
//! The tokenizers crate does the steps of a tokenizer.json and models with a list of merges; SentencePiece's
//! normaliser and models, and BPE by rank, are ours: they give the ids of their own references, need no list of
//! merges made up for them, and no file makes them panic.

mod added;
mod bytes;
mod charsmap;
mod decode;
mod files;
mod frame;
mod gguf;
mod json;
mod merges;
mod model;
mod normalize;
mod parts;
mod patterns;
mod prefixes;
mod protobuf;
mod ranked;
mod sentencepiece;
mod settings;
mod split;
mod text;
mod tiktoken;
mod token_bytes;
mod unigram;

use std::collections::HashSet;

use serde_json::json;

use self::added::{AddedToken, AddedTokens, Part};
use self::decode::{Decoded, Decoder, Edges, Token};
pub use self::files::TokenizerFiles;
use self::frame::Frame;
use self::model::Model;
use self::normalize::Normalizer;
use self::settings::Settings;
use self::split::Splitter;
pub use self::text::TextStream;
use crate::architecture::Architecture;
use crate::backend::TokenSet;
use crate::chat::MarkedText;
use crate::checkpoint::gguf::Metadata;
use crate::decode::Vocabulary;
use crate::error::{Error, Result};

/// Texts that name the mask in the tokenizers of the supported families.
pub(crate) const MASK_TEXTS: &[&str] = &["<|mdm_mask|>", "<|mask|>", "[MASK]", "<mask>"];
/// Texts that end a turn in the supported families' conversations.
const TURN_END_TEXTS: &[&str] = &["<|eot_id|>", "<|im_end|>", "<|role_end|>", "<end_of_turn>", "<|end|>"];

/// A tokenizer bound to its file's name.
#[derive(Debug)]
pub struct TextTokenizer {
    file: String,
    added: AddedTokens,
    normalizer: Normalizer,
    splitter: Splitter,
    model: Model,
    decoder: Decoder,
    /// What stands around a text that is no conversation; `None` where the files do not say.
    frame: Option<Frame>,
    /// `clean_up_tokenization_spaces`.
    cleans_up: bool,
}

/// What a vocabulary's file says, before what stands beside it is known.
struct Parts {
    added: Vec<AddedToken>,
    normalizer: Normalizer,
    splitter: Splitter,
    model: Model,
    decoder: Decoder,
    frame: Option<Frame>,
}

impl TextTokenizer {
    /// Reads a tokenizer.json by itself. Its `truncation` and `padding` are not obeyed.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where it is not a valid tokenizer.json.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Self> {
        let parts = files::parse("tokenizer.json", bytes, None, &Settings::default()).map_err(broken(file))?;
        Self::assemble(parts, &Settings::default()).map_err(broken(file)).map(|tokenizer| tokenizer.named(file))
    }

    /// The tokenizer in a GGUF file; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where it is of a kind that this build does not know, or its lists disagree.
    pub fn from_gguf(metadata: &Metadata) -> Result<Option<Self>> {
        let Some(parts) = gguf::read(metadata)? else { return Ok(None) };
        let tokenizer = Self::assemble(parts, &Settings::default()).map_err(broken(&metadata.file))?;
        Ok(Some(tokenizer.named(&metadata.file)))
    }

    /// A tokenizer of its parts, without a name yet.
    fn assemble(parts: Parts, settings: &Settings) -> Result<Self, String> {
        let Parts { added, normalizer, splitter, model, decoder, frame } = parts;
        let added = AddedTokens::new(settings.added(added, &model), |text| normalizer.apply(text, true))?;
        let frame = settings.frame(frame, |text| added.id(text).or_else(|| model.id(text)));
        let (file, cleans_up) = (String::new(), settings.cleans_up());
        Ok(Self { file, added, normalizer, splitter, model, decoder, frame, cleans_up })
    }

    fn named(self, file: &str) -> Self {
        Self { file: file.to_owned(), ..self }
    }

    /// The tokenizer as a tokenizer.json. Hugging Face's has no step that is SentencePiece's normaliser to the
    /// letter: what is written for one is what Hugging Face's converter writes.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where it cannot be written as one.
    pub fn to_json(&self) -> Result<String> {
        let model = self.model.to_json().map_err(|e| self.broken("cannot be written", &e))?;
        let own: Vec<_> = self.model.user_defined().filter(|t| self.added.id(&t.text).is_none()).collect();
        let added = self.added.all().iter().chain(&own).map(|t| {
            json!({"id": t.id, "content": t.text, "special": t.special, "single_word": t.single_word,
                "lstrip": t.strip_left, "rstrip": t.strip_right, "normalized": t.normalized})
        });
        let frame = self.frame.as_ref().map(|frame| frame.to_json(|id| self.token(id).unwrap_or_default()));
        let written = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": self.normalizer.to_json(),
            "pre_tokenizer": self.splitter.to_json(),
            "post_processor": frame,
            "decoder": self.decoder.to_json(),
            "model": model,
        });
        serde_json::to_string_pretty(&written).map_err(|e| self.broken("cannot be written", &e.to_string()))
    }

    /// The id of a token given by its text.
    #[must_use]
    pub fn id(&self, text: &str) -> Option<u32> {
        self.added.id(text).or_else(|| self.model.id(text))
    }

    /// The text of an id as the vocabulary has it; `None` where the tokenizer does not have it.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.added.text(id).map(str::to_owned).or_else(|| self.model.text(id))
    }

    /// Whether a token structures a text (start, end, turns, mask) rather than being part of it.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.added.is_special(id)
    }

    /// The text that an id stands for, before it is decoded, and whether it is an added token's.
    fn text_of(&self, id: u32) -> Option<(String, bool)> {
        let added = self.added.decoded(id).map(|text| (text.to_owned(), true));
        added.or_else(|| self.model.text(id).map(|text| (text, false)))
    }

    /// Ids of a text, encoded as one. Special tokens are recognised only outside the marked ranges, tokens that
    /// are merely added everywhere. Nothing is put around it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the tokenizer fails.
    pub fn encode(&self, marked: &MarkedText) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for part in self.added.split(&marked.text, &marked.user) {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(range) => {
                    let text = marked.text.get(range.clone()).unwrap_or_default();
                    self.encode_text(text, range.start == 0, &mut ids)
                        .map_err(|e| self.broken("cannot encode the text", &e))?;
                }
            }
        }
        Ok(ids)
    }

    fn encode_text(&self, text: &str, at_start: bool, ids: &mut Vec<u32>) -> Result<(), String> {
        let text = self.normalizer.apply(text, at_start)?;
        for part in self.added.split_normalized(&text) {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(range) => {
                    let first = at_start && range.start == 0;
                    let text = text.get(range).unwrap_or_default();
                    self.splitter.words(text, first, |word| self.model.encode(word, ids))?;
                }
            }
        }
        Ok(())
    }

    /// Ids of a user's text that is no conversation, with what the reference puts around such a text: a start id,
    /// an end id or nothing. Where the tokenizer's files say nothing, `start` is put before it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the tokenizer fails.
    pub fn encode_raw(&self, text: &str, start: Option<u32>) -> Result<Vec<u32>> {
        let text = self.encode(&MarkedText::from_user(text))?;
        Ok(match &self.frame {
            Some(frame) => [frame.before.as_slice(), &text, &frame.after].concat(),
            None => start.into_iter().chain(text).collect(),
        })
    }

    fn decoded(&self, tokens: Vec<Token>, edges: Edges) -> Result<Decoded> {
        self.decoder.decode(tokens, edges).map_err(|e| self.broken("cannot decode ids", &e))
    }

    fn cleans_up(&self) -> bool {
        self.cleans_up
    }

    fn text_grows(&self) -> bool {
        self.decoder.grows()
    }

    /// Every id that is a token.
    fn ids(&self) -> HashSet<u32> {
        let mut ids = self.model.ids();
        ids.extend(self.added.all().iter().map(|t| t.id));
        ids
    }

    /// Ids of turn-end tokens this tokenizer has.
    fn turn_ends(&self) -> impl Iterator<Item = u32> + '_ {
        TURN_END_TEXTS.iter().filter_map(|t| self.id(t)).filter(|id| self.is_special(*id))
    }

    /// What decoding must know: the mask, the stop ids, and every id that is no token.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where tokenizer and model disagree: an id beyond the embeddings, another
    /// mask id, or an end-of-sequence id that is no token.
    pub fn vocabulary(&self, architecture: &Architecture) -> Result<Vocabulary> {
        let rows = architecture.embedding_rows;
        let ids = self.ids();
        let beyond = |id: &&u32| **id as usize >= rows;
        // Special tokens beyond the embeddings are for parts that the text model lacks, such as Gemma 3's images:
        // nobody can ask for them.
        let unused =
            |id: u32| self.is_special(id) && self.model.text(id).is_none() && !self.turn_ends().any(|e| e == id);
        if ids.iter().filter(beyond).any(|id| !unused(*id)) {
            let id = ids.iter().max().copied().unwrap_or_default();
            return Err(self.disagrees(format!(
                "has token id {id} but the model has {rows} embeddings; tokenizer and checkpoint are of different models"
            )));
        }
        if let Some(id) = architecture.tokens.eos.iter().find(|id| !ids.contains(id)) {
            return Err(self.disagrees(format!("does not have the config's end-of-sequence id {id}")));
        }
        let mut vocabulary = Vocabulary::of(architecture);
        let mask = vocabulary.mask;
        self.check_mask(mask)?;
        let mut suppressed = TokenSet::new(rows);
        for id in (0..rows as u32).filter(|id| !ids.contains(id)).chain(mask) {
            suppressed.insert(id);
        }
        vocabulary.suppressed = suppressed.into();
        vocabulary.stop.extend(self.turn_ends().filter(|id| Some(*id) != mask));
        vocabulary.stop.sort_unstable();
        vocabulary.stop.dedup();
        Ok(vocabulary)
    }

    /// That a diffusion model's mask is the token which its text says.
    fn check_mask(&self, mask: Option<u32>) -> Result<()> {
        let Some(mask) = mask else { return Ok(()) };
        match MASK_TEXTS.iter().find_map(|t| self.id(t).map(|id| (t, id))) {
            Some((text, id)) if id != mask => {
                Err(self.disagrees(format!("its {text} is id {id} but the config's mask_token_id is {mask}")))
            }
            _ => Ok(()),
        }
    }

    fn disagrees(&self, problem: String) -> Error {
        Error::Tokenizer { file: self.file.clone(), problem }
    }

    fn broken(&self, what: &str, problem: &str) -> Error {
        Error::Tokenizer { file: self.file.clone(), problem: format!("{what}: {problem}") }
    }
}

/// Puts a file's name to what is wrong with it.
fn broken(file: &str) -> impl FnOnce(String) -> Error {
    let file = file.to_owned();
    move |problem| Error::Tokenizer { file, problem }
}
