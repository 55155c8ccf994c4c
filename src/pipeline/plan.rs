//! From files to a plan. Tensors get their catalogue names and are audited; each gets its place; a tensor that no file has
//! in the wanted form becomes a job.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use weightsd_core::{
    adapter::merge,
    assemble::Assembled,
    audit::AuditReport,
    catalogue::AuditPolicy,
    derive::{
        self, Alignment, CannotConvert, CodedLayers, Converted, Delta, Derivation, ExactLayers, Held, MLX_VERSION,
        Rule, Setting,
    },
    explain::sentence,
    family,
    ingredients::Ingredients,
    place::{self, At, Layout, Placed},
    source::{SourceId, Sources},
    table::DtypeTotal,
    weight_name::Format,
};

use super::{LoadError, Prepared, Request, adapters};
use crate::{
    assembly::{Recipe, Tensors},
    checkpoint::{self, Checkpoint, ShardPool, SourceFile},
    component::{Adapted, Timings},
    derive::{ComputeFailed, FoundEngine, OrderedFile, Wanted},
    lanes::MayBlock,
    progress::{Phase, Step, Watcher},
    resolve::ResolvedModel,
    snapshot::ComponentFiles,
};

/// The checkpoints of all ingredients, and the files that they lie in.
pub(super) struct Opened {
    pub(super) checkpoints: Ingredients<Checkpoint>,
    pub(super) sources: Sources<SourceFile>,
    took: Duration,
    since: Instant,
}

/// An opened component: which tensors are lent from where, and what is computed first.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) sources: Sources<SourceFile>,
    pub(super) assembled: Assembled,
    pub(super) tensors: Vec<Placed<At>>,
    pub(super) adapters: Vec<Adapted>,
    /// The layout in which they come.
    pub(super) layout: Layout,
    /// The image that must exist before the component is lent; `None` if nothing is computed.
    pub(super) image: Option<Arc<Wanted>>,
    /// Why some tensors cannot have the dtype that was wanted.
    pub(super) unmet: Option<CannotConvert>,
    pub(super) timings: Timings,
}

impl Plan {
    /// What a caller should know when the image cannot be had and holds copies: without them the tensors are lent from
    /// where they lie. `None` when that would not help.
    pub(super) fn does_without_copies(&self, failed: &ComputeFailed) -> Option<String> {
        let copies = self.image.as_ref().is_some_and(|wanted| wanted.derivation.copies());
        let problem = || format!("there is no aligned copy of them, because {}", sentence(failed));
        (copies && failed.concerns_the_image()).then(problem)
    }

    /// Adds to what the answer says.
    pub(super) fn remark(&mut self, remark: String) {
        self.assembled.report.remarks.push(remark);
    }
}

/// Opens the files of all ingredients.
pub(super) fn open(
    files: &Ingredients<Arc<ComponentFiles>>,
    pool: &ShardPool,
    watcher: &dyn Watcher,
    may: &MayBlock<'_>,
) -> Result<Opened, LoadError> {
    let began = Instant::now();
    let mut sources = Sources::default();
    let checkpoints = files.as_ref().try_map(|_, files| checkpoint::open(files, pool, watcher, &mut sources, may))?;
    watcher.step(&Step { phase: Phase::Audit, ..Step::default() });
    Ok(Opened { checkpoints, sources, took: began.elapsed(), since: Instant::now() })
}

/// Puts the component together under the names of its catalogue, and compares it with that catalogue.
pub(super) fn assemble(prepared: &Prepared, opened: &Opened) -> Result<Assembled, LoadError> {
    let Ingredients { own, overlay, .. } = &opened.checkpoints;
    let overlay = overlay.as_ref().map(Checkpoint::tensors);
    let mut assembled = put_together(&prepared.recipe, prepared.model(), own.tensors(), overlay)?;
    // A refusal has the report too, so it is whole before anybody judges it.
    if prepared.request.layout.granted(assembled.description.catalogue.as_ref()).is_for_modules() {
        assembled.report.remarks.extend(assembled.report.left_out());
    }
    Ok(assembled)
}

/// Like [`assemble`], for tensors from any place: an audit has only the headers.
pub(super) fn put_together(
    recipe: &Recipe,
    model: &ResolvedModel,
    own: Tensors<'_>,
    overlay: Option<Tensors<'_>>,
) -> Result<Assembled, LoadError> {
    recipe.assemble(own, overlay).map_err(|source| LoadError::Assemble {
        component: recipe.site.name.clone(),
        model: model.to_string(),
        source: Box::new(source),
    })
}

/// Refuses a component that does not match its catalogue, or whose layers the modules of layout MLX cannot use. A caller
/// who wants only a report gets it all the same.
pub(super) fn audit(report: &AuditReport, request: &Request) -> Result<(), LoadError> {
    let for_modules = request.layout.is_for_modules() && report.expected.is_some();
    match request.policy {
        AuditPolicy::Strict if for_modules && !report.foreign.is_empty() => {
            Err(LoadError::Foreign(Box::new(report.clone())))
        }
        AuditPolicy::Strict if !report.is_clean() => Err(LoadError::Audit(Box::new(report.clone()))),
        AuditPolicy::Strict | AuditPolicy::ReportOnly => Ok(()),
    }
}

/// Decides the names and positions that the lent tensors have before anything is computed.
pub(super) fn place(prepared: &Prepared, assembled: &Assembled) -> Result<Vec<Placed>, LoadError> {
    let description = &assembled.description;
    let (catalogue, layout) = (description.catalogue.as_ref(), prepared.request.layout);
    let naming = match layout {
        Layout::Mlx | Layout::Source => description.naming,
        Layout::Mflux => {
            let (family, component) = (prepared.recipe.family, prepared.component());
            let known = catalogue.and_then(|_| family.mflux_names(component));
            known.ok_or_else(|| LoadError::NoNames {
                component: component.to_owned(),
                family: family.id(),
                layout: layout.name(),
            })?
        }
    };
    Ok(place::place(&assembled.table, catalogue, &naming, layout)?)
}

/// Plans what is computed: the conversion, and what adapters add.
pub(super) fn plan(
    prepared: &Prepared,
    opened: Opened,
    mut assembled: Assembled,
    placed: Vec<Placed>,
    alignment: Alignment,
    may: &MayBlock<'_>,
) -> Result<Plan, LoadError> {
    let Opened { checkpoints, sources, took, since } = opened;
    let mut deltas: BTreeMap<String, Vec<Delta>> = BTreeMap::new();
    let mut adapted = Vec::new();
    for adapter in &checkpoints.adapters {
        let planned = adapters::plan(adapter, &sources, prepared, &assembled, may)?;
        merge(&mut deltas, planned.deltas, &adapter.it.files.model.to_string())?;
        adapted.push(Adapted { scale: adapter.scale.get(), report: planned.report });
    }
    let (family, component) = (prepared.recipe.family, prepared.component());
    let quantises = |layer: &str| family.quantises(component, layer);
    let rule = if family.id() == family::GENERIC { Rule::Guess } else { Rule::Family };
    let opaque = &assembled.layers.opaque;
    let files = held(&checkpoints, &placed, &sources);
    let granted = prepared.request.layout.granted(assembled.description.catalogue.as_ref());
    let layers = if granted.is_for_modules() { ExactLayers::Packed } else { ExactLayers::Plain };
    // In layout SOURCE tensors are ranges of the published files.
    let alignment = if prepared.request.layout.is_for_modules() { alignment } else { Alignment::AsStored };
    let metadata = metadata(prepared);
    let coded = if granted.is_for_modules() { CodedLayers::Plain } else { CodedLayers::AsStored };
    let setting = Setting { quantises: &quantises, rule, opaque, coded, alignment, deltas, metadata, files, layers };
    let Converted { tensors, derivation, unmet, remarks } = derive::plan(placed, &prepared.conversion, setting)
        .map_err(|source| LoadError::Derive { component: component.to_owned(), source })?;
    assembled.report.remarks.extend(remarks);
    assembled.report.remarks.extend(unmet.as_ref().map(ToString::to_string));
    assembled.report.remarks.extend(said(prepared.request.layout, granted, &tensors));
    let image = derivation.map(|derivation| Arc::new(wanted(prepared, &sources, derivation)));
    let timings = Timings { resolve: prepared.took, open: took, audit: since.elapsed(), ..Timings::default() };
    Ok(Plan { sources, assembled, tensors, adapters: adapted, layout: granted, image, unmet, timings })
}

/// Refuses a plan in which some tensors do not have the dtype that the request names, before anything is computed.
pub(super) fn met(plan: &Plan, request: &Request) -> Result<(), LoadError> {
    match &plan.unmet {
        Some(unmet) if request.names_dtype() => {
            Err(LoadError::Derive { component: request.component.clone(), source: unmet.clone() })
        }
        _ => Ok(()),
    }
}

/// Whether the files of the tensors hold exactly them. Files that hold none of them are not lent, and do not count.
fn held(checkpoints: &Ingredients<Checkpoint>, placed: &[Placed], sources: &Sources<SourceFile>) -> Held {
    let is_gguf = |tensor: &Placed| Format::of(&sources[tensor.at.source].file.name) == Format::Gguf;
    if placed.iter().any(is_gguf) {
        return Held::Otherwise;
    }
    let is_whole = |tensor: &Placed| tensor.source_name.is_none() && tensor.origin.is_none();
    let mut lent: BTreeMap<SourceId, usize> = BTreeMap::new();
    placed.iter().for_each(|tensor| *lent.entry(tensor.at.source).or_default() += 1);
    let mut found: BTreeMap<SourceId, usize> = BTreeMap::new();
    for checkpoint in [Some(&checkpoints.own), checkpoints.overlay.as_ref()].into_iter().flatten() {
        checkpoint.tensors().table.tensors().iter().for_each(|tensor| *found.entry(tensor.source).or_default() += 1);
    }
    let are_exactly = lent.iter().all(|(source, count)| found.get(source) == Some(count));
    if are_exactly && placed.iter().all(is_whole) { Held::Exactly } else { Held::Otherwise }
}

/// Remarks about tensors that do not come as a caller of layout MLX expects.
fn said(asked: Layout, granted: Layout, tensors: &[Placed<At>]) -> Vec<String> {
    let mut said = Vec::new();
    if asked != granted {
        said.push("no catalogue says which tensors are kernels, so they come in layout SOURCE".to_owned());
    }
    let DtypeTotal { tensors: count, bytes } = place::misaligned(tensors);
    if asked.is_for_modules() && count > 0 {
        said.push(format!(
            "{count} of {} tensors begin at no multiple of their element's size, so a client that makes arrays of them \
             copies {bytes} bytes; a file whose header is padded needs no copy, nor does a daemon with `align_images`",
            tensors.len()
        ));
    }
    said
}

fn wanted(prepared: &Prepared, sources: &Sources<SourceFile>, derivation: Derivation) -> Wanted {
    let file = |source: &SourceFile| {
        let file = &source.open.file;
        OrderedFile { path: file.path().to_owned(), identity: *file.identity() }
    };
    let held: Vec<_> = sources.iter().map(|source| Arc::clone(&source.open)).collect();
    Wanted {
        id: prepared.id,
        derivation,
        engine: prepared.engine.clone(),
        provenance: prepared.provenance(),
        files: sources.iter().map(file).collect(),
        changed: Box::new(move || {
            held.iter().find(|open| !open.file.is_unchanged()).map(|open| open.file.path().to_owned())
        }),
    }
}

/// The metadata of an image. None of it depends on the name by which the model was asked for.
fn metadata(prepared: &Prepared) -> BTreeMap<String, String> {
    let engine = prepared.engine.as_ref().and_then(FoundEngine::engine);
    [
        ("format", "mlx".to_owned()),
        ("weightsd.id", prepared.id.to_string()),
        ("weightsd.component", prepared.component().to_owned()),
        ("weightsd.conversion", prepared.conversion_in_words()),
        ("weightsd.mlx", MLX_VERSION.to_owned()),
        ("weightsd.engine", engine.map_or_else(String::new, ToString::to_string)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
