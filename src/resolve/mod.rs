//! First stage: what a spec means now. A path is found, a revision becomes a commit; nothing else is looked at.

mod hub;
mod local;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    spec::{self, Commit, HubSpec, ModelSpec, RepoId, Revision, SpecError},
};

use crate::{disk, source::RepoStore};

const PULL: &str = "it would be downloaded if the hub could be asked: `weightsd pull";

/// How a caller names a model, and where the name is looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// The spec.
    pub spec: String,
    /// A revision given beside the spec.
    pub revision: Option<String>,
    /// The Hugging Face cache the caller means.
    pub hub_cache: Option<PathBuf>,
    /// The directory that relative paths start from.
    pub working_directory: Option<PathBuf>,
    /// Which of the model's weights are meant.
    pub choice: Choice,
    /// Whether the hub may be asked.
    pub network: Network,
}

/// Whether the hub may be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// For what is not known here, or not here.
    #[default]
    Allowed,
    /// Only the cache may answer.
    Forbidden,
}

/// Which of a model's weights are meant, where there are several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Choice {
    /// Globs over the paths of weight files; only files that match one count. None means all. `*` crosses `/`.
    pub patterns: Vec<String>,
    /// The variant, such as `fp16`.
    pub variant: Option<String>,
    /// What is meant by a component that has no such variant.
    pub without_variant: WithoutVariant,
}

/// What a request with a variant means by a component that has no weights of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WithoutVariant {
    /// It is refused: who asks for one component by name and variant is given that.
    #[default]
    Refused,
    /// Its plain weights, when another component of the model has the variant: so diffusers loads pipelines.
    Plain,
}

/// What a selector names, before it is looked for.
#[derive(Debug, Clone)]
pub enum Address {
    /// A path, found.
    Path(ResolvedModel),
    /// A Hugging Face id.
    Hub(HubAddress),
}

/// A revision of a repository, and the cache that holds it or will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubAddress {
    /// The repository.
    pub repo: RepoId,
    /// The revision.
    pub revision: Revision,
    /// The cache.
    pub cache: PathBuf,
}

/// What a caller should know about the commit that a revision means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// The hub was not asked, or did not say: this is the last commit that was known.
    LastKnown {
        /// The revision.
        revision: Revision,
        /// Why the hub did not say.
        problem: String,
    },
    /// The hub keeps the repository under another name.
    Renamed {
        /// The name that was asked for.
        from: RepoId,
        /// The present one.
        to: RepoId,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LastKnown { revision, problem } => {
                write!(
                    f,
                    "no newer commit of `{revision}` is known than this one, the last that the hub told ({problem})"
                )
            }
            Self::Renamed { from, to } => write!(f, "`{from}` is called `{to}` now: ask for that name"),
        }
    }
}

/// The commit that a revision means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The commit.
    pub commit: Commit,
    /// Why it may not be the newest.
    pub warning: Option<Warning>,
}

/// The daemon's own places, used where a selector names none.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The user's home, for `~`.
    pub home: Option<PathBuf>,
    /// The Hugging Face cache.
    pub hub_cache: Option<PathBuf>,
}

/// What a model turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelKind {
    /// A directory named by path.
    Directory,
    /// One `.safetensors` file named by path.
    File,
    /// A snapshot in a Hugging Face cache.
    Hub {
        /// The repository.
        repo: RepoId,
        /// The revision that was asked for.
        revision: Revision,
        /// The commit it means.
        commit: Commit,
        /// The cache.
        cache: PathBuf,
    },
}

/// A model whose place on disk is known, with its revision pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// What it is.
    pub kind: ModelKind,
    /// The directory or file; for a hub model the snapshot's directory.
    pub path: PathBuf,
    /// Files whose state decided the answer: as long as they stay as they are, the answer stays.
    pub dependencies: Vec<PathBuf>,
    /// What whoever asked should know, such as that the hub could not be asked for a newer commit.
    pub warning: Option<Warning>,
}

impl ResolvedModel {
    /// The repository's folder in its Hugging Face cache; `None` for what is named by path.
    #[must_use]
    pub fn store(&self) -> Option<RepoStore> {
        match &self.kind {
            ModelKind::Hub { repo, cache, .. } => Some(RepoStore::new(cache, repo)),
            ModelKind::Directory | ModelKind::File => None,
        }
    }

    /// The directory below which the model's files lie.
    #[must_use]
    pub fn root(&self) -> &Path {
        match self.kind {
            ModelKind::File => self.path.parent().unwrap_or(&self.path),
            ModelKind::Directory | ModelKind::Hub { .. } => &self.path,
        }
    }
}

impl fmt::Display for ResolvedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ModelKind::Hub { repo, commit, .. } => write!(f, "{repo}@{}", &commit.as_str()[..12]),
            ModelKind::Directory | ModelKind::File => write!(f, "{}", self.path.display()),
        }
    }
}

/// Why a spec means nothing here.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The text itself.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A relative path, and no directory it could start from.
    #[error("`{path}` is a relative path, and the request does not say from which directory")]
    RelativePath {
        /// The path.
        path: String,
    },
    /// `hub_cache` or `working_directory` that is not absolute.
    #[error("`{field}` is `{}`, expected an absolute path", path.display())]
    NotAbsolute {
        /// Name of the request's field.
        field: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// A path starting with `~`, and no home.
    #[error("`{path}` starts with `~`, which {problem}")]
    Home {
        /// The path.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// No such path.
    #[error("there is nothing at `{}`", path.display())]
    PathNotFound {
        /// The path.
        path: PathBuf,
    },
    /// Something that is no model.
    #[error("`{}` is {found}, expected a directory or a `.safetensors` file", path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// No Hugging Face cache is known.
    #[error("no Hugging Face cache is known: the daemon has no home directory and the request names none")]
    NoHubCache,
    /// The repository is not in the cache.
    #[error("`{repo}` is not in the Hugging Face cache `{}`", cache.display())]
    RepoNotCached {
        /// The repository.
        repo: RepoId,
        /// The cache.
        cache: PathBuf,
    },
    /// The repository is there, the revision is not.
    #[error("revision `{revision}` of `{repo}` is not in the Hugging Face cache `{}` (cached: {})", cache.display(), known(cached))]
    RevisionNotCached {
        /// The repository.
        repo: RepoId,
        /// The revision.
        revision: Revision,
        /// The cache.
        cache: PathBuf,
        /// Revisions and commits that are there.
        cached: Vec<String>,
    },
    /// A ref file that holds no commit.
    #[error("`{}` should hold a 40-digit commit, found {found:?}", path.display())]
    BadRef {
        /// The file.
        path: PathBuf,
        /// Its content, cut.
        found: String,
    },
    /// The system refused.
    #[error("cannot look at `{}`", path.display())]
    Io {
        /// At what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Explain for ResolveError {
    fn explain(&self) -> Explanation {
        let new = |reason, resource: String, hint: String| Explanation::new(reason, resource, hint);
        let absolute = || "give an absolute path".to_owned();
        match self {
            Self::Spec(error) => error.explain(),
            Self::RelativePath { path } => {
                new(Reason::InvalidSpec, path.clone(), "give an absolute path, or set `working_directory`".to_owned())
            }
            Self::NotAbsolute { field, .. } => new(Reason::InvalidRequest, format!("model.{field}"), absolute()),
            Self::Home { path, .. } => new(Reason::InvalidSpec, path.clone(), absolute()),
            Self::PathNotFound { path } => {
                const SPELLING: &str = "check the spelling; the daemon sees the same file system as you do, but not your shell's variables";
                let hint = disk::dangling(path).map_or_else(|| SPELLING.to_owned(), |link| link.hint());
                new(Reason::PathNotFound, path.display().to_string(), hint)
            }
            Self::NotAModel { path, .. } => new(
                Reason::NotAModel,
                path.display().to_string(),
                "give a model's directory or one `.safetensors` file".to_owned(),
            ),
            Self::NoHubCache => {
                let hint = "name one with `--hub-cache`, or with `hub_cache` in the request or the configuration file";
                new(Reason::NoHubCache, String::new(), hint.to_owned())
            }
            Self::RepoNotCached { repo, cache } => {
                let pull = || {
                    format!(
                        "{PULL} {repo}`; if it lies in another cache, name that cache with `--hub-cache` (`hub_cache`)"
                    )
                };
                let hint = disk::dangling(&cache.join(repo.cache_folder())).map_or_else(pull, |link| link.hint());
                new(Reason::RepoNotCached, repo.to_string(), hint)
            }
            Self::RevisionNotCached { repo, revision, .. } => {
                let hint = format!("{PULL} {repo} --revision {revision}`; or ask for one that is cached");
                new(Reason::RevisionNotCached, format!("{repo}@{revision}"), hint)
            }
            Self::BadRef { path, .. } => {
                let hint = "the cache is damaged: remove the file and fetch the revision again";
                new(Reason::BadRef, path.display().to_string(), hint.to_owned())
            }
            Self::Io { path, source } => disk::explain(path, source),
        }
    }
}

fn known(cached: &[String]) -> String {
    if cached.is_empty() { "none".to_owned() } else { cached.join(", ") }
}

/// Finds out what `selector` names. An existing path wins over a Hugging Face id of the same spelling.
///
/// # Errors
/// [`ResolveError`].
pub fn address(selector: &Selector, places: &Places) -> Result<Address, ResolveError> {
    for (field, path) in [("hub_cache", &selector.hub_cache), ("working_directory", &selector.working_directory)] {
        if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
            return Err(ResolveError::NotAbsolute { field, path: path.clone() });
        }
    }
    let text = spec::check_text(&selector.spec)?;
    if let Some(directory) = selector.working_directory.as_ref().filter(|_| !spec::is_path_like(text)) {
        let path = directory.join(text);
        if path.exists() {
            return local::resolve(path, selector).map(Address::Path);
        }
    }
    match ModelSpec::parse(text)? {
        ModelSpec::Path(written) => local::resolve(absolute(&written, selector, places)?, selector).map(Address::Path),
        ModelSpec::Hub(HubSpec { repo, revision }) => {
            let revision = chosen_revision(revision, selector.revision.as_deref())?;
            let cache = selector.hub_cache.as_ref().or(places.hub_cache.as_ref()).ok_or(ResolveError::NoHubCache)?;
            Ok(Address::Hub(HubAddress { repo, revision, cache: cache.clone() }))
        }
    }
}

impl Address {
    /// The model on this machine: at the commit of `pin`, or at the one that the cache knows.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn on_disk(&self, pin: Option<&Pin>) -> Result<ResolvedModel, ResolveError> {
        match self {
            Self::Path(model) => Ok(model.clone()),
            Self::Hub(address) => hub::on_disk(address, pin),
        }
    }
}

impl HubAddress {
    /// The commit, when the revision is one.
    #[must_use]
    pub fn commit(&self) -> Option<Pin> {
        self.revision.as_commit().map(|commit| Pin { commit, warning: None })
    }

    /// The commit that the cache knows for the revision. What cannot be read is not known.
    #[must_use]
    pub fn last_known(&self) -> Option<Commit> {
        hub::read_ref(&hub::ref_path(self)).ok().flatten()
    }

    /// The commits that have a folder in the cache: the one last known for the revision first.
    #[must_use]
    pub fn cached_commits(&self) -> Vec<Commit> {
        let known = self.last_known();
        let mut commits = hub::commits(self);
        commits.sort_by_key(|commit| Some(commit) != known.as_ref());
        commits
    }

    /// The model at a commit, whether it is on this machine or not.
    #[must_use]
    pub fn at(&self, pin: &Pin) -> ResolvedModel {
        hub::at(self, pin)
    }
}

fn chosen_revision(in_spec: Option<Revision>, beside: Option<&str>) -> Result<Revision, SpecError> {
    let beside = beside.map(Revision::parse).transpose()?;
    match (in_spec, beside) {
        (Some(a), Some(b)) if a != b => {
            Err(SpecError::TwoRevisions { in_spec: a.to_string(), in_request: b.to_string() })
        }
        (a, b) => Ok(a.or(b).unwrap_or_default()),
    }
}

fn absolute(written: &str, selector: &Selector, places: &Places) -> Result<PathBuf, ResolveError> {
    let home_problem = |problem| ResolveError::Home { path: written.to_owned(), problem };
    if let Some(rest) = written.strip_prefix('~') {
        let home =
            places.home.as_ref().ok_or_else(|| home_problem("needs a home directory, and the daemon has none"))?;
        return match rest.strip_prefix('/') {
            Some(rest) => Ok(home.join(rest)),
            None if rest.is_empty() => Ok(home.clone()),
            None => Err(home_problem("names another user's home; write the path out")),
        };
    }
    let path = Path::new(written);
    match &selector.working_directory {
        _ if path.is_absolute() => Ok(path.to_owned()),
        // Without the `.` of `./model`, which messages would repeat.
        Some(directory) => Ok(directory.join(path).components().collect()),
        None => Err(ResolveError::RelativePath { path: written.to_owned() }),
    }
}
