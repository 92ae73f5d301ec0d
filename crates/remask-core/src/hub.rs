//! Folders as Hugging Face's tools keep what they downloaded: `models--ORG--NAME` with `refs` (what a branch stood
//! for) and `snapshots` (a folder a version), and the folder of all of these.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::text::shown;

/// How folders of one model begin.
const MODEL: &str = "models--";

/// The folder that holds the files of the model at `path`: the newest version's where `path` is a model's folder in
/// such a cache, else `path` itself.
///
/// # Errors
/// [`Error::Request`] where the cache has several that may be meant, with their names.
pub(crate) fn files_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() || path.join("config.json").exists() {
        return Ok(path.to_owned());
    }
    if path.join("snapshots").is_dir() {
        return snapshot(path);
    }
    match &subfolders(path, MODEL)[..] {
        [] => Ok(path.to_owned()),
        [only] => files_of(&path.join(only)),
        several => Err(which(path, "models", several)),
    }
}

/// The version of a model that its `main` stands for, or the only one.
fn snapshot(path: &Path) -> Result<PathBuf> {
    let snapshots = path.join("snapshots");
    let main = std::fs::read_to_string(path.join("refs").join("main")).unwrap_or_default();
    let main = main.trim();
    // A version is a hash: nothing that could lead elsewhere.
    if !main.is_empty() && main.bytes().all(|b| b.is_ascii_alphanumeric()) && snapshots.join(main).is_dir() {
        return Ok(snapshots.join(main));
    }
    match &subfolders(&snapshots, "")[..] {
        [only] => Ok(snapshots.join(only)),
        [] => {
            Err(Error::Request(format!("{} holds no version of the model; download it again", shown(path.display()))))
        }
        several => Err(which(&snapshots, "versions", several)),
    }
}

fn which(path: &Path, what: &str, names: &[String]) -> Error {
    let some = names.iter().take(9).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if names.len() > 9 { ", ..." } else { "" };
    let problem = format!("holds {} {what}; name the folder of one: {some}{more}", names.len());
    Error::Request(format!("{} {problem}", path.display()))
}

/// Names of the folders in `path` that begin with `start`, in order.
fn subfolders(path: &Path, start: &str) -> Vec<String> {
    let entries = path.read_dir().into_iter().flatten().flatten();
    let folders = entries.filter(|e| e.path().is_dir());
    let mut names: Vec<_> = folders.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with(start));
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_a_cache_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let make = |name: &str| std::fs::create_dir_all(cache.path().join(name)).unwrap();
        let write = |name: &str, text: &str| std::fs::write(cache.path().join(name), text).unwrap();
        let found = |name: &str| files_of(&cache.path().join(name)).map_err(|e| e.to_string());
        let at = |name: &str| Ok(cache.path().join(name));
        make("models--a--b/snapshots/0a1");
        make("models--a--b/refs");
        assert_eq!(found("models--a--b"), at("models--a--b/snapshots/0a1"));
        assert_eq!(found(""), at("models--a--b/snapshots/0a1"), "the only model");
        make("models--a--b/snapshots/0b2");
        assert!(found("models--a--b").unwrap_err().contains("2 versions; name the folder of one: 0a1, 0b2"));
        write("models--a--b/refs/main", "0b2\n");
        assert_eq!(found("models--a--b"), at("models--a--b/snapshots/0b2"));
        write("models--a--b/refs/main", "../..");
        assert!(found("models--a--b").unwrap_err().contains("2 versions"));
        make("models--c--d/snapshots");
        assert!(found("").unwrap_err().contains("models--a--b, models--c--d"));
        assert!(found("models--c--d").unwrap_err().contains("no version"));
        // A model's own folder, whatever lies beside its files.
        make("own/snapshots");
        write("own/config.json", "{}");
        assert_eq!(found("own"), at("own"));
        assert_eq!(found("own/config.json"), at("own/config.json"));
        make("empty");
        assert_eq!(found("empty"), at("empty"));
    }
}
