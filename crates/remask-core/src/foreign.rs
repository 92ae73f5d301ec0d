//! Files that are not what their place says: what they are instead, and what to do about it.

/// Bytes from the beginning of a file that are looked at.
pub const HEAD: u64 = 1024;

/// How files begin, what those are called, and what to do with them.
const MAGICS: &[(&[u8], &str)] = &[
    (b"GGUF", "a GGUF file; name it as the model itself"),
    // Number 0x67676d6c and its successors, as little-endian machines wrote them.
    (b"lmgg", "a GGML file from before GGUF; convert the original model to GGUF again"),
    (b"fmgg", "a GGML file from before GGUF; convert the original model to GGUF again"),
    (b"tjgg", "a GGML file from before GGUF; convert the original model to GGUF again"),
    (b"algg", "a GGML adapter from before GGUF; adapters are not supported"),
    (b"GGML", "a GGML file from before GGUF; convert the original model to GGUF again"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"PK\x05\x06", "an empty zip archive; download it again"),
    (b"\x1F\x8B", "a gzip archive; unpack it"),
    (b"BZh", "a bzip2 archive; unpack it"),
    (b"\xFD7zXZ\0", "an xz archive; unpack it"),
    (b"\x28\xB5\x2F\xFD", "a zstd archive; unpack it"),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive; unpack it"),
    (b"Rar!\x1A\x07", "a RAR archive; unpack it"),
    (b"\x89HDF\r\n\x1A\n", "an HDF5 file, as Keras writes it; get the model as safetensors"),
    (b"\x93NUMPY", "a NumPy array; get the model as safetensors"),
    (b"%PDF-", "a PDF document; download the file itself"),
];

/// What a file that begins with `first` (at least [`HEAD`] bytes, or the whole file) is and what to do about it, in
/// words that go on from "is": for files that were to be something else.
#[must_use]
pub fn what_it_is(first: &[u8]) -> Option<String> {
    if let Some(pointer) = first.strip_prefix(b"version https://git-lfs.github.com/spec/") {
        let size = String::from_utf8_lossy(pointer);
        let size = size.lines().find_map(|l| l.strip_prefix("size ")?.trim().parse::<u64>().ok());
        let size = size.map(|s| format!(" of {s} bytes")).unwrap_or_default();
        return Some(format!(
            "a Git LFS pointer and not the file{size} that it stands for; run `git lfs pull` in the repository, or \
             download the file itself"
        ));
    }
    let text = first.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(first).trim_ascii_start();
    let begins = |with: &str| text.get(..with.len()).is_some_and(|t| t.eq_ignore_ascii_case(with.as_bytes()));
    if ["<!doctype html", "<html", "<head", "<body"].into_iter().any(begins) {
        return Some(
            "an HTML page, as servers send it with an error or to ask who you are; download the file again, with a \
             token where its owner asks for one"
                .to_owned(),
        );
    }
    if begins("<?xml") {
        return Some("an XML document, as servers send it with an error; download the file again".to_owned());
    }
    if first.get(257..262) == Some(b"ustar") {
        return Some("a tar archive; unpack it".to_owned());
    }
    MAGICS.iter().find(|(magic, _)| first.starts_with(magic)).map(|(_, what)| (*what).to_owned())
}

/// As [`what_it_is`], for weights, which are never text.
#[must_use]
pub fn instead_of_weights(first: &[u8]) -> Option<String> {
    what_it_is(first).or_else(|| {
        if let [0x80, 2..=5, ..] = first {
            return Some("a bare pickle, which PyTorch did not write; get the model as safetensors".to_owned());
        }
        let start = &first[..first.len().min(64)];
        let text = match std::str::from_utf8(start) {
            Ok(text) => text,
            // A character that the cut went through.
            Err(e) if e.error_len().is_none() => std::str::from_utf8(&start[..e.valid_up_to()]).ok()?,
            Err(_) => return None,
        };
        let text = text.trim();
        // A header's length is followed by zeros, so that no safetensors file looks like text.
        let is_text = !text.is_empty() && !text.contains(|c: char| c.is_control() && !matches!(c, '\t' | '\r' | '\n'));
        is_text.then(|| format!("text that begins {text:?}, and no weights; download the file again"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_called_what_they_are() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4096\n";
        let table: &[(&[u8], &str)] = &[
            (pointer, "Git LFS pointer and not the file of 4096 bytes"),
            (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
            (b"\n <!DOCTYPE html>\n<html>", "HTML page"),
            (b"\xEF\xBB\xBF<HTML lang=en>", "HTML page"),
            (b"<?xml version=\"1.0\"?><Error>", "XML"),
            (b"GGML\x03\0\0\0", "before GGUF"),
            (b"tjgg\x03\0\0\0", "before GGUF"),
            (b"\x1F\x8B\x08", "gzip"),
        ];
        for (bytes, words) in table {
            let found = what_it_is(bytes).unwrap();
            assert!(found.contains(words), "{found}");
        }
        let tar = [&[b'a'; 257][..], b"ustar\0"].concat();
        assert!(what_it_is(&tar).unwrap().contains("tar"));
        for fine in [&b""[..], b"{\"a\": 1}", b"\x40\0\0\0\0\0\0\0{", b"\x80\x02"] {
            assert_eq!(what_it_is(fine), None);
        }
        assert!(instead_of_weights(b"Entry not found").unwrap().contains("\"Entry not found\""));
        assert!(instead_of_weights(b"\x40\0\0\0\0\0\0\0{\"a\"").is_none());
        let cut = ["x".repeat(63).as_bytes(), "\u{6f22}".as_bytes()].concat();
        assert!(instead_of_weights(&cut).unwrap().contains("xxx"));
        assert_eq!(instead_of_weights(&[0xFF, 0xD8]), None);
    }
}
