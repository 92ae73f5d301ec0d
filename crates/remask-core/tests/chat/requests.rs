//! What a conversation may ask for.

use remask_core::chat::{Content, Conversation, Message};
use remask_core::{Error, Result};
use serde_json::{Value, json};

use super::{read, template};

const PLAIN: &str =
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[answer]{% endif %}";

fn rendered(source: &str, talk: Value) -> Result<String> {
    Ok(template(source)?.render(&serde_json::from_value(talk).unwrap())?.text)
}

#[test]
fn the_header_of_an_answer() {
    let ask = |more: Value| {
        let mut talk =
            json!({ "messages": [{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": " So \n" }] });
        talk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rendered(PLAIN, talk)
    };
    assert_eq!(ask(json!({})).unwrap(), "[user]Hi[assistant] So \n[answer]");
    assert_eq!(ask(json!({ "add_generation_prompt": false })).unwrap(), "[user]Hi[assistant] So \n");
    let continued = json!({ "continue_final_message": true });
    assert_eq!(ask(continued.clone()).unwrap(), "[user]Hi[assistant] So \n");
    let both = ask(json!({ "add_generation_prompt": true, "continue_final_message": true })).unwrap_err();
    assert!(both.to_string().contains("exclude each other"), "{both}");
    let trimming = PLAIN.replace("m.content", "m.content|trim");
    let talk = json!({ "messages": [{ "role": "assistant", "content": " So \n" }], "continue_final_message": true });
    assert_eq!(rendered(&(trimming + "<end>"), talk).unwrap(), "[assistant]So");
    let nothing = json!({ "messages": [{ "role": "assistant", "content": null }], "continue_final_message": true });
    assert!(rendered(PLAIN, nothing).unwrap_err().to_string().contains("it has no text"));
    let lost = json!({ "messages": [{ "role": "assistant", "content": "abc" }], "continue_final_message": true });
    assert!(rendered("{{ messages[0].content|upper }}", lost).unwrap_err().to_string().contains("changes its text"));
}

#[test]
fn contents_in_parts() {
    let parts = json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] }] });
    let text = json!({ "messages": [{ "role": "user", "content": "a" }] });
    let in_parts = "{% for m in messages %}{% for p in m.content %}{{ '<' ~ p.text ~ '>' }}{% endfor %}{% endfor %}";
    let both = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}({{ p.text }}){% endfor %}{% endif %}{% endfor %}";
    let strict = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}";
    assert_eq!(rendered(PLAIN, parts.clone()).unwrap(), "[user]a\nb[answer]");
    assert_eq!(rendered(strict, parts.clone()).unwrap(), "usera\nb");
    assert_eq!(rendered(in_parts, parts.clone()).unwrap(), "<a><b>");
    assert_eq!(rendered(in_parts, text.clone()).unwrap(), "<a>");
    assert_eq!(rendered(both, parts).unwrap(), "(a)(b)");
    assert_eq!(rendered(both, text).unwrap(), "a");
    let marked = template(in_parts).unwrap().render(&Conversation::ask("<x>")).unwrap();
    assert_eq!(super::given(&marked), ["<x>"]);
}

#[test]
fn fields_pass_through() {
    let source = "{% for m in messages %}{{ m.name }}|{{ m.reasoning_content }}|{{ m.tool_call_id }}|{{ m.content is none }}|\
                  {{ m.content is defined }}|{{ (m.zebra or {}).b }};{% endfor %}";
    let messages = vec![
        Message::new("user", "x").with("name", "Ada").with("zebra", json!({ "b": 1, "a": 2 })),
        Message { content: Content::Null, ..Message::new("assistant", "") }.with("reasoning_content", "hm"),
        Message { content: Content::Absent, ..Message::new("tool", "") }.with("tool_call_id", "7"),
    ];
    let text = template(source).unwrap().render(&messages.into()).unwrap().text;
    assert_eq!(text, "Ada|||False|True|1;|hm||True|True|;||7|False|False|;");
}

#[test]
fn tool_calls_as_openai_writes_them() {
    // transformers fails on this template where a content is null or the arguments are a text.
    let call =
        json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{\"b\": 1, \"a\": [2]}" } });
    let talk = json!({ "messages": [
        { "role": "user", "content": "x" }, { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "content": "3", "tool_call_id": "c" },
    ] });
    let qwen = rendered(&read("templates/Qwen-Qwen3-0.6B.jinja"), talk.clone()).unwrap();
    let written = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": [2]}}\n</tool_call>";
    assert!(qwen.contains(written), "{qwen}");
    let glm = rendered(&read("templates/GLM-4.6.jinja"), talk).unwrap();
    assert!(glm.contains("<arg_key>b</arg_key>\n<arg_value>1</arg_value>"), "{glm}");
}

#[test]
fn variables() {
    let source = "{{ enable_thinking is false }}{{ effort|default('none') }}{{ bos_token }}";
    let ask = |variables: Value| {
        rendered(source, json!({ "messages": [{ "role": "user", "content": "x" }], "variables": variables }))
    };
    assert_eq!(ask(json!({ "enable_thinking": false })).unwrap(), "Truenone<s>");
    assert_eq!(ask(json!({ "effort": "high", "bos_token": "B" })).unwrap(), "FalsehighB");
    assert!(matches!(ask(json!({ "messages": [] })), Err(Error::Request(problem)) if problem.contains("messages")));
}
