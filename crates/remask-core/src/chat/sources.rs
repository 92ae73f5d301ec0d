//! Where a model's chat templates come from.

use serde_json::{Map, Value as Json};

use super::template::ChatTemplate;
use crate::error::{Error, Result};

/// The texts in which a model folder brings its chat templates.
#[derive(Debug, Clone, Default)]
pub struct TemplateFiles<'a> {
    /// The folder, for error messages.
    pub origin: &'a str,
    /// chat_template.jinja.
    pub template: Option<&'a str>,
    /// Name and text of each file additional_chat_templates/NAME.jinja.
    pub additional: Vec<(&'a str, &'a str)>,
    /// tokenizer_config.json: a template, or several by name, and the special tokens' texts.
    pub settings: Option<&'a Json>,
    /// The template where the model brings none.
    pub fallback: Option<&'a str>,
}

impl ChatTemplate {
    /// The chat templates of a model folder; `None` where there is none. Templates in files of their own go
    /// before those in tokenizer_config.json. `token` gives the text of a special token (`bos_token`,
    /// `eos_token`) that the settings do not name.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where a template does not parse, or tokenizer_config.json has something else in
    /// its place.
    pub fn from_files(files: &TemplateFiles, token: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let mut tokens = Map::new();
        for name in ["bos_token", "eos_token"] {
            tokens.insert(name.to_owned(), token(name).unwrap_or_default().into());
        }
        for (name, value) in files.settings.and_then(Json::as_object).into_iter().flatten() {
            named_tokens(name, value, &mut tokens);
        }
        let mut templates = Self::without_templates(tokens);
        if let Some(source) = files.template {
            templates.add("default", &format!("{}/chat_template.jinja", files.origin), source)?;
        }
        for (name, source) in &files.additional {
            let file = format!("{}/additional_chat_templates/{name}.jinja", files.origin);
            templates.add(name, &file, source)?;
        }
        let settings_file = format!("{}/tokenizer_config.json", files.origin);
        if templates.names().next().is_none()
            && let Some(value) = files.settings.and_then(|settings| settings.get("chat_template"))
        {
            add_from_settings(&mut templates, &settings_file, value)?;
        }
        if templates.names().next().is_none() {
            let Some(source) = files.fallback else { return Ok(None) };
            templates.add("default", "(the family's chat template)", source)?;
        }
        Ok(Some(templates))
    }

    /// The chat templates of one file called `origin` that holds them by name, as GGUF does. `tokens` are the
    /// special tokens' texts by what templates call them.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where a template does not parse.
    pub fn from_named<'a>(
        origin: &str,
        named: impl IntoIterator<Item = (&'a str, &'a str)>,
        tokens: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let tokens = tokens.into_iter().map(|(name, text)| (name, text.into()));
        let mut templates = Self::without_templates(tokens.collect());
        for (name, source) in named {
            templates.add(name, origin, source)?;
        }
        Ok(templates)
    }
}

/// The template in tokenizer_config.json: a text, a list of `{name, template}`, or a map.
fn add_from_settings(templates: &mut ChatTemplate, file: &str, value: &Json) -> Result<()> {
    let wrong = || Error::Tokenizer {
        file: file.to_owned(),
        problem: "chat_template: expected a text, a list of {name, template}, or a map of texts by name".to_owned(),
    };
    match value {
        Json::Null => Ok(()),
        Json::String(source) => templates.add("default", file, source),
        Json::Array(items) => items.iter().try_for_each(|item| {
            let text = |key: &str| item.get(key).and_then(Json::as_str).ok_or_else(wrong);
            templates.add(text("name")?, file, text("template")?)
        }),
        Json::Object(entries) => {
            entries.iter().try_for_each(|(name, source)| templates.add(name, file, source.as_str().ok_or_else(wrong)?))
        }
        _ => Err(wrong()),
    }
}

/// The special tokens in an entry of tokenizer_config.json, by what templates call them.
fn named_tokens(name: &str, value: &Json, tokens: &mut Map<String, Json>) {
    if name == "additional_special_tokens" {
        let texts: Vec<Json> = value.as_array().into_iter().flatten().filter_map(token_text).collect();
        tokens.insert(name.to_owned(), texts.into());
    } else if name == "extra_special_tokens" {
        for (name, value) in value.as_object().into_iter().flatten() {
            tokens.extend(token_text(value).map(|text| (name.clone(), text)));
        }
    } else if name.ends_with("_token") {
        tokens.extend(token_text(value).map(|text| (name.to_owned(), text)));
    }
}

/// A special token's text, which is given as it is or in an object with its content.
fn token_text(value: &Json) -> Option<Json> {
    value.as_str().or_else(|| value.get("content").and_then(Json::as_str)).map(Json::from)
}
