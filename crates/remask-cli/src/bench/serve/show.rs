//! Tables of what was measured.

use super::document::{Block, table, text};
use super::load::Ran;
use super::stats::{Distribution, Summary};

/// What the numbers mean, and what they do not.
pub const CAVEATS: [&str; 5] = [
    "TTFT is the time to the first committed text, not to a first draft of it; it is '-' where answers come whole.",
    "Text comes in bursts: a chunk may hold many tokens, so the time between chunks is not the time between tokens. \
     Time per token is an answer's whole time over its tokens.",
    "Answers are of comparable length only with ignore_eos, which is sent unless --no-ignore-eos is given.",
    "Rows computed are what a token costs the device; tokens/s without them compares settings, not engines. '-' where \
     the server does not tell.",
    "Tokens/s counts the tokens of complete answers alone, by the server's usage.",
];

/// A number, or a dash.
pub fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

/// A time in milliseconds.
pub fn ms(seconds: Option<f64>) -> String {
    let digits = if seconds.is_some_and(|seconds| seconds < 0.01) { 2 } else { 1 };
    cell(seconds.map(|seconds| seconds * 1e3), digits)
}

fn count(value: u64, of: u64) -> String {
    if of == 0 { "-".to_owned() } else { value.to_string() }
}

/// A row a load.
pub fn overview(runs: &[Ran]) -> Block {
    let names = [
        "load",
        "requests",
        "failed",
        "aborted",
        "seconds",
        "requests/s",
        "tokens/s",
        "TTFT p50 ms",
        "TTFT p99 ms",
        "latency p50 ms",
        "latency p99 ms",
        "ms/token p50",
        "rows/token",
    ];
    let rows = runs.iter().map(|ran| {
        let (all, p) = (&ran.all, |of: &Distribution, percent| of.percentile(percent));
        vec![
            ran.load.to_string(),
            all.asked().to_string(),
            all.failed.to_string(),
            all.aborted.to_string(),
            format!("{:.1}", ran.elapsed.as_secs_f64()),
            cell(all.answers_a_second(ran.elapsed), 2),
            cell(all.tokens_a_second(ran.elapsed), 1),
            ms(p(&all.first_text, 50.0)),
            ms(p(&all.first_text, 99.0)),
            ms(p(&all.latency, 50.0)),
            ms(p(&all.latency, 99.0)),
            ms(p(&all.token_time, 50.0)),
            cell(all.rows_a_token(), 2),
        ]
    });
    table(&names, rows.collect())
}

/// A row a measure, of one load.
fn distributions(all: &Summary) -> Block {
    let times = [
        ("TTFT, ms", &all.first_text),
        ("latency, ms", &all.latency),
        ("time per token, ms", &all.token_time),
        ("time between chunks, ms", &all.chunk_gap),
    ];
    let row = |name: &str, of: &Distribution, show: &dyn Fn(Option<f64>) -> String| {
        let at = |percent| show(of.percentile(percent));
        vec![name.to_owned(), show(of.mean()), at(50.0), at(90.0), at(99.0), show(of.max())]
    };
    let rows = times.iter().map(|(name, of)| row(name, of, &ms));
    let computed = row("rows computed per token", &all.rows_per_token, &|value| cell(value, 2));
    table(&["", "mean", "p50", "p90", "p99", "max"], rows.chain([computed]).collect())
}

/// A row a kind of prompt.
fn kinds(ran: &Ran) -> Block {
    let names = [
        "kind",
        "requests",
        "failed",
        "tokens",
        "TTFT p50 ms",
        "latency p50 ms",
        "latency p99 ms",
        "ms/token p50",
        "rows/token",
    ];
    let rows = ran.kinds.iter().map(|(name, of)| {
        vec![
            name.to_string(),
            of.asked().to_string(),
            of.failed.to_string(),
            count(of.tokens, of.counted),
            ms(of.first_text.percentile(50.0)),
            ms(of.latency.percentile(50.0)),
            ms(of.latency.percentile(99.0)),
            ms(of.token_time.percentile(50.0)),
            cell(of.rows_a_token(), 2),
        ]
    });
    table(&names, rows.collect())
}

/// All of one load but the overview's row: percentiles, costs, kinds and failures.
pub fn load(ran: &Ran) -> Vec<Block> {
    let all = &ran.all;
    let counts = format!(
        "{}: {} tokens in, {} out, {} tokens a pass",
        ran.load,
        count(all.prompt_tokens, all.counted),
        count(all.tokens, all.counted),
        cell(all.tokens_a_pass(), 2),
    );
    let mut blocks = vec![text(counts), distributions(all)];
    if ran.kinds.len() > 1 {
        blocks.push(kinds(ran));
    }
    if ran.late > 0 {
        let late =
            format!("{} requests were sent late, as too many were under way: --concurrency is the bound.", ran.late);
        blocks.push(text(late));
    }
    for failures in all.failures.values() {
        blocks.push(text(format!("{} failed: {}", failures.count, failures.first)));
    }
    if ran.interrupted {
        blocks.push(text("Interrupted; requests that were under way are not counted."));
    }
    blocks
}
