//! Whether this machine is short of memory, and how much it could give.

#[cfg(not(target_os = "macos"))]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(not(target_os = "macos"))]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;

/// What the system says of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Nobody waits for memory.
    None,
    /// Programs wait for memory: more of it for some is less of it for others.
    High,
    /// The system does not say.
    Unknown,
}

/// How it is now. Reads what the kernel has in memory.
#[must_use]
pub fn pressure() -> Pressure {
    platform::pressure()
}

/// Bytes that files could take up in memory without anything being swapped out; `None` where the system does not say.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    platform::available_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_says_something() {
        assert!(available_bytes().is_none_or(|bytes| bytes > 1 << 20));
        // Any of them may be the case; that asking does no harm is what is tested.
        let _ = pressure();
    }
}
