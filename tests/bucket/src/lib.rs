//! Object stores for tests, on loopback. [s3s](https://docs.rs/s3s) speaks S3's protocol, signatures included, and
//! [dav-server](https://docs.rs/dav-server) WebDAV, so the client is held to what they are, and not to what we think of them; for
//! the other clouds there is what their documentation says (`clouds`). The objects lie in memory: the store that comes with s3s
//! names them in no listing and hashes a whole object for each range of it. Clients reach a store over a [`Wire`].

#![forbid(unsafe_code)]

mod clouds;
mod dav;
mod store;
mod wire;

use std::{
    convert::Infallible,
    error::Error,
    fmt, io, net,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::SystemTime,
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::TokioIo;
use md5::{Digest as _, Md5};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{net::TcpListener, runtime};

use self::{
    clouds::Cloud,
    dav::Folder,
    store::{Object, Shared},
};
pub use self::{
    store::Asked,
    wire::{Fault, Wire},
};

/// The only key that a store takes; at Google's, the account.
pub const KEY_ID: &str = "AKIAOFTHISSTORY";
/// Its secret; at Microsoft's, the signature.
pub const SECRET: &str = "SecretOfThisStoryThatNobodyMaySee";
/// The only bucket.
pub const BUCKET: &str = "models";

/// What a store speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Amazon's.
    S3,
    /// Google's.
    Gs,
    /// Microsoft's.
    Az,
    /// WebDAV. It knows no keys and no buckets.
    Dav,
}

/// A store, and the wire to it.
pub struct Bucket {
    protocol: Protocol,
    folder: Folder,
    shared: Arc<Mutex<Shared>>,
    wire: Wire,
    /// Is there until the store ends.
    runtime: Option<runtime::Runtime>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("protocol", &self.protocol).field("wire", &self.wire).finish_non_exhaustive()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // Does not wait, so that tests may drop it in tasks.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Bucket {
    /// Starts an S3 store without objects.
    ///
    /// # Errors
    /// When the system gives no port or thread.
    pub fn start() -> io::Result<Self> {
        Self::start_as(Protocol::S3)
    }

    /// Starts a store without objects.
    ///
    /// # Errors
    /// When the system gives no port or thread.
    pub fn start_as(protocol: Protocol) -> io::Result<Self> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let listener = net::TcpListener::bind(("127.0.0.1", 0))?;
        let wire = Wire::to(listener.local_addr()?)?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let folder = Folder::new(Arc::clone(&shared));
        spawn(&runtime, protocol, listener, (&shared, &folder));
        Ok(Self { protocol, folder, shared, wire, runtime: Some(runtime) })
    }

    /// The address by which clients reach it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.wire.address())
    }

    /// The wire between clients and store.
    #[must_use]
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Puts an object there in one piece.
    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        let etag = hex::encode(Md5::digest(&bytes));
        self.insert(key, bytes, etag);
    }

    /// Puts an object there in parts of this size, as tools put large ones.
    pub fn put_in_parts(&self, key: &str, bytes: Vec<u8>, size: usize) {
        let parts: Vec<Vec<u8>> = bytes.chunks(size).map(|part| Md5::digest(part).to_vec()).collect();
        let etag = format!("{}-{}", hex::encode(Md5::digest(parts.concat())), parts.len());
        self.insert(key, bytes, etag);
    }

    /// Puts an object there whose etag says nothing of its content, as with keys of the customer.
    pub fn put_unhashed(&self, key: &str, bytes: Vec<u8>, etag: &str) {
        self.insert(key, bytes, etag.to_owned());
    }

    /// Removes an object.
    pub fn remove(&self, key: &str) {
        if self.protocol == Protocol::Dav {
            return self.inside(key, |folder, key| async move { folder.remove(&key).await });
        }
        self.shared().objects.remove(key);
    }

    /// What the store was asked for so far, in the order in which it was.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shared().asked.clone()
    }

    /// Forgets what it was asked for.
    pub fn clear_log(&self) {
        self.shared().asked.clear();
    }

    fn insert(&self, key: &str, bytes: Vec<u8>, etag: String) {
        let (bytes, now) = (Bytes::from(bytes), SystemTime::now());
        let etag = match self.protocol {
            Protocol::Dav => return self.inside(key, move |folder, key| async move { folder.put(&key, bytes).await }),
            // Microsoft's are no hashes.
            Protocol::Az => format!("\"0x8D{}\"", etag[..13].to_ascii_uppercase()),
            Protocol::S3 | Protocol::Gs => format!("\"{etag}\""),
        };
        self.shared().objects.insert(key.to_owned(), Object { bytes, etag, modified: now });
    }

    /// Changes the folder of the web, and waits for it.
    #[expect(clippy::disallowed_methods, reason = "it is waited for")]
    fn inside<F: Future<Output = ()> + Send + 'static>(&self, key: &str, work: impl FnOnce(Folder, String) -> F) {
        let (done, waiting) = mpsc::channel();
        let work = work(self.folder.clone(), key.to_owned());
        let runtime = self.runtime.as_ref().expect("it is there until the store ends");
        runtime.spawn(async move {
            work.await;
            let _ = done.send(());
        });
        waiting.recv().expect("the folder takes files");
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers until the runtime ends.
#[expect(clippy::disallowed_methods, reason = "the runtime owns its tasks, and ends them when it is dropped")]
fn spawn(
    runtime: &runtime::Runtime,
    protocol: Protocol,
    listener: TcpListener,
    (shared, folder): (&Arc<Mutex<Shared>>, &Folder),
) {
    let (shared, folder) = (Arc::clone(shared), folder.clone());
    match protocol {
        Protocol::S3 => {
            let mut builder = S3ServiceBuilder::new(store::Store(shared));
            builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
            runtime.spawn(serve(listener, builder.build().into_shared()));
        }
        Protocol::Gs | Protocol::Az => {
            let cloud = Cloud { protocol, shared };
            let answer = move |request: Request<Incoming>| {
                let answer = cloud.answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            };
            runtime.spawn(serve(listener, service_fn(answer)));
        }
        Protocol::Dav => {
            let answer = move |request: Request<Incoming>| {
                let folder = folder.clone();
                async move { Ok::<_, Infallible>(folder.answer(request).await) }
            };
            runtime.spawn(serve(listener, service_fn(answer)));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the runtime owns its tasks, and ends them when it is dropped")]
async fn serve<S, B>(listener: TcpListener, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        let serve = http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(async move { drop(serve.await) });
    }
}
