//! Repositories at a source, as far as this machine knows them.
//!
//! A revision means that revision: what is not cached is not found, and no other snapshot takes its place.

use std::{fmt, sync::Arc};

use weightsd_core::spec::{Commit, RepoId, Revision};

use super::{ModelKind, Pin, ResolveError, ResolvedModel};
use crate::source::{Source, Store};

/// Most revisions that an error lists.
const LISTED_MAX: usize = 8;

/// A revision of a repository, the source that has it, and the store that holds its files or will.
#[derive(Clone)]
pub struct RepoAddress {
    /// Where it comes from.
    pub source: Arc<dyn Source>,
    /// Where its files lie on this machine.
    pub store: Arc<dyn Store>,
    /// The repository.
    pub repo: RepoId,
    /// The revision.
    pub revision: Revision,
}

/// The store and the names decide: two sources never share a store's folder.
impl PartialEq for RepoAddress {
    fn eq(&self, other: &Self) -> bool {
        (&self.store, &self.repo, &self.revision) == (&other.store, &other.repo, &other.revision)
    }
}

impl Eq for RepoAddress {}

impl fmt::Debug for RepoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} in {}", self.repo, self.revision, self.store.folder().display())
    }
}

impl RepoAddress {
    /// The commit, when the revision is one.
    #[must_use]
    pub fn commit(&self) -> Option<Pin> {
        self.revision.as_commit().map(|commit| Pin { commit, warning: None })
    }

    /// The commit that the store knows for the revision. What cannot be read is not known.
    #[must_use]
    pub fn last_known(&self) -> Option<Commit> {
        self.store.last_known(&self.revision).ok().flatten()
    }

    /// The commits that have files in the store: the one last known for the revision first.
    #[must_use]
    pub fn cached_commits(&self) -> Vec<Commit> {
        let known = self.last_known();
        let mut commits = self.store.commits();
        commits.sort_by_key(|commit| Some(commit) != known.as_ref());
        commits
    }

    /// The model at a commit, whether it is on this machine or not.
    #[must_use]
    pub fn at(&self, pin: &Pin) -> ResolvedModel {
        let mut dependencies = Vec::new();
        if self.revision.as_commit().is_none() {
            dependencies.push(self.store.ref_path(&self.revision));
        }
        let path = self.store.snapshot(&pin.commit);
        dependencies.push(path.clone());
        let kind = ModelKind::Repo { address: self.clone(), commit: pin.commit.clone() };
        ResolvedModel { kind, dependencies, path, warning: pin.warning.clone() }
    }

    /// The model on this machine: at the commit of `pin`, or at the one that the store knows.
    pub(super) fn on_disk(&self, pin: Option<&Pin>) -> Result<ResolvedModel, ResolveError> {
        let (repo, words) = (self.repo.clone(), self.source.words());
        let cache = self.store.cache().to_owned();
        if !self.store.folder().is_dir() {
            let folder = self.store.folder().to_owned();
            return Err(ResolveError::RepoNotCached { repo, words, cache, folder });
        }
        let mut known = pin.cloned().or_else(|| self.commit());
        if known.is_none() {
            known = self.store.last_known(&self.revision)?.map(|commit| Pin { commit, warning: None });
        }
        let model = known.map(|pin| self.at(&pin)).filter(|model| model.path.is_dir());
        model.ok_or_else(|| ResolveError::RevisionNotCached {
            repo,
            revision: self.revision.clone(),
            words,
            cache,
            cached: self.store.known(LISTED_MAX),
        })
    }
}
