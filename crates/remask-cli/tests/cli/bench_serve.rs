//! `remask bench serve`, against our server and against one that misbehaves.

mod fake;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use self::fake::{Fake, Fault};
use super::{Ran, remask, run};

/// `remask serve` with the bundled model on the CPU, ended with the test.
struct Served {
    child: Child,
    url: String,
}

impl Served {
    fn start() -> Self {
        let mut command = remask(&["serve", "--port", "0", "--backend", "cpu"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut url = String::new();
        for line in lines.by_ref().map(Result::unwrap) {
            if let Some(found) = line.strip_prefix("listening: ") {
                found.clone_into(&mut url);
            }
            if line.starts_with("ready: ") {
                break;
            }
        }
        // A log that nobody reads would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        assert!(url.starts_with("http://"), "it never said where it listens: {url}");
        Self { child, url }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Decoding in few passes, which a debug build has time for.
const FEW_PASSES: &str = r#"{"remask":{"accept":"threshold:0"}}"#;

fn bench(url: &str, more: &str) -> Ran {
    let mut command = remask(&["bench", "serve", "--url", url]);
    command.args(more.split_whitespace()).env_remove("REMASK_API_KEY");
    run(command)
}

fn json_of(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn our_server_is_measured() {
    let server = Served::start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (json, svg) = (path("a.json"), path("a.svg"));
    let common = "--requests 5 --max-tokens 6 --kind stories,easy";
    let ran = bench(&server.url, &format!("{common} --concurrency 1,3 --json {json} --plot {svg}"));
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    for words in [
        "| 1 at once | 5 | 0 | 0 |",
        "| 3 at once | 5 | 0 | 0 |",
        "rows computed per token",
        "| stories | 3 |",
        "in bursts",
    ] {
        assert!(ran.out.contains(words), "no {words:?} in {}", ran.out);
    }
    let measured: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(measured["request"]["model"], "tales-33m");
    for load in measured["loads"].as_array().unwrap() {
        // Every answer is as long as was asked for, whatever the model would have written.
        assert_eq!((load["answered"].as_u64(), load["tokens"].as_u64()), (Some(5), Some(30)), "{load}");
        assert_eq!(load["requests"].as_array().unwrap().len(), 5);
        assert!(load["rows_computed"].as_f64() >= Some(30.0) && load["forward_passes"].as_f64() > Some(0.0), "{load}");
        assert!(load["first_text"]["p50"].as_f64() <= load["latency"]["max"].as_f64(), "{load}");
    }
    let drawn = std::fs::read_to_string(svg).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("3 at once"), "{drawn}");
    // Prompts are as long as was asked for: the server counts them itself.
    let ran = bench(&server.url, "--endpoint completions -n 2 --prompt-tokens 33 --max-tokens 2 --json - --rate inf");
    let measured = json_of(&ran);
    let tokens = measured["loads"][0]["requests"].as_array().unwrap().iter().map(|one| one["prompt_tokens"].clone());
    assert_eq!(tokens.collect::<Vec<_>>(), [33, 33]);
    // Requests that were given up are no failures, and leave nothing behind.
    let ran = bench(&server.url, "-n 8 -c 8 --max-tokens 24 --abort-fraction 0.5 --seed 3 --json -");
    let load = &json_of(&ran)["loads"][0];
    let count = |name: &str| load[name].as_u64().unwrap();
    assert!(count("answered") + count("aborted") == 8 && count("aborted") > 0, "{load}");
}

/// What every report has, of a server that tells everything.
const SECTIONS: [&str; 9] = [
    "production test report",
    "Latency by kind of prompt and length",
    "8 tokens take",
    "Warm-up: the first request took",
    "technical",
    "The capital of France is",
    "most with 2 at once",
    "Streams equal plain answers",
    "in bursts",
];

/// A report of a server that should be fine.
fn report(url: &str, name: &str, more: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    let common = "-n 2 -c 2 --max-tokens 8 --lengths 4,8 --per-kind 1";
    let ran = bench(url, &format!("{common} {more} --report {}", file.display()));
    let report = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(ran.code, Some(0), "{}\n{report}", ran.err);
    for words in SECTIONS {
        assert!(report.contains(words), "no {words:?} in {report}");
    }
    report
}

#[test]
fn our_server_passes_its_own_report() {
    let server = Served::start();
    let report = report(&server.url, "report.md", &format!("--extra {FEW_PASSES}"));
    assert!(report.contains("# tales-33m: production test report"), "{report}");
    assert!(!report.contains("**failed:**") && report.matches("- [x] ").count() == 22, "{report}");
    assert!(report.contains("compute saved, percent") && !report.contains("<svg"), "{report}");
}

#[test]
fn a_report_is_a_page_or_a_text() {
    let server = Fake::start(Fault::None);
    let page = report(&server.url, "report.html", "--api-key k");
    assert!(page.contains("<svg") && page.contains("class=\"passed\"") && !page.contains("class=\"failed\""), "{page}");
    report(&server.url, "report.md", "--api-key k --rate 100 --no-stream");
    // What fails is said in the report, and by the status.
    let (server, folder) = (Fake::start(Fault::HardUnanswered), tempfile::tempdir().unwrap());
    let file = folder.path().join("report.md");
    let more = format!("-n 2 --per-kind 1 --lengths 4 --api-key k --report {}", file.display());
    let ran = bench(&server.url, &more);
    let report = std::fs::read_to_string(&file).unwrap();
    assert!(ran.code == Some(1) && ran.err.contains("hard prompts, 4 tokens: 1 failed: status 500"), "{}", ran.err);
    assert!(report.contains("- [ ] **failed:** Easy and hard prompts: status 500: too hard"), "{report}");
}

/// Names of the checks with this mark.
fn marked<'a>(ran: &'a Ran, mark: &str) -> Vec<&'a str> {
    let marked = ran.out.lines().filter_map(|line| line.strip_prefix(mark)?.split_whitespace().next());
    marked.collect()
}

#[test]
fn every_mark_of_the_checklist_can_turn_red() {
    let faults: [(Fault, &[&str]); 30] = [
        (Fault::None, &[]),
        (Fault::Unhealthy, &["health"]),
        (Fault::NotLoaded, &["loading"]),
        (Fault::NotListed, &["models"]),
        (Fault::KindsDiffer, &["kind"]),
        (Fault::NoCompletionText, &["completion", "stream", "stop"]),
        (Fault::NoChatRole, &["chat"]),
        (Fault::LengthsIgnored, &["lengths", "cancel", "cancel_id"]),
        (Fault::HardUnanswered, &["prompts", "concurrency", "alone"]),
        (Fault::StreamsDiffer, &["stream"]),
        (Fault::NoUsageInStreams, &["stream"]),
        (Fault::NoDone, &["stream", "times"]),
        (Fault::BrokenStreams, &["stream", "times"]),
        (Fault::ErrorEvents, &["stream", "times"]),
        (Fault::StopIgnored, &["stop"]),
        (Fault::SeedIgnored, &["stream", "seed", "alone"]),
        (Fault::NoTextInStreams, &["stream", "times"]),
        (Fault::DepthIgnored, &["depth"]),
        (Fault::DepthAlways, &["depth"]),
        (Fault::BadFieldTaken, &["bad_field"]),
        (Fault::UnknownModelTaken, &["unknown_model"]),
        (Fault::ErrorsAreTexts, &["bad_field", "unknown_model", "context", "key"]),
        (Fault::ContextIgnored, &["context"]),
        (Fault::KeyIgnored, &["key"]),
        (Fault::MetricsStill, &["metrics"]),
        (Fault::MemoryZero, &["memory"]),
        (Fault::LeaversIgnored, &["cancel"]),
        (Fault::CancelIgnored, &["cancel_id"]),
        (Fault::Refuses, &["concurrency", "alone"]),
        (Fault::Batches, &["alone"]),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for some in faults.chunks(6) {
        std::thread::scope(|scope| {
            for (fault, red) in some {
                scope.spawn(move || {
                    let server = Fake::start(*fault);
                    let ran = bench(&server.url, "--check --model fake --api-key k --timeout 2");
                    assert_eq!(marked(&ran, "FAILED"), *red, "{fault:?}: {}{}", ran.out, ran.err);
                    assert_eq!(ran.code, Some(i32::from(!red.is_empty())), "{fault:?}: {}", ran.err);
                    let offered = *fault != Fault::None || marked(&ran, "-").is_empty();
                    assert!(offered, "everything is offered: {}", ran.out);
                });
            }
        });
        seen.extend(some.iter().flat_map(|(_, red)| red.iter().copied()));
    }
    // A check without a fault of its own would be one that cannot fail.
    let server = Fake::start(Fault::None);
    let all = bench(&server.url, "--check --model fake --api-key k");
    let passed = marked(&all, "passed");
    let json = json_of(&bench(&server.url, "--check --json - --api-key k"));
    let marks = json["checks"].as_array().unwrap().iter().map(|check| check["mark"].as_str().unwrap());
    assert!(marks.eq(["passed"; 23]), "{json}");
    assert_eq!((passed.len(), passed.iter().find(|name| !seen.contains(*name))), (23, None));
}

#[test]
fn failures_are_counted_by_kind_and_told_by_the_status() {
    for (fault, kind) in [
        (Fault::ErrorEvents, "error event device_lost"),
        (Fault::BrokenStreams, "malformed answer"),
        (Fault::NoDone, "malformed answer"),
        (Fault::None, ""),
    ] {
        let server = Fake::start(fault);
        let ran = bench(&server.url, "-n 6 -c 2 --warmup 0 --max-tokens 5 --api-key k --json -");
        let value: Value = serde_json::from_str(&ran.out).unwrap();
        let load = &value["loads"][0];
        assert_eq!(server.requests(), 6);
        if kind.is_empty() {
            assert_eq!((ran.code, load["failed"].as_u64(), load["tokens"].as_u64()), (Some(0), Some(0), Some(30)));
            assert_eq!(load["rows_per_token"]["p50"].as_f64().map(f64::round), Some(4.0));
        } else {
            assert_eq!((ran.code, load["failures"][kind]["count"].as_u64()), (Some(1), Some(6)), "{load}");
            assert!(ran.err.contains("6 of 6 requests failed"), "{}", ran.err);
        }
    }
    // Without a key all are refused; without a server nothing connects.
    let server = Fake::start(Fault::None);
    let ran = bench(&server.url, "-n 3 --model fake");
    assert!(ran.code == Some(1) && ran.out.contains("3 failed: status 401: the key is missing"), "{}", ran.out);
    let gone = server.url.clone();
    drop(server);
    let ran = bench(&gone, "-n 3 --model fake --warmup 0");
    assert!(ran.code == Some(1) && ran.out.contains("3 failed: connection:"), "{}", ran.out);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let nobody = "http://127.0.0.1:1";
    for (url, more, words) in [
        (nobody, "--rate 0", "--rate"),
        (nobody, "--abort-fraction 1.5", "--abort-fraction"),
        (nobody, "--duration 0", "--duration"),
        (nobody, "--report report.pdf", ".md or .html"),
        (nobody, "--prompts no/such/file --model m", "no/such/file"),
        (nobody, "", "--model names one"),
        ("ftp://x", "", "--url ftp://x"),
    ] {
        let ran = bench(url, more);
        assert!(ran.code == Some(1) && ran.err.contains(words), "{more}: {}", ran.err);
    }
    for more in
        ["--concurrency 0", "--extra [1]", "--report a.md --per-kind 11", "--kind none", "--prompts a --kind easy"]
    {
        assert_eq!(bench(nobody, more).code, Some(2), "{more}");
    }
}
