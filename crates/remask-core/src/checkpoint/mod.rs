//! Checkpoints as named tensors: one safetensors file, or shards with an index, memory-mapped.

mod matrix;
mod storage;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use safetensors::tensor::{Metadata, SafeTensorError, SafeTensors};

use crate::error::{Error, Result};

pub use matrix::{Encoded, Matrix, WeightFormat};
pub use safetensors::Dtype as DType;
pub use storage::Bytes;

/// Name of the index of a sharded checkpoint.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Name of a single-file checkpoint.
pub const SINGLE_FILE: &str = "model.safetensors";

/// Where one tensor lies.
#[derive(Debug, Clone)]
struct Entry {
    file: usize,
    dtype: DType,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

struct File {
    name: String,
    bytes: Bytes,
}

/// Every tensor of a model by full name, over one or several files.
pub struct Checkpoint {
    files: Vec<File>,
    tensors: BTreeMap<String, Entry>,
    metadata: HashMap<String, String>,
}

/// One tensor's type, shape and bytes (row-major, little-endian, possibly unaligned).
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Full name.
    pub name: &'a str,
    /// File it lies in, for error messages.
    pub file: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// The data.
    pub bytes: &'a [u8],
}

impl Checkpoint {
    /// Reads one safetensors container.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the header or an offset is wrong, or the file is truncated.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self> {
        let mut checkpoint = Self { files: Vec::new(), tensors: BTreeMap::new(), metadata: HashMap::new() };
        checkpoint.add(name, bytes)?;
        Ok(checkpoint)
    }

    /// Opens a checkpoint on disk: a `.safetensors` file, or a folder with [`SINGLE_FILE`] or
    /// [`INDEX_FILE`]. Nothing but the headers is read yet.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Checkpoint`], naming the file.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &std::path::Path) -> Result<Self> {
        if !path.is_dir() {
            return Self::from_bytes(&path.display().to_string(), Bytes::map(path)?);
        }
        let single = path.join(SINGLE_FILE);
        if single.exists() {
            return Self::from_bytes(&single.display().to_string(), Bytes::map(&single)?);
        }
        let index = path.join(INDEX_FILE);
        if !index.exists() {
            return Err(Error::Checkpoint {
                file: path.display().to_string(),
                problem: format!("holds neither {SINGLE_FILE} nor {INDEX_FILE}"),
            });
        }
        let text = std::fs::read_to_string(&index).map_err(Error::io("read", &index))?;
        let shards = read_index(&index.display().to_string(), &text)?;
        let mut checkpoint = Self { files: Vec::new(), tensors: BTreeMap::new(), metadata: HashMap::new() };
        for (shard, names) in shards {
            let file = path.join(&shard);
            let shown = file.display().to_string();
            checkpoint.add(&shown, Bytes::map(&file)?)?;
            if let Some(missing) = names.iter().find(|n| !checkpoint.tensors.contains_key(*n)) {
                return Err(Error::tensor(&shown, missing, format!("named by {INDEX_FILE} but not in this shard")));
            }
        }
        Ok(checkpoint)
    }

    fn add(&mut self, name: &str, bytes: Bytes) -> Result<()> {
        let broken = |problem| Error::Checkpoint { file: name.to_owned(), problem };
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(explain(&bytes, e)))?;
        let data_start = 8 + header;
        let file = self.files.len();
        for (tensor, info) in metadata.tensors() {
            let (begin, end) = info.data_offsets;
            let entry = Entry {
                file,
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: data_start + begin..data_start + end,
            };
            if self.tensors.insert(tensor.clone(), entry).is_some() {
                return Err(broken(format!("tensor {tensor} was already given by another shard")));
            }
        }
        self.read_own_metadata(&metadata);
        self.files.push(File { name: name.to_owned(), bytes });
        Ok(())
    }

    fn read_own_metadata(&mut self, metadata: &Metadata) {
        if let Some(pairs) = metadata.metadata() {
            self.metadata.extend(pairs.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
    }

    /// Free-form pairs of the files' `__metadata__`.
    #[must_use]
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Names of the files, in the order they were opened.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|f| f.name.as_str())
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes.len() as u64).sum()
    }

    /// Every tensor, by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|(name, entry)| self.view(name, entry))
    }

    fn view<'a>(&'a self, name: &'a str, entry: &'a Entry) -> TensorView<'a> {
        let file = &self.files[entry.file];
        TensorView {
            name,
            file: &file.name,
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: &file.bytes[entry.bytes.clone()],
        }
    }

    /// The tensor called `name`, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get_key_value(name).map(|(name, entry)| self.view(name, entry))
    }

    /// The tensor called `name`, whose shape must be `shape`.
    ///
    /// # Errors
    /// [`Error::Tensor`] where it is missing or of another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let file = self.files.first().map_or("(no file)", |f| f.name.as_str());
        let view = self
            .get(name)
            .ok_or_else(|| Error::tensor(file, name, format!("missing; the config asks for shape {shape:?}")))?;
        if view.shape != shape {
            let problem = format!("has shape {:?}, the config asks for {shape:?}", view.shape);
            return Err(Error::tensor(view.file, name, problem));
        }
        Ok(view)
    }

    /// Tells the system that a tensor will be read soon.
    pub fn will_need(&self, name: &str) {
        if let Some(entry) = self.tensors.get(name) {
            self.files[entry.file].bytes.will_need(entry.bytes.clone());
        }
    }

    /// Drops a mapped tensor's pages from this process's memory, so that loading a model larger than
    /// the memory works; they are read again if touched.
    pub fn discard(&self, name: &str) {
        if let Some(entry) = self.tensors.get(name) {
            self.files[entry.file].bytes.discard(entry.bytes.clone());
        }
    }
}

/// Shards in order of name, with the tensors that the index promises in each.
fn read_index(file: &str, text: &str) -> Result<BTreeMap<String, Vec<String>>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let broken = |problem| Error::Checkpoint { file: file.to_owned(), problem };
    let index: Index = serde_json::from_str(text).map_err(|e| broken(format!("not a shard index: {e}")))?;
    let mut shards = BTreeMap::<String, Vec<String>>::new();
    for (tensor, shard) in index.weight_map {
        // A shard is a file beside the index; anything that could lead elsewhere is refused.
        if shard.is_empty() || shard.contains(['/', '\\']) || shard == ".." {
            return Err(broken(format!("shard name {shard:?} must be a plain file name")));
        }
        shards.entry(shard).or_default().push(tensor);
    }
    if shards.is_empty() {
        return Err(broken("the weight_map names no tensor".to_owned()));
    }
    Ok(shards)
}

/// The container's failure in words that give the numbers and say what to do.
fn explain(bytes: &[u8], error: SafeTensorError) -> String {
    let size = bytes.len();
    let header = bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    match error {
        SafeTensorError::HeaderTooSmall => {
            format!("{size} bytes is too short for a safetensors file; download it again")
        }
        SafeTensorError::HeaderTooLarge => {
            format!("the header claims {header} bytes, more than a safetensors header may have; not a safetensors file?")
        }
        SafeTensorError::InvalidHeaderLength => {
            format!("the header claims {header} bytes but the file has {size}; truncated, or not a safetensors file")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!("the tensors do not cover the file's {size} bytes exactly; truncated or overwritten, download it again")
        }
        SafeTensorError::InvalidOffset(tensor) => {
            format!("tensor {tensor}: its offsets overlap another tensor, leave a gap or run backwards")
        }
        SafeTensorError::TensorInvalidInfo => {
            "a tensor's shape and element type do not fit its offsets".to_owned()
        }
        SafeTensorError::ValidationOverflow => "a tensor's shape overflows".to_owned(),
        other => format!("not a valid safetensors header: {other}"),
    }
}
