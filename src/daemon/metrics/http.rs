//! The HTTP side: one address, `/metrics`. Connections are few and short, so that nobody who scrapes badly costs anything.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{BoundListener, board::Board};
use crate::handle::Daemon;

/// Scrapes at once; the next one waits.
const SCRAPES_MAX: usize = 4;
/// How long a connection may take from its beginning to its end.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// Longest head of a request in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Pause after a failed accept, which mostly means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What OpenMetrics calls itself.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Where scrapes come in.
pub(super) enum Listener {
    Port(TcpListener),
    Socket {
        listener: UnixListener,
        /// Removes the socket at the end.
        _bound: BoundListener,
    },
}

/// Answers scrapes until the daemon stops.
pub(super) async fn serve(listener: Listener, board: Arc<Board>, daemon: Daemon) {
    let places = Arc::new(Semaphore::new(SCRAPES_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = daemon.stopping().cancelled() => return,
        };
        let Ok(stream) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (board, stopping) = (Arc::clone(&board), daemon.stopping().clone());
        daemon.tasks().spawn("scrape", async move {
            tokio::select! {
                _ = timeout(CONNECTION_MAX, answer(stream, board)) => {}
                () = stopping.cancelled() => {}
            }
            drop(place);
        });
    }
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(listener: &Listener) -> std::io::Result<Box<dyn Stream>> {
    Ok(match listener {
        Listener::Port(listener) => Box::new(listener.accept().await?.0),
        Listener::Socket { listener, .. } => Box::new(listener.accept().await?.0),
    })
}

/// Answers one request, and closes.
async fn answer(stream: Box<dyn Stream>, board: Arc<Board>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let board = Arc::clone(&board);
        async move { Ok::<_, Infallible>(respond(&request, &board).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A scraper that goes away has its reasons.
    let _ = connection.await;
}

async fn respond(request: &Request<Incoming>, board: &Board) -> Response<Full<Bytes>> {
    let plain = |status, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, PLAIN);
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "metrics are read with GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match board.text().await {
        Ok(text) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            response.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
            response
        }
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}
