//! Fetches what is missing: for a component its config, index and shards, and the model's small JSON files;
//! for a pull what was asked for. Requests for the same set share one download of it, and sets that overlap share the
//! downloads of their files.
//!
//! Nothing becomes visible in the snapshot's folder before everything of the set is there.

mod error;
mod file;
mod partial;
mod place;
mod publish;
mod space;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use weightsd_core::{
    explain::sentence,
    family::{self, ComponentSite},
    index::INDEX_BYTES_MAX,
    listing::{HashKind, Listed, Listing},
    select::WeightFiles,
    spec::{Commit, RepoId, Revision},
};

pub use self::error::FetchError;
use self::file::{Download, FetchJob, FileWork};
pub(super) use self::place::Place;
use super::{Attestations, Snapshot, SnapshotError, files};
use crate::{
    flight::{Joined, SharedWork, Waiter, Work, WorkContext},
    lanes::{Kind, Lanes, MayBlock},
    live::Live,
    pace::Pace,
    progress::{FileProgress, FileState, FileStep, Phase, Step},
    resolve::{Choice, Pin, RepoAddress},
    source::SourceError,
};

/// Tells how far a file is; nothing once it has ended.
type FileWatch = Box<dyn Fn() -> Option<FileStep> + Send + Sync>;

/// How often a request starts over when everyone else gave up the download that it joined.
const ATTEMPTS: usize = 3;
/// Time between two steps that waiters are told.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Files that a report lists.
const REPORTED_FILES_MAX: usize = 16;
/// How long a disk may take to say what is listed on it, before the source is asked.
const LISTING_PATIENCE: Duration = Duration::from_secs(10);

/// What is wanted of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Want {
    /// Components; none means all.
    pub components: Vec<String>,
    /// How much of it.
    pub extent: Extent,
    /// Which weights, where there are several.
    pub choice: Choice,
}

/// How much of a commit is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// The small JSON files.
    Documents,
    /// The small JSON files, and the weights of the components.
    Components,
    /// Everything, README and all.
    Everything,
}

/// What a download did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// Files of the set: path and length.
    pub files: Vec<(String, Listed)>,
    /// Bytes that came over the network.
    pub bytes_fetched: u64,
    /// Files of the listing that cannot be downloaded, with the reason.
    pub skipped: Vec<String>,
}

/// An entry for the daemon's event log.
#[derive(Debug, Clone)]
pub enum DownloadEvent {
    /// A download began.
    Began(String),
    /// It ended well.
    Ended(String),
    /// It failed.
    Failed(String),
    /// A file that was there, or came, is not what its hash says.
    Quarantined(String),
}

/// Hears of downloads.
pub(crate) type OnDownload = Box<dyn Fn(DownloadEvent) + Send + Sync>;

/// Downloads that run: the model, the step, and the number of requests that wait.
pub(crate) type FetchReports = Vec<(String, Step, usize)>;

#[derive(Debug, Clone)]
struct SetWork;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SetKey {
    /// The folder of the repository's store.
    folder: PathBuf,
    repo: RepoId,
    revision: Revision,
    commit: Commit,
    want: Want,
}

impl Work for SetWork {
    type Key = SetKey;
    type Step = Step;
    type Output = Arc<FetchReport>;
    type Error = FetchError;

    fn died() -> FetchError {
        FetchError::Died
    }
}

/// Downloads sets of files. Requests that want the same set, or the same file, share the download.
pub struct Fetcher {
    attestations: Arc<Attestations>,
    files: Arc<SharedWork<FileWork>>,
    sets: Arc<SharedWork<SetWork>>,
    floor: Live<u64>,
    tell: OnDownload,
    lanes: Arc<Lanes>,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("files", &self.files).field("sets", &self.sets).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Downloads leave `floor` bytes free. `tell` is told what begins and ends. Disks are asked in `lanes`.
    #[must_use]
    pub fn new(attestations: Arc<Attestations>, floor: Live<u64>, tell: OnDownload, lanes: Arc<Lanes>) -> Arc<Self> {
        Arc::new(Self { attestations, files: Arc::default(), sets: Arc::default(), floor, tell, lanes })
    }

    /// The disk of the store of `address`.
    pub(super) async fn place(&self, address: &RepoAddress, limit: Option<Duration>) -> Result<Place, FetchError> {
        Place::find(&self.lanes, address.store.folder(), &address.repo.to_string(), limit).await
    }

    /// Downloads what is missing of `want`, or joins a request that does.
    ///
    /// # Errors
    /// When a file does not come or is not what the listing says, when the disk has no room, and when the files that
    /// did come do not describe a model.
    #[expect(
        clippy::disallowed_methods,
        reason = "the work runs on the threads of its source, and ends when its last waiter gives up"
    )]
    pub async fn fetch(
        self: &Arc<Self>,
        address: &RepoAddress,
        pin: &Pin,
        want: Want,
        mut progress: impl FnMut(&Step, usize),
    ) -> Result<Arc<FetchReport>, FetchError> {
        let folder = address.store.folder().to_owned();
        let (repo, revision) = (address.repo.clone(), address.revision.clone());
        let key = SetKey { folder, repo, revision, commit: pin.commit.clone(), want };
        for _ in 0..ATTEMPTS {
            let waiter = match self.sets.join(key.clone(), || None) {
                Joined::Done(report) => return Ok(report),
                Joined::Waiting(waiter) => waiter,
                Joined::First(waiter, leader) => {
                    let context = leader.context();
                    let fetcher = Arc::clone(self);
                    let (address, pin, key) = (address.clone(), pin.clone(), key.clone());
                    address.source.runtime()?.spawn(leader.run(async move {
                        let fetch = async {
                            let place = fetcher.place(&address, None).await?;
                            Set { fetcher, address, pin, key, place }.fetch(&context).await
                        };
                        tokio::select! {
                            result = fetch => result,
                            () = context.abandoned() => Err(FetchError::Abandoned),
                        }
                    }));
                    waiter
                }
            };
            match waiter.wait(&mut progress).await {
                Err(FetchError::Abandoned) => {}
                result => return result,
            }
        }
        Err(FetchError::Abandoned)
    }

    /// The listing of a commit: from the store, or from the source.
    ///
    /// # Errors
    /// When the store has no listing and the source may not be asked, does not answer, or answers with one that cannot be
    /// used.
    pub async fn listing(&self, address: &RepoAddress, commit: &Commit) -> Result<Arc<Listing>, SourceError> {
        let kept = async {
            let limit = Some(LISTING_PATIENCE);
            let place = self.place(address, limit).await?;
            let (store, asked) = (Arc::clone(&address.store), commit.clone());
            place.within(limit, "reading a listing", Kind::Look, move |_| Ok(store.listing(&asked))).await
        };
        match kept.await {
            Ok(Some(listing)) => Ok(Arc::new(listing)),
            Ok(None) | Err(_) => address.source.listing(&address.repo, commit).await,
        }
    }

    /// Downloads that run.
    #[must_use]
    pub fn reports(&self, max: usize) -> FetchReports {
        let name = |key: &SetKey| {
            let what = match (key.want.extent, key.want.components.as_slice()) {
                (Extent::Everything, _) => "everything".to_owned(),
                (Extent::Documents, _) => "the configuration".to_owned(),
                (Extent::Components, []) => "all components".to_owned(),
                (Extent::Components, components) => components.join(", "),
            };
            format!("{what} of {}@{}", key.repo, key.revision)
        };
        self.sets.reports(max).into_iter().map(|(key, step, waiting)| (name(&key), step, waiting)).collect()
    }
}

/// One set on its way.
struct Set {
    fetcher: Arc<Fetcher>,
    address: RepoAddress,
    pin: Pin,
    key: SetKey,
    place: Place,
}

/// The files of a set: path, and what the listing says.
type Files = BTreeMap<String, Listed>;

impl Set {
    async fn fetch(&self, context: &WorkContext<SetWork>) -> Result<Arc<FetchReport>, FetchError> {
        let result = self.steps(context).await;
        let what = format!("{}@{}", self.key.repo, self.key.revision);
        match &result {
            Ok(report) if report.bytes_fetched > 0 => {
                let bytes = humansize::format_size(report.bytes_fetched, humansize::DECIMAL);
                (self.fetcher.tell)(DownloadEvent::Ended(format!(
                    "{what}: {} files are there, {bytes} came",
                    report.files.len()
                )));
            }
            Ok(_) | Err(FetchError::Abandoned) => {}
            Err(error) => {
                if error.is_contradiction() {
                    self.address.source.forget_listing(&self.key.repo, &self.key.commit).await;
                    let (store, commit) = (Arc::clone(&self.address.store), self.key.commit.clone());
                    let drop_it = move |_: &MayBlock<'_>| {
                        store.drop_listing(&commit);
                        Ok(())
                    };
                    // A listing that stays is compared with what comes again.
                    let _ = self.place.run("dropping a listing", Kind::Fetch, drop_it).await;
                }
                (self.fetcher.tell)(DownloadEvent::Failed(format!("{what}: {}", sentence(error))));
            }
        }
        result
    }

    async fn steps(&self, context: &WorkContext<SetWork>) -> Result<Arc<FetchReport>, FetchError> {
        let listing = self.fetcher.listing(&self.address, &self.key.commit).await?;
        let mut fetched = 0;
        let mut files = self.documents(&listing)?;
        fetched += self.download(&files, context).await?;
        if self.key.want.extent == Extent::Components {
            let snapshot = self.snapshot(&listing).await?;
            let indexes = self.indexes(&snapshot, &listing).await?;
            fetched += self.download(&indexes, context).await?;
            files.extend(indexes);
            let shards = self.shards(&snapshot).await?;
            fetched += self.download(&shards, context).await?;
            files.extend(shards);
        }
        self.publish(&listing, &files).await?;
        let skipped = listing.skipped().iter().map(ToString::to_string).collect();
        Ok(Arc::new(FetchReport { files: files.into_iter().collect(), bytes_fetched: fetched, skipped }))
    }

    /// The small JSON files, or all files when all are wanted.
    fn documents(&self, listing: &Listing) -> Result<Files, FetchError> {
        let want = &self.key.want;
        let patterns = files::glob_set(&want.choice.patterns)?;
        let matches = |path: &str| patterns.as_ref().is_none_or(|patterns| patterns.is_match(path));
        let is_wanted = |path: &str| match want.extent {
            Extent::Everything => matches(path),
            Extent::Documents | Extent::Components => family::is_document(path),
        };
        let files = listing.iter().filter(|(path, _)| is_wanted(path));
        let files: Files = files.map(|(path, listed)| (path.to_owned(), listed.clone())).collect();
        let nothing = || !listing.iter().any(|(path, _)| matches(path));
        if patterns.is_some() && nothing() {
            let patterns = want.choice.patterns.clone();
            return Err(FetchError::NothingMatches { repo: self.key.repo.to_string(), patterns });
        }
        Ok(files)
    }

    /// The snapshot of this commit, built from the JSON files just downloaded.
    async fn snapshot(&self, listing: &Arc<Listing>) -> Result<Arc<Snapshot>, FetchError> {
        let model = self.address.at(&self.pin);
        let (store, choice) = (self.address.store.clone(), self.key.want.choice.clone());
        let listing = Arc::clone(listing);
        let look =
            move |_: &MayBlock<'_>| Ok(Arc::new(Snapshot::remote(model, &choice, store, listing, BTreeMap::new())?));
        self.place.run("reading what came", Kind::Fetch, look).await
    }

    /// The wanted components' weights.
    async fn selected<T: Send + 'static>(
        &self,
        snapshot: &Arc<Snapshot>,
        work: impl Fn(&Snapshot, &ComponentSite, WeightFiles) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<Vec<T>, FetchError> {
        let (snapshot, wanted) = (Arc::clone(snapshot), self.key.want.components.clone());
        let select = move |_: &MayBlock<'_>| {
            if wanted.is_empty() && snapshot.sites().is_empty() {
                return Err(snapshot.nothing().into());
            }
            let names = match wanted.is_empty() {
                true => snapshot.sites().iter().map(|site| site.name.clone()).collect(),
                false => wanted,
            };
            let one = |name: &String| {
                // The header of a file tells what it holds, so the file must come first.
                let site = snapshot.site(name).or_else(|error| snapshot.bare_site().ok_or(error))?;
                work(&snapshot, site, snapshot.select(site)?)
            };
            Ok(names.iter().map(one).collect::<Result<Vec<_>, _>>()?)
        };
        self.place.run("choosing weights", Kind::Fetch, select).await
    }

    async fn indexes(&self, snapshot: &Arc<Snapshot>, listing: &Listing) -> Result<Files, FetchError> {
        let index = |_: &Snapshot, _: &ComponentSite, selection| match selection {
            WeightFiles::Index(index) => Ok(Some(index.path)),
            WeightFiles::Files(_) => Ok(None),
        };
        let names = self.selected(snapshot, index).await?;
        let listed = |name: String| Some((name.clone(), listing.get(&name)?.clone()));
        let files: Files = names.into_iter().flatten().filter_map(listed).collect();
        match files.iter().find(|(_, listed)| listed.bytes > INDEX_BYTES_MAX) {
            Some((name, listed)) => Err(SnapshotError::TooLarge {
                path: self.address.store.snapshot(&self.key.commit).join(name),
                found: listed.bytes,
                max: INDEX_BYTES_MAX,
            }
            .into()),
            None => Ok(files),
        }
    }

    async fn shards(&self, snapshot: &Arc<Snapshot>) -> Result<Files, FetchError> {
        let shards = |snapshot: &Snapshot, site: &ComponentSite, selection| {
            let names = snapshot.shard_names(site, selection)?.1;
            let listed = |name: &str| snapshot.files.in_listing(name).cloned();
            let missing: Vec<String> = names.iter().filter(|name| listed(name).is_none()).cloned().collect();
            if !missing.is_empty() {
                return Err(snapshot.incomplete(site, missing, &names, names.len()));
            }
            Ok(names.into_iter().filter_map(|name| listed(&name).map(|listed| (name, listed))).collect::<Vec<_>>())
        };
        Ok(self.selected(snapshot, shards).await?.into_iter().flatten().collect())
    }

    /// Brings all of `files` here, and returns how many bytes came over the network.
    async fn download(&self, files: &Files, context: &WorkContext<SetWork>) -> Result<u64, FetchError> {
        let (store, commit) = (self.address.store.clone(), self.key.commit.clone());
        let (sizes, floor) = (files.clone(), self.fetcher.floor.get());
        let look = move |_: &MayBlock<'_>| space::missing(&*store, &commit, &sizes, floor);
        let missing = self.place.run("looking for room", Kind::Fetch, look).await?;
        if missing.is_empty() {
            return Ok(0);
        }
        if missing.values().any(|listed| listed.blob.kind() != HashKind::GitSha1) {
            let total =
                humansize::format_size(missing.values().map(|listed| listed.bytes).sum::<u64>(), humansize::DECIMAL);
            let message = format!("{}@{}: {} files, {total}", self.key.repo, self.key.revision, missing.len());
            (self.fetcher.tell)(DownloadEvent::Began(message));
        }
        let mut waiters = Vec::new();
        // One content under two names comes once.
        let mut seen = std::collections::HashSet::new();
        for (path, listed) in missing.iter().filter(|(_, listed)| seen.insert(listed.blob.clone())) {
            waiters.push((path, listed, self.join(path, listed)?));
        }
        let tracked: Vec<_> = waiters
            .iter()
            .map(|(path, listed, waiter)| ((*path).clone(), listed.bytes, Box::new(waiter.observer()) as FileWatch))
            .collect();
        let waiting =
            futures_util::future::try_join_all(waiters.into_iter().map(|(_, _, waiter)| waiter.wait(|_, _| {})));
        tokio::pin!(waiting);
        let mut pace = Pace::default();
        let mut ticks = tokio::time::interval(REPORT_EVERY);
        loop {
            tokio::select! {
                arrived = &mut waiting => {
                    return Ok(arrived?.iter().map(|arrived| arrived.fetched).sum());
                }
                _ = ticks.tick() => context.report(report(&tracked, &mut pace)),
            }
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the download runs on the threads of its source, and ends when its last waiter gives up"
    )]
    fn join(&self, path: &str, listed: &Listed) -> Result<Waiter<FileWork>, FetchError> {
        let fetcher = &self.fetcher;
        let job = FetchJob {
            source: Arc::clone(&self.address.source),
            store: self.address.store.clone(),
            repo: self.key.repo.clone(),
            commit: self.key.commit.clone(),
            path: path.to_owned(),
            listed: listed.clone(),
            place: self.place.clone(),
        };
        let key = (Arc::clone(&job.store), listed.blob.clone());
        Ok(match fetcher.files.join(key, || None) {
            Joined::Done(_) => return Err(FetchError::Died),
            Joined::Waiting(waiter) => waiter,
            Joined::First(waiter, leader) => {
                let download = Download::new(job, Arc::clone(&fetcher.attestations), leader.context());
                self.address.source.runtime()?.spawn(leader.run(download.run()));
                waiter
            }
        })
    }

    /// Makes the set visible: listing, links, and last the ref.
    async fn publish(&self, listing: &Arc<Listing>, files: &Files) -> Result<(), FetchError> {
        let (key, listing, files) = (self.key.clone(), Arc::clone(listing), files.clone());
        let (store, attestations) = (Arc::clone(&self.address.store), Arc::clone(&self.fetcher.attestations));
        let publish = move |_: &MayBlock<'_>| {
            publish::publish(&*store, &key.commit, &key.revision, &listing, &files, &attestations)
        };
        self.place.run("publishing what came", Kind::Fetch, publish).await
    }
}

/// Where the files that are on their way are, as one step.
fn report(files: &[(String, u64, FileWatch)], pace: &mut Pace) -> Step {
    let mut step = Step { phase: Phase::Download, files_total: files.len(), ..Step::default() };
    let mut checking = false;
    for (path, bytes_total, watch) in files {
        let file = watch().unwrap_or(FileStep { state: FileState::Done, bytes_done: *bytes_total });
        checking |= file.state == FileState::Checking;
        step.bytes_total += bytes_total;
        step.bytes_done += file.bytes_done;
        if file.state == FileState::Done {
            step.files_done += 1;
        } else if step.files.len() < REPORTED_FILES_MAX {
            if step.file.is_empty() && file.state != FileState::Waiting {
                step.file.clone_from(path);
            }
            step.files.push(FileProgress { path: path.clone(), bytes_total: *bytes_total, step: file });
        }
    }
    // Bytes of an earlier attempt are read faster than any network brings them.
    if !checking {
        pace.add(step.bytes_done);
    }
    step.bytes_per_second = pace.bytes_per_second();
    step.remaining = pace.remaining(step.bytes_total.saturating_sub(step.bytes_done));
    step
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::atomic::Ordering};

    use super::*;
    use crate::{snapshot::Remote, source::fake::Directory};

    /// A safetensors file with one tensor of `bytes` bytes.
    fn weights(bytes: usize) -> Vec<u8> {
        let header = format!(r#"{{"t":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#);
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(std::iter::repeat_n(7, bytes));
        file
    }

    /// A directory with a model of one file, a fetcher that downloads from it, and an address in an empty cache.
    fn scene(folder: &Path) -> (Arc<Directory>, Arc<Fetcher>, RepoAddress, Pin) {
        let served = folder.join("served");
        fs::create_dir(&served).unwrap();
        fs::write(served.join("config.json"), "{}").unwrap();
        fs::write(served.join("model.safetensors"), weights(10_000)).unwrap();
        let source = Arc::new(Directory::new(&served));
        let attestations = Arc::new(Attestations::new(None));
        let lanes = Arc::new(Lanes::new(tokio_util::sync::CancellationToken::new()));
        let fetcher = Fetcher::new(attestations, 0.into(), Box::new(|_| ()), lanes);
        let cache = folder.join("cache");
        fs::create_dir(&cache).unwrap();
        let address = crate::resolve::tests::address(&source, "main", &cache);
        (source, fetcher, address, Pin { commit: Directory::the_commit(), warning: None })
    }

    fn everything() -> Want {
        Want { components: Vec::new(), extent: Extent::Components, choice: Choice::default() }
    }

    #[tokio::test]
    async fn any_source_fills_the_cache_and_broken_contents_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let (source, fetcher, address, pin) = scene(folder.path());
        source.breaks.store(3, Ordering::Relaxed);
        let report = fetcher.fetch(&address, &pin, everything(), |_, _| ()).await.unwrap();
        assert_eq!(report.bytes_fetched, 2 + weights(10_000).len() as u64, "what has come is not asked for again");
        let snapshot = address.at(&pin).path;
        assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), weights(10_000));
        assert_eq!(fs::read_to_string(snapshot.join("config.json")).unwrap(), "{}");
        let asked = source.asked.load(Ordering::Relaxed);
        let again = fetcher.fetch(&address, &pin, everything(), |_, _| ()).await.unwrap();
        assert_eq!((again.bytes_fetched, source.asked.load(Ordering::Relaxed)), (0, asked));
    }

    #[tokio::test]
    async fn a_content_that_is_not_the_listings_is_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let (_source, fetcher, address, pin) = scene(folder.path());
        let store = Arc::clone(&address.store);
        let listing = fetcher.listing(&address, &pin.commit).await.unwrap();
        store.keep_listing(&pin.commit, &listing).unwrap();
        let mut other = weights(10_000);
        other[9_000] ^= 1;
        fs::write(folder.path().join("served/model.safetensors"), other).unwrap();
        let error = fetcher.fetch(&address, &pin, everything(), |_, _| ()).await.unwrap_err();
        assert!(matches!(error, FetchError::Corrupt { .. }), "{error}");
        assert!(!address.at(&pin).path.join("model.safetensors").exists());
    }

    #[tokio::test]
    async fn a_remote_component_is_known_by_its_header() {
        let folder = tempfile::tempdir().unwrap();
        let (_source, fetcher, address, pin) = scene(folder.path());
        let remote = Remote::look(&fetcher, &address, &pin, &Choice::default()).await.unwrap();
        let component = remote.component("model").await.unwrap();
        let headers = remote.headers(&component).await.unwrap();
        assert_eq!((headers.len(), headers[0].0.as_str()), (1, "model.safetensors"));
        assert!(!address.at(&pin).path.exists(), "nothing is kept");
    }
}
