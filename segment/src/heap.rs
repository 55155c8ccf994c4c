//! How the C library keeps memory that was freed.

/// Keeps the heap of this process in at most two arenas. glibc makes eight for each processor, each keeps what it once had,
/// and a daemon that reads large headers on many threads in turn would hold as many copies of the largest. Has an effect
/// before threads are started; does nothing with another C library.
pub fn share_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// One for the main thread, one for the others.
        const ARENAS: i32 = 2;
        // SAFETY: sets a number of the allocator, which takes its own lock; there is no memory in it.
        let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    }
}

/// Gives memory that was freed back to the system, as far as the C library keeps it. Takes milliseconds; does nothing with
/// another C library than glibc.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: the allocator takes its own locks, and touches no memory that is in use.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}
