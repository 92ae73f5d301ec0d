//! Typed reading of a config.json: every failure names the file, the key and what was expected.

use serde_json::Value;

use crate::error::{Error, Result};

/// A value as JSON on one line, cut where it is long.
pub(super) fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The keys of one config.json.
pub struct Keys<'a> {
    file: &'a str,
    value: &'a Value,
}

impl<'a> Keys<'a> {
    /// Keys of the JSON object `value`, read from `file`.
    #[must_use]
    pub fn new(file: &'a str, value: &'a Value) -> Self {
        Self { file, value }
    }

    /// The file these keys stand in, for error messages.
    #[must_use]
    pub fn file(&self) -> &str {
        self.file
    }

    /// The name in `architectures[0]`; empty where there is none.
    #[must_use]
    pub fn architecture(&self) -> &'a str {
        self.value.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the config has the key at all, be it null.
    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        self.value.get(name).is_some()
    }

    /// The first of `names` that is present and not null. Families spell one setting in several ways.
    fn find(&self, names: &[&str]) -> Option<(&'a Value, String)> {
        names.iter().find_map(|n| match self.value.get(*n) {
            None | Some(Value::Null) => None,
            Some(v) => Some((v, (*n).to_owned())),
        })
    }

    /// The object at `name`; `None` where absent or null.
    pub fn object(&self, name: &str) -> Result<Option<Keys<'a>>> {
        let Some((v, key)) = self.find(&[name]) else { return Ok(None) };
        if !v.is_object() {
            return Err(self.mistyped(&key, "an object of settings", v));
        }
        Ok(Some(Self { file: self.file, value: v }))
    }

    /// A list of numbers, `None` where absent or null.
    pub fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        let Some((v, key)) = self.find(&[name]) else { return Ok(None) };
        let list = v.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        list.map(Some).ok_or_else(|| self.mistyped(&key, "a list of numbers", v))
    }

    /// A list of texts, `None` where absent or null.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        let Some((v, key)) = self.find(&[name]) else { return Ok(None) };
        let list = v.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        list.map(Some).ok_or_else(|| self.mistyped(&key, "a list of texts", v))
    }

    fn required(&self, names: &[&str], kind: &str) -> Result<(&'a Value, String)> {
        self.find(names).ok_or_else(|| Error::config(self.file, names[0], format!("missing; expected {kind}")))
    }

    fn mistyped(&self, key: &str, kind: &str, found: &Value) -> Error {
        Error::config(self.file, key, format!("expected {kind}, found {}", excerpt(found)))
    }

    /// A whole number, `None` where absent or null.
    pub fn optional_size(&self, names: &[&str]) -> Result<Option<usize>> {
        let Some((v, key)) = self.find(names) else { return Ok(None) };
        let n = v.as_u64().and_then(|n| usize::try_from(n).ok());
        n.map(Some).ok_or_else(|| self.mistyped(&key, "a whole number", v))
    }

    /// A whole number that must be there.
    pub fn size(&self, names: &[&str]) -> Result<usize> {
        self.required(names, "a whole number")?;
        self.optional_size(names)?.ok_or_else(|| Error::config(self.file, names[0], "missing"))
    }

    /// A real number, `None` where absent or null.
    pub fn optional_number(&self, names: &[&str]) -> Result<Option<f64>> {
        let Some((v, key)) = self.find(names) else { return Ok(None) };
        v.as_f64().map(Some).ok_or_else(|| self.mistyped(&key, "a number", v))
    }

    /// A real number that must be there.
    pub fn number(&self, names: &[&str]) -> Result<f64> {
        let (v, key) = self.required(names, "a number")?;
        v.as_f64().ok_or_else(|| self.mistyped(&key, "a number", v))
    }

    /// true or false; `default` where absent or null.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        let Some((v, key)) = self.find(&[name]) else { return Ok(default) };
        v.as_bool().ok_or_else(|| self.mistyped(&key, "true or false", v))
    }

    /// true or false, `None` where absent or null.
    pub fn optional_flag(&self, names: &[&str]) -> Result<Option<bool>> {
        let Some((v, key)) = self.find(names) else { return Ok(None) };
        v.as_bool().map(Some).ok_or_else(|| self.mistyped(&key, "true or false", v))
    }

    /// true or false that must be there.
    pub fn required_flag(&self, names: &[&str]) -> Result<bool> {
        let (v, key) = self.required(names, "true or false")?;
        v.as_bool().ok_or_else(|| self.mistyped(&key, "true or false", v))
    }

    /// A text, `None` where absent or null.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let Some((v, key)) = self.find(&[name]) else { return Ok(None) };
        v.as_str().map(Some).ok_or_else(|| self.mistyped(&key, "a text", v))
    }

    /// Token ids: a number or a list of numbers; empty where absent or null.
    pub fn token_ids(&self, name: &str) -> Result<Vec<u32>> {
        let Some((v, key)) = self.find(&[name]) else { return Ok(Vec::new()) };
        let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = match v {
            Value::Array(list) => list.iter().map(one).collect::<Option<Vec<_>>>(),
            other => one(other).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.mistyped(&key, "a token id or a list of token ids", v))
    }

    /// Refuses a setting that is on but not implemented.
    pub fn refuse(&self, name: &str, why: &str) -> Result<()> {
        if self.flag(name, false)? {
            return Err(Error::Unsupported { what: format!("{}: {name} = true", self.file), why: why.to_owned() });
        }
        Ok(())
    }

    /// Refuses a text setting that is there and none of `accepted`.
    pub fn accept_text(&self, name: &str, accepted: &[&str]) -> Result<()> {
        match self.text(name)? {
            Some(found) if !accepted.contains(&found) => Err(Error::Unsupported {
                what: format!("{}: {name} = {}", self.file, excerpt(&Value::from(found))),
                why: format!("supported here: {}", accepted.join(", ")),
            }),
            _ => Ok(()),
        }
    }
}
