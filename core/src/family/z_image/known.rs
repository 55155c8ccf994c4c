//! The models of the family, how they are told apart, and their configs.

use super::{SchedulerConfig, TextEncoderConfig, TransformerConfig, VaeConfig};
use crate::family::{KnownBy, KnownModel, ModelFacts, Named, Preset, Usual, read_config};

/// What in the configs tells the models apart.
const MODEL_TYPE: KnownBy = KnownBy::Config("`model_type` in model_index.json");
const SHIFT: KnownBy = KnownBy::Config("`shift` in the scheduler's config");

/// Pictures of 1024 by 1024 pixels, from prompts of at most 512 tokens.
macro_rules! preset {
    ($steps:literal steps, guidance $guidance:literal) => {
        Preset(&[
            ("width", Usual::Count(1024)),
            ("height", Usual::Count(1024)),
            ("steps", Usual::Count($steps)),
            ("guidance", Usual::Factor($guidance)),
            ("max_sequence_length", Usual::Count(512)),
        ])
    };
}

/// `Tongyi-MAI/Z-Image-Turbo`: eight function evaluations, no guidance.
pub static TURBO: KnownModel =
    KnownModel { name: "z-image-turbo", ids: &["Tongyi-MAI/Z-Image-Turbo"], preset: preset!(9 steps, guidance 0.0) };

/// `Tongyi-MAI/Z-Image`.
pub static BASE: KnownModel =
    KnownModel { name: "z-image", ids: &["Tongyi-MAI/Z-Image"], preset: preset!(50 steps, guidance 4.0) };

/// Turbo, quantised.
pub static TURBO_8BIT: KnownModel = KnownModel {
    name: "z-image-turbo-8bit",
    ids: &["mzbac/z-image-turbo-8bit", "mzbac/Z-Image-Turbo-8bit"],
    preset: TURBO.preset,
};

/// All of them.
pub static KNOWN: [&KnownModel; 3] = [&TURBO, &BASE, &TURBO_8BIT];

/// From this shift on a scheduler is the base model's.
const BASE_SHIFT_MIN: f64 = 5.0;
/// Up to this shift a scheduler is Turbo's.
const TURBO_SHIFT_MAX: f64 = 3.5;

/// Says which model this is: by id, by what its directory shows, by its name, and else by assumption. `name` is an id
/// or a path as the user wrote it.
pub(super) fn name(name: Option<&str>, facts: &ModelFacts) -> Named {
    let found = |model, by| Named { model, by };
    let name = name.map(|name| name.trim().split([':', '@']).next().unwrap_or_default());
    if let Some(model) = name.and_then(|name| KNOWN.into_iter().find(|model| model.ids.contains(&name))) {
        return found(model, KnownBy::Id);
    }
    if let Some(model) = by_model_type(facts) {
        return found(model, MODEL_TYPE);
    }
    if let Some(model) = by_shift(facts) {
        return found(model, SHIFT);
    }
    if let Some(model) = name.and_then(by_words) {
        return found(model, KnownBy::Name);
    }
    found(&TURBO, KnownBy::Assumed)
}

fn by_model_type(facts: &ModelFacts) -> Option<&'static KnownModel> {
    let index: serde_json::Value = read_config(facts, "model_index.json").ok()?;
    match index["model_type"].as_str()?.to_lowercase().as_str() {
        "z-image" => Some(&BASE),
        "z-image-turbo" => Some(&TURBO),
        _ => None,
    }
}

fn by_shift(facts: &ModelFacts) -> Option<&'static KnownModel> {
    let scheduler: SchedulerConfig = read_config(facts, super::SCHEDULER_CONFIG).ok()?;
    match scheduler.shift {
        shift if shift >= BASE_SHIFT_MIN => Some(&BASE),
        shift if shift <= TURBO_SHIFT_MAX => Some(&TURBO),
        _ => None,
    }
}

fn by_words(name: &str) -> Option<&'static KnownModel> {
    // The last part: a folder above it may be called after anything.
    let name = name.trim_end_matches('/').rsplit('/').next()?.to_lowercase().replace('_', "-");
    if !name.contains("z-image") && !name.contains("zimage") {
        None
    } else if name.contains("turbo") || name.contains("8bit") {
        Some(&TURBO)
    } else {
        Some(&BASE)
    }
}

/// The transformer's config, of both models.
#[must_use]
pub fn transformer() -> TransformerConfig {
    TransformerConfig {
        all_patch_size: vec![2],
        all_f_patch_size: vec![1],
        in_channels: 16,
        dim: 3840,
        n_layers: 30,
        n_refiner_layers: 2,
        n_heads: 30,
        n_kv_heads: 30,
        norm_eps: 1e-5,
        qk_norm: true,
        cap_feat_dim: 2560,
        siglip_feat_dim: None,
        rope_theta: 256.0,
        t_scale: 1000.0,
        axes_dims: [32, 48, 48],
        axes_lens: [1536, 512, 512],
    }
}

/// The text encoder's config: Qwen3-4B.
#[must_use]
pub fn text_encoder() -> TextEncoderConfig {
    TextEncoderConfig {
        attention_bias: false,
        head_dim: 128,
        hidden_size: 2560,
        intermediate_size: 9728,
        max_position_embeddings: 40960,
        num_attention_heads: 32,
        num_hidden_layers: 36,
        num_key_value_heads: 8,
        rms_norm_eps: 1e-6,
        rope_theta: 1_000_000.0,
        vocab_size: 151_936,
        tie_word_embeddings: true,
        dtype: Some("bfloat16".to_owned()),
    }
}

/// The autoencoder's config: FLUX.1's.
#[must_use]
pub fn vae() -> VaeConfig {
    VaeConfig {
        down_block_types: Some(vec!["DownEncoderBlock2D".to_owned(); 4]),
        up_block_types: Some(vec!["UpDecoderBlock2D".to_owned(); 4]),
        act_fn: "silu".to_owned(),
        block_out_channels: vec![128, 256, 512, 512],
        in_channels: 3,
        out_channels: 3,
        latent_channels: 16,
        layers_per_block: 2,
        mid_block_add_attention: true,
        norm_num_groups: 32,
        sample_size: 1024,
        scaling_factor: 0.3611,
        shift_factor: Some(0.1159),
        use_quant_conv: false,
        use_post_quant_conv: false,
    }
}

#[cfg(test)]
mod tests {
    use super::{name as known_as, *};

    fn with(path: &str, json: &str) -> ModelFacts {
        ModelFacts { files: vec![], documents: [(path.to_owned(), json.as_bytes().to_vec())].into() }
    }

    fn shift(shift: f64) -> ModelFacts {
        let json = format!(r#"{{"num_train_timesteps":1000,"shift":{shift:?},"use_dynamic_shifting":false}}"#);
        with(crate::family::z_image::SCHEDULER_CONFIG, &json)
    }

    #[test]
    fn models_are_known_by_id_by_directory_and_by_name() {
        let none = ModelFacts::default();
        let cases = [
            (Some("Tongyi-MAI/Z-Image-Turbo"), &none, "z-image-turbo", KnownBy::Id),
            (Some(" Tongyi-MAI/Z-Image:main "), &none, "z-image", KnownBy::Id),
            (Some("Tongyi-MAI/Z-Image-Turbo@v1"), &shift(6.0), "z-image-turbo", KnownBy::Id),
            (Some("mzbac/Z-Image-Turbo-8bit"), &none, "z-image-turbo-8bit", KnownBy::Id),
            (Some("tongyi-mai/z-image"), &none, "z-image", KnownBy::Name),
            (Some("me/my_zimage_TURBO_v3"), &none, "z-image-turbo", KnownBy::Name),
            (Some("me/z-image-8bit"), &none, "z-image-turbo", KnownBy::Name),
            (Some("/models/turbo/z-image/"), &none, "z-image", KnownBy::Name),
            (Some("/models/x"), &shift(6.0), "z-image", SHIFT),
            (Some("/models/z-image"), &shift(3.0), "z-image-turbo", SHIFT),
            (Some("/models/z-image"), &shift(4.0), "z-image", KnownBy::Name),
            (None, &with("model_index.json", r#"{"model_type":"Z-Image"}"#), "z-image", MODEL_TYPE),
            (None, &with("model_index.json", r#"{"model_type":"z-image-turbo"}"#), "z-image-turbo", MODEL_TYPE),
            (Some("a/flux"), &none, "z-image-turbo", KnownBy::Assumed),
            (Some(":"), &none, "z-image-turbo", KnownBy::Assumed),
            (None, &none, "z-image-turbo", KnownBy::Assumed),
        ];
        for (name, facts, expected, by) in cases {
            let found = known_as(name, facts);
            assert_eq!((found.model.name, found.by), (expected, by), "{name:?}");
        }
    }

    #[test]
    fn presets_differ() {
        let both = |name: &str| [TURBO.preset.get(name), BASE.preset.get(name)].map(Option::unwrap);
        assert_eq!(both("steps"), [9, 50].map(Usual::Count));
        assert_eq!(both("guidance"), [0.0, 4.0].map(Usual::Factor));
        assert_eq!(TURBO.preset, TURBO_8BIT.preset);
    }
}
