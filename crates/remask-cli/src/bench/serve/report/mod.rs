//! `--report`: what a production test of a server would say, measured and tried out anew.

mod answers;
pub mod checks;
mod measure;
mod operations;
mod sections;
pub mod server;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use self::checks::{Check, Mark};
use self::server::Facts;
use super::document::{self, Block, heading, text};
use super::load::Ran;
use super::{Bench, args::Args, plot, show};
use crate::Failure;
use crate::report::tell;

/// A report, as text.
pub struct Report {
    /// In the form that the file's name asks for.
    pub text: String,
    /// What went wrong.
    pub doubts: Vec<String>,
    /// The checklist.
    pub checks: Value,
}

/// Measures, tries out and writes.
pub async fn make(
    args: &Args,
    bench: &Bench,
    facts: &Facts,
    warm_up: &[Duration],
    runs: &[Ran],
) -> Result<Report, Failure> {
    let mut failures = Vec::new();
    let count = args.per_kind as usize;
    tell("report", "latency by kind of prompt and length");
    let lengths = sections::Lengths::measure(bench, facts, &args.lengths, count.min(3)).await;
    tell("report", "prompts by category");
    let categories = sections::categories(bench, facts, count, &mut failures).await;
    tell("report", "texts");
    let texts = sections::texts(bench, &mut failures).await;
    tell("report", "recompute depth");
    let depth = sections::depth(bench, facts, count.min(3), &mut failures).await;
    tell("report", "memory");
    let memory = sections::memory(bench, runs, &mut failures).await;
    tell("report", "checklist");
    let checks = checks::run(bench).await;
    failures.extend(lengths.failures.iter().cloned());

    let model = &bench.template.model;
    let title = format!("{model}: production test report");
    let mut blocks = vec![heading(1, &title)];
    blocks.extend(sections::head(bench, facts));
    blocks.push(heading(2, "Summary"));
    blocks.extend(summary(&checks, runs, &lengths, &failures));
    blocks.push(heading(2, "Test configuration"));
    blocks.extend(sections::configuration(args, bench, facts));
    blocks.push(heading(2, "Test results"));
    blocks.push(heading(3, "1. Model loading"));
    blocks.extend(sections::loading(facts));
    blocks.push(heading(3, "2. Latency by kind of prompt and length"));
    blocks.extend(lengths.blocks(warm_up));
    blocks.push(heading(3, "3. Prompts by category"));
    blocks.extend(categories);
    blocks.push(heading(3, "4. Texts"));
    blocks.extend(texts);
    blocks.push(heading(3, "5. Under load"));
    blocks.push(show::overview(runs));
    blocks.extend(runs.iter().flat_map(show::load));
    blocks.push(Block::Figure(plot::svg(runs)?));
    blocks.push(heading(2, "Recompute depth (MoR): with and without"));
    blocks.extend(depth);
    blocks.push(heading(2, "Memory"));
    blocks.extend(memory);
    blocks.push(heading(2, "Checklist"));
    blocks.push(text("Each mark is a trial that ran against this server for this report."));
    blocks.push(checklist(&checks));
    blocks.push(heading(2, "How to read the numbers"));
    blocks.push(Block::List(show::CAVEATS.iter().map(|caveat| (*caveat).to_owned()).collect()));
    blocks.push(heading(2, "Appendix: what the server says of itself"));
    blocks.push(Block::Code(sections::own_words(facts)));
    let page = args.report.as_deref().and_then(Path::extension).is_some_and(|extension| extension != "md");
    let text = if page { document::html(&title, &blocks) } else { document::markdown(&blocks) };
    let mut doubts = failures;
    doubts.extend(checks::failed(&checks));
    Ok(Report { text, doubts, checks: checks::json(&checks) })
}

fn checklist(checks: &[Check]) -> Block {
    let point = |check: &Check| {
        let mark = match check.mark {
            Mark::Passed => Some(true),
            Mark::Failed => Some(false),
            Mark::NotOffered => None,
        };
        (mark, format!("{}: {}", check.what, check.seen))
    };
    Block::Checks(checks.iter().map(point).collect())
}

/// The result in a few sentences, each of them from a number below.
fn summary(checks: &[Check], runs: &[Ran], lengths: &sections::Lengths, failures: &[String]) -> Vec<Block> {
    let of = |mark: &Mark| checks.iter().filter(|check| check.mark == *mark).count();
    let (passed, failed, none) = (of(&Mark::Passed), of(&Mark::Failed), of(&Mark::NotOffered));
    let asked: u64 = runs.iter().map(|ran| ran.all.asked()).sum();
    let lost: u64 = runs.iter().map(|ran| ran.all.failed).sum();
    let mut points = vec![
        format!("Checklist: {passed} passed, {failed} failed, {none} not offered by this server."),
        format!("Under load: {lost} of {asked} requests failed."),
    ];
    let speed = |ran: &&Ran| ran.all.tokens_a_second(ran.elapsed).unwrap_or(0.0);
    if let Some(fastest) = runs.iter().max_by(|a, b| speed(a).total_cmp(&speed(b))).filter(|ran| speed(ran) > 0.0) {
        points.push(format!("Fastest: {:.1} tokens/s at {}.", speed(&fastest), fastest.load));
    }
    points.extend(lengths.observations());
    let mut blocks = vec![Block::List(points)];
    if !failures.is_empty() {
        blocks.push(text("What went wrong:"));
        blocks.push(Block::List(failures.to_vec()));
    }
    blocks
}
