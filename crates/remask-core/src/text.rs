//! Texts from outside: how they are decoded, and how they are shown to people.

use std::fmt::{self, Display, Write};

/// A text from a file, a path or a prompt as it is shown to people: on one line, with every character escaped that
/// a terminal would obey or a reader could not see. Everything that an error or a listing takes from outside goes
/// through here.
#[derive(Debug, Clone, Copy)]
pub struct Shown<T>(T);

/// Shows `value` as [`Shown`] says.
pub fn shown<T: Display>(value: T) -> Shown<T> {
    Shown(value)
}

impl<T: Display> Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Writes on, escaped.
struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| is_unseen(*c)) {
            self.0.write_str(&text[plain..at])?;
            write!(self.0, "{}", c.escape_default())?;
            plain = at + c.len_utf8();
        }
        self.0.write_str(&text[plain..])
    }
}

/// Control characters; what reorders or hides the text around it; line and paragraph separators.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A text file's bytes as text, without the byte order mark that some editors put in front.
///
/// # Errors
/// What is wrong with them, and what to do.
pub fn decode(bytes: &[u8]) -> Result<&str, String> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err("is UTF-16 text; save it as UTF-8".to_owned());
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|e| format!("is not UTF-8 text (at byte {})", e.valid_up_to()))
}

/// As [`decode`], of what was read from a file: without a copy where there is no mark.
///
/// # Errors
/// As [`decode`].
pub fn decoded(bytes: Vec<u8>) -> Result<String, String> {
    let text = decode(&bytes)?;
    if text.len() == bytes.len() {
        return String::from_utf8(bytes).map_err(|e| e.to_string());
    }
    Ok(text.to_owned())
}

/// Reads a text file.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) where it cannot be read or is no UTF-8 text, with its path.
#[cfg(not(target_arch = "wasm32"))]
pub fn read(path: &std::path::Path) -> crate::Result<String> {
    let bytes = std::fs::read(path).map_err(crate::Error::io("read", path))?;
    let no_text =
        |problem| crate::Error::io("read", path)(std::io::Error::new(std::io::ErrorKind::InvalidData, problem));
    decoded(bytes).map_err(no_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_all_else_stays() {
        let table = [
            ("model.layers.0.q_proj.weight", "model.layers.0.q_proj.weight"),
            ("Stra\u{df}e \u{6f22}\u{5b57} \u{1f600} \\n \"'", "Stra\u{df}e \u{6f22}\u{5b57} \u{1f600} \\n \"'"),
            ("a\u{1b}]0;T\u{7}\u{1b}[31mb\r\n", "a\\u{1b}]0;T\\u{7}\\u{1b}[31mb\\r\\n"),
            ("\u{9b}31m \u{7f}", "\\u{9b}31m \\u{7f}"),
            ("gpj\u{202e}exe\u{200b}\u{2066}", "gpj\\u{202e}exe\\u{200b}\\u{2066}"),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text).to_string(), expected);
            assert_eq!(shown(expected).to_string(), expected, "showing twice changes nothing");
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_text() {
        assert_eq!(decode(b"\xEF\xBB\xBFa"), Ok("a"));
        assert_eq!(decode(b"a\xEF\xBB\xBF"), Ok("a\u{feff}"));
        assert_eq!(decoded(b"\xEF\xBB\xBFa".to_vec()), Ok("a".to_owned()));
        assert!(decode(b"\xFF\xFEa\0").unwrap_err().contains("UTF-16"));
        assert!(decode(b"ab\xFF").unwrap_err().contains("byte 2"));
    }
}
