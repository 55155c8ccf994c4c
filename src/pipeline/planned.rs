//! Between opening and lending: a component of which everything is known but what has to be computed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use weightsd_core::{
    assemble::Assembled,
    derive::{Derivation, MLX_VERSION},
    identity::ComponentId,
    place::{Making, Placed},
};

use super::Prepared;
use crate::{
    checkpoint::{self, OpenShard},
    component::{Adapted, Component, Segment, Timings},
    derive::{DeriveFailure, Image, Order, OrderedFile, Partial, Provenance},
    pace::Pace,
    progress::{Phase, Step},
    snapshot::Suspect,
};

/// A component of which everything is known, and perhaps something has to be computed.
#[derive(Debug)]
pub struct Planned {
    pub(super) prepared: Prepared,
    pub(super) sources: Vec<Arc<OpenShard>>,
    /// How many of the sources are of the component, and of what is laid over it; the rest is of adapters.
    pub(super) lendable: usize,
    pub(super) assembled: Assembled,
    pub(super) tensors: Vec<Placed>,
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

    /// The files that are read for it, adapters included.
    #[must_use]
    pub fn sources(&self) -> &[Arc<OpenShard>] {
        &self.sources
    }

    /// What an image of it is made from.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        let prepared = &self.prepared;
        let others = prepared.overlay.iter().chain(prepared.adapters.iter().map(|adapter| &adapter.files));
        let others = others.flat_map(|files| &files.shards).map(|shard| format!(" + {}", shard.path.display()));
        let blob = |suspect: Suspect| suspect.blob.map(|blob| blob.to_string());
        let source = |suspect: Suspect| blob(suspect.clone()).unwrap_or_else(|| suspect.path.display().to_string());
        Provenance {
            component: prepared.component().to_owned(),
            made_from: std::iter::once(prepared.model.to_string()).chain(others).collect(),
            conversion: conversion(prepared),
            sources: prepared.suspects().into_iter().map(source).collect(),
        }
    }

    /// Has computed what the plan says has to be, into `partial`. `progress` is called with each step.
    ///
    /// # Errors
    /// [`DeriveFailure`].
    pub async fn derive(&self, partial: &Partial, mut progress: impl FnMut(&Step)) -> Result<(), DeriveFailure> {
        let Some(derivation) = &self.derivation else { return Ok(()) };
        let ordered = |source: &Arc<OpenShard>| OrderedFile {
            path: source.file.path().to_owned(),
            identity: source.file.identity().into(),
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
        let changed = self.sources.iter().find(|source| !checkpoint::is_as_it_was(&source.file));
        changed.map_or(Ok(()), |source| Err(DeriveFailure::Changed { path: source.file.path().to_owned() }))
    }

    /// The component, with the image of what had to be computed, which took so long.
    #[must_use]
    pub fn lend(self, image: Option<Arc<Image>>, took: Duration) -> Component {
        let Self { prepared, sources, lendable, assembled, mut tensors, adapters, mut timings, .. } = self;
        timings.derive = took;
        // Files of which nothing is lent are not handed over.
        let in_place = |tensor: &&Placed| tensor.making != Making::Computed;
        let used: BTreeSet<u32> = tensors.iter().filter(in_place).map(|tensor| tensor.shard).collect();
        let mut numbers: BTreeMap<u32, u32> = used.iter().copied().zip(0..).collect();
        numbers.insert(count(lendable), count(used.len()));
        for tensor in &mut tensors {
            tensor.shard = numbers.get(&tensor.shard).copied().unwrap_or_default();
        }
        let lent = sources.iter().zip(0..).filter(|(_, number)| used.contains(number));
        let lent = lent.map(|(source, _)| Segment::Checkpoint(Arc::clone(source)));
        let segments = lent.chain(image.clone().map(Segment::Image)).collect();
        tracing::info!(
            id = %prepared.id, model = %prepared.model, component = prepared.files.site.name, tensors = tensors.len(),
            took = ?prepared.started.elapsed(), "component loaded"
        );
        let config = &assembled.description.config;
        let suspects = prepared.suspects();
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
            suspects,
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

pub(super) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
