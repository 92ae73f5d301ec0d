//! The body of a request.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::prompts::{Content, Prompt};

/// Which of OpenAI's two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

impl Endpoint {
    /// Where it is.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

/// What every request asks for.
#[derive(Debug, Clone)]
pub struct Template {
    /// The form.
    pub endpoint: Endpoint,
    /// The model's name.
    pub model: String,
    /// Tokens of an answer.
    pub max_tokens: usize,
    /// Answers are as long as that.
    pub ignore_eos: bool,
    /// As events.
    pub stream: bool,
    /// Temperature of selection.
    pub temperature: f64,
    /// Sent where tokens are drawn.
    pub seed: u64,
    /// Fields on top of these.
    pub extra: Map<String, Value>,
}

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Where to.
    pub path: &'static str,
    /// What it says.
    pub body: Value,
    /// As events.
    pub stream: bool,
}

impl Template {
    /// A request for an answer to `prompt`, the one of this number: each draws with a seed of its own.
    pub fn ask(&self, prompt: &Prompt, number: usize) -> Ask {
        let mut body = json!({
            "model": self.model,
            "max_tokens": prompt.max_tokens.unwrap_or(self.max_tokens),
            "temperature": self.temperature,
            "stream": self.stream,
        });
        match (self.endpoint, &prompt.content) {
            (Endpoint::Chat, Content::Text(text)) => body["messages"] = json!([{"role": "user", "content": text}]),
            (Endpoint::Chat, Content::Given(messages)) => body["messages"] = messages.clone(),
            (Endpoint::Completions, Content::Text(text)) => body["prompt"] = json!(text),
            // Prompts are checked against the form when they are read.
            (Endpoint::Completions, Content::Given(messages)) => body["prompt"] = messages.clone(),
        }
        if self.stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        if self.ignore_eos {
            body["ignore_eos"] = json!(true);
        }
        if self.temperature > 0.0 {
            // Below 2^53, beyond which some servers' numbers lose their last digits.
            body["seed"] = json!(self.seed.wrapping_add(number as u64) & ((1 << 53) - 1));
        }
        merge(&mut body, &Value::Object(self.extra.clone()));
        // Whoever says otherwise in --extra gets what they ask for.
        let stream = body.get("stream").and_then(Value::as_bool).unwrap_or(false);
        Ask { path: self.endpoint.path(), body, stream }
    }

    /// The same with a field of the request set.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        let mut fields = Value::Object(self.extra);
        merge(&mut fields, &json!({field: value}));
        self.extra = if let Value::Object(fields) = fields { fields } else { Map::new() };
        self
    }

    /// A request for an answer to `text`, the first of its kind.
    pub fn text(&self, text: &str) -> Ask {
        self.ask(&Prompt::text(Arc::from(""), text), 0)
    }
}

/// Puts `more` into `body`: objects are merged, other values take the place of what is there.
fn merge(body: &mut Value, more: &Value) {
    match (body, more) {
        (Value::Object(body), Value::Object(more)) => {
            for (name, value) in more {
                merge(body.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (body, more) => *body = more.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Template {
        Template {
            endpoint: Endpoint::Chat,
            model: "m".to_owned(),
            max_tokens: 8,
            ignore_eos: true,
            stream: true,
            temperature: 0.0,
            seed: u64::MAX,
            extra: Map::new(),
        }
    }

    #[test]
    fn more_fields_are_merged_over_ours() {
        let asked = template().with("remask", json!({"mor": true, "steps": 4})).with("remask", json!({"mor": false}));
        let ask = asked.with("max_tokens", json!(3)).with("stream_options", json!({"x": 1})).text("a");
        assert_eq!(
            ask.body,
            json!({
                "model": "m", "max_tokens": 3, "temperature": 0.0, "stream": true,
                "messages": [{"role": "user", "content": "a"}],
                "stream_options": {"include_usage": true, "x": 1}, "ignore_eos": true,
                "remask": {"mor": false, "steps": 4},
            })
        );
        assert!(!template().with("stream", json!(false)).text("a").stream);
    }

    #[test]
    fn seeds_are_sent_where_tokens_are_drawn() {
        let drawn = Template { temperature: 0.5, endpoint: Endpoint::Completions, ..template() };
        let asks: Vec<_> =
            (0..2).map(|i| drawn.ask(&Prompt::text(Arc::from(""), "a"), i).body["seed"].clone()).collect();
        assert_eq!(asks, [json!((1u64 << 53) - 1), json!(0)]);
        assert!(template().text("a").body.get("seed").is_none());
    }
}
