//! A partial blob: each piece is written at once, and hashed on a thread of its own.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::ControlFlow,
    path::Path,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};
use weightsd_core::listing::{HashKind, Listed};

use super::FetchError;
use crate::snapshot::hash::BlobHasher;

/// Bytes of an earlier attempt that are read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Pieces that wait to be hashed.
const QUEUE: usize = 16;

/// A blob that is being downloaded: written and hashed as it comes.
pub(super) struct Partial {
    file: File,
    length: u64,
    kind: HashKind,
    whole: u64,
    hashing: Hashing,
}

struct Hashing {
    pieces: mpsc::Sender<Bytes>,
    thread: JoinHandle<BlobHasher>,
}

impl Hashing {
    fn start(mut hasher: BlobHasher) -> Self {
        let (pieces, mut queue) = mpsc::channel::<Bytes>(QUEUE);
        let thread = spawn_blocking(move || {
            while let Some(piece) = queue.blocking_recv() {
                hasher.update(&piece);
            }
            hasher
        });
        Self { pieces, thread }
    }
}

impl Partial {
    /// Opens the file at `path`, which may be absent, or hold the beginning of the content. That is hashed; `checked` is
    /// told how far it is, and may break off: then there is none. Blocks.
    pub(super) fn open(
        path: &Path,
        listed: &Listed,
        mut checked: impl FnMut(u64) -> ControlFlow<()>,
    ) -> io::Result<Option<Self>> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let (kind, whole) = (listed.blob.kind(), listed.bytes);
        let mut hasher = BlobHasher::new(kind, whole);
        let mut length = 0;
        let there = file.metadata()?.len();
        if there > whole {
            file.set_len(0)?;
        } else if there > 0 {
            let mut buffer = vec![0; BUFFER_BYTES];
            while length < there {
                let read = file.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
                length += read as u64;
                if checked(length).is_break() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(Self { file, length, kind, whole, hashing: Hashing::start(hasher) }))
    }

    /// Bytes that are there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Adds a piece. The writing is done here and now: it goes to memory.
    pub(super) async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        self.file.write_all(&piece)?;
        self.length += piece.len() as u64;
        self.hashing.pieces.send(piece).await.map_err(|_| io::Error::other("the hashing died"))
    }

    /// Begins anew.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.length = 0;
        self.hashing = Hashing::start(BlobHasher::new(self.kind, self.whole));
        Ok(())
    }

    /// The file, and the hash of its content in hex.
    pub(super) async fn finish(self) -> Result<(File, String), FetchError> {
        let Hashing { pieces, thread } = self.hashing;
        drop(pieces);
        let hasher = thread.await.map_err(|_| FetchError::Died)?;
        Ok((self.file, hasher.finish()))
    }
}
