//! The content of a file: brought to this machine whole and verified, then sent.
//!
//! A download may take longer than clients wait for a byte. Until it is verified they get a byte now and then, of what has
//! come; these are compared with the verified file, and a connection that got a wrong one is cut.

use std::{io, ops::Range, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use weightsd_core::listing::Listed;
use weightsd_segment::PinnedFile;

use super::{
    Mirror,
    found::Found,
    refused::{Body, Refused},
};
use crate::{
    lanes::MayBlock,
    pipeline::{self, AcquireError, LoadError, Tools},
    resolve::Choice,
    snapshot::{Extent, HashCandidate, OwnFiles, Scope, Want},
};

/// Bytes that are read and sent at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces that wait for a slow client.
const QUEUE: usize = 2;
/// Time between two bytes while a download runs: `huggingface_hub` waits for ten seconds.
const SIGN_EVERY: Duration = Duration::from_secs(3);

/// A file that a request asks for.
pub(super) struct Content {
    mirror: Arc<Mirror>,
    found: Found,
    path: String,
    listed: Listed,
    /// Whether the snapshot has it, so that nothing need be fetched.
    is_linked: bool,
    /// The verified file, when it was here before.
    here: Option<Arc<PinnedFile>>,
}

type Sender = mpsc::Sender<io::Result<Bytes>>;

impl Content {
    /// Looks whether the file is here. One that is not can still be brought; its failure comes too late for a status.
    ///
    /// # Errors
    /// When what is here cannot be verified.
    pub(super) async fn new(mirror: Arc<Mirror>, found: Found, path: String, listed: Listed) -> Result<Self, Refused> {
        let (store, commit) = (Arc::clone(&found.address.store), found.pin.commit.clone());
        let (asked, expected) = (path.clone(), listed.clone());
        let look = move |_: &Tools, _: &MayBlock<'_>| {
            let is_here = store.locate(&commit, &asked, &expected).is_some();
            (is_here, is_here && store.snapshot(&commit).join(&asked).exists())
        };
        let (is_here, is_linked) = mirror.cache.tools().stage(&found.trip, "looking for a file", look).await?;
        let mut content = Self { mirror, found, path, listed, is_linked, here: None };
        if is_here {
            content.here = Some(content.bring().await?);
        }
        Ok(content)
    }

    /// The body with these bytes. They are read as the client takes them.
    pub(super) fn send(self, range: Range<u64>) -> Body {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let daemon = self.mirror.cache.daemon().clone();
        daemon.tasks().spawn("mirror content", async move {
            let sent = tokio::select! {
                sent = self.pump(range, &sender) => sent,
                () = sender.closed() => return,
            };
            if let Err(error) = sent {
                tracing::warn!(path = self.path, repo = %self.found.address.repo, %error, "the mirror cut a content");
                // The client sees that it is not whole.
                let _ = sender.send(Err(error)).await;
            }
        });
        StreamBody::new(ReceiverStream::new(receiver).map(|piece| piece.map(Frame::data))).boxed()
    }

    async fn pump(&self, range: Range<u64>, sender: &Sender) -> io::Result<()> {
        let mut signs = Vec::new();
        let file = match &self.here {
            Some(file) => Arc::clone(file),
            None => {
                let brought = self.bring();
                tokio::pin!(brought);
                let mut ticks = tokio::time::interval(SIGN_EVERY);
                ticks.tick().await;
                loop {
                    tokio::select! {
                        brought = &mut brought => break brought.map_err(io::Error::other)?,
                        _ = ticks.tick() => {}
                    }
                    // The last byte tells a client that the file is whole.
                    let at = range.start + signs.len() as u64;
                    if at + 1 < range.end
                        && let Some(sign) = self.early(at).await
                    {
                        signs.push(sign);
                        hand_over(sender, Bytes::copy_from_slice(&[sign])).await?;
                    }
                }
            }
        };
        let told = range.start + signs.len() as u64;
        if !signs.is_empty() && self.read(&file, range.start..told).await? != signs {
            return Err(io::Error::other("what was sent before the file was verified was not right"));
        }
        let mut at = told;
        while at < range.end {
            let end = (at + PIECE_BYTES).min(range.end);
            let piece = self.read(&file, at..end).await?;
            self.mirror.cache.daemon().metrics().mirrored_bytes(piece.len() as u64);
            hand_over(sender, piece.into()).await?;
            at = end;
        }
        Ok(())
    }

    /// Brings the file here, verified.
    async fn bring(&self) -> Result<Arc<PinnedFile>, AcquireError> {
        let (cache, Found { trip, pinned, address, pin, .. }) = (&self.mirror.cache, &self.found);
        let choice = Choice { patterns: vec![globset::escape(&self.path)], ..Choice::default() };
        let want = Want { components: Vec::new(), extent: Extent::Everything, choice };
        let mut repaired = false;
        loop {
            if repaired || !self.is_linked {
                pipeline::fetch(pinned, want.clone(), cache.tools(), &|_, _| ()).await?;
            }
            let model = Arc::new(address.at(pin));
            let path = model.path.join(&self.path);
            let candidate =
                HashCandidate { name: self.path.clone(), path: path.clone(), blob: Some(self.listed.blob.clone()) };
            let check = (Scope::Unattested, OwnFiles::SetAside);
            let hashed = cache.hash(trip, (&model, vec![candidate]), check, &|_, _| ()).await?;
            match hashed.fault.clone() {
                None => {}
                Some(fault) if repaired => return Err(AcquireError::Load(fault)),
                Some(_) => {
                    repaired = true;
                    continue;
                }
            }
            let open = move |_: &Tools, _: &MayBlock<'_>| PinnedFile::open(&path).map_err(|error| (path, error));
            let opened = cache.tools().long(trip, "opening a file", open).await?;
            return match opened {
                Ok(file) => Ok(Arc::new(file)),
                Err((path, source)) => Err(LoadError::from(crate::resolve::ResolveError::Io { path, source }).into()),
            };
        }
    }

    /// A byte of what has come so far; `None` where it has not come yet.
    async fn early(&self, at: u64) -> Option<u8> {
        let partial = self.found.address.store.partial(&self.listed.blob);
        let read = move |_: &Tools, _: &MayBlock<'_>| {
            let file = PinnedFile::open(partial).ok()?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).ok()?;
            Some(byte[0])
        };
        self.mirror.cache.tools().long(&self.found.trip, "looking at a partial blob", read).await.ok().flatten()
    }

    async fn read(&self, file: &Arc<PinnedFile>, range: Range<u64>) -> io::Result<Vec<u8>> {
        let file = Arc::clone(file);
        let read = move |_: &Tools, _: &MayBlock<'_>| {
            let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes)
        };
        self.mirror.cache.tools().long(&self.found.trip, "reading a file", read).await.map_err(io::Error::other)?
    }
}

/// Fails when nobody takes it any more.
async fn hand_over(sender: &Sender, piece: Bytes) -> io::Result<()> {
    sender.send(Ok(piece)).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}
