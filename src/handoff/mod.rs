//! The daemon's side of the hand-off protocol, which [`weightsd_core::handoff`] describes.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
};
use weightsd_core::handoff::{self, HandoffError, REQUEST_LEN, Reply, Request, Status};
use weightsd_segment::descriptors;

use crate::{cache::Cache, connections::Seat, handle::Daemon};

/// How long a peer may take for the rest of a request it began, and for each acknowledgement. Between requests a
/// connection may be silent for as long as it likes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before descriptors are sent again.
const AGAIN: Duration = Duration::from_millis(10);

/// Answers requests until the peer hangs up or sends something malformed, or the daemon stops.
///
/// # Errors
/// When the connection fails. No other connection is affected.
pub(crate) async fn serve(mut stream: UnixStream, daemon: &Daemon, cache: &Cache, seat: &Seat) -> io::Result<()> {
    loop {
        seat.is_idle(true);
        let request = tokio::select! {
            request = read_request(&mut stream) => request?,
            // The client notices, and makes another connection when it needs one.
            () = seat.gives_way().cancelled() => return Ok(()),
            () = daemon.stopping().cancelled() => {
                return reply(&mut stream, Status::ShuttingDown, 0).await;
            }
        };
        seat.is_idle(false);
        let request = match request {
            Some(Ok(request)) => request,
            Some(Err(HandoffError::WrongVersion(_))) => return reply(&mut stream, Status::BadVersion, 0).await,
            Some(Err(_)) => return reply(&mut stream, Status::Malformed, 0).await,
            None => return Ok(()),
        };
        match cache.redeem(request.ticket) {
            Some(redeemed) => grant(&mut stream, &redeemed.descriptors(), seat).await?,
            None => reply(&mut stream, Status::UnknownTicket, 0).await?,
        }
    }
}

/// The next request; `None` when the peer has hung up.
async fn read_request(stream: &mut UnixStream) -> io::Result<Option<Result<Request, HandoffError>>> {
    let mut buffer = [0; REQUEST_LEN];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]);
        let count = if filled == 0 { read.await? } else { tokio::time::timeout(PATIENCE, read).await?? };
        if count == 0 {
            return Ok(None);
        }
        filled += count;
        if let Some(request) = Request::decode(&buffer[..filled]).transpose() {
            return Ok(Some(request));
        }
    }
}

/// Sends a batch. When too many descriptors of the user's are under way, it tries again for a while.
async fn send(stream: &UnixStream, batch: &[BorrowedFd<'_>], byte: u8) -> io::Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let sent = stream.async_io(Interest::WRITABLE, || descriptors::send(stream.as_fd(), batch, byte)).await;
        match sent {
            Err(error)
                if error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error())
                    && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(AGAIN).await;
            }
            sent => return sent,
        }
    }
}

async fn reply(stream: &mut UnixStream, status: Status, count: u16) -> io::Result<()> {
    stream.write_all(&Reply { status, count }.encode()).await
}

/// Sends descriptors, in batches that the peer acknowledges.
async fn grant(stream: &mut UnixStream, descriptors: &[BorrowedFd<'_>], seat: &Seat) -> io::Result<()> {
    let count = u16::try_from(descriptors.len()).map_err(io::Error::other)?;
    reply(stream, Status::Granted, count).await?;
    let mut rest = descriptors;
    for size in handoff::batches(count) {
        let (batch, after) = rest.split_at(size);
        let byte = u8::try_from(size).map_err(io::Error::other)?;
        // The kernel counts descriptors that are under way against a limit of the user's. A process that does not
        // acknowledge its own waits for itself, and for nobody else.
        let _under_way = seat.unacknowledged().acquire().await.map_err(io::Error::other)?;
        send(stream, batch, byte).await?;
        if tokio::time::timeout(PATIENCE, stream.read_u8()).await?? != handoff::ACK {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer did not acknowledge its descriptors"));
        }
        rest = after;
    }
    Ok(())
}
