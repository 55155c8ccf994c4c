//! The daemon's side of a loader: starts it, gives it an order, follows its reports, and takes the descriptor.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Interest},
    net::UnixStream,
    process::{Child, Command},
    time::timeout,
};
use weightsd_segment::descriptors;

use super::{
    Filled, Order, VramFailed,
    error::SILENCE_MAX,
    loader::COMMAND,
    order::{Report, Timings},
};
use crate::{
    handle::Daemon,
    lanes::{Disks, Kind, MayBlock, Task},
    program::this_program,
};

/// How long a loader may take to end once it has done its work; the driver cleans up after it.
const ENDING_MAX: Duration = Duration::from_secs(30);

/// Starts a loader, and returns the daemon's end of the socket that is its standard input.
async fn start(daemon: &Daemon) -> Result<(Child, UnixStream), VramFailed> {
    const OPERATION: &str = "starting the process that fills the card";
    let spawn = move |may: &MayBlock<'_>| -> io::Result<(Child, StdStream)> {
        let (own, other) = StdStream::pair()?;
        own.set_nonblocking(true)?;
        let mut command = Command::new(this_program(may)?);
        command.arg(COMMAND).stdin(Stdio::from(OwnedFd::from(other))).stdout(Stdio::piped()).stderr(Stdio::inherit());
        // The card is named by its UUID, whatever the daemon's own surroundings hide.
        command.env_remove("CUDA_VISIBLE_DEVICES").kill_on_drop(true);
        Ok((command.spawn()?, own))
    };
    let (disks, limit) = (Disks::default(), Some(SILENCE_MAX));
    let task = Task { operation: OPERATION, subject: COMMAND, disks: &disks, kind: Kind::Load, limit };
    let (child, own) = daemon.lanes().run(task, spawn).await?.map_err(VramFailed::Start)?;
    Ok((child, UnixStream::from_std(own).map_err(VramFailed::Start)?))
}

/// Lets a loader carry out `order`. Calls `progress` with the bytes that are on the card. Dropping the future ends the loader,
/// and its memory is free again.
///
/// # Errors
/// When the loader cannot be started, gives up, ends early, or is silent for too long.
pub async fn fill(order: &Order, daemon: &Daemon, mut progress: impl FnMut(u64)) -> Result<Filled, VramFailed> {
    let begun = Instant::now();
    let (mut child, mut socket) = start(daemon).await?;
    let missing = || VramFailed::Start(io::ErrorKind::BrokenPipe.into());
    let mut output = BufReader::new(child.stdout.take().ok_or_else(missing)?).lines();
    let mut line = serde_json::to_vec(order).map_err(|error| VramFailed::Start(error.into()))?;
    line.push(b'\n');
    // A loader that died before it read the whole order is noticed below.
    let _ = socket.write_all(&line).await;
    loop {
        let Ok(next) = timeout(SILENCE_MAX, output.next_line()).await else { return Err(VramFailed::Silent) };
        let Some(line) = next.ok().flatten() else {
            let how = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(VramFailed::Died { how });
        };
        match serde_json::from_str(&line) {
            Ok(Report::Done { bytes }) => progress(bytes),
            Ok(Report::Sealed { bytes, granularity, timings }) => {
                let memory = receive(&socket).await?;
                let took = begun.elapsed();
                say(order, took, timings);
                see_off(child, daemon);
                return Ok(Filled { memory, bytes, granularity, took });
            }
            Ok(Report::Failed { kind, message }) => return Err(VramFailed::Loader { kind, message }),
            Err(error) => return Err(VramFailed::Died { how: format!("it said {line:?}: {error}") }),
        }
    }
}

/// The descriptor was sent before the report that led here.
async fn receive(socket: &UnixStream) -> Result<OwnedFd, VramFailed> {
    let received = socket.async_io(Interest::READABLE, || descriptors::receive(socket.as_fd(), 1));
    let received = timeout(ENDING_MAX, received).await.map_err(|_| VramFailed::Silent)?;
    let (_, descriptors) = received.map_err(|error| VramFailed::Died { how: error.to_string() })?;
    let missing = || VramFailed::Died { how: "it sent no descriptor".to_owned() };
    descriptors.into_iter().next().ok_or_else(missing)
}

fn say(order: &Order, took: Duration, timings: Timings) {
    let Timings { context, copy } = timings;
    tracing::info!(
        card = %order.card, bytes = order.copied_bytes(), ?took, context_ms = context, copy_ms = copy,
        "component is on the card"
    );
}

/// Waits until the loader has ended, so that its context is off the card; one that hangs is killed.
fn see_off(mut child: Child, daemon: &Daemon) {
    let stopping = daemon.stopping().clone();
    daemon.tasks().spawn("loader ends", async move {
        // Dropping it kills it.
        tokio::select! {
            _ = timeout(ENDING_MAX, child.wait()) => {}
            () = stopping.cancelled() => {}
        }
    });
}
