//! The transformer's tensors (diffusers' `ZImageTransformer2DModel`).

use super::{Blueprint, Class, LAYERS_MAX, TransformerConfig, WIDTH_MAX, within};
use crate::catalogue::{Builder, Catalogue};

/// Most patch sizes; real models have one.
const PATCH_SIZES_MAX: u64 = 16;
/// Width of the sinusoidal time embedding.
const TIME_FREQUENCIES: u64 = 256;
/// Width of the time embedder's hidden layer.
const TIME_HIDDEN: u64 = 1024;
/// The modulation's input is the width, or this if it is less.
const MODULATION_INPUT_MAX: u64 = 256;
/// Scale and gate, for attention and for feed-forward.
const MODULATION_CHUNKS: u64 = 4;

impl Blueprint for TransformerConfig {
    const CLASS: Class = Class { key: "_class_name", name: "ZImageTransformer2DModel" };

    fn check(&self) -> Result<(), String> {
        within(&[
            ("in_channels", self.in_channels, WIDTH_MAX),
            ("dim", self.dim, WIDTH_MAX),
            ("n_layers", self.n_layers, LAYERS_MAX),
            ("n_refiner_layers", self.n_refiner_layers, LAYERS_MAX),
            ("n_heads", self.n_heads, WIDTH_MAX),
            ("cap_feat_dim", self.cap_feat_dim, WIDTH_MAX),
            ("siglip_feat_dim", self.siglip_feat_dim.unwrap_or(1), WIDTH_MAX),
        ])?;
        if self.n_kv_heads != self.n_heads {
            return Err(format!(
                "`n_kv_heads` is {} and `n_heads` is {}, expected equal",
                self.n_kv_heads, self.n_heads
            ));
        }
        if !self.dim.is_multiple_of(self.n_heads) {
            return Err(format!("`dim` {} is no multiple of `n_heads` {}", self.dim, self.n_heads));
        }
        let axes = self.axes_dims.iter().try_fold(0u64, |sum, &axis| sum.checked_add(axis));
        if axes != Some(self.head_width()) {
            let found = self.axes_dims;
            return Err(format!("`axes_dims` {found:?} should sum to dim / n_heads, {}", self.head_width()));
        }
        if self.all_patch_size.is_empty() || self.all_patch_size.len() != self.all_f_patch_size.len() {
            return Err("`all_patch_size` and `all_f_patch_size` should have the same number of entries".to_owned());
        }
        within(&[("all_patch_size (entries)", self.all_patch_size.len() as u64, PATCH_SIZES_MAX)])?;
        let mut pairs: Vec<_> = self.all_patch_size.iter().zip(&self.all_f_patch_size).collect();
        pairs.sort_unstable();
        if pairs.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("`all_patch_size` and `all_f_patch_size` name one pair twice".to_owned());
        }
        self.all_patch_size
            .iter()
            .chain(&self.all_f_patch_size)
            .try_for_each(|&size| within(&[("all_patch_size", size, 1024)]))
    }

    fn catalogue(&self) -> Catalogue {
        let mut tensors = Builder::default();
        let dim = self.dim;
        for (patch, frames) in self.all_patch_size.iter().zip(&self.all_f_patch_size) {
            let features = frames * patch * patch * self.in_channels;
            tensors.linear_with_bias(&format!("all_x_embedder.{patch}-{frames}"), dim, features);
            let last = format!("all_final_layer.{patch}-{frames}");
            tensors.linear_with_bias(&format!("{last}.linear"), features, dim);
            tensors.linear_with_bias(&format!("{last}.adaLN_modulation.1"), dim, self.modulation_input());
        }
        for block in 0..self.n_refiner_layers {
            self.block(&mut tensors, &format!("noise_refiner.{block}"), Modulation::Yes);
        }
        for block in 0..self.n_refiner_layers {
            self.block(&mut tensors, &format!("context_refiner.{block}"), Modulation::No);
        }
        tensors.linear_with_bias("t_embedder.mlp.0", TIME_HIDDEN, TIME_FREQUENCIES);
        tensors.linear_with_bias("t_embedder.mlp.2", self.modulation_input(), TIME_HIDDEN);
        tensors.norm("cap_embedder.0", self.cap_feat_dim);
        tensors.linear_with_bias("cap_embedder.1", dim, self.cap_feat_dim);
        tensors.plain("x_pad_token", &[1, dim]);
        tensors.plain("cap_pad_token", &[1, dim]);
        if let Some(width) = self.siglip_feat_dim {
            tensors.norm("siglip_embedder.0", width);
            tensors.linear_with_bias("siglip_embedder.1", dim, width);
            for block in 0..self.n_refiner_layers {
                self.block(&mut tensors, &format!("siglip_refiner.{block}"), Modulation::No);
            }
            tensors.plain("siglip_pad_token", &[1, dim]);
        }
        for block in 0..self.n_layers {
            self.block(&mut tensors, &format!("layers.{block}"), Modulation::Yes);
        }
        tensors.finish()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Modulation {
    Yes,
    No,
}

impl TransformerConfig {
    fn head_width(&self) -> u64 {
        self.dim / self.n_heads
    }

    fn modulation_input(&self) -> u64 {
        self.dim.min(MODULATION_INPUT_MAX)
    }

    /// `int(dim / 3 * 8)` in Python: a float division, truncated.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a width has at most 53 bits, and Python truncates"
    )]
    fn feed_forward_width(&self) -> u64 {
        (self.dim as f64 / 3.0 * 8.0) as u64
    }

    pub(super) fn block(&self, tensors: &mut Builder, base: &str, modulation: Modulation) {
        let (dim, hidden) = (self.dim, self.feed_forward_width());
        for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
            tensors.linear(&format!("{base}.attention.{projection}"), dim, dim);
        }
        if self.qk_norm {
            tensors.norm(&format!("{base}.attention.norm_q"), self.head_width());
            tensors.norm(&format!("{base}.attention.norm_k"), self.head_width());
        }
        tensors.linear(&format!("{base}.feed_forward.w1"), hidden, dim);
        tensors.linear(&format!("{base}.feed_forward.w2"), dim, hidden);
        tensors.linear(&format!("{base}.feed_forward.w3"), hidden, dim);
        for norm in ["attention_norm1", "ffn_norm1", "attention_norm2", "ffn_norm2"] {
            tensors.norm(&format!("{base}.{norm}"), dim);
        }
        if modulation == Modulation::Yes {
            let chunks = MODULATION_CHUNKS * dim;
            tensors.linear_with_bias(&format!("{base}.adaLN_modulation.0"), chunks, self.modulation_input());
        }
    }
}
