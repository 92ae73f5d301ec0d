//! What a server hears from the system and says to it.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::json;

use super::super::remask;
use super::{USUAL, serve, start};

fn signal(server: &super::Served, name: &str) {
    let pid = server.child.id().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

#[test]
fn systemd_is_told_and_keys_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, keys) = (folder.path().join("notify"), folder.path().join("keys"));
    std::fs::write(&keys, "old\n").unwrap();
    let heard = UnixDatagram::bind(&socket).unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hear = || {
        let mut buffer = [0; 100];
        let count = heard.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    let mut command = remask(&["serve"]);
    command.args(USUAL).arg("--api-key-file").arg(&keys).env("NOTIFY_SOCKET", &socket);
    let mut server = start(command);
    assert_eq!(hear(), "READY=1");
    let opens = |key: &str| {
        server
            .send_with(&format!("authorization: Bearer {key}\r\n"), "GET", "/v1/models", "")
            .starts_with("HTTP/1.1 200")
    };
    assert!(opens("old") && !opens("new"));
    std::fs::write(&keys, "new\n").unwrap();
    signal(&server, "-HUP");
    let mut tries = 0;
    while !opens("new") {
        tries += 1;
        assert!(tries < 1000, "the keys were not read again");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!opens("old"));
    signal(&server, "-TERM");
    assert_eq!(hear(), "STOPPING=1");
    assert!(server.child.wait().unwrap().success());
    let log: Vec<_> = server.lines.by_ref().map(Result::unwrap).collect();
    assert!(log.iter().any(|line| line.contains("keys were read again")), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("old") || line.contains("new ")), "no key in the log: {log:?}");
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    // Its lines are read until it answers, and then no more.
    let mut server = serve(&["--log-content"]);
    // Each line is longer than what a pipe holds.
    let body = json!({"prompt": "x", "max_tokens": 1, "user": "a".repeat(80_000)});
    for _ in 0..4 {
        server.post("/v1/completions", &body);
    }
    assert!(server.send("GET", "/metrics", "").contains("dfastllm_request_success_total{model=\"tales-33m\"} 4"));
    signal(&server, "-INT");
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn the_log_says_what_is_on_and_what_depth_did() {
    let mut server = serve(&["--log-format", "json", "--log-stats", "--mor-max-recursions", "4", "--api-key", "k"]);
    let body = json!({"prompt": "Once there was a secret", "max_tokens": 24});
    server.post("/v1/completions", &body);
    signal(&server, "-INT");
    assert!(server.child.wait().unwrap().success());
    let mut log = std::mem::take(&mut server.begun);
    log.extend(server.lines.by_ref().map(Result::unwrap));
    let log: Vec<serde_json::Value> =
        log.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let said = |kind: &str| {
        log.iter().find(|line| line["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {log:?}"))["message"]
            .as_str()
            .unwrap()
    };
    assert!(said("decoding").contains("accept threshold:0.9") && said("decoding").contains("cache vicinity:16,16,4"));
    assert!(
        said("recompute depth").starts_with("1 to 4 passes by confidence")
            && said("limits").contains("300 s a request")
    );
    assert!(said("access").starts_with("with a key") && said("model").contains("tales-33m on"));
    let depth = log.iter().find(|line| line["message"] == "recompute depth" && line["easy"].is_u64()).unwrap();
    assert!(depth["rows"].as_u64() <= depth["rows_of_full_compute"].as_u64() && depth["avg_recursions"].is_f64());
    let answered = log.iter().find(|line| line["message"] == "answered").unwrap();
    for field in
        ["request_id", "route", "model", "status", "outcome", "client", "prompt_tokens", "passes", "queue_seconds"]
    {
        assert!(!answered[field].is_null(), "{field}: {answered}");
    }
    assert_eq!((&answered["client"], &answered["status"]), (&json!("127.0.0.1"), &json!(200)));
    assert!(!log.iter().any(|line| line.to_string().contains("secret")), "no prompt in the log");
}
