//! The header of a safetensors file: a length, and as many bytes of JSON that say where each tensor lies.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::{Bytes, DType, WeightFormat};
use crate::error::{Error, Result};
use crate::{foreign, json, quantize};

/// Bytes of the longest header that the safetensors format allows.
const HEADER_LIMIT: u64 = 100_000_000;

/// A tensor as a header describes it. Offsets of a large file do not fit into the `usize` of a browser, which
/// is what the safetensors crate has here.
#[derive(serde::Deserialize)]
pub(super) struct TensorInfo {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) data_offsets: (u64, u64),
}

/// A container's header: its free-form pairs, and its tensors in the order of their bytes.
pub(super) struct Header {
    pub(super) data_start: u64,
    pub(super) metadata: HashMap<String, String>,
    pub(super) tensors: Vec<(String, TensorInfo)>,
}

/// A header's entries as they stand: read one by one, so that a large header never becomes a tree.
#[derive(Default)]
struct Entries {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
                let mut entries = Entries::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        let metadata = map.next_value::<Option<HashMap<_, _>>>();
                        let metadata = metadata.map_err(|e| M::Error::custom(format_args!("__metadata__: {e}")))?;
                        entries.metadata.extend(metadata.unwrap_or_default());
                        continue;
                    }
                    match map.next_value() {
                        Ok(info) => entries.tensors.push((name, info)),
                        Err(e) => return Err(M::Error::custom(format_args!("tensor {name}: {e}"))),
                    }
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// The one format of all matrices of a safetensors file, from its first bytes; `None` where they have several, or
/// the header has not come to its end yet.
#[must_use]
pub fn format_of_head(first: &[u8]) -> Option<WeightFormat> {
    let length = u64::from_le_bytes(*first.first_chunk()?).min(HEADER_LIMIT);
    let entries: Entries = serde_json::from_slice(first.get(8..8 + length as usize)?).ok()?;
    let no_scale = entries.tensors.iter().filter(|(name, _)| !name.ends_with(&quantize::scale_name("")));
    let mut formats =
        no_scale.filter_map(|(_, info)| (info.shape.len() == 2).then_some(WeightFormat::stored_as(info.dtype)));
    let format = formats.next()??;
    formats.all(|other| other == Some(format)).then_some(format)
}

/// Reads the header of a container called `file`.
pub(super) fn read_header(file: &str, bytes: &Bytes) -> Result<Header> {
    let broken = |problem| Error::Checkpoint { file: file.to_owned(), problem };
    let read = |range| bytes.read(range).map_err(Error::io("read", file));
    let size = bytes.len();
    let first = read(0..size.min(foreign::HEAD))?;
    // Any eight bytes may be a length, but only a header goes on like this.
    let stranger = Some(&first).filter(|first| first.get(8) != Some(&b'{'));
    if let Some(what) = stranger.and_then(|first| foreign::instead_of_weights(first)) {
        return Err(broken(format!("is {what}")));
    }
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
    let text = std::str::from_utf8(text).map_err(|e| format!("the header is not valid JSON: {e}"))?;
    let text = json::without_python_numbers(text);
    let Entries { metadata, mut tensors } =
        serde_json::from_str(&text).map_err(|e| format!("the header is not valid JSON: {e}"))?;
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    if let Some([(name, _), _]) = tensors.array_windows().find(|[(a, _), (b, _)]| a == b) {
        return Err(format!("tensor {name} is there twice"));
    }
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
    Ok(Header { data_start, metadata, tensors })
}
