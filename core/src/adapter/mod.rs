//! Adapters (LoRA, LoHa, LoKr, full differences): which layers they change, and what they add to each.
//!
//! A key is a base, a marker and an ending: `transformer_blocks.0.attn.to_q` `.lora_A` `.weight`. The marker says what
//! the tensor is ([`Kind`]), a [`Targets`] table of the family says which of its layers the base means.

mod error;
mod key;
mod recognise;
mod targets;

pub use self::{
    error::{AdapterError, AdapterRefused},
    key::{AdapterKey, Kind, Unsupported},
    recognise::{Change, FactorKeys, LayerKeys, LowRank, Recognised, Written, recognise},
    targets::{Target, Targets},
};
