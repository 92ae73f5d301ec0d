//! Grammars for a model's tokens, by the llguidance crate.
//!
//! Its grammars are over bytes; what bytes a token is, is found out when the first request asks for a form, and kept.
//! Everything that it is given from outside is within limits: texts and nesting here, work and memory by its own.

mod form;
mod gbnf;
#[cfg(test)]
mod tests;
mod words;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory, panic_utils};
use remask_core::decode::{AnswerForm, Grammar, GrammarState, Grammars, Next};
use remask_core::{Model, TokenSet};

use self::words::Words;

/// Compiled forms that are kept for requests that ask for the same.
const KEPT: usize = 16;
/// States of a grammar's lexer at most, at 1 to 2 KB each.
const LEXER_STATES: usize = 20_000;
/// Stack for compiling: what is nested as deep as may be takes more than a thread usually has.
const STACK: usize = 32 << 20;

/// Makes a model's grammars.
pub(crate) struct Guidance {
    model: Arc<Model>,
    tokens: OnceLock<Result<Arc<Tokens>, String>>,
    /// The forms that were asked for last, latest first.
    kept: Mutex<VecDeque<(AnswerForm, Arc<Compiled>)>>,
}

impl fmt::Debug for Guidance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guidance").finish_non_exhaustive()
    }
}

/// A model's tokens as llguidance knows them.
struct Tokens {
    factory: ParserFactory,
    /// See [`Words::starts`].
    starts: Vec<(u32, Option<u32>)>,
    rows: usize,
}

impl Guidance {
    pub(crate) fn new(model: Arc<Model>) -> Self {
        Self { model, tokens: OnceLock::new(), kept: Mutex::default() }
    }

    fn kept(&self, form: &AnswerForm) -> Option<Arc<Compiled>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(known, _)| known == form)?;
        let found = kept.remove(at)?;
        let compiled = found.1.clone();
        kept.push_front(found);
        Some(compiled)
    }

    fn keep(&self, form: &AnswerForm, compiled: &Arc<Compiled>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| known != form);
        kept.push_front((form.clone(), compiled.clone()));
        kept.truncate(KEPT);
    }
}

impl Grammars for Guidance {
    fn compile(&self, form: &AnswerForm) -> Result<Arc<dyn Grammar>, String> {
        if let Some(compiled) = self.kept(form) {
            return Ok(compiled);
        }
        let grammar = form::grammar(form)?;
        let tokens = self.tokens.get_or_init(|| Tokens::of(&self.model).map(Arc::new)).clone()?;
        let compiled = std::thread::scope(|scope| {
            let compile = || Compiled::new(&tokens, grammar);
            let thread = std::thread::Builder::new().name("remask-grammar".to_owned()).stack_size(STACK);
            let thread = thread.spawn_scoped(scope, compile).map_err(|e| format!("no thread to read it on: {e}"))?;
            thread.join().unwrap_or_else(|_| Err("it could not be read".to_owned()))
        });
        let compiled = Arc::new(compiled?);
        self.keep(form, &compiled);
        Ok(compiled)
    }
}

impl Tokens {
    fn of(model: &Model) -> Result<Self, String> {
        let tokenizer = model.text().map_err(|problem| problem.to_string())?;
        Self::new(Words::of(tokenizer, &model.vocabulary.suppressed)?, model.architecture.embedding_rows)
    }

    fn new(words: Words, rows: usize) -> Result<Self, String> {
        let Words { bytes, starts } = words;
        // Behind the model's ids stands one for the end, which is no token.
        let info = TokRxInfo::new(bytes.len() as u32, rows as u32);
        let factory = panic_utils::catch_unwind(|| {
            let trie = TokTrie::from(&info, &bytes);
            let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            ParserFactory::new_simple(&env)
        });
        let mut factory = factory.map_err(|problem| words_of(&problem.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        (limits.verbose_errors, limits.max_lexer_states) = (false, LEXER_STATES);
        Ok(Self { factory, starts, rows })
    }
}

/// A grammar before its first token.
struct Compiled {
    tokens: Arc<Tokens>,
    matcher: Mutex<Matcher>,
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").finish_non_exhaustive()
    }
}

impl Compiled {
    fn new(tokens: &Arc<Tokens>, grammar: llguidance::api::TopLevelGrammar) -> Result<Self, String> {
        let parser = tokens.factory.create_parser(grammar).map_err(|problem| words_of(&format!("{problem:#}")))?;
        let compiled = Self { tokens: tokens.clone(), matcher: Mutex::new(Matcher::new(Ok(parser))) };
        // A grammar without a first token is found out now.
        let Next { tokens, may_end } = compiled.begin().next()?;
        let words = TokenSet::new(tokens.rows()).and_all_but(&tokens);
        if words.is_full() && !may_end {
            return Err("no token of this model begins a text of it".to_owned());
        }
        Ok(compiled)
    }
}

impl Grammar for Compiled {
    fn begin(&self) -> Box<dyn GrammarState> {
        // Nothing is shared with other texts, so that each finds what it would find alone.
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        Box::new(State { tokens: self.tokens.clone(), matcher, first: true })
    }
}

struct State {
    tokens: Arc<Tokens>,
    matcher: Matcher,
    first: bool,
}

impl GrammarState for State {
    fn next(&mut self) -> Result<Next, String> {
        let rows = self.tokens.rows;
        if self.matcher.is_stopped() {
            return match self.matcher.get_error() {
                Some(problem) => Err(words_of(&problem)),
                None => Ok(Next { tokens: TokenSet::new(rows), may_end: true }),
            };
        }
        let mask = self.matcher.compute_mask().map_err(|problem| words_of(&problem.to_string()))?;
        let may_end = mask.is_allowed(rows as u32);
        let starts = if self.first { self.tokens.starts.as_slice() } else { &[] };
        let allowed = |place: &Option<u32>| place.is_some_and(|place| mask.is_allowed(place));
        let mut tokens = TokenSet::of_words(mask.as_slice().to_vec(), rows);
        for (id, place) in starts {
            if allowed(place) {
                tokens.insert(*id);
            } else {
                tokens.remove(*id);
            }
        }
        Ok(Next { tokens, may_end })
    }

    fn push(&mut self, token: u32) -> Result<(), String> {
        let starts = if std::mem::take(&mut self.first) { self.tokens.starts.as_slice() } else { &[] };
        let found = starts.binary_search_by_key(&token, |(id, _)| *id).ok().and_then(|at| starts.get(at));
        let known = found.and_then(|(_, place)| *place).unwrap_or(token);
        self.matcher.consume_token(known).map_err(|problem| words_of(&problem.to_string()))
    }
}

/// What llguidance says, without its traces: the causes of a problem in a row.
fn words_of(problem: &str) -> String {
    const MOST: usize = 300;
    let kept = problem.split("<backtrace>").next().unwrap_or_default();
    let kept = kept.split("<non-verbose").next().unwrap_or_default();
    let words = kept.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} …", words.get(..end).unwrap_or_default()),
        None => words,
    }
}
