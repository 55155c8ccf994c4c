//! What this process is to the system: its limits, its threads, and the signals that end it.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use super::{Watch, log_file::LogFile};
use crate::log::Log;

/// Exit code after a second signal: the shell's for SIGINT.
const IMPATIENT: i32 = 130;

/// Starts the log, in the file if there is one, on standard error otherwise.
pub fn start_log(file: Option<&Path>) -> Log {
    match file.map(LogFile::new).transpose() {
        Ok(None) => Log::start(io::stderr(), io::stderr().is_terminal()),
        Ok(Some(file)) => Log::start(file, false),
        Err(error) => {
            let log = Log::start(io::stderr(), io::stderr().is_terminal());
            let file = file.map(|file| file.display().to_string()).unwrap_or_default();
            tracing::warn!(%error, file, "the log cannot be kept in its file");
            log
        }
    }
}

/// Raises the limit of open files as far as it goes.
pub fn raise_file_limit() {
    if let Err(error) = weightsd_segment::file_limit::raise() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Lets each thread reuse the memory that others free. Call it before there are threads.
pub fn share_arenas() {
    weightsd_segment::heap::share_arenas();
}

/// The runtime of a command, on one thread.
///
/// # Errors
/// When the system has no place for another poller.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// The serving loop: one thread, since what blocks or computes has threads of its own, and a request that wakes no other
/// thread is answered sooner. `watch` learns when it waits.
///
/// # Errors
/// When the system has no place for another poller.
pub fn serving_loop(watch: &Watch) -> io::Result<Runtime> {
    let (parks, unparks) = (watch.clone(), watch.clone());
    let mut builder = Builder::new_current_thread();
    builder.on_thread_park(move || parks.parks()).on_thread_unpark(move || unparks.unparks());
    builder.enable_all().build()
}

/// Waits for SIGTERM or SIGINT, whose handlers are in place when this returns. Signals come to a thread of their own, so a
/// serving loop that hangs is no obstacle: the first signal gives `watch` the `patience` to end the process by, the second
/// ends it at once.
///
/// # Errors
/// When the system refuses a handler or a thread.
#[expect(clippy::disallowed_methods, reason = "a process whose tasks hang must end all the same")]
pub fn told_to_stop(watch: Watch, patience: Duration) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (told, stop) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let listen = async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        watch.end_within(patience);
        // Nobody serves any more when nobody listens.
        let _ = told.send(());
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        std::process::exit(IMPATIENT);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(listen))?;
    Ok(async move {
        if stop.await.is_err() {
            std::future::pending().await
        }
    })
}
