//! Keys of clients: kept as hashes, compared all and in constant time.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Keys that open a door.
#[derive(Clone)]
pub struct Keys {
    hashes: Vec<[u8; 32]>,
}

impl Keys {
    /// These; without any the door is open.
    #[must_use]
    pub fn new(keys: &[String]) -> Self {
        Self { hashes: keys.iter().map(|key| hash(key)).collect() }
    }

    /// Whether anybody may pass.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Whether who sent these headers may pass.
    #[must_use]
    pub fn open_for(&self, headers: &HeaderMap) -> bool {
        self.is_open() || key_in(headers).is_some_and(|key| self.fits(key))
    }

    fn fits(&self, key: &str) -> bool {
        let given = hash(key);
        let one = |found: Choice, known: &[u8; 32]| found | known.ct_eq(&given);
        self.hashes.iter().fold(Choice::from(0), one).into()
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// The key that a client sent.
#[must_use]
pub fn key_in(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn a_key_opens_in_either_header_and_any_case() {
        let keys = Keys::new(&["one".to_owned(), "two".to_owned()]);
        for (name, value, opens) in [
            ("authorization", "Bearer one", true),
            ("authorization", "bEARER  two", true),
            ("x-api-key", "two", true),
            ("authorization", "Bearer three", false),
            ("authorization", "Basic one", false),
            ("authorization", "one", false),
            ("x-other", "one", false),
        ] {
            assert_eq!(keys.open_for(&headers(name, value)), opens, "{name}: {value}");
        }
        assert!(Keys::new(&[]).open_for(&HeaderMap::new()));
    }
}
