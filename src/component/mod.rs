//! Last stage: a component, ready to be lent. Its tensors are ranges of files that are held open.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use prost::bytes::Bytes;
use weightsd_core::{
    audit::AuditReport,
    identity::ComponentId,
    listing::BlobName,
    plan::{Layout, Placed},
};
use weightsd_segment::FileIdentity;

use crate::{
    checkpoint::OpenShard,
    resolve::ResolvedModel,
    snapshot::{Attestations, Suspect},
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
    /// The files that are lent; [`Placed::shard`] counts in them.
    pub segments: Vec<Arc<OpenShard>>,
    /// The same files under their names, to be compared with their hashes.
    pub suspects: Vec<Suspect>,
    /// The tensors, sorted by name.
    pub tensors: Vec<Placed>,
    /// What was assumed, since neither configs nor weights tell.
    pub assumptions: Vec<String>,
    /// The audit.
    pub audit: AuditReport,
    /// Where the time went.
    pub timings: Timings,
    /// The tensor table as the service sends it: made at the first request, the same for all.
    pub encoded_pages: OnceLock<Vec<Bytes>>,
}

impl Component {
    /// Sum of the tensors' lengths in bytes.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.range.end - tensor.range.start).sum()
    }

    /// Whether all its files have hashes to be compared with.
    #[must_use]
    pub fn is_verifiable(&self) -> bool {
        self.suspects.iter().all(|suspect| suspect.blob.is_some())
    }

    /// When all its files were found to be what their names say: the earliest of the times, `None` unless each has one.
    /// Never waits.
    #[must_use]
    pub fn verified(&self, attestations: &Attestations) -> Option<SystemTime> {
        self.attested(|blob, file| attestations.recent(blob, file))
    }

    /// The same, of the attestations that outlived the last daemon too. Blocks.
    #[must_use]
    pub fn was_verified(&self, attestations: &Attestations) -> Option<SystemTime> {
        self.attested(|blob, file| attestations.get(blob, file))
    }

    fn attested(&self, at: impl Fn(&BlobName, &FileIdentity) -> Option<SystemTime>) -> Option<SystemTime> {
        let one = |(suspect, segment): (&Suspect, &Arc<OpenShard>)| at(suspect.blob.as_ref()?, segment.file.identity());
        let times = self.suspects.iter().zip(&self.segments).map(one).collect::<Option<Vec<_>>>()?;
        times.into_iter().min()
    }

    /// Whether every file under it is as it was when it was opened.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.segments.iter().all(|segment| crate::checkpoint::is_unchanged(segment))
    }

    /// Whether every file under it still has the bytes that it had when it was opened, under whatever name.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.segments.iter().all(|segment| crate::checkpoint::is_intact(segment))
    }
}
