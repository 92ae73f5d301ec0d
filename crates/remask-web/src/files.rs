//! Model files on their way in: collected and hashed chunk by chunk, so that no file is held twice.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use remask_core::BackendError;
use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::*;

use crate::fault::thrown;

/// What the names of checkpoint files end with.
const WEIGHTS: &str = ".safetensors";

/// The files of a model, by name.
#[wasm_bindgen]
#[derive(Default)]
pub struct Files {
    files: BTreeMap<String, Vec<u8>>,
    hashes: BTreeMap<String, Sha256>,
}

#[wasm_bindgen]
impl Files {
    /// No files.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a file, or begins it again, with room for `bytes`; `hash` where its hash will be asked for.
    ///
    /// # Errors
    /// Where the tab's memory does not hold it.
    pub fn begin(&mut self, name: &str, bytes: f64, hash: bool) -> Result<(), JsValue> {
        let mut file = Vec::new();
        file.try_reserve_exact(bytes as usize).map_err(|_| no_room(name, bytes as usize))?;
        self.files.insert(name.to_owned(), file);
        self.hashes.remove(name);
        if hash {
            self.hashes.insert(name.to_owned(), Sha256::new());
        }
        Ok(())
    }

    /// Spares a file that was begun its hash.
    pub fn without_hash(&mut self, name: &str) {
        self.hashes.remove(name);
    }

    /// Adds bytes to a file that was begun.
    ///
    /// # Errors
    /// Where the tab's memory does not hold them.
    pub fn push(&mut self, name: &str, bytes: &[u8]) -> Result<(), JsValue> {
        if let Some(file) = self.files.get_mut(name) {
            file.try_reserve(bytes.len()).map_err(|_| no_room(name, file.len() + bytes.len()))?;
            file.extend_from_slice(bytes);
        }
        if let Some(hash) = self.hashes.get_mut(name) {
            hash.update(bytes);
        }
        Ok(())
    }

    /// SHA-256 of a file as it stands, in hexadecimal digits.
    pub fn sha256(&self, name: &str) -> Option<String> {
        let digest = self.hashes.get(name)?.clone().finalize();
        Some(digest.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }

    /// A file as text, where it is one.
    pub fn text(&self, name: &str) -> Option<String> {
        self.files.get(name).and_then(|bytes| String::from_utf8(bytes.clone()).ok())
    }

    /// A checkpoint file up to the end of its header, where that is there already.
    pub fn head(&self, name: &str) -> Option<Vec<u8>> {
        let bytes = self.files.get(name)?;
        let length = u64::from_le_bytes(*bytes.first_chunk()?);
        bytes.get(..8usize.checked_add(usize::try_from(length).ok()?)?).map(<[u8]>::to_vec)
    }

    /// Bytes of the checkpoint files together.
    pub fn weight_bytes(&self) -> f64 {
        self.files.iter().filter(|(name, _)| name.ends_with(WEIGHTS)).map(|(_, bytes)| bytes.len()).sum::<usize>()
            as f64
    }

    /// Drops a file.
    pub fn remove(&mut self, name: &str) {
        self.files.remove(name);
        self.hashes.remove(name);
    }
}

fn no_room(name: &str, bytes: usize) -> JsValue {
    thrown(BackendError::OutOfMemory { action: format!("reading {name} into the tab"), bytes: bytes as u64 })
}

impl Files {
    /// Takes a file out.
    pub fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        self.files.remove(name)
    }

    /// Takes every checkpoint file out, by name.
    pub fn take_weights(&mut self) -> Vec<(String, Vec<u8>)> {
        let names: Vec<_> = self.files.keys().filter(|n| n.ends_with(WEIGHTS)).cloned().collect();
        names.into_iter().filter_map(|n| self.files.remove(&n).map(|bytes| (n, bytes))).collect()
    }
}
