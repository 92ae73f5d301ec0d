//! Sends many requests: as fast as answers come, or at times of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use remask_core::random::{Key, threefry, unit};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::ask::Template;
use super::call::call;
use super::client::Client;
use super::prompts::Prompt;
use super::stats::{Outcome, Summary};

/// Requests under way at once where they come at times of their own and no bound is given.
pub const MOST_AT_ONCE: usize = 1024;
/// Requests that are kept one by one.
const MOST_RECORDS: usize = 10_000;

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// So many are always under way.
    Closed {
        /// How many.
        concurrency: usize,
    },
    /// They arrive at random, as a Poisson process, whatever becomes of those before.
    Open {
        /// How many a second.
        rate: f64,
        /// Under way at once at most; others wait.
        most: usize,
    },
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed { concurrency } => write!(f, "{concurrency} at once"),
            Self::Open { rate, .. } => write!(f, "{rate} a second"),
        }
    }
}

impl Load {
    fn most(self) -> usize {
        match self {
            Self::Closed { concurrency } => concurrency,
            Self::Open { most, .. } => most,
        }
        .max(1)
    }
}

/// How long, and what chance decides.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Requests at most.
    pub requests: Option<usize>,
    /// No request is sent after this.
    pub duration: Option<Duration>,
    /// Seed of arrivals and aborts.
    pub seed: u64,
    /// Share of requests that we give up.
    pub abort_fraction: f64,
    /// How long answers take, before any has come: aborts are drawn within it.
    pub expected: Duration,
}

/// What a draw is for.
#[derive(Clone, Copy)]
enum Draw {
    Gap = 1,
    Aborts,
    AbortsAt,
}

/// A number between 0 and 1 that follows from seed, request and purpose alone.
fn draw(seed: u64, number: usize, what: Draw) -> f64 {
    let key = Key([seed as u32, (seed >> 32) as u32 ^ ((number as u64 >> 32) as u32)]);
    f64::from(unit(threefry(key, [number as u32, what as u32])))
}

/// When requests are sent, from the start: at once, or with gaps that are exponentially distributed.
fn arrivals(load: Load, seed: u64) -> impl Iterator<Item = Duration> {
    let mut at = 0.0;
    (0..).map(move |number| {
        if let Load::Open { rate, .. } = load {
            at += -draw(seed, number, Draw::Gap).ln() / rate;
        }
        Duration::try_from_secs_f64(at).unwrap_or(Duration::MAX)
    })
}

impl Plan {
    /// The share of an answer's usual time after which a request is given up, where it is.
    fn aborts(&self, number: usize) -> Option<f64> {
        (draw(self.seed, number, Draw::Aborts) < self.abort_fraction).then(|| draw(self.seed, number, Draw::AbortsAt))
    }
}

/// One request, as it went.
#[derive(Debug, Serialize)]
pub struct Record {
    /// Its number, from 0.
    number: usize,
    /// Of its prompt.
    kind: String,
    /// Seconds from the start to sending.
    pub at: f64,
    /// How it ended.
    outcome: String,
    first_text: Option<f64>,
    /// Seconds.
    pub latency: Option<f64>,
    prompt_tokens: Option<u64>,
    tokens: Option<u64>,
    rows_computed: Option<f64>,
    forward_passes: Option<f64>,
}

impl Record {
    fn of(number: usize, kind: &str, at: Duration, outcome: &Outcome) -> Self {
        let answer = match outcome {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        };
        Self {
            number,
            kind: kind.to_owned(),
            at: at.as_secs_f64(),
            outcome: match outcome {
                Outcome::Answered(answer) => answer.finish_reason.clone(),
                Outcome::Aborted => "aborted".to_owned(),
                Outcome::Failed(problem) => problem.kind(),
            },
            first_text: answer.and_then(|answer| Some(answer.first_text?.as_secs_f64())),
            latency: answer.map(|answer| answer.latency.as_secs_f64()),
            prompt_tokens: answer.and_then(|answer| answer.prompt_tokens),
            tokens: answer.and_then(|answer| answer.tokens),
            rows_computed: answer.and_then(|answer| answer.cost("rows_computed")),
            forward_passes: answer.and_then(|answer| answer.cost("forward_passes")),
        }
    }
}

/// One load, as it went.
#[derive(Debug)]
pub struct Ran {
    /// What was asked of it.
    pub load: Load,
    /// From the first request to the last end.
    pub elapsed: Duration,
    /// All requests.
    pub all: Summary,
    /// By kind of prompt, in the order in which they came.
    pub kinds: Vec<(Arc<str>, Summary)>,
    /// The first of them one by one.
    pub records: Vec<Record>,
    /// Requests that were sent later than they were to arrive, as too many were under way.
    pub late: u64,
    /// The user ended it.
    pub interrupted: bool,
}

impl Ran {
    fn take(&mut self, number: usize, kind: Arc<str>, at: Duration, outcome: &Outcome) {
        self.all.take(outcome);
        match self.kinds.iter_mut().find(|(name, _)| *name == kind) {
            Some((_, summary)) => summary.take(outcome),
            None => {
                let mut summary = Summary::default();
                summary.take(outcome);
                self.kinds.push((kind.clone(), summary));
            }
        }
        if self.records.len() < MOST_RECORDS {
            self.records.push(Record::of(number, &kind, at, outcome));
        }
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let mut value = self.all.json(self.elapsed);
        value["load"] = json!(self.load);
        value["late"] = json!(self.late);
        value["interrupted"] = json!(self.interrupted);
        let kinds = self.kinds.iter().map(|(name, summary)| (name.to_string(), summary.json(self.elapsed)));
        value["kinds"] = Value::Object(kinds.collect());
        value["requests_listed"] = json!(self.records.len());
        value["requests"] = json!(self.records);
        value
    }
}

/// Sends requests as `load` and `plan` say, until `interrupt` is set. `watch` is told how many have ended.
pub async fn run(
    client: &Arc<Client>,
    template: &Arc<Template>,
    prompts: &Arc<[Prompt]>,
    load: Load,
    plan: &Plan,
    interrupt: &mut watch::Receiver<bool>,
    mut watch: impl FnMut(u64),
) -> Ran {
    let mut ran = Ran {
        load,
        elapsed: Duration::ZERO,
        all: Summary::default(),
        kinds: Vec::new(),
        records: Vec::new(),
        late: 0,
        interrupted: false,
    };
    let usual = Arc::new(AtomicU64::new(plan.expected.as_micros().try_into().unwrap_or(u64::MAX)));
    let mut arrivals = arrivals(load, plan.seed).enumerate().peekable();
    let mut running = JoinSet::new();
    let begun = Instant::now();
    loop {
        let next = arrivals.peek().copied().filter(|(number, at)| {
            let over = plan.duration.is_some_and(|most| *at >= most || begun.elapsed() >= most);
            !over && plan.requests.is_none_or(|most| *number < most) && !prompts.is_empty() && !ran.interrupted
        });
        if next.is_none() && running.is_empty() {
            break;
        }
        let room = running.len() < load.most();
        let at = next.map_or(Duration::ZERO, |(_, at)| at);
        tokio::select! {
            biased;
            Ok(_) = interrupt.wait_for(|set| *set), if !ran.interrupted => {
                // Dropping them closes their connections.
                running.abort_all();
                ran.interrupted = true;
            }
            Some(ended) = running.join_next(), if !running.is_empty() => {
                // One that was given up by the user is not counted.
                if let Ok((number, kind, at, outcome)) = ended {
                    ran.take(number, kind, at, &outcome);
                    watch(ran.all.asked());
                }
            }
            () = tokio::time::sleep_until((begun + at.min(Duration::from_secs(86_400 * 365))).into()), if next.is_some() && room => {
                let Some((number, at)) = arrivals.next() else { continue };
                let now = begun.elapsed();
                let waited = matches!(load, Load::Open { .. }) && now > at + Duration::from_millis(20);
                ran.late += u64::from(waited);
                let Some(prompt) = prompts.get(number % prompts.len()) else { continue };
                let ask = template.ask(prompt, number);
                let (client, kind, usual) = (client.clone(), prompt.kind.clone(), usual.clone());
                let aborts = plan.aborts(number);
                running.spawn(async move {
                    let outcome = one(&client, &ask, aborts, &usual).await;
                    (number, kind, now, outcome)
                });
            }
        }
    }
    ran.elapsed = begun.elapsed();
    ran
}

/// Sends one request. One that is to be given up is, after this share of the time that answers usually take.
async fn one(client: &Client, ask: &super::ask::Ask, aborts: Option<f64>, usual: &AtomicU64) -> Outcome {
    let answer = async {
        match call(client, ask).await {
            Ok(answer) => Outcome::Answered(Box::new(answer)),
            Err(problem) => Outcome::Failed(problem),
        }
    };
    let Some(share) = aborts else {
        let outcome = answer.await;
        if let Outcome::Answered(answer) = &outcome {
            // An average that forgets: a lost update does no harm.
            let (old, new) = (usual.load(Ordering::Relaxed), answer.latency.as_micros() as u64);
            usual.store(old - old / 8 + new / 8, Ordering::Relaxed);
        }
        return outcome;
    };
    let most = Duration::from_micros(usual.load(Ordering::Relaxed)).mul_f64(share);
    tokio::time::timeout(most, answer).await.unwrap_or(Outcome::Aborted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_a_poisson_process() {
        let load = Load::Open { rate: 50.0, most: 8 };
        let at: Vec<_> = arrivals(load, 7).take(20_000).map(|at| at.as_secs_f64()).collect();
        let gaps: Vec<_> = std::iter::once(at[0]).chain(at.windows(2).map(|pair| pair[1] - pair[0])).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Of an exponential distribution: mean and deviation alike, and 1 - 1/e of all below the mean.
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "{mean}");
        assert!((variance.sqrt() * 50.0 - 1.0).abs() < 0.03, "{variance}");
        let below = gaps.iter().filter(|gap| **gap < mean).count() as f64 / gaps.len() as f64;
        assert!((below - 0.632).abs() < 0.01, "{below}");
        assert!(gaps.iter().all(|gap| *gap >= 0.0));
        assert_eq!(at, arrivals(load, 7).take(20_000).map(|at| at.as_secs_f64()).collect::<Vec<_>>());
        assert_ne!(at[..4], arrivals(load, 8).take(4).map(|at| at.as_secs_f64()).collect::<Vec<_>>()[..]);
    }

    #[test]
    fn a_closed_loop_waits_for_nothing_but_room() {
        for load in [Load::Closed { concurrency: 3 }, Load::Open { rate: f64::INFINITY, most: 3 }] {
            assert!(arrivals(load, 1).take(100).all(|at| at.is_zero()));
        }
    }

    #[test]
    fn aborts_are_the_share_that_was_asked_for() {
        let plan = |abort_fraction| Plan {
            requests: None,
            duration: None,
            seed: 3,
            abort_fraction,
            expected: Duration::from_secs(1),
        };
        let some: Vec<_> = (0..10_000).filter_map(|number| plan(0.1).aborts(number)).collect();
        assert!((900..1100).contains(&some.len()), "{}", some.len());
        assert!(some.iter().any(|at| *at < 0.05) && some.iter().any(|at| *at > 0.95));
        assert!((0..1000).all(|number| plan(0.0).aborts(number).is_none()));
        assert!((0..1000).all(|number| plan(1.0).aborts(number).is_some()));
    }
}
