//! The memory of a process, as the system counts it.

use std::io;

#[cfg(not(target_os = "macos"))]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(not(target_os = "macos"))]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;

/// Memory of a process, in bytes.
///
/// Linux counts pages by how many processes map them. macOS tells only the resident size and the footprint; there
/// `private` is the footprint and `shared` is the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes in memory that the process maps.
    pub resident: u64,
    /// Resident bytes that other processes map too.
    pub shared: u64,
    /// Resident bytes that only this process maps.
    pub private: u64,
    /// Resident bytes, each divided by the number of processes that map it; where the system tells (Linux).
    pub proportional: Option<u64>,
    /// Page tables, which mapped files cost even when their pages are shared; where the system tells (Linux).
    pub page_tables: Option<u64>,
}

impl MemoryUse {
    /// The memory of this process.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn of_self() -> io::Result<MemoryUse> {
        platform::of_process(std::process::id())
    }

    /// Bytes of this process in memory. Costs the same whatever the process maps.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn resident_of_self() -> io::Result<u64> {
        platform::resident_of_self()
    }

    /// The memory of another process of the same user.
    pub fn of_process(pid: u32) -> io::Result<MemoryUse> {
        platform::of_process(pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory() {
        let memory = MemoryUse::of_self().unwrap();
        assert!(memory.resident > 0);
        assert!(memory.private > 0);
        let resident = MemoryUse::resident_of_self().unwrap();
        assert!(resident.abs_diff(memory.resident) < (32 << 20), "{resident} {memory:?}");
        assert!(memory.shared + memory.private <= memory.resident + (1 << 20));
    }

    #[test]
    fn an_allocation_is_private() {
        let before = MemoryUse::of_self().unwrap();
        let block = vec![1_u8; 32 << 20];
        let after = MemoryUse::of_self().unwrap();
        assert!(after.private >= before.private + (24 << 20), "{before:?} {after:?}");
        drop(block);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        MemoryUse::of_process(i32::MAX as u32).unwrap_err();
    }
}
