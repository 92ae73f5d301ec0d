//! What is asked: prompts of a file, built-in ones, or ones of a given length.

use std::path::Path;
use std::sync::Arc;

use remask_core::Error;
use remask_core::random::{Key, threefry};
use serde_json::{Value, json};

use super::ask::Endpoint;
use super::client::Client;
use super::sets::Kind;
use crate::Failure;
use crate::report::tell;

/// What a prompt consists of.
#[derive(Debug, Clone)]
pub enum Content {
    /// A text: a user's message, or what a completion goes on from.
    Text(String),
    /// What the form takes otherwise: a list of messages, or the ids of a prompt.
    Given(Value),
}

/// One prompt.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// What it is counted with.
    pub kind: Arc<str>,
    /// Itself.
    pub content: Content,
    /// Tokens of its answer, where it says so itself.
    pub max_tokens: Option<usize>,
}

impl Prompt {
    /// A text.
    pub fn text(kind: Arc<str>, text: &str) -> Self {
        Self { kind, content: Content::Text(text.to_owned()), max_tokens: None }
    }
}

/// Bytes of a file of prompts.
const MOST_BYTES: u64 = 256 << 20;
/// Prompts of a given length that are made; they are asked in turn.
const MADE: usize = 32;
/// Tokens of such a prompt.
pub const MOST_TOKENS: usize = 1 << 20;

/// The prompts of some kinds, in turn.
pub fn built_in(kinds: &[Kind]) -> Vec<Prompt> {
    let longest = kinds.iter().map(|kind| kind.prompts().len()).max().unwrap_or(0);
    let kinds: Vec<_> = kinds.iter().map(|kind| (Arc::<str>::from(kind.name()), kind.prompts())).collect();
    let turn = |turn: usize| kinds.iter().filter_map(move |(name, texts)| Some((name.clone(), *texts.get(turn)?)));
    (0..longest).flat_map(turn).map(|(kind, text)| Prompt::text(kind, text)).collect()
}

/// The prompts of a file: a JSON object a line, or a text a line.
pub fn read(path: &Path, endpoint: Endpoint) -> Result<Vec<Prompt>, Failure> {
    let size = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
    if size > MOST_BYTES {
        let most = MOST_BYTES >> 20;
        return Err(Failure::Message(format!("{}: {size} bytes are more than {most} MiB", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    parse(&text, endpoint).map_err(|problem| Failure::Message(format!("{}: {problem}", path.display())))
}

/// The prompts of a file's text. Where its first line is an object, all lines are.
fn parse(text: &str, endpoint: Endpoint) -> Result<Vec<Prompt>, String> {
    let lines = || text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let objects = lines().next().is_some_and(|(_, line)| line.trim_start().starts_with('{'));
    let kind: Arc<str> = "file".into();
    let prompt = |(number, line): (usize, &str)| {
        if !objects {
            return Ok(Prompt::text(kind.clone(), line));
        }
        object(line, endpoint, &kind).map_err(|problem| format!("line {}: {problem}", number + 1))
    };
    let prompts = lines().map(prompt).collect::<Result<Vec<_>, _>>()?;
    if prompts.is_empty() { Err("there is no prompt in it".to_owned()) } else { Ok(prompts) }
}

fn object(line: &str, endpoint: Endpoint, kind: &Arc<str>) -> Result<Prompt, String> {
    let object: Value = serde_json::from_str(line).map_err(|e| format!("no JSON: {e}"))?;
    let get = |name: &str| object.get(name).filter(|value| !value.is_null());
    let content = match (get("prompt"), get("messages")) {
        (Some(Value::String(text)), None) => Content::Text(text.clone()),
        (None, Some(messages @ Value::Array(_))) if endpoint == Endpoint::Chat => Content::Given(messages.clone()),
        (None, Some(_)) if endpoint == Endpoint::Completions => {
            return Err("messages are for --endpoint chat; a completion needs prompt".to_owned());
        }
        (Some(_), Some(_)) => return Err("prompt and messages exclude each other".to_owned()),
        _ => return Err("a text prompt, or a list messages, is needed".to_owned()),
    };
    let kind = match get("kind") {
        None => kind.clone(),
        Some(Value::String(kind)) => kind.as_str().into(),
        Some(_) => return Err("kind must be a text".to_owned()),
    };
    let max_tokens = match get("max_tokens") {
        None => None,
        Some(value) => {
            Some(value.as_u64().filter(|n| *n > 0).ok_or("max_tokens must be a whole number above 0")? as usize)
        }
    };
    Ok(Prompt { kind, content, max_tokens })
}

/// Prompts of so many tokens, no two alike, `most` at most. A server with vLLM's `/tokenize` counts them itself; with others they are
/// taken to be as many as three quarters of the words, and usage says how many they were.
pub async fn of_length(
    client: &Client,
    model: &str,
    endpoint: Endpoint,
    tokens: usize,
    seed: u64,
    most: usize,
) -> Vec<Prompt> {
    let kind: Arc<str> = format!("{tokens} tokens").into();
    let mut prompts = Vec::new();
    for number in 0..most.clamp(1, MADE) {
        // A token is seldom more than a word of these.
        let text = words(seed, number, tokens + 8);
        let content = match counted(client, model, endpoint, &text, tokens).await {
            Some(content) => content,
            None => {
                if number == 0 {
                    let note = "the server has no /tokenize: prompts have about as many tokens as were asked for";
                    tell("note", note);
                }
                Content::Text(words(seed, number, tokens.div_ceil(4) * 3))
            }
        };
        prompts.push(Prompt { kind: kind.clone(), content, max_tokens: None });
    }
    prompts
}

/// The first so many tokens of a text: as ids where a form takes them, else as the text that they stand for.
async fn counted(client: &Client, model: &str, endpoint: Endpoint, text: &str, tokens: usize) -> Option<Content> {
    let asked = client.post("/tokenize", &json!({"model": model, "prompt": text})).await;
    let ids = asked.ok().filter(|reply| reply.is_ok())?.json();
    let ids = ids.get("tokens")?.as_array()?.get(..tokens)?.to_vec();
    if endpoint == Endpoint::Completions {
        return Some(Content::Given(Value::Array(ids)));
    }
    let said = client.post("/detokenize", &json!({"model": model, "tokens": ids})).await;
    let text = said.ok().filter(|reply| reply.is_ok())?.json();
    Some(Content::Text(text.get("prompt")?.as_str()?.to_owned()))
}

/// So many words, drawn from those of the built-in prompts.
fn words(seed: u64, number: usize, count: usize) -> String {
    let all: Vec<_> = Kind::CATEGORIES
        .iter()
        .chain(&[Kind::Stories])
        .flat_map(|kind| kind.prompts())
        .flat_map(|text| text.split_whitespace())
        .collect();
    let key = Key([seed as u32, (seed >> 32) as u32]);
    let word = |at: usize| {
        let [bits, _] = threefry(key, [number as u32, at as u32]);
        all.get(bits as usize % all.len().max(1)).copied().unwrap_or_default()
    };
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_texts_or_objects() {
        let texts = parse("one\n\n two {\n", Endpoint::Chat).unwrap();
        assert!(matches!(&texts[1].content, Content::Text(text) if text == " two {"));
        let lines = "{\"prompt\": \"a\", \"max_tokens\": 3, \"kind\": \"k\"}\n{\"messages\": [{\"role\": \"user\"}]}";
        let prompts = parse(lines, Endpoint::Chat).unwrap();
        assert_eq!((prompts[0].max_tokens, &*prompts[0].kind, &*prompts[1].kind), (Some(3), "k", "file"));
        for (text, problem) in [
            ("\n \n", "no prompt"),
            ("{\"prompt\": 3}", "line 1: a text prompt"),
            ("{\"prompt\": \"a\"}\nb", "line 2: no JSON"),
            ("{\"prompt\": \"a\", \"messages\": []}", "exclude"),
            ("{\"messages\": []}", "--endpoint chat"),
            ("{\"prompt\": \"a\", \"max_tokens\": -1}", "max_tokens"),
            ("{\"prompt\": \"a\", \"kind\": 1}", "kind"),
        ] {
            let said = parse(text, Endpoint::Completions).unwrap_err();
            assert!(said.contains(problem), "{text}: {said}");
        }
    }

    #[test]
    fn kinds_take_turns() {
        let prompts = built_in(&[Kind::Easy, Kind::Hard]);
        let kinds: Vec<_> = prompts.iter().take(4).map(|prompt| &*prompt.kind).collect();
        assert_eq!((kinds, prompts.len()), (vec!["easy", "hard", "easy", "hard"], 20));
    }

    #[test]
    fn made_prompts_differ_and_repeat() {
        assert_eq!(words(1, 0, 50).split(' ').count(), 50);
        assert_eq!(words(1, 0, 50), words(1, 0, 50));
        assert_ne!(words(1, 0, 50), words(1, 1, 50));
        assert_ne!(words(1, 0, 50), words(2, 0, 50));
    }
}
