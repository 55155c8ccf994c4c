//! What goes where: from the tensors of a checkpoint to the tensors that are lent.
//!
//! Renaming and reshaping are arithmetic on names and offsets. Reordering bytes is a computation: a placed tensor says
//! that it needs it, and [`crate::derive`] plans it.

use std::{collections::HashMap, ops::Range};

use crate::{
    family::{Catalogue, Naming, Role},
    header::{Dtype, Header, TensorInfo},
    index::Index,
    quantisation::{Layers, Packed},
    rewrite::{Operation, Origin},
    shown::shown,
};

/// Names and memory order of lent tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Module names of the family's MLX modules, convolution kernels in OHWI order.
    Mlx,
    /// Names, shapes and order of the checkpoint.
    Source,
}

impl Layout {
    /// `mlx` or `source`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mlx => "mlx",
            Self::Source => "source",
        }
    }
}

/// Most tensors of a component, in all its shards: the largest mixtures of experts have some 200 000.
pub const TENSORS_MAX: usize = 1 << 19;

/// A tensor of a checkpoint and the shard that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced {
    /// Index of the shard.
    pub shard: u32,
    /// The tensor; its range counts from the start of the shard's file.
    pub info: TensorInfo,
    /// What it is in the shard, when rules made this tensor of it.
    pub origin: Option<Box<Origin>>,
    /// What it is a part of, when it belongs to a quantised layer.
    pub packed: Option<Box<Packed>>,
}

impl Sourced {
    /// Its name in the shard.
    #[must_use]
    pub fn source_name(&self) -> &str {
        self.origin.as_ref().map_or(&self.info.name, |origin| &origin.name)
    }
}

/// All tensors of a checkpoint, sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    tensors: Vec<Sourced>,
}

/// Two tensors of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twice {
    /// One of them.
    pub first: Box<Sourced>,
    /// The other.
    pub second: Box<Sourced>,
}

/// Why shards do not make one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// One name in two shards.
    #[error("tensor `{name}` is in two shards, `{first}` and `{second}`")]
    InTwoShards {
        /// The tensor.
        name: String,
        /// One shard.
        first: String,
        /// The other.
        second: String,
    },
    /// Over [`TENSORS_MAX`].
    #[error("they hold more than {TENSORS_MAX} tensors")]
    TooManyTensors,
    /// The index lists tensors that the shard it names does not have.
    #[error("the index lists {count} tensors that its shards do not hold, such as `{name}` in `{shard}`")]
    NotInShard {
        /// How many.
        count: usize,
        /// One of them.
        name: String,
        /// The shard that should hold it.
        shard: String,
    },
}

impl Table {
    /// Merges the headers of `shards`, pairs of path and header.
    ///
    /// # Errors
    /// [`TableError::InTwoShards`].
    pub fn merge(shards: Vec<(&str, Header)>) -> Result<Self, TableError> {
        let paths: Vec<String> = shards.iter().map(|(path, _)| (*path).to_owned()).collect();
        let tensors: Vec<Sourced> = shards
            .into_iter()
            .zip(0u32..)
            .flat_map(|((_, header), shard)| {
                header.tensors.into_iter().map(move |info| Sourced { shard, info, origin: None, packed: None })
            })
            .collect();
        Self::of(tensors).map_err(|Twice { first, second }| TableError::InTwoShards {
            name: first.info.name.to_string(),
            first: paths[first.shard as usize].clone(),
            second: paths[second.shard as usize].clone(),
        })
    }

    /// A table of these tensors.
    ///
    /// # Errors
    /// Two tensors of one name.
    pub fn of(mut tensors: Vec<Sourced>) -> Result<Self, Twice> {
        // By shard too, so that an error names them in one order.
        tensors.sort_unstable_by(|a, b| a.info.name.cmp(&b.info.name).then(a.shard.cmp(&b.shard)));
        match tensors.windows(2).find(|pair| pair[0].info.name == pair[1].info.name) {
            Some(pair) => Err(Twice { first: Box::new(pair[0].clone()), second: Box::new(pair[1].clone()) }),
            None => Ok(Self { tensors }),
        }
    }

    /// A table of these tensors, where of two of one name the later one stays.
    #[must_use]
    pub fn of_latest(mut tensors: Vec<Sourced>) -> Self {
        tensors.reverse();
        tensors.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        tensors.dedup_by(|later, first| later.info.name == first.info.name);
        Self { tensors }
    }

    /// The tensor of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Sourced> {
        let at = self.tensors.binary_search_by(|tensor| (*tensor.info.name).cmp(name)).ok()?;
        self.tensors.get(at)
    }

    /// Notes what the tensors of quantised layers are parts of.
    pub fn describe(&mut self, layers: &Layers) {
        for tensor in &mut self.tensors {
            tensor.packed = layers.packed(&tensor.info.name).map(Box::new);
        }
    }

    /// All tensors, sorted by name.
    #[must_use]
    pub fn tensors(&self) -> &[Sourced] {
        &self.tensors
    }

    /// Sum of the tensors' lengths in bytes.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.info.bytes()).sum()
    }

    /// Compares the table with the index that named its shards, both ways. What contradicts is an error; what is
    /// only untidy comes back as remarks.
    ///
    /// # Errors
    /// [`TableError::NotInShard`].
    pub fn compare(&self, index: &Index, shards: &[&str]) -> Result<Vec<String>, TableError> {
        let absent: Vec<(&String, &String)> = index
            .shard_of
            .iter()
            .filter(|(name, shard)| {
                self.get(name).is_none_or(|found| shards.get(found.shard as usize) != Some(&shard.as_str()))
            })
            .collect();
        if let Some((name, shard)) = absent.first() {
            return Err(TableError::NotInShard { count: absent.len(), name: shown(name), shard: (*shard).clone() });
        }
        let mut remarks = Vec::new();
        let unlisted = self.tensors.len() - index.shard_of.len();
        if unlisted > 0 {
            remarks.push(format!("the shards hold {unlisted} tensors that the index does not list"));
        }
        if let Some(total) = index.total_size.filter(|&total| total != self.tensor_bytes()) {
            remarks.push(format!("the index gives a total of {total} bytes, the tensors have {}", self.tensor_bytes()));
        }
        Ok(remarks)
    }
}

/// How the bytes of a lent tensor came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Making {
    /// They are the checkpoint's.
    AsStored,
    /// A kernel that lies in the checkpoint in OIHW order and is wanted in OHWI. Its range is in the checkpoint.
    ToReorder,
    /// They were computed. The range is in the derived image.
    Computed,
}

/// A tensor in the place from which it is lent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Name in the layout.
    pub name: String,
    /// Name in the catalogue.
    pub canonical: Box<str>,
    /// Name in the checkpoint, when it is another than `name`.
    pub source_name: Option<String>,
    /// Whether its bytes are the checkpoint's.
    pub making: Making,
    /// Type of an element.
    pub dtype: Dtype,
    /// Dimensions in the layout.
    pub shape: Vec<u64>,
    /// Index of the shard.
    pub shard: u32,
    /// Bytes in the shard's file.
    pub range: Range<u64>,
    /// What it is made of in the shard, when it is not all of a tensor as it is there.
    pub origin: Option<Box<Origin>>,
    /// What it is a part of, when it belongs to a quantised layer.
    pub packed: Option<Box<Packed>>,
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

/// Places the tensors of `table` in `layout`. With a catalogue, layout MLX places what the catalogue expects and
/// nothing else, since modules refuse parameters they do not have; layout SOURCE places all. Comes sorted by name.
///
/// # Errors
/// [`PlanError`].
pub fn place(
    table: &Table,
    catalogue: Option<&Catalogue>,
    naming: &Naming,
    layout: Layout,
) -> Result<Vec<Placed>, PlanError> {
    let mut placed = Vec::with_capacity(table.tensors.len());
    match (layout, catalogue) {
        (Layout::Source, _) => placed.extend(table.tensors.iter().map(in_place)),
        (Layout::Mlx, None) => placed.extend(table.tensors.iter().map(|tensor| renamed(tensor, naming))),
        (Layout::Mlx, Some(catalogue)) => {
            for expected in catalogue.tensors() {
                let Some(found) = table.get(&expected.name) else { continue };
                let mut tensor = renamed(found, naming);
                if expected.role == Role::Conv2d && found.info.shape == expected.shape {
                    let [o, i, h, w] = <[u64; 4]>::try_from(expected.shape.as_slice()).unwrap_or_default();
                    // With one input channel, or a 1x1 kernel, both orders have the same bytes.
                    if i > 1 && h * w > 1 && !is_ohwi(found) {
                        tensor.making = Making::ToReorder;
                    }
                    tensor.shape = vec![o, h, w, i];
                }
                placed.push(tensor);
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

/// Whether a kernel lies in the file in MLX's order already.
fn is_ohwi(tensor: &Sourced) -> bool {
    tensor.origin.as_ref().is_some_and(|origin| origin.operation == Operation::KernelOhwi)
}

fn in_place(tensor: &Sourced) -> Placed {
    let shape = match *tensor.info.shape.as_slice() {
        [o, i, h, w] if is_ohwi(tensor) => vec![o, h, w, i],
        ref shape => shape.to_vec(),
    };
    let source_name = tensor.source_name();
    Placed {
        name: tensor.info.name.to_string(),
        canonical: tensor.info.name.clone(),
        source_name: (source_name != &*tensor.info.name).then(|| source_name.to_owned()),
        making: Making::AsStored,
        dtype: tensor.info.dtype,
        shape,
        shard: tensor.shard,
        range: tensor.info.range.clone(),
        origin: tensor.origin.clone(),
        packed: tensor.packed.clone(),
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
    use crate::family::Expected;

    fn header(names: &[(&str, &[u64])]) -> Header {
        let mut begin = 8;
        let mut tensors: Vec<TensorInfo> = names
            .iter()
            .map(|(name, shape)| {
                let bytes = shape.iter().product::<u64>();
                let range = begin..begin + bytes;
                begin += bytes;
                TensorInfo { name: (*name).into(), dtype: Dtype::U8, shape: shape.to_vec(), range }
            })
            .collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Header { data_start: 8, file_length: begin, tensors, metadata: Default::default() }
    }

    #[test]
    fn a_name_in_two_shards_is_an_error() {
        let error = Table::merge(vec![("x", header(&[("a", &[1])])), ("y", header(&[("a", &[1])]))]).unwrap_err();
        assert!(matches!(error, TableError::InTwoShards { .. }));
    }

    #[test]
    fn index_and_shards_are_compared_both_ways() {
        let shards = ["x.safetensors", "y.safetensors"];
        let table =
            Table::merge(vec![(shards[0], header(&[("a", &[1]), ("c", &[2])])), (shards[1], header(&[("b", &[1])]))])
                .unwrap();
        let index = |json: serde_json::Value| Index::parse(json.to_string().as_bytes(), "").unwrap();
        let map = serde_json::json!({"a": shards[0], "b": shards[1]});
        let remarks =
            table.compare(&index(serde_json::json!({"metadata": {"total_size": 9}, "weight_map": map})), &shards);
        assert_eq!(remarks.unwrap().len(), 2, "one unlisted tensor, one wrong total");
        let swapped = index(serde_json::json!({"weight_map": {"a": shards[1]}}));
        assert!(matches!(table.compare(&swapped, &shards), Err(TableError::NotInShard { count: 1, .. })));
    }

    #[test]
    fn kernels_that_only_change_their_shape_are_lent_and_the_others_are_to_be_reordered() {
        let expected = |name: &str, shape: &[u64]| Expected {
            name: name.into(),
            shape: shape.into(),
            role: Role::Conv2d,
            packed: None,
        };
        let shapes: [(&str, &[u64]); 3] = [("a", &[4, 3, 1, 1]), ("b", &[4, 1, 3, 3]), ("c", &[4, 2, 3, 3])];
        let table = Table::merge(vec![("x", header(&shapes))]).unwrap();
        let all = Catalogue::new(shapes.iter().map(|(name, shape)| expected(name, shape)).collect());
        let placed = place(&table, Some(&all), &Naming::NONE, Layout::Mlx).unwrap();
        let found: Vec<_> = placed.iter().map(|placed| (placed.shape.as_slice(), placed.making)).collect();
        let expected: [(&[u64], Making); 3] =
            [(&[4, 1, 1, 3], Making::AsStored), (&[4, 3, 3, 1], Making::AsStored), (&[4, 3, 3, 2], Making::ToReorder)];
        assert_eq!(found, expected);
        assert_eq!(place(&table, Some(&all), &Naming::NONE, Layout::Source).unwrap().len(), 3);
    }
}
