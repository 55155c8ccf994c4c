//! Last stage: a component, ready to be lent. Its tensors are ranges of files that are held open: the checkpoint's own,
//! and the image of what had to be computed.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use prost::bytes::Bytes;
use weightsd_core::adapter::AdapterReport;
use weightsd_core::{
    audit::AuditReport,
    derive::CannotConvert,
    identity::{ComponentId, FileKey},
    listing::BlobName,
    place::{At, Layout, Placed},
    source::{SegmentId, Sources},
};

use crate::{
    checkpoint::{OpenShard, SourceFile},
    derive::Image,
    lanes::{Disks, HeldFile, MayBlock},
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
}

/// Where a lent tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lent {
    /// The file that is handed over.
    pub segment: SegmentId,
    /// Which file the bytes are in, and where.
    pub at: At,
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
    /// The tensor table as the service sends it: made at the first request, the same for all.
    pub encoded_pages: OnceLock<Vec<Bytes>>,
}

impl Component {
    /// Sum of the tensors' lengths in bytes.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.at.at.bytes()).sum()
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

    /// Whether every file that it was made from, and the image, is as it was when it was opened.
    #[must_use]
    pub fn is_unchanged(&self, _: &MayBlock<'_>) -> bool {
        let image = self.image.as_ref().is_none_or(|image| image.file.is_unchanged());
        image && self.sources.iter().all(|source| source.open.file.is_unchanged())
    }

    /// Whether every file that is lent still has the bytes that it had when it was opened, under whatever name.
    #[must_use]
    pub fn is_intact(&self, _: &MayBlock<'_>) -> bool {
        self.segments.iter().all(|segment| segment.file().is_intact())
    }
}
