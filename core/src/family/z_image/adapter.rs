//! Layers of the transformer that adapters change, under the names of trainers.

use crate::adapter::Targets;

const Q: &[&str] = &["attention.to_q"];
const K: &[&str] = &["attention.to_k"];
const V: &[&str] = &["attention.to_v"];
const OUT: &[&str] = &["attention.to_out.0"];
const QKV: &[&str] = &["attention.to_q", "attention.to_k", "attention.to_v"];
const NORM_Q: &[&str] = &["attention.norm_q"];
const NORM_K: &[&str] = &["attention.norm_k"];
const W1: &[&str] = &["feed_forward.w1"];
const W2: &[&str] = &["feed_forward.w2"];
const W3: &[&str] = &["feed_forward.w3"];
const MODULATION: &[&str] = &["adaLN_modulation.0"];

/// Layers of the blocks of three lists and layers outside blocks, under names that are not the transformer's own.
pub(super) static TARGETS: Targets = Targets {
    prefixes: &[
        "base_model.model.",
        "model.diffusion_model.",
        "diffusion_model.",
        "lora_unet_",
        "lora_transformer_",
        "lycoris_",
        "transformer.",
        "model.",
    ],
    others: &["lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "text_encoder.", "text_encoder_2.", "text_encoders."],
    blocks: &[
        ("layers", "layers"),
        ("noise_refiner", "noise_refiner"),
        ("context_refiner", "context_refiner"),
        ("transformer_blocks", "layers"),
        ("single_transformer_blocks", "layers"),
        ("down_blocks", "layers"),
        ("up_blocks", "layers"),
    ],
    layers: &[
        ("attention.to_q", Q),
        ("attention.to_k", K),
        ("attention.to_v", V),
        ("attention.to_out.0", OUT),
        ("attention.to_out", OUT),
        ("attention.out", OUT),
        ("attention.out.0", OUT),
        ("attention.qkv", QKV),
        ("attn.to_q", Q),
        ("attn.to_k", K),
        ("attn.to_v", V),
        ("attn.to_out.0", OUT),
        ("attn.qkv", QKV),
        ("attn1.to_q", Q),
        ("attn1.to_k", K),
        ("attn1.to_v", V),
        ("attn1.to_out.0", OUT),
        ("self_attn.q_proj", Q),
        ("self_attn.k_proj", K),
        ("self_attn.v_proj", V),
        ("self_attn.o_proj", OUT),
        ("attention.q_norm", NORM_Q),
        ("attention.k_norm", NORM_K),
        ("attn.norm_q", NORM_Q),
        ("attn.norm_k", NORM_K),
        ("feed_forward.w1", W1),
        ("feed_forward.w2", W2),
        ("feed_forward.w3", W3),
        ("ff.net.0.proj", W1),
        ("ff.net.2", W2),
        ("mlp.gate_proj", W1),
        ("mlp.down_proj", W2),
        ("mlp.up_proj", W3),
        ("adaLN_modulation.0", MODULATION),
    ],
    singles: &[
        ("all_x_embedder.2-1", "all_x_embedder.2-1"),
        ("x_embedder", "all_x_embedder.2-1"),
        ("all_final_layer.2-1.linear", "all_final_layer.2-1.linear"),
        ("final_layer.linear", "all_final_layer.2-1.linear"),
        ("all_final_layer.2-1.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
        ("final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
        ("cap_embedder.1", "cap_embedder.1"),
        ("t_embedder.mlp.0", "t_embedder.mlp.0"),
        ("t_embedder.mlp.2", "t_embedder.mlp.2"),
    ],
};

/// Layers of the autoencoder, which adapters name as it does.
pub(super) static VAE: Targets = Targets {
    prefixes: &["base_model.model.", "first_stage_model.", "lora_vae_", "lycoris_", "vae."],
    others: &[
        "lora_te_",
        "lora_te1_",
        "lora_te2_",
        "lora_te3_",
        "lora_transformer_",
        "lora_unet_",
        "model.diffusion_model.",
        "diffusion_model.",
        "text_encoder.",
        "text_encoder_2.",
        "text_encoders.",
        "transformer.",
    ],
    blocks: &[],
    layers: &[],
    singles: &[],
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        adapter::{
            AdapterError, Along, Change, FactorKeys, MagnitudeKey, Recognised, Share, Side, Unsupported, Weights,
            WholeWeights, recognise,
        },
        family::z_image::{Blueprint as _, known},
        tool::Tool,
    };

    /// Those of the real transformer.
    fn weights() -> Weights {
        let catalogue = known::transformer().catalogue();
        Weights::new(catalogue.tensors().iter().map(|expected| (expected.name.clone(), expected.shape.clone())))
    }

    fn recognised<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Recognised, AdapterError> {
        recognise(keys, &TARGETS, &weights(), WholeWeights::BesideChanges)
    }

    fn layer(base: &str) -> Option<String> {
        let mut found = TARGETS.find(base, &weights());
        assert!(found.len() <= 1, "{base}");
        found.pop().map(|target| target.layer)
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of names")]
    fn every_name_of_a_layer_is_known() {
        let cases = [
            ("layers.0.attention.to_q", "layers.0.attention.to_q"),
            ("layers.0.attention.to_q.weight", "layers.0.attention.to_q"),
            ("lora_unet_layers_0_attention_to_q", "layers.0.attention.to_q"),
            ("layers_0_attention_to_out_0", "layers.0.attention.to_out.0"),
            ("diffusion_model.layers.29.feed_forward.w3", "layers.29.feed_forward.w3"),
            ("base_model.model.transformer.layers.1.attention.to_v", "layers.1.attention.to_v"),
            ("transformer.transformer_blocks.3.attn.to_k", "layers.3.attention.to_k"),
            ("transformer_blocks.3.attn.to_out.0", "layers.3.attention.to_out.0"),
            ("single_transformer_blocks.4.ff.net.0.proj", "layers.4.feed_forward.w1"),
            ("transformer_blocks.4.ff.net.2", "layers.4.feed_forward.w2"),
            ("lora_unet_transformer_blocks_4_ff_net_0_proj", "layers.4.feed_forward.w1"),
            ("noise_refiner.0.attn.to_q", "noise_refiner.0.attention.to_q"),
            ("lora_unet_noise_refiner_1_feed_forward_w2", "noise_refiner.1.feed_forward.w2"),
            ("context_refiner.1.attention.out", "context_refiner.1.attention.to_out.0"),
            ("lycoris_transformer_blocks_7_attn_to_out_0", "layers.7.attention.to_out.0"),
            ("layers.2.self_attn.o_proj", "layers.2.attention.to_out.0"),
            ("layers.2.mlp.up_proj", "layers.2.feed_forward.w3"),
            ("lora_unet__layers_3_attention_to_q", "layers.3.attention.to_q"),
            ("context.refiner.0.attention.to.q", "context_refiner.0.attention.to_q"),
            ("transformer.noise.refiner.1.feed.forward.w3", "noise_refiner.1.feed_forward.w3"),
            ("layers.0.adaLN_modulation.0", "layers.0.adaLN_modulation.0"),
            ("layers.0.adaLN_modulation_0", "layers.0.adaLN_modulation.0"),
            ("layers.0.adaLN.modulation.0", "layers.0.adaLN_modulation.0"),
            ("lora_unet_noise_refiner_1_adaLN_modulation_0", "noise_refiner.1.adaLN_modulation.0"),
            ("all_x_embedder.2-1", "all_x_embedder.2-1"),
            ("lora_unet_all_x_embedder_2-1", "all_x_embedder.2-1"),
            ("lora_unet_all_x_embedder_2_1", "all_x_embedder.2-1"),
            ("transformer.all.x.embedder.2-1", "all_x_embedder.2-1"),
            ("diffusion_model.x_embedder", "all_x_embedder.2-1"),
            ("all_final_layer.2-1.linear", "all_final_layer.2-1.linear"),
            ("all.final.layer.2-1.linear", "all_final_layer.2-1.linear"),
            ("lora_unet_final_layer_linear", "all_final_layer.2-1.linear"),
            ("all_final_layer.2-1.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
            ("diffusion_model.final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
            ("cap_embedder.1", "cap_embedder.1"),
            ("lora_unet_cap_embedder_1", "cap_embedder.1"),
            ("t.embedder.mlp.0", "t_embedder.mlp.0"),
            ("t_embedder.mlp.2", "t_embedder.mlp.2"),
            ("cap_embedder.0", "cap_embedder.0"),
            ("diffusion_model.layers.0.attention.q_norm", "layers.0.attention.norm_q"),
            ("lora_unet_layers_0_attention_norm1", "layers.0.attention_norm1"),
            ("diffusion_model.layers.1.ffn_norm2", "layers.1.ffn_norm2"),
            ("diffusion_model.x_pad_token", "x_pad_token"),
        ];
        for (base, expected) in cases {
            assert_eq!(layer(base).as_deref(), Some(expected), "{base}");
        }
        for base in [
            "layers.99.attention.to_q",
            "noise_refiner.2.attention.to_q",
            "invalid.path",
            "layers.0.adaLN_modulation.1",
            "all_x_embedder.4-1",
            "context_refiner.0.adaLN_modulation.0",
            "t_embedder.mlp.1",
            "layers.+1.attention.to_q",
            "layers.x.attention.to_q",
            "layers.0",
            "",
            "lora_unet_",
        ] {
            assert_eq!(layer(base), None, "{base}");
        }
    }

    #[test]
    fn zimage_swift_knows_238_of_the_targets_and_the_rest_is_ours() {
        let mut all = BTreeSet::new();
        let weights = weights();
        for (list, _) in TARGETS.blocks {
            for index in 0..40 {
                for (written, _) in TARGETS.layers {
                    let found = TARGETS.find(&format!("{list}.{index}.{written}"), &weights);
                    all.extend(found.into_iter().map(|target| target.layer));
                }
            }
        }
        let is_theirs = |layer: &String| layer.contains(".attention.to_") || layer.contains(".feed_forward.");
        let (theirs, ours): (BTreeSet<_>, BTreeSet<_>) = all.into_iter().partition(is_theirs);
        assert_eq!(theirs.len(), 238);
        // The modulation of all blocks but the context refiner's, and the norms of queries and keys.
        let modulations = ours.iter().filter(|layer| layer.ends_with(".adaLN_modulation.0")).count();
        assert_eq!((ours.len(), modulations), (32 + 68, 32));
        let outside: BTreeSet<_> = TARGETS.singles.iter().map(|(_, layer)| layer).collect();
        assert_eq!(outside.len(), 6);
    }

    #[test]
    fn a_fused_layer_is_three() {
        let found = TARGETS.find("diffusion_model.layers.5.attention.qkv", &weights());
        let shown: Vec<_> = found.iter().map(|target| (target.layer.as_str(), target.share)).collect();
        let expected = [
            ("layers.5.attention.to_q", Share { at: 0, of: 3 }),
            ("layers.5.attention.to_k", Share { at: 1, of: 3 }),
            ("layers.5.attention.to_v", Share { at: 2, of: 3 }),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_file_is_sorted_by_layer() {
        let keys = [
            "diffusion_model.layers.1.attention.to_q.lora_A.weight",
            "diffusion_model.layers.1.attention.to_q.lora_B.weight",
            "diffusion_model.layers.1.attention.to_q.alpha",
            "lora_unet_layers_0_feed_forward_w1.lora_down.weight",
            "lora_unet_layers_0_feed_forward_w1.lora_up.weight",
            "lycoris_transformer_blocks_2_attn_to_k.lokr_w1",
            "lycoris_transformer_blocks_2_attn_to_k.lokr_w2_a",
            "lycoris_transformer_blocks_2_attn_to_k.lokr_w2_b",
            "lycoris_transformer_blocks_2_attn_to_k.alpha",
            "layers.3.attention.to_v.lora_A.weight",
            "layers.4.attention.to_v.lora_A.weight",
            "layers.4.attention.to_v.lora_B.default.weight",
            "layers.5.attention.to_v.lora_A.weight",
            "layers.5.attention.to_v.lora_B.weight",
            "layers.5.attention.to_v.lora_B.bias",
            "layers.5.attention.norm_q.lora_A.weight",
            "layers.5.attention.norm_q.lora_B.weight",
            "layers.6.attention.to_q.hada_w1_a",
            "layers.7.attention.to_q.lokr_w1",
            "layers.7.attention.to_q.lokr_w2_a",
            "layers.7.attention.to_q.lokr_w2_b",
            "layers.7.attention.to_q.lokr_t1",
            "layers.8.attention.to_q.alpha",
            "lora_te_layers_0_self_attn_q_proj.lora_down.weight",
            "text_encoder.layers.0.self_attn.q_proj.lora_up.weight",
            "something.else",
        ];
        let found = recognised(keys).unwrap();
        let layers: Vec<_> = found.changes.iter().map(|change| change.layers[0].layer.as_str()).collect();
        let expected = [
            "layers.0.feed_forward.w1",
            "layers.1.attention.to_q",
            "layers.2.attention.to_k",
            "layers.4.attention.to_v",
            "layers.5.attention.norm_q",
            "layers.5.attention.to_v",
        ];
        assert_eq!(layers, expected);
        assert_eq!(found.changes[1].alphas, [keys[2]]);
        assert!(
            matches!(&found.changes[1].change, Change::LowRank(pair) if pair.down == keys[0] && pair.up == keys[1] && pair.tool == Tool::Unknown)
        );
        let w1 = FactorKeys::Whole(keys[5].to_owned());
        let w2 = FactorKeys::Product(keys[6].to_owned(), keys[7].to_owned());
        assert_eq!(found.changes[2].change, Change::Kronecker { w1, w2 });
        assert_eq!(found.changes[2].alphas, [keys[8]]);
        assert!(found.changes[0].alphas.is_empty());
        assert_eq!(found.without_partner, [keys[9], keys[17], keys[22]]);
        assert!(found.without_target.is_empty());
        let unsupported = [
            (Unsupported::PairBias, vec![keys[14].to_owned()]),
            (Unsupported::FirstCore, [21, 18, 19, 20].map(|at| keys[at].to_owned()).to_vec()),
        ];
        assert_eq!(found.unsupported, unsupported.into());
        assert_eq!(found.other_component, [keys[23], keys[24]]);
        assert_eq!(found.unknown, ["something.else"]);
    }

    #[test]
    fn a_layer_is_one_however_its_tensors_spell_it() {
        let alphas = ["layers.1.attention.to_q", "lora_unet_layers_1_attention_to_q", "transformer.layers.1.attn.to_q"];
        for alpha in alphas.map(|base| format!("{base}.alpha")) {
            let keys = [
                "layers.1.attention.to.q.lora.down.weight",
                "layers.1.attention.to.q.lora.up.weight",
                &alpha,
                "layers.1.attention.to_k.lora_down.weight",
                "diffusion_model.layers.1.attention.to.k.lora_up.weight",
            ];
            let found = recognised(keys).unwrap();
            let [key, query] = &found.changes[..] else { panic!("{found:?}") };
            assert_eq!(
                (key.layers[0].layer.as_str(), query.alphas.as_slice()),
                ("layers.1.attention.to_k", &[alpha][..])
            );
            assert!(key.alphas.is_empty() && found.without_partner.is_empty(), "{found:?}");
        }
    }

    #[test]
    fn differences_and_whole_weights_name_their_tensor() {
        let keys = [
            "diffusion_model.layers.0.attention_norm1.diff",
            "diffusion_model.layers.0.attention.q_norm.w_norm",
            "diffusion_model.x_embedder.diff_b",
            "diffusion_model.x_pad_token.diff",
            "transformer.cap_embedder.1.bias",
            "transformer.t_embedder.mlp.0.modules_to_save.default.weight",
            "transformer.t_embedder.mlp.2.base_layer.bias",
            "transformer.layers.0.attention.to_q.bias",
        ];
        let found = recognised(keys).unwrap();
        let tensors: Vec<_> =
            found.changes.iter().map(|change| (change.layers[0].layer.as_str(), change.side, &change.change)).collect();
        let (full, whole) = (|key: &str| Change::Full(key.to_owned()), |key: &str| Change::Whole(key.to_owned()));
        let expected = [
            ("all_x_embedder.2-1", Side::Bias, &full(keys[2])),
            ("cap_embedder.1", Side::Bias, &whole(keys[4])),
            ("layers.0.attention.norm_q", Side::Weight, &full(keys[1])),
            ("layers.0.attention_norm1", Side::Weight, &full(keys[0])),
            ("t_embedder.mlp.0", Side::Weight, &whole(keys[5])),
            ("t_embedder.mlp.2", Side::Bias, &whole(keys[6])),
            ("x_pad_token", Side::Weight, &full(keys[3])),
        ];
        assert_eq!(tensors, expected);
        // The layer has no bias.
        assert_eq!(found.without_target, ["layers.0.attention.to_q"]);
        let error = recognised(["layers.0.attention.to_q.weight", "layers.0.attention.to_k.weight"]).unwrap_err();
        assert!(matches!(error, AdapterError::WholeWeights { count: 2, .. }), "{error}");
    }

    #[test]
    fn several_adapters_in_a_file_are_refused_with_their_names() {
        let of =
            |name: &str| ["A", "B"].map(|side| format!("transformer.layers.0.attention.to_q.lora_{side}.{name}weight"));
        let keys = [of("default."), of("style.")].concat();
        let error = recognised(keys.iter().map(String::as_str)).unwrap_err();
        assert_eq!(error.to_string(), "the file holds several adapters: `default`, `style`");
        let [down, up] = [&of("")[0], &of("default.")[1]];
        assert_eq!(recognised([down.as_str(), up.as_str()]).unwrap().changes.len(), 1, "unnamed is `default`");
        let same = [of(""), of("default.")].concat();
        assert!(matches!(recognised(same.iter().map(String::as_str)), Err(AdapterError::Twice { .. })));
    }

    #[test]
    fn the_distilled_adapter_of_the_publisher_has_204_layers() {
        let mut keys = Vec::new();
        for (list, blocks) in [("layers", 30), ("noise_refiner", 2), ("context_refiner", 2)] {
            for block in 0..blocks {
                for layer in [
                    "attention_to_q",
                    "attention_to_k",
                    "attention_to_v",
                    "feed_forward_w1",
                    "feed_forward_w2",
                    "feed_forward_w3",
                ] {
                    for marker in ["lora_down.weight", "lora_up.weight", "alpha"] {
                        keys.push(format!("lora_unet__{list}_{block}_{layer}.{marker}"));
                    }
                }
            }
        }
        let found = recognised(keys.iter().map(String::as_str)).unwrap();
        assert_eq!(found.changes.len(), 204);
        assert!(found.changes.iter().all(|change| change.alphas.len() == 1));
    }

    #[test]
    fn a_file_for_another_model_is_refused_with_names() {
        let keys = [
            "lora_unet_layers_99_attention_to_q.lora_down.weight",
            "lora_unet_layers_99_attention_to_q.lora_up.weight",
        ];
        let error = recognised(keys).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("zero valid target layers") && said.contains("layers_99_attention_to_q"), "{said}");
        let error = recognised(["a.lokr_t1", "a.oft_blocks", "b.lora_A.weight"]).unwrap_err();
        assert!(matches!(&error, AdapterError::NoPairs { found: 3, unsupported } if unsupported.len() == 2));
        assert!(error.to_string().contains("cores of LoKr's first factor, OFT or BOFT"), "{error}");
    }

    #[test]
    fn names_of_a_foreign_model_are_sorted_and_counted() {
        let keys: Vec<String> = (0..12)
            .rev()
            .flat_map(|block| ["up", "down"].map(|side| format!("lora_unet_dit_{block:02}_x.lora_{side}.weight")))
            .collect();
        let error = recognised(keys.iter().map(String::as_str)).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("12 changes") && said.contains("dit_00_x, dit_01_x") && said.contains("(4 more)"),
            "{said}"
        );
        assert!(!said.contains("dit_08_x"), "{said}");
        let keys = ["lora_te_layers_0_mlp_up_proj.lora_down.weight", "lora_te_layers_0_mlp_up_proj.lora_up.weight"];
        let said = recognised(keys).unwrap_err().to_string();
        assert!(said.contains("2 keys are for another component"), "{said}");
    }

    #[test]
    fn magnitudes_belong_to_the_changes_of_their_layer() {
        for (magnitude, along) in [
            ("layers.1.attention.to_q.dora_scale", Along::AsShaped),
            ("lora_unet_layers_1_attention_to_q.dora_scale", Along::AsShaped),
            ("layers.1.attention.to_q.lora_magnitude_vector", Along::Rows),
            ("transformer_blocks.1.attn.to_q.lora_magnitude_vector.default.weight", Along::Rows),
            ("layers.1.attention.to_q.m", Along::Rows),
        ] {
            let pair = ["layers.1.attention.to_q.lora_A.weight", "layers.1.attention.to_q.lora_B.weight", magnitude];
            let found = recognised(pair).unwrap();
            let [change] = &found.changes[..] else { panic!("{found:?}") };
            assert_eq!(change.magnitude, Some(MagnitudeKey { key: magnitude.to_owned(), along }));
            assert!(found.without_partner.is_empty(), "{found:?}");
        }
        let other = "text_encoder.layers.0.self_attn.q_proj.dora_scale";
        let pair = ["layers.1.attention.to_q.lora_A.weight", "layers.1.attention.to_q.lora_B.weight", other];
        let found = recognised(pair).unwrap();
        assert_eq!((found.changes.len(), found.other_component), (1, vec![other.to_owned()]));
    }

    #[test]
    fn the_autoencoder_has_names_of_its_own() {
        let catalogue = known::vae().catalogue();
        let tensors = catalogue.tensors().iter().map(|expected| (expected.name.clone(), expected.shape.clone()));
        let weights = Weights::new(tensors);
        for base in [
            "vae.encoder.down_blocks.0.resnets.0.conv1",
            "base_model.model.encoder.down_blocks.0.resnets.0.conv1",
            "lycoris_encoder_down_blocks_0_resnets_0_conv1",
        ] {
            let found = VAE.find(base, &weights);
            assert_eq!(found[0].layer, "encoder.down_blocks.0.resnets.0.conv1", "{base}");
        }
        for base in ["transformer.layers.0.attention.to_q", "lora_unet_layers_0_attention_to_q", "text_encoder.norm"] {
            assert!(VAE.is_of_another(base) && VAE.find(base, &weights).is_empty(), "{base}");
        }
    }
}
