//! Infers configs for weights without configs: a known model's, when the file has its dimensions, else one built from
//! the shapes.

use super::{
    Blueprint, TextEncoderConfig, TransformerConfig, VaeConfig, control::ControlConfig, known, names, to_json,
};
use crate::{
    catalogue::Catalogue,
    family::{Assumption, Description, InferError, Inferred, KnownBy, Named},
    header::Dtype,
    naming::Naming,
    pattern::Pattern,
    rewrite::Rules,
    table::Table,
};

/// Reads shapes of tensors by name.
struct Shapes<'a>(&'a Table);

impl Shapes<'_> {
    /// Length of a vector, or rows of a matrix: these do not change when the weight is packed.
    fn rows(&self, names: &[&str], tells: &'static str) -> Result<u64, InferError> {
        let found = names.iter().find_map(|name| self.0.get(name)?.info.shape.first().copied());
        found.ok_or_else(|| InferError::Absent { name: names.concat(), tells })
    }

    fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some()
    }

    /// One more than the highest index that `pattern` matches; 0 without a match.
    fn count(&self, pattern: &'static str) -> u64 {
        let pattern = Pattern(pattern);
        let indexes = self.0.tensors().iter().filter_map(|t| Some(*pattern.matches(&t.info.name)?.indexes().first()?));
        indexes.max().map_or(0, |highest| highest.saturating_add(1))
    }
}

/// Infers a component's config from its tensors, which have canonical names.
pub(super) fn infer(component: &str, table: &Table, model: Named) -> Result<Inferred, InferError> {
    let shapes = Shapes(table);
    match component {
        "transformer" => transformer(&shapes, model),
        "text_encoder" => text_encoder(&shapes),
        "vae" => vae(&shapes),
        "controlnet" => {
            let config = ControlConfig::infer(table)?;
            let description = Description {
                config: to_json(&config),
                catalogue: Some(config.catalogue()),
                unchecked: None,
                naming: Naming::NONE,
                rules: super::rules(component, None),
                borrowed: config.borrowed(),
            };
            let remarks = config.remarks();
            Ok(Inferred { description, assumptions: Vec::new(), remarks })
        }
        _ => Err(InferError::Unknown { problem: format!("the family has no component `{component}`") }),
    }
}

fn finish(
    config: &impl Blueprint,
    naming: Naming,
    rules: Rules,
    assumptions: Vec<Assumption>,
) -> Result<Inferred, InferError> {
    config.check().map_err(|problem| InferError::Unknown { problem })?;
    let described = Description::uncatalogued(to_json(config), None);
    let description = Description { catalogue: Some(config.catalogue()), naming, rules, ..described };
    Ok(Inferred { description, assumptions, remarks: Vec::new() })
}

fn assumed(what: &str, value: impl ToString, why: &str) -> Assumption {
    Assumption { what: what.to_owned(), value: value.to_string(), why: why.to_owned() }
}

fn transformer(shapes: &Shapes<'_>, model: Named) -> Result<Inferred, InferError> {
    let true_one = known::transformer();
    let dim = shapes.rows(
        &["layers.0.attention_norm1.weight", "layers.0.ffn_norm1.weight", "cap_embedder.1.bias"],
        "the transformer's width",
    )?;
    let cap_feat_dim = shapes.rows(&["cap_embedder.0.weight"], "the width of the text encoder's states")?;
    let mut assumptions = Vec::new();
    if model.by == KnownBy::Assumed || model.by == KnownBy::Name {
        assumptions.push(assumed(
            "model",
            model.model.name,
            match model.by {
                KnownBy::Name => "by its name; the base model and Turbo have the same tensors",
                _ => "the base model and Turbo have the same tensors: name a base model to decide",
            },
        ));
    }
    let rules = super::rules("transformer", None);
    if (dim, cap_feat_dim) == (true_one.dim, true_one.cap_feat_dim) {
        // Take the whole config, the number of layers included, so that the audit reports absent layers as missing.
        assumptions.push(assumed(
            "config",
            format!("Z-Image's, with {} layers", true_one.n_layers),
            "these are its widths",
        ));
        let siglip_feat_dim = shapes.rows(&["siglip_embedder.0.weight"], "").ok();
        return finish(&TransformerConfig { siglip_feat_dim, ..true_one }, names::TRANSFORMER, rules, assumptions);
    }
    let head = shapes.rows(&["layers.0.attention.norm_q.weight"], "the width of a head")?;
    if head != true_one.axes_dims.iter().sum::<u64>() {
        return Err(InferError::Unknown {
            problem: format!(
                "a transformer of width {dim} with heads of {head} is no known model, and `axes_dims` cannot be told \
                 from weights"
            ),
        });
    }
    let features = shapes.rows(&["all_final_layer.2-1.linear.bias"], "the latent channels")?;
    let n_heads = dim.checked_div(head).unwrap_or_default();
    let config = TransformerConfig {
        in_channels: features / 4,
        dim,
        n_layers: shapes.count("layers.#.**"),
        n_refiner_layers: shapes.count("noise_refiner.#.**"),
        n_heads,
        n_kv_heads: n_heads,
        cap_feat_dim,
        siglip_feat_dim: shapes.rows(&["siglip_embedder.0.weight"], "").ok(),
        ..true_one
    };
    assumptions.push(assumed("config", "norm_eps, rope_theta, t_scale, axes", "Z-Image's: weights do not tell"));
    finish(&config, names::TRANSFORMER, rules, assumptions)
}

fn text_encoder(shapes: &Shapes<'_>) -> Result<Inferred, InferError> {
    let true_one = known::text_encoder();
    let hidden_size = shapes.rows(&["model.norm.weight", "model.layers.0.input_layernorm.weight"], "the width")?;
    let rules = super::rules("text_encoder", None);
    let dtype = shapes.0.get("model.norm.weight").and_then(|tensor| torch_name(tensor.info.dtype)).map(str::to_owned);
    let true_one = TextEncoderConfig { dtype, ..true_one };
    if hidden_size == true_one.hidden_size {
        let config = format!("Qwen3-4B's, with {} layers", true_one.num_hidden_layers);
        let assumptions = vec![assumed("config", config, "this is its width")];
        return finish(&true_one, names::TEXT_ENCODER, rules, assumptions);
    }
    let attention = |name: &str| format!("model.layers.0.self_attn.{name}.weight");
    let head_dim = shapes.rows(&[&attention("q_norm")], "the width of a head")?;
    let heads = |name: &str| {
        let rows = shapes.rows(&[&attention(name)], "the number of heads")?;
        Ok(rows.checked_div(head_dim).unwrap_or_default())
    };
    let config = TextEncoderConfig {
        attention_bias: shapes.has("model.layers.0.self_attn.q_proj.bias"),
        head_dim,
        hidden_size,
        intermediate_size: shapes.rows(&["model.layers.0.mlp.gate_proj.weight"], "the feed-forward width")?,
        num_attention_heads: heads("q_proj")?,
        num_hidden_layers: shapes.count("model.layers.#.**"),
        num_key_value_heads: heads("k_proj")?,
        vocab_size: shapes.rows(&["model.embed_tokens.weight"], "the number of tokens")?,
        ..true_one
    };
    let why = "Qwen3-4B's: weights do not tell";
    let assumptions = vec![assumed("config", "rms_norm_eps, rope_theta, max_position_embeddings", why)];
    finish(&config, names::TEXT_ENCODER, rules, assumptions)
}

/// The name of a dtype in configs of transformers.
fn torch_name(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::BF16 => Some("bfloat16"),
        Dtype::F16 => Some("float16"),
        Dtype::F32 => Some("float32"),
        _ => None,
    }
}

fn vae(shapes: &Shapes<'_>) -> Result<Inferred, InferError> {
    let true_one = known::vae();
    let has_encoder = shapes.has("encoder.conv_in.weight");
    let first = shapes.rows(&["decoder.conv_norm_out.weight", "encoder.conv_in.bias"], "the first block's width")?;
    let latent = shapes.0.get("decoder.conv_in.weight").and_then(|tensor| tensor.info.shape.get(1).copied());
    let latent_channels = latent.ok_or_else(|| InferError::Absent {
        name: "decoder.conv_in.weight".to_owned(),
        tells: "the latent channels",
    })?;
    let why = "FLUX.1's autoencoder: weights do not tell";
    let mut assumptions = vec![assumed("config", "scaling_factor, shift_factor, norm_num_groups", why)];
    let config = if (first, latent_channels) == (true_one.block_out_channels[0], true_one.latent_channels) {
        true_one
    } else {
        let blocks = shapes.count("decoder.up_blocks.#.**");
        let width = |block: u64| {
            let name = format!("decoder.up_blocks.{block}.resnets.0.conv1.bias");
            shapes.rows(&[&name], "the blocks' widths")
        };
        let resnets = shapes.count("decoder.up_blocks.0.resnets.#.**");
        let types = |side: &str, [plain, attending]: [&str; 2]| {
            let attends = |block| shapes.has(&format!("{side}.{block}.attentions.0.group_norm.weight"));
            let name = |block| if attends(block) { attending } else { plain };
            Some((0..blocks).map(|block| name(block).to_owned()).collect())
        };
        VaeConfig {
            down_block_types: types("encoder.down_blocks", super::vae::DOWN),
            up_block_types: types("decoder.up_blocks", super::vae::UP),
            block_out_channels: (0..blocks).rev().map(width).collect::<Result<_, _>>()?,
            in_channels: true_one.in_channels,
            out_channels: shapes.rows(&["decoder.conv_out.bias"], "the image channels")?,
            latent_channels,
            layers_per_block: resnets.saturating_sub(1),
            mid_block_add_attention: shapes.has("decoder.mid_block.attentions.0.group_norm.weight"),
            use_quant_conv: shapes.has("quant_conv.weight"),
            use_post_quant_conv: shapes.has("post_quant_conv.weight"),
            ..true_one
        }
    };
    if !has_encoder {
        assumptions.push(assumed("halves", "decoder", "the file has no encoder, and the audit expects none"));
    }
    let rules = super::rules("vae", Some(config.block_out_channels.len() as u64));
    let mut inferred = finish(&config, Naming::NONE, rules, assumptions)?;
    if !has_encoder {
        let half = inferred.description.catalogue.take();
        let is_kept = |name: &str| !name.starts_with("encoder.") && !name.starts_with("quant_conv.");
        inferred.description.catalogue = half.map(|all: Catalogue| all.only(|tensor| is_kept(&tensor.name)));
    }
    Ok(inferred)
}
