//! Watches the socket's file. A daemon whose socket was deleted would run on and be found by nobody.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{net::UnixListener, task::spawn_blocking};

use super::listener::{BindError, BoundListener, Fate};
use crate::handle::Daemon;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use other as platform;

/// How often the folder is looked at where the system does not tell of changes.
const LOOK: Duration = Duration::from_secs(10);

/// Looks at the socket whenever something changes in its folder, until the daemon stops. Gives a socket that had to be made
/// again to `serve`, and says what cannot be mended, once.
pub(super) async fn watch(bound: Arc<BoundListener>, daemon: Daemon, serve: impl Fn(UnixListener) + Send + 'static) {
    let changes = Arc::new(platform::Changes::new());
    let mut said = String::new();
    loop {
        let (looking, telling) = (Arc::clone(&bound), Arc::clone(&changes));
        let look = spawn_blocking(move || {
            // Begins to watch before it looks: what changes afterwards is told. A folder that was made again is another one.
            let is_watched = telling.begin(looking.folder());
            let fate = looking.look();
            (is_watched || telling.begin(looking.folder()), fate)
        });
        let looked = tokio::select! {
            looked = look => looked,
            // A folder on a disk that does not answer holds up no end.
            () = daemon.stopping().cancelled() => return,
        };
        let Ok((is_watched, fate)) = looked else { return };
        let news = match fate.and_then(|fate| follow(fate, &bound.path, &serve)) {
            Ok(news) => news,
            Err(error) => {
                Some(format!("clients cannot find this daemon: {}", weightsd_core::explain::sentence(&error)))
            }
        };
        let news = news.unwrap_or_default();
        if !news.is_empty() && news != said {
            tracing::warn!("{news}");
        }
        said = news;
        let changed = async { if is_watched { changes.wait().await } else { tokio::time::sleep(LOOK).await } };
        tokio::select! {
            () = changed => {}
            () = daemon.stopping().cancelled() => return,
        }
    }
}

/// Acts on what became of the socket, and returns the news.
fn follow(fate: Fate, path: &Path, serve: &impl Fn(UnixListener)) -> Result<Option<String>, BindError> {
    let path_shown = path.display();
    match fate {
        Fate::There => Ok(None),
        Fate::MadeAgain(listener) => {
            let listener = UnixListener::from_std(listener);
            serve(listener.map_err(|source| BindError::Io { action: "listen on", path: path.to_owned(), source })?);
            Ok(Some(format!("somebody deleted the socket `{path_shown}`; it was made again")))
        }
        Fate::Taken => Ok(Some(format!(
            "another program has taken `{path_shown}`: new clients find that one, and this daemon serves those it has"
        ))),
        Fate::Lost => Ok(Some(format!(
            "somebody deleted the socket `{path_shown}`, which belongs to the service manager: have it make the socket again \
             (`systemctl --user restart weightsd.socket`, or launchctl's `bootout` and `bootstrap` as `weightsd install` shows \
             them)"
        ))),
    }
}
