//! The settings that are compared.

use std::str::FromStr;

use clap::Parser;
use remask_core::{DecodeOptions, Error, Model};

use crate::decode_args::SettingArgs;

/// A decoder setting with a name. Settings whose names differ in the last word only are points of one
/// curve.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What it is called.
    pub name: String,
    /// The options it stands for, as they are written.
    pub line: String,
    args: SettingArgs,
}

/// A line of options by itself.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    settings: SettingArgs,
}

impl Setting {
    /// The decoder options for answers of this length by a model.
    pub fn options(&self, model: &Model, max_tokens: usize) -> Result<DecodeOptions, Error> {
        self.args.options(&model.architecture, &model.defaults, max_tokens)
    }

    /// The decoder that the setting is a point of.
    pub fn curve(&self) -> &str {
        self.name.rsplit_once(' ').map_or(&self.name, |(curve, _)| curve)
    }
}

impl FromStr for Setting {
    type Err = String;

    /// `NAME=OPTIONS`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, line) = text.split_once('=').ok_or("write NAME=OPTIONS, as in \"sure=--threshold 0.95\"")?;
        let parsed = Line::try_parse_from(line.split_whitespace()).map_err(|e| {
            // clap's text is for a whole command line: its first line says what is wrong.
            e.to_string().lines().next().unwrap_or_default().to_owned()
        })?;
        Ok(Self { name: name.trim().to_owned(), line: line.trim().to_owned(), args: parsed.settings })
    }
}

/// What everything is held against: LLaDA's loop at dfastllm's steps, every row in every pass to the end.
const FULL: &str = "full=--quality --steps 64 --early-stop=false";

/// Full compute and the presets; an autoregressive model has but one way.
pub fn presets(model: &Model) -> Vec<Setting> {
    let lines: &[&str] = if model.architecture.is_diffusion() {
        &[FULL, "quality=--quality", "balanced=--balanced", "fast=--fast"]
    } else {
        &["greedy=--temperature 0"]
    };
    lines.iter().filter_map(|line| line.parse().ok()).collect()
}

/// Every rule, cache and depth over a range of values.
pub fn full() -> Vec<Setting> {
    let mut lines: Vec<String> = vec![FULL.to_owned()];
    let mut curve = |name: &str, points: &[&str], options: &str| {
        lines.extend(points.iter().map(|p| format!("{name} {p}={}", options.replace("{}", p))));
    };
    let whole = "--quality --early-stop=false";
    curve("steps", &["128", "32", "16", "8"], &format!("{whole} --steps {{}}"));
    curve("MoR max", &["2", "3", "4", "6"], &format!("{whole} --steps 64 --mor --mor-max-recursions {{}}"));
    curve(
        "MoR by",
        &["entropy", "margin", "gradient", "fixed"],
        &format!("{whole} --steps 64 --mor --mor-strategy {{}}"),
    );
    curve("cache", &["prefix", "dual", "delayed", "vicinity"], &format!("{whole} --steps 64 --cache {{}}"));
    curve("adaptive steps", &["0.99", "0.95", "0.9"], &format!("{whole} --steps 64 --adaptive-steps {{}}"));
    curve("ends", &["stop"], "--quality --steps 64");
    curve("ends", &["freed"], "--quality --steps 64 --free-tail");
    let ends = "--quality --free-tail";
    let values: &[(&str, &[&str])] = &[
        ("threshold", &["0.99", "0.95", "0.9", "0.8", "0.7", "0.6", "0.5", "0.4"]),
        ("factor", &["0.25", "0.5", "1", "1.5", "2"]),
        ("entropy", &["0.05", "0.1", "0.2", "0.4", "0.8", "1.6"]),
        ("margin", &["0.95", "0.9", "0.8", "0.6", "0.4"]),
        ("hierarchy", &["0.95,0.8", "0.9,0.6", "0.8,0.4"]),
        ("credit", &["0.95", "0.9", "0.8"]),
        ("local-leap", &["0.95,0.85", "0.9,0.75", "0.9,0.6"]),
        ("parallel", &["8,0.9", "8,0.7", "8,0.5", "8,0.3"]),
    ];
    for (rule, points) in values {
        curve(rule, points, &format!("{ends} --accept {rule}:{{}}"));
    }
    let thresholds = ["0.9", "0.7", "0.5"];
    for cache in ["prefix", "dual", "delayed", "vicinity"] {
        curve(&format!("{cache} + threshold"), &thresholds, &format!("{ends} --cache {cache} --threshold {{}}"));
    }
    curve("MoR + threshold", &thresholds, &format!("{ends} --mor --threshold {{}}"));
    curve("dual + MoR + threshold", &thresholds, &format!("{ends} --cache dual --mor --threshold {{}}"));
    curve("vicinity + MoR + threshold", &thresholds, &format!("{ends} --cache vicinity --mor --threshold {{}}"));
    curve("verify + threshold", &thresholds, &format!("{ends} --revise verify --threshold {{}}"));
    lines.extend(["preset quality=--quality", "preset balanced=--balanced", "preset fast=--fast"].map(str::to_owned));
    lines.iter().filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_the_sweep_can_be_read_and_run() {
        let (model, sweep) = (crate::model_args::open_model("tales-33m").unwrap(), full());
        assert_eq!((presets(&model).len(), sweep.len()), (4, 1 + 4 + 4 + 4 + 4 + 3 + 2 + 37 + 12 + 12 + 3));
        for setting in &sweep {
            let options = setting.options(&model, 128).unwrap();
            assert!(options.check_settings().is_ok(), "{}", setting.name);
        }
        assert_eq!(sweep[5].curve(), "MoR max");
    }

    #[test]
    fn a_setting_that_cannot_be_read_is_refused() {
        assert!("no options".parse::<Setting>().is_err());
        let message = "bad=--accept best".parse::<Setting>().unwrap_err();
        assert!(message.contains("best"), "{message}");
    }
}
