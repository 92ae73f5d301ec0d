//! Which files a tokenizer is in.

use std::borrow::Cow;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

use super::settings::Settings;
use super::{Parts, TextTokenizer, broken, json, merges, sentencepiece, tiktoken};
use crate::error::{Error, Result};
use crate::foreign;

/// Files that hold a vocabulary, the best first; the second is what goes with it.
const VOCABULARIES: &[(&str, Option<&str>)] = &[
    ("tokenizer.json", None),
    ("tekken.json", None),
    ("tokenizer.model", None),
    ("vocab.json", Some("merges.txt")),
    ("encoder.json", Some("vocab.bpe")),
];
/// Files that say more about one.
const COMPANIONS: &[&str] = &["special_tokens_map.json", "added_tokens.json"];

/// The files of a tokenizer, by name. tokenizer_config.json is not among them: it belongs to the model, since it
/// has the chat template too.
#[derive(Debug, Clone, Default)]
pub struct TokenizerFiles<'a> {
    files: Vec<(String, Cow<'a, [u8]>)>,
}

impl<'a> TokenizerFiles<'a> {
    /// No files yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These and one more.
    #[must_use]
    pub fn with(mut self, name: &str, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        self.files.push((name.to_owned(), bytes.into()));
        self
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether a file of this name may be part of a tokenizer.
    #[must_use]
    pub fn takes(name: &str) -> bool {
        let known = VOCABULARIES.iter().any(|(a, b)| *a == name || *b == Some(name)) || COMPANIONS.contains(&name);
        known || is_versioned(name)
    }

    /// The files of a tokenizer that lie in a folder.
    ///
    /// # Errors
    /// [`Error::Io`] where one cannot be read.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn of_folder(folder: &Path) -> Result<TokenizerFiles<'static>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            names.extend(entry.file_name().into_string().ok().filter(|name| Self::takes(name)));
        }
        names.sort_unstable();
        // Only what will be used: a folder may hold a vocabulary in three forms of many megabytes each.
        let chosen = choose(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let (vocabulary, with) = chosen.map_or((None, None), |(name, with)| (Some(name), with));
        let wanted = |name: &str| Some(name) == vocabulary || Some(name) == with || COMPANIONS.contains(&name);
        let mut files = TokenizerFiles::new();
        for name in names.iter().filter(|name| wanted(name)) {
            let path = folder.join(name);
            files = files.with(name, std::fs::read(&path).map_err(Error::io("read", path))?);
        }
        Ok(files)
    }

    /// A vocabulary in a file of any of the known kinds, with what lies beside it, or a folder with one.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be read.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn of_path(path: &Path) -> Result<TokenizerFiles<'static>> {
        if path.is_dir() {
            return Self::of_folder(path);
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("tokenizer.json");
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let mut files = TokenizerFiles::new().with(name, bytes);
        let with = VOCABULARIES.iter().find(|(vocabulary, _)| *vocabulary == name).and_then(|(_, with)| *with);
        // A tokenizer.json is whole by itself.
        let companions = COMPANIONS.iter().filter(|_| name != "tokenizer.json");
        for beside in with.into_iter().chain(companions.copied()) {
            let path = path.with_file_name(beside);
            if path.is_file() {
                files = files.with(beside, std::fs::read(&path).map_err(Error::io("read", path))?);
            }
        }
        Ok(files)
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(n, _)| n == name).map(|(_, bytes)| &**bytes)
    }

    /// The tokenizer; `None` where there is no vocabulary among the files. `origin` is where they come from, for
    /// errors; `config` is the text of tokenizer_config.json.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where a file is broken or of a kind that is not known.
    pub fn read(&self, origin: &str, config: Option<&str>) -> Result<Option<TextTokenizer>> {
        let names: Vec<_> = self.files.iter().map(|(name, _)| name.as_str()).collect();
        // A file that was named is taken whatever it is called.
        let only = names.first().copied().filter(|name| names.len() == 1 && !COMPANIONS.contains(name));
        let Some((name, with)) = choose(&names).or(only.map(|name| (name, None))) else { return Ok(None) };
        let named = |name: &str| if origin.is_empty() { name.to_owned() } else { format!("{origin}/{name}") };
        let [map, added] = COMPANIONS else { return Ok(None) };
        let settings = Settings::read(config, self.get(map), self.get(added))
            .map_err(|(file, problem)| Error::Tokenizer { file: named(file), problem })?;
        let bytes = self.get(name).unwrap_or_default();
        let parts = parse(name, bytes, with.and_then(|with| self.get(with)), &settings);
        let tokenizer = parts.and_then(|parts| TextTokenizer::assemble(parts, &settings));
        tokenizer.map(|tokenizer| Some(tokenizer.named(&named(name)))).map_err(broken(&named(name)))
    }
}

/// By what a file holds, since names vary.
pub(super) fn parse(name: &str, bytes: &[u8], with: Option<&[u8]>, settings: &Settings) -> Result<Parts, String> {
    if let Some(what) = foreign::what_it_is(bytes.get(..foreign::HEAD as usize).unwrap_or(bytes)) {
        return Err(format!("is {what}"));
    }
    let is_json = bytes.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| *b == b'{');
    let has = |key: &str| bytes.windows(key.len()).take(1 << 16).any(|window| window == key.as_bytes());
    if let Some(merges) = with {
        return merges::read(bytes, merges, settings);
    }
    if is_json && (name.starts_with("tekken") || (has("\"default_num_special_tokens\"") && has("\"pattern\""))) {
        return tiktoken::read_tekken(bytes);
    }
    if is_json || name.ends_with(".json") {
        return json::read(bytes);
    }
    if tiktoken::is_tiktoken(bytes) {
        return tiktoken::read(name, bytes, settings);
    }
    sentencepiece::read(bytes, settings)
}

/// `qwen.tiktoken`, `tekken_240911.json`, `tokenizer.model.v3`.
fn is_versioned(name: &str) -> bool {
    name.ends_with(".tiktoken")
        || (name.starts_with("tekken") && name.ends_with(".json"))
        || (name.contains("tokenizer") && name.contains(".model"))
}

/// The file with the vocabulary, and the one that goes with it.
fn choose<'a>(names: &[&'a str]) -> Option<(&'a str, Option<&'a str>)> {
    let find = |name: &str| names.iter().copied().find(|n| *n == name);
    let whole = VOCABULARIES.iter().find_map(|(name, with)| {
        let with = match with {
            Some(with) => Some(find(with)?),
            None => None,
        };
        Some((find(name)?, with))
    });
    // Of several versions the last by name is the newest.
    whole.or_else(|| names.iter().copied().filter(|name| is_versioned(name)).max().map(|name| (name, None)))
}
