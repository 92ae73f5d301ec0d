//! Text that remembers which of its bytes came from outside.

use std::ops::Range;

/// Text for a tokenizer, with the byte ranges that came from outside. Special tokens are recognised
/// only outside of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MarkedText {
    /// The whole text.
    pub text: String,
    /// Byte ranges of user text, in order, apart from each other.
    pub user: Vec<Range<usize>>,
}

impl MarkedText {
    /// Text that came from outside in one piece.
    #[must_use]
    pub fn from_user(text: &str) -> Self {
        Self::of(text, true)
    }

    /// Text in one piece, from outside or not.
    pub(crate) fn of(text: &str, user: bool) -> Self {
        let mut marked = Self::default();
        marked.push(text, user);
        marked
    }

    /// The bytes that it takes, marks included.
    pub(crate) fn weight(&self) -> usize {
        self.text.len().saturating_add(self.user.len().saturating_mul(size_of::<Range<usize>>()))
    }

    /// Whether any of it came from outside.
    pub(crate) fn has_user(&self) -> bool {
        !self.user.is_empty()
    }

    /// Adds text at the end.
    pub(crate) fn push(&mut self, text: &str, user: bool) {
        let start = self.text.len();
        self.text.push_str(text);
        if user {
            self.mark(start..self.text.len());
        }
    }

    /// Adds one character at the end.
    pub(crate) fn push_char(&mut self, c: char, user: bool) {
        self.push(c.encode_utf8(&mut [0; 4]), user);
    }

    /// Adds marked text at the end.
    pub(crate) fn append(&mut self, other: &Self) {
        self.append_slice(other, 0..other.text.len());
    }

    /// Adds a byte range of marked text at the end; nothing where the range does not lie on characters.
    pub(crate) fn append_slice(&mut self, other: &Self, range: Range<usize>) {
        let Some(text) = other.text.get(range.clone()) else { return };
        let start = self.text.len();
        self.text.push_str(text);
        let first = other.user.partition_point(|r| r.end <= range.start);
        for marked in other.user.iter().skip(first).take_while(|r| r.start < range.end) {
            let (from, to) = (marked.start.max(range.start), marked.end.min(range.end));
            self.mark(start + from - range.start..start + to - range.start);
        }
    }

    /// A byte range of it.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        let mut part = Self::default();
        part.append_slice(self, range);
        part
    }

    /// Its characters, each with its byte offset and whether it came from outside.
    pub(crate) fn chars(&self) -> impl Iterator<Item = (usize, char, bool)> {
        let mut ranges = self.user.iter().peekable();
        self.text.char_indices().map(move |(at, c)| {
            while ranges.next_if(|r| r.end <= at).is_some() {}
            (at, c, ranges.peek().is_some_and(|r| r.start <= at))
        })
    }

    /// Marks a range behind all others, joined to the last one where they touch.
    fn mark(&mut self, range: Range<usize>) {
        match self.user.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.user.push(range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_keep_the_marks_that_they_cover() {
        let mut text = MarkedText::of("ab", false);
        text.push("cä", true);
        text.push("", true);
        text.push("ef", false);
        text.push_char('g', true);
        assert_eq!((text.text.as_str(), text.user.as_slice()), ("abcäefg", &[2..5, 7..8][..]));
        assert_eq!(text.slice(0..2), MarkedText::of("ab", false));
        assert_eq!(text.slice(3..5), MarkedText::from_user("ä"));
        assert_eq!(text.slice(1..3).user, vec![1..2; 1]);
        let flags: Vec<bool> = text.chars().map(|(_, _, user)| user).collect();
        assert_eq!(flags, [false, false, true, true, false, false, true]);
        let mut twice = text.slice(7..8);
        twice.append(&text.slice(2..8));
        assert_eq!((twice.text.as_str(), twice.user), ("gcäefg", vec![0..4, 6..7]));
    }
}
