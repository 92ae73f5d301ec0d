//! `remask bench`: how long passes and generations take on this machine's devices.

mod lengths;
mod serve;

use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use remask_core::backend::BackendInfo;
use remask_core::checkpoint::WeightFormat;
use remask_core::decode::Vocabulary;
use remask_core::scheduler::{forward, logits};
use remask_core::{Architecture, Backend, Cache, DecodeOptions, MorConfig, Trial, generate};
use remask_wgpu::WgpuBackend;
use serde::Serialize;

use self::lengths::LengthArgs;
use crate::backend::BackendName;
use crate::model_args::DeviceArgs;
use crate::report::table;
use crate::subject::{Subject, SubjectArgs};
use crate::{Failure, Outcome};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    subject: SubjectArgs,
    /// Blocks of the shape, where fewer are wanted
    #[arg(long, requires = "shape")]
    layers: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Backends to hold against each other, in place of --backend: the first is what logits and
    /// generations of the others are compared with
    #[arg(long, value_delimiter = ',', value_enum, value_name = "NAME,...", conflicts_with_all = ["backend", "shape"])]
    backends: Vec<BackendName>,
    /// Rows of the passes to time; each sees all the others, and every row's candidate is wanted.
    /// More than --context are left out
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 64, 128, 256, 512, 1024], value_name = "N,...")]
    rows: Vec<u32>,
    /// Positions of the canvas that the rows are a part of and see all of: as few rows in a late step
    /// do. By default the rows are the whole canvas
    #[arg(long, value_name = "N")]
    context: Option<u32>,
    /// Passes timed for each number of rows
    #[arg(long, default_value_t = 15, value_name = "N")]
    repeats: usize,
    /// Time whole generations too: plain, cached, and with mixture of recursions
    #[arg(long)]
    generations: bool,
    /// Show the time of each kernel, on the wgpu backend
    #[arg(long, conflicts_with_all = ["json", "backends"])]
    kernels: bool,
    /// Print JSON in place of Markdown
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Output lengths")]
    lengths: LengthArgs,
}

/// What else can be measured.
#[derive(clap::Subcommand)]
enum Command {
    /// Measure a server of OpenAI's routes, ours or another, under load
    Serve(Box<serve::Args>),
}

impl Args {
    /// Rows and context of each pass to time: those that the model has positions for.
    fn passes(&self, a: &Architecture) -> impl Iterator<Item = (u32, u32)> {
        let most = self.context.unwrap_or(u32::MAX).min(a.max_positions as u32);
        self.rows.iter().filter(move |n| **n <= most).map(move |n| (*n, if self.context.is_some() { most } else { *n }))
    }
}

/// Everything measured on one backend.
#[derive(Serialize)]
struct Report {
    backend: BackendInfo,
    /// What the backend decided by itself.
    notes: Vec<String>,
    /// Milliseconds from the start of loading.
    load_ms: f64,
    passes: Vec<PassTimes>,
    generations: Vec<GenerationTimes>,
    /// Largest difference of its logits from the first backend's; `None` for the first itself.
    largest_logit_difference: Option<f32>,
}

#[derive(Serialize)]
struct PassTimes {
    rows: u32,
    /// The first pass of this many rows: kernels are compiled within it.
    first_ms: f64,
    median_ms: f64,
    fastest_ms: f64,
    /// Weights read once over the median.
    weights_gb_s: f64,
    /// Products of weights and rows over the median.
    tflop_s: f64,
}

#[derive(Serialize)]
struct GenerationTimes {
    what: &'static str,
    tokens: usize,
    passes: u32,
    rows: u64,
    /// The faster of two runs.
    ms: f64,
    /// First position that differs from the first backend's text; `None` where none does.
    parts_at: Option<usize>,
    #[serde(skip)]
    token_ids: Vec<u32>,
}

pub fn run(args: &Args) -> Outcome {
    if let Some(Command::Serve(args)) = &args.command {
        return serve::run(args);
    }
    let subject = Subject::open(&args.subject, args.layers)?;
    if !args.lengths.lengths.is_empty() {
        return lengths::run(&args.lengths, subject, &args.device, args.json);
    }
    if args.kernels {
        return all_kernels(args, &subject);
    }
    let names = if args.backends.is_empty() { vec![args.device.backend] } else { args.backends.clone() };
    let mut reports: Vec<Report> = Vec::new();
    let mut first_logits = None;
    for name in names {
        let started = Instant::now();
        let mut backend = subject.on(name, &args.device)?;
        let load_ms = ms(started);
        let mut report = measure(args, &subject, &mut *backend, load_ms)?;
        if args.backends.len() > 1 {
            let logits = some_logits(&subject, &mut *backend)?;
            match &first_logits {
                None => first_logits = Some(logits),
                Some(first) => report.largest_logit_difference = Some(largest_difference(first, &logits)),
            }
        }
        if let Some(first) = reports.first() {
            for (own, other) in report.generations.iter_mut().zip(&first.generations) {
                own.parts_at = own.token_ids.iter().zip(&other.token_ids).position(|(a, b)| a != b);
            }
        }
        if !args.json {
            writeln!(stdout(), "{}", report.markdown())?;
        }
        reports.push(report);
    }
    if args.json {
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&reports)?)?;
    } else if reports.len() > 1 {
        writeln!(stdout(), "{}", side_by_side(&reports))?;
    }
    Ok(())
}

fn measure(args: &Args, subject: &Subject, backend: &mut dyn Backend, load_ms: f64) -> Result<Report, Failure> {
    let a = &subject.architecture;
    let info = backend.info();
    let mut report = Report {
        backend: info,
        notes: Vec::new(),
        load_ms,
        passes: Vec::new(),
        generations: Vec::new(),
        largest_logit_difference: None,
    };
    for (count, context) in args.passes(a) {
        let trial = pollster::block_on(Trial::new(backend, a.vocab_size as u32, count, context))?;
        report.passes.push(passes(args, a, backend, &trial)?);
        trial.end(backend);
    }
    if args.generations {
        for (what, options) in generations() {
            if options.max_tokens + PROMPT as usize <= a.max_positions {
                report.generations.push(generation(what, &options, a, &subject.vocabulary, backend)?);
            }
        }
    }
    // Some notes are of kernels that were tried on the way.
    report.notes = backend.notes();
    Ok(report)
}

fn all_kernels(args: &Args, subject: &Subject) -> Outcome {
    let mut backend = subject.on_wgpu(&args.device)?;
    let a = &subject.architecture;
    for (count, context) in args.passes(a) {
        let trial = pollster::block_on(Trial::new(&mut backend, a.vocab_size as u32, count, context))?;
        // The first pass compiles kernels.
        pollster::block_on(forward(&mut backend, trial.work()))?;
        kernels(&mut backend, &trial, count)?;
        trial.end(&mut backend);
    }
    Ok(())
}

/// Logits of a few rows, to hold backends against each other.
fn some_logits(subject: &Subject, backend: &mut dyn Backend) -> Result<Vec<f32>, Failure> {
    let a = &subject.architecture;
    let count = a.max_positions.min(33) as u32;
    let trial = pollster::block_on(Trial::new(backend, a.vocab_size as u32, count, count))?;
    let logits = pollster::block_on(logits(backend, &trial.logits()));
    trial.end(backend);
    Ok(logits?)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |most, d| if d.is_nan() { f32::NAN } else { most.max(d) })
}

/// Backends in columns, with ratios to the first.
fn side_by_side(reports: &[Report]) -> String {
    let mut names = vec!["".to_owned()];
    names.extend(reports.iter().map(|r| format!("{}, {}", r.backend.adapter, r.backend.backend)));
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let first = &reports[0];
    let against = |ms: f64, first: f64| format!("{ms:.2} ms ({:.2}x)", ms / first);
    let mut rows = Vec::new();
    for (i, p) in first.passes.iter().enumerate() {
        let cell = |r: &Report| against(r.passes[i].median_ms, p.median_ms);
        rows.push(std::iter::once(format!("{} rows", p.rows)).chain(reports.iter().map(cell)).collect());
    }
    for (i, g) in first.generations.iter().enumerate() {
        let cell = |r: &Report| {
            let own = &r.generations[i];
            let same = own.parts_at.map_or("same text".to_owned(), |at| format!("parts at {at}"));
            format!("{}, {same}", against(own.ms, g.ms))
        };
        rows.push(std::iter::once(g.what.to_owned()).chain(reports.iter().map(cell)).collect());
    }
    let difference = |r: &Report| r.largest_logit_difference.map_or("-".to_owned(), |d| format!("{d:.2e}"));
    rows.push(std::iter::once("largest logit difference".to_owned()).chain(reports.iter().map(difference)).collect());
    markdown(&names, rows.into_iter())
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Tokens of the prompt that generations begin with.
const PROMPT: u32 = 8;

/// What whole generations are timed with. Schedules are fixed, so random weights, which are never
/// certain of anything, take as many passes as trained ones.
fn generations() -> [(&'static str, DecodeOptions); 6] {
    let cut =
        |max_tokens, steps, block_length| DecodeOptions { max_tokens, steps, block_length, ..DecodeOptions::default() };
    [
        ("150 tokens in 64 steps, blocks of 32, plain", cut(150, 64, 32)),
        ("150 tokens in 64 steps, blocks of 32, dual cache", DecodeOptions { cache: Cache::Dual, ..cut(150, 64, 32) }),
        (
            "150 tokens in 64 steps, blocks of 32, mixture of recursions",
            DecodeOptions { mor: Some(MorConfig::default()), ..cut(150, 64, 32) },
        ),
        ("1024 tokens in 16 steps, one block, plain", cut(1024, 16, 1024)),
        (
            "1024 tokens in 16 steps, one block, mixture of recursions",
            DecodeOptions { mor: Some(MorConfig::default()), ..cut(1024, 16, 1024) },
        ),
        (
            "1024 tokens in 16 steps, one block, mixture of recursions with up to 8 cycles",
            DecodeOptions { mor: Some(MorConfig { max_recursions: 8, ..MorConfig::default() }), ..cut(1024, 16, 1024) },
        ),
    ]
}

fn generation(
    what: &'static str,
    options: &DecodeOptions,
    a: &Arc<Architecture>,
    vocabulary: &Arc<Vocabulary>,
    backend: &mut dyn Backend,
) -> Result<GenerationTimes, Failure> {
    let prompt: Vec<_> = (0..PROMPT).map(|i| (i * 7919 + 11) % a.vocab_size as u32).collect();
    let mut times = GenerationTimes {
        what,
        tokens: options.max_tokens,
        passes: 0,
        rows: 0,
        ms: f64::INFINITY,
        parts_at: None,
        token_ids: Vec::new(),
    };
    for _ in 0..2 {
        let begun = Instant::now();
        let mut watch = |_: &remask_core::StepReport| ControlFlow::Continue(());
        let done = pollster::block_on(generate(backend, a, vocabulary, &prompt, options, &mut watch))?;
        times.ms = times.ms.min(ms(begun));
        (times.passes, times.rows) = (done.forward_passes, done.rows_computed);
        times.token_ids = done.canvas.tokens().to_vec();
    }
    Ok(times)
}

fn passes(args: &Args, a: &Architecture, backend: &mut dyn Backend, trial: &Trial) -> Result<PassTimes, Failure> {
    let mut times = Vec::new();
    for _ in 0..=args.repeats.max(1) {
        let begun = Instant::now();
        pollster::block_on(forward(backend, trial.work()))?;
        times.push(ms(begun));
    }
    let first_ms = times.remove(0);
    times.sort_by(f64::total_cmp);
    let median_ms = times[times.len() / 2];
    // A table that is not the head is only looked up, one row a token.
    let table = if a.tied_head { 0 } else { a.embedding_rows * a.hidden };
    let multiplied = a.parameters() as usize - table;
    let format: Option<WeightFormat> = backend.info().weights.parse().ok();
    let bytes = format.map_or(0, |f| f.bytes(multiplied / a.hidden, a.hidden));
    Ok(PassTimes {
        rows: trial.rows(),
        first_ms,
        median_ms,
        fastest_ms: times[0],
        weights_gb_s: bytes as f64 / median_ms / 1e6,
        tflop_s: 2.0 * multiplied as f64 * f64::from(trial.rows()) / median_ms / 1e9,
    })
}

impl Report {
    fn markdown(&self) -> String {
        let info = &self.backend;
        let mut text =
            format!("{}, {}, {} weights, loaded in {:.0} ms", info.adapter, info.backend, info.weights, self.load_ms);
        text += "\n\n";
        for note in &self.notes {
            text += &format!("{note}\n\n");
        }
        let passes = self.passes.iter().map(|p| {
            vec![
                p.rows.to_string(),
                format!("{:.3}", p.median_ms),
                format!("{:.3}", p.fastest_ms),
                format!("{:.0}", p.first_ms),
                format!("{:.0}", p.weights_gb_s),
                format!("{:.1}", p.tflop_s),
            ]
        });
        let names = ["rows", "median ms", "fastest ms", "first ms", "weights GB/s", "TFLOP/s"];
        text += &markdown(&names, passes);
        if !self.generations.is_empty() {
            let runs = self
                .generations
                .iter()
                .map(|g| vec![g.what.to_owned(), g.passes.to_string(), g.rows.to_string(), format!("{:.0}", g.ms)]);
            text.push('\n');
            text += &markdown(&["generation", "passes", "rows", "ms"], runs);
        }
        text
    }
}

fn markdown(names: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for row in rows {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}

/// Milliseconds of each kernel in one pass, the slowest first.
fn kernels(backend: &mut WgpuBackend, trial: &Trial, count: u32) -> Outcome {
    let spans = pollster::block_on(backend.profile(&trial.work().pass()))?;
    let mut sums: Vec<(String, f64, u32)> = Vec::new();
    for (label, ns) in spans {
        match sums.iter_mut().find(|(l, ..)| *l == label) {
            Some((_, sum, calls)) => {
                *sum += ns;
                *calls += 1;
            }
            None => sums.push((label, ns, 1)),
        }
    }
    sums.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = sums.iter().map(|s| s.1).sum();
    let mut cells = vec![["kernel", "dispatches", "us each", "ms"].map(str::to_owned).to_vec()];
    for (label, ns, calls) in sums {
        cells.push(vec![
            label,
            calls.to_string(),
            format!("{:.1}", ns / 1e3 / f64::from(calls)),
            format!("{:.3}", ns / 1e6),
        ]);
    }
    writeln!(stdout(), "{count} rows: {:.3} ms on the device\n{}", total / 1e6, table(&cells))?;
    Ok(())
}
