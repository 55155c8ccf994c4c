//! The hashes that name blobs.

use std::{io, path::Path};

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use weightsd_core::listing::{BlobName, HashKind, part_sizes};
use weightsd_segment::PinnedFile;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// The hash of a content that comes in pieces.
#[derive(Debug, Clone)]
pub(super) struct BlobHasher {
    blob: BlobName,
    sums: Sums,
}

/// What is computed of the content.
#[derive(Debug, Clone)]
enum Sums {
    Sha256(Sha256),
    GitSha1(Sha1),
    Md5(Md5),
    /// One for each size that the parts may have had.
    Parts(Vec<PartSums>),
}

/// The MD5s of parts of one size.
#[derive(Debug, Clone)]
struct PartSums {
    /// Bytes of a part; the last one may be shorter.
    size: u64,
    whole: Md5,
    part: Md5,
    /// Bytes that the present part has.
    filled: u64,
}

impl PartSums {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(self.size - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.part.update(now);
            self.filled += now.len() as u64;
            if self.filled == self.size {
                self.end_part();
            }
            bytes = later;
        }
    }

    fn end_part(&mut self) {
        self.whole.update(std::mem::take(&mut self.part).finalize());
        self.filled = 0;
    }

    fn finish(mut self) -> String {
        if self.filled > 0 {
            self.end_part();
        }
        hex::encode(self.whole.finalize())
    }
}

/// A content that was hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hashed {
    /// Whether it is what its blob's name says. True of any content of a blob whose name is no hash.
    pub(super) is_expected: bool,
    /// Its hash, as the names of its kind have it; SHA-256 for a blob whose name is no hash.
    pub(super) found: String,
}

impl BlobHasher {
    /// For a content of `length` bytes: git's hash begins with it, and it tells the sizes that parts may have had.
    pub(super) fn new(blob: &BlobName, length: u64) -> Self {
        let sums = match blob.kind() {
            HashKind::Sha256 | HashKind::Unhashed => Sums::Sha256(Sha256::new()),
            HashKind::GitSha1 => Sums::GitSha1(Sha1::new_with_prefix(format!("blob {length}\0"))),
            HashKind::Md5 => Sums::Md5(Md5::new()),
            HashKind::Md5OfParts(count) => {
                let sums = |size| PartSums { size, whole: Md5::new(), part: Md5::new(), filled: 0 };
                Sums::Parts(part_sizes(length, count).into_iter().map(sums).collect())
            }
        };
        Self { blob: blob.clone(), sums }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.sums {
            Sums::Sha256(hasher) => hasher.update(bytes),
            Sums::GitSha1(hasher) => hasher.update(bytes),
            Sums::Md5(hasher) => hasher.update(bytes),
            Sums::Parts(parts) => parts.iter_mut().for_each(|parts| parts.update(bytes)),
        }
    }

    pub(super) fn finish(self) -> Hashed {
        let expected = self.blob.as_str();
        let found = match self.sums {
            Sums::Sha256(hasher) => hex::encode(hasher.finalize()),
            Sums::GitSha1(hasher) => hex::encode(hasher.finalize()),
            Sums::Md5(hasher) => format!("md5-{}", hex::encode(hasher.finalize())),
            Sums::Parts(parts) => {
                let HashKind::Md5OfParts(count) = self.blob.kind() else {
                    unreachable!("parts are of this kind alone")
                };
                let names: Vec<_> = parts.into_iter().map(|parts| format!("md5-{}-{count}", parts.finish())).collect();
                let found = names.iter().find(|name| *name == expected).or(names.first()).cloned();
                found.unwrap_or_else(|| "of parts of no usual size".to_owned())
            }
        };
        let is_expected = self.blob.kind() == HashKind::Unhashed || found == expected;
        Hashed { is_expected, found }
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
) -> Result<(Hashed, PinnedFile), NotHashed> {
    let file = PinnedFile::open(path).map_err(NotHashed::Io)?;
    let length = file.identity().length;
    let mut hasher = BlobHasher::new(blob, length);
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
            // `md5sum x`.
            "md5-b1946ac92492d2347c6235b4d2611184",
        ] {
            let (hashed, file) = hash_file(&path, &BlobName::parse(name).unwrap(), |_| true).unwrap();
            assert_eq!((hashed.found.as_str(), hashed.is_expected, file.identity().length), (name, true, 6));
        }
        let blob = BlobName::parse(&"0".repeat(40)).unwrap();
        assert!(matches!(hash_file(&path, &blob, |_| false), Err(NotHashed::Abandoned)));
    }
    #[test]
    fn objects_in_parts_are_named_as_object_stores_name_them() {
        const MIB: usize = 1 << 20;
        let bytes: Vec<u8> = (0..11 * MIB).map(|at| (at / 1000 % 251) as u8).collect();
        // What S3 calls an object that was put there in parts of this size.
        let name = |size: usize| {
            let parts: Vec<_> = bytes.chunks(size).collect();
            let sums: Vec<u8> = parts.iter().flat_map(|part| Md5::digest(part).to_vec()).collect();
            BlobName::parse(&format!("md5-{}-{}", hex::encode(Md5::digest(sums)), parts.len())).unwrap()
        };
        for size in [5 * MIB, 8 * MIB, 16 * MIB, MIB] {
            let blob = name(size);
            let mut hasher = BlobHasher::new(&blob, bytes.len() as u64);
            // Pieces end anywhere.
            bytes.chunks(777_777).for_each(|piece| hasher.update(piece));
            let hashed = hasher.clone().finish();
            assert!(hashed.is_expected && hashed.found == blob.as_str(), "{size}: {hashed:?}");
            let mut other = BlobHasher::new(&blob, bytes.len() as u64);
            let mut damaged = bytes.clone();
            damaged[7 * MIB] ^= 1;
            other.update(&damaged);
            assert!(!other.finish().is_expected, "{size}");
        }
    }

    #[test]
    fn a_content_without_a_hash_is_any_content_and_gets_one() {
        let mut hasher = BlobHasher::new(&BlobName::unhashed("\"1\""), 6);
        hasher.update(b"hello\n");
        let Hashed { is_expected, found } = hasher.finish();
        assert!(is_expected && found.starts_with("5891b5b522"), "{found}");
    }
}
