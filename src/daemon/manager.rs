//! What the daemon tells the service manager that started it (systemd's protocol, where `NOTIFY_SOCKET` is set): that it
//! serves, that it reads its settings, that it stops, and, where the unit asks for it, that its serving loop turns. And when
//! it ends by itself, because nobody needs it and the service manager starts the next one.

use std::{
    convert::Infallible,
    future::pending,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

use crate::{cache::Cache, connections::Connections};

/// The longest pause between two looks whether anybody needs the daemon.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Tells the service manager, if there is one that wants to know.
pub(super) fn tell(state: &NotifyState<'_>) {
    // A datagram to a socket in memory, which the service manager reads before all else.
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "the service manager cannot be told: {state}");
    }
}

/// Tells it as often as its unit wants (`WatchdogSec`) that the serving loop turns. Runs on the loop.
pub(super) async fn give_signs() -> Infallible {
    let Some(within) = sd_notify::watchdog_enabled() else { return pending().await };
    loop {
        tell(&NotifyState::Watchdog);
        // Half of it, as sd_watchdog_enabled(3) advises.
        tokio::time::sleep(within / 2).await;
    }
}

/// Waits until for `patience` nobody was connected, nothing was loaded and nothing was under way; for ever without one.
pub(super) async fn until_idle(cache: &Cache, connections: &Connections, patience: Option<Duration>) {
    let Some(patience) = patience else { return pending().await };
    let look = LOOK_MAX.min(patience / 4);
    let (mut since, mut admitted) = (Instant::now(), connections.admitted());
    loop {
        tokio::time::sleep(look).await;
        let is_alone = connections.len() == 0 && connections.admitted() == admitted;
        if !is_alone || !cache.is_idle() {
            (since, admitted) = (Instant::now(), connections.admitted());
        } else if since.elapsed() >= patience {
            return;
        }
    }
}
