//! How normalised text is cut into words: the pre-tokenizers of a tokenizer.json, by the tokenizers crate.

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{NormalizedString, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

use super::parts;

/// All steps, in order.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    steps: Vec<PreTokenizerWrapper>,
    /// As a tokenizer.json has them.
    written: Value,
}

/// Names that a tokenizer.json gives the crate's steps.
const KNOWN: &[&str] = &[
    "BertPreTokenizer",
    "ByteLevel",
    "CharDelimiterSplit",
    "Delimiter",
    "Metaspace",
    "Whitespace",
    "Split",
    "Punctuation",
    "WhitespaceSplit",
    "Digits",
    "UnicodeScripts",
    "FixedLength",
];

impl Splitter {
    /// Reads the `pre_tokenizer` of a tokenizer.json.
    ///
    /// # Errors
    /// Where a step is unknown or broken.
    pub(super) fn from_json(value: &Value) -> Result<Self, String> {
        let leaves = parts::leaves(value, "pre_tokenizer", "pretokenizers")?;
        if leaves.iter().any(|l| l.kind == "FixedLength" && l.value.get("length").and_then(Value::as_u64) == Some(0)) {
            return Err("pre_tokenizer FixedLength: a length of 0".to_owned());
        }
        let steps = leaves.iter().map(|leaf| leaf.read(KNOWN)).collect::<Result<_, _>>()?;
        Ok(Self { steps, written: value.clone() })
    }

    /// Words by regular expressions, applied one after the other, then bytes in GPT-2's alphabet.
    ///
    /// # Errors
    /// Where one is no regular expression.
    pub(super) fn byte_level(patterns: &[&str]) -> Result<Self, String> {
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let steps: Vec<_> = patterns.iter().map(|regex| isolated(regex)).chain([bytes]).collect();
        Self::from_json(&json!({"type": "Sequence", "pretokenizers": steps}))
    }

    /// Words by regular expressions, applied one after the other.
    ///
    /// # Errors
    /// Where one is no regular expression.
    pub(super) fn plain(patterns: &[&str]) -> Result<Self, String> {
        let steps: Vec<_> = patterns.iter().map(|regex| isolated(regex)).collect();
        Self::from_json(&json!({"type": "Sequence", "pretokenizers": steps}))
    }

    /// As a tokenizer.json has it.
    pub(super) fn to_json(&self) -> &Value {
        &self.written
    }

    /// Hands every word of a text to `take`; `at_start` where nothing stands before the text.
    ///
    /// # Errors
    /// Where a step of the tokenizers crate fails, or `take` does.
    pub(super) fn words(
        &self,
        text: &str,
        at_start: bool,
        mut take: impl FnMut(&str) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.steps.is_empty() {
            return take(text);
        }
        // The crate asks where a text begins in the whole of it: what has a character before it begins behind it.
        let text = if at_start {
            Some(NormalizedString::from(text))
        } else {
            NormalizedString::from(format!(" {text}")).slice(tokenizers::normalizer::Range::Original(1..))
        };
        let mut words = PreTokenizedString::from(text.ok_or("a text that cannot be cut")?);
        for step in &self.steps {
            step.pre_tokenize(&mut words).map_err(|e| e.to_string())?;
        }
        for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            take(word)?;
        }
        Ok(())
    }
}

fn isolated(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(splitter: &Splitter, text: &str, at_start: bool) -> Vec<String> {
        let mut found = Vec::new();
        splitter
            .words(text, at_start, |word| {
                found.push(word.to_owned());
                Ok(())
            })
            .unwrap();
        found
    }

    #[test]
    fn the_first_word_is_known_as_such() {
        let first = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true});
        let splitter = Splitter::from_json(&first).unwrap();
        assert_eq!(words(&splitter, "a b", true), ["▁a", "▁b"]);
        assert_eq!(words(&splitter, "a b", false), ["a", "▁b"]);
        assert_eq!(words(&splitter, "äö b", false), ["äö", "▁b"]);
    }

    #[test]
    fn broken_steps_are_refused() {
        for (value, words) in [
            (json!({"type": "FixedLength", "length": 0}), "length of 0"),
            (json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}), "Split"),
            (json!({"type": "Guess"}), "\"Guess\" is not known"),
            (json!({"type": "Sequence"}), "no pretokenizers"),
            (json!({"type": "Digits", "individual_digits": [[[]]]}), "no plain value"),
        ] {
            let problem = Splitter::from_json(&value).unwrap_err();
            assert!(problem.contains(words), "{words}: {problem}");
        }
    }
}
