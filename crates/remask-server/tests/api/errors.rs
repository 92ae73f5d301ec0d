//! What is refused, and how.

use serde_json::{Value, json};

use crate::client::start;

#[test]
fn fields_that_make_no_sense_are_named() {
    let server = start();
    let completion = |name: &str, value: Value| {
        let mut body = json!({"model": "tales-33m", "prompt": "Once", "max_tokens": 4});
        body[name] = value;
        server.post("/v1/completions", &body).error()
    };
    for (name, value) in [
        ("temperature", json!(2.5)),
        ("temperature", json!("hot")),
        ("top_p", json!(0)),
        ("top_p", json!(1.1)),
        ("top_k", json!(-2)),
        ("min_p", json!(2)),
        ("n", json!(0)),
        ("n", json!(17)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(1.5)),
        ("stop", json!([""])),
        ("stop", json!(5)),
        ("seed", json!("x")),
        ("logprobs", json!(21)),
        ("presence_penalty", json!(3)),
        ("logit_bias", json!({"a": 1})),
        ("logit_bias", json!({"5": 1000})),
        ("prompt", json!("")),
        ("prompt", json!([])),
        ("prompt", json!(["a", 1])),
        ("prompt", json!(vec!["a"; 65])),
        ("prompt", Value::Null),
        ("stream", json!("yes")),
        ("best_of", json!(3)),
        ("response_format", json!({"type": "json_object"})),
        ("guided_regex", json!("a")),
        ("prompt_logprobs", json!(1)),
        ("min_tokens", json!(2)),
        ("suffix", json!(1)),
        ("model", json!(5)),
        ("include_stop_str_in_output", json!(true)),
        ("logit_bias", json!({"99999999": 1})),
        ("prompt", json!([1, 99_999_999])),
        ("prompt", json!([[1], [99_999_999]])),
        ("truncate_prompt_tokens", json!(5)),
        ("bad_words", json!(["a"])),
        ("allowed_token_ids", json!([1])),
        ("length_penalty", json!(0.5)),
        ("grammar", json!("root ::= a")),
        ("remask", json!({"steps": 0})),
        ("remask", json!({"block_length": 0})),
        ("remask", json!({"mor": {"min_recursions": 9}})),
    ] {
        assert_eq!(completion(name, value.clone()).2.as_deref(), Some(name), "{value}");
        assert_eq!(completion(name, value).0, 400);
    }
    let chat = |name: &str, value: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4});
        body[name] = value;
        let (status, _, param) = server.post("/v1/chat/completions", &body).error();
        (status, param.unwrap())
    };
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    for (name, value, param) in [
        ("messages", json!([]), "messages"),
        ("messages", json!("Hi"), "messages"),
        ("messages", json!([{"role": "robot", "content": "Hi"}]), "messages[0].role"),
        ("messages", json!([{"content": "Hi"}]), "messages[0].role"),
        ("messages", json!([{"role": "user"}]), "messages[0].content"),
        ("messages", image, "messages[0].content"),
        ("top_logprobs", json!(3), "top_logprobs"),
        ("tools", json!([{"type": "function"}]), "tools"),
        ("tool_choice", json!("required"), "tool_choice"),
        ("response_format", json!({"type": "json_schema"}), "response_format"),
        ("max_completion_tokens", json!(0), "max_completion_tokens"),
        ("remask", json!({"thresh": 1}), "remask"),
        ("remask", json!({"accept": "nonsense"}), "remask"),
        ("remask", json!({"canvas": [{"holes": 3}]}), "remask.canvas"),
        ("remask", json!({"canvas": [{"ids": [99_999_999]}, {"holes": 3}]}), "remask.canvas"),
        ("remask", json!(5), "remask"),
        ("remask", json!({"mor": {"recursions": 3}}), "remask"),
        ("verbosity", json!("high"), "verbosity"),
        ("echo", json!(true), "echo"),
    ] {
        assert_eq!(chat(name, value.clone()), (400, param.to_owned()), "{name} {value}");
    }
    let message = server.post(
        "/v1/chat/completions",
        &json!({"messages": [{"role": "user", "content": "a"}], "remask": {"thresh": 1}}),
    );
    assert!(message.json()["error"]["message"].as_str().unwrap().contains("thresh"));
    for canvas in [json!([]), json!([{"text": "a"}]), json!([{"hole": 1}]), json!([{"holes": -1}]), json!("a")] {
        let error = server.post("/v1/completions", &json!({"remask": {"canvas": canvas}})).error();
        assert_eq!((error.0, error.2.as_deref()), (400, Some("remask.canvas")), "{canvas}");
    }
    let inside = json!({"prompt": "a", "remask": {"mor": {"recursions": 3}}});
    let message = server.post("/v1/completions", &inside).json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("unknown field `recursions`"), "{message}");
    let response = |name: &str, value: Value| {
        let mut body = json!({"input": "Hi", "max_output_tokens": 4, "instructions": "Be kind."});
        body[name] = value;
        let (status, _, param) = server.post("/v1/responses", &body).error();
        (status, param.unwrap())
    };
    for (name, value, param) in [
        ("input", json!([]), "input"),
        ("input", json!([{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}]), "input[1].role"),
        ("input", json!([{"role": "user", "content": [{"type": "input_image"}]}]), "input[0].content"),
        ("max_output_tokens", json!(0), "max_output_tokens"),
        ("max_output_tokens", json!(9000), "max_output_tokens"),
        ("include", json!(["message.output_text.logprobs"]), "include"),
        ("top_logprobs", json!(2), "top_logprobs"),
        ("truncation", json!("auto"), "truncation"),
    ] {
        assert_eq!(response(name, value.clone()), (400, param.to_owned()), "{name} {value}");
    }
    let agents =
        json!({"input": "Hi", "max_output_tokens": 4, "include": ["reasoning.encrypted_content"], "store": false});
    server.post("/v1/responses", &agents).ok();
}

#[test]
fn a_context_that_is_too_short_is_said_with_numbers_before_a_stream_begins() {
    let server = start();
    for stream in [false, true] {
        let body = json!({"prompt": "Once upon a time", "max_tokens": 600, "stream": stream});
        let answer = server.post("/v1/completions", &body);
        assert_eq!(answer.error(), (400, Some("context_length_exceeded".into()), Some("max_tokens".into())));
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("maximum context length is 512 tokens") && message.contains("600 for"), "{message}");
    }
}

#[test]
fn routes_methods_and_bodies_have_the_same_form_of_error() {
    let server = start();
    assert_eq!(server.get("/nowhere").error(), (404, Some("not_found".into()), None));
    let wrong = server.get("/v1/completions");
    assert_eq!(wrong.error(), (405, Some("method_not_allowed".into()), None));
    assert_eq!(wrong.header("allow"), Some("POST"));
    assert_eq!(server.post("/health", &json!({})).header("allow"), Some("GET,HEAD"));
    let json = ("content-type", "application/json");
    for body in ["{", "[1]", "nonsense", &"[".repeat(5000)] {
        assert_eq!(server.send("POST", "/v1/completions", &[json], body).error().0, 400, "{body:.20}");
    }
    let plain = server.send("POST", "/v1/completions", &[("content-type", "text/plain")], "{}");
    assert_eq!(plain.error(), (415, Some("unsupported_media_type".into()), None));
    let unknown = server.post("/v1/completions", &json!({"model": "gpt-9", "prompt": "a"}));
    assert_eq!(unknown.error(), (404, Some("model_not_found".into()), Some("model".into())));
    assert_eq!(server.get("/v1/models/gpt-9").error().1.as_deref(), Some("model_not_found"));
    let gone = server.send("DELETE", "/v1/requests/nobody", &[], "");
    assert_eq!((gone.status, &gone.json()["status"]), (404, &json!("not_found")));
}
