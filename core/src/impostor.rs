//! Files that have the name of a checkpoint's file and are something else. Their first bytes tell.

/// What a file is instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impostor {
    start: &'static [u8],
    /// What it is, for people.
    pub what: &'static str,
    /// What can help.
    pub hint: &'static str,
}

const POINTER: &str = "only the pointer is here: `git lfs pull` in the clone, or `hf download` instead of `git clone`; if the \
                       hub itself has only the pointer, the owner of the repository has to upload the file";
const PAGE: &str = "the download saved an error page: fetch the file again, with a token if it is gated";
const GGUF: &str = "rename it: weightsd reads GGUF files whose name ends in `.gguf`";
const PYTORCH: &str = "convert it to safetensors: load it in PyTorch and save it with `safetensors.torch.save_file`";

const UNPACK: &str = "unpack it";
const XET: &str = "only the pointer is here: fetch the file with `hf download`";

/// What servers and tools leave in a file's place in words: no header is so long as the first eight letters of a text say.
const TEXT: Impostor = Impostor {
    start: b"",
    what: "a text, perhaps an error message of a server",
    hint: "read the file: it may say why the download failed; then fetch it again",
};

const IMPOSTORS: [Impostor; 17] = [
    Impostor { start: b"version ", what: "a Git LFS pointer", hint: POINTER },
    Impostor { start: b"# xet ve", what: "a Xet pointer", hint: XET },
    Impostor { start: b"<!DOCTYP", what: "a web page", hint: PAGE },
    Impostor { start: b"<!doctyp", what: "a web page", hint: PAGE },
    Impostor { start: b"<html", what: "a web page", hint: PAGE },
    Impostor { start: b"<?xml", what: "an XML document", hint: PAGE },
    Impostor { start: b"<HTML", what: "a web page", hint: PAGE },
    Impostor { start: b"GGUF", what: "a GGUF file", hint: GGUF },
    Impostor { start: b"PK\x03\x04", what: "a zip archive, perhaps a PyTorch checkpoint", hint: PYTORCH },
    Impostor { start: b"\x80\x02", what: "a Python pickle, perhaps a PyTorch checkpoint", hint: PYTORCH },
    Impostor { start: b"\x80\x04", what: "a Python pickle, perhaps a PyTorch checkpoint", hint: PYTORCH },
    Impostor { start: b"\x1f\x8b", what: "a gzip archive", hint: UNPACK },
    Impostor { start: b"\x28\xb5\x2f\xfd", what: "a Zstandard archive", hint: UNPACK },
    Impostor { start: b"\xfd7zXZ\0", what: "an XZ archive", hint: UNPACK },
    Impostor { start: b"7z\xbc\xaf\x27\x1c", what: "a 7z archive", hint: UNPACK },
    Impostor { start: b"\x89HDF", what: "an HDF5 file, perhaps a Keras checkpoint", hint: "convert it to safetensors" },
    Impostor { start: b"\x93NUMPY", what: "a NumPy array", hint: "save it with `safetensors.numpy.save_file`" },
];

impl Impostor {
    /// What a file with this beginning is; `None` when it may be weights or JSON.
    #[must_use]
    pub fn of(start: &[u8]) -> Option<&'static Self> {
        IMPOSTORS.iter().find(|impostor| start.starts_with(impostor.start))
    }

    /// What a file that should be weights is instead. Any text counts.
    #[must_use]
    pub fn of_weights(start: &[u8]) -> Option<&'static Self> {
        let letters = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        let is_text =
            letters.len() >= 4 && letters.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t'));
        Self::of(letters).or_else(|| is_text.then_some(&TEXT))
    }

    /// What a file that should be JSON is instead, as one phrase.
    pub(crate) fn in_place_of_json(start: &[u8]) -> Option<String> {
        Self::of(start).map(|Self { what, hint, .. }| format!("it is {what}, not JSON ({hint})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::{HeaderError, header_length};

    #[test]
    fn no_length_of_a_header_is_taken_for_another_format() {
        // A pickle begins with 0x80 0x02, and so does a file whose header has 640 bytes.
        let length = 640_u64.to_le_bytes();
        assert!(Impostor::of(&length).is_some());
        assert_eq!(header_length(length, 1000), Ok(640));
        let pickle = *b"\x80\x02}q\x00(X\x0a";
        assert!(matches!(header_length(pickle, 1000), Err(HeaderError::SomethingElse { .. })));
    }

    #[test]
    fn what_is_in_place_of_a_file_is_called_by_its_name() {
        let cases: [(&[u8], &str); 6] = [
            (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"PK\x03\x04....", "zip"),
            (b"<!DOCTYPE html>", "web page"),
            (b"\x80\x02}q\x00(X\x0a", "pickle"),
            (b"\x1f\x8b\x08\x08abcd", "gzip"),
        ];
        for (start, word) in cases {
            let found = Impostor::of(start).unwrap();
            assert!(found.what.contains(word) && !found.hint.is_empty(), "{word}");
            assert!(Impostor::in_place_of_json(start).unwrap().contains(word));
        }
        for text in [*b"{\"error\"", *b"Access t", *b"\n <html ", *b"\xef\xbb\xbfEntry"] {
            assert_eq!(Impostor::of_weights(&text), Some(&TEXT));
            assert!(matches!(header_length(text, 1000), Err(HeaderError::SomethingElse { .. })));
        }
        assert!(Impostor::of_weights(b"\xff\0\0\0\0\0\0\x7f").is_none());
        assert!(Impostor::of(b"{\"a\":1}").is_none());
    }
}
