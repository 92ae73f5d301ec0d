//! Text by token and text that grows: joined it is the whole, and U+FFFD is only where bytes are no character.

use proptest::prelude::*;
use remask_core::TextTokenizer;
use serde_json::json;

use super::{data, of, user};

fn all() -> Vec<(&'static str, TextTokenizer)> {
    let file = |name: &str| std::fs::read(data(name)).unwrap();
    let cleaning = json!({"clean_up_tokenization_spaces": true});
    let mut all: Vec<_> =
        ["bpe.model", "bpe-user.model", "unigram.model", "unigram-bytes.model", "tekken.json", "added.json"]
            .map(|name| (name, of(&[(name, file(name))], None).unwrap()))
            .into();
    all.push(("cleaning bpe", of(&[("bpe.model", file("bpe.model"))], Some(&cleaning)).unwrap()));
    all.push(("cleaning tekken", of(&[("tekken.json", file("tekken.json"))], Some(&cleaning)).unwrap()));
    let suffixes = json!({"type": "BPEDecoder", "suffix": "t"});
    for (name, decoder) in [
        ("no decoder", json!(null)),
        ("suffixes", suffixes),
        ("words", json!({"type": "WordPiece", "prefix": "t", "cleanup": true})),
    ] {
        let mut file: serde_json::Value = super::json("added.json");
        file["decoder"] = decoder;
        all.push((name, TextTokenizer::from_bytes("t", file.to_string().as_bytes()).unwrap()));
    }
    all
}

fn check(name: &str, tokenizer: &TextTokenizer, ids: &[u32], skip_special: bool, cuts: &[usize]) {
    let whole = tokenizer.decode(ids, skip_special).unwrap();
    let canvas: Vec<_> = ids.iter().copied().map(Some).collect();
    assert_eq!(tokenizer.pieces(&canvas, skip_special).unwrap().concat(), whole, "{name}: {ids:?} in pieces");
    let mut stream = tokenizer.stream(skip_special);
    let (mut grown, mut rest) = (String::new(), ids);
    for cut in cuts {
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        grown.push_str(&stream.push(now).unwrap());
        assert!(whole.starts_with(&grown), "{name}: {ids:?}: {grown:?} is not how {whole:?} begins");
        rest = later;
    }
    grown.push_str(&stream.push(rest).unwrap());
    grown.push_str(&stream.finish().unwrap());
    assert_eq!(grown, whole, "{name}: {ids:?} as it grows");
}

#[test]
fn a_character_belongs_to_its_last_token() {
    for (name, tokenizer) in all().into_iter().filter(|(name, _)| ["tekken.json", "bpe.model"].contains(name)) {
        for text in ["müssen", "عزيز", "🙂👩‍👩‍👧", "日本語", "a🙂b"] {
            let ids = tokenizer.encode(&user(text)).unwrap();
            let canvas: Vec<_> = ids.iter().copied().map(Some).collect();
            let pieces = tokenizer.pieces(&canvas, false).unwrap();
            assert_eq!(pieces.concat(), text, "{name}");
            assert!(pieces.len() > 1 && !pieces.iter().any(|p| p.contains('\u{FFFD}')), "{name}: {pieces:?}");
            // Whatever is hidden by holes, what is left is no broken character.
            for hole in 0..canvas.len() {
                let mut canvas = canvas.clone();
                canvas[hole] = None;
                let pieces = tokenizer.pieces(&canvas, false).unwrap();
                assert!(!pieces.concat().contains('\u{FFFD}') && pieces[hole].is_empty(), "{name}: {pieces:?}");
            }
            let mut stream = tokenizer.stream(false);
            let grown: Vec<_> = ids.iter().map(|id| stream.push(&[*id]).unwrap()).collect();
            assert!(
                grown.iter().filter(|g| !g.is_empty()).count() > 1 || text.chars().count() < 3,
                "{name}: {grown:?}"
            );
            assert_eq!(grown.concat() + &stream.finish().unwrap(), text, "{name}");
        }
        // A text that ends within a character says so.
        let mut ids = tokenizer.encode(&user("a🙂")).unwrap();
        ids.pop();
        assert!(tokenizer.decode(&ids, false).unwrap().ends_with('\u{FFFD}'), "{name}");
        check(name, &tokenizer, &ids, false, &[1, 1, 1, 1]);
    }
}

#[test]
fn cleaning_up_is_what_transformers_does() {
    let (_, tokenizer) = all().into_iter().find(|(name, _)| *name == "cleaning tekken").unwrap();
    let said = |text: &str| tokenizer.decode(&tokenizer.encode(&user(text)).unwrap(), false).unwrap();
    assert_eq!(
        said("Yes , I do n't know . Who 's there ? You 've \" ' \" me !"),
        "Yes, I don't know. Who's there? You've \"'\" me!"
    );
}

#[test]
fn texts_are_bytes_but_for_those_that_depend_on_what_follows() {
    for (name, tokenizer) in all() {
        let depends = name.starts_with("cleaning") || ["suffixes", "words"].contains(&name);
        assert_eq!(tokenizer.is_bytewise(), !depends, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Where a text is its tokens' bytes, these joined are the text.
    #[test]
    fn bytes_of_tokens_are_the_text(ids in proptest::collection::vec(0u32..440, 0..24)) {
        for (name, tokenizer) in ALL.iter().filter(|(_, tokenizer)| tokenizer.is_bytewise()) {
            // The first token with a text is the one that begins it.
            let mut kept = ids.iter().filter(|id| tokenizer.bytes(**id).is_some());
            let first = kept.next().and_then(|id| tokenizer.bytes_at_start(*id)).unwrap_or_default();
            let rest = kept.flat_map(|id| tokenizer.bytes(*id).unwrap_or_default());
            let bytes: Vec<u8> = first.into_iter().chain(rest).collect();
            let text = tokenizer.decode(&ids, true).unwrap();
            match String::from_utf8(bytes) {
                // Spaces may be left out where a text begins, whatever number of tokens they are.
                Ok(whole) => prop_assert_eq!(whole.trim_start(), text.trim_start(), "{}: {:?}", name, ids),
                Err(_) => prop_assert!(text.contains('\u{FFFD}'), "{}: {:?} {:?}", name, ids, text),
            }
        }
    }

    /// Any ids at all, unknown ones among them, cut up in any way.
    #[test]
    fn pieces_and_growing_text_are_the_whole(
        ids in proptest::collection::vec(0u32..440, 0..24), skip in any::<bool>(),
        cuts in proptest::collection::vec(0usize..4, 0..24)
    ) {
        for (name, tokenizer) in &*ALL {
            check(name, tokenizer, &ids, skip, &cuts);
        }
    }

    /// Ids of texts with many of the characters that cleaning up looks at, and of several bytes.
    #[test]
    fn so_are_those_of_texts(
        text in "([ .,!?'nmtsverxü🙂日]|n't| 've| ' ){0,16}", cuts in proptest::collection::vec(0usize..3, 0..24)
    ) {
        for (name, tokenizer) in &*ALL {
            check(name, tokenizer, &tokenizer.encode(&user(&text)).unwrap(), false, &cuts);
        }
    }

    /// A canvas with holes: text where there are no holes beside it is what it is without them.
    #[test]
    fn holes_break_no_character(text in "[aü🙂日 ]{1,8}", holes in proptest::collection::vec(any::<bool>(), 40)) {
        for (name, tokenizer) in &*ALL {
            let ids = tokenizer.encode(&user(&text)).unwrap();
            let canvas: Vec<_> = ids.iter().zip(&holes).map(|(id, hole)| (!hole).then_some(*id)).collect();
            let pieces = tokenizer.pieces(&canvas, false).unwrap();
            prop_assert_eq!(pieces.len(), canvas.len());
            if !tokenizer.decode(&ids, false).unwrap().contains('\u{FFFD}') {
                prop_assert!(!pieces.concat().contains('\u{FFFD}'), "{}: {:?}", name, pieces);
            }
        }
    }
}

static ALL: std::sync::LazyLock<Vec<(&str, TextTokenizer)>> = std::sync::LazyLock::new(all);
