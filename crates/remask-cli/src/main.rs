//! `remask`: the command line of the engine.

mod backend;
mod bench;
mod bundled;
mod chat;
mod convert;
mod decode_args;
mod devices;
mod eval;
mod fill;
mod generate;
mod inspect;
mod model_args;
mod report;
mod serve;
mod subject;
mod synth;
#[cfg(feature = "train")]
mod train;
mod tune;
mod verify;
mod view;
mod watch;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Portable inference for diffusion and autoregressive language models, on any GPU through Vulkan, Metal or DX12.
#[derive(Parser)]
#[command(name = "remask", version, about, propagate_version = true, after_help = VARIABLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Variables that are no option's.
const VARIABLES: &str = "Environment:
  REMASK_CACHE_DIR  Folder for compiled kernels and tuning, in place of the system's for caches; empty for none
  REMASK_LOG        Log filter, such as info or remask_wgpu=debug";

#[derive(Subcommand)]
enum Command {
    /// Answer a prompt: by filling in a canvas of masked tokens, or token after token
    Generate(generate::Args),
    /// Hold a conversation
    Chat(chat::Args),
    /// Fill in the blanks of a text.
    #[command(about = "Fill in the blanks of a text: \"The [MASK] sat on the [MASK].\"")]
    Fill(fill::Args),
    /// Answer requests of OpenAI's clients: the same routes and fields, many requests at once
    Serve(serve::Args),
    /// Compare decoder settings on a set of questions: rows, passes, time and quality
    Eval(eval::Args),
    /// List the adapters of this machine, with the features and limits that matter
    Devices(devices::Args),
    /// Show a model's architecture, size and tensors
    Inspect(inspect::Args),
    /// Check that a device computes right, against golden cases of reference implementations
    Verify(verify::Args),
    /// Write a model with smaller weights
    Quantize(convert::Args),
    /// Write a model of a given shape with random weights, for benchmarks and load tests
    Synth(synth::Args),
    /// Measure how long passes take on a device
    Bench(bench::Args),
    /// Find the kernels that are fastest on a device, for later runs of models of this shape
    Tune(tune::Args),
    /// Train a model on a folder of text
    #[cfg(feature = "train")]
    Train(train::Args),
}

/// What a command ends with: a message for the user, or nothing where it has said everything itself.
enum Failure {
    Message(String),
    Reported,
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(e: E) -> Self {
        // Whoever reads our output has seen enough, as `head` does: there is nobody to tell more.
        match (&e as &dyn Error).downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == std::io::ErrorKind::BrokenPipe => Self::Reported,
            _ => Self::Message(e.to_string()),
        }
    }
}

type Outcome = Result<(), Failure>;

fn main() -> ExitCode {
    quiet_drivers();
    adopt_aliases();
    let command = Cli::parse().command;
    log_to_stderr(&command);
    let outcome = match command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Fill(args) => fill::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Quantize(args) => convert::run(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Tune(args) => tune::run(&args),
        #[cfg(feature = "train")]
        Command::Train(args) => train::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Reported) => ExitCode::FAILURE,
        Err(Failure::Message(message)) => {
            report::tell("error", &message);
            ExitCode::FAILURE
        }
    }
}

/// Sets up the log. A server says what it answers.
fn log_to_stderr(command: &Command) {
    let usual = match command {
        Command::Serve(_) => "warn,remask_server=info",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_env("REMASK_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match command {
        Command::Serve(args) if args.log_format() == serve::LogFormat::Json => log.json().flatten_event(true).init(),
        Command::Serve(_) => log.init(),
        _ => log.without_time().init(),
    }
}

/// Mesa's device-selection layer asks for a desktop and prints an error where there is none. We choose
/// adapters ourselves, so on a machine without a desktop it is switched off.
fn quiet_drivers() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: the first thing that main does, before any other thread exists.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// Our variables, and the names that earlier systems gave the same settings.
const ALIASES: &[(&str, &str)] = &[
    ("REMASK_MOR", "VDIFF_ENABLE_MOR"),
    ("REMASK_MOR", "VDIFF_MOR_ENABLED"),
    ("REMASK_MOR_MIN_RECURSIONS", "VDIFF_MOR_MIN_RECURSIONS"),
    ("REMASK_MOR_MAX_RECURSIONS", "VDIFF_MOR_MAX_RECURSIONS"),
    ("REMASK_MOR_STRATEGY", "VDIFF_MOR_STRATEGY"),
    ("REMASK_MOR_CONFIDENCE_HIGH", "VDIFF_MOR_CONFIDENCE_HIGH"),
    ("REMASK_MOR_CONFIDENCE_HIGH", "VDIFF_MOR_CONF_HIGH"),
    ("REMASK_MOR_CONFIDENCE_LOW", "VDIFF_MOR_CONFIDENCE_LOW"),
    ("REMASK_MOR_CONFIDENCE_LOW", "VDIFF_MOR_CONF_LOW"),
    ("REMASK_MOR_SKIP_THRESHOLD", "VDIFF_MOR_SKIP_THRESHOLD"),
    ("REMASK_MOR_LOG_STATS", "VDIFF_MOR_LOG_STATS"),
    ("REMASK_STEPS", "VDIFF_DIFFUSION_STEPS"),
    ("REMASK_BLOCK_LENGTH", "VDIFF_BLOCK_SIZE"),
    ("REMASK_EARLY_STOP", "VDIFF_EARLY_STOPPING"),
    ("REMASK_MODEL", "VDIFF_MODEL"),
    ("REMASK_MODEL", "MODEL_NAME"),
    ("REMASK_HOST", "VDIFF_HOST"),
    ("REMASK_PORT", "VDIFF_PORT"),
    ("REMASK_PORT", "PORT"),
    ("REMASK_API_KEY", "VDIFF_API_KEY"),
    ("REMASK_ALLOWED_ORIGINS", "VDIFF_ALLOWED_ORIGINS"),
    ("REMASK_MAX_MODEL_LEN", "VDIFF_MAX_MODEL_LEN"),
    ("REMASK_MAX_PASS_ROWS", "VDIFF_MAX_NUM_BATCHED_TOKENS"),
    ("REMASK_MAX_CONCURRENT_REQUESTS", "VDIFF_MAX_CONCURRENT"),
    ("REMASK_MAX_QUEUE_SIZE", "VDIFF_MAX_QUEUE_SIZE"),
    ("REMASK_REQUEST_TIMEOUT", "VDIFF_REQUEST_TIMEOUT"),
    ("REMASK_RATE_LIMIT_REQUESTS", "VDIFF_RATE_LIMIT_REQUESTS"),
    ("REMASK_RATE_LIMIT_WINDOW", "VDIFF_RATE_LIMIT_WINDOW"),
    ("REMASK_LOG", "VDIFF_LOG_LEVEL"),
];

/// Lets deployments of dfastllm keep their settings; our own names win.
fn adopt_aliases() {
    for &(ours, alias) in ALIASES {
        if let (None, Some(value)) = (std::env::var_os(ours), std::env::var_os(alias)) {
            // SAFETY: called at the start of main, before any other thread exists.
            unsafe { std::env::set_var(ours, value) };
        }
    }
}
