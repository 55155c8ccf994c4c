//! Control ("Fun") checkpoints: blocks beside the transformer's, which take everything else from it. They come without a
//! config; versions are told apart by their tensors.

use serde::Serialize;

use super::{Blueprint, TransformerConfig, WIDTH_MAX, known, transformer::Modulation, within};
use crate::{
    catalogue::{Builder, Catalogue},
    family::InferError,
    pattern::Pattern,
    table::Table,
};

/// Tensors of the transformer whose names begin so are used by the control model too.
const BORROWED: [&str; 7] = [
    "t_embedder.",
    "all_x_embedder.",
    "cap_embedder.",
    "noise_refiner.",
    "context_refiner.",
    "x_pad_token",
    "cap_pad_token",
];
/// The embedder of all versions, and its patch.
const EMBEDDER: &str = "control_all_x_embedder.2-1";
const PATCH_FEATURES: u64 = 4;

/// What distinguishes the published versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ControlVersion {
    /// Union 1.0: plain refiner blocks, 16 input channels.
    #[serde(rename = "1.0")]
    V1,
    /// Union 2.0: no refiner of its own.
    #[serde(rename = "2.0")]
    V2,
    /// Union and Tile 2.1: refiner blocks with projections.
    #[serde(rename = "2.1")]
    V2_1,
    /// 2.1 with three control layers.
    #[serde(rename = "2.1-lite")]
    V2_1Lite,
}

/// A version as its tensors show it.
struct Profile {
    version: ControlVersion,
    layers: u64,
    refiners: Refiners,
    in_dim: u64,
    places: Option<&'static [u64]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refiners {
    None,
    Plain,
    Projected,
}

const EVERY_SECOND: [u64; 15] = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28];

const PROFILES: [Profile; 4] = [
    Profile { version: ControlVersion::V1, layers: 6, refiners: Refiners::Plain, in_dim: 16, places: None },
    Profile {
        version: ControlVersion::V2,
        layers: 15,
        refiners: Refiners::None,
        in_dim: 33,
        places: Some(&EVERY_SECOND),
    },
    Profile {
        version: ControlVersion::V2_1,
        layers: 15,
        refiners: Refiners::Projected,
        in_dim: 33,
        places: Some(&EVERY_SECOND),
    },
    Profile {
        version: ControlVersion::V2_1Lite,
        layers: 3,
        refiners: Refiners::Projected,
        in_dim: 33,
        places: Some(&[0, 10, 20]),
    },
];

/// What is known of a control model, in diffusers' keys where it has them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ControlConfig {
    /// Which version.
    pub version: ControlVersion,
    /// Transformer blocks to which the control layers belong; `None` where the version's are not published.
    pub control_layers_places: Option<Vec<u64>>,
    /// Refiner blocks to which the control refiners belong.
    pub control_refiner_layers_places: Vec<u64>,
    /// Channels of the control latents.
    pub control_in_dim: u64,
    /// What feeds the noise refiner: `null`, `control_layers` or `control_noise_refiner`.
    pub add_control_noise_refiner: Option<&'static str>,
    /// Width.
    pub dim: u64,
    /// Attention heads.
    pub n_heads: u64,
    /// Whether queries and keys are normed.
    pub qk_norm: bool,
    /// Control layers.
    #[serde(skip)]
    pub layers: u64,
    #[serde(skip)]
    refiners: u64,
    #[serde(skip)]
    has_projected_refiners: bool,
}

impl Profile {
    /// The version with that many control layers, that number and kind of refiners, and that many features a patch.
    fn find(layers: u64, refiners: (u64, Refiners), features: u64) -> Result<&'static Self, InferError> {
        let (count, kind) = refiners;
        let fits = |profile: &&Self| {
            (profile.layers, profile.refiners, profile.in_dim * PATCH_FEATURES) == (layers, kind, features)
        };
        let unknown = || InferError::Unknown {
            problem: format!(
                "{layers} control layers, {count} refiners ({}) and {} input channels are no known version: 1.0 has 6, \
                 2 (plain) and 16; 2.0 has 15, none and 33; 2.1 has 15, 2 (projected) and 33; 2.1-lite has 3, \
                 2 (projected) and 33",
                match kind {
                    Refiners::None => "none",
                    Refiners::Plain => "plain",
                    Refiners::Projected => "projected",
                },
                features / PATCH_FEATURES
            ),
        };
        PROFILES.iter().find(fits).ok_or_else(unknown)
    }
}

impl ControlConfig {
    /// Reads the version and the dimensions off the tensors.
    pub(super) fn infer(table: &Table) -> Result<Self, InferError> {
        let shape = |name: &str| table.get(name).map(|tensor| tensor.info.shape.as_slice());
        let embedder = format!("{EMBEDDER}.weight");
        // Rows of the embedder may be packed; its bias never is.
        let bias = format!("{EMBEDDER}.bias");
        let (Some(&[_, features]), Some(&[dim])) = (shape(&embedder), shape(&bias)) else {
            return Err(InferError::Absent { name: embedder, tells: "the width and the control channels" });
        };
        let count = |pattern: &'static str| {
            let pattern = Pattern(pattern);
            let indexes =
                table.tensors().iter().filter_map(|t| Some(*pattern.matches(&t.info.name)?.indexes().first()?));
            indexes.max().map_or(0, |highest| highest.saturating_add(1))
        };
        let (layers, refiner_count) = (count("control_layers.#.**"), count("control_noise_refiner.#.**"));
        let refiners = match (refiner_count, count("control_noise_refiner.#.after_proj.*")) {
            (0, _) => Refiners::None,
            (_, 0) => Refiners::Plain,
            _ => Refiners::Projected,
        };
        let profile = Profile::find(layers, (refiner_count, refiners), features)?;
        let qk_norm = shape("control_layers.0.attention.norm_q.weight");
        let head = match qk_norm {
            Some(&[head]) if head > 0 => head,
            _ => known::transformer().dim / known::transformer().n_heads,
        };
        let config = Self {
            version: profile.version,
            control_layers_places: profile.places.map(<[u64]>::to_vec),
            control_refiner_layers_places: (0..refiner_count).collect(),
            control_in_dim: profile.in_dim,
            add_control_noise_refiner: match profile.version {
                ControlVersion::V1 => None,
                ControlVersion::V2 => Some("control_layers"),
                ControlVersion::V2_1 | ControlVersion::V2_1Lite => Some("control_noise_refiner"),
            },
            dim,
            n_heads: dim / head,
            qk_norm: qk_norm.is_some(),
            layers,
            refiners: refiner_count,
            has_projected_refiners: refiners == Refiners::Projected,
        };
        config.check().map_err(|problem| InferError::Unknown { problem })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        within(&[("dim", self.dim, WIDTH_MAX), ("n_heads", self.n_heads, WIDTH_MAX)])?;
        self.blocks().check()
    }

    /// Its blocks are the transformer's.
    fn blocks(&self) -> TransformerConfig {
        let head = self.dim.checked_div(self.n_heads).unwrap_or_default();
        TransformerConfig {
            dim: self.dim,
            n_heads: self.n_heads,
            n_kv_heads: self.n_heads,
            qk_norm: self.qk_norm,
            // No tensor depends on it, and it is checked against the heads.
            axes_dims: [head, 0, 0],
            ..known::transformer()
        }
    }

    /// The tensors of the control model.
    pub(super) fn catalogue(&self) -> Catalogue {
        let mut tensors = Builder::default();
        let (dim, blocks) = (self.dim, self.blocks());
        tensors.linear_with_bias(EMBEDDER, dim, self.control_in_dim * PATCH_FEATURES);
        let projections = |base: &str, at: u64, tensors: &mut Builder| {
            tensors.linear_with_bias(&format!("{base}.after_proj"), dim, dim);
            if at == 0 {
                tensors.linear_with_bias(&format!("{base}.before_proj"), dim, dim);
            }
        };
        for layer in 0..self.layers {
            let base = format!("control_layers.{layer}");
            blocks.block(&mut tensors, &base, Modulation::Yes);
            projections(&base, layer, &mut tensors);
        }
        for refiner in 0..self.refiners {
            let base = format!("control_noise_refiner.{refiner}");
            blocks.block(&mut tensors, &base, Modulation::Yes);
            if self.has_projected_refiners {
                projections(&base, refiner, &mut tensors);
            }
        }
        tensors.finish()
    }

    /// Names of the transformer's tensors that the control model uses by reference.
    pub(super) fn borrowed(&self) -> Vec<String> {
        let transformer = TransformerConfig { qk_norm: self.qk_norm, ..known::transformer() }.catalogue();
        let is_borrowed = |name: &str| BORROWED.iter().any(|start| name.starts_with(start));
        transformer
            .tensors()
            .iter()
            .filter(|tensor| is_borrowed(&tensor.name))
            .map(|tensor| tensor.name.clone())
            .collect()
    }

    /// Which version it is, and what the tensors' names do not tell.
    pub(super) fn remarks(&self) -> Vec<String> {
        let version = super::to_json(&self.version);
        let version = format!("control version {}", version.as_str().unwrap_or_default());
        let untold = match self.version {
            ControlVersion::V2_1 => Some(
                "2.0 files that carry unused refiners have the same names as 2.1: there \
                 `control_noise_refiner.0.before_proj.weight` holds zeros only",
            ),
            ControlVersion::V1 => Some("the places of the control layers of 1.0 are not told by its file"),
            ControlVersion::V2 | ControlVersion::V2_1Lite => None,
        };
        std::iter::once(version).chain(untold.map(str::to_owned)).collect()
    }
}
