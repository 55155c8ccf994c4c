//! Adapters of a request: found, and planned for the component that they change.

use std::path::Path;

use weightsd_core::{
    adapter::{self, ADAPTER_CONFIG, AdapterConfig, AdapterInput, AdapterPlan},
    assemble::Assembled,
    family::Family,
};

use super::{Adapter, LoadError, Pinned};
use crate::{
    checkpoint::Checkpoint,
    snapshot::{ComponentFiles, Snapshot},
};

/// An adapter whose file is known.
#[derive(Debug)]
pub(super) struct PreparedAdapter {
    /// How errors and reports call it.
    pub(super) name: String,
    /// Its file.
    pub(super) files: ComponentFiles,
    config: Option<AdapterConfig>,
    /// How much of it is wanted.
    pub(super) scale: f64,
}

impl PreparedAdapter {
    /// The file of an adapter, and its config as it was read.
    pub(super) fn find(adapter: &Adapter, pinned: &Pinned) -> Result<(Self, Vec<u8>), LoadError> {
        let snapshot = Snapshot::list(pinned.address.on_disk(pinned.pin.as_ref())?, &adapter.selector.choice)?;
        let file = snapshot.only_file()?;
        let (path, json) = snapshot.beside(&file, ADAPTER_CONFIG)?;
        let config = json.as_ref().map(|json| AdapterConfig::parse(&path.display().to_string(), json)).transpose()?;
        let mut files = snapshot.file(file);
        // A config that comes or goes changes the folder.
        files.dependencies.extend(path.parent().map(Path::to_owned));
        files.dependencies.extend(json.is_some().then_some(path));
        files.dependencies.extend(snapshot.model.dependencies.iter().cloned());
        let name = snapshot.model.to_string();
        Ok((Self { name, files, config, scale: adapter.scale }, json.unwrap_or_default()))
    }

    /// What an adapter adds to the layers of a component.
    pub(super) fn plan(
        &self,
        opened: &Checkpoint,
        (family, component): (&dyn Family, &str),
        assembled: &Assembled,
    ) -> Result<AdapterPlan, LoadError> {
        let targets = family.adapter_targets(component).ok_or_else(|| LoadError::NoAdapterTargets {
            component: component.to_owned(),
            family: family.id(),
            adapter: self.name.clone(),
        })?;
        let blocks =
            |list: &str| assembled.description.catalogue.as_ref().map_or(0, |catalogue| catalogue.blocks(list));
        let shape = |layer: &str| {
            let weight = assembled.table.get(&format!("{layer}.weight"))?;
            Some(weight.packed.as_ref().map_or(&weight.info.shape, |packed| &packed.logical_shape).clone())
        };
        let input =
            AdapterInput { name: &self.name, tensors: &opened.table, config: self.config.as_ref(), scale: self.scale };
        Ok(adapter::plan(&input, component, targets, blocks, shape)?)
    }
}
