//! Finding the daemon's socket and connecting to it. Only a daemon of this user, or of root, is trusted.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{net::UnixStream, time::sleep};
use tonic::transport::Channel;
use weightsd_core::places::{self, Platform, SocketPathTooLong};
use weightsd_proto::v1::weights_service_client::WeightsServiceClient;
use weightsd_segment::environment;

/// The daemon's service over a connection that is made when it is needed.
pub(crate) type Service = WeightsServiceClient<Channel>;

/// Where the daemon is, and how long to wait for its answers.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Path of the daemon's socket.
    pub socket: PathBuf,
    /// How long connecting, and every call that has no deadline of its own, may take.
    pub deadline: Duration,
}

impl Default for ConnectOptions {
    /// The socket that [`places::socket`] finds in this process's environment, and five seconds.
    fn default() -> ConnectOptions {
        let uid = rustix::process::geteuid().as_raw();
        let socket = places::socket(&environment::variable, uid, Platform::current());
        ConnectOptions { socket, deadline: Duration::from_secs(5) }
    }
}

/// Why there is no connection to a daemon.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The path cannot be that of a socket.
    #[error(transparent)]
    PathTooLong(#[from] SocketPathTooLong),
    /// Nothing is at the path.
    #[error("no daemon is running: there is no socket at {}; start it with `weightsd serve`", .0.display())]
    Absent(PathBuf),
    /// There is a socket, and nobody listens.
    #[error(
        "no daemon is running: nobody listens on the socket at {}, which a daemon left behind; \
         start it with `weightsd serve`",
        .0.display()
    )]
    Stale(PathBuf),
    /// The system does not let this user connect.
    #[error(
        "no permission to connect to the socket at {}: weightsd serves the user who runs it; \
         start your own with `weightsd serve`",
        .0.display()
    )]
    Denied(PathBuf),
    /// The daemon runs as another user, who could lend anything.
    #[error(
        "the daemon at {} runs as user {uid}, not as you; start your own with `weightsd serve`",
        path.display()
    )]
    WrongOwner {
        /// The socket.
        path: PathBuf,
        /// The user the daemon runs as.
        uid: u32,
    },
    /// Another error of the system.
    #[error("cannot connect to the socket at {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: Arc<io::Error>,
    },
}

/// Connects, and makes sure that the daemon belongs to this user or to root.
pub(crate) async fn open(path: &Path) -> Result<UnixStream, ConnectError> {
    places::check_socket_path(path, Platform::current())?;
    let stream = loop {
        match UnixStream::connect(path).await {
            Ok(stream) => break stream,
            // Linux says so when the queue of the listener is full. The caller's deadline ends this.
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(2)).await,
            Err(error) => return Err(explain(path, error)),
        }
    };
    // A socket that the service manager opened shows the service manager's uid, which is ours or root's as well.
    let uid = stream.peer_cred().map_err(|error| explain(path, error))?.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(ConnectError::WrongOwner { path: path.to_owned(), uid });
    }
    Ok(stream)
}

fn explain(path: &Path, error: io::Error) -> ConnectError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => ConnectError::Absent(path),
        ErrorKind::ConnectionRefused => ConnectError::Stale(path),
        ErrorKind::PermissionDenied => ConnectError::Denied(path),
        _ => ConnectError::Io { path, source: Arc::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn the_reasons_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let absent = open(&path).await.unwrap_err();
        assert!(matches!(absent, ConnectError::Absent(_)));
        assert!(absent.to_string().contains(path.to_str().unwrap()), "{absent}");
        assert!(absent.to_string().contains("weightsd serve"), "{absent}");

        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(open(&path).await.unwrap_err(), ConnectError::Stale(_)));

        let long = open(Path::new(&"x".repeat(200))).await.unwrap_err();
        assert!(matches!(long, ConnectError::PathTooLong(_)));

        let denied = explain(&path, ErrorKind::PermissionDenied.into());
        assert!(matches!(denied, ConnectError::Denied(_)));
    }

    #[tokio::test]
    async fn a_listener_of_ours_is_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        open(&path).await.unwrap();
    }
}
