//! Stories about the real daemon on its real socket. `harness` starts and ends it; `client_process` is this program
//! again, as a client in a process of its own; `raw` speaks the protocols without the client crate.

#![allow(unreachable_pub)] // A test program exports nothing.

mod activation;
mod changes;
mod checkpoints;
mod client_process;
mod crashes;
#[cfg(target_os = "linux")]
mod crowd;
mod harness;
mod hostile;
mod keeping;
mod lending;
mod lifecycle;
mod names;
mod progress;
mod raw;
mod sharing;
mod strangers;
#[cfg(target_os = "linux")]
mod true_size;
