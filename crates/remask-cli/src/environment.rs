//! Variables that stand for options: ours, and those that deployments of dfastllm set.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::serve::theirs::{MEANINGLESS, acceptance, weights_of};

/// Our variables, and the names that dfastllm gave the same settings. The earlier name goes first.
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

/// Variables of dfastllm that [`composed`] reads.
const COMPOSED: &[&str] = &[
    "VDIFF_TOKENIZER",
    "VDIFF_DTYPE",
    "VDIFF_USE_8BIT",
    "VDIFF_USE_4BIT",
    "VDIFF_ENABLE_APD",
    "VDIFF_APD_MAX_PARALLEL",
    "VDIFF_APD_THRESHOLD",
    "VDIFF_ADAPTIVE_STEPS",
    "VDIFF_CONFIDENCE_THRESHOLD",
    "VDIFF_ATTENTION_CACHE",
    "VDIFF_ATTENTION_CACHE_INTERVAL",
];

/// Where the values of our variables come from, where that is not the variable itself.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Our variable: the other one and its value.
    origins: BTreeMap<&'static str, (String, OsString)>,
    /// What there is to say about variables that are set.
    pub notes: Vec<String>,
}

/// Lets deployments of dfastllm keep their settings; our own names win. `serving` says whether this process is a
/// server.
///
/// # Errors
/// A variable whose value makes no sense, with that value.
pub fn adopt(serving: bool) -> Result<Adopted, String> {
    let mut adopted = Adopted::default();
    let get = |name: &str| std::env::var_os(name);
    if serving {
        for name in ["REMASK_PORT", "VDIFF_PORT", "PORT"] {
            // Kubernetes and Docker describe a service called "remask" by variables of its name.
            if let Some(value) = get(name).filter(|value| value.to_string_lossy().contains("://")) {
                let value = value.to_string_lossy().into_owned();
                adopted.notes.push(format!("{name}={value} describes a service and no port; it is passed over"));
                // SAFETY: called at the start of main, before any other thread exists.
                unsafe { std::env::remove_var(name) };
            }
        }
    }
    let mut found: Vec<_> = ALIASES
        .iter()
        .filter_map(|(ours, theirs)| get(theirs).map(|value| (*ours, value.clone(), *theirs, value)))
        .collect();
    if serving {
        found.extend(composed(&get)?.into_iter().map(|(ours, value, theirs, said)| (ours, value.into(), theirs, said)));
        let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        adopted.notes.extend(notes(set));
    }
    for (ours, value, theirs, said) in found {
        if get(ours).is_none() {
            // SAFETY: as above.
            unsafe { std::env::set_var(ours, &value) };
            adopted.origins.insert(ours, (theirs.to_owned(), said));
        }
    }
    Ok(adopted)
}

type Composed = (&'static str, String, &'static str, OsString);

/// Variables of ours that several of theirs, or one in other words, come to: ours, its value, theirs, its value.
fn composed(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Vec<Composed>, String> {
    let text = |name: &str| get(name).map(|value| value.to_string_lossy().into_owned());
    let switch = |name: &str| text(name).map(|value| boolish(name, &value)).transpose();
    let mut all = Vec::new();
    let mut add = |ours, value: Option<String>, theirs: &'static str| {
        if let Some(value) = value {
            all.push((ours, value, theirs, get(theirs).unwrap_or_default()));
        }
    };
    // Theirs is a name on a hub as a rule, the model's own.
    let model = text("VDIFF_MODEL").or_else(|| text("MODEL_NAME"));
    add("REMASK_TOKENIZER", text("VDIFF_TOKENIZER").filter(|name| Some(name) != model.as_ref()), "VDIFF_TOKENIZER");
    let small = |name: &str, format: &str| Ok::<_, String>(switch(name)?.filter(|on| *on).map(|_| format.to_owned()));
    add("REMASK_WEIGHTS", small("VDIFF_USE_4BIT", "q4")?, "VDIFF_USE_4BIT");
    add("REMASK_WEIGHTS", small("VDIFF_USE_8BIT", "q8")?, "VDIFF_USE_8BIT");
    if let Some(dtype) = text("VDIFF_DTYPE") {
        let known = weights_of(&dtype)
            .ok_or_else(|| format!("VDIFF_DTYPE={dtype}: it must be auto, float16, bfloat16 or float32"))?;
        add("REMASK_WEIGHTS", known.map(str::to_owned), "VDIFF_DTYPE");
    }
    let on = switch("VDIFF_ENABLE_APD")?;
    let (most, threshold) = (text("VDIFF_APD_MAX_PARALLEL"), text("VDIFF_APD_THRESHOLD"));
    let blamed = match (&threshold, &most) {
        (Some(_), _) => "VDIFF_APD_THRESHOLD",
        (_, Some(_)) => "VDIFF_APD_MAX_PARALLEL",
        _ => "VDIFF_ENABLE_APD",
    };
    for (name, value) in [("VDIFF_APD_MAX_PARALLEL", &most), ("VDIFF_APD_THRESHOLD", &threshold)] {
        is_number(name, value.as_deref())?;
    }
    add("REMASK_ACCEPT", acceptance(on, most, threshold), blamed);
    let (adaptive, confidence) = (switch("VDIFF_ADAPTIVE_STEPS")?, text("VDIFF_CONFIDENCE_THRESHOLD"));
    if let Some(value) = confidence.as_deref().filter(|p| !p.parse().is_ok_and(|p: f32| (0.0..=1.0).contains(&p))) {
        return Err(format!("VDIFF_CONFIDENCE_THRESHOLD={value}: it must be a number from 0 to 1"));
    }
    let steps = match (adaptive, confidence) {
        (Some(false), _) | (None, None) => None,
        (_, confidence) => Some(confidence.unwrap_or_else(|| "0.95".to_owned())),
    };
    let blamed =
        if get("VDIFF_CONFIDENCE_THRESHOLD").is_some() { "VDIFF_CONFIDENCE_THRESHOLD" } else { "VDIFF_ADAPTIVE_STEPS" };
    add("REMASK_ADAPTIVE_STEPS", steps, blamed);
    let interval = text("VDIFF_ATTENTION_CACHE_INTERVAL");
    is_number("VDIFF_ATTENTION_CACHE_INTERVAL", interval.as_deref())?;
    let cache = switch("VDIFF_ATTENTION_CACHE")?.map(|on| match (on, interval) {
        (true, interval) => format!("delayed:{}", interval.unwrap_or_else(|| "4".to_owned())),
        (false, _) => "none".to_owned(),
    });
    add("REMASK_CACHE", cache, "VDIFF_ATTENTION_CACHE");
    Ok(all)
}

fn is_number(name: &str, value: Option<&str>) -> Result<(), String> {
    match value {
        Some(value) if value.trim().parse::<f64>().is_err() => Err(format!("{name}={value}: it must be a number")),
        _ => Ok(()),
    }
}

fn boolish(name: &str, value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" | "on" => Ok(true),
        "false" | "0" | "no" | "n" | "f" | "off" => Ok(false),
        _ => Err(format!("{name}={value}: it must be true or false")),
    }
}

/// What there is to say about variables that are set and change nothing.
fn notes(set: impl Iterator<Item = String>) -> Vec<String> {
    let known = |name: &str| ALIASES.iter().any(|(_, theirs)| *theirs == name) || COMPOSED.contains(&name);
    let mut notes: Vec<_> = set
        .filter(|name| name.starts_with("VDIFF_") && !known(name))
        // Kubernetes and Docker describe a service called "vdiff" like this.
        .filter(|name| !name.starts_with("VDIFF_SERVICE_") && !name.starts_with("VDIFF_PORT_"))
        .map(|name| match MEANINGLESS.iter().find(|(_, names, _)| names.contains(&name.as_str())) {
            Some((.., why)) => format!("{name} means nothing here: {why}"),
            None => format!("{name} is set, but no setting of this server or of dfastllm"),
        })
        .collect();
    notes.sort();
    notes
}

impl Adopted {
    /// An error of the command line in words that name the variable, where a variable is to blame.
    pub fn explain(&self, error: &clap::Error, command: &clap::Command, args: &[OsString]) -> Option<String> {
        if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
            return None;
        }
        let said = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let (shown, value) = (said(ContextKind::InvalidArg)?, said(ContextKind::InvalidValue)?);
        let arg = command.get_arguments().find(|arg| arg.to_string() == shown)?;
        let name = arg.get_env()?.to_str()?;
        let set = std::env::var_os(name)?;
        let listed =
            || arg.get_value_delimiter().is_some_and(|d| set.to_string_lossy().split(d).any(|one| one == value));
        let on_line = args.iter().any(|given| is_given(arg, &given.to_string_lossy()));
        if on_line || !(set.to_string_lossy() == value || listed()) {
            return None;
        }
        let (name, value) = match self.origins.get_key_value(name) {
            Some((_, (theirs, said))) => (theirs.as_str(), said.to_string_lossy().into_owned()),
            None => (name, set.to_string_lossy().into_owned()),
        };
        // What a hidden variable holds stays hidden.
        let value = if arg.is_hide_env_values_set() { "…" } else { value.as_str() };
        Some(format!("{name}={value}: {}", reason(error)))
    }
}

/// Whether a word of the command line is this option.
fn is_given(arg: &clap::Arg, word: &str) -> bool {
    let longs = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
    let mut words = longs.map(|long| format!("--{long}"));
    words.any(|long| word == long || word.strip_prefix(&long).is_some_and(|rest| rest.starts_with('=')))
        || arg.get_short().is_some_and(|short| word.starts_with(&format!("-{short}")) && !word.starts_with("--"))
}

/// Why clap refuses a value.
pub fn reason(error: &clap::Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => format!("it must be one of {}", valid.join(", ")),
        _ => "it is not a value of this option".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(set: &[(&str, &str)]) -> Result<Vec<(&'static str, String, &'static str)>, String> {
        let get = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        Ok(composed(&get)?.into_iter().map(|(ours, value, theirs, _)| (ours, value, theirs)).collect())
    }

    #[test]
    fn settings_of_theirs_in_several_variables_become_one_of_ours() {
        for (set, expected) in [
            (&[("VDIFF_ENABLE_APD", "false"), ("VDIFF_APD_THRESHOLD", "0.5")][..], ("REMASK_ACCEPT", "quota")),
            (&[("VDIFF_ENABLE_APD", "True")], ("REMASK_ACCEPT", "parallel:8,0.3")),
            (&[("VDIFF_APD_MAX_PARALLEL", "4")], ("REMASK_ACCEPT", "parallel:4,0.3")),
            (&[("VDIFF_ADAPTIVE_STEPS", "1")], ("REMASK_ADAPTIVE_STEPS", "0.95")),
            (&[("VDIFF_CONFIDENCE_THRESHOLD", "0.9")], ("REMASK_ADAPTIVE_STEPS", "0.9")),
            (
                &[("VDIFF_ATTENTION_CACHE", "yes"), ("VDIFF_ATTENTION_CACHE_INTERVAL", "6")],
                ("REMASK_CACHE", "delayed:6"),
            ),
            (&[("VDIFF_ATTENTION_CACHE", "no")], ("REMASK_CACHE", "none")),
            (&[("VDIFF_DTYPE", "bfloat16")], ("REMASK_WEIGHTS", "bf16")),
            (&[("VDIFF_USE_8BIT", "true"), ("VDIFF_DTYPE", "auto")], ("REMASK_WEIGHTS", "q8")),
        ] {
            let all = of(set).unwrap();
            assert_eq!(
                all.iter().map(|(ours, value, _)| (*ours, value.as_str())).collect::<Vec<_>>(),
                [expected],
                "{set:?}"
            );
        }
        assert_eq!(of(&[("VDIFF_ADAPTIVE_STEPS", "0"), ("VDIFF_USE_4BIT", "0"), ("VDIFF_DTYPE", "auto")]).unwrap(), []);
        assert_eq!(of(&[("VDIFF_MODEL", "a/b"), ("VDIFF_TOKENIZER", "a/b")]).unwrap(), []);
        for (name, value) in [("VDIFF_ENABLE_APD", "maybe"), ("VDIFF_APD_THRESHOLD", "x"), ("VDIFF_DTYPE", "int3")] {
            let problem = of(&[(name, value)]).unwrap_err();
            assert!(problem.starts_with(&format!("{name}={value}: it must be")), "{problem}");
        }
    }

    #[test]
    fn variables_that_mean_nothing_are_said() {
        let set = [
            "VDIFF_PORT",
            "VDIFF_WORKERS",
            "PATH",
            "VDIFF_ENABLE_APD",
            "VDIFF_HYBRID_MODE",
            "VDIFF_X",
            "VDIFF_SERVICE_HOST",
        ];
        let notes = notes(set.iter().map(|name| (*name).to_owned()));
        let begin: Vec<_> = notes.iter().map(|note| note.split(' ').next().unwrap()).collect();
        assert_eq!(begin, ["VDIFF_HYBRID_MODE", "VDIFF_WORKERS", "VDIFF_X"], "{notes:?}");
    }
}
