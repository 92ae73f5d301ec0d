//! Where a model's templates come from, and which one a conversation gets.

use remask_core::chat::{ChatTemplate, Conversation, TemplateFiles};
use serde_json::{Value, json};

fn written(template: &ChatTemplate, tools: bool, name: Option<&str>) -> String {
    let talk = Conversation {
        tools: tools.then(|| vec![json!({})]),
        template: name.map(str::to_owned),
        ..Conversation::ask("x")
    };
    template.render(&talk).map_or_else(|error| error.to_string(), |marked| marked.text)
}

fn from(settings: &Value, template: Option<&str>, additional: &[(&'static str, &'static str)]) -> Option<ChatTemplate> {
    let files = TemplateFiles {
        origin: "m",
        template,
        additional: additional.to_vec(),
        settings: Some(settings),
        fallback: None,
    };
    ChatTemplate::from_files(&files, |name| (name == "bos_token").then(|| "<bos>".to_owned())).unwrap()
}

#[test]
fn settings_hold_one_template_or_several() {
    let one = from(&json!({ "chat_template": "one{{ bos_token }}" }), None, &[]).unwrap();
    assert_eq!(written(&one, false, None), "one<bos>");
    assert_eq!(written(&one, true, None), "one<bos>");
    let list = json!([{ "name": "default", "template": "d" }, { "name": "tool_use", "template": "t" }, { "name": "rag", "template": "r" }]);
    let map = json!({ "default": "d", "tool_use": "t", "rag": "r" });
    for several in [list, map] {
        let several = from(&json!({ "chat_template": several }), None, &[]).unwrap();
        assert_eq!(written(&several, false, None), "d");
        assert_eq!(written(&several, true, None), "t");
        assert_eq!(written(&several, true, Some("rag")), "r");
        assert_eq!(several.source(), "d");
        let unknown = written(&several, false, Some("other"));
        assert_eq!(unknown, "no chat template is called other; there are default, tool_use, rag");
    }
    let without_default = from(&json!({ "chat_template": [{ "name": "a", "template": "A" }] }), None, &[]).unwrap();
    assert!(written(&without_default, false, None).contains("no chat template is called default; there are a"));
    assert!(from(&json!({ "chat_template": null }), None, &[]).is_none());
    assert!(from(&json!({}), None, &[]).is_none());
}

#[test]
fn files_go_before_settings() {
    let settings = json!({ "chat_template": { "default": "settings", "tool_use": "settings" } });
    let file = from(&settings, Some("file"), &[]).unwrap();
    assert_eq!([written(&file, false, None), written(&file, true, None)], ["file", "file"]);
    let files = from(&settings, Some("file"), &[("tool_use", "tools"), ("rag", "rag")]).unwrap();
    assert_eq!([written(&files, false, None), written(&files, true, None)], ["file", "tools"]);
    assert_eq!(written(&files, false, Some("rag")), "rag");
}

#[test]
fn what_is_wrong_names_its_file() {
    let refused = |settings: Value, additional: Vec<(&str, &str)>| {
        let files = TemplateFiles { origin: "m", additional, settings: Some(&settings), ..TemplateFiles::default() };
        ChatTemplate::from_files(&files, |_| None).map(|_| ()).unwrap_err().to_string()
    };
    let wrong = refused(json!({ "chat_template": 5 }), Vec::new());
    assert!(wrong.starts_with("m/tokenizer_config.json: chat_template: expected a text"), "{wrong}");
    let wrong = refused(json!({ "chat_template": [{ "name": "a" }] }), Vec::new());
    assert!(wrong.starts_with("m/tokenizer_config.json: chat_template: expected a text"), "{wrong}");
    let wrong = refused(json!({ "chat_template": { "a": "{% if %}" } }), Vec::new());
    assert!(wrong.starts_with("m/tokenizer_config.json: chat template: line 1: "), "{wrong}");
    let wrong = refused(json!({}), vec![("rag", "\n{{")]);
    assert!(wrong.starts_with("m/additional_chat_templates/rag.jinja: chat template: line 2: "), "{wrong}");
}

#[test]
fn special_tokens_by_name() {
    let settings = json!({
        "chat_template": "{{ bos_token }}{{ eos_token }}{{ image_token }}{{ boi_token }}{{ pad_token }}{{ additional_special_tokens|join('+') }}",
        "eos_token": { "content": "E", "lstrip": false }, "pad_token": null, "extra_special_tokens": { "boi_token": "I" },
        "image_token": "V", "additional_special_tokens": ["A", { "content": "B" }], "add_eos_token": false,
    });
    assert_eq!(written(&from(&settings, None, &[]).unwrap(), false, None), "<bos>EVIA+B");
}
