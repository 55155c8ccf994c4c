//! `serve --replace`: the next daemon asks the one that serves for its socket, and gets it with the lock that says whose it
//! is. Nobody who connects is refused meanwhile, since the socket listens all the time.
//!
//! ```text
//! next -> serving    2 bytes: TAKEOVER, VERSION
//! serving -> next    1 byte: GIVEN with two descriptors (listening socket, lock), or KEPT without any
//! next -> serving    ACK, once it serves
//! ```
//!
//! The one that serves goes on until the last byte has come; a next one that fails before that has changed nothing.

use std::{io, os::fd::AsFd as _, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
    time::timeout,
};
use weightsd_core::handoff::ACK;
use weightsd_segment::descriptors;

use super::{BindError, BoundListener, Reach};
use crate::{
    cache::Cache,
    lanes::{Disks, Kind, Task},
};

/// First byte of a connection of the next daemon. HTTP/2 and the hand-off protocol begin with others.
pub(super) const TAKEOVER: u8 = 0xD6;
/// The version of this protocol.
const VERSION: u8 = 1;
/// The socket comes with this byte.
const GIVEN: u8 = 1;
/// The socket is the service manager's, and stays with it.
const KEPT: u8 = 2;
/// How long each side may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the next daemon may take until it serves.
const STARTING: Duration = Duration::from_secs(60);
/// Names the handling of the attestations in errors.
const OPERATION: &str = "giving the attestations to the next daemon";

/// Gives the socket away, and returns whether the daemon at the other end serves on it now.
pub(super) async fn give(mut stream: UnixStream, bound: &BoundListener, cache: &Cache) -> io::Result<()> {
    let mut request = [0; 2];
    timeout(PATIENCE, stream.read_exact(&mut request)).await??;
    // The socket is for the daemon's own user, also where others may be lent weights.
    let is_ours = stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw();
    if request != [TAKEOVER, VERSION] || !is_ours {
        return Ok(());
    }
    let Some((listener, lock)) = bound.shared()? else {
        return stream.write_all(&[KEPT]).await;
    };
    tracing::info!("another daemon is about to take over");
    // Two processes cannot have the database open. This one remembers in memory what it attests until it ends.
    attestations(cache, Attestations::Closed).await?;
    let send = || descriptors::send(stream.as_fd(), &[listener.as_fd(), lock.as_fd()], GIVEN);
    let sent = timeout(PATIENCE, stream.async_io(Interest::WRITABLE, send)).await?;
    let serves = async {
        sent?;
        timeout(STARTING, stream.read_u8()).await?
    };
    match serves.await {
        Ok(ACK) => bound.is_given_away(),
        answer => {
            tracing::warn!(?answer, "the next daemon did not begin to serve, so this one goes on");
            bound.is_kept()?;
            attestations(cache, Attestations::Open).await?;
        }
    }
    Ok(())
}

/// What becomes of the database of attestations.
#[derive(Clone, Copy)]
enum Attestations {
    Closed,
    Open,
}

async fn attestations(cache: &Cache, then: Attestations) -> io::Result<()> {
    let attestations = std::sync::Arc::clone(&cache.config().attestations);
    let (disks, limit) = (Disks::default(), Some(PATIENCE));
    let task = Task { operation: OPERATION, subject: OPERATION, disks: &disks, kind: Kind::Look, limit };
    let done = cache.daemon().lanes().run(task, move |_| match then {
        Attestations::Closed => attestations.close(),
        Attestations::Open => attestations.reopen(),
    });
    done.await.map_err(io::Error::other)
}

impl BoundListener {
    /// The socket of the daemon that serves at `path`, or a new one where nobody serves. The other daemon ends when
    /// `Self::serves` is called.
    ///
    /// # Errors
    /// Those of [`Self::bind_for`], and when the other daemon keeps its socket.
    pub async fn take(path: &Path, reach: Reach) -> Result<Self, BindError> {
        let at = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
        let mut stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Self::bind_for(path, reach);
            }
            Err(source) => return Err(at("connect to")(source)),
        };
        let (theirs, ours) = (stream.peer_cred().map_err(at("take over"))?.uid(), rustix::process::geteuid().as_raw());
        if theirs != ours {
            return Err(at("take over")(io::Error::other(format!("it is served by uid {theirs}, not by {ours}"))));
        }
        let asked = async {
            stream.write_all(&[TAKEOVER, VERSION]).await?;
            stream.async_io(Interest::READABLE, || descriptors::receive(stream.as_fd(), 2)).await
        };
        let (answer, files) = match timeout(PATIENCE, asked).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(source)) if descriptors::are_exhausted(&source) => return Err(at("take over")(source)),
            // One that knows nothing of this hangs up.
            Ok(Err(_)) | Err(_) => return Err(BindError::NotReplaceable { path: path.to_owned() }),
        };
        match (answer, <[_; 2]>::try_from(files)) {
            (GIVEN, Ok(files)) => Self::taken((path, reach), files, stream),
            _ => Err(BindError::Managed { path: path.to_owned() }),
        }
    }

    /// Tells the daemon whose socket this was that it is served on, if there is one.
    pub(super) async fn serves(&self) {
        let Some(mut stream) = self.predecessor() else { return };
        if let Err(error) = self.protect() {
            tracing::warn!(path = %self.path.display(), %error, "the socket keeps the mode that the earlier daemon gave it");
        }
        // One that is gone does not mind.
        let _ = timeout(PATIENCE, stream.write_all(&[ACK])).await;
    }
}
