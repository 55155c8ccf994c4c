//! Object stores: `s3://bucket/folder`, `gs://`, `az://`, and folders of the web that WebDAV lists (`https://`). The crate
//! object_store speaks their protocols; here are revisions, parts, names of contents, and what failures mean.
//!
//! A revision is `main`, or the commit that a folder has (`shelf`). Files lie in the own cache of this machine's user.

mod connect;
mod parts;
mod profile;
mod refusal;
mod settings;
mod shelf;
mod source;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use moka::future::Cache;
use object_store::{GetOptions, GetResult, ListResult, ObjectMeta, ObjectStore, path::Path};
use tokio::{
    runtime::{self, Handle, Runtime},
    sync::Semaphore,
};
use weightsd_core::{
    listing::FILES_MAX,
    spec::{Commit, RepoId, Revision, SpecError},
    weight_name,
};

use self::{
    connect::Connector,
    parts::{Object, Parts},
    refusal::Asked,
    settings::{BucketSettings, Cloud},
    shelf::{Naming, Objects, Shelf},
};
use super::{BadSection, Setup, threads};
use crate::source::{ByteRange, Content, Patience, Source, SourceError, SourceProblem};

/// Files of the folders whose listings are kept. Each takes a few hundred bytes.
const LISTED_FILES_KEPT: u64 = 300_000;
/// Buckets whose connections are kept.
const BUCKETS_KEPT: u64 = 64;
/// Objects that are asked for their etags at once, where a listing has none.
const HEADS_AT_ONCE: usize = 8;
/// Most folders of the web that one listing looks into: each is a request.
const FOLDERS_MAX: usize = 1000;
/// Longest content of a ref, in bytes: a commit has 40.
const REF_BYTES_MAX: u64 = 1024;
/// How long a listing may take if the last known commit can be used.
const BRIEF: Duration = Duration::from_secs(5);

/// One kind of store. Its threads start with the first request.
pub struct Buckets {
    settings: BucketSettings,
    engine: OnceLock<Result<Engine, SourceError>>,
    /// Connections, by bucket.
    stores: Cache<String, Arc<dyn ObjectStore>>,
    shelves: Cache<RepoId, Arc<Shelf>>,
    downloads: Arc<Semaphore>,
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets").field("cloud", &self.settings.cloud).finish_non_exhaustive()
    }
}

/// Threads of its own, so that content does not come in the way of answers to clients.
struct Engine {
    connector: Connector,
    runtime: Option<Runtime>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Amazon S3, and what speaks its protocol.
///
/// # Errors
/// When its section of the configuration cannot be used; so for the others.
pub fn open_s3(setup: &Setup<'_>) -> Result<Arc<dyn Source>, BadSection> {
    open(Cloud::S3, setup)
}

/// Google Cloud Storage.
///
/// # Errors
/// As [`open_s3`].
pub fn open_gs(setup: &Setup<'_>) -> Result<Arc<dyn Source>, BadSection> {
    open(Cloud::Gs, setup)
}

/// Azure Blob Storage.
///
/// # Errors
/// As [`open_s3`].
pub fn open_az(setup: &Setup<'_>) -> Result<Arc<dyn Source>, BadSection> {
    open(Cloud::Az, setup)
}

/// Folders of the web.
///
/// # Errors
/// As [`open_s3`].
pub fn open_https(setup: &Setup<'_>) -> Result<Arc<dyn Source>, BadSection> {
    open(Cloud::Https, setup)
}

fn open(cloud: Cloud, setup: &Setup<'_>) -> Result<Arc<dyn Source>, BadSection> {
    let settings = BucketSettings::read(cloud, setup)?;
    Ok(Arc::new(Arc::new(Buckets {
        stores: Cache::builder().max_capacity(BUCKETS_KEPT).build(),
        shelves: Cache::builder()
            .weigher(|_, shelf: &Arc<Shelf>| u32::try_from(shelf.len()).unwrap_or(u32::MAX).max(1))
            .max_capacity(LISTED_FILES_KEPT)
            .time_to_live(settings.freshness)
            .build(),
        engine: OnceLock::new(),
        downloads: Arc::new(Semaphore::new(settings.files_at_once.max(1))),
        settings,
    })))
}

/// The bucket of a repository, and the folder in it.
fn place(cloud: Cloud, repo: &RepoId) -> Result<(&str, Path), SpecError> {
    let bad = |problem| SpecError::Address { text: repo.to_string(), problem };
    let (place, folder) = repo.parts();
    let folder = match cloud {
        Cloud::Https => Path::from_url_path(folder),
        _ => Path::parse(folder),
    };
    Ok((place, folder.map_err(|_| bad("its folder has characters that object stores do not take"))?))
}

impl Buckets {
    fn engine(&self) -> Result<&Engine, SourceError> {
        let start = || {
            // Before the threads, because threads that have started cannot be ended from here.
            let connector = Connector::new(&self.settings)?;
            let name = self.settings.cloud.scheme();
            let threads = runtime::Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build();
            let runtime = threads.map_err(|error| self.unusable("the limit of threads", error.to_string()))?;
            Ok(Engine { connector, runtime: Some(runtime) })
        };
        self.engine.get_or_init(start).as_ref().map_err(Clone::clone)
    }

    fn handle(&self) -> Result<Handle, SourceError> {
        let runtime = self.engine()?.runtime.as_ref().map(|runtime| runtime.handle().clone());
        runtime.ok_or_else(|| self.unusable("the shutdown", "the daemon is stopping".to_owned()))
    }

    fn unusable(&self, setting: &'static str, problem: String) -> SourceError {
        self.settings.cloud.words().error(SourceProblem::Unusable { setting, problem })
    }

    fn online(&self, what: impl FnOnce() -> String) -> Result<(), SourceError> {
        let offline = || SourceProblem::Offline { what: what(), why: "the daemon is offline" };
        if self.settings.offline { Err(self.settings.cloud.words().error(offline())) } else { Ok(()) }
    }

    /// The connection to the bucket of a repository, and the folder in it.
    async fn bucket(&self, repo: &RepoId) -> Result<(Arc<dyn ObjectStore>, Path), SourceError> {
        let (bucket, folder) =
            place(self.settings.cloud, repo).map_err(|error| self.unusable("its address", error.to_string()))?;
        let connector = &self.engine()?.connector;
        if let Some(store) = self.stores.get(bucket).await {
            return Ok((store, folder));
        }
        let store = connect::open(&self.settings, connector, bucket).map_err(|error| match self.settings.cloud {
            // Its words may quote the file of credentials.
            Cloud::Gs => self.unusable("its credentials", "they cannot be read".to_owned()),
            _ => self.unusable("its settings", weightsd_core::shown::shown_up_to(&error.to_string(), 200)),
        })?;
        self.stores.insert(bucket.to_owned(), Arc::clone(&store)).await;
        Ok((store, folder))
    }

    /// What lies in a folder now, or lay there a moment ago. Callers who ask at the same time share one listing.
    async fn shelf(self: &Arc<Self>, repo: &RepoId, patience: Patience) -> Result<Arc<Shelf>, SourceError> {
        self.online(|| format!("what lies in `{repo}`"))?;
        let (source, asked) = (Arc::clone(self), repo.clone());
        let look = async move { source.look(&asked, patience).await.map(Arc::new) };
        let look = async { threads::run(self.handle()?, self.settings.cloud.words(), look).await };
        self.shelves.try_get_with(repo.clone(), look).await.map_err(|error| (*error).clone())
    }

    /// The folder when it had that commit.
    async fn shelf_of(self: &Arc<Self>, repo: &RepoId, commit: &Commit) -> Result<Arc<Shelf>, SourceError> {
        let shelf = self.shelf(repo, Patience::Full).await?;
        if shelf.snapshot(commit).is_some() {
            return Ok(shelf);
        }
        // It may have got it a moment ago.
        self.shelves.invalidate(repo).await;
        let shelf = self.shelf(repo, Patience::Full).await?;
        let gone = || SourceProblem::NoRevision { repo: repo.to_string(), revision: commit.into() };
        if shelf.snapshot(commit).is_some() { Ok(shelf) } else { Err(self.settings.cloud.words().error(gone())) }
    }

    async fn look(&self, repo: &RepoId, patience: Patience) -> Result<Shelf, SourceError> {
        let limit = match patience {
            Patience::Brief => self.settings.answer_deadline.min(BRIEF),
            Patience::Full => self.settings.answer_deadline,
        };
        let once = || async {
            let late = |_| {
                let host = self.settings.cloud.words().name.to_owned();
                let problem = format!("no listing within {limit:?}");
                self.settings.cloud.words().error(SourceProblem::Unreachable { host, problem })
            };
            tokio::time::timeout(limit, self.look_once(repo)).await.map_err(late)?
        };
        match patience {
            Patience::Brief => once().await,
            Patience::Full => self.settings.limits.backoff.retry(once).await,
        }
    }

    async fn look_once(&self, repo: &RepoId) -> Result<Shelf, SourceError> {
        let (store, folder) = self.bucket(repo).await?;
        let objects = match self.objects(&*store, &folder).await {
            Ok(objects) => objects,
            Err(error) => return Err(Asked::Listing(repo).error(&error, &self.settings)),
        };
        let words = self.settings.cloud.words();
        if objects.is_empty() {
            return Err(words.error(SourceProblem::NoRepo { repo: repo.to_string() }));
        }
        let mut refs = HashMap::new();
        for (name, meta) in shelf::refs(&objects) {
            if meta.size > REF_BYTES_MAX {
                continue;
            }
            let read = async { store.get_opts(&meta.location, GetOptions::default()).await?.bytes().await };
            let text = read.await.map_err(|error| Asked::Listing(repo).error(&error, &self.settings))?;
            let commit = std::str::from_utf8(&text).ok().and_then(|text| Commit::parse(text.trim()));
            refs.extend(commit.map(|commit| (name, commit)));
        }
        let naming = Naming { cloud: self.settings.cloud, checksums: self.settings.checksums };
        let shelf = match refs.is_empty() {
            true => Shelf::of_folder(objects, naming),
            false => Shelf::of_mirror(objects, refs, naming),
        };
        shelf.map_err(|source| words.error(SourceProblem::Listing { repo: repo.to_string(), source }))
    }

    /// The objects below a folder; the one object, when `folder` is that of a weight file.
    async fn objects(&self, store: &dyn ObjectStore, folder: &Path) -> Result<Objects, object_store::Error> {
        let name = folder.filename().unwrap_or_default().to_owned();
        if weight_name::is_weights(&name)
            && let Ok(meta) = head(store, folder).await
        {
            return Ok(Objects::from([(name, quoted(meta))]));
        }
        let listed = match self.settings.cloud {
            Cloud::Https => walk(store, folder).await?,
            // A listing that is too long is refused by its length, and one more tells that.
            _ => store.list(Some(folder)).take(FILES_MAX + 1).try_collect::<Vec<_>>().await?,
        };
        let known = |meta: ObjectMeta| async move {
            if meta.e_tag.is_some() { Ok(meta) } else { head(store, &meta.location).await }.map(quoted)
        };
        let listed = futures_util::stream::iter(listed).map(known).buffered(HEADS_AT_ONCE).try_collect().await?;
        Ok(shelf::below(folder, listed))
    }

    async fn content(
        self: &Arc<Self>,
        repo: &RepoId,
        commit: &Commit,
        path: &str,
        range: Option<&ByteRange>,
    ) -> Result<Content, SourceError> {
        let words = self.settings.cloud.words();
        let shelf = self.shelf_of(repo, commit).await?;
        let snapshot = shelf.snapshot(commit);
        let found = snapshot.and_then(|snapshot| Some((snapshot.listing.get(path)?, snapshot.objects.get(path)?)));
        let Some((listed, meta)) = found else {
            let (repo, path, commit) = (repo.to_string(), path.to_owned(), Some(commit.to_string()));
            return Err(words.error(SourceProblem::NoFile { repo, path, commit }));
        };
        let from = range.map_or(0, |range| range.from).min(meta.size);
        let to = range.and_then(|range| range.to).unwrap_or(meta.size).min(meta.size);
        let (store, _) = self.bucket(repo).await?;
        let object = Object { store, meta: meta.clone() };
        let begun = tokio::time::timeout(
            self.settings.answer_deadline,
            Parts::begin(object, from..to.max(from), self.handle()?),
        );
        let host = words.name.to_owned();
        let late = |_| {
            let problem = format!("no answer within {:?}", self.settings.answer_deadline);
            words.error(SourceProblem::Unreachable { host: host.clone(), problem })
        };
        let parts = match begun.await.map_err(late)? {
            Ok(parts) => parts,
            Err(error) => {
                let error = Asked::File(repo, commit, path).error(&error, &self.settings);
                if matches!(*error.problem, SourceProblem::NoRevision { .. } | SourceProblem::NoFile { .. }) {
                    self.shelves.invalidate(repo).await;
                }
                return Err(error);
            }
        };
        Ok(Content {
            blob: Some(listed.blob.clone()),
            commit: Some(commit.to_string()),
            offset: from,
            total: Some(meta.size),
            validator: None,
            host: words.name.to_owned(),
            words,
            body: Box::new(parts),
        })
    }
}

/// An object with its etag as requests and answers have it: Microsoft's listings, and those of some servers of WebDAV, leave
/// its quotes out, and a condition without them is none.
fn quoted(meta: ObjectMeta) -> ObjectMeta {
    let quoted = |etag: String| if etag.ends_with('"') { etag } else { format!("\"{etag}\"") };
    ObjectMeta { e_tag: meta.e_tag.filter(|etag| !etag.is_empty()).map(quoted), ..meta }
}

/// The objects below a folder of the web, listed one folder after the other: most servers refuse to list all depths at once.
async fn walk(store: &dyn ObjectStore, folder: &Path) -> Result<Vec<ObjectMeta>, object_store::Error> {
    let mut found = Vec::new();
    let mut folders = vec![folder.clone()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        let ListResult { objects, common_prefixes, .. } = store.list_with_delimiter(Some(&folder)).await?;
        found.extend(objects);
        seen += common_prefixes.len();
        if found.len() > FILES_MAX {
            break;
        }
        if seen > FOLDERS_MAX {
            let source = format!("more than {FOLDERS_MAX} folders, which is not a model").into();
            return Err(object_store::Error::Generic { store: "HTTP", source });
        }
        // A server that names itself, or what lies elsewhere, would be asked for ever.
        folders.extend(common_prefixes.into_iter().filter(|below| *below != folder && below.prefix_matches(&folder)));
    }
    Ok(found)
}

/// What a store says of an object.
async fn head(store: &dyn ObjectStore, path: &Path) -> Result<ObjectMeta, object_store::Error> {
    let options = GetOptions { head: true, ..GetOptions::default() };
    store.get_opts(path, options).await.map(|GetResult { meta, .. }| meta)
}

/// The commit of a revision, when the folder has it.
fn commit_of(shelf: &Shelf, repo: &RepoId, revision: &Revision, cloud: Cloud) -> Result<Commit, SourceError> {
    let unknown = || SourceProblem::NoRevision { repo: repo.to_string(), revision: revision.clone() };
    shelf.commit(revision).ok_or_else(|| cloud.words().error(unknown()))
}
