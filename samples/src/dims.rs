//! How large a checkpoint is.

use weightsd_core::family::z_image::{SchedulerConfig, TextEncoderConfig, TransformerConfig, VaeConfig, known};

use crate::Dtype;

/// One value for each component with weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerComponent<T> {
    /// The denoiser's.
    pub transformer: T,
    /// The text encoder's.
    pub text_encoder: T,
    /// The autoencoder's.
    pub vae: T,
}

/// The configs of a model, and how its weights are saved. Any values will do that the family accepts; above all
/// `dim / n_heads` must be the sum of `axes_dims`.
#[derive(Debug, Clone, PartialEq)]
pub struct Dims {
    /// `transformer/config.json`.
    pub transformer: TransformerConfig,
    /// `text_encoder/config.json`.
    pub text_encoder: TextEncoderConfig,
    /// `vae/config.json`.
    pub vae: VaeConfig,
    /// `scheduler/scheduler_config.json`.
    pub scheduler: SchedulerConfig,
    /// Dtype of all tensors of a component.
    pub dtypes: PerComponent<Dtype>,
    /// Most bytes of tensors in a file; a larger tensor has a file for itself.
    pub shard_bytes_max: PerComponent<u64>,
}

impl Dims {
    /// `Tongyi-MAI/Z-Image-Turbo` itself: 33 GB.
    #[must_use]
    pub fn true_size() -> Self {
        Self {
            transformer: known::transformer(),
            text_encoder: known::text_encoder(),
            vae: known::vae(),
            scheduler: SchedulerConfig {
                num_train_timesteps: 1000,
                shift: 3.0,
                use_dynamic_shifting: false,
                base_shift: None,
                max_shift: None,
                base_image_seq_len: None,
                max_image_seq_len: None,
            },
            dtypes: PerComponent { transformer: Dtype::F32, text_encoder: Dtype::BF16, vae: Dtype::BF16 },
            // The defaults of diffusers; the text encoder was saved with a limit of 4 GB.
            shard_bytes_max: PerComponent {
                transformer: 10_000_000_000,
                text_encoder: 4_000_000_000,
                vae: 10_000_000_000,
            },
        }
    }

    /// About 110 MB, mostly transformer: large enough to see sharing and progress, written in a second.
    #[must_use]
    pub fn demo() -> Self {
        let mut dims = Self::true_size();
        dims.transformer.dim = 384;
        dims.transformer.n_layers = 6;
        (dims.transformer.n_heads, dims.transformer.n_kv_heads) = (6, 6);
        dims.transformer.axes_dims = [16, 24, 24];
        dims.transformer.cap_feat_dim = 256;
        dims.text_encoder.head_dim = 64;
        dims.text_encoder.hidden_size = 256;
        dims.text_encoder.intermediate_size = 1024;
        (dims.text_encoder.num_attention_heads, dims.text_encoder.num_key_value_heads) = (4, 2);
        (dims.text_encoder.num_hidden_layers, dims.text_encoder.vocab_size) = (6, 4096);
        dims.vae.block_out_channels = vec![32, 64, 128, 128];
        dims.shard_bytes_max.transformer = 36_000_000;
        dims.shard_bytes_max.text_encoder = 5_500_000;
        dims
    }

    /// Under 2 MB, for tests. The time embedder's 1024x256 matrix is the same at any size and is 1 MiB of it: it
    /// exceeds the shard limit here and has a file for itself. The text encoder's matrices have rows of multiples of
    /// 64, so that all of them can be quantised.
    #[must_use]
    pub fn tiny() -> Self {
        let mut dims = Self::true_size();
        dims.transformer.dim = 24;
        dims.transformer.n_layers = 5;
        dims.transformer.n_refiner_layers = 1;
        (dims.transformer.n_heads, dims.transformer.n_kv_heads) = (2, 2);
        dims.transformer.axes_dims = [4, 4, 4];
        dims.transformer.cap_feat_dim = 64;
        dims.text_encoder.head_dim = 16;
        dims.text_encoder.hidden_size = 64;
        dims.text_encoder.intermediate_size = 128;
        (dims.text_encoder.num_attention_heads, dims.text_encoder.num_key_value_heads) = (4, 2);
        (dims.text_encoder.num_hidden_layers, dims.text_encoder.vocab_size) = (3, 256);
        dims.vae.block_out_channels = vec![4, 8, 16, 16];
        dims.vae.norm_num_groups = 4;
        dims.shard_bytes_max.transformer = 240_000;
        dims.shard_bytes_max.text_encoder = 110_000;
        dims
    }
}
