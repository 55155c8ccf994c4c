//! This program, for those who start it again as a worker.

use std::path::PathBuf;

use crate::lanes::MayBlock;

/// The program of this process, even when its file was replaced since it was started.
///
/// # Errors
/// When the system does not know it.
pub fn this_program(_: &MayBlock<'_>) -> std::io::Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() { Ok(running) } else { std::env::current_exe() }
}
