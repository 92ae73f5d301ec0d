//! Small tokenizers in every form that they are published in.

use remask_core::TextTokenizer;
use remask_core::checkpoint::{Bytes, Checkpoint};
use remask_core::tokenizer::TokenizerFiles;
use serde_json::{Value, json};

use super::{agrees, data, json, of, plain, user};

fn file(name: &str) -> (&str, Vec<u8>) {
    (name, std::fs::read(data(name)).unwrap())
}

fn in_gguf(name: &str) -> TextTokenizer {
    let (_, metadata) = Checkpoint::from_gguf(name, Bytes::Owned(file(name).1)).unwrap();
    TextTokenizer::from_gguf(&metadata).unwrap().unwrap()
}

/// GPT-2's two files.
fn merged(config: Option<&Value>) -> TextTokenizer {
    of(&[("vocab.json", file("small-vocab.json").1), ("merges.txt", file("small-merges.txt").1)], config).unwrap()
}

fn equal(differences: &[String]) {
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn ids_and_texts_are_the_references() {
    let expected = json("expected.json");
    let mut differences = agrees("vocab.json", &merged(None), &expected["vocab.json"], &expected["texts"]);
    for name in
        ["bpe.model", "bpe-user.model", "unigram.model", "unigram-bytes.model", "qwen-small.tiktoken", "tekken.json"]
    {
        let tokenizer = of(&[file(name)], None).unwrap();
        differences.extend(agrees(name, &tokenizer, &expected[name], &expected["texts"]));
    }
    equal(&differences);
}

#[test]
fn vocabularies_in_gguf_have_the_ids_of_the_files_they_come_from() {
    let expected = json("expected.json");
    let mut differences = Vec::new();
    for (name, reference) in [
        ("small-gpt2.gguf", "vocab.json"),
        ("small-spm.gguf", "bpe.model"),
        ("small-unigram.gguf", "unigram.model"),
        ("small-bert.gguf", "small-bert.gguf"),
    ] {
        differences.extend(agrees(reference, &in_gguf(name), &expected[reference], &expected["texts"]));
    }
    equal(&differences);
    let framed = |name: &str| in_gguf(name).encode_raw("", Some(7)).unwrap();
    assert_eq!(framed("small-gpt2.gguf"), [0u32; 0]);
    assert_eq!(framed("small-spm.gguf"), [1]);
    assert_eq!(framed("small-unigram.gguf"), [2]);
    assert_eq!(framed("small-bert.gguf"), [2, 3]);
}

/// What is written as a tokenizer.json is the same tokenizer, for texts on which Hugging Face and SentencePiece
/// agree.
#[test]
fn a_tokenizer_is_written_as_a_tokenizer_json() {
    let texts = ["the cat sat on größe", " two  spaces\n", "abc 日本 ☃ 12", "<s>the<|endoftext|>", "", "x"];
    for name in ["bpe.model", "bpe-user.model", "unigram.model", "qwen-small.tiktoken", "tekken.json", "added.json"] {
        let tokenizer = of(&[file(name)], None).unwrap();
        let written = tokenizer.to_json().unwrap();
        let again = TextTokenizer::from_bytes("t", written.as_bytes()).unwrap();
        // Hugging Face reads a map of characters otherwise, strips more than spaces, and finds what a user of the
        // trainer asked for before spaces are marked.
        let agreed = |text: &&&str| match name {
            "unigram.model" => !text.contains('\n'),
            "bpe-user.model" => !text.contains(['\n', 'c']),
            _ => true,
        };
        for text in texts.iter().filter(agreed) {
            for marked in [plain(text), user(text)] {
                let ids = tokenizer.encode(&marked).unwrap();
                assert_eq!(again.encode(&marked).unwrap(), ids, "{name}: {text:?}");
                assert_eq!(
                    again.decode(&ids, true).unwrap(),
                    tokenizer.decode(&ids, true).unwrap(),
                    "{name}: {text:?}"
                );
            }
            assert_eq!(
                again.encode_raw(text, Some(9)).unwrap(),
                tokenizer.encode_raw(text, Some(9)).unwrap(),
                "{name}"
            );
        }
        let twice = again.to_json().unwrap();
        assert_eq!(TextTokenizer::from_bytes("t", twice.as_bytes()).unwrap().to_json().unwrap(), twice, "{name}");
    }
}

/// A start or end id stands exactly where the reference puts it.
#[test]
fn what_stands_around_a_text() {
    let [a] = merged(None).encode(&user("a")).unwrap()[..] else { panic!("a is one token") };
    let framed = |tokenizer: &TextTokenizer| tokenizer.encode_raw("a", Some(77)).unwrap();
    assert_eq!(framed(&merged(None)), [a]);
    let config = |flags: Value| {
        let mut config = json!({"bos_token": "<|endoftext|>", "eos_token": {"content": "<|endoftext|>"}});
        config.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        config
    };
    assert_eq!(framed(&merged(Some(&config(json!({"add_bos_token": true}))))), [0, a]);
    assert_eq!(framed(&merged(Some(&config(json!({"add_eos_token": true}))))), [a, 0]);
    let nothing = json!({"add_bos_token": true, "bos_token": null});
    assert_eq!(framed(&merged(Some(&config(nothing)))), [a]);
    // SentencePiece models of Llama's kind start texts unless they are told not to.
    let start = |config: Value| framed(&of(&[file("bpe.model")], Some(&config)).unwrap())[0];
    assert_eq!(framed(&of(&[file("bpe.model")], None).unwrap())[0], 1);
    assert_ne!(start(json!({"add_bos_token": false, "bos_token": "<s>"})), 1);
    assert_eq!(start(json!({"add_eos_token": true, "bos_token": "<s>", "tokenizer_class": "LlamaTokenizerFast"})), 1);
    // A unigram model alone does not say, a T5 tokenizer does.
    let t5 = json!({"tokenizer_class": "T5Tokenizer"});
    assert_eq!(framed(&of(&[file("unigram.model")], None).unwrap())[0], 77);
    assert_eq!(framed(&of(&[file("unigram.model")], Some(&t5)).unwrap()).last(), Some(&2));
    assert_eq!(framed(&of(&[file("tekken.json")], None).unwrap())[0], 1);
    assert_eq!(framed(&of(&[file("qwen-small.tiktoken")], None).unwrap()).len(), 1);
    let mut unsaid: Value = json("added.json");
    unsaid["post_processor"] = Value::Null;
    let unsaid = of(&[("tokenizer.json", unsaid.to_string().into_bytes())], None).unwrap();
    assert_eq!(framed(&unsaid)[0], 77);
}

/// SentencePiece's mark of a space at the start: always, at the very start, or never.
#[test]
fn legacy_and_its_successors() {
    let of_config = |config: Value| of(&[file("bpe.model")], Some(&config)).unwrap();
    let pieces = |tokenizer: &TextTokenizer, text: &str| -> Vec<String> {
        tokenizer.encode(&plain(text)).unwrap().iter().map(|id| tokenizer.token(*id).unwrap()).collect()
    };
    let (legacy, first) = (of_config(json!({})), of_config(json!({"legacy": false})));
    let never = of_config(json!({"add_prefix_space": false}));
    let text = "the<s>cat";
    assert_eq!(pieces(&legacy, text), ["▁the", "<s>", "▁cat"]);
    assert_eq!(pieces(&first, text)[..2], ["▁the", "<s>"]);
    assert!(!pieces(&first, text)[2].starts_with('▁') && !pieces(&never, text)[0].starts_with('▁'));
    assert!(!pieces(&first, "<s>the")[1].starts_with('▁'));
}

#[test]
fn files_are_known_by_what_they_hold_and_chosen_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, from: &str| std::fs::copy(data(from), folder.path().join(name)).unwrap();
    let read = || TokenizerFiles::of_folder(folder.path()).unwrap().read("m", None).unwrap();
    assert!(read().is_none());
    let cat = |tokenizer: &TextTokenizer| tokenizer.encode(&user(" cat")).unwrap();
    put("qwen.tiktoken", "qwen-small.tiktoken");
    let tiktoken = cat(&read().unwrap());
    put("vocab.json", "small-vocab.json");
    // Half of a vocabulary is none.
    assert_eq!(cat(&read().unwrap()), tiktoken);
    put("merges.txt", "small-merges.txt");
    assert_eq!(cat(&read().unwrap()), cat(&merged(None)));
    put("tokenizer.model", "bpe.model");
    assert_eq!(cat(&read().unwrap()), cat(&of(&[file("bpe.model")], None).unwrap()));
    put("tokenizer.json", "added.json");
    let of_json = cat(&read().unwrap());
    assert_eq!(of_json, cat(&of(&[file("added.json")], None).unwrap()));
    // A file that is named is taken for what it is, whatever it is called.
    for (name, from) in [("a.bin", "bpe.model"), ("b", "tekken.json"), ("tokenizer.model", "qwen-small.tiktoken")] {
        put(name, from);
        let named = TokenizerFiles::of_path(&folder.path().join(name)).unwrap().read("", None).unwrap().unwrap();
        assert_eq!(cat(&named).len(), cat(&of(&[file(from)], None).unwrap()).len(), "{name}");
    }
    let half = of(&[("vocab.json", b"{\"a\": 0}".to_vec())], None);
    assert!(half.unwrap_err().to_string().starts_with("m/vocab.json: "));
}
