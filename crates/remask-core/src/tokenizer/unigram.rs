//! SentencePiece's unigram model: of all ways to cut a text into pieces, the one with the best sum of scores.

use super::bytes::ByteIds;
use super::prefixes::Prefixes;

/// How much worse than the worst piece an unknown character is.
const UNKNOWN_PENALTY: f64 = 10.0;

/// How scores are added: ties depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sums {
    /// In 32 bits, as SentencePiece does.
    Single,
    /// In 64 bits, as the tokenizers crate does.
    Double,
}

/// A piece with its number and score.
pub(super) struct ScoredPiece {
    pub(super) text: Box<str>,
    pub(super) id: u32,
    pub(super) score: f64,
    /// Whether the user who trained the model asked for it: it is then taken wherever it stands.
    pub(super) user_defined: bool,
}

/// The model.
#[derive(Debug)]
pub(super) struct Unigram {
    /// Pieces; the number is the place in `scored`.
    pieces: Prefixes,
    /// (id, score)
    scored: Vec<(u32, f64)>,
    unknown: Option<u32>,
    unknown_score: f64,
    bytes: Option<ByteIds>,
    sums: Sums,
}

impl Unigram {
    /// A model of pieces that a text may be cut into (so no control tokens).
    pub(super) fn new(pieces: Vec<ScoredPiece>, unknown: Option<u32>, bytes: Option<ByteIds>, sums: Sums) -> Self {
        let normal = || pieces.iter().filter(|p| !p.user_defined).map(|p| p.score);
        let best = normal().fold(f64::NEG_INFINITY, f64::max);
        let worst = normal().fold(f64::INFINITY, f64::min);
        let scored = pieces
            .iter()
            // As SentencePiece scores them: a longer one is always better than a row of shorter ones.
            .map(|p| (p.id, sums.rounded(if p.user_defined { p.text.len() as f64 * best - 0.1 } else { p.score })))
            .collect();
        let pieces = Prefixes::new((0..).zip(pieces).map(|(at, p)| (p.text, at)));
        Self { pieces, scored, unknown, unknown_score: sums.rounded(worst - UNKNOWN_PENALTY), bytes, sums }
    }

    /// The id of what is in no piece.
    pub(super) fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Ids of a text that is normalised already.
    ///
    /// # Errors
    /// Where a character is in no piece and there is no id for unknown ones.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        /// The best way to a place in the text.
        #[derive(Clone, Copy)]
        struct Best {
            score: f64,
            from: usize,
            /// `None` for an unknown character.
            id: Option<u32>,
        }
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
        for (at, c) in text.char_indices() {
            let here = best.get(at).copied().flatten().map_or(0.0, |b| b.score);
            let mut single = false;
            let mut offer = |end: usize, score: f64, id| {
                let score = self.sums.rounded(score);
                if let Some(place) = best.get_mut(end)
                    && place.as_ref().is_none_or(|b| score > b.score)
                {
                    *place = Some(Best { score, from: at, id });
                }
            };
            for (length, place) in self.pieces.of(text.get(at..).unwrap_or_default()) {
                let Some((id, score)) = self.scored.get(place as usize) else { continue };
                offer(at + length, score + here, Some(*id));
                single |= length == c.len_utf8();
            }
            if !single {
                offer(at + c.len_utf8(), self.unknown_score + here, None);
            }
        }
        let mut reversed = Vec::new();
        let mut end = text.len();
        while let Some(b) = best.get(end).copied().flatten().filter(|b| b.from < end) {
            reversed.push((b.id, b.from..end));
            end = b.from;
        }
        let mut ids = Vec::new();
        let mut after_unknown = false;
        for (id, span) in reversed.into_iter().rev() {
            let unknown = id.is_none() || id == self.unknown;
            match (id, &self.bytes) {
                (Some(id), _) if !unknown => ids.push(id),
                (_, Some(bytes)) => ids.extend(bytes.of(text.get(span).unwrap_or_default())),
                // Neighbouring unknown characters are one unknown word.
                _ if after_unknown => (),
                _ => {
                    let none = || "a character is unknown, and the model has no unknown token".to_owned();
                    ids.push(self.unknown.ok_or_else(none)?);
                }
            }
            after_unknown = unknown;
        }
        Ok(ids)
    }
}

impl Sums {
    fn rounded(self, score: f64) -> f64 {
        match self {
            Self::Single => f64::from(score as f32),
            Self::Double => score,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(pieces: &[(&str, f64)], user: &str) -> Unigram {
        let piece = |(id, (text, score)): (u32, &(&str, f64))| ScoredPiece {
            text: (*text).into(),
            id,
            score: *score,
            user_defined: *text == user,
        };
        Unigram::new((1..).zip(pieces).map(piece).collect(), Some(0), None, Sums::Single)
    }

    #[test]
    fn the_best_sum_wins_and_unknown_neighbours_are_one() {
        let pieces = [("a", -1.0), ("b", -1.0), ("c", -1.0), ("ab", -1.5), ("abc", -4.0), ("bc", -0.25)];
        let m = model(&pieces, "");
        assert_eq!(m.encode("abc").unwrap(), [1, 6]);
        assert_eq!(m.encode("xyabz").unwrap(), [0, 4, 0]);
        assert_eq!(m.encode("").unwrap(), [0u32; 0]);
        // A piece that the user asked for is taken although its own score is the worst.
        let m = model(&[("a", -3.0), ("b", -1.0), ("ab", -3.5), ("aba", -100.0)], "aba");
        assert_eq!(m.encode("abab").unwrap(), [4, 2]);
    }

    #[test]
    fn odd_scores_end_too() {
        let m = model(&[("a", f64::NAN), ("aa", f64::INFINITY), ("b", f64::NEG_INFINITY)], "");
        assert!(!m.encode("aaabxaa").unwrap().is_empty());
        let empty = Unigram::new(Vec::new(), None, None, Sums::Double);
        assert!(empty.encode("a").unwrap_err().contains("no unknown token"));
    }
}
