//! `remask eval`: decoder settings side by side, quality beside speed.

mod measure;
mod plot;
mod sweep;

use std::io::{Write, stdout};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use remask_core::backend::BackendInfo;
use remask_core::{Error, json, text};
use serde::{Deserialize, Serialize};

use crate::bundled::BUNDLED;
use crate::model_args::{DeviceArgs, TokenizerArgs, open_model_with};
use crate::report::table;
use crate::{Failure, Outcome};
use measure::{Difference, Measured, Measurer};
use sweep::Setting;

/// Questions that tales-33m saw the answers of; see benches/questions/README.md.
const QUESTIONS: &str = include_str!("../../../../benches/questions/tales-33m.jsonl");

#[derive(clap::Args)]
pub struct Args {
    /// Model folder, .safetensors or GGUF file, or name of a bundled model
    #[arg(long, default_value = BUNDLED.name)]
    model: String,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Questions, a JSON object a line: {"prompt": TEXT, "response": TEXT?}; those of tales-33m by default
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Look at the first so many questions only
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Tokens of an answer
    #[arg(long, default_value_t = 128, value_name = "N")]
    max_tokens: usize,
    /// Prompts that are answered in shared passes. A prompt's time is then its share of theirs
    #[arg(long, default_value_t = NonZeroUsize::MIN, value_name = "N")]
    together: NonZeroUsize,
    /// A setting to compare, as NAME=OPTIONS with the options of `remask generate`; may be repeated. The
    /// first is what the others are held against. The presets by default
    #[arg(long = "setting", value_name = "NAME=OPTIONS")]
    settings: Vec<Setting>,
    /// Compare every acceptance rule, cache and depth over a range of values
    #[arg(long, conflicts_with = "settings")]
    sweep: bool,
    /// Samples of each answer's likelihood; 0 leaves it out
    #[arg(long, default_value_t = 8, value_name = "N")]
    likelihood_samples: u32,
    /// Seed of the likelihood's masks
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write all results and answers as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw quality against compute, a curve a decoder, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// A prompt and, where it is known, the answer.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Question {
    prompt: String,
    response: Option<String>,
}

/// Everything that was found out.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    backend: BackendInfo,
    max_tokens: usize,
    questions: &'a [Question],
    likelihood_samples: u32,
    seed: u64,
    settings: Vec<Measured>,
}

pub fn run(args: &Args) -> Outcome {
    let questions = questions(args)?;
    let model = open_model_with(&args.model, &args.tokenizer)?;
    let settings = match (&args.settings[..], args.sweep) {
        ([], false) => sweep::presets(&model),
        ([], true) => sweep::full(),
        (given, _) => given.to_vec(),
    };
    let prompts = questions
        .iter()
        .map(|q| model.encode_chat(&remask_core::chat::Conversation::ask(&q.prompt)))
        .collect::<Result<Vec<_>, _>>()?;
    for setting in &settings {
        for prompt in &prompts {
            setting.options(&model, args.max_tokens)?.check(&model.architecture, prompt)?;
        }
    }
    let mut backend = args.device.load(&model)?;
    let info = backend.info();
    let bar = ProgressBar::new((settings.len() * questions.len()) as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg:24} {bar:30} {pos}/{len} answers, {eta} left") {
        bar.set_style(style);
    }
    let mut measurer = Measurer::new(&mut *backend, &model, &questions, &prompts, args);
    let mut measured: Vec<Measured> = Vec::new();
    for setting in &settings {
        bar.set_message(setting.name.clone());
        measured.push(measurer.measure(setting, args.max_tokens, measured.first(), &mut || bar.inc(1))?);
    }
    bar.finish_and_clear();
    writeln!(stdout(), "{} on {} ({}), {} weights", args.model, info.adapter, info.backend, info.weights)?;
    writeln!(stdout(), "{} prompts, {} tokens, {}", questions.len(), args.max_tokens, HEAD_NOTE)?;
    write!(stdout(), "\n{}", table(&cells(&measured)))?;
    if let Some(path) = &args.plot {
        plot::draw(path, &measured)?;
    }
    if let Some(path) = &args.json {
        let report = Report {
            model: &args.model,
            backend: info,
            max_tokens: args.max_tokens,
            questions: &questions,
            likelihood_samples: args.likelihood_samples,
            seed: args.seed,
            settings: measured,
        };
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).map_err(Error::io("write", path))?;
    }
    Ok(())
}

const HEAD_NOTE: &str = "rows, passes and time a prompt; answers that are the same as the first setting's, and similar; \
in brackets how many points of accuracy and percent of nll a setting differs from the first, with the standard error";

fn questions(args: &Args) -> Result<Vec<Question>, Failure> {
    let (file, text) = match &args.questions {
        Some(path) => (path.display().to_string(), text::read(path)?),
        None => ("(bundled questions)".to_owned(), QUESTIONS.to_owned()),
    };
    let mut questions = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let question = json::from_slice(line.as_bytes()).map_err(|e| {
            Failure::Message(format!(
                "{file}, line {}: {e}; each is {{\"prompt\": TEXT, \"response\": TEXT?}}",
                number + 1
            ))
        })?;
        questions.push(question);
    }
    questions.truncate(args.limit.unwrap_or(usize::MAX));
    if questions.is_empty() {
        return Err(Failure::Message(format!("{file} has no questions")));
    }
    Ok(questions)
}

fn cells(measured: &[Measured]) -> Vec<Vec<String>> {
    let head = ["setting", "rows", "fewer", "passes", "ms", "tok/s", "right", "same", "similar", "nll"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let first = measured.first().map_or(1.0, |m| m.rows);
    let first_nll = measured.first().and_then(|m| m.nll).unwrap_or(1.0);
    for m in measured {
        rows.push(vec![
            m.name.clone(),
            format!("{:.0}", m.rows),
            format!("{:.1}x", first / m.rows),
            format!("{:.1}", m.passes),
            format!("{:.1}", m.milliseconds),
            format!("{:.0}", m.tokens_per_second),
            m.accuracy.map_or("-".to_owned(), |a| format!("{:.1} %{}", 100.0 * a, against(m.accuracy_difference, 1.0))),
            format!("{:.1} %", 100.0 * m.same),
            format!("{:.3}", m.similarity),
            m.nll.map_or("-".to_owned(), |n| format!("{n:.4}{}", against(m.nll_difference, first_nll))),
        ]);
    }
    rows
}

/// A difference from the first setting in percent of `of`, with its standard error; nothing for the first.
fn against(difference: Option<Difference>, of: f64) -> String {
    let percent = |v: f64| 100.0 * v / of;
    match difference {
        Some(d) if d.standard_error > 0.0 => format!(" ({:+.1} +- {:.1})", percent(d.mean), percent(d.standard_error)),
        _ => String::new(),
    }
}
