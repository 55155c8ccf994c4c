//! Second stage: which files a model has, which family it is of, and which files each component is made of. Reads the
//! listing, the small JSON files and the indexes; opens no weight file.

mod listing;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use weightsd_core::{
    family::{self, ComponentSite, Family, ModelFacts},
    identity::ContentKey,
    index::{INDEX_BYTES_MAX, Index, IndexError},
    select::{self, SelectError, Selection},
};
use weightsd_segment::{FileIdentity, PinnedFile};

use crate::{
    resolve::{ModelKind, ResolvedModel},
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
    pub model: ResolvedModel,
    /// Listing and small JSON files.
    pub facts: ModelFacts,
    /// The family that recognises it.
    pub family: &'static dyn Family,
    sites: Vec<ComponentSite>,
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
}

/// The files that a component is made of.
#[derive(Debug)]
pub struct ComponentFiles {
    /// Where the family says they are.
    pub site: ComponentSite,
    /// The index, when there is one.
    pub index: Option<Index>,
    /// Weight files, in shard order.
    pub shards: Vec<ShardFile>,
    /// Files whose state decided the answer.
    pub witnesses: Vec<PathBuf>,
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
    #[error("`{model}` has no component `{component}`; it has {}", known.join(", "))]
    NoSuchComponent {
        /// The model.
        model: String,
        /// What was asked for.
        component: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Shards that are not on disk.
    #[error("`{component}` is incomplete: {} of {total} shards are missing: {}", missing.len(), missing.join(", "))]
    Incomplete {
        /// The component.
        component: String,
        /// Missing files, below the model's directory.
        missing: Vec<String>,
        /// How many there should be.
        total: usize,
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

impl Snapshot {
    /// Lists the files of `model` and detects its family.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn list(model: ResolvedModel) -> Result<Self, SnapshotError> {
        let files = match model.kind {
            ModelKind::File => {
                model.path.file_name().map(|name| name.to_string_lossy().into_owned()).into_iter().collect()
            }
            ModelKind::Directory | ModelKind::Hub { .. } => listing::list(&model.path)?,
        };
        let mut documents = BTreeMap::new();
        let mut bytes_total = 0;
        for name in files.iter().filter(|name| family::is_document(name)) {
            let path = model.root().join(name);
            // A dangling link of a half-downloaded snapshot counts as absent.
            if let Some(bytes) = read_bounded(&path, family::CONFIG_BYTES_MAX)? {
                bytes_total += bytes.len();
                if bytes_total > DOCUMENTS_BYTES_MAX {
                    return Err(SnapshotError::TooManyDocuments { path: model.path });
                }
                documents.insert(name.clone(), bytes);
            }
        }
        let facts = ModelFacts { files, documents };
        let family = family::detect(&facts);
        let sites = family.components(&facts);
        if sites.len() > COMPONENTS_MAX {
            return Err(SnapshotError::TooManyComponents { path: model.path });
        }
        Ok(Self { model, facts, family, sites })
    }

    /// Where the components are, present or not.
    #[must_use]
    pub fn sites(&self) -> &[ComponentSite] {
        &self.sites
    }

    /// The files of the component of that name, all of which exist.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn component(&self, name: &str) -> Result<ComponentFiles, SnapshotError> {
        let root = self.model.root();
        if self.sites.is_empty() {
            return Err(SelectError::Nothing { folder: root.display().to_string() }.into());
        }
        let Some(site) = self.sites.iter().find(|site| site.name == name) else {
            return Err(SnapshotError::NoSuchComponent {
                model: self.model.to_string(),
                component: name.to_owned(),
                known: self.sites.iter().map(|site| site.name.clone()).collect(),
            });
        };
        let files = self.facts.files.iter().map(String::as_str);
        let folder = if site.folder.is_empty() { root.to_owned() } else { root.join(&site.folder) };
        let mut witnesses = vec![folder.clone()];
        witnesses.extend(self.facts.documents.keys().map(|name| root.join(name)));
        let selected = select::weight_files(files, &site.folder, &site.stem)
            .map_err(|error| error.in_folder(folder.display().to_string()))?;
        let (index, names) = match selected {
            Selection::Files(names) => (None, names),
            Selection::Index(name) => {
                let path = root.join(&name);
                let index = read_index(&path, &site.folder)?;
                witnesses.push(path);
                let names = index.shards().into_iter().map(str::to_owned).collect();
                (Some(index), names)
            }
        };
        let mut shards = Vec::new();
        let mut missing = Vec::new();
        let total = names.len();
        for name in names {
            match shard_file(root, &name)? {
                Some(shard) => shards.push(shard),
                None => missing.push(name),
            }
        }
        if !missing.is_empty() {
            return Err(SnapshotError::Incomplete { component: site.name.clone(), missing, total });
        }
        witnesses.extend(shards.iter().map(|shard| shard.path.clone()));
        Ok(ComponentFiles { site: site.clone(), index, shards, witnesses })
    }
}

fn read_index(path: &Path, folder: &str) -> Result<Index, SnapshotError> {
    let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
    in_turn(length, || {
        let bytes = read_bounded(path, INDEX_BYTES_MAX)?
            .ok_or_else(|| SnapshotError::Io { path: path.to_owned(), source: io::ErrorKind::NotFound.into() })?;
        Index::parse(&bytes, folder).map_err(|source| SnapshotError::Index { path: path.to_owned(), source })
    })
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

fn shard_file(root: &Path, name: &str) -> Result<Option<ShardFile>, SnapshotError> {
    let path = root.join(name);
    match fs::metadata(&path) {
        Ok(metadata) => {
            let identity = FileIdentity::of(&metadata);
            let content = blob_name(&path).map_or_else(|| file_key(&identity), ContentKey::Blob);
            Ok(Some(ShardFile { name: name.to_owned(), path, identity, content }))
        }
        // A name that is longer than the file system allows, or below a file, is not there either.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(SnapshotError::Io { path, source }),
    }
}

fn file_key(identity: &FileIdentity) -> ContentKey {
    ContentKey::File(identity.device, identity.inode, identity.length, identity.modified_ns, identity.changed_ns)
}

/// The name of the blob that a snapshot's link points to: `../../blobs/<sha-256 or git-sha1>` in a `models--*` folder.
/// The first link counts, because in the shared blob store the last one is named by another hash.
pub(crate) fn blob_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let name = target.file_name()?.to_str()?;
    let is_hash = matches!(name.len(), 40 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let in_blobs = target.parent()?.file_name()? == "blobs";
    let in_cache = path.ancestors().any(|folder| {
        folder.file_name().is_some_and(|name| name == "snapshots")
            && folder
                .parent()
                .and_then(Path::file_name)
                .is_some_and(|name| name.to_string_lossy().starts_with("models--"))
    });
    (is_hash && in_blobs && in_cache).then(|| name.to_ascii_lowercase())
}
