//! Models that are part of the binary.

use std::path::Path;

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
pub static BUNDLED: &[Bundled] = &[Bundled {
    name: "tales-33m",
    config: include_str!("../../../models/tales-33m/config.json"),
    tokenizer: include_bytes!("../../../models/tales-33m/tokenizer.json"),
    weights: include_bytes!("../../../models/tales-33m/model.safetensors"),
}];

impl Bundled {
    /// The bundled model called `name`; a file or folder of that name goes before it.
    pub fn find(name: &str) -> Option<&'static Self> {
        BUNDLED.iter().find(|b| b.name == name && !Path::new(name).exists())
    }

    /// The files beside the weights that make up a model folder.
    pub fn companions(&self) -> [(&'static str, &'static [u8]); 2] {
        [("config.json", self.config.as_bytes()), ("tokenizer.json", self.tokenizer)]
    }

    /// Opens it; nothing is copied.
    pub fn open(&self) -> Result<Model> {
        Model::embedded(self.name, self.config, self.tokenizer, self.weights)
    }
}
