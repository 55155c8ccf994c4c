//! The stage that computes: MLX carries out what a plan says ([`weightsd_core::derive`]), and the result is an image on
//! the disk ([`Images`]) for everyone who asks again.
//!
//! MLX runs in a process of its own ([`worker`]), which is this program once more. It ends its process when it runs out of
//! memory or meets a fault in one of its threads, and it keeps memory that it once had; the daemon must do neither.

mod arithmetic;
mod budget;
mod decode;
mod encoded;
mod engine;
mod engines;
mod image_file;
mod images;
mod locked;
mod make;
mod order;
mod process;
pub mod worker;

pub(crate) use self::process::{PULSE, SILENCE_MAX, compute};
pub use self::{
    engine::{Engine, FoundEngine, Installed, WithoutEngine},
    engines::Engines,
    images::{Image, ImageError, Images, PartialImage, Provenance, StoredImage},
    make::{MakeRoom, Maker, Wanted},
    order::{FailureKind, Order, OrderedFile},
    process::ComputeFailed,
};
