//! The node's mirror, where the setting `mirror_listen` has it: the hub's read interface over what this machine has, or fetches
//! once. Programs reach it with `HF_ENDPOINT`, and another node with `hub_endpoint`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/models/ORG/REPO`, `../revision/REV` | the commit and its files |
//! | `GET /api/models/ORG/REPO/tree/REV` | its files with lengths and hashes |
//! | `HEAD`, `GET /ORG/REPO/resolve/REV/PATH` | what a file is; its content, or a range of it |
//!
//! What is not on this machine is downloaded whole and verified before it is sent. Nobody gets what the hub would refuse
//! (`access`).

mod access;
mod answer;
mod content;
mod found;
mod refused;
mod route;

use std::{convert::Infallible, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use weightsd_core::explain::sentence;

use self::access::Access;
use crate::{cache::Cache, resolve::Allowed};

/// Connections at once; the next one waits.
const CONNECTIONS_MAX: usize = 256;
/// How long the head of a request may take, the pause between two requests included.
const HEAD_MAX: Duration = Duration::from_secs(60);
/// Longest head of a request in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Pause after a failed accept, which mostly means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the mirror listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorPlace(pub SocketAddr);

impl MirrorPlace {
    /// Reads a port of this machine alone, or an address with a port.
    ///
    /// # Errors
    /// When it is neither, with what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str =
            "expected a port of this machine, such as `8014`, or an address with one, such as `0.0.0.0:8014`";
        if let Ok(port) = text.parse::<u16>() {
            return Ok(Self(SocketAddr::from(([127, 0, 0, 1], port))));
        }
        text.parse().map(Self).map_err(|error| format!("`{text}`: {error}: {EXPECTED}"))
    }
}

impl fmt::Display for MirrorPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the mirror works with.
#[derive(Debug)]
pub(crate) struct Mirror {
    cache: Arc<Cache>,
    access: Access,
}

/// Serves the mirror until the daemon stops. A place that is taken keeps nobody from being lent weights: it is said, and
/// there is no mirror. `open` are the repositories that everybody may have without the hub being asked.
pub(crate) fn start(place: MirrorPlace, open: Allowed, cache: &Arc<Cache>) {
    let daemon = cache.daemon();
    match bind(place) {
        Ok(listener) => {
            if !place.0.ip().is_loopback() {
                tracing::warn!(
                    setting = "mirror_listen",
                    "the mirror can be reached from other machines, without encryption"
                );
            }
            let mirror = Arc::new(Mirror { cache: Arc::clone(cache), access: Access::new(open) });
            daemon.tasks().spawn("mirror", serve(listener, mirror));
        }
        Err(error) => tracing::error!(setting = "mirror_listen", "no mirror at {place}: {}", sentence(&error)),
    }
}

fn bind(place: MirrorPlace) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(place.0)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    // Port 0 is any that is free.
    tracing::info!("the mirror is at http://{}", listener.local_addr()?);
    Ok(listener)
}

async fn serve(listener: TcpListener, mirror: Arc<Mirror>) {
    let daemon = mirror.cache.daemon().clone();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = daemon.stopping().cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (mirror, stopping) = (Arc::clone(&mirror), daemon.stopping().clone());
        daemon.tasks().spawn("mirror connection", async move {
            tokio::select! {
                () = answer(stream, mirror) => {}
                () = stopping.cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn answer(stream: TcpStream, mirror: Arc<Mirror>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mirror = Arc::clone(&mirror);
        async move { Ok::<_, Infallible>(answer::answer(&mirror, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away has its reasons.
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_this_machine_s() {
        assert_eq!(MirrorPlace::parse("8014").unwrap().to_string(), "127.0.0.1:8014");
        assert_eq!(MirrorPlace::parse("0.0.0.0:1").unwrap().to_string(), "0.0.0.0:1");
        for bad in ["", "hub", "localhost:8014", "99999", "/run/mirror"] {
            assert!(MirrorPlace::parse(bad).is_err(), "{bad}");
        }
    }
}
