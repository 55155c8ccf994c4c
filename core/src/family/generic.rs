//! The family of everything else: safetensors files under their own names, one component for each folder that holds
//! some, called after the folder; files in the root are the component `model`. GGUF files count where
//! [`gguf_files::folder_of`] says.

use std::collections::{BTreeMap, BTreeSet};

use super::{ComponentSite, ConfigError, Description, Family, Membership, ModelFacts, read_json};
use crate::{
    gguf_files,
    weight_name::{self, is_weights},
};

/// The family of models that no other family knows.
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
        let folders: BTreeSet<&str> =
            facts.files.iter().filter(|path| is_weights(path)).map(|path| gguf_files::folder_of(path)).collect();
        folders
            .into_iter()
            .map(|folder| {
                let config = weight_name::in_folder(folder, "config.json");
                ComponentSite {
                    name: if folder.is_empty() { "model" } else { folder }.to_owned(),
                    folder: folder.to_owned(),
                    stem: stem(facts, folder).to_owned(),
                    config: facts.documents.contains_key(&config).then_some(config),
                    membership: Membership::Member,
                }
            })
            .collect()
    }

    fn describe(&self, site: &ComponentSite, facts: &ModelFacts) -> Result<Description, ConfigError> {
        let config = site.config.as_deref().map(|path| read_json(facts, path)).transpose()?;
        Ok(Description::uncatalogued(config.map_or(serde_json::Value::Null, serde_json::Value::Object), None))
    }

    /// As mlx-lm does: linear layers and embeddings. Nothing here tells them from other matrices but their names.
    fn quantises(&self, _component: &str, layer: &str) -> bool {
        !layer.contains("norm")
    }

    fn configs(&self, facts: &ModelFacts) -> BTreeMap<String, serde_json::Value> {
        let sites = self.components(facts);
        sites.iter().filter_map(|site| Some((site.name.clone(), self.describe(site, facts).ok()?.config))).collect()
    }
}

/// The name that the field's two large libraries give to weight files.
fn stem(facts: &ModelFacts, folder: &str) -> &'static str {
    let diffusers = "diffusion_pytorch_model";
    let start = weight_name::in_folder(folder, diffusers);
    if facts.files.iter().any(|path| path.starts_with(&start)) { diffusers } else { "model" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_hides_no_folder_that_it_has_no_name_for() {
        let pipeline =
            ["vae/diffusion_pytorch_model.safetensors", "controlnet/diffusion_pytorch_model.fp16.safetensors"];
        let index = br#"{"_class_name":"ZImagePipeline"}"#.to_vec();
        let facts = ModelFacts {
            files: pipeline.map(str::to_owned).to_vec(),
            documents: [("model_index.json".to_owned(), index)].into(),
        };
        let family = crate::family::detect(&facts);
        let sites = crate::family::components(family, &facts);
        let names: Vec<_> = sites.iter().map(|site| (site.name.as_str(), site.membership)).collect();
        let [known, stranger] = [Membership::Member, Membership::Stranger];
        assert_eq!(names, [("transformer", known), ("text_encoder", known), ("vae", known), ("controlnet", stranger)]);
        let of = |at: usize| crate::family::of_site(family, &sites[at]).id();
        assert_eq!((of(2), of(3)), ("z-image", "generic"));

        let embedder = ["model.safetensors", "2_Dense/model.safetensors", "model/model.safetensors"];
        let config = br#"{"model_type":"qwen3"}"#.to_vec();
        let facts = ModelFacts {
            files: embedder.map(str::to_owned).to_vec(),
            documents: [("config.json".to_owned(), config)].into(),
        };
        let sites = crate::family::components(crate::family::detect(&facts), &facts);
        assert_eq!(sites.iter().map(|site| site.name.as_str()).collect::<Vec<_>>(), ["model", "2_Dense", "./model"]);
    }

    #[test]
    fn each_folder_with_weights_is_a_component() {
        let files = ["model.safetensors", "unet/diffusion_pytorch_model.safetensors", "readme.md", "docs/x.txt"];
        let facts = ModelFacts { files: files.map(str::to_owned).to_vec(), ..ModelFacts::default() };
        let sites = Generic.components(&facts);
        let shown: Vec<_> = sites.iter().map(|site| (site.name.as_str(), site.stem.as_str())).collect();
        assert_eq!(shown, [("model", "model"), ("unet", "diffusion_pytorch_model")]);
    }
}
