//! The download of one file: under the lock that all programs respect, from where an earlier attempt stopped, hashed as it
//! comes. It gets its final name only when its hash is what that name says.

use std::{
    fs::{self, File},
    io,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::Duration,
};

use weightsd_core::{
    explain::sentence,
    listing::{BlobName, Listed},
    spec::{Commit, RepoId},
};
use weightsd_segment::file_key_of;

use super::{FetchError, blocking, partial::Partial};
use crate::{
    disk,
    flight::{Work, WorkContext},
    progress::{FileState, FileStep},
    snapshot::Attestations,
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

/// The worker on one job. It runs on the source's threads: the connection and the writing share one, since handing over
/// each piece to another would cost more than the writing does.
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
        let blob = self.job.store.blob(&self.job.listed.blob);
        if self.is_there(&blob)? {
            return Ok(Arrived { fetched: 0 });
        }
        source::create_parent(&blob).map_err(self.io(&blob))?;
        let lock = self.lock().await?;
        // The program that had the lock may have left the file.
        if self.is_there(&blob)? {
            return Ok(Arrived { fetched: 0 });
        }
        let path = self.job.store.partial(&self.job.listed.blob);
        let mut corrupt = 0;
        let file = loop {
            let (file, found) = self.fill(&path).await?;
            let expected = &self.job.listed.blob;
            if found == expected.as_str() {
                break file;
            }
            fs::remove_file(&path).map_err(self.io(&path))?;
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
        fs::rename(&path, &blob).map_err(self.io(&blob))?;
        drop(lock);
        self.attest(file).map_err(self.io(&blob))?;
        Ok(Arrived { fetched: self.fetched })
    }

    /// Whether the blob is there with the length it must have; one of another length is moved aside.
    fn is_there(&self, blob: &Path) -> Result<bool, FetchError> {
        match fs::metadata(blob) {
            Ok(metadata) if metadata.is_file() && metadata.len() == self.job.listed.bytes => Ok(true),
            Ok(metadata) => {
                let found = metadata.len();
                let aside = self.job.store.quarantine(&self.job.listed.blob).map_err(self.io(blob))?;
                let (expected, aside) = (self.job.listed.bytes, aside.display().to_string());
                tracing::warn!(path = self.job.path, found, expected, aside, "a blob of a wrong length is moved aside");
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.io(blob)(error)),
        }
    }

    async fn lock(&self) -> Result<BlobLock, FetchError> {
        let (store, blob) = (&self.job.store, &self.job.listed.blob);
        let mut has_waited = false;
        loop {
            let lock = store.try_lock(blob);
            let refused = |source| FetchError::Lock {
                path: store.lock_path(blob),
                setting: store.setting(),
                source: Arc::new(source),
            };
            if let Some(lock) = lock.map_err(refused)? {
                return Ok(lock);
            }
            if !has_waited {
                let lock = store.lock_path(blob);
                tracing::info!(file = self.job.path, lock = %lock.display(), "another program has the lock: `fuser` names it");
            }
            has_waited = true;
            self.context.report(FileStep { state: FileState::Elsewhere, bytes_done: 0 });
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    /// Brings the file to its full length, over as many connections as that takes, and returns it with the hash of its
    /// content.
    async fn fill(&mut self, path: &Path) -> Result<(File, String), FetchError> {
        let mut partial = self.open(path).await?;
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
                self.empty(&mut partial)?;
            }
            self.report(FileState::Retrying, &partial);
            tokio::time::sleep(pause).await;
        }
        partial.finish().await
    }

    /// What an earlier attempt left, hashed.
    async fn open(&self, path: &Path) -> Result<Partial, FetchError> {
        let (path, refused) = (path.to_owned(), self.io(path));
        let (listed, context) = (self.job.listed.clone(), Arc::clone(&self.context));
        let found = blocking(move || {
            let opened = Partial::open(&path, &listed, |bytes_done| {
                context.report(FileStep { state: FileState::Checking, bytes_done });
                if context.is_abandoned() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            opened.map_err(refused)?.ok_or(FetchError::Abandoned)
        });
        found.await
    }

    /// Begins anew.
    fn empty(&self, partial: &mut Partial) -> Result<(), FetchError> {
        partial.empty().map_err(self.io(&self.job.store.partial(&self.job.listed.blob)))
    }

    /// One connection: writes what comes of it.
    async fn receive(&mut self, partial: &mut Partial) -> Result<(), FetchError> {
        let FetchJob { repo, commit, path, .. } = &self.job;
        let from = partial.length();
        let range = (from > 0).then(|| ByteRange { from, to: None, validator: self.validator.clone() });
        let file = |source| FetchError::File { file: path.clone(), source };
        let asked = self.job.source.file(repo, commit, path, range.as_ref()).await;
        let mut answer = asked.map_err(|source| self.refused(source))?;
        self.check(&answer)?;
        self.validator.clone_from(&answer.validator);
        if answer.offset != from {
            if answer.offset != 0 {
                let problem = format!("bytes from {} on, and {from} was asked for", answer.offset);
                return Err(file(answer.words.error(SourceProblem::Malformed { host: answer.host, problem })));
            }
            // The host does not send parts, so everything comes again.
            self.empty(partial)?;
        }
        let stall = self.job.source.limits().stall;
        let expected = self.job.listed.bytes;
        while let Some(chunk) = answer.chunk(stall).await.map_err(file)? {
            self.fetched += chunk.len() as u64;
            let found = partial.length() + chunk.len() as u64;
            if found > expected {
                self.empty(partial)?;
                return Err(FetchError::WrongLength { file: path.clone(), expected, found });
            }
            let left = expected - partial.length();
            partial.write(chunk).await.map_err(|error| self.not_written(error, left))?;
            self.report(FileState::Downloading, partial);
        }
        let found = partial.length();
        if found < expected {
            let problem = format!("the content ended after {found} of {expected} bytes");
            return Err(file(answer.words.error(SourceProblem::Unreachable { host: answer.host, problem })));
        }
        Ok(())
    }

    fn refused(&self, source: SourceError) -> FetchError {
        let commit = self.job.commit.as_str();
        if matches!(&*source.problem, SourceProblem::NoFile { commit: Some(of), .. } if of == commit) {
            // As huggingface_hub does, so that neither asks again, and only at the source's own word: Python believes the
            // marker for ever. A marker that cannot be made costs a request.
            let _ = self.job.store.mark_absent(&self.job.commit, &self.job.path);
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

    fn not_written(&self, error: io::Error, needed: u64) -> FetchError {
        let path = self.job.store.partial(&self.job.listed.blob);
        if disk::is_full(&error) {
            let (path, setting) = (self.job.store.cache().to_owned(), self.job.store.setting());
            return FetchError::DiskFull { path, needed, setting, source: Arc::new(error) };
        }
        self.io(&path)(error)
    }

    fn io(&self, path: &Path) -> impl FnOnce(io::Error) -> FetchError + use<> {
        FetchError::io(&*self.job.store, path)
    }

    /// Attests the content, for good when it is on the disk; that takes a while, and nobody has to wait for it.
    fn attest(&self, file: File) -> io::Result<()> {
        let key = file_key_of(&file)?;
        let blob = self.job.listed.blob.clone();
        self.attestations.attest(&blob, &key);
        let attestations = Arc::clone(&self.attestations);
        tokio::task::spawn_blocking(move || match weightsd_segment::sync(&file) {
            Ok(()) => drop(attestations.attest_for_good(&blob, &key)),
            Err(error) => {
                tracing::warn!(%blob, error = sentence(&error), "a downloaded file is not safely on the disk")
            }
        });
        Ok(())
    }

    fn report(&self, state: FileState, partial: &Partial) {
        self.context.report(FileStep { state, bytes_done: partial.length() });
    }
}
