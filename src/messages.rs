//! From the daemon's types to messages, for the service and for what the command line shows without a daemon.

use std::{path::Path, time::Duration};

use weightsd_core::{
    adapter::{AdapterReport, AppliedStrength, StrengthSource},
    audit::{AuditReport, Mismatch, OriginTotal},
    family::{KnownBy, Named},
    handoff::Given,
    identity::ContentKey,
    listing::Listed,
    origin::Operation,
    parts::{FileKind, Located, PartProblem},
    place::{Layout, Placed},
    quantisation::{Coded, Mode, Packed, SlotRole},
    source::SourceId,
    table::DtypeTotal,
};
use weightsd_proto::v1;
use weightsd_segment::FileIdentity;

use crate::{
    component::{Adapted, Component, Lent, Segment},
    derive::{Provenance, StoredImage},
    pipeline::Audited,
    progress::{FileProgress, FileState, Phase, Step},
    resolve::{ModelKind, ResolvedModel},
    snapshot::{Attestations, ShardFile},
    vram::OnCard,
};

/// Names in each sample of an audit report.
const SAMPLE: usize = 20;
/// Names in each list of a full report; a message has its limit.
const FULL: usize = 4000;
/// Shapes in a report.
const SHAPES: usize = 100;

/// A report as a message, its lists cut to samples.
pub(crate) fn audit_report(report: &AuditReport) -> v1::AuditReport {
    report_of(report, SAMPLE, |_| String::new())
}

/// The report of a component.
pub(crate) fn component_audit(component: &Component) -> v1::AuditReport {
    report_of(&component.audit, SAMPLE, |source| component.sources[source].file.name.clone())
}

/// A report as a message, with all names, where they come from, and what was assumed.
pub(crate) fn audited(audited: &Audited, full: bool) -> v1::AuditReport {
    let names_max = if full { FULL } else { SAMPLE };
    let mut message = report_of(&audited.assembled.report, names_max, |source| audited.files[source].clone());
    message.assumptions = audited.assembled.assumptions.iter().map(ToString::to_string).collect();
    message
}

/// A report with at most `names_max` names in each list; `file` names a source.
fn report_of(report: &AuditReport, names_max: usize, file: impl Fn(SourceId) -> String) -> v1::AuditReport {
    let names = |names: &[String]| names.iter().take(names_max).cloned().collect();
    let mismatches = |all: &[Mismatch]| {
        let one = |mismatch: &Mismatch| v1::TensorMismatch {
            name: mismatch.name.clone(),
            expected: mismatch.expected.clone(),
            found: mismatch.found.clone(),
        };
        all.iter().take(names_max).map(one).collect()
    };
    let mut shapes: Vec<_> = report.shapes.iter().collect();
    shapes.sort_by_key(|(_, total)| std::cmp::Reverse(total.tensors));
    let shape = |(shape, total): &(&Vec<u64>, &DtypeTotal)| v1::ShapeCount {
        shape: (*shape).clone(),
        tensors: total.tensors,
        bytes: total.bytes,
    };
    let scheme = |(scheme, total): (&String, &DtypeTotal)| v1::SchemeCount {
        scheme: scheme.clone(),
        layers: total.tensors,
        bytes: total.bytes,
    };
    let origin = |(&source, total): (&SourceId, &OriginTotal)| v1::OriginCount {
        source: source.0,
        as_they_are: total.as_they_are,
        renamed: total.renamed,
        reshaped: total.reshaped,
        rows: total.rows,
        file: file(source),
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
        coverage: report.coverage().unwrap_or_default(),
        shapes: shapes.iter().take(SHAPES).map(shape).collect(),
        schemes: report.schemes.iter().map(scheme).collect(),
        origins: report.origins.iter().map(origin).collect(),
        borrowed: names(&report.borrowed),
        tolerated: names(&report.tolerated),
        assumptions: Vec::new(),
        unchecked: count(report.unchecked),
    }
}

pub(crate) fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

pub(crate) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

pub(crate) fn layout(layout: Layout) -> v1::Layout {
    match layout {
        Layout::Mlx => v1::Layout::Mlx,
        Layout::Source => v1::Layout::Source,
        Layout::Mflux => v1::Layout::Mflux,
    }
}

pub(crate) fn model(model: &ResolvedModel) -> v1::ResolvedModel {
    let warning = model.warning.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut message = v1::ResolvedModel { path: path(&model.path), warning, ..v1::ResolvedModel::default() };
    match &model.kind {
        ModelKind::Directory => message.set_kind(v1::ModelKind::Directory),
        ModelKind::File => message.set_kind(v1::ModelKind::File),
        // The wire calls every source's models so; their names tell the source.
        ModelKind::Repo { address, commit } => {
            message.set_kind(v1::ModelKind::Hub);
            message.repo = address.repo.to_string();
            message.revision = address.revision.to_string();
            message.commit = commit.to_string();
            message.hub_cache = path(address.store.cache());
        }
    }
    message
}

pub(crate) fn file(shard: &ShardFile) -> v1::ModelFile {
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

pub(crate) fn segment(segment: &Segment, given: Given) -> v1::Segment {
    let kind = match segment {
        Segment::Checkpoint(_) => v1::SegmentKind::Checkpoint,
        Segment::Image(_) => v1::SegmentKind::Derived,
    };
    let file = segment.given(given);
    v1::Segment {
        path: path(file.path()),
        identity: Some(identity(&file.known_identity())),
        kind: kind.into(),
        card: None,
    }
}

/// The memory of a card that a component lies in.
pub(crate) fn card_memory(on_card: &OnCard) -> v1::CardMemory {
    let (device, bytes) = (on_card.card.to_string(), on_card.bytes());
    v1::CardMemory { device, bytes, granularity: on_card.granularity }
}

/// The same, as the one segment of the component.
pub(crate) fn card_segment(on_card: &OnCard) -> v1::Segment {
    let card = Some(card_memory(on_card));
    v1::Segment { kind: v1::SegmentKind::Card.into(), card, ..v1::Segment::default() }
}

/// The image of a component that is loaded.
pub(crate) fn image(component: &Component) -> Option<v1::DerivedImage> {
    let image = component.image.as_ref()?;
    Some(v1::DerivedImage {
        path: path(image.file.path()),
        bytes: image.file.identity().length,
        component_id: component.id.to_string(),
        made: Some(image.made.into()),
        loaded: true,
        ..provenance(Some(&image.provenance))
    })
}

/// Whether a loaded component lies in an image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaded {
    Yes,
    No,
}

/// An image on the disk.
pub(crate) fn stored(stored: &StoredImage, loaded: Loaded) -> v1::DerivedImage {
    v1::DerivedImage {
        path: path(&stored.path),
        bytes: stored.bytes,
        component_id: stored.id.to_string(),
        made: Some(stored.made.into()),
        used: Some(stored.used.into()),
        loaded: loaded == Loaded::Yes,
        ..provenance(stored.provenance.as_ref())
    }
}

fn provenance(provenance: Option<&Provenance>) -> v1::DerivedImage {
    let Some(Provenance { component, made_from, conversion, .. }) = provenance.cloned() else {
        return v1::DerivedImage::default();
    };
    v1::DerivedImage { component, made_from, conversion, ..v1::DerivedImage::default() }
}

pub(crate) fn adapted(adapted: &Adapted) -> v1::AdapterReport {
    let AdapterReport {
        adapter,
        applied,
        strengths,
        without_target,
        without_partner,
        other_component,
        unsupported,
        unknown,
        remarks,
        ..
    } = &adapted.report;
    let sample = |names: &[String]| names.iter().take(SAMPLE).cloned().collect::<Vec<_>>();
    let left_out = |what: &str, names: &[String]| {
        (!names.is_empty()).then(|| format!("{} {what}, such as `{}`", names.len(), names[0]))
    };
    let unsupported = unsupported.iter().filter_map(|(kind, keys)| left_out(&format!("keys of {kind}"), keys));
    let words = left_out("keys without their partner", without_partner)
        .into_iter()
        .chain(left_out("keys of no known form", unknown))
        .chain(unsupported)
        .chain(remarks.iter().cloned());
    v1::AdapterReport {
        adapter: adapter.clone(),
        scale: adapted.scale,
        layers: count(applied.len()),
        without_target: count(without_target.len()),
        without_target_sample: sample(without_target),
        other_component: count(other_component.len()),
        other_component_sample: sample(other_component),
        strengths: strengths.iter().map(strength).collect(),
        remarks: words.collect(),
    }
}

fn strength(applied: &AppliedStrength) -> v1::AdapterStrength {
    let source = match applied.source {
        StrengthSource::AlphaTensor => v1::AdapterStrengthSource::AlphaTensor,
        StrengthSource::Config => v1::AdapterStrengthSource::Config,
        StrengthSource::Metadata => v1::AdapterStrengthSource::Metadata,
        StrengthSource::Nothing => v1::AdapterStrengthSource::Nothing,
    };
    v1::AdapterStrength {
        source: source.into(),
        strength: applied.strength,
        layers: count(applied.layers.len()),
        layers_sample: applied.layers.iter().take(SAMPLE).cloned().collect(),
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

pub(crate) fn tensor(placed: &Placed<Lent>) -> v1::Tensor {
    let Lent { segment, at } = &placed.at;
    let origin = placed.origin.as_ref().map(|origin| origin.operation);
    let (operation, rows) = match origin.filter(|_| !at.is_derived()) {
        None if at.is_derived() => (v1::TensorOperation::Computed, None),
        None | Some(Operation::Renamed) => (v1::TensorOperation::Unspecified, None),
        Some(Operation::Reshaped | Operation::Ordered(_)) => (v1::TensorOperation::Reshaped, None),
        Some(Operation::Rows { first, count, of }) => {
            (v1::TensorOperation::Rows, Some(v1::RowRange { first, count, of }))
        }
    };
    v1::Tensor {
        name: placed.name.clone(),
        source_name: placed.source_name.clone().unwrap_or_default(),
        dtype: placed.dtype.to_string(),
        shape: placed.shape.clone(),
        segment: segment.0,
        offset: at.range().start,
        length: at.bytes(),
        operation: operation.into(),
        rows,
        packing: placed.packed.as_deref().map(packing),
        coding: placed.coded.as_deref().map(coding),
    }
}

fn coding(coded: &Coded) -> v1::Coding {
    let decoding = &coded.coding.decoding;
    let role = match coded.role {
        SlotRole::Weight => v1::CodingRole::Weight,
        SlotRole::Scales => v1::CodingRole::Scales,
        SlotRole::GlobalScale => v1::CodingRole::GlobalScale,
        SlotRole::ZeroPoints => v1::CodingRole::ZeroPoints,
        _ => v1::CodingRole::Other,
    };
    v1::Coding {
        format: coded.coding.format.name.to_owned(),
        codes: decoding.codes.to_string(),
        block: decoding.grid.block(&coded.logical_shape),
        rotation: decoding.rotation.unwrap_or_default(),
        provenance: coded.coding.provenance.to_string(),
        role: role.into(),
        logical_shape: coded.logical_shape.clone(),
    }
}

fn packing(packed: &Packed) -> v1::Packing {
    let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let role = match packed.role {
        SlotRole::Weight => v1::PackingRole::Weight,
        SlotRole::Scales => v1::PackingRole::Scales,
        SlotRole::Biases => v1::PackingRole::Biases,
        SlotRole::GlobalScale => v1::PackingRole::GlobalScale,
        // Of formats that are not computed with: their tensors are no slots of packed layers.
        _ => v1::PackingRole::Unspecified,
    };
    v1::Packing {
        mode: mode(packed.scheme.mode()).into(),
        bits: count(packed.scheme.bits()),
        group_size: count(packed.scheme.group_size()),
        role: role.into(),
        logical_shape: packed.logical_shape.clone(),
    }
}

/// What the names of modes begin with on the wire; MLX's word follows.
const MODE: &str = "QUANTISATION_MODE_";

/// A mode on the wire.
pub(crate) fn mode(mode: Mode) -> v1::QuantisationMode {
    let name = format!("{MODE}{}", mode.name().to_uppercase());
    v1::QuantisationMode::from_str_name(&name).expect("each mode is on the wire, says a test")
}

/// The mode that a request means.
pub(crate) fn asked_mode(mode: v1::QuantisationMode) -> Option<Mode> {
    match mode {
        v1::QuantisationMode::Unspecified => Some(Mode::Affine),
        named => Mode::parse(&named.as_str_name().strip_prefix(MODE)?.to_lowercase()).ok(),
    }
}

/// A model that its family knows, with its preset.
pub(crate) fn known(named: &Named) -> v1::KnownModel {
    let known_by = match named.by {
        KnownBy::Id => v1::KnownBy::Id,
        KnownBy::Config(_) => v1::KnownBy::Config,
        KnownBy::Name => v1::KnownBy::Name,
        KnownBy::Assumed => v1::KnownBy::Assumption,
    };
    v1::KnownModel {
        name: named.model.name.to_owned(),
        known_by: known_by.into(),
        evidence: named.by.to_string(),
        preset_json: serde_json::Value::Object(named.model.preset.to_json()).to_string(),
    }
}

/// What a file holds.
pub(crate) fn inspection(inspection: &Located) -> v1::FileInspection {
    let kind = match inspection.kind {
        FileKind::AllInOne => v1::FileKind::AllInOne,
        FileKind::SomeParts => v1::FileKind::SeveralComponents,
        FileKind::Single => v1::FileKind::OneComponent,
        FileKind::Unknown => v1::FileKind::Unknown,
    };
    // That a file of one component has no other is no news.
    let is_news =
        |problem: &&PartProblem| inspection.kind != FileKind::Single || !matches!(problem, PartProblem::Missing { .. });
    let problems = inspection.problems.iter().filter(is_news).map(ToString::to_string);
    let limits = inspection.parts.iter().flat_map(|part| part.limits.iter().map(ToString::to_string));
    v1::FileInspection {
        kind: kind.into(),
        problems: problems.chain(limits).collect(),
        unassigned: u32::try_from(inspection.unassigned.len()).unwrap_or(u32::MAX),
        unassigned_sample: inspection.unassigned.iter().take(SAMPLE).cloned().collect(),
    }
}

pub(crate) fn progress(step: &Step, sharers: usize) -> v1::Progress {
    let phase = match step.phase {
        Phase::Resolve => v1::Phase::Resolve,
        Phase::Open => v1::Phase::Open,
        Phase::Audit => v1::Phase::Audit,
        Phase::Download => v1::Phase::Download,
        Phase::Verify => v1::Phase::Verify,
        Phase::Derive => v1::Phase::Derive,
        Phase::Prefetch => v1::Phase::Prefetch,
        Phase::Upload => v1::Phase::Upload,
    };
    let file = |file: &FileProgress| v1::FileProgress {
        path: file.path.clone(),
        state: file_state(file.step.state).into(),
        bytes_done: file.step.bytes_done,
        bytes_total: file.bytes_total,
    };
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

pub(crate) fn listed_file(path: &str, listed: &Listed, present: bool) -> v1::ModelFile {
    v1::ModelFile { path: path.to_owned(), length: listed.bytes, present, blob: listed.blob.to_string() }
}

/// What is known about the content of a component.
pub(crate) fn attestation(component: &Component, attestations: &Attestations) -> v1::Attestation {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_is_on_the_wire() {
        for known in Mode::all() {
            assert_eq!(asked_mode(mode(known)), Some(known));
        }
        assert_eq!(asked_mode(v1::QuantisationMode::Unspecified), Some(Mode::Affine));
    }
}
