//! The stage that computes. What a plan says has to be computed ([`weightsd_core::derive`]) is computed by MLX in a
//! process of its own ([`worker`]), which streams it into a file ([`Images`]), and is there for whoever asks again.
//!
//! The process is this program once more. MLX ends a process when it runs out of memory or meets a fault in one of its
//! threads, and keeps memory it once had; neither must be the daemon's lot.

mod arithmetic;
mod images;
mod make;
mod order;
mod process;
pub mod worker;

pub(crate) use self::process::{PULSE, compute, look_for_mlx};
pub use self::{
    images::{Image, ImageError, Images, Partial, Provenance, Stored},
    make::{MakeRoom, Maker, Wanted},
    order::{FailureKind, Order, OrderedFile},
    process::DeriveFailure,
};
