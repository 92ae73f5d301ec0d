//! From what a request asks for to llguidance's grammars.

use llguidance::JsonCompileOptions;
use llguidance::api::TopLevelGrammar;
use remask_core::decode::AnswerForm;
use serde_json::{Value, json};

use super::gbnf;

/// Bytes of a schema, a grammar, a regular expression or choices at most.
const MOST_BYTES: usize = 256 << 10;
/// Choices at most.
const MOST_CHOICES: usize = 4096;
/// Brackets within brackets at most, and objects and lists within each other.
const DEEPEST: usize = 64;
/// Space between the parts of JSON: none, one, or lines that are indented. Without an end to it a model could write
/// space for ever.
const SPACE: &str = r" |\n{1,2}[ \t]{0,40}";

/// A form as a grammar.
pub(super) fn grammar(form: &AnswerForm) -> Result<TopLevelGrammar, String> {
    Ok(match form {
        AnswerForm::JsonObject => schema(json!({"type": "object"}))?,
        AnswerForm::JsonSchema(own) => schema(own.clone())?,
        AnswerForm::Regex(pattern) => {
            within_limits(pattern)?;
            TopLevelGrammar::from_regex(pattern)
        }
        AnswerForm::Choice(choices) => choice(choices)?,
        AnswerForm::Grammar(text) => {
            if text.trim().is_empty() {
                return Err("an empty grammar".to_owned());
            }
            within_limits(text)?;
            TopLevelGrammar::from_lark(if gbnf::is_gbnf(text) { gbnf::to_lark(text)? } else { text.clone() })
        }
    })
}

fn schema(mut schema: Value) -> Result<TopLevelGrammar, String> {
    check_depth(&schema, 0)?;
    let length = schema.to_string().len();
    if length > MOST_BYTES {
        return Err(format!("{length} bytes; there can be {MOST_BYTES}"));
    }
    match &mut schema {
        Value::Object(object) => {
            let options = object.entry("x-guidance").or_insert_with(|| json!({}));
            let options = options.as_object_mut().ok_or("x-guidance must be an object")?;
            let strict = options.get("whitespace_flexible") == Some(&Value::Bool(false));
            if !strict && !options.contains_key("whitespace_pattern") {
                options.insert("whitespace_pattern".to_owned(), json!(SPACE));
            }
            serde_json::from_value::<JsonCompileOptions>(Value::Object(options.clone()))
                .map_err(|problem| format!("x-guidance: {problem}"))?;
        }
        Value::Bool(true) => {}
        _ => return Err("a schema must be an object".to_owned()),
    }
    Ok(TopLevelGrammar::from_json_schema(schema))
}

fn check_depth(value: &Value, depth: usize) -> Result<(), String> {
    if depth > DEEPEST {
        return Err(format!("more than {DEEPEST} objects and lists within each other"));
    }
    match value {
        Value::Object(object) => object.values().try_for_each(|value| check_depth(value, depth + 1)),
        Value::Array(all) => all.iter().try_for_each(|value| check_depth(value, depth + 1)),
        _ => Ok(()),
    }
}

fn choice(choices: &[String]) -> Result<TopLevelGrammar, String> {
    let length: usize = choices.iter().map(String::len).sum();
    if choices.is_empty() || choices.iter().any(String::is_empty) {
        return Err("there must be at least one choice, and none of them empty".to_owned());
    }
    if choices.len() > MOST_CHOICES || length > MOST_BYTES {
        let (count, most) = (choices.len(), MOST_CHOICES);
        return Err(format!("{count} choices of {length} bytes; there can be {most} of {MOST_BYTES}"));
    }
    // Lark's texts are JSON's.
    let choices: Vec<_> = choices.iter().map(|choice| Value::from(choice.as_str()).to_string()).collect();
    Ok(TopLevelGrammar::from_lark(format!("start: {}", choices.join(" | "))))
}

/// That a text is neither too long nor nested too deep, whatever its brackets mean.
fn within_limits(text: &str) -> Result<(), String> {
    if text.len() > MOST_BYTES {
        return Err(format!("{} bytes; there can be {MOST_BYTES}", text.len()));
    }
    let mut depth = 0usize;
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Err(format!("more than {DEEPEST} brackets within each other"));
        }
    }
    Ok(())
}
