//! Sizes, times and readers that are slow.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use remask_server::ServerConfig;
use serde_json::json;

use crate::client::{Answer, Running, start_with, until};
use crate::scripted::Shared;

fn short() -> ServerConfig {
    ServerConfig {
        max_body: 2000,
        body_timeout: Duration::from_millis(200),
        head_timeout: Duration::from_millis(200),
        keep_alive: Duration::from_millis(600),
        write_timeout: Duration::from_millis(300),
        max_connections: 3,
        rate_limit: 4,
        rate_window: Duration::from_secs(600),
        ..ServerConfig::default()
    }
}

#[test]
fn a_body_has_a_size_and_a_time() {
    let server = start_with(Shared::default(), ServerConfig { rate_limit: 0, ..short() }, |e| e);
    let long = json!({"prompt": "a".repeat(3000)}).to_string();
    let json = ("content-type", "application/json");
    let announced = server.send("POST", "/v1/completions", &[json], &long);
    assert_eq!(announced.error(), (413, Some("request_too_large".into()), None));
    let head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let mut chunked = server.connect();
    write!(chunked, "{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n", long.len()).unwrap();
    assert_eq!(Answer::read(&mut chunked).error().0, 413, "counted as it is read");
    // Who writes everything before it reads gets its answer as well: more than what buffers hold is taken for nothing.
    let huge = format!("{{\"prompt\": \"{}\"}}", "a".repeat(12 << 20));
    assert_eq!(server.send("POST", "/v1/completions", &[json], &huge).error().0, 413);
    let closed = ServerConfig { api_keys: vec!["k".into()], ..ServerConfig::default() };
    let closed = start_with(Shared::default(), closed, |e| e);
    assert_eq!(closed.send("POST", "/v1/completions", &[json], &huge).error().0, 401);
    assert_eq!(server.send("POST", "/nowhere", &[json], &huge).error().0, 404);
    let mut slow = server.connect();
    write!(slow, "{head}content-length: 50\r\n\r\n{{").unwrap();
    assert_eq!(Answer::read(&mut slow).error(), (408, Some("request_timeout".into()), None));
    // Many headers are no more than their bytes.
    let many: String = (0..900).map(|i| format!("x-{i}: {i}\r\n")).collect();
    let mut stream = server.connect();
    write!(stream, "GET /health/live HTTP/1.1\r\nhost: a\r\n{many}connection: close\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut stream).status, 200);
    for size in [70_000, 300_000] {
        let mut head_too_long = server.connect();
        let header = format!("GET /health HTTP/1.1\r\nhost: a\r\nx: {}\r\nconnection: close\r\n\r\n", "a".repeat(size));
        // The server may hang up while this is being written.
        let _ = head_too_long.write_all(header.as_bytes());
        let mut answer = Vec::new();
        let _ = head_too_long.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let server = start_with(Shared::default(), short(), |e| e);
    let ends = |mut stream: std::net::TcpStream| {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).map(|_| rest)
    };
    let mut head = server.connect();
    head.write_all(b"GET /health HT").unwrap();
    // It ends long before the client gives up.
    drop(ends(head));
    drop(ends(server.connect()));
    // A connection that is kept is kept for longer than a head may take.
    let mut kept = server.connect();
    for _ in 0..2 {
        kept.write_all(b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 1000];
        while !seen.ends_with(b"}") {
            let count = kept.read(&mut buffer).unwrap();
            assert!(count > 0, "the connection was closed");
            seen.extend_from_slice(&buffer[..count]);
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn connections_and_requests_of_a_client_are_counted() {
    let server = start_with(Shared::default(), short(), |e| e);
    let body = json!({"prompt": "a", "max_tokens": 1});
    for _ in 0..4 {
        server.post("/v1/completions", &body).ok();
    }
    let refused = server.post("/v1/completions", &body);
    assert_eq!(refused.error(), (429, Some("rate_limit_exceeded".into()), None));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 500);
    assert_eq!(server.get("/health").status, 200, "only what generates is counted");
    // Three connections that say nothing hold the fourth up until they are dropped.
    let held: Vec<_> = (0..3).map(|_| server.connect()).collect();
    drop(held);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_reader_who_takes_nothing_is_dropped_and_holds_nobody_up() {
    let server = start_with(Shared::default(), ServerConfig { rate_limit: 0, ..short() }, |e| e);
    // Steps of many choices are more than what the system keeps for a reader.
    let body = json!({"prompt": "Once", "n": 4, "max_tokens": 400, "stream": true,
        "remask": {"step_events": true, "preset": "quality", "block_length": 400}});
    let mut slow = server.connect();
    let text = body.to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    write!(slow, "{head}content-length: {}\r\n\r\n{text}", text.len()).unwrap();
    until(|| server.app.engine.counts().0 == 4);
    let quick = json!({"prompt": "Once", "max_tokens": 4});
    server.post("/v1/completions", &quick).ok();
    until(|| server.app.requests_under_way() == 0);
    until(|| server.app.engine.counts() == (0, 0));
    assert_eq!(server.metric("remask_requests_total", "aborted"), 1.0);
    let _ = slow.shutdown(Shutdown::Both);
}

#[test]
fn requests_are_counted_by_key_or_by_address() {
    let limited = ServerConfig { rate_limit: 1, rate_window: Duration::from_secs(600), ..ServerConfig::default() };
    let proxies = vec!["127.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap()];
    let behind = start_with(Shared::default(), ServerConfig { trusted_proxies: proxies, ..limited.clone() }, |e| e);
    let body = json!({"prompt": "a", "max_tokens": 1}).to_string();
    let ask = |server: &Running, headers: &[(&str, &str)]| {
        let headers = [&[("content-type", "application/json")], headers].concat();
        server.send("POST", "/v1/completions", &headers, &body).status
    };
    for (forwarded, status) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("192.0.2.2", 200),
        // What a client writes itself stands in front of what the proxies heard.
        ("192.0.2.9, 192.0.2.2", 429),
        ("192.0.2.3, 10.1.7.7", 200),
        ("192.0.2.3:4711", 429),
        ("[2001:db8::1]:80", 200),
        ("2001:db8::1", 429),
        ("nonsense", 200),
        ("more nonsense", 429),
    ] {
        assert_eq!(ask(&behind, &[("x-forwarded-for", forwarded)]), status, "{forwarded}");
    }
    assert_eq!(ask(&behind, &[("x-forwarded-for", "192.0.2.5"), ("x-forwarded-for", "192.0.2.3")]), 429);
    // Without trust the header is nobody's word, and without keys a key is none.
    let direct = start_with(Shared::default(), limited.clone(), |e| e);
    assert_eq!(ask(&direct, &[("x-forwarded-for", "192.0.2.1"), ("authorization", "Bearer a")]), 200);
    assert_eq!(ask(&direct, &[("x-forwarded-for", "192.0.2.2"), ("authorization", "Bearer b")]), 429);
    let keys = vec!["a".to_owned(), "b".to_owned()];
    let keyed = start_with(Shared::default(), ServerConfig { api_keys: keys, ..limited }, |e| e);
    for (key, status) in [("Bearer a", 200), ("Bearer a", 429), ("Bearer b", 200), ("Bearer c", 401)] {
        assert_eq!(ask(&keyed, &[("authorization", key)]), status, "{key}");
    }
}
