//! Last stage: a component, ready to be lent. Its tensors are ranges of files that are held open: the checkpoint's own,
//! and the image of what had to be computed.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use prost::bytes::Bytes;
use tokio::sync::OnceCell;
use weightsd_core::adapter::AdapterReport;
use weightsd_core::{
    audit::AuditReport,
    derive::CannotConvert,
    handoff::Given,
    identity::{ComponentId, FileKey},
    listing::BlobName,
    place::{At, Layout, Placed},
    policy::Idle,
    source::{SegmentId, Sources},
};

use crate::{
    checkpoint::{OpenShard, SourceFile},
    derive::Image,
    lanes::{Disks, FileFate, FileState, HeldFile, MayBlock, SealedFile},
    resolve::ResolvedModel,
    snapshot::{Attestations, HashCandidate},
};

/// Where the time of a load went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Resolving and listing.
    pub resolve: Duration,
    /// Opening shards and reading headers.
    pub open: Duration,
    /// Auditing and placing.
    pub audit: Duration,
    /// Computing.
    pub derive: Duration,
}

/// A file that is lent.
#[derive(Debug, Clone)]
pub enum Segment {
    /// A file of the checkpoint, or of what is laid over it.
    Checkpoint(Arc<OpenShard>),
    /// What had to be computed.
    Image(Arc<Image>),
}

impl Segment {
    /// The file.
    #[must_use]
    pub fn file(&self) -> &HeldFile {
        match self {
            Self::Checkpoint(shard) => &shard.file,
            Self::Image(image) => &image.file,
        }
    }

    /// The file as this holder is given it.
    #[must_use]
    pub fn given(&self, given: Given) -> &HeldFile {
        match (self, given) {
            (Self::Checkpoint(shard), Given::Clones) => shard.clone.as_ref().unwrap_or(&shard.file),
            (Self::Checkpoint(_) | Self::Image(_), _) => self.file(),
        }
    }

    /// Whether others than the daemon may write to the file that this holder is given.
    fn is_shared(&self, given: Given) -> bool {
        let Self::Checkpoint(shard) = self else { return false };
        given == Given::Originals || shard.clone.is_none()
    }

    fn fate(&self, may: &MayBlock<'_>) -> FileFate {
        match self {
            Self::Checkpoint(shard) => shard.file.fate(may),
            // Nobody has reason to touch an image, so whatever happens to it is suspect.
            Self::Image(image) if !image.file.is_intact() => FileFate::Written,
            Self::Image(image) => image.file.fate(may),
        }
    }
}

/// Where a lent tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lent {
    /// The file that is handed over.
    pub segment: SegmentId,
    /// Which file the bytes are in, and where.
    pub at: At,
}

/// The table of a component's tensors, as a file that nobody can change.
#[derive(Debug)]
pub struct SealedSheet {
    /// The file.
    pub file: SealedFile,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What an adapter added.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapted {
    /// How much of it was asked for.
    pub scale: f64,
    /// What it changed.
    pub report: AdapterReport,
}

/// A component. Immutable; shared by everyone who holds it.
#[derive(Debug)]
pub struct Component {
    /// Identity of its content.
    pub id: ComponentId,
    /// `transformer`, `text_encoder`, `vae`, ...
    pub name: String,
    /// Family that recognised the model.
    pub family: &'static str,
    /// Layout of the tensors.
    pub layout: Layout,
    /// The model under which it was loaded first.
    pub model: Arc<ResolvedModel>,
    /// The typed config as JSON; empty when there is none.
    pub config_json: String,
    /// The files that are lent, in the order of their [`SegmentId`].
    pub segments: Vec<Segment>,
    /// The image among them.
    pub image: Option<Arc<Image>>,
    /// The files that it was made from, adapters included, whether they are lent or not.
    pub sources: Sources<SourceFile>,
    /// What adapters added.
    pub adapters: Vec<Adapted>,
    /// The tensors, sorted by name.
    pub tensors: Vec<Placed<Lent>>,
    /// What was assumed, because neither configs nor weights say it.
    pub assumptions: Vec<String>,
    /// The audit.
    pub audit: AuditReport,
    /// Why some tensors do not have the dtype that was wanted. Requests that named the dtype are refused.
    pub unmet: Option<CannotConvert>,
    /// Where the time went.
    pub timings: Timings,
    /// The tensor table as the service sends it: made at the first request that wants it so, the same for all.
    pub encoded_pages: OnceLock<Vec<Bytes>>,
    /// The tensor table as it is handed over: made at the first request that takes it. `None` in it when it could not be.
    pub sheet: OnceCell<Option<SealedSheet>>,
    /// Counts it among those that are loaded, once it is.
    pub weight: OnceLock<Weight>,
}

/// What all components that are loaded or held take together.
#[derive(Debug, Default)]
pub struct Sums {
    files: AtomicUsize,
    memory_bytes: AtomicU64,
    tensor_bytes: AtomicU64,
}

impl Sums {
    /// Bytes of their tensors.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.tensor_bytes.load(Ordering::Relaxed)
    }

    /// What `components` of them take.
    #[must_use]
    pub fn idle(&self, components: usize) -> Idle {
        let (files, memory_bytes) = (self.files.load(Ordering::Relaxed), self.memory_bytes.load(Ordering::Relaxed));
        Idle { components, files, memory_bytes }
    }
}

/// What one component adds to the sums, until it is dropped.
#[derive(Debug)]
pub struct Weight {
    sums: Arc<Sums>,
    takes: Idle,
    tensor_bytes: u64,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.sums.files.fetch_sub(self.takes.files, Ordering::Relaxed);
        self.sums.memory_bytes.fetch_sub(self.takes.memory_bytes, Ordering::Relaxed);
        self.sums.tensor_bytes.fetch_sub(self.tensor_bytes, Ordering::Relaxed);
    }
}

impl Component {
    /// Sum of the tensors' lengths in bytes.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.at.at.bytes()).sum()
    }

    /// Counts it in `sums` until it is dropped.
    pub fn weigh(&self, sums: &Arc<Sums>) {
        self.weight.get_or_init(|| {
            let (takes, tensor_bytes) = (self.takes(), self.tensor_bytes());
            sums.files.fetch_add(takes.files, Ordering::Relaxed);
            sums.memory_bytes.fetch_add(takes.memory_bytes, Ordering::Relaxed);
            sums.tensor_bytes.fetch_add(tensor_bytes, Ordering::Relaxed);
            Weight { sums: Arc::clone(sums), takes, tensor_bytes }
        });
    }

    /// What it takes while it is idle.
    #[must_use]
    pub fn takes(&self) -> Idle {
        let files: usize = self.sources.iter().map(|source| 1 + usize::from(source.open.clone.is_some())).sum();
        // One more is its sheet.
        Idle { components: 1, files: files + 1, memory_bytes: self.memory_bytes() }
    }

    /// An estimate, and a generous one, of the daemon's memory that describes it.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        const OF_ONE: u64 = 16 << 10;
        const OF_A_TENSOR: u64 = 1200;
        OF_ONE + OF_A_TENSOR * self.tensors.len() as u64
    }

    /// Whether all its files have hashes to be compared with.
    #[must_use]
    pub fn is_verifiable(&self) -> bool {
        self.sources.iter().all(|source| source.file.expected.is_some())
    }

    /// When all its files were found to be what their names say: the earliest of the times, `None` unless each has one.
    /// Never waits.
    #[must_use]
    pub fn verified(&self, attestations: &Attestations) -> Option<SystemTime> {
        self.attested(|blob, file| attestations.recent(blob, file))
    }

    /// Like [`Self::verified`], and also asks the attestations of earlier daemons.
    #[must_use]
    pub fn was_verified(&self, attestations: &Attestations, _: &MayBlock<'_>) -> Option<SystemTime> {
        self.attested(|blob, file| attestations.get(blob, file))
    }

    fn attested(&self, at: impl Fn(&BlobName, &FileKey) -> Option<SystemTime>) -> Option<SystemTime> {
        let one = |source: &SourceFile| at(source.file.expected.as_ref()?, &source.open.file.key());
        let times = self.sources.iter().map(one).collect::<Option<Vec<_>>>()?;
        times.into_iter().min()
    }

    /// The disks that its files lie on.
    #[must_use]
    pub fn disks(&self) -> Disks {
        let image = self.image.iter().map(|image| image.file.identity().device);
        self.sources.iter().map(|source| source.open.file.identity().device).chain(image).collect()
    }

    /// Bytes of tensors that were computed.
    #[must_use]
    pub fn computed_bytes(&self) -> u64 {
        let computed = self.tensors.iter().filter(|tensor| tensor.at.at.is_derived());
        computed.map(|tensor| tensor.at.at.bytes()).sum()
    }

    /// The files that it was made from, to be compared with their hashes.
    #[must_use]
    pub fn candidates(&self) -> Vec<HashCandidate> {
        self.sources.iter().map(|source| source.file.candidate()).collect()
    }

    /// The files that it was made from, and the image.
    fn files(&self) -> impl Iterator<Item = &HeldFile> {
        let image = self.image.iter().map(|image| &image.file);
        self.sources.iter().map(|source| &source.open.file).chain(image)
    }

    /// Whether one of its files is the one of this state.
    #[must_use]
    pub fn lies_on(&self, state: &Arc<FileState>) -> bool {
        self.files().any(|file| file.has(state))
    }

    /// The files as a holder is given them, in the order of their [`SegmentId`].
    #[must_use]
    pub fn given(&self, given: Given) -> Vec<&HeldFile> {
        self.segments.iter().map(|segment| segment.given(given)).collect()
    }

    /// Whether a holder's bytes stay when somebody writes to the files of the checkpoint.
    #[must_use]
    pub fn is_safe_with(&self, given: Given) -> bool {
        !self.segments.iter().any(|segment| segment.is_shared(given))
    }

    /// Whether the system tells of changes of all its files.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.files().all(HeldFile::is_watched)
    }

    /// What became of its bytes: [`FileFate::Written`] when a file that is lent may have others now, [`FileFate::Gone`] when
    /// a request would find other files than these.
    #[must_use]
    pub fn fate(&self, may: &MayBlock<'_>) -> FileFate {
        let lent = self.segments.iter().map(|segment| segment.fate(may)).max().unwrap_or(FileFate::Same);
        let made_from = || self.sources.iter().map(|source| source.open.file.fate(may)).max();
        match lent {
            // What is lent was computed from these, and is whole.
            FileFate::Same => made_from().map_or(FileFate::Same, |fate| fate.min(FileFate::Gone)),
            fate => fate,
        }
    }
}
