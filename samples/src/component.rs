//! A component's tensors, and how tests spoil them.

use std::collections::BTreeMap;

use weightsd_core::{catalogue::Catalogue, family::ComponentSite, header::byte_length};

use crate::Dtype;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Type of an element.
    pub dtype: Dtype,
    /// Dimensions, row-major.
    pub shape: Vec<u64>,
}

impl Tensor {
    /// Length in bytes.
    ///
    /// # Panics
    /// When shape and dtype make no whole number of bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        byte_length(self.dtype, &self.shape)
            .unwrap_or_else(|| panic!("{} of {} with shape {:?} has no byte length", self.name, self.dtype, self.shape))
    }
}

/// One component of a checkpoint. The methods that change it panic on names that are not there: a test that damages
/// what does not exist tests nothing.
#[derive(Debug, Clone)]
pub struct Component {
    pub(crate) site: ComponentSite,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) shard_bytes_max: u64,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Whether shards are called by numbers, and always have an index.
    pub(crate) numbered: bool,
}

impl Component {
    pub(crate) fn new(site: ComponentSite, catalogue: &Catalogue, dtype: Dtype, shard_bytes_max: u64) -> Self {
        let tensors = catalogue
            .tensors()
            .iter()
            .map(|expected| Tensor { name: expected.name.clone(), dtype, shape: expected.shape.clone() })
            .collect();
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        Self { site, tensors, shard_bytes_max, metadata, numbered: false }
    }

    /// Its name, which is its folder's too.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.site.name
    }

    /// Its tensors, in the order in which shards are filled.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of that name.
    #[must_use]
    #[track_caller]
    pub fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[self.position(name)]
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.tensors.iter().map(Tensor::bytes).sum()
    }

    /// Leaves a tensor out.
    #[track_caller]
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.tensors.remove(self.position(name));
        self
    }

    /// Keeps only the tensors for which `keep` is true.
    pub fn retain(&mut self, keep: impl FnMut(&Tensor) -> bool) -> &mut Self {
        self.tensors.retain(keep);
        self
    }

    /// Gives a tensor another name, and with it other bytes.
    #[track_caller]
    pub fn rename(&mut self, from: &str, to: &str) -> &mut Self {
        self.tensor_mut(from).name = to.to_owned();
        self
    }

    /// Gives a tensor another shape, of any size.
    #[track_caller]
    pub fn reshape(&mut self, name: &str, shape: &[u64]) -> &mut Self {
        self.tensor_mut(name).shape = shape.to_vec();
        self
    }

    /// Gives a tensor another dtype.
    #[track_caller]
    pub fn retype(&mut self, name: &str, dtype: Dtype) -> &mut Self {
        self.tensor_mut(name).dtype = dtype;
        self
    }

    /// Adds a tensor at the end.
    pub fn push(&mut self, name: &str, dtype: Dtype, shape: &[u64]) -> &mut Self {
        self.tensors.push(Tensor { name: name.to_owned(), dtype, shape: shape.to_vec() });
        self
    }

    /// Gives all tensors another dtype.
    pub fn set_dtype(&mut self, dtype: Dtype) -> &mut Self {
        for tensor in &mut self.tensors {
            tensor.dtype = dtype;
        }
        self
    }

    /// Sets the most bytes of tensors in a file; `u64::MAX` makes one file without an index.
    pub fn set_shard_bytes_max(&mut self, bytes: u64) -> &mut Self {
        self.shard_bytes_max = bytes;
        self
    }

    /// Writes an entry into the metadata of its files.
    pub fn put_metadata(&mut self, key: &str, value: &str) -> &mut Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    #[track_caller]
    fn tensor_mut(&mut self, name: &str) -> &mut Tensor {
        let at = self.position(name);
        &mut self.tensors[at]
    }

    #[track_caller]
    fn position(&self, name: &str) -> usize {
        let at = self.tensors.iter().position(|tensor| tensor.name == name);
        at.unwrap_or_else(|| panic!("component `{}` has no tensor `{name}`", self.site.name))
    }
}
