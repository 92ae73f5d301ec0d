//! `remask serve`.

mod args;
mod cache;
mod file;
mod log;
mod start;
pub mod theirs;

use std::ffi::OsString;

use clap::{ArgMatches, Command};

pub use self::args::Args;
pub use self::file::{Completed, complete};
pub use self::log::filter;
use crate::{Failure, Outcome};

/// Runs the command, or prints what its options come to.
pub fn run(args: &Args, command: &Command, matches: &ArgMatches, notes: &[String]) -> Outcome {
    if args.print_config() {
        use std::io::Write;
        notes.iter().for_each(|note| crate::report::tell("note", note));
        args.config()?;
        return Ok(std::io::stdout().write_all(file::print(command, matches).as_bytes())?);
    }
    let (filter, format) = args.log();
    let _rest = log::begin(self::filter(filter).map_err(Failure::Message)?, format);
    start::run(args, log::Voice(format), notes)
}

/// Whether this command line runs a server.
pub fn is_asked(args: &[OsString]) -> bool {
    args.get(1).is_some_and(|command| command == "serve")
}
