//! Memory of NVIDIA's cards that several processes have in common: created once, filled once, handed on as a descriptor, and
//! mapped by each reader. What is decided about weights is decided elsewhere; this crate speaks to the driver.
//!
//! The driver's library is opened when it is first needed, so a program with this crate also runs where there is none. A
//! descriptor keeps its memory alive by itself: who holds one needs neither driver nor context (measured on an H100, driver 580:
//! the process that created the memory was killed, and a process that had never opened libcuda kept it for readers).

mod card;
mod context;
mod copy;
mod error;
mod memory;
mod sys;

pub use self::{
    card::{Card, cards, find, resolve},
    context::Context,
    copy::{Buffer, Piece, Stream},
    error::GpuError,
    memory::{Access, Mapping, Memory},
    sys::LIBRARY,
};
