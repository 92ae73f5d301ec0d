//! A model as it lies on disk (or in the program): config, checkpoint, tokenizer and chat template,
//! checked against each other.

use std::borrow::Cow;
use std::collections::HashSet;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::architecture::Architecture;
use crate::chat::{ChatTemplate, Conversation, TemplateFiles};
use crate::checkpoint::gguf::Metadata;
use crate::checkpoint::{Bytes, Checkpoint, Matrix, WeightFormat};
use crate::decode::{Defaults, Vocabulary};
use crate::error::{Error, Result};
use crate::families::{Family, Keys, parse_config, parse_object};
use crate::json;
use crate::tensors::{TensorKind, TensorSpec};
use crate::tokenizer::{TextTokenizer, TokenizerFiles};

/// The files of a model, by content. Only config and checkpoint are required.
pub struct ModelFiles<'a> {
    /// Where the files come from, for error messages.
    pub origin: String,
    /// config.json.
    pub config: Cow<'a, str>,
    /// The weights.
    pub checkpoint: Checkpoint,
    /// The tokenizer.
    pub tokenizer: TokenizerFiles<'a>,
    /// tokenizer_config.json: special token texts and, often, the chat template.
    pub tokenizer_config: Option<Cow<'a, str>>,
    /// chat_template.jinja, which goes before the one in tokenizer_config.json.
    pub chat_template: Option<Cow<'a, str>>,
    /// Name and text of each file additional_chat_templates/NAME.jinja.
    pub chat_templates: Vec<(String, Cow<'a, str>)>,
    /// generation_config.json: what to sample by where nobody says otherwise, and further ids that end a text.
    pub generation_config: Option<Cow<'a, str>>,
}

/// A model that is ready for a backend.
pub struct Model {
    /// Where it comes from.
    pub origin: String,
    /// Its config.json, for models that have none made from what they have.
    pub config: String,
    /// Its shapes and kinds.
    pub architecture: Arc<Architecture>,
    /// Its weights.
    pub checkpoint: Checkpoint,
    /// Its tensors.
    pub tensors: Vec<TensorSpec>,
    /// Its tokenizer, if it has one.
    pub tokenizer: Option<TextTokenizer>,
    /// Its ids that decoding treats specially.
    pub vocabulary: Arc<Vocabulary>,
    /// What its own files ask for where a user asks for nothing.
    pub defaults: Defaults,
    chat: Option<ChatTemplate>,
    /// Why there is no tokenizer, where the model has one that cannot be used.
    no_tokenizer: Option<String>,
}

impl Model {
    /// Opens a model folder (one of Hugging Face's cache as well), a file of weights with its config.json beside it,
    /// or a GGUF file.
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file; otherwise as [`Model::from_files`] or [`Model::from_gguf`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, None)
    }

    /// As [`Model::open`], with the tokenizer in this file or folder in place of the model's own.
    ///
    /// # Errors
    /// As [`Model::open`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_with(path: &Path, tokenizer: Option<&Path>) -> Result<Self> {
        if !path.exists() {
            let missing = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file or folder");
            return Err(Error::io("open the model", path)(missing));
        }
        let own = tokenizer.map(TokenizerFiles::of_path).transpose()?;
        let path = &*crate::hub::files_of(path)?;
        if path.is_file() {
            let bytes = Bytes::map(path)?;
            let named = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
            if named || crate::checkpoint::gguf::is_gguf(&bytes) {
                let (checkpoint, metadata) = Checkpoint::open_gguf(path)?;
                return Self::of_gguf(&path.display().to_string(), checkpoint, &metadata, own.as_ref());
            }
        }
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        // A file named without its folder lies in the current one.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let optional = |name: &str| -> Result<Option<Vec<u8>>> {
            let file = folder.join(name);
            if !file.exists() {
                return Ok(None);
            }
            std::fs::read(&file).map(Some).map_err(Error::io("read", file))
        };
        let text = |name: &str| -> Result<Option<Cow<'static, str>>> {
            let file = folder.join(name).display().to_string();
            let decoded = |b| crate::text::decoded(b).map_err(|problem| Error::config(&file, "(file)", problem));
            Ok(optional(name)?.map(decoded).transpose()?.map(Cow::Owned))
        };
        let config = text("config.json")?.ok_or_else(|| {
            let mut missing = "no such file; a model folder needs one".to_owned();
            let names = folder.read_dir().into_iter().flatten().flatten().map(|e| e.file_name());
            if let Some(gguf) = names.filter(|n| n.to_string_lossy().ends_with(".gguf")).min() {
                missing = format!("no such file; if {} is the model, name that file", gguf.to_string_lossy());
            }
            let missing = std::io::Error::new(std::io::ErrorKind::NotFound, missing);
            Error::io("read", folder.join("config.json"))(missing)
        })?;
        Self::from_files(ModelFiles {
            origin: folder.display().to_string(),
            config,
            checkpoint: Checkpoint::open(path)?,
            tokenizer: own.map_or_else(|| TokenizerFiles::of_folder(folder), Ok)?,
            tokenizer_config: text("tokenizer_config.json")?,
            chat_template: text("chat_template.jinja")?,
            chat_templates: additional_templates(folder)?,
            generation_config: text("generation_config.json")?,
        })
    }

    /// A model from files that are built into the program.
    ///
    /// # Errors
    /// As [`Model::from_files`].
    pub fn embedded(
        origin: &str,
        config: &'static str,
        tokenizer: &'static [u8],
        weights: &'static [u8],
    ) -> Result<Self> {
        Self::from_files(ModelFiles {
            origin: origin.to_owned(),
            config: Cow::Borrowed(config),
            checkpoint: Checkpoint::from_bytes(&format!("{origin}/model.safetensors"), Bytes::Static(weights))?,
            tokenizer: TokenizerFiles::new().with("tokenizer.json", tokenizer),
            tokenizer_config: None,
            chat_template: None,
            chat_templates: Vec::new(),
            generation_config: None,
        })
    }

    /// Checks the files against each other: every tensor the config asks for is there with its shape
    /// and a usable type, and tokenizer and config agree on ids.
    ///
    /// # Errors
    /// The first disagreement, naming the file and the key or tensor.
    pub fn from_files(files: ModelFiles) -> Result<Self> {
        let named = |name: &str| format!("{}/{name}", files.origin);
        let (family, mut architecture) = parse_config(&named("config.json"), &files.config)?;
        let defaults = match &files.generation_config {
            Some(text) => {
                let file = named("generation_config.json");
                let value = parse_object(&file, text)?;
                let keys = Keys::new(&file, &value);
                // Whoever trained a model to end turns says so here, and config.json names the end of a text alone.
                let rows = architecture.embedding_rows;
                let ends = keys.token_ids("eos_token_id")?.into_iter().filter(|id| (*id as usize) < rows);
                architecture.tokens.eos.extend(ends);
                let mut seen = HashSet::new();
                architecture.tokens.eos.retain(|id| seen.insert(*id));
                Defaults::parse(&keys)?
            }
            None => Defaults::default(),
        };
        let tensors = (family.tensors)(&architecture, &|name| files.checkpoint.get(name).is_some());
        check_tensors(&tensors, &files.checkpoint)?;
        let tokenizer = files.tokenizer.read(&files.origin, files.tokenizer_config.as_deref())?;
        let chat = match &tokenizer {
            Some(tokenizer) => chat_template(&files, family, &architecture, tokenizer)?,
            None => None,
        };
        Ok(Self {
            chat,
            defaults,
            ..Self::assemble(
                files.origin,
                files.config.into_owned(),
                architecture,
                files.checkpoint,
                tensors,
                tokenizer,
            )?
        })
    }

    /// A model from one GGUF file called `origin`, with `tokenizer` in place of the file's own where
    /// given. A tokenizer that cannot be used is an error only when it is asked for.
    ///
    /// # Errors
    /// The first thing that is broken, missing or not supported, naming the file and the key or tensor.
    pub fn from_gguf(origin: &str, bytes: Bytes, tokenizer: Option<&TokenizerFiles<'_>>) -> Result<Self> {
        let (checkpoint, metadata) = Checkpoint::from_gguf(origin, bytes)?;
        Self::of_gguf(origin, checkpoint, &metadata, tokenizer)
    }

    fn of_gguf(
        origin: &str,
        checkpoint: Checkpoint,
        metadata: &Metadata,
        tokenizer: Option<&TokenizerFiles<'_>>,
    ) -> Result<Self> {
        let config = crate::gguf::config(metadata, &checkpoint)?;
        let config = format!("{config:#}");
        let (family, architecture) = parse_config(origin, &config)?;
        let tensors = crate::gguf::tensors(metadata, &architecture, &checkpoint)?;
        check_tensors(&tensors, &checkpoint)?;
        let (tokenizer, no_tokenizer) = match tokenizer {
            Some(files) => (files.read("", None)?, None),
            None => match TextTokenizer::from_gguf(metadata) {
                Ok(tokenizer) => (tokenizer, None),
                Err(Error::Tokenizer { problem, .. }) => (None, Some(problem)),
                Err(other) => return Err(other),
            },
        };
        let chat = match &tokenizer {
            Some(tokenizer) => {
                let token = |name: &str| special_token(name, &architecture, tokenizer);
                crate::gguf::chat_template(origin, metadata, family, token)?
            }
            None => None,
        };
        let model = Self::assemble(origin.to_owned(), config, architecture, checkpoint, tensors, tokenizer)?;
        Ok(Self { chat, no_tokenizer, ..model })
    }

    fn assemble(
        origin: String,
        config: String,
        architecture: Architecture,
        checkpoint: Checkpoint,
        tensors: Vec<TensorSpec>,
        tokenizer: Option<TextTokenizer>,
    ) -> Result<Self> {
        let vocabulary = match &tokenizer {
            Some(tokenizer) => tokenizer.vocabulary(&architecture)?,
            None => Vocabulary::of(&architecture),
        };
        Ok(Self {
            origin,
            config,
            architecture: architecture.into(),
            checkpoint,
            tensors,
            tokenizer,
            vocabulary: vocabulary.into(),
            defaults: Defaults::default(),
            chat: None,
            no_tokenizer: None,
        })
    }

    /// What becomes of weights that are requantised or expanded on their way to a device, as
    /// [`requantization`](crate::gguf::requantization) says it.
    ///
    /// # Errors
    /// [`Error::Tensor`] where `format` cannot hold them.
    pub fn requantization(&self, format: Option<WeightFormat>) -> Result<Option<String>> {
        crate::gguf::requantization(&self.tensors, &self.checkpoint, format)
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the model has none.
    pub fn text(&self) -> Result<&TextTokenizer> {
        let none = "no tokenizer.json came with it; name one (--tokenizer), or give token ids";
        self.tokenizer.as_ref().ok_or_else(|| Error::Tokenizer {
            file: self.origin.clone(),
            problem: self.no_tokenizer.clone().unwrap_or_else(|| none.to_owned()),
        })
    }

    /// The chat template, where there is one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }

    /// Ids of a conversation in the model's chat form, ready for the answer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where there is no tokenizer or chat template, or the template refuses.
    pub fn encode_chat(&self, conversation: &Conversation) -> Result<Vec<u32>> {
        let tokenizer = self.text()?;
        let chat = self.chat.as_ref().ok_or_else(|| Error::Tokenizer {
            file: self.origin.clone(),
            problem: "no chat template; give the prompt as raw text".to_owned(),
        })?;
        tokenizer.encode(&chat.render(conversation)?)
    }

    /// Ids of plain text to be continued, with what the reference puts around it. Where the tokenizer's files do
    /// not say what that is, it is the config's start id, if that is not the end id too.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where there is no tokenizer.
    pub fn encode_raw(&self, text: &str) -> Result<Vec<u32>> {
        let ids = &self.architecture.tokens;
        self.text()?.encode_raw(text, ids.bos.filter(|bos| !ids.eos.contains(bos)))
    }

    /// The first tensor that holds a NaN or an infinity, for a clear word when logits do; one that cannot be read
    /// is passed over.
    #[must_use]
    pub fn non_finite_tensor(&self) -> Option<String> {
        self.checkpoint.tensors().find(|t| t.has_non_finite().unwrap_or(false)).map(|t| t.name.to_owned())
    }
}

/// Name and text of each template in additional_chat_templates.
#[cfg(not(target_arch = "wasm32"))]
fn additional_templates(folder: &Path) -> Result<Vec<(String, Cow<'static, str>)>> {
    let folder = folder.join("additional_chat_templates");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut templates = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
        let file = entry.map_err(Error::io("read", &folder))?.path();
        let name = file.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
        if let Some(name) = name.filter(|_| file.extension().is_some_and(|extension| extension == "jinja")) {
            let bytes = std::fs::read(&file).map_err(Error::io("read", &file))?;
            let broken = |problem| Error::config(&file.display().to_string(), "(file)", problem);
            templates.push((name, crate::text::decoded(bytes).map_err(broken)?.into()));
        }
    }
    templates.sort();
    Ok(templates)
}

fn chat_template(
    files: &ModelFiles,
    family: &Family,
    architecture: &Architecture,
    tokenizer: &TextTokenizer,
) -> Result<Option<ChatTemplate>> {
    let settings_file = format!("{}/tokenizer_config.json", files.origin);
    let settings: Option<Value> = match &files.tokenizer_config {
        Some(text) => {
            let broken = |problem| Error::Tokenizer { file: settings_file.clone(), problem };
            Some(json::value(text.as_bytes()).map_err(broken)?)
        }
        None => None,
    };
    let sources = TemplateFiles {
        origin: &files.origin,
        template: files.chat_template.as_deref(),
        additional: files.chat_templates.iter().map(|(name, text)| (name.as_str(), text.as_ref())).collect(),
        settings: settings.as_ref(),
        fallback: family.chat_template,
    };
    ChatTemplate::from_files(&sources, |name| special_token(name, architecture, tokenizer))
}

/// The text of what templates call `bos_token` or `eos_token`.
fn special_token(name: &str, architecture: &Architecture, tokenizer: &TextTokenizer) -> Option<String> {
    let ids = &architecture.tokens;
    let id = if name == "bos_token" { ids.bos } else { ids.eos.first().copied() };
    tokenizer.token(id?)
}

fn check_tensors(tensors: &[TensorSpec], checkpoint: &Checkpoint) -> Result<()> {
    tensors.iter().try_for_each(|spec| match spec.kind {
        TensorKind::Matrix => Matrix::of(checkpoint, spec).map(|_| ()),
        TensorKind::Vector => checkpoint.check_vector(&spec.name, spec.cols).map(|_| ()),
    })
}
