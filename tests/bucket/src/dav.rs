//! Folders of the web that WebDAV lists. The crate dav-server speaks the protocol, and as most servers it refuses to list
//! all depths at once.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dav_server::{DavHandler, DavMethodSet, body::Body, memfs::MemFs};
use http_body_util::Full;
use hyper::{Method, Request, Response, header::RANGE};
use percent_encoding::percent_decode_str;

use crate::{
    clouds::bounds,
    store::{Asked, Shared},
};

#[derive(Clone)]
pub(crate) struct Folder {
    /// Of those who read.
    reader: DavHandler,
    /// Of the tests.
    writer: DavHandler,
    shared: Arc<Mutex<Shared>>,
}

impl Folder {
    pub(crate) fn new(shared: Arc<Mutex<Shared>>) -> Self {
        let files = MemFs::new();
        let over = |methods| DavHandler::builder().filesystem(files.clone()).methods(methods).build_handler();
        Self { reader: over(DavMethodSet::WEBDAV_RO), writer: over(DavMethodSet::WEBDAV_RW), shared }
    }

    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
    {
        let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().trim_matches('/').to_owned();
        let range = request.headers().get(RANGE).and_then(|range| bounds(range.to_str().ok()?));
        let asked = match *request.method() {
            Method::GET => Asked::Get(path, range),
            Method::HEAD => Asked::Head(path),
            _ => Asked::List(path),
        };
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).asked.push(asked);
        self.reader.handle(request).await
    }

    /// Puts a file there, and the folders above it.
    pub(crate) async fn put(&self, key: &str, bytes: Bytes) {
        for (end, _) in key.match_indices('/') {
            self.write("MKCOL", &key[..end], Bytes::new()).await;
        }
        let status = self.write("PUT", key, bytes).await.status();
        assert!(status.is_success(), "{key}: {status}");
    }

    pub(crate) async fn remove(&self, key: &str) {
        self.write("DELETE", key, Bytes::new()).await;
    }

    async fn write(&self, method: &str, key: &str, bytes: Bytes) -> Response<Body> {
        let request = Request::builder().method(method).uri(format!("/{key}")).body(Full::new(bytes));
        self.writer.handle(request.expect("keys of tests can be addresses")).await
    }
}
