//! The daemon's side of the hand-off protocol, which [`weightsd_core::handoff`] describes.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
};
use weightsd_core::handoff::{self, HandoffError, REQUEST_LEN, Reply, Request, Status};
use weightsd_segment::descriptors;

use crate::{cache::Cache, component::Component, handle::Daemon};

/// How long a peer may take for the rest of a request it began, and for each acknowledgement. Between requests a
/// connection may be silent for as long as it likes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers requests until the peer hangs up or sends something malformed, or the daemon stops.
///
/// # Errors
/// When the connection fails. No other connection is affected.
pub async fn serve(mut stream: UnixStream, daemon: &Daemon, cache: &Cache) -> io::Result<()> {
    loop {
        let request = tokio::select! {
            request = read_request(&mut stream) => request?,
            () = daemon.stopping().cancelled() => {
                return reply(&mut stream, Status::ShuttingDown, 0).await;
            }
        };
        let request = match request {
            Some(Ok(request)) => request,
            Some(Err(HandoffError::WrongVersion(_))) => return reply(&mut stream, Status::BadVersion, 0).await,
            Some(Err(_)) => return reply(&mut stream, Status::Malformed, 0).await,
            None => return Ok(()),
        };
        match cache.redeem(request.ticket) {
            Some(component) => grant(&mut stream, &component).await?,
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

async fn reply(stream: &mut UnixStream, status: Status, count: u16) -> io::Result<()> {
    stream.write_all(&Reply { status, count }.encode()).await
}

/// Sends the descriptors of all segments, in batches that the peer acknowledges.
async fn grant(stream: &mut UnixStream, component: &Component) -> io::Result<()> {
    let files: Vec<BorrowedFd<'_>> = component.segments.iter().map(|segment| segment.file().as_fd()).collect();
    let count = u16::try_from(files.len()).map_err(io::Error::other)?;
    reply(stream, Status::Granted, count).await?;
    let mut rest = files.as_slice();
    for size in handoff::batches(count) {
        let (batch, after) = rest.split_at(size);
        let byte = u8::try_from(size).map_err(io::Error::other)?;
        stream.async_io(Interest::WRITABLE, || descriptors::send(stream.as_fd(), batch, byte)).await?;
        if tokio::time::timeout(PATIENCE, stream.read_u8()).await?? != handoff::ACK {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer did not acknowledge its descriptors"));
        }
        rest = after;
    }
    Ok(())
}
