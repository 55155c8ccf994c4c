//! Files as shared memory: a file's identity ([`FileIdentity`]), a file held open ([`PinnedFile`]), a mapped file
//! ([`View`]), files passed to another process ([`descriptors`]), and the memory that this takes ([`MemoryUse`]).
//!
//! `unsafe` is allowed here, in `gpu/`, below `mlx-sys/`, at the border of `client/c` and in `client/python/src/dlpack.rs`, and nowhere
//! else; every block says why it is sound.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod accounting;
pub mod activation;
pub mod advice;
pub mod descriptors;
pub mod environment;
pub mod file_limit;
mod free_space;
pub mod heap;
mod identity;
mod locality;
pub mod lookout;
mod mapping;
pub mod memory_lock;
pub mod mounts;
mod pinned;
pub mod pressure;
mod reflink;
mod reserve;
mod residency;
mod sealed;
pub mod signals;
mod store;
mod sync;
mod tether;
mod view;
mod volume;

pub use accounting::MemoryUse;
pub use free_space::free_space;
pub use identity::FileIdentity;
pub use locality::{is_local, is_local_file, is_memory_file};
pub use pinned::{NotRegular, PinnedFile};
pub use reserve::reserve;
pub use sealed::sealed;
pub use store::Store;
pub use sync::sync;
pub use tether::Tether;
pub use view::{MapError, View};
pub use volume::{file_key, file_key_of};
