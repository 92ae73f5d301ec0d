//! What a report measures by itself, one request after the other.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{Facts, Metrics, RUNNING, memory};
use crate::bench::serve::Bench;
use crate::bench::serve::ask::Template;
use crate::bench::serve::call::{Answer, call};
use crate::bench::serve::load::{self, Load, Plan};
use crate::bench::serve::sets::Kind;
use crate::bench::serve::stats::{Outcome, Summary};

/// Answers that came, and what all came to.
#[derive(Debug, Default)]
pub struct Asked {
    pub summary: Summary,
    pub answers: Vec<Answer>,
}

impl Asked {
    /// Median latency in seconds.
    pub fn latency(&self) -> Option<f64> {
        self.summary.latency.percentile(50.0)
    }

    /// Tokens over the time that they took.
    pub fn speed(&self) -> Option<f64> {
        let seconds: f64 = self.answers.iter().filter(|answer| answer.tokens.is_some()).map(seconds).sum();
        (seconds > 0.0).then(|| self.summary.tokens as f64 / seconds)
    }

    /// A number of the costs, summed.
    pub fn cost(&self, path: &str) -> Option<f64> {
        let told = |answer: &Answer| answer.cost.as_ref()?.pointer(path)?.as_f64();
        let all: Vec<_> = self.answers.iter().filter_map(told).collect();
        (!all.is_empty()).then(|| all.iter().sum())
    }

    /// A number of the costs, on average.
    pub fn mean_cost(&self, path: &str) -> Option<f64> {
        Some(self.cost(path)? / self.answers.len() as f64)
    }
}

fn seconds(answer: &Answer) -> f64 {
    answer.latency.as_secs_f64()
}

/// Asks these, one after the other.
pub async fn ask(bench: &Bench, template: &Template, prompts: &[&str]) -> Asked {
    let mut some = Asked::default();
    for prompt in prompts {
        one(bench, template, prompt, &mut some).await;
    }
    some
}

async fn one(bench: &Bench, template: &Template, prompt: &str, some: &mut Asked) {
    let outcome = match call(&bench.client, &template.text(prompt)).await {
        Ok(answer) => Outcome::Answered(Box::new(answer)),
        Err(problem) => Outcome::Failed(problem),
    };
    some.summary.take(&outcome);
    if let Outcome::Answered(answer) = outcome {
        some.answers.push(*answer);
    }
}

/// The first prompts of a kind.
pub fn prompts(kind: Kind, count: usize) -> Vec<&'static str> {
    kind.prompts().iter().take(count).copied().collect()
}

/// The same requests with recompute depth and without.
#[derive(Debug, Default)]
pub struct Depths {
    pub with: Asked,
    pub without: Asked,
    /// Prompts whose answers are the same.
    pub same: usize,
    /// Rows a token with it, by kind of prompt.
    pub kinds: Vec<(Kind, Option<f64>, Option<f64>)>,
}

/// Asks each prompt both ways, in turn first one and first the other.
pub async fn depths(bench: &Bench, count: usize) -> Depths {
    let way = |on: bool| bench.template.as_ref().clone().with("remask", json!({"mor": on}));
    let (on, off) = (way(true), way(false));
    let mut depths = Depths::default();
    for kind in [Kind::Easy, Kind::Medium, Kind::Hard] {
        let (mut with, mut without) = (Asked::default(), Asked::default());
        for (number, prompt) in prompts(kind, count).into_iter().enumerate() {
            if number % 2 == 0 {
                one(bench, &on, prompt, &mut with).await;
                one(bench, &off, prompt, &mut without).await;
            } else {
                one(bench, &off, prompt, &mut without).await;
                one(bench, &on, prompt, &mut with).await;
            }
        }
        if with.summary.failed + without.summary.failed == 0 {
            let pairs = with.answers.iter().zip(&without.answers);
            depths.same += pairs.filter(|(one, other)| one.text == other.text).count();
        }
        depths.kinds.push((kind, with.summary.rows_a_token(), without.summary.rows_a_token()));
        for (all, some) in [(&mut depths.with, with), (&mut depths.without, without)] {
            some.answers.iter().for_each(|answer| all.summary.take(&Outcome::Answered(Box::new(answer.clone()))));
            all.summary.failed += some.summary.failed;
            all.summary.failures.extend(some.summary.failures);
            all.answers.extend(some.answers);
        }
    }
    depths
}

/// What is in use at one time, by what is counted.
type Use = Vec<(String, f64)>;

/// Memory and requests before, during and after a load.
#[derive(Debug, Default)]
pub struct Usage {
    pub before: Use,
    pub peak: Use,
    pub after: Use,
    /// Requests at once of the load.
    pub concurrency: usize,
    pub failed: u64,
}

fn in_use(metrics: &Metrics, stats: &Value, health: &Value) -> Use {
    let mib = memory(metrics, stats, health).into_iter().map(|(what, mib)| (format!("{what}, MiB"), mib));
    let share = metrics.cache_percent().map(|percent| ("keys and values in use, percent".to_owned(), percent));
    let running = metrics.first(&RUNNING).map(|count| ("requests running".to_owned(), count));
    mib.chain(share).chain(running).collect()
}

async fn now(bench: &Bench) -> Use {
    let facts = Facts::of(&bench.client, &bench.template.model).await;
    in_use(&facts.metrics, &facts.stats, &facts.health)
}

/// Looks on while twice as many requests as run at once are answered.
pub async fn usage(bench: &Bench, concurrency: usize) -> Usage {
    let before = now(bench).await;
    let client = bench.client.clone();
    let (end, mut ended) = tokio::sync::watch::channel(false);
    let look = tokio::spawn(async move {
        let mut peak: Use = Vec::new();
        while !*ended.borrow() {
            let metrics = Metrics::of(&client).await.ok().flatten().unwrap_or_default();
            for (what, value) in in_use(&metrics, &Value::Null, &Value::Null) {
                match peak.iter_mut().find(|(other, _)| *other == what) {
                    Some((_, most)) => *most = most.max(value),
                    None => peak.push((what, value)),
                }
            }
            let _ = tokio::time::timeout(Duration::from_millis(50), ended.changed()).await;
        }
        peak
    });
    let plan = Plan {
        requests: Some(concurrency * 2),
        duration: None,
        seed: bench.template.seed,
        abort_fraction: 0.0,
        expected: Duration::ZERO,
    };
    let load = Load::Closed { concurrency };
    let (client, template, prompts): (_, &Arc<Template>, _) = (&bench.client, &bench.template, &bench.prompts);
    let ran = load::run(client, template, prompts, load, &plan, &mut bench.interrupt.clone(), |_| {}).await;
    let _ = end.send(true);
    let peak = look.await.unwrap_or_default();
    Usage { before, peak, after: now(bench).await, concurrency, failed: ran.all.failed }
}
