//! The configs, as the libraries that write them name their keys. Unknown keys are ignored. Keys that every writer
//! gives are required; the others have the default of diffusers or transformers.

use serde::{Deserialize, Serialize};

/// `transformer/config.json` (diffusers' `ZImageTransformer2DModel`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransformerConfig {
    /// Spatial patch sizes; one embedder and one final layer each.
    #[serde(default = "default_patch_sizes")]
    pub all_patch_size: Vec<u64>,
    /// Frame patch sizes, paired with `all_patch_size`.
    #[serde(default = "default_frame_patch_sizes")]
    pub all_f_patch_size: Vec<u64>,
    /// Latent channels.
    pub in_channels: u64,
    /// Width.
    pub dim: u64,
    /// Main blocks.
    pub n_layers: u64,
    /// Blocks of the noise refiner, and of the context refiner.
    pub n_refiner_layers: u64,
    /// Attention heads.
    pub n_heads: u64,
    /// Key and value heads; equal to `n_heads` in every Z-Image.
    pub n_kv_heads: u64,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Whether queries and keys are normed.
    pub qk_norm: bool,
    /// Width of the text encoder's states.
    pub cap_feat_dim: u64,
    /// Width of SigLIP features; set in Omni variants only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub siglip_feat_dim: Option<u64>,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Scale of the time step.
    pub t_scale: f64,
    /// Head dimensions for each axis; their sum is the head's width.
    pub axes_dims: [u64; 3],
    /// Longest position on each axis.
    pub axes_lens: [u64; 3],
}

fn default_patch_sizes() -> Vec<u64> {
    vec![2]
}

fn default_frame_patch_sizes() -> Vec<u64> {
    vec![1]
}

/// `vae/config.json` (diffusers' `AutoencoderKL`). Keys that older versions did not write have diffusers' defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Kind of each encoder block, by class; all of the plain kind where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_block_types: Option<Vec<String>>,
    /// Kind of each decoder block, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_block_types: Option<Vec<String>>,
    /// The activation; none that diffusers has holds tensors.
    #[serde(default = "silu")]
    pub act_fn: String,
    /// Channels of each block.
    pub block_out_channels: Vec<u64>,
    /// Channels of a picture that is read.
    pub in_channels: u64,
    /// Channels of a picture that is written.
    pub out_channels: u64,
    /// Latent channels.
    pub latent_channels: u64,
    /// Residual layers of an encoder block; a decoder block has one more.
    pub layers_per_block: u64,
    /// Whether the middle block attends; diffusers' default is yes.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// Groups of the group norms; diffusers' default is 32.
    #[serde(default = "thirty_two")]
    pub norm_num_groups: u64,
    /// Side of the training pictures; diffusers' default is 32.
    #[serde(default = "thirty_two")]
    pub sample_size: u64,
    /// Factor of the latents.
    pub scaling_factor: f64,
    /// Shift of the latents.
    #[serde(default)]
    pub shift_factor: Option<f64>,
    /// Whether a 1x1 convolution follows the encoder; diffusers' default is yes.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder; diffusers' default is yes.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
}

fn yes() -> bool {
    true
}

fn thirty_two() -> u64 {
    32
}

fn silu() -> String {
    "silu".to_owned()
}

/// Latents are cut into patches of this many on a side.
const LATENT_PATCH: u64 = 2;

impl VaeConfig {
    /// Pixels on a side of a picture for each latent: every block but the last halves the size.
    #[must_use]
    pub fn scale_factor(&self) -> u64 {
        1 << self.block_out_channels.len().saturating_sub(1).min(63)
    }

    /// The sides of a picture are multiples of this.
    #[must_use]
    pub fn picture_multiple(&self) -> u64 {
        self.scale_factor().saturating_mul(LATENT_PATCH)
    }
}

/// `scheduler/scheduler_config.json` (diffusers' `FlowMatchEulerDiscreteScheduler`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// Training time steps.
    pub num_train_timesteps: u64,
    /// Shift of the time steps: 3 for Turbo, 6 for the base model.
    pub shift: f64,
    /// Whether the shift follows the picture's size.
    pub use_dynamic_shifting: bool,
    /// Shift at `base_image_seq_len`, when dynamic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_shift: Option<f64>,
    /// Shift at `max_image_seq_len`, when dynamic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_shift: Option<f64>,
    /// Smallest picture, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_image_seq_len: Option<u64>,
    /// Largest picture, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_image_seq_len: Option<u64>,
}

/// `text_encoder/config.json` (transformers' `Qwen3Config`), in the spelling of transformers 4 and of 5.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "WrittenTextEncoderConfig")]
pub struct TextEncoderConfig {
    /// Whether attention projections have biases.
    pub attention_bias: bool,
    /// Width of a head.
    pub head_dim: u64,
    /// Width.
    pub hidden_size: u64,
    /// Width of the feed-forward layers.
    pub intermediate_size: u64,
    /// Longest position.
    pub max_position_embeddings: u64,
    /// Query heads.
    pub num_attention_heads: u64,
    /// Layers.
    pub num_hidden_layers: u64,
    /// Key and value heads.
    pub num_key_value_heads: u64,
    /// Epsilon of the norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Tokens.
    pub vocab_size: u64,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// The dtype the weights were saved with, such as `bfloat16`.
    pub dtype: Option<String>,
}

/// As written: transformers 5 moved `rope_theta` into `rope_parameters` and renamed `torch_dtype`.
#[derive(Deserialize)]
struct WrittenTextEncoderConfig {
    #[serde(default)]
    attention_bias: bool,
    head_dim: Option<u64>,
    hidden_size: u64,
    intermediate_size: u64,
    max_position_embeddings: u64,
    num_attention_heads: u64,
    num_hidden_layers: u64,
    num_key_value_heads: u64,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    vocab_size: u64,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    dtype: Option<String>,
    torch_dtype: Option<String>,
}

#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
}

impl TryFrom<WrittenTextEncoderConfig> for TextEncoderConfig {
    type Error = &'static str;

    fn try_from(written: WrittenTextEncoderConfig) -> Result<Self, Self::Error> {
        let nested = written.rope_parameters.and_then(|parameters| parameters.rope_theta);
        let head_dim = match written.head_dim {
            Some(head_dim) => head_dim,
            None => written
                .hidden_size
                .checked_div(written.num_attention_heads)
                .ok_or("`head_dim` is absent and `num_attention_heads` is 0")?,
        };
        Ok(Self {
            attention_bias: written.attention_bias,
            head_dim,
            hidden_size: written.hidden_size,
            intermediate_size: written.intermediate_size,
            max_position_embeddings: written.max_position_embeddings,
            num_attention_heads: written.num_attention_heads,
            num_hidden_layers: written.num_hidden_layers,
            num_key_value_heads: written.num_key_value_heads,
            rms_norm_eps: written.rms_norm_eps,
            rope_theta: written
                .rope_theta
                .or(nested)
                .ok_or("neither `rope_theta` nor `rope_parameters.rope_theta` is there")?,
            vocab_size: written.vocab_size,
            tie_word_embeddings: written.tie_word_embeddings,
            dtype: written.dtype.or(written.torch_dtype),
        })
    }
}
