//! The family of everything else: safetensors files under their own names, one component for each folder that holds
//! some, called after the folder; files in the root are the component `model`.

use std::collections::{BTreeMap, BTreeSet};

use super::{ComponentSite, ConfigError, Description, Family, ModelFacts, read_config};
use crate::naming::Naming;
use crate::rewrite::Rules;

/// See the module.
#[derive(Debug)]
pub(super) struct Generic;

impl Family for Generic {
    fn id(&self) -> &'static str {
        super::GENERIC
    }

    fn detects(&self, _: &ModelFacts) -> bool {
        true
    }

    fn components(&self, facts: &ModelFacts) -> Vec<ComponentSite> {
        let folders: BTreeSet<&str> = facts
            .files
            .iter()
            .filter(|path| path.ends_with(".safetensors") || path.ends_with(crate::select::INDEX_SUFFIX))
            .map(|path| path.rsplit_once('/').map_or("", |(folder, _)| folder))
            .collect();
        folders
            .into_iter()
            .map(|folder| {
                let config = if folder.is_empty() { "config.json".to_owned() } else { format!("{folder}/config.json") };
                ComponentSite {
                    name: if folder.is_empty() { "model" } else { folder }.to_owned(),
                    folder: folder.to_owned(),
                    stem: stem(facts, folder).to_owned(),
                    config: facts.documents.contains_key(&config).then_some(config),
                }
            })
            .collect()
    }

    fn describe(&self, site: &ComponentSite, facts: &ModelFacts) -> Result<Description, ConfigError> {
        let config = site.config.as_deref().map_or(Ok(serde_json::Value::Null), |path| read_config(facts, path))?;
        Ok(Description { config, catalogue: None, naming: Naming::NONE, rules: Rules::NONE, borrowed: Vec::new() })
    }

    fn configs(&self, facts: &ModelFacts) -> BTreeMap<String, serde_json::Value> {
        let sites = self.components(facts);
        sites.iter().filter_map(|site| Some((site.name.clone(), self.describe(site, facts).ok()?.config))).collect()
    }
}

/// The name that the field's two large libraries give to weight files.
fn stem(facts: &ModelFacts, folder: &str) -> &'static str {
    let diffusers = "diffusion_pytorch_model";
    let start = if folder.is_empty() { diffusers.to_owned() } else { format!("{folder}/{diffusers}") };
    if facts.files.iter().any(|path| path.starts_with(&start)) { diffusers } else { "model" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_with_weights_is_a_component() {
        let files = ["model.safetensors", "unet/diffusion_pytorch_model.safetensors", "readme.md", "docs/x.txt"];
        let facts = ModelFacts { files: files.map(str::to_owned).to_vec(), ..ModelFacts::default() };
        let sites = Generic.components(&facts);
        let shown: Vec<_> = sites.iter().map(|site| (site.name.as_str(), site.stem.as_str())).collect();
        assert_eq!(shown, [("model", "model"), ("unet", "diffusion_pytorch_model")]);
    }
}
