//! Stories about the real daemon on its real socket. `harness` starts and ends it; `client_process` is this program
//! again, as a client in a process of its own.

#![allow(unreachable_pub)] // A test program exports nothing.

mod client_process;
mod harness;
mod lending;
