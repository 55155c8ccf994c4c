//! Adapters among the ingredients: which files they have, and what they do to the tensors of a component.

use std::{collections::BTreeMap, path::Path};

use weightsd_core::{
    adapter::{
        self, ADAPTER_CONFIG, AdapterConfig, AdapterInput, AdapterPlan, AdapterRefused, FileStrengths, Incomplete,
        Twin, Weights,
    },
    assemble::Assembled,
    catalogue::AuditPolicy,
    derive::Slice,
    ingredients::Adapter,
    layer_name::weight_of,
    quantisation::SlotRole,
    source::Sources,
};

use super::{LoadError, Prepared};
use crate::{
    checkpoint::{Checkpoint, CheckpointError, SourceFile},
    lanes::MayBlock,
    snapshot::{ComponentFiles, Document, Snapshot},
};

/// Bytes that are compared at once.
const COMPARED_BYTES: u64 = 1 << 20;

/// The file of an adapter, with its own config.
///
/// A config is the file's own when the file has the name that writers of configs give it, or when the folder has no
/// other weights. In a folder of many adapters a config says nothing of those with other names.
pub(super) fn files(snapshot: &Snapshot) -> Result<ComponentFiles, LoadError> {
    let file = snapshot.only_file()?;
    let (path, json) = snapshot.beside(&file, ADAPTER_CONFIG)?;
    let file_name = file.name.rsplit('/').next().unwrap_or(&file.name);
    let is_own = adapter::is_config_of(file_name) || snapshot.weights_beside(&file)?.len() <= 1;
    let mut files = snapshot.file(file);
    // A config that comes or goes changes the folder.
    files.dependencies.extend(path.parent().map(Path::to_owned));
    match json {
        Some(_) if !is_own => files.foreign_config = Some(path),
        Some(bytes) => {
            files.dependencies.push(path.clone());
            let config = Document { path, bytes };
            config_of(&config)?;
            files.config = Some(config);
        }
        None => {}
    }
    Ok(files)
}

fn config_of(config: &Document) -> Result<AdapterConfig, LoadError> {
    Ok(AdapterConfig::parse(&config.path.display().to_string(), &config.bytes)?)
}

/// Plans what an adapter does to the tensors of a component. Reads the values of its alphas, and compares the bytes of
/// changes that it states twice.
pub(super) fn plan(
    adapter: &Adapter<Checkpoint>,
    sources: &Sources<SourceFile>,
    prepared: &Prepared,
    assembled: &Assembled,
    may: &MayBlock<'_>,
) -> Result<AdapterPlan, LoadError> {
    let (family, component, files) = (prepared.recipe.family, prepared.component(), &adapter.it.files);
    let name = files.model.to_string();
    let targets = family.adapter_targets(component).ok_or_else(|| LoadError::NoAdapterTargets {
        component: component.to_owned(),
        family: family.id(),
        adapter: name.clone(),
    })?;
    let refused = |problem| AdapterRefused { adapter: name.clone(), problem: Box::new(problem) };
    let metadata = FileStrengths::parse(&adapter.it.metadata).map_err(|problem| refused(problem.into()))?;
    let config = files.config.as_ref().map(config_of).transpose()?;
    let input = AdapterInput {
        name: &name,
        tensors: &adapter.it.table,
        alphas: &alphas(&adapter.it, sources)?,
        config: config.as_ref(),
        metadata: &metadata,
        scale: adapter.scale.get(),
        incomplete: match prepared.request.policy {
            AuditPolicy::Strict => Incomplete::Refused,
            AuditPolicy::ReportOnly => Incomplete::Reported,
        },
    };
    let mut plan = adapter::plan(&input, component, targets, &weights(assembled))?;
    for twin in &plan.twins {
        if !is_one(twin, sources, may)? {
            return Err(refused(twin.differs()).into());
        }
    }
    if let Some(config) = &files.foreign_config {
        let config = config.display();
        plan.report
            .remarks
            .push(format!("`{config}` belongs to another file of its folder, so it is not read for this one"));
    }
    Ok(plan)
}

/// The tensors that adapters may change. A packed, coded or opaque layer counts as the one weight that it stands for.
fn weights(assembled: &Assembled) -> Weights {
    let layers = &assembled.layers;
    let tensors = assembled.table.tensors().iter().filter_map(|tensor| {
        let packed = tensor.packed.as_deref().map(|packed| (packed.role, &packed.logical_shape));
        let coded = tensor.coded.as_deref().map(|coded| (coded.role, &coded.logical_shape));
        let shape = match packed.or(coded) {
            None => &tensor.info.shape,
            Some((SlotRole::Weight, logical)) => logical,
            Some(_) => return None,
        };
        Some((tensor.info.name.to_string(), shape.clone()))
    });
    let opaque = layers.opaque.iter().filter_map(|(layer, opaque)| Some((weight_of(layer), opaque.logical.clone()?)));
    Weights::new(tensors.chain(opaque))
}

/// The values of the adapter's alphas.
fn alphas(opened: &Checkpoint, sources: &Sources<SourceFile>) -> Result<BTreeMap<String, f64>, LoadError> {
    let mut values = BTreeMap::new();
    for tensor in adapter::alphas(&opened.table) {
        let info = &tensor.info;
        let source = &sources[tensor.source];
        let bytes = read(source, info.range.start, info.range.end - info.range.start)?;
        values.extend(adapter::number(info.dtype, &bytes).map(|value| (info.name.to_string(), value)));
    }
    Ok(values)
}

/// Whether the two statements of a change have the same bytes.
fn is_one(twin: &Twin, sources: &Sources<SourceFile>, may: &MayBlock<'_>) -> Result<bool, LoadError> {
    for (first, second) in &twin.pairs {
        if first.bytes() != second.bytes() {
            return Ok(false);
        }
        let mut begin = 0;
        while begin < first.bytes() {
            let length = COMPARED_BYTES.min(first.bytes() - begin);
            let piece = |slice: &Slice| read(&sources[slice.source], slice.range.start + begin, length);
            if piece(first)? != piece(second)? {
                return Ok(false);
            }
            begin += length;
            may.alive();
        }
    }
    Ok(true)
}

fn read(source: &SourceFile, begin: u64, length: u64) -> Result<Vec<u8>, CheckpointError> {
    let file = &source.open.file;
    let error = |source| CheckpointError::Io { path: file.path().to_owned(), source };
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| error(std::io::ErrorKind::OutOfMemory.into()))?];
    file.read_exact_at(&mut bytes, begin).map_err(error)?;
    Ok(bytes)
}
