//! systemd: descriptors from 3 on, counted in `LISTEN_FDS`; see sd_listen_fds(3).

use std::{env, io, os::unix::net::UnixListener};

use listenfd::ListenFd;
use rustix::net::sockopt;

pub(super) fn inherited_listener(name: &str) -> io::Result<Option<UnixListener>> {
    let mut sockets = ListenFd::from_env();
    // Names are optional, and systemd's default is the unit's name: the first socket stands in for an unknown name.
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let index = names.split(':').position(|known| known == name).unwrap_or(0);
    sockets.take_unix_listener(index)
}

pub(super) fn is_listening(listener: &UnixListener) -> io::Result<bool> {
    Ok(sockopt::socket_acceptconn(listener)?)
}
