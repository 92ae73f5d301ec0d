//! The zip archives that `torch.save` writes: a central directory, and entries that are stored as they are.
//!
//! Only what such archives have is read. Sizes and places come from the central directory (in the local headers they
//! are zero) and are checked against the file and each other before they are believed.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::Bytes;

/// How an archive with entries begins.
pub(super) const MAGIC: &[u8; 4] = b"PK\x03\x04";
/// How an archive without entries begins: with the record that ends every archive.
pub(super) const EMPTY_MAGIC: &[u8; 4] = END;
const END: &[u8; 4] = b"PK\x05\x06";
const END_64: &[u8; 4] = b"PK\x06\x06";
const END_64_LOCATOR: &[u8; 4] = b"PK\x06\x07";
const DIRECTORY: &[u8; 4] = b"PK\x01\x02";

/// Bytes of the record at the end without its comment, of a directory entry and of a local header without their
/// texts, and of the two records of large archives.
const END_SIZE: usize = 22;
const DIRECTORY_SIZE: usize = 46;
const LOCAL_SIZE: usize = 30;
const LOCATOR_SIZE: u64 = 20;
const END_64_SIZE: u64 = 56;

/// Largest directory that is read: torch writes about 100 bytes a tensor.
const DIRECTORY_LIMIT: u64 = 64 << 20;

/// An entry as the directory describes it.
#[derive(Debug)]
struct Entry {
    size: u64,
    packed: u64,
    method: u64,
    encrypted: bool,
    /// Where its local header begins.
    header: u64,
    /// Where the next entry's begins, or the directory.
    next: u64,
}

/// The directory of an archive.
pub(super) struct Archive<'a> {
    bytes: &'a Bytes,
    entries: BTreeMap<String, Entry>,
}

/// The little-endian number in `bytes` at `at`, which has `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, String> {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end));
    let mut number = [0; 8];
    number[..N].copy_from_slice(found.ok_or("a record of the archive is cut off")?);
    Ok(u64::from_le_bytes(number))
}

impl<'a> Archive<'a> {
    /// Reads the directory.
    pub(super) fn open(bytes: &'a Bytes) -> Result<Self, String> {
        let directory = place_of_directory(bytes)?;
        let (start, end) = (directory.bytes.start, directory.bytes.end);
        if end - start > DIRECTORY_LIMIT {
            return Err(format!("the archive's directory has {} bytes, more than {DIRECTORY_LIMIT}", end - start));
        }
        let records = read(bytes, start..end)?;
        let mut entries = BTreeMap::new();
        let mut at = 0;
        for index in 0..directory.entries {
            let wrong = |problem: String| format!("entry {index} of {}: {problem}", directory.entries);
            let (name, entry, length) = records.get(at..).map_or_else(
                || Err("the archive's directory is cut off".to_owned()),
                |record| directory_entry(record).map_err(wrong),
            )?;
            at += length;
            if entries.contains_key(&name) {
                return Err(format!("the archive has two entries called {name}"));
            }
            entries.insert(name, entry);
        }
        close_up(&mut entries, start)?;
        Ok(Self { bytes, entries })
    }

    /// Names of the entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Where the data of an entry lies; `None` where there is no entry of this name.
    pub(super) fn data(&self, name: &str) -> Result<Option<Range<u64>>, String> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let wrong = |problem: &str| format!("entry {name} of the archive {problem}");
        if entry.encrypted {
            return Err(wrong("is encrypted; decrypt it first"));
        }
        if entry.method != 0 {
            return Err(wrong(
                "is compressed, which torch.save never does; unpack the archive and pack it with zip -0",
            ));
        }
        if entry.packed != entry.size {
            return Err(wrong(&format!("has {} bytes in the archive and {} without", entry.packed, entry.size)));
        }
        let behind = entry.header + LOCAL_SIZE as u64;
        if behind > entry.next {
            return Err(wrong("is cut off"));
        }
        let local = read(self.bytes, entry.header..behind)?;
        if !local.starts_with(MAGIC) {
            return Err(wrong("does not begin with its header"));
        }
        let (name_size, extra) = (number::<2>(&local, 26)?, number::<2>(&local, 28)?);
        let start = behind + name_size + extra;
        let end = start.checked_add(entry.size).filter(|end| *end <= entry.next);
        let end = end.ok_or_else(|| wrong("reaches into the next one"))?;
        if *read(self.bytes, behind..behind + name_size)? != *name.as_bytes() {
            return Err(wrong("has another name in its own header"));
        }
        Ok(Some(start..end))
    }

    /// The data of a small entry.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<std::borrow::Cow<'a, [u8]>>, String> {
        let Some(range) = self.data(name)? else { return Ok(None) };
        let size = range.end - range.start;
        if size > limit {
            return Err(format!("entry {name} of the archive has {size} bytes; at most {limit} are read"));
        }
        read(self.bytes, range).map(Some)
    }
}

fn read(bytes: &Bytes, range: Range<u64>) -> Result<std::borrow::Cow<'_, [u8]>, String> {
    bytes.read(range).map_err(|e| format!("cannot be read: {e}"))
}

/// Where the directory lies, and how many entries it claims.
struct Directory {
    bytes: Range<u64>,
    entries: u64,
}

fn place_of_directory(bytes: &Bytes) -> Result<Directory, String> {
    let size = bytes.len();
    // The last record may be followed by a comment of up to 65535 bytes.
    let tail_start = size.saturating_sub(END_SIZE as u64 + 0xFFFF);
    let tail = read(bytes, tail_start..size)?;
    let is_end = |at: &usize| {
        let record = &tail[*at..];
        record.starts_with(END) && number::<2>(record, 20).is_ok_and(|c| c == (record.len() - END_SIZE) as u64)
    };
    let last = tail.len().checked_sub(END_SIZE);
    let found = last.and_then(|last| (0..=last).rev().find(is_end));
    let at = found.ok_or("the archive's directory is missing at its end; truncated, download it again")?;
    let record = &tail[at..];
    let disks = number::<4>(record, 4)?;
    let (mut entries, mut length, mut start) =
        (number::<2>(record, 10)?, number::<4>(record, 12)?, number::<4>(record, 16)?);
    let mut end_of_directory = tail_start + at as u64;
    if let Some(locator) = end_of_directory.checked_sub(LOCATOR_SIZE) {
        let locator_bytes = read(bytes, locator..end_of_directory)?;
        if locator_bytes.starts_with(END_64_LOCATOR) {
            let place = number::<8>(&locator_bytes, 8)?;
            let end = place.checked_add(END_64_SIZE).filter(|end| *end <= locator);
            let end = end.ok_or("the archive's directory for large files lies outside of it")?;
            let record = read(bytes, place..end)?;
            if !record.starts_with(END_64) {
                return Err("the archive's directory for large files is not where it should be".to_owned());
            }
            (entries, length, start) =
                (number::<8>(&record, 32)?, number::<8>(&record, 40)?, number::<8>(&record, 48)?);
            end_of_directory = place;
        }
    }
    if disks != 0 {
        return Err("the archive has several parts; join them first".to_owned());
    }
    let end = start.checked_add(length).filter(|end| *end <= end_of_directory);
    let end = end.ok_or_else(|| {
        format!("the archive's directory claims {length} bytes at byte {start} of {size}; truncated, download it again")
    })?;
    if entries > length / DIRECTORY_SIZE as u64 {
        return Err(format!("the archive claims {entries} entries in a directory of {length} bytes"));
    }
    Ok(Directory { bytes: start..end, entries })
}

/// The entry that `record` begins with: its name, itself, and the bytes that it takes in the directory.
fn directory_entry(record: &[u8]) -> Result<(String, Entry, usize), String> {
    if !record.starts_with(DIRECTORY) {
        return Err("does not begin as entries do".to_owned());
    }
    let [name, extra, comment] = [28, 30, 32].map(|at| number::<2>(record, at).map(|n| n as usize));
    let (name, extra, comment) = (name?, extra?, comment?);
    let length = DIRECTORY_SIZE + name + extra + comment;
    let texts = record.get(DIRECTORY_SIZE..length).ok_or("is cut off")?;
    let mut entry = Entry {
        encrypted: number::<2>(record, 8)? & 0x41 != 0,
        method: number::<2>(record, 10)?,
        packed: number::<4>(record, 20)?,
        size: number::<4>(record, 24)?,
        header: number::<4>(record, 42)?,
        next: 0,
    };
    let mut fields = &texts[name..name + extra];
    while let [a, b, c, d, rest @ ..] = fields {
        let (id, size) = (u16::from_le_bytes([*a, *b]), usize::from(u16::from_le_bytes([*c, *d])));
        let Some((field, rest)) = rest.split_at_checked(size) else { break };
        if id == 1 {
            // Those of the three that do not fit into 32 bits, in this order.
            let mut at = 0;
            for large in [&mut entry.size, &mut entry.packed, &mut entry.header] {
                if *large == 0xFFFF_FFFF {
                    *large = number::<8>(field, at)?;
                    at += 8;
                }
            }
        }
        fields = rest;
    }
    Ok((String::from_utf8_lossy(&texts[..name]).into_owned(), entry, length))
}

/// Lets every entry end where the next one begins, or the directory at `end`; what would overlap is refused.
fn close_up(entries: &mut BTreeMap<String, Entry>, end: u64) -> Result<(), String> {
    let mut by_place: Vec<_> = entries.iter_mut().collect();
    by_place.sort_by_key(|(_, entry)| entry.header);
    let mut next = end;
    for (name, entry) in by_place.into_iter().rev() {
        let own_end = entry.header.checked_add(LOCAL_SIZE as u64).and_then(|e| e.checked_add(entry.packed));
        if own_end.is_none_or(|own| own > next) {
            let Entry { packed, header, .. } = entry;
            return Err(format!(
                "entry {name} of the archive, {packed} bytes at byte {header}, overlaps what lies at byte {next}"
            ));
        }
        entry.next = next;
        next = entry.header;
    }
    Ok(())
}
