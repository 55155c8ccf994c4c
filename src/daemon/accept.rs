//! Connections: the peer's user is checked first, then the first byte says which protocol it speaks.

use std::{io, os::fd::AsFd as _, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
};
use tokio_util::sync::CancellationToken;
use weightsd_core::handoff::{MAGIC, Reply, Status};
use weightsd_segment::descriptors;

use super::{
    BoundListener,
    takeover::{self, TAKEOVER},
};
use crate::{
    cache::Cache,
    connections::{Connections, Seat},
    damper::Damper,
    events::EventKind,
    guests::{Guests, Peer},
    handle::Daemon,
    handoff,
};

/// How long a connection may take to say its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which mostly means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// First byte of HTTP/2's preface, `PRI * HTTP/2.0`.
const HTTP2: u8 = b'P';

/// How long a connection that is refused may take to say its first byte, and to hear why.
const HEARD: Duration = Duration::from_secs(1);
/// Connections that are told at once why they are refused. Beyond that they are closed without a word.
const TOLD_MAX: usize = 32;

/// What connections are sorted with.
#[derive(Clone)]
pub(super) struct Sorting {
    pub(super) daemon: Daemon,
    pub(super) cache: Arc<Cache>,
    pub(super) connections: Arc<Connections>,
    /// Who is let in beside the daemon's user.
    pub(super) guests: Arc<Guests>,
    /// The socket, which the next daemon may ask for.
    pub(super) bound: Arc<BoundListener>,
    /// Takes those that speak HTTP/2.
    pub(super) grpc: mpsc::Sender<(UnixStream, Seat)>,
    /// Is cancelled when no connection is accepted any more.
    pub(super) closing: CancellationToken,
}

/// Accepts connections until the daemon stops, or another one serves on the socket.
pub(super) async fn accept(listener: UnixListener, sorting: Sorting) {
    let (failures, refusals) = (Damper::new(), Damper::new());
    let telling = Arc::new(Semaphore::new(TOLD_MAX));
    let Sorting { daemon, connections, guests, closing, .. } = &sorting;
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
            () = closing.cancelled() => return,
        };
        let peer = check_peer(&stream, guests);
        let is_ours = peer.is_ok();
        let seat = match peer.and_then(|peer| connections.admit(pid(&stream), peer)) {
            Ok(seat) => seat,
            Err(reason) => {
                if let Some(untold) = refusals.tells() {
                    tracing::warn!(reason, untold, "connection refused");
                }
                // Another user's process learns nothing.
                if is_ours && let Ok(place) = Arc::clone(&telling).try_acquire_owned() {
                    let told = reason.clone();
                    daemon.tasks().spawn("refusal", async move {
                        // A client that does not listen is closed all the same.
                        let _ = tokio::time::timeout(HEARD, refuse(stream, &told)).await;
                        drop(place);
                    });
                }
                daemon.events().push(EventKind::Refused, None, reason);
                continue;
            }
        };
        let with = sorting.clone();
        daemon.tasks().spawn("connection", async move {
            if let Err(error) = sort(stream, seat, &with).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}

/// Nothing is read from, or said to, a peer of a user whom the settings do not let in.
pub(super) fn check_peer(stream: &UnixStream, guests: &Guests) -> Result<Peer, String> {
    let own = rustix::process::geteuid().as_raw();
    let peer = stream.peer_cred().map_err(|error| format!("the user of a connection is unknown: {error}"))?;
    let (uid, gid) = (peer.uid(), peer.gid());
    guests.peer(own, uid, gid).ok_or_else(|| match guests.are_there() {
        false => format!("a process of uid {uid} connected, and this daemon serves uid {own} only"),
        true => {
            format!("a process of uid {uid} and gid {gid} connected, which neither `allow_uids` nor `allow_gids` names")
        }
    })
}

async fn sort(stream: UnixStream, seat: Seat, with: &Sorting) -> io::Result<()> {
    let Sorting { daemon, cache, bound, grpc, .. } = with;
    let first = tokio::select! {
        first = tokio::time::timeout(FIRST_BYTE, first_byte(&stream)) => first??,
        () = daemon.stopping().cancelled() => return Ok(()),
    };
    match first {
        Some(HTTP2) => {
            // Fails only when the server has stopped taking connections.
            let _ = grpc.send((stream, seat)).await;
            Ok(())
        }
        Some(MAGIC) => handoff::serve(stream, daemon, cache, &seat).await,
        Some(TAKEOVER) => tokio::select! {
            given = takeover::give(stream, bound, cache) => given,
            () = daemon.stopping().cancelled() => Ok(()),
        },
        Some(other) => {
            tracing::debug!(
                "a connection begins with byte {other:#04x}, which is none of HTTP/2, a hand-off, a takeover"
            );
            Ok(())
        }
        None => Ok(()),
    }
}

/// The process at the other end; 0 when the system does not say.
fn pid(stream: &UnixStream) -> u32 {
    stream.peer_cred().ok().and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default()
}

/// Says why a connection is refused, in the protocol that it begins with.
async fn refuse(mut stream: UnixStream, reason: &str) -> io::Result<()> {
    match first_byte(&stream).await? {
        Some(HTTP2) => stream.write_all(&goaway(reason)).await?,
        Some(MAGIC) => stream.write_all(&Reply { status: Status::Full, count: 0 }.encode()).await?,
        _ => return Ok(()),
    }
    stream.shutdown().await?;
    // Closed with something unread, it would be reset, and the client might see that before the reason.
    while stream.read(&mut [0; 256]).await? > 0 {}
    Ok(())
}

/// The beginning and the end of an HTTP/2 connection (RFC 9113): empty SETTINGS, then GOAWAY with ENHANCE_YOUR_CALM and
/// the reason as its debug data.
fn goaway(reason: &str) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const ENHANCE_YOUR_CALM: u32 = 0xb;
    let debug = reason.as_bytes();
    let length = u32::try_from(8 + debug.len()).expect("a reason is a sentence").to_be_bytes();
    let mut bytes = SETTINGS.to_vec();
    bytes.extend([length[1], length[2], length[3], 7, 0, 0, 0, 0, 0]);
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend(ENHANCE_YOUR_CALM.to_be_bytes());
    bytes.extend(debug);
    bytes
}

async fn first_byte(stream: &UnixStream) -> io::Result<Option<u8>> {
    stream.async_io(Interest::READABLE, || descriptors::peek_byte(stream.as_fd())).await
}
