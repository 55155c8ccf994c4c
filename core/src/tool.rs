//! The programs that write checkpoints. Some files can be read only if it is known which program wrote them.

use std::collections::BTreeMap;

/// A program that wrote a file or a declaration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Tool {
    /// Nothing says which one.
    #[default]
    Unknown,
    /// zimage.swift: manifests beside the weights.
    ZImageSwift,
    /// mlx-lm: `quantization` in `config.json`.
    MlxLm,
    /// mflux: versions and bits in the metadata of its files.
    Mflux,
}

impl Tool {
    /// The program that the metadata of a file names.
    #[must_use]
    pub fn of_metadata(metadata: &BTreeMap<String, String>) -> Self {
        let is_mflux = ["mflux_version", "quantization_level"].iter().any(|key| metadata.contains_key(*key));
        if is_mflux { Self::Mflux } else { Self::Unknown }
    }
}
