//! The edge from a conversation to text: chat templates (Jinja, as Hugging Face writes them), rendered so
//! that what a user gave stays known as such. Nothing in it can ever become a special token.
//!
//! Every text of a request is marked: contents, roles, names, tool calls, tools, documents, variables, their
//! keys as well. The one exception is a role that is one of the words every template is written for
//! (`ROLES`): choosing one of them is what roles are for, and templates that write `<|` + role + `|>` mean a
//! token by it.
//!
//! `jinja` says how marks pass through a template, and why that is sound.

mod jinja;
mod marked;
mod message;
mod sources;
mod template;

pub use jiff::civil::DateTime;
pub use marked::MarkedText;
pub use message::{Content, Conversation, Message};
pub use sources::TemplateFiles;
pub use template::ChatTemplate;
