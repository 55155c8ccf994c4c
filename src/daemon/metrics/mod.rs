//! Metrics for Prometheus, where the setting `metrics_listen` has them: on a port of this machine or on a socket. Off unless
//! it is set.

mod board;
mod http;

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, UnixListener},
    time::sleep,
};
use weightsd_core::explain::sentence;

use self::board::Board;
pub(super) use self::board::Sources;
use super::{BindError, BoundListener};
use crate::{
    handle::Daemon,
    lanes::{Disks, Kind, Task},
};

/// Pause before a place that is taken is asked for again.
const AGAIN: Duration = Duration::from_millis(250);

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsPlace {
    /// A port of this machine alone.
    Port(SocketAddr),
    /// A socket. Absolute.
    Socket(PathBuf),
}

impl MetricsPlace {
    /// Reads an address. Others than this machine's are refused: metrics say who works on what, and nobody is asked for a
    /// name.
    pub(super) fn of_port(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected an address of this machine with a port, such as `127.0.0.1:9464`, or the absolute path of a socket";
        let address: SocketAddr = text.parse().map_err(|error| format!("`{text}`: {error}: {EXPECTED}"))?;
        match address.ip().is_loopback() {
            true => Ok(Self::Port(address)),
            false => Err(format!("`{text}` can be reached from other machines: {EXPECTED}")),
        }
    }
}

impl fmt::Display for MetricsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => write!(f, "{address}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
enum NotServed {
    #[error("cannot listen on {address}")]
    Port {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Socket(#[from] BindError),
}

/// Serves metrics until the daemon stops. A place that is taken, and not given up within `patience`, keeps nobody from being
/// lent weights: it is said, and there are no metrics.
pub(super) fn start(place: &MetricsPlace, sources: Sources, daemon: &Daemon, patience: Duration) {
    let (place, daemon) = (place.clone(), daemon.clone());
    daemon.clone().tasks().spawn("metrics", async move {
        let found = tokio::select! {
            found = find(&place, &daemon, patience) => found,
            () = daemon.stopping().cancelled() => return,
        };
        match found {
            Ok((listener, where_to)) => {
                tracing::info!("metrics on {where_to}");
                let board = Arc::new(Board::new(sources));
                http::serve(listener, board, daemon).await;
            }
            Err(error) => tracing::error!(setting = "metrics_listen", "no metrics: {}", sentence(&error)),
        }
    });
}

/// Listens at the place, and says where that is.
async fn find(
    place: &MetricsPlace,
    daemon: &Daemon,
    patience: Duration,
) -> Result<(http::Listener, String), NotServed> {
    let asked = Instant::now();
    loop {
        match bind(place, daemon).await {
            Err(_) if asked.elapsed() < patience => sleep(AGAIN).await,
            found => return found,
        }
    }
}

async fn bind(place: &MetricsPlace, daemon: &Daemon) -> Result<(http::Listener, String), NotServed> {
    match place {
        MetricsPlace::Port(address) => {
            let refused = |source| NotServed::Port { address: *address, source };
            let listener = TcpListener::bind(address).await.map_err(refused)?;
            // Port 0 is any that is free.
            let url = format!("http://{}/metrics", listener.local_addr().map_err(refused)?);
            Ok((http::Listener::Port(listener), url))
        }
        MetricsPlace::Socket(path) => {
            let refused = |source| BindError::Io { action: "listen on", path: path.clone(), source };
            let (disks, limit) = (Disks::default(), None);
            let task = Task { operation: "listening", subject: "metrics", disks: &disks, kind: Kind::Look, limit };
            let at = path.clone();
            let bound = daemon.lanes().run(task, move |_| BoundListener::bind(&at)).await;
            let bound = bound.map_err(|error| refused(io::Error::other(error)))??;
            let listener = bound.listener.try_clone().and_then(UnixListener::from_std).map_err(refused)?;
            Ok((http::Listener::Socket { listener, _bound: bound }, path.display().to_string()))
        }
    }
}
