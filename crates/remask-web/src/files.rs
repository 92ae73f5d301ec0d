//! Model files on their way in: collected and hashed chunk by chunk, so that no file is held twice.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use remask_core::BackendError;
use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::*;

use crate::fault::thrown;

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

    /// Begins a file, or begins it again, with room for `bytes`.
    ///
    /// # Errors
    /// Where the tab's memory does not hold it.
    pub fn begin(&mut self, name: &str, bytes: f64) -> Result<(), JsValue> {
        let mut file = Vec::new();
        file.try_reserve_exact(bytes as usize).map_err(|_| {
            thrown(BackendError::OutOfMemory { action: format!("reading {name} into the tab"), bytes: bytes as u64 })
        })?;
        self.files.insert(name.to_owned(), file);
        self.hashes.insert(name.to_owned(), Sha256::new());
        Ok(())
    }

    /// Adds bytes to a file that was begun.
    pub fn push(&mut self, name: &str, bytes: &[u8]) {
        if let (Some(file), Some(hash)) = (self.files.get_mut(name), self.hashes.get_mut(name)) {
            file.extend_from_slice(bytes);
            hash.update(bytes);
        }
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

    /// Drops a file.
    pub fn remove(&mut self, name: &str) {
        self.files.remove(name);
        self.hashes.remove(name);
    }
}

impl Files {
    /// Takes a file out.
    pub fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        self.files.remove(name)
    }

    /// Takes every checkpoint file out, by name.
    pub fn take_weights(&mut self) -> Vec<(String, Vec<u8>)> {
        let names: Vec<_> = self.files.keys().filter(|n| n.ends_with(".safetensors")).cloned().collect();
        names.into_iter().filter_map(|n| self.files.remove(&n).map(|bytes| (n, bytes))).collect()
    }
}
