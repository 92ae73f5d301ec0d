//! Keys of clients: kept as hashes, compared all and in constant time.

use std::io;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Keys that open a door.
pub struct Keys {
    hashes: RwLock<Vec<[u8; 32]>>,
}

/// Bytes of a file of keys; more is no such file.
const MOST_BYTES: u64 = 1 << 20;

/// The keys of a file: one a line, but for empty lines and comments.
///
/// # Errors
/// Where the file cannot be read, or holds no key, which would open the door to everybody. The file is named.
pub fn read_keys(file: &Path) -> io::Result<Vec<String>> {
    let named = |problem: io::Error| io::Error::new(problem.kind(), format!("{}: {problem}", file.display()));
    if std::fs::metadata(file).map_err(named)?.len() > MOST_BYTES {
        return Err(named(io::Error::other(format!("it is larger than {MOST_BYTES} bytes"))));
    }
    let text = std::fs::read_to_string(file).map_err(named)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<_> = lines.map(str::to_owned).collect();
    if keys.is_empty() {
        return Err(named(io::Error::new(io::ErrorKind::InvalidData, "no key in it, which would open the server")));
    }
    Ok(keys)
}

impl Keys {
    /// These; without any the door is open.
    #[must_use]
    pub fn new(keys: &[String]) -> Self {
        Self { hashes: RwLock::new(keys.iter().map(|key| hash(key)).collect()) }
    }

    /// Other keys from now on.
    pub fn replace(&self, keys: &[String]) {
        let hashes = keys.iter().map(|key| hash(key)).collect();
        *self.hashes.write().unwrap_or_else(PoisonError::into_inner) = hashes;
    }

    /// Whether anybody may pass.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.hashes.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether who sent these headers may pass.
    #[must_use]
    pub fn open_for(&self, headers: &HeaderMap) -> bool {
        self.is_open() || key_in(headers).is_some_and(|key| self.fits(key))
    }

    fn fits(&self, key: &str) -> bool {
        let given = hash(key);
        let one = |found: Choice, known: &[u8; 32]| found | known.ct_eq(&given);
        let hashes = self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        hashes.iter().fold(Choice::from(0), one).into()
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

    #[test]
    fn a_file_gives_a_key_a_line() {
        let folder = std::env::temp_dir().join(format!("remask-keys-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("keys");
        std::fs::write(&file, "# mine\n one \n\ntwo\n").unwrap();
        assert_eq!(read_keys(&file).unwrap(), ["one", "two"]);
        std::fs::write(&file, "# none\n").unwrap();
        let problem = read_keys(&file).unwrap_err().to_string();
        assert!(problem.contains("keys: no key in it"), "{problem}");
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(read_keys(&file).unwrap_err().to_string().contains(&file.display().to_string()));
    }
}
