//! A checkpoint as a snapshot in a Hugging Face cache.
//!
//! Layout: `models--owner--name/{refs/<revision>, snapshots/<commit>/<path>, blobs/<etag>}`, shared by `huggingface_hub`
//! and `hf-hub`. An etag is the sha-256 of weights and the git blob hash of small files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::{
    Contents, FixtureError, Written,
    folders::{create_dir, create_parent, link_unless_there},
    plan::{Body, FilePlan},
    shared_store, stream,
};

/// How files lie in a cache; one form for each repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheForm {
    /// Snapshots hold relative links to the repository's blobs.
    Links,
    /// As `Links`, and the blobs of weights are links to one store for all repositories of the cache
    /// (`huggingface_hub` from 1.33 on, for files that came through Xet).
    SharedStore,
    /// Snapshots hold the files, `blobs` is empty (`HF_HUB_DISABLE_SYMLINKS`).
    PlainFiles,
}

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Below the snapshot, with `/` between parts.
    pub path: String,
    /// Name of its blob: 64 hex digits for weights, 40 for small files.
    pub etag: String,
    /// Its length.
    pub bytes: u64,
    /// The regular file that holds it.
    pub target: PathBuf,
}

/// A snapshot in a cache.
#[derive(Debug, Clone)]
pub struct HubFixture {
    /// The cache.
    pub cache_root: PathBuf,
    /// `owner/name`.
    pub repo: String,
    /// The repository's folder in the cache.
    pub repo_dir: PathBuf,
    /// 40 hex digits: a hash of repository name, paths and etags.
    pub commit: String,
    /// `snapshots/<commit>` in the repository's folder.
    pub snapshot_dir: PathBuf,
    /// Its files: small ones first, then weights.
    pub files: Vec<HubFile>,
    /// What is where in the snapshot.
    pub written: Written,
}

impl HubFixture {
    /// A file by its path below the snapshot.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&HubFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Points one more revision at this commit; names with `/` such as `refs/pr/1` are nested.
    ///
    /// # Errors
    /// When the system refuses to write.
    pub fn add_ref(&self, revision: &str) -> Result<PathBuf, FixtureError> {
        let path = self.repo_dir.join("refs").join(revision);
        create_parent(&path)?;
        // Python reads a final newline as part of the commit.
        fs::write(&path, &self.commit).map_err(FixtureError::io("write", &path))?;
        Ok(path)
    }
}

/// Folder of a repository in a cache: `models--owner--name`.
///
/// # Errors
/// When `repo` is not a name that the hub allows.
pub fn repo_folder(repo: &str) -> Result<String, FixtureError> {
    let is_part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (1..=96).contains(&part.len())
            && part.chars().all(plain)
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
    };
    let parts: Vec<&str> = repo.split('/').collect();
    if parts.len() > 2 || !parts.iter().all(|part| is_part(part)) || repo.contains("--") || repo.contains("..") {
        return Err(FixtureError::RepoName { found: repo.to_owned() });
    }
    Ok(format!("models--{}", parts.join("--")))
}

pub(crate) fn write(
    plans: Vec<FilePlan>,
    contents: Contents,
    form: CacheForm,
    cache_root: &Path,
    repo: &str,
    revision: &str,
) -> Result<HubFixture, FixtureError> {
    let folder = repo_folder(repo)?;
    let repo_dir = cache_root.join(&folder);
    let blobs = repo_dir.join("blobs");
    create_dir(&blobs)?;
    let mut arrived = Vec::new();
    for (at, plan) in plans.iter().enumerate() {
        let partial = blobs.join(format!("{at}.incomplete"));
        let etag = download(plan, contents, &partial)?;
        arrived.push((plan, partial, etag));
    }
    let commit = commit_id(repo, arrived.iter().map(|(plan, _, etag)| (etag.as_str(), plan.path.as_str())));
    let snapshot_dir = repo_dir.join("snapshots").join(&commit);
    let mut files = Vec::new();
    for (plan, partial, etag) in arrived {
        let entry = snapshot_dir.join(&plan.path);
        create_parent(&entry)?;
        let target = match (form, &plan.body) {
            (CacheForm::PlainFiles, _) => entry.clone(),
            (CacheForm::SharedStore, Body::Weights(_)) => shared_store::admit(cache_root, &folder, &etag)?,
            _ => blobs.join(&etag),
        };
        move_unless_there(&partial, &target)?;
        if form == CacheForm::SharedStore && matches!(plan.body, Body::Weights(_)) {
            shared_store::protect(&target)?;
        }
        if form != CacheForm::PlainFiles {
            let up = "../".repeat(2 + plan.path.matches('/').count());
            link_unless_there(&format!("{up}blobs/{etag}"), &entry)?;
        }
        files.push(HubFile { path: plan.path.clone(), etag, bytes: plan.bytes(), target });
    }
    let written = Written::new(&snapshot_dir, &plans);
    let repo = repo.to_owned();
    let fixture =
        HubFixture { cache_root: cache_root.to_owned(), repo, repo_dir, commit, snapshot_dir, files, written };
    fixture.add_ref(revision)?;
    Ok(fixture)
}

/// Writes the file under a temporary name and hashes it on the way.
fn download(plan: &FilePlan, contents: Contents, partial: &Path) -> Result<String, FixtureError> {
    let mut sha256 = Sha256::new();
    let observe = |bytes: &[u8]| {
        if matches!(plan.body, Body::Weights(_)) {
            sha256.update(bytes);
        }
    };
    stream::write(plan, contents, partial, observe).map_err(FixtureError::io("write", partial))?;
    Ok(match &plan.body {
        Body::Document(bytes) => git_blob_hash(bytes),
        Body::Weights(weights) => {
            // The stand-in that `Checkpoint::write_hub_cache_as` documents.
            if contents == Contents::Sparse {
                sha256.update(weights.file_length.to_le_bytes());
            }
            hex::encode(sha256.finalize())
        }
    })
}

/// The name that git gives these bytes.
#[must_use]
pub fn git_blob_hash(bytes: &[u8]) -> String {
    let mut sha1 = Sha1::new();
    sha1.update(format!("blob {}\0", bytes.len()));
    sha1.update(bytes);
    hex::encode(sha1.finalize())
}

/// A commit's name, from the etags and paths of its files.
pub fn commit_id<'a>(repo: &str, files: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut sha1 = Sha1::new();
    sha1.update(format!("{repo}\n"));
    for (etag, path) in files {
        sha1.update(format!("{etag} {path}\n"));
    }
    hex::encode(sha1.finalize())
}

/// Moves a finished file to its name, or drops it when a file of that name is there: names stand for contents.
fn move_unless_there(partial: &Path, target: &Path) -> Result<(), FixtureError> {
    if target.symlink_metadata().is_ok() {
        return fs::remove_file(partial).map_err(FixtureError::io("remove", partial));
    }
    fs::rename(partial, target).map_err(FixtureError::io("write", target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_named_as_git_names_them() {
        // `printf 'hello\n' | git hash-object --stdin`
        assert_eq!(git_blob_hash(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
    }

    #[test]
    fn only_repository_names_become_folders() {
        assert_eq!(repo_folder("Tongyi-MAI/Z-Image-Turbo").unwrap(), "models--Tongyi-MAI--Z-Image-Turbo");
        assert_eq!(repo_folder("gpt2").unwrap(), "models--gpt2");
        for bad in ["", "a/", "a/b/c", "a--b/c", "../x", "/a", "a b/c"] {
            assert!(repo_folder(bad).is_err(), "{bad}");
        }
    }
}
