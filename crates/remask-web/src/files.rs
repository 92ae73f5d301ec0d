//! Model files as the package hands them over: read range by range, so that none is ever held as a whole.

use std::fmt::Write as _;
use std::io;
use std::ops::Range;

use js_sys::Uint8Array;
use remask_core::checkpoint::{Bytes, ReadAt};
use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// A file of a model on this machine.
    pub type ModelFile;

    #[wasm_bindgen(method, getter)]
    fn name(this: &ModelFile) -> String;

    #[wasm_bindgen(method, getter)]
    fn size(this: &ModelFile) -> f64;

    #[wasm_bindgen(method, catch)]
    fn read(this: &ModelFile, start: f64, end: f64) -> Result<Uint8Array, JsValue>;
}

impl ReadAt for ModelFile {
    fn len(&self) -> u64 {
        self.size() as u64
    }

    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let found = self.read(range.start as f64, range.end as f64);
        let found = found.map_err(|e| io::Error::other(e.as_string().unwrap_or_else(|| js_text(&e))))?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(found.length() as usize).map_err(io::Error::other)?;
        bytes.resize(found.length() as usize, 0);
        found.copy_to(&mut bytes);
        Ok(bytes)
    }
}

/// What a thrown thing says.
fn js_text(thrown: &JsValue) -> String {
    let message = js_sys::Reflect::get(thrown, &"message".into());
    message.ok().and_then(|m| m.as_string()).unwrap_or_else(|| "it cannot be read".to_owned())
}

/// The files of a model.
pub struct Files(Vec<ModelFile>);

impl Files {
    /// These files.
    pub fn new(files: Vec<ModelFile>) -> Self {
        Self(files)
    }

    /// Takes a file out.
    pub fn take(&mut self, name: &str) -> Option<Bytes> {
        let at = self.0.iter().position(|file| file.name() == name)?;
        Some(Bytes::Pieces(Box::new(self.0.swap_remove(at))))
    }

    /// Takes every file out whose name ends with `end`, with its name, in order of the names.
    pub fn take_all(&mut self, end: &str) -> Vec<(String, Bytes)> {
        self.take_those(|name| name.ends_with(end))
    }

    /// Takes every file out whose name `wanted` says yes to, with its name, in order of the names.
    pub fn take_those(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<(String, Bytes)> {
        let mut names: Vec<_> = self.0.iter().map(ModelFile::name).filter(|name| wanted(name)).collect();
        names.sort_unstable();
        names.into_iter().filter_map(|name| self.take(&name).map(|bytes| (name, bytes))).collect()
    }
}

/// SHA-256 of what comes in piece by piece.
#[wasm_bindgen]
#[derive(Default)]
pub struct Hash(Sha256);

#[wasm_bindgen]
impl Hash {
    /// Of nothing.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of what came so far and of `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// In hexadecimal digits, as it stands.
    pub fn hex(&self) -> String {
        self.0.clone().finalize().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}
