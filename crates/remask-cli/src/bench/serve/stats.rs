//! What many requests came to, in a fixed amount of memory.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::call::Answer;
use super::client::Problem;

/// Kinds of failure that are told apart; what comes after is counted together.
const MOST_KINDS: usize = 32;

/// Numbers of one sort, to three digits.
#[derive(Debug, Clone)]
pub struct Distribution {
    /// In millionths.
    counts: Histogram<u64>,
    sum: f64,
}

impl Default for Distribution {
    #[expect(clippy::expect_used, reason = "from 0 to 5 digits are always taken")]
    fn default() -> Self {
        Self { counts: Histogram::new(3).expect("three digits"), sum: 0.0 }
    }
}

impl Distribution {
    /// Counts a number, which must not be negative.
    pub fn record(&mut self, value: f64) {
        if value.is_finite() && value >= 0.0 && self.counts.record((value * 1e6).round() as u64).is_ok() {
            self.sum += value;
        }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.counts.len()
    }

    /// The least number that this share of all, in percent, does not exceed.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        (self.len() > 0).then(|| self.counts.value_at_percentile(percent) as f64 / 1e6)
    }

    /// Their mean.
    pub fn mean(&self) -> Option<f64> {
        (self.len() > 0).then(|| self.sum / self.len() as f64)
    }

    /// The largest.
    pub fn max(&self) -> Option<f64> {
        (self.len() > 0).then(|| self.counts.max() as f64 / 1e6)
    }

    /// Numbers, and the share of all that does not exceed them.
    pub fn shares(&self) -> Vec<(f64, f64)> {
        let mut below = 0;
        let all = self.len().max(1) as f64;
        let mut share = |value: u64, count: u64| {
            below += count;
            (value as f64 / 1e6, below as f64 / all)
        };
        self.counts.iter_recorded().map(|at| share(at.value_iterated_to(), at.count_since_last_iteration())).collect()
    }
}

impl Serialize for Distribution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at = |percent| self.percentile(percent);
        let least = (self.len() > 0).then(|| self.counts.min() as f64 / 1e6);
        let value = json!({
            "count": self.len(), "mean": self.mean(), "min": least, "max": self.max(),
            "p50": at(50.0), "p90": at(90.0), "p95": at(95.0), "p99": at(99.0),
        });
        value.serialize(serializer)
    }
}

/// Failures of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Failures {
    /// How many.
    pub count: u64,
    /// What the first of them said.
    pub first: String,
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It was answered.
    Answered(Box<Answer>),
    /// We hung up, as was planned.
    Aborted,
    /// It was not answered.
    Failed(Problem),
}

/// What some requests came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that we gave up, as was planned.
    pub aborted: u64,
    /// Requests that were not answered.
    pub failed: u64,
    /// These by kind.
    pub failures: BTreeMap<String, Failures>,
    /// Answers whose tokens the server counted.
    pub counted: u64,
    /// Tokens of these.
    pub tokens: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Answers whose cost the server told.
    pub costed: u64,
    /// Tokens of these.
    pub costed_tokens: u64,
    /// Forward passes, counted by request.
    pub forward_passes: f64,
    /// Rows computed.
    pub rows_computed: f64,
    /// Rows of full compute.
    pub rows_of_full_compute: f64,
    /// Seconds to the first text.
    pub first_text: Distribution,
    /// Seconds to the end.
    pub latency: Distribution,
    /// Seconds a token: latency over tokens.
    pub token_time: Distribution,
    /// Seconds between chunks with text.
    pub chunk_gap: Distribution,
    /// Rows computed a token.
    pub rows_per_token: Distribution,
}

impl Summary {
    /// Counts a request.
    pub fn take(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Answered(answer) => self.answer(answer),
            Outcome::Aborted => self.aborted += 1,
            Outcome::Failed(problem) => self.problem(problem),
        }
    }

    fn problem(&mut self, problem: &Problem) {
        self.failed += 1;
        let kind = problem.kind();
        let known = self.failures.contains_key(&kind) || self.failures.len() < MOST_KINDS;
        let kind = if known { kind } else { "other".to_owned() };
        let entry = self.failures.entry(kind).or_insert_with(|| Failures { count: 0, first: problem.to_string() });
        entry.count += 1;
    }

    fn answer(&mut self, answer: &Answer) {
        self.answered += 1;
        self.latency.record(answer.latency.as_secs_f64());
        if let Some(first) = answer.first_text {
            self.first_text.record(first.as_secs_f64());
        }
        answer.gaps.iter().for_each(|gap| self.chunk_gap.record(gap.as_secs_f64()));
        if let Some(seconds) = answer.token_time() {
            self.token_time.record(seconds);
        }
        let Some(tokens) = answer.tokens else { return };
        self.counted += 1;
        self.tokens += tokens;
        self.prompt_tokens += answer.prompt_tokens.unwrap_or(0);
        let Some(rows) = answer.cost("rows_computed") else { return };
        self.costed += 1;
        self.costed_tokens += tokens;
        self.rows_computed += rows;
        self.forward_passes += answer.cost("forward_passes").unwrap_or(0.0);
        self.rows_of_full_compute += answer.cost("rows_of_full_compute").unwrap_or(0.0);
        if tokens > 0 {
            self.rows_per_token.record(rows / tokens as f64);
        }
    }

    /// Requests, however they ended.
    pub fn asked(&self) -> u64 {
        self.answered + self.aborted + self.failed
    }

    /// Rows a token over all answers.
    pub fn rows_a_token(&self) -> Option<f64> {
        (self.costed_tokens > 0).then(|| self.rows_computed / self.costed_tokens as f64)
    }

    /// Tokens a pass over all answers.
    pub fn tokens_a_pass(&self) -> Option<f64> {
        (self.forward_passes > 0.0).then(|| self.costed_tokens as f64 / self.forward_passes)
    }

    /// Tokens a second within this time; nothing where the server counts none.
    pub fn tokens_a_second(&self, elapsed: Duration) -> Option<f64> {
        (self.counted > 0 && !elapsed.is_zero()).then(|| self.tokens as f64 / elapsed.as_secs_f64())
    }

    /// Answers a second within this time.
    pub fn answers_a_second(&self, elapsed: Duration) -> Option<f64> {
        (!elapsed.is_zero()).then(|| self.answered as f64 / elapsed.as_secs_f64())
    }

    /// As JSON, with rates over this time.
    pub fn json(&self, elapsed: Duration) -> Value {
        let mut value = json!(self);
        value["seconds"] = json!(elapsed.as_secs_f64());
        value["requests_per_second"] = json!(self.answers_a_second(elapsed));
        value["tokens_per_second"] = json!(self.tokens_a_second(elapsed));
        value["tokens_per_pass"] = json!(self.tokens_a_pass());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: Option<f64>, expected: f64) {
        assert!(value.is_some_and(|value| (value / expected - 1.0).abs() < 2e-3), "{value:?} for {expected}");
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let mut one = Distribution::default();
        assert_eq!((one.percentile(50.0), one.mean(), one.max()), (None, None, None));
        (1..=100).rev().for_each(|ms| one.record(f64::from(ms) / 1e3));
        for (percent, expected) in [(50.0, 0.050), (90.0, 0.090), (99.0, 0.099), (100.0, 0.100)] {
            near(one.percentile(percent), expected);
        }
        near(one.mean(), 0.0505);
        let mut few = Distribution::default();
        [3.0, 1.0, 2.0].into_iter().for_each(|value| few.record(value));
        near(few.percentile(50.0), 2.0);
        near(few.percentile(99.0), 3.0);
        let shares = few.shares();
        assert_eq!(shares.len(), 3);
        near(shares.get(1).map(|at| at.1), 2.0 / 3.0);
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let mut one = Distribution::default();
        [f64::NAN, f64::INFINITY, -1.0].into_iter().for_each(|value| one.record(value));
        assert_eq!(one.len(), 0);
        // From a microsecond to a day.
        [1e-6, 86_400.0].into_iter().for_each(|value| one.record(value));
        near(one.max(), 86_400.0);
        assert_eq!(json!(one)["count"], 2);
    }

    #[test]
    fn failures_are_counted_by_kind_and_bounded() {
        let mut summary = Summary::default();
        for status in 400..500u16 {
            let problem = Problem::Status { status, message: "m".to_owned() };
            (0..2).for_each(|_| summary.take(&Outcome::Failed(problem.clone())));
        }
        summary.take(&Outcome::Aborted);
        assert_eq!((summary.failed, summary.aborted, summary.asked()), (200, 1, 201));
        assert_eq!(summary.failures.len(), MOST_KINDS + 1);
        assert_eq!(summary.failures["status 400"].count, 2);
        assert_eq!(summary.failures.values().map(|kind| kind.count).sum::<u64>(), 200);
    }

    #[test]
    fn answers_without_counts_are_still_timed() {
        let mut summary = Summary::default();
        let answer = Answer { latency: Duration::from_secs(2), ..Answer::default() };
        summary.take(&Outcome::Answered(Box::new(answer.clone())));
        assert_eq!((summary.tokens_a_second(Duration::from_secs(2)), summary.rows_a_token()), (None, None));
        let cost = json!({"rows_computed": 40, "forward_passes": 5, "rows_of_full_compute": 90});
        summary.take(&Outcome::Answered(Box::new(Answer { tokens: Some(10), cost: Some(cost), ..answer })));
        near(summary.rows_a_token(), 4.0);
        near(summary.tokens_a_pass(), 2.0);
        near(summary.tokens_a_second(Duration::from_secs(5)), 2.0);
        near(summary.token_time.percentile(50.0), 0.2);
        near(summary.answers_a_second(Duration::from_secs(4)), 0.5);
    }
}
