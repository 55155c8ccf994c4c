//! A partial blob: a thread of its own writes each piece as it comes, and another one hashes it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};
use weightsd_core::listing::{BlobName, Listed};

use super::FetchError;
use crate::{
    lanes::MayBlock,
    snapshot::hash::{BlobHasher, Hashed},
    source::BlobLock,
};

/// Bytes of an earlier attempt that are read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Pieces that wait to be written, and as many that wait to be hashed.
const QUEUE: usize = 16;

/// A blob that is being downloaded.
pub(super) struct Partial {
    length: u64,
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<Result<Written, Unwritten>>,
}

/// What the thread is told to do.
enum Order {
    Add(Bytes),
    Empty,
}

/// Why a partial blob cannot be written to.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// The system refuses. The number is that of the bytes written before.
    Io(io::Error, u64),
    /// The thread died.
    Died,
}

/// The hash so far, on a thread of its own: hashing may take longer than writing.
struct Hashing {
    orders: std::sync::mpsc::SyncSender<Order>,
    thread: JoinHandle<BlobHasher>,
}

impl Hashing {
    #[expect(clippy::disallowed_methods, reason = "it waits for the thread that writes, which no lane has room for")]
    fn begin(mut hasher: BlobHasher, blob: BlobName, whole: u64) -> Self {
        let (orders, queue) = std::sync::mpsc::sync_channel(QUEUE);
        let thread = spawn_blocking(move || {
            while let Ok(order) = queue.recv() {
                match order {
                    Order::Add(piece) => hasher.update(&piece),
                    Order::Empty => hasher = BlobHasher::new(&blob, whole),
                }
            }
            hasher
        });
        Self { orders, thread }
    }

    fn order(&self, order: Order) -> Result<(), Unwritten> {
        self.orders.send(order).map_err(|_| Unwritten::Died)
    }

    /// The hash of all that was ordered.
    async fn finish(self) -> Result<Hashed, Unwritten> {
        drop(self.orders);
        self.thread.await.map(BlobHasher::finish).map_err(|_| Unwritten::Died)
    }
}

/// The file so far.
struct Written {
    file: File,
    hashing: Hashing,
    length: u64,
    /// Nobody else writes to the file before the last piece is written, also when the download was given up.
    _lock: Arc<BlobLock>,
}

impl Written {
    fn obey(&mut self, order: Order) -> Result<(), Unwritten> {
        let refused = |error| Unwritten::Io(error, self.length);
        match &order {
            Order::Add(piece) => {
                self.file.write_all(piece).map_err(refused)?;
                self.length += piece.len() as u64;
            }
            Order::Empty => {
                self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0))).map_err(refused)?;
                self.length = 0;
            }
        }
        self.hashing.order(order)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "it waits for the network as well as for its disk, so no lane has room for it; a source has few downloads at once"
    )]
    fn begin(mut self) -> (mpsc::Sender<Order>, JoinHandle<Result<Self, Unwritten>>) {
        let (orders, mut queue) = mpsc::channel(QUEUE);
        let thread = spawn_blocking(move || {
            while let Some(order) = queue.blocking_recv() {
                self.obey(order)?;
            }
            Ok(self)
        });
        (orders, thread)
    }
}

impl Partial {
    /// Opens the file at `path`, which may be absent, or hold the beginning of the content. That is hashed; `checked` is
    /// told how far it is, and may refuse to go on.
    pub(super) fn open(
        path: &Path,
        listed: &Listed,
        lock: Arc<BlobLock>,
        refused: impl Fn(io::Error) -> FetchError,
        mut checked: impl FnMut(u64) -> Result<(), FetchError>,
        may: &MayBlock<'_>,
    ) -> Result<Self, FetchError> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(&refused)?;
        let (blob, whole) = (listed.blob.clone(), listed.bytes);
        let mut hasher = BlobHasher::new(&blob, whole);
        let mut length = 0;
        let there = file.metadata().map_err(&refused)?.len();
        if there > whole {
            file.set_len(0).map_err(&refused)?;
        } else if there > 0 {
            let mut buffer = vec![0; BUFFER_BYTES];
            while length < there {
                let read = file.read(&mut buffer).map_err(&refused)?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
                length += read as u64;
                may.alive();
                checked(length)?;
            }
        }
        let hashing = Hashing::begin(hasher, blob, whole);
        let (orders, thread) = Written { file, hashing, length, _lock: lock }.begin();
        Ok(Self { length, orders, thread })
    }

    /// Bytes that are there, or about to be.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Adds a piece.
    pub(super) async fn write(&mut self, piece: Bytes) -> Result<(), Unwritten> {
        let length = piece.len() as u64;
        self.order(Order::Add(piece)).await?;
        self.length += length;
        Ok(())
    }

    /// Begins anew.
    pub(super) async fn empty(&mut self) -> Result<(), Unwritten> {
        self.order(Order::Empty).await?;
        self.length = 0;
        Ok(())
    }

    async fn order(&mut self, order: Order) -> Result<(), Unwritten> {
        if self.orders.send(order).await.is_ok() {
            return Ok(());
        }
        match (&mut self.thread).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) | Err(_) => Err(Unwritten::Died),
        }
    }

    /// The file, and the hash of its content.
    pub(super) async fn finish(self) -> Result<(File, Hashed), Unwritten> {
        drop(self.orders);
        let Written { file, hashing, .. } = self.thread.await.unwrap_or(Err(Unwritten::Died))?;
        Ok((file, hashing.finish().await?))
    }
}
