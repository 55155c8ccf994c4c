//! The last resort of a shutdown: a thread that ends the process when everything else hangs.

use std::{thread, time::Duration};

/// Exit code of a daemon that its watchdog ended (EX_SOFTWARE of sysexits.h).
pub(super) const EXIT_CODE: i32 = 70;

/// Ends the process after `patience`, unless it ends before. Runs on a thread of its own, so that a blocked runtime
/// cannot stop it.
#[expect(clippy::disallowed_methods, reason = "nothing else ends a process whose runtime hangs")]
pub(super) fn arm(patience: Duration) {
    let bark = move || {
        thread::sleep(patience);
        tracing::error!(?patience, "the shutdown hangs; ending the process");
        std::process::exit(EXIT_CODE);
    };
    if let Err(error) = thread::Builder::new().name("watchdog".to_owned()).spawn(bark) {
        tracing::error!(%error, "no watchdog for this shutdown");
    }
}
