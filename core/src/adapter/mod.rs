//! Adapters (LoRA, LoKr) as far as their keys tell: which layers they change, and by what kind of matrices. Nothing is
//! computed here.
//!
//! A key is a base, a marker and an ending: `transformer_blocks.0.attn.to_q` `.lora_A` `.weight`. The marker says what
//! the tensor is ([`Kind`]), a [`Targets`] table of the family says which of its layers the base means.

mod key;
mod recognise;
mod targets;

pub use self::{
    key::{AdapterKey, Kind, Unsupported},
    recognise::{AdapterError, Change, LayerKeys, LowRank, Recognised, recognise},
    targets::{Target, Targets},
};
