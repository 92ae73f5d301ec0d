//! The form of answers, over HTTP: an autoregressive model keeps to it, a diffusion model says that it cannot.

use remask::{Device, Source};
use remask_server::ServerConfig;
use serde_json::{Value, json};

use crate::client::{Answer, Running, start_with};
use crate::scripted::Shared;

pub const CAUSAL: &str = "tales-ar-7m";

/// A server of the bundled models: the default on a script, the autoregressive one on the CPU.
pub fn start() -> Running {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales-ar-7m");
    let causal = || Source::path(folder, Device::Cpu.opener(None));
    start_with(Shared::default(), ServerConfig::default(), |engine| engine.model(causal()))
}

fn schema() -> Value {
    json!({
        "type": "object", "required": ["name", "age"], "additionalProperties": false,
        "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
    })
}

/// Whether a text is what the schema allows.
fn fits(text: &str) -> bool {
    let Ok(Value::Object(answer)) = serde_json::from_str(text) else { return false };
    let age = answer.get("age").and_then(Value::as_u64).is_some_and(|age| (1..100).contains(&age));
    age && answer.get("name").and_then(Value::as_str).is_some_and(|n| n.chars().count() <= 10) && answer.len() == 2
}

pub fn with(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name.as_str()] = value.clone();
    }
    body
}

fn chat(server: &Running, more: &Value) -> Answer {
    let body = json!({"model": CAUSAL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200, "seed": 3});
    server.post("/v1/chat/completions", &with(body, more))
}

fn complete(server: &Running, more: &Value) -> Answer {
    let body = json!({"model": CAUSAL, "prompt": "Once upon a time", "max_tokens": 200, "seed": 4});
    server.post("/v1/completions", &with(body, more))
}

#[test]
fn every_way_to_ask_for_a_form_is_kept_to() {
    let server = start();
    let format = |strict: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": strict, "schema": schema()}}});
    for more in [
        format(json!(true)),
        format(json!(false)),
        format(Value::Null),
        json!({"guided_json": schema()}),
        json!({"guided_json": schema().to_string(), "temperature": 0}),
        json!({"structured_outputs": {"json": schema(), "disable_any_whitespace": true}}),
        json!({"json_schema": schema()}),
        json!({"response_format": {"type": "json_object", "schema": schema()}}),
    ] {
        let answer = chat(&server, &more).ok();
        let choice = &answer["choices"][0];
        assert!(fits(choice["message"]["content"].as_str().unwrap()), "{more}: {choice}");
        assert_eq!(choice["finish_reason"], "stop");
        let answer = complete(&server, &more).ok();
        assert!(fits(answer["choices"][0]["text"].as_str().unwrap()), "{more}: {answer}");
    }
    for (more, allowed) in [
        (json!({"guided_choice": ["red", "blue"]}), ["red", "blue"]),
        (json!({"guided_regex": "(red|blue)"}), ["red", "blue"]),
        (json!({"guided_grammar": "start: \"red\" | \"blue\""}), ["red", "blue"]),
        (json!({"structured_outputs": {"choice": ["red", "blue"]}}), ["red", "blue"]),
        (json!({"grammar": "%llguidance {}\nstart: \"red\" | \"blue\""}), ["red", "blue"]),
        (json!({"guided_grammar": "root ::= a | [b] \"lue\"\na ::= \"red\""}), ["red", "blue"]),
        (json!({"grammar": "root ::= a | [b] \"lue\"\na ::= \"red\""}), ["red", "blue"]),
    ] {
        let answer = complete(&server, &more).ok();
        assert!(allowed.contains(&answer["choices"][0]["text"].as_str().unwrap()), "{more}: {answer}");
    }
    let answer = chat(&server, &json!({"response_format": {"type": "json_object"}, "max_tokens": 5})).ok();
    let choice = &answer["choices"][0];
    assert!(choice["message"]["content"].as_str().unwrap().starts_with('{'), "{choice}");
    assert_eq!(choice["finish_reason"], "length");
}

#[test]
fn streams_and_choices_keep_to_it_and_tell_log_probabilities() {
    let server = start();
    let more = json!({
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema()}},
        "n": 2, "logprobs": true, "top_logprobs": 2, "temperature": 1.2,
    });
    let plain = chat(&server, &more).ok();
    let events = chat(&server, &with(more, &json!({"stream": true}))).events();
    for index in 0..2 {
        let choice = &plain["choices"][index];
        let text = choice["message"]["content"].as_str().unwrap();
        assert!(fits(text), "{choice}");
        let own = || {
            let choices = events.iter().flat_map(|event| event["choices"].as_array().unwrap());
            choices.filter(|choice| choice["index"] == index)
        };
        let streamed: String = own().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(streamed, text);
        let logs = |choice: &Value| choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
        assert_eq!(own().flat_map(logs).collect::<Vec<_>>(), logs(choice));
        assert!(logs(choice).iter().all(|log| log["top_logprobs"].as_array().unwrap().len() == 2));
        assert_eq!(own().filter(|choice| choice["finish_reason"] == "stop").count(), 1);
    }
    assert_ne!(plain["choices"][0]["message"], plain["choices"][1]["message"]);
}

#[test]
fn responses_have_a_format_too() {
    let server = start();
    let ask = |format: Value| {
        let body = json!({"model": CAUSAL, "input": "Hi", "max_output_tokens": 200, "text": {"format": format}});
        server.post("/v1/responses", &body)
    };
    let format = json!({"type": "json_schema", "name": "person", "schema": schema(), "strict": true});
    let answer = ask(format.clone()).ok();
    let text = answer["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(fits(text), "{text}");
    assert_eq!((&answer["text"]["format"], &answer["status"]), (&format, &json!("completed")));
    assert_eq!(ask(Value::Null).ok()["text"]["format"], json!({"type": "text"}));
    let wrong = ask(json!({"type": "json_schema", "name": "person", "schema": {"type": "nonsense"}}));
    assert_eq!((wrong.error().0, wrong.error().2.as_deref()), (400, Some("text.format")));
    assert!(wrong.text().contains("nonsense"), "{}", wrong.text());
    assert_eq!(ask(json!({"type": "xml"})).error().2.as_deref(), Some("text.format.type"));
}

#[test]
fn what_cannot_be_kept_to_is_refused_by_name() {
    let server = start();
    for (more, field) in [
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "b"}}}}),
            "response_format",
        ),
        (json!({"guided_json": {"$ref": "#/$defs/none"}}), "guided_json"),
        (json!({"guided_regex": "("}), "guided_regex"),
        (json!({"guided_grammar": "begin: \"a\""}), "guided_grammar"),
        (json!({"structured_outputs": {"regex": "("}}), "structured_outputs"),
        (json!({"grammar": "root ::= other"}), "grammar"),
    ] {
        for answer in [chat(&server, &more), complete(&server, &more)] {
            let (status, _, param) = answer.error();
            assert_eq!((status, param.as_deref()), (400, Some(field)), "{more}");
            assert!(answer.json()["error"]["message"].as_str().unwrap().starts_with(field), "{}", answer.text());
        }
    }
    for (field, value) in [
        ("response_format", json!({"type": "json_object"})),
        ("response_format", json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema()}})),
        ("guided_choice", json!(["a"])),
        ("structured_outputs", json!({"regex": "a"})),
    ] {
        let mut diffusion = json!({"model": "tales-33m"});
        diffusion[field] = value;
        for answer in [chat(&server, &diffusion), complete(&server, &diffusion)] {
            assert_eq!(answer.error(), (400, Some("unsupported_value".to_owned()), Some(field.to_owned())));
            assert!(answer.text().contains("diffusion"), "{}", answer.text());
        }
    }
    assert!(chat(&server, &json!({"model": "tales-33m", "response_format": {"type": "text"}})).status == 200);
    assert_eq!(server.metric("dfastllm_num_requests_running", CAUSAL), 0.0);
}
