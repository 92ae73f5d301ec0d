//! The bytes of one checkpoint file: memory-mapped natively, a static or owned buffer elsewhere.

use std::ops::{Deref, Range};

/// Bytes that live as long as the checkpoint that owns them.
pub enum Bytes {
    /// A read-only map of a file; pages come in as they are touched.
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(memmap2::Mmap),
    /// Bytes built into the program.
    Static(&'static [u8]),
    /// Bytes held on the heap, for example fetched by a browser.
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Bytes {
    /// Maps `path` read-only.
    ///
    /// # Errors
    /// [`crate::Error::Io`] where the file cannot be opened or mapped.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn map(path: &std::path::Path) -> crate::Result<Self> {
        use crate::Error;
        let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: the map is read-only and private to us. Truncating a checkpoint while it is being
        // loaded would fault, as it does for every loader that maps; we never write to it.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Self::Mapped(map))
    }

    /// Tells the system that `range` will be read soon, front to back.
    pub fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // Advice only: a system that refuses it loses speed and nothing else.
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Drops the pages of `range` from this process's memory; they are read again if touched.
    pub fn discard(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // SAFETY: the map is file-backed and read-only, so dropped pages come back unchanged.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
