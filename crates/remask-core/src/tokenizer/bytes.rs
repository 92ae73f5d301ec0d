//! Bytes as tokens: SentencePiece's `<0x0A>`, and GPT-2's alphabet in which every byte is a printable character.

use std::fmt::Write as _;

/// The id of each byte's token.
#[derive(Debug, Clone)]
pub(super) struct ByteIds(Box<[u32; 256]>);

impl ByteIds {
    /// From a look-up by text; `None` unless every byte has its token.
    pub(super) fn new(id: impl Fn(&str) -> Option<u32>) -> Option<Self> {
        let mut ids = Box::new([0; 256]);
        for (byte, slot) in ids.iter_mut().enumerate() {
            *slot = id(&format!("<0x{byte:02X}>"))?;
        }
        Some(Self(ids))
    }

    /// One id a byte of the text.
    pub(super) fn of(&self, text: &str) -> impl Iterator<Item = u32> {
        text.bytes().map(|byte| self.0[usize::from(byte)])
    }
}

/// The byte that a token such as `<0x0A>` stands for.
pub(super) fn byte_of_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// The character of GPT-2's alphabet that stands for a byte.
pub(super) fn char_of_byte(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        // The others, in order, from U+0100 on: 33 from 0x00, 34 from 0x7F, and 0xAD.
        0..=0x20 => offset(u32::from(byte)),
        0x7F..=0xA0 => offset(u32::from(byte) - 0x7F + 33),
        0xAD => offset(67),
    }
}

fn offset(n: u32) -> char {
    char::from_u32(0x100 + n).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character of that alphabet stands for.
pub(super) fn byte_of_char(c: char) -> Option<u8> {
    match u32::from(c) {
        n @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(n).ok(),
        n @ 0x100..=0x120 => u8::try_from(n - 0x100).ok(),
        n @ 0x121..=0x142 => u8::try_from(n - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Bytes in that alphabet.
pub(super) fn text_of_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char_of_byte(*byte)).collect()
}

/// Bytes that a text in that alphabet stands for; `None` where it is not in it.
pub(super) fn bytes_of_text(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte_of_char).collect()
}

/// For messages: bytes as text where they are that, else as hexadecimal digits.
pub(super) fn shown(bytes: &[u8]) -> String {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::from("0x"), |mut text, byte| {
            let _ = write!(text, "{byte:02X}");
            text
        })
    };
    let start = bytes.get(..24).unwrap_or(bytes);
    std::str::from_utf8(start).map_or_else(|_| hex(start), |text| format!("{text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_the_tokenizers_crates() {
        let mut ours: Vec<_> = (0..=255).map(char_of_byte).collect();
        for byte in 0..=255 {
            assert_eq!(byte_of_char(char_of_byte(byte)), Some(byte));
        }
        let mut theirs: Vec<_> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
        assert_eq!([char_of_byte(b' '), char_of_byte(b'\n'), char_of_byte(0xAD)], ['Ġ', 'Ċ', 'Ń']);
    }

    #[test]
    fn byte_tokens_are_two_digits() {
        assert_eq!([byte_of_token("<0x0A>"), byte_of_token("<0xff>")], [Some(10), Some(255)]);
        assert!(["<0x+1>", "<0x1>", "<0x100>", "0x0A", "<0xé>"].iter().all(|t| byte_of_token(t).is_none()));
    }
}
