//! First stage: what a spec means now. It finds a path, or turns a revision into a commit, and looks at nothing else.

mod allow;
mod local;
mod repo;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    gguf_files,
    shown::shown,
    spec::{self, Commit, ModelSpec, RepoId, RepoSpec, Revision, SpecError},
};

pub use self::{
    allow::{Allowed, Named, Rule},
    repo::RepoAddress,
};
use crate::{
    disk,
    live::Live,
    source::{Caches, RefError, Source, SourceList, Store, Words},
};

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
    /// Whether sources may be asked.
    pub network: Network,
}

impl Selector {
    /// The same selector, with a quantisation that follows the id in the spec (`org/repo:Q4_K_M`) as the variant.
    #[must_use]
    pub fn with_variant_of_spec(mut self) -> Self {
        if let (None, Some((id, quantisation))) = (&self.choice.variant, gguf_files::with_quantisation(&self.spec)) {
            self.choice.variant = Some(quantisation.to_owned());
            self.spec = id.to_owned();
        }
        self
    }
}

/// Whether sources may be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// It may be asked for what this machine does not know or does not have.
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
    /// What becomes of a component that has no such variant.
    pub without_variant: WithoutVariant,
}

/// What a request with a variant gets from a component that does not have that variant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WithoutVariant {
    /// The request is refused: it names one component and its variant, and gets exactly that.
    #[default]
    Refused,
    /// It gets the plain weights if another component of the model has the variant. diffusers loads pipelines like this.
    Plain,
}

/// What a selector names, before anybody looks whether it exists.
#[derive(Debug, Clone)]
pub enum Address {
    /// A path, found.
    Path(ResolvedModel),
    /// A repository at a source.
    Repo(RepoAddress),
}

/// What a caller should know about the commit that a revision means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// The source was not asked, or did not say: this is the last commit that was known.
    LastKnown {
        /// How messages speak of the source.
        words: &'static Words,
        /// The revision.
        revision: Revision,
        /// Why the source did not say.
        problem: String,
    },
    /// The source keeps the repository under another name.
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
            Self::LastKnown { words: Words { name, .. }, revision, problem } => write!(
                f,
                "no newer commit of `{revision}` is known than this one, the last that {name} told ({problem})"
            ),
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
    /// The folder for what weightsd itself keeps.
    pub own_cache: Option<PathBuf>,
    /// The sources that specs may mean.
    pub sources: SourceList,
    /// Which models may be lent.
    pub allowed: Live<Arc<Allowed>>,
}

impl Places {
    /// Refuses what `selector` was found to name, unless the setting `allow` has it. Looks at paths, and so may block.
    ///
    /// # Errors
    /// When the setting does not allow it.
    pub fn allow(&self, selector: &Selector, named: Named<'_>) -> Result<(), ResolveError> {
        self.allowed.get().check(selector, named, self.hub_cache.as_deref())
    }
}

/// What a model turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelKind {
    /// A directory named by path.
    Directory,
    /// One `.safetensors` or `.gguf` file named by path.
    File,
    /// A commit of a repository at a source.
    Repo {
        /// The repository and the revision that was asked for.
        address: RepoAddress,
        /// The commit it means.
        commit: Commit,
    },
}

/// A model whose place on disk is known, with its revision pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// What it is.
    pub kind: ModelKind,
    /// The directory or file; for a repository the folder of the commit.
    pub path: PathBuf,
    /// Files whose state decided the answer. The answer holds as long as they are unchanged.
    pub dependencies: Vec<PathBuf>,
    /// What the caller should know, such as that the source could not be asked for a newer commit.
    pub warning: Option<Warning>,
}

impl ResolvedModel {
    /// Where the repository's files lie; `None` for a model that is named by its path.
    #[must_use]
    pub fn store(&self) -> Option<&Arc<dyn Store>> {
        match &self.kind {
            ModelKind::Repo { address, .. } => Some(&address.store),
            ModelKind::Directory | ModelKind::File => None,
        }
    }

    /// The directory below which the model's files lie.
    #[must_use]
    pub fn root(&self) -> &Path {
        match self.kind {
            ModelKind::File => self.path.parent().unwrap_or(&self.path),
            ModelKind::Directory | ModelKind::Repo { .. } => &self.path,
        }
    }
}

impl fmt::Display for ResolvedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ModelKind::Repo { address, commit } => write!(f, "{}@{}", address.repo, &commit.as_str()[..12]),
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
    /// A relative path without a directory that it starts from.
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
    /// A path that starts with `~`, and no known home.
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
    #[error("`{}` is {found}, expected a directory, a `.safetensors` or a `.gguf` file", path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// The cache of a source is not known.
    #[error("{} is not known: the daemon has no home directory, and nobody names it", words.cache)]
    NoCache {
        /// How messages speak of the source.
        words: &'static Words,
    },
    /// The repository is not in the cache.
    #[error("`{repo}` is not in {} `{}`", words.cache, cache.display())]
    RepoNotCached {
        /// The repository.
        repo: RepoId,
        /// How messages speak of the source.
        words: &'static Words,
        /// The cache.
        cache: PathBuf,
        /// The repository's folder, which is not there.
        folder: PathBuf,
    },
    /// The repository is there, the revision is not.
    #[error("revision `{revision}` of `{repo}` is not in {} `{}` (cached: {})", words.cache, cache.display(), known(cached))]
    RevisionNotCached {
        /// The repository.
        repo: RepoId,
        /// The revision.
        revision: Revision,
        /// How messages speak of the source.
        words: &'static Words,
        /// The cache.
        cache: PathBuf,
        /// Revisions and commits that are there.
        cached: Vec<String>,
    },
    /// The daemon's settings do not allow it.
    #[error("{what} may not be lent: the setting `allow` of this daemon does not name it")]
    NotAllowed {
        /// The repository or path.
        what: String,
    },
    /// What a revision meant last cannot be read.
    #[error(transparent)]
    Ref(#[from] RefError),
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
                "give a model's directory, or one `.safetensors` or `.gguf` file".to_owned(),
            ),
            Self::NoCache { words } => {
                let hint = format!("name one with {} in the request or the configuration file", words.cache_setting);
                new(Reason::NoHubCache, String::new(), hint)
            }
            Self::RepoNotCached { repo, words, folder, .. } => {
                let elsewhere = || {
                    format!(
                        "{} {repo}`; if it lies in another cache, name that cache with {}",
                        pull(words),
                        words.cache_setting
                    )
                };
                let hint = disk::dangling(folder).map_or_else(elsewhere, |link| link.hint());
                new(Reason::RepoNotCached, repo.to_string(), hint)
            }
            Self::RevisionNotCached { repo, revision, words, .. } => {
                let hint = format!("{} {repo} --revision {revision}`; or ask for one that is cached", pull(words));
                new(Reason::RevisionNotCached, format!("{repo}@{revision}"), hint)
            }
            Self::NotAllowed { .. } => new(
                Reason::NotAllowed,
                "allow".to_owned(),
                "add it to `allow` in the daemon's configuration and send the daemon SIGHUP; `weightsd config` shows the file"
                    .to_owned(),
            ),
            Self::Ref(RefError::Bad { path, .. }) => {
                let hint = "the cache is damaged: remove the file and fetch the revision again";
                new(Reason::BadRef, path.display().to_string(), hint.to_owned())
            }
            Self::Ref(RefError::Io { path, source }) | Self::Io { path, source } => disk::explain(path, source),
        }
    }
}

fn pull(words: &Words) -> String {
    format!("it would be downloaded if {} could be asked: `weightsd pull", words.name)
}

fn known(cached: &[String]) -> String {
    if cached.is_empty() { "none".to_owned() } else { cached.join(", ") }
}

/// Finds out what `selector` names. An existing path wins over an id of the same spelling.
///
/// # Errors
/// When the spec or its revision is malformed, a path does not exist or is not absolute, or no Hugging Face cache is
/// known.
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
        ModelSpec::Id(id) => {
            let source = places
                .sources
                .of_ids()
                .ok_or_else(|| SpecError::NotAnId { text: shown(&id), problem: "no source takes ids" })?;
            repository(source, &id, selector, places)
        }
        ModelSpec::Address { scheme, text } => {
            let source = places.sources.of_scheme(&scheme).ok_or_else(|| SpecError::Url { text: text.clone() })?;
            repository(source, &text, selector, places)
        }
    }
}

fn repository(
    source: &Arc<dyn Source>,
    spec: &str,
    selector: &Selector,
    places: &Places,
) -> Result<Address, ResolveError> {
    let RepoSpec { repo, revision } = source.parse(spec)?;
    let revision = chosen_revision(revision, selector.revision.as_deref())?;
    let store =
        store(source, &repo, selector, places).ok_or_else(|| ResolveError::NoCache { words: source.words() })?;
    Ok(Address::Repo(RepoAddress { source: Arc::clone(source), store, repo, revision }))
}

fn store(source: &Arc<dyn Source>, repo: &RepoId, selector: &Selector, places: &Places) -> Option<Arc<dyn Store>> {
    let caches =
        Caches { hub: selector.hub_cache.as_deref().or(places.hub_cache.as_deref()), own: places.own_cache.as_deref() };
    source.store(caches, repo)
}

/// The paths at which [`address`] and the stages after it look for the model of `selector`. Looks at none of them.
#[must_use]
pub fn may_lie_at(selector: &Selector, places: &Places) -> Vec<PathBuf> {
    let Ok(text) = spec::check_text(&selector.spec) else { return Vec::new() };
    let of_source = |source: Option<&Arc<dyn Source>>, text: &str| -> Vec<PathBuf> {
        let repo = source.and_then(|source| Some((source, source.parse(text).ok()?.repo)));
        let folder = repo.and_then(|(source, repo)| Some(store(source, &repo, selector, places)?.folder().to_owned()));
        // The folders of contents and of commits may be links of their own.
        let inside = |folder: PathBuf| [folder.join("blobs"), folder.join("snapshots"), folder];
        folder.into_iter().flat_map(inside).collect()
    };
    let mut paths: Vec<PathBuf> = match ModelSpec::parse(text) {
        Ok(ModelSpec::Path(written)) => absolute(&written, selector, places).into_iter().collect(),
        Ok(ModelSpec::Id(id)) => of_source(places.sources.of_ids(), &id),
        Ok(ModelSpec::Address { scheme, text }) => of_source(places.sources.of_scheme(&scheme), &text),
        Err(_) => Vec::new(),
    };
    paths.extend(selector.working_directory.as_ref().filter(|_| !spec::is_path_like(text)).map(|it| it.join(text)));
    paths.retain(|path| path.is_absolute());
    paths
}

impl Address {
    /// The model on this machine: at the commit of `pin`, or at the one that the cache knows.
    ///
    /// # Errors
    /// When the commit is not known, or the cache does not have its snapshot.
    pub fn on_disk(&self, pin: Option<&Pin>) -> Result<ResolvedModel, ResolveError> {
        match self {
            Self::Path(model) => Ok(model.clone()),
            Self::Repo(address) => address.on_disk(pin),
        }
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
        // `components` drops the `.` of `./model`, which messages would repeat.
        Some(directory) => Ok(directory.join(path).components().collect()),
        None => Err(ResolveError::RelativePath { path: written.to_owned() }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::source::fake::Directory;

    /// A revision of the one repository of `source`, in a cache.
    pub(crate) fn address(source: &Arc<Directory>, revision: &str, cache: &Path) -> RepoAddress {
        let selector = Selector {
            spec: "fake://place/folder".to_owned(),
            revision: Some(revision.to_owned()),
            ..Selector::default()
        };
        let sources = SourceList::new(vec![Arc::clone(source) as Arc<dyn Source>], false);
        let places = Places { own_cache: Some(cache.to_owned()), sources, ..Places::default() };
        let Ok(Address::Repo(address)) = super::address(&selector, &places) else { panic!("{selector:?}") };
        address
    }

    #[test]
    fn the_scheme_of_a_spec_chooses_the_source() {
        let folder = tempfile::tempdir().unwrap();
        let source = Arc::new(Directory::new(folder.path()));
        let found = address(&source, "main", folder.path());
        assert_eq!(found.repo.as_str(), "fake://place/folder");
        assert!(found.store.folder().starts_with(folder.path()));
        let sources = SourceList::new(vec![source as Arc<dyn Source>], false);
        let mut places = Places { sources, ..Places::default() };
        let ask = |spec: &str| super::address(&Selector { spec: spec.to_owned(), ..Selector::default() }, &places);
        assert!(matches!(ask("s3://bucket/a"), Err(ResolveError::Spec(SpecError::Url { .. }))));
        assert!(matches!(ask("a/b"), Err(ResolveError::Spec(SpecError::NotAnId { .. }))));
        assert!(matches!(ask("fake://place/.."), Err(ResolveError::Spec(SpecError::Address { .. }))));
        assert!(matches!(ask("fake://place"), Err(ResolveError::NoCache { .. })));
        places.own_cache = Some(folder.path().to_owned());
        let error = super::address(&Selector { spec: "fake://place".to_owned(), ..Selector::default() }, &places);
        let error = error.unwrap().on_disk(None).unwrap_err();
        assert!(error.to_string().contains("is not in the folder of tests"), "{error}");
    }
}
