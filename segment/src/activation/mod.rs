//! The listening socket that a service manager (systemd, launchd) made for this process.

use std::{io, os::unix::net::UnixListener};

use rustix::net::{AddressFamily, SocketType, sockopt};

#[cfg(not(target_os = "macos"))]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(not(target_os = "macos"))]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;

/// The listener that was handed down under `name` (systemd: `FileDescriptorName=`; launchd: the key under `Sockets`),
/// set to nonblocking; `None` when this process was not started by a service manager. Something that is handed down
/// and is not a listening Unix stream socket is an error.
///
/// Call it once, before other threads start: a socket is handed down only once, and on Linux the variables that tell
/// of it are removed from the environment.
///
/// The socket's file belongs to the service manager: do not remove it.
///
/// # Errors
/// When what was handed down is no listening Unix stream socket.
pub fn inherited_listener(name: &str) -> io::Result<Option<UnixListener>> {
    let Some(listener) = platform::inherited_listener(name)? else { return Ok(None) };
    check(&listener, name)?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

fn check(listener: &UnixListener, name: &str) -> io::Result<()> {
    let family = rustix::net::getsockname(listener)?.address_family();
    let problem = if family != AddressFamily::UNIX {
        "is not a Unix socket"
    } else if sockopt::socket_type(listener)? != SocketType::STREAM {
        "is not a stream socket"
    } else if !platform::is_listening(listener)? {
        "is not listening"
    } else {
        return Ok(());
    };
    let message = format!("the socket {name:?} that the service manager handed down {problem}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::OwnedFd};

    use super::*;

    #[test]
    fn without_a_service_manager_there_is_none() {
        if std::env::var_os("LISTEN_FDS").is_none() {
            assert!(inherited_listener("weightsd").unwrap().is_none());
        }
    }

    #[test]
    fn only_listening_unix_stream_sockets_pass() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        check(&listener, "x").unwrap();

        let tcp: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
        let error = check(&UnixListener::from(tcp), "x").unwrap_err();
        assert!(error.to_string().contains("is not a Unix socket"), "{error}");

        #[cfg(not(target_os = "macos"))]
        {
            let connected: OwnedFd = std::os::unix::net::UnixStream::pair().unwrap().0.into();
            let error = check(&UnixListener::from(connected), "x").unwrap_err();
            assert!(error.to_string().contains("is not listening"), "{error}");
        }
    }

    // Runs this test binary again as a service manager would: the socket is its standard input, which
    // LISTEN_FDS_FIRST_FD declares to be the first of those handed down.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_handed_down_socket_is_found() {
        use std::process::{Command, Stdio};

        let folder = tempfile::tempdir().unwrap();
        let listener: OwnedFd = UnixListener::bind(folder.path().join("s")).unwrap().into();
        let run = |socket: Stdio| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "activation::tests::inner", "--ignored"])
                .envs([("LISTEN_FDS", "1"), ("LISTEN_FDS_FIRST_FD", "0")])
                .stdin(socket)
                .output()
                .unwrap()
        };
        let good = run(listener.into());
        assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stdout));
        assert!(!run(Stdio::null()).status.success());
    }

    #[cfg(target_os = "linux")]
    #[test]
    #[ignore = "run by a_handed_down_socket_is_found"]
    fn inner() {
        assert!(inherited_listener("weightsd").unwrap().is_some());
        assert!(std::env::var_os("LISTEN_FDS").is_none());
    }
}
