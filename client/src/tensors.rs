//! All tensors of a component, with the mappings that they lie in.

use std::{fmt, sync::Arc};

use weightsd_segment::View;

use crate::{
    ProtocolError, QuantisedLayer, Tensor, Tree, UnflattenError, layers,
    table::{Entry, TensorProblem},
    tree,
};

/// The tensors of a component, and the mappings they lie in. Clones share both. The files stay mapped and readable
/// while one clone lives, even after the lease ends, the daemon stops or the paths change.
#[derive(Clone)]
pub struct Tensors(Arc<Inner>);

struct Inner {
    /// Each has its own count, because arrays over one may outlive the others.
    views: Vec<Arc<View>>,
    entries: Vec<Entry>,
}

impl Tensors {
    /// `entries` must be sorted by name.
    pub(crate) fn new(views: Vec<View>, entries: Vec<Entry>) -> Result<Tensors, ProtocolError> {
        let inner = Inner { views: views.into_iter().map(Arc::new).collect(), entries };
        // The table was checked against the lengths that the daemon stated; check the lengths of the mapped files too.
        if let Some(entry) = inner.entries.iter().find(|entry| inner.bytes(entry).is_none()) {
            let (offset, length) = (entry.offset, entry.length);
            let segment_length = inner.views.get(entry.segment).map_or(0, |view| view.len()) as u64;
            let problem = TensorProblem::OutOfRange { offset, length, segment_length };
            return Err(ProtocolError::Tensor { name: entry.name.clone(), problem });
        }
        Ok(Tensors(Arc::new(inner)))
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.entries.len()
    }

    /// Whether the component has no tensors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.entries.is_empty()
    }

    /// The tensor of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        Some(self.0.tensor(&self.0.entries[self.position(name)?]))
    }

    /// Position in [`iter`](Self::iter) of the tensor of that name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.0.entries.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()
    }

    /// All tensors, in the order of their names.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> + DoubleEndedIterator {
        self.0.entries.iter().map(|entry| self.0.tensor(entry))
    }

    /// The mappings, in the order of the component's segments, for callers that wrap whole files.
    #[must_use]
    pub fn views(&self) -> &[Arc<View>] {
        &self.0.views
    }

    /// The layers that are quantised in a format of MLX, in the order of their names. Their tensors are also among
    /// [`iter`](Self::iter)'s.
    ///
    /// # Errors
    /// When a layer lacks its codes or its scales, or has a part that this client does not know.
    pub fn quantised_layers(&self) -> Result<Vec<QuantisedLayer<'_>>, ProtocolError> {
        layers::layers(self.iter())
    }

    /// The tensors as the tree that the dots in their names describe, as `mlx.utils.tree_unflatten` builds it.
    ///
    /// # Errors
    /// When the name of a tensor is also the beginning of others, or has too many parts.
    pub fn unflatten(&self) -> Result<Tree<Tensor<'_>>, UnflattenError> {
        tree::unflatten(self.iter().map(|tensor| (tensor.name(), tensor)))
    }
}

impl Inner {
    fn bytes(&self, entry: &Entry) -> Option<&[u8]> {
        self.views.get(entry.segment)?.bytes(entry.offset, entry.length)
    }

    fn tensor<'a>(&'a self, entry: &'a Entry) -> Tensor<'a> {
        Tensor { entry, bytes: self.bytes(entry).expect("Tensors::new has looked at every entry") }
    }
}

impl fmt::Debug for Tensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensors").field("count", &self.len()).field("segments", &self.0.views.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use safetensors::Dtype;
    use weightsd_proto::v1::TensorOperation;
    use weightsd_segment::FileIdentity;

    use super::*;

    fn entry(name: &str, offset: u64, length: u64) -> Entry {
        let (name, shape) = (name.into(), vec![length]);
        let (operation, packing) = (TensorOperation::Unspecified, None);
        Entry {
            name,
            source_name: String::new(),
            dtype: Dtype::U8,
            shape,
            segment: 0,
            offset,
            length,
            operation,
            packing,
            coding: None,
        }
    }

    fn view(bytes: &[u8]) -> View {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        View::map(&file, &FileIdentity::of_file(&file).unwrap()).unwrap()
    }

    #[test]
    fn tensors_are_found_by_name_and_outlive_the_first_owner() {
        let entries = vec![entry("a", 1, 2), entry("a.b", 3, 0), entry("b", 0, 1)];
        let first = Tensors::new(vec![view(b"xyz")], entries).unwrap();
        let second = first.clone();
        drop(first);
        assert_eq!(second.get("a").unwrap().bytes(), b"yz");
        assert_eq!(second.get("a.b").unwrap().bytes(), b"");
        assert_eq!(second.get("b").unwrap().bytes(), b"x");
        assert!(second.get("c").is_none() && second.get("").is_none());
        assert_eq!(second.iter().map(|tensor| tensor.name()).collect::<Vec<_>>(), ["a", "a.b", "b"]);
        assert_eq!(second.iter().len(), 3);
    }

    #[test]
    fn a_table_that_leaves_its_file_is_refused() {
        for wrong in [entry("a", 2, 2), Entry { segment: 1, ..entry("a", 0, 1) }] {
            Tensors::new(vec![view(b"xyz")], vec![wrong]).unwrap_err();
        }
    }
}
