//! `remask`: the command line of the engine.

mod backend;
mod bench;
mod bundled;
mod chat;
mod convert;
mod decode_args;
mod devices;
mod environment;
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
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
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
    // Images and scripts put their options in front of a user's: the last one counts.
    #[command(args_override_self = true)]
    Serve(Box<serve::Args>),
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
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Reported) => ExitCode::FAILURE,
        Err(Failure::Message(message)) => {
            report::tell("error", &message);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome {
    let args: Vec<OsString> = std::env::args_os().collect();
    let serving = serve::is_asked(&args);
    let mut adopted = environment::adopt(serving).map_err(Failure::Message)?;
    let command = Cli::command();
    let completed = if serving {
        serve::complete(&command, args)?
    } else {
        serve::Completed { args, file: None, notes: Vec::new() }
    };
    adopted.notes.extend(completed.notes.iter().cloned());
    let matches = command.clone().try_get_matches_from(&completed.args);
    let matches = matches.map_err(|error| refuse(&error, &command, &adopted, &completed))?;
    let parsed = Cli::from_arg_matches(&matches).map_err(|error| refuse(&error, &command, &adopted, &completed))?;
    let command = match parsed.command {
        Command::Serve(args) => {
            let (Some(serve), Some((_, matches))) = (command.find_subcommand("serve"), matches.subcommand()) else {
                return Err(Failure::Reported);
            };
            return serve::run(&args, serve, matches, &adopted.notes);
        }
        other => other,
    };
    log_to_stderr()?;
    match command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Fill(args) => fill::run(&args),
        // It has run above.
        Command::Serve(_) => Ok(()),
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
    }
}

/// What is wrong with a command line, a variable or a configuration file. Help is no error, and ends here.
fn refuse(
    error: &clap::Error,
    command: &clap::Command,
    adopted: &environment::Adopted,
    completed: &serve::Completed,
) -> Failure {
    let asked = completed.args.get(1).and_then(|name| command.find_subcommand(name));
    let mut explained = None;
    if let Some(mut asked) = asked.cloned() {
        asked.build();
        explained = completed
            .blame(error, &asked)
            .or_else(|| adopted.explain(error, &asked, completed.args.get(2..).unwrap_or_default()));
    }
    match explained {
        Some(explained) => Failure::Message(explained),
        None => error.exit(),
    }
}

/// Sets up the log of every command but the server.
fn log_to_stderr() -> Outcome {
    let filter = match std::env::var("REMASK_LOG") {
        Ok(filter) => serve::filter(&filter).map_err(|why| Failure::Message(format!("REMASK_LOG={filter}: {why}")))?,
        Err(_) => EnvFilter::new("warn"),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    Ok(())
}

/// Mesa's device-selection layer asks for a desktop and prints an error where there is none. We choose
/// adapters ourselves, so on a machine without a desktop it is switched off.
fn quiet_drivers() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: the first thing that main does, before any other thread exists.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
