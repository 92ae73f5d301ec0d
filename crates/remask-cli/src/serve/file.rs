//! The configuration file: options by name, as TOML. Options and variables go before what it says.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use remask_core::Error;
use toml::{Table, Value};

use super::theirs;
use crate::Failure;
use crate::environment::reason;

/// Options of which one says what several do: where one is given, the file's others do not count.
const EITHER: [&[&str]; 2] = [&["fast", "balanced", "quality", "preset"], &["accept", "threshold"]];
/// Options that are no part of a configuration.
const APART: [&str; 4] = ["config", "print-config", "help", "version"];
/// Bytes of a file; more is no configuration.
const MOST_BYTES: u64 = 1 << 20;

/// A command line with what its configuration file and flags of dfastllm come to.
pub struct Completed {
    /// The whole of it.
    pub args: Vec<OsString>,
    /// The file, where there is one, and which options it gave.
    pub file: Option<(PathBuf, Vec<String>)>,
    /// What there is to say.
    pub notes: Vec<String>,
}

impl Completed {
    /// An error of the command line in words that name the file, where that is to blame.
    pub fn blame(&self, error: &clap::Error, serve: &Command) -> Option<String> {
        let (file, given) = self.file.as_ref()?;
        let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return None };
        let arg = serve.get_arguments().find(|arg| arg.to_string() == *shown)?;
        let long = given.iter().find(|long| arg.get_long() == Some(long))?;
        let value = match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) if !arg.is_hide_env_values_set() => value,
            _ => "…",
        };
        Some(format!("{}: {long} = {value}: {}", file.display(), reason(error)))
    }
}

/// Completes the command line of `remask serve`. A line that cannot be parsed stays as it is: whoever parses it next
/// says why.
pub fn complete(command: &Command, args: Vec<OsString>) -> Result<Completed, Failure> {
    // argparse knows short options of two letters.
    let args: Vec<OsString> =
        args.into_iter().map(|arg| if arg == "-tp" { "--tensor-parallel-size".into() } else { arg }).collect();
    let mut done = Completed { args, file: None, notes: Vec::new() };
    let Some(serve) = command.find_subcommand("serve") else { return Ok(done) };
    let parsed = command.clone().try_get_matches_from(&done.args);
    let Some((_, matches)) = parsed.as_ref().ok().and_then(|matches| matches.subcommand()) else { return Ok(done) };
    let mut more: Vec<OsString> = Vec::new();
    for (name, value) in theirs::translated(matches) {
        if !is_set(serve, matches, name, false) {
            more.push(format!("--{name}={value}").into());
        }
    }
    done.notes = theirs::notes(matches);
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    done.notes.extend(strangers(serve, set));
    if let Some(path) = matches.get_one::<PathBuf>("config") {
        let mut given = Vec::new();
        let translated = more.clone();
        for (arg, values) in read(serve, path)? {
            let long = arg.get_long().unwrap_or_default().to_owned();
            let prefix = format!("--{long}=");
            let said = translated.iter().any(|other| other.to_string_lossy().starts_with(&prefix));
            if said || is_set(serve, matches, &long, true) {
                continue;
            }
            more.extend(values.into_iter().map(OsString::from));
            given.push(long);
        }
        done.file = Some((path.clone(), given));
    }
    // Behind the command's name, so that what follows goes on as it did.
    done.args.splice(2..2, more);
    Ok(done)
}

/// Variables that begin as ours do and that nothing reads: a key that is misspelt would leave the server open.
fn strangers(serve: &Command, set: impl Iterator<Item = String>) -> Vec<String> {
    let known: Vec<_> = serve.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    // Kubernetes and Docker describe a service called "remask" like this.
    let service = |name: &str| name.starts_with("REMASK_SERVICE_") || name.starts_with("REMASK_PORT_");
    let stranger = |name: &String| name.starts_with("REMASK_") && !known.contains(&name.as_str()) && !service(name);
    let mut notes: Vec<_> = set
        .filter(stranger)
        .map(|name| {
            let near = known.iter().map(|other| (strsim::jaro_winkler(other, &name), other));
            let near = near.filter(|(likeness, _)| *likeness > 0.93).max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = near.map(|(_, other)| format!("; is {other} meant?")).unwrap_or_default();
            format!("{name} is set, but no setting of this server{hint}")
        })
        .collect();
    notes.sort();
    notes
}

/// Whether an option, or one that says the same, is on the command line, or set by a variable.
fn is_set(serve: &Command, matches: &ArgMatches, long: &str, or_variable: bool) -> bool {
    let same = EITHER.iter().find(|either| either.contains(&long)).copied();
    let sources = |long: &str| {
        let arg = serve.get_arguments().find(|arg| arg.get_long() == Some(long));
        arg.and_then(|arg| matches.value_source(arg.get_id().as_str()))
    };
    let counts = |source| match source {
        Some(ValueSource::CommandLine) => true,
        Some(ValueSource::EnvVariable) => or_variable,
        _ => false,
    };
    let first_model = long == "model" && counts(matches.value_source("first"));
    first_model || counts(sources(long)) || same.into_iter().flatten().any(|other| counts(sources(other)))
}

/// The options of a file, each with its words on a command line.
fn read<'a>(serve: &'a Command, path: &Path) -> Result<Vec<(&'a Arg, Vec<String>)>, Failure> {
    let wrong = |problem: String| Failure::Message(format!("{}: {problem}", path.display()));
    let size = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
    if size > MOST_BYTES {
        return Err(wrong(format!("it has {size} bytes, which is no configuration")));
    }
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let table: Table = text.parse().map_err(|problem: toml::de::Error| wrong(problem.to_string().trim().to_owned()))?;
    let mut found: Vec<(&Arg, Vec<String>)> = Vec::new();
    for (key, value) in &table {
        match value {
            // A table brings order to the file, or says the first word of its keys.
            Value::Table(inside) => {
                for (name, value) in inside {
                    let shown = format!("{key}.{name}");
                    let joined = if name == "enabled" { key.clone() } else { format!("{key}-{name}") };
                    let arg =
                        option(serve, &joined).or_else(|| option(serve, name)).ok_or_else(|| unknown(serve, &shown));
                    add(&mut found, arg.map_err(wrong)?, &shown, value).map_err(wrong)?;
                }
            }
            _ => {
                let arg = option(serve, key).ok_or_else(|| unknown(serve, key)).map_err(wrong)?;
                add(&mut found, arg, key, value).map_err(wrong)?;
            }
        }
    }
    Ok(found)
}

/// The option of a name, which may be written with underscores.
fn option<'a>(serve: &'a Command, name: &str) -> Option<&'a Arg> {
    let name = name.replace('_', "-");
    options(serve).find(|arg| {
        arg.get_long() == Some(name.as_str()) || arg.get_all_aliases().is_some_and(|all| all.contains(&name.as_str()))
    })
}

/// What may stand in a file.
fn options(serve: &Command) -> impl Iterator<Item = &Arg> {
    serve.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_long().is_some_and(|long| !APART.contains(&long)))
}

fn unknown(serve: &Command, key: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key).replace('_', "-");
    let near = options(serve)
        .filter_map(Arg::get_long)
        .map(|long| (strsim::jaro_winkler(long, &name), long))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = near.map_or_else(|| "see remask serve --help".to_owned(), |(_, long)| format!("is {long} meant?"));
    format!("unknown key {key}; {hint}")
}

fn add<'a>(found: &mut Vec<(&'a Arg, Vec<String>)>, arg: &'a Arg, key: &str, value: &Value) -> Result<(), String> {
    if found.iter().any(|(other, _)| other.get_id() == arg.get_id()) {
        return Err(format!("{key} says again what another key has said"));
    }
    let long = arg.get_long().unwrap_or_default();
    let words = match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(on)) => on.then(|| format!("--{long}")).into_iter().collect(),
        (ArgAction::SetTrue, _) => return Err(format!("{key} must be true or false")),
        (ArgAction::Append, Value::Array(all)) => {
            all.iter().map(|one| Ok(format!("--{long}={}", scalar(key, one)?))).collect::<Result<_, String>>()?
        }
        (_, one) => vec![format!("--{long}={}", scalar(key, one)?)],
    };
    found.push((arg, words));
    Ok(())
}

fn scalar(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(on) => Ok(on.to_string()),
        other => Err(format!("{key} cannot be of type {}", other.type_str())),
    }
}

/// A configuration as a file, without its keys.
pub fn print(serve: &Command, matches: &ArgMatches) -> String {
    let mut text = format!("# remask serve {}\n", env!("CARGO_PKG_VERSION"));
    let mut heading = None;
    for arg in options(serve) {
        let (id, long) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
        let preset = EITHER[0].iter().find(|name| matches.try_get_one::<bool>(name).ok().flatten() == Some(&true));
        let mut values: Vec<String> =
            matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect();
        match long {
            "fast" | "balanced" | "quality" => continue,
            "preset" => values = preset.map_or(values, |name| vec![(*name).to_owned()]),
            "model" => {
                let first = matches.get_one::<String>("first").cloned();
                values = first.into_iter().chain(values).collect();
                if values.is_empty() {
                    values.push(crate::bundled::BUNDLED.name.to_owned());
                }
            }
            _ => {}
        }
        if values.is_empty() {
            continue;
        }
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            text += &heading.map(|heading| format!("\n# {heading}\n")).unwrap_or_default();
        }
        if arg.is_hide_env_values_set() {
            text += &format!("# {long}: {}, not shown\n", if values.len() == 1 { "one" } else { "several" });
            continue;
        }
        let is_text = arg.get_value_parser().type_id() == std::any::TypeId::of::<String>();
        let shown: Vec<_> = values.iter().map(|value| literal(value, is_text)).collect();
        let list = matches!(arg.get_action(), ArgAction::Append);
        let value = if list { format!("[{}]", shown.join(", ")) } else { shown.concat() };
        text += &format!("{long} = {value}\n");
    }
    text
}

/// A value as TOML writes it, so that reading gives the same words.
fn literal(value: &str, is_text: bool) -> String {
    let same = |shown: String| (shown == value).then_some(shown);
    let number = || {
        let whole = value.parse::<i64>().ok().and_then(|number| same(number.to_string()));
        whole.or_else(|| value.parse::<f64>().ok().filter(|n| n.is_finite()).and_then(|n| same(format!("{n:?}"))))
    };
    let plain = if matches!(value, "true" | "false") { Some(value.to_owned()) } else { number() };
    plain.filter(|_| !is_text).unwrap_or_else(|| Value::String(value.to_owned()).to_string())
}
