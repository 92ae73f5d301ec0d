//! The GGUF container (versions 2 and 3, little-endian): key/value metadata, tensor descriptions, data.
//!
//! Everything is checked against the bytes that are there before it is believed: no count, length, offset
//! or shape of a broken file leads to more than an error that names the file and the key or tensor.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use super::{BlockType, Bytes, DType};
use crate::error::{Error, Result};
use crate::foreign;

/// How every GGUF file begins.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// true or false.
    Flag(bool),
    /// UTF-8 text.
    Text(String),
    /// Values of one type.
    List(Vec<Value>),
}

impl Value {
    /// A whole number that is not negative.
    #[must_use]
    pub fn as_unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The key/value pairs of a GGUF file.
#[derive(Debug)]
pub struct Metadata {
    /// Name of the file, for error messages.
    pub file: String,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// The value of a key, if the file has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Every key that begins with `prefix`, without it, in order.
    pub(crate) fn behind<'a>(&'a self, prefix: &str) -> Vec<&'a str> {
        let mut keys: Vec<&str> = self.values.keys().filter_map(|key| key.strip_prefix(prefix)).collect();
        keys.sort_unstable();
        keys
    }

    fn typed<'a, T>(&'a self, key: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| Error::config(&self.file, key, format!("expected {kind}")))
    }

    /// A whole number, `None` where absent.
    ///
    /// # Errors
    /// [`Error::Config`] where it is something else.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number", |v| v.as_unsigned().and_then(|n| usize::try_from(n).ok()))
    }

    /// A number, `None` where absent.
    ///
    /// # Errors
    /// [`Error::Config`] where it is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a finite number", |v| match v {
            Value::Float(n) => n.is_finite().then_some(*n),
            _ => v.as_unsigned().map(|n| n as f64),
        })
    }

    /// true or false, `None` where absent.
    ///
    /// # Errors
    /// [`Error::Config`] where it is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |v| match v {
            Value::Flag(on) => Some(*on),
            _ => None,
        })
    }

    /// A text, `None` where absent.
    ///
    /// # Errors
    /// [`Error::Config`] where it is something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a text", Value::as_text)
    }

    /// A list, `None` where absent; `read` takes each of its values.
    ///
    /// # Errors
    /// [`Error::Config`] where it is something else, or `read` does not take a value.
    pub fn list<'a, T>(
        &'a self,
        key: &str,
        kind: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        self.typed(key, kind, |v| match v {
            Value::List(values) => values.iter().map(&read).collect(),
            _ => None,
        })
    }

    /// What must be there.
    ///
    /// # Errors
    /// [`Error::Config`] where `found` is nothing.
    pub fn required<T>(&self, key: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| Error::config(&self.file, key, "missing"))
    }
}

/// A tensor's place in the file.
#[derive(Debug)]
pub(super) struct GgufTensor {
    pub(super) name: String,
    /// [`DType::U8`] for blocks.
    pub(super) dtype: DType,
    pub(super) blocks: Option<BlockType>,
    /// Outermost dimension first, as everywhere else: GGUF lists the innermost first.
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<u64>,
}

/// Whether a file begins as every GGUF file does.
#[must_use]
pub fn is_gguf(bytes: &Bytes) -> bool {
    bytes.read(0..MAGIC.len() as u64).is_ok_and(|first| *first == MAGIC[..])
}

/// Reads metadata and tensor descriptions.
pub(super) fn read(file: &str, bytes: &Bytes) -> Result<(Metadata, Vec<GgufTensor>)> {
    let mut reader = Reader { bytes, at: 0, window: Cow::Borrowed(&[]), start: 0, values: MOST_VALUES };
    let broken = |problem: String| Error::Checkpoint { file: file.to_owned(), problem };
    let (counts, values) = metadata(&mut reader).map_err(broken)?;
    let metadata = Metadata { file: file.to_owned(), values };
    let alignment = metadata.size("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() {
        return Err(Error::config(file, "general.alignment", format!("{alignment} is no power of two")));
    }
    if counts.tensors > MOST_TENSORS {
        return Err(broken(format!("{} tensors; no more than {MOST_TENSORS} are read", counts.tensors)));
    }
    let mut found = Vec::new();
    for index in 0..counts.tensors {
        found.push(description(&mut reader).map_err(|e| broken(format!("tensor {index} of {}: {e}", counts.tensors)))?);
    }
    let alignment = alignment as u64;
    let data = reader.at.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    let place = |d: Description| {
        let name = d.name.clone();
        d.placed(data, alignment, bytes.len()).map_err(|problem| Error::tensor(file, &name, problem))
    };
    let tensors = found.into_iter().map(place).collect::<Result<Vec<_>>>()?;
    let mut order: Vec<&GgufTensor> = tensors.iter().filter(|t| !t.bytes.is_empty()).collect();
    order.sort_by_key(|t| t.bytes.start);
    if let Some([first, second]) = order.array_windows().find(|[a, b]| b.bytes.start < a.bytes.end) {
        let problem = format!("its bytes {:?} overlap those of {}, {:?}", second.bytes, first.name, first.bytes);
        return Err(Error::tensor(file, &second.name, problem));
    }
    Ok((metadata, tensors))
}

struct Counts {
    tensors: u64,
}

fn metadata(reader: &mut Reader<'_>) -> Result<(Counts, BTreeMap<String, Value>), String> {
    if reader.bytes.len() == 0 {
        return Err("is empty (0 bytes); download it again".to_owned());
    }
    let first = reader.bytes.read(0..reader.bytes.len().min(foreign::HEAD)).map_err(|e| e.to_string())?;
    let begins = &first[..first.len().min(MAGIC.len())];
    if !MAGIC.starts_with(begins) {
        let begins = String::from_utf8_lossy(begins);
        let what = foreign::instead_of_weights(&first).map(|what| format!(": it is {what}")).unwrap_or_default();
        return Err(format!("not a GGUF file, which begins with \"GGUF\" and not with {begins:?}{what}"));
    }
    reader.take(4)?;
    match reader.u32()? {
        2 | 3 => (),
        version if version.swap_bytes() < 16 => return Err("a big-endian GGUF file; convert it again".to_owned()),
        version => return Err(format!("GGUF version {version}; this build reads 2 and 3, convert it again")),
    }
    let (tensors, pairs) = (reader.u64()?, reader.u64()?);
    if pairs > MOST_PAIRS {
        return Err(format!("{pairs} metadata pairs; no more than {MOST_PAIRS} are read"));
    }
    let mut values = BTreeMap::new();
    for index in 0..pairs {
        let key = reader.text().map_err(|e| format!("metadata pair {index} of {pairs}: {e}"))?;
        let value =
            reader.u32().and_then(|kind| reader.value(kind, 0)).map_err(|e| format!("metadata key {key}: {e}"))?;
        if values.insert(key.clone(), value).is_some() {
            return Err(format!("metadata key {key} is there twice"));
        }
    }
    Ok((Counts { tensors }, values))
}

/// Types without blocks: number, type, bytes.
const PLAIN: [(u32, DType, usize); 8] = [
    (0, DType::F32, 4),
    (1, DType::F16, 2),
    (24, DType::I8, 1),
    (25, DType::I16, 2),
    (26, DType::I32, 4),
    (27, DType::I64, 8),
    (28, DType::F64, 8),
    (30, DType::BF16, 2),
];

/// Types that exist and are not read, by the names that GGUF tools print.
const OTHERS: [(u32, &str); 22] = [
    (4, "Q4_2, removed from the format"),
    (5, "Q4_3, removed from the format"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4, removed from the format"),
    (32, "Q4_0_4_8, removed from the format"),
    (33, "Q4_0_8_8, removed from the format"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4, removed from the format"),
    (37, "IQ4_NL_4_8, removed from the format"),
    (38, "IQ4_NL_8_8, removed from the format"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// A tensor as the file describes it.
struct Description {
    name: String,
    /// Innermost first.
    dimensions: Vec<u64>,
    number: u32,
    offset: u64,
}

fn description(reader: &mut Reader<'_>) -> Result<Description, String> {
    let name = reader.text()?;
    let count = reader.u32()?;
    if count > 4 {
        return Err(format!("{name} has {count} dimensions, GGUF allows 4"));
    }
    let dimensions = (0..count).map(|_| reader.u64()).collect::<Result<_, _>>()?;
    Ok(Description { name, dimensions, number: reader.u32()?, offset: reader.u64()? })
}

impl Description {
    /// The tensor in a file of `size` bytes whose data begins at byte `data`.
    fn placed(self, data: u64, alignment: u64, size: u64) -> Result<GgufTensor, String> {
        // (type, blocks, weights and bytes of what cannot be divided)
        let plain = PLAIN.iter().find(|(number, ..)| *number == self.number);
        let (dtype, blocks, weights, bytes) = match (plain, BlockType::of_number(self.number)) {
            (Some((_, dtype, bytes)), _) => (*dtype, None, 1, *bytes),
            (None, Some(blocks)) => (DType::U8, Some(blocks), blocks.weights(), blocks.bytes()),
            (None, None) => {
                let number = self.number;
                let name = OTHERS.iter().find(|(n, _)| *n == number).map_or("unknown", |(_, name)| name);
                let known: Vec<_> = BlockType::all().map(BlockType::name).collect();
                return Err(format!(
                    "is of GGUF's type {number} ({name}); this build reads F32, F16, BF16, F64, whole numbers, {}",
                    known.join(", ")
                ));
            }
        };
        let shape = self.dimensions.iter().rev().map(|d| usize::try_from(*d).ok()).collect::<Option<Vec<_>>>();
        let too_large = || format!("its shape {:?} is too large", self.dimensions);
        let shape = shape.ok_or_else(too_large)?;
        let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64)).ok_or_else(too_large)?;
        let width = shape.last().copied().unwrap_or(1);
        if !width.is_multiple_of(weights) {
            return Err(format!("rows of {width} weights are no whole number of blocks of {weights}"));
        }
        let length = (elements / weights as u64).checked_mul(bytes as u64).ok_or_else(too_large)?;
        let begin = self.offset.checked_add(data);
        let end = begin.and_then(|begin| begin.checked_add(length));
        let place = begin.zip(end).filter(|(_, end)| *end <= size);
        let Some((begin, end)) = place else {
            let Self { offset, .. } = self;
            return Err(format!(
                "its {length} bytes at offset {offset} exceed the file's {size}; truncated, download it again"
            ));
        };
        if !self.offset.is_multiple_of(alignment) {
            return Err(format!("its offset {} is no multiple of {alignment}", self.offset));
        }
        Ok(GgufTensor { name: self.name, dtype, blocks, shape, bytes: begin..end })
    }
}

/// Lists of lists are read to this depth; no file is known to have any.
const MOST_NESTED: u32 = 4;

/// Metadata pairs, tensors, values in lists (of all pairs together) and bytes of one text that are read at most:
/// several times what any model has, and no more memory than a model takes.
const MOST_PAIRS: u64 = 1 << 16;
const MOST_TENSORS: u64 = 1 << 18;
const MOST_VALUES: u64 = 1 << 23;
const MOST_TEXT: u64 = 1 << 26;

/// Bytes of metadata that are read at a time.
const WINDOW: u64 = 1 << 20;

struct Reader<'a> {
    bytes: &'a Bytes,
    at: u64,
    /// What was read last, from byte `start` on.
    window: Cow<'a, [u8]>,
    start: u64,
    /// Values of lists that may still come.
    values: u64,
}

impl Reader<'_> {
    fn take(&mut self, count: u64) -> Result<&[u8], String> {
        let (at, size) = (self.at, self.bytes.len());
        let end = at.checked_add(count).filter(|end| *end <= size);
        let end = end.ok_or_else(|| format!("cut off: {count} bytes wanted at byte {at}, the file has {size}"))?;
        if end > self.start + self.window.len() as u64 {
            let read = self.bytes.read(at..end.max(size.min(at + WINDOW)));
            self.window = read.map_err(|e| format!("cannot be read at byte {at}: {e}"))?;
            self.start = at;
        }
        self.at = end;
        Ok(&self.window[(at - self.start) as usize..(end - self.start) as usize])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        if length > MOST_TEXT && length <= self.bytes.len() {
            return Err(format!("a text of {length} bytes; no more than {MOST_TEXT} are read"));
        }
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "a text that is not UTF-8".to_owned())
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>()?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => match self.array::<1>()?[0] {
                on @ (0 | 1) => Value::Flag(on == 1),
                other => return Err(format!("{other} is neither true nor false")),
            },
            8 => Value::Text(self.text()?),
            9 if depth < MOST_NESTED => {
                let (kind, count) = (self.u32()?, self.u64()?);
                // An element is at least a byte.
                let left = self.bytes.len().saturating_sub(self.at);
                if count > left {
                    return Err(format!("cut off: a list of {count} values, {left} bytes from the file's end"));
                }
                if count > self.values {
                    return Err(format!("a list of {count} values; no more than {MOST_VALUES} are read"));
                }
                self.values -= count;
                // The file may well end before: room is made as values come.
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(kind, depth + 1)?);
                }
                Value::List(values)
            }
            9 => return Err(format!("lists nested more than {MOST_NESTED} deep")),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("value type {other} is unknown")),
        })
    }
}
