//! The hashes that name blobs.

use std::{io, path::Path};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use weightsd_core::listing::{BlobName, HashKind};
use weightsd_segment::PinnedFile;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// The hash of a content that comes in pieces.
#[derive(Debug, Clone)]
pub(super) enum BlobHasher {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl BlobHasher {
    /// For a content of `length` bytes: git's hash begins with it.
    pub(super) fn new(kind: HashKind, length: u64) -> Self {
        match kind {
            HashKind::Sha256 => Self::Sha256(Sha256::new()),
            HashKind::GitSha1 => Self::GitSha1(Sha1::new_with_prefix(format!("blob {length}\0"))),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitSha1(hasher) => hasher.update(bytes),
        }
    }

    /// In hex.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hex::encode(hasher.finalize()),
            Self::GitSha1(hasher) => hex::encode(hasher.finalize()),
        }
    }
}

/// Why a file was not hashed.
#[derive(Debug)]
pub(super) enum NotHashed {
    /// The system refused.
    Io(io::Error),
    /// `go_on` said no.
    Abandoned,
    /// It was written to meanwhile.
    Changed,
}

/// Hashes a file as the blob of that name. `go_on` is told of each piece's bytes. Returns the hash found, and the file
/// that has it.
pub(super) fn hash_file(
    path: &Path,
    blob: &BlobName,
    mut go_on: impl FnMut(u64) -> bool,
) -> Result<(String, PinnedFile), NotHashed> {
    let file = PinnedFile::open(path).map_err(NotHashed::Io)?;
    let length = file.identity().length;
    let mut hasher = BlobHasher::new(blob.kind(), length);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut offset = 0;
    while offset < length {
        let piece = usize::try_from((length - offset).min(BUFFER_BYTES as u64)).unwrap_or(BUFFER_BYTES);
        file.read_exact_at(&mut buffer[..piece], offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => NotHashed::Changed,
            _ => NotHashed::Io(error),
        })?;
        hasher.update(&buffer[..piece]);
        offset += piece as u64;
        if !go_on(piece as u64) {
            return Err(NotHashed::Abandoned);
        }
    }
    match file.current_identity() {
        Ok(now) if now == *file.identity() => Ok((hasher.finish(), file)),
        Ok(_) => Err(NotHashed::Changed),
        Err(error) => Err(NotHashed::Io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_named_as_git_and_lfs_name_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object x`, and `sha256sum x`.
        for name in [
            "ce013625030ba8dba906f756967f9e9ca394464a",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        ] {
            let (found, file) = hash_file(&path, &BlobName::parse(name).unwrap(), |_| true).unwrap();
            assert_eq!((found.as_str(), file.identity().length), (name, 6));
        }
        let blob = BlobName::parse(&"0".repeat(40)).unwrap();
        assert!(matches!(hash_file(&path, &blob, |_| false), Err(NotHashed::Abandoned)));
    }
}
