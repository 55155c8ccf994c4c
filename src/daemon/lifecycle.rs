//! Serves, then stops: refuses new connections, tells holders, waits for running work, and ends.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures_util::FutureExt as _;
use sd_notify::NotifyState;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{Notify, mpsc},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::server::{Connected, UdsConnectInfo};

use super::{
    BoundListener, Config, Watch,
    accept::{self, Sorting},
    config::Changing,
    manager,
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
/// How long requests may take until their work is under way.
const BEGUN: Duration = Duration::from_millis(100);
/// How long the place for metrics may stay with a daemon that is being replaced.
const METRICS_PATIENCE: Duration = Duration::from_secs(30);
/// What the watchdog allows beyond two grace periods to a daemon that was replaced.
const SLACK: Duration = Duration::from_secs(5);
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
        result = serve(bound, config, (daemon, watch.clone()), shutdown, reload) => result,
        never = watch.give_signs() => match never {},
        never = manager::give_signs() => match never {},
    }
}

async fn serve(
    bound: BoundListener,
    config: Config,
    (daemon, watch): (Daemon, Watch),
    shutdown: impl Future<Output = ()>,
    reload: Arc<Notify>,
) -> Result<(), RunError> {
    let bound = Arc::new(bound);
    let listener = bound.listener.try_clone().and_then(UnixListener::from_std).map_err(RunError::Socket)?;
    let (grace, connections_max, guests) = (config.grace, config.connections, Arc::new(config.guests.clone()));
    let idle_exit = bound.idle_exit(config.idle_exit);
    config.log();
    let beside = Beside::of(&config, reload);
    let cache = Cache::new(config.build(), daemon.clone());
    sweep(&cache).await;
    let connections = Connections::new(connections_max, Arc::clone(daemon.freed()));
    let giving_back = daemon.clone();
    daemon.tasks().spawn("trim", async move { give_memory_back(&giving_back).await });
    let context = service::Context {
        daemon: daemon.clone(),
        cache: Arc::clone(&cache),
        socket: bound.path.clone(),
        started: SystemTime::now(),
        connections: Arc::clone(&connections),
        probe: Arc::default(),
        watchers: Arc::default(),
        known: Arc::default(),
        guests: Arc::clone(&guests),
    };
    beside.start(&context, bound.has_predecessor());
    let (router, health) = service::router(context).await?;
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let closing = daemon.stopping().child_token();
    let sorting = Sorting { daemon: daemon.clone(), cache, connections, guests, bound, grpc: sender, closing };
    let serving = Serving { sorting: sorting.clone(), watch, grace, idle_exit };
    serving.listen(listener);
    let incoming = ReceiverStream::new(receiver).map(|(stream, seat)| Ok::<_, io::Error>(Grpc { stream, _seat: seat }));
    let server = router.serve_with_incoming_shutdown(incoming, sorting.closing.cancelled_owned());
    // It may end before the shutdown is over, and is looked at until then.
    let mut server = std::pin::pin!(server.fuse());

    let why = serving.until_the_end(shutdown, &mut server).await?;
    tracing::info!(?grace, "stopping: {why}");
    manager::tell(&NotifyState::Stopping);
    daemon.events().push(EventKind::ShuttingDown, None, why.to_owned());
    service::not_serving(&health).await;
    daemon.tasks().stop();
    match tokio::time::timeout(grace, drain(&daemon, &mut server)).await {
        Ok(result) => result.map_err(RunError::Serve)?,
        Err(_) => tracing::warn!(tasks = daemon.tasks().len(), "the grace period passed; open connections are cut"),
    }
    tracing::info!("stopped");
    Ok(())
}

/// A daemon that serves, and what ends that.
struct Serving {
    sorting: Sorting,
    watch: Watch,
    grace: Duration,
    /// How long a daemon that nobody needs stays.
    idle_exit: Option<Duration>,
}

impl Serving {
    /// Accepts connections, also on a socket that has to be made again.
    fn listen(&self, listener: UnixListener) {
        let (sorting, bound) = (self.sorting.clone(), Arc::clone(&self.sorting.bound));
        let daemon = sorting.daemon.clone();
        let serve = move |listener| {
            sorting.daemon.tasks().spawn("accept", accept::accept(listener, sorting.clone()));
        };
        serve(listener);
        daemon.tasks().spawn("watch", watch::watch(bound, daemon.clone(), serve));
    }

    /// Says that the daemon serves, and waits for a reason to end, which it returns.
    async fn until_the_end(
        &self,
        shutdown: impl Future<Output = ()>,
        server: &mut (impl Future<Output = Result<(), tonic::transport::Error>> + Unpin),
    ) -> Result<&'static str, RunError> {
        let Sorting { cache, connections, bound, closing, .. } = &self.sorting;
        tracing::info!(socket = %bound.path.display(), pid = std::process::id(), "ready");
        bound.serves().await;
        manager::tell(&NotifyState::Ready);
        tokio::select! {
            () = shutdown => Ok("the daemon was told to stop"),
            () = manager::until_idle(cache, connections, self.idle_exit) => {
                // Who connects from now on waits for the next daemon.
                closing.cancel();
                Ok("nobody needs the daemon, and the service manager starts the next one")
            }
            () = bound.until_given_away() => {
                closing.cancel();
                self.watch.end_within(2 * self.grace + SLACK);
                finish(cache, server, self.grace).await?;
                Ok("another daemon has taken over")
            }
            result = &mut *server => result.map_err(RunError::Serve).map(|()| "the server ended"),
        }
    }
}

/// What runs beside the serving.
struct Beside {
    changing: Changing,
    reloader: Reloader,
    reload: Arc<Notify>,
    metrics: Option<MetricsPlace>,
    restore: bool,
    mirror: Option<(MirrorPlace, Allowed)>,
}

impl Beside {
    fn of(config: &Config, reload: Arc<Notify>) -> Self {
        let (changing, metrics) = (config.changing.clone(), config.metrics.clone());
        let mirror = config.mirror.map(|place| (place, config.mirror_allow.clone()));
        Self { changing, reloader: Reloader::of(config), reload, metrics, restore: config.restore, mirror }
    }

    fn start(self, context: &service::Context, replaces: bool) {
        let (daemon, cache) = (&context.daemon, &context.cache);
        daemon.tasks().spawn("reload", self.reloader.run(daemon.clone(), self.reload));
        daemon.tasks().spawn("preload", preload::run(self.changing, Arc::clone(cache)));
        if self.restore {
            let (known, socket) = (Arc::clone(&context.known), context.socket.clone());
            daemon.tasks().spawn("restore", service::restore(Arc::clone(cache), known, socket));
        }
        if let Some(place) = &self.metrics {
            let sources = metrics::Sources {
                daemon: daemon.clone(),
                cache: Arc::clone(cache),
                connections: Arc::clone(&context.connections),
                started: context.started,
            };
            // A daemon that is being replaced has the place until it ends.
            let patience = if replaces { METRICS_PATIENCE } else { Duration::ZERO };
            metrics::start(place, sources, daemon, patience);
        }
        if let Some((place, open)) = self.mirror {
            mirror::start(place, open, cache);
        }
    }
}

/// Serves, for a while, what was asked for before another daemon took over. Who asks from now on asks that one.
async fn finish(
    cache: &Cache,
    server: &mut (impl Future<Output = Result<(), tonic::transport::Error>> + Unpin),
    patience: Duration,
) -> Result<(), RunError> {
    let quiet = async {
        // Requests that have come, and whose work has not begun.
        tokio::time::sleep(BEGUN).await;
        cache.quiet().await;
    };
    tokio::select! {
        result = server => result.map_err(RunError::Serve),
        _ = tokio::time::timeout(patience, quiet) => Ok(()),
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
