//! What a conversation is made of.

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation.
///
/// As JSON it is the message of OpenAI's and of transformers' chat form; fields that are not named here
/// (`tool_calls`, `tool_call_id`, `name`, `reasoning_content`, whatever a template knows) pass through to the
/// template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// "system", "user", "assistant", "tool", or what the template knows besides.
    pub role: String,
    /// What was said.
    #[serde(default, skip_serializing_if = "Content::is_absent")]
    pub content: Content,
    /// All other fields.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// What a message says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "the content of a message is a text, a list of parts, or null")]
pub enum Content {
    /// Text.
    Text(String),
    /// Parts, each a map with its `type`, such as `{"type": "text", "text": "…"}`.
    Parts(Vec<Value>),
    /// Nothing, said so: a message that only calls tools.
    Null,
    /// Nothing.
    #[default]
    #[serde(skip)]
    Absent,
}

impl Content {
    fn is_absent(&self) -> bool {
        *self == Self::Absent
    }

    /// Its text: that of its text parts with line ends between them, where it has parts.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => {
                let texts = parts.iter().filter_map(|part| part.get("text").or(Some(part)).and_then(Value::as_str));
                texts.collect::<Vec<_>>().join("\n")
            }
            Self::Null | Self::Absent => String::new(),
        }
    }
}

impl<T: Into<String>> From<T> for Content {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

impl Message {
    /// A message with a text.
    #[must_use]
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Content::Text(text.into()), fields: Map::new() }
    }

    /// The message with one more field.
    #[must_use]
    pub fn with(mut self, field: impl Into<String>, value: impl Into<Value>) -> Self {
        self.fields.insert(field.into(), value.into());
        self
    }
}

/// A conversation, and what is asked of the template that renders it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conversation {
    /// What was said so far.
    pub messages: Vec<Message>,
    /// Tools that may be called, each as a JSON schema.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from.
    pub documents: Option<Vec<Value>>,
    /// Whether the header of an answer ends the prompt; it does unless the last message is continued.
    pub add_generation_prompt: Option<bool>,
    /// Whether the prompt ends inside the last message, so that the model goes on with it.
    pub continue_final_message: bool,
    /// The name of the template, where a model has several; otherwise "tool_use" where there are tools, else
    /// "default".
    pub template: Option<String>,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// What the template takes for the time now; the clock's where none is given.
    #[serde(skip)]
    pub now: Option<DateTime>,
}

impl Conversation {
    /// A conversation that begins with a question.
    #[must_use]
    pub fn ask(text: impl Into<String>) -> Self {
        Self::from(vec![Message::new("user", text)])
    }
}

impl Conversation {
    /// The conversation with empty texts for contents that are null, and with the arguments of tool calls as
    /// values where they are JSON in a text; `None` where there are none of these.
    pub(super) fn spelled_out(&self) -> Option<Self> {
        let mut spelled_out = self.clone();
        for message in &mut spelled_out.messages {
            if message.content == Content::Null {
                message.content = Content::Text(String::new());
            }
            let calls = message.fields.get_mut("tool_calls").and_then(Value::as_array_mut);
            for call in calls.into_iter().flatten() {
                let arguments = call.pointer_mut("/function/arguments");
                let Some(arguments @ Value::String(_)) = arguments else { continue };
                if let Some(value @ Value::Object(_)) =
                    arguments.as_str().and_then(|text| serde_json::from_str(text).ok())
                {
                    *arguments = value;
                }
            }
        }
        (spelled_out != *self).then_some(spelled_out)
    }
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }
}

impl From<&[Message]> for Conversation {
    fn from(messages: &[Message]) -> Self {
        Self::from(messages.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_pass_through_json() {
        let json = json!([
            { "role": "user", "content": "Hi", "name": "Ada" },
            { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "image" }, "b"] },
            { "role": "assistant", "content": null, "tool_calls": [{ "function": { "z": 1, "a": 2 } }] },
            { "role": "assistant", "reasoning_content": "Hm." },
        ]);
        let messages: Vec<Message> = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(messages[0], Message::new("user", "Hi").with("name", "Ada"));
        assert_eq!(messages[1].content.text(), "a\nb");
        assert_eq!((&messages[2].content, &messages[3].content), (&Content::Null, &Content::Absent));
        assert_eq!(serde_json::to_string(&messages).unwrap(), json.to_string());
        let broken = serde_json::from_str::<Message>(r#"{"role":"user","content":5}"#).unwrap_err().to_string();
        assert!(broken.contains("a text, a list of parts, or null"), "{broken}");
    }

    #[test]
    fn a_conversation_passes_through_json() {
        let json =
            r#"{"messages":[{"role":"user","content":"x"}],"tools":[{"name":"t"}],"variables":{"thinking":false}}"#;
        let conversation: Conversation = serde_json::from_str(json).unwrap();
        let again: Conversation = serde_json::from_str(&serde_json::to_string(&conversation).unwrap()).unwrap();
        assert_eq!(conversation, again);
        assert_eq!(conversation.messages, Conversation::ask("x").messages);
    }
}
