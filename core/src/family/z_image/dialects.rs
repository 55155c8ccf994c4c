//! Other layouts of the same tensors, as tables for the engine in `rewrite`: names of the original code and of ComfyUI,
//! of the LDM autoencoder, of older diffusers, and of mflux.

use crate::{
    axes::Axes,
    rewrite::{Rule, Ruleset},
};

/// Fused attention of a block, of the transformer or of a control model. Equal thirds: a config is refused when keys
/// have other heads than queries.
const QKV: Rule = Rule::split_rows(
    "*.#.attention.qkv.*",
    &[("*.#.attention.to_q.*", 1), ("*.#.attention.to_k.*", 1), ("*.#.attention.to_v.*", 1)],
);
const OUT: Rule = Rule::rename("*.#.attention.out.*", "*.#.attention.to_out.0.*");
const Q_NORM: Rule = Rule::rename("*.#.attention.q_norm.*", "*.#.attention.norm_q.*");
const K_NORM: Rule = Rule::rename("*.#.attention.k_norm.*", "*.#.attention.norm_k.*");

/// Original names, with fused attention. mflux's own names come last.
pub(super) static TRANSFORMER: Ruleset = Ruleset {
    strip: &["model.diffusion_model.", "diffusion_model.", "transformer.", "model.model.", "model.", "net."],
    rules: &[
        Rule::rename("x_embedder.*", "all_x_embedder.2-1.*"),
        Rule::rename("final_layer.**", "all_final_layer.2-1.**"),
        QKV,
        OUT,
        Q_NORM,
        K_NORM,
        // Files that were a GGUF once have lost the first dimension of their tokens.
        Rule::row("x_pad_token", "x_pad_token"),
        Rule::row("cap_pad_token", "cap_pad_token"),
        Rule::row("siglip_pad_token", "siglip_pad_token"),
        // nunchaku fuses what it packs.
        Rule::stands_for("*.#.attention.to_qkv", &["*.#.attention.to_q", "*.#.attention.to_k", "*.#.attention.to_v"]),
        Rule::stands_for("*.#.feed_forward.net.0.proj", &["*.#.feed_forward.w1", "*.#.feed_forward.w3"]),
        Rule::stands_for("*.#.feed_forward.net.2", &["*.#.feed_forward.w2"]),
        // Some conversions carry the norm of a language model; this one has no affine parameters.
        Rule::drop("norm_final.weight"),
        Rule::rename("t_embedder.linear1.*", "t_embedder.mlp.0.*"),
        Rule::rename("t_embedder.linear2.*", "t_embedder.mlp.2.*"),
        Rule::rename("all_final_layer.*.adaLN_modulation.0.*", "all_final_layer.*.adaLN_modulation.1.*"),
    ],
    counted: &[],
};

/// The names of `Qwen3Model` saved without the language model around it.
pub(super) static TEXT_ENCODER: Ruleset = Ruleset {
    strip: &["text_encoders.qwen3_4b.transformer.", "cond_stage_model.", "text_encoder."],
    rules: &[
        Rule::rename("layers.**", "model.layers.**"),
        Rule::rename("embed_tokens.*", "model.embed_tokens.*"),
        Rule::rename("norm.*", "model.norm.*"),
    ],
    counted: &[],
};

/// LDM names: the decoder's blocks are counted from the other end, and attention projects by 1x1 convolutions.
pub(super) static VAE: Ruleset = Ruleset {
    strip: &["vae.", "first_stage_model."],
    rules: &[
        Rule::squeeze("*.mid.attn_1.q.*", "*.mid_block.attentions.0.to_q.*"),
        Rule::squeeze("*.mid.attn_1.k.*", "*.mid_block.attentions.0.to_k.*"),
        Rule::squeeze("*.mid.attn_1.v.*", "*.mid_block.attentions.0.to_v.*"),
        Rule::squeeze("*.mid.attn_1.proj_out.*", "*.mid_block.attentions.0.to_out.0.*"),
        Rule::rename("*.mid.attn_1.norm.*", "*.mid_block.attentions.0.group_norm.*"),
        Rule::rename("*.mid.block_1.**", "*.mid_block.resnets.0.**"),
        Rule::rename("*.mid.block_2.**", "*.mid_block.resnets.1.**"),
        Rule::rename("*.norm_out.*", "*.conv_norm_out.*"),
        Rule::rename("encoder.down.#.block.#.nin_shortcut.*", "encoder.down_blocks.#.resnets.#.conv_shortcut.*"),
        Rule::rename("encoder.down.#.block.#.**", "encoder.down_blocks.#.resnets.#.**"),
        Rule::squeeze("encoder.down.#.attn.#.q.*", "encoder.down_blocks.#.attentions.#.to_q.*"),
        Rule::squeeze("encoder.down.#.attn.#.k.*", "encoder.down_blocks.#.attentions.#.to_k.*"),
        Rule::squeeze("encoder.down.#.attn.#.v.*", "encoder.down_blocks.#.attentions.#.to_v.*"),
        Rule::squeeze("encoder.down.#.attn.#.proj_out.*", "encoder.down_blocks.#.attentions.#.to_out.0.*"),
        Rule::rename("encoder.down.#.attn.#.norm.*", "encoder.down_blocks.#.attentions.#.group_norm.*"),
        Rule::rename("encoder.down.#.downsample.**", "encoder.down_blocks.#.downsamplers.0.**"),
        Rule::rename("decoder.up.~.block.#.nin_shortcut.*", "decoder.up_blocks.#.resnets.#.conv_shortcut.*"),
        Rule::rename("decoder.up.~.block.#.**", "decoder.up_blocks.#.resnets.#.**"),
        Rule::squeeze("decoder.up.~.attn.#.q.*", "decoder.up_blocks.#.attentions.#.to_q.*"),
        Rule::squeeze("decoder.up.~.attn.#.k.*", "decoder.up_blocks.#.attentions.#.to_k.*"),
        Rule::squeeze("decoder.up.~.attn.#.v.*", "decoder.up_blocks.#.attentions.#.to_v.*"),
        Rule::squeeze("decoder.up.~.attn.#.proj_out.*", "decoder.up_blocks.#.attentions.#.to_out.0.*"),
        Rule::rename("decoder.up.~.attn.#.norm.*", "decoder.up_blocks.#.attentions.#.group_norm.*"),
        Rule::rename("decoder.up.~.upsample.**", "decoder.up_blocks.#.upsamplers.0.**"),
        // Attention as older diffusers named it, and as some converters left it: right names, and still kernels.
        Rule::squeeze("*.mid_block.attentions.0.query.*", "*.mid_block.attentions.0.to_q.*"),
        Rule::squeeze("*.mid_block.attentions.0.key.*", "*.mid_block.attentions.0.to_k.*"),
        Rule::squeeze("*.mid_block.attentions.0.value.*", "*.mid_block.attentions.0.to_v.*"),
        Rule::squeeze("*.mid_block.attentions.0.proj_attn.*", "*.mid_block.attentions.0.to_out.0.*"),
        Rule::squeeze("*.mid_block.attentions.0.to_q.*", "*.mid_block.attentions.0.to_q.*"),
        Rule::squeeze("*.mid_block.attentions.0.to_k.*", "*.mid_block.attentions.0.to_k.*"),
        Rule::squeeze("*.mid_block.attentions.0.to_v.*", "*.mid_block.attentions.0.to_v.*"),
        Rule::squeeze("*.mid_block.attentions.0.to_out.0.*", "*.mid_block.attentions.0.to_out.0.*"),
        Rule::squeeze("*.*.#.attentions.#.query.*", "*.*.#.attentions.#.to_q.*"),
        Rule::squeeze("*.*.#.attentions.#.key.*", "*.*.#.attentions.#.to_k.*"),
        Rule::squeeze("*.*.#.attentions.#.value.*", "*.*.#.attentions.#.to_v.*"),
        Rule::squeeze("*.*.#.attentions.#.proj_attn.*", "*.*.#.attentions.#.to_out.0.*"),
    ],
    // A file that lacks the decoder's last block still has the encoder's.
    counted: &["encoder.down.#.**"],
};

const fn ohwi(from: &'static str, to: &'static str) -> Rule {
    Rule::from_order(from, to, Axes::CONV2D)
}

/// The autoencoder as mflux saves it: module names, and kernels in MLX's order. The names do not tell it from
/// diffusers', so that this table is for files whose metadata say who wrote them.
pub(super) static VAE_MFLUX: Ruleset = Ruleset {
    strip: &[],
    rules: &[
        ohwi("*.conv_in.conv2d.*", "*.conv_in.*"),
        ohwi("*.conv_out.conv2d.*", "*.conv_out.*"),
        ohwi("*.conv_in.conv.*", "*.conv_in.*"),
        ohwi("*.conv_out.conv.*", "*.conv_out.*"),
        Rule::rename("*.conv_norm_out.norm.*", "*.conv_norm_out.*"),
        ohwi("*.*.#.resnets.#.*.weight", "*.*.#.resnets.#.*.weight"),
        ohwi("*.*.resnets.#.*.weight", "*.*.resnets.#.*.weight"),
        ohwi("*.*.#.*.#.conv.weight", "*.*.#.*.#.conv.weight"),
    ],
    counted: &[],
};

/// Control checkpoints, as published or with the transformer's original names for their blocks. Some of them count the
/// modulation's module from its activation.
pub(super) static CONTROLNET: Ruleset = Ruleset {
    strip: &["model.diffusion_model.", "diffusion_model.", "controlnet."],
    rules: &[
        QKV,
        OUT,
        Q_NORM,
        K_NORM,
        Rule::rename("control_layers.#.adaLN_modulation.1.*", "control_layers.#.adaLN_modulation.0.*"),
        Rule::rename("control_noise_refiner.#.adaLN_modulation.1.*", "control_noise_refiner.#.adaLN_modulation.0.*"),
    ],
    counted: &[],
};
