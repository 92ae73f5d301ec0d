//! What may come next, by byte, by another way.

use remask_core::random::{Key, threefry};
use remask_core::tokenizer::TokenizerFiles;
use serde_json::{Value, json};

use super::*;

fn model() -> Arc<Model> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales-ar-7m");
    Arc::new(Model::open(folder.as_ref()).unwrap())
}

/// Writes texts of a form at random. Before every token, exactly those may come whose bytes go on with a text of the
/// language, and the end where the text is one.
fn check(
    model: &Arc<Model>,
    form: &AnswerForm,
    is_beginning: impl Fn(&[u8]) -> bool,
    is_whole: impl Fn(&[u8]) -> bool,
) {
    let grammar = Guidance::new(model.clone()).compile(form).unwrap();
    let words = words(model).bytes;
    for round in 0..2 {
        let (mut state, mut text) = (grammar.begin(), Vec::new());
        for step in 0..25 {
            let next = state.next().unwrap();
            assert_eq!(next.may_end, is_whole(&text), "{:?}", String::from_utf8_lossy(&text));
            let mut allowed = Vec::new();
            for (id, word) in words.iter().enumerate().take(next.tokens.rows()) {
                let whole = [text.as_slice(), word].concat();
                let truth = !word.is_empty() && is_beginning(&whole);
                let found = next.tokens.contains(id as u32);
                assert_eq!(found, truth, "{id} {word:?} after {:?}", String::from_utf8_lossy(&text));
                allowed.extend(truth.then_some(id));
            }
            let [bits, _] = threefry(Key([round, 1]), [step, 2]);
            let Some(id) = allowed.get(bits as usize % allowed.len().max(1)) else { break };
            state.push(*id as u32).unwrap();
            text.extend_from_slice(&words[*id]);
        }
    }
}

#[test]
fn masks_are_what_the_bytes_say() {
    let model = model();
    let choices = ["yes", "yes, of course", "no", "ja 語 ü", " once upon a time there was a dog."];
    let form = AnswerForm::Choice(choices.map(str::to_owned).to_vec());
    let begins = |text: &[u8]| choices.iter().any(|choice| choice.as_bytes().starts_with(text));
    check(&model, &form, begins, |text| choices.iter().any(|choice| choice.as_bytes() == text));

    // At most 20 letters and spaces, no space at the beginning, two neither.
    let form = AnswerForm::Regex("([a-z]+ ){0,9}[a-z]+".to_owned());
    let begins = |text: &[u8]| {
        let neighbours = text.windows(2).all(|pair| pair != b"  ");
        let known = text.iter().all(|b| b.is_ascii_lowercase() || *b == b' ');
        let spaces = text.iter().filter(|b| **b == b' ').count();
        neighbours && known && spaces < 10 && text.first() != Some(&b' ')
    };
    check(&model, &form, begins, |text| begins(text) && text.last().is_some_and(|b| *b != b' '));

    let form = AnswerForm::JsonSchema(json!({"type": "integer", "minimum": -99, "maximum": 999}));
    fn number(text: &[u8]) -> Option<(&str, bool)> {
        let text = std::str::from_utf8(text).ok()?;
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        plain.then_some((text, digits.is_empty()))
    }
    let fits = |text: &str| text.parse::<i32>().is_ok_and(|n| (-99..1000).contains(&n));
    let begins = |text: &[u8]| number(text).is_some_and(|(text, bare)| (bare || fits(text)) && text != "-0");
    check(&model, &form, begins, |text| number(text).is_some_and(|(text, bare)| !bare && fits(text)));
}

fn words(model: &Model) -> Words {
    Words::of(model.text().unwrap(), &model.vocabulary.suppressed).unwrap()
}

#[test]
fn ids_that_add_nothing_have_no_bytes() {
    let model = model();
    let rows = model.architecture.embedding_rows;
    let Words { bytes, starts } = words(&model);
    assert_eq!((bytes.len(), starts), (rows + 1, Vec::new()));
    for id in (0..rows as u32).filter(|id| model.vocabulary.suppressed.contains(*id)) {
        assert!(bytes[id as usize].is_empty());
    }
    assert!(model.vocabulary.stop.iter().all(|id| bytes[*id as usize].is_empty()));
}

/// SentencePiece leaves out the space before a text: a token with one begins it without.
#[test]
fn a_text_begins_as_its_tokenizer_writes_it() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../remask-core/tests/data/tokenizers/bpe.model");
    let files = TokenizerFiles::new().with("bpe.model", std::fs::read(file).unwrap());
    let tokenizer = files.read("m", None).unwrap().unwrap();
    let rows = (0..).find(|id| tokenizer.token(*id).is_none()).unwrap() as usize;
    let words = Words::of(&tokenizer, &TokenSet::new(rows)).unwrap();
    assert!(words.starts.iter().any(|(_, place)| place.is_some()));
    let tokens = Arc::new(Tokens::new(words, rows).unwrap());
    for pattern in ["[a-z]{1,3}( [a-z]{1,3}){2}", " ?[a-z]{2}", "( |a){6}"] {
        let grammar = llguidance::api::TopLevelGrammar::from_regex(pattern);
        let grammar = Compiled::new(&tokens, grammar).unwrap();
        let first = grammar.begin().next().unwrap().tokens;
        for id in (0..rows as u32).filter(|id| first.contains(*id)) {
            let mut state = grammar.begin();
            state.push(id).unwrap();
            let mut ids = vec![id];
            for step in 0..20 {
                let Some(id) = drawn(&state.next().unwrap().tokens, step) else { break };
                state.push(id).unwrap();
                ids.push(id);
            }
            // What was kept to is what is written.
            let text = tokenizer.decode(&ids, true).unwrap();
            let words: Vec<_> = text.split(' ').collect();
            let fits = match pattern {
                "( |a){6}" => text.len() == 6 && text.bytes().all(|b| b == b' ' || b == b'a'),
                " ?[a-z]{2}" => text.trim_start().len() == 2 && text.len() < 4,
                _ => words.len() == 3 && words.iter().all(|word| (1..4).contains(&word.len())),
            };
            assert!(fits, "{pattern}: {text:?} of {ids:?}");
        }
    }
}

#[test]
fn forms_that_were_asked_for_are_kept_and_the_oldest_is_not() {
    let guidance = Guidance::new(model());
    let form = |n: usize| AnswerForm::Regex(format!("a{{{}}}", n + 1));
    let first = guidance.compile(&form(0)).unwrap();
    for n in 1..=KEPT {
        assert!(Arc::ptr_eq(&first, &guidance.compile(&form(0)).unwrap()), "{n}");
        guidance.compile(&form(n)).unwrap();
    }
    assert_eq!(guidance.kept.lock().unwrap().len(), KEPT);
    assert!(guidance.kept(&form(0)).is_some() && guidance.kept(&form(1)).is_none());
}

/// Forms that were made to break things are refused, or work within their limits.
#[test]
fn hostile_forms_are_survived() {
    let guidance = Guidance::new(model());
    let (mut refused, mut written) = (0, 0);
    let chain = |name: &str| (0..6000).map(|i| format!("{name}{i}: \"x\" {name}{}\n", i + 1)).collect::<String>();
    let deep = |inner: Value| (0..30).fold(inner, |inner, _| json!({"type": "array", "items": inner, "minItems": 900}));
    let pattern = |i: usize| (format!("(a|b)*a(a|b){{{i}}}"), json!({"type": "string"}));
    let patterns: serde_json::Map<_, _> = (0..40).map(pattern).collect();
    let parts: Vec<_> =
        (0..60).map(|i| json!({"anyOf": [{"required": [format!("a{i}")]}, {"minProperties": i}]})).collect();
    for form in [
        AnswerForm::Regex("(a{1000}){1000}".repeat(50)),
        AnswerForm::Regex("(a|b)*a(a|b){20}".to_owned()),
        AnswerForm::Regex("(.*){50}a(.|b){200}c".to_owned()),
        AnswerForm::Grammar(format!("start: A0\n{}A6000: \"y\"", chain("A"))),
        AnswerForm::Grammar(format!("start: a0\n{}a6000: \"y\"", chain("a"))),
        AnswerForm::Grammar("start: e\ne: e e | e e e | \"a\" | \"b\" | \"ab\" | /./".to_owned()),
        AnswerForm::Grammar("start: a\na: a | a a |".to_owned()),
        AnswerForm::Grammar("start: ((((\"a\")*)*)*)*".to_owned()),
        AnswerForm::Grammar("start: ((\"ab\" | x){0,1000} x){0,1000}\nx: (\"c\"{0,900} \"d\"){900}".to_owned()),
        AnswerForm::JsonSchema(deep(json!({"type": "string"}))),
        AnswerForm::JsonSchema(json!({"allOf": parts})),
        AnswerForm::JsonSchema(json!({"type": "string", "minLength": 100_000_000, "maxLength": 2_000_000_000})),
        AnswerForm::JsonSchema(json!({"type": "integer", "multipleOf": 999_983, "maximum": 99_999_999_999u64})),
        AnswerForm::JsonSchema(
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ),
        AnswerForm::JsonSchema(
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}),
        ),
        AnswerForm::JsonSchema(json!({"anyOf": [{"$ref": "#"}, {"type": "null"}]})),
        AnswerForm::JsonSchema(json!({"type": "object", "patternProperties": patterns})),
    ] {
        let Ok(grammar) = guidance.compile(&form) else {
            refused += 1;
            continue;
        };
        let mut state = grammar.begin();
        for step in 0..30 {
            let Ok(next) = state.next() else { break };
            let Some(id) = drawn(&next.tokens, step) else { break };
            if state.push(id).is_err() {
                break;
            }
            written += 1;
        }
    }
    assert!(refused > 3 && written > 100, "{refused} were refused, {written} tokens written");
}

/// One of the ids, at random.
fn drawn(tokens: &TokenSet, step: u32) -> Option<u32> {
    let allowed: Vec<_> = (0..tokens.rows() as u32).filter(|id| tokens.contains(*id)).collect();
    let [bits, _] = threefry(Key([3, 1]), [step, 2]);
    allowed.get(bits as usize % allowed.len().max(1)).copied()
}
