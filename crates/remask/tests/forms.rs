//! Answers of a small autoregressive model within grammars. It writes nonsense, but of the form that was asked for.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/scripted.rs"]
mod scripted;

use std::sync::LazyLock;

use remask::core::decode::AnswerForm;
use remask::core::request::{Choice, Finish, GenerationRequest, Prompt, RequestError};
use remask::{Collector, Device, Engine, EngineError, Event};
use scripted::{Script, Shared, folder};
use serde_json::{Value, json};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales-ar-7m");

/// One engine for all: its requests share passes, and must not notice.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::open_on(FOLDER, Device::Cpu.opener(None)).unwrap());

fn request(form: AnswerForm, max_tokens: usize, temperature: f32, seed: u64) -> GenerationRequest {
    let mut request = GenerationRequest::new(Prompt::Text("Once upon a time".to_owned()));
    request.settings.max_tokens = Some(max_tokens);
    (request.settings.temperature, request.settings.seed) = (Some(temperature), Some(seed));
    request.form = Some(form);
    request
}

fn ask(request: &GenerationRequest) -> Vec<Choice> {
    ENGINE.complete(request).unwrap().choices
}

/// Schemas that no answer can go on in for ever.
fn schemas() -> Vec<Value> {
    vec![
        json!({
            "type": "object", "required": ["name", "age", "tags", "home"], "additionalProperties": false,
            "properties": {
                "name": {"type": "string", "maxLength": 12},
                "age": {"type": "integer", "minimum": 0, "maximum": 120},
                "tags": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"enum": ["red", "green", "blue"]}},
                "home": {"anyOf": [{"type": "null"}, {"const": "the old house"}]},
            },
        }),
        json!({"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number", "minimum": -1, "maximum": 1}}),
        json!({"enum": [1, "two", null, true, {"three": [3]}]}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "string", "pattern": "^[A-Z][a-z]{2,5}( [A-Z][a-z]{2,5}){1,2}$"}),
        json!({
            "type": "object", "required": ["tree"], "additionalProperties": false,
            "properties": {"tree": {"$ref": "#/$defs/node"}},
            "$defs": {"node": {
                "type": "object", "required": ["value", "next"], "additionalProperties": false,
                "properties": {"value": {"type": "boolean"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]}},
            }, "leaf": {"type": "integer", "multipleOf": 5, "minimum": 5, "maximum": 500}},
        }),
        json!({"anyOf": [{"type": "boolean"}, {"type": "string", "minLength": 3, "maxLength": 5}]}),
        json!({"type": "string", "maxLength": 9, "description": "Any text: ü, 語, \"quotes\" \\ and \n too."}),
    ]
}

#[test]
fn every_answer_is_what_its_schema_allows() {
    for schema in schemas() {
        let validator = jsonschema::validator_for(&schema).unwrap();
        for (temperature, seed) in [(0.0, 0), (1.0, 1), (2.0, 2)] {
            let mut request = request(AnswerForm::JsonSchema(schema.clone()), 400, temperature, seed);
            request.n = 2;
            for Choice { text, finish_reason, .. } in ask(&request) {
                let answer: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
                assert_eq!(finish_reason, Finish::Stop, "{text:?}");
                assert!(validator.is_valid(&answer), "{schema}: {text}");
            }
        }
    }
}

#[test]
fn json_objects_are_objects_or_were_cut_off() {
    let mut whole = 0;
    for seed in 0..6 {
        let mut request = request(AnswerForm::JsonObject, 200, 0.8, seed);
        request.settings.logit_bias = [(id_of("}"), 9.0), (id_of("\""), 9.0)].into();
        for Choice { text, finish_reason, .. } in ask(&request) {
            assert!(text.starts_with('{'), "{text:?}");
            match (serde_json::from_str::<Value>(&text), finish_reason) {
                (Ok(answer), Finish::Stop) => {
                    assert!(answer.is_object(), "{text:?}");
                    whole += 1;
                }
                (Err(problem), Finish::Length) => assert!(problem.is_eof(), "{problem}: {text:?}"),
                (parsed, finish) => panic!("{parsed:?}, {finish:?}: {text:?}"),
            }
        }
    }
    assert!(whole > 0, "no answer was complete");
}

fn id_of(text: &str) -> u32 {
    ENGINE.handle().default_model().unwrap().model.text().unwrap().id(text).unwrap()
}

#[test]
fn choices_regular_expressions_and_grammars_are_kept_to() {
    let choices = ["yes", "yes, of course", "no", "ja 語", "\"quoted\\\""].map(str::to_owned);
    let mut seen = Vec::new();
    for seed in 0..12 {
        let text = ask(&request(AnswerForm::Choice(choices.to_vec()), 60, 2.0, seed)).remove(0).text;
        assert!(choices.contains(&text), "{text:?}");
        seen.push(text);
    }
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() > 1, "{seen:?}");
    for seed in 0..4 {
        let answer = ask(&request(AnswerForm::Regex("(ab|c){2,4}-[0-9]{3}".to_owned()), 60, 1.0, seed)).remove(0);
        let (letters, digits) = answer.text.split_once('-').unwrap();
        let left = letters.replace("ab", "c");
        assert!((2..=4).contains(&left.len()) && left.chars().all(|c| c == 'c'), "{}", answer.text);
        assert!(digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()), "{}", answer.text);
        assert_eq!(answer.finish_reason, Finish::Stop);
        let sql = "root ::= \"SELECT \" column \" FROM \" [a-c]{1,3} where?\n\
                   column ::= \"one\" | \"two\" # of them\nwhere ::= \" WHERE \" column \" = \" [0-9]+ \";\"";
        let text = ask(&request(AnswerForm::Grammar(sql.to_owned()), 60, 1.0, seed)).remove(0).text;
        let rest = ["one", "two"].iter().find_map(|c| text.strip_prefix(&format!("SELECT {c} FROM "))).unwrap();
        let (table, more) = rest.split_once(' ').map_or((rest, None), |(table, more)| (table, Some(more)));
        assert!((1..=3).contains(&table.len()) && table.chars().all(|c| ('a'..='c').contains(&c)), "{text}");
        assert!(more.is_none_or(|more| more.starts_with("WHERE ")), "{text}");
        let sum = "start: number (\"+\" number){1,3}\nnumber: /[1-9][0-9]?/".to_owned();
        let text = ask(&request(AnswerForm::Grammar(sum), 60, 1.0, seed)).remove(0).text;
        let numbers: Vec<u32> = text.split('+').map(|number| number.parse().unwrap()).collect();
        assert!((2..=4).contains(&numbers.len()) && numbers.iter().all(|n| (1..100).contains(n)), "{text}");
    }
}

#[test]
fn an_answer_is_the_same_streamed_and_beside_others() {
    let forms =
        || schemas().into_iter().map(AnswerForm::JsonSchema).chain([AnswerForm::Regex("[a-f ]{40}".to_owned())]);
    let requests: Vec<_> = forms().enumerate().map(|(i, form)| request(form, 200, (i % 2) as f32, i as u64)).collect();
    let alone: Vec<_> = requests.iter().map(ask).collect();
    let mut all: Vec<_> = requests.iter().rev().map(|request| ENGINE.stream(request).unwrap()).collect();
    for alone in &alone {
        let mut events = all.pop().unwrap();
        let mut collector = Collector::of(&events);
        let (mut text, mut deltas) = (String::new(), 0);
        for event in events.by_ref() {
            if let Event::Delta { delta, .. } = &event {
                text += &delta.text;
                deltas += 1;
            }
            collector.take(event).unwrap();
        }
        assert_eq!((&collector.finish().unwrap().choices, &text), (alone, &alone[0].text));
        assert!(deltas > 0);
    }
}

#[test]
fn log_probabilities_are_the_models_own() {
    let mut asked = request(AnswerForm::JsonSchema(schemas().remove(0)), 300, 0.0, 0);
    let plain = ask(&asked).remove(0);
    asked.settings.logprobs = Some(3);
    let answer = ask(&asked).remove(0);
    // The device chooses among what may come next, and so does the host among its logits.
    assert_eq!((&answer.text, answer.finish_reason), (&plain.text, plain.finish_reason));
    let logs = answer.logprobs.unwrap();
    let joined: String = logs.iter().map(|log| log.token.token.as_str()).collect();
    assert_eq!(joined, answer.text);
    assert!(logs.iter().all(|log| log.top.len() == 3 && log.logprob <= Some(log.top[0].1)));
    // A model of tales would rather not have written JSON.
    assert!(logs.iter().any(|log| log.logprob < Some(log.top[2].1 - 1.0)));
}

#[test]
fn max_tokens_cut_an_answer() {
    let answer = ask(&request(AnswerForm::JsonSchema(schemas().remove(0)), 3, 0.0, 0)).remove(0);
    assert_eq!(answer.finish_reason, Finish::Length);
    assert!(answer.text.starts_with('{') && serde_json::from_str::<Value>(&answer.text).is_err());
    // One that is complete with the last token is not cut.
    let choice = request(AnswerForm::Choice(vec!["a".to_owned()]), 1, 0.0, 0);
    assert_eq!((ask(&choice)[0].text.as_str(), ask(&choice)[0].finish_reason), ("a", Finish::Stop));
    // A stop string goes before the grammar, and ends that are ignored do not let it go on for ever.
    let mut stopped = request(AnswerForm::Regex("abc".to_owned()), 9, 0.0, 0);
    stopped.stop = vec!["b".to_owned()];
    assert_eq!((ask(&stopped)[0].text.as_str(), ask(&stopped)[0].finish_reason), ("a", Finish::Stop));
    let mut endless = request(AnswerForm::Regex("abc".to_owned()), 9, 0.0, 0);
    endless.ignore_eos = true;
    assert_eq!((ask(&endless)[0].text.as_str(), ask(&endless)[0].finish_reason), ("abc", Finish::Stop));
}

fn refused(engine: &Engine, form: AnswerForm) -> String {
    match engine.complete(&request(form, 9, 0.0, 0)) {
        Err(EngineError::Request(problem)) => match problem.as_ref() {
            RequestError::Field { field: "form", problem } => problem.clone(),
            other => panic!("{other}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_kept_to_is_refused() {
    let nested = (0..70).fold(json!({}), |inner, _| json!({"items": inner}));
    for (form, words) in [
        (AnswerForm::JsonSchema(json!({"type": "nonsense"})), "nonsense"),
        (AnswerForm::JsonSchema(json!({"$ref": "#/$defs/none"})), "none"),
        (AnswerForm::JsonSchema(json!({"$ref": "https://example.com/schema.json"})), "ref"),
        (AnswerForm::JsonSchema(json!(3)), "must be an object"),
        (AnswerForm::JsonSchema(json!({"x-guidance": {"nothing": 1}})), "nothing"),
        (AnswerForm::JsonSchema(json!({"type": "integer", "minimum": 3, "maximum": 2})), "nsatisfiable"),
        (AnswerForm::JsonSchema(nested), "within each other"),
        (AnswerForm::JsonSchema(json!({"enum": ["x".repeat(300 << 10)]})), "there can be"),
        (AnswerForm::Regex("(".to_owned()), "regex"),
        (AnswerForm::Regex("(".repeat(100)), "brackets"),
        (AnswerForm::Choice(Vec::new()), "at least one"),
        (AnswerForm::Choice(vec![String::new()]), "empty"),
        (AnswerForm::Choice(vec!["a".to_owned(); 5000]), "there can be"),
        (AnswerForm::Grammar(" ".to_owned()), "empty"),
        (AnswerForm::Grammar("begin: \"a\"".to_owned()), "start"),
        (AnswerForm::Grammar("start: other".to_owned()), "other"),
        (AnswerForm::Grammar("start: <unknown>".to_owned()), "unknown"),
    ] {
        let problem = refused(&ENGINE, form.clone());
        assert!(problem.contains(words) && problem.len() < 400, "{form:?}: {problem}");
        assert!(!problem.contains("backtrace") && !problem.contains("<state>"), "{problem}");
    }
    let diffusion = Engine::open_on(folder(), Shared::default().open()).unwrap();
    assert!(refused(&diffusion, AnswerForm::JsonObject).contains("diffusion"));
}

#[test]
fn a_device_that_is_lost_does_not_lose_the_grammar() {
    let script = Shared::new(Script { lost_in: Some(9), ..Script::default() });
    let engine = Engine::open_on(FOLDER, script.open()).unwrap();
    let schema = schemas().remove(0);
    let request = request(AnswerForm::JsonSchema(schema.clone()), 400, 0.0, 0);
    let answers = [engine.complete(&request).unwrap(), engine.complete(&request).unwrap()];
    assert_eq!(script.lock().opened, 2);
    assert_eq!(answers[0].choices, answers[1].choices);
    let text = &answers[0].choices[0].text;
    assert!(jsonschema::is_valid(&schema, &serde_json::from_str(text).unwrap()), "{text}");
}
