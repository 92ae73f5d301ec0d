//! What form an answer must have: OpenAI's `response_format`, vLLM's fields and llama.cpp's.

use remask::core::Architecture;
use remask::core::decode::{AnswerForm, no_grammar};
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::fields::Fields;

type Result<T> = std::result::Result<T, ApiError>;

/// Choices of an answer at most.
const MOST_CHOICES: usize = 4096;

/// A form, and the field that asks for it.
pub struct AskedForm {
    /// What is asked for.
    pub form: AnswerForm,
    /// Name of the field.
    pub field: &'static str,
}

/// Fields that ask for a form; a request has one of them at most.
const FIELDS: [(&str, Reader); 8] = [
    ("response_format", response_format),
    ("structured_outputs", structured_outputs),
    ("guided_json", |fields, name| {
        schema(fields, name).map(|form| form.map(|form| spaced(form, &guided_space(fields))))
    }),
    ("guided_regex", regex),
    ("guided_choice", choice),
    ("guided_grammar", grammar),
    ("json_schema", schema),
    ("grammar", llama_grammar),
];

type Reader = fn(&Fields<'_>, &str) -> Result<Option<AnswerForm>>;

impl AskedForm {
    /// The form that a request asks of a model of `architecture`, if any.
    pub fn read(fields: &Fields<'_>, architecture: &Architecture) -> Result<Option<Self>> {
        let backend = |value: &Value| matches!(value.as_str(), Some("auto" | "guidance" | "llguidance"));
        fields.refuse_unless("guided_decoding_backend", backend, "grammars are llguidance's")?;
        fields.string("guided_whitespace_pattern")?;
        if architecture.is_diffusion() {
            let none =
                |value: &Value| value.as_str() == Some("") || value.get("type").is_some_and(|kind| kind == "text");
            FIELDS.iter().try_for_each(|(field, _)| fields.refuse_unless(field, none, &no_grammar(architecture)))?;
            return Ok(None);
        }
        let mut asked: Option<Self> = None;
        for (field, read) in FIELDS {
            let Some(form) = read(fields, field)? else { continue };
            if let Some(other) = &asked {
                let problem = format!("{field} and {} both say what form the answer has; leave one out", other.field);
                return Err(ApiError::field(field, problem));
            }
            asked = Some(Self { form, field });
        }
        Ok(asked)
    }
}

/// An error about a request's form, by the name of the field that asked for it.
pub fn named(mut error: ApiError, field: Option<&'static str>) -> ApiError {
    if let Some(field) = field.filter(|_| error.param.as_deref() == Some("form")) {
        error.message = format!("{field}{}", error.message.strip_prefix("form").unwrap_or(&error.message));
        error.param = Some(field.to_owned());
    }
    error
}

fn wrong<T>(field: String, problem: impl std::fmt::Display) -> Result<T> {
    Err(ApiError::field(field.clone(), format!("{field} {problem}")))
}

/// OpenAI's; llama.cpp's schema for `json_object` too.
fn response_format(fields: &Fields<'_>, field: &str) -> Result<Option<AnswerForm>> {
    let Some(format) = fields.object(field)? else { return Ok(None) };
    let inside = Fields::inside(format, "response_format.");
    Ok(match inside.string("type")? {
        Some("text") => None,
        Some("json_object") => Some(schema(&inside, "schema")?.unwrap_or(AnswerForm::JsonObject)),
        Some("json_schema") => {
            let Some(described) = inside.object("json_schema")? else {
                return wrong("response_format.json_schema".to_owned(), "is missing");
            };
            let described = Fields::inside(described, "response_format.json_schema.");
            described.string("name")?;
            described.string("description")?;
            // A schema is kept to either way.
            described.bool("strict")?;
            Some(schema(&described, "schema")?.unwrap_or(AnswerForm::JsonObject))
        }
        Some(other) => {
            let problem = format!("{other:?} is not known; there are text, json_object and json_schema");
            return wrong(inside.name("type"), problem);
        }
        None => return wrong(inside.name("type"), "is missing"),
    })
}

/// vLLM's.
fn structured_outputs(fields: &Fields<'_>, field: &str) -> Result<Option<AnswerForm>> {
    let Some(outputs) = fields.object(field)? else { return Ok(None) };
    let inside = Fields::inside(outputs, "structured_outputs.");
    inside.refuse_unless("structural_tag", |_| false, "ask for a grammar")?;
    let off = |value: &Value| *value == Value::Bool(false);
    inside.refuse_unless("disable_additional_properties", off, "say additionalProperties in the schema")?;
    inside.bool("disable_fallback")?;
    let mut space = Map::new();
    if inside.bool("disable_any_whitespace")? == Some(true) {
        space.insert("whitespace_flexible".to_owned(), json!(false));
    }
    if let Some(pattern) = inside.string("whitespace_pattern")? {
        space.insert("whitespace_pattern".to_owned(), json!(pattern));
    }
    let object = inside.bool("json_object")?.unwrap_or(false).then_some(AnswerForm::JsonObject);
    let forms = [
        object,
        schema(&inside, "json")?,
        regex(&inside, "regex")?,
        choice(&inside, "choice")?,
        grammar(&inside, "grammar")?,
    ];
    let mut forms = forms.into_iter().flatten();
    match (forms.next(), forms.next()) {
        (Some(form), None) => Ok(Some(spaced(form, &space))),
        _ => wrong(field.to_owned(), "must have one of json, json_object, regex, choice and grammar"),
    }
}

/// A schema, or its text.
fn schema(fields: &Fields<'_>, field: &str) -> Result<Option<AnswerForm>> {
    let schema = match fields.get(field) {
        None => return Ok(None),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(schema) => schema,
            Err(problem) => return wrong(fields.name(field), format!("is no JSON: {problem}")),
        },
        Some(schema) => schema.clone(),
    };
    match schema {
        Value::Object(_) | Value::Bool(true) => Ok(Some(AnswerForm::JsonSchema(schema))),
        _ => wrong(fields.name(field), "must be a JSON schema: an object"),
    }
}

fn regex(fields: &Fields<'_>, field: &str) -> Result<Option<AnswerForm>> {
    Ok(fields.string(field)?.map(|pattern| AnswerForm::Regex(pattern.to_owned())))
}

fn choice(fields: &Fields<'_>, field: &str) -> Result<Option<AnswerForm>> {
    let choices = fields.strings(field, MOST_CHOICES)?;
    match fields.get(field) {
        Some(_) if choices.is_empty() => wrong(fields.name(field), "must name a choice at least"),
        Some(_) => Ok(Some(AnswerForm::Choice(choices))),
        None => Ok(None),
    }
}

fn grammar(fields: &Fields<'_>, field: &str) -> Result<Option<AnswerForm>> {
    Ok(fields.string(field)?.map(|text| AnswerForm::Grammar(text.to_owned())))
}

/// llama.cpp's: an empty one is none.
fn llama_grammar(fields: &Fields<'_>, field: &str) -> Result<Option<AnswerForm>> {
    grammar(fields, field).map(|form| form.filter(|form| *form != AnswerForm::Grammar(String::new())))
}

fn guided_space(fields: &Fields<'_>) -> Map<String, Value> {
    let pattern = fields.get("guided_whitespace_pattern").and_then(Value::as_str);
    pattern.map(|pattern| ("whitespace_pattern".to_owned(), json!(pattern))).into_iter().collect()
}

/// A form with what it says of the space between the parts of JSON.
fn spaced(form: AnswerForm, space: &Map<String, Value>) -> AnswerForm {
    let mut schema = match form {
        form if space.is_empty() => return form,
        AnswerForm::JsonObject => json!({"type": "object"}),
        AnswerForm::JsonSchema(Value::Object(schema)) => Value::Object(schema),
        form => return form,
    };
    schema["x-guidance"] = Value::Object(space.clone());
    AnswerForm::JsonSchema(schema)
}

#[cfg(test)]
mod tests {
    use remask::core::families;

    use super::*;

    fn read(body: &Value) -> Result<Option<AnswerForm>> {
        let causal = json!({"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 8,
            "num_attention_heads": 1, "num_hidden_layers": 1, "vocab_size": 9, "max_position_embeddings": 9,
            "rms_norm_eps": 1e-5});
        let architecture = families::parse_config("config.json", &causal.to_string()).unwrap().1;
        Ok(AskedForm::read(&Fields::of(body)?, &architecture)?.map(|asked| asked.form))
    }

    #[test]
    fn every_way_to_ask_for_a_form_is_read() {
        let schema = json!({"type": "object"});
        let of = |form: Value| AnswerForm::JsonSchema(form);
        let plain = || of(schema.clone());
        let tight = of(json!({"type": "object", "x-guidance": {"whitespace_flexible": false}}));
        let text = schema.to_string();
        for (body, form) in [
            (json!({"response_format": {"type": "text"}, "grammar": "", "guided_json": null}), None),
            (json!({"response_format": {"type": "json_object"}}), Some(AnswerForm::JsonObject)),
            (json!({"response_format": {"type": "json_object", "schema": schema}}), Some(plain())),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": false, "schema": schema}}}),
                Some(plain()),
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
                Some(AnswerForm::JsonObject),
            ),
            (json!({"guided_json": text}), Some(plain())),
            (json!({"json_schema": schema}), Some(plain())),
            (json!({"structured_outputs": {"json": text}}), Some(plain())),
            (json!({"structured_outputs": {"json_object": true, "disable_any_whitespace": true}}), Some(tight)),
            (
                json!({"structured_outputs": {"choice": ["a", "b"]}}),
                Some(AnswerForm::Choice(vec!["a".into(), "b".into()])),
            ),
            (json!({"guided_choice": ["a"]}), Some(AnswerForm::Choice(vec!["a".into()]))),
            (json!({"guided_regex": "a+"}), Some(AnswerForm::Regex("a+".into()))),
            (json!({"guided_grammar": "start: \"a\""}), Some(AnswerForm::Grammar("start: \"a\"".into()))),
            (
                json!({"grammar": "%llguidance {}\nstart: \"a\""}),
                Some(AnswerForm::Grammar("%llguidance {}\nstart: \"a\"".into())),
            ),
        ] {
            assert_eq!(read(&body).unwrap(), form, "{body}");
        }
        let spaced = read(&json!({"guided_json": schema, "guided_whitespace_pattern": " ?"})).unwrap();
        assert_eq!(spaced, Some(of(json!({"type": "object", "x-guidance": {"whitespace_pattern": " ?"}}))));
    }

    #[test]
    fn mistakes_name_their_field() {
        for (body, field) in [
            (json!({"response_format": "json"}), "response_format"),
            (json!({"response_format": {}}), "response_format.type"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}), "guided_regex"),
            (json!({"structured_outputs": {}}), "structured_outputs"),
            (json!({"structured_outputs": {"regex": "a", "choice": ["b"]}}), "structured_outputs"),
            (json!({"structured_outputs": {"structural_tag": "a"}}), "structured_outputs.structural_tag"),
            (json!({"guided_json": "{"}), "guided_json"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_decoding_backend": "outlines"}), "guided_decoding_backend"),
        ] {
            let error = read(&body).err().unwrap_or_else(|| unreachable!("{body} is taken"));
            assert_eq!(error.param.as_deref(), Some(field), "{body}");
            assert!(error.message.starts_with(field), "{}", error.message);
        }
    }
}
