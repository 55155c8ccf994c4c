//! A repository's folder in a Hugging Face cache: where its files lie, and how they are put there. Every file appears
//! under its final name by a rename, so no reader and no other program that writes to the cache sees half a file.
//!
//! | path | content |
//! |---|---|
//! | `refs/<revision>` | the commit that the revision meant when it was last asked for |
//! | `snapshots/<commit>/<path>` | a link to `blobs/<hash>`; in a cache without links, and where a user put one, a regular file |
//! | `blobs/<hash>` | a content, named by its hash |
//! | `trees/<commit>.json` | the listing of the commit |
//! | `.no_exist/<commit>/<path>` | an empty marker: the commit has no such file |
//! | `../.locks/<folder>/<hash>.lock` | the lock of the program that downloads that blob |

use std::{
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use weightsd_core::{
    listing::{BlobName, LISTING_BYTES_MAX, Listed, Listing},
    spec::{Commit, RepoId, Revision},
};
use weightsd_segment::PinnedFile;

use super::store::{
    Blob, FoundFile, Linked, RefError, Store, create_parent, is_absent, replace, temporary_file, temporary_name,
};

/// Most entries of snapshots that are searched for links to a blob.
const LINKS_LOOKED_AT_MAX: usize = 100_000;

/// hf-hub rewrites ref files in place even when nothing changed; a reader that comes in between sees an empty file.
const EMPTY_REF_RETRIES: u32 = 5;
const EMPTY_REF_PAUSE: Duration = Duration::from_millis(2);
/// Longest ref file that is read, in bytes; a commit has 40.
const REF_BYTES_MAX: u64 = 1024;

/// A repository's folder in a Hugging Face cache. The folder need not exist.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoStore {
    cache: PathBuf,
    folder: PathBuf,
    repo: String,
    links: Links,
    setting: &'static str,
}

impl RepoStore {
    /// The folder of `repo` in `cache`, by the name that [`RepoId::cache_folder`] gives it. `setting` is how a user names
    /// another cache ([`Store::setting`]).
    #[must_use]
    pub fn new(cache: &Path, repo: &RepoId, setting: &'static str) -> Self {
        let repo = repo.cache_folder();
        Self { cache: cache.to_owned(), folder: cache.join(&repo), repo, links: Links::default(), setting }
    }

    /// The same folder, with or without links in its snapshots.
    #[must_use]
    pub fn with_links(self, links: Links) -> Self {
        Self { links, ..self }
    }

    fn tree(&self, commit: &Commit) -> PathBuf {
        self.folder.join("trees").join(format!("{commit}.json"))
    }

    fn absence(&self, commit: &Commit, path: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit.as_str()).join(path)
    }

    /// The links to a blob, hard ones included.
    fn links_to(&self, blob: &BlobName) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.join("snapshots")];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                seen += 1;
                if seen > LINKS_LOOKED_AT_MAX {
                    return found;
                }
                let path = entry.path();
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    Ok(_) if self.is_blob(&path, blob) => found.push(path),
                    _ => {}
                }
            }
        }
        found
    }
}

impl Store for RepoStore {
    fn cache(&self) -> &Path {
        &self.cache
    }

    fn setting(&self) -> &'static str {
        self.setting
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn ref_path(&self, revision: &Revision) -> PathBuf {
        self.folder.join("refs").join(revision.as_str())
    }

    fn last_known(&self, revision: &Revision) -> Result<Option<Commit>, RefError> {
        read_ref(&self.ref_path(revision))
    }

    fn known(&self, max: usize) -> Vec<String> {
        let names = |below: &str| -> Vec<String> {
            let entries = fs::read_dir(self.folder.join(below)).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.retain(|name| !name.chars().any(char::is_control));
            names.sort();
            names
        };
        names("refs").into_iter().chain(names("snapshots")).take(max).collect()
    }

    fn commits(&self) -> Vec<Commit> {
        let entries = fs::read_dir(self.folder.join("snapshots")).into_iter().flatten().flatten();
        let mut commits: Vec<_> = entries.filter_map(|entry| Commit::parse(entry.file_name().to_str()?)).collect();
        commits.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        commits
    }

    fn blob(&self, name: &BlobName) -> PathBuf {
        self.folder.join("blobs").join(name.as_str())
    }

    fn partial(&self, name: &BlobName) -> PathBuf {
        self.folder.join("blobs").join(format!("{name}.incomplete"))
    }

    fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.folder.join("snapshots").join(commit.as_str())
    }

    fn listing(&self, commit: &Commit) -> Option<Listing> {
        let file = PinnedFile::open(self.tree(commit)).ok()?;
        let length = file.identity().length;
        if length > LISTING_BYTES_MAX {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        file.read_exact_at(&mut bytes, 0).ok()?;
        Listing::from_cached(&bytes).inspect_err(|error| tracing::warn!(%commit, %error, "a cached listing")).ok()
    }

    fn keep_listing(&self, commit: &Commit, listing: &Listing) -> io::Result<()> {
        let path = self.tree(commit);
        if path.exists() {
            return Ok(());
        }
        replace(&path, listing.to_cached().as_bytes())
    }

    fn drop_listing(&self, commit: &Commit) {
        let _ = fs::remove_file(self.tree(commit));
    }

    fn point(&self, revision: &Revision, commit: &Commit) -> io::Result<()> {
        if revision.as_commit().is_some() {
            return Ok(());
        }
        let path = self.ref_path(revision);
        if fs::read(&path).is_ok_and(|found| found == commit.as_str().as_bytes()) {
            return Ok(());
        }
        // Without a line break: Python would take it for a part of the commit.
        replace(&path, commit.as_str().as_bytes())
    }

    fn locate(&self, commit: &Commit, path: &str, listed: &Listed) -> Option<FoundFile> {
        let entry = self.snapshot(commit).join(path);
        let is_whole = |found: &fs::Metadata| found.is_file() && found.len() == listed.bytes;
        match fs::metadata(&entry) {
            Ok(found) if self.is_blob(&entry, &listed.blob) && fs::read_link(&entry).is_ok() => {
                is_whole(&found).then_some(FoundFile::Blob(entry))
            }
            Ok(_) => Some(FoundFile::Own(entry)),
            // Any other error of the system is reported when the file is read.
            Err(error) if !is_absent(&error) => Some(FoundFile::Own(entry)),
            Err(_) => {
                let blob = self.blob(&listed.blob);
                fs::metadata(&blob).is_ok_and(|found| is_whole(&found)).then_some(FoundFile::Blob(blob))
            }
        }
    }

    fn link(&self, commit: &Commit, path: &str, blob: &BlobName) -> io::Result<Linked> {
        let link = self.snapshot(commit).join(path);
        if link.exists() {
            return Ok(Linked::Done);
        }
        let parent = create_parent(&link)?;
        // Python believes the marker more than the link.
        let _ = fs::remove_file(self.absence(commit, path));
        if self.links == Links::Avoided {
            return Ok(Linked::NoLinks);
        }
        let target = format!("{}blobs/{blob}", "../".repeat(2 + path.matches('/').count()));
        let made = temporary_name().make_in(parent, |temporary| symlink(&target, temporary));
        match made.and_then(|made| made.persist(&link).map_err(io::Error::from)) {
            Ok(()) => Ok(Linked::Done),
            Err(error) if has_no_links(&error) => Ok(Linked::NoLinks),
            Err(error) => Err(error),
        }
    }

    fn place(&self, commit: &Commit, path: &str, blob: &BlobName, then: Blob) -> io::Result<PathBuf> {
        let (entry, from) = (self.snapshot(commit).join(path), self.blob(blob));
        let parent = create_parent(&entry)?;
        if fs::hard_link(&from, &entry).is_ok() {
            return Ok(entry);
        }
        if then == Blob::Moved {
            return fs::rename(&from, &entry).map(|()| entry);
        }
        let mut copy = temporary_file(parent)?;
        io::copy(&mut File::open(from)?, copy.as_file_mut())?;
        weightsd_segment::sync(copy.as_file())?;
        copy.persist(&entry)?;
        Ok(entry)
    }

    fn mark_absent(&self, commit: &Commit, path: &str) -> io::Result<()> {
        let marker = self.absence(commit, path);
        create_parent(&marker)?;
        File::create(marker).map(drop)
    }

    fn lock_path(&self, blob: &BlobName) -> PathBuf {
        self.cache.join(".locks").join(&self.repo).join(format!("{blob}.lock"))
    }

    fn set_aside(&self, path: &Path, blob: &BlobName, found: &str) -> io::Result<Option<PathBuf>> {
        if self.is_blob(path, blob) {
            return self.quarantine(blob).map(Some);
        }
        if !path.starts_with(self.folder.join("snapshots")) {
            return Ok(None);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The name tells what it is, as far as the file system has room for it.
        let short: String = name.chars().take(60).collect();
        let digits = found.get(..12).unwrap_or(found);
        let aside = path.with_file_name(format!("{short}.{digits}.quarantined"));
        fs::rename(path, &aside)?;
        Ok(Some(aside))
    }

    fn quarantine(&self, blob: &BlobName) -> io::Result<PathBuf> {
        let aside = self.folder.join("blobs").join(format!("{blob}.quarantined"));
        for link in self.links_to(blob) {
            let _ = fs::remove_file(link);
        }
        fs::rename(self.blob(blob), &aside)?;
        Ok(aside)
    }

    fn is_linked(&self, blob: &BlobName) -> bool {
        !self.links_to(blob).is_empty()
    }
}

/// Whether a snapshot gets symbolic links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Links {
    /// Where the file system has them.
    #[default]
    Symbolic,
    /// Never (`HF_HUB_DISABLE_SYMLINKS`).
    Avoided,
}

/// Whether a link could not be made because the file system has none. FAT answers EPERM, network mounts EOPNOTSUPP.
fn has_no_links(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let none = [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| none.contains(&code))
}

/// The commit in a ref file; `None` when there is no such ref.
fn read_ref(path: &Path) -> Result<Option<Commit>, RefError> {
    for attempt in 0.. {
        let bytes = match read_start(path) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            // A revision such as `refs` names the folder of other refs.
            Err(_) if path.is_dir() => return Ok(None),
            // Rewritten while it was read.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Vec::new(),
            Err(source) => return Err(RefError::Io { path: path.to_owned(), source }),
        };
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        match Commit::parse(text) {
            Some(commit) => return Ok(Some(commit)),
            None if text.is_empty() && attempt < EMPTY_REF_RETRIES => thread::sleep(EMPTY_REF_PAUSE),
            None => {
                let found = text.chars().take(48).collect();
                return Err(RefError::Bad { path: path.to_owned(), found });
            }
        }
    }
    Ok(None)
}

/// The first bytes of a regular file. What else lies in a ref's place could make a reader wait, or read, for ever.
fn read_start(path: &Path) -> io::Result<Vec<u8>> {
    let file = PinnedFile::open(path)?;
    let length = file.identity().length.min(REF_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The name of the blob that a snapshot's link points to: `../../blobs/<name>` in a `models--*` folder.
/// The first link counts, because in the shared blob store the last one is named by another hash.
#[must_use]
pub fn blob_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let name = target.file_name()?.to_str()?;
    let name = BlobName::parse(name)?;
    let in_blobs = target.parent()?.file_name()? == "blobs";
    let in_cache = path.ancestors().any(|folder| {
        folder.file_name().is_some_and(|name| name == "snapshots")
            && folder
                .parent()
                .and_then(Path::file_name)
                .is_some_and(|name| name.to_string_lossy().starts_with("models--"))
    });
    (in_blobs && in_cache).then(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(cache: &Path) -> (RepoStore, Commit, BlobName) {
        let store = RepoStore::new(cache, &RepoId::parse("a/b").unwrap(), "its test");
        (store, Commit::parse(&"c".repeat(40)).unwrap(), BlobName::parse(&"d".repeat(64)).unwrap())
    }

    #[test]
    fn refs_links_and_markers_are_where_python_has_them() {
        let cache = tempfile::tempdir().unwrap();
        let (store, commit, blob) = store(cache.path());
        let folder = cache.path().join("models--a--b");
        store.point(&Revision::parse("refs/pr/1").unwrap(), &commit).unwrap();
        assert_eq!(fs::read_to_string(folder.join("refs/refs/pr/1")).unwrap(), commit.as_str());
        store.point(&Revision::from(&commit), &commit).unwrap();
        assert!(!folder.join("refs").join(commit.as_str()).exists());
        create_parent(&store.blob(&blob)).unwrap();
        fs::write(store.blob(&blob), "x").unwrap();
        store.link(&commit, "vae/deep/x.safetensors", &blob).unwrap();
        let link = store.snapshot(&commit).join("vae/deep/x.safetensors");
        assert_eq!(fs::read_to_string(&link).unwrap(), "x");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(&format!("../../../../blobs/{blob}")));
        store.mark_absent(&commit, "vae/none.json").unwrap();
        assert!(folder.join(".no_exist").join(commit.as_str()).join("vae/none.json").exists());
        store.mark_absent(&commit, "vae/late.safetensors").unwrap();
        store.link(&commit, "vae/late.safetensors", &blob).unwrap();
        assert!(!folder.join(".no_exist").join(commit.as_str()).join("vae/late.safetensors").exists());
    }

    #[test]
    fn a_quarantined_blob_is_out_of_reach() {
        let cache = tempfile::tempdir().unwrap();
        let (store, commit, blob) = store(cache.path());
        create_parent(&store.blob(&blob)).unwrap();
        fs::write(store.blob(&blob), "bad").unwrap();
        store.link(&commit, "t/x.safetensors", &blob).unwrap();
        let aside = store.quarantine(&blob).unwrap();
        assert_eq!(fs::read_to_string(aside).unwrap(), "bad");
        assert!(!store.blob(&blob).exists());
        assert!(store.snapshot(&commit).join("t/x.safetensors").symlink_metadata().is_err());
    }

    #[test]
    fn one_writer_a_blob() {
        let cache = tempfile::tempdir().unwrap();
        let (store, _, blob) = store(cache.path());
        let lock = store.try_lock(&blob).unwrap().unwrap();
        assert!(store.try_lock(&blob).unwrap().is_none());
        drop(lock);
        assert!(store.try_lock(&blob).unwrap().is_some());
    }
}
