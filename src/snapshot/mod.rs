//! Second stage: which files a model has, which family it is of, and which files each component is made of. Reads the
//! listing, the small JSON files and the indexes; opens no weight file.

mod attest;
mod fetch;
mod files;
mod hash;
mod listing;
mod remote;
mod verify;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use weightsd_core::{
    adapter::{Beside, finished},
    explain::{Explain, Explanation, Reason},
    family::{self, ComponentSite, Family, ModelFacts},
    identity::ContentKey,
    index::{INDEX_BYTES_MAX, Index, IndexError},
    listing::{BlobName, Listing},
    parts::{FilePart, Located},
    preferred::{Ground, Preference, PreferredError, preferred},
    resemblance::Resemblance,
    select::{self, SelectError, WeightFiles},
    weight_name,
};
use weightsd_segment::{FileIdentity, PinnedFile};

pub use self::{
    attest::Attestations,
    fetch::{DownloadEvent, Extent, FetchError, FetchReport, Fetcher, Want},
    files::Files,
    remote::{Remote, RemoteComponent, RemoteError},
    verify::{Finding, HashCandidate, HashCheck, OwnFiles, Scope, Verdict, VerifyError, verify},
};
use crate::{
    disk,
    resolve::{Choice, ResolvedModel, WithoutVariant},
    source::{FoundFile, RepoStore, is_absent},
    turn::in_turn,
};

/// Most components that a model may have; each folder with weights is one, where no family says better.
const COMPONENTS_MAX: usize = 1024;
/// Most bytes of small JSON files that are kept of a model.
const DOCUMENTS_BYTES_MAX: usize = 4_000_000;

/// A model's files on disk.
#[derive(Debug)]
pub struct Snapshot {
    /// The model.
    pub model: Arc<ResolvedModel>,
    /// Listing and small JSON files.
    pub facts: ModelFacts,
    /// The family that recognises it.
    pub family: &'static dyn Family,
    /// Where the files are.
    pub files: Files,
    /// Small JSON files that the commit has and this machine has not.
    pub missing_documents: Vec<String>,
    sites: Vec<ComponentSite>,
    choice: Choice,
    /// The file that holds all components, when the model is one file.
    single: Option<(String, Located)>,
    /// What the only file looks like, where no family takes it.
    resemblance: Option<Resemblance>,
}

/// One weight file of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardFile {
    /// Path below the model's directory, with `/` between parts.
    pub name: String,
    /// Path on disk.
    pub path: PathBuf,
    /// The file that was there.
    pub identity: FileIdentity,
    /// What its content is known by.
    pub content: ContentKey,
    /// The blob that it should be; `None` outside of a cache, and where neither link nor listing says so.
    pub expected: Option<BlobName>,
}

/// A small file beside weights, with its content.
#[derive(Debug, Clone)]
pub struct Document {
    /// Path on disk.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The files that a component is made of.
#[derive(Debug)]
pub struct ComponentFiles {
    /// The model whose files they are.
    pub model: Arc<ResolvedModel>,
    /// Where the family says they are.
    pub site: ComponentSite,
    /// The index, when there is one.
    pub index: Option<Index>,
    /// Weight files, in shard order.
    pub shards: Vec<ShardFile>,
    /// The file beside an adapter's weights that says how strong it is.
    pub config: Option<Document>,
    /// A config beside an adapter's weights that is another file's.
    pub foreign_config: Option<PathBuf>,
    /// Files whose state decided the answer.
    pub dependencies: Vec<PathBuf>,
}

/// Why a model's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// More entries than a model has.
    #[error("`{}` holds more than {} files, which is not a model", path.display(), listing::ENTRIES_MAX)]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
    },
    /// More folders with weights than a model has components.
    #[error("`{}` holds more than {COMPONENTS_MAX} folders with weights, which is not a model", path.display())]
    TooManyComponents {
        /// The directory.
        path: PathBuf,
    },
    /// More JSON than a model has.
    #[error("the configurations below `{}` have more than {DOCUMENTS_BYTES_MAX} bytes together", path.display())]
    TooManyDocuments {
        /// The directory.
        path: PathBuf,
    },
    /// A small file that is not what its name, or the commit's listing, says.
    #[error("`{}` is damaged: its hash is {found}, expected {expected}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// By its name or the listing.
        expected: BlobName,
        /// By its content.
        found: String,
    },
    /// A config of megabytes.
    #[error("`{}` has {found} bytes, at most {max} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A component that the model does not have.
    #[error("`{model}` has no component `{component}`; it has {}{}", known.join(", "), looks(model, resemblance.as_deref()))]
    NoSuchComponent {
        /// The model.
        model: String,
        /// What was asked for.
        component: String,
        /// What there is.
        known: Vec<String>,
        /// What the weights look like, where no family takes them.
        resemblance: Option<Box<Resemblance>>,
    },
    /// Shards that are not on disk.
    #[error(
        "`{component}` is incomplete: {} of {total} shards are missing: {}{}", missing.len(), missing.join(", "),
        beside(unlisted)
    )]
    Incomplete {
        /// The component.
        component: String,
        /// Missing files, below the model's directory.
        missing: Vec<String>,
        /// How many there should be.
        total: usize,
        /// Files of complete sets that are there and that the index does not list.
        unlisted: Vec<String>,
        /// What lacks the missing files.
        lacking: Lacking,
    },
    /// A pattern that is none.
    #[error("`{pattern}` is not a pattern: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Files without a word, several of which may be meant.
    #[error("`{}` holds several files of weights and says nothing about them", path.display())]
    Preferred {
        /// The directory.
        path: PathBuf,
        /// Which.
        #[source]
        source: PreferredError,
    },
    /// No weights, or more than one set.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// An index that cannot be used.
    #[error("`{}` cannot be used", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// Why.
        #[source]
        source: IndexError,
    },
    /// The system refused.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What lacks the files of an incomplete component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacking {
    /// This machine; the commit may have them.
    Cache,
    /// The commit itself, by its listing.
    Commit,
    /// A folder that nobody fetches.
    Folder,
}

fn beside(unlisted: &[String]) -> String {
    if unlisted.is_empty() {
        return String::new();
    }
    format!("; beside them are complete weights that the index does not list: {}", unlisted.join(", "))
}

fn looks(model: &str, resemblance: Option<&Resemblance>) -> String {
    resemblance.map(|resemblance| format!("; {}", resemblance.told(model))).unwrap_or_default()
}

impl Lacking {
    /// What can help.
    fn hint(self, has_unlisted: bool) -> &'static str {
        match (self, has_unlisted) {
            (Self::Cache, false) => "`weightsd pull` fetches what is missing",
            (Self::Folder, false) => {
                "`weightsd pull` fetches what is missing; a directory of your own has to be copied again"
            }
            (Self::Commit, false) => {
                "the repository itself lacks them, so fetching again cannot help: name another revision, or tell its \
                 owner"
            }
            (Self::Cache | Self::Folder, true) => {
                "the index is another set's: if the files beside it are the model, move the index away, and they are \
                 loaded; otherwise fetch what it lists"
            }
            (Self::Commit, true) => {
                "the repository's index is another set's, so fetching again cannot help: name another revision, tell \
                 its owner, or load a copy of the folder without the index"
            }
        }
    }
}

impl Explain for SnapshotError {
    fn explain(&self) -> Explanation {
        let of_path =
            |reason, path: &Path, hint: &'static str| Explanation::new(reason, path.display().to_string(), hint);
        match self {
            Self::TooManyFiles { path } | Self::TooManyComponents { path } | Self::TooManyDocuments { path } => {
                of_path(Reason::NotAModel, path, "name the model's own directory")
            }
            Self::Damaged { path, .. } => of_path(
                Reason::Corrupt,
                path,
                "it is fetched again when the hub may be asked; if it happens again, look at the disk",
            ),
            Self::TooLarge { path, .. } => of_path(
                Reason::InvalidConfig,
                path,
                "no model has such a config: the file is damaged or another one, fetch it again",
            ),
            Self::NoSuchComponent { component, resemblance, .. } => {
                let hint = resemblance.as_deref().map_or("ask for one of the components listed", Resemblance::hint);
                Explanation::new(Reason::ComponentNotFound, component, hint)
            }
            Self::Incomplete { component, unlisted, lacking, .. } => {
                Explanation::new(Reason::SnapshotIncomplete, component, lacking.hint(!unlisted.is_empty()))
            }
            Self::Preferred { path, source } => {
                Explanation { resource: path.display().to_string(), ..source.explain() }
            }
            Self::Pattern { pattern, .. } => {
                let hint = "a pattern is a glob such as `transformer/*` or `*.{json,safetensors}`";
                Explanation::new(Reason::InvalidRequest, pattern, hint)
            }
            Self::Select(error) => error.explain(),
            Self::Index { path, .. } => of_path(Reason::IndexMismatch, path, "the index is damaged: fetch it again"),
            Self::Io { path, source } => disk::explain(path, source),
        }
    }
}

impl Snapshot {
    /// Lists the files of `model` that are on this machine and detects its family.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn list(model: ResolvedModel, choice: &Choice) -> Result<Self, SnapshotError> {
        let files = Files::on_disk(&model, choice)?;
        Self::read(model, choice, files)
    }

    /// The files of `model` by the listing of its commit, whether they are on this machine or not; `documents` has the
    /// content of small JSON files that are not.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn remote(
        model: ResolvedModel,
        choice: &Choice,
        store: RepoStore,
        listing: Arc<Listing>,
        documents: BTreeMap<String, Vec<u8>>,
    ) -> Result<Self, SnapshotError> {
        let files = Files::listed(&model, choice, store, listing)?;
        let mut snapshot = Self::read(model, choice, files)?;
        if !documents.is_empty() {
            snapshot.missing_documents.retain(|name| !documents.contains_key(name));
            snapshot.facts.documents.extend(documents);
            snapshot.recognise()?;
        }
        Ok(snapshot)
    }

    fn read(model: ResolvedModel, choice: &Choice, files: Files) -> Result<Self, SnapshotError> {
        let mut documents = BTreeMap::new();
        let mut missing_documents = Vec::new();
        let mut bytes_total = 0;
        for name in files.names().iter().filter(|name| family::is_document(name)) {
            let found = match files.find_any(name) {
                Some(found) => files.read_small(name, &found, family::CONFIG_BYTES_MAX)?,
                None => None,
            };
            match found {
                Some(bytes) => {
                    bytes_total += bytes.len();
                    if bytes_total > DOCUMENTS_BYTES_MAX {
                        return Err(SnapshotError::TooManyDocuments { path: model.path });
                    }
                    documents.insert(name.clone(), bytes);
                }
                // Not downloaded; or, without a listing, a dangling link, which counts as absent.
                None if files.in_listing(name).is_some() => missing_documents.push(name.clone()),
                None => {}
            }
        }
        let facts = ModelFacts { files: files.names().to_vec(), documents };
        let family = family::detect(&facts);
        let choice = choice.clone();
        let mut snapshot = Self {
            model: Arc::new(model),
            facts,
            family,
            files,
            missing_documents,
            sites: Vec::new(),
            choice,
            single: None,
            resemblance: None,
        };
        snapshot.recognise()?;
        Ok(snapshot)
    }

    fn recognise(&mut self) -> Result<(), SnapshotError> {
        self.family = family::detect(&self.facts);
        self.sites = family::components(self.family, &self.facts);
        if self.sites.len() > COMPONENTS_MAX {
            return Err(SnapshotError::TooManyComponents { path: self.model.path.clone() });
        }
        Ok(())
    }

    /// The family that describes the component at `site`.
    #[must_use]
    pub fn family_of(&self, site: &ComponentSite) -> &'static dyn Family {
        family::of_site(self.family, site)
    }

    /// Where the components are, present or not.
    #[must_use]
    pub fn sites(&self) -> &[ComponentSite] {
        &self.sites
    }

    /// The weights that nothing but their own names describe: those in the root of a model without a config. `None`
    /// when there is a config, or when the weights lie in folders.
    #[must_use]
    pub fn bare_site(&self) -> Option<&ComponentSite> {
        let is_bare = |site: &&ComponentSite| site.folder.is_empty() && site.config.is_none();
        self.sites.iter().find(is_bare).filter(|_| self.family.id() == family::GENERIC && self.single.is_none())
    }

    /// The file that [`Self::bare_site`] means: the only one, or the one that the preference for files without a word
    /// gives. `None` when the weights are sharded.
    ///
    /// # Errors
    /// [`SnapshotError::Preferred`].
    pub fn bare_file(&self) -> Result<Option<ShardFile>, SnapshotError> {
        let Some(site) = self.bare_site() else { return Ok(None) };
        let name = match self.select(site) {
            Ok(WeightFiles::Files(names)) if names.len() == 1 => names.into_iter().next(),
            Err(SnapshotError::Select(SelectError::Ambiguous { .. })) => {
                let length = |name: &str| fs::metadata(self.files.path(name)).map(|metadata| metadata.len()).ok();
                let names = self.facts.files.iter().map(String::as_str);
                let preferred =
                    preferred(names.filter_map(|name| Some((name, length(name)?))), Preference::NewerOrLargest)
                        .map_err(|source| SnapshotError::Preferred { path: self.files.root().to_owned(), source })?;
                preferred.files.into_iter().next().filter(|_| preferred.ground != Ground::Only)
            }
            _ => None,
        };
        name.map(|name| self.shard_file(&name)).transpose().map(Option::flatten)
    }

    /// One file as a component of its own.
    #[must_use]
    pub fn file(&self, shard: ShardFile) -> ComponentFiles {
        let stem = weight_name::stem(&shard.name).unwrap_or(&shard.name);
        let site = ComponentSite::of_file(stem, stem);
        let mut dependencies = self.model.dependencies.clone();
        dependencies.push(shard.path.clone());
        let model = Arc::clone(&self.model);
        ComponentFiles {
            model,
            site,
            index: None,
            shards: vec![shard],
            config: None,
            foreign_config: None,
            dependencies,
        }
    }

    /// What a model gives that lends only its small files.
    #[must_use]
    pub fn without_weights(&self) -> ComponentFiles {
        let mut dependencies = self.model.dependencies.clone();
        dependencies.extend(self.facts.documents.keys().map(|name| self.files.path(name)));
        let site = ComponentSite::of_file(&self.model.to_string(), "");
        let model = Arc::clone(&self.model);
        ComponentFiles {
            model,
            site,
            index: None,
            shards: Vec::new(),
            config: None,
            foreign_config: None,
            dependencies,
        }
    }

    /// The weight file of an adapter: the only one in the root, or the finished one beside its own checkpoints and the
    /// weights of a model. Others are refused, since no size tells which is wanted.
    ///
    /// # Errors
    /// When there is none, when there are several, and when it is not on this machine.
    pub fn only_file(&self) -> Result<ShardFile, SnapshotError> {
        let files = self.facts.files.iter().map(String::as_str);
        let finished = finished(files.clone(), Beside::CheckpointsAndModels);
        let names = files.filter(|&name| finished.is_none_or(|finished| name == finished)).map(|name| (name, 0));
        let only = preferred(names, Preference::OnlyOne)
            .map_err(|source| SnapshotError::Preferred { path: self.files.root().to_owned(), source })?;
        let missing = || SnapshotError::Incomplete {
            component: self.model.to_string(),
            missing: only.files.clone(),
            total: only.files.len(),
            unlisted: Vec::new(),
            lacking: self.lacking(&only.files),
        };
        let name = only.files.first().ok_or_else(missing)?;
        self.shard_file(name)?.ok_or_else(missing)
    }

    /// Names of all weight files in the folder of this one, wanted or not, on this machine or not.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn weights_beside(&self, file: &ShardFile) -> Result<Vec<String>, SnapshotError> {
        self.files.weights_beside(&file.name)
    }

    /// The small file of that name in the folder of a weight file, with its path.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn beside(&self, file: &ShardFile, name: &str) -> Result<(PathBuf, Option<Vec<u8>>), SnapshotError> {
        let path = self.files.path(&weight_name::in_folder(weight_name::split(&file.name).0, name));
        let content = read_bounded(&path, family::CONFIG_BYTES_MAX)?;
        Ok((path, content))
    }

    /// The weights in the root.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn root_site(&self) -> Result<&ComponentSite, SnapshotError> {
        self.sites.iter().find(|site| site.folder.is_empty()).ok_or_else(|| self.nothing())
    }

    /// Takes `file` for the whole model: its parts are components of `family`.
    pub fn adopt(&mut self, file: &str, family: &'static dyn Family, located: Located) {
        let stem = weight_name::stem(file).unwrap_or(file);
        let site = |part: &FilePart| ComponentSite::of_file(part.component, stem);
        self.family = family;
        self.sites = located.parts.iter().map(site).collect();
        self.single = Some((file.to_owned(), located));
    }

    /// Notes what the only file looks like, which no family takes.
    pub fn note_resemblance(&mut self, resemblance: Option<Resemblance>) {
        self.resemblance = resemblance;
    }

    /// What the file holds, when the model is one file.
    #[must_use]
    pub fn located(&self) -> Option<&Located> {
        self.single.as_ref().map(|(_, located)| located)
    }

    /// That there are no weights, and what there is instead.
    #[must_use]
    pub fn nothing(&self) -> SnapshotError {
        let others = select::other_weights(self.facts.files.iter().map(String::as_str));
        SelectError::Nothing { folder: self.files.root().display().to_string(), others }.into()
    }

    /// Where the component of that name is.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn site(&self, name: &str) -> Result<&ComponentSite, SnapshotError> {
        if self.sites.is_empty() {
            return Err(self.nothing());
        }
        self.sites.iter().find(|site| site.name == name).ok_or_else(|| SnapshotError::NoSuchComponent {
            model: self.model.to_string(),
            component: name.to_owned(),
            known: self.sites.iter().map(|site| site.name.clone()).collect(),
            resemblance: self.resemblance.clone().map(Box::new),
        })
    }

    /// The weights of a component: its files, or the index that names them.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn select(&self, site: &ComponentSite) -> Result<WeightFiles, SnapshotError> {
        let selected = match (self.selected(site, self.choice.variant.as_deref()), self.choice.without_variant) {
            (Err(SelectError::NoVariant { .. }), WithoutVariant::Plain) if self.has_variant() => {
                self.selected(site, None)
            }
            (selected, _) => selected,
        };
        if let (Err(SelectError::Ambiguous { .. }), "") = (&selected, site.folder.as_str())
            && let Some(finished) = finished(self.facts.files.iter().map(String::as_str), Beside::Checkpoints)
        {
            return Ok(WeightFiles::Files(vec![finished.to_owned()]));
        }
        selected.map_err(|error| error.in_folder(self.folder(site).display().to_string()).into())
    }

    fn selected(&self, site: &ComponentSite, variant: Option<&str>) -> Result<WeightFiles, SelectError> {
        select::weight_files(self.facts.files.iter().map(String::as_str), &site.folder, &site.stem, variant)
    }

    /// Whether any component has the variant that is asked for.
    fn has_variant(&self) -> bool {
        self.sites.iter().any(|site| self.selected(site, self.choice.variant.as_deref()).is_ok())
    }

    /// What a report says of a component whose plain weights stand in for a variant that it does not have.
    #[must_use]
    pub fn remark_on(&self, site: &ComponentSite) -> Option<String> {
        let variant = self.choice.variant.as_deref()?;
        let is_absent = matches!(self.selected(site, Some(variant)), Err(SelectError::NoVariant { .. }));
        is_absent.then(|| format!("it has no weights of variant `{variant}`: these are its plain ones"))
    }

    fn folder(&self, site: &ComponentSite) -> PathBuf {
        let root = self.files.root();
        if site.folder.is_empty() { root.to_owned() } else { root.join(&site.folder) }
    }

    /// The files of the component of that name, all of which exist.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn component(&self, name: &str) -> Result<ComponentFiles, SnapshotError> {
        let site = self.site(name)?;
        let mut dependencies = self.model.dependencies.clone();
        dependencies.push(self.folder(site));
        dependencies.extend(self.facts.documents.keys().map(|name| self.files.path(name)));
        let selection = match &self.single {
            Some((file, _)) => WeightFiles::Files(vec![file.clone()]),
            None => self.select(site)?,
        };
        if let WeightFiles::Index(index) = &selection {
            dependencies.push(self.files.path(&index.path));
        }
        let (index, names) = self.shard_names(site, selection)?;
        let mut shards = Vec::new();
        let mut missing = Vec::new();
        let (total, names_of) = (names.len(), names.clone());
        for name in names {
            match self.shard_file(&name)? {
                Some(shard) => shards.push(shard),
                None => missing.push(self.named_as_missing(&name)),
            }
        }
        if !missing.is_empty() {
            return Err(self.incomplete(site, missing, &names_of, total));
        }
        dependencies.extend(shards.iter().map(|shard| shard.path.clone()));
        let model = Arc::clone(&self.model);
        Ok(ComponentFiles {
            model,
            site: site.clone(),
            index,
            shards,
            config: None,
            foreign_config: None,
            dependencies,
        })
    }

    /// The names of the weight files that `selection` means, with the index that says so.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn shard_names(
        &self,
        site: &ComponentSite,
        selection: WeightFiles,
    ) -> Result<(Option<Index>, Vec<String>), SnapshotError> {
        let chosen = match selection {
            WeightFiles::Files(names) => return Ok((None, names)),
            WeightFiles::Index(chosen) => chosen,
        };
        let name = chosen.path.clone();
        let Some(found) = self.files.find(&name) else {
            return Err(self.incomplete(site, vec![self.named_as_missing(&name)], &[], 1));
        };
        let index = self.read_index(&name, &found, &site.folder)?;
        chosen.settle(&index).map_err(|error| error.in_folder(self.folder(site).display().to_string()))?;
        let names = index.shards().into_iter().map(str::to_owned).collect();
        Ok((Some(index), names))
    }

    /// All files that are on this machine, to be verified.
    #[must_use]
    pub fn candidates(&self) -> Vec<HashCandidate> {
        self.files.candidates().collect()
    }

    /// That `missing` files of a component are not here; `listed` are all that its index lists.
    pub(super) fn incomplete(
        &self,
        site: &ComponentSite,
        missing: Vec<String>,
        listed: &[String],
        total: usize,
    ) -> SnapshotError {
        let files = self.facts.files.iter().map(String::as_str);
        let is_there = |name: &String| self.files.in_listing(name).is_some() || self.files.find(name).is_some();
        let is_here = |set: &Vec<String>| set.iter().all(is_there);
        let unlisted = match listed {
            [] => Vec::new(),
            _ => select::unlisted_sets(files, &site.folder, listed).into_iter().filter(is_here).flatten().collect(),
        };
        let lacking = self.lacking(listed);
        SnapshotError::Incomplete { component: site.name.clone(), missing, total, unlisted, lacking }
    }

    /// What lacks some of `names`, which are not all here.
    fn lacking(&self, names: &[String]) -> Lacking {
        if self.model.store().is_none() {
            return Lacking::Folder;
        }
        let absent = |name: &String| self.files.in_listing(name).is_none();
        match self.files.has_listing() && names.iter().any(absent) {
            true => Lacking::Commit,
            false => Lacking::Cache,
        }
    }

    /// A missing file as errors name it, with the reason where something is in its place.
    fn named_as_missing(&self, name: &str) -> String {
        let found = fs::metadata(self.files.root().join(name)).ok();
        match found.zip(self.files.in_listing(name)) {
            Some((found, listed)) if found.len() != listed.bytes => {
                format!("{name} (damaged: {} bytes are here, {} belong to the commit)", found.len(), listed.bytes)
            }
            _ => name.to_owned(),
        }
    }

    fn read_index(&self, name: &str, found: &FoundFile, folder: &str) -> Result<Index, SnapshotError> {
        let path = found.path();
        let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
        in_turn(length, || {
            let bytes = self.files.read_small(name, found, INDEX_BYTES_MAX)?;
            let bytes = bytes
                .ok_or_else(|| SnapshotError::Io { path: path.to_owned(), source: io::ErrorKind::NotFound.into() })?;
            Index::parse(&bytes, folder).map_err(|source| SnapshotError::Index { path: path.to_owned(), source })
        })
    }

    fn shard_file(&self, name: &str) -> Result<Option<ShardFile>, SnapshotError> {
        let found = self.files.find(name);
        let path = found.as_ref().map_or_else(|| self.files.root().join(name), |found| found.path().to_owned());
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(source) => return Err(SnapshotError::Io { path, source }),
        };
        let Some(found) = found else { return Ok(None) };
        let identity = FileIdentity::of(&metadata);
        let expected = self.files.expected(name, &found);
        let content = match (&found, &expected) {
            (FoundFile::Blob(_), Some(blob)) => ContentKey::Blob(blob.to_string()),
            // Nobody vouches for what a user put there.
            _ => file_key(&identity),
        };
        Ok(Some(ShardFile { name: name.to_owned(), path, identity, content, expected }))
    }
}

/// The small files that say what `model` is, and the file at `named`, to be verified. Reads no content, so it works for a
/// model that cannot be used.
///
/// # Errors
/// When the model's directory cannot be listed.
pub fn small_candidates(
    model: &ResolvedModel,
    choice: &Choice,
    named: Option<&Path>,
) -> Result<Vec<HashCandidate>, SnapshotError> {
    let is_small = |name: &str| family::is_document(name) || name.ends_with(".index.json");
    let files = Files::on_disk(model, choice)?;
    Ok(files.candidates().filter(|candidate| is_small(&candidate.name) || Some(&*candidate.path) == named).collect())
}

impl ShardFile {
    /// The blob that it should be.
    #[must_use]
    pub fn blob(&self) -> Option<BlobName> {
        self.expected.clone()
    }

    /// The file, to be compared with its hash.
    #[must_use]
    pub fn candidate(&self) -> HashCandidate {
        HashCandidate { name: self.name.clone(), path: self.path.clone(), blob: self.blob() }
    }
}

/// Content of a regular file; `None` when there is none of that name.
fn read_bounded(path: &Path, max: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
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

fn file_key(identity: &FileIdentity) -> ContentKey {
    ContentKey::File(identity.device, identity.inode, identity.length, identity.modified_ns, identity.changed_ns)
}
