//! Names of the parameters of the MLX modules (zimage.swift, mflux 0.24), beside the names in the checkpoints.

use crate::naming::{Naming, Rename};

/// The transformer's caption embedder is a norm and a linear layer with names of their own; the rest is the same.
pub(super) const TRANSFORMER: Naming = Naming(&[
    Rename { from: "cap_embedder.0.*", to: "capEmbedNorm.*" },
    Rename { from: "cap_embedder.1.*", to: "capEmbedLinear.*" },
]);

/// The text encoder's module holds the language model as `encoder`.
pub(super) const TEXT_ENCODER: Naming = Naming(&[Rename { from: "model.*", to: "encoder.*" }]);

/// The final layer's modulation counts from its linear layer, and the time embedder's layers have names.
pub(super) const TRANSFORMER_MFLUX: Naming = Naming(&[
    Rename { from: "t_embedder.mlp.0.*", to: "t_embedder.linear1.*" },
    Rename { from: "t_embedder.mlp.2.*", to: "t_embedder.linear2.*" },
    Rename { from: "all_final_layer.2-1.adaLN_modulation.1.*", to: "all_final_layer.2-1.adaLN_modulation.0.*" },
]);

/// mflux has the language model without the module around it.
pub(super) const TEXT_ENCODER_MFLUX: Naming = Naming(&[Rename { from: "model.*", to: "*" }]);

/// The first and last layers are modules around a kernel or a norm.
pub(super) const VAE_MFLUX: Naming = Naming(&[
    Rename { from: "encoder.conv_in.*", to: "encoder.conv_in.conv2d.*" },
    Rename { from: "encoder.conv_out.*", to: "encoder.conv_out.conv2d.*" },
    Rename { from: "encoder.conv_norm_out.*", to: "encoder.conv_norm_out.norm.*" },
    Rename { from: "decoder.conv_in.*", to: "decoder.conv_in.conv.*" },
    Rename { from: "decoder.conv_out.*", to: "decoder.conv_out.conv.*" },
    Rename { from: "decoder.conv_norm_out.*", to: "decoder.conv_norm_out.norm.*" },
]);
