//! All tensors of a component, with the mappings that they lie in.

use std::{fmt, sync::Arc};

use weightsd_segment::View;

use crate::{ProtocolError, QuantisedLayer, Tensor, Tree, UnflattenError, layers, table::Table, tree};

/// The tensors of a component, and the mappings they lie in. Clones share both. The files stay mapped and readable
/// while one clone lives, even after the lease ends, the daemon stops or the paths change.
#[derive(Clone)]
pub struct Tensors(Arc<Inner>);

struct Inner {
    /// Each has its own count, because arrays over one may outlive the others.
    views: Vec<Arc<View>>,
    /// Checked against the lengths of the views.
    table: Table,
}

impl Tensors {
    /// `table` is one of segments that have the lengths of these views.
    pub(crate) fn new(views: Vec<View>, table: Table) -> Tensors {
        Tensors(Arc::new(Inner { views: views.into_iter().map(Arc::new).collect(), table }))
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.table.len()
    }

    /// Whether the component has no tensors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensor of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        Some(self.0.tensor(self.position(name)?))
    }

    /// Position in [`iter`](Self::iter) of the tensor of that name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.0.table.position(name)
    }

    /// All tensors, in the order of their names.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> + DoubleEndedIterator {
        (0..self.len()).map(|number| self.0.tensor(number))
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
    fn tensor(&self, number: usize) -> Tensor<'_> {
        let row = self.table.row(number);
        let bytes = self.views.get(row.segment as usize).and_then(|view| view.bytes(row.offset, row.length));
        Tensor {
            bytes: bytes.expect("the table was checked against the views"),
            packing: self.table.packing(&row),
            coding: self.table.coding(&row),
            row,
        }
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

    use weightsd_proto::v1;
    use weightsd_segment::FileIdentity;

    use super::*;

    fn tensor(name: &str, offset: u64, length: u64) -> v1::Tensor {
        let (name, dtype, shape) = (name.into(), "U8".into(), vec![length]);
        v1::Tensor { name, dtype, shape, offset, length, ..v1::Tensor::default() }
    }

    fn view(bytes: &[u8]) -> View {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        View::map(&file, &FileIdentity::of_file(&file).unwrap()).unwrap()
    }

    #[test]
    fn tensors_are_found_by_name_and_outlive_the_first_owner() {
        let tensors = vec![tensor("a", 1, 2), tensor("a.b", 3, 0), tensor("b", 0, 1)];
        let first = Tensors::new(vec![view(b"xyz")], Table::of_pages(tensors, &[3]).unwrap());
        let second = first.clone();
        drop(first);
        assert_eq!(second.get("a").unwrap().bytes(), b"yz");
        assert_eq!(second.get("a.b").unwrap().bytes(), b"");
        assert_eq!(second.get("b").unwrap().bytes(), b"x");
        assert!(second.get("c").is_none() && second.get("").is_none());
        assert_eq!(second.iter().map(|tensor| tensor.name()).collect::<Vec<_>>(), ["a", "a.b", "b"]);
        assert_eq!(second.iter().len(), 3);
    }
}
