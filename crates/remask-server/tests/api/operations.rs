//! Health, keys, origins, cancelling, metrics, and the way out.

use std::io::{Read, Write};
use std::time::Duration;

use remask::Queue;
use remask_server::{ServerConfig, Stop};
use serde_json::{Value, json};

use crate::client::{Answer, Running, data, head, start, start_loading, start_with, until};
use crate::scripted::{Script, Shared};

fn story(stream: bool) -> Value {
    json!({"model": "tales-33m", "prompt": "Once upon a time", "max_tokens": 48, "stream": stream,
        "remask": {"preset": "quality"}})
}

/// Sends a request without waiting for the answer.
fn begin(server: &Running, id: &str, body: &Value) -> std::net::TcpStream {
    let mut stream = server.connect();
    let headers = [("content-type", "application/json"), ("x-request-id", id)];
    stream.write_all(&head("POST", "/v1/completions", &headers, &body.to_string())).unwrap();
    stream
}

/// Waits until the engine has so many requests.
fn under_way(server: &Running, count: usize) {
    until(|| {
        let (running, waiting) = server.app.engine.counts();
        running + waiting == count
    });
}

#[test]
fn health_models_and_version() {
    let config = ServerConfig { served_names: vec!["org/story".into(), "other".into()], ..ServerConfig::default() };
    let server = start_with(Shared::default(), config, |e| e);
    assert_eq!(server.get("/").ok()["status"], "ready");
    let health = server.get("/health").ok();
    assert_eq!(
        (&health["status"], &health["state"], &health["model_loaded"]),
        (&json!("healthy"), &json!("ready"), &json!(true))
    );
    assert!(health["device"].as_str().unwrap().contains("a script") && health["queue_capacity"] == 256);
    assert_eq!(server.get("/health/live").ok(), json!({"status": "alive"}));
    assert_eq!(server.get("/health/ready").ok(), json!({"status": "ready"}));
    assert_eq!((server.get("/ping").status, server.send("HEAD", "/health", &[], "").status), (200, 200));
    assert_eq!(server.get("/version").ok()["model_type"], "diffusion-llm");
    let models = server.get("/v1/models").ok();
    let ids: Vec<_> = models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["org/story", "other"]);
    assert_eq!(models["data"][0]["max_model_len"], 512);
    assert_eq!(server.get("/v1/models").ok(), models, "created does not change");
    for path in ["/v1/models/org/story", "/v1/models/org%2Fstory"] {
        assert_eq!(server.get(path).ok()["id"], "org/story");
    }
    for name in ["org/story", "other", "tales-33m", "default"] {
        let body = json!({"model": name, "prompt": "Once", "max_tokens": 2});
        assert_eq!(server.post("/v1/completions", &body).ok()["model"], name);
    }
    let stats = server.get("/v1/engine/stats").ok();
    assert_eq!((&stats["requests_processed"], &stats["tokens_generated"]), (&json!(4), &json!(8)));
    assert!(stats["avg_latency_ms"].as_f64().unwrap() > 0.0 && stats["apd"]["tokens_accepted"] == 8);
    assert_eq!(server.get("/v1/engine/health").ok()["state"], "ready");
}

#[test]
fn keys_guard_everything_but_what_is_open() {
    let keys = vec!["sesame".to_owned(), "open".to_owned()];
    let server = start_with(Shared::default(), ServerConfig { api_keys: keys, ..ServerConfig::default() }, |e| e);
    for path in ["/", "/health", "/health/live", "/health/ready", "/version", "/metrics", "/ping"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    for path in ["/v1/models", "/v1/models/a", "/v1/engine/stats", "/v1/engine/health", "/tokenize", "/nowhere"] {
        let refused = server.get(path);
        assert_eq!(refused.error(), (401, Some("invalid_api_key".into()), None), "{path}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        let wrong = server.send("GET", path, &[("authorization", "Bearer nonsense")], "");
        assert_eq!(wrong.error(), refused.error());
    }
    for header in [("authorization", "Bearer sesame"), ("Authorization", "bearer open"), ("x-api-key", "open")] {
        assert_eq!(server.send("GET", "/v1/models", &[header], "").status, 200);
    }
    // The body is not even read.
    let mut stream = server.connect();
    stream.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 401");
}

#[test]
fn pages_of_other_origins_are_told_what_they_may() {
    let origins = vec!["https://a.example".to_owned()];
    let server =
        start_with(Shared::default(), ServerConfig { allow_origins: origins, ..ServerConfig::default() }, |e| e);
    let asks = ("access-control-request-method", "POST");
    let preflight = server.send("OPTIONS", "/v1/completions", &[("origin", "https://a.example"), asks], "");
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, Some("https://a.example")));
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("POST"));
    assert_eq!(preflight.header("vary"), Some("Origin"));
    let error = server.send("GET", "/nowhere", &[("origin", "https://a.example")], "");
    assert_eq!(error.header("access-control-allow-origin"), Some("https://a.example"));
    let other = server.send("GET", "/health", &[("origin", "https://b.example")], "");
    assert_eq!((other.status, other.header("access-control-allow-origin")), (200, None));
    let off = start();
    assert_eq!(off.send("GET", "/health", &[("origin", "https://a.example")], "").header("vary"), None);
}

#[test]
fn every_answer_has_its_name_and_headers() {
    let server = start();
    let named = server.send("GET", "/health", &[("x-request-id", "my-name_1")], "");
    assert_eq!(named.header("x-request-id"), Some("my-name_1"));
    for bad in ["", &"x".repeat(129), "two words", "h\u{e4}"] {
        let made = server.send("GET", "/nowhere", &[("x-request-id", bad)], "");
        let made = made.header("x-request-id").unwrap();
        assert!(made.len() == 32 && made != bad, "{bad}");
    }
    assert_eq!(named.header("x-content-type-options"), Some("nosniff"));
    assert!(named.header("openai-processing-ms").is_some() && named.header("strict-transport-security").is_none());
}

#[test]
fn who_is_cancelled_is_told_and_takes_no_rows_any_more() {
    let server = start();
    server.script.lock().hold = true;
    let mut plain = begin(&server, "plain", &story(false));
    let mut stream = begin(&server, "stream", &story(true));
    under_way(&server, 2);
    for id in ["plain", "stream"] {
        let done = server.send("DELETE", &format!("/v1/requests/{id}"), &[], "").ok();
        assert_eq!((&done["status"], &done["request_id"]), (&json!("cancelled"), &json!(id)));
    }
    let plain = Answer::read(&mut plain);
    assert_eq!(plain.error(), (499, Some("cancelled".into()), None));
    assert_eq!(plain.header("x-should-retry"), Some("false"));
    assert_eq!(Answer::read(&mut stream).events().last().unwrap()["error"]["code"], "cancelled");
    server.script.lock().hold = false;
    under_way(&server, 0);
    assert_eq!(server.metric("remask_requests_total", "cancelled"), 2.0);
    let passes = server.script.lock().passes.len();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(server.script.lock().passes.len(), passes);
    // The name of the answer does as well.
    server.script.lock().pass_time = Duration::from_millis(2);
    let mut stream = begin(&server, "third", &story(true));
    let mut seen = Vec::new();
    let mut buffer = [0; 2000];
    while !String::from_utf8_lossy(&seen).contains("cmpl-") {
        let count = stream.read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8_lossy(&seen).into_owned();
    let id = &text[text.find("cmpl-").unwrap()..][..37];
    assert_eq!(server.send("DELETE", &format!("/v1/requests/{id}"), &[], "").status, 200);
    stream.read_to_end(&mut seen).unwrap();
    assert!(String::from_utf8_lossy(&seen).contains("\"cancelled\""));
}

#[test]
fn who_leaves_is_noticed_in_the_queue_and_on_the_device() {
    let server = start_with(Shared::default(), ServerConfig::default(), |engine| {
        engine.queue(Queue { concurrent: Some(1), waiting: 9 })
    });
    server.script.lock().hold = true;
    let all: Vec<_> = (0..4).map(|i| begin(&server, &i.to_string(), &story(i % 2 == 0))).collect();
    under_way(&server, 4);
    let before = server.script.lock().passes.len();
    drop(all);
    until(|| server.app.requests_under_way() == 0);
    server.script.lock().hold = false;
    under_way(&server, 0);
    assert!(server.script.lock().passes.len() <= before + 1, "at most the pass that was held");
    assert_eq!(server.metric("remask_requests_total", "aborted"), 4.0);
    assert_eq!(server.metric("dfastllm_num_requests_running", "") + server.metric("remask_kv_slots_used", ""), 0.0);
}

#[test]
fn a_full_queue_and_a_deadline_answer_at_once() {
    let config = ServerConfig { request_timeout: Duration::from_millis(300), ..ServerConfig::default() };
    let server =
        start_with(Shared::default(), config, |engine| engine.queue(Queue { concurrent: Some(1), waiting: 1 }));
    server.script.lock().hold = true;
    let mut waiting: Vec<_> = (0..2).map(|i| begin(&server, &i.to_string(), &story(i == 1))).collect();
    under_way(&server, 2);
    let full = server.post("/v1/completions", &story(true));
    assert_eq!(full.error(), (429, Some("queue_full".into()), None));
    assert!(full.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    let many = server.post("/v1/completions", &json!({"prompt": "a", "n": 3}));
    assert_eq!(many.error(), (400, None, Some("n".into())));
    let late = Answer::read(&mut waiting[0]);
    assert_eq!(late.error(), (504, Some("deadline_exceeded".into()), None));
    assert_eq!(late.header("x-should-retry"), Some("false"));
    assert_eq!(Answer::read(&mut waiting[1]).events().last().unwrap()["error"]["code"], "deadline_exceeded");
    server.script.lock().hold = false;
    under_way(&server, 0);
    assert_eq!(server.metric("remask_requests_total", "timeout"), 2.0);
    assert_eq!(server.metric("remask_requests_total", "rejected"), 1.0);
    assert_eq!(server.get("/v1/engine/stats").ok()["requests_timeout"], 2);
}

#[test]
fn metrics_move_and_fall() {
    let config = ServerConfig { vllm_metrics: true, ..ServerConfig::default() };
    let server = start_with(Shared::default(), config, |e| e);
    let read = |name: &str| server.metric(name, "tales-33m");
    let zeros = ["dfastllm_request_success_total", "dfastllm_generation_tokens_total", "remask_forward_passes_total"];
    assert!(zeros.iter().all(|name| read(name) == 0.0), "series exist from the start, warm-up is not counted");
    let body = json!({"prompt": "Once", "max_tokens": 30});
    let usage = server.post("/v1/completions", &body).ok()["usage"].clone();
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    server.post("/v1/completions", &streamed).events();
    assert_eq!(read("dfastllm_request_success_total"), 2.0);
    assert_eq!(read("dfastllm_prompt_tokens_total"), 2.0 * usage["prompt_tokens"].as_f64().unwrap());
    assert_eq!(read("dfastllm_generation_tokens_total"), 60.0);
    for name in [
        "dfastllm_time_to_first_token_seconds_count",
        "dfastllm_request_latency_seconds_count",
        "dfastllm_time_per_output_token_seconds_count",
        "remask_queue_seconds_count",
    ] {
        assert_eq!(read(name), 2.0, "{name}");
    }
    let passes = read("remask_forward_passes_total");
    for name in ["remask_requests_per_pass_count", "remask_rows_per_pass_count", "remask_time_per_pass_seconds_count"] {
        assert_eq!(read(name), passes, "{name}");
    }
    let rows = server.script.lock().passes.iter().skip(1).sum::<usize>() as f64;
    assert_eq!(read("remask_rows_computed_total"), rows);
    assert!(read("remask_rows_of_full_compute_total") >= rows && read("dfastllm_parallel_batch_size_count") > 0.0);
    assert!(
        read("dfastllm_mor_tokens_hard_total")
            + read("dfastllm_mor_tokens_medium_total")
            + read("dfastllm_mor_tokens_easy_total")
            > 0.0
    );
    assert!(read("dfastllm_mor_avg_recursions") > 0.0 && read("dfastllm_gpu_memory_usage_bytes") > 1e6);
    assert_eq!(server.metric("dfastllm_model_info", "diffusion-llm"), 1.0);
    assert_eq!(server.metric("remask_build_info", "scripted"), 1.0);
    assert!(read("remask_kv_slots_capacity") > 0.0 && read("remask_kv_slots_used") == 0.0);
    server.script.lock().hold = true;
    let held = begin(&server, "held", &story(false));
    until(|| read("dfastllm_num_requests_running") == 1.0);
    assert!(read("remask_kv_slots_used") > 48.0 && read("vllm:num_requests_running") == 1.0);
    assert!(read("vllm:kv_cache_usage_perc") > 0.0);
    drop(held);
    server.script.lock().hold = false;
    until(|| read("dfastllm_num_requests_running") == 0.0 && read("remask_kv_slots_used") == 0.0);
    assert_eq!(read("dfastllm_request_failure_total"), 1.0);
    server.get("/nowhere/at/all");
    assert_eq!(server.metric("remask_http_requests_total", "route=\"other\",method=\"GET\",status=\"404\""), 1.0);
    assert_eq!(server.metric("remask_http_requests_total", "route=\"/v1/completions\",method=\"POST\""), 2.0);
    // Prometheus' forms: the older one calls counters by their whole names.
    let plain = server.get("/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = plain.text();
    assert!(text.contains("# TYPE dfastllm_request_success_total counter\ndfastllm_request_success_total{"), "{text}");
    assert!(text.contains("# HELP dfastllm_request_success_total Total number of successful requests"), "{text}");
    assert!(!text.contains("# EOF") && text.contains("# TYPE dfastllm_num_requests_running gauge"));
    let open =
        server.send("GET", "/metrics", &[("accept", "application/openmetrics-text;version=1.0.0,*/*;q=0.1")], "");
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(open.text().ends_with("# EOF\n") && open.text().contains("# TYPE dfastllm_request_success counter"));
    // A key for metrics alone.
    let config = ServerConfig { metrics_key: Some("m".into()), ..ServerConfig::default() };
    let closed = start_with(Shared::default(), config, |e| e);
    assert_eq!(closed.get("/metrics").status, 401);
    assert_eq!(closed.send("GET", "/metrics", &[("authorization", "Bearer m")], "").status, 200);
}

#[test]
fn it_listens_while_it_loads_and_says_what_it_cannot() {
    let script = Shared::new(Script { hold: true, ..Script::default() });
    let server = start_loading(script, ServerConfig::default(), |e| e);
    assert_eq!(server.get("/health/live").status, 200);
    let ready = server.get("/health/ready");
    assert_eq!((ready.status, ready.header("retry-after").is_some()), (503, true));
    until(|| server.get("/health").json()["state"] == "loading");
    let refused = server.post("/v1/completions", &story(false));
    assert_eq!(refused.error(), (503, Some("loading".into()), None));
    assert!(refused.header("retry-after").is_some());
    server.script.lock().hold = false;
    until(|| server.get("/health/ready").status == 200);
    server.post("/v1/completions", &story(false)).ok();

    let gone = start_loading(Shared::new(Script { gone: true, ..Script::default() }), ServerConfig::default(), |e| e);
    until(|| gone.get("/health").json()["last_error"].as_str().is_some_and(|e| e.contains("it is gone")));
    assert_eq!(gone.post("/v1/completions", &story(false)).status, 503);
}

#[test]
fn a_lost_device_is_said_and_comes_back() {
    let server = start();
    let whole = server.post("/v1/completions", &story(false)).ok()["choices"].clone();
    let passes = server.script.lock().passes.len();
    server.script.lock().lost_in = Some(passes + 9);
    assert_eq!(server.post("/v1/completions", &story(false)).ok()["choices"], whole, "answers are completed");
    until(|| server.get("/health/ready").status == 200);
    {
        let mut script = server.script.lock();
        (script.lost_in, script.gone) = (Some(0), true);
    }
    let events = server.post("/v1/completions", &story(true)).events();
    assert_eq!(events.last().unwrap()["error"]["code"], "device_unavailable");
    let health = server.get("/health");
    assert_eq!((health.status, &health.json()["state"]), (503, &json!("error")));
    assert_eq!(server.post("/v1/completions", &story(false)).error().1.as_deref(), Some("device_unavailable"));
    server.script.lock().gone = false;
    until(|| server.get("/health/ready").status == 200);
    server.post("/v1/completions", &story(false)).ok();
}

#[test]
fn it_drains_on_its_way_out() {
    let config = ServerConfig { shutdown_delay: Duration::from_millis(300), ..ServerConfig::default() };
    let mut server = start_with(Shared::default(), config, |e| e);
    server.script.lock().hold = true;
    let mut running = begin(&server, "running", &story(true));
    under_way(&server, 1);
    server.stop.send(Stop::Gently).unwrap();
    until(|| server.get("/health/ready").status == 503);
    // Whoever does not know yet is still served.
    let mut late = begin(&server, "late", &story(false));
    under_way(&server, 2);
    until(|| server.post("/v1/completions", &json!({})).error().1.as_deref() == Some("draining"));
    assert_eq!(
        (server.get("/health/live").status, server.get("/health").json()["state"].clone()),
        (200, json!("draining"))
    );
    server.script.lock().hold = false;
    let events = data(&Answer::read(&mut running).body);
    assert_eq!(events.last().unwrap(), "[DONE]");
    assert!(!events.iter().any(|e| e.contains("error")));
    Answer::read(&mut late).ok();
    server.join();
}

#[test]
fn those_who_do_not_end_in_time_are_told() {
    let drain_timeout = Duration::from_millis(50);
    let mut server = start_with(Shared::default(), ServerConfig { drain_timeout, ..ServerConfig::default() }, |e| e);
    server.script.lock().hold = true;
    let mut running = begin(&server, "running", &story(true));
    under_way(&server, 1);
    server.stop.send(Stop::Soon).unwrap();
    assert_eq!(Answer::read(&mut running).events().last().unwrap()["error"]["code"], "draining");
    server.join();
}

#[test]
fn metrics_may_have_an_address_of_their_own() {
    let config = ServerConfig {
        metrics_address: Some(([127, 0, 0, 1], 0).into()),
        api_keys: vec!["k".into()],
        ..ServerConfig::default()
    };
    let server = start_with(Shared::default(), config, |e| e);
    assert_eq!(server.get("/metrics").error(), (404, Some("not_found".into()), None));
    let ask = |path: &str| {
        let mut stream = std::net::TcpStream::connect(server.metrics_address.unwrap()).unwrap();
        stream.write_all(&head("GET", path, &[], "")).unwrap();
        Answer::read(&mut stream)
    };
    assert!(ask("/metrics").text().contains("dfastllm_request_success_total{model=\"tales-33m\"} 0"));
    assert_eq!(ask("/v1/models").status, 401);
    assert_eq!(ask("/health").error().0, 404, "there is nothing else");
}

#[test]
fn keys_of_a_file_are_read_again() {
    let folder = std::env::temp_dir().join(format!("remask-reload-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("keys");
    std::fs::write(&file, "# first\nold\n").unwrap();
    let config =
        ServerConfig { api_key_file: Some(file.clone()), api_keys: vec!["always".into()], ..ServerConfig::default() };
    let server = start_with(Shared::default(), config, |e| e);
    let opens = |key: &str| server.send("GET", "/v1/models", &[("x-api-key", key)], "").status == 200;
    assert!(opens("old") && opens("always") && !opens("new"));
    std::fs::write(&file, "new\n").unwrap();
    server.app.reload_keys();
    assert!(!opens("old") && opens("always") && opens("new"));
    // A file that is gone or empty opens nothing.
    std::fs::write(&file, "# nobody\n").unwrap();
    server.app.reload_keys();
    assert!(opens("new") && !opens("old") && server.get("/v1/models").status == 401);
    std::fs::remove_dir_all(&folder).unwrap();
    server.app.reload_keys();
    assert!(opens("new") && server.get("/v1/models").status == 401);
}
