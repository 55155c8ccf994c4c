//! How the components are found in files without configs: the prefixes of ComfyUI, of diffusers' single files and of the
//! original code, and what must be under them. mflux saves its modules' names and kernels in MLX's order.

use crate::{
    parts::{Housing, Landmark, PartSign},
    pattern::Pattern,
};

const fn p(pattern: &'static str) -> Pattern {
    Pattern(pattern)
}

/// In the order in which problems are reported.
pub(super) static PARTS: [PartSign; 4] = [
    PartSign {
        component: "transformer",
        title: "transformer",
        prefixes: &["model.diffusion_model.", "diffusion_model."],
        shared_prefixes: &["model.model.", "net.", "transformer.", "model.", ""],
        // Lumina 2 has the same names and width 2304.
        shared_shapes: &[&[("cap_embedder.0.weight", &[2560]), ("cap_embedder.1.bias", &[3840])]],
        preferred: &[],
        landmarks: &[Landmark { what: "the caption embedder", any_of: &[&[p("cap_embedder.0.weight")]] }],
        housing: Housing::InAllInOne,
    },
    PartSign {
        component: "text_encoder",
        title: "text encoder",
        prefixes: &["text_encoders.*.transformer.", "cond_stage_model.*.transformer.", "cond_stage_model."],
        shared_prefixes: &["text_encoder.", ""],
        // Any language model has the names; Qwen3-4B has this width, and norms its heads.
        shared_shapes: &[
            &[
                ("model.layers.0.post_attention_layernorm.weight", &[2560]),
                ("model.layers.0.self_attn.q_norm.weight", &[128]),
            ],
            &[("layers.0.post_attention_layernorm.weight", &[2560]), ("layers.0.self_attn.q_norm.weight", &[128])],
        ],
        preferred: &["qwen3_4b"],
        landmarks: &[Landmark {
            what: "the token embedding",
            any_of: &[&[p("model.embed_tokens.weight")], &[p("embed_tokens.weight")]],
        }],
        housing: Housing::InAllInOne,
    },
    PartSign {
        component: "vae",
        title: "VAE",
        prefixes: &["vae.", "first_stage_model."],
        shared_prefixes: &[""],
        shared_shapes: &[
            &[("decoder.conv_in.weight", &[512, 16, 3, 3])],
            &[("decoder.conv_in.conv.weight", &[512, 3, 3, 16])],
        ],
        preferred: &[],
        landmarks: &[
            Landmark {
                what: "the decoder's first and last convolution",
                any_of: &[
                    &[p("decoder.conv_in.weight"), p("decoder.conv_out.weight")],
                    &[p("decoder.conv_in.conv.weight"), p("decoder.conv_out.conv.weight")],
                ],
            },
            Landmark {
                what: "the decoder's blocks, in diffusers' or in ComfyUI's names",
                any_of: &[
                    &[p("decoder.mid_block.**"), p("decoder.up_blocks.**")],
                    &[p("decoder.mid.**"), p("decoder.up.**")],
                ],
            },
        ],
        housing: Housing::InAllInOne,
    },
    PartSign {
        component: "controlnet",
        title: "control model",
        prefixes: &[],
        shared_prefixes: &["model.diffusion_model.", "diffusion_model.", "controlnet.", ""],
        shared_shapes: &[],
        preferred: &[],
        landmarks: &[Landmark { what: "the control embedder", any_of: &[&[p("control_all_x_embedder.*.weight")]] }],
        housing: Housing::Alone,
    },
];
