//! `GetStatus` against a bare echo: what the daemon adds to a call through tonic over the same kind of socket.

use std::{
    convert::Infallible,
    future::ready,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    net::UnixListener,
    runtime::{Builder, Runtime},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    client::Grpc,
    codegen::{BoxFuture, http, http::uri::PathAndQuery},
    server::{NamedService, UnaryService},
    transport::{Channel, Endpoint, Server as Transport},
};
use tonic_prost::ProstCodec;
use tower::Service;
use weightsd_client::{
    Client,
    proto::{GetStatusRequest, GetStatusResponse},
};
use weightsd_fixtures::{Checkpoint, Contents, Dims};

use crate::{
    acquire::as_stored,
    samples::{Way, in_turns, millis},
    server::{Folder, Server},
};

/// Others that call the same, or load, where that is the load.
const OTHERS: usize = 4;
/// How long the echo may take to start.
const PATIENCE: Duration = Duration::from_secs(10);
const STATUS: PathAndQuery = PathAndQuery::from_static("/weights.v1.WeightsService/GetStatus");
const ECHO: PathAndQuery = PathAndQuery::from_static("/bench.Echo/Echo");

/// Answers each request with its own message.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl UnaryService<GetStatusRequest> for Echo {
    type Response = GetStatusRequest;
    type Future = std::future::Ready<Result<Response<GetStatusRequest>, Status>>;

    fn call(&mut self, request: Request<GetStatusRequest>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            let codec = ProstCodec::<GetStatusRequest, GetStatusRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(Self, request).await)
        })
    }
}

/// Serves the echo on a socket, on one thread as the daemon does, until it is killed.
pub(crate) fn echo(socket: &Path) -> anyhow::Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let connections = UnixListenerStream::new(UnixListener::bind(socket)?);
        Ok(Transport::builder().add_service(Echo).serve_with_incoming(connections).await?)
    })
}

/// A process that serves the echo, killed when dropped.
struct EchoServer(Child);

impl EchoServer {
    fn start(socket: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let server = Self(command.arg("echo").arg(socket).stdin(Stdio::null()).spawn()?);
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            anyhow::ensure!(began.elapsed() < PATIENCE, "the echo does not answer");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A caller with a connection and a thread of its own.
struct Caller {
    runtime: Runtime,
    grpc: Grpc<Channel>,
}

impl Caller {
    fn new(socket: &Path) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
        let grpc = Grpc::new(runtime.block_on(endpoint.connect())?);
        Ok(Self { runtime, grpc })
    }

    fn status(&mut self) -> anyhow::Result<()> {
        self.call::<GetStatusResponse>(STATUS)
    }

    fn echo(&mut self) -> anyhow::Result<()> {
        self.call::<GetStatusRequest>(ECHO)
    }

    fn call<T: Default + Send + Sync + 'static>(&mut self, path: PathAndQuery) -> anyhow::Result<()>
    where
        ProstCodec<GetStatusRequest, T>: tonic::codec::Codec<Encode = GetStatusRequest, Decode = T>,
    {
        let grpc = &mut self.grpc;
        self.runtime.block_on(async {
            grpc.ready().await?;
            let codec = ProstCodec::<GetStatusRequest, T>::default();
            grpc.unary(Request::new(GetStatusRequest {}), path, codec).await?;
            anyhow::Ok(())
        })
    }
}

pub(crate) fn run(program: &Path, count: usize) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let (server, _) = Server::start(program, &folder)?;
    let (daemon, echo) = (server.options().socket, folder.path().join("echo.sock"));
    let _echo = EchoServer::start(&echo)?;
    let model = folder.path().join("model");
    Checkpoint::new(&Dims::true_size(), Contents::Sparse)?.write_directory(&model)?;
    let model = model.to_string_lossy().into_owned();
    let load = |runtime: &Runtime, client: &Client| runtime.block_on(client.load(as_stored(&*model), |_| ()));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let held = load(&runtime, &runtime.block_on(Client::connect(server.options()))?)?;

    println!("GetStatus with one component held, against an echo; {count} samples each in rounds, times in ms.\n");
    println!("| beside | call | p50 | p90 | p99 | p50 : echo |\n|---|---|---|---|---|---|");
    print(&daemon, &echo, count, "nothing")?;
    beside(
        || Ok((Caller::new(&daemon)?, Caller::new(&echo)?)),
        |(status, echo)| status.status().and_then(|()| echo.echo()),
        || print(&daemon, &echo, count, "4 callers of both"),
    )?;
    let loader = || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(Client::connect(server.options()))?;
        Ok((runtime, client))
    };
    beside(
        loader,
        |(runtime, client)| load(runtime, client).map(drop).map_err(anyhow::Error::from),
        || print(&daemon, &echo, count, "4 clients that load"),
    )?;
    drop(held);
    Ok(())
}

/// Measures both in turns and prints them.
fn print(daemon: &Path, echo: &Path, count: usize, beside: &str) -> anyhow::Result<()> {
    let (mut status, mut bare) = (Caller::new(daemon)?, Caller::new(echo)?);
    let mut ways: [Way<'_>; 2] =
        [("GetStatus", Box::new(move || status.status())), ("echo", Box::new(move || bare.echo()))];
    let samples = in_turns(count, &mut ways)?;
    for ((call, _), times) in ways.iter().zip(&samples) {
        let [p50, p90, p99] = [50, 90, 99].map(|percent| millis(times.percentile(percent)));
        println!("| {beside} | {call} | {p50} | {p90} | {p99} | {:.2} |", times.ratio_to(&samples[1]));
    }
    Ok(())
}

/// Does `work` beside others, who make what they need and then do the same again and again.
fn beside<T>(
    make: impl Fn() -> anyhow::Result<T> + Sync,
    again: impl Fn(&mut T) -> anyhow::Result<()> + Sync,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = || -> anyhow::Result<()> {
            let mut made = make()?;
            while !ends.load(Ordering::Relaxed) {
                again(&mut made)?;
            }
            Ok(())
        };
        let others: Vec<_> = (0..OTHERS).map(|_| scope.spawn(other)).collect();
        let worked = work();
        ends.store(true, Ordering::Relaxed);
        for other in others {
            other.join().map_err(|_| anyhow::anyhow!("another caller panicked"))?.context("another caller")?;
        }
        worked
    })
}
