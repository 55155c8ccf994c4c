//! What goes into a folder: everything of the model that is no weights, and the lent files as its weights.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use weightsd_proto::v1::{FileIdentity, FloatType, LoadComponentRequest};

use super::{Entries, Entry};
use crate::{
    Component,
    folder_error::{FolderError, FolderFormat},
};

/// Endings of weights, and of indexes of weights. A program that found one beside the shared files might take it.
const WEIGHTS: [&str; 12] = [
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".onnx",
    ".h5",
    ".msgpack",
    ".ot",
];

/// Folders below the model's that are followed. Models have two.
const DEPTH_MAX: usize = 8;

/// The contents of a folder, as they come together.
pub(super) struct Contents {
    entries: Entries,
}

impl Contents {
    /// Links to everything of the model at `place` but its weights.
    pub(super) fn of(place: &Path) -> Result<Contents, FolderError> {
        let mut contents = Contents { entries: Entries::new() };
        contents.add_folder(place, Path::new(""), 0)?;
        Ok(contents)
    }

    fn add_folder(&mut self, place: &Path, below: &Path, depth: usize) -> Result<(), FolderError> {
        let folder = place.join(below);
        let read = fs::read_dir(&folder).map_err(FolderError::io("read the folder", &folder))?;
        for entry in read {
            let entry = entry.map_err(FolderError::io("read the folder", &folder))?;
            let (name, path) = (entry.file_name(), entry.path());
            let shown = name.to_string_lossy();
            if shown.starts_with('.') || WEIGHTS.iter().any(|ending| shown.ends_with(ending)) {
                continue;
            }
            // Files of a Hugging Face cache are links, so what counts is what they lead to.
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() && depth < DEPTH_MAX => {
                    self.add_folder(place, &below.join(&name), depth + 1)?;
                }
                Ok(found) if found.is_file() => {
                    self.entries.insert(below.join(&name), Entry::Link(path));
                }
                // A link that leads nowhere: a file of the snapshot that is not on this machine.
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds the files of a component's weights, and their index where there are several.
    pub(super) fn add_weights(&mut self, weights: Weights) -> Result<(), FolderError> {
        let Weights { folder, stem, files, places, bytes } = weights;
        let count = files.len();
        let name = |number: usize| match count {
            1 => format!("{stem}.safetensors"),
            _ => format!("{stem}-{:05}-of-{count:05}.safetensors", number + 1),
        };
        for (number, file) in files.into_iter().enumerate() {
            let path = folder.join(name(number));
            if self.entries.insert(path.clone(), Entry::Link(file)).is_some() {
                return Err(FolderError::Collision { path });
            }
        }
        if count > 1 {
            let map: BTreeMap<_, _> = places.into_iter().map(|(tensor, file)| (tensor, name(file))).collect();
            let index = serde_json::json!({"metadata": {"total_size": bytes}, "weight_map": map});
            self.write(folder.join(format!("{stem}.safetensors.index.json")), format!("{index:#}\n"));
        }
        Ok(())
    }

    /// Puts text in the place of whatever the model has there.
    pub(super) fn write(&mut self, path: PathBuf, text: String) {
        self.entries.insert(path, Entry::Text(text));
    }

    pub(super) fn into_entries(self) -> Entries {
        self.entries
    }
}

/// The files of a component's weights.
pub(super) struct Weights {
    folder: PathBuf,
    stem: &'static str,
    files: Vec<PathBuf>,
    /// Each tensor, and the number of its file.
    places: Vec<(String, usize)>,
    bytes: u64,
}

impl Weights {
    /// The segments of a component that was lent as files. `own` are the files that it has in the model: the daemon may
    /// have opened them under another name, which is gone.
    pub(super) fn of(
        component: &Component,
        own: &[PathBuf],
        folder: &Path,
        stem: &'static str,
    ) -> Result<Weights, FolderError> {
        let info = component.info();
        let mut files = Vec::new();
        for segment in &info.segments {
            let opened = PathBuf::from(&segment.path);
            let lent = segment.identity.unwrap_or_default();
            let is_lent = |path: &&PathBuf| fs::metadata(path).is_ok_and(|found| is_it(&found, &lent));
            let found = [&opened].into_iter().chain(own).find(is_lent).cloned();
            files.push(found.ok_or(FolderError::Changed { path: opened })?);
        }
        let places = component.tensors().map(|tensor| (tensor.name().to_owned(), tensor.place().0)).collect();
        Ok(Weights { folder: folder.to_owned(), stem, files, places, bytes: info.tensor_bytes })
    }
}

fn is_it(found: &fs::Metadata, lent: &FileIdentity) -> bool {
    let found = weightsd_segment::FileIdentity::of(found);
    (found.device, found.inode, found.length, found.modified_ns)
        == (lent.device, lent.inode, lent.length, lent.modified_ns)
}

/// Whether the request changes weights, so that configs may have to say something else.
pub(super) fn is_treated(request: &LoadComponentRequest) -> bool {
    let LoadComponentRequest { quantise, dequantise, adapters, overlay, base, .. } = request;
    let is_cast = !matches!(request.dtype(), FloatType::Unspecified | FloatType::AsStored);
    is_cast || *dequantise || quantise.is_some() || !adapters.is_empty() || overlay.is_some() || base.is_some()
}

/// Refuses what the format cannot express.
pub(super) fn check(format: FolderFormat, place: &Path, request: &LoadComponentRequest) -> Result<(), FolderError> {
    let is_pipeline = place.join("model_index.json").is_file();
    let refused = |problem, hint| Err(FolderError::Format { format, problem, hint });
    match format {
        FolderFormat::Diffusers | FolderFormat::Mflux if !is_pipeline => {
            refused("of a model without a model_index.json", "ask for format transformers or mlx")
        }
        FolderFormat::Transformers | FolderFormat::Mlx if is_pipeline => {
            refused("of a pipeline of several components", "ask for format diffusers or mflux")
        }
        FolderFormat::Diffusers | FolderFormat::Transformers if request.quantise.is_some() => refused(
            "with layers in MLX's packing, which torch cannot read",
            "ask for format mlx, or for no quantisation",
        ),
        FolderFormat::Mflux if request.quantise.is_some() => refused(
            "with quantised layers: mflux reads them under names of its own only",
            "let mflux quantise (`--quantize`), or take the arrays from a load in layout mlx",
        ),
        _ => Ok(()),
    }
}
