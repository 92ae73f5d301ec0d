//! Streams: the same answer in pieces.

use std::io::{Read, Write};
use std::time::Duration;

use remask_server::ServerConfig;
use serde_json::{Value, json};

use crate::client::{data, head, start, start_with, until};
use crate::scripted::{Script, Shared};

fn story(extra: &Value) -> Value {
    let mut body = json!({"model": "tales-33m", "prompt": "Once upon a time", "max_tokens": 48});
    for (name, value) in extra.as_object().unwrap() {
        body[name.as_str()] = value.clone();
    }
    body
}

#[test]
fn a_stream_is_the_plain_answer_in_pieces() {
    let server =
        start_with(Shared::new(Script { ends: Some(150), ..Script::default() }), ServerConfig::default(), |e| e);
    for extra in [
        json!({}),
        json!({"temperature": 0.8, "seed": 1}),
        json!({"temperature": 0.8, "seed": 2, "n": 3, "logprobs": 1}),
        json!({"stop": ["e", "a "], "echo": true}),
        json!({"prompt": ["Once", "Twice"], "remask": {"preset": "quality"}}),
        json!({"suffix": " end.", "remask": {"revise": "verify:0.9,2"}}),
        json!({"remask": {"preset": "fast", "block_length": 7}}),
    ] {
        let plain = server.post("/v1/completions", &story(&extra)).ok();
        let mut body = story(&extra);
        (body["stream"], body["stream_options"]) = (json!(true), json!({"include_usage": true}));
        let answer = server.post("/v1/completions", &body);
        assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert_eq!(answer.header("x-accel-buffering"), Some("no"));
        let mut events = answer.events();
        let last = events.pop().unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &plain["usage"]), "{extra}");
        assert!(last["remask"]["forward_passes"] == plain["remask"]["forward_passes"]);
        for (index, choice) in plain["choices"].as_array().unwrap().iter().enumerate() {
            let own = || events.iter().flat_map(|e| e["choices"].as_array().unwrap()).filter(|c| c["index"] == index);
            let text: String = own().map(|c| c["text"].as_str().unwrap()).collect();
            assert_eq!(json!(text), choice["text"], "{extra}");
            let finishes: Vec<_> = own().filter(|c| !c["finish_reason"].is_null()).collect();
            assert_eq!((finishes.len(), &finishes[0]["finish_reason"]), (1, &choice["finish_reason"]));
            let logs = |name: &str| -> Vec<Value> {
                own().filter_map(|c| c["logprobs"][name].as_array()).flatten().cloned().collect()
            };
            if !choice["logprobs"].is_null() {
                assert_eq!(json!(logs("tokens")), choice["logprobs"]["tokens"]);
                assert_eq!(json!(logs("text_offset")), choice["logprobs"]["text_offset"]);
            }
        }
        assert!(
            events.iter().all(|e| e["usage"].is_null() && e["id"] == last["id"] && e["created"] == last["created"])
        );
    }
}

#[test]
fn chunks_of_a_chat_have_openais_form() {
    let server = start();
    let mut body = json!({"model": "tales-33m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 30, "stream": true});
    let events = server.post("/v1/chat/completions", &body).events();
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert!(
        events.iter().all(|e| e["object"] == "chat.completion.chunk" && e["choices"].as_array().unwrap().len() == 1)
    );
    assert!(events.iter().all(|e| e.get("usage").is_none()), "no usage where none was asked for");
    let last = events.last().unwrap();
    assert_eq!((&last["choices"][0]["delta"], &last["choices"][0]["finish_reason"]), (&json!({}), &json!("length")));
    assert!(last["remask"]["rows_computed"].as_u64().unwrap() > 0);
    assert_eq!(events.iter().filter(|e| e["choices"][0]["delta"].get("role").is_some()).count(), 1);
    body["stream_options"] = json!({"include_usage": true, "continuous_usage_stats": true});
    let events = server.post("/v1/chat/completions", &body).events();
    let tokens: Vec<_> = events.iter().map(|e| e["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(tokens.is_sorted() && *tokens.last().unwrap() == 30 && tokens[0] > 0, "{tokens:?}");
}

#[test]
fn steps_are_told_on_demand_and_fit_the_text() {
    let server = start();
    let ours = json!({"step_events": true, "preset": "quality"});
    let body = story(&json!({"stream": true, "remask": ours, "max_tokens": 12}));
    let events = server.post("/v1/completions", &body).events();
    let (mut ids, mut prefix) = (vec![None; 12], 0);
    let mut tokens = 0;
    for event in &events {
        if event["remask"]["event"] == "step" {
            assert_eq!((&event["choices"], &event["remask"]["index"]), (&json!([]), &json!(0)));
            for token in event["remask"]["committed"].as_array().unwrap() {
                let place = token["pos"].as_u64().unwrap() as usize;
                assert!(ids[place].is_none() && token["p"].as_f64().unwrap() > 0.0 && token["token"].is_string());
                ids[place] = token["id"].as_u64();
            }
            for token in event["remask"]["provisional"].as_array().unwrap() {
                assert!(token["entropy"].is_number() && token["depth"].as_u64().unwrap() > 0);
            }
            let now = event["remask"]["prefix"].as_u64().unwrap() as usize;
            assert!(now >= prefix && ids[..now].iter().all(Option::is_some));
            prefix = now;
            tokens += 1;
        }
    }
    assert!(tokens >= 12 && prefix == 12);
    let text: String = events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
    let back = server.post("/detokenize", &json!({"tokens": ids})).ok();
    assert_eq!(back["content"], text);
    let plain = server.post("/v1/completions", &story(&json!({"remask": {"step_events": true}})));
    assert_eq!(plain.error(), (400, None, Some("remask.step_events".into())));
}

#[test]
fn a_failure_in_a_stream_is_an_event() {
    let server = start();
    let poison = server.post("/tokenize", &json!({"prompt": "poison", "add_special_tokens": false})).ok();
    server.script.lock().poison = poison["tokens"][0].as_u64().map(|id| id as u32);
    let body = story(&json!({"prompt": "poison", "stream": true}));
    let events = server.post("/v1/completions", &body).events();
    assert_eq!(events.last().unwrap()["error"]["code"], "generation_failed");
    let plain = server.post("/v1/completions", &story(&json!({"prompt": "poison"})));
    assert_eq!(plain.error(), (500, Some("generation_failed".into()), None));
    assert_eq!(server.metric("remask_requests_total", "server_error"), 2.0);
    server.post("/v1/completions", &story(&json!({}))).ok();
}

#[test]
fn signs_of_life_come_while_nothing_is_said() {
    let config = ServerConfig { ping: Duration::from_millis(20), ..ServerConfig::default() };
    let server = start_with(Shared::default(), config, |e| e);
    server.script.lock().hold = true;
    let mut stream = server.connect();
    let body = story(&json!({"stream": true}));
    let json = ("content-type", "application/json");
    stream.write_all(&head("POST", "/v1/completions", &[json], &body.to_string())).unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains(": ping\n\n") {
        let count = stream.read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..count]);
    }
    server.script.lock().hold = false;
    stream.read_to_end(&mut seen).unwrap();
    assert_eq!(data(&crate::client::Answer::parse(&seen).body).last().unwrap(), "[DONE]");
    until(|| server.app.engine.counts() == (0, 0));
}
