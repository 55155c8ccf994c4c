//! Serves, then stops: refuses new connections, tells holders, waits for running work, and ends.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{Notify, mpsc},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::server::{Connected, UdsConnectInfo};

use super::{
    BoundListener, Config, Watch, accept,
    config::Changing,
    metrics::{self, MetricsPlace},
    preload,
    reload::Reloader,
    watch,
};
use crate::{
    cache::Cache,
    connections::{Connections, Seat},
    events::EventKind,
    handle::Daemon,
    lanes::{Disks, Kind, Task},
    mirror::{self, MirrorPlace},
    resolve::Allowed,
    service,
};

/// Connections that wait for the gRPC server to take them.
const BACKLOG: usize = 16;
/// How long an idle connection may take to close. A client whose runtime does not run at the moment never closes it.
const FAREWELL: Duration = Duration::from_millis(250);
/// How long after memory was freed it is given back.
const FREED: Duration = Duration::from_secs(5);
/// How long the start waits for the folder of derived images.
const SWEEP_PATIENCE: Duration = Duration::from_secs(1);

/// Why a daemon ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The socket cannot be used.
    #[error("cannot serve on the socket")]
    Socket(#[source] io::Error),
    /// The gRPC server failed.
    #[error("the gRPC server failed")]
    Serve(#[source] tonic::transport::Error),
    /// A gRPC service could not be set up.
    #[error("a gRPC service could not be set up")]
    Setup(#[from] service::SetupError),
}

/// Serves on `bound` until `shutdown` comes, then stops within the grace period. Gives `watch` signs of life meanwhile, and
/// reads the configuration anew when `reload` is told.
///
/// # Errors
/// When the socket cannot be polled, a gRPC service cannot be set up, or the gRPC server fails.
pub async fn run(
    bound: BoundListener,
    config: Config,
    (daemon, watch): (Daemon, Watch),
    shutdown: impl Future<Output = ()>,
    reload: Arc<Notify>,
) -> Result<(), RunError> {
    tokio::select! {
        result = serve(bound, config, daemon, shutdown, reload) => result,
        never = watch.give_signs() => match never {},
    }
}

async fn serve(
    bound: BoundListener,
    config: Config,
    daemon: Daemon,
    shutdown: impl Future<Output = ()>,
    reload: Arc<Notify>,
) -> Result<(), RunError> {
    let bound = Arc::new(bound);
    let listener = bound.listener.try_clone().and_then(UnixListener::from_std).map_err(RunError::Socket)?;
    let tasks = daemon.tasks();
    let (grace, connections_max, guests) = (config.grace, config.connections, Arc::new(config.guests.clone()));
    config.log();
    let beside = Beside::of(&config, reload);
    let cache = Cache::new(config.build(), daemon.clone());
    sweep(&cache).await;
    let connections = Connections::new(connections_max, Arc::clone(daemon.freed()));
    let giving_back = daemon.clone();
    tasks.spawn("trim", async move { give_memory_back(&giving_back).await });
    let context = service::Context {
        daemon: daemon.clone(),
        cache: Arc::clone(&cache),
        socket: bound.path.clone(),
        started: SystemTime::now(),
        connections: Arc::clone(&connections),
        probe: Arc::default(),
        watchers: Arc::default(),
        guests: Arc::clone(&guests),
    };
    beside.start(&context);
    let (router, health) = service::router(context).await?;
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let serve = {
        let daemon = daemon.clone();
        move |listener| {
            let (of, cache, connections) = (daemon.clone(), Arc::clone(&cache), Arc::clone(&connections));
            let door = (connections, Arc::clone(&guests));
            daemon.tasks().spawn("accept", accept::accept(listener, of, cache, door, sender.clone()));
        }
    };
    serve(listener);
    tasks.spawn("watch", watch::watch(Arc::clone(&bound), daemon.clone(), serve));
    let incoming = ReceiverStream::new(receiver).map(|(stream, seat)| Ok::<_, io::Error>(Grpc { stream, _seat: seat }));
    let server = router.serve_with_incoming_shutdown(incoming, tasks.stopping().clone().cancelled_owned());
    let mut server = std::pin::pin!(server);

    tracing::info!(socket = %bound.path.display(), pid = std::process::id(), "ready");
    tokio::select! {
        () = shutdown => {}
        result = &mut server => return result.map_err(RunError::Serve),
    }
    tracing::info!(?grace, "stopping");
    daemon.events().push(EventKind::ShuttingDown, None, "the daemon was told to stop".to_owned());
    service::not_serving(&health).await;
    tasks.stop();
    match tokio::time::timeout(grace, drain(&daemon, &mut server)).await {
        Ok(result) => result.map_err(RunError::Serve)?,
        Err(_) => tracing::warn!(tasks = tasks.len(), "the grace period passed; open connections are cut"),
    }
    tracing::info!("stopped");
    Ok(())
}

/// What runs beside the serving.
struct Beside {
    changing: Changing,
    reloader: Reloader,
    reload: Arc<Notify>,
    metrics: Option<MetricsPlace>,
    mirror: Option<(MirrorPlace, Allowed)>,
}

impl Beside {
    fn of(config: &Config, reload: Arc<Notify>) -> Self {
        let (changing, metrics) = (config.changing.clone(), config.metrics.clone());
        let mirror = config.mirror.map(|place| (place, config.mirror_allow.clone()));
        Self { changing, reloader: Reloader::of(config), reload, metrics, mirror }
    }

    fn start(self, context: &service::Context) {
        let (daemon, cache) = (&context.daemon, &context.cache);
        daemon.tasks().spawn("reload", self.reloader.run(daemon.clone(), self.reload));
        daemon.tasks().spawn("preload", preload::run(self.changing, Arc::clone(cache)));
        if let Some(place) = &self.metrics {
            let sources = metrics::Sources {
                daemon: daemon.clone(),
                cache: Arc::clone(cache),
                connections: Arc::clone(&context.connections),
                started: context.started,
            };
            metrics::start(place, sources, daemon);
        }
        if let Some((place, open)) = self.mirror {
            mirror::start(place, open, cache);
        }
    }
}

/// Waits until the tasks have ended and `server` has too, or its idle connections had their time to close.
async fn drain(
    daemon: &Daemon,
    server: &mut (impl Future<Output = Result<(), tonic::transport::Error>> + Unpin),
) -> Result<(), tonic::transport::Error> {
    let quiet = async {
        daemon.tasks().ended().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        result = server => {
            daemon.tasks().ended().await;
            result
        }
        () = quiet => Ok(()),
    }
}

/// Deletes what a daemon that was killed left half-written. A folder on a disk that does not answer holds up nothing.
async fn sweep(cache: &Cache) {
    let images = Arc::clone(&cache.config().images);
    let work = cache.with_images("sweeping the folder of images", move |may| images.sweep(may));
    if tokio::time::timeout(SWEEP_PATIENCE, work).await.is_err() {
        tracing::warn!("the folder of derived images does not answer yet");
    }
}

/// Gives memory back to the system, some time after much of it was freed. Sleeps while nothing is.
async fn give_memory_back(daemon: &Daemon) {
    const OPERATION: &str = "giving memory back";
    let (subject, disks, kind, limit) = (OPERATION, Disks::default(), Kind::Long, None);
    let turn = async {
        loop {
            daemon.freed().notified().await;
            tokio::time::sleep(FREED).await;
            let task = Task { operation: OPERATION, subject, disks: &disks, kind, limit };
            // Threads that allocate meanwhile wait for the allocator for a moment.
            let _ = daemon.lanes().run(task, |_| weightsd_segment::heap::trim()).await;
        }
    };
    tokio::select! {
        () = turn => {}
        () = daemon.stopping().cancelled() => {}
    }
}

/// A connection that counts while it lives, and knows its peer.
struct Grpc {
    stream: UnixStream,
    _seat: Seat,
}

impl Connected for Grpc {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Grpc {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Grpc {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
