//! `remask bench serve`: what a server of OpenAI's routes, ours or another, does under load.

mod args;
mod ask;
mod call;
mod client;
mod document;
mod load;
mod plot;
mod prompts;
mod report;
mod sets;
mod show;
mod sse;
mod stats;

use std::io::{Write, stdout};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::watch;

pub use self::args::Args;
use self::ask::Template;
use self::call::call;
use self::client::Client;
use self::document::Block;
use self::load::{Load, Plan, Ran};
use self::prompts::Prompt;
use crate::report::tell;
use crate::{Failure, Outcome};

/// What an answer takes before any has come, for aborts that are drawn within it.
const UNKNOWN: Duration = Duration::from_secs(1);

/// A server, and what it is asked.
struct Bench {
    client: Arc<Client>,
    template: Arc<Template>,
    prompts: Arc<[Prompt]>,
    /// Set where the user wants it to end.
    interrupt: watch::Receiver<bool>,
}

pub fn run(args: &Args) -> Outcome {
    args.check()?;
    // Every request under way is a connection. Where the system gives no more, some will fail, and say so.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(measure(args));
    // What was given up is not waited for.
    runtime.shutdown_background();
    ended
}

async fn measure(args: &Args) -> Outcome {
    let bench = open(args).await?;
    let mut doubts = Vec::new();
    if args.check_only() {
        return check(args, &bench).await;
    }
    // Before anything else was asked: the first request may find the server cold.
    let facts = match args.report {
        Some(_) => Some(report::server::Facts::of(&bench.client, &bench.template.model).await),
        None => None,
    };
    let warm_up = warm_up(args, &bench, &mut doubts).await;
    let runs = loads(args, &bench, warm_up.last().copied()).await;
    if !args.json_alone() {
        say(&runs)?;
    }
    if let Some(path) = &args.plot {
        plot::write(path, &runs)?;
    }
    for ran in runs.iter().filter(|ran| ran.all.failed > 0) {
        doubts.push(format!("{} of {} requests failed at {}", ran.all.failed, ran.all.asked(), ran.load));
    }
    let interrupted = *bench.interrupt.borrow();
    let mut checks = None;
    if let (Some(path), Some(facts), false) = (&args.report, facts, interrupted) {
        let report = report::make(args, &bench, &facts, &warm_up, &runs).await?;
        write(path, &report.text)?;
        doubts.extend(report.doubts);
        checks = Some(report.checks);
    }
    if let Some(path) = &args.json {
        let mut value = about(&bench);
        value["request"] = bench.template.text("…").body;
        value["seed"] = json!(args.seed);
        value["abort_fraction"] = json!(args.abort_fraction);
        value["warm_up_seconds"] = json!(warm_up.iter().map(Duration::as_secs_f64).collect::<Vec<_>>());
        value["loads"] = json!(runs.iter().map(Ran::json).collect::<Vec<_>>());
        value["caveats"] = json!(show::CAVEATS);
        if let Some(checks) = checks {
            value["checks"] = checks;
        }
        write_json(path, &value)?;
    }
    if interrupted {
        doubts.push("interrupted".to_owned());
    }
    fail(doubts)
}

/// Goes through the checklist alone.
async fn check(args: &Args, bench: &Bench) -> Outcome {
    let checks = report::checks::run(bench).await;
    if !args.json_alone() {
        write!(stdout(), "{}", report::checks::text(&checks))?;
    }
    if let Some(path) = &args.json {
        let mut value = about(bench);
        value["checks"] = report::checks::json(&checks);
        write_json(path, &value)?;
    }
    fail(report::checks::failed(&checks))
}

/// What was measured, when and with what.
fn about(bench: &Bench) -> Value {
    json!({
        "tool": "remask bench serve",
        "version": env!("CARGO_PKG_VERSION"),
        "time": jiff::Timestamp::now().to_string(),
        "url": bench.client.base(),
        "model": bench.template.model,
    })
}

/// Ends with what went wrong.
fn fail(doubts: Vec<String>) -> Outcome {
    if doubts.is_empty() { Ok(()) } else { Err(Failure::Message(doubts.join("; "))) }
}

fn write(path: &Path, text: &str) -> Outcome {
    std::fs::write(path, text).map_err(|e| Failure::Message(format!("{}: {e}", path.display())))
}

fn write_json(path: &Path, value: &Value) -> Outcome {
    let text = serde_json::to_string_pretty(value)?;
    if path == Path::new("-") { Ok(writeln!(stdout(), "{text}")?) } else { write(path, &text) }
}

/// Finds out which model there is, and what to ask it.
async fn open(args: &Args) -> Result<Bench, Failure> {
    let timeout = Duration::try_from_secs_f64(args.timeout).unwrap_or(Duration::MAX);
    let client = Arc::new(Client::new(&args.url, args.api_key.as_deref(), timeout)?);
    let model = match &args.model {
        Some(model) => model.clone(),
        None => first_model(&client).await?,
    };
    let template = Arc::new(args.template(model));
    let prompts = match (&args.prompts, args.prompt_tokens) {
        (Some(path), _) => prompts::read(path, args.endpoint)?,
        (None, Some(tokens)) => {
            let most = args.requests().unwrap_or(usize::MAX);
            prompts::of_length(&client, &template.model, args.endpoint, tokens, args.seed, most).await
        }
        (None, None) => prompts::built_in(&args.kind),
    };
    let (set, interrupt) = watch::channel(false);
    tokio::spawn(async move {
        // The first says to end, the second that it does not matter how.
        if tokio::signal::ctrl_c().await.is_ok() {
            let _ = set.send(true);
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    Ok(Bench { client, template, prompts: prompts.into(), interrupt })
}

async fn first_model(client: &Client) -> Result<String, Failure> {
    let wrong = |why: String| Failure::Message(format!("{}/v1/models: {why}; --model names one", client.base()));
    let reply = client.get("/v1/models").await.map_err(|problem| wrong(problem.to_string()))?;
    if !reply.is_ok() {
        return Err(wrong(reply.refused().to_string()));
    }
    let list = reply.json();
    let first = list.pointer("/data/0/id").and_then(Value::as_str);
    first.map(str::to_owned).ok_or_else(|| wrong("it names no model".to_owned()))
}

/// Requests that are not counted, one after the other, and what they took.
async fn warm_up(args: &Args, bench: &Bench, doubts: &mut Vec<String>) -> Vec<Duration> {
    let mut took = Vec::new();
    for (number, prompt) in bench.prompts.iter().cycle().take(args.warmup).enumerate() {
        match call(&bench.client, &bench.template.ask(prompt, number)).await {
            Ok(answer) => took.push(answer.latency),
            Err(problem) => {
                tell("warm-up", &problem.to_string());
                doubts.push(format!("a request of the warm-up failed ({})", problem.kind()));
                break;
            }
        }
    }
    took
}

async fn loads(args: &Args, bench: &Bench, latency: Option<Duration>) -> Vec<Ran> {
    let plan = Plan {
        requests: args.requests(),
        duration: args.duration.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        seed: args.seed,
        abort_fraction: args.abort_fraction,
        expected: latency.unwrap_or(UNKNOWN),
    };
    let mut runs = Vec::new();
    for load in args.loads() {
        runs.push(one_load(bench, load, &plan).await);
        if *bench.interrupt.borrow() {
            break;
        }
    }
    runs
}

async fn one_load(bench: &Bench, load: Load, plan: &Plan) -> Ran {
    let bar = ProgressBar::new(plan.requests.unwrap_or(0) as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(load.to_string());
    let mut interrupt = bench.interrupt.clone();
    let (client, template, prompts) = (&bench.client, &bench.template, &bench.prompts);
    let ran = load::run(client, template, prompts, load, plan, &mut interrupt, |ended| bar.set_position(ended)).await;
    bar.finish_and_clear();
    ran
}

fn say(runs: &[Ran]) -> Outcome {
    let mut blocks = vec![show::overview(runs)];
    blocks.extend(runs.iter().flat_map(show::load));
    blocks.push(Block::List(show::CAVEATS.iter().map(|caveat| (*caveat).to_owned()).collect()));
    Ok(write!(stdout(), "{}", document::terminal(&blocks))?)
}
