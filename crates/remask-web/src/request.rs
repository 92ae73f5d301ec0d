//! Requests as JSON: what to write from, and the settings that [`DecodeSettings`] reads, which have the
//! same names everywhere.

use std::sync::Arc;

use remask_core::chat::{Conversation, Message};
use remask_core::infill::{self, Piece};
use remask_core::{Canvas, DecodeOptions, DecodeSettings, Error, Model, Result, TokenSet, Vocabulary};
use serde::Deserialize;

/// What a generation starts from.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Prompt {
    /// A conversation, in the model's chat form.
    Messages(Vec<Message>),
    /// Plain text to be continued.
    Raw(String),
    /// Token ids, for models without a tokenizer.
    Ids(Vec<u32>),
    /// A text with blanks, see [`infill`].
    Fill(Blanks),
}

/// A text with blanks, written out or in pieces.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Blanks {
    /// With `[MASK]`, `[MASK:3]`, `[MASK:2-5]` for blanks.
    Text(String),
    /// In order.
    Pieces(Vec<Part>),
}

/// A piece of a text with blanks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Part {
    /// Given text. Nothing in it is a special token or a blank.
    Text(String),
    /// Tokens to be decided.
    Hole(Tokens),
}

/// How many tokens a blank has.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub enum Tokens {
    /// So many.
    Exactly(usize),
    /// As many from the first to the second as fit best.
    Range(usize, usize),
}

/// What a request comes down to.
pub struct Work {
    /// Canvases to decide, and how. Where there are several they are the choices of a text's lengths, shortest
    /// first, and the one that fits best is the answer.
    pub choices: Vec<(Canvas, DecodeOptions)>,
    /// What may stand in them.
    pub vocabulary: Arc<Vocabulary>,
}

/// Reads a JSON value, with the reason in words where it does not fit.
///
/// # Errors
/// [`Error::Request`].
pub fn parse<'a, T: Deserialize<'a>>(what: &str, json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::Request(format!("{what}: {e}")))
}

impl Blanks {
    fn pieces(&self) -> Result<Vec<Piece>> {
        match self {
            Self::Text(text) => infill::parse(text),
            Self::Pieces(parts) => Ok(parts.iter().map(Part::piece).collect()),
        }
    }
}

impl Part {
    fn piece(&self) -> Piece {
        match self {
            Self::Text(text) => Piece::Text(text.clone()),
            Self::Hole(Tokens::Exactly(tokens)) => Piece::Blank { min: *tokens, max: *tokens },
            Self::Hole(Tokens::Range(min, max)) => Piece::Blank { min: *min, max: *max },
        }
    }
}

impl Prompt {
    /// The canvases to decide, how, and what may stand in them.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where text cannot become ids; [`Error::Request`] where the request does not fit
    /// the model.
    pub fn prepare(&self, model: &Model, settings: &DecodeSettings) -> Result<Work> {
        settings.check_for(&model.architecture)?;
        let prompt = match self {
            Self::Messages(messages) => model.encode_chat(&Conversation::from(messages.as_slice()))?,
            Self::Raw(text) => model.encode_raw(text)?,
            Self::Ids(ids) => ids.clone(),
            Self::Fill(blanks) => {
                // A blank is a part of the text: its end is not the text's.
                let mut suppressed = TokenSet::clone(&model.vocabulary.suppressed);
                model.vocabulary.stop.iter().for_each(|id| suppressed.insert(*id));
                let vocabulary = Vocabulary {
                    stop: Vec::new(),
                    suppressed: suppressed.into(),
                    ..Vocabulary::clone(&model.vocabulary)
                };
                let prepared = |canvas: Canvas| {
                    let settings = DecodeSettings { max_tokens: Some(canvas.holes()), ..settings.clone() };
                    let options = settings.resolve(&model.defaults);
                    options.check_canvas(&model.architecture, &canvas)?;
                    Ok((canvas, options))
                };
                let canvases = canvases_with_blanks(model, blanks.pieces()?)?;
                let choices = canvases.into_iter().map(prepared).collect::<Result<_>>()?;
                return Ok(Work { choices, vocabulary: vocabulary.into() });
            }
        };
        let options = settings.resolve(&model.defaults);
        options.check(&model.architecture, &prompt)?;
        let canvas = Canvas::new(&prompt, options.max_tokens, model.vocabulary.hole());
        Ok(Work { choices: vec![(canvas, options)], vocabulary: model.vocabulary.clone() })
    }
}

/// A canvas for each choice of the blanks' lengths, shortest first.
fn canvases_with_blanks(model: &Model, mut pieces: Vec<Piece>) -> Result<Vec<Canvas>> {
    // One more than the model has positions: what is too long is refused once it is a canvas.
    let most = model.architecture.max_positions + 1;
    for piece in &mut pieces {
        if let Piece::Blank { min, max } = piece {
            if min > max || (*min == 0 && *max > 0) {
                return Err(Error::Request(format!(
                    "a blank of {min} to {max} tokens; write hole(N) or hole(N, M), 1 <= N <= M"
                )));
            }
            (*min, *max) = ((*min).min(most), (*max).min(most));
        }
    }
    let choices = infill::lengths(&pieces, infill::MOST_CHOICES)?;
    choices.iter().map(|lengths| infill::canvas(model, &pieces, lengths)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_told_apart() {
        let prompt = |json: &str| parse::<Prompt>("prompt", json);
        let messages = prompt(r#"{"messages": [{"role": "user", "content": "Hi"}]}"#).unwrap();
        assert!(matches!(messages, Prompt::Messages(m) if m[0].content.text() == "Hi"));
        assert!(matches!(prompt(r#"{"raw": "Once"}"#), Ok(Prompt::Raw(text)) if text == "Once"));
        assert!(matches!(prompt(r#"{"ids": [1, 2]}"#), Ok(Prompt::Ids(ids)) if ids == [1, 2]));
        let error = prompt(r#"{"text": "Hi"}"#).unwrap_err().to_string();
        assert!(error.starts_with("prompt: unknown variant `text`"), "{error}");
    }

    #[test]
    fn blanks_come_written_out_or_in_pieces() {
        let pieces = |json: &str| match parse::<Prompt>("prompt", json).unwrap() {
            Prompt::Fill(blanks) => blanks.pieces().unwrap(),
            other => panic!("{other:?}"),
        };
        let written = pieces(r#"{"fill": "A [MASK:2] dog"}"#);
        assert_eq!(written, pieces(r#"{"fill": [{"text": "A "}, {"hole": 2}, {"text": " dog"}]}"#));
        let ranged = pieces(r#"{"fill": "A [MASK:2-4] dog"}"#);
        assert_eq!(ranged, pieces(r#"{"fill": [{"text": "A "}, {"hole": [2, 4]}, {"text": " dog"}]}"#));
        // In pieces, text is text whatever it spells.
        let text = pieces(r#"{"fill": [{"text": "[MASK]"}, {"hole": 1}]}"#);
        assert_eq!(text[0], Piece::Text("[MASK]".into()));
    }
}
