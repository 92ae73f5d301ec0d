//! Models that are part of the binary.

use remask_core::{Model, Result};

/// A model built into the program.
pub struct Bundled {
    /// What `--model` calls it.
    pub name: &'static str,
    config: &'static str,
    tokenizer: &'static [u8],
    weights: &'static [u8],
}

/// The bundled models; the first is the default.
pub const BUNDLED: &[Bundled] = &[Bundled {
    name: "tales-33m",
    config: include_str!("../../../models/tales-33m/config.json"),
    tokenizer: include_bytes!("../../../models/tales-33m/tokenizer.json"),
    weights: include_bytes!("../../../models/tales-33m/model.safetensors"),
}];

impl Bundled {
    /// Opens it; nothing is copied.
    pub fn open(&self) -> Result<Model> {
        Model::embedded(self.name, self.config, self.tokenizer, self.weights)
    }
}
