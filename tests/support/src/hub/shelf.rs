//! What the hub has to offer, and to whom.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io,
    path::PathBuf,
    sync::Arc,
};

use super::body::Source;

#[derive(Debug, Default)]
pub(super) struct Shelf {
    repos: BTreeMap<String, Repository>,
    /// Large files by their sha-256, as the CDN knows them.
    large: HashMap<String, Arc<Published>>,
    /// All tokens that are somebody's.
    pub(super) tokens: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(super) struct Repository {
    commits: HashMap<String, Arc<Commit>>,
    pub(super) branches: BTreeMap<String, String>,
    /// Large files come from the hub itself, with 200.
    pub(super) lfs_direct: bool,
    /// Small files come through a 307 to `/api/resolve-cache/`.
    pub(super) resolve_cache: bool,
    pub(super) private: bool,
    pub(super) gated: bool,
    /// Who may read it though it is private or gated.
    pub(super) tokens: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct Commit {
    pub(super) id: String,
    pub(super) files: BTreeMap<String, Arc<Published>>,
}

/// A file of a commit.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) path: String,
    pub(super) size: u64,
    /// The git blob hash: of the file, or of the pointer that stands for it.
    pub(super) oid: String,
    pub(super) large: Option<Large>,
    pub(super) content: Content,
}

/// What git has of a large file: a pointer.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) sha256: String,
    pub(super) pointer_size: u64,
}

#[derive(Debug)]
pub(super) enum Content {
    Memory(Arc<[u8]>),
    /// Read when it is asked for.
    Disk(PathBuf),
}

impl Shelf {
    pub(super) fn repository(&self, repo: &str) -> Option<&Repository> {
        self.repos.get(repo)
    }

    /// The repository, which comes to be if need be.
    pub(super) fn repository_mut(&mut self, repo: &str) -> &mut Repository {
        self.repos.entry(repo.to_owned()).or_default()
    }

    pub(super) fn add(&mut self, repo: &str, revision: &str, commit: Commit) {
        for file in commit.files.values() {
            if let Some(large) = &file.large {
                self.large.insert(large.sha256.clone(), Arc::clone(file));
            }
        }
        let repository = self.repository_mut(repo);
        repository.branches.insert(revision.to_owned(), commit.id.clone());
        repository.commits.insert(commit.id.clone(), Arc::new(commit));
    }

    pub(super) fn large_file(&self, sha256: &str) -> Option<Arc<Published>> {
        self.large.get(sha256).cloned()
    }
}

impl Repository {
    /// A branch, or a commit's full name.
    pub(super) fn commit(&self, revision: &str) -> Option<Arc<Commit>> {
        let id = self.branches.get(revision).map_or(revision, String::as_str);
        self.commits.get(id).cloned()
    }
}

impl Published {
    /// Without quotes.
    pub(super) fn etag(&self) -> &str {
        self.large.as_ref().map_or(&self.oid, |large| &large.sha256)
    }

    /// Its bytes, not read yet.
    pub(super) fn source(&self) -> io::Result<Source> {
        Ok(match &self.content {
            Content::Memory(bytes) => Source::Memory(Arc::clone(bytes)),
            Content::Disk(path) => Source::File(Arc::new(File::open(path)?)),
        })
    }
}
