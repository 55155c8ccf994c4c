//! What goes where: from the tensors of a checkpoint to the tensors that are lent.
//!
//! Renaming and reshaping are arithmetic on names and offsets. Reordering bytes is a computation: a placed tensor says
//! that it needs it, and [`crate::derive`] plans it.

use std::{collections::HashMap, ops::Range};

use crate::{
    axes::Axes,
    catalogue::{Catalogue, Expected, Role},
    explain::{Explain, Explanation, Reason},
    ggml::Encoding,
    header::Dtype,
    naming::Naming,
    origin::{Operation, Origin},
    quantisation::{Coded, Packed},
    source::SourceId,
    table::{DtypeTotal, Sourced, Table},
};

/// Names and memory order of lent tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Module names of the family's MLX modules, convolution kernels in MLX's order.
    Mlx,
    /// Published names and shapes, in the published order, whatever order the files have.
    Source,
    /// Names of mflux's modules, convolution kernels in MLX's order.
    Mflux,
}

impl Layout {
    /// `mlx`, `source` or `mflux`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mlx => "mlx",
            Self::Source => "source",
            Self::Mflux => "mflux",
        }
    }

    /// Whether the tensors are parameters of MLX's modules, whatever those are called.
    #[must_use]
    pub fn is_for_modules(self) -> bool {
        matches!(self, Self::Mlx | Self::Mflux)
    }

    /// The layout in which tensors come that were asked for in this one. Without a catalogue nothing says which of them
    /// are kernels, nor what modules call them, so they stay as in the checkpoint.
    #[must_use]
    pub fn granted(self, catalogue: Option<&Catalogue>) -> Self {
        if catalogue.is_some() { self } else { Self::Source }
    }
}

/// What a layout asks of the bytes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Making {
    /// Nothing: they are wanted as the checkpoint has them.
    AsStored,
    /// A kernel lies in the checkpoint in another order of its dimensions than is wanted: entry `d` is the dimension of
    /// the stored bytes that becomes dimension `d`.
    ToReorder(Axes),
}

/// Bytes of a file that the component is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The file.
    pub source: SourceId,
    /// The bytes, counted from the start of the file.
    pub range: Range<u64>,
}

/// Where the bytes of a lent tensor lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// In a file that the component is read from.
    Source(Stored),
    /// In the file of what is computed.
    Derived(Range<u64>),
}

impl At {
    /// The bytes, counted from the start of the file.
    #[must_use]
    pub fn range(&self) -> &Range<u64> {
        match self {
            Self::Source(Stored { range, .. }) | Self::Derived(range) => range,
        }
    }

    /// How many bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range().end - self.range().start
    }

    /// Whether they are computed.
    #[must_use]
    pub fn is_derived(&self) -> bool {
        matches!(self, Self::Derived(_))
    }
}

/// A tensor under the name by which it is lent, and where its bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<A = Stored> {
    /// Name in the layout.
    pub name: String,
    /// Name in the catalogue.
    pub canonical: Box<str>,
    /// Name in the checkpoint, if it differs from `name`.
    pub source_name: Option<String>,
    /// What the layout asks of its bytes.
    pub making: Making,
    /// Type of an element.
    pub dtype: Dtype,
    /// Dimensions in the layout.
    pub shape: Vec<u64>,
    /// Where its bytes lie.
    pub at: A,
    /// How it was made, unless it is a whole tensor as the checkpoint has it.
    pub origin: Option<Box<Origin>>,
    /// The layer that MLX quantised and that it belongs to.
    pub packed: Option<Box<Packed>>,
    /// The layer in another format that it belongs to, or was computed from.
    pub coded: Option<Box<Coded>>,
    /// How its bytes become elements; `None` where they are the elements, as those of all lent tensors are.
    pub encoding: Option<Encoding>,
}

impl<A> Placed<A> {
    /// The order of its dimensions in its file, if it differs from the checkpoint's.
    pub(crate) fn stored_order(&self) -> Option<Axes> {
        ordered(self.origin.as_deref())
    }

    /// The same tensor, whose bytes lie at `at`.
    #[must_use]
    pub fn moved<B>(self, at: impl FnOnce(A) -> B) -> Placed<B> {
        let Self { name, canonical, source_name, making, dtype, shape, at: from, origin, packed, coded, encoding } =
            self;
        Placed { name, canonical, source_name, making, dtype, shape, at: at(from), origin, packed, coded, encoding }
    }
}

/// Why a component cannot be lent in a layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two tensors that get the same name.
    #[error("tensors `{first}` and `{second}` both become `{name}`")]
    NameCollision {
        /// The name.
        name: String,
        /// One tensor.
        first: String,
        /// The other.
        second: String,
    },
}

impl Explain for PlanError {
    fn explain(&self) -> Explanation {
        let Self::NameCollision { name, .. } = self;
        let hint =
            "the checkpoint mixes two naming schemes: lend it under its own names (`--layout source`, LAYOUT_SOURCE)";
        Explanation::new(Reason::InvalidCheckpoint, name, hint)
    }
}

/// Places the tensors of `table` in `layout`. With a catalogue, layouts of modules place what the catalogue expects and
/// nothing else, since modules refuse parameters they do not have; layout SOURCE places all. Comes sorted by name.
///
/// # Errors
/// When two tensors get one name.
pub fn place(
    table: &Table,
    catalogue: Option<&Catalogue>,
    naming: &Naming,
    layout: Layout,
) -> Result<Vec<Placed>, PlanError> {
    let mut placed = Vec::with_capacity(table.tensors().len());
    match (layout, catalogue) {
        (Layout::Source, _) => {
            placed.extend(table.tensors().iter().map(|found| in_order(in_place(found), found, None)))
        }
        (Layout::Mlx | Layout::Mflux, None) => {
            placed.extend(table.tensors().iter().map(|found| in_order(renamed(found, naming), found, None)));
        }
        (Layout::Mlx | Layout::Mflux, Some(catalogue)) => {
            for expected in catalogue.tensors() {
                let Some(found) = table.get(&expected.name) else { continue };
                placed.push(in_order(renamed(found, naming), found, module_order(expected, found)));
            }
        }
    }
    let mut seen: HashMap<&str, &Placed> = HashMap::with_capacity(placed.len());
    for tensor in &placed {
        if let Some(other) = seen.insert(&tensor.name, tensor) {
            let source = |placed: &Placed| placed.source_name.as_ref().unwrap_or(&placed.name).clone();
            return Err(PlanError::NameCollision {
                name: tensor.name.clone(),
                first: source(other),
                second: source(tensor),
            });
        }
    }
    placed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(placed)
}

/// Tensors that begin where no array of their dtype can lie, and their bytes. Writers that do not pad their headers make
/// them; a client that makes arrays of them copies those bytes.
#[must_use]
pub fn misaligned(tensors: &[Placed<At>]) -> DtypeTotal {
    let mut total = DtypeTotal::default();
    for tensor in tensors.iter().filter(|tensor| is_misaligned(tensor.dtype, tensor.at.range())) {
        total.add(1, tensor.at.bytes());
    }
    total
}

/// Whether no array of this dtype can lie where these bytes do.
pub(crate) fn is_misaligned(dtype: Dtype, range: &Range<u64>) -> bool {
    let element = (dtype.bitsize() as u64 / 8).max(1);
    !range.is_empty() && !range.start.is_multiple_of(element)
}

/// The order of a tensor in its module, if it differs from the checkpoint's.
fn module_order(expected: &Expected, found: &Sourced) -> Option<Axes> {
    match expected.role {
        Role::Plain => None,
        // A kernel of another shape may lie in any order, unless its file says in which.
        Role::Kernel(axes) => (found.info.shape == expected.shape || stored_order(found).is_some()).then_some(axes),
    }
}

/// The order of a tensor in its file, if it differs from the checkpoint's.
fn stored_order(tensor: &Sourced) -> Option<Axes> {
    ordered(tensor.origin.as_deref())
}

fn ordered(origin: Option<&Origin>) -> Option<Axes> {
    match origin?.operation {
        Operation::Ordered(axes) => Some(axes),
        _ => None,
    }
}

/// `placed`, which is made of `found`, with its dimensions in the order `wanted`, or in the checkpoint's.
fn in_order(mut placed: Placed, found: &Sourced, wanted: Option<Axes>) -> Placed {
    let stored = stored_order(found);
    if stored.is_none() && wanted.is_none() {
        return placed;
    }
    let shape = &found.info.shape;
    let change = || {
        let identity = Axes::identity(shape.len())?;
        let (stored, wanted) = (stored.unwrap_or(identity), wanted.unwrap_or(identity));
        Some((wanted.after(stored)?, stored.ordered(shape)?, wanted.ordered(shape)?))
    };
    // Orders are of the tensor's own rank: where one is not, the tensor stays as it lies, and the audit names its shape.
    if let Some((change, stored, wanted)) = change() {
        if change.moves_bytes(&stored) {
            placed.making = Making::ToReorder(change);
        }
        placed.shape = wanted;
    }
    placed
}

fn in_place(tensor: &Sourced) -> Placed {
    let source_name = tensor.source_name();
    Placed {
        name: tensor.info.name.to_string(),
        canonical: tensor.info.name.clone(),
        source_name: (source_name != &*tensor.info.name).then(|| source_name.to_owned()),
        making: Making::AsStored,
        dtype: tensor.info.dtype,
        shape: tensor.info.shape.clone(),
        at: Stored { source: tensor.source, range: tensor.info.range.clone() },
        origin: tensor.origin.clone(),
        packed: tensor.packed.clone(),
        coded: tensor.coded.clone(),
        encoding: tensor.info.encoding,
    }
}

fn renamed(tensor: &Sourced, naming: &Naming) -> Placed {
    let mut placed = in_place(tensor);
    if let Some(name) = naming.apply(&placed.name) {
        let canonical = std::mem::replace(&mut placed.name, name);
        let source = placed.source_name.take().unwrap_or(canonical);
        placed.source_name = (source != placed.name).then_some(source);
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalogue::Expected, table::tests::header};

    #[test]
    fn kernels_that_only_change_their_shape_are_lent_and_the_others_are_to_be_reordered() {
        let expected = |name: &str, shape: &[u64]| Expected {
            name: name.into(),
            shape: shape.into(),
            role: Role::Kernel(Axes::CONV2D),
            stored: crate::catalogue::Stored::Float,
        };
        let shapes: [(&str, &[u64]); 3] = [("a", &[4, 3, 1, 1]), ("b", &[4, 1, 3, 3]), ("c", &[4, 2, 3, 3])];
        let table = Table::of_file(header(&shapes));
        let all = Catalogue::new(shapes.iter().map(|(name, shape)| expected(name, shape)).collect());
        let placed = place(&table, Some(&all), &Naming::NONE, Layout::Mlx).unwrap();
        let found: Vec<_> = placed.iter().map(|placed| (placed.shape.as_slice(), placed.making)).collect();
        let expected: [(&[u64], Making); 3] = [
            (&[4, 1, 1, 3], Making::AsStored),
            (&[4, 3, 3, 1], Making::AsStored),
            (&[4, 3, 3, 2], Making::ToReorder(Axes::CONV2D)),
        ];
        assert_eq!(found, expected);
        assert_eq!(place(&table, Some(&all), &Naming::NONE, Layout::Source).unwrap().len(), 3);
    }
}
