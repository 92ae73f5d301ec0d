//! The bytes of one checkpoint file: memory-mapped natively, a static or owned buffer, or read piece by piece
//! from wherever a browser keeps them.

use std::borrow::Cow;
use std::io;
use std::ops::Range;

/// A file that is read in pieces because it does not fit into memory, or need not.
#[allow(clippy::len_without_is_empty)]
pub trait ReadAt {
    /// Bytes of the file.
    fn len(&self) -> u64;

    /// The bytes of `range`, which ends within the file.
    ///
    /// # Errors
    /// Where the file cannot be read, or has become shorter.
    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>>;
}

/// A file that is read in pieces, by as many threads as there may be.
#[cfg(not(target_arch = "wasm32"))]
pub type Pieces = Box<dyn ReadAt + Send + Sync>;
/// A file that is read in pieces.
#[cfg(target_arch = "wasm32")]
pub type Pieces = Box<dyn ReadAt>;

/// Bytes that live as long as the checkpoint that owns them.
pub enum Bytes {
    /// A read-only map of a file; pages come in as they are touched.
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(memmap2::Mmap),
    /// Bytes built into the program.
    Static(&'static [u8]),
    /// Bytes held on the heap.
    Owned(Vec<u8>),
    /// Bytes that are held elsewhere, and copied as they are wanted.
    Pieces(Pieces),
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[allow(clippy::len_without_is_empty)]
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

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Mapped(map) => map.len() as u64,
            Self::Static(bytes) => bytes.len() as u64,
            Self::Owned(bytes) => bytes.len() as u64,
            Self::Pieces(file) => file.len(),
        }
    }

    /// The bytes of `range`, without a copy where they are in memory.
    ///
    /// # Errors
    /// Where the range leaves the file, or the file cannot be read.
    pub fn read(&self, range: Range<u64>) -> io::Result<Cow<'_, [u8]>> {
        let ends = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ends before byte {}", range.end));
        let bytes: &[u8] = match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Pieces(file) => {
                if range.end > file.len() {
                    return Err(ends());
                }
                let wanted = range.end.saturating_sub(range.start);
                let bytes = file.read(range.clone())?;
                return if bytes.len() as u64 == wanted { Ok(Cow::Owned(bytes)) } else { Err(ends()) };
            }
        };
        let within = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let found = within.and_then(|(start, end)| bytes.get(start..end));
        found.map(Cow::Borrowed).ok_or_else(ends)
    }

    /// Tells the system that `range` will be read soon, front to back.
    pub fn will_need(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            let (start, length) = (range.start as usize, (range.end - range.start) as usize);
            // Advice only: a system that refuses it loses speed and nothing else.
            let _ = map.advise_range(memmap2::Advice::WillNeed, start, length);
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Drops the pages of `range` from this process's memory; they are read again if touched.
    pub fn discard(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            let (start, length) = (range.start as usize, (range.end - range.start) as usize);
            // SAFETY: the map is file-backed and read-only, so dropped pages come back unchanged.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, length) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
