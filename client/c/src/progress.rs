//! What a caller hears of a load while it waits.

use std::ffi::{c_char, c_void};

use crate::constants::weightsd_phase;

/// How far a load is. Lives until the callback returns.
#[repr(C)]
#[derive(Debug)]
pub struct weightsd_progress {
    /// What is being done.
    pub phase: weightsd_phase,
    /// Requests that wait for this load, this one included.
    pub sharers: u32,
    /// Path of the current file, below the model's directory; empty when there is none.
    pub file: *const c_char,
    /// Files done.
    pub files_done: u32,
    /// Files in all; 0 while unknown.
    pub files_total: u32,
    /// Bytes done in this phase.
    pub bytes_done: u64,
    /// Bytes in all in this phase; 0 while unknown.
    pub bytes_total: u64,
    /// Bytes a second, over the last seconds; 0 while unknown.
    pub bytes_per_second: u64,
    /// Remaining time at that rate, in milliseconds; -1 while unknown.
    pub remaining_ms: i64,
}

/// Hears of a load's progress. Returns whether the load goes on. It may call any function of this library but those that
/// free what the load uses. No exception and no `longjmp` may leave it.
pub type weightsd_on_progress =
    Option<unsafe extern "C" fn(progress: *const weightsd_progress, context: *mut c_void) -> bool>;
