//! `remask bench --lengths`: time against output length, for models and shapes of both kinds side by side, each
//! by one rule at every length, with passes and quality beside.

use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use plotters::prelude::*;
use remask_core::backend::BackendInfo;
use remask_core::decode::likelihood::answer_nll;
use remask_core::{Acceptance, Backend, DecodeOptions, Order, StepReport, generate};
use serde::Serialize;

use super::{markdown, ms};
use crate::decode_args::SettingArgs;
use crate::model_args::DeviceArgs;
use crate::subject::Subject;
use crate::{Failure, Outcome};

/// Options of the figure.
#[derive(clap::Args)]
pub struct LengthArgs {
    /// Time generations of these lengths in place of passes
    #[arg(long, value_delimiter = ',', value_name = "N,...")]
    pub lengths: Vec<usize>,
    /// A further model or shape to time beside the first, with lengths of its own where its positions end
    /// earlier; several times
    #[arg(long, value_name = "MODEL|SHAPE", requires = "lengths")]
    pub beside: Vec<String>,
    /// Text that generations go on from; ids are made up for models without a tokenizer
    #[arg(long, value_name = "TEXT", default_value = "Once upon a time", requires = "lengths")]
    pub prompt: String,
    /// Passes of a diffusion model at every length, in place of its rule: for shapes, whose random weights are
    /// never sure of a token. Times of such runs are labelled as forced
    #[arg(long, value_name = "N", requires = "lengths")]
    pub force_steps: Option<usize>,
    /// Draw time against length as SVG
    #[arg(long, value_name = "FILE", requires = "lengths")]
    pub plot: Option<std::path::PathBuf>,
    #[command(flatten)]
    pub decode: SettingArgs,
}

/// Passes that a diffusion shape is given where nothing else is said: what the seeds' figure has at any length.
const FORCED_STEPS: usize = 16;

/// One model at all lengths.
#[derive(Serialize)]
struct Curve {
    model: String,
    kind: &'static str,
    parameters: u64,
    backend: BackendInfo,
    rule: String,
    points: Vec<Point>,
}

/// One generation.
#[derive(Serialize)]
struct Point {
    tokens: usize,
    passes: u32,
    rows: u64,
    /// The faster of two runs.
    ms: f64,
    tokens_per_second: f64,
    /// The number of passes was given and not found by the rule.
    forced: bool,
    /// Mean negative log-likelihood a token by the model itself, in nats: exact for an autoregressive model, a
    /// bound for a diffusion model. `None` for shapes, whose texts mean nothing.
    nll: Option<f64>,
}

/// Samples of the bound.
const SAMPLES: u32 = 16;

pub fn run(args: &LengthArgs, first: Subject, device: &DeviceArgs, as_json: bool) -> Outcome {
    let further = args.beside.iter().map(|name| Subject::named(name));
    let subjects = std::iter::once(Ok(first)).chain(further).collect::<Result<Vec<_>, _>>()?;
    let mut curves = Vec::new();
    for subject in subjects {
        let curve = curve(args, &subject, device)?;
        if !as_json {
            writeln!(stdout(), "{}", curve.markdown())?;
        }
        curves.push(curve);
    }
    if as_json {
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&curves)?)?;
    }
    args.plot.as_deref().map_or(Ok(()), |path| draw(path, &curves))
}

/// The rule that a subject is decoded by, at any length, and whether it is given its passes.
fn options(args: &LengthArgs, subject: &Subject, tokens: usize) -> Result<(DecodeOptions, bool), Failure> {
    let (a, defaults) = (&subject.architecture, subject.defaults());
    let diffusion = a.is_diffusion();
    let options = args.decode.options(a, &defaults, tokens)?;
    let options = DecodeOptions { ignore_eos: true, early_stop: false, free_tail: false, ..options };
    let steps = args.force_steps.or((diffusion && !subject.is_trained()).then_some(FORCED_STEPS));
    let Some(steps) = steps.filter(|_| diffusion) else { return Ok((options, false)) };
    let forced = DecodeOptions {
        steps,
        block_length: tokens,
        acceptance: Acceptance::Quota(Order::LowConfidence),
        mor: None,
        ..options
    };
    Ok((forced, true))
}

fn curve(args: &LengthArgs, subject: &Subject, device: &DeviceArgs) -> Result<Curve, Failure> {
    let a = &subject.architecture;
    let mut backend = subject.on(device.backend, device)?;
    let prompt = subject.prompt(&args.prompt)?;
    let mut points = Vec::new();
    let mut rule = "token after token".to_owned();
    for tokens in args.lengths.iter().filter(|tokens| prompt.len() + **tokens <= a.max_positions) {
        let (options, forced) = options(args, subject, *tokens)?;
        options.check(a, &prompt)?;
        if a.is_diffusion() {
            rule = if forced {
                format!("{} passes, forced", options.steps)
            } else {
                format!("{:?}, {:?}, blocks of {}", options.acceptance, options.cache, options.block_length)
            };
        }
        points.push(point(subject, &mut *backend, &prompt, &options, forced)?);
    }
    Ok(Curve {
        model: subject.name.clone(),
        kind: if a.is_diffusion() { "diffusion" } else { "autoregressive" },
        parameters: a.parameters(),
        backend: backend.info(),
        rule,
        points,
    })
}

fn point(
    subject: &Subject,
    backend: &mut dyn Backend,
    prompt: &[u32],
    options: &DecodeOptions,
    forced: bool,
) -> Result<Point, Failure> {
    let (a, vocabulary) = (&subject.architecture, &subject.vocabulary);
    let mut fastest = f64::INFINITY;
    let mut last = None;
    for _ in 0..2 {
        let begun = Instant::now();
        let watch = &mut |_: &StepReport| ControlFlow::Continue(());
        let done = pollster::block_on(generate(backend, a, vocabulary, prompt, options, watch))?;
        fastest = fastest.min(ms(begun));
        last = Some(done);
    }
    let Some(done) = last else { return Err(Failure::Message("nothing was run".to_owned())) };
    let nll = if subject.is_trained() {
        let judged = answer_nll(backend, a, vocabulary, prompt, done.completion(), SAMPLES, 0);
        Some(pollster::block_on(judged)?)
    } else {
        None
    };
    Ok(Point {
        tokens: options.max_tokens,
        passes: done.forward_passes,
        rows: done.rows_computed,
        ms: fastest,
        tokens_per_second: options.max_tokens as f64 / fastest * 1e3,
        forced,
        nll,
    })
}

impl Curve {
    fn markdown(&self) -> String {
        let info = &self.backend;
        let head = format!(
            "{} ({}, {:.0} M parameters), {}, {}, {} weights; {}",
            self.model,
            self.kind,
            self.parameters as f64 / 1e6,
            info.adapter,
            info.backend,
            info.weights,
            self.rule
        );
        let names = ["tokens", "passes", "rows", "ms", "tokens/s", "ms a pass", "nll", ""];
        let rows = self.points.iter().map(|p| {
            vec![
                p.tokens.to_string(),
                p.passes.to_string(),
                p.rows.to_string(),
                format!("{:.1}", p.ms),
                format!("{:.0}", p.tokens_per_second),
                format!("{:.2}", p.ms / f64::from(p.passes.max(1))),
                p.nll.map_or("-".to_owned(), |nll| format!("{nll:.3}")),
                if p.forced { "forced" } else { "" }.to_owned(),
            ]
        });
        format!("{head}\n\n{}", markdown(&names, rows))
    }
}

const SIZE: (u32, u32) = (900, 560);
/// Of lines, in the order that figures draw them.
pub(super) const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(23, 190, 207),
];

/// Time against length, a line a model, both axes logarithmic.
fn draw(path: &Path, curves: &[Curve]) -> Outcome {
    let drawn = try_draw(path, curves);
    drawn.map_err(|e| Failure::Message(format!("drawing {}: {e}", path.display())))
}

fn try_draw(path: &Path, curves: &[Curve]) -> Result<(), Box<dyn std::error::Error>> {
    let points = || curves.iter().flat_map(|c| &c.points);
    let bounds = |of: &dyn Fn(&Point) -> f64| {
        let (least, most) = points().map(of).fold((f64::INFINITY, 0f64), |(l, m), v| (l.min(v), m.max(v)));
        (least / 1.3)..(most * 1.3)
    };
    if points().next().is_none() {
        return Err("there is no point to draw".into());
    }
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (x, y) = (bounds(&|p| p.tokens as f64), bounds(&|p| p.ms / 1e3));
    let mut chart = ChartBuilder::on(&root)
        .caption("Generation time against output length", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(x.log_scale(), y.log_scale())?;
    chart.configure_mesh().x_desc("tokens").y_desc("seconds").draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let line: Vec<_> = curve.points.iter().map(|p| (p.tokens as f64, p.ms / 1e3)).collect();
        let forced = if curve.points.iter().any(|p| p.forced) { ", passes forced" } else { "" };
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)).point_size(4))?
            .label(format!("{} ({}{forced})", curve.model, curve.kind))
            .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}
