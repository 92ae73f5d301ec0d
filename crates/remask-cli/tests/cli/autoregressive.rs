//! Models that write token after token, from end to end; on the CPU, which every machine has.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use super::{json_of, refused, remask, run, works};

/// A model that came with the program, by its name.
const MODEL: [&str; 4] = ["--model", "tales-ar-7m", "--backend", "cpu"];

fn capital(more: &[&str]) -> Value {
    let mut command = remask(&["generate", "What is the capital of France?", "--json", "--max-tokens", "20"]);
    command.args(MODEL).args(more);
    json_of(command)
}

#[test]
fn a_question_is_answered_and_costs_a_row_a_token() {
    let answer = capital(&[]);
    assert_eq!(
        (&answer["text"], &answer["finish_reason"]),
        (&"The capital of France is Paris.".into(), &"stop".into())
    );
    let count = |key: &str| answer[key].as_u64().unwrap();
    // The prompt's pass gives the first token, and the end is a token too.
    assert_eq!(count("forward_passes"), count("completion_tokens") + 1);
    assert_eq!(count("rows_computed"), count("prompt_tokens") + count("completion_tokens"));
}

#[test]
fn a_seed_gives_the_same_text_and_filters_count() {
    let sampled = |more: &[&str]| capital(&[&["--temperature", "1.5", "--ignore-eos"], more].concat())["text"].clone();
    assert_eq!(sampled(&["--seed", "3"]), sampled(&["--seed", "3"]));
    assert_ne!(sampled(&["--seed", "3"]), sampled(&["--seed", "4"]));
    assert_eq!(sampled(&["--top-k", "1"]), capital(&["--ignore-eos"])["text"]);
}

#[test]
fn settings_of_diffusion_are_refused_by_name() {
    for (option, value) in [("--steps", "8"), ("--cache", "dual"), ("--threshold", "0.9")] {
        let mut command = remask(&["generate", "Hi", option, value]);
        command.args(MODEL);
        refused(option, &run(command), &["is a setting of diffusion models", "LlamaForCausalLM"]);
    }
}

#[test]
fn a_conversation_goes_on_is_taken_back_and_saved() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let mut command = remask(&["chat", "--system", "Be kind.", "--max-tokens", "12"]);
    command.args(MODEL).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = format!("Who are you?\n/undo\nWhat is the capital of France?\n/nonsense\n/save {}\n", file.display());
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{err}");
    assert!(out.contains("took back: Who are you?"), "{out}");
    assert!(err.contains("/nonsense is not known"), "{err}");
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let roles: Vec<_> = saved["messages"].as_array().unwrap().iter().map(|m| m["role"].clone()).collect();
    assert_eq!(roles, ["system", "user", "assistant"]);
    assert_eq!(saved["messages"][1]["content"], "What is the capital of France?");
}

#[test]
fn time_against_length_is_drawn_for_both_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("lengths.svg");
    let mut command = remask(&["bench", "--lengths", "4,8", "--beside", "tiny", "--json", "--backend", "cpu"]);
    command.args(["--model", "tales-ar-7m", "--plot"]).arg(&plot);
    let curves: Value = serde_json::from_str(&works(command).out).unwrap();
    assert_eq!((&curves[0]["kind"], &curves[1]["kind"]), (&"autoregressive".into(), &"diffusion".into()));
    assert_eq!(curves[0]["points"][1]["passes"], 8);
    // Random weights are never sure: their passes are given, and said to be.
    assert_eq!((&curves[1]["points"][0]["forced"], &curves[0]["points"][0]["forced"]), (&true.into(), &false.into()));
    assert!(curves[0]["points"][0]["nll"].as_f64().unwrap() > 0.0 && curves[1]["points"][0]["nll"].is_null());
    assert!(std::fs::read_to_string(plot).unwrap().contains("polyline"));
}
