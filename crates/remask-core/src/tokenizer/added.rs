//! Tokens that are found in a text before it is cut into pieces.
//!
//! Special ones structure a text (start, end, turns, mask): they are recognised only where the text did not come
//! from a user. Merely added ones (`<think>`, HTML tags, runs of spaces) are recognised everywhere, as Hugging
//! Face's tokenizers do.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::prefixes::Prefixes;

/// Texts that structure conversations or stand for holes in the supported families. They are special even where
/// a file forgets to say so, as LLaDA-8B-Base's does for its headers and its mask, and SentencePiece models do
/// whose control tokens were added as user-defined ones. No other added token becomes special by its looks.
pub(super) const STRUCTURE: &[&str] = &[
    "<s>",
    "</s>",
    "<pad>",
    "<bos>",
    "<eos>",
    "<mask>",
    "[MASK]",
    "<MASK>",
    "<|mask|>",
    "<|mdm_mask|>",
    "<|startoftext|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<role>",
    "</role>",
    "<|role_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<turn|>",
    "<|turn>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
];

/// One such token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) text: String,
    pub(super) special: bool,
    /// Only where no letter, digit or underscore stands beside it.
    pub(super) single_word: bool,
    /// It takes the white space before it.
    pub(super) strip_left: bool,
    /// It takes the white space after it.
    pub(super) strip_right: bool,
    /// It is looked for in the normalised text. Special tokens never are, whatever a file says: which part of a
    /// normalised text came from a user is not known.
    pub(super) normalized: bool,
}

impl AddedToken {
    /// A token found exactly as it is spelt.
    pub(super) fn new(id: u32, text: &str, special: bool) -> Self {
        let text = text.to_owned();
        Self { id, text, special, single_word: false, strip_left: false, strip_right: false, normalized: false }
    }
}

/// What a text consists of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// An added token's id.
    Token(u32),
    /// Text between them, not empty.
    Text(Range<usize>),
}

/// All of a tokenizer's.
#[derive(Debug)]
pub(super) struct AddedTokens {
    tokens: Vec<AddedToken>,
    by_id: HashMap<u32, usize>,
    by_text: HashMap<String, u32>,
    special: HashSet<u32>,
    /// Those found in the text as it is; the number is the place in `tokens`.
    exact: Prefixes,
    /// Those of them that are not special.
    exact_plain: Prefixes,
    /// Those found in the normalised text.
    normalized: Prefixes,
    /// What they are there, by id.
    spelt: HashMap<u32, String>,
}

impl AddedTokens {
    /// `normalize` is what the tokenizer does to text, for those that are looked for in the result.
    ///
    /// # Errors
    /// Where one id or text is there twice, or `normalize` fails.
    pub(super) fn new(
        mut tokens: Vec<AddedToken>,
        normalize: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Self, String> {
        tokens.retain(|t| !t.text.is_empty());
        let (mut by_id, mut by_text) = (HashMap::new(), HashMap::new());
        for (at, token) in tokens.iter_mut().enumerate() {
            token.special |= STRUCTURE.contains(&token.text.as_str());
            token.normalized &= !token.special;
            if let Some(other) = by_text.insert(token.text.clone(), token.id) {
                return Err(format!("gives {} the ids {other} and {}", token.text, token.id));
            }
            if by_id.insert(token.id, at).is_some() {
                return Err(format!("has two added tokens with the id {}, one of them {}", token.id, token.text));
            }
        }
        let numbered = || (0..).zip(&tokens);
        let table = |keep: &dyn Fn(&AddedToken) -> bool| {
            Prefixes::new(numbered().filter(|(_, t)| keep(t)).map(|(at, t)| (t.text.as_str().into(), at)))
        };
        let spelt = tokens.iter().filter(|t| t.normalized).map(|t| Ok((t.id, normalize(&t.text)?)));
        let spelt = spelt.collect::<Result<HashMap<u32, String>, String>>()?;
        let found = numbered().filter_map(|(at, t)| Some((spelt.get(&t.id)?.as_str().into(), at)));
        Ok(Self {
            exact: table(&|t| !t.normalized),
            exact_plain: table(&|t| !t.normalized && !t.special),
            normalized: Prefixes::new(found),
            special: tokens.iter().filter(|t| t.special).map(|t| t.id).collect(),
            by_id,
            by_text,
            spelt,
            tokens,
        })
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.by_text.get(text).copied()
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.by_id.get(&id).and_then(|at| self.tokens.get(*at)).map(|t| t.text.as_str())
    }

    /// The text that a token stands for: where it is found in normalised text, what it is there.
    pub(super) fn decoded(&self, id: u32) -> Option<&str> {
        self.spelt.get(&id).map(String::as_str).or_else(|| self.text(id))
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    pub(super) fn all(&self) -> &[AddedToken] {
        &self.tokens
    }

    /// Cuts a text at the tokens that are found in it as it is; special ones only outside of the `user` ranges,
    /// which are in order and apart from each other.
    pub(super) fn split(&self, text: &str, user: &[Range<usize>]) -> Vec<Part> {
        let mut ranges = user.iter().filter(|r| r.start < r.end).peekable();
        self.cut(text, |at, rest| {
            while ranges.next_if(|r| r.end <= at).is_some() {}
            // Special tokens fit between `at` and the next user range, or nowhere.
            let free = ranges.peek().map_or(usize::MAX, |r| r.start.saturating_sub(at));
            if free == 0 {
                return self.exact_plain.longest(rest);
            }
            let special = |place: u32| self.tokens.get(place as usize).is_some_and(|t| t.special);
            self.exact.of(rest).filter(|(length, place)| *length <= free || !special(*place)).last()
        })
    }

    /// Cuts a normalised text at the tokens that are looked for there.
    pub(super) fn split_normalized(&self, text: &str) -> Vec<Part> {
        if self.normalized.is_empty() {
            return if text.is_empty() { Vec::new() } else { vec![Part::Text(0..text.len())] };
        }
        self.cut(text, |_, rest| self.normalized.longest(rest))
    }

    /// `find` says which token begins at a place: its length and its place in `tokens`. Where one is found but
    /// may not stand there, what it covers is passed over, as the tokenizers crate does.
    fn cut(&self, text: &str, mut find: impl FnMut(usize, &str) -> Option<(usize, u32)>) -> Vec<Part> {
        let mut parts = Vec::new();
        // Where the text that is in no part yet begins, and where to look next.
        let (mut rest_from, mut at) = (0, 0);
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let found = find(at, rest).and_then(|(length, place)| Some((length, self.tokens.get(place as usize)?)));
            let Some((length, token)) = found else {
                at += rest.chars().next().map_or(1, char::len_utf8);
                continue;
            };
            let (before, after) = (text.get(..at).unwrap_or_default(), rest.get(length..).unwrap_or_default());
            let end = at + length;
            let beside_word =
                before.chars().next_back().is_some_and(is_word) || after.chars().next().is_some_and(is_word);
            at = end;
            if token.single_word && beside_word {
                continue;
            }
            let start = if token.strip_left { before.trim_end().len() } else { before.len() }.max(rest_from);
            if rest_from < start {
                parts.push(Part::Text(rest_from..start));
            }
            parts.push(Part::Token(token.id));
            rest_from = if token.strip_right { text.len() - after.trim_start().len() } else { end };
            // A token that begins within the stripped white space is still found.
        }
        if rest_from < text.len() {
            parts.push(Part::Text(rest_from..text.len()));
        }
        parts
    }
}

/// What a regular expression calls `\w`, nearly: the marks that it also takes are no letters of their own.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(change: impl Fn(&mut AddedToken)) -> AddedTokens {
        let mut all = vec![
            AddedToken::new(1, "<s>", true),
            AddedToken::new(2, "<br>", false),
            AddedToken::new(3, "<br><br>", false),
            AddedToken::new(4, "<br><s>", true),
        ];
        all.iter_mut().for_each(change);
        AddedTokens::new(all, |text| Ok(text.to_lowercase())).unwrap()
    }

    fn shown(text: &str, parts: &[Part]) -> String {
        let part = |part: &Part| match part {
            Part::Token(id) => format!("{id}"),
            Part::Text(range) => format!("{:?}", &text[range.clone()]),
        };
        parts.iter().map(part).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn special_tokens_stand_outside_of_user_text_only() {
        let added = tokens(|_| ());
        let text = "<s>a<br><s><br><br>b";
        let split = |user: Range<usize>| shown(text, &added.split(text, &[user]));
        assert_eq!(split(0..0), r#"1 "a" 4 3 "b""#);
        assert_eq!(split(0..text.len()), r#""<s>a" 2 "<s>" 3 "b""#);
        // One that reaches into a user's text is none; what is merely added may.
        assert_eq!(split(9..12), r#"1 "a" 2 "<s>" 3 "b""#);
        assert_eq!(split(11..12), r#"1 "a" 4 3 "b""#);
        assert_eq!(split(3..4), r#"1 "a" 4 3 "b""#);
    }

    #[test]
    fn white_space_and_words_beside_a_token() {
        let added = tokens(|t| (t.strip_left, t.strip_right) = (t.id == 1, t.id == 1));
        let text = "a  <s>  b <s>";
        assert_eq!(shown(text, &added.split(text, &[])), r#""a" 1 "b" 1"#);
        let added = tokens(|t| t.single_word = t.id == 2);
        let text = "x<br> <br>y <br>";
        assert_eq!(shown(text, &added.split(text, &[])), r#""x<br> <br>y " 2"#);
    }

    #[test]
    fn normalised_ones_are_found_in_normalised_text_and_structure_is_always_special() {
        let added = AddedTokens::new(
            [(7, "BR"), (8, "<|eot_id|>"), (9, "<think>")]
                .map(|(id, text)| AddedToken { normalized: true, ..AddedToken::new(id, text, false) })
                .into(),
            |text| Ok(text.to_lowercase()),
        )
        .unwrap();
        assert_eq!(shown("abr", &added.split_normalized("abr")), r#""a" 7"#);
        assert_eq!(shown("br<|eot_id|>", &added.split("br<|eot_id|>", &[])), r#""br" 8"#);
        assert_eq!([7, 8, 9].map(|id| added.is_special(id)), [false, true, false]);
    }

    #[test]
    fn two_of_one_id_or_text_are_refused() {
        let twice = |a, b| AddedTokens::new(vec![a, b], |t| Ok(t.to_owned())).unwrap_err();
        let token = AddedToken::new;
        assert_eq!(twice(token(1, "a", true), token(2, "a", true)), "gives a the ids 1 and 2");
        assert!(twice(token(1, "a", true), token(1, "b", true)).contains("the id 1, one of them b"));
    }
}
