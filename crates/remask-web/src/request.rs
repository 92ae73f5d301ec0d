//! Requests as JSON: what to write from, and the settings that [`DecodeSettings`] reads, which have the
//! same names everywhere.

use remask_core::chat::Message;
use remask_core::infill::{self, Piece};
use remask_core::{Canvas, DecodeOptions, DecodeSettings, Error, Model, Result, Vocabulary};
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
    /// With `[MASK]`, `[MASK:3]` for blanks.
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
    /// This many tokens to be decided.
    Hole(usize),
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
            Self::Hole(tokens) => Piece::Blank { min: *tokens, max: *tokens },
        }
    }
}

impl Prompt {
    /// The canvas to decide, how, and what may stand in it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where text cannot become ids; [`Error::Request`] where the request does not fit
    /// the model.
    pub fn prepare(&self, model: &Model, settings: &DecodeSettings) -> Result<(Canvas, DecodeOptions, Vocabulary)> {
        let mut vocabulary = model.vocabulary.clone();
        let prompt = match self {
            Self::Messages(messages) => model.encode_chat(messages)?,
            Self::Raw(text) => model.encode_raw(text)?,
            Self::Ids(ids) => ids.clone(),
            Self::Fill(blanks) => {
                // A blank is a part of the text: its end is not the text's.
                for id in std::mem::take(&mut vocabulary.stop) {
                    vocabulary.suppressed.insert(id);
                }
                let canvas = canvas_with_blanks(model, &blanks.pieces()?)?;
                let settings = DecodeSettings { max_tokens: Some(canvas.holes()), ..settings.clone() };
                let options = settings.resolve();
                options.check_canvas(&model.architecture, &canvas)?;
                return Ok((canvas, options, vocabulary));
            }
        };
        let options = settings.resolve();
        options.check(&model.architecture, &prompt)?;
        Ok((Canvas::new(&prompt, options.max_tokens, vocabulary.mask), options, vocabulary))
    }
}

fn canvas_with_blanks(model: &Model, pieces: &[Piece]) -> Result<Canvas> {
    let most = model.architecture.max_positions;
    let mut lengths = Vec::new();
    for piece in pieces {
        if let Piece::Blank { min, max } = piece {
            if min != max {
                return Err(Error::Request(format!(
                    "[MASK:{min}-{max}]: blanks of open length are not filled in browsers yet; give one number"
                )));
            }
            // The sum is checked against the model's positions once it is a canvas.
            lengths.push(*min.min(&(most + 1)));
        }
    }
    infill::canvas(model, pieces, &lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_told_apart() {
        let prompt = |json: &str| parse::<Prompt>("prompt", json);
        let messages = prompt(r#"{"messages": [{"role": "user", "content": "Hi"}]}"#).unwrap();
        assert!(matches!(messages, Prompt::Messages(m) if m[0].content == "Hi"));
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
        // In pieces, text is text whatever it spells.
        let text = pieces(r#"{"fill": [{"text": "[MASK]"}, {"hole": 1}]}"#);
        assert_eq!(text[0], Piece::Text("[MASK]".into()));
    }
}
