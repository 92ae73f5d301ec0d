//! `remask train`: its loss falls, it survives being killed, and what it writes generates.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{json_of, refused, remask, run, works};

/// Sentences of a few patterns, and questions about sums: enough for a small model to learn from.
fn corpus(folder: &Path) {
    let (mut texts, mut pairs) = (String::new(), String::new());
    for (i, name) in ["Ann", "Ben", "Cora", "Dan", "Eve", "Finn"].iter().cycle().take(120).enumerate() {
        let (thing, place) = (["ball", "kite", "drum", "boat"][i % 4], ["park", "garden", "school"][i % 3]);
        writeln!(texts, "{name} has a red {thing}. {name} plays with the {thing} in the {place}.\n<|endoftext|>")
            .unwrap();
        let (a, b) = (i % 9, i % 7);
        writeln!(pairs, r#"{{"prompt": "What is {a} plus {b}?", "response": "{a} plus {b} is {}."}}"#, a + b).unwrap();
    }
    std::fs::write(folder.join("texts.txt"), texts).unwrap();
    std::fs::create_dir(folder.join("more")).unwrap();
    std::fs::write(folder.join("more/pairs.jsonl"), pairs).unwrap();
}

const SHAPE: &str = "--batch 8 --context 48 --hidden 32 --layers 2 --heads 2 --mlp 64 --vocabulary 320 \
                     --learning-rate 0.01 --warm-up 2 --average 0.5";

struct Folders {
    corpus: TempDir,
    output: TempDir,
}

impl Folders {
    fn new() -> Self {
        let folders = Self { corpus: tempfile::tempdir().unwrap(), output: tempfile::tempdir().unwrap() };
        corpus(folders.corpus.path());
        folders
    }

    fn output(&self) -> &str {
        self.output.path().to_str().unwrap()
    }

    fn train(&self, more: &str) -> Command {
        let mut command = remask(&["train", self.corpus.path().to_str().unwrap(), self.output()]);
        // What is given twice would be refused: a test's own settings replace those of the shape.
        let more: Vec<_> = more.split_whitespace().collect();
        let shape: Vec<_> = SHAPE.split_whitespace().collect();
        command.args(shape.chunks(2).filter(|option| !more.contains(&option[0])).flatten()).args(more);
        command
    }

    fn checkpoint(&self, step: u32) -> std::path::PathBuf {
        self.output.path().join(format!("checkpoints/step-{step:08}.checkpoint"))
    }
}

/// Loss and held-out loss that a run printed for a step.
fn losses(out: &str, step: u32) -> (f32, f32) {
    let line = out.lines().find(|l| l.starts_with(&format!("step {step}:"))).unwrap_or_else(|| panic!("{out}"));
    let number = |after: &str| {
        let rest = &line[line.find(after).unwrap() + after.len()..];
        rest[..rest.find([',', ' ']).unwrap_or(rest.len())].parse().unwrap()
    };
    (number(": loss "), number("held out "))
}

#[test]
fn ten_steps_lower_the_loss_and_the_model_generates() {
    let folders = Folders::new();
    let out = works(folders.train("--steps 10 --save-every 1")).out;
    let (first, last) = (losses(&out, 1), losses(&out, 10));
    // The first step is that of an untrained model, about as sure as a draw from 320 ids.
    assert!((first.0 - 320f32.ln()).abs() < 0.5, "{out}");
    assert!(last.1 < first.1 - 0.7, "{out}");
    let curve = std::fs::read_to_string(folders.output.path().join("loss.svg")).unwrap();
    assert!(curve.starts_with("<svg") && curve.contains("polyline"), "{curve}");

    let mut generate = remask(&["generate", "Ann has", "--model", folders.output(), "--max-tokens", "8", "--json"]);
    assert_eq!(json_of(generate)["weights"], "bf16");
    generate = remask(&["generate", "Ann has", "--model", folders.output(), "--max-tokens", "8", "--raw"]);
    works(generate);
    // A run that is over is not begun again.
    let again = works(folders.train("--steps 10"));
    assert!(again.err.contains("note: going on after step 10") && !again.out.contains("step 11"), "{}", again.err);
}

#[test]
fn a_killed_run_goes_on_as_if_it_had_not_been() {
    let straight = Folders::new();
    let expected = losses(&works(straight.train("--steps 12 --save-every 4")).out, 12);

    let folders = Folders::new();
    let mut child =
        folders.train("--steps 12 --save-every 4").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !folders.checkpoint(4).exists() && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folders.checkpoint(12).exists(), "it was over before it was killed");
    let ran = works(folders.train("--steps 12 --save-every 4"));
    assert!(ran.err.contains("note: going on after step "), "{}", ran.err);
    assert_eq!(losses(&ran.out, 12), expected, "{}", ran.out);

    // The newest checkpoint is cut: the one before it is used, and the end is the same.
    let file = std::fs::File::options().write(true).open(folders.checkpoint(12)).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let ran = works(folders.train("--steps 12 --save-every 4"));
    assert!(ran.err.contains("is truncated") && ran.err.contains("going on after step 8"), "{}", ran.err);
    assert_eq!(losses(&ran.out, 12), expected, "{}", ran.out);

    let other = run(folders.train("--steps 12 --save-every 4 --seed 5"));
    refused("other settings", &other, &["holds a run with other settings"]);
    std::fs::write(folders.corpus.path().join("new.txt"), "Another text.").unwrap();
    refused("another corpus", &run(folders.train("--steps 12")), &["over another corpus"]);
}

#[test]
fn what_cannot_be_trained_on_is_refused() {
    let folders = Folders::new();
    refused("no shape", &run(folders.train("--heads 5")), &["5 heads", "multiple of 10"]);
    refused("small vocabulary", &run(folders.train("--vocabulary 100")), &["vocabulary of 100", "262"]);
    let bad = folders.corpus.path().join("bad.jsonl");
    std::fs::write(&bad, "{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": 1}\n").unwrap();
    refused("no pair", &run(folders.train("")), &["bad.jsonl", "line 2"]);
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_str().unwrap();
    refused("no text", &run(remask(&["train", path, folders.output()])), &["holds no text"]);
    refused("no folder", &run(remask(&["train", "/nowhere/at/all", folders.output()])), &["/nowhere/at/all"]);
}

/// Weights that a run begins with are measured as those that the run before ended with, which bf16
/// rounded on the way; products in bf16 train almost the same.
#[test]
fn a_run_goes_on_from_a_model_and_computes_in_bf16() {
    let folders = Folders::new();
    let first = works(folders.train("--steps 6 --save-every 6")).out;
    let there = losses(&first, 6).1;
    let further = tempfile::tempdir().unwrap();
    let [corpus, model, output] = [&folders.corpus, &folders.output, &further].map(|f| f.path().to_str().unwrap());
    let from = ["train", corpus, output, "--from", model, "--batch", "8"];
    let measured = works(remask(&[&from[..], &["--steps", "0"]].concat())).out;
    let line = measured.lines().find(|l| l.starts_with("step 0: held out ")).unwrap_or_else(|| panic!("{measured}"));
    let here: f32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((here - there).abs() < 0.02, "{here} for {there}");

    let rounded = tempfile::tempdir().unwrap();
    let mut command = remask(&["train", corpus, rounded.path().to_str().unwrap()]);
    command.args(SHAPE.split_whitespace()).args("--steps 6 --save-every 6 --precision bf16".split(' '));
    let (f32, bf16) = (there, losses(&works(command).out, 6).1);
    assert!((bf16 - f32).abs() < 0.05, "{bf16} for {f32}");
}
