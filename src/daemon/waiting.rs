//! Clients that wait on a socket which a service manager made, while the daemon that it started cannot start.

use std::{io, os::unix::net::UnixListener as StdListener, time::Duration};

use tokio::net::UnixListener;
use tokio_stream::{StreamExt as _, wrappers::UnixListenerStream};
use weightsd_core::explain::Explanation;

use super::{BoundListener, Watch, accept, process};
use crate::{guests::Guests, service};

/// How long clients are told. launchd starts a program at most every ten seconds, and systemd gives up on one that ends too
/// often: a process that ended at once would leave the next client without an answer.
const TELLING: Duration = Duration::from_secs(11);
/// How long a client may take to hear the answer after that.
const FAREWELL: Duration = Duration::from_secs(1);

/// The clients on an inherited socket, in case the daemon cannot start.
#[derive(Debug)]
pub struct Waiting(StdListener);

impl Waiting {
    /// The clients that wait on a socket that was handed over. `None` for a socket that was made here: nobody can have
    /// connected before it was.
    #[must_use]
    pub fn of(bound: &BoundListener) -> Option<Self> {
        bound.handed_over().map(Self)
    }

    /// Tells everyone who waits, and everyone who connects within the next seconds, why the daemon cannot start. A signal
    /// ends it.
    ///
    /// # Errors
    /// When the system refuses what serving needs.
    pub fn tell(self, message: String, explanation: Explanation) -> io::Result<()> {
        let runtime = process::runtime()?;
        let told = runtime.block_on(async {
            let told_to_stop = process::told_to_stop(Watch::default(), FAREWELL, process::Hangup::Ends)?;
            let stop = async {
                tokio::select! { () = told_to_stop => {} () = tokio::time::sleep(TELLING) => {} }
            };
            let ours = |stream: &io::Result<_>| {
                !stream.as_ref().is_ok_and(|stream| accept::check_peer(stream, &Guests::default()).is_err())
            };
            let incoming = UnixListenerStream::new(UnixListener::from_std(self.0)?).filter(ours);
            let served = service::refuse_all(incoming, message, explanation, stop);
            // A client that does not read is not waited for.
            match tokio::time::timeout(TELLING + FAREWELL, served).await {
                Ok(served) => served.map_err(io::Error::other),
                Err(_) => Ok(()),
            }
        });
        runtime.shutdown_background();
        told
    }
}
