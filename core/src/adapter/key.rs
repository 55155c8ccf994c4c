//! A key of an adapter's file, taken apart.

use std::fmt;

/// What a tensor of an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The matrix from the layer's input to the rank.
    Down,
    /// The matrix from the rank to the layer's output.
    Up,
    /// The scalar that scales the pair, or the product.
    Alpha,
    /// LoKr's first factor.
    LokrW1,
    /// LoKr's second factor.
    LokrW2,
}

/// Tensors of kinds that are not applied. Each is reported by name: leaving one out changes the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unsupported {
    /// A factor of LoKr that is itself a product, or its Tucker core.
    LokrDecomposed,
    /// Hadamard product (LoHa).
    Loha,
    /// The magnitudes of DoRA.
    Dora,
    /// A full difference of a weight or bias.
    Difference,
    /// A bias beside a low-rank pair.
    Bias,
    /// The Tucker core of a convolution's low-rank pair.
    Mid,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LokrDecomposed => "decomposed LoKr factors",
            Self::Loha => "LoHa",
            Self::Dora => "DoRA magnitudes",
            Self::Difference => "full differences",
            Self::Bias => "biases",
            Self::Mid => "Tucker cores",
        })
    }
}

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterKey<'a> {
    /// What stands before the marker, prefixes included.
    pub base: &'a str,
    /// What the marker says.
    pub kind: Result<Kind, Unsupported>,
    /// What stands after the marker, without a dot: `weight`, `default.weight`, nothing. Equal in both of a pair.
    pub ending: &'a str,
}

/// Markers by their text. Where two fit, the longer comes first.
const MARKERS: [(&str, Result<Kind, Unsupported>); 21] = [
    (".lora_down", Ok(Kind::Down)),
    (".lora_up", Ok(Kind::Up)),
    (".lora_mid", Err(Unsupported::Mid)),
    (".lora_A", Ok(Kind::Down)),
    (".lora_B", Ok(Kind::Up)),
    (".lora.down", Ok(Kind::Down)),
    (".lora.up", Ok(Kind::Up)),
    (".lora_bias", Err(Unsupported::Bias)),
    (".lora_magnitude_vector", Err(Unsupported::Dora)),
    (".lokr_w1", Ok(Kind::LokrW1)),
    (".lokr_w2", Ok(Kind::LokrW2)),
    (".lokr_w1_a", Err(Unsupported::LokrDecomposed)),
    (".lokr_w1_b", Err(Unsupported::LokrDecomposed)),
    (".lokr_w2_a", Err(Unsupported::LokrDecomposed)),
    (".lokr_w2_b", Err(Unsupported::LokrDecomposed)),
    (".lokr_t1", Err(Unsupported::LokrDecomposed)),
    (".lokr_t2", Err(Unsupported::LokrDecomposed)),
    (".dora_scale", Err(Unsupported::Dora)),
    (".diff", Err(Unsupported::Difference)),
    (".diff_b", Err(Unsupported::Difference)),
    (".alpha", Ok(Kind::Alpha)),
];

impl<'a> AdapterKey<'a> {
    /// Takes a key apart; `None` when it has no marker.
    #[must_use]
    pub fn parse(key: &'a str) -> Option<Self> {
        if let Some(at) = key.find(".hada_") {
            let ending = key[at + 1..].split_once('.').map_or("", |(_, ending)| ending);
            return Some(Self { base: &key[..at], kind: Err(Unsupported::Loha), ending });
        }
        MARKERS.iter().find_map(|&(marker, kind)| {
            let (base, rest) = key.split_once(marker)?;
            // A marker is whole: `.lokr_w1` is no marker of `x.lokr_w1_a`.
            let ending = if rest.is_empty() { rest } else { rest.strip_prefix('.')? };
            (!base.is_empty()).then_some(Self { base, kind, ending })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_taken_apart() {
        let cases: [(&str, &str, Result<Kind, Unsupported>, &str); 20] = [
            ("a.b.lora_down.weight", "a.b", Ok(Kind::Down), "weight"),
            ("a.b.lora_up.weight", "a.b", Ok(Kind::Up), "weight"),
            ("a.b.lora_A.weight", "a.b", Ok(Kind::Down), "weight"),
            ("a.b.lora_B.default.weight", "a.b", Ok(Kind::Up), "default.weight"),
            ("a.b.lora_A", "a.b", Ok(Kind::Down), ""),
            ("a.b.lora.down.weight", "a.b", Ok(Kind::Down), "weight"),
            ("a.b.lora.up.weight", "a.b", Ok(Kind::Up), "weight"),
            ("lora_unet_a_b.alpha", "lora_unet_a_b", Ok(Kind::Alpha), ""),
            ("a.lokr_w1", "a", Ok(Kind::LokrW1), ""),
            ("a.lokr_w2", "a", Ok(Kind::LokrW2), ""),
            ("a.lokr_w1_a", "a", Err(Unsupported::LokrDecomposed), ""),
            ("a.lokr_w2_b", "a", Err(Unsupported::LokrDecomposed), ""),
            ("a.lokr_t2", "a", Err(Unsupported::LokrDecomposed), ""),
            ("a.hada_w1_a", "a", Err(Unsupported::Loha), ""),
            ("a.dora_scale", "a", Err(Unsupported::Dora), ""),
            ("a.lora_magnitude_vector.weight", "a", Err(Unsupported::Dora), "weight"),
            ("a.diff", "a", Err(Unsupported::Difference), ""),
            ("a.diff_b", "a", Err(Unsupported::Difference), ""),
            ("a.lora_B.bias", "a", Ok(Kind::Up), "bias"),
            ("a.lora_mid.weight", "a", Err(Unsupported::Mid), "weight"),
        ];
        for (key, base, kind, ending) in cases {
            assert_eq!(AdapterKey::parse(key), Some(AdapterKey { base, kind, ending }), "{key}");
        }
        for key in ["a.weight", ".lora_A.weight", "a.lora_Ax", "lora_A.weight", ""] {
            assert_eq!(AdapterKey::parse(key), None, "{key}");
        }
    }
}
