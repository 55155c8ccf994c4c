//! From the daemon's types to messages.

use std::{path::Path, time::Duration};

use weightsd_core::{
    audit::{AuditReport, Mismatch},
    identity::ContentKey,
    listing::Listed,
    plan::{Layout, Placed},
};
use weightsd_proto::v1;
use weightsd_segment::FileIdentity;

use crate::{
    checkpoint::OpenShard,
    component::Component,
    pipeline::{Phase, Step},
    resolve::{ModelKind, ResolvedModel},
    snapshot::{Attestations, FileProgress, FileState, ShardFile},
};

/// Names in each sample of an audit report.
const SAMPLE: usize = 20;

/// A report as a message, its lists cut to samples.
#[must_use]
pub fn audit_report(report: &AuditReport) -> v1::AuditReport {
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let names = |names: &[String]| names.iter().take(SAMPLE).cloned().collect();
    let mismatches = |all: &[Mismatch]| {
        let one = |mismatch: &Mismatch| v1::TensorMismatch {
            name: mismatch.name.clone(),
            expected: mismatch.expected.clone(),
            found: mismatch.found.clone(),
        };
        all.iter().take(SAMPLE).map(one).collect()
    };
    v1::AuditReport {
        component: report.component.clone(),
        expected: count(report.expected.unwrap_or_default()),
        matched: count(report.matched),
        missing: count(report.missing.len()),
        extra: count(report.extra.len()),
        wrong_shape: count(report.wrong_shape.len()),
        wrong_dtype: count(report.wrong_dtype.len()),
        missing_sample: names(&report.missing),
        extra_sample: names(&report.extra),
        wrong_shape_sample: mismatches(&report.wrong_shape),
        wrong_dtype_sample: mismatches(&report.wrong_dtype),
        dtypes: report
            .dtypes
            .iter()
            .map(|(dtype, total)| v1::DtypeCount { dtype: dtype.clone(), tensors: total.tensors, bytes: total.bytes })
            .collect(),
        tensor_bytes: report.tensor_bytes,
        remarks: report.remarks.clone(),
        clean: report.is_clean(),
    }
}

pub(super) fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

pub(super) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

pub(super) fn layout(layout: Layout) -> v1::Layout {
    match layout {
        Layout::Mlx => v1::Layout::Mlx,
        Layout::Source => v1::Layout::Source,
    }
}

pub(super) fn model(model: &ResolvedModel) -> v1::ResolvedModel {
    let warning = model.warning.clone().unwrap_or_default();
    let mut message = v1::ResolvedModel { path: path(&model.path), warning, ..v1::ResolvedModel::default() };
    match &model.kind {
        ModelKind::Directory => message.set_kind(v1::ModelKind::Directory),
        ModelKind::File => message.set_kind(v1::ModelKind::File),
        ModelKind::Hub { repo, revision, commit, cache } => {
            message.set_kind(v1::ModelKind::Hub);
            message.repo = repo.to_string();
            message.revision = revision.to_string();
            message.commit = commit.to_string();
            message.hub_cache = path(cache);
        }
    }
    message
}

pub(super) fn file(shard: &ShardFile) -> v1::ModelFile {
    let blob = match &shard.content {
        ContentKey::Blob(name) => name.clone(),
        ContentKey::File(..) => String::new(),
    };
    v1::ModelFile { path: shard.name.clone(), length: shard.identity.length, present: true, blob }
}

fn identity(identity: &FileIdentity) -> v1::FileIdentity {
    v1::FileIdentity {
        device: identity.device,
        inode: identity.inode,
        length: identity.length,
        modified_ns: identity.modified_ns,
        changed_ns: identity.changed_ns,
    }
}

pub(super) fn segment(shard: &OpenShard) -> v1::Segment {
    v1::Segment {
        path: path(shard.file.path()),
        identity: Some(identity(shard.file.identity())),
        kind: v1::SegmentKind::Checkpoint.into(),
    }
}

pub(super) fn tensor(placed: &Placed) -> v1::Tensor {
    v1::Tensor {
        name: placed.name.clone(),
        source_name: placed.source_name.clone().unwrap_or_default(),
        dtype: placed.dtype.to_string(),
        shape: placed.shape.clone(),
        segment: placed.shard,
        offset: placed.range.start,
        length: placed.range.end - placed.range.start,
    }
}

pub(super) fn progress(step: &Step, sharers: usize) -> v1::Progress {
    let phase = match step.phase {
        Phase::Resolve => v1::Phase::Resolve,
        Phase::Open => v1::Phase::Open,
        Phase::Audit => v1::Phase::Audit,
        Phase::Download => v1::Phase::Download,
        Phase::Verify => v1::Phase::Verify,
    };
    let file = |file: &FileProgress| v1::FileProgress {
        path: file.path.clone(),
        state: file_state(file.step.state).into(),
        bytes_done: file.step.bytes_done,
        bytes_total: file.bytes_total,
    };
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    v1::Progress {
        phase: phase.into(),
        file: step.file.clone(),
        files_done: count(step.files_done),
        files_total: count(step.files_total),
        bytes_done: step.bytes_done,
        bytes_total: step.bytes_total,
        sharers: count(sharers),
        bytes_per_second: step.bytes_per_second,
        remaining: step.remaining.and_then(duration),
        files: step.files.iter().map(file).collect(),
    }
}

fn file_state(state: FileState) -> v1::FileState {
    match state {
        FileState::Waiting => v1::FileState::Waiting,
        FileState::Elsewhere => v1::FileState::Elsewhere,
        FileState::Checking => v1::FileState::Checking,
        FileState::Downloading | FileState::Done => v1::FileState::Downloading,
        FileState::Retrying => v1::FileState::Retrying,
    }
}

pub(super) fn listed_file(path: &str, listed: &Listed, present: bool) -> v1::ModelFile {
    v1::ModelFile { path: path.to_owned(), length: listed.bytes, present, blob: listed.blob.to_string() }
}

/// What is known about the content of a component.
pub(super) fn attestation(component: &Component, attestations: &Attestations) -> v1::Attestation {
    let mut message = v1::Attestation::default();
    if !component.is_verifiable() {
        message.set_state(v1::VerificationState::Unverifiable);
    } else if let Some(time) = component.verified(attestations) {
        message.set_state(v1::VerificationState::Verified);
        message.time = Some(time.into());
    } else {
        message.set_state(v1::VerificationState::Pending);
    }
    message
}
