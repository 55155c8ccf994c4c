//! Whether somebody still has a descriptor that was handed out: one end of a pipe travels with it, and the other end tells
//! when the last copy of the first is closed, however its process ended. Nothing is ever written.

use std::{
    io::{self, PipeReader},
    os::fd::{AsRawFd as _, OwnedFd},
};

/// The end that stays.
#[derive(Debug)]
pub struct Tether(PipeReader);

impl Tether {
    /// A tether and the end that travels.
    ///
    /// # Errors
    /// When this process may have no more files open.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (stays, travels) = io::pipe()?;
        Ok((Self(stays), travels.into()))
    }

    /// Whether a process has a copy of the end that travels. Never blocks.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one structure, of an open descriptor; a timeout of 0 makes the call return at once.
        let found = unsafe { libc::poll(&raw mut poll, 1, 0) };
        found == 0 || (found > 0 && poll.revents & libc::POLLHUP == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tether_knows_when_the_last_copy_is_gone() {
        let (tether, travels) = Tether::new().unwrap();
        let copy = travels.try_clone().unwrap();
        drop(travels);
        assert!(tether.is_held());
        drop(copy);
        assert!(!tether.is_held());
    }
}
