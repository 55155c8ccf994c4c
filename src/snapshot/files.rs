//! Where the files of a model are: below its directory and, for a commit whose listing is known, also among the blobs
//! that no link leads to yet.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use globset::{Glob, GlobSet, GlobSetBuilder};
use weightsd_core::{
    json,
    listing::{BlobName, Listed, Listing},
    select,
    spec::Commit,
    weight_name,
};
use weightsd_segment::PinnedFile;

use super::{
    HashCandidate, SnapshotError,
    hash::{BlobHasher, Hashed},
    listing,
};
use crate::{
    resolve::{Choice, ModelKind, ResolvedModel},
    source::{FoundFile, Store, blob_name, is_absent},
};

/// The files of a model: their names, and where they lie.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
    names: Vec<String>,
    listed: Option<ListedFiles>,
}

/// The files of a commit whose listing is known.
#[derive(Debug, Clone)]
struct ListedFiles {
    store: Arc<dyn Store>,
    commit: Commit,
    listing: Arc<Listing>,
}

impl Files {
    /// The files of `model` that are on this machine, or that a listing in the cache names.
    pub(super) fn on_disk(model: &ResolvedModel, choice: &Choice) -> Result<Self, SnapshotError> {
        let names = match &model.kind {
            ModelKind::File => {
                model.path.file_name().map(|name| name.to_string_lossy().into_owned()).into_iter().collect()
            }
            ModelKind::Repo { address, commit } => {
                if let Some(listing) = address.store.listing(commit) {
                    return Self::listed(model, choice, Arc::clone(&address.store), Arc::new(listing));
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
        store: Arc<dyn Store>,
        listing: Arc<Listing>,
    ) -> Result<Self, SnapshotError> {
        let commit = match &model.kind {
            ModelKind::Repo { commit, .. } => Some(commit.clone()),
            ModelKind::Directory | ModelKind::File => None,
        };
        let hidden = |path: &str| path.split('/').any(|part| part.starts_with('.'));
        let deep = |path: &str| path.matches('/').count() > listing::DEPTH_MAX;
        let names = listing.iter().map(|(path, _)| path);
        let names = names.filter(|path| !hidden(path) && !deep(path)).map(str::to_owned).collect();
        let names = chosen(names, choice)?;
        let listed = commit.map(|commit| ListedFiles { store, commit, listing });
        Ok(Self { root: model.root().to_owned(), names, listed })
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

    /// Whether the listing of the commit is known.
    #[must_use]
    pub fn has_listing(&self) -> bool {
        self.listed.is_some()
    }

    /// The file as the listing of the commit has it.
    #[must_use]
    pub fn in_listing(&self, name: &str) -> Option<&Listed> {
        self.listed.as_ref()?.listing.get(name)
    }

    /// Names of all weight files in the folder of a file, those that no pattern chose included.
    pub(super) fn weights_beside(&self, name: &str) -> Result<Vec<String>, SnapshotError> {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let all = match &self.listed {
            Some(listed) => {
                let paths = listed.listing.iter().map(|(path, _)| path.rsplit_once('/').unwrap_or(("", path)));
                paths.filter(|(found, _)| *found == folder).map(|(_, name)| name.to_owned()).collect()
            }
            None => listing::list_folder(&self.root.join(folder))?,
        };
        Ok(all.into_iter().filter(|name| select::is_tensors(name)).collect())
    }

    /// The file of that name, if it is on this machine.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<FoundFile> {
        let listed = self.listed.as_ref().and_then(|listed| Some((listed, listed.listing.get(name)?)));
        if let Some((ListedFiles { store, commit, .. }, file)) = listed {
            return store.locate(commit, name, file);
        }
        let path = self.root.join(name);
        let is_blob = blob_name(&path).is_some();
        // Any other error of the system is reported when the file is read.
        let is_here = !fs::metadata(&path).is_err_and(|error| is_absent(&error));
        is_here.then_some(if is_blob { FoundFile::Blob(path) } else { FoundFile::Own(path) })
    }

    /// Like [`Self::find`], and also finds a blob whose length is wrong.
    pub(super) fn find_any(&self, name: &str) -> Option<FoundFile> {
        let entry = || Some(self.root.join(name)).filter(|path| path.exists()).map(FoundFile::Blob);
        self.find(name).or_else(entry)
    }

    /// The blob that a file should be, by the listing of the commit or by the name that its link leads to.
    pub(super) fn expected(&self, name: &str, found: &FoundFile) -> Option<BlobName> {
        let listed = self.in_listing(name).map(|listed| listed.blob.clone());
        listed.or_else(|| BlobName::parse(&blob_name(found.path())?))
    }

    /// All files that are on this machine, to be verified.
    pub(super) fn candidates(&self) -> impl Iterator<Item = HashCandidate> {
        self.names.iter().filter_map(|name| {
            let found = self.find_any(name)?;
            let blob = self.expected(name, &found);
            Some(HashCandidate { name: name.clone(), path: found.path().to_owned(), blob })
        })
    }

    /// The content of a small file; `None` when it is gone.
    ///
    /// # Errors
    /// When it cannot be read, has more than `max` bytes, or is a blob with another content than its name says. A file of
    /// the snapshot's own may hold anything that is JSON: its owner may have edited it.
    pub(super) fn read_small(&self, name: &str, found: &FoundFile, max: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
        let path = found.path();
        let Some(bytes) = read_bounded(path, max)? else { return Ok(None) };
        if matches!(found, FoundFile::Own(_)) && json::is_json(&bytes) {
            return Ok(Some(bytes));
        }
        let Some(expected) = self.expected(name, found) else { return Ok(Some(bytes)) };
        let mut hasher = BlobHasher::new(&expected, bytes.len() as u64);
        hasher.update(&bytes);
        let Hashed { is_expected, found } = hasher.finish();
        if is_expected {
            return Ok(Some(bytes));
        }
        Err(SnapshotError::Damaged { path: path.to_owned(), expected, found })
    }

    /// Where the file of that name is, or would be.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.find(name).map_or_else(|| self.root.join(name), |found| found.path().to_owned())
    }
}

/// All names, without the weights that no pattern matches.
fn chosen(mut names: Vec<String>, choice: &Choice) -> Result<Vec<String>, SnapshotError> {
    if let Some(patterns) = glob_set(&choice.patterns)? {
        names.retain(|name| !weight_name::is_weights(name) || patterns.is_match(name));
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

/// Content of a regular file; `None` when there is none of that name.
pub(super) fn read_bounded(path: &Path, max: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
    let io_error = |source| SnapshotError::Io { path: path.to_owned(), source };
    let file = match PinnedFile::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(source)),
    };
    let found = file.identity().length;
    let length = usize::try_from(found).ok().filter(|_| found <= max);
    let Some(length) = length else {
        return Err(SnapshotError::TooLarge { path: path.to_owned(), found, max });
    };
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).map_err(io_error)?;
    Ok(Some(bytes))
}
