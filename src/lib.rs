//! weightsd: a daemon that opens, checks and lends model weights.
//!
//! Read [`pipeline`] first: it is the road from a model's name to a component. [`cache`] keeps what comes out of it,
//! [`handoff`] and [`service`] lend it, [`daemon`] runs them, [`cli`] is what people see.

#![forbid(unsafe_code)]

pub mod assembly;
pub mod cache;
pub mod checkpoint;
pub mod cli;
pub mod component;
mod connections;
pub mod daemon;
mod damper;
pub mod derive;
pub mod disk;
pub mod events;
pub mod flight;
pub mod guests;
pub mod handle;
pub mod handoff;
pub mod lanes;
pub mod live;
pub mod log;
mod messages;
pub mod metrics;
pub mod mirror;
mod pace;
pub mod pipeline;
pub mod private;
pub mod program;
pub mod progress;
pub mod resolve;
pub mod service;
pub mod snapshot;
pub mod source;
pub mod sources;
mod sync;
pub mod tasks;
mod turn;
pub mod vram;
