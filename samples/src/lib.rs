//! Writes checkpoints, as directories and as Hugging Face caches: Z-Image of any size, and the small model of each family
//! ([`Checkpoint::of_family`]).
//!
//! Names and shapes come from the catalogue of `weightsd-core`; configs, indexes, shards and bytes are this crate's
//! own, so that the two check each other. A checkpoint is a value that can be damaged before it is written:
//!
//! ```
//! use weightsd_samples::{Checkpoint, Contents, Dims};
//!
//! let mut checkpoint = Checkpoint::new(&Dims::tiny(), Contents::Random { seed: 7 })?;
//! checkpoint.component_mut("vae").remove("decoder.conv_in.bias").rename("encoder.conv_in.bias", "encoder.conv_in.b");
//! assert_eq!(checkpoint.component("vae").tensors().len(), 243);
//! # Ok::<(), weightsd_samples::FixtureError>(())
//! ```
//!
//! Two files on the road of the data: `checkpoint` holds what is wanted, `plan` says which bytes go where, `directory`
//! and `hub_cache` write them.
//!
//! The same tensors can be written as other programs lay them out: as one file for all components or for one, under
//! the original code's names with fused attention ([`Checkpoint::write_single_file`]), and with packed layers
//! ([`Checkpoint::quantise`]), as mflux saves them ([`Checkpoint::as_mflux`]), and as GGUF ([`Checkpoint::write_gguf`]).
//! Their renames are this crate's own too.

#![forbid(unsafe_code)]

mod checkpoint;
mod component;
mod configs;
mod control;
pub mod damage;
mod dims;
mod directory;
mod error;
mod fill;
mod folders;
mod gguf;
mod hub_cache;
mod mflux;
mod other_layout;
mod plan;
mod python_json;
mod quantised;
mod shards;
mod shared_store;
mod single_file;
mod stream;
mod written;

pub use checkpoint::Checkpoint;
pub use component::{Component, Tensor};
pub use control::ControlVersion;
pub use dims::{Dims, PerComponent};
pub use error::FixtureError;
pub use fill::Contents;
pub use gguf::{GgmlType, GgufForm, GgufValue};
pub use hub_cache::{CacheForm, HubFile, HubFixture, commit_id, git_blob_hash, repo_folder};
pub use quantised::Quantisation;
pub use safetensors::Dtype;
pub use single_file::{FilePart, Names};
pub use written::{Placed, Written, WrittenFile};
