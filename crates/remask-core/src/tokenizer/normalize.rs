//! What is done to a text before it is cut into pieces: the steps of a tokenizer.json, by the tokenizers crate,
//! and SentencePiece's own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{NormalizedString, Normalizer as _};

use super::charsmap::Charsmap;
use super::parts::{self, Leaf};
use super::prefixes::Prefixes;

/// SentencePiece's mark of a space.
pub(super) const SPACE_MARK: &str = "\u{2581}";

/// Where a space is put in front of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Nowhere.
    Never,
    /// At the very beginning.
    First,
    /// There and behind every added token.
    Always,
}

/// SentencePiece's normaliser.
#[derive(Debug)]
pub(super) struct SentencePiece {
    pub(super) charsmap: Option<Charsmap>,
    /// Texts that pass unchanged.
    pub(super) user_defined: Prefixes,
    /// Removes spaces at both ends and all but one of those within.
    pub(super) remove_extra_spaces: bool,
    /// Writes spaces as [`SPACE_MARK`].
    pub(super) mark_spaces: bool,
    pub(super) prefix: Prefix,
    /// The prefix goes behind the text instead.
    pub(super) as_suffix: bool,
}

#[derive(Debug)]
enum Step {
    Crate(NormalizerWrapper),
    Charsmap(Charsmap),
    SentencePiece(SentencePiece),
}

/// All steps, in order.
#[derive(Debug, Default)]
pub(super) struct Normalizer {
    steps: Vec<Step>,
    /// As a tokenizer.json has them.
    written: Value,
}

/// Names that a tokenizer.json gives the crate's steps.
const KNOWN: &[&str] = &[
    "BertNormalizer",
    "Bert",
    "Strip",
    "StripAccents",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "Nmt",
    "Replace",
    "Prepend",
    "ByteLevel",
];

impl Normalizer {
    /// Reads the `normalizer` of a tokenizer.json.
    ///
    /// # Errors
    /// Where a step is unknown or broken.
    pub(super) fn from_json(value: &Value) -> Result<Self, String> {
        let step = |leaf: Leaf<'_>| match leaf.kind {
            "Precompiled" => {
                let map = leaf.value.get("precompiled_charsmap").and_then(Value::as_str).unwrap_or_default();
                let map = BASE64.decode(map).map_err(|e| format!("precompiled_charsmap is no base64: {e}"))?;
                Ok(Charsmap::new(&map)?.map(Step::Charsmap))
            }
            _ => Ok(Some(Step::Crate(leaf.read(KNOWN)?))),
        };
        let steps = parts::leaves(value, "normalizer", "normalizers")?.into_iter().map(step);
        let steps = steps.collect::<Result<Vec<_>, String>>()?.into_iter().flatten().collect();
        Ok(Self { steps, written: value.clone() })
    }

    /// SentencePiece's.
    pub(super) fn sentence_piece(step: SentencePiece) -> Self {
        Self { written: step.written(), steps: vec![Step::SentencePiece(step)] }
    }

    /// As a tokenizer.json has it.
    pub(super) fn to_json(&self) -> &Value {
        &self.written
    }

    /// A text, normalised; `at_start` where nothing stands before it.
    ///
    /// # Errors
    /// Where a step of the tokenizers crate fails.
    pub(super) fn apply(&self, text: &str, at_start: bool) -> Result<String, String> {
        let mut text = text.to_owned();
        for step in &self.steps {
            text = match step {
                Step::Charsmap(map) => map.by_grapheme(&text),
                Step::SentencePiece(step) => step.apply(&text, at_start),
                // Afresh for each step: the crate's bookkeeping of where text came from is not needed.
                Step::Crate(step) => {
                    let mut normalized = NormalizedString::from(text);
                    step.normalize(&mut normalized).map_err(|e| e.to_string())?;
                    normalized.get().to_owned()
                }
            };
        }
        Ok(text)
    }
}

impl SentencePiece {
    /// What the text begins with, and its replacement.
    fn first<'a>(&'a self, text: &'a str) -> (usize, &'a str) {
        let as_it_is = |length: usize| (length, text.get(..length).unwrap_or_default());
        if let Some((length, _)) = self.user_defined.longest(text) {
            return as_it_is(length);
        }
        let replaced = self.charsmap.as_ref().and_then(|map| map.longest(text));
        replaced.unwrap_or_else(|| as_it_is(text.chars().next().map_or(0, char::len_utf8)))
    }

    fn apply(&self, mut text: &str, at_start: bool) -> String {
        let space = if self.mark_spaces { SPACE_MARK } else { " " };
        let mut out = String::with_capacity(text.len() + space.len());
        let mut after_space = self.remove_extra_spaces;
        while after_space && !text.is_empty() {
            let (length, replacement) = self.first(text);
            if replacement != " " {
                break;
            }
            text = text.get(length..).unwrap_or_default();
        }
        if text.is_empty() {
            return out;
        }
        let prefixed = self.prefix == Prefix::Always || (self.prefix == Prefix::First && at_start);
        if prefixed && !self.as_suffix {
            out.push_str(space);
        }
        while !text.is_empty() {
            let (length, mut part) = self.first(text);
            if after_space {
                part = part.trim_start_matches(' ');
            }
            for c in part.chars() {
                if c == ' ' { out.push_str(space) } else { out.push(c) }
            }
            if !part.is_empty() {
                after_space = self.remove_extra_spaces && part.ends_with(' ');
            }
            text = text.get(length.max(1)..).unwrap_or_default();
        }
        if self.remove_extra_spaces {
            out.truncate(out.trim_end_matches(space).len());
        }
        if prefixed && self.as_suffix {
            out.push_str(space);
        }
        out
    }

    /// As Hugging Face's converter writes it, which is near but not the same: the crate reads the map by grapheme,
    /// and pieces that the user asked for are not kept from it.
    fn written(&self) -> Value {
        let map = self
            .charsmap
            .as_ref()
            .map(|map| json!({"type": "Precompiled", "precompiled_charsmap": BASE64.encode(map.bytes())}));
        let spaces = self.remove_extra_spaces.then(|| {
            [
                json!({"type": "Strip", "strip_left": true, "strip_right": true}),
                json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
            ]
        });
        // With `First` it is the pre-tokenizer that knows where the beginning is.
        let prefix = (self.prefix == Prefix::Always && !self.as_suffix)
            .then(|| json!({"type": "Prepend", "prepend": if self.mark_spaces { SPACE_MARK } else { " " }}));
        let marks =
            self.mark_spaces.then(|| json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}));
        let steps: Vec<_> = map.into_iter().chain(spaces.into_iter().flatten()).chain(prefix).chain(marks).collect();
        if steps.is_empty() { Value::Null } else { json!({"type": "Sequence", "normalizers": steps}) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence_piece(remove_extra_spaces: bool, prefix: Prefix) -> SentencePiece {
        let user_defined = Prefixes::new([("a  b".into(), 0)]);
        SentencePiece { charsmap: None, user_defined, remove_extra_spaces, mark_spaces: true, prefix, as_suffix: false }
    }

    #[test]
    fn spaces_as_sentence_piece_has_them() {
        let keep = sentence_piece(false, Prefix::First);
        assert_eq!(keep.apply(" a  b ", true), "▁▁a▁▁b▁");
        assert_eq!(keep.apply("x", false), "x");
        assert_eq!(keep.apply("", true), "");
        let remove = sentence_piece(true, Prefix::Always);
        assert_eq!(remove.apply("  x   y  ", false), "▁x▁y");
        assert_eq!(remove.apply(" xa  b ", true), "▁xa▁▁b");
        assert_eq!(remove.apply("   ", true), "");
    }

    #[test]
    fn broken_steps_are_refused() {
        for (value, words) in [
            (json!({"type": "Sequence", "normalizers": [{"type": "Guess"}]}), "\"Guess\" is not known"),
            (json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "cut off"),
            (json!({"type": "Precompiled", "precompiled_charsmap": "!"}), "base64"),
            (json!({"type": "Replace", "pattern": {"Regex": "("}, "content": ""}), "Replace"),
            (json!(["NFC"]), "is no object with a type"),
        ] {
            let problem = Normalizer::from_json(&value).unwrap_err();
            assert!(problem.contains(words), "{words}: {problem}");
        }
        let mut deep = json!({"type": "NFC"});
        for _ in 0..100 {
            deep = json!({"type": "Sequence", "normalizers": [deep.clone(), deep]});
            if deep.to_string().len() > 1 << 16 {
                break;
            }
        }
        assert!(Normalizer::from_json(&deep).unwrap_err().contains("deep"));
    }
}
