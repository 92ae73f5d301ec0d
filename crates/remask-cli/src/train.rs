//! `remask train`.

use std::io::{Write, stdout};
use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressStyle};
use remask_burn::train::{Corpus, Precision, Settings, Start, Trainer};
use remask_core::{Error, Model};

use crate::Outcome;
use crate::backend::BackendName;
use crate::report::tell;

/// A masked diffusion model from a folder of text. The defaults make one of the bundled model's shape.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of .txt files (documents apart by lines <|endoftext|>) and .jsonl files ({"prompt", "response"} lines)
    corpus: PathBuf,
    /// Folder to write the model to; a run that was broken off there goes on
    output: PathBuf,
    /// What computes: cpu, or one of Burn's backends that this build has
    #[arg(long, value_parser = training_backend(), default_value = "cpu")]
    backend: BackendName,
    /// Steps of the run; with 0, the weights that it begins with are measured and written
    #[arg(long, default_value_t = 8000, value_name = "N")]
    steps: u32,
    /// Sequences of a step
    #[arg(long, default_value_t = 256, value_name = "N")]
    batch: usize,
    /// Positions of the model, and tokens of a sequence
    #[arg(long, default_value_t = 512, value_name = "N")]
    context: usize,
    /// Width of the residual stream
    #[arg(long, default_value_t = 512, value_name = "N")]
    hidden: usize,
    /// Transformer blocks
    #[arg(long, default_value_t = 8, value_name = "N")]
    layers: usize,
    /// Attention heads
    #[arg(long, default_value_t = 8, value_name = "N")]
    heads: usize,
    /// Inner width of the MLP
    #[arg(long, default_value_t = 1344, value_name = "N")]
    mlp: usize,
    /// Ids of the tokenizer that is trained on the corpus, at most
    #[arg(long, default_value_t = 8192, value_name = "N")]
    vocabulary: usize,
    /// Use this tokenizer.json in place of training one
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Go on from this model's weights, with its shape and tokenizer, in place of random weights
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["context", "hidden", "layers", "heads", "mlp"])]
    from: Option<PathBuf>,
    /// Measure on the texts of this folder in place of one in 50 of the corpus's
    #[arg(long, value_name = "FOLDER")]
    held_out: Option<PathBuf>,
    /// Largest learning rate
    #[arg(long, default_value_t = 1e-3, value_name = "RATE")]
    learning_rate: f64,
    /// Steps over which the learning rate rises
    #[arg(long, default_value_t = 200, value_name = "N")]
    warm_up: u32,
    /// AdamW's weight decay
    #[arg(long, default_value_t = 0.1, value_name = "DECAY")]
    weight_decay: f32,
    /// Decay of the running average of the weights, which is what is written
    #[arg(long, default_value_t = 0.999, value_name = "DECAY")]
    average: f32,
    /// Share of sequences that are questions with answers
    #[arg(long, default_value_t = 0.4, value_name = "SHARE")]
    pairs: f32,
    /// Seed of every draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What matrix products compute in; bf16 is several times as fast on GPUs that have units for it
    #[arg(long, value_enum, default_value = "f32")]
    precision: TrainPrecision,
    /// Write a checkpoint and measure on held-out texts every this many steps
    #[arg(long, default_value_t = 200, value_name = "STEPS")]
    save_every: u32,
}

/// What matrix products compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TrainPrecision {
    /// float32
    F32,
    /// bfloat16; weights, averages and everything between products stay float32
    Bf16,
}

/// Parses names of backends that train: every one of Burn's, and the CPU for its plain one there.
fn training_backend() -> impl TypedValueParser<Value = BackendName> {
    let others = [BackendName::Auto, BackendName::Wgpu, BackendName::BurnFlex];
    let all = BackendName::value_variants().iter().filter(|name| !others.contains(name));
    let names: Vec<_> = all.filter_map(ValueEnum::to_possible_value).collect();
    PossibleValuesParser::from(names).try_map(|name| BackendName::from_str(&name, false))
}

impl Args {
    fn settings(&self, from: Option<&Model>) -> Settings {
        let given = (self.context, self.hidden, self.layers, self.heads, self.mlp);
        let (context, hidden, layers, heads, mlp) = from.map_or(given, |model| {
            let a = &model.architecture;
            let (heads, mlp) = a.blocks.first().map_or((0, 0), |b| (b.attention.heads, b.feed_forward.hidden));
            (a.max_positions, a.hidden, a.blocks.len(), heads, mlp)
        });
        Settings {
            vocabulary: self.vocabulary,
            hidden,
            layers,
            heads,
            mlp,
            context,
            batch: self.batch,
            steps: self.steps,
            learning_rate: self.learning_rate,
            warm_up: self.warm_up,
            weight_decay: self.weight_decay,
            average: self.average,
            pairs: self.pairs,
            seed: self.seed,
            precision: match self.precision {
                TrainPrecision::F32 => Precision::F32,
                TrainPrecision::Bf16 => Precision::Bf16,
            },
        }
    }
}

pub fn run(args: &Args) -> Outcome {
    let corpus = Corpus::open(&args.corpus)?;
    let model = args.from.as_deref().map(Model::open).transpose()?;
    let its_own = args.from.as_ref().map(|folder| folder.join("tokenizer.json"));
    let read = |file: PathBuf| std::fs::read(&file).map_err(Error::io("read", &file));
    let tokenizer = args.tokenizer.clone().or(its_own).map(read).transpose()?;
    let held_out = args.held_out.as_deref().map(Corpus::open).transpose()?;
    let settings = args.settings(model.as_ref());
    let start = Start { tokenizer, model, held_out };
    let untrainable = || Error::Request(format!("{:?} does not train", args.backend));
    let device = args.backend.burn_device().ok_or_else(untrainable)?;
    let mut trainer = Trainer::start(&corpus, settings, &args.output, start, device)?;
    for note in trainer.notes() {
        tell("note", note);
    }
    writeln!(stdout(), "{} parameters, {} tokens of text", trainer.parameters(), trainer.corpus_tokens())?;
    if trainer.step() == 0 && (args.from.is_some() || args.steps == 0) {
        let held_out =
            trainer.measure()?.map_or("nothing is held out".to_owned(), |loss| format!("held out {loss:.4}"));
        trainer.save()?;
        writeln!(stdout(), "step 0: {held_out}")?;
    }
    let bar = ProgressBar::new(u64::from(args.steps)).with_position(u64::from(trainer.step()));
    if let Ok(style) = ProgressStyle::with_template("training {bar:30} {pos}/{len}  {msg}  {eta} left") {
        bar.set_style(style);
    }
    bar.reset_eta();
    // Of the steps since the last checkpoint: measuring and saving are not training.
    let (mut started, mut tokens) = (std::time::Instant::now(), 0);
    while trainer.step() < args.steps {
        let report = trainer.advance()?;
        tokens += report.tokens;
        let speed = tokens as f64 / started.elapsed().as_secs_f64();
        bar.set_message(format!("loss {:.3}  {speed:.0} tokens/s", report.loss));
        bar.inc(1);
        if report.step.is_multiple_of(args.save_every.max(1)) || report.step == args.steps {
            let held_out = trainer.measure()?;
            trainer.save()?;
            let held_out = held_out.map_or(String::new(), |loss| format!(", held out {loss:.4}"));
            let line = format!("step {}: loss {:.4}{held_out}, {speed:.0} tokens/s", report.step, report.loss);
            bar.suspend(|| writeln!(stdout(), "{line}"))?;
            (started, tokens) = (std::time::Instant::now(), 0);
        }
    }
    bar.finish_and_clear();
    writeln!(stdout(), "{}: try remask generate --model with it; loss.svg shows the curve", args.output.display())?;
    Ok(())
}
