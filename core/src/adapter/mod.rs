//! Adapters (LoRA, LoHa, LoKr, full differences): which layers they change, and what they add to each.
//!
//! A key is a base, a marker and an ending: `transformer_blocks.0.attn.to_q` `.lora_A` `.weight`. The marker says what
//! the tensor is ([`Kind`]), a [`Targets`] table of the family says which of its layers the base means.

mod config;
mod error;
mod fit;
mod key;
mod plan;
mod recognise;
mod report;
mod targets;

pub use self::{
    config::{ADAPTER_CONFIG, AdapterConfig, AdapterConfigError},
    error::{AdapterError, AdapterRefused},
    key::{AdapterKey, Kind, Unsupported},
    plan::{AdapterInput, AdapterPlan, plan},
    recognise::{Change, FactorKeys, LayerKeys, LowRank, Recognised, Written, recognise},
    report::AdapterReport,
    targets::{Target, Targets},
};
