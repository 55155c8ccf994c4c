//! launchd: `launch_activate_socket`; see launch(3).

use std::{
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::net::UnixListener,
    },
};

use raunch::Error;

pub(super) fn inherited_listener(name: &str) -> io::Result<Option<UnixListener>> {
    let fds = match raunch::activate_socket(name) {
        Ok(fds) => fds,
        Err(Error::NotManaged | Error::NotInPlist) => return Ok(None),
        Err(Error::Unknown(code)) => return Err(io::Error::from_raw_os_error(code)),
        Err(error @ (Error::Null | Error::AlreadyActivated)) => return Err(io::Error::other(error)),
    };
    // SAFETY: launchd opened these descriptors for this process, and this call gives each of them out once.
    let owned = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // A path has one socket; were there more, the rest would be closed here.
    let Some(first) = owned.collect::<Vec<_>>().into_iter().next() else { return Ok(None) };
    // launchd does not promise it, and the socket must not reach the programs we start.
    rustix::io::fcntl_setfd(&first, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Some(UnixListener::from(first)))
}

/// Not known: macOS declares `SO_ACCEPTCONN` and does not implement it. launchd hands down listening sockets only.
pub(super) fn is_listening(_listener: &UnixListener) -> io::Result<bool> {
    Ok(true)
}
