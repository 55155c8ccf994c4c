//! Which bytes go into which file. Nothing is written here.

use std::{collections::BTreeMap, ops::Range};

use serde_json::{Value, json};
use weightsd_core::weight_name::{INDEX_SUFFIX, in_folder};

use crate::{Component, Tensor, python_json::dumps, shards};

/// A file to be written.
#[derive(Debug)]
pub(crate) struct FilePlan {
    /// Below the model's directory.
    pub(crate) path: String,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    Document(Vec<u8>),
    Weights(Weights),
}

/// A safetensors or GGUF file.
#[derive(Debug)]
pub(crate) struct Weights {
    /// All that comes before the data.
    pub(crate) header: Vec<u8>,
    /// In the order of their ranges.
    pub(crate) tensors: Vec<Entry>,
    pub(crate) file_length: u64,
}

/// A tensor in a file.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) component: String,
    pub(crate) tensor: Tensor,
    /// Tensors of the component whose bytes it has, one after the other.
    pub(crate) pieces: Vec<Tensor>,
    /// Counts from the start of the file.
    pub(crate) range: Range<u64>,
}

/// A tensor that is to be written.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) component: String,
    pub(crate) tensor: Tensor,
    pub(crate) pieces: Vec<Tensor>,
}

impl FilePlan {
    pub(crate) fn bytes(&self) -> u64 {
        match &self.body {
            Body::Document(bytes) => bytes.len() as u64,
            Body::Weights(weights) => weights.file_length,
        }
    }
}

/// All files of a checkpoint: small ones by path, then weights in loading order.
pub(crate) fn files(documents: &BTreeMap<String, Vec<u8>>, components: &[Component]) -> Vec<FilePlan> {
    let mut documents = documents.clone();
    let mut weights = Vec::new();
    for component in components {
        let site = &component.site;
        let files = weight_files(component);
        if files.len() > 1 || component.numbered {
            let stem = if component.numbered { "model" } else { &site.stem };
            let path = in_folder(&site.folder, &format!("{stem}{INDEX_SUFFIX}"));
            let metadata = if component.numbered { component.metadata.clone() } else { BTreeMap::new() };
            documents.entry(path).or_insert_with(|| index(&files, metadata).into_bytes());
        }
        weights.extend(
            files
                .into_iter()
                .map(|(file, weights)| FilePlan { path: in_folder(&site.folder, &file), body: Body::Weights(weights) }),
        );
    }
    let documents = documents.into_iter().map(|(path, bytes)| FilePlan { path, body: Body::Document(bytes) });
    documents.chain(weights).collect()
}

fn weight_files(component: &Component) -> Vec<(String, Weights)> {
    let shards = shards::split(&component.tensors, component.shard_bytes_max);
    let count = shards.len();
    let name = |at| match component.numbered {
        true => format!("{at}.safetensors"),
        false => shards::name(&component.site.stem, at, count),
    };
    let wanted = |tensor: &Tensor| Wanted {
        component: component.name().to_owned(),
        tensor: tensor.clone(),
        pieces: vec![tensor.clone()],
    };
    let metadata = &component.metadata;
    let file = |shard: Vec<&Tensor>| weights(metadata, shard.into_iter().map(wanted).collect());
    shards.into_iter().enumerate().map(|(at, shard)| (name(at), file(shard))).collect()
}

/// Orders tensors as the safetensors crate does, by falling dtype, then by name, and so aligns each to its elements.
pub(crate) fn weights(metadata: &BTreeMap<String, String>, mut shard: Vec<Wanted>) -> Weights {
    shard.sort_by(|a, b| b.tensor.dtype.cmp(&a.tensor.dtype).then_with(|| a.tensor.name.cmp(&b.tensor.name)));
    let mut json = format!(r#"{{"__metadata__":{}"#, json!(metadata));
    let mut end = 0;
    let mut tensors = Vec::with_capacity(shard.len());
    for Wanted { component, tensor, pieces } in shard {
        let range = end..end + tensor.bytes();
        end = range.end;
        let entry = format!(
            r#",{}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}}"#,
            Value::from(tensor.name.as_str()),
            tensor.dtype,
            Value::from(tensor.shape.as_slice()),
            range.start,
            range.end
        );
        json.push_str(&entry);
        tensors.push(Entry { component, tensor, pieces, range });
    }
    json.push('}');
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    let data_start = header.len() as u64;
    for entry in &mut tensors {
        entry.range = entry.range.start + data_start..entry.range.end + data_start;
    }
    Weights { header, tensors, file_length: data_start + end }
}

fn index(files: &[(String, Weights)], metadata: BTreeMap<String, String>) -> String {
    let mut weight_map = BTreeMap::new();
    let mut total_size = 0;
    for (file, weights) in files {
        for entry in &weights.tensors {
            weight_map.insert(entry.tensor.name.as_str(), file.as_str());
            total_size += entry.range.end - entry.range.start;
        }
    }
    let mut metadata = json!(metadata);
    metadata["total_size"] = total_size.into();
    dumps(&json!({"metadata": metadata, "weight_map": weight_map}), 2) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checkpoint, Contents, Dims};

    #[test]
    fn true_size_files_have_their_published_lengths() {
        let checkpoint = Checkpoint::new(&Dims::true_size(), Contents::Sparse).unwrap();
        let lengths: Vec<_> = files(&checkpoint.documents, &checkpoint.components)
            .into_iter()
            .map(|file| (file.bytes(), file.path))
            .collect();
        let published: [(u64, &str); 9] = [
            (32_819, "text_encoder/model.safetensors.index.json"),
            (48_969, "transformer/diffusion_pytorch_model.safetensors.index.json"),
            (9_973_693_184, "transformer/diffusion_pytorch_model-00001-of-00003.safetensors"),
            (9_973_714_824, "transformer/diffusion_pytorch_model-00002-of-00003.safetensors"),
            (4_672_282_880, "transformer/diffusion_pytorch_model-00003-of-00003.safetensors"),
            (3_957_900_840, "text_encoder/model-00001-of-00003.safetensors"),
            (3_987_450_520, "text_encoder/model-00002-of-00003.safetensors"),
            (99_630_640, "text_encoder/model-00003-of-00003.safetensors"),
            (167_666_902, "vae/diffusion_pytorch_model.safetensors"),
        ];
        for (length, path) in published {
            let found = lengths.iter().find(|(_, found)| found == path).unwrap();
            assert_eq!(found.0, length, "{path}");
        }
    }
}
