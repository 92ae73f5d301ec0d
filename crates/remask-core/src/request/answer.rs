//! Answers: their texts, what they used and what they cost.

use serde::Serialize;

use crate::canvas::Cell;
use crate::decode::{AcceptanceStats, Generation, MorStats};
use crate::tokenizer::TextTokenizer;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// An end-of-sequence id, a stop string, or a grammar in which nothing may follow.
    Stop,
    /// As many tokens as were asked for, without either.
    Length,
}

impl Finish {
    /// As requests and answers write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A token as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenText {
    /// The id.
    pub id: u32,
    /// Its text for display, U+FFFD where its bytes are no whole character.
    pub token: String,
}

impl TokenText {
    /// The text of `id`; its number where there is no tokenizer.
    #[must_use]
    pub fn of(id: u32, tokenizer: Option<&TextTokenizer>) -> Self {
        let text =
            tokenizer.map(|t| t.decode(&[id], false).ok().filter(|text| !text.is_empty()).or_else(|| t.token(id)));
        Self { id, token: text.map_or_else(|| id.to_string(), Option::unwrap_or_default) }
    }

    /// Its bytes, where they are whole characters.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        (!self.token.contains(char::REPLACEMENT_CHARACTER)).then_some(self.token.as_bytes())
    }
}

/// A token of an answer with its log-probability.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLog {
    /// The token.
    pub token: TokenText,
    /// Where its text begins in the answer, in characters.
    pub offset: usize,
    /// Its log-probability when it was decided, in nats; of a prompt's token, after those before it, and none for the
    /// first.
    pub logprob: Option<f32>,
    /// The likeliest tokens in its place with theirs, best first.
    pub top: Vec<(TokenText, f32)>,
}

/// What stands in one gap of a canvas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fill {
    /// Place among the parts of the request's canvas.
    pub index: usize,
    /// Its text.
    pub text: String,
    /// Its ids.
    pub tokens: Vec<u32>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// The text.
    pub text: String,
    /// Why it ended.
    pub finish_reason: Finish,
    /// Its tokens' log-probabilities, where they were asked for.
    pub logprobs: Option<Vec<TokenLog>>,
    /// What stands in the gaps of a canvas that was given by parts.
    pub fills: Vec<Fill>,
}

/// Tokens of a request and its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Usage {
    /// Of the prompt, once, whatever the number of choices; a suffix counts as prompt.
    pub prompt_tokens: usize,
    /// Of all answers up to their ends, end ids included.
    pub completion_tokens: usize,
    /// Of the prompt: those whose keys and values were reused from an earlier request.
    pub cached_tokens: usize,
}

impl Usage {
    /// Of prompt and answers.
    #[must_use]
    pub fn total_tokens(&self) -> usize {
        self.prompt_tokens + self.completion_tokens
    }
}

/// What recompute depth did.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Depths {
    /// Tokens that were found easy, over all cycles.
    pub easy: u64,
    /// Tokens in between.
    pub medium: u64,
    /// Tokens that were found hard.
    pub hard: u64,
    /// Passes that undecided tokens took part in.
    pub total_recursions: u64,
    /// Passes that a token took part in before it was decided, on average.
    pub avg_recursions: f64,
    /// Tokens that were decided.
    #[serde(skip)]
    pub decided: u64,
}

impl Depths {
    fn of(mor: &MorStats, done: &Generation) -> Self {
        Self {
            easy: mor.easy_tokens,
            medium: mor.medium_tokens,
            hard: mor.hard_tokens,
            total_recursions: mor.total_recursions,
            avg_recursions: mor.avg_recursions_per_token,
            decided: done.canvas.cells().iter().filter_map(Cell::decided_at).count() as u64,
        }
    }

    /// The sum of both; the average is over all of their tokens.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let (recursions, decided) = (self.total_recursions + other.total_recursions, self.decided + other.decided);
        Self {
            easy: self.easy + other.easy,
            medium: self.medium + other.medium,
            hard: self.hard + other.hard,
            total_recursions: recursions,
            avg_recursions: recursions as f64 / decided.max(1) as f64,
            decided,
        }
    }
}

/// What a request cost.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Statistics {
    /// Passes that its generations took part in; several choices share theirs and are counted one by one.
    pub forward_passes: u64,
    /// Rows computed.
    pub rows_computed: u64,
    /// Rows whose candidates were computed.
    pub rows_selected: u64,
    /// Rows that full compute would have computed in as many passes.
    pub rows_of_full_compute: u64,
    /// Share of these that was not computed, in percent.
    pub compute_saved_percent: f64,
    /// Positions of the whole canvas, the prompt included.
    pub canvas_tokens: usize,
    /// Tokens of the answers a pass.
    pub tokens_per_pass: f64,
    /// What became of candidates.
    pub acceptance: AcceptanceStats,
    /// What recompute depth did, where it was on.
    pub mor: Option<Depths>,
    /// Tokens that were committed together with another one.
    #[serde(skip)]
    pub parallel_tokens: u64,
    /// Of prompts, each counted once whatever the number of its choices: tokens whose keys and values were there.
    #[serde(skip)]
    pub cached_tokens: usize,
    /// Seconds between admission and the first pass, at most of its generations.
    pub queue_seconds: f64,
    /// Seconds between then and the end, at most of its generations.
    pub compute_seconds: f64,
    /// Adjustments that were made, a sentence each.
    pub notes: Vec<String>,
}

impl Statistics {
    /// Of one generation that gave `tokens` tokens.
    #[must_use]
    pub fn of(done: &Generation, tokens: usize, parallel_tokens: u64) -> Self {
        Self {
            forward_passes: done.forward_passes.into(),
            rows_computed: done.rows_computed,
            rows_selected: done.rows_selected,
            rows_of_full_compute: done.rows_of_full_compute,
            canvas_tokens: done.canvas.len(),
            acceptance: done.acceptance,
            mor: done.mor.map(|mor| Depths::of(&mor, done)),
            parallel_tokens,
            cached_tokens: done.reused_tokens,
            notes: done.notes.clone(),
            ..Self::default()
        }
        .rated(tokens)
    }

    /// Those of several generations as one's, which gave `tokens` tokens together.
    #[must_use]
    pub fn sum(all: impl IntoIterator<Item = Self>, tokens: usize) -> Self {
        let mut sum = Self::default();
        for one in all {
            sum.forward_passes += one.forward_passes;
            sum.rows_computed += one.rows_computed;
            sum.rows_selected += one.rows_selected;
            sum.rows_of_full_compute += one.rows_of_full_compute;
            sum.canvas_tokens += one.canvas_tokens;
            sum.acceptance = sum.acceptance.plus(&one.acceptance);
            sum.mor = match (sum.mor, one.mor) {
                (Some(a), Some(b)) => Some(a.plus(b)),
                (a, b) => a.or(b),
            };
            sum.parallel_tokens += one.parallel_tokens;
            sum.cached_tokens += one.cached_tokens;
            sum.queue_seconds = sum.queue_seconds.max(one.queue_seconds);
            sum.compute_seconds = sum.compute_seconds.max(one.compute_seconds);
            sum.notes.extend(one.notes.into_iter().filter(|note| !sum.notes.contains(note)).collect::<Vec<_>>());
        }
        sum.rated(tokens)
    }

    /// With the figures that follow from the others.
    fn rated(mut self, tokens: usize) -> Self {
        let share = |part: f64, whole: u64| if whole == 0 { 0.0 } else { part / whole as f64 };
        self.compute_saved_percent = match self.rows_of_full_compute {
            0 => 0.0,
            full => 100.0 * (1.0 - share(self.rows_computed as f64, full)),
        };
        self.tokens_per_pass = share(tokens as f64, self.forward_passes);
        self
    }
}
