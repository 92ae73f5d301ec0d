//! The parts of a report.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::measure::{self, Asked};
use super::server::{Facts, memory as memory_of};
use crate::bench::serve::ask::Template;
use crate::bench::serve::document::{Block, table, text};
use crate::bench::serve::load::{Load, Ran};
use crate::bench::serve::sets::Kind;
use crate::bench::serve::show::{cell, ms};
use crate::bench::serve::{Bench, args::Args};

/// Tokens of answers by category.
const CATEGORY_TOKENS: usize = 60;
/// Tokens that texts may have.
const TEXT_TOKENS: usize = 96;
/// Tokens of the longest built-in prompt, with what a template puts around it.
const PROMPT_ROOM: u64 = 64;

const KINDS: [Kind; 3] = [Kind::Easy, Kind::Medium, Kind::Hard];

/// Date, server, model.
pub fn head(bench: &Bench, facts: &Facts) -> Vec<Block> {
    let kind = match facts.diffusion() {
        Some(true) => "diffusion",
        Some(false) => "autoregressive",
        None => "of unknown kind",
    };
    vec![Block::List(vec![
        format!("Date: {}", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC")),
        format!("Server: {} ({})", bench.client.base(), facts.program()),
        format!("Device: {}", facts.device().unwrap_or_else(|| "not told".to_owned())),
        format!("Model: {} ({kind})", bench.template.model),
        format!("Written by: remask bench serve {}", env!("CARGO_PKG_VERSION")),
    ])]
}

/// What was asked for, and of what.
pub fn configuration(args: &Args, bench: &Bench, facts: &Facts) -> Vec<Block> {
    let mut body = bench.template.text("…").body;
    if let Some(object) = body.as_object_mut() {
        object.retain(|name, _| !matches!(name.as_str(), "messages" | "prompt" | "model"));
    }
    let loads: Vec<_> = args.loads().iter().map(Load::to_string).collect();
    let bound = match (args.requests(), args.duration) {
        (Some(requests), None) => format!("{requests} requests"),
        (None, Some(seconds)) => format!("{seconds} s"),
        (Some(requests), Some(seconds)) => format!("{requests} requests or {seconds} s"),
        (None, None) => "without end".to_owned(),
    };
    let mut rows = vec![
        ("endpoint", bench.template.endpoint.path().to_owned()),
        ("every request", body.to_string()),
        ("loads", format!("{}; each {bound}", loads.join(", "))),
        ("requests of the warm-up", args.warmup.to_string()),
        ("share of requests given up", args.abort_fraction.to_string()),
        ("seed", args.seed.to_string()),
    ];
    if let Some(context) = facts.context() {
        rows.push(("context, tokens", context.to_string()));
    }
    for (what, mib) in memory_of(&facts.metrics, &facts.stats, &facts.health) {
        rows.push(("memory at the start", format!("{mib:.1} MiB ({what})")));
    }
    vec![table(&["what", "as"], rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect())]
}

/// What was loaded, by the server's word.
pub fn loading(facts: &Facts) -> Vec<Block> {
    let said = |value: &Value, name: &str| value.get(name).map(Value::to_string);
    let rows = [
        ("/health: status", said(&facts.health, "status")),
        ("/health: state", said(&facts.health, "state")),
        ("/health: model_loaded", said(&facts.health, "model_loaded")),
        ("/health: device", said(&facts.health, "device")),
        ("/version: model_type", said(&facts.version, "model_type")),
        ("/v1/engine/stats: is_diffusion_model", said(&facts.stats, "is_diffusion_model")),
        ("/v1/models: max_model_len", said(&facts.card, "max_model_len")),
    ];
    let rows =
        rows.into_iter().map(|(name, said)| vec![name.to_owned(), said.unwrap_or_else(|| "not told".to_owned())]);
    vec![table(&["asked", "said"], rows.collect())]
}

/// Latency by kind of prompt and length of the answer.
pub struct Lengths {
    cells: BTreeMap<(usize, usize), Asked>,
    lengths: Vec<usize>,
    left_out: Vec<usize>,
    pub failures: Vec<String>,
}

impl Lengths {
    /// Asks `count` prompts of each kind for each length.
    pub async fn measure(bench: &Bench, facts: &Facts, lengths: &[usize], count: usize) -> Self {
        let room = facts.context().map_or(u64::MAX, |context| context.saturating_sub(PROMPT_ROOM));
        let fits = |length: &usize| *length as u64 <= room;
        let mut wanted = lengths.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let (lengths, left_out): (Vec<_>, Vec<_>) = wanted.into_iter().partition(fits);
        let (mut cells, mut failures) = (BTreeMap::new(), Vec::new());
        for (row, kind) in KINDS.into_iter().enumerate() {
            for length in &lengths {
                let template = Template { max_tokens: *length, ..bench.template.as_ref().clone() };
                let asked = measure::ask(bench, &template, &measure::prompts(kind, count)).await;
                note(&format!("{} prompts, {length} tokens", kind.name()), &asked, &mut failures);
                cells.insert((row, *length), asked);
            }
        }
        Self { cells, lengths, left_out, failures }
    }

    /// All kinds' median latency and speed at a length.
    fn at(&self, length: usize) -> Option<(f64, f64)> {
        let cells = (0..KINDS.len()).filter_map(|row| self.cells.get(&(row, length)));
        let both: Vec<_> = cells.filter_map(|cell| Some((cell.latency()?, cell.speed()?))).collect();
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| both.iter().map(of).sum::<f64>() / both.len() as f64;
        (!both.is_empty()).then(|| (mean(&|one| one.0), mean(&|one| one.1)))
    }

    /// What the numbers say, where there are two lengths to compare.
    pub fn observations(&self) -> Vec<String> {
        let (Some(short), Some(long)) = (self.lengths.first(), self.lengths.last()) else { return Vec::new() };
        let (Some(few), Some(many)) = (self.at(*short), self.at(*long)) else { return Vec::new() };
        if short == long {
            return Vec::new();
        }
        vec![
            format!(
                "{long} tokens take {:.1} times as long as {short}, which are {:.1} times fewer ({} and {} ms).",
                many.0 / few.0,
                *long as f64 / *short as f64,
                ms(Some(many.0)),
                ms(Some(few.0)),
            ),
            format!("Tokens/s: {:.1} at {long} tokens, {:.1} at {short}.", many.1, few.1),
        ]
    }

    /// The tables, with what the first requests took before.
    pub fn blocks(&self, warm_up: &[Duration]) -> Vec<Block> {
        let head =
            ["kind of prompt", "max_tokens", "latency p50 ms", "tokens/s", "TTFT p50 ms", "passes", "rows/token"];
        let mut rows = Vec::new();
        for ((row, length), asked) in &self.cells {
            let name = KINDS.get(*row).map_or("", |kind| kind.name());
            rows.push(vec![
                name.to_owned(),
                length.to_string(),
                ms(asked.latency()),
                cell(asked.speed(), 1),
                ms(asked.summary.first_text.percentile(50.0)),
                cell(asked.mean_cost("/forward_passes"), 1),
                cell(asked.summary.rows_a_token(), 2),
            ]);
        }
        let mut blocks = vec![table(&head, rows)];
        let mut points = self.observations();
        let times: Vec<_> = warm_up.iter().map(|took| ms(Some(took.as_secs_f64()))).collect();
        if let Some((first, rest)) = times.split_first() {
            let then = if rest.is_empty() { String::new() } else { format!("; then {} ms", rest.join(", ")) };
            points.push(format!(
                "Warm-up: the first request took {first} ms{then}. A server that warms up by itself shows nothing here."
            ));
        }
        if !self.left_out.is_empty() {
            points.push(format!("Left out, as the model's context is shorter: {:?} tokens.", self.left_out));
        }
        blocks.push(Block::List(points));
        blocks
    }
}

/// Says which requests failed.
fn note(what: &str, asked: &Asked, failures: &mut Vec<String>) {
    for failed in asked.summary.failures.values() {
        failures.push(format!("{what}: {} failed: {}", failed.count, failed.first));
    }
}

/// Prompts of five categories.
pub async fn categories(bench: &Bench, facts: &Facts, count: usize, failures: &mut Vec<String>) -> Vec<Block> {
    let room = facts.context().map_or(usize::MAX, |context| context.saturating_sub(PROMPT_ROOM).max(1) as usize);
    let max_tokens = CATEGORY_TOKENS.min(room);
    let template = Template { max_tokens, ..bench.template.as_ref().clone() };
    let (mut rows, mut answered, mut all, mut seconds) = (Vec::new(), 0, 0, 0.0);
    for kind in Kind::CATEGORIES {
        let asked = measure::ask(bench, &template, &measure::prompts(kind, count)).await;
        note(&format!("category {}", kind.name()), &asked, failures);
        let summary = &asked.summary;
        (answered, all) = (answered + summary.answered, all + summary.asked());
        seconds += asked.answers.iter().map(|answer| answer.latency.as_secs_f64()).sum::<f64>();
        rows.push(vec![
            kind.name().to_owned(),
            format!("{} of {}", summary.answered, summary.asked()),
            ms(summary.latency.mean()),
            cell(asked.speed(), 1),
            cell(asked.mean_cost("/forward_passes"), 1),
            cell(summary.rows_a_token(), 2),
        ]);
    }
    let total = format!(
        "{answered} of {all} answered in {seconds:.2} s, {:.2} s a request, {max_tokens} tokens each.",
        seconds / (answered.max(1)) as f64
    );
    vec![table(&["category", "answered", "mean latency ms", "tokens/s", "passes", "rows/token"], rows), text(total)]
}

/// Answers to look at. They may end where they end.
pub async fn texts(bench: &Bench, failures: &mut Vec<String>) -> Vec<Block> {
    let mut template = Template { max_tokens: TEXT_TOKENS, ignore_eos: false, ..bench.template.as_ref().clone() };
    template.extra.remove("ignore_eos");
    let mut blocks = vec![text("Shown for the reader to judge: no program here knows whether they are true or good.")];
    let own = [Kind::Easy, Kind::Hard, Kind::Medium].map(|kind| kind.prompts().first().copied().unwrap_or_default());
    let stories = Kind::Stories.prompts().first().copied();
    for prompt in own.into_iter().chain(stories) {
        let asked = measure::ask(bench, &template, &[prompt]).await;
        note(&format!("text for {prompt:?}"), &asked, failures);
        let Some(answer) = asked.answers.first() else { continue };
        blocks.push(text(format!(
            "{prompt} ({} tokens, finish_reason {}, {} ms)",
            answer.tokens.map_or("-".to_owned(), |tokens| tokens.to_string()),
            answer.finish_reason,
            ms(Some(answer.latency.as_secs_f64())),
        )));
        blocks.push(Block::Code(answer.text.trim().to_owned()));
    }
    blocks
}

/// Recompute depth on and off, side by side.
pub async fn depth(bench: &Bench, facts: &Facts, count: usize, failures: &mut Vec<String>) -> Vec<Block> {
    if facts.diffusion() == Some(false) {
        return vec![text("An autoregressive model: it has no recompute depth.")];
    }
    let tells = measure::ask(bench, &bench.template, &["Hello."]).await;
    if tells.answers.first().is_none_or(|answer| answer.cost.is_none()) {
        return vec![text("This server's answers do not tell their rows and passes: there is nothing to compare.")];
    }
    let depths = measure::depths(bench, count).await;
    note("recompute depth on", &depths.with, failures);
    note("recompute depth off", &depths.without, failures);
    let (with, without) = (&depths.with, &depths.without);
    let change = |with: Option<f64>, without: Option<f64>| match (with, without) {
        (Some(with), Some(without)) if without > 0.0 => format!("{:+.1} %", (with / without - 1.0) * 100.0),
        _ => "-".to_owned(),
    };
    let scaled = |of: Option<f64>, by: f64| of.map(|value| value * by);
    let measures = [
        ("latency p50 ms", scaled(without.latency(), 1e3), scaled(with.latency(), 1e3)),
        ("tokens/s", without.speed(), with.speed()),
        ("forward passes a request", without.mean_cost("/forward_passes"), with.mean_cost("/forward_passes")),
        ("rows computed a request", without.mean_cost("/rows_computed"), with.mean_cost("/rows_computed")),
        ("rows computed a token", without.summary.rows_a_token(), with.summary.rows_a_token()),
        (
            "rows of full compute a request",
            without.mean_cost("/rows_of_full_compute"),
            with.mean_cost("/rows_of_full_compute"),
        ),
        (
            "compute saved, percent",
            without.mean_cost("/compute_saved_percent"),
            with.mean_cost("/compute_saved_percent"),
        ),
        (
            "passes a token took part in",
            without.mean_cost("/mor/avg_recursions"),
            with.mean_cost("/mor/avg_recursions"),
        ),
        ("easy tokens", without.cost("/mor/easy"), with.cost("/mor/easy")),
        ("medium tokens", without.cost("/mor/medium"), with.cost("/mor/medium")),
        ("hard tokens", without.cost("/mor/hard"), with.cost("/mor/hard")),
    ];
    let rows = measures
        .into_iter()
        .map(|(name, without, with)| vec![name.to_owned(), cell(without, 2), cell(with, 2), change(with, without)]);
    let kinds = depths.kinds.iter().map(|(kind, with, without)| {
        let name = format!("rows a token, {} prompts", kind.name());
        vec![name, cell(*without, 2), cell(*with, 2), change(*with, *without)]
    });
    let pairs = with.answers.len();
    vec![
        table(&["", "without", "with", "change"], rows.chain(kinds).collect()),
        text(format!("{} of {pairs} prompts have the same answer with it and without.", depths.same)),
    ]
}

/// Memory before, during and after the heaviest of the loads.
pub async fn memory(bench: &Bench, runs: &[Ran], failures: &mut Vec<String>) -> Vec<Block> {
    let at_once = |ran: &Ran| match ran.load {
        Load::Closed { concurrency } => concurrency,
        Load::Open { most, .. } => most.min(8),
    };
    let concurrency = runs.iter().map(at_once).max().unwrap_or(1);
    let usage = measure::usage(bench, concurrency).await;
    if usage.failed > 0 {
        failures.push(format!("memory: {} requests failed at {concurrency} at once", usage.failed));
    }
    if usage.before.is_empty() {
        return vec![text("The server does not tell.")];
    }
    let of = |all: &[(String, f64)], what: &str| {
        cell(all.iter().find(|(other, _)| other == what).map(|(_, value)| *value), 1)
    };
    let names = usage.before.iter().map(|(what, _)| what);
    let rows =
        names.map(|what| vec![what.clone(), of(&usage.before, what), of(&usage.peak, what), of(&usage.after, what)]);
    let head = ["", "before", &format!("most with {} at once", usage.concurrency), "after"];
    vec![table(&head, rows.collect())]
}

/// Everything that the server said before it was asked anything else.
pub fn own_words(facts: &Facts) -> String {
    let all = json!({
        "/health": facts.health, "/version": facts.version, "/v1/models": facts.card, "/v1/engine/stats": facts.stats,
    });
    serde_json::to_string_pretty(&all).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_need_two_lengths() {
        let asked = |ms: u64, tokens: u64| {
            let answer = crate::bench::serve::call::Answer {
                latency: Duration::from_millis(ms),
                tokens: Some(tokens),
                ..Default::default()
            };
            let mut asked = Asked::default();
            asked.summary.take(&crate::bench::serve::stats::Outcome::Answered(Box::new(answer.clone())));
            asked.answers.push(answer);
            asked
        };
        let cells = BTreeMap::from([((0, 10), asked(100, 10)), ((0, 50), asked(250, 50))]);
        let mut lengths = Lengths { cells, lengths: vec![10, 50], left_out: vec![900], failures: Vec::new() };
        let said = lengths.observations();
        assert!(said[0].starts_with("50 tokens take 2.5 times as long as 10, which are 5.0 times fewer"), "{said:?}");
        assert!(said[1].contains("200.0 at 50 tokens, 100.0 at 10"), "{said:?}");
        assert_eq!(lengths.blocks(&[Duration::from_secs(3)]).len(), 2);
        lengths.lengths.pop();
        assert!(lengths.observations().is_empty());
    }
}
