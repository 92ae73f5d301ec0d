//! Infilling: a text with blanks, as a canvas with holes.
//!
//! A blank is written `[MASK]` (one token), `[MASK:3]` (three) or `[MASK:2-5]` (whichever number of tokens
//! the model likes best); `\[MASK]` is the text itself.

use crate::canvas::Canvas;
use crate::chat::MarkedText;
use crate::decode::Generation;
use crate::error::{Error, Result};
use crate::model::Model;

/// How a blank begins.
const OPEN: &str = "[MASK";
/// Most tokens of a blank: longer ones are better written as an answer.
const LONGEST: usize = 256;

/// Most choices of lengths that are tried for a text; they share their passes.
pub const MOST_CHOICES: usize = 64;

/// A part of a text with blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text to keep.
    Text(String),
    /// Tokens to fill in, at least and at most.
    Blank {
        /// Least number of tokens.
        min: usize,
        /// Greatest number of tokens.
        max: usize,
    },
}

/// Splits a text at its blanks.
///
/// # Errors
/// [`Error::Request`] where a blank's length makes no sense, or there is no blank at all.
pub fn parse(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        let (before, blank) = rest.split_at(at);
        let after = &blank[OPEN.len()..];
        let escaped = before.strip_suffix('\\');
        plain += escaped.unwrap_or(before);
        // A word that only begins like a blank is text.
        match after.split_once(']').filter(|(inside, _)| inside.is_empty() || inside.starts_with(':')) {
            Some((inside, behind)) if escaped.is_none() => {
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(blank_of(inside.trim_start_matches(':'))?);
                rest = behind;
            }
            _ => {
                plain += OPEN;
                rest = after;
            }
        }
    }
    plain += rest;
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    if !pieces.iter().any(|p| matches!(p, Piece::Blank { .. })) {
        return Err(Error::Request("the text has no [MASK]: there is nothing to fill in".to_owned()));
    }
    Ok(pieces)
}

fn blank_of(inside: &str) -> Result<Piece> {
    let wrong = || {
        Error::Request(format!(
            "[MASK:{inside}] is no blank; write [MASK], [MASK:N] or [MASK:N-M] with 1 <= N <= M <= {LONGEST}"
        ))
    };
    if inside.is_empty() {
        return Ok(Piece::Blank { min: 1, max: 1 });
    }
    let (min, max) = inside.split_once('-').unwrap_or((inside, inside));
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
    let (min, max) = (number(min)?, number(max)?);
    if min == 0 || min > max || max > LONGEST { Err(wrong()) } else { Ok(Piece::Blank { min, max }) }
}

/// Every choice of lengths for the blanks of `pieces`, shortest first; at most `most` of them.
///
/// # Errors
/// [`Error::Request`] where there are more.
pub fn lengths(pieces: &[Piece], most: usize) -> Result<Vec<Vec<usize>>> {
    let mut choices = vec![Vec::new()];
    for piece in pieces {
        if let Piece::Blank { min, max } = piece {
            let longer =
                |choice: &Vec<usize>| (*min..=*max).map(|n| [choice.as_slice(), &[n]].concat()).collect::<Vec<_>>();
            choices = choices.iter().flat_map(longer).collect();
        }
        if choices.len() > most {
            let problem = format!("the blanks' lengths can be chosen in more than {most} ways; narrow their ranges");
            return Err(Error::Request(problem));
        }
    }
    Ok(choices)
}

/// The canvas of a text whose blanks have these lengths, with the model's start id before it.
///
/// Words carry the blank before them in most vocabularies, so the one before a hole is left to the hole.
///
/// # Errors
/// [`Error::Tokenizer`] where the model has no tokenizer.
pub fn canvas(model: &Model, pieces: &[Piece], lengths: &[usize]) -> Result<Canvas> {
    let mut ids = Vec::from_iter(model.architecture.tokens.bos.map(Some));
    let mut lengths = lengths.iter();
    for (i, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Text(text) => {
                let before_hole = matches!(pieces.get(i + 1), Some(Piece::Blank { .. }));
                let text = if before_hole { text.strip_suffix(' ').unwrap_or(text) } else { text };
                ids.extend(model.text()?.encode(&MarkedText::from_user(text))?.into_iter().map(Some));
            }
            Piece::Blank { min, .. } => {
                let length = lengths.next().unwrap_or(min);
                ids.resize(ids.len() + length, None);
            }
        }
    }
    Ok(Canvas::with_holes(&ids, model.vocabulary.hole()))
}

/// Mean log-probability of the tokens that were filled in, each as it was decided: how well a choice of
/// lengths fits.
#[must_use]
pub fn fit(done: &Generation) -> f64 {
    use crate::canvas::Cell;
    let logs = done.canvas.cells().iter().filter_map(|cell| match cell {
        Cell::Decided { probability, .. } => Some(f64::from(*probability).ln()),
        _ => None,
    });
    let (sum, count) = logs.fold((0.0, 0), |(sum, count), log| (sum + log, count + 1));
    sum / f64::from(count.max(1))
}

/// The one of several choices of lengths that fits best, by index; the first of equals, which is the shortest where
/// they come as [`lengths`] gives them.
#[must_use]
pub fn best(done: &[Generation]) -> usize {
    (0..done.len()).reduce(|a, b| if fit(&done[b]) > fit(&done[a]) { b } else { a }).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_found_and_mask_text_can_stay() {
        let text = |t: &str| Piece::Text(t.into());
        let blank = |min, max| Piece::Blank { min, max };
        let table: Vec<(&str, Vec<Piece>)> = vec![
            ("The [MASK] sat.", vec![text("The "), blank(1, 1), text(" sat.")]),
            ("[MASK:3][MASK: 2-5]", vec![blank(3, 3), blank(2, 5)]),
            (r"Say \[MASK] or [MASK]", vec![text("Say [MASK] or "), blank(1, 1)]),
            ("[MASKED] and [MASK [MASK]", vec![text("[MASKED] and [MASK "), blank(1, 1)]),
            ("é [MASK]é", vec![text("é "), blank(1, 1), text("é")]),
        ];
        for (input, pieces) in table {
            assert_eq!(parse(input).unwrap(), pieces, "{input}");
        }
    }

    #[test]
    fn blanks_that_make_no_sense_are_refused() {
        for bad in ["nothing", r"\[MASK]", "[MASK:0]", "[MASK:4-2]", "[MASK:x]", "[MASK:1-999]", "[MASK:-2]"] {
            assert!(matches!(parse(bad), Err(Error::Request(_))), "{bad}");
        }
        let pieces = parse("[MASK:1-3] [MASK] [MASK:2-3]").unwrap();
        let all = lengths(&pieces, 6).unwrap();
        assert_eq!(all, [[1, 1, 2], [1, 1, 3], [2, 1, 2], [2, 1, 3], [3, 1, 2], [3, 1, 3]]);
        assert!(lengths(&pieces, 5).is_err());
    }
}
