//! The download of one file: under the lock that all programs respect, from where an earlier attempt stopped, hashed as it
//! comes. It gets its final name only when its hash is what that name says.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use weightsd_core::{
    explain::sentence,
    identity::FileKey,
    listing::{BlobName, HashKind, Listed},
    spec::{Commit, RepoId},
};
use weightsd_segment::file_key_of;

use super::{
    FetchError, Place,
    partial::{Partial, Unwritten},
};
use crate::{
    disk,
    flight::{Work, WorkContext},
    lanes::{Kind, MayBlock},
    progress::{FileState, FileStep},
    snapshot::{Attestations, hash::Hashed},
    source::{self, BlobLock, ByteRange, Content, Source, SourceError, SourceProblem, Store},
};

/// How often a lock that another program holds is tried.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// Contents that are fetched anew because they were not what was announced.
const CORRUPT_MAX: usize = 1;

/// A file that is wanted.
#[derive(Debug, Clone)]
pub(super) struct FetchJob {
    pub(super) source: Arc<dyn Source>,
    pub(super) store: Arc<dyn Store>,
    pub(super) repo: RepoId,
    pub(super) commit: Commit,
    pub(super) path: String,
    pub(super) listed: Listed,
    pub(super) place: Place,
}

impl FetchJob {
    /// Whether the blob is there with the length it must have; one of another length is moved aside.
    fn is_there(&self, _: &MayBlock<'_>) -> Result<bool, FetchError> {
        let blob = self.store.blob(&self.listed.blob);
        match fs::metadata(&blob) {
            Ok(metadata) if metadata.is_file() && metadata.len() == self.listed.bytes => Ok(true),
            Ok(metadata) => {
                let found = metadata.len();
                let aside = self.store.quarantine(&self.listed.blob).map_err(self.io(&blob))?;
                let (expected, aside) = (self.listed.bytes, aside.display().to_string());
                tracing::warn!(path = self.path, found, expected, aside, "a blob of a wrong length is moved aside");
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.io(&blob)(error)),
        }
    }

    /// Whether a content is what was announced: by its name, or as it came the first time.
    fn is_it(&self, hashed: Hashed) -> (bool, Hashed) {
        let is_first = |first: String| first == hashed.found;
        let is_it = match self.listed.blob.kind() {
            HashKind::Unhashed => self.store.first_hash(&self.listed.blob).is_none_or(is_first),
            _ => hashed.is_expected,
        };
        (is_it, hashed)
    }

    /// The lock that all programs respect, unless another one has it.
    fn try_lock(&self, _: &MayBlock<'_>) -> Result<Option<Arc<BlobLock>>, FetchError> {
        let blob = self.store.blob(&self.listed.blob);
        source::create_parent(&blob).map_err(self.io(&blob))?;
        let refused = |source| FetchError::Lock {
            path: self.store.lock_path(&self.listed.blob),
            setting: self.store.setting(),
            source: Arc::new(source),
        };
        Ok(self.store.try_lock(&self.listed.blob).map_err(refused)?.map(Arc::new))
    }

    fn io(&self, path: &Path) -> impl Fn(io::Error) -> FetchError + use<> {
        FetchError::io(&*self.store, path)
    }
}

/// A file that came, or was there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    /// Bytes that came over the network.
    pub(super) fetched: u64,
}

/// The shared work of downloading files. Two repositories may want the same content; each has it in its own folder.
#[derive(Debug, Clone)]
pub(super) struct FileWork;

impl Work for FileWork {
    type Key = (Arc<dyn Store>, BlobName);
    type Step = FileStep;
    type Output = Arrived;
    type Error = FetchError;

    fn died() -> FetchError {
        FetchError::Died
    }
}

/// The worker on one job. It runs on the source's threads, which ask no disk.
pub(super) struct Download {
    job: FetchJob,
    attestations: Arc<Attestations>,
    context: Arc<WorkContext<FileWork>>,
    fetched: u64,
    /// What names the content on the host that sends it.
    validator: Option<String>,
}

impl Download {
    pub(super) fn new(job: FetchJob, attestations: Arc<Attestations>, context: WorkContext<FileWork>) -> Self {
        Self { job, attestations, context: Arc::new(context), fetched: 0, validator: None }
    }

    /// Does the job, or gives up when nobody waits for it any more.
    pub(super) async fn run(mut self) -> Result<Arrived, FetchError> {
        let context = Arc::clone(&self.context);
        tokio::select! {
            result = self.steps() => result,
            () = context.abandoned() => Err(FetchError::Abandoned),
        }
    }

    async fn steps(&mut self) -> Result<Arrived, FetchError> {
        let _place = self.job.source.download_place().await;
        let is_there = |job: &FetchJob, may: &MayBlock<'_>| job.is_there(may);
        if self.on_disk("looking for a blob", is_there).await? {
            return Ok(Arrived { fetched: 0 });
        }
        let lock = self.lock().await?;
        // The program that had the lock may have left the file.
        if self.on_disk("looking for a blob", is_there).await? {
            return Ok(Arrived { fetched: 0 });
        }
        let path = self.job.store.partial(&self.job.listed.blob);
        let mut corrupt = 0;
        let (file, hashed) = loop {
            let (file, hashed) = self.fill(&path, &lock).await?;
            let (is_it, hashed) = self.on_disk("comparing a blob", move |job, _| Ok(job.is_it(hashed))).await?;
            if is_it {
                break (file, hashed);
            }
            let (expected, found) = (&self.job.listed.blob, hashed.found);
            let bad = path.clone();
            let delete = move |job: &FetchJob, _: &MayBlock<'_>| fs::remove_file(&bad).map_err(job.io(&bad));
            self.on_disk("deleting a blob", delete).await?;
            let error = FetchError::Corrupt {
                file: self.job.path.clone(),
                kind: expected.kind(),
                expected: expected.clone(),
                found,
            };
            if corrupt == CORRUPT_MAX {
                return Err(error);
            }
            corrupt += 1;
            tracing::warn!(error = sentence(&error), "it is fetched again");
        };
        let attestations = Arc::clone(&self.attestations);
        let place = move |job: &FetchJob, _: &MayBlock<'_>| -> Result<_, FetchError> {
            let blob = job.store.blob(&job.listed.blob);
            if job.listed.blob.kind() == HashKind::Unhashed {
                job.store.keep_first_hash(&job.listed.blob, &hashed.found).map_err(job.io(&blob))?;
            }
            fs::rename(&path, &blob).map_err(job.io(&blob))?;
            drop(lock);
            let key = file_key_of(&file).map_err(job.io(&blob))?;
            attestations.attest(&job.listed.blob, &key);
            Ok((file, key))
        };
        let (file, key) = self.on_disk("naming a blob", place).await?;
        self.attest(file, key)?;
        Ok(Arrived { fetched: self.fetched })
    }

    /// Asks the disk that the blob comes to.
    async fn on_disk<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&FetchJob, &MayBlock<'_>) -> Result<T, FetchError> + Send + 'static,
    ) -> Result<T, FetchError> {
        let job = self.job.clone();
        self.job.place.run(operation, Kind::Fetch, move |may| work(&job, may)).await
    }

    async fn lock(&self) -> Result<Arc<BlobLock>, FetchError> {
        let mut has_waited = false;
        loop {
            if let Some(lock) = self.on_disk("locking a blob", |job, may| job.try_lock(may)).await? {
                return Ok(lock);
            }
            if !has_waited {
                let lock = self.job.store.lock_path(&self.job.listed.blob);
                tracing::info!(file = self.job.path, lock = %lock.display(), "another program has the lock: `fuser` names it");
            }
            has_waited = true;
            self.context.report(FileStep { state: FileState::Elsewhere, bytes_done: 0 });
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    /// Brings the file to its full length, over as many connections as that takes, and returns it with the hash of its
    /// content.
    async fn fill(&mut self, path: &Path, lock: &Arc<BlobLock>) -> Result<(File, Hashed), FetchError> {
        let mut partial = self.open(path, lock).await?;
        let backoff = self.job.source.limits().backoff;
        let mut pauses = backoff.pauses();
        while partial.length() < self.job.listed.bytes {
            let before = partial.length();
            let Err(error) = self.receive(&mut partial).await else { continue };
            let FetchError::File { source, .. } = &error else { return Err(error) };
            if partial.length() > before {
                pauses = backoff.pauses();
            }
            let Some(pause) = backoff.pause_after(source, pauses.next()) else { return Err(error) };
            tracing::info!(file = self.job.path, at = partial.length(), error = %source, ?pause, "it goes on soon");
            if matches!(*source.problem, SourceProblem::NoSuchPart { .. }) {
                // The whole file can still be had.
                partial.empty().await.map_err(|error| self.not_written(error))?;
            }
            self.report(FileState::Retrying, &partial);
            tokio::time::sleep(pause).await;
        }
        partial.finish().await.map_err(|error| self.not_written(error))
    }

    /// What an earlier attempt left, hashed.
    async fn open(&self, path: &Path, lock: &Arc<BlobLock>) -> Result<Partial, FetchError> {
        let (path, lock, context) = (path.to_owned(), Arc::clone(lock), Arc::clone(&self.context));
        let open = move |job: &FetchJob, may: &MayBlock<'_>| {
            let checked = |bytes_done| {
                context.report(FileStep { state: FileState::Checking, bytes_done });
                if context.is_abandoned() { Err(FetchError::Abandoned) } else { Ok(()) }
            };
            Partial::open(&path, &job.listed, lock, job.io(&path), checked, may)
        };
        self.on_disk("hashing what came before", open).await
    }

    /// One connection: writes what comes of it.
    async fn receive(&mut self, partial: &mut Partial) -> Result<(), FetchError> {
        let FetchJob { repo, commit, path, .. } = &self.job;
        let from = partial.length();
        let range = (from > 0).then(|| ByteRange { from, to: None, validator: self.validator.clone() });
        let file = |source| FetchError::File { file: path.clone(), source };
        let asked = self.job.source.file(repo, commit, path, range.as_ref()).await;
        let mut answer = match asked {
            Ok(answer) => answer,
            Err(source) => return Err(self.refused(source).await),
        };
        self.check(&answer)?;
        self.validator.clone_from(&answer.validator);
        if answer.offset != from {
            if answer.offset != 0 {
                let problem = format!("bytes from {} on, and {from} was asked for", answer.offset);
                return Err(file(answer.words.error(SourceProblem::Malformed { host: answer.host, problem })));
            }
            // The host does not send parts, so everything comes again.
            partial.empty().await.map_err(|error| self.not_written(error))?;
        }
        let stall = self.job.source.limits().stall;
        let expected = self.job.listed.bytes;
        while let Some(chunk) = answer.chunk(stall).await.map_err(file)? {
            self.fetched += chunk.len() as u64;
            let found = partial.length() + chunk.len() as u64;
            if found > expected {
                partial.empty().await.map_err(|error| self.not_written(error))?;
                return Err(FetchError::WrongLength { file: path.clone(), expected, found });
            }
            partial.write(chunk).await.map_err(|error| self.not_written(error))?;
            self.report(FileState::Downloading, partial);
        }
        let found = partial.length();
        if found < expected {
            let problem = format!("the content ended after {found} of {expected} bytes");
            return Err(file(answer.words.error(SourceProblem::Unreachable { host: answer.host, problem })));
        }
        Ok(())
    }

    async fn refused(&self, source: SourceError) -> FetchError {
        let commit = self.job.commit.as_str();
        if matches!(&*source.problem, SourceProblem::NoFile { commit: Some(of), .. } if of == commit) {
            // As huggingface_hub does, so that neither asks again, and only at the source's own word: Python believes the
            // marker for ever. A marker that cannot be made costs a request.
            let mark = |job: &FetchJob, _: &MayBlock<'_>| {
                let _ = job.store.mark_absent(&job.commit, &job.path);
                Ok(())
            };
            let _ = self.on_disk("marking what is absent", mark).await;
        }
        FetchError::File { file: self.job.path.clone(), source }
    }

    /// Whether the answer is about the file that is wanted.
    fn check(&self, answer: &Content) -> Result<(), FetchError> {
        let FetchJob { commit, path, listed, .. } = &self.job;
        let file = path.clone();
        if let Some(found) = answer.commit.as_ref().filter(|found| found.as_str() != commit.as_str()) {
            let found = weightsd_core::shown::shown(found);
            return Err(FetchError::OtherCommit { file, expected: commit.to_string(), found });
        }
        // Hosts that sign with hashes of another kind say nothing about ours.
        let blob = answer.blob.as_ref().filter(|blob| blob.kind() == listed.blob.kind());
        if let Some(found) = blob.filter(|found| **found != listed.blob) {
            return Err(FetchError::OtherBlob { file, expected: listed.blob.clone(), found: found.clone() });
        }
        match answer.total {
            Some(found) if found != listed.bytes => {
                Err(FetchError::WrongLength { file, expected: listed.bytes, found })
            }
            _ => Ok(()),
        }
    }

    fn not_written(&self, error: Unwritten) -> FetchError {
        let (error, written) = match error {
            Unwritten::Io(error, written) => (error, written),
            Unwritten::Died => return FetchError::Died,
        };
        let needed = self.job.listed.bytes.saturating_sub(written);
        let path = self.job.store.partial(&self.job.listed.blob);
        if disk::is_full(&error) {
            let (path, setting) = (self.job.store.cache().to_owned(), self.job.store.setting());
            return FetchError::DiskFull { path, needed, setting, source: Arc::new(error) };
        }
        self.job.io(&path)(error)
    }

    /// Attests the content for good when it is on the disk; that takes a while, and nobody has to wait for it.
    #[expect(clippy::disallowed_methods, reason = "nobody waits for it, and it ends when its disk has done its part")]
    fn attest(&self, file: File, key: FileKey) -> Result<(), FetchError> {
        let (job, attestations) = (self.job.clone(), Arc::clone(&self.attestations));
        self.job.source.runtime()?.spawn(async move {
            let blob = job.listed.blob.clone();
            let sync = move |_: &MayBlock<'_>| {
                match weightsd_segment::sync(&file) {
                    Ok(()) => drop(attestations.attest_for_good(&blob, &key)),
                    Err(error) => {
                        tracing::warn!(%blob, error = sentence(&error), "a downloaded file is not safely on the disk");
                    }
                }
                Ok(())
            };
            // Without the attestation it is hashed again some day.
            let _ = job.place.run("writing a blob to its disk", Kind::Fetch, sync).await;
        });
        Ok(())
    }

    fn report(&self, state: FileState, partial: &Partial) {
        self.context.report(FileStep { state, bytes_done: partial.length() });
    }
}
