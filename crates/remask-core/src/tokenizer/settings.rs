//! What stands beside a vocabulary: tokenizer_config.json, special_tokens_map.json, added_tokens.json.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::added::AddedToken;
use super::frame::Frame;
use super::json::Added;
use super::model::Model;

/// Keys that name one special token.
const NAMED: &[&str] = &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Keys that name several.
const LISTS: &[&str] = &["additional_special_tokens", "extra_special_tokens"];

/// What they say.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// `tokenizer_class`, without `Fast`.
    pub(super) class: Option<String>,
    pub(super) legacy: Option<bool>,
    pub(super) add_prefix_space: Option<bool>,
    /// The expression or name of an encoding that splits text for a tiktoken file.
    pub(super) pattern: Option<String>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    cleans_up: bool,
    /// Texts by key.
    named: BTreeMap<&'static str, String>,
    listed: Vec<String>,
    added: Vec<AddedToken>,
}

/// A token's text: itself, or the content of an object.
fn text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str)).filter(|text| !text.is_empty())
}

impl Settings {
    /// Reads the files that are there.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    pub(super) fn read(
        config: Option<&str>,
        special_tokens_map: Option<&[u8]>,
        added_tokens: Option<&[u8]>,
    ) -> Result<Self, (&'static str, String)> {
        let json = |file: &'static str, bytes: Option<&[u8]>| -> Result<Value, (&'static str, String)> {
            let Some(bytes) = bytes else { return Ok(Value::Null) };
            let value = crate::json::value(bytes).map_err(|e| (file, e))?;
            if value.is_object() { Ok(value) } else { Err((file, "is no JSON object".to_owned())) }
        };
        let config = json("tokenizer_config.json", config.map(str::as_bytes))?;
        let map = json("special_tokens_map.json", special_tokens_map)?;
        let added_tokens = json("added_tokens.json", added_tokens)?;
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let string = |key: &str| config.get(key).and_then(Value::as_str).map(str::to_owned);
        let mut settings = Self {
            class: string("tokenizer_class").map(|class| class.trim_end_matches("Fast").to_owned()),
            legacy: flag("legacy"),
            add_prefix_space: flag("add_prefix_space"),
            pattern: ["pat_str", "pattern", "encoding"].iter().find_map(|key| string(key)),
            add_bos: flag("add_bos_token"),
            add_eos: flag("add_eos_token"),
            cleans_up: flag("clean_up_tokenization_spaces").unwrap_or(false),
            ..Self::default()
        };
        for key in NAMED {
            // What the config says goes first, also where it says that there is none.
            let value = config.get(*key).or_else(|| map.get(*key));
            settings.named.extend(value.and_then(text).map(|text| (*key, text.to_owned())));
        }
        for list in LISTS.iter().flat_map(|key| [config.get(*key), map.get(*key)]).flatten() {
            let one = |value: &Value| text(value).map(str::to_owned);
            let several = list.as_array().map(|l| l.iter().filter_map(one).collect::<Vec<_>>());
            let by_name = list.as_object().map(|l| l.values().filter_map(one).collect());
            settings.listed.extend(several.or(by_name).unwrap_or_default());
        }
        settings.added = added(&config, &added_tokens)?;
        Ok(settings)
    }

    /// Whether a text is special by what the files say.
    pub(super) fn is_special(&self, text: &str) -> bool {
        self.special().any(|t| t == text) || self.added.iter().any(|t| t.special && t.text == text)
    }

    fn special(&self) -> impl Iterator<Item = &str> {
        self.named.values().chain(&self.listed).map(String::as_str)
    }

    /// Whether `clean_up_tokenization_spaces` is on.
    pub(super) fn cleans_up(&self) -> bool {
        self.cleans_up
    }

    /// Added tokens of a vocabulary with those that the files name, and what the files say of them.
    pub(super) fn added(&self, mut tokens: Vec<AddedToken>, model: &Model) -> Vec<AddedToken> {
        let mut places: HashMap<String, usize> =
            tokens.iter().enumerate().map(|(at, t)| (t.text.clone(), at)).collect();
        let mut ids: HashSet<u32> = tokens.iter().map(|t| t.id).collect();
        for token in &self.added {
            if let Some(known) = places.get(&token.text).and_then(|at| tokens.get_mut(*at)) {
                *known = AddedToken { id: known.id, special: known.special || token.special, ..token.clone() };
            } else {
                // A text that the model has keeps its id there.
                let id = model.id(&token.text).unwrap_or(token.id);
                if ids.insert(id) {
                    places.insert(token.text.clone(), tokens.len());
                    tokens.push(AddedToken { id, ..token.clone() });
                }
            }
        }
        for text in self.special() {
            if let Some(known) = places.get(text).and_then(|at| tokens.get_mut(*at)) {
                known.special = true;
            } else if let Some(id) = model.id(text).filter(|id| ids.insert(*id)) {
                places.insert(text.to_owned(), tokens.len());
                tokens.push(AddedToken::new(id, text, true));
            }
        }
        tokens
    }

    /// What stands around a text: what the files say goes before what the vocabulary says. `id` finds a token.
    pub(super) fn frame(&self, own: Option<Frame>, id: impl Fn(&str) -> Option<u32>) -> Option<Frame> {
        if self.add_bos.is_none() && self.add_eos.is_none() {
            return own;
        }
        let starts = matches!(self.class.as_deref(), Some("LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer"));
        let known = own.unwrap_or_default();
        let of = |wanted: bool, key: &str, known: Vec<u32>| match self.named.get(key).and_then(|text| id(text)) {
            _ if !wanted => Vec::new(),
            Some(id) => vec![id],
            None => known,
        };
        Some(Frame {
            before: of(self.add_bos.unwrap_or(starts), "bos_token", known.before),
            after: of(self.add_eos.unwrap_or(false), "eos_token", known.after),
        })
    }
}

/// `added_tokens_decoder` of the config, and added_tokens.json where that does not name a token.
fn added(config: &Value, added_tokens: &Value) -> Result<Vec<AddedToken>, (&'static str, String)> {
    let mut tokens = Vec::new();
    for (id, token) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let broken = |e: String| ("tokenizer_config.json", format!("added_tokens_decoder: {id}: {e}"));
        let mut token: Added = serde_json::from_value(token.clone()).map_err(|e| broken(e.to_string()))?;
        token.id = id.parse().map_err(|_| broken("is no id".to_owned()))?;
        tokens.push(token.token());
    }
    let named: HashSet<String> = tokens.iter().map(|t: &AddedToken| t.text.clone()).collect();
    for (text, id) in added_tokens.as_object().into_iter().flatten() {
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = number.ok_or_else(|| ("added_tokens.json", format!("{text}: {id} is no id")))?;
        if !named.contains(text) {
            tokens.push(AddedToken::new(id, text, false));
        }
    }
    tokens.sort_by_key(|t| t.id);
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_config_says_goes_first() {
        let config = r#"{"bos_token": null, "eos_token": {"content": "</s>"}, "add_eos_token": true,
            "tokenizer_class": "LlamaTokenizerFast", "extra_special_tokens": {"image": "<image>"},
            "added_tokens_decoder": {"7": {"content": "<t>", "special": false, "lstrip": true}}}"#;
        let map = br#"{"bos_token": "<s>", "pad_token": "<pad>", "additional_special_tokens": ["<x>"]}"#;
        let settings = Settings::read(Some(config), Some(map), Some(br#"{"<t>": 9, "<u>": 8}"#)).unwrap();
        assert!(["</s>", "<pad>", "<x>", "<image>"].iter().all(|t| settings.is_special(t)));
        assert!(!settings.is_special("<s>") && !settings.is_special("<t>"));
        assert_eq!(settings.added.iter().map(|t| (t.id, t.strip_left)).collect::<Vec<_>>(), [(7, true), (8, false)]);
        // A Llama tokenizer starts texts unless it is told not to, but this one has nothing to start them with.
        let frame = settings.frame(None, |text| (text == "</s>").then_some(2)).unwrap();
        assert_eq!(frame, Frame { before: vec![], after: vec![2] });
    }

    #[test]
    fn broken_files_are_named() {
        for (config, map, added, file) in [
            (Some("{"), None, None, "tokenizer_config.json"),
            (Some(r#"{"added_tokens_decoder": {"x": {"content": "a"}}}"#), None, None, "tokenizer_config.json"),
            (Some(r#"{"added_tokens_decoder": {"1": 5}}"#), None, None, "tokenizer_config.json"),
            (None, Some(&b"[]"[..]), None, "special_tokens_map.json"),
            (None, None, Some(&br#"{"a": -1}"#[..]), "added_tokens.json"),
        ] {
            assert_eq!(Settings::read(config, map, added).unwrap_err().0, file);
        }
    }
}
