//! Adapters among the ingredients: which files they have, and what they add to the layers of a component.

use std::path::Path;

use weightsd_core::{
    adapter::{self, ADAPTER_CONFIG, AdapterConfig, AdapterInput, AdapterPlan},
    assemble::Assembled,
    ingredients::Adapter,
    layer_name::weight_of,
};

use super::{LoadError, Prepared};
use crate::{
    checkpoint::Checkpoint,
    snapshot::{ComponentFiles, Document, Snapshot},
};

/// The file of an adapter, with the config beside it.
pub(super) fn files(snapshot: &Snapshot) -> Result<ComponentFiles, LoadError> {
    let file = snapshot.only_file()?;
    let (path, json) = snapshot.beside(&file, ADAPTER_CONFIG)?;
    let mut files = snapshot.file(file);
    // A config that comes or goes changes the folder.
    files.dependencies.extend(path.parent().map(Path::to_owned));
    if let Some(bytes) = json {
        files.dependencies.push(path.clone());
        let config = Document { path, bytes };
        config_of(&config)?;
        files.config = Some(config);
    }
    Ok(files)
}

fn config_of(config: &Document) -> Result<AdapterConfig, LoadError> {
    Ok(AdapterConfig::parse(&config.path.display().to_string(), &config.bytes)?)
}

/// What an adapter adds to the layers of a component.
pub(super) fn plan(
    adapter: &Adapter<Checkpoint>,
    prepared: &Prepared,
    assembled: &Assembled,
) -> Result<AdapterPlan, LoadError> {
    let (family, component, files) = (prepared.recipe.family, prepared.component(), &adapter.it.files);
    let name = files.model.to_string();
    let targets = family.adapter_targets(component).ok_or_else(|| LoadError::NoAdapterTargets {
        component: component.to_owned(),
        family: family.id(),
        adapter: name.clone(),
    })?;
    let blocks = |list: &str| assembled.description.catalogue.as_ref().map_or(0, |catalogue| catalogue.blocks(list));
    let shape = |layer: &str| {
        let weight = || assembled.table.get(&weight_of(layer)).map(|weight| weight.info.shape.clone());
        assembled.layers.logical(layer).map(<[u64]>::to_vec).or_else(weight)
    };
    let config = files.config.as_ref().map(config_of).transpose()?;
    let scale = adapter.scale.get();
    let input = AdapterInput { name: &name, tensors: &adapter.it.table, config: config.as_ref(), scale };
    Ok(adapter::plan(&input, component, targets, blocks, shape)?)
}
