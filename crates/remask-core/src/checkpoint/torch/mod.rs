//! PyTorch's own checkpoints (`pytorch_model.bin`, `.pt`, `.pth`), read without PyTorch and without ever running what
//! is in them.
//!
//! `torch.save` writes a pickle, which is a program for a small machine, and the bytes of storages beside it: in a zip
//! archive ([`zip`]), before 1.6 one after the other ([`legacy`]). Python's machine may call anything; the one here
//! ([`machine`]) knows the few names that weights are made of ([`globals`]) and describes what they would build. From
//! the description ([`pickle`]) come the tensors and their places ([`state`]), which are checked against the file.

mod globals;
mod legacy;
mod machine;
mod pickle;
mod state;
mod types;
mod zip;

use std::ops::Range;

use super::{Bytes, DType};
use crate::error::{Error, Result};
use machine::{Fault, PICKLE_LIMIT};
use zip::Archive;

/// Newest layout of archives, which PyTorch counts in hexadecimal.
const NEWEST_VERSION: u64 = 0xA;

/// A tensor that a file gives.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    /// Where it lies, or why it cannot be read.
    pub(super) place: Result<Place, String>,
}

/// Where a tensor lies.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// From its first element to its last.
    pub(super) bytes: Range<u64>,
    /// Elements from one to the next in each dimension, unless they lie in order.
    pub(super) strides: Option<Vec<u64>>,
}

/// Whether a file that begins with `first` (32 bytes or more) is one of PyTorch's, or an archive.
pub(super) fn is_torch(first: &[u8]) -> bool {
    // The length of a safetensors header may look like a magic number, but its text follows.
    let archive = first.starts_with(zip::MAGIC) && first.get(8) != Some(&b'{');
    archive || first.starts_with(zip::EMPTY_MAGIC) || legacy::is_legacy(first)
}

/// The tensors of a file that [`is_torch`].
///
/// # Errors
/// [`Error::Checkpoint`] or [`Error::Tensor`] with what is broken, refused or not supported.
pub(super) fn read(file: &str, bytes: &Bytes) -> Result<Vec<Found>> {
    let broken = |problem: String| Error::Checkpoint { file: file.to_owned(), problem };
    let first = bytes.read(0..bytes.len().min(32)).map_err(Error::io("read", file))?;
    if legacy::is_legacy(&first) {
        return legacy::read(file, bytes);
    }
    let archive = Archive::open(bytes).map_err(broken)?;
    let top = top(&archive).map_err(broken)?;
    check_layout(&archive, &top).map_err(broken)?;
    let description = archive.read(&format!("{top}/data.pkl"), PICKLE_LIMIT).map_err(broken)?.unwrap_or_default();
    let pickle = machine::read(&description).map_err(|fault| match fault {
        Fault::CutOff => broken("its data.pkl ends too early; download it again".to_owned()),
        Fault::Refused(problem) => broken(problem),
    })?;
    state::tensors(file, bytes.len(), &pickle, &mut |key| archive.data(&format!("{top}/data/{key}")))
}

/// The folder that everything in an archive lies in.
fn top(archive: &Archive<'_>) -> Result<String, String> {
    let mut tops = archive.names().filter_map(|name| name.strip_suffix("/data.pkl")).filter(|top| !top.contains('/'));
    let Some(top) = tops.next() else {
        let some: Vec<_> = archive.names().take(3).collect();
        return Err(format!(
            "is a zip archive but no checkpoint of PyTorch: it has no data.pkl (it holds {some:?}); if a model is in \
             it, unpack it"
        ));
    };
    if let Some(other) = tops.next() {
        return Err(format!("the archive holds two checkpoints, {top} and {other}"));
    }
    if archive.names().any(|name| name.strip_prefix(top).is_some_and(|rest| rest == "/constants.pkl")) {
        return Err("is a TorchScript program (torch.jit.save) and no checkpoint; save model.state_dict()".to_owned());
    }
    Ok(top.to_owned())
}

/// Checks what the archive says of itself.
fn check_layout(archive: &Archive<'_>, top: &str) -> Result<(), String> {
    // Both are a word; `version` lies in `.data` in some.
    let word = |name: &str| -> Result<Option<String>, String> {
        let bytes = archive.read(&format!("{top}/{name}"), 64)?;
        Ok(bytes.map(|b| String::from_utf8_lossy(&b).trim().to_owned()))
    };
    if let Some(order) = word("byteorder")?.filter(|order| order != "little") {
        return Err(format!("its byteorder is {order:?}; load it where it was written and save it as safetensors"));
    }
    let version = word("version")?.or(word(".data/version")?);
    let newer = |v: &String| v.parse::<u64>().map_or(true, |v| v > NEWEST_VERSION);
    match version.filter(newer) {
        Some(version) => Err(format!("its layout has version {version:?}; up to {NEWEST_VERSION} are known")),
        None => Ok(()),
    }
}
