//! Checkpoints as named tensors: safetensors or PyTorch's own files, one or shards with an index, or a GGUF file.
//! Descriptions are read when a checkpoint is opened, tensors when they are wanted, as many rows at a time as are
//! wanted: from a memory-mapped file natively, and piece by piece in a browser.

mod blocks;
mod format;
pub mod gguf;
mod half_loss;
mod header;
mod matrix;
mod repack;
mod split;
mod storage;
mod strided;
mod torch;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::error::{Error, Result};
use crate::foreign;
use header::{TensorInfo, read_header};
use strided::Strided;

pub use blocks::BlockType;
pub use format::{Plane, WeightFormat};
pub use half_loss::HalfLoss;
pub use header::format_of_head;
pub use matrix::{Encoded, Matrix};
pub use safetensors::Dtype as DType;
pub use storage::{Bytes, Pieces, ReadAt};

/// Name of the index of a sharded checkpoint.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Name of a single-file checkpoint.
pub const SINGLE_FILE: &str = "model.safetensors";
/// What the weights of a folder are called, best first, and whether that is an index of shards. A folder that has
/// several of them has the same weights in several formats.
#[cfg(not(target_arch = "wasm32"))]
const FOLDER_FILES: [(&str, bool); 6] = [
    (SINGLE_FILE, false),
    (INDEX_FILE, true),
    ("pytorch_model.bin", false),
    ("pytorch_model.bin.index.json", true),
    ("consolidated.safetensors", false),
    ("consolidated.00.pth", false),
];

/// Where one tensor lies.
#[derive(Debug, Clone)]
struct Entry {
    file: usize,
    dtype: DType,
    shape: Vec<usize>,
    bytes: Range<u64>,
    /// Elements from one to the next in each dimension, where they do not lie in order.
    strides: Option<Vec<u64>>,
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
    /// Tensors that are there but cannot be read: file and reason.
    unreadable: BTreeMap<String, (usize, String)>,
    metadata: HashMap<String, String>,
}

/// One tensor's type and shape, and where its bytes are (read as row-major, little-endian, possibly unaligned).
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
    strides: Option<&'a [u64]>,
    /// Quantised blocks of GGUF, which its bytes are then; `dtype` is U8.
    pub blocks: Option<BlockType>,
}

#[allow(clippy::len_without_is_empty)]
impl<'a> TensorView<'a> {
    /// Its bytes, elements in order.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.strided().map_or(self.end - self.start, |view| view.len())
    }

    /// Bytes `range` of it, without a copy where they are in memory and in order.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read.
    pub fn read(&self, range: Range<u64>) -> Result<Cow<'a, [u8]>> {
        let stored = |range: Range<u64>| {
            let bytes = self.source.read(self.start + range.start..self.start + range.end);
            bytes.map_err(Error::io("read", self.file))
        };
        match self.strided() {
            None => stored(range),
            Some(view) => view.gather(range, stored).map(Cow::Owned),
        }
    }

    fn strided(&self) -> Option<Strided<'a>> {
        let width = self.dtype.bitsize() as u64 / 8;
        self.strides.map(|strides| Strided { shape: self.shape, strides, width })
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
    fn empty() -> Self {
        Self { files: Vec::new(), tensors: BTreeMap::new(), unreadable: BTreeMap::new(), metadata: HashMap::new() }
    }

    /// Reads one file of safetensors or of PyTorch, whichever it is.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] or [`Error::Tensor`] where the description or an offset is wrong, the file is truncated,
    /// or something else than a checkpoint.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self> {
        let mut checkpoint = Self::empty();
        checkpoint.add(name, bytes)?;
        Ok(checkpoint)
    }

    /// Reads the shards of one checkpoint, by name.
    ///
    /// # Errors
    /// As [`Checkpoint::from_bytes`], and where two shards give the same tensor.
    pub fn from_shards(shards: Vec<(String, Bytes)>) -> Result<Self> {
        let mut checkpoint = Self::empty();
        for (name, bytes) in shards {
            checkpoint.add(&name, bytes)?;
        }
        Ok(checkpoint)
    }

    /// Opens a checkpoint on disk: a file of safetensors or of PyTorch, or a folder with one of those that
    /// transformers knows: [`SINGLE_FILE`], [`INDEX_FILE`], `pytorch_model.bin` or its index, in this order; or
    /// `consolidated.safetensors` or `consolidated.00.pth`. Nothing but the descriptions is read yet.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Checkpoint`] and [`Error::Tensor`], naming the file.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &std::path::Path) -> Result<Self> {
        if !path.is_dir() {
            return Self::from_bytes(&path.display().to_string(), Bytes::map(path)?);
        }
        let found = FOLDER_FILES.iter().find(|(name, _)| path.join(name).exists());
        let broken = |problem: String| Error::Checkpoint { file: path.display().to_string(), problem };
        match found {
            None => Err(broken(no_weights(path))),
            Some(("consolidated.00.pth", _)) if path.join("consolidated.01.pth").exists() => Err(broken(
                "its weights are split over consolidated.*.pth, which is not supported; convert them".into(),
            )),
            Some((index, true)) => Self::open_shards(path, index),
            Some((name, false)) => Self::open(&path.join(name)),
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn open_shards(path: &std::path::Path, index_file: &str) -> Result<Self> {
        let index = path.join(index_file);
        let text = std::fs::read(&index).map_err(Error::io("read", &index))?;
        let shards = read_index(&index.display().to_string(), &text)?;
        let mut checkpoint = Self::empty();
        for (shard, names) in shards {
            let file = path.join(&shard);
            let shown = file.display().to_string();
            checkpoint.add(&shown, Bytes::map(&file)?)?;
            let here = checkpoint.files.len() - 1;
            let elsewhere = |n: &&String| {
                let file = checkpoint.tensors.get(*n).map(|t| t.file);
                file.or(checkpoint.unreadable.get(*n).map(|(file, _)| *file)) != Some(here)
            };
            if let Some(missing) = names.iter().find(elsewhere) {
                return Err(Error::tensor(&shown, missing, format!("named by {index_file} but not in this shard")));
            }
        }
        Ok(checkpoint)
    }

    fn add(&mut self, name: &str, bytes: Bytes) -> Result<()> {
        let first = bytes.read(0..bytes.len().min(foreign::HEAD)).map_err(Error::io("read", name))?;
        if torch::is_torch(&first) {
            drop(first);
            for torch::Found { name: tensor, place } in torch::read(name, &bytes)? {
                self.add_tensor(name, tensor, place.map(Into::into))?;
            }
        } else {
            drop(first);
            let header = read_header(name, &bytes)?;
            for (tensor, TensorInfo { dtype, shape, data_offsets: (begin, end) }) in header.tensors {
                let bytes = header.data_start + begin..header.data_start + end;
                self.add_tensor(name, tensor, Ok(Entry::new(dtype, shape, bytes)))?;
            }
            self.metadata.extend(header.metadata);
        }
        self.files.push(File { name: name.to_owned(), bytes });
        Ok(())
    }

    /// Takes in a tensor of the file that is added next.
    fn add_tensor(&mut self, file: &str, tensor: String, entry: Result<Entry, String>) -> Result<()> {
        let number = self.files.len();
        let earlier = self.tensors.get(&tensor).map(|t| t.file).or(self.unreadable.get(&tensor).map(|(file, _)| *file));
        if let Some(earlier) = earlier {
            let here = earlier == number;
            let problem = if here { "is there twice" } else { "was already given by another shard" };
            return Err(Error::tensor(file, &tensor, problem));
        }
        match entry {
            Ok(entry) => drop(self.tensors.insert(tensor, Entry { file: number, ..entry })),
            Err(reason) => drop(self.unreadable.insert(tensor, (number, reason))),
        }
        Ok(())
    }

    /// Names that share their bytes, each group in order: PyTorch's files keep tensors once that a model uses under
    /// several names.
    #[must_use]
    pub fn aliases(&self) -> Vec<Vec<&str>> {
        let mut groups = BTreeMap::<_, Vec<&str>>::new();
        for (name, t) in self.tensors.iter().filter(|(_, t)| !t.bytes.is_empty()) {
            let place = (t.file, t.bytes.start, t.bytes.end, &t.shape, &t.strides, t.dtype);
            groups.entry(place).or_default().push(name);
        }
        groups.into_values().filter(|names| names.len() > 1).collect()
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
            strides: entry.strides.as_deref(),
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
    /// [`Error::Tensor`] where it is missing, of another shape or of a type that cannot be read.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        if let Some((file, reason)) = self.unreadable.get(name) {
            return Err(Error::tensor(&self.files[*file].name, name, reason));
        }
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

impl Entry {
    /// A tensor whose elements lie in order.
    fn new(dtype: DType, shape: Vec<usize>, bytes: Range<u64>) -> Self {
        Self { file: 0, dtype, shape, bytes, strides: None, blocks: None }
    }
}

impl From<torch::Place> for Entry {
    fn from(place: torch::Place) -> Self {
        let torch::Place { dtype, shape, bytes, strides } = place;
        Self { strides, ..Self::new(dtype, shape, bytes) }
    }
}

/// Why a folder is no checkpoint, with what may have been meant.
#[cfg(not(target_arch = "wasm32"))]
fn no_weights(folder: &std::path::Path) -> String {
    let names = FOLDER_FILES.iter().take(4).map(|(name, _)| *name).collect::<Vec<_>>().join(" nor ");
    let others =
        folder.read_dir().into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let named = |name: &String| [".gguf", ".safetensors", ".bin", ".pt", ".pth"].iter().any(|end| name.ends_with(end));
    match others.filter(named).min() {
        Some(other) => format!("holds neither {names}; if {other} is the model, name that file"),
        None => format!("holds neither {names}"),
    }
}

/// Shards in order of name, with the tensors that the index promises in each.
#[cfg(not(target_arch = "wasm32"))]
fn read_index(file: &str, text: &[u8]) -> Result<BTreeMap<String, Vec<String>>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let broken = |problem| Error::Checkpoint { file: file.to_owned(), problem };
    let index: Index = crate::json::from_slice(text).map_err(|e| broken(format!("not a shard index: {e}")))?;
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
