//! The tensors of a checkpoint, from all of its files, sorted by name.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    header::{Header, TensorInfo},
    index::Index,
    layer_name::weight_of,
    origin::Origin,
    quantisation::{Coded, LAYERS_LIST, Mark, MarkError, Packed},
    shown::shown,
    source::SourceId,
};

/// Number and bytes of the tensors of one dtype.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DtypeTotal {
    /// Tensors.
    pub tensors: u32,
    /// Their bytes.
    pub bytes: u64,
}

impl DtypeTotal {
    /// Counts `tensors` more, of `bytes` together.
    pub(crate) fn add(&mut self, tensors: u32, bytes: u64) {
        self.tensors += tensors;
        self.bytes += bytes;
    }
}

/// Most tensors of a component, in all its shards: the largest mixtures of experts have some 200 000.
pub const TENSORS_MAX: usize = 1 << 19;

/// Prefixes that a list of quantised layers may leave out.
const LISTED_UNDER: [&str; 3] = ["", "model.diffusion_model.", "diffusion_model."];

/// A tensor of a checkpoint and the file that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced {
    /// The file.
    pub source: SourceId,
    /// The tensor; its range counts from the start of the file.
    pub info: TensorInfo,
    /// The tensor in the file, if rules made this one from it.
    pub origin: Option<Box<Origin>>,
    /// The layer that MLX quantised and that it belongs to.
    pub packed: Option<Box<Packed>>,
    /// The layer in another format that it belongs to, if the layer can be made plain.
    pub coded: Option<Box<Coded>>,
    /// What the file says of a layer: the content of the tensor, when it is a mark, or what the file's metadata says of the
    /// layer, when it is a weight. A mark that nobody read has none.
    pub mark: Option<Arc<[u8]>>,
}

impl Sourced {
    /// Its name in the file.
    #[must_use]
    pub fn source_name(&self) -> &str {
        self.origin.as_ref().map_or(&self.info.name, |origin| &origin.name)
    }
}

/// One file of a checkpoint.
#[derive(Debug, Clone)]
pub struct Shard<'a> {
    /// The number it has among all files that are read.
    pub source: SourceId,
    /// Its path below the model's directory.
    pub name: &'a str,
    /// Its header.
    pub header: Header,
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
    /// The tensors of all `shards`.
    ///
    /// # Errors
    /// When two shards hold a tensor of one name.
    pub fn merge(shards: Vec<Shard<'_>>) -> Result<Self, TableError> {
        let names: BTreeMap<SourceId, &str> = shards.iter().map(|shard| (shard.source, shard.name)).collect();
        let name = |tensor: &Sourced| names.get(&tensor.source).copied().unwrap_or_default().to_owned();
        let tensors = shards.iter().flat_map(|shard| tensors_of(shard.source, shard.header.tensors.clone())).collect();
        Self::of(tensors).map_err(|Twice { first, second }| TableError::InTwoShards {
            name: first.info.name.to_string(),
            first: name(&first),
            second: name(&second),
        })
    }

    /// The tensors of a checkpoint that is one file, source 0.
    #[must_use]
    pub fn of_file(header: Header) -> Self {
        let mut tensors: Vec<Sourced> = tensors_of(SourceId(0), header.tensors).collect();
        tensors.sort_unstable_by(|a, b| a.info.name.cmp(&b.info.name));
        Self { tensors }
    }

    /// A table of these tensors.
    ///
    /// # Errors
    /// When two tensors have one name.
    pub fn of(mut tensors: Vec<Sourced>) -> Result<Self, Twice> {
        // Also sorted by file, so that an error names them in a fixed order.
        tensors.sort_unstable_by(|a, b| a.info.name.cmp(&b.info.name).then(a.source.cmp(&b.source)));
        match tensors.windows(2).find(|pair| pair[0].info.name == pair[1].info.name) {
            Some(pair) => Err(Twice { first: Box::new(pair[0].clone()), second: Box::new(pair[1].clone()) }),
            None => Ok(Self { tensors }),
        }
    }

    /// A table of these tensors. Of two with one name the later stays.
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
        self.tensors.get(self.position(name)?)
    }

    /// Notes the quantised layer of each tensor, which `packed` and `coded` find by the tensor's name.
    pub fn describe(&mut self, packed: impl Fn(&str) -> Option<Packed>, coded: impl Fn(&str) -> Option<Coded>) {
        for tensor in &mut self.tensors {
            tensor.packed = packed(&tensor.info.name).map(Box::new);
            tensor.coded = coded(&tensor.info.name).map(Box::new);
        }
    }

    /// Gives each tensor of the file `source` that is a mark its content, which `content` finds by the tensor's name.
    pub fn add_marks(&mut self, source: SourceId, content: impl Fn(&str) -> Option<Arc<[u8]>>) {
        for tensor in self.tensors.iter_mut().filter(|tensor| tensor.source == source) {
            if let Some(content) = content(&tensor.info.name) {
                tensor.mark = Some(content);
            }
        }
    }

    /// Gives the weights that the files' metadata lists as quantised what it says of them. Returns how many entries name no
    /// weight, and one of them.
    ///
    /// # Errors
    /// When the metadata has such a list and it cannot be read.
    pub fn add_list(&mut self, metadata: &BTreeMap<String, String>) -> Result<Option<(usize, String)>, MarkError> {
        let Some(list) = metadata.get(LAYERS_LIST) else { return Ok(None) };
        let mut unused = Vec::new();
        for (layer, mark) in Mark::list(list)? {
            // ComfyUI lists layers with or without the prefix of their part.
            let names = LISTED_UNDER.iter().map(|prefix| weight_of(&format!("{prefix}{layer}")));
            let at = names.filter_map(|name| self.position(&name)).next();
            match at.and_then(|at| self.tensors.get_mut(at)) {
                Some(weight) => weight.mark = Some(mark.to_string().into_bytes().into()),
                None => unused.push(shown(&layer)),
            }
        }
        let count = unused.len();
        Ok(unused.into_iter().next().map(|first| (count, first)))
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.tensors.binary_search_by(|tensor| (*tensor.info.name).cmp(name)).ok()
    }

    /// The tensors whose names begin with `prefix`. They are neighbours, because the table is sorted.
    #[must_use]
    pub fn under(&self, prefix: &str) -> &[Sourced] {
        let begin = self.tensors.partition_point(|tensor| &*tensor.info.name < prefix);
        let length = self.tensors[begin..].partition_point(|tensor| tensor.info.name.starts_with(prefix));
        &self.tensors[begin..begin + length]
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
    /// When the index lists a tensor that the shard it names does not hold.
    pub fn compare(&self, index: &Index, shards: &BTreeMap<SourceId, &str>) -> Result<Vec<String>, TableError> {
        let absent: Vec<(&String, &String)> = index
            .shard_of
            .iter()
            .filter(|(name, shard)| {
                self.get(name).is_none_or(|found| shards.get(&found.source) != Some(&shard.as_str()))
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

fn tensors_of(source: SourceId, tensors: Vec<TensorInfo>) -> impl Iterator<Item = Sourced> {
    tensors.into_iter().map(move |info| Sourced { source, info, origin: None, packed: None, coded: None, mark: None })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::header::Dtype;

    /// A header of U8 tensors with these names and shapes, one after the other.
    pub(crate) fn header(names: &[(&str, &[u64])]) -> Header {
        let mut begin = 8;
        let mut tensors: Vec<TensorInfo> = names
            .iter()
            .map(|(name, shape)| {
                let bytes = shape.iter().product::<u64>();
                let range = begin..begin + bytes;
                begin += bytes;
                TensorInfo { name: (*name).into(), dtype: Dtype::U8, shape: shape.to_vec(), range, encoding: None }
            })
            .collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Header { data_start: 8, file_length: begin, tensors, metadata: Default::default() }
    }

    fn shard<'a>(id: u32, name: &'a str, tensors: &[(&str, &[u64])]) -> Shard<'a> {
        Shard { source: SourceId(id), name, header: header(tensors) }
    }

    #[test]
    fn a_name_in_two_shards_is_an_error() {
        let shards = [(7, "x"), (3, "y")].map(|(id, name)| shard(id, name, &[("a", &[1])]));
        let error = Table::merge(shards.into()).unwrap_err();
        assert_eq!(error, TableError::InTwoShards { name: "a".into(), first: "y".into(), second: "x".into() });
    }

    #[test]
    fn index_and_shards_are_compared_both_ways() {
        let shards = ["x.safetensors", "y.safetensors"];
        let of = vec![shard(4, shards[0], &[("a", &[1]), ("c", &[2])]), shard(5, shards[1], &[("b", &[1])])];
        let names = of.iter().map(|shard| (shard.source, shard.name)).collect();
        let table = Table::merge(of).unwrap();
        let index = |json: serde_json::Value| Index::parse(json.to_string().as_bytes(), "").unwrap();
        let map = serde_json::json!({"a": shards[0], "b": shards[1]});
        let remarks =
            table.compare(&index(serde_json::json!({"metadata": {"total_size": 9}, "weight_map": map})), &names);
        assert_eq!(remarks.unwrap().len(), 2, "one unlisted tensor, one wrong total");
        let swapped = index(serde_json::json!({"weight_map": {"a": shards[1]}}));
        assert!(matches!(table.compare(&swapped, &names), Err(TableError::NotInShard { count: 1, .. })));
    }
}
