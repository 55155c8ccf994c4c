//! What is asked of a component's tensors beyond their names and places.

use serde::{Deserialize, Serialize};

use crate::{header::Dtype, quantisation::Scheme};

/// A dtype of floats in which a component can be lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Float {
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

impl Float {
    /// Its name in a safetensors file.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
            Self::F32 => Dtype::F32,
        }
    }
}

/// Which layers are quantised.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LayerFilter {
    /// Globs over names of layers in the catalogue, such as `layers.*.feed_forward.*`; `*` crosses dots. Empty: the
    /// family's rule.
    pub only: Vec<String>,
    /// Globs over layers that stay as they are, whatever the rule or `only` says.
    pub except: Vec<String>,
}

/// How weights are packed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Packing {
    /// As they are in the checkpoint.
    #[default]
    AsStored,
    /// Plain: quantised layers are dequantised.
    Plain,
    /// Quantised in this scheme. Layers of another scheme are quantised anew.
    Quantised(Scheme, LayerFilter),
}

/// What becomes of a quantised layer into which an adapter is merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Merged {
    /// It is quantised again, as it was.
    #[default]
    Requantised,
    /// It stays plain.
    Plain,
}

/// What the files of a component's segments are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Form {
    /// Files that hold its tensors somewhere.
    #[default]
    Segments,
    /// Safetensors files that hold exactly its tensors, under their names, so that any program reads them.
    Files,
}

impl Form {
    fn is_segments(&self) -> bool {
        *self == Self::Segments
    }
}

/// What is to be computed for a component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conversion {
    /// The dtype of floats that are not part of a packed layer; `None`: each as it is stored.
    pub dtype: Option<Float>,
    /// How weights are packed.
    pub packing: Packing,
    /// What becomes of quantised layers into which adapters are merged.
    pub merged: Merged,
    /// What the files are. Left out where it is the usual one, so that ids of components stay what they were.
    #[serde(default, skip_serializing_if = "Form::is_segments")]
    pub form: Form,
}

impl Conversion {
    /// In a few words, for lists: `BF16, affine 4-bit, groups of 64`. Empty when nothing is asked.
    #[must_use]
    pub fn summary(&self) -> String {
        let dtype = self.dtype.map(|float| float.dtype().to_string());
        let packing = match &self.packing {
            Packing::AsStored => None,
            Packing::Plain => Some("dequantised".to_owned()),
            Packing::Quantised(scheme, _) => Some(scheme.to_string()),
        };
        let form = (self.form == Form::Files).then(|| "one file".to_owned());
        dtype.into_iter().chain(packing).chain(form).collect::<Vec<_>>().join(", ")
    }
}
