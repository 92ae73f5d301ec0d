//! Added tokens: those that structure a text, which a user cannot forge, and those that are merely added.

use proptest::prelude::*;
use remask_core::TextTokenizer;
use remask_core::chat::MarkedText;
use serde_json::{Value, json};

use super::{data, json, of, plain, user};

fn rich(change: impl Fn(&mut Value)) -> TextTokenizer {
    let mut file = json("added.json");
    change(&mut file);
    TextTokenizer::from_bytes("tokenizer.json", file.to_string().as_bytes()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Spaces beside tokens, single words, normalised tokens, the first word of a text: as the tokenizers library.
/// The file asks for four ids at most and twelve at least: nobody obeys.
#[test]
fn added_tokens_are_the_references() {
    let (tokenizer, expected) = (rich(|_| ()), &json("expected.json")["added.json"]);
    for (n, text) in expected["texts"].as_array().unwrap().iter().enumerate() {
        let text = text.as_str().unwrap();
        let found = tokenizer.encode(&plain(text)).unwrap();
        assert_eq!(found, ids(&expected["ids"][n]), "{text:?}");
        assert_eq!(tokenizer.decode(&found, false).unwrap(), expected["decoded"][n].as_str().unwrap());
        assert_eq!(tokenizer.decode(&found, true).unwrap(), expected["without_special"][n].as_str().unwrap());
        if !text.contains("<s>") && !text.contains("<mask>") {
            assert_eq!(tokenizer.encode_raw(text, None).unwrap(), ids(&expected["framed"][n]), "{text:?}");
        }
    }
}

#[test]
fn a_user_writes_added_tokens_but_no_special_ones() {
    let tokenizer = rich(|_| ());
    let texts = |ids: Vec<u32>| ids.iter().map(|id| tokenizer.token(*id).unwrap()).collect::<Vec<_>>();
    let found = texts(tokenizer.encode(&user("the<think><s>sun<mask>")).unwrap());
    assert!(found.contains(&"<think>".to_owned()));
    assert!(!found.iter().any(|t| t == "<s>" || t == "<mask>"), "{found:?}");
    // Beside a user's text the template's tokens are what they spell.
    let text = "<s>the<s>sun</s>";
    let marked = MarkedText { text: text.to_owned(), user: std::iter::once(3..12).collect() };
    let found = texts(tokenizer.encode(&marked).unwrap());
    assert_eq!((found.first().unwrap().as_str(), found.last().unwrap().as_str()), ("<s>", "</s>"));
    assert_eq!(found.iter().filter(|t| *t == "<s>").count(), 1);
}

/// What structures conversations is special even where a file forgets to say so; other tokens that look like it
/// are not.
#[test]
fn only_known_structure_is_special_by_itself() {
    let tokenizer = rich(|file| {
        let token = |id: u32, text: &str| {
            json!({"id": id, "content": text, "special": false, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        };
        let tokens = file["added_tokens"].as_array_mut().unwrap();
        let next = tokens.iter().map(|t| t["id"].as_u64().unwrap()).max().unwrap() as u32 + 1;
        for (n, text) in
            ["<|start_header_id|>", "<|mdm_mask|>", "[b]", "<|fim_prefix|>", "<tool_call>"].iter().enumerate()
        {
            tokens.push(token(next + n as u32, text));
        }
    });
    let is_special = |text: &str| tokenizer.is_special(tokenizer.id(text).unwrap());
    assert!(is_special("<|start_header_id|>") && is_special("<|mdm_mask|>"));
    assert!(!["[b]", "<|fim_prefix|>", "<tool_call>", "<br>", "<think>"].iter().any(|text| is_special(text)));
    let fim = tokenizer.id("<|fim_prefix|>").unwrap();
    assert_eq!(tokenizer.encode(&user("<|fim_prefix|>")).unwrap(), [fim]);
}

/// What tokenizer_config.json says of tokens goes before what the vocabulary says.
#[test]
fn the_config_names_special_tokens_and_changes_added_ones() {
    let files = || vec![("tokenizer.json", std::fs::read(data("added.json")).unwrap())];
    let config = json!({
        "pad_token": "<think>", "additional_special_tokens": ["the"], "sep_token": "nobody has this",
        "added_tokens_decoder": {
            "9000": {"content": "<new>", "special": true},
            "1": {"content": "<br>", "special": false, "lstrip": false, "rstrip": false, "normalized": false},
        },
    });
    let tokenizer = of(&files(), Some(&config)).unwrap();
    let id = |text: &str| tokenizer.id(text).unwrap();
    assert!(tokenizer.is_special(id("<think>")) && tokenizer.is_special(id("<new>")));
    assert_eq!((id("<new>"), id("<br>")), (9000, of(&files(), None).unwrap().id("<br>").unwrap()));
    assert!(!tokenizer.encode(&user("a<think>")).unwrap().contains(&id("<think>")));
    assert_eq!(tokenizer.decode(&tokenizer.encode(&plain("a  <br> b")).unwrap(), false).unwrap(), "a  <br> b");
    // SentencePiece's pieces that a user of its trainer asked for become special where the config says so.
    let pieces = || vec![("tokenizer.model", std::fs::read(data("bpe-user.model")).unwrap())];
    let forged = |config| {
        let tokenizer = of(&pieces(), config).unwrap();
        tokenizer.encode(&user("a<br>")).unwrap().contains(&tokenizer.id("<br>").unwrap())
    };
    assert!(forged(None));
    assert!(!forged(Some(&json!({"additional_special_tokens": ["<br>"]}))));
}

#[test]
fn control_pieces_of_every_kind_cannot_be_forged() {
    for name in ["bpe.model", "bpe-user.model", "unigram.model", "unigram-bytes.model", "tekken.json"] {
        let tokenizer = of(&[(name, std::fs::read(data(name)).unwrap())], None).unwrap();
        for text in ["<s>", "</s>", "<unk>", "a</s>b", "[INST]", "▁<s>", "<s"] {
            let found = tokenizer.encode(&user(text)).unwrap();
            let forged =
                found.iter().filter(|id| tokenizer.is_special(**id) && tokenizer.token(**id).unwrap() != "<unk>");
            assert_eq!(forged.count(), 0, "{name}: {text:?}");
        }
        let start = tokenizer.id("<s>").unwrap();
        assert_eq!(tokenizer.encode(&plain("<s>")).unwrap(), [start], "{name}");
    }
}

proptest! {
    /// Where a user's text lies changes which special tokens are found, and nothing else.
    #[test]
    fn marks_only_hide_special_tokens(parts in proptest::collection::vec(("[a-c <]{0,4}|<s>|<br>|<mask>", any::<bool>()), 0..8)) {
        let tokenizer = rich(|_| ());
        let (mut text, mut marks) = (String::new(), Vec::new());
        for (part, of_user) in parts {
            let start = text.len();
            text.push_str(&part);
            if of_user && !part.is_empty() {
                marks.push(start..text.len());
            }
        }
        let found = tokenizer.encode(&MarkedText { text: text.clone(), user: marks.clone() }).unwrap();
        let special = found.iter().filter(|id| tokenizer.is_special(**id) && tokenizer.token(**id).unwrap() != "<unk>").count();
        let free = |range: std::ops::Range<usize>| marks.iter().all(|m| m.end <= range.start || range.end <= m.start);
        let spelt = ["<s>", "<mask>"].iter().flat_map(|t| text.match_indices(t)).filter(|(at, t)| free(*at..at + t.len())).count();
        prop_assert_eq!(special, spelt);
        if spelt == ["<s>", "<mask>"].iter().map(|t| text.matches(t).count()).sum::<usize>() {
            prop_assert_eq!(found, tokenizer.encode(&plain(&text)).unwrap());
        }
    }
}
