//! A key of an adapter's file, taken apart.

use std::fmt;

use crate::quantisation::side_layer;

/// What a tensor of an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The matrix from the layer's input to the rank, `[rank, input]`.
    Down,
    /// The matrix from the rank to the layer's output, `[output, rank]`.
    Up,
    /// mlx-lm's matrix from the input to the rank, which is written `[input, rank]`.
    MlxDown,
    /// mlx-lm's matrix from the rank to the output, which is written `[rank, output]`.
    MlxUp,
    /// The core between the two, `[rank, rank, kernel]`.
    Core,
    /// The scalar that scales the pair, or the product.
    Alpha,
    /// LoKr's first factor.
    LokrW1,
    /// The left matrix of LoKr's first factor.
    LokrW1A,
    /// The right matrix of LoKr's first factor.
    LokrW1B,
    /// LoKr's second factor.
    LokrW2,
    /// The left matrix of LoKr's second factor.
    LokrW2A,
    /// The right matrix of LoKr's second factor.
    LokrW2B,
    /// The core of LoKr's second factor.
    LokrCore,
    /// The left matrix of LoHa's first factor.
    HadaW1A,
    /// The right matrix of LoHa's first factor.
    HadaW1B,
    /// The left matrix of LoHa's second factor.
    HadaW2A,
    /// The right matrix of LoHa's second factor.
    HadaW2B,
    /// The core of LoHa's first factor.
    HadaCore1,
    /// The core of LoHa's second factor.
    HadaCore2,
    /// DoRA's magnitudes, one for each row of the weight: PEFT's and mlx-lm's.
    RowMagnitude,
    /// DoRA's magnitudes, for rows or for columns, as their shape says: LyCORIS' and OneTrainer's.
    Magnitude,
    /// The difference of a weight.
    Difference,
    /// The difference of a bias.
    BiasDifference,
}

impl Kind {
    /// Whether the matrices beside it mean something else without it.
    #[must_use]
    pub fn completes(self) -> bool {
        use Kind::{Core, HadaCore1, HadaCore2, LokrCore, Magnitude, RowMagnitude};
        matches!(self, Core | LokrCore | HadaCore1 | HadaCore2 | RowMagnitude | Magnitude)
    }
}

/// Kinds of tensors that are recognised and not applied. One of them alone refuses an adapter: without it the others would
/// make another model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unsupported {
    /// The bias of a low-rank pair, PEFT's `lora_bias`.
    PairBias,
    /// A core of LoKr's first factor, and the matrices around it.
    FirstCore,
    /// The pair of an embedding, whose rows are looked up.
    Embedding,
    /// Rows of an embedding that were trained alone, PEFT's `trainable_token_indices`.
    Tokens,
    /// Scales and the like of matrices that are quantised themselves.
    QuantisedMatrix,
    /// A tensor of another method, by its name.
    Method(&'static str),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PairBias => "biases of low-rank pairs (`lora_bias`)",
            Self::FirstCore => "cores of LoKr's first factor",
            Self::Embedding => "pairs of embeddings",
            Self::Tokens => "trained rows of an embedding",
            Self::QuantisedMatrix => "matrices that are quantised themselves",
            Self::Method(name) => name,
        })
    }
}

/// A key, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterKey<'a> {
    /// The part before the marker, prefixes included.
    pub base: &'a str,
    /// The kind that the marker names.
    pub kind: Result<Kind, Unsupported>,
    /// The part after the marker, without its dot: `weight`, `default.weight`, or empty.
    pub ending: &'a str,
}

/// PEFT's name of an adapter that nobody named. Writers leave it out as often as not.
const DEFAULT_NAME: &str = "default";

const IA3: Result<Kind, Unsupported> = Err(Unsupported::Method("IA3"));
const OFT: Result<Kind, Unsupported> = Err(Unsupported::Method("OFT or BOFT"));
const GLORA: Result<Kind, Unsupported> = Err(Unsupported::Method("GLoRA"));
const VERA: Result<Kind, Unsupported> = Err(Unsupported::Method("VeRA"));
const ADALORA: Result<Kind, Unsupported> = Err(Unsupported::Method("AdaLoRA"));
const KASA: Result<Kind, Unsupported> = Err(Unsupported::Method("KaSA"));
const FROM_COMFY: Result<Kind, Unsupported> = Err(Unsupported::Method("ComfyUI's whole or reshaped weights"));

/// Markers by their text.
const MARKERS: [(&str, Result<Kind, Unsupported>); 59] = [
    (".lora_down", Ok(Kind::Down)),
    (".lora_up", Ok(Kind::Up)),
    (".lora_mid", Ok(Kind::Core)),
    (".lora_A", Ok(Kind::Down)),
    (".lora_B", Ok(Kind::Up)),
    (".lora.down", Ok(Kind::Down)),
    (".lora.up", Ok(Kind::Up)),
    (".lora_a", Ok(Kind::MlxDown)),
    (".lora_b", Ok(Kind::MlxUp)),
    (".lora_bias", Err(Unsupported::PairBias)),
    (".lora_embedding_A", Err(Unsupported::Embedding)),
    (".lora_embedding_B", Err(Unsupported::Embedding)),
    (".lora_magnitude_vector", Ok(Kind::RowMagnitude)),
    (".dora_scale", Ok(Kind::Magnitude)),
    (".lokr_w1", Ok(Kind::LokrW1)),
    (".lokr_w1_a", Ok(Kind::LokrW1A)),
    (".lokr_w1_b", Ok(Kind::LokrW1B)),
    (".lokr_w2", Ok(Kind::LokrW2)),
    (".lokr_w2_a", Ok(Kind::LokrW2A)),
    (".lokr_w2_b", Ok(Kind::LokrW2B)),
    (".lokr_t1", Err(Unsupported::FirstCore)),
    (".lokr_t2", Ok(Kind::LokrCore)),
    (".hada_w1_a", Ok(Kind::HadaW1A)),
    (".hada_w1_b", Ok(Kind::HadaW1B)),
    (".hada_w2_a", Ok(Kind::HadaW2A)),
    (".hada_w2_b", Ok(Kind::HadaW2B)),
    (".hada_t1", Ok(Kind::HadaCore1)),
    (".hada_t2", Ok(Kind::HadaCore2)),
    (".diff", Ok(Kind::Difference)),
    (".diff_b", Ok(Kind::BiasDifference)),
    // LyCORIS's names of the same two for norms.
    (".w_norm", Ok(Kind::Difference)),
    (".b_norm", Ok(Kind::BiasDifference)),
    (".alpha", Ok(Kind::Alpha)),
    (".trainable_tokens_delta", Err(Unsupported::Tokens)),
    (".trainable_tokens_original", Err(Unsupported::Tokens)),
    (".ia3_l", IA3),
    (".on_input", IA3),
    (".oft_blocks", OFT),
    (".oft_diag", OFT),
    (".oft_R", OFT),
    (".oft_r", OFT),
    (".oft_s", OFT),
    (".rescale", OFT),
    (".boft_R", OFT),
    (".boft_s", OFT),
    (".a1", GLORA),
    (".a2", GLORA),
    (".b1", GLORA),
    (".b2", GLORA),
    (".bm", GLORA),
    (".vera_lambda_b", VERA),
    (".vera_lambda_d", VERA),
    (".vera_A", VERA),
    (".vera_B", VERA),
    (".lora_E", ADALORA),
    (".ranknum", ADALORA),
    (".lora_diag", KASA),
    (".set_weight", FROM_COMFY),
    (".reshape_weight", FROM_COMFY),
];

/// Endings of the scales of quantised matrices, beside those that formats of layers have.
const SCALES: [&str; 3] = ["scales", "biases", "scale"];

/// mlx-lm's name of DoRA's magnitudes, at the end of a key.
const MLX_MAGNITUDE: &str = ".m";

impl<'a> AdapterKey<'a> {
    /// Takes a key apart; `None` when it has no marker.
    #[must_use]
    pub fn parse(key: &'a str) -> Option<Self> {
        let marked = MARKERS.iter().find_map(|&(marker, kind)| {
            // The last one: `model.diffusion_model.x.diff` has `.diff` twice.
            let (base, rest) = key.rsplit_once(marker)?;
            // A marker is whole: `.lokr_w1` is no marker of `x.lokr_w1_a`.
            let ending = if rest.is_empty() { rest } else { rest.strip_prefix('.')? };
            Some(Self { base, kind, ending })
        });
        let magnitude = || {
            let base = key.strip_suffix(MLX_MAGNITUDE)?;
            Some(Self { base, kind: Ok(Kind::RowMagnitude), ending: "" })
        };
        let found = marked.or_else(magnitude)?;
        if found.base.is_empty() {
            return None;
        }
        let last = found.ending.rsplit('.').next();
        let kind = match found.kind {
            // The bias of a pair has the marker of its matrix, and this ending.
            Ok(_) if last == Some("bias") => Err(Unsupported::PairBias),
            // What lies beside a matrix that is stored in codes.
            Ok(_) if last.is_some_and(|last| SCALES.contains(&last)) || side_layer(key).is_some() => {
                Err(Unsupported::QuantisedMatrix)
            }
            kind => kind,
        };
        Some(Self { kind, ..found })
    }

    /// The adapter of PEFT that the key belongs to; a file may hold several. Empty for the unnamed one.
    #[must_use]
    pub fn adapter_name(&self) -> &'a str {
        let name = match self.ending.rsplit_once('.') {
            Some((name, "weight" | "bias")) => name,
            None if matches!(self.ending, "weight" | "bias") => "",
            _ => self.ending,
        };
        if name == DEFAULT_NAME { "" } else { name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_taken_apart() {
        let cases: [(&str, &str, Result<Kind, Unsupported>, &str); 31] = [
            ("a.b.lora_down.weight", "a.b", Ok(Kind::Down), "weight"),
            ("a.b.lora_up.weight", "a.b", Ok(Kind::Up), "weight"),
            ("a.b.lora_A.weight", "a.b", Ok(Kind::Down), "weight"),
            ("a.b.lora_B.default.weight", "a.b", Ok(Kind::Up), "default.weight"),
            ("a.b.lora_B.my_style.weight", "a.b", Ok(Kind::Up), "my_style.weight"),
            ("a.b.lora_A", "a.b", Ok(Kind::Down), ""),
            ("a.b.lora.down.weight", "a.b", Ok(Kind::Down), "weight"),
            ("a.b.lora.up.weight", "a.b", Ok(Kind::Up), "weight"),
            ("a.b.lora_a", "a.b", Ok(Kind::MlxDown), ""),
            ("a.b.lora_b", "a.b", Ok(Kind::MlxUp), ""),
            ("lora_unet_a_b.alpha", "lora_unet_a_b", Ok(Kind::Alpha), ""),
            ("a.lokr_w1", "a", Ok(Kind::LokrW1), ""),
            ("a.lokr_w2", "a", Ok(Kind::LokrW2), ""),
            ("a.lokr_w1_a", "a", Ok(Kind::LokrW1A), ""),
            ("a.lokr_w2_b", "a", Ok(Kind::LokrW2B), ""),
            ("a.lokr_t2", "a", Ok(Kind::LokrCore), ""),
            ("a.hada_w1_a", "a", Ok(Kind::HadaW1A), ""),
            ("a.hada_t1", "a", Ok(Kind::HadaCore1), ""),
            ("a.dora_scale", "a", Ok(Kind::Magnitude), ""),
            ("a.lora_magnitude_vector.weight", "a", Ok(Kind::RowMagnitude), "weight"),
            ("a.q_proj.m", "a.q_proj", Ok(Kind::RowMagnitude), ""),
            ("a.diff", "a", Ok(Kind::Difference), ""),
            ("model.diffusion_model.a.diff", "model.diffusion_model.a", Ok(Kind::Difference), ""),
            ("a.diff_b", "a", Ok(Kind::BiasDifference), ""),
            ("a.lora_B.bias", "a", Err(Unsupported::PairBias), "bias"),
            ("a.lora_embedding_A", "a", Err(Unsupported::Embedding), ""),
            ("a.lora_mid.weight", "a", Ok(Kind::Core), "weight"),
            ("a.lora_A.weight_scale", "a", Err(Unsupported::QuantisedMatrix), "weight_scale"),
            ("a.lora_down.default.scale_weight", "a", Err(Unsupported::QuantisedMatrix), "default.scale_weight"),
            ("a.lora_a.scales", "a", Err(Unsupported::QuantisedMatrix), "scales"),
            ("a.lora_B.weight.absmax", "a", Err(Unsupported::QuantisedMatrix), "weight.absmax"),
        ];
        for (key, base, kind, ending) in cases {
            assert_eq!(AdapterKey::parse(key), Some(AdapterKey { base, kind, ending }), "{key}");
        }
        for key in ["a.weight", ".lora_A.weight", "a.lora_Ax", "lora_A.weight", "a.mlp.weight", ".m", ""] {
            assert_eq!(AdapterKey::parse(key), None, "{key}");
        }
    }
}
