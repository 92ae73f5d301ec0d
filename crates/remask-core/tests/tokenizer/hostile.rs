//! Files that are broken: an error in words, never a panic, a hang or gigabytes.

use proptest::prelude::*;
use remask_core::TextTokenizer;
use remask_core::checkpoint::{Bytes, Checkpoint};
use serde_json::{Value, json};

use super::{data, of, plain, user};

const FILES: &[&str] =
    &["bpe.model", "unigram.model", "bpe-user.model", "tekken.json", "qwen-small.tiktoken", "added.json"];

/// Uses a tokenizer in every way, whatever it is.
fn exercise(tokenizer: &TextTokenizer) {
    for text in ["", "the cat  sat <br><s> ü🙂\n", "e\u{301}\u{323}①ﬁABC", "\u{0}"] {
        for marked in [plain(text), user(text)] {
            if let Ok(ids) = tokenizer.encode(&marked) {
                let _ = tokenizer.decode(&ids, true);
            }
        }
        let _ = tokenizer.encode_raw(text, Some(3));
    }
    let ids: Vec<u32> = (0..600).step_by(7).chain([u32::MAX, 1 << 31]).collect();
    let _ = tokenizer.pieces(&ids.iter().map(|id| (id % 5 > 0).then_some(*id)).collect::<Vec<_>>(), false);
    let mut stream = tokenizer.stream(true);
    let _ = stream.push(&ids);
    let _ = stream.finish();
    let _ = tokenizer.to_json();
}

fn read(name: &str, bytes: Vec<u8>) {
    if let Ok(tokenizer) = of(&[(name, bytes)], None) {
        exercise(&tokenizer);
    }
}

#[test]
fn what_is_wrong_is_said() {
    let file = |name: &str| std::fs::read(data(name)).unwrap();
    let changed = |pointer: &str, value: Value| {
        let mut file: Value = super::json("added.json");
        *file.pointer_mut(pointer).unwrap() = value;
        file.to_string().into_bytes()
    };
    let tekken = |pointer: &str, value: Value| {
        let mut file: Value = super::json("tekken.json");
        *file.pointer_mut(pointer).unwrap() = value;
        file.to_string().into_bytes()
    };
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    // The crate that reads these would panic at most of them.
    for (name, bytes, words) in [
        ("tokenizer.json", [br#"{"normalizer": "#.to_vec(), nested(100_000), b"}".to_vec()].concat(), "not valid JSON"),
        ("tokenizer.json", b"{}".to_vec(), "not a tokenizer"),
        ("tokenizer.json", changed("/model/merges", json!([["a", "nothing"]])), "not in the vocabulary"),
        ("tokenizer.json", changed("/model/merges", json!([["", "a"]])), "not in the vocabulary"),
        ("tokenizer.json", changed("/model/merges", json!(["a b c"])), "is no pair"),
        ("tokenizer.json", changed("/model/vocab/a", json!(0)), "the id 0"),
        ("tokenizer.json", changed("/model/vocab/a", json!(-1)), "invalid value"),
        ("tokenizer.json", changed("/model/vocab/a", json!(1u64 << 32)), "invalid value"),
        ("tokenizer.json", changed("/model/unk_token", json!("gone")), "\"gone\" is not in the vocabulary"),
        ("tokenizer.json", changed("/model/type", json!("Guess")), "\"Guess\" is not known"),
        ("tokenizer.json", changed("/model/vocab", json!([["a", 0.0]])), "is no BPE model's"),
        ("tokenizer.json", changed("/decoder", json!({"type": "CTC"})), "\"CTC\" is not known"),
        ("tokenizer.json", changed("/post_processor", json!({"type": "Guess"})), "\"Guess\" is not known"),
        (
            "tokenizer.json",
            changed("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "/w=="})),
            "cut off",
        ),
        ("tokenizer.json", changed("/pre_tokenizer", json!({"type": "FixedLength", "length": 0})), "length of 0"),
        ("tokenizer.json", changed("/added_tokens/1/id", json!(0)), "the id 0"),
        ("tokenizer.model", b"no model".to_vec(), "no SentencePiece model"),
        ("tokenizer.model", Vec::new(), "it has no pieces"),
        ("tokenizer.model", vec![0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], "cut off"),
        ("tokenizer.model", file("bpe.model")[..500].to_vec(), "cut off"),
        ("tokenizer.model", vec![0x0A, 3, 0x0A, 1, 0xFF], "piece 0 is not UTF-8"),
        ("tokenizer.model", vec![0x0A, 3, 0x0A, 1, b'a', 0x12, 2, 0x18, 3], "model type 3"),
        ("tekken.json", b"{}".to_vec(), "no tekken.json"),
        ("tekken.json", tekken("/config/default_vocab_size", json!(3)), "below its 24 special tokens"),
        ("tekken.json", tekken("/config/default_num_special_tokens", json!(u32::MAX)), "special tokens"),
        ("tekken.json", tekken("/config/pattern", json!("(")), "Split"),
        ("tekken.json", tekken("/vocab/3/token_bytes", json!("!")), "rank 3 is no base64"),
        ("tekken.json", tekken("/vocab/3/rank", json!(4)), "twice"),
        ("tekken.json", tekken("/config/default_vocab_size", json!(100)), "no token for the byte"),
        ("a.tiktoken", b"IQ== 0\nIg==\n".to_vec(), "line 2"),
        ("a.tiktoken", file("qwen-small.tiktoken"), "nothing says how it splits text"),
        ("qwen.tiktoken", b"IQ== 99999999\n".to_vec(), "the rank 99999999"),
        ("qwen.tiktoken", b"IQ== 4294967295\n".to_vec(), "rank 4294967295"),
    ] {
        let message = of(&[(name, bytes)], None).err().map_or("accepted".to_owned(), |e| e.to_string());
        assert!(message.starts_with(&format!("m/{name}: ")) && message.contains(words), "no {words:?} in: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

/// Patterns and spans that make a naive matcher slow, and texts to match.
#[test]
fn long_texts_end_soon() {
    for name in FILES {
        let tokenizer = of(&[(name, std::fs::read(data(name)).unwrap())], None).unwrap();
        for text in
            [" ".repeat(20_000), "a".repeat(20_000), "<".repeat(20_000), "<s>".repeat(7_000), "🙂".repeat(5_000)]
        {
            let ids = tokenizer.encode(&user(&text)).unwrap();
            assert!(!ids.is_empty() || text.trim().is_empty(), "{name}");
            let _ = tokenizer.decode(&ids, false).unwrap();
        }
    }
}

/// A piece as long as a file, which a recursive trie would overflow the stack with.
#[test]
fn long_pieces_are_pieces() {
    let long = "a".repeat(300_000);
    let vocab = json!([["<unk>", 0.0], ["a", -1.0], [long, -2.0]]);
    let file = json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": vocab},
        "added_tokens": [{"id": 9, "content": long.clone() + "b", "special": false}]});
    let tokenizer = TextTokenizer::from_bytes("t", file.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.encode(&user("aa")).unwrap(), [1, 1]);
    assert_eq!(tokenizer.encode(&user(&(long + "b"))).unwrap(), [9]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn changed_bytes_do_no_harm(which in 0..FILES.len(), edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let name = FILES[which];
        let mut bytes = std::fs::read(data(name)).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read(name, bytes);
    }

    #[test]
    fn cut_files_do_no_harm(which in 0..FILES.len(), at in any::<prop::sample::Index>()) {
        let mut bytes = std::fs::read(data(FILES[which])).unwrap();
        bytes.truncate(at.index(bytes.len()));
        read(FILES[which], bytes);
    }

    #[test]
    fn changed_vocabularies_in_gguf_do_no_harm(
        which in 0..4usize, edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let name = ["small-gpt2.gguf", "small-spm.gguf", "small-unigram.gguf", "small-bert.gguf"][which];
        let mut bytes = std::fs::read(data(name)).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok((_, metadata)) = Checkpoint::from_gguf(name, Bytes::Owned(bytes))
            && let Ok(Some(tokenizer)) = TextTokenizer::from_gguf(&metadata)
        {
            exercise(&tokenizer);
        }
    }
}
