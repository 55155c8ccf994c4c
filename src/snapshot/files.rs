//! Where the files of a model are: below its directory, and, for a commit whose listing is known, also among the blobs
//! that nothing links to yet.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use globset::{Glob, GlobSet, GlobSetBuilder};
use weightsd_core::{
    listing::{Listed, Listing},
    select,
};

use super::{SnapshotError, listing};
use crate::{
    hub::RepoStore,
    resolve::{Choice, ModelKind, ResolvedModel},
};

/// See the module.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
    names: Vec<String>,
    listed: Option<(RepoStore, Arc<Listing>)>,
}

impl Files {
    /// The files of `model` that are on this machine, or that a listing in the cache names.
    pub(super) fn on_disk(model: &ResolvedModel, choice: &Choice) -> Result<Self, SnapshotError> {
        let names = match &model.kind {
            ModelKind::File => {
                model.path.file_name().map(|name| name.to_string_lossy().into_owned()).into_iter().collect()
            }
            ModelKind::Hub { repo, commit, cache, .. } => {
                let store = RepoStore::new(cache, repo);
                if let Some(listing) = store.listing(commit) {
                    return Self::listed(model, choice, store, Arc::new(listing));
                }
                listing::list(&model.path)?
            }
            ModelKind::Directory => listing::list(&model.path)?,
        };
        Ok(Self { root: model.root().to_owned(), names: chosen(names, choice)?, listed: None })
    }

    /// The files that a listing names.
    pub(super) fn listed(
        model: &ResolvedModel,
        choice: &Choice,
        store: RepoStore,
        listing: Arc<Listing>,
    ) -> Result<Self, SnapshotError> {
        let hidden = |path: &str| path.split('/').any(|part| part.starts_with('.'));
        let deep = |path: &str| path.matches('/').count() > listing::DEPTH_MAX;
        let names = listing.iter().map(|(path, _)| path);
        let names = names.filter(|path| !hidden(path) && !deep(path)).map(str::to_owned).collect();
        Ok(Self { root: model.root().to_owned(), names: chosen(names, choice)?, listed: Some((store, listing)) })
    }

    /// Paths below the model's directory, sorted, with `/` between parts.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file as the listing of the commit has it.
    #[must_use]
    pub fn in_listing(&self, name: &str) -> Option<&Listed> {
        self.listed.as_ref()?.1.get(name)
    }

    /// Where a file is, or would be.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        match self.listed.as_ref().and_then(|(store, listing)| Some(store.blob(&listing.get(name)?.blob))) {
            Some(blob) if !path.exists() && blob.exists() => blob,
            _ => path,
        }
    }
}

/// All names, without the weights that no pattern matches.
fn chosen(mut names: Vec<String>, choice: &Choice) -> Result<Vec<String>, SnapshotError> {
    if let Some(patterns) = glob_set(&choice.patterns)? {
        names.retain(|name| !select::is_weights(name) || patterns.is_match(name));
    }
    Ok(names)
}

/// The patterns; `None` when there are none.
pub(super) fn glob_set(patterns: &[String]) -> Result<Option<GlobSet>, SnapshotError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let bad = |pattern: &str| {
        let pattern = weightsd_core::shown::shown(pattern);
        move |error: globset::Error| SnapshotError::Pattern { pattern, problem: error.kind().to_string() }
    };
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        // As in huggingface_hub, a folder stands for what is in it.
        let folder = pattern.strip_suffix('/').map(|folder| format!("{folder}/*"));
        builder.add(Glob::new(folder.as_deref().unwrap_or(pattern)).map_err(bad(pattern))?);
    }
    builder.build().map(Some).map_err(bad("all of them"))
}

/// Whether there is no such file, whatever the system calls that: a name that is longer than the file system allows, or
/// below a file, is not there either.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename | io::ErrorKind::NotADirectory)
}
