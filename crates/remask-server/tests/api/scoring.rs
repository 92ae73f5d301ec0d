//! Log-probabilities of prompts, as evaluation harnesses ask for them: `echo` with `logprobs`.

use serde_json::{Value, json};

use crate::client::{Answer, Running};
use crate::forms::{CAUSAL, start, with};

fn score(server: &Running, prompt: Value, more: &Value) -> Answer {
    let body = json!({"model": CAUSAL, "prompt": prompt, "echo": true, "logprobs": 1, "temperature": 0, "seed": 1234});
    server.post("/v1/completions", &with(body, more))
}

fn list<'a>(choice: &'a Value, name: &str) -> &'a Vec<Value> {
    choice["logprobs"][name].as_array().unwrap()
}

fn ids(server: &Running, text: &str) -> Vec<u64> {
    let answer = server.post("/tokenize", &json!({"model": CAUSAL, "prompt": text})).ok();
    answer["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn a_prompt_has_the_log_probabilities_that_it_was_written_with() {
    let server = start();
    let text = "Once upon a time there was a dog";
    let prompt = ids(&server, text);
    // What the model writes, and then reads.
    let body = json!({"model": CAUSAL, "prompt": prompt, "logprobs": 2, "temperature": 0, "max_tokens": 6});
    let written = server.post("/v1/completions", &body).ok();
    let own = written["choices"][0].clone();
    let whole = ids(&server, &format!("{text}{}", own["text"].as_str().unwrap()));
    assert_eq!(whole.len(), prompt.len() + 6);
    for (max_tokens, count) in [(0, 0), (1, 1)] {
        let answer = score(&server, json!([whole, prompt]), &json!({"max_tokens": max_tokens, "logprobs": 2})).ok();
        assert_eq!(answer["usage"]["prompt_tokens"], json!(whole.len() + prompt.len()));
        assert_eq!(answer["usage"]["completion_tokens"], json!(2 * count));
        for (choice, given) in answer["choices"].as_array().unwrap().iter().zip([&whole, &prompt]) {
            for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                assert_eq!(list(choice, name).len(), given.len() + count, "{name}");
            }
            assert!(list(choice, "token_logprobs")[0].is_null() && list(choice, "top_logprobs")[0].is_null());
            assert!(list(choice, "token_logprobs")[1..].iter().all(|log| log.as_f64().unwrap() <= 0.0));
            assert!(list(choice, "top_logprobs")[1..].iter().all(|top| !top.as_object().unwrap().is_empty()));
            assert_eq!(choice["finish_reason"], "length");
            // Every token of the text is where its offset says; the first is a mark, which is no text.
            let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
            for (token, offset) in list(choice, "tokens").iter().zip(list(choice, "text_offset")).skip(1) {
                let rest: String = text[offset.as_u64().unwrap() as usize..].iter().collect();
                assert!(rest.starts_with(token.as_str().unwrap()), "{token} in {rest:?}");
            }
        }
        let read = &answer["choices"][0];
        let behind = |choice: &Value, from: usize| list(choice, "token_logprobs")[from..][..6].to_vec();
        for (read, written) in behind(read, prompt.len()).iter().zip(behind(&own, 0)) {
            assert!((read.as_f64().unwrap() - written.as_f64().unwrap()).abs() < 1e-3, "{read} {written}");
        }
        assert!(read["text"].as_str().unwrap().starts_with(text));
    }
}

#[test]
fn streams_choices_and_stop_strings_leave_the_prompt_alone() {
    let server = start();
    let more = json!({"max_tokens": 8, "n": 2, "temperature": 0.9, "stop": ["upon", "zzz"]});
    let plain = score(&server, json!("Once upon a time"), &more).ok();
    let events = score(&server, json!("Once upon a time"), &with(more, &json!({"stream": true}))).events();
    for index in 0..2 {
        let choice = &plain["choices"][index];
        let text = choice["text"].as_str().unwrap();
        assert!(text.starts_with("Once upon a time") && text.len() > 16, "{text:?}");
        let own = || events.iter().flat_map(|e| e["choices"].as_array().unwrap()).filter(|c| c["index"] == index);
        assert_eq!(own().map(|c| c["text"].as_str().unwrap()).collect::<String>(), text);
        for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let streamed: Vec<_> = own().filter_map(|c| c["logprobs"][name].as_array()).flatten().cloned().collect();
            assert_eq!(&streamed, list(choice, name), "{name}");
        }
    }
    // Without log-probabilities it is as it was.
    let none = score(&server, json!("Once upon a time"), &json!({"logprobs": null, "max_tokens": 4})).ok();
    assert!(none["choices"][0]["text"].as_str().unwrap().starts_with("Once upon a time"));
    assert!(none["choices"][0]["logprobs"].is_null());
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let server = start();
    let refused = |more: Value| score(&server, json!("Once"), &more).error().2;
    assert_eq!(refused(json!({"model": "tales-33m"})).as_deref(), Some("echo"));
    assert_eq!(refused(json!({"max_tokens": 0, "logprobs": null})).as_deref(), Some("max_tokens"));
    assert_eq!(refused(json!({"max_tokens": 0, "echo": false})).as_deref(), Some("max_tokens"));
    let long = vec![5; 513];
    let answer = score(&server, json!(long), &json!({"max_tokens": 0}));
    assert_eq!(answer.error(), (400, Some("context_length_exceeded".to_owned()), Some("max_tokens".to_owned())));
    let full = score(&server, json!(long[1..]), &json!({"max_tokens": 0})).ok();
    assert_eq!(list(&full["choices"][0], "tokens").len(), 512);
}
