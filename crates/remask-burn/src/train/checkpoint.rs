//! Checkpoints of a run that a kill at any moment leaves whole: written beside, synced, renamed into
//! place; a file says how long it is and carries a checksum, and the one before is kept.
//!
//! A file is `MAGIC`, the CRC-32 of all that follows, and `SECTIONS` sections, each its length
//! (u64, little-endian) and its bytes: state (JSON), weights and averaged weights (safetensors, float32,
//! LLaDA's names), the optimiser's state (Burn's own format).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use remask_core::{Error, Result};

const MAGIC: &[u8; 8] = b"REMASKT1";
const SECTIONS: usize = 4;

/// Checkpoints that are kept: the newest, and those that stand in where it is broken.
const KEPT: usize = 3;

/// The sections of a checkpoint, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sections(pub [Vec<u8>; SECTIONS]);

/// Writes a file so that whoever reads it finds the old contents or the new, never a part.
///
/// # Errors
/// [`Error::Io`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("partial");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        // Before the rename: a name must never lead to bytes that are still on their way.
        file.sync_all()
    };
    write().map_err(Error::io("write", &beside))?;
    std::fs::rename(&beside, path).map_err(Error::io("rename to", path))?;
    // The rename itself is durable once the folder is; not every system can sync one.
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        let _ = folder.sync_all();
    }
    Ok(())
}

fn file_of(folder: &Path, step: u32) -> PathBuf {
    folder.join(format!("step-{step:08}.checkpoint"))
}

/// Steps of the checkpoints in `folder`, the newest first.
///
/// # Errors
/// [`Error::Io`].
pub fn steps(folder: &Path) -> Result<Vec<u32>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read the folder", folder))? {
        let name = entry.map_err(Error::io("read the folder", folder))?.file_name();
        let name = name.to_string_lossy();
        let step = name.strip_prefix("step-").and_then(|n| n.strip_suffix(".checkpoint"));
        found.extend(step.and_then(|s| s.parse::<u32>().ok()));
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Writes the checkpoint of `step` and removes those that are no longer needed.
///
/// # Errors
/// [`Error::Io`].
pub fn save(folder: &Path, step: u32, sections: &Sections) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
    let mut body = Vec::new();
    for section in &sections.0 {
        body.extend((section.len() as u64).to_le_bytes());
        body.extend(section);
    }
    let bytes = [&MAGIC[..], &crc32fast::hash(&body).to_le_bytes(), &body].concat();
    write_whole(&file_of(folder, step), &bytes)?;
    for old in steps(folder)?.into_iter().skip(KEPT) {
        let old = file_of(folder, old);
        std::fs::remove_file(&old).map_err(Error::io("remove", old))?;
    }
    Ok(())
}

/// A checkpoint and the step it was taken after.
pub type Saved = (u32, Sections);

/// The newest checkpoint that is whole, its step, and a sentence about each newer one that is not.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be read; [`Error::Checkpoint`] where there are checkpoints and
/// none is whole.
pub fn newest(folder: &Path) -> Result<(Option<Saved>, Vec<String>)> {
    let mut broken = Vec::new();
    for step in steps(folder)? {
        let file = file_of(folder, step);
        match std::fs::read(&file).map_err(|e| e.to_string()).and_then(|bytes| open(&bytes)) {
            Ok(sections) => return Ok((Some((step, sections)), broken)),
            Err(problem) => broken.push(format!("{}: {problem}; the checkpoint before it is used", file.display())),
        }
    }
    match broken.first() {
        None => Ok((None, broken)),
        Some(first) => {
            let problem = format!("none of its {} checkpoints is whole ({first})", broken.len());
            Err(Error::Checkpoint { file: folder.display().to_string(), problem })
        }
    }
}

/// The sections of a checkpoint's bytes, or what is wrong with them.
fn open(bytes: &[u8]) -> Result<Sections, String> {
    let body = bytes.strip_prefix(MAGIC).ok_or("is no checkpoint of a training run")?;
    let (sum, mut body) = body.split_first_chunk::<4>().ok_or("is truncated")?;
    let whole = crc32fast::hash(body) == u32::from_le_bytes(*sum);
    let mut sections: [Vec<u8>; SECTIONS] = Default::default();
    for section in &mut sections {
        let (length, rest) = body.split_first_chunk::<8>().ok_or("is truncated")?;
        let length = u64::from_le_bytes(*length);
        if length > rest.len() as u64 {
            return Err(format!("is truncated: {} of {length} bytes of a section are there", rest.len()));
        }
        let (own, rest) = rest.split_at(length as usize);
        *section = own.to_vec();
        body = rest;
    }
    if whole { Ok(Sections(sections)) } else { Err("its checksum is wrong".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(mark: u8) -> Sections {
        Sections([vec![mark; 5], vec![], vec![mark; 300], vec![7, mark]])
    }

    #[test]
    fn whatever_is_cut_or_changed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 3, &sections(1)).unwrap();
        let bytes = std::fs::read(file_of(folder.path(), 3)).unwrap();
        assert_eq!(open(&bytes), Ok(sections(1)));
        for length in 0..bytes.len() {
            assert!(open(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            assert!(open(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_newest_whole_one_is_used_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest(&folder.path().join("none")).unwrap(), (None, vec![]));
        for step in [5, 10, 100, 1000] {
            save(folder.path(), step, &sections(step as u8)).unwrap();
        }
        assert_eq!(steps(folder.path()).unwrap(), [1000, 100, 10]);
        // What a kill in the middle of writing leaves.
        std::fs::write(folder.path().join("step-00002000.partial"), [1, 2]).unwrap();
        assert_eq!(newest(folder.path()).unwrap(), (Some((1000, sections(1000u32 as u8))), vec![]));

        let cut = |step| File::options().write(true).open(file_of(folder.path(), step)).unwrap().set_len(40).unwrap();
        cut(1000);
        let (found, broken) = newest(folder.path()).unwrap();
        assert_eq!(found, Some((100, sections(100))));
        assert!(
            broken.len() == 1 && broken[0].contains("step-00001000") && broken[0].contains("truncated"),
            "{broken:?}"
        );
        cut(100);
        cut(10);
        assert!(newest(folder.path()).unwrap_err().to_string().contains("none of its 3 checkpoints is whole"));
    }
}
