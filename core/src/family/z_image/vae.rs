//! The autoencoder's tensors (diffusers' `AutoencoderKL`).

use super::{Blueprint, Class, VaeConfig, WIDTH_MAX, within};
use crate::{
    catalogue::{Builder, Catalogue},
    shown::shown,
};

/// Most residual layers of a block; real models have two.
const LAYERS_PER_BLOCK_MAX: u64 = 64;
/// Most blocks; real models have four.
const BLOCKS_MAX: u64 = 16;

/// diffusers' names of a block of residual layers: without attention, and with attention after each layer.
pub(super) const DOWN: [&str; 2] = ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"];
pub(super) const UP: [&str; 2] = ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"];

/// Where a block has attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attention {
    None,
    EachLayer,
}

/// The attention of a block: `None` for an unknown type, [`Attention::None`] for a block without a type.
fn attention(types: Option<&[String]>, block: usize, [plain, attending]: [&str; 2]) -> Option<Attention> {
    let Some(name) = types.and_then(|types| types.get(block)) else { return Some(Attention::None) };
    match name.strip_prefix("UNetRes").unwrap_or(name) {
        name if name == plain => Some(Attention::None),
        name if name == attending => Some(Attention::EachLayer),
        _ => None,
    }
}

impl Blueprint for VaeConfig {
    const CLASS: Class = Class { key: "_class_name", name: "AutoencoderKL" };

    fn check(&self) -> Result<(), String> {
        within(&[
            ("block_out_channels (entries)", self.block_out_channels.len() as u64, BLOCKS_MAX),
            ("in_channels", self.in_channels, WIDTH_MAX),
            ("out_channels", self.out_channels, WIDTH_MAX),
            ("latent_channels", self.latent_channels, WIDTH_MAX),
            ("layers_per_block", self.layers_per_block, LAYERS_PER_BLOCK_MAX),
        ])?;
        let blocks = self.block_out_channels.len();
        for (key, types) in [("down_block_types", &self.down_block_types), ("up_block_types", &self.up_block_types)] {
            if let Some(types) = types.as_ref().filter(|types| types.len() != blocks) {
                let found = types.len();
                return Err(format!(
                    "`{key}` has {found} entries and `block_out_channels` has {blocks}, expected equal"
                ));
            }
        }
        self.block_out_channels.iter().try_for_each(|&width| within(&[("block_out_channels", width, WIDTH_MAX)]))
    }

    fn unread(&self) -> Option<String> {
        let sides = [("down_block_types", &self.down_block_types, DOWN), ("up_block_types", &self.up_block_types, UP)];
        sides.into_iter().find_map(|(key, types, known)| {
            let types = types.as_deref()?;
            let other = (0..types.len()).find(|&block| attention(Some(types), block, known).is_none())?;
            let [plain, attending] = known;
            Some(format!("`{key}` has \"{}\", and known are {plain} and {attending}", shown(&types[other])))
        })
    }

    fn blocks_from_the_end(&self) -> Option<u64> {
        Some(self.block_out_channels.len() as u64)
    }

    fn catalogue(&self) -> Catalogue {
        let mut tensors = Builder::default();
        let widths = &self.block_out_channels;
        let first = widths.first().copied().unwrap_or_default();
        let last = widths.last().copied().unwrap_or_default();

        tensors.conv("encoder.conv_in", first, self.in_channels, 3);
        let mut input = first;
        for (block, &output) in widths.iter().enumerate() {
            let base = format!("encoder.down_blocks.{block}");
            let attention = attention(self.down_block_types.as_deref(), block, DOWN).unwrap_or(Attention::None);
            stage(&mut tensors, &base, self.layers_per_block, [input, output], attention);
            if block + 1 < widths.len() {
                tensors.conv(&format!("{base}.downsamplers.0.conv"), output, output, 3);
            }
            input = output;
        }
        self.middle(&mut tensors, "encoder.mid_block", last);
        tensors.norm_with_bias("encoder.conv_norm_out", last);
        tensors.conv("encoder.conv_out", 2 * self.latent_channels, last, 3);

        tensors.conv("decoder.conv_in", last, self.latent_channels, 3);
        self.middle(&mut tensors, "decoder.mid_block", last);
        let mut input = last;
        for (block, &output) in widths.iter().rev().enumerate() {
            let base = format!("decoder.up_blocks.{block}");
            let attention = attention(self.up_block_types.as_deref(), block, UP).unwrap_or(Attention::None);
            stage(&mut tensors, &base, self.layers_per_block + 1, [input, output], attention);
            if block + 1 < widths.len() {
                tensors.conv(&format!("{base}.upsamplers.0.conv"), output, output, 3);
            }
            input = output;
        }
        tensors.norm_with_bias("decoder.conv_norm_out", first);
        tensors.conv("decoder.conv_out", self.out_channels, first, 3);

        if self.use_quant_conv {
            tensors.conv("quant_conv", 2 * self.latent_channels, 2 * self.latent_channels, 1);
        }
        if self.use_post_quant_conv {
            tensors.conv("post_quant_conv", self.latent_channels, self.latent_channels, 1);
        }
        tensors.finish()
    }
}

impl VaeConfig {
    fn middle(&self, tensors: &mut Builder, base: &str, width: u64) {
        residual(tensors, &format!("{base}.resnets.0"), width, width);
        if self.mid_block_add_attention {
            attend(tensors, &format!("{base}.attentions.0"), width);
        }
        residual(tensors, &format!("{base}.resnets.1"), width, width);
    }
}

/// The residual layers of a block; the first one changes the width from `input` to `output`.
fn stage(tensors: &mut Builder, base: &str, layers: u64, [input, output]: [u64; 2], attention: Attention) {
    for layer in 0..layers {
        let input = if layer == 0 { input } else { output };
        residual(tensors, &format!("{base}.resnets.{layer}"), input, output);
        if attention == Attention::EachLayer {
            attend(tensors, &format!("{base}.attentions.{layer}"), output);
        }
    }
}

fn attend(tensors: &mut Builder, base: &str, width: u64) {
    tensors.norm_with_bias(&format!("{base}.group_norm"), width);
    for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
        tensors.linear_with_bias(&format!("{base}.{projection}"), width, width);
    }
}

fn residual(tensors: &mut Builder, base: &str, input: u64, output: u64) {
    tensors.norm_with_bias(&format!("{base}.norm1"), input);
    tensors.conv(&format!("{base}.conv1"), output, input, 3);
    tensors.norm_with_bias(&format!("{base}.norm2"), output);
    tensors.conv(&format!("{base}.conv2"), output, output, 3);
    if input != output {
        tensors.conv(&format!("{base}.conv_shortcut"), output, input, 1);
    }
}
