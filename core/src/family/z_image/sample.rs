//! A small model of the family.

use crate::family::Sample;

/// Under a megabyte but for the time embedder, whose matrix is the same at any size.
pub(super) const SAMPLE: Sample = &[
    ("model_index.json", r#"{"_class_name": "ZImagePipeline"}"#),
    (
        "transformer/config.json",
        r#"{
            "_class_name": "ZImageTransformer2DModel", "all_patch_size": [2], "all_f_patch_size": [1],
            "in_channels": 16, "dim": 24, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
            "norm_eps": 1e-05, "qk_norm": true, "cap_feat_dim": 64, "rope_theta": 256.0, "t_scale": 1000.0,
            "axes_dims": [4, 4, 4], "axes_lens": [1536, 512, 512]
        }"#,
    ),
    (
        "text_encoder/config.json",
        r#"{
            "model_type": "qwen3", "attention_bias": false, "head_dim": 16, "hidden_size": 64,
            "intermediate_size": 128, "max_position_embeddings": 4096, "num_attention_heads": 4,
            "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
            "vocab_size": 256, "tie_word_embeddings": true
        }"#,
    ),
    (
        "vae/config.json",
        r#"{
            "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [4, 8, 16, 16],
            "in_channels": 3, "out_channels": 3, "latent_channels": 16, "layers_per_block": 2,
            "mid_block_add_attention": true, "norm_num_groups": 4, "sample_size": 64, "scaling_factor": 0.3611,
            "shift_factor": 0.1159, "use_quant_conv": false, "use_post_quant_conv": false
        }"#,
    ),
];
