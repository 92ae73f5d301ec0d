//! SentencePiece's precompiled map of characters: a double-array trie (as Darts-clone writes it) from byte
//! sequences to replacements. Every index that the file gives is checked when it is followed.

use unicode_segmentation::UnicodeSegmentation;

/// The map: `[bytes of the trie, u32][trie, u32 units][replacements, each ended by a zero]`.
#[derive(Debug, Clone)]
pub(super) struct Charsmap {
    bytes: Vec<u8>,
    trie: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    /// Reads a map; `None` for an empty one, which changes nothing.
    ///
    /// # Errors
    /// Where its sizes disagree or the replacements are no text.
    pub(super) fn new(bytes: &[u8]) -> Result<Option<Self>, String> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let cut_off = || format!("precompiled_charsmap is cut off after {} bytes", bytes.len());
        let (size, rest) = bytes.split_first_chunk().ok_or_else(cut_off)?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, replacements) = rest.split_at_checked(size).ok_or_else(cut_off)?;
        let (units, odd) = trie.as_chunks();
        if units.is_empty() || !odd.is_empty() {
            return Err(format!("precompiled_charsmap: a trie of {size} bytes"));
        }
        let replacements = std::str::from_utf8(replacements);
        Ok(Some(Self {
            trie: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: replacements.map_err(|_| "precompiled_charsmap is not UTF-8 text".to_owned())?.to_owned(),
            bytes: bytes.to_vec(),
        }))
    }

    /// The file's bytes, to write it out again.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `(length, replacement)` of every entry that `text` begins with, shortest first.
    fn entries<'a>(&'a self, text: &str) -> impl Iterator<Item = (usize, &'a str)> {
        let unit = |at: usize| self.trie.get(at).copied();
        let mut node = unit(0).map(offset);
        let ends = text.bytes().enumerate().map_while(move |(index, byte)| {
            let at = node? ^ usize::from(byte);
            let found = unit(at).filter(|u| byte != 0 && label(*u) == u32::from(byte))?;
            let next = at ^ offset(found);
            node = Some(next);
            let leaf = (found >> 8) & 1 == 1;
            Some(leaf.then(|| (index + 1, unit(next))))
        });
        ends.flatten().filter(|(length, _)| text.is_char_boundary(*length)).filter_map(|(length, value)| {
            let start = (value? & 0x7FFF_FFFF) as usize;
            Some((length, self.replacements.get(start..)?.split('\0').next()?))
        })
    }

    /// As SentencePiece reads it: the longest entry that `text` begins with, which may be several characters.
    pub(super) fn longest(&self, text: &str) -> Option<(usize, &str)> {
        self.entries(text).last()
    }

    /// As the tokenizers crate reads it, which looks up a grapheme of less than six bytes in one and longer ones
    /// by character, and takes the shortest entry that one begins with as the whole of it.
    pub(super) fn by_grapheme(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for grapheme in text.graphemes(true) {
            if let Some((_, replacement)) = self.entries(grapheme).next().filter(|_| grapheme.len() < 6) {
                out.push_str(replacement);
                continue;
            }
            let mut buffer = [0; 4];
            for c in grapheme.chars() {
                let c: &str = c.encode_utf8(&mut buffer);
                out.push_str(self.entries(c).next().map_or(c, |(_, replacement)| replacement));
            }
        }
        out
    }
}

fn label(unit: u32) -> u32 {
    unit & (1 << 31 | 0xFF)
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}
