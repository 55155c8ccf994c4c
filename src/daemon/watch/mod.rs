//! Watches the socket's file. A daemon whose socket was deleted would run on and be found by nobody.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use tokio::net::UnixListener;

use super::listener::{BindError, BoundListener, Fate};
use crate::{
    handle::Daemon,
    lanes::{Kind, MayBlock, Task},
};

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(test, not(target_os = "linux")))] // Its tests run on Linux, too.
mod other;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use other as platform;

/// How often the folder is looked at where the system does not tell of changes.
const LOOK: Duration = Duration::from_secs(10);
/// Names the looks in the log.
const SUBJECT: &str = "the socket";

/// What the system tells of changes in one folder.
trait Changes: Send + Sync + 'static {
    /// Has changes in the folder told from now on. Whether they are. Blocks.
    fn begin(&self, folder: &Path) -> bool;

    /// Waits for a change since the last one.
    fn wait(&self) -> impl Future<Output = ()> + Send;
}

/// Looks at the socket whenever something changes in its folder, until the daemon stops. Gives a socket that had to be made
/// again to `serve`, and says what cannot be mended, once.
pub(super) async fn watch(bound: Arc<BoundListener>, daemon: Daemon, serve: impl Fn(UnixListener) + Send + 'static) {
    watch_by(platform::Told::new(), LOOK, bound, daemon, serve).await;
}

/// The same, told by `changes`, or looking each `pause` where they are not told.
async fn watch_by(
    changes: impl Changes,
    pause: Duration,
    bound: Arc<BoundListener>,
    daemon: Daemon,
    serve: impl Fn(UnixListener) + Send + 'static,
) {
    let changes = Arc::new(changes);
    let mut said = String::new();
    loop {
        let (looking, telling) = (Arc::clone(&bound), Arc::clone(&changes));
        let look = move |_: &MayBlock<'_>| {
            // Begins to watch before it looks: what changes afterwards is told. A folder that was made again is another one.
            let is_watched = telling.begin(looking.folder());
            let fate = looking.look();
            (is_watched || telling.begin(looking.folder()), fate)
        };
        // A folder on a disk that does not answer holds up no end: lanes let go when the daemon stops.
        let looked = async {
            let lanes = daemon.lanes();
            let disks = lanes.locate(SUBJECT, vec![bound.folder().to_owned()], None).await?;
            let (operation, subject, kind, limit) = ("looking at the socket", SUBJECT, Kind::Look, None);
            lanes.run(Task { operation, subject, disks: &disks, kind, limit }, look).await
        };
        let Ok((is_watched, fate)) = looked.await else { return };
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
        let changed = async { if is_watched { changes.wait().await } else { tokio::time::sleep(pause).await } };
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

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::net::{UnixListener as Listener, UnixStream},
    };

    use tokio::sync::mpsc;

    use super::*;

    /// How long anything may take.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// Much less than [`LOOK`], for which no test waits.
    const PAUSE: Duration = Duration::from_millis(10);

    /// A socket that is deleted, alone and with its folder, is made again; one that another program took is left.
    async fn watched_by(changes: impl Changes, pause: Duration) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run/s");
        let bound = Arc::new(BoundListener::bind(&path).unwrap());
        let daemon = Daemon::default();
        let (made, mut again) = mpsc::unbounded_channel();
        let serve = move |listener| made.send(listener).unwrap();
        let watching = watch_by(changes, pause, Arc::clone(&bound), daemon.clone(), serve);
        let story = async {
            let away = home.path().join("away");
            let mut kept = Vec::new();
            let delete: [&dyn Fn() -> std::io::Result<()>; 2] =
                [&|| fs::remove_file(&path), &|| fs::rename(home.path().join("run"), &away)];
            for delete in delete {
                delete().unwrap();
                kept.push(tokio::time::timeout(PATIENCE, again.recv()).await.unwrap().unwrap());
                UnixStream::connect(&path).unwrap();
            }
            // In one step: a path at which nothing is would get a new socket.
            let beside = home.path().join("beside");
            drop(Listener::bind(&beside).unwrap());
            fs::rename(&beside, &path).unwrap();
            daemon.stopping().cancel();
        };
        tokio::time::timeout(PATIENCE, async { tokio::join!(watching, story) }).await.unwrap();
        assert!(again.try_recv().is_err(), "what another program took was made again");
        drop(bound);
        assert!(path.exists(), "what another program took was removed");
    }

    #[tokio::test]
    async fn a_socket_that_is_looked_at_now_and_then_is_made_again() {
        watched_by(other::Told::new(), PAUSE).await;
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_socket_whose_changes_are_told_is_made_again() {
        watched_by(linux::Told::new(), LOOK * 100).await;
    }
}
