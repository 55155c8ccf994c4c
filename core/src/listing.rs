//! The files of a commit on a hub, with their lengths and the hashes that name their blobs.
//!
//! Two JSON forms are read: the hub's own (`GET /api/models/<repo>/tree/<commit>?recursive=true`) and the one in which
//! `huggingface_hub` (from 1.33 on) keeps a listing in its cache, `trees/<commit>.json`. Paths and hashes of both become
//! paths on this machine, so nothing that could leave the cache passes here.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::shown::shown;

/// Most files that a commit may have. A listing of that many takes some 60 MB.
pub const FILES_MAX: usize = 200_000;
/// Longest part of a path, in bytes: what file systems take.
const NAME_BYTES_MAX: usize = 255;
/// Most skipped files that a listing names.
const SKIPPED_NAMED_MAX: usize = 20;
/// Longest path, in bytes.
const PATH_BYTES_MAX: usize = 1024;
/// Longest listing that is read, in bytes.
pub const LISTING_BYTES_MAX: u64 = 128_000_000;
/// Most sizes of parts that are tried for one content: each costs another hash of all its bytes.
pub const PART_SIZES_MAX: usize = 4;
/// The only version of `trees/<commit>.json` so far.
const FORMAT_VERSION: u32 = 1;

/// The name of a blob: a hash of its content, in lower case; where a source knows none, what it calls the content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobName(String);

/// Which hash a blob's name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKind {
    /// SHA-256 of the content, 64 hex digits: files in Git LFS.
    Sha256,
    /// SHA-1 of `blob <length>\0` and the content, as git names it, 40 hex digits: all others on a hub.
    GitSha1,
    /// MD5 of the content, `md5-` and 32 hex digits: an object that was stored in one piece.
    Md5,
    /// MD5 over the MD5s of so many parts, `md5-`, 32 hex digits, `-` and their number: an object that was stored in parts.
    Md5OfParts(u32),
    /// No hash: `etag-` and 64 hex digits, which stand for what the source calls the content.
    Unhashed,
}

impl BlobName {
    /// Takes a name in one of the forms of [`HashKind`], with hex digits of either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        kind(&text).is_some().then_some(Self(text))
    }

    /// The name of a content without a known hash, made from what its source calls it.
    #[must_use]
    pub fn unhashed(called: &str) -> Self {
        Self(format!("etag-{}", hex::encode(Sha256::digest(called.as_bytes()))))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Which hash it is.
    #[must_use]
    pub fn kind(&self) -> HashKind {
        kind(&self.0).expect("every name was parsed, or made in one of the forms")
    }

    /// Whether git or Git LFS names contents like this, as hubs do.
    #[must_use]
    pub fn is_of_a_hub(&self) -> bool {
        matches!(self.kind(), HashKind::Sha256 | HashKind::GitSha1)
    }
}

fn kind(text: &str) -> Option<HashKind> {
    let is_hex = |text: &str, length: usize| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some(rest) = text.strip_prefix("md5-") {
        return match rest.split_once('-') {
            None => is_hex(rest, 32).then_some(HashKind::Md5),
            Some((digits, parts)) => {
                let count = parts.parse().ok().filter(|count| *count > 0 && parts == u32::to_string(count))?;
                is_hex(digits, 32).then_some(HashKind::Md5OfParts(count))
            }
        };
    }
    if let Some(rest) = text.strip_prefix("etag-") {
        return is_hex(rest, 64).then_some(HashKind::Unhashed);
    }
    match text.len() {
        64 => is_hex(text, 64).then_some(HashKind::Sha256),
        _ => is_hex(text, 40).then_some(HashKind::GitSha1),
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for HashKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "sha-256",
            Self::GitSha1 => "git-sha1",
            Self::Md5 => "md5",
            Self::Md5OfParts(_) => "md5 of parts",
            Self::Unhashed => "content",
        })
    }
}

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Length in bytes.
    pub bytes: u64,
    /// Name of its blob.
    pub blob: BlobName,
    /// Git's name of the file that stands for it, when it lies in Git LFS.
    pointer: Option<BlobName>,
}

impl Listed {
    /// Git's name of the file that stands for it, when it lies in Git LFS.
    #[must_use]
    pub fn pointer(&self) -> Option<&BlobName> {
        self.pointer.as_ref()
    }
}

/// All files of a commit, by path with `/` between parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    files: BTreeMap<String, Listed>,
    skipped: Vec<ListingError>,
}

/// Why a listing cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    /// Not the JSON that is expected.
    #[error("the listing cannot be read: {problem}")]
    Malformed {
        /// The parser's words.
        problem: String,
    },
    /// A later version of the cached form.
    #[error("the listing has format version {found}, and this program reads version {FORMAT_VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// A path that is not below the repository.
    #[error("the listing names the file {path:?}: {problem}")]
    Path {
        /// The path, cut.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A malformed hash.
    #[error("the listing gives the file {path:?} the hash {found:?}, which is neither a sha-256 nor a git-sha1")]
    Hash {
        /// The file.
        path: String,
        /// What stands in its place.
        found: String,
    },
    /// A file that comes twice with different contents.
    #[error("the listing names the file {path:?} twice")]
    Duplicate {
        /// The file.
        path: String,
    },
    /// Over [`FILES_MAX`].
    #[error("the listing names more than {FILES_MAX} files, which is not a model")]
    TooManyFiles,
}

/// An entry as the hub writes it.
#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<TreeLfs>,
}

#[derive(Deserialize)]
struct TreeLfs {
    oid: String,
    size: u64,
}

/// `trees/<commit>.json`.
#[derive(Serialize, Deserialize)]
struct Cached {
    format_version: u32,
    files: BTreeMap<String, CachedFile>,
}

#[derive(Serialize, Deserialize)]
struct CachedFile {
    size: u64,
    blob_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
}

impl Listing {
    /// Adds a page of the hub's listing. A file whose path or hash is not one is skipped ([`Self::skipped`]): it cannot be
    /// downloaded, and the others can.
    ///
    /// # Errors
    /// When the page is no JSON of the expected form, a path comes twice with different contents, or there are more than
    /// [`FILES_MAX`] files.
    pub fn add_page(&mut self, json: &[u8]) -> Result<(), ListingError> {
        let entries: Vec<TreeEntry> = serde_json::from_slice(json).map_err(malformed)?;
        for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
            let (lfs, size) = match entry.lfs {
                Some(lfs) => (Some(lfs.oid), lfs.size),
                None => (None, entry.size),
            };
            let listed = listed(&entry.path, size, &entry.oid, lfs.as_deref()).and_then(of_a_hub(&entry.path));
            self.add(entry.path, listed)?;
        }
        Ok(())
    }

    /// Reads a listing that a client of the hub keeps in its cache.
    ///
    /// # Errors
    /// When it is not JSON of that form, has another version, or names a path or hash that cannot be used.
    pub fn from_cached(json: &[u8]) -> Result<Self, ListingError> {
        let cached: Cached = serde_json::from_slice(json).map_err(malformed)?;
        if cached.format_version != FORMAT_VERSION {
            return Err(ListingError::Version { found: cached.format_version });
        }
        let mut listing = Self::default();
        for (path, file) in cached.files {
            let size = file.lfs_size.unwrap_or(file.size);
            let listed = listed(&path, size, &file.blob_id, file.lfs_sha256.as_deref());
            listing.add(path, listed)?;
        }
        Ok(listing)
    }

    /// The listing as clients of the hub keep it in their caches.
    #[must_use]
    pub fn to_cached(&self) -> String {
        let file = |file: &Listed| match &file.pointer {
            None => CachedFile { size: file.bytes, blob_id: file.blob.0.clone(), lfs_sha256: None, lfs_size: None },
            Some(pointer) => CachedFile {
                size: file.bytes,
                blob_id: pointer.0.clone(),
                lfs_sha256: Some(file.blob.0.clone()),
                lfs_size: Some(file.bytes),
            },
        };
        let files = self.files.iter().map(|(path, listed)| (path.clone(), file(listed))).collect();
        let cached = Cached { format_version: FORMAT_VERSION, files };
        serde_json::to_string(&cached).expect("strings and numbers are JSON")
    }

    /// Adds a file that a source names by itself. One whose path cannot be used is skipped ([`Self::skipped`]).
    ///
    /// # Errors
    /// When the path comes twice with different contents, or there are more than [`FILES_MAX`] files.
    pub fn add_file(&mut self, path: &str, bytes: u64, blob: BlobName) -> Result<(), ListingError> {
        self.add(path.to_owned(), Ok(Listed { bytes, blob, pointer: None }))
    }

    /// Adds a file of a hub, known by its blob alone. `pointer` is git's name of the file that stands for one in Git LFS. One
    /// whose path cannot be used is skipped ([`Self::skipped`]).
    ///
    /// # Errors
    /// As [`Self::add_file`].
    pub fn add_blob(
        &mut self,
        path: &str,
        bytes: u64,
        blob: BlobName,
        pointer: Option<BlobName>,
    ) -> Result<(), ListingError> {
        self.add(path.to_owned(), Ok(Listed { bytes, blob, pointer }))
    }

    fn add(&mut self, path: String, listed: Result<Listed, ListingError>) -> Result<(), ListingError> {
        let listed = match check_path(&path).and(listed) {
            Ok(listed) => listed,
            Err(error) => {
                if self.skipped.len() < SKIPPED_NAMED_MAX && !self.skipped.contains(&error) {
                    self.skipped.push(error);
                }
                return Ok(());
            }
        };
        match self.files.insert(path.clone(), listed.clone()) {
            Some(before) if before != listed => return Err(ListingError::Duplicate { path: shown(&path) }),
            _ => {}
        }
        if self.files.len() > FILES_MAX {
            return Err(ListingError::TooManyFiles);
        }
        Ok(())
    }

    /// Files that are left out, with the reason; the first of them, where there are many.
    #[must_use]
    pub fn skipped(&self) -> &[ListingError] {
        &self.skipped
    }

    /// A file by its path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Listed> {
        self.files.get(path)
    }

    /// All files, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Listed)> {
        self.files.iter().map(|(path, listed)| (path.as_str(), listed))
    }

    /// Number of files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether the commit has no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

fn listed(path: &str, bytes: u64, oid: &str, lfs: Option<&str>) -> Result<Listed, ListingError> {
    let hash =
        |text: &str| BlobName::parse(text).ok_or_else(|| ListingError::Hash { path: shown(path), found: shown(text) });
    Ok(match lfs {
        Some(sha256) => Listed { bytes, blob: hash(sha256)?, pointer: Some(hash(oid)?) },
        None => Listed { bytes, blob: hash(oid)?, pointer: None },
    })
}

/// Hubs name contents as git and Git LFS do; a weaker name would weaken the check of what comes.
fn of_a_hub(path: &str) -> impl Fn(Listed) -> Result<Listed, ListingError> {
    move |listed| match listed.blob.is_of_a_hub() {
        true => Ok(listed),
        false => Err(ListingError::Hash { path: shown(path), found: listed.blob.to_string() }),
    }
}

fn malformed(error: serde_json::Error) -> ListingError {
    ListingError::Malformed { problem: shown(&error.to_string()) }
}

/// The sizes that the parts of an object may have had which was stored in `count` parts, in bytes: those that tools use, of
/// those that fit its length. Where more than [`PART_SIZES_MAX`] fit, the usual ones count alone; none when even they do not
/// tell.
#[must_use]
pub fn part_sizes(length: u64, count: u32) -> Vec<u64> {
    const MIB: u64 = 1 << 20;
    // Of the AWS tools, MinIO, rclone, s5cmd, and multiples that people set.
    const USUAL: [u64; 10] = [8, 16, 5, 64, 50, 10, 32, 100, 128, 15];
    let count = u64::from(count);
    if count <= 1 {
        return if count == 1 && length > 0 { vec![length] } else { Vec::new() };
    }
    let smallest = length.div_ceil(count).next_multiple_of(MIB);
    let largest = length.saturating_sub(1) / (count - 1);
    let fits = |size: u64| size >= smallest && size <= largest;
    let few = largest.saturating_sub(smallest) / MIB < PART_SIZES_MAX as u64;
    if few {
        return (smallest..=largest).step_by(usize::try_from(MIB).unwrap_or(usize::MAX)).collect();
    }
    USUAL.into_iter().map(|size| size * MIB).filter(|size| fits(*size)).take(PART_SIZES_MAX).collect()
}

/// Checks that `path` stays below the folder that it is joined to, on every system.
///
/// # Errors
/// When it is empty, too long or absolute, leaves the folder, or has a backslash or a control character.
pub fn check_path(path: &str) -> Result<(), ListingError> {
    let fail = |problem| Err(ListingError::Path { path: shown(path), problem });
    if path.len() > PATH_BYTES_MAX {
        return fail("it is too long");
    }
    if path.split('/').any(|part| part.len() > NAME_BYTES_MAX) {
        return fail("a part of it is longer than file systems allow");
    }
    if path.chars().any(|character| character.is_control() || character == '\\') {
        return fail("it has a backslash or a control character");
    }
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return fail("it does not stay below the repository");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA1: &str = "ce013625030ba8dba906f756967f9e9ca394464a";

    fn page(entries: serde_json::Value) -> Result<Listing, ListingError> {
        let mut listing = Listing::default();
        listing.add_page(entries.to_string().as_bytes())?;
        Ok(listing)
    }

    #[test]
    fn the_hubs_entries_are_read() {
        let sha256 = "AB".repeat(32);
        let listing = page(serde_json::json!([
            {"type": "directory", "oid": SHA1, "path": "vae"},
            {"type": "file", "oid": SHA1, "size": 6, "path": "vae/config.json"},
            {"type": "file", "oid": SHA1, "size": 134, "path": "vae/x.safetensors",
             "lfs": {"oid": sha256, "size": 5_000_000_000_u64, "pointerSize": 134}},
        ]))
        .unwrap();
        let weights = listing.get("vae/x.safetensors").unwrap();
        assert_eq!((weights.bytes, weights.blob.kind()), (5_000_000_000, HashKind::Sha256));
        assert_eq!(weights.blob.as_str(), sha256.to_ascii_lowercase());
        let config = listing.get("vae/config.json").unwrap();
        assert_eq!((config.bytes, config.blob.as_str(), config.blob.kind()), (6, SHA1, HashKind::GitSha1));
        assert_eq!(listing.len(), 2);
        assert_eq!(Listing::from_cached(listing.to_cached().as_bytes()), Ok(listing));
    }

    #[test]
    fn names_of_objects_are_read_and_no_hub_may_use_them() {
        let digits = "AB".repeat(16);
        for (text, expected) in [
            (format!("md5-{digits}"), Some(HashKind::Md5)),
            (format!("md5-{digits}-3000"), Some(HashKind::Md5OfParts(3000))),
            (format!("etag-{}", digits.repeat(2)), Some(HashKind::Unhashed)),
            (format!("md5-{digits}-0"), None),
            (format!("md5-{digits}-03"), None),
            (format!("md5-{digits}-+3"), None),
            (format!("md5-{}", &digits[1..]), None),
            (format!("etag-{digits}"), None),
            ("md5-../x".to_owned(), None),
            (digits.clone(), None),
        ] {
            assert_eq!(BlobName::parse(&text).map(|name| name.kind()), expected, "{text}");
            let hub = page(serde_json::json!([{"type": "file", "oid": text, "size": 1, "path": "a"}])).unwrap();
            assert!(hub.is_empty() && matches!(hub.skipped(), [ListingError::Hash { .. }]), "{text}");
        }
        let mut listing = Listing::default();
        listing.add_file("a/b", 3, BlobName::unhashed("\"x\"")).unwrap();
        listing.add_file("../b", 3, BlobName::unhashed("\"x\"")).unwrap();
        assert_eq!((listing.len(), listing.skipped().len()), (1, 1));
        let again = Listing::from_cached(listing.to_cached().as_bytes()).unwrap();
        assert_eq!(again.get("a/b"), listing.get("a/b"));
    }

    #[test]
    fn the_size_of_parts_follows_from_length_and_number() {
        const MIB: u64 = 1 << 20;
        assert_eq!(part_sizes(24_000_000_000, 2862), [8 * MIB], "a large file has one");
        assert_eq!(part_sizes(20 * MIB + 1, 3), [7 * MIB, 8 * MIB, 9 * MIB, 10 * MIB]);
        assert_eq!(part_sizes(100 * MIB, 2), [64 * MIB, 50 * MIB], "the usual ones of many");
        assert_eq!(part_sizes(77, 1), [77]);
        assert!(part_sizes(77, 5).is_empty() && part_sizes(0, 1).is_empty() && part_sizes(900 * MIB, 2).is_empty());
        assert!(part_sizes(u64::MAX, u32::MAX).len() <= PART_SIZES_MAX && part_sizes(9, 0).is_empty());
    }

    #[test]
    fn a_file_that_would_leave_the_cache_is_skipped_and_named() {
        let good = serde_json::json!({"type": "file", "oid": SHA1, "size": 1, "path": "good"});
        let long = "x".repeat(256);
        for path in ["/abs", "../x", "a/../b", "a//b", "", "./a", "a/.", "a\\b", "a\nb", "a/", &long] {
            let odd = serde_json::json!({"type": "file", "oid": SHA1, "size": 1, "path": path});
            let found = page(serde_json::json!([odd, good])).unwrap();
            assert_eq!((found.len(), found.get("good").is_some()), (1, true), "{path:?}");
            assert!(matches!(found.skipped(), [ListingError::Path { .. }]), "{path:?}");
        }
        for oid in ["", "../x", "/abs", "xyz", &SHA1[1..]] {
            let odd = serde_json::json!({"type": "file", "oid": oid, "size": 1, "path": "a"});
            let found = page(serde_json::json!([odd, good])).unwrap();
            assert!(found.len() == 1 && matches!(found.skipped(), [ListingError::Hash { .. }]), "{oid:?}");
        }
        let many = (0..1000).map(|n| serde_json::json!({"type": "file", "oid": "", "size": 1, "path": format!("{n}")}));
        assert_eq!(page(many.collect()).unwrap().skipped().len(), SKIPPED_NAMED_MAX);
    }

    #[test]
    fn a_commit_may_have_many_files() {
        let file =
            |n: usize| serde_json::json!({"type": "file", "oid": SHA1, "size": 1, "path": format!("images/{n}")});
        let mut listing = page((0..30_000).map(file).collect()).unwrap();
        assert_eq!(listing.len(), 30_000);
        let rest: serde_json::Value = (30_000..=FILES_MAX).map(file).collect();
        assert_eq!(listing.add_page(rest.to_string().as_bytes()), Err(ListingError::TooManyFiles));
    }

    #[test]
    fn one_path_has_one_content() {
        let entry = |size: u64| serde_json::json!({"type": "file", "oid": SHA1, "size": size, "path": "a"});
        assert!(page(serde_json::json!([entry(1), entry(1)])).is_ok(), "pages may overlap");
        assert!(matches!(page(serde_json::json!([entry(1), entry(2)])), Err(ListingError::Duplicate { .. })));
        let later = br#"{"format_version": 2, "files": {}}"#;
        assert_eq!(Listing::from_cached(later), Err(ListingError::Version { found: 2 }));
        assert!(matches!(Listing::from_cached(b"[]"), Err(ListingError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn an_accepted_path_joined_to_a_folder_stays_below_it(path in "[a./\\\\\\PC]{0,12}") {
            if check_path(&path).is_ok() {
                let joined = std::path::Path::new("/cache/x").join(&path);
                prop_assert!(joined.starts_with("/cache/x"));
                prop_assert!(joined.components().all(|part| matches!(part,
                    std::path::Component::RootDir | std::path::Component::Normal(_))));
            }
        }
    }
}
