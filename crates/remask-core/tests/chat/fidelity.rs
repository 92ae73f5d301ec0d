//! What Jinja2 writes, as transformers sets it up: see tests/data/chat.

use remask_core::chat::{Conversation, DateTime};
use serde_json::{Value, json};

use super::{read, read_json, template};

fn conversation(json: &Value) -> Conversation {
    let now: DateTime = "2026-03-07T09:05:02".parse().unwrap();
    Conversation { now: Some(now), ..serde_json::from_value(json.clone()).unwrap() }
}

#[test]
fn templates_of_real_models() {
    let conversations = read_json("conversations.json");
    let expected = read_json("expected.json");
    let mut compared = 0;
    for (file, texts) in expected["templates"].as_object().unwrap() {
        let template = template(&read(&format!("templates/{file}"))).unwrap();
        for (name, text) in texts.as_object().unwrap() {
            let rendered = template.render(&conversation(&conversations[name])).map(|marked| marked.text);
            match text.as_str() {
                Some(text) => assert_eq!(rendered.unwrap(), text, "{file}, {name}"),
                // Tool calls with their arguments as text are understood all the same.
                None => assert!(rendered.is_err() || name == "tools_str", "{file}, {name}: {rendered:?}"),
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 66);
}

#[test]
fn snippets() {
    let snippets = read_json("snippets.json");
    let expected = read_json("expected.json");
    let mut talk = conversation(&json!({ "messages": [{ "role": "user", "content": "Hi" }] }));
    talk.variables = snippets["variables"].as_object().unwrap().clone();
    let (snippets, texts) = (snippets["snippets"].as_array().unwrap(), expected["snippets"].as_array().unwrap());
    assert_eq!(snippets.len(), texts.len());
    assert!(snippets.len() > 150);
    for (snippet, text) in snippets.iter().zip(texts) {
        let snippet = snippet.as_str().unwrap();
        let rendered = template(snippet).and_then(|template| template.render(&talk)).map(|marked| marked.text);
        match text.as_str() {
            Some(text) => assert_eq!(rendered.unwrap(), text, "{snippet}"),
            None => assert!(rendered.is_err(), "{snippet}: {rendered:?}"),
        }
    }
}
