//! What `torch.save` wrote before PyTorch 1.6: five pickles in a row (a magic number, a protocol, the machine, the
//! object, the keys of the storages), then the storages, each a count of elements and their bytes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::super::Bytes;
use super::machine::{self, Fault, PICKLE_LIMIT};
use super::pickle::{Object, Pickle, Value};
use super::{Found, state};
use crate::error::{Error, Result};

/// The magic number, as a pickle's bytes (protocol 2 and later) and as its text (protocol 1).
pub(super) const MAGIC: [u8; 10] = [0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19];
const MAGIC_TEXT: &[u8] = b"L119547037146038801333356L\n";
const MAGIC_NUMBER: i128 = 0x1950_A86A_20F9_469C_FC6C;
/// The only protocol that there was.
const PROTOCOL: i64 = 1001;

/// Bytes that are looked at first, and how many more each time that was too few.
const FIRST_LOOK: u64 = 1 << 20;

/// Whether a file begins with the magic number.
pub(super) fn is_legacy(first: &[u8]) -> bool {
    first.starts_with(MAGIC_TEXT)
        || first.first() == Some(&0x80) && first[..first.len().min(32)].windows(MAGIC.len()).any(|w| w == MAGIC)
}

/// The pickles of a file.
struct Pickles<'a> {
    object: Pickle<'a>,
    keys: Vec<String>,
    /// Bytes of them all.
    length: u64,
}

fn pickles(head: &[u8]) -> Result<Pickles<'_>, Fault> {
    let mut at = 0;
    let mut next = || -> Result<Pickle<'_>, Fault> {
        let pickle = machine::read(head.get(at..).unwrap_or_default())?;
        at += pickle.length;
        Ok(pickle)
    };
    let magic = next()?;
    if !matches!(magic.object(magic.root), Some(Object::Long(number)) if **number == MAGIC_NUMBER) {
        return Err("does not begin with PyTorch's magic number".into());
    }
    match next()?.root {
        Value::Int(PROTOCOL) => (),
        _ => return Err(format!("is not of PyTorch's protocol {PROTOCOL}, the only one").into()),
    }
    let machine = next()?;
    if !matches!(machine.get(machine.root, "little_endian"), Some(Value::Flag(true))) {
        return Err("was written by a big-endian machine; load it there and save it again".into());
    }
    let object = next()?;
    let keys = next()?;
    let names = keys.list(keys.root).ok_or("has no list of storages")?;
    let names = names.iter().map(|key| keys.text(*key).map(str::to_owned)).collect::<Option<Vec<_>>>();
    Ok(Pickles { object, keys: names.ok_or("has a storage whose key is no text")?, length: at as u64 })
}

/// The tensors of such a file.
pub(super) fn read(file: &str, bytes: &Bytes) -> Result<Vec<Found>> {
    let broken = |problem: String| Error::Checkpoint { file: file.to_owned(), problem };
    let size = bytes.len();
    let mut look = FIRST_LOOK;
    let head: Cow<'_, [u8]> = loop {
        let head = bytes.read(0..size.min(look)).map_err(Error::io("read", file))?;
        match pickles(&head) {
            Err(Fault::CutOff) if look < size && look < PICKLE_LIMIT => look *= 8,
            _ => break head,
        }
    };
    let Pickles { object, keys, length } = pickles(&head).map_err(|fault| match fault {
        Fault::CutOff if look < size => broken(format!("its description has more than {PICKLE_LIMIT} bytes")),
        Fault::CutOff => {
            broken(format!("ends after {size} bytes, within its description; truncated, download it again"))
        }
        Fault::Refused(problem) => broken(problem),
    })?;
    let storages = storages(bytes, &object, &keys, length).map_err(broken)?;
    state::tensors(file, size, &object, &mut |key| Ok(storages.get(key).cloned()))
}

/// Where every storage lies, by key.
fn storages(
    bytes: &Bytes,
    object: &Pickle<'_>,
    keys: &[String],
    mut at: u64,
) -> Result<HashMap<String, Range<u64>>, String> {
    let mut widths = HashMap::new();
    for storage in object.storages() {
        let key = object.text(storage.key).unwrap_or_default();
        if widths.insert(key, storage.element.size).is_some_and(|other| other != storage.element.size) {
            return Err(format!("storage {key:?} has elements of two sizes"));
        }
    }
    let mut found = HashMap::new();
    for key in keys {
        let width = widths.get(key.as_str()).ok_or_else(|| format!("storage {key:?} is never used"))?;
        let cut = || format!("ends within storage {key:?}; truncated, download it again");
        let data = at.checked_add(8).filter(|data| *data <= bytes.len()).ok_or_else(cut)?;
        let count = bytes.read(at..data).map_err(|e| format!("cannot be read: {e}"))?;
        let count = count.first_chunk().map_or(-1, |b| i64::from_le_bytes(*b));
        let length = u64::try_from(count).ok().and_then(|n| n.checked_mul(*width));
        let end = length.and_then(|n| data.checked_add(n)).filter(|end| *end <= bytes.len()).ok_or_else(cut)?;
        if found.insert(key.clone(), data..end).is_some() {
            return Err(format!("storage {key:?} is there twice"));
        }
        at = end;
    }
    Ok(found)
}
