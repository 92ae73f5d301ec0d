//! The checklist: what a server is tried on, each mark one trial that ran.

use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::server::Facts;
use super::{answers, operations};
use crate::bench::serve::Bench;
use crate::bench::serve::ask::{Endpoint, Template};
use crate::bench::serve::client::{Client, Problem};

/// How long a server may take to notice something.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tokens of most answers: enough to be cut, few enough for a slow device.
const TOKENS: usize = 16;

/// What a trial came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// As it should be.
    Passed,
    /// Not so.
    Failed,
    /// The server has no such thing, or none that can be looked at.
    NotOffered,
}

/// One trial.
#[derive(Debug, Clone)]
pub struct Check {
    /// A short name.
    pub name: &'static str,
    /// What was tried.
    pub what: &'static str,
    /// What it came to.
    pub mark: Mark,
    /// What was seen.
    pub seen: String,
}

impl Check {
    fn json(&self) -> Value {
        let mark = match self.mark {
            Mark::Passed => "passed",
            Mark::Failed => "failed",
            Mark::NotOffered => "not_offered",
        };
        json!({"name": self.name, "what": self.what, "mark": mark, "seen": self.seen})
    }
}

/// Why a trial did not end well.
#[derive(Debug)]
pub enum No {
    /// It failed.
    Failed(String),
    /// There was nothing to try.
    NotOffered(String),
}

impl From<Problem> for No {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem.to_string())
    }
}

/// What was seen, or why not.
pub type Found = Result<String, No>;

/// Fails with what was seen unless `holds`.
pub fn demand(holds: bool, seen: impl FnOnce() -> String) -> Result<(), No> {
    if holds { Ok(()) } else { Err(No::Failed(seen())) }
}

/// What trials have at hand.
pub struct At {
    pub client: Arc<Client>,
    /// Whole answers of a few tokens, always the likeliest ones.
    pub template: Template,
    pub facts: Facts,
    pub patience: Duration,
}

impl At {
    /// Its template in this form.
    pub fn form(&self, endpoint: Endpoint) -> Template {
        Template { endpoint, ..self.template.clone() }
    }

    /// Completions of a few tokens.
    pub fn completion(&self) -> Template {
        self.form(Endpoint::Completions)
    }
}

/// Tries a server out.
pub async fn run(bench: &Bench) -> Vec<Check> {
    let bar = ProgressBar::new_spinner();
    let (client, own) = (bench.client.clone(), bench.template.as_ref().clone());
    let facts = Facts::of(&client, &own.model).await;
    let patience = PATIENCE.min(client.timeout);
    let template = Template { max_tokens: TOKENS, stream: false, temperature: 0.0, ..own };
    let at = &At { client, template, facts, patience };
    let mut checks = Vec::new();
    macro_rules! check {
        ($name:literal, $what:literal, $trial:expr) => {
            bar.set_message($what);
            bar.tick();
            let found =
                if *bench.interrupt.borrow() { Err(No::Failed("interrupted".to_owned())) } else { $trial.await };
            checks.push(Check::of($name, $what, found));
        };
    }
    check!("health", "Health endpoint", operations::health(at));
    check!("loading", "Model loading", operations::loading(at));
    check!("models", "List of models", operations::models(at));
    check!("kind", "Kind of model detected", operations::kind(at));
    check!("completion", "Basic completion endpoint", answers::form(at, Endpoint::Completions));
    check!("chat", "Chat completion endpoint", answers::form(at, Endpoint::Chat));
    check!("lengths", "Answers of the lengths asked for", answers::lengths(at));
    check!("prompts", "Easy and hard prompts", answers::prompts(at));
    check!("stream", "Streams equal plain answers", answers::streams(at));
    check!("stop", "Stop strings", answers::stop(at));
    check!("seed", "The same seed gives the same answer", answers::seed(at));
    check!("times", "Response time measurements", answers::times(at));
    check!("depth", "Recompute depth (MoR) on and off", answers::depth(at));
    check!("bad_field", "A field of a wrong type is refused (400)", operations::bad_field(at));
    check!("unknown_model", "An unknown model is refused (404)", operations::unknown_model(at));
    check!("context", "More tokens than the context are refused (400)", operations::context(at));
    check!("key", "No answer without the key (401)", operations::key(at));
    check!("metrics", "Metrics move", operations::metrics(at));
    check!("memory", "Memory utilisation", operations::memory_used(at));
    check!("cancel", "A client that leaves frees the device", operations::cancel(at));
    check!("cancel_id", "Requests are cancelled by id", operations::cancel_id(at));
    check!("concurrency", "Eight requests at once", operations::concurrency(at));
    check!("alone", "Answers are the same alone and beside others", operations::alone(at));
    bar.finish_and_clear();
    checks
}

impl Check {
    fn of(name: &'static str, what: &'static str, found: Found) -> Self {
        let (mark, seen) = match found {
            Ok(seen) => (Mark::Passed, seen),
            Err(No::Failed(seen)) => (Mark::Failed, seen),
            Err(No::NotOffered(seen)) => (Mark::NotOffered, seen),
        };
        Self { name, what, mark, seen }
    }
}

/// All of them as JSON.
pub fn json(checks: &[Check]) -> Value {
    checks.iter().map(Check::json).collect()
}

/// The checks that failed, a line each.
pub fn failed(checks: &[Check]) -> Vec<String> {
    let failed = checks.iter().filter(|check| check.mark == Mark::Failed);
    failed.map(|check| format!("{}: {}", check.name, check.seen)).collect()
}

/// A line a check, for a terminal.
pub fn text(checks: &[Check]) -> String {
    let line = |check: &Check| {
        let mark = match check.mark {
            Mark::Passed => "passed",
            Mark::Failed => "FAILED",
            Mark::NotOffered => "-",
        };
        vec![mark.to_owned(), check.name.to_owned(), check.what.to_owned(), check.seen.clone()]
    };
    let head = ["", "check", "what", "seen"].map(str::to_owned).to_vec();
    crate::report::table(&std::iter::once(head).chain(checks.iter().map(line)).collect::<Vec<_>>())
}
