//! Adapters (LoRA, LoHa, LoKr, differences, whole weights): which tensors of a component they change, by what, and how
//! strongly.
//!
//! A key is a base, a marker and an ending: `transformer_blocks.0.attn.to_q` `.lora_A` `.weight`. The marker says what the
//! tensor is ([`Kind`]), a [`Targets`] table of the family says which layers the base means. Everything that the file, its
//! metadata or its config says about a tensor is used or refuses the adapter; [`AdapterReport`] tells what was done.

mod agreement;
mod config;
mod error;
mod file;
mod fit;
mod key;
mod metadata;
mod pattern;
mod plan;
mod recognise;
mod report;
mod settings;
mod strength;
mod targets;
mod twin;

pub use self::{
    config::{ADAPTER_CONFIG, AdapterConfig, AdapterConfigError},
    error::{AdapterError, AdapterRefused},
    file::{Beside, finished, is_config_of},
    key::{AdapterKey, Kind, Unsupported},
    metadata::FileStrengths,
    plan::{AdapterInput, AdapterPlan, Incomplete, merge, plan},
    recognise::{Along, Change, FactorKeys, LayerChange, LowRank, MagnitudeKey, Recognised, WholeWeights, recognise},
    report::{AdapterReport, AppliedStrength},
    strength::{StrengthSource, alphas, number},
    targets::{Share, Side, TargetLayer, Targets, Weights},
    twin::Twin,
};
