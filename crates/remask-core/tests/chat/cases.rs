//! Templates that once went wrong: tests/data/chat/cases.

use remask_core::TextTokenizer;
use remask_core::chat::Conversation;
use serde_json::{Value, json};

use super::{read, template};

/// A tokenizer of words, `w0` to `w9`, numbers of a date, and special tokens.
fn tokenizer() -> TextTokenizer {
    let specials = ["<|endoftext|>", "<|startoftext|>", "<|eot_id|>", "<|mdm_mask|>"];
    let words: Vec<String> = (0..10).map(|i| format!("w{i}")).chain(["2026-03-07".to_owned()]).collect();
    let vocab: Value = words.iter().enumerate().map(|(id, word)| (word.clone(), json!(id))).collect();
    let added = |(at, text): (usize, &&str)| {
        json!({ "id": words.len() + at, "content": text, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false })
    };
    let json = json!({
        "version": "1.0", "added_tokens": specials.iter().enumerate().map(added).collect::<Vec<_>>(), "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" },
    });
    TextTokenizer::from_bytes("tokenizer.json", json.to_string().as_bytes()).unwrap()
}

/// The ids of a question in the chat form of a case.
fn ids(case: &str, question: &str) -> Vec<u32> {
    let now = Some("2026-03-07T09:05:02".parse().unwrap());
    let talk = Conversation { now, ..Conversation::ask(question) };
    tokenizer().encode(&template(&read(&format!("cases/{case}.jinja"))).unwrap().render(&talk).unwrap()).unwrap()
}

#[test]
fn line_ends_are_read_as_one_kind() {
    assert_ne!(read("cases/crlf.jinja"), read("cases/lf.jinja"));
    for question in ["w5", "w5 w6", "<|eot_id|>", "w5\r\nw6"] {
        assert_eq!(ids("crlf", question), ids("lf", question));
    }
    assert_eq!(ids("crlf", "w5"), [1, 5, 13, 2]);
    assert_eq!(ids("base", "w5"), [1, 5, 13, 2]);
}

#[test]
fn templates_that_compare_see_the_text() {
    assert_eq!(ids("equal", "w5"), [9, 9, 9, 5]);
    assert_eq!(ids("equal", "w6"), [9, 9, 9, 6]);
    assert_eq!(ids("equal", "w5 w6"), [5, 6]);
    assert_eq!(ids("startswith", "w5 w6"), [9, 9, 9, 5, 6]);
    assert_eq!(ids("startswith", "w6 w5"), [6, 5]);
}

#[test]
fn generation_is_what_lies_inside() {
    assert_eq!(ids("generation", "w5 <|eot_id|>"), [5, 0]);
}

#[test]
fn dates_come_from_the_clock() {
    assert_eq!(ids("strftime", "w5"), [10, 1, 5, 13, 2]);
    // Without a time that is given it is today's, whatever that is.
    let today = template(&read("cases/strftime.jinja")).unwrap().render(&Conversation::ask("w5")).unwrap().text;
    let date = today.split(' ').next().unwrap();
    assert!(date.len() == 10 && date > "2025" && date.matches('-').count() == 2, "{today}");
}

#[test]
fn a_loop_without_an_end_is_ended() {
    let refused =
        template(&read("cases/loop.jinja")).unwrap().render(&Conversation::ask("w5")).unwrap_err().to_string();
    assert!(refused.starts_with("m/chat_template.jinja: chat template: line 1: "), "{refused}");
    assert!(refused.contains("does it loop without an end?"), "{refused}");
}
