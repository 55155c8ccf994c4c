//! `libweightsd`: the client of weightsd for C, and for every language that can call C.
//!
//! `include/weightsd.h` is what a program sees; cbindgen makes it of this crate, so the comments on `extern "C"`
//! functions and `repr(C)` types are written for readers of C. What they have in common:
//!
//! - No function unwinds: `guard` turns a panic into an error with code `WEIGHTSD_PANIC`.
//! - Handles are boxes that begin with a tag (`handle`), so a null pointer and a handle of another kind are errors.
//! - The library has no globals. Each connection has a thread of its own (`engine`); calls wait for it on the caller's
//!   thread, and call back there.
//!
//! Unsafe code is that of the border and no other: pointers that come in are read, pointers that go out are kept valid.
//! A caller in C can break every rule of the header, and no check here can prevent it; each `SAFETY` comment names the
//! sentence of the header that it relies on.

#![deny(unsafe_op_in_unsafe_fn)]
#![expect(non_camel_case_types, reason = "the types of a C header, under their names there")]

mod abi;
mod calls;
mod cancellation;
mod component;
mod connection;
mod constants;
mod engine;
mod error;
mod guard;
mod handle;
mod load;
mod notice;
mod options;
mod outgoing;
mod progress;
mod table;
mod text;

pub use abi::{WEIGHTSD_ABI, weightsd_abi, weightsd_version};
pub use calls::{weightsd_audit, weightsd_resolve, weightsd_text_free};
pub use cancellation::{weightsd_cancel, weightsd_cancellation, weightsd_cancellation_free, weightsd_cancellation_new};
pub use component::{
    weightsd_component, weightsd_component_free, weightsd_layer_at, weightsd_layer_count, weightsd_release,
    weightsd_report, weightsd_tensor_at, weightsd_tensor_count, weightsd_tensor_named, weightsd_view_at,
    weightsd_view_count,
};
pub use connection::{weightsd_connect, weightsd_connection, weightsd_disconnect};
pub use constants::{
    weightsd_audit_policy, weightsd_dtype, weightsd_float, weightsd_handoff, weightsd_hold, weightsd_layout,
    weightsd_merged, weightsd_mode, weightsd_network, weightsd_notice_kind, weightsd_phase, weightsd_segment_kind,
    weightsd_verification,
};
pub use error::{weightsd_code, weightsd_error, weightsd_error_free};
pub use load::weightsd_load;
pub use notice::{weightsd_next_notice, weightsd_notice, weightsd_notice_free};
pub use options::{
    weightsd_adapter, weightsd_connect_options, weightsd_load_options, weightsd_model_options, weightsd_quantisation,
};
pub use progress::{weightsd_on_progress, weightsd_progress};
pub use table::{weightsd_coding, weightsd_layer, weightsd_tensor, weightsd_view};
