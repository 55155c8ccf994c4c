//! A checkpoint that is not yet written.

use std::{collections::BTreeMap, path::Path};

use weightsd_core::family::{ComponentSite, Family, ModelFacts, z_image::ZImage};

use crate::{
    CacheForm, Component, Contents, Dims, Dtype, FixtureError, HubFixture, PerComponent, Written, configs, directory,
    fill::Filler,
    hub_cache,
    plan::{self, FilePlan},
};

/// Components and small files of a model, in memory as names and shapes only.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub(crate) documents: BTreeMap<String, Vec<u8>>,
    pub(crate) components: Vec<Component>,
    pub(crate) contents: Contents,
}

impl Checkpoint {
    /// An undamaged Z-Image.
    ///
    /// # Errors
    /// [`FixtureError::Dims`] when the family refuses the dimensions.
    pub fn new(dims: &Dims, contents: Contents) -> Result<Self, FixtureError> {
        let form = |site: &ComponentSite| (*dims.dtypes.of(&site.name), *dims.shard_bytes_max.of(&site.name));
        Self::of_documents(&ZImage, configs::documents(dims), form, contents)
    }

    /// The small model that a family gives; `None` when it gives none. Its components are in BF16, a file each.
    ///
    /// # Errors
    /// [`FixtureError::Dims`] when the family refuses its own configs.
    pub fn of_family(family: &dyn Family, contents: Contents) -> Result<Option<Self>, FixtureError> {
        let Some(sample) = family.sample() else { return Ok(None) };
        let documents = sample.iter().map(|(path, json)| ((*path).to_owned(), json.as_bytes().to_vec())).collect();
        Self::of_documents(family, documents, |_| (Dtype::BF16, u64::MAX), contents).map(Some)
    }

    /// A model whose components are what their configs say. `form` gives a component's dtype, and the most bytes of tensors
    /// in a file of it.
    fn of_documents(
        family: &dyn Family,
        documents: BTreeMap<String, Vec<u8>>,
        form: impl Fn(&ComponentSite) -> (Dtype, u64),
        contents: Contents,
    ) -> Result<Self, FixtureError> {
        let facts = ModelFacts { files: Vec::new(), documents };
        let mut components = Vec::new();
        for site in family.components(&facts) {
            let catalogue = family.describe(&site, &facts)?.catalogue.unwrap_or_default();
            let (dtype, shard_bytes_max) = form(&site);
            components.push(Component::new(site, &catalogue, dtype, shard_bytes_max));
        }
        Ok(Self { documents: facts.documents, components, contents })
    }

    /// The components, in loading order.
    #[must_use]
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// A component, such as `transformer`.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    #[track_caller]
    pub fn component(&self, name: &str) -> &Component {
        &self.components[self.position(name)]
    }

    /// A component, to be changed.
    ///
    /// # Panics
    /// When there is none of that name.
    #[track_caller]
    pub fn component_mut(&mut self, name: &str) -> &mut Component {
        let at = self.position(name);
        &mut self.components[at]
    }

    /// A small file by its path below the model's directory. Indexes are made while writing and are not among them.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.documents.get(path).map(Vec::as_slice)
    }

    /// Adds a small file or replaces one, an index included. Components do not follow a changed config.
    pub fn put_file(&mut self, path: &str, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.documents.insert(path.to_owned(), bytes.into());
        self
    }

    /// Leaves a small file out.
    ///
    /// # Panics
    /// When there is none of that path.
    #[track_caller]
    pub fn remove_file(&mut self, path: &str) -> &mut Self {
        assert!(self.documents.remove(path).is_some(), "the checkpoint has no file `{path}`");
        self
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.components.iter().map(Component::payload_bytes).sum()
    }

    /// The bytes of a tensor as it is written, made anew.
    ///
    /// # Panics
    /// When there is no such component or tensor.
    #[must_use]
    #[track_caller]
    pub fn expected_bytes(&self, component: &str, name: &str) -> Vec<u8> {
        let tensor = self.component(component).tensor(name);
        let mut bytes = vec![0; usize::try_from(tensor.bytes()).expect("a tensor fits into memory")];
        if let Contents::Random { seed } = self.contents {
            Filler::new(seed, component, name, tensor.dtype).fill(&mut bytes);
        }
        bytes
    }

    /// Writes a directory as diffusers lays it out. Files of the same names are replaced, others stay.
    ///
    /// # Errors
    /// When the system refuses to write.
    pub fn write_directory(&self, root: impl AsRef<Path>) -> Result<Written, FixtureError> {
        directory::write(&self.file_plans(), self.contents, root.as_ref())
    }

    /// Writes a snapshot into a Hugging Face cache, as [`CacheForm::Links`].
    ///
    /// # Errors
    /// As [`Self::write_hub_cache_as`].
    pub fn write_hub_cache(
        &self,
        cache_root: impl AsRef<Path>,
        repo: &str,
        revision: &str,
    ) -> Result<HubFixture, FixtureError> {
        self.write_hub_cache_as(CacheForm::Links, cache_root, repo, revision)
    }

    /// Writes a snapshot into a Hugging Face cache and points `revision` at it. What the cache has already stays: the
    /// same repository with other contents gets one more commit, another repository shares blob names.
    ///
    /// The names of blobs are true hashes, but for the weights of [`Contents::Sparse`]: these are called after the
    /// sha-256 of header and file length (`u64`, little-endian), so that no zeros are hashed. A verification finds that
    /// out.
    ///
    /// # Errors
    /// When `repo` is not a name that the hub allows, or the system refuses to write.
    pub fn write_hub_cache_as(
        &self,
        form: CacheForm,
        cache_root: impl AsRef<Path>,
        repo: &str,
        revision: &str,
    ) -> Result<HubFixture, FixtureError> {
        hub_cache::write(self.file_plans(), self.contents, form, cache_root.as_ref(), repo, revision)
    }

    fn file_plans(&self) -> Vec<FilePlan> {
        plan::files(&self.documents, &self.components)
    }

    #[track_caller]
    fn position(&self, name: &str) -> usize {
        let at = self.components.iter().position(|component| component.name() == name);
        at.unwrap_or_else(|| panic!("the checkpoint has no component `{name}`"))
    }
}

impl<T> PerComponent<T> {
    fn of(&self, name: &str) -> &T {
        match name {
            "transformer" => &self.transformer,
            "text_encoder" => &self.text_encoder,
            _ => &self.vae,
        }
    }
}
