//! Models in one GGUF file, or in several that `gguf-split` made of one: `NAME-00001-of-00003.gguf` and so on, each
//! with some of the tensors, the first with the metadata.

use super::gguf::{self, GgufTensor, Metadata};
use super::{Bytes, Checkpoint, Entry, File};
use crate::error::{Error, Result};

/// Parts of a model at most: file names have five digits for them.
const MOST_PARTS: usize = 99_999;

impl Checkpoint {
    /// Reads a GGUF file that is a whole model: its tensors, under their own names, and its metadata.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::Config`] or [`Error::Tensor`] with what is broken or not supported.
    pub fn from_gguf(name: &str, bytes: Bytes) -> Result<(Self, Metadata)> {
        Self::from_gguf_parts(vec![(name.to_owned(), bytes)])
    }

    /// Reads the parts of a model, by name and in order.
    ///
    /// # Errors
    /// As [`Checkpoint::from_gguf`], and where they are not all parts of one model.
    pub fn from_gguf_parts(parts: Vec<(String, Bytes)>) -> Result<(Self, Metadata)> {
        Self::joined(parts.into_iter().map(|(name, bytes)| Part::read(name, bytes)).collect::<Result<_>>()?)
    }

    fn joined(parts: Vec<Part>) -> Result<(Self, Metadata)> {
        let mut checkpoint = Self::empty();
        let (count, mut first) = (parts.len(), None);
        for (number, Part { name, bytes, metadata, tensors }) in parts.into_iter().enumerate() {
            check_part(&metadata, number, count)?;
            for GgufTensor { name: tensor, dtype, blocks, shape, bytes } in tensors {
                let entry = Entry { file: number, dtype, shape, bytes, strides: None, blocks };
                if checkpoint.tensors.insert(tensor.clone(), entry).is_some() {
                    return Err(Error::tensor(&name, &tensor, "is there twice"));
                }
            }
            first.get_or_insert(metadata);
            checkpoint.files.push(File { name, bytes });
        }
        let none = || Error::Checkpoint { file: "(no file)".to_owned(), problem: "no part was given".to_owned() };
        let metadata = first.ok_or_else(none)?;
        let found = checkpoint.tensors.len();
        if let Some(wanted) = metadata.size(TENSORS)?.filter(|wanted| count > 1 && *wanted != found) {
            return Err(Error::config(
                &metadata.file,
                TENSORS,
                format!("{wanted}, but the {count} parts have {found}"),
            ));
        }
        Ok((checkpoint, metadata))
    }

    /// Opens a GGUF file on disk, with the other parts beside it where it is one of several.
    ///
    /// # Errors
    /// [`Error::Io`] for a part that is missing; as [`Checkpoint::from_gguf_parts`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_gguf(path: &std::path::Path) -> Result<(Self, Metadata)> {
        let name = path.display().to_string();
        let this = Part::read(name.clone(), Bytes::map(path)?)?;
        let count = this.metadata.size(COUNT)?.unwrap_or(1);
        if count <= 1 {
            return Self::joined(vec![this]);
        }
        if count > MOST_PARTS {
            return Err(Error::config(&name, COUNT, format!("{count} parts; no more than {MOST_PARTS} are read")));
        }
        let file = path.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default();
        let prefix = prefix_of(&file, count).ok_or_else(|| Error::Checkpoint {
            file: name.clone(),
            problem: format!(
                "one of {count} parts of a model, which must be called NAME-00001-of-{count:05}.gguf and so on"
            ),
        })?;
        let part = |number: usize| {
            let part = path.with_file_name(format!("{prefix}-{number:05}-of-{count:05}.gguf"));
            Ok((part.display().to_string(), Bytes::map(&part)?))
        };
        Self::from_gguf_parts((1..=count).map(part).collect::<Result<_>>()?)
    }
}

/// A file, and what its head says.
struct Part {
    name: String,
    bytes: Bytes,
    metadata: Metadata,
    tensors: Vec<GgufTensor>,
}

impl Part {
    fn read(name: String, bytes: Bytes) -> Result<Self> {
        let (metadata, tensors) = gguf::read(&name, &bytes)?;
        Ok(Self { name, bytes, metadata, tensors })
    }
}

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// Checks that a file is part `number` (from 0 on) of `count`.
fn check_part(metadata: &Metadata, number: usize, count: usize) -> Result<()> {
    let claimed = metadata.size(COUNT)?.unwrap_or(1).max(1);
    if claimed != count {
        let problem = if count == 1 {
            format!(
                "one of {claimed} parts of a model; open it by its path with the others beside it, or join them with llama-gguf-split --merge"
            )
        } else {
            format!("a part of {claimed}, but there are {count} parts")
        };
        return Err(Error::config(&metadata.file, COUNT, problem));
    }
    let claimed = metadata.size(NUMBER)?.unwrap_or(0);
    if count > 1 && claimed != number {
        let problem = format!("part {claimed} (counted from 0) in the place of part {number}");
        return Err(Error::config(&metadata.file, NUMBER, problem));
    }
    Ok(())
}

/// What stands before `-00001-of-00003.gguf`.
#[cfg(not(target_arch = "wasm32"))]
fn prefix_of(file: &str, count: usize) -> Option<&str> {
    let rest = file.strip_suffix(&format!("-of-{count:05}.gguf"))?;
    let (prefix, number) = rest.rsplit_once('-')?;
    (number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit())).then_some(prefix)
}
