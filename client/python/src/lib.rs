//! The compiled half of the Python package `weightsd`: the Rust client behind a handful of functions that speak JSON.
//!
//! Requests come as protobuf's JSON and answers go as such, so the shapes of the interface are written down once, in
//! `proto/`, and read by Python's half (`python/weightsd/_messages.py`). What is no message has a class here: a session
//! (`session::Session`), a lease (`lease::Lease`), a stream of events (`events::Events`).
//!
//! Every wait is done without the interpreter's lock, and looks for signals (see `wait`). Nothing here runs Python
//! code on a thread that Python did not make.

#![deny(unsafe_code)]

mod card;
mod dlpack;
mod events;
mod failure;
mod lease;
mod message;
mod session;
mod state;
mod wait;

use pyo3::prelude::*;

/// `weightsd._native`.
#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add("PROTOCOL", weightsd_proto::PROTOCOL)?;
    module.add_class::<session::Session>()?;
    module.add_class::<lease::Lease>()?;
    module.add_class::<lease::Files>()?;
    module.add_class::<card::CardLease>()?;
    module.add_class::<card::CardMemory>()?;
    module.add_class::<events::Events>()?;
    module.add_class::<wait::Cancel>()?;
    module.add_function(wrap_pyfunction!(card::card, module)?)?;
    module.add_function(wrap_pyfunction!(message::selector, module)?)?;
    module.add_function(wrap_pyfunction!(message::descriptors, module)?)?;
    module.add_function(wrap_pyfunction!(session::socket, module)?)?;
    module.add_function(wrap_pyfunction!(dlpack::capsule, module)?)
}
