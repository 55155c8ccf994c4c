//! From a plan to the component that is lent: the files that hold its tensors become segments.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::OnceCell;
use weightsd_core::{
    place::{At, Placed},
    source::{SegmentId, SourceId, Sources},
};

use super::{Prepared, plan::Plan};
use crate::{
    checkpoint::SourceFile,
    component::{Component, Lent, Segment},
    derive::Image,
};

/// Makes the component from its plan and the image that the plan asked for.
pub(super) fn lend(prepared: &Prepared, plan: Plan, image: Option<(Image, Duration)>) -> Component {
    let Plan { sources, assembled, tensors, adapters, layout, unmet, mut timings, .. } = plan;
    let image = image.map(|(image, took)| {
        timings.derive = took;
        Arc::new(image)
    });
    let (segments, tensors) = segments(&sources, tensors, image.as_ref());
    tracing::info!(
        id = %prepared.id, model = %prepared.model(), component = prepared.component(), tensors = tensors.len(),
        took = ?prepared.started.elapsed(), "component loaded"
    );
    let config = &assembled.description.config;
    Component {
        id: prepared.id,
        family: prepared.recipe.family.id(),
        layout,
        config_json: if config.is_null() { String::new() } else { config.to_string() },
        name: prepared.component().to_owned(),
        model: Arc::clone(prepared.model()),
        segments,
        image,
        sources,
        adapters,
        tensors,
        assumptions: assembled.assumptions.iter().map(ToString::to_string).collect(),
        audit: assembled.report,
        unmet,
        timings,
        encoded_pages: OnceLock::new(),
        sheet: OnceCell::new(),
        weight: OnceLock::new(),
    }
}

/// A file that holds lent tensors.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum File {
    Source(SourceId),
    Derived,
}

/// The files that are lent, and the tensors in them. Clients get no source that holds no lent tensor.
fn segments(
    sources: &Sources<SourceFile>,
    tensors: Vec<Placed<At>>,
    image: Option<&Arc<Image>>,
) -> (Vec<Segment>, Vec<Placed<Lent>>) {
    // Sources keep their order, and the image comes last.
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
