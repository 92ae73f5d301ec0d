//! `remask fill`.

use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use remask_core::infill::{MOST_CHOICES, Piece, best, canvas, fit, lengths, parse};
use remask_core::{
    Backend, Canvas, DecodeOptions, Error, Generation, Model, Request, StepReport, TokenSet, Vocabulary, fill_all,
};
use serde_json::json;

use crate::bundled::BUNDLED;
use crate::decode_args::SettingArgs;
use crate::model_args::{DeviceArgs, TokenizerArgs, explain, open_model_with};
use crate::view::{Colours, View};
use crate::{Failure, Outcome};

#[derive(clap::Args)]
pub struct Args {
    /// A text with blanks.
    #[arg(
        help = "A text with blanks: [MASK] is a token, [MASK:3] three, [MASK:2-5] as many as fit best; \\[MASK] is \
                  the text itself"
    )]
    text: String,
    /// Model folder, .safetensors or GGUF file, or name of a bundled model
    #[arg(long, default_value = BUNDLED.name)]
    model: String,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    decode: SettingArgs,
    /// Print one JSON object with the text, what was filled in and what it cost
    #[arg(long)]
    json: bool,
    /// Watch the canvas being unmasked, coloured by confidence or by depth
    #[arg(long, conflicts_with = "json", value_name = "COLOURS", num_args = 0..=1, require_equals = true,
          default_missing_value = "confidence")]
    watch: Option<Colours>,
}

pub fn run(args: &Args) -> Outcome {
    let pieces = parse(&args.text)?;
    let choices = lengths(&pieces, MOST_CHOICES)?;
    let model = open_model_with(&args.model, &args.tokenizer)?;
    // A blank is a part of the text: its end is not the text's.
    let mut suppressed = TokenSet::clone(&model.vocabulary.suppressed);
    model.vocabulary.stop.iter().for_each(|id| suppressed.insert(*id));
    let vocabulary = Arc::new(Vocabulary { suppressed: suppressed.into(), ..Vocabulary::clone(&model.vocabulary) });
    let canvases = choices.iter().map(|c| canvas(&model, &pieces, c)).collect::<Result<Vec<_>, _>>()?;
    let options = |canvas: &Canvas| args.decode.options(&model.architecture, &model.defaults, canvas.holes());
    let options = canvases.iter().map(options).collect::<Result<Vec<_>, _>>()?;
    for (canvas, options) in canvases.iter().zip(&options) {
        options.check_canvas(&model.architecture, canvas)?;
    }
    let mut backend = args.device.load(&model)?;
    let started = Instant::now();
    let watched = canvases.len() - 1;
    let mut view = View::new(args.watch, &model, canvases[watched].holes())?;
    let request = |(canvas, options): (Canvas, &DecodeOptions)| Request { canvas, options: options.clone() };
    let requests = canvases.into_iter().zip(&options).map(request).collect();
    let mut watch = |index: usize, report: &StepReport| {
        if index == watched { view.step(&model, report) } else { ControlFlow::Continue(()) }
    };
    let result = decode(&mut *backend, &model, &vocabulary, requests, &mut watch);
    view.finish();
    let done = result?;
    let milliseconds = started.elapsed().as_secs_f64() * 1e3;
    let best = best(&done);
    let text = text_of(&model, &done[best])?;
    if args.json {
        let object = as_json(&model, &pieces, &choices, &options[best], &done, best, milliseconds, &backend.info())?;
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&object)?)?;
    } else {
        writeln!(stdout(), "{text}")?;
    }
    Ok(())
}

fn decode(
    backend: &mut dyn Backend,
    model: &Model,
    vocabulary: &Arc<Vocabulary>,
    requests: Vec<Request>,
    watch: &mut dyn FnMut(usize, &StepReport) -> ControlFlow<()>,
) -> Result<Vec<Generation>, Error> {
    let run = fill_all(backend, &model.architecture, vocabulary, requests, watch);
    let done = pollster::block_on(run).and_then(|done| done.into_iter().collect());
    done.map_err(|e| explain(e, model))
}

/// The whole text, with what was filled in.
fn text_of(model: &Model, done: &Generation) -> Result<String, Error> {
    model.text()?.decode(done.canvas.tokens(), true)
}

#[allow(clippy::too_many_arguments)] // one report, made in one place
fn as_json(
    model: &Model,
    pieces: &[Piece],
    choices: &[Vec<usize>],
    options: &DecodeOptions,
    done: &[Generation],
    best: usize,
    milliseconds: f64,
    info: &remask_core::backend::BackendInfo,
) -> Result<serde_json::Value, Failure> {
    let chosen = &done[best];
    let mut filled = Vec::new();
    let mut positions =
        (0..chosen.canvas.len()).filter(|p| matches!(chosen.canvas.cells()[*p], remask_core::Cell::Decided { .. }));
    for length in &choices[best] {
        let ids: Vec<_> = positions.by_ref().take(*length).map(|p| chosen.canvas.tokens()[p]).collect();
        filled.push(json!({ "text": model.text()?.decode(&ids, true)?, "token_ids": ids }));
    }
    let tried: Vec<_> = choices
        .iter()
        .zip(done)
        .map(|(lengths, done)| Ok(json!({ "lengths": lengths, "fit": fit(done), "text": text_of(model, done)? })))
        .collect::<Result<_, Error>>()?;
    Ok(json!({
        "text": text_of(model, chosen)?,
        "blanks": pieces.iter().filter(|p| matches!(p, Piece::Blank { .. })).count(),
        "filled": filled,
        "fit": fit(chosen),
        "tried": tried,
        "forward_passes": done.iter().map(|d| d.forward_passes).max(),
        "rows_computed": done.iter().map(|d| d.rows_computed).sum::<u64>(),
        "milliseconds": milliseconds,
        "backend": info.backend,
        "adapter": info.adapter,
        "weights": info.weights,
        "options": options,
    }))
}
