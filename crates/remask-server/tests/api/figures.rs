//! Every metric and every statistic moves, and the test says what moves it.

use std::collections::BTreeMap;
use std::io::Write;

use remask::Queue;
use remask_server::ServerConfig;
use serde_json::{Value, json};

use crate::client::{Answer, Running, head, start_with, until};
use crate::scripted::{Script, Shared};

/// Values by series, bounds of histograms left out.
fn series(server: &Running) -> BTreeMap<String, f64> {
    let text = server.get("/metrics").text();
    let value = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        (!line.starts_with('#') && !name.contains("_bucket{")).then(|| (name.to_owned(), value.parse().unwrap()))
    };
    text.lines().filter_map(value).collect()
}

fn ask(server: &Running, id: &str, body: &Value) -> std::net::TcpStream {
    let mut stream = server.connect();
    let headers = [("content-type", "application/json"), ("x-request-id", id)];
    stream.write_all(&head("POST", "/v1/completions", &headers, &body.to_string())).unwrap();
    stream
}

#[test]
fn every_series_is_there_from_the_start_and_moves() {
    let config = ServerConfig { vllm_metrics: true, ..ServerConfig::default() };
    let server = start_with(Shared::default(), config, |e| e.queue(Queue { concurrent: Some(1), waiting: 1 }));
    let before = series(&server);
    let mut most = before.clone();
    let mut look = || {
        for (name, value) in series(&server) {
            let known = most.entry(name).or_insert(value);
            *known = known.max(value);
        }
    };
    let story = json!({"prompt": "Once upon a time", "max_tokens": 40, "remask": {"preset": "fast"}});
    server.post("/v1/completions", &story).ok();
    // Everything easy, everything hard, everything between.
    for (high, low) in [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0)] {
        let mor = json!({"confidence_high": high, "confidence_low": low, "skip_threshold": null});
        let mut story = story.clone();
        story["remask"]["mor"] = mor;
        server.post("/v1/completions", &story).ok();
    }
    server.post("/v1/completions", &json!({"prompt": ""})).error();
    let poison = server.post("/tokenize", &json!({"prompt": "poison", "add_special_tokens": false})).ok();
    server.script.lock().poison = poison["tokens"][0].as_u64().map(|id| id as u32);
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "poison"})).status, 500);
    server.script.lock().hold = true;
    let running = ask(&server, "running", &story);
    let mut waiting = ask(&server, "waiting", &story);
    until(|| server.app.engine.counts() == (1, 1));
    assert_eq!(server.post("/v1/completions", &story).status, 429);
    look();
    server.send("DELETE", "/v1/requests/waiting", &[], "").ok();
    assert_eq!(Answer::read(&mut waiting).status, 499);
    drop(running);
    until(|| server.app.requests_under_way() == 0);
    server.script.lock().hold = false;
    until(|| server.app.engine.counts() == (0, 0));
    look();
    // A deadline needs a server with less patience; its own test moves it.
    let elsewhere = ["outcome=\"timeout\""];
    let constant = ["_info{", "remask_kv_slots_capacity"];
    for (name, value) in &most {
        let known = before.get(name);
        let http = name.starts_with("remask_http_requests_total");
        assert!(known.is_some() || http, "{name} was not there from the start");
        if constant.iter().any(|part| name.contains(part)) {
            assert!(*value > 0.0, "{name}");
        } else if !elsewhere.iter().any(|part| name.contains(part)) {
            assert!(*value > known.copied().unwrap_or(0.0), "{name} stays at {value}");
        }
    }
    let after = series(&server);
    for name in ["dfastllm_num_requests_running", "dfastllm_num_requests_waiting", "remask_kv_slots_used"] {
        assert_eq!(after[&format!("{name}{{model=\"tales-33m\"}}")], 0.0, "{name}");
    }
}

#[test]
fn every_statistic_moves() {
    let server = start_with(Shared::new(Script::default()), ServerConfig::default(), |e| e);
    let before = server.get("/v1/engine/stats").ok();
    for (name, zero) in
        [("requests_processed", 0), ("requests_failed", 0), ("requests_timeout", 0), ("tokens_generated", 0)]
    {
        assert_eq!(before[name], zero, "{name}: the warm-up is no request");
    }
    let story = json!({"prompt": "Once", "max_tokens": 30});
    server.post("/v1/completions", &story).ok();
    let mut streamed = story.clone();
    streamed["stream"] = json!(true);
    server.post("/v1/completions", &streamed).events();
    server.post("/v1/completions", &json!({"prompt": ""})).error();
    let after = server.get("/v1/engine/stats").ok();
    assert_eq!((&after["requests_processed"], &after["requests_failed"]), (&json!(2), &json!(1)));
    assert_eq!((&after["tokens_generated"], &after["apd"]["total_tokens_generated"]), (&json!(60), &json!(60)));
    for path in [
        "/avg_latency_ms",
        "/avg_tokens_per_step",
        "/peak_memory_mb",
        "/apd/total_steps",
        "/apd/tokens_accepted",
        "/apd/tokens_rejected",
        "/apd/avg_tokens_per_step",
        "/remask/forward_passes",
        "/remask/rows_computed",
        "/remask/rows_of_full_compute",
        "/server/total_requests",
        "/server/active_requests",
        "/server/uptime_seconds",
        "/uptime_seconds",
    ] {
        let number = |stats: &Value| stats.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path}"));
        assert!(number(&after) > 0.0 && number(&after) >= number(&before), "{path}: {after}");
    }
    assert_eq!((&after["is_ready"], &after["state"]), (&json!(true), &json!("ready")));
    // This request is being answered as it asks.
    assert_eq!(after["server"]["active_requests"], 1);
}
