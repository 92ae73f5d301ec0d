//! Chat templates of a model, by name, and how they are rendered.

use std::sync::{Arc, OnceLock};

use jiff::civil::DateTime;
use serde_json::{Map, Value as Json};

use super::jinja::{Fault, Meter, Outcome, Template, Value};
use super::marked::MarkedText;
use super::message::{Content, Conversation, Message};
use crate::error::{Error, Result};

/// Roles that templates are written for. They are taken as the template's own words, not as the user's.
const ROLES: &[&str] = &[
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "ipython",
    "model",
    "human",
    "gpt",
    "bot",
    "observation",
    "environment",
];
/// Names that the renderer gives itself.
const RESERVED: &[&str] = &["messages", "tools", "documents", "add_generation_prompt"];
/// What a probe says, which no template says.
const PROBE: &str = "qzprobezq";

/// The chat templates of a model, and the special texts they may name.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    templates: Vec<Named>,
    /// `bos_token` and its kind, as they are called.
    tokens: Map<String, Json>,
}

/// One template.
#[derive(Debug, Clone)]
struct Named {
    name: String,
    file: String,
    source: String,
    template: Arc<Template>,
    contents: OnceLock<Contents>,
}

/// The forms of content that a template can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contents {
    /// Both, or it cannot be told.
    Any,
    /// Text alone: parts are joined to one.
    Text,
    /// Parts alone: a text becomes one.
    Parts,
}

impl ChatTemplate {
    /// A template read from `file`; `bos` and `eos` are what it calls `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the template does not parse.
    pub fn new(file: &str, source: &str, bos: &str, eos: &str) -> Result<Self> {
        let tokens = [("bos_token", bos), ("eos_token", eos)].map(|(name, text)| (name.to_owned(), text.into()));
        let mut templates = Self::without_templates(Map::from_iter(tokens));
        templates.add("default", file, source)?;
        Ok(templates)
    }

    /// No template yet; `tokens` are the special texts by the names that templates call them.
    pub(super) fn without_templates(tokens: Map<String, Json>) -> Self {
        Self { templates: Vec::new(), tokens }
    }

    /// Adds a template read from `file`, in place of one of the same name.
    pub(super) fn add(&mut self, name: &str, file: &str, source: &str) -> Result<()> {
        let template = Template::parse(source).map_err(|fault| broken(file, &fault))?;
        self.templates.retain(|known| known.name != name);
        self.templates.push(Named {
            name: name.to_owned(),
            file: file.to_owned(),
            source: source.to_owned(),
            template: Arc::new(template),
            contents: OnceLock::new(),
        });
        Ok(())
    }

    /// The names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.iter().map(|known| known.name.as_str())
    }

    /// The text of the template for conversations without tools.
    #[must_use]
    pub fn source(&self) -> &str {
        self.templates
            .iter()
            .find(|known| known.name == "default")
            .or(self.templates.first())
            .map_or("", |known| &known.source)
    }

    /// The template for a conversation.
    fn choose(&self, conversation: &Conversation) -> Result<&Named> {
        let find = |name: &str| self.templates.iter().find(|known| known.name == name);
        let chosen = match &conversation.template {
            Some(name) => find(name),
            None if conversation.tools.is_some() => find("tool_use").or_else(|| find("default")),
            None => find("default"),
        };
        chosen.ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            let asked = conversation.template.as_deref().unwrap_or("default");
            Error::Request(format!("no chat template is called {asked}; there are {}", names.join(", ")))
        })
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the template refuses the conversation, fails, or takes too much time or
    /// memory; [`Error::Request`] where it is asked for what does not go together.
    pub fn render(&self, conversation: &Conversation) -> Result<MarkedText> {
        let continued = conversation.continue_final_message;
        let add_generation_prompt = conversation.add_generation_prompt.unwrap_or(!continued);
        if continued && add_generation_prompt {
            let clash = "continue_final_message and add_generation_prompt exclude each other; give one of them";
            return Err(Error::Request(clash.to_owned()));
        }
        if let Some(name) = conversation.variables.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(Error::Request(format!("the variable {name} is given by the conversation itself")));
        }
        let chosen = self.choose(conversation)?;
        let contents = self.contents(chosen);
        let render =
            |conversation: &Conversation| self.render_with(chosen, conversation, add_generation_prompt, contents);
        let rendered = match (render(conversation), conversation.spelled_out()) {
            // Many templates stumble over what OpenAI's form of a tool call leaves out or writes as a text.
            (Err(fault), Some(spelled_out)) => render(&spelled_out).map_err(|_| fault),
            (rendered, _) => rendered,
        };
        let rendered = rendered.map_err(|fault| broken(&chosen.file, &fault))?;
        if continued { continued_text(&rendered, conversation) } else { Ok(rendered) }
    }

    fn render_with(
        &self,
        chosen: &Named,
        conversation: &Conversation,
        add_generation_prompt: bool,
        contents: Contents,
    ) -> Outcome<MarkedText> {
        let lists = [&conversation.tools, &conversation.documents];
        let bytes = conversation.messages.iter().map(weight_of_message).sum::<usize>()
            + lists.iter().flat_map(|list| list.iter().flatten()).map(weight).sum::<usize>()
            + conversation.variables.values().map(weight).sum::<usize>();
        let meter = Meter::for_conversation(conversation.messages.len(), bytes);
        let list = |items: &Option<Vec<Json>>| match items {
            Some(items) => {
                let items = items.iter().map(|item| Value::from_user(item, &meter)).collect::<Outcome<_>>()?;
                Value::user_list(items, &meter)
            }
            // As transformers does: the name is there, and none.
            None => Ok(Value::None),
        };
        let messages = conversation.messages.iter().map(|message| message_value(message, contents, &meter));
        let mut names: Vec<(Arc<str>, Value)> = vec![
            ("messages".into(), Value::user_list(messages.collect::<Outcome<_>>()?, &meter)?),
            ("tools".into(), list(&conversation.tools)?),
            ("documents".into(), list(&conversation.documents)?),
            ("add_generation_prompt".into(), Value::Bool(add_generation_prompt)),
        ];
        for (name, value) in &conversation.variables {
            names.push((name.as_str().into(), Value::from_user(value, &meter)?));
        }
        for (name, value) in self.tokens.iter().filter(|(name, _)| !conversation.variables.contains_key(*name)) {
            names.push((name.as_str().into(), Value::from_template(value, &meter)?));
        }
        let now = || conversation.now.unwrap_or_else(clock);
        chosen.template.render(names, &now, &meter)
    }

    /// The forms of content that a template can write, found out by letting it write both once.
    fn contents(&self, chosen: &Named) -> Contents {
        *chosen.contents.get_or_init(|| {
            let writes = |content: Content| {
                let message = Message { role: "user".to_owned(), content, fields: Map::new() };
                let probe = Conversation { now: Some(DateTime::default()), ..Conversation::from(vec![message]) };
                let text = self.render_with(chosen, &probe, true, Contents::Any).ok()?.text;
                // A list that is written as one is not understood.
                Some(text.contains(PROBE) && !["'text'", "\"text\""].iter().any(|key| text.contains(key)))
            };
            let part = serde_json::json!({ "type": "text", "text": PROBE });
            match (writes(Content::Text(PROBE.to_owned())), writes(Content::Parts(vec![part]))) {
                (Some(true), Some(false) | None) => Contents::Text,
                (Some(false) | None, Some(true)) => Contents::Parts,
                _ => Contents::Any,
            }
        })
    }
}

/// The time by the clock of where the program runs.
#[cfg(not(target_arch = "wasm32"))]
fn clock() -> DateTime {
    jiff::ZonedDateTime::now().datetime()
}

/// The time by the browser's clock.
#[cfg(target_arch = "wasm32")]
fn clock() -> DateTime {
    let now = js_sys::Date::new_0();
    let small = |value: u32| i8::try_from(value).unwrap_or(0);
    let year = i16::try_from(now.get_full_year()).unwrap_or(0);
    let (month, day) = (small(now.get_month()) + 1, small(now.get_date()));
    let nanoseconds = i32::try_from(now.get_milliseconds()).unwrap_or(0) * 1_000_000;
    let time = (small(now.get_hours()), small(now.get_minutes()), small(now.get_seconds()));
    DateTime::new(year, month, day, time.0, time.1, time.2, nanoseconds).unwrap_or_default()
}

fn broken(file: &str, fault: &Fault) -> Error {
    Error::Tokenizer { file: file.to_owned(), problem: format!("chat template: {fault}") }
}

/// A message as a template sees it.
fn message_value(message: &Message, contents: Contents, meter: &Meter) -> Outcome<Value> {
    let known = ROLES.contains(&message.role.as_str());
    let mut entries = vec![(Value::user_text("role"), Value::text(MarkedText::of(&message.role, !known)))];
    let content = match (&message.content, contents) {
        (Content::Absent, _) => None,
        (Content::Null, _) => Some(Json::Null),
        (Content::Parts(_), Contents::Text) => Some(Json::from(message.content.text())),
        (Content::Text(text), Contents::Parts) => Some(serde_json::json!([{ "type": "text", "text": text }])),
        (Content::Text(text), _) => Some(Json::from(text.as_str())),
        (Content::Parts(parts), _) => Some(Json::from(parts.clone())),
    };
    if let Some(content) = content {
        entries.push((Value::user_text("content"), Value::from_user(&content, meter)?));
    }
    for (name, value) in &message.fields {
        entries.push((Value::user_text(name), Value::from_user(value, meter)?));
    }
    Value::dict(entries, true, meter)
}

fn weight_of_message(message: &Message) -> usize {
    let content = match &message.content {
        Content::Text(text) => text.len(),
        Content::Parts(parts) => parts.iter().map(weight).sum(),
        Content::Null | Content::Absent => 0,
    };
    message.role.len() + content + message.fields.values().map(weight).sum::<usize>()
}

/// Roughly the bytes of a value.
fn weight(json: &Json) -> usize {
    match json {
        Json::String(text) => text.len(),
        Json::Array(items) => 8 + items.iter().map(weight).sum::<usize>(),
        Json::Object(entries) => 8 + entries.iter().map(|(key, value)| key.len() + weight(value)).sum::<usize>(),
        _ => 8,
    }
}

/// What was rendered, up to the end of the last message's text: with the white space at its end where the
/// template kept it.
fn continued_text(rendered: &MarkedText, conversation: &Conversation) -> Result<MarkedText> {
    let refuse = |problem: &str| Err(Error::Request(format!("the last message cannot be continued: {problem}")));
    let Some(message) = conversation.messages.last() else { return refuse("there is none") };
    let text = match &message.content {
        Content::Text(text) => text.as_str(),
        Content::Parts(parts) => {
            let text = parts.iter().rev().find_map(|part| part.get("text").and_then(Json::as_str));
            let Some(text) = text else { return refuse("it has no text") };
            text
        }
        Content::Null | Content::Absent => return refuse("it has no text"),
    };
    let trimmed = text.trim();
    let Some(start) = rendered.text.rfind(trimmed) else { return refuse("the template changes its text") };
    let whole = text.trim_start();
    let kept = rendered.text.get(start..).is_some_and(|rest| rest.starts_with(whole));
    Ok(rendered.slice(0..start + if kept { whole.len() } else { trimmed.len() }))
}
