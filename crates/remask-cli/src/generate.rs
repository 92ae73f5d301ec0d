//! `remask generate`.

use std::io::{IsTerminal, Read, Write, stdout};
use std::time::Instant;

use remask_core::chat::Conversation;
use remask_core::decode::FinishReason;
use remask_core::{Backend, DecodeOptions, Error, Generation, Model, StepReport, generate};
use serde_json::json;

use crate::bundled::BUNDLED;
use crate::decode_args::DecodeArgs;
use crate::model_args::{DeviceArgs, TokenizerArgs, explain, open_model_with};
use crate::report::tell;
use crate::view::{Colours, View};
use crate::{Failure, Outcome};

#[derive(clap::Args)]
pub struct Args {
    /// The prompt; read from standard input where absent or "-"
    prompt: Option<String>,
    /// Model folder, .safetensors or GGUF file, or name of a bundled model
    #[arg(long, default_value = BUNDLED.name)]
    model: String,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Continue the prompt as plain text, without the chat template
    #[arg(long)]
    raw: bool,
    /// Give the prompt as token ids, comma separated, for models without a tokenizer
    #[arg(long, value_delimiter = ',', value_name = "IDS", conflicts_with_all = ["prompt", "raw"])]
    prompt_ids: Option<Vec<u32>>,
    /// End the answer where this text would come; several times for several
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Print one JSON object with the text, what it cost and where it ran
    #[arg(long)]
    json: bool,
    /// Watch the canvas being unmasked, coloured by confidence or by depth: the passes that a token took
    #[arg(long, conflicts_with = "json", value_name = "COLOURS", num_args = 0..=1, require_equals = true,
          default_missing_value = "confidence")]
    watch: Option<Colours>,
}

impl Args {
    fn prompt_ids(&self, model: &Model) -> Result<Vec<u32>, Failure> {
        if let Some(ids) = &self.prompt_ids {
            return Ok(ids.clone());
        }
        let text = match self.prompt.as_deref() {
            Some(text) if text != "-" => text.to_owned(),
            None if std::io::stdin().is_terminal() => {
                return Err(Failure::Message("no prompt: give one, or pipe it to standard input".into()));
            }
            _ => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map_err(Error::io("read", "standard input"))?;
                text
            }
        };
        if self.raw {
            return Ok(model.encode_raw(&text)?);
        }
        Ok(model.encode_chat(&Conversation::ask(text))?)
    }
}

/// Milliseconds that a generation took.
struct Times {
    load: f64,
    first_pass: f64,
    total: f64,
}

pub fn run(args: &Args) -> Outcome {
    let started = Instant::now();
    let model = open_model_with(&args.model, &args.tokenizer)?;
    let prompt = args.prompt_ids(&model)?;
    let options = args.decode.options(&model)?;
    options.check(&model.architecture, &prompt)?;
    let mut backend = args.device.load(&model)?;
    let load = milliseconds(started);

    let loaded = Instant::now();
    let mut first_pass = None;
    let mut view = View::new(args.watch, &model, options.max_tokens)?;
    let mut watch = |report: &StepReport| {
        first_pass.get_or_insert_with(|| milliseconds(loaded));
        // What may still change ends nothing.
        let settled = report.settled.saturating_sub(report.so_far.prompt_tokens);
        let ids = report.so_far.completion();
        let stopped = !args.stop.is_empty()
            && model.tokenizer.as_ref().is_some_and(|tokenizer| {
                let text = tokenizer.decode(&ids[..settled.min(ids.len())], true);
                text.is_ok_and(|text| before_stop(&text, &args.stop).is_some())
            });
        if stopped { std::ops::ControlFlow::Break(()) } else { view.step(&model, report) }
    };
    let run = generate(backend.as_mut(), &model.architecture, &model.vocabulary, &prompt, &options, &mut watch);
    let result = pollster::block_on(run);
    let total = milliseconds(loaded);
    view.finish();
    let mut done = result.map_err(|e| explain(e, &model))?;
    if done.finish == FinishReason::Aborted && !args.stop.is_empty() {
        done.finish = FinishReason::Stop;
    }
    for note in &done.notes {
        tell("note", note);
    }
    let times = Times { load, first_pass: first_pass.unwrap_or(total), total };
    let text = if args.json {
        serde_json::to_string_pretty(&as_json(args, &model, &options, &done, &times, backend.as_ref())?)?
    } else {
        text_of(args, &model, &done)?
    };
    writeln!(stdout(), "{text}")?;
    Ok(())
}

/// The text up to the first of the texts that end it, where one is in it.
fn before_stop<'t>(text: &'t str, stop: &[String]) -> Option<&'t str> {
    stop.iter().filter_map(|stop| text.find(stop.as_str())).min().map(|at| &text[..at])
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The answer as text; ids where the model has no tokenizer. An answer to a chat is trimmed.
fn text_of(args: &Args, model: &Model, done: &Generation) -> Result<String, Failure> {
    let ids = done.completion();
    let Some(tokenizer) = &model.tokenizer else {
        return Ok(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
    };
    let mut text = tokenizer.decode(ids, true)?;
    if let Some(before) = before_stop(&text, &args.stop) {
        text = before.to_owned();
    }
    Ok(if args.raw { text } else { text.trim().to_owned() })
}

fn as_json(
    args: &Args,
    model: &Model,
    options: &DecodeOptions,
    done: &Generation,
    times: &Times,
    backend: &dyn Backend,
) -> Result<serde_json::Value, Failure> {
    let ids = done.completion();
    let info = backend.info();
    Ok(json!({
        "model": args.model,
        "text": text_of(args, model, done)?,
        "token_ids": ids,
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": ids.len(),
        "finish_reason": done.finish,
        "forward_passes": done.forward_passes,
        "rows_computed": done.rows_computed,
        "rows_selected": done.rows_selected,
        "rows_of_full_compute": done.rows_of_full_compute,
        "depth": &done.depth[done.prompt_tokens..],
        "acceptance": done.acceptance,
        "mor": done.mor,
        "milliseconds": { "load": times.load, "first_pass": times.first_pass, "total": times.total },
        "backend": info.backend,
        "adapter": info.adapter,
        "weights": info.weights,
        "options": options,
        "notes": done.notes,
    }))
}
