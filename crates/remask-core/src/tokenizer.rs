//! The tokenizer (tokenizer.json, through the `tokenizers` crate), with user text kept apart from
//! special tokens and the ids that must never be generated.

use std::collections::HashSet;
use std::ops::Range;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::architecture::Architecture;
use crate::backend::TokenSet;
use crate::chat::MarkedText;
use crate::decode::Vocabulary;
use crate::error::{Error, Result};

/// Texts that name the mask in the tokenizers of the supported families.
pub(crate) const MASK_TEXTS: &[&str] = &["<|mdm_mask|>", "<|mask|>", "[MASK]", "<mask>"];
/// Texts that end a turn in the supported families' conversations.
const TURN_END_TEXTS: &[&str] = &["<|eot_id|>", "<|im_end|>", "<|role_end|>"];

/// A tokenizer bound to its file's name.
pub struct TextTokenizer {
    file: String,
    inner: Tokenizer,
    /// (text, id) of every special token, longest first.
    specials: Vec<(String, u32)>,
}

impl TextTokenizer {
    /// Reads a tokenizer.json.
    ///
    /// Added tokens that look like control tokens (`<…>`, `[…]`) count as special even where the file
    /// forgets to say so, as LLaDA-8B-Base's does for its headers and its mask.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where it is not a valid tokenizer.json.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Self> {
        let value = serde_json::from_slice(bytes)
            .map_err(|e| Error::Tokenizer { file: file.to_owned(), problem: format!("not valid JSON: {e}") })?;
        Self::from_json(file, value)
    }

    /// As [`TextTokenizer::from_bytes`], from the JSON itself.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where it is no tokenizer.
    pub fn from_json(file: &str, mut value: Value) -> Result<Self> {
        let broken = |problem: String| Error::Tokenizer { file: file.to_owned(), problem };
        let mut specials = Vec::new();
        for token in value.get_mut("added_tokens").and_then(Value::as_array_mut).into_iter().flatten() {
            let content = token.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
            let id = token.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
            if looks_like_control(&content) {
                token["special"] = Value::Bool(true);
            }
            if let Some(id) = id.filter(|_| token.get("special") == Some(&Value::Bool(true))) {
                specials.push((content, id));
            }
        }
        specials.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        let mut inner: Tokenizer =
            serde_json::from_value(value).map_err(|e| broken(format!("not a tokenizer: {e}")))?;
        // The tokenizers crate gives such a token another id, and says nothing.
        if let Some((text, id)) =
            specials.iter().find(|(text, id)| !text.is_empty() && inner.token_to_id(text) != Some(*id))
        {
            let found = inner.token_to_id(text).map_or("none".to_owned(), |id| id.to_string());
            return Err(broken(format!("gives {text} the id {id}, but by its place in the vocabulary it has {found}")));
        }
        // Segments between special tokens are encoded as plain text, whatever they spell.
        inner.set_encode_special_tokens(true);
        Ok(Self { file: file.to_owned(), inner, specials })
    }

    /// The tokenizer as a tokenizer.json.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where it cannot be written as one.
    pub fn to_json(&self) -> Result<String> {
        let broken = |e| Error::Tokenizer { file: self.file.clone(), problem: format!("cannot be written: {e}") };
        self.inner.to_string(true).map_err(broken)
    }

    /// The id of a token given by its text.
    #[must_use]
    pub fn id(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// The text of an id; `None` where the tokenizer does not have it.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Ids of a text. Special tokens are recognised only outside the marked ranges.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the tokenizer fails.
    pub fn encode(&self, marked: &MarkedText) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut plain_from = 0;
        let mut at = 0;
        while at < marked.text.len() {
            match self.special_at(marked, at) {
                Some((text, id)) => {
                    self.encode_plain(&marked.text[plain_from..at], &mut ids)?;
                    ids.push(id);
                    at += text.len();
                    plain_from = at;
                }
                None => at += marked.text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        self.encode_plain(&marked.text[plain_from..], &mut ids)?;
        Ok(ids)
    }

    fn special_at(&self, marked: &MarkedText, at: usize) -> Option<(&str, u32)> {
        let apart = |r: &Range<usize>, span: &Range<usize>| span.end <= r.start || r.end <= span.start;
        self.specials.iter().find_map(|(text, id)| {
            let span = at..at + text.len();
            let matches = !text.is_empty() && marked.text[at..].starts_with(text.as_str());
            (matches && marked.user.iter().all(|r| apart(r, &span))).then_some((text.as_str(), *id))
        })
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let broken = |e| Error::Tokenizer { file: self.file.clone(), problem: format!("cannot encode the text: {e}") };
        ids.extend_from_slice(self.inner.encode(text, false).map_err(broken)?.get_ids());
        Ok(())
    }

    /// The text of `ids`, special tokens left out if `skip_special`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let broken = |e| Error::Tokenizer { file: self.file.clone(), problem: format!("cannot decode ids: {e}") };
        self.inner.decode(ids, skip_special).map_err(broken)
    }

    /// A text that grows by ids.
    #[must_use]
    pub fn stream(&self, skip_special: bool) -> TextStream<'_> {
        TextStream { tokenizer: self, skip_special, ids: Vec::new(), given: 0 }
    }

    /// Ids of turn-end tokens this tokenizer has.
    fn turn_ends(&self) -> impl Iterator<Item = u32> + '_ {
        TURN_END_TEXTS.iter().filter_map(|t| self.id(t))
    }

    /// What decoding must know: the mask, the stop ids, and every id that is no token.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where tokenizer and model disagree: an id beyond the embeddings, another
    /// mask id, or an end-of-sequence id that is no token.
    pub fn vocabulary(&self, architecture: &Architecture) -> Result<Vocabulary> {
        let disagree = |problem| Err(Error::Tokenizer { file: self.file.clone(), problem });
        let rows = architecture.embedding_rows;
        let ids: HashSet<u32> = self.inner.get_vocab(true).into_values().collect();
        if let Some(id) = ids.iter().max().filter(|id| **id as usize >= rows) {
            return disagree(format!(
                "has token id {id} but the model has {rows} embeddings; tokenizer and checkpoint are of different models"
            ));
        }
        let mut vocabulary = Vocabulary::of(architecture);
        let mask = vocabulary.mask;
        let named = MASK_TEXTS.iter().find_map(|t| self.id(t).map(|id| (t, id)));
        if let Some((text, id)) = named.filter(|(_, id)| mask.is_some_and(|mask| *id != mask)) {
            return disagree(format!(
                "its {text} is id {id} but the config's mask_token_id is {}",
                mask.unwrap_or_default()
            ));
        }
        if let Some(id) = architecture.tokens.eos.iter().find(|id| !ids.contains(id)) {
            return disagree(format!("does not have the config's end-of-sequence id {id}"));
        }
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
}

/// A text that grows: ids go in, what is final of the text comes out.
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    skip_special: bool,
    ids: Vec<u32>,
    given: usize,
}

impl TextStream<'_> {
    /// Takes further ids and gives the text that is final by now and was not given before.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the tokenizer fails.
    pub fn push(&mut self, ids: &[u32]) -> Result<String> {
        self.ids.extend_from_slice(ids);
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let new = whole.get(self.given..).unwrap_or_default().to_owned();
        self.given = self.given.max(whole.len());
        Ok(new)
    }

    /// The rest of the text, where no id follows.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the tokenizer fails.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        Ok(text.get(self.given..).unwrap_or_default().to_owned())
    }
}

fn looks_like_control(text: &str) -> bool {
    let inside = |open, close| text.len() > 2 && text.starts_with(open) && text.ends_with(close);
    inside('<', '>') || inside('[', ']')
}
