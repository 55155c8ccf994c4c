//! Finding the daemon's socket and connecting to it. Only a daemon of this user, of root, or of a user whom the environment
//! names, is trusted.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::{net::UnixStream, time::sleep};
use tonic::transport::Channel;
use weightsd_core::places::{self, Platform, SocketPathTooLong};
use weightsd_proto::v1::weights_service_client::WeightsServiceClient;
use weightsd_segment::{
    descriptors, environment,
    file_limit::{self, Raised},
};

/// The variable that names, by its number, another user whose daemon may lend to this process. In a user namespace a user
/// that it does not have is 65534.
const DAEMON_UID: &str = "WEIGHTSD_DAEMON_UID";

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
    /// The daemon runs as another user, who could lend anything, and whom `WEIGHTSD_DAEMON_UID` does not name.
    #[error(
        "the daemon at {} runs as user {uid}, not as you; start your own with `weightsd serve`, or set \
         WEIGHTSD_DAEMON_UID={uid} if you trust that user, who can lend you anything",
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

/// Connects, and makes sure that the daemon belongs to this user, to root, or to the user whom `WEIGHTSD_DAEMON_UID` names.
pub(crate) async fn open(path: &Path) -> Result<UnixStream, ConnectError> {
    places::check_socket_path(path, Platform::current())?;
    let mut patience = Patience::new(Platform::current());
    let stream = loop {
        match UnixStream::connect(path).await {
            Err(error) if patience.allows(&error) => sleep(places::REFUSAL_PAUSE).await,
            connected => break connected.map_err(|error| explain(path, error))?,
        }
    };
    // A socket that the service manager opened shows the service manager's uid, which is ours or root's as well.
    let uid = stream.peer_cred().map_err(|error| explain(path, error))?.uid();
    if !trusts(uid, rustix::process::geteuid().as_raw(), environment::variable(DAEMON_UID).as_deref()) {
        return Err(ConnectError::WrongOwner { path: path.to_owned(), uid });
    }
    Ok(stream)
}

/// Whether a daemon of user `uid` may lend to one of user `own`, whose environment says `named`.
fn trusts(uid: u32, own: u32, named: Option<&str>) -> bool {
    let named = named.and_then(|named| named.parse().ok());
    uid == 0 || uid == own || named == Some(uid)
}

/// Which failures to connect pass by themselves, or can be mended here.
struct Patience {
    platform: Platform,
    /// When the first refusal came.
    refused: Option<Instant>,
}

impl Patience {
    fn new(platform: Platform) -> Patience {
        Patience { platform, refused: None }
    }

    /// Whether it is worth another try.
    fn allows(&mut self, error: &io::Error) -> bool {
        match error.kind() {
            // Linux says so when the queue of the listener is full. The caller's deadline ends this.
            ErrorKind::WouldBlock => true,
            // macOS says so when the queue is full, and every system says so when nobody listens.
            ErrorKind::ConnectionRefused => {
                self.refused.get_or_insert_with(Instant::now).elapsed() < places::refusal_patience(self.platform)
            }
            _ => descriptors::are_exhausted(error) && file_limit::raise().is_ok_and(Raised::is_more),
        }
    }
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
    use std::os::unix::net::{UnixListener, UnixStream as StdStream};

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

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

    /// A real listener with a full queue. `platform` says how the system reports it.
    fn through_a_full_queue(platform: Platform) -> (io::Result<StdStream>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddrUnix::new(folder.path().join("s")).unwrap();
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let connect = || {
            let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
            rustix::io::ioctl_fionbio(&socket, true)?;
            rustix::net::connect(&socket, &address)?;
            Ok::<_, io::Error>(StdStream::from(socket))
        };
        let mut waiting = Vec::new();
        while let Ok(stream) = connect() {
            waiting.push(stream);
        }
        let (mut patience, mut full) = (Patience::new(platform), 0);
        loop {
            let error = match connect() {
                Ok(stream) => return (Ok(stream), full),
                Err(_) if platform == Platform::MacOs => ErrorKind::ConnectionRefused.into(),
                Err(error) => error,
            };
            if !patience.allows(&error) {
                return (Err(error), full);
            }
            full += 1;
            if full == 5 {
                drop(rustix::net::accept(&listener).unwrap());
            }
        }
    }

    #[test]
    fn a_full_queue_is_waited_for() {
        for platform in [Platform::Linux, Platform::MacOs] {
            let (connected, full) = through_a_full_queue(platform);
            assert!(connected.is_ok() && full == 5, "{platform:?}: {connected:?} after {full}");
        }
    }

    #[test]
    fn a_refusal_counts_when_it_lasts() {
        for platform in [Platform::Linux, Platform::MacOs] {
            let (mut patience, mut asked, began) = (Patience::new(platform), 1, Instant::now());
            while patience.allows(&ErrorKind::ConnectionRefused.into()) {
                asked += 1;
            }
            assert!(asked >= 2 && began.elapsed() >= places::refusal_patience(platform));
        }
        let mut patience = Patience::new(Platform::MacOs);
        assert!(!patience.allows(&ErrorKind::PermissionDenied.into()));
        assert!(!patience.allows(&ErrorKind::NotFound.into()));
    }

    #[test]
    fn another_user_is_trusted_by_name_alone() {
        let named = Some;
        assert!(trusts(1000, 1000, None) && trusts(0, 1000, None) && trusts(7, 1000, named("7")));
        assert!(!trusts(7, 1000, None) && !trusts(7, 1000, named("8")) && !trusts(7, 1000, named("root")));
        assert!(trusts(1000, 1000, named("7")), "to name another one takes nothing away");
    }

    #[tokio::test]
    async fn a_listener_of_ours_is_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        open(&path).await.unwrap();
    }
}
