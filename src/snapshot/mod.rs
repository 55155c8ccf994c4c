//! Second stage: which files a model has, which family it is of, and which files each component is made of. Reads the
//! listing, the small JSON files and the indexes; opens no weight file.

mod attest;
mod attest_file;
mod component;
mod error;
mod fetch;
mod files;
mod hash;
mod listing;
mod remote;
mod told;
mod verify;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use weightsd_core::{
    family::{self, ComponentSite, Family, ModelFacts},
    gguf_files,
    listing::Listing,
    resemblance::Resemblance,
    select::{self, SelectError},
};

pub use self::{
    attest::Attestations,
    component::{ComponentFiles, Document, ShardFile},
    error::{Lacking, SnapshotError},
    fetch::{DownloadEvent, Extent, FetchError, FetchReport, Fetcher, Want},
    files::Files,
    listing::of_snapshot,
    remote::{Remote, RemoteComponent, RemoteError},
    told::Told,
    verify::{Finding, HashCandidate, HashCheck, OwnFiles, Scope, Verdict, VerifyError, verify},
};
use crate::{
    resolve::{Choice, ResolvedModel},
    source::Store,
};

/// Most entries of a folder that are listed.
const ENTRIES_MAX: usize = 20_000;
/// Most components that a model may have; each folder with weights is one, where no family says better.
const COMPONENTS_MAX: usize = 1024;
/// Most bytes of small JSON files that are kept of a model.
const DOCUMENTS_BYTES_MAX: usize = 4_000_000;

/// A model's files on disk.
#[derive(Debug, Clone)]
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
    /// What the tensors of weights without configs tell.
    told: Vec<Told>,
    /// What the only file looks like, where no family takes it.
    resemblance: Option<Resemblance>,
}

impl Snapshot {
    /// Lists the files of `model` that are on this machine and detects its family.
    ///
    /// # Errors
    /// When the directory or a small file cannot be read, a small file is damaged, or there is more of something than
    /// a model has.
    pub fn list(model: ResolvedModel, choice: &Choice) -> Result<Self, SnapshotError> {
        let files = Files::on_disk(&model, choice)?;
        Self::read(model, choice, files)
    }

    /// The files of `model` by the listing of its commit, whether they are on this machine or not; `documents` has the
    /// content of small JSON files that are not.
    ///
    /// # Errors
    /// When a pattern is malformed, a small file that is here cannot be read or is damaged, or there is more of
    /// something than a model has.
    pub fn remote(
        model: ResolvedModel,
        choice: &Choice,
        store: Arc<dyn Store>,
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
        let names = gguf_files::of_one_format(files.names().to_vec(), choice.variant.as_deref());
        let facts = ModelFacts { files: names, documents };
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
            told: Vec::new(),
            resemblance: None,
        };
        snapshot.recognise()?;
        Ok(snapshot)
    }

    /// Takes `config` for the `config.json` that the model does not have: its weights say what would be in it.
    ///
    /// # Errors
    /// When that makes it a model of more components than a model has.
    pub fn describe(&mut self, config: Vec<u8>) -> Result<(), SnapshotError> {
        self.facts.documents.insert("config.json".to_owned(), config);
        self.recognise()
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

    /// The weights that only the names of their tensors describe: those in the root of a model without a config. `None`
    /// when there is a config, or when the weights lie in folders.
    #[must_use]
    pub fn bare_site(&self) -> Option<&ComponentSite> {
        self.bare_sites().find(|site| site.folder.is_empty())
    }

    /// The weights in the root.
    ///
    /// # Errors
    /// When there are none.
    pub fn root_site(&self) -> Result<&ComponentSite, SnapshotError> {
        self.sites.iter().find(|site| site.folder.is_empty()).ok_or_else(|| self.nothing())
    }

    /// What the only file looks like, where no family takes it.
    #[must_use]
    pub fn resemblance(&self) -> Option<&Resemblance> {
        self.resemblance.as_ref()
    }

    /// Notes what the only file looks like, which no family takes.
    pub fn note_resemblance(&mut self, resemblance: Option<Resemblance>) {
        self.resemblance = resemblance;
    }

    /// The error of a model without weights. It lists weights in other formats.
    #[must_use]
    pub fn nothing(&self) -> SnapshotError {
        let others = select::other_weights(self.facts.files.iter().map(String::as_str));
        SelectError::Nothing { folder: self.files.root().display().to_string(), others }.into()
    }

    /// Where the component of that name is.
    ///
    /// # Errors
    /// When there are no weights at all, or no component of that name.
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

    /// All files that are on this machine, to be verified.
    #[must_use]
    pub fn candidates(&self) -> Vec<HashCandidate> {
        self.files.candidates().collect()
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
