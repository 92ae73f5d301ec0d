//! Fields that are honoured, and the forms of whole answers.

use serde_json::{Value, json};

use crate::client::{start, start_with};
use crate::scripted::{Script, Shared};
use remask_server::ServerConfig;

fn chat(extra: &Value) -> Value {
    let mut body =
        json!({"model": "tales-33m", "messages": [{"role": "user", "content": "A story"}], "max_tokens": 20});
    for (name, value) in extra.as_object().unwrap() {
        body[name.as_str()] = value.clone();
    }
    body
}

fn completion(extra: &Value) -> Value {
    let mut body = json!({"model": "tales-33m", "prompt": "Once upon a time", "max_tokens": 20});
    for (name, value) in extra.as_object().unwrap() {
        body[name.as_str()] = value.clone();
    }
    body
}

#[test]
fn whole_answers_have_openais_form() {
    let server = start();
    let answer = server.post("/v1/chat/completions", &chat(&json!({"model": null}))).ok();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-") && answer["object"] == "chat.completion");
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000 && answer["model"] == "tales-33m");
    let choice = &answer["choices"][0];
    assert_eq!((&choice["index"], &choice["message"]["role"]), (&json!(0), &json!("assistant")));
    assert!(!choice["message"]["content"].as_str().unwrap().is_empty() && choice["logprobs"].is_null());
    assert_eq!(choice["finish_reason"], "length");
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 20);
    assert_eq!(usage["total_tokens"].as_u64(), Some(usage["prompt_tokens"].as_u64().unwrap() + 20));
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    let ours = &answer["remask"];
    for name in ["forward_passes", "rows_computed", "rows_selected", "rows_of_full_compute", "canvas_tokens"] {
        assert!(ours[name].as_u64().unwrap() > 0, "{name}: {ours}");
    }
    for name in ["compute_saved_percent", "tokens_per_pass", "queue_seconds", "compute_seconds"] {
        assert!(ours[name].as_f64().unwrap() >= 0.0, "{name}");
    }
    assert!(ours["mor"]["easy"].is_u64() && ours["acceptance"]["tokens_accepted"] == 20 && ours["notes"].is_array());
    assert!(answer["parallel_tokens_decoded"].as_u64().unwrap() <= 20);

    let answer =
        server.post("/v1/completions", &completion(&json!({"model": "default", "remask": {"mor": false}}))).ok();
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-") && answer["object"] == "text_completion");
    assert!(answer["choices"][0]["text"].is_string() && answer["remask"]["mor"].is_null());
    // Left out, a completion has 16 tokens.
    let answer = server.post("/v1/completions", &completion(&json!({"max_tokens": null}))).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 16);
}

#[test]
fn neutral_and_unknown_fields_change_nothing() {
    let server = start();
    let text = |body: &Value| server.post("/v1/completions", body).ok()["choices"][0]["text"].clone();
    let plain = text(&completion(&json!({})));
    for neutral in [
        json!({"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "repetition_penalty": 1.0}),
        json!({"top_k": -1, "min_p": 0, "n": 1, "best_of": 1, "suffix": "", "echo": false, "user": "me"}),
        json!({"stop": null, "seed": 3, "temperature": 0, "stream_options": null, "response_format": {"type": "text"}}),
        json!({"parallel_decoding": true, "confidence_threshold": null, "min_tokens": 0, "ignore_eos": false}),
        json!({"what_is_this": {"a": 1}, "remask": {}, "logprobs": null, "stop_token_ids": [], "max_tokens": 20.0}),
    ] {
        assert_eq!(text(&completion(&neutral)), plain, "{neutral}");
    }
    let tools = json!({"tools": [], "tool_choice": "auto", "functions": [], "logprobs": false, "modalities": ["text"]});
    server.post("/v1/chat/completions", &chat(&tools)).ok();
    let unused = json!({"tools": [{"type": "function"}], "tool_choice": "none"});
    server.post("/v1/chat/completions", &chat(&unused)).ok();
}

#[test]
fn prompts_and_choices_are_counted_in_order() {
    let server = start();
    let body = completion(&json!({"prompt": ["Once", "Twice"], "n": 2, "temperature": 0.9, "seed": 4, "echo": true}));
    let answer = server.post("/v1/completions", &body).ok();
    let texts: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts.len(), 4);
    assert!(texts[..2].iter().all(|t| t.starts_with("Once")) && texts[2..].iter().all(|t| t.starts_with("Twice")));
    assert_ne!(texts[0], texts[1]);
    assert_eq!(answer["usage"]["completion_tokens"], 80);
    // The prompt counts once, whatever n.
    let ids = |text: &str| server.post("/tokenize", &json!({"prompt": text})).ok()["tokens"].clone();
    let count = |ids: &Value| ids.as_array().unwrap().len() as u64;
    let (once, twice) = (ids("Once"), ids("Twice"));
    assert_eq!(answer["usage"]["prompt_tokens"].as_u64(), Some(count(&once) + count(&twice)));
    // Choice 0 is what n = 1 gives; ids say the same as their text.
    let one = json!({"prompt": [once], "temperature": 0.9, "seed": 4});
    let alone = server.post("/v1/completions", &completion(&one)).ok();
    assert_eq!(format!("Once{}", alone["choices"][0]["text"].as_str().unwrap()), texts[0]);
    let flat = json!({"prompt": ids("Once"), "temperature": 0.9, "seed": 4, "n": 2});
    let flat = server.post("/v1/completions", &completion(&flat)).ok();
    assert_eq!(format!("Once{}", flat["choices"][1]["text"].as_str().unwrap()), texts[1]);
    // Without a seed answers differ.
    let texts: Vec<_> = (0..3)
        .map(|_| server.post("/v1/completions", &completion(&json!({"temperature": 1.5}))).ok()["choices"][0].clone())
        .collect();
    assert!(texts[0] != texts[1] || texts[1] != texts[2]);
}

#[test]
fn stop_strings_cut_and_ends_are_ignored_on_demand() {
    let server = start_with(Shared::new(Script { ends: Some(9), ..Script::default() }), ServerConfig::default(), |e| e);
    let post = |body: &Value| server.post("/v1/completions", body).ok();
    let plain = post(&completion(&json!({"max_tokens": 60})));
    assert_eq!(plain["choices"][0]["finish_reason"], "stop");
    let tokens = plain["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(tokens < 60);
    for all in [json!({"max_tokens": 60, "ignore_eos": true}), json!({"max_tokens": 60, "min_tokens": 60})] {
        let all = post(&completion(&all));
        let ended = (&all["usage"]["completion_tokens"], &all["choices"][0]["finish_reason"]);
        assert_eq!(ended, (&json!(60), &json!("length")));
    }
    let body = json!({"max_tokens": 60, "ignore_eos": true});
    let whole = post(&completion(&body))["choices"][0]["text"].as_str().unwrap().to_owned();
    let stop: String = whole.chars().skip(5).take(2).collect();
    let cut = post(&completion(&json!({"max_tokens": 60, "ignore_eos": true, "stop": [stop, "never there"]})));
    assert_eq!(cut["choices"][0]["text"], whole[..whole.find(&stop).unwrap()]);
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
}

#[test]
fn gaps_are_filled() {
    let server = start();
    let text = "Once upon a time";
    let body = completion(&json!({"suffix": " The end.", "echo": true, "max_tokens": 6}));
    let answer = server.post("/v1/completions", &body).ok();
    let filled = answer["choices"][0]["text"].as_str().unwrap();
    assert!(filled.starts_with(text) && !filled.ends_with("The end."));
    let canvas = json!([{"text": "A"}, {"holes": 3}, {"text": " B"}, {"holes": 2}]);
    let body = json!({"model": "tales-33m", "prompt": null, "remask": {"canvas": canvas}});
    let answer = server.post("/v1/completions", &body).ok();
    let (choice, usage) = (&answer["choices"][0], &answer["usage"]);
    let fills = choice["remask"]["fills"].as_array().unwrap();
    assert_eq!((fills.len(), &fills[0]["index"], &fills[1]["index"]), (2, &json!(1), &json!(3)));
    let joined = format!("A{} B{}", fills[0]["text"].as_str().unwrap(), fills[1]["text"].as_str().unwrap());
    assert_eq!((&choice["text"], &usage["completion_tokens"]), (&json!(joined), &json!(5)));
    let body = json!({"input_prefix": "Once", "input_suffix": " end.", "n_predict": 5});
    let answer = server.post("/infill", &body).ok();
    assert_eq!((&answer["tokens_predicted"], &answer["stop_type"]), (&json!(5), &json!("limit")));
    let suffixed = completion(&json!({"prompt": "Once", "suffix": " end.", "max_tokens": 5}));
    let same = server.post("/v1/completions", &suffixed).ok();
    assert_eq!(answer["content"], same["choices"][0]["text"]);
}

#[test]
fn log_probabilities_have_both_forms() {
    let server = start();
    let answer = server.post("/v1/completions", &completion(&json!({"logprobs": 2, "max_tokens": 5}))).ok();
    let logs = &answer["choices"][0]["logprobs"];
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logs[name].as_array().unwrap().len(), 5, "{name}: {logs}");
    }
    assert!(logs["top_logprobs"][0].as_object().unwrap().len() <= 2 && logs["text_offset"][0] == 0);
    let none = server.post("/v1/completions", &completion(&json!({"logprobs": 0, "max_tokens": 5}))).ok();
    assert!(none["choices"][0]["logprobs"]["top_logprobs"].is_null());
    assert_eq!(none["choices"][0]["text"], answer["choices"][0]["text"], "to ask changes nothing");
    let body = chat(&json!({"logprobs": true, "top_logprobs": 20, "max_tokens": 4}));
    let answer = server.post("/v1/chat/completions", &body).ok();
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 4);
    for entry in content {
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0 && entry["top_logprobs"].as_array().unwrap().len() == 20);
        assert!(entry["bytes"].is_array() || entry["token"].as_str().unwrap().contains('\u{FFFD}'));
    }
}

#[test]
fn roles_parts_and_limits_of_a_chat() {
    let server = start();
    let content = |messages: Value| {
        let body = chat(&json!({"messages": messages}));
        server.post("/v1/chat/completions", &body).ok()["choices"][0]["message"]["content"].clone()
    };
    let plain = content(json!([{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]));
    let parts = json!([{"type": "text", "text": "Hi"}]);
    let same = content(json!([{"role": "developer", "content": "Be kind"}, {"role": "user", "content": parts}]));
    assert_eq!(plain, same);
    // max_completion_tokens goes first; without either the room is what there is.
    let body = chat(&json!({"max_completion_tokens": 3, "max_tokens": 9}));
    assert_eq!(server.post("/v1/chat/completions", &body).ok()["usage"]["completion_tokens"], 3);
    let body = chat(&json!({"max_tokens": null, "remask": {"accept": "threshold:0.1"}}));
    let usage = server.post("/v1/chat/completions", &body).ok()["usage"].clone();
    assert_eq!(usage["total_tokens"], 512);
}

#[test]
fn tokens_go_there_and_back() {
    let server = start();
    let text = "It's a <|endoftext|> test: ä, 漢字 and [MASK]!";
    let plain =
        server.post("/tokenize", &json!({"prompt": text, "add_special_tokens": false, "return_token_strs": true}));
    let plain = plain.ok();
    let back = server.post("/detokenize", &json!({"tokens": plain["tokens"]})).ok();
    assert_eq!((&back["prompt"], &back["content"]), (&json!(text), &json!(text)));
    assert_eq!(plain["count"].as_u64(), Some(plain["token_strs"].as_array().unwrap().len() as u64));
    assert_eq!(plain["max_model_len"], 512);
    let framed = server.post("/tokenize", &json!({"content": text})).ok();
    let usage = server.post("/v1/completions", &completion(&json!({"prompt": text}))).ok()["usage"].clone();
    assert_eq!(framed["count"], usage["prompt_tokens"]);
    let messages = json!([{"role": "user", "content": "A story"}]);
    let chatted = server.post("/tokenize", &json!({"messages": messages})).ok();
    assert_eq!(chatted["count"], server.post("/v1/chat/completions", &chat(&json!({}))).ok()["usage"]["prompt_tokens"]);
    for (path, body) in [
        ("/detokenize", json!({"tokens": [99_999_999]})),
        ("/detokenize", json!({"tokens": [-1]})),
        ("/detokenize", json!({})),
        ("/tokenize", json!({})),
        ("/tokenize", json!({"prompt": "a", "messages": []})),
    ] {
        assert_eq!(server.post(path, &body).error().0, 400, "{path} {body}");
    }
}

#[test]
fn responses_say_what_the_chat_says() {
    let server = start();
    let said = server.post("/v1/chat/completions", &chat(&json!({}))).ok()["choices"][0]["message"]["content"].clone();
    let body = json!({"model": "tales-33m", "input": "A story", "max_output_tokens": 20, "store": true});
    let answer = server.post("/v1/responses", &body).ok();
    assert!(answer["id"].as_str().unwrap().starts_with("resp_") && answer["object"] == "response");
    assert_eq!((&answer["status"], &answer["store"]), (&json!("incomplete"), &json!(false)));
    assert_eq!(answer["incomplete_details"]["reason"], "max_output_tokens");
    let part = &answer["output"][0]["content"][0];
    assert_eq!((&part["type"], &part["text"]), (&json!("output_text"), &said));
    assert_eq!(answer["usage"]["output_tokens"], 20);
    let input = json!([{"role": "user", "content": [{"type": "input_text", "text": "A story"}]}]);
    let mut streamed = body.clone();
    (streamed["input"], streamed["stream"]) = (input, json!(true));
    let answer = server.post("/v1/responses", &streamed).text();
    let events: Vec<(String, Value)> = answer
        .split("\n\n")
        .filter(|e| !e.is_empty())
        .map(|event| {
            let (kind, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            (kind.to_owned(), serde_json::from_str(data).unwrap())
        })
        .collect();
    let text: String = events.iter().filter_map(|(_, e)| e["delta"].as_str()).collect();
    assert_eq!(json!(text), said);
    assert!(events.iter().enumerate().all(|(i, (kind, e))| e["sequence_number"] == i && e["type"] == kind.as_str()));
    let kinds: Vec<_> = events.iter().map(|(kind, _)| kind.trim_start_matches("response.")).collect();
    assert_eq!(kinds[..4], ["created", "in_progress", "output_item.added", "content_part.added"]);
    let tail = ["output_text.done", "content_part.done", "output_item.done", "incomplete"];
    assert_eq!(kinds[kinds.len() - 4..], tail);
    assert_eq!(events.last().unwrap().1["response"]["output"][0]["content"][0]["text"], said);
    for bad in
        [json!({"previous_response_id": "x"}), json!({"background": true}), json!({"tools": [{"type": "web_search"}]})]
    {
        let mut body = body.clone();
        body[bad.as_object().unwrap().keys().next().unwrap()] =
            bad.as_object().unwrap().values().next().unwrap().clone();
        assert_eq!(server.post("/v1/responses", &body).error().0, 400, "{bad}");
    }
    assert_eq!(server.get("/v1/responses/resp_1").error().0, 404);
}

#[test]
fn the_servers_own_settings_hold_where_a_request_says_nothing() {
    let decode = serde_json::from_value(json!({"preset": "quality", "block_length": 5})).unwrap();
    let server = start_with(Shared::default(), ServerConfig { decode, ..ServerConfig::default() }, |e| e);
    let passes = |extra: &Value| {
        let answer = server.post("/v1/completions", &completion(extra)).ok();
        (answer["remask"]["forward_passes"].as_u64().unwrap(), answer["remask"]["mor"].is_object())
    };
    assert_eq!(passes(&json!({})), (20, false), "a token a pass");
    assert!(passes(&json!({"remask": {"mor": true}})).1);
    let (own, mor) = passes(&json!({"remask": {"preset": "balanced"}}));
    assert!(own < 20 && mor);
    let threshold = passes(&json!({"confidence_threshold": 0.1}));
    assert_eq!(threshold, (4, false), "a block of five a pass");
    assert_eq!(passes(&json!({"parallel_decoding": false})), (20, false));
}

#[test]
fn gaps_of_editors_are_filled() {
    let server = start();
    let fill = |extra: &Value| {
        let mut body = json!({"input_prefix": "Once upon ", "input_suffix": " The end.", "n_predict": 6});
        for (name, value) in extra.as_object().unwrap() {
            body[name.as_str()] = value.clone();
        }
        server.post("/infill", &body)
    };
    let plain = fill(&json!({})).ok();
    let same = json!({"suffix": " The end.", "prompt": "Once upon ", "max_tokens": 6});
    let completion = server.post("/v1/completions", &same).ok();
    assert_eq!(plain["content"], completion["choices"][0]["text"]);
    assert_eq!(plain["tokens_evaluated"], completion["usage"]["prompt_tokens"]);
    // What an editor sends along is read, and stands in front.
    let extra = json!({"input_extra": [{"filename": "a.txt", "text": "A fox."}, {"text": "A hen."}], "repeat_penalty": 1.1,
        "samplers": ["top_k"], "cache_prompt": true, "seed": -1, "n_predict": -1, "stream": false, "logit_bias": []});
    let longer = fill(&extra).ok();
    let text = "A fox.\nA hen.\nOnce upon ";
    let whole = server.post("/v1/completions", &json!({"suffix": " The end.", "prompt": text, "max_tokens": 6})).ok();
    assert_eq!(longer["tokens_evaluated"], whole["usage"]["prompt_tokens"]);
    for (name, value) in [
        ("input_extra", json!([{"filename": "a.txt"}])),
        ("n_predict", json!(0)),
        ("logit_bias", json!([[1, 2]])),
        ("n_probs", json!(3)),
        ("grammar", json!("root ::= a")),
        ("stream", json!(true)),
    ] {
        assert_eq!(fill(&json!({name: value})).error().2.as_deref(), Some(name), "{value}");
    }
}
