//! The folder that a model is trained on: `.txt` files of documents, `.jsonl` files of questions with
//! answers.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use remask_core::chat::{ChatTemplate, Conversation, MarkedText};
use remask_core::{Error, Result, TextTokenizer, json, text};
use serde::Deserialize;

/// The line that separates the documents of a `.txt` file.
const SEPARATOR: &str = "<|endoftext|>";

/// One document or pair in this many is held out of training, to measure on.
const HELD_OUT: usize = 50;

/// A question and its answer, one a line of a `.jsonl` file. Other keys are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct Pair {
    /// What the user says.
    pub prompt: String,
    /// What the model is to answer.
    pub response: String,
}

/// The texts of a folder.
#[derive(Debug, Default)]
pub struct Corpus {
    /// Documents of every `.txt` file.
    pub documents: Vec<String>,
    /// Pairs of every `.jsonl` file.
    pub pairs: Vec<Pair>,
}

impl Corpus {
    /// Reads `folder` and the folders in it, files in the order of their names.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`] naming file and line that hold no pair; [`Error::Request`]
    /// where there is nothing to train on.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut corpus = Self::default();
        for file in files(folder)? {
            let kind = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
            if !matches!(kind, "txt" | "jsonl") {
                continue;
            }
            let text = text::read(&file)?;
            if kind == "txt" {
                let documents = text.split(SEPARATOR).map(str::trim).filter(|d| !d.is_empty());
                corpus.documents.extend(documents.map(str::to_owned));
                continue;
            }
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let pair = json::from_slice(line.as_bytes()).map_err(|e| {
                    let problem = format!("expected {{\"prompt\": text, \"response\": text}}: {e}");
                    Error::config(&file.display().to_string(), &format!("line {}", number + 1), problem)
                })?;
                corpus.pairs.push(pair);
            }
        }
        if corpus.documents.is_empty() && corpus.pairs.is_empty() {
            let problem = "holds no text: put .txt files there (documents apart by a line <|endoftext|>) or .jsonl \
                           files of {\"prompt\", \"response\"} lines";
            return Err(Error::Request(format!("{} {problem}", folder.display())));
        }
        Ok(corpus)
    }

    /// Every text of the corpus, to train a tokenizer on.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let pairs = self.pairs.iter().flat_map(|p| [p.prompt.as_str(), p.response.as_str()]);
        self.documents.iter().map(String::as_str).chain(pairs)
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read the folder", folder))? {
        let path = entry.map_err(Error::io("read the folder", folder))?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A corpus as token ids.
#[derive(Debug, Default)]
pub struct Tokens {
    /// Documents one after the other, each between the start and the end id.
    pub stream: Vec<u32>,
    /// Prompts in chat form, and what the model is to write after them, its end of turn included.
    pub pairs: Vec<(Vec<u32>, Vec<u32>)>,
    /// Pairs left out because they are longer than the context.
    pub too_long: usize,
}

/// What encoding must know.
pub struct Encoder<'a> {
    /// The tokenizer.
    pub tokenizer: &'a TextTokenizer,
    /// The model's chat form.
    pub chat: &'a ChatTemplate,
    /// Id that starts a text.
    pub bos: u32,
    /// Id that ends a text.
    pub eos: u32,
    /// Id that ends a turn.
    pub turn_end: u32,
    /// Positions of the model.
    pub context: usize,
}

impl Encoder<'_> {
    /// The corpus as ids: what is trained on, and what is held out.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where a text cannot be encoded.
    pub fn encode(&self, corpus: &Corpus) -> Result<[Tokens; 2]> {
        let mut split = [Tokens::default(), Tokens::default()];
        self.encode_to(corpus, |index| index % HELD_OUT == HELD_OUT - 1, &mut split)?;
        Ok(split)
    }

    /// The corpus as ids, none of it held out.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_whole(&self, corpus: &Corpus) -> Result<Tokens> {
        let mut split = [Tokens::default(), Tokens::default()];
        self.encode_to(corpus, |_| false, &mut split)?;
        let [all, _] = split;
        Ok(all)
    }

    /// Adds the corpus to the first of `split`, and to the second what `held_out` says of an index.
    fn encode_to(&self, corpus: &Corpus, held_out: impl Fn(usize) -> bool, split: &mut [Tokens; 2]) -> Result<()> {
        let plain = |text: &str| self.tokenizer.encode(&MarkedText::from_user(text));
        let documents: Vec<_> = corpus.documents.par_iter().map(|document| plain(document)).collect::<Result<_>>()?;
        for (index, document) in documents.into_iter().enumerate() {
            let to = &mut split[usize::from(held_out(index))];
            to.stream.push(self.bos);
            to.stream.extend(document);
            to.stream.push(self.eos);
        }
        let encode = |pair: &Pair| {
            let prompt = self.tokenizer.encode(&self.chat.render(&Conversation::ask(&pair.prompt))?)?;
            let mut answer = plain(pair.response.trim())?;
            answer.push(self.turn_end);
            Ok((prompt, answer))
        };
        let pairs: Vec<(Vec<u32>, Vec<u32>)> = corpus.pairs.par_iter().map(encode).collect::<Result<_>>()?;
        for (index, (prompt, answer)) in pairs.into_iter().enumerate() {
            let to = &mut split[usize::from(held_out(index))];
            if prompt.len() + answer.len() > self.context {
                to.too_long += 1;
            } else {
                to.pairs.push((prompt, answer));
            }
        }
        Ok(())
    }
}
