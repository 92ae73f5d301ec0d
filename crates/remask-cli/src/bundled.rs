//! Models by name: the one that is part of the binary, and those in a folder `models` beside it.

use std::path::{Path, PathBuf};

use remask_core::{Model, Result};

/// A model built into the program.
pub struct Bundled {
    /// What `--model` calls it.
    pub name: &'static str,
    config: &'static str,
    tokenizer: &'static [u8],
    weights: &'static [u8],
}

/// The model of the binary, and the default.
pub static BUNDLED: Bundled = Bundled {
    name: "tales-33m",
    config: include_str!("../../../models/tales-33m/config.json"),
    tokenizer: include_bytes!("../../../models/tales-33m/tokenizer.json"),
    weights: include_bytes!("../../../models/tales-33m/model.safetensors"),
};

impl Bundled {
    /// The files beside the weights that make up a model folder.
    pub fn companions(&self) -> [(&'static str, &'static [u8]); 2] {
        [("config.json", self.config.as_bytes()), ("tokenizer.json", self.tokenizer)]
    }

    /// Opens it; nothing is copied.
    pub fn open(&self) -> Result<Model> {
        Model::embedded(self.name, self.config, self.tokenizer, self.weights)
    }
}

/// What a name leads to.
pub enum Named {
    /// The model of the binary.
    Bundled(&'static Bundled),
    /// A file or folder.
    Path(PathBuf),
}

/// Finds what `--model` names: a file or folder of that name goes first, then the binary's own model, then a
/// folder of that name among those that came with the program.
pub fn find(name: &str) -> Named {
    let path = Path::new(name);
    if path.exists() {
        return Named::Path(path.to_owned());
    }
    if name == BUNDLED.name {
        return Named::Bundled(&BUNDLED);
    }
    // A name leads nowhere else.
    let plain = path.components().count() == 1;
    let found = shelves().into_iter().map(|shelf| shelf.join(name)).find(|f| plain && f.join("config.json").is_file());
    Named::Path(found.unwrap_or_else(|| path.to_owned()))
}

/// Names that [`find`] knows, the binary's own first.
pub fn names() -> Vec<String> {
    let mut names = vec![BUNDLED.name.to_owned()];
    for shelf in shelves() {
        let folders = std::fs::read_dir(shelf).into_iter().flatten().flatten();
        let models = folders.filter(|f| f.path().join("config.json").is_file());
        names.extend(models.filter_map(|f| f.file_name().into_string().ok()));
    }
    names[1..].sort();
    names.dedup();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// Folders of models: `share/remask/models` beside the program's folder, and `models` of a checkout that it was
/// built in (`target/release/remask`).
fn shelves() -> Vec<PathBuf> {
    let Ok(program) = std::env::current_exe().and_then(|program| program.canonicalize()) else { return Vec::new() };
    let installed = program.ancestors().nth(2).map(|root| root.join("share/remask/models"));
    let target = |folder: &&Path| folder.file_name().is_some_and(|name| name == "target");
    let checkout = program.ancestors().find(target).and_then(Path::parent).map(|root| root.join("models"));
    installed.into_iter().chain(checkout).filter(|shelf| shelf.is_dir()).collect()
}
