//! Options of `remask bench serve`.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::ask::{Endpoint, Template};
use super::load::{Load, MOST_AT_ONCE};
use super::prompts::MOST_TOKENS;
use super::sets::Kind;
use crate::{Failure, Outcome};

/// Requests where neither their number nor a duration is given.
const USUAL_REQUESTS: usize = 100;
/// Requests at once that anybody asks for.
const MOST_CONCURRENCY: u64 = 65_536;

#[derive(clap::Args)]
pub struct Args {
    /// Server, with or without /v1 behind it
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Key that it wants
    #[arg(long, env = "REMASK_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Model; the first that the server lists by default
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Form of requests
    #[arg(long, value_enum, default_value = "chat")]
    pub endpoint: Endpoint,
    /// Requests of a load; 100 by default, with --duration as many as fit
    #[arg(long, short = 'n', value_name = "N")]
    requests: Option<usize>,
    /// Requests that are always under way: a closed loop. Several numbers are loads one after the other. With --rate,
    /// those under way at most
    #[arg(long, short, value_delimiter = ',', value_name = "N,...", value_parser = clap::value_parser!(u64).range(1..=MOST_CONCURRENCY))]
    concurrency: Vec<u64>,
    /// Requests that arrive a second, at random times: an open loop. Several numbers are loads one after the other;
    /// inf sends all at once
    #[arg(long, value_delimiter = ',', value_name = "R,...")]
    rate: Vec<f64>,
    /// Seconds after which no request is sent any more
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<f64>,
    /// Seconds that a request may take
    #[arg(long, default_value_t = 600.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// Requests before, that are not counted
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub warmup: usize,
    /// Share of requests that are given up at a random time, from 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "F")]
    pub abort_fraction: f64,
    /// Seed of arrivals, aborts and made prompts; answers draw with it and the number of their request
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Prompts: a text a line, or an object {"prompt" or "messages", "max_tokens"?, "kind"?} a line
    #[arg(long, value_name = "FILE", help_heading = "Requests")]
    pub prompts: Option<PathBuf>,
    /// Kinds of built-in prompts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND,...", help_heading = "Requests",
          default_values = ["easy", "medium", "hard"], conflicts_with = "prompts")]
    pub kind: Vec<Kind>,
    /// Made prompts of so many tokens in place of these; a chat's template adds some
    #[arg(long, value_name = "N", help_heading = "Requests", conflicts_with_all = ["prompts", "kind"])]
    pub prompt_tokens: Option<usize>,
    /// Tokens of an answer
    #[arg(long, default_value_t = 64, value_name = "N", help_heading = "Requests")]
    max_tokens: usize,
    /// Answers go on to max_tokens whatever the model thinks of it, which makes them comparable; this is the default
    #[arg(long, overrides_with = "no_ignore_eos", help_heading = "Requests")]
    ignore_eos: bool,
    /// Answers end where they end; also for servers that do not know ignore_eos
    #[arg(long, overrides_with = "ignore_eos", help_heading = "Requests")]
    no_ignore_eos: bool,
    /// Ask for events; this is the default
    #[arg(long, overrides_with = "no_stream", help_heading = "Requests")]
    stream: bool,
    /// Ask for whole answers
    #[arg(long, overrides_with = "stream", help_heading = "Requests")]
    no_stream: bool,
    /// Temperature
    #[arg(long, default_value_t = 0.0, value_name = "T", help_heading = "Requests")]
    temperature: f64,
    /// Further fields of every request, which go before ours: {"remask": {"preset": "fast"}}
    #[arg(long, value_name = "JSON", value_parser = object, help_heading = "Requests")]
    extra: Option<Map<String, Value>>,

    /// Write everything as JSON; - for standard output, in place of the tables
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub json: Option<PathBuf>,
    /// Draw latencies and speed
    #[arg(long, value_name = "FILE.svg", help_heading = "Results")]
    pub plot: Option<PathBuf>,
    /// Try the server out as well, and write a report: its configuration, latency by kind of prompt and length, texts,
    /// recompute depth on and off, memory, and a checklist
    #[arg(long, value_name = "FILE.md|.html", help_heading = "Results")]
    pub report: Option<PathBuf>,
    /// Go through the report's checklist alone, without a load; for deployments and CI
    #[arg(long, conflicts_with_all = ["report", "plot"], help_heading = "Results")]
    check: bool,
    /// Lengths of answers that the report compares
    #[arg(long, value_delimiter = ',', default_values_t = [10, 20, 50, 80, 150], value_name = "N,...",
          help_heading = "Results", requires = "report")]
    pub lengths: Vec<usize>,
    /// Prompts of each kind that the report asks, at most 10
    #[arg(long, default_value_t = 10, value_name = "N", help_heading = "Results", requires = "report",
          value_parser = clap::value_parser!(u64).range(1..=10))]
    pub per_kind: u64,
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|e| format!("an object in JSON is needed: {e}"))
}

impl Args {
    /// Refuses numbers that make no sense.
    pub fn check(&self) -> Outcome {
        let wrong = |option: &str, why: &str| Err(Failure::Message(format!("{option}: {why}")));
        let above = |value: f64| value > 0.0;
        if !self.rate.iter().copied().all(above) {
            return wrong("--rate", "it must be more than 0");
        }
        if !self.duration.is_none_or(|value| above(value) && value.is_finite()) {
            return wrong("--duration", "it must be more than 0");
        }
        if !above(self.timeout) {
            return wrong("--timeout", "it must be more than 0");
        }
        if !(0.0..=1.0).contains(&self.abort_fraction) {
            return wrong("--abort-fraction", "it must be from 0 to 1");
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong("--temperature", "it must be at least 0");
        }
        if self.max_tokens == 0 || self.lengths.contains(&0) || self.lengths.is_empty() {
            return wrong("--max-tokens and --lengths", "an answer has at least one token");
        }
        if self.prompt_tokens.is_some_and(|tokens| tokens == 0 || tokens > MOST_TOKENS) {
            return wrong("--prompt-tokens", &format!("it must be from 1 to {MOST_TOKENS}"));
        }
        if let Some(path) = &self.report {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if !matches!(extension, Some("md" | "html" | "htm")) {
                return wrong("--report", "the file's name must end in .md or .html");
            }
        }
        Ok(())
    }

    /// Whether standard output is for JSON alone.
    pub fn json_alone(&self) -> bool {
        self.json.as_deref() == Some(std::path::Path::new("-"))
    }

    /// Whether only the checklist is wanted.
    pub fn check_only(&self) -> bool {
        self.check
    }

    /// Requests of a load, where they are limited.
    pub fn requests(&self) -> Option<usize> {
        self.requests.or(if self.duration.is_some() { None } else { Some(USUAL_REQUESTS) })
    }

    /// The loads, one after the other.
    pub fn loads(&self) -> Vec<Load> {
        let closed = |concurrency: &u64| Load::Closed { concurrency: *concurrency as usize };
        let most = self.concurrency.iter().max().map_or(MOST_AT_ONCE, |most| *most as usize);
        match (self.rate.as_slice(), self.concurrency.as_slice()) {
            ([], []) => vec![Load::Closed { concurrency: 1 }],
            ([], all) => all.iter().map(closed).collect(),
            (rates, _) => rates.iter().map(|rate| Load::Open { rate: *rate, most }).collect(),
        }
    }

    /// What requests to `model` have in common.
    pub fn template(&self, model: String) -> Template {
        Template {
            endpoint: self.endpoint,
            model,
            max_tokens: self.max_tokens,
            ignore_eos: self.ignore_eos || !self.no_ignore_eos,
            stream: self.stream || !self.no_stream,
            temperature: self.temperature,
            seed: self.seed,
            extra: self.extra.clone().unwrap_or_default(),
        }
    }
}
