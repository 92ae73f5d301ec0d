//! Checkpoints as named tensors: one safetensors file, shards with an index, or a GGUF file. Headers are read
//! when a checkpoint is opened, tensors when they are wanted, as many rows at a time as are wanted: from a
//! memory-mapped file natively, and piece by piece in a browser.

mod blocks;
pub mod gguf;
mod half_loss;
mod matrix;
mod storage;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::quantize;

pub use blocks::BlockType;
pub use half_loss::HalfLoss;
pub use matrix::{Encoded, Matrix, WeightFormat};
pub use safetensors::Dtype as DType;
pub use storage::{Bytes, Pieces, ReadAt};

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
    bytes: Range<u64>,
    blocks: Option<BlockType>,
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

/// One tensor's type and shape, and where its bytes are (row-major, little-endian, possibly unaligned).
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
    source: &'a Bytes,
    start: u64,
    end: u64,
    /// Quantised blocks of GGUF, which its bytes are then; `dtype` is U8.
    pub blocks: Option<BlockType>,
}

#[allow(clippy::len_without_is_empty)]
impl<'a> TensorView<'a> {
    /// Its bytes in the file.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Bytes `range` of it, without a copy where they are in memory.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read.
    pub fn read(&self, range: Range<u64>) -> Result<Cow<'a, [u8]>> {
        let bytes = self.source.read(self.start + range.start..self.start + range.end);
        bytes.map_err(Error::io("read", self.file))
    }

    /// All of its bytes, without a copy where they are in memory.
    ///
    /// # Errors
    /// As [`TensorView::read`].
    pub fn bytes(&self) -> Result<Cow<'a, [u8]>> {
        self.read(0..self.len())
    }

    /// Name of the element type, e.g. `F16` or `Q4_K`.
    #[must_use]
    pub fn type_name(&self) -> String {
        self.blocks.map_or_else(|| self.dtype.to_string(), |b| b.name().to_owned())
    }
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

    /// Reads the shards of one checkpoint, by name.
    ///
    /// # Errors
    /// As [`Checkpoint::from_bytes`], and where two shards give the same tensor.
    pub fn from_shards(shards: Vec<(String, Bytes)>) -> Result<Self> {
        let mut checkpoint = Self { files: Vec::new(), tensors: BTreeMap::new(), metadata: HashMap::new() };
        for (name, bytes) in shards {
            checkpoint.add(&name, bytes)?;
        }
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
            let here = checkpoint.files.len() - 1;
            let elsewhere = |n: &&String| checkpoint.tensors.get(*n).is_none_or(|t| t.file != here);
            if let Some(missing) = names.iter().find(elsewhere) {
                return Err(Error::tensor(&shown, missing, format!("named by {INDEX_FILE} but not in this shard")));
            }
        }
        Ok(checkpoint)
    }

    /// Reads a GGUF file: its tensors, under their own names, and its metadata.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::Config`] or [`Error::Tensor`] with what is broken or not supported.
    pub fn from_gguf(name: &str, bytes: Bytes) -> Result<(Self, gguf::Metadata)> {
        let (metadata, found) = gguf::read(name, &bytes)?;
        let mut tensors = BTreeMap::new();
        for gguf::GgufTensor { name: tensor, dtype, blocks, shape, bytes } in found {
            let entry = Entry { file: 0, dtype, shape, bytes, blocks };
            if tensors.insert(tensor.clone(), entry).is_some() {
                return Err(Error::tensor(name, &tensor, "is there twice"));
            }
        }
        let files = vec![File { name: name.to_owned(), bytes }];
        Ok((Self { files, tensors, metadata: HashMap::new() }, metadata))
    }

    fn add(&mut self, name: &str, bytes: Bytes) -> Result<()> {
        let broken = |problem| Error::Checkpoint { file: name.to_owned(), problem };
        let header = read_header(name, &bytes)?;
        let file = self.files.len();
        for (tensor, TensorInfo { dtype, shape, data_offsets: (begin, end) }) in header.tensors {
            let bytes = header.data_start + begin..header.data_start + end;
            let entry = Entry { file, dtype, shape, bytes, blocks: None };
            if self.tensors.insert(tensor.clone(), entry).is_some() {
                return Err(broken(format!("tensor {tensor} was already given by another shard")));
            }
        }
        self.metadata.extend(header.metadata);
        self.files.push(File { name: name.to_owned(), bytes });
        Ok(())
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
        self.files.iter().map(|f| f.bytes.len()).sum()
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
            source: &file.bytes,
            start: entry.bytes.start,
            end: entry.bytes.end,
            blocks: entry.blocks,
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
#[cfg(not(target_arch = "wasm32"))]
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
        if matches!(shard.as_str(), "" | "." | "..") || shard.contains(['/', '\\', ':']) {
            return Err(broken(format!("shard name {shard:?} must be a plain file name")));
        }
        shards.entry(shard).or_default().push(tensor);
    }
    if shards.is_empty() {
        return Err(broken("the weight_map names no tensor".to_owned()));
    }
    Ok(shards)
}

/// The one format of all matrices of a safetensors file, from its first bytes; `None` where they have several, or
/// the header has not come to its end yet.
#[must_use]
pub fn format_of_head(first: &[u8]) -> Option<WeightFormat> {
    let length = u64::from_le_bytes(*first.first_chunk()?).min(HEADER_LIMIT);
    let entries: BTreeMap<String, Value> = serde_json::from_slice(first.get(8..8 + length as usize)?).ok()?;
    let mut formats =
        entries.iter().filter(|(name, _)| !name.ends_with(&quantize::scale_name(""))).filter_map(|(_, entry)| {
            let info: TensorInfo = serde_json::from_value(entry.clone()).ok()?;
            (info.shape.len() == 2).then_some(WeightFormat::stored_as(info.dtype))
        });
    let format = formats.next()??;
    formats.all(|other| other == Some(format)).then_some(format)
}

/// Bytes of the longest header that the safetensors format allows.
const HEADER_LIMIT: u64 = 100_000_000;

/// A tensor as a header describes it. Offsets of a large file do not fit into the `usize` of a browser, which
/// is what the safetensors crate has here.
#[derive(Deserialize)]
struct TensorInfo {
    dtype: DType,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// A container's header: its free-form pairs, and its tensors in the order of their bytes.
struct Header {
    data_start: u64,
    metadata: HashMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

/// Reads the header of a container called `file`.
fn read_header(file: &str, bytes: &Bytes) -> Result<Header> {
    let broken = |problem| Error::Checkpoint { file: file.to_owned(), problem };
    let read = |range| bytes.read(range).map_err(Error::io("read", file));
    let size = bytes.len();
    if size < 8 {
        return Err(broken(format!("{size} bytes is too short for a safetensors file; download it again")));
    }
    let length = read(0..8)?.first_chunk().map_or(u64::MAX, |b| u64::from_le_bytes(*b));
    if length > HEADER_LIMIT {
        let problem = format!("the header claims {length} bytes, more than {HEADER_LIMIT}; not a safetensors file?");
        return Err(broken(problem));
    }
    let data_start = 8 + length;
    if data_start > size {
        return Err(broken(format!(
            "the header claims {length} bytes but the file has {size}; truncated, or not a safetensors file"
        )));
    }
    parse_header(&read(8..data_start)?, data_start, size - data_start).map_err(broken)
}

/// Parses a header and checks that its tensors cover the `data` bytes behind it exactly, as the format demands.
/// The safetensors crate checks the same, but names no tensor.
fn parse_header(text: &[u8], data_start: u64, data: u64) -> Result<Header, String> {
    let mut entries: BTreeMap<String, Value> =
        serde_json::from_slice(text).map_err(|e| format!("the header is not valid JSON: {e}"))?;
    let metadata = entries.remove("__metadata__").unwrap_or_default();
    let metadata: Option<_> = serde_json::from_value(metadata).map_err(|e| format!("__metadata__: {e}"))?;
    let parse = |(name, entry)| match serde_json::from_value::<TensorInfo>(entry) {
        Ok(info) => Ok((name, info)),
        Err(e) => Err(format!("tensor {name}: {e}")),
    };
    let mut tensors = entries.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);

    let mut covered = 0;
    for (name, TensorInfo { dtype, shape, data_offsets: (begin, end) }) in &tensors {
        let broken = |problem: String| Err(format!("tensor {name}: its offsets {begin}..{end} {problem}"));
        match begin.cmp(&covered) {
            _ if end < begin => return broken("run backwards".to_owned()),
            _ if *end > data => {
                return broken(format!("exceed the file's {data} bytes of data; truncated, download it again"));
            }
            Ordering::Less => return broken("overlap another tensor's".to_owned()),
            Ordering::Greater => return broken(format!("leave a gap after byte {covered}")),
            Ordering::Equal => covered = *end,
        }
        let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64));
        let bits = elements.and_then(|n| n.checked_mul(dtype.bitsize() as u64));
        if bits != (end - begin).checked_mul(8) {
            return broken(format!("give {} bytes to shape {shape:?} of {dtype}", end - begin));
        }
    }
    if covered != data {
        return Err(format!("the tensors cover {covered} of {data} bytes of data; overwritten, download it again"));
    }
    Ok(Header { data_start, metadata: metadata.unwrap_or_default(), tensors })
}
