//! An S3 store for tests, on loopback. [s3s](https://docs.rs/s3s) speaks the protocol, signatures included, so the client is
//! held to what it is, and not to what we think of it. The objects lie in memory: the store that comes with s3s names
//! them in no listing and hashes a whole object for each range of it. Clients reach it over a [`Wire`].

#![forbid(unsafe_code)]

mod store;
mod wire;

use std::{
    io, net,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use md5::{Digest as _, Md5};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{net::TcpListener, runtime};

use self::store::{Object, Shared};
pub use self::{
    store::Asked,
    wire::{Fault, Wire},
};

/// The only key that the store takes.
pub const KEY_ID: &str = "AKIAOFTHISSTORY";
/// Its secret.
pub const SECRET: &str = "SecretOfThisStoryThatNobodyMaySee";
/// The only bucket.
pub const BUCKET: &str = "models";

/// A store, and the wire to it.
#[derive(Debug)]
pub struct Bucket {
    shared: Arc<Mutex<Shared>>,
    wire: Wire,
    /// Is there until the store ends.
    runtime: Option<runtime::Runtime>,
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
    /// Starts a store without objects.
    ///
    /// # Errors
    /// When the system gives no port or thread.
    pub fn start() -> io::Result<Self> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let listener = net::TcpListener::bind(("127.0.0.1", 0))?;
        let wire = Wire::to(listener.local_addr()?)?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let service = {
            let mut builder = S3ServiceBuilder::new(store::Store(Arc::clone(&shared)));
            builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
            builder.build().into_shared()
        };
        #[expect(clippy::disallowed_methods, reason = "the runtime owns its tasks, and ends them when it is dropped")]
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serve = http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
                tokio::spawn(async move { drop(serve.await) });
            }
        });
        Ok(Self { shared, wire, runtime: Some(runtime) })
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
        let object = Object { bytes: bytes.into(), etag: format!("\"{etag}\""), modified: SystemTime::now() };
        self.shared().objects.insert(key.to_owned(), object);
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
