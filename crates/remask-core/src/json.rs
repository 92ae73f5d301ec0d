//! JSON as it comes from outside: with the byte order marks of editors and the `Infinity`, `-Infinity` and `NaN` that
//! Python writes though JSON has no such numbers.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::foreign;
use crate::text;

/// Reads a JSON file's bytes as a tree. Of keys that are there twice the last one counts, as in Python. Numbers that JSON does
/// not have become their names as texts, so that whoever needs a number there refuses the key by its name.
///
/// # Errors
/// What is wrong, in words that go on from the file's name.
pub fn value(bytes: &[u8]) -> Result<Value, String> {
    if let Some(what) = foreign::what_it_is(&bytes[..bytes.len().min(foreign::HEAD as usize)]) {
        return Err(format!("is {what}"));
    }
    let text = without_python_numbers(text::decode(bytes)?);
    serde_json::from_str(&text).map_err(|e| format!("not valid JSON: {e}"))
}

/// Reads a JSON file's bytes, as [`value`] does.
///
/// # Errors
/// As [`value`], and where they are no `T`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_value(value(bytes)?).map_err(|e| e.to_string())
}

/// The numbers that Python writes and JSON does not have, longest first.
const NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// `text` with each of [`NUMBERS`] outside of strings put into quotes; without a copy where there is none.
pub(crate) fn without_python_numbers(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut changed = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at + 1),
            b'-' | b'I' | b'N' => {
                let rest = &bytes[at..];
                match NUMBERS.iter().find(|n| rest.starts_with(n.as_bytes())) {
                    Some(number) => {
                        changed.push_str(&text[copied..at]);
                        changed.extend(["\"", number, "\""]);
                        at += number.len();
                        copied = at;
                    }
                    None => at += 1,
                }
            }
            _ => at += 1,
        }
    }
    if changed.is_empty() {
        return Cow::Borrowed(text);
    }
    changed.push_str(&text[copied..]);
    Cow::Owned(changed)
}

/// Where the string ends that goes on at `at`: behind its quote, or where the text ends.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        let table = [
            (r#"{"a": Infinity, "b": [-Infinity, NaN]}"#, json!({"a": "Infinity", "b": ["-Infinity", "NaN"]})),
            ("NaN", json!("NaN")),
            (r#"{"NaN": "Infinity \" NaN", "\\": -1}"#, json!({"NaN": "Infinity \" NaN", "\\": -1})),
            ("\u{feff}{\"a\": 1, \"a\": 2}", json!({"a": 2})),
            (r#"{"n": 1000000000000000019884624838656}"#, json!({"n": 1e30})),
        ];
        for (text, expected) in table {
            assert_eq!(value(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let deep = "[".repeat(1_000_000);
        let table = [
            ("", "not valid JSON"),
            ("{", "not valid JSON"),
            ("{'a': 1}", "not valid JSON"),
            ("{\"a\": Infinit}", "not valid JSON"),
            ("{\"a\": Infinityx}", "not valid JSON"),
            ("{\"a\": NaNNaN}", "not valid JSON"),
            (&deep, "recursion limit"),
            ("<!DOCTYPE html>", "HTML"),
            ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ];
        for (text, words) in table {
            let problem = value(text.as_bytes()).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
        assert!(value(b"\xFF\xFE{\0}\0").unwrap_err().contains("UTF-16"));
        assert!(value(b"{\"\xFF\": 1}").unwrap_err().contains("byte 2"));
    }

    proptest! {
        #[test]
        fn json_stays_as_it_is(text in "[\\[\\]{}\",:\\\\bIN0-9 -]{0,40}") {
            let ours = value(text.as_bytes()).ok();
            prop_assert_eq!(ours, serde_json::from_str(&text).ok());
        }

        #[test]
        fn any_text_is_scanned(text in any::<String>()) {
            let _ = without_python_numbers(&text);
        }
    }
}
