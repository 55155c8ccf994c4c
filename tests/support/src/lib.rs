//! What tests need: made-up checkpoints, which are [`weightsd_samples`]'s, and a [`hub`] that serves them over HTTP as
//! Hugging Face does, with a switch for every fault.

#![forbid(unsafe_code)]

pub mod hub;

pub use weightsd_samples::*;
