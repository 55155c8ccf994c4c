//! Names of the parameters of the MLX modules (zimage.swift), beside the names in the checkpoints.

use crate::naming::{Naming, Rename};

/// The transformer's caption embedder is a norm and a linear layer with names of their own; the rest is the same.
pub(super) const TRANSFORMER: Naming = Naming(&[
    Rename { from: "cap_embedder.0.*", to: "capEmbedNorm.*" },
    Rename { from: "cap_embedder.1.*", to: "capEmbedLinear.*" },
]);

/// The text encoder's module holds the language model as `encoder`.
pub(super) const TEXT_ENCODER: Naming = Naming(&[Rename { from: "model.*", to: "encoder.*" }]);
