//! Where compiled kernels and tuning are kept: a server may run as anybody, anywhere, without a home.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use remask_wgpu::{CACHE_VARIABLE, cache_folder};

/// Chooses the folder that the engine uses, and says what there is to say about it.
pub fn choose(named: Option<&OsStr>) -> Option<String> {
    if let Some(named) = named {
        let note = (!named.is_empty()).then(|| usable(Path::new(named)).err()).flatten();
        let shown = Path::new(named).display();
        set(note.as_ref().map_or(named, |_| OsStr::new("")));
        return note.map(|problem| format!("{shown} cannot be used, nothing is kept for the next start: {problem}"));
    }
    let usual = cache_folder();
    if usual.as_deref().is_some_and(|folder| usable(folder).is_ok()) {
        return None;
    }
    match temporary() {
        Ok(folder) => {
            set(folder.as_os_str());
            let place = folder.display();
            Some(format!("no folder for caches can be written to; compiled kernels and tuning are kept in {place}"))
        }
        Err(problem) => {
            set(OsStr::new(""));
            Some(format!(
                "no folder can be written to ({problem}): kernels are compiled at every start; --cache-dir names one"
            ))
        }
    }
}

fn set(folder: &OsStr) {
    // SAFETY: called before the engine, the server or anything else has started a thread.
    unsafe { std::env::set_var(CACHE_VARIABLE, folder) };
}

/// Whether files can be written in a folder, which is made where there is none.
fn usable(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    probe(folder).map(drop)
}

/// Writes a file and removes it again; what it was.
fn probe(folder: &Path) -> std::io::Result<std::fs::Metadata> {
    let file = folder.join(format!(".remask-{}", std::process::id()));
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&file)?;
    let metadata = made.metadata();
    std::fs::remove_file(&file)?;
    metadata
}

/// A folder among the system's temporary files that nobody else can write to: what lies in it is given to drivers.
fn temporary() -> std::io::Result<PathBuf> {
    let folder = std::env::temp_dir().join("remask-cache");
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(&folder) {
        Err(problem) if problem.kind() != std::io::ErrorKind::AlreadyExists => return Err(problem),
        _ => {}
    }
    let own = probe(&folder)?;
    let found = std::fs::symlink_metadata(&folder)?;
    #[cfg(unix)]
    let private = {
        use std::os::unix::fs::MetadataExt;
        found.uid() == own.uid() && found.mode() & 0o077 == 0
    };
    #[cfg(not(unix))]
    let private = own.is_file();
    if found.is_dir() && private {
        Ok(folder)
    } else {
        Err(std::io::Error::other(format!("{} belongs to somebody else", folder.display())))
    }
}
