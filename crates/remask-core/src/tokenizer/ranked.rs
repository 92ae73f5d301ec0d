//! BPE by the rank of what a merge gives: SentencePiece's (by score) and tiktoken's (by place in its file).
//! Unlike with a list of merges, any two neighbours whose text together is a piece may be merged.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::bytes::ByteIds;
use super::prefixes::Prefixes;

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Merges lead to it.
    Normal,
    /// It is taken wherever it stands, before anything is merged.
    UserDefined,
    /// Merges lead through it, but it is taken apart again at the end.
    Unused,
}

/// A piece of the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) id: u32,
    /// The higher, the earlier it is merged.
    pub(super) score: f32,
    pub(super) purpose: Use,
}

/// The model.
#[derive(Debug)]
pub(super) struct RankedBpe {
    pieces: HashMap<Box<str>, Piece>,
    user_defined: Prefixes,
    unknown: Option<u32>,
    bytes: Option<ByteIds>,
    /// Whether a word that is a piece is that piece, whatever merges would give.
    whole_words: bool,
}

/// Neighbours that may be merged; the greatest is merged first.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both, to notice that one of them has been merged since.
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// A stretch of the text, and its neighbours.
struct Symbol {
    start: usize,
    length: usize,
    previous: Option<usize>,
    next: Option<usize>,
    frozen: bool,
}

impl RankedBpe {
    /// A model of pieces that a text may be cut into (so no control tokens).
    pub(super) fn new(
        pieces: HashMap<Box<str>, Piece>,
        unknown: Option<u32>,
        bytes: Option<ByteIds>,
        whole_words: bool,
    ) -> Self {
        let user = pieces.iter().filter(|(_, p)| p.purpose == Use::UserDefined);
        let user_defined = Prefixes::new(user.map(|(text, p)| (text.clone(), p.id)));
        Self { pieces, user_defined, unknown, bytes, whole_words }
    }

    /// The pieces.
    pub(super) fn pieces(&self) -> &HashMap<Box<str>, Piece> {
        &self.pieces
    }

    /// Whether a word that is a piece is that piece, whatever merges would give.
    pub(super) fn takes_whole_words(&self) -> bool {
        self.whole_words
    }

    /// Ids of a text that is normalised already.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        if let Some(piece) = self.pieces.get(text).filter(|_| self.whole_words) {
            return vec![piece.id];
        }
        let mut symbols = self.symbols(text);
        let mut queue = BinaryHeap::new();
        // Where a piece that is unused was put together, to take it apart.
        let mut seams = HashMap::new();
        let mut offer =
            |symbols: &[Symbol], left: Option<usize>, right: Option<usize>, queue: &mut BinaryHeap<Pair>| {
                let (Some(left), Some(right)) = (left, right) else { return };
                let (Some(a), Some(b)) = (symbols.get(left), symbols.get(right)) else { return };
                let length = a.length + b.length;
                let Some(both) = text.get(a.start..a.start + length).filter(|_| !a.frozen && !b.frozen) else { return };
                if let Some(piece) = self.pieces.get(both) {
                    queue.push(Pair { score: piece.score, left, right, length });
                    if piece.purpose == Use::Unused {
                        seams.insert(both, a.length);
                    }
                }
            };
        for right in 1..symbols.len() {
            offer(&symbols, Some(right - 1), Some(right), &mut queue);
        }
        while let Some(pair) = queue.pop() {
            let (Some(left), Some(right)) = (symbols.get(pair.left), symbols.get(pair.right)) else { continue };
            if left.length == 0 || right.length == 0 || left.length + right.length != pair.length {
                continue;
            }
            let (previous, next) = (left.previous, right.next);
            if let Some(left) = symbols.get_mut(pair.left) {
                (left.length, left.next) = (pair.length, next);
            }
            if let Some(right) = symbols.get_mut(pair.right) {
                right.length = 0;
            }
            if let Some(after) = next.and_then(|next| symbols.get_mut(next)) {
                after.previous = Some(pair.left);
            }
            offer(&symbols, previous, Some(pair.left), &mut queue);
            offer(&symbols, Some(pair.left), next, &mut queue);
        }
        let mut ids = Vec::new();
        let mut after_unknown = false;
        // The last is taken first.
        let mut waiting = Vec::new();
        for symbol in symbols.iter().filter(|s| s.length > 0) {
            waiting.extend(text.get(symbol.start..symbol.start + symbol.length));
            while let Some(part) = waiting.pop() {
                let piece = self.pieces.get(part);
                let seam = seams.get(part).filter(|_| piece.is_some_and(|p| p.purpose == Use::Unused));
                if let Some((left, right)) = seam.and_then(|seam| part.split_at_checked(*seam)) {
                    waiting.extend([right, left]);
                    continue;
                }
                match (piece, &self.bytes) {
                    (Some(piece), _) => ids.push(piece.id),
                    (None, Some(bytes)) => ids.extend(bytes.of(part)),
                    // Neighbouring unknown characters are one unknown word.
                    (None, None) if after_unknown => (),
                    (None, None) => ids.extend(self.unknown),
                }
                after_unknown = piece.is_none();
            }
        }
        ids
    }

    /// The text's characters, what the user asked for in one.
    fn symbols(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut start = 0;
        while let Some(rest) = text.get(start..).filter(|rest| !rest.is_empty()) {
            let found = if self.user_defined.is_empty() { None } else { self.user_defined.longest(rest) };
            let length = found.map_or_else(|| rest.chars().next().map_or(1, char::len_utf8), |(length, _)| length);
            let at = symbols.len();
            symbols.push(Symbol {
                start,
                length,
                previous: at.checked_sub(1),
                next: Some(at + 1),
                frozen: found.is_some(),
            });
            start += length;
        }
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        symbols
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(pieces: &[(&str, f32, Use)]) -> RankedBpe {
        let piece = |(id, (text, score, purpose)): (u32, &(&str, f32, Use))| {
            ((*text).into(), Piece { id, score: *score, purpose: *purpose })
        };
        RankedBpe::new((1..).zip(pieces).map(piece).collect(), Some(0), None, false)
    }

    #[test]
    fn the_best_score_is_merged_first_and_of_equals_the_leftmost() {
        use Use::Normal;
        let m = model(&[("a", 0.0, Normal), ("b", 0.0, Normal), ("aa", -1.0, Normal), ("ab", -2.0, Normal)]);
        assert_eq!(m.encode("aaab"), [3, 4]);
        assert_eq!(m.encode("aaaab"), [3, 3, 2]);
        assert_eq!(m.encode("xxbyb"), [0, 2, 0, 2]);
    }

    #[test]
    fn user_defined_pieces_stay_whole_and_unused_ones_are_taken_apart() {
        use Use::{Normal, Unused, UserDefined};
        let m = model(&[("a", 0.0, Normal), ("b", 0.0, Normal), ("ab", -1.0, Unused), ("aba", -2.0, Normal)]);
        assert_eq!(m.encode("ab"), [1, 2]);
        assert_eq!(m.encode("aba"), [4]);
        let m = model(&[("a", 0.0, Normal), ("b", 0.0, UserDefined), ("ab", -1.0, Normal)]);
        assert_eq!(m.encode("ab"), [1, 2]);
    }
}
