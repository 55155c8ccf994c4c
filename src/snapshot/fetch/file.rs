//! One file comes from the hub: under the lock that all programs respect, from where an earlier attempt stopped, hashed
//! as it comes, and under its final name only when it is what that name says.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::runtime::Handle;
use weightsd_core::{
    listing::{BlobName, Listed},
    spec::{Commit, RepoId},
};
use weightsd_segment::FileIdentity;

use super::{FetchError, FileState, FileStep};
use crate::{
    flight::{Cargo, Cockpit},
    hub::{self, Answer, BlobLock, Hub, HubError, Part, RepoStore},
    snapshot::{Attestations, hash::BlobHasher},
};

/// How often a lock that another program holds is tried.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of an earlier attempt that are read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Contents that are fetched anew because they were not what was announced.
const CORRUPT_MAX: usize = 1;

/// A file that is wanted.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) store: RepoStore,
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

/// Flights of files. Two repositories may want the same content; each has it in its own folder.
#[derive(Debug, Clone)]
pub(super) struct FileCargo;

impl Cargo for FileCargo {
    type Key = (RepoStore, BlobName);
    type Step = FileStep;
    type Goods = Arrived;
    type Error = FetchError;

    fn died() -> FetchError {
        FetchError::Died
    }
}

/// Where the bytes go.
struct Partial {
    file: File,
    hasher: BlobHasher,
    length: u64,
}

/// What works on one job. Blocks; the network runs on `handle`.
pub(super) struct Download {
    job: Job,
    hub: Arc<Hub>,
    handle: Handle,
    attestations: Arc<Attestations>,
    cockpit: Cockpit<FileCargo>,
    fetched: u64,
    /// What names the content on the host that sends it.
    validator: Option<String>,
}

impl Download {
    pub(super) fn new(
        job: Job,
        hub: Arc<Hub>,
        handle: Handle,
        attestations: Arc<Attestations>,
        cockpit: Cockpit<FileCargo>,
    ) -> Self {
        Self { job, hub, handle, attestations, cockpit, fetched: 0, validator: None }
    }

    pub(super) async fn abandoned(&self) {
        self.cockpit.abandoned().await;
    }

    pub(super) fn run(mut self) -> Result<Arrived, FetchError> {
        let blob = self.job.store.blob(&self.job.listed.blob);
        if self.is_there(&blob)? {
            return Ok(Arrived { fetched: 0 });
        }
        hub::create_parent(&blob).map_err(FetchError::io(&blob))?;
        let _lock = self.lock()?;
        // Whoever had the lock may have left the file.
        if self.is_there(&blob)? {
            return Ok(Arrived { fetched: 0 });
        }
        let partial = self.job.store.partial(&self.job.listed.blob);
        let mut corrupt = 0;
        let file = loop {
            let (file, found) = self.fill(&partial)?;
            let expected = &self.job.listed.blob;
            if found == expected.as_str() {
                break file;
            }
            fs::remove_file(&partial).map_err(FetchError::io(&partial))?;
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
            tracing::warn!(%error, "it is fetched again");
        };
        fs::rename(&partial, &blob).map_err(FetchError::io(&blob))?;
        self.attest(file).map_err(FetchError::io(&blob))?;
        Ok(Arrived { fetched: self.fetched })
    }

    /// Whether the blob is there with the length it must have; one of another length is moved aside.
    fn is_there(&self, blob: &std::path::Path) -> Result<bool, FetchError> {
        match fs::metadata(blob) {
            Ok(metadata) if metadata.is_file() && metadata.len() == self.job.listed.bytes => Ok(true),
            Ok(metadata) => {
                let found = metadata.len();
                let aside = self.job.store.quarantine(&self.job.listed.blob).map_err(FetchError::io(blob))?;
                let (expected, aside) = (self.job.listed.bytes, aside.display().to_string());
                tracing::warn!(path = self.job.path, found, expected, aside, "a blob of a wrong length is moved aside");
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(FetchError::io(blob)(error)),
        }
    }

    fn lock(&self) -> Result<BlobLock, FetchError> {
        let blob = &self.job.listed.blob;
        loop {
            if let Some(lock) = self.job.store.try_lock(blob).map_err(FetchError::io(self.job.store.cache()))? {
                return Ok(lock);
            }
            self.go_on()?;
            self.cockpit.report(FileStep { state: FileState::Elsewhere, bytes_done: 0 });
            thread::sleep(LOCK_PAUSE);
        }
    }

    /// Brings the file to its full length, over as many connections as that takes, and returns it with the hash of its
    /// content.
    fn fill(&mut self, path: &std::path::Path) -> Result<(File, String), FetchError> {
        let mut partial = self.open(path)?;
        let backoff = self.hub.settings().backoff;
        let mut pauses = backoff.pauses();
        while partial.length < self.job.listed.bytes {
            let before = partial.length;
            let Err(error) = self.receive(&mut partial) else { continue };
            let FetchError::File { source, .. } = &error else { return Err(error) };
            if partial.length > before {
                pauses = backoff.pauses();
            }
            let Some(pause) = backoff.pause_after(source, pauses.next()) else { return Err(error) };
            tracing::info!(file = self.job.path, at = partial.length, error = %source, ?pause, "the download goes on soon");
            self.report(FileState::Retrying, &partial);
            self.sleep(pause)?;
        }
        Ok((partial.file, partial.hasher.finish()))
    }

    /// What an earlier attempt left, hashed.
    fn open(&self, path: &std::path::Path) -> Result<Partial, FetchError> {
        let at = || FetchError::io(path);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(at())?;
        let there = file.metadata().map_err(at())?.len();
        let hasher = || BlobHasher::new(self.job.listed.blob.kind(), self.job.listed.bytes);
        let mut partial = Partial { hasher: hasher(), length: 0, file: file.try_clone().map_err(at())? };
        if there > self.job.listed.bytes {
            file.set_len(0).map_err(at())?;
            return Ok(partial);
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        while partial.length < there {
            self.go_on()?;
            let read = file.read(&mut buffer).map_err(at())?;
            if read == 0 {
                break;
            }
            partial.hasher.update(&buffer[..read]);
            partial.length += read as u64;
            self.report(FileState::Checking, &partial);
        }
        Ok(partial)
    }

    /// Begins anew.
    fn empty(&self, partial: &mut Partial) -> Result<(), FetchError> {
        let at = || FetchError::io(self.job.store.partial(&self.job.listed.blob));
        partial.file.set_len(0).map_err(at())?;
        partial.file.seek(SeekFrom::Start(0)).map_err(at())?;
        partial.hasher = BlobHasher::new(self.job.listed.blob.kind(), self.job.listed.bytes);
        partial.length = 0;
        Ok(())
    }

    /// One connection: writes what comes of it.
    fn receive(&mut self, partial: &mut Partial) -> Result<(), FetchError> {
        let Job { repo, commit, path, .. } = &self.job;
        let part =
            (partial.length > 0).then(|| Part { from: partial.length, to: None, validator: self.validator.clone() });
        let file = |source| FetchError::File { file: path.clone(), source };
        let asked = self.handle.block_on(self.hub.file(repo, commit, path, part.as_ref()));
        let mut answer = asked.map_err(|source| self.refused(source))?;
        self.check(&answer)?;
        self.validator.clone_from(&answer.validator);
        if answer.offset != partial.length {
            if answer.offset != 0 {
                let problem = format!("bytes from {} on, and {} was asked for", answer.offset, partial.length);
                return Err(file(HubError::Malformed { host: answer.host, problem }));
            }
            // The host does not send parts, so everything comes again.
            self.empty(partial)?;
        }
        let stall = self.hub.settings().stall_deadline;
        let expected = self.job.listed.bytes;
        loop {
            self.go_on()?;
            let Some(chunk) = self.handle.block_on(answer.chunk(stall)).map_err(file)? else { break };
            self.fetched += chunk.len() as u64;
            let found = partial.length + chunk.len() as u64;
            if found > expected {
                self.empty(partial)?;
                return Err(FetchError::WrongLength { file: path.clone(), expected, found });
            }
            partial.file.write_all(&chunk).map_err(|error| self.not_written(error, partial.length))?;
            partial.hasher.update(&chunk);
            partial.length = found;
            self.report(FileState::Downloading, partial);
        }
        if partial.length < expected {
            let problem = format!("the content ended after {} of {expected} bytes", partial.length);
            return Err(file(HubError::Unreachable { host: answer.host, problem }));
        }
        Ok(())
    }

    fn refused(&self, source: HubError) -> FetchError {
        if matches!(source, HubError::NoFile { .. }) {
            // As huggingface_hub does, so that neither asks again. A marker that cannot be made costs a request.
            let _ = self.job.store.mark_absent(&self.job.commit, &self.job.path);
        }
        FetchError::File { file: self.job.path.clone(), source }
    }

    /// Whether the answer is about the file that is wanted.
    fn check(&self, answer: &Answer) -> Result<(), FetchError> {
        let Job { commit, path, listed, .. } = &self.job;
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

    fn not_written(&self, error: io::Error, done: u64) -> FetchError {
        let path = self.job.store.partial(&self.job.listed.blob);
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            let cache = self.job.store.cache().to_owned();
            return FetchError::NoSpace { path: cache, needed: self.job.listed.bytes - done, free: 0, floor: 0 };
        }
        FetchError::io(path)(error)
    }

    /// Attests the content, for good when it is on the disk; that takes a while, and nobody has to wait for it.
    fn attest(&self, file: File) -> io::Result<()> {
        let identity = FileIdentity::of_file(&file)?;
        let blob = self.job.listed.blob.clone();
        self.attestations.attest(&blob, &identity);
        let attestations = Arc::clone(&self.attestations);
        self.handle.spawn_blocking(move || match file.sync_all() {
            Ok(()) => attestations.attest_for_good(&blob, &identity),
            Err(error) => tracing::warn!(%blob, %error, "a downloaded file is not safely on the disk"),
        });
        Ok(())
    }

    fn report(&self, state: FileState, partial: &Partial) {
        self.cockpit.report(FileStep { state, bytes_done: partial.length });
    }

    fn go_on(&self) -> Result<(), FetchError> {
        if self.cockpit.is_abandoned() { Err(FetchError::Abandoned) } else { Ok(()) }
    }

    fn sleep(&self, pause: Duration) -> Result<(), FetchError> {
        self.handle.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.cockpit.abandoned() => {}
            }
        });
        self.go_on()
    }
}
