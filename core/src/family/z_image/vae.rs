//! The autoencoder's tensors (diffusers' `AutoencoderKL`).

use super::{Blueprint, VaeConfig, WIDTH_MAX, within};
use crate::catalogue::{Builder, Catalogue};

/// Most residual layers of a block; real models have two.
const LAYERS_PER_BLOCK_MAX: u64 = 64;
/// Most blocks; real models have four.
const BLOCKS_MAX: u64 = 16;

impl Blueprint for VaeConfig {
    fn check(&self) -> Result<(), String> {
        within(&[
            ("block_out_channels (entries)", self.block_out_channels.len() as u64, BLOCKS_MAX),
            ("in_channels", self.in_channels, WIDTH_MAX),
            ("out_channels", self.out_channels, WIDTH_MAX),
            ("latent_channels", self.latent_channels, WIDTH_MAX),
            ("layers_per_block", self.layers_per_block, LAYERS_PER_BLOCK_MAX),
        ])?;
        self.block_out_channels.iter().try_for_each(|&width| within(&[("block_out_channels", width, WIDTH_MAX)]))
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
            stage(&mut tensors, &base, self.layers_per_block, input, output);
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
            stage(&mut tensors, &base, self.layers_per_block + 1, input, output);
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
            let attention = format!("{base}.attentions.0");
            tensors.norm_with_bias(&format!("{attention}.group_norm"), width);
            for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
                tensors.linear_with_bias(&format!("{attention}.{projection}"), width, width);
            }
        }
        residual(tensors, &format!("{base}.resnets.1"), width, width);
    }
}

/// The residual layers of a block; the first one changes the width.
fn stage(tensors: &mut Builder, base: &str, layers: u64, input: u64, output: u64) {
    for layer in 0..layers {
        let input = if layer == 0 { input } else { output };
        residual(tensors, &format!("{base}.resnets.{layer}"), input, output);
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
