//! Connections: the peer's user is checked first, then the first byte says which protocol it speaks.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use weightsd_core::handoff::MAGIC;
use weightsd_segment::descriptors;

use crate::{cache::Cache, damper::Damper, events::EventKind, handle::Daemon, handoff};

/// How long a connection may take to say its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which mostly means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// First byte of HTTP/2's preface, `PRI * HTTP/2.0`.
const HTTP2: u8 = b'P';

/// Counts a connection for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts connections until the daemon stops. Those that speak HTTP/2 go to `grpc`.
pub(super) async fn accept(
    listener: UnixListener,
    daemon: Daemon,
    cache: Arc<Cache>,
    connections: Arc<AtomicUsize>,
    limit: usize,
    grpc: mpsc::Sender<(UnixStream, Counted)>,
) {
    let uid = rustix::process::geteuid().as_raw();
    let (failures, refusals) = (Damper::new(), Damper::new());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if let Some(untold) = failures.tells() {
                        tracing::warn!(%error, untold, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = daemon.stopping().cancelled() => return,
        };
        let is_free = connections.load(Ordering::Relaxed) < limit;
        let full = || format!("{limit} connections are open, which is the limit");
        let admitted = check_peer(&stream, uid).and_then(|()| is_free.then_some(()).ok_or_else(full));
        if let Err(reason) = admitted {
            if let Some(untold) = refusals.tells() {
                tracing::warn!(reason, untold, "connection refused");
            }
            daemon.events().push(EventKind::Refused, None, reason);
            continue;
        }
        let counted = Counted::new(&connections);
        let (of, cache, grpc) = (daemon.clone(), Arc::clone(&cache), grpc.clone());
        daemon.tasks().spawn("connection", async move {
            if let Err(error) = sort(stream, counted, (&of, &cache), grpc).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}

/// Nothing is read from, or said to, a peer of another user.
pub(super) fn check_peer(stream: &UnixStream, uid: u32) -> Result<(), String> {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == uid => Ok(()),
        Ok(peer) => Err(format!("a process of uid {} connected, and this daemon serves uid {uid} only", peer.uid())),
        Err(error) => Err(format!("the user of a connection is unknown: {error}")),
    }
}

async fn sort(
    stream: UnixStream,
    counted: Counted,
    (daemon, cache): (&Daemon, &Cache),
    grpc: mpsc::Sender<(UnixStream, Counted)>,
) -> io::Result<()> {
    let first = tokio::select! {
        first = tokio::time::timeout(FIRST_BYTE, first_byte(&stream)) => first??,
        () = daemon.stopping().cancelled() => return Ok(()),
    };
    match first {
        Some(HTTP2) => {
            // Fails only when the server has stopped taking connections.
            let _ = grpc.send((stream, counted)).await;
            Ok(())
        }
        Some(MAGIC) => handoff::serve(stream, daemon, cache).await,
        Some(other) => {
            tracing::debug!("a connection begins with byte {other:#04x}, which is neither HTTP/2 nor a hand-off");
            Ok(())
        }
        None => Ok(()),
    }
}

async fn first_byte(stream: &UnixStream) -> io::Result<Option<u8>> {
    stream.async_io(Interest::READABLE, || descriptors::peek_byte(stream.as_fd())).await
}
