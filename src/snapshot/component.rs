//! Which files a component is made of: one file, a set of shards, or what an index lists.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use weightsd_core::{
    adapter::{Beside, finished},
    family::{self, ComponentSite},
    gguf_files,
    identity::{ContentKey, FileKey, Volume},
    index::{INDEX_BYTES_MAX, Index},
    listing::BlobName,
    preferred::{Ground, Preference, preferred},
    select::{self, SelectError, WeightFiles},
    weight_name::{self, Format},
};
use weightsd_segment::{FileIdentity, file_key};

use super::{HashCandidate, Lacking, Snapshot, SnapshotError, files::read_bounded};
use crate::{
    resolve::{ResolvedModel, WithoutVariant},
    source::{FoundFile, is_absent},
    turn::in_turn,
};

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
    /// A config beside an adapter's weights that belongs to another file.
    pub foreign_config: Option<PathBuf>,
    /// Files whose state decided the answer.
    pub dependencies: Vec<PathBuf>,
}

impl Snapshot {
    /// The file that [`Self::bare_site`] means: the only one, or the preferred one of several. `None` when the weights are
    /// sharded.
    ///
    /// # Errors
    /// When several files may be meant and the preference does not decide between them.
    pub fn bare_file(&self) -> Result<Option<ShardFile>, SnapshotError> {
        let Some(site) = self.bare_site() else { return Ok(None) };
        let name = match self.select(site) {
            Ok(WeightFiles::Files(names)) if names.len() == 1 => names.into_iter().next(),
            // Of one model in several quantisations the largest is not what is meant.
            Err(error @ SnapshotError::Select(SelectError::Ambiguous { .. })) if self.has_gguf() => return Err(error),
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

    /// Whether weights in the root are GGUF files.
    fn has_gguf(&self) -> bool {
        let files = self.facts.files.iter();
        files.clone().any(|path| gguf_files::folder_of(path).is_empty() && Format::of(path) == Format::Gguf)
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

    /// The files of a base: its small files, and no weights.
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
    /// weights of a model. Any other choice is refused, because no size tells which file is wanted.
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
    /// When the file is there and cannot be read, or is too large for a config.
    pub fn beside(&self, file: &ShardFile, name: &str) -> Result<(PathBuf, Option<Vec<u8>>), SnapshotError> {
        let path = self.files.path(&weight_name::in_folder(weight_name::split(&file.name).0, name));
        let content = read_bounded(&path, family::CONFIG_BYTES_MAX)?;
        Ok((path, content))
    }

    /// The weights of a component: its files, or the index that names them.
    ///
    /// # Errors
    /// When there are no weights, several sets of them, or none of the variant that is asked for.
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

    /// The files of the component of that name. All of them are on this machine.
    ///
    /// # Errors
    /// When there is no such component, when its weights cannot be chosen, and when one of its files is missing or
    /// cannot be read.
    pub fn component(&self, name: &str) -> Result<ComponentFiles, SnapshotError> {
        let site = self.site(name)?;
        let mut dependencies = self.model.dependencies.clone();
        dependencies.push(self.folder(site));
        dependencies.extend(self.facts.documents.keys().map(|name| self.files.path(name)));
        let selection = match self.told_of(site).and_then(|told| told.file.as_ref()) {
            Some(file) => WeightFiles::Files(vec![file.clone()]),
            None => self.select(site)?,
        };
        if let WeightFiles::Index(index) = &selection {
            dependencies.push(self.files.path(&index.path));
            let rivals = index.rivals(Self::expectation(site)).iter();
            let here = rivals.filter(|rival| self.files.find(rival).is_some());
            dependencies.extend(here.map(|rival| self.files.path(rival)));
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
    /// When the index is not on this machine, cannot be read, or is not the one that was chosen.
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
        let in_folder = |error: SelectError| error.in_folder(self.folder(site).display().to_string());
        chosen.settle(&index).map_err(in_folder)?;
        for rival in chosen.rivals(Self::expectation(site)) {
            // One that is not here lists nothing that could be taken for the model.
            let Some(found) = self.files.find(rival) else { continue };
            chosen.agree(&index, rival, &self.read_index(rival, &found, &site.folder)?).map_err(in_folder)?;
        }
        let names = index.shards().into_iter().map(str::to_owned).collect();
        Ok((Some(index), names))
    }

    /// The error of a component without its `missing` files; `listed` are all files that its index lists.
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

    /// Whether this machine, the commit or the folder lacks some of `names`.
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

    /// A missing file as errors name it. If something else is in its place, that is said too.
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
        let (device, length) = fs::metadata(path).map_or((0, 0), |metadata| (metadata.dev(), metadata.len()));
        in_turn(device, length, || {
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
            _ => ContentKey::File(key_of(&path, identity)),
        };
        Ok(Some(ShardFile { name: name.to_owned(), path, identity, content, expected }))
    }
}

impl ShardFile {
    /// The file, to be compared with its hash.
    #[must_use]
    pub fn candidate(&self) -> HashCandidate {
        HashCandidate { name: self.name.clone(), path: self.path.clone(), blob: self.expected.clone() }
    }
}

/// The state of a file that had `identity` a moment ago. A file that cannot be opened now is refused when it is opened to
/// be lent.
fn key_of(path: &Path, identity: FileIdentity) -> FileKey {
    let volume = file_key(path).map_or(Volume::Device(identity.device), |key| key.volume);
    identity.on(volume)
}
