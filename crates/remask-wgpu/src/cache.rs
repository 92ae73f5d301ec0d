//! Where what was worked out for a device is kept between runs: compiled pipelines.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::profile::AdapterProfile;
use crate::wgsl::SHADERS;

/// Environment variable with the folder that is used in place of the system's for caches; empty for none.
pub const CACHE_VARIABLE: &str = "REMASK_CACHE_DIR";

/// The folder for this user's caches of remask: [`CACHE_VARIABLE`], or what the system has for it
/// (`$XDG_CACHE_HOME` or `~/.cache`, `~/Library/Caches`, `%LOCALAPPDATA%`). `None` where none is wanted or
/// known. It need not exist.
#[must_use]
pub fn cache_folder() -> Option<PathBuf> {
    folder_of(&|name| std::env::var_os(name))
}

fn folder_of(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(own) = variable(CACHE_VARIABLE) {
        return (!own.is_empty()).then(|| own.into());
    }
    // By the XDG rules a path that is not absolute counts as none.
    let absolute = |name| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = if cfg!(windows) {
        absolute("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        absolute("HOME").map(|home| home.join("Library/Caches"))
    } else {
        absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))
    };
    base.map(|base| base.join("remask"))
}

/// A short name for everything that kernels depend on: adapter, driver, this build's shaders.
#[must_use]
pub fn fingerprint(profile: &AdapterProfile) -> String {
    let mut hasher = DefaultHasher::new();
    let AdapterProfile { name, api, driver, vendor, device, .. } = profile;
    (name, api, driver, vendor, device, env!("CARGO_PKG_VERSION"), SHADERS).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Begins every file: what it is, and in which version.
const MAGIC: &[u8; 8] = b"remask\0\x01";

fn checksum(data: &[u8]) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish().to_le_bytes()
}

/// What a file holds, if it was written whole by this build.
///
/// # Errors
/// Why it cannot be used.
pub fn read_checked(file: &Path) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(file).map_err(|e| e.to_string())?;
    let rest = bytes.strip_prefix(MAGIC).ok_or("not a cache of this version")?;
    let (sum, data) = rest.split_first_chunk::<8>().ok_or("cut off")?;
    if *sum == checksum(data) { Ok(data.to_vec()) } else { Err("damaged".to_owned()) }
}

/// Writes a file that [`read_checked`] reads: at once, so that no reader ever sees half of it.
///
/// # Errors
/// The system's, where the folder cannot be made or written to.
pub fn write_checked(file: &Path, data: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    // Of a name that no other process uses.
    let temporary = file.with_extension(format!("{}.new", std::process::id()));
    let written = std::fs::write(&temporary, [&MAGIC[..], &checksum(data), data].concat())
        .and_then(|()| std::fs::rename(&temporary, file));
    if written.is_err() {
        // It may not even be there; the first error is what counts.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Compiled pipelines that are kept in a file, where the driver can do so. Clones share what is compiled.
#[derive(Clone)]
pub struct PipelineCache {
    /// What pipelines are made with.
    pub cache: wgpu::PipelineCache,
    file: PathBuf,
    /// Bytes in the file.
    kept: usize,
}

impl PipelineCache {
    /// The cache of a device in `folder`; empty where there is none yet or it cannot be read.
    /// `None` where the device has no such caches.
    #[must_use]
    pub fn open(device: &wgpu::Device, profile: &AdapterProfile, folder: &Path) -> Option<Self> {
        let key = wgpu::util::pipeline_cache_key(&device.adapter_info()).filter(|_| profile.pipeline_cache)?;
        let file = folder.join("pipelines").join(format!("{key}_{}", fingerprint(profile)));
        let data = read_checked(&file);
        if let Err(why) = &data {
            tracing::debug!("no compiled kernels from {}: {why}", file.display());
        }
        let data = data.ok();
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("remask"), data: data.as_deref(), fallback: true };
        // SAFETY: the data is what `get_data` gave to this build on this adapter and driver: name and
        // checksum of the file say so. Whoever can forge them in the user's own folder can run programs too.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { cache, file, kept: data.map_or(0, |d| d.len()) })
    }

    /// Writes the cache where it has grown. That this fails costs time at the next start and nothing else.
    pub fn save(&mut self) {
        let Some(data) = self.cache.get_data().filter(|data| data.len() > self.kept) else { return };
        match write_checked(&self.file, &data) {
            Ok(()) => {
                tracing::debug!("{} bytes of compiled kernels in {}", data.len(), self.file.display());
                self.kept = data.len();
                self.forget_others();
            }
            Err(e) => tracing::debug!("cannot keep compiled kernels in {}: {e}", self.file.display()),
        }
    }

    /// Removes what earlier builds or drivers kept for this device: nothing reads it any more.
    fn forget_others(&self) {
        let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let own = name(&self.file);
        let Some((device, _)) = own.rsplit_once('_') else { return };
        let folder = self.file.parent().and_then(|folder| folder.read_dir().ok());
        for path in folder.into_iter().flatten().flatten().map(|entry| entry.path()) {
            let other = name(&path);
            let same_device = other.rsplit_once('_').is_some_and(|(d, f)| d == device && f.len() == 16);
            if same_device && other != own && std::fs::remove_file(&path).is_ok() {
                tracing::debug!("removed {}, of another build or driver", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, LimitChoice};
    use crate::kernels::select_reduce;

    #[test]
    fn folders_follow_the_rules_of_the_system() {
        let folder = |set: &[(&str, &str)]| {
            folder_of(&|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
        };
        assert_eq!(folder(&[(CACHE_VARIABLE, "/x/y"), ("HOME", "/h")]), Some("/x/y".into()));
        assert_eq!(folder(&[(CACHE_VARIABLE, ""), ("HOME", "/h")]), None);
        if cfg!(target_os = "linux") {
            assert_eq!(folder(&[("HOME", "/h")]), Some("/h/.cache/remask".into()));
            assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), Some("/c/remask".into()));
            assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "c")]), Some("/h/.cache/remask".into()));
            assert_eq!(folder(&[]), None);
        }
    }

    #[test]
    fn damaged_files_are_told_from_whole_ones() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b/cache_1");
        assert!(read_checked(&file).is_err());
        write_checked(&file, b"some data").unwrap();
        assert_eq!(read_checked(&file).unwrap(), b"some data");
        let whole = std::fs::read(&file).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            assert!(read_checked(&file).is_err(), "{cut} bytes");
            let mut damaged = whole.clone();
            damaged[cut] ^= 4;
            std::fs::write(&file, damaged).unwrap();
            assert!(read_checked(&file).is_err(), "byte {cut}");
        }
        assert_eq!(folder.path().join("a/b").read_dir().unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn pipelines_are_kept_and_damage_is_survived() {
        let folder = tempfile::tempdir().unwrap();
        let files = || -> Vec<PathBuf> {
            let entries = folder.path().join("pipelines").read_dir().into_iter().flatten();
            entries.map(|e| e.unwrap().path()).collect()
        };
        let spec = select_reduce::spec();
        let compile = || {
            let mut gpu = pollster::block_on(Gpu::open(None, LimitChoice::Adapter)).unwrap();
            gpu.keep_pipelines(folder.path());
            pollster::block_on(gpu.kernel(&spec)).unwrap();
            gpu.save_pipelines();
            gpu.profile
        };
        if !compile().pipeline_cache {
            assert_eq!(files(), [""; 0].map(PathBuf::from));
            return;
        }
        let [file] = &files()[..] else { panic!("{:?}", files()) };
        let whole = read_checked(file).unwrap();
        // What an earlier build kept for this device goes when this one writes; other devices' stays.
        let beside = |name: String| file.with_file_name(name);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let device = name.rsplit_once('_').unwrap().0;
        let (earlier, other) = (beside(format!("{device}_0123456789abcdef")), beside("other_0123456789abcdef".into()));
        std::fs::write(&earlier, "old").unwrap();
        std::fs::write(&other, "old").unwrap();
        std::fs::write(file, "damaged").unwrap();
        compile();
        assert_eq!(read_checked(file).unwrap().len(), whole.len());
        assert!(!earlier.exists() && other.exists());
        // A second run finds all that it needs, and has nothing to write.
        let before = std::fs::metadata(file).unwrap().modified().unwrap();
        compile();
        assert_eq!(std::fs::metadata(file).unwrap().modified().unwrap(), before);
    }
}
