//! The language of requests and answers: the same types for the command line, the browser's package, the library
//! and the server.
//!
//! A [`GenerationRequest`] says what to write and how. [`prepare`](GenerationRequest::prepare) checks it for a
//! model and turns it into [`Job`]s, one a choice, each of which a scheduler runs. A [`Transcript`] turns what such
//! a generation decides into text that can be shown, as it grows.

mod answer;
mod prepare;
mod step;
mod stop;
mod transcript;

use serde::Deserialize;

pub use self::answer::{Choice, Depths, Fill, Finish, Statistics, TokenLog, TokenText, Usage};
pub use self::prepare::{Job, Prepared, Terms};
pub use self::step::{StepEvent, StepToken};
pub use self::stop::StopStrings;
pub use self::transcript::{Delta, Transcript};
use crate::chat::{Conversation, Message};
use crate::decode::{AnswerForm, DecodeSettings};
use crate::error::Error;

/// Most choices of a request.
pub const MOST_CHOICES: usize = 128;

/// What a generation writes from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Prompt {
    /// Plain text to be continued.
    Text(String),
    /// Token ids to be continued.
    Ids(Vec<u32>),
    /// A conversation's messages, in the model's chat form.
    Messages(Vec<Message>),
    /// A conversation, and what is asked of the template that renders it.
    Chat(Conversation),
    /// Given parts and holes, in any order; the answer is the whole of it.
    Canvas(Vec<Part>),
}

/// A part of a canvas.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Part {
    /// Given text. Nothing in it is a special token or a hole.
    Text(String),
    /// So many positions to be decided.
    Holes(usize),
    /// Given ids.
    Ids(Vec<u32>),
}

/// What to write, and how.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationRequest {
    /// What it writes from.
    pub prompt: Prompt,
    /// Text that stands behind what is written, which then fills the gap. None where empty.
    #[serde(default)]
    pub suffix: Option<String>,
    /// How to decode.
    #[serde(default)]
    pub settings: DecodeSettings,
    /// Tokens to write where the settings say nothing, fewer where there is no room; the model's terms decide where
    /// this is left out too.
    #[serde(default)]
    pub usual_tokens: Option<usize>,
    /// Texts that end the answer; they are cut off.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Choices: answers that differ by their seed.
    #[serde(default = "one")]
    pub n: usize,
    /// End ids are not chosen at all, so that exactly so many tokens come as were asked for.
    #[serde(default)]
    pub ignore_eos: bool,
    /// The answer begins with its prompt, whose tokens' log-probabilities are given too where any are asked for. Where
    /// they are, there may be nothing to write.
    #[serde(default)]
    pub echo: bool,
    /// What form the answer must have, where it must have one.
    #[serde(default)]
    pub form: Option<AnswerForm>,
}

fn one() -> usize {
    1
}

impl GenerationRequest {
    /// A request with the defaults for everything else.
    #[must_use]
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            suffix: None,
            settings: DecodeSettings::default(),
            usual_tokens: None,
            stop: Vec::new(),
            n: 1,
            ignore_eos: false,
            echo: false,
            form: None,
        }
    }
}

/// Why a request is not one that this model can serve.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Prompt and answer are longer than the model's context.
    #[error(
        "This model's maximum context length is {limit} tokens. However, you requested {} tokens ({prompt} in the \
         prompt, {max_tokens} for the completion). Please reduce the length of the prompt or of the completion.",
        prompt.saturating_add(*max_tokens)
    )]
    ContextLength {
        /// Positions that there are.
        limit: usize,
        /// Tokens of the prompt, a suffix included.
        prompt: usize,
        /// Tokens asked for.
        max_tokens: usize,
    },
    /// A field whose value makes no sense, or none to this model.
    #[error("{field}: {problem}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Anything else.
    #[error(transparent)]
    Other(#[from] Error),
}

impl RequestError {
    /// A [`RequestError::Field`].
    pub fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }
}
