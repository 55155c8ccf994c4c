//! Between opening and lending: a component of which everything is known but what has to be computed.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use weightsd_core::{
    assemble::Assembled,
    derive::{Derivation, MLX_VERSION},
    identity::ComponentId,
    place::{At, Placed},
    source::{SegmentId, SourceId, Sources},
};

use super::Prepared;
use crate::{
    checkpoint::Source,
    component::{Adapted, Component, Lent, Segment, Timings},
    derive::{DeriveFailure, Image, Order, OrderedFile, Partial, Provenance},
    pace::Pace,
    progress::{Phase, Step},
    snapshot::HashCandidate,
};

/// A component of which everything is known, and perhaps something has to be computed.
#[derive(Debug)]
pub struct Planned {
    pub(super) prepared: Prepared,
    pub(super) sources: Sources<Source>,
    pub(super) assembled: Assembled,
    pub(super) tensors: Vec<Placed<At>>,
    pub(super) derivation: Option<Derivation>,
    pub(super) adapters: Vec<Adapted>,
    pub(super) timings: Timings,
}

impl Planned {
    /// The component's id.
    #[must_use]
    pub fn id(&self) -> ComponentId {
        self.prepared.id
    }

    /// What has to be computed.
    #[must_use]
    pub fn derivation(&self) -> Option<&Derivation> {
        self.derivation.as_ref()
    }

    /// What an image of it is made from.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        let prepared = &self.prepared;
        let others = prepared.overlay.iter().chain(prepared.adapters.iter().map(|adapter| &adapter.files));
        let others = others.flat_map(|files| &files.shards).map(|shard| format!(" + {}", shard.path.display()));
        let blob = |candidate: HashCandidate| candidate.blob.map(|blob| blob.to_string());
        let source =
            |candidate: HashCandidate| blob(candidate.clone()).unwrap_or_else(|| candidate.path.display().to_string());
        Provenance {
            component: prepared.component().to_owned(),
            made_from: std::iter::once(prepared.model.to_string()).chain(others).collect(),
            conversion: conversion(prepared),
            sources: prepared.candidates().into_iter().map(source).collect(),
        }
    }

    /// Has computed what the plan says has to be, into `partial`. `progress` is called with each step.
    ///
    /// # Errors
    /// [`DeriveFailure`].
    pub async fn derive(&self, partial: &Partial, mut progress: impl FnMut(&Step)) -> Result<(), DeriveFailure> {
        let Some(derivation) = &self.derivation else { return Ok(()) };
        let ordered = |source: &Source| OrderedFile {
            path: source.open.file.path().to_owned(),
            identity: source.open.file.identity().into(),
        };
        let order = Order {
            files: self.sources.iter().map(ordered).collect(),
            image: partial.path().to_owned(),
            head: derivation.image.head.clone(),
            jobs: derivation.jobs.clone(),
        };
        let total = derivation.input_bytes();
        let mut pace = Pace::default();
        crate::derive::compute(&order, |bytes, tensor| {
            pace.add(bytes);
            progress(&Step {
                phase: Phase::Derive,
                file: tensor.to_owned(),
                bytes_done: bytes,
                bytes_total: total,
                bytes_per_second: pace.bytes_per_second(),
                remaining: pace.remaining(total.saturating_sub(bytes)),
                ..Step::default()
            });
        })
        .await?;
        // What was read by path was the same as what is held open, and still is.
        let changed = self.sources.iter().find(|source| !source.open.file.is_unchanged());
        changed.map_or(Ok(()), |source| Err(DeriveFailure::Changed { path: source.open.file.path().to_owned() }))
    }

    /// The component, with the image of what had to be computed, which took so long.
    #[must_use]
    pub fn lend(self, image: Option<Arc<Image>>, took: Duration) -> Component {
        let Self { prepared, sources, assembled, tensors, adapters, mut timings, .. } = self;
        timings.derive = took;
        let (segments, tensors) = lent(&sources, tensors, image.as_ref());
        tracing::info!(
            id = %prepared.id, model = %prepared.model, component = prepared.files.site.name, tensors = tensors.len(),
            took = ?prepared.started.elapsed(), "component loaded"
        );
        let config = &assembled.description.config;
        Component {
            id: prepared.id,
            family: prepared.recipe.family.id(),
            layout: prepared.layout,
            config_json: if config.is_null() { String::new() } else { config.to_string() },
            name: prepared.files.site.name,
            model: prepared.model,
            segments,
            image,
            sources,
            adapters,
            tensors,
            assumptions: assembled.assumptions.iter().map(ToString::to_string).collect(),
            audit: assembled.report,
            timings,
            encoded_pages: OnceLock::new(),
        }
    }
}

/// What an image says of itself: nothing that depends on the name by which the model was asked for.
pub(super) fn metadata(prepared: &Prepared) -> BTreeMap<String, String> {
    [
        ("format", "mlx".to_owned()),
        ("weightsd.id", prepared.id.to_string()),
        ("weightsd.component", prepared.component().to_owned()),
        ("weightsd.conversion", conversion(prepared)),
        ("weightsd.mlx", MLX_VERSION.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// What is done to the tensors, in words.
fn conversion(prepared: &Prepared) -> String {
    let layout = format!("layout {}", prepared.layout.name());
    let conversion = Some(prepared.conversion.summary()).filter(|summary| !summary.is_empty());
    let adapters = prepared.adapters.iter().map(|adapter| format!("{} x {}", adapter.files.site.name, adapter.scale));
    std::iter::once(layout).chain(conversion).chain(adapters).collect::<Vec<_>>().join(", ")
}

/// A file that holds lent tensors.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum File {
    Source(SourceId),
    Derived,
}

/// The files that are lent, and the tensors in them. A source that holds no lent tensor is not handed over.
fn lent(
    sources: &Sources<Source>,
    tensors: Vec<Placed<At>>,
    image: Option<&Arc<Image>>,
) -> (Vec<Segment>, Vec<Placed<Lent>>) {
    // In the order of the sources; what was computed comes last.
    let mut by_file: BTreeMap<File, Vec<Placed<At>>> = BTreeMap::new();
    for tensor in tensors {
        let file = match &tensor.at {
            At::Source(stored) => File::Source(stored.source),
            At::Derived(_) => File::Derived,
        };
        by_file.entry(file).or_default().push(tensor);
    }
    let segment = |file: &File| match file {
        File::Source(source) => Segment::Checkpoint(Arc::clone(&sources[*source].open)),
        File::Derived => {
            Segment::Image(Arc::clone(image.expect("a plan that computes is lent with what was computed")))
        }
    };
    let segments = by_file.keys().map(segment).collect();
    let in_segment = |(number, tensors): (u32, Vec<Placed<At>>)| {
        let lent = move |tensor: Placed<At>| tensor.moved(|at| Lent { segment: SegmentId(number), at });
        tensors.into_iter().map(lent)
    };
    let mut lent: Vec<_> = (0..).zip(by_file.into_values()).flat_map(in_segment).collect();
    lent.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    (segments, lent)
}
