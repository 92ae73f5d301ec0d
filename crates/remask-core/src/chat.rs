//! Chat templates (Jinja, as Hugging Face writes them), rendered so that the user's own text stays
//! marked as such: nothing in it can ever become a special token.

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// "system", "user" or "assistant".
    pub role: String,
    /// The text.
    pub content: String,
}

/// Text for a tokenizer, with the byte ranges that came from outside. Special tokens are recognised
/// only outside of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedText {
    /// The whole text.
    pub text: String,
    /// Byte ranges of user text, in order, apart from each other.
    pub user: Vec<Range<usize>>,
}

impl MarkedText {
    /// Text that came from outside in one piece.
    #[must_use]
    pub fn from_user(text: &str) -> Self {
        Self { text: text.to_owned(), user: std::iter::once(0..text.len()).collect() }
    }
}

/// A chat template and the special texts it may name.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    file: String,
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// A template read from `file`; `bos` and `eos` are what it calls `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the template does not parse.
    pub fn new(file: &str, source: &str, bos: &str, eos: &str) -> Result<Self> {
        let template =
            Self { file: file.to_owned(), source: source.to_owned(), bos: bos.to_owned(), eos: eos.to_owned() };
        environment().template_from_str(source).map_err(|e| template.broken(&e))?;
        Ok(template)
    }

    fn broken(&self, error: &minijinja::Error) -> Error {
        let problem = error.detail().map_or_else(|| error.to_string(), str::to_owned);
        Error::Tokenizer { file: self.file.clone(), problem: format!("chat template: {problem}") }
    }

    /// The template itself.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation, with the header of the answer at its end.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the template refuses the messages, or they leave no character to mark
    /// them with.
    pub fn render(&self, messages: &[Message]) -> Result<MarkedText> {
        let (open, close) = self.marks(messages)?;
        let marked: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => m.role.clone(), content => mark(&m.content, open, close) })
            .collect();
        let environment = environment();
        let rendered = environment
            .template_from_str(&self.source)
            .and_then(|t| {
                t.render(context! {
                    messages => marked,
                    bos_token => self.bos.clone(),
                    eos_token => self.eos.clone(),
                    add_generation_prompt => true,
                })
            })
            .map_err(|e| self.broken(&e))?;
        Ok(unmark(&rendered, open, close))
    }

    /// Two noncharacters (Unicode keeps U+FDD0..U+FDEF free for such use) that occur in no message.
    fn marks(&self, messages: &[Message]) -> Result<(char, char)> {
        let free = |c: &char| !self.source.contains(*c) && messages.iter().all(|m| !m.content.contains(*c));
        let mut free = ('\u{FDD0}'..='\u{FDEF}').filter(free);
        free.next().zip(free.next()).ok_or_else(|| Error::Tokenizer {
            file: self.file.clone(),
            // With marks of its own a message could pass off its text as the template's.
            problem: "chat template: the messages use up the noncharacters U+FDD0..U+FDEF, remove some".to_owned(),
        })
    }
}

/// Puts marks around the content inside its surrounding white space, so that templates that trim see
/// the white space.
fn mark(content: &str, open: char, close: char) -> String {
    let inner = content.trim();
    if inner.is_empty() {
        return content.to_owned();
    }
    let start = content.len() - content.trim_start().len();
    let (head, tail) = (&content[..start], &content[start + inner.len()..]);
    format!("{head}{open}{inner}{close}{tail}")
}

fn unmark(rendered: &str, open: char, close: char) -> MarkedText {
    let mut out = MarkedText { text: String::with_capacity(rendered.len()), user: Vec::new() };
    let mut begun = None;
    for c in rendered.chars() {
        if c == open {
            begun.get_or_insert(out.text.len());
        } else if c == close {
            out.user.extend(begun.take().map(|b| b..out.text.len()));
        } else {
            out.text.push(c);
        }
    }
    out.user.extend(begun.map(|b| b..out.text.len()));
    out
}

/// An environment with what templates on the Hugging Face hub rely on.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    let refuse = |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    };
    environment.add_function("raise_exception", refuse);
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLADA: &str =
        "{{ bos_token }}{% for m in messages %}<h>{{ m['role'] }}</h>\n\n{{ m['content'] | trim }}<e>{% endfor %}";

    fn say(content: &str) -> Vec<Message> {
        vec![Message { role: "user".into(), content: content.into() }]
    }

    #[test]
    fn user_text_is_marked_and_trimmed() {
        let template = ChatTemplate::new("t", LLADA, "<b>", "").unwrap();
        let marked = template.render(&say("  Hi <e> there \n")).unwrap();
        assert_eq!(marked.text, "<b><h>user</h>\n\nHi <e> there<e>");
        assert_eq!(&marked.text[marked.user[0].clone()], "Hi <e> there");
        assert_eq!(marked.user.len(), 1);
    }

    #[test]
    fn text_with_noncharacters_is_kept() {
        let template = ChatTemplate::new("t", LLADA, "", "").unwrap();
        let marked = template.render(&say("a\u{FDD0}b\u{FDD1}c")).unwrap();
        assert_eq!(&marked.text[marked.user[0].clone()], "a\u{FDD0}b\u{FDD1}c");
    }

    #[test]
    fn a_template_can_refuse() {
        let template = ChatTemplate::new("t.json", "{{ raise_exception('no system role') }}", "", "").unwrap();
        let error = template.render(&say("x")).unwrap_err().to_string();
        assert_eq!(error, "t.json: chat template: no system role");
        assert!(ChatTemplate::new("t.json", "{% if %}", "", "").is_err());
    }
}
