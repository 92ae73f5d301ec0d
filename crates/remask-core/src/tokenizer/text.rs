//! Text out of ids for those who show it: whole, in pieces by token, or as it grows.

use super::TextTokenizer;
use super::decode::{Decoded, Edges, Placed, Token, clean_up, is_cleaned};
use crate::error::Result;

impl TextTokenizer {
    /// The text of `ids`, special tokens left out if `skip_special`. Ids that are no token are left out.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) where the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let tokens = self.tokens(ids.iter().copied().enumerate(), skip_special);
        let mut chars = self.decoded(tokens, Edges { at_start: true, open_start: false })?.chars;
        if self.cleans_up() {
            clean_up(&mut chars);
        }
        Ok(chars.into_iter().map(|p| p.c).collect())
    }

    /// The text of each position of a canvas, `None` being a hole, which has none. Where there is no hole, the
    /// pieces joined are what [`TextTokenizer::decode`] gives.
    ///
    /// A character whose bytes are spread over several tokens is the last one's; beside a hole that may hold some
    /// of its bytes it is nobody's. So U+FFFD is only where the text has bytes that are no character.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) where the tokenizer fails.
    pub fn pieces(&self, canvas: &[Option<u32>], skip_special: bool) -> Result<Vec<String>> {
        let mut pieces = vec![String::new(); canvas.len()];
        let mut start = 0;
        for run in canvas.split(Option::is_none) {
            let ids = (start..).zip(run.iter().flatten().copied());
            let end = start + run.len();
            let edges = Edges { at_start: start == 0, open_start: start > 0 };
            let Decoded { mut chars, unfinished, .. } = self.decoded(self.tokens(ids, skip_special), edges)?;
            if end < canvas.len() {
                chars.truncate(chars.len().saturating_sub(unfinished));
            }
            if self.cleans_up() {
                clean_up(&mut chars);
            }
            for p in chars {
                if let Some(piece) = pieces.get_mut(p.place) {
                    piece.push(p.c);
                }
            }
            start = end + 1;
        }
        Ok(pieces)
    }

    /// A text that grows by ids.
    #[must_use]
    pub fn stream(&self, skip_special: bool) -> TextStream<'_> {
        TextStream { tokenizer: self, skip_special, ids: Vec::new(), count: 0, given: 0, at_start: true }
    }

    fn tokens(&self, ids: impl Iterator<Item = (usize, u32)>, skip_special: bool) -> Vec<Token> {
        let kept = ids.filter(|(_, id)| !(skip_special && self.is_special(*id)));
        kept.filter_map(|(place, id)| {
            let (text, added) = self.text_of(id)?;
            Some(Token { place, text, added })
        })
        .collect()
    }
}

/// A text that grows: ids go in, what is final of the text comes out. All that came out, joined, is what
/// [`TextTokenizer::decode`] gives for all ids that went in.
///
/// A character is held back until its last byte is there; with a tokenizer that cleans up spaces, a space until
/// what follows is known; and everything where the decoder looks at a text's end.
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    skip_special: bool,
    /// Tokens whose text is not out, and as many before them as it depends on: `(place, id)`.
    ids: Vec<(usize, u32)>,
    /// Ids that went in.
    count: usize,
    /// So many characters of the text of `ids` are out.
    given: usize,
    /// Whether `ids` are the first ones.
    at_start: bool,
}

impl TextStream<'_> {
    /// Takes further ids and gives the text that is final by now and was not given before.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) where the tokenizer fails.
    pub fn push(&mut self, ids: &[u32]) -> Result<String> {
        let special = |id: u32| self.skip_special && self.tokenizer.is_special(id);
        self.ids.extend((self.count..).zip(ids.iter().copied()).filter(|(_, id)| !special(*id)));
        self.count += ids.len();
        if !self.tokenizer.text_grows() {
            return Ok(String::new());
        }
        let Decoded { chars, unfinished, unfinished_from } = self.decoded()?;
        let cleans_up = self.tokenizer.cleans_up();
        // Text up to a character that cleaning up does not look at is cleaned up apart from what follows.
        let apart = |p: &Placed| !cleans_up || !is_cleaned(p.c);
        let known = chars.get(..chars.len().saturating_sub(unfinished)).unwrap_or_default();
        let known = known.get(..known.iter().rposition(apart).map_or(0, |at| at + 1)).unwrap_or_default();
        let text = self.not_given(known.to_vec());

        // The last token that is done with: all of its text is out, none of its bytes are in what follows or are
        // waiting, and what follows is cleaned up apart.
        let open = unfinished_from.unwrap_or(usize::MAX);
        let nexts = chars.iter().skip(1).map(|p| p.from).chain([usize::MAX]);
        let ends = known.iter().zip(nexts).filter(|(p, next)| p.place < *next && p.place < open && apart(p));
        if let Some((last, _)) = ends.last() {
            let mut gone: Vec<_> = known.iter().copied().filter(|p| p.place <= last.place).collect();
            if cleans_up {
                clean_up(&mut gone);
            }
            self.given = self.given.saturating_sub(gone.len());
            self.ids.retain(|(at, _)| *at > last.place);
            self.at_start = false;
        }
        Ok(text)
    }

    /// The rest of the text, where no id follows.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) where the tokenizer fails.
    pub fn finish(mut self) -> Result<String> {
        let chars = self.decoded()?.chars;
        Ok(self.not_given(chars))
    }

    fn decoded(&self) -> Result<Decoded> {
        let tokens = self.tokenizer.tokens(self.ids.iter().copied(), self.skip_special);
        self.tokenizer.decoded(tokens, Edges { at_start: self.at_start, open_start: false })
    }

    fn not_given(&mut self, mut chars: Vec<Placed>) -> String {
        if self.tokenizer.cleans_up() {
            clean_up(&mut chars);
        }
        let text = chars.iter().skip(self.given).map(|p| p.c).collect();
        self.given = self.given.max(chars.len());
        text
    }
}
