//! Languages that answers are kept within, one token after another.
//!
//! What the languages are and how their tokens are found is not this crate's: it asks a [`GrammarState`] what may come
//! next, has the device choose among that, and tells it what was chosen.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use crate::backend::TokenSet;
use crate::error::{Error, Result};

/// What form an answer must have, as requests say it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerForm {
    /// Any JSON object.
    JsonObject,
    /// JSON that this schema allows.
    JsonSchema(serde_json::Value),
    /// Text that this regular expression matches from its beginning to its end.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of this context-free grammar, in Lark's notation or llama.cpp's.
    Grammar(String),
}

/// Makes grammars for a model out of what requests ask for.
pub trait Grammars: fmt::Debug + Send + Sync {
    /// The grammar of a form. It may take a while, within limits; forms that were asked for lately come at once.
    ///
    /// # Errors
    /// What is wrong with the form, or why this model cannot be held to any.
    fn compile(&self, form: &AnswerForm) -> Result<Arc<dyn Grammar>, String>;
}

/// A language over a model's tokens.
pub trait Grammar: fmt::Debug + Send + Sync {
    /// Before the first token.
    fn begin(&self) -> Box<dyn GrammarState>;
}

/// A text of the language as far as it is written.
pub trait GrammarState: Send {
    /// What may come next.
    ///
    /// # Errors
    /// What kept it from being found out.
    fn next(&mut self) -> Result<Next, String>;

    /// Writes a token, one that may come next.
    ///
    /// # Errors
    /// Why it cannot be.
    fn push(&mut self, token: u32) -> Result<(), String>;
}

/// What may come next in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// Ids that go on with it. Ids without a text, such as those that end an answer, are none of them.
    pub tokens: TokenSet,
    /// Whether the text is complete as it stands.
    pub may_end: bool,
}

/// A text that is kept within a grammar.
pub(super) struct Within {
    state: Box<dyn GrammarState>,
    /// The ids that must not come next, beside those that never do.
    barred: Arc<TokenSet>,
}

impl Within {
    /// The text of `written` tokens. What must never be chosen is `suppressed`, what ends an answer `ends`. `None` where
    /// nothing may follow.
    pub(super) fn new(
        grammar: &dyn Grammar,
        written: &[u32],
        suppressed: &TokenSet,
        ends: &[u32],
    ) -> Result<Option<Self>> {
        let mut state = grammar.begin();
        written.iter().try_for_each(|token| state.push(*token)).map_err(failed)?;
        let mut within = Self { state, barred: TokenSet::new(suppressed.rows()).into() };
        Ok(within.advance(suppressed, ends)?.then_some(within))
    }

    /// The ids that must not come next.
    pub(super) fn barred(&self) -> &Arc<TokenSet> {
        &self.barred
    }

    /// Writes a token. Whether something may follow.
    pub(super) fn push(&mut self, token: u32, suppressed: &TokenSet, ends: &[u32]) -> Result<bool> {
        self.state.push(token).map_err(failed)?;
        self.advance(suppressed, ends)
    }

    fn advance(&mut self, suppressed: &TokenSet, ends: &[u32]) -> Result<bool> {
        let Next { tokens, may_end } = self.state.next().map_err(failed)?;
        let mut barred = suppressed.and_all_but(&tokens);
        if barred.is_full() {
            let why = || failed("no token of this model goes on with it".to_owned());
            return if may_end { Ok(false) } else { Err(why()) };
        }
        if may_end {
            ends.iter().filter(|id| !suppressed.contains(**id)).for_each(|id| barred.remove(*id));
        }
        self.barred = barred.into();
        Ok(true)
    }
}

fn failed(problem: String) -> Error {
    Error::Request(format!("the answer cannot be kept within its grammar: {problem}"))
}
