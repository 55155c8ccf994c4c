//! The content of an object: ranged requests for its parts, several at once, read in order. Each part is asked for once;
//! the object's etag goes with each request, so that all parts are of one content.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::{connect::deepest, refusal};
use crate::source::Body;

/// Bytes of a part.
pub(super) const PART_BYTES: u64 = 8 << 20;
/// Parts of one content that are under way, and wait in memory, at once.
const PARTS_AT_ONCE: usize = 8;

/// The bytes of a part as they come; an error as its text.
type Pieces = mpsc::UnboundedReceiver<Result<Bytes, String>>;

/// An object in a store.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) meta: ObjectMeta,
}

impl Object {
    /// Asks for a range, and reads the body into a queue. The queue has room for the whole part, which bounds it.
    async fn ask(
        &self,
        range: Range<u64>,
        into: mpsc::UnboundedSender<Result<Bytes, String>>,
    ) -> Result<Pump, object_store::Error> {
        let strong = self.meta.e_tag.clone().filter(|etag| !etag.starts_with("W/"));
        let options = GetOptions {
            // A file that fits into one part needs no range.
            range: (range != (0..self.meta.size)).then(|| GetRange::Bounded(range.clone())),
            if_unmodified_since: strong.is_none().then_some(self.meta.last_modified),
            if_match: strong,
            version: self.meta.version.clone(),
            ..GetOptions::default()
        };
        let answer = self.store.get_opts(&self.meta.location, options).await?;
        Ok(Pump { body: answer.into_stream(), into, left: range.end - range.start })
    }
}

/// The body of a part on its way into its queue.
struct Pump {
    body: futures_util::stream::BoxStream<'static, Result<Bytes, object_store::Error>>,
    into: mpsc::UnboundedSender<Result<Bytes, String>>,
    left: u64,
}

impl Pump {
    async fn run(mut self) {
        while self.left > 0 {
            let piece = match self.body.next().await {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => {
                    // Nobody listens when the content was given up.
                    let _ = self.into.send(Err(deepest(&error)));
                    return;
                }
                None => break,
            };
            let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
            self.left -= length as u64;
            let _ = self.into.send(Ok(piece.slice(..length)));
        }
        if self.left > 0 {
            let _ = self.into.send(Err(format!("a part ended {} bytes before its end", self.left)));
        }
    }
}

/// A part that is under way. Dropping it ends its request.
struct Part {
    pieces: Pieces,
    _task: AbortOnDropHandle<()>,
}

/// The parts of a content, in order.
pub(super) struct Parts {
    object: Object,
    runtime: Handle,
    next: u64,
    end: u64,
    under_way: VecDeque<Part>,
}

impl Parts {
    /// Asks for the first part of a range and awaits its beginning.
    ///
    /// # Errors
    /// When the store refuses, or cannot be reached.
    pub(super) async fn begin(object: Object, range: Range<u64>, runtime: Handle) -> Result<Self, object_store::Error> {
        let mut parts = Self { object, runtime, next: range.start, end: range.end, under_way: VecDeque::new() };
        if let Some(first) = parts.next_range() {
            let (sender, pieces) = mpsc::unbounded_channel();
            let pump = parts.object.ask(first, sender).await?;
            parts.spawn(pieces, pump.run());
        }
        Ok(parts)
    }

    /// Parts end at multiples of their size, wherever the range begins.
    fn next_range(&mut self) -> Option<Range<u64>> {
        let from = self.next;
        self.next = ((from / PART_BYTES + 1) * PART_BYTES).min(self.end);
        (from < self.end).then_some(from..self.next)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the handle owns the task, and aborts it when the content is dropped"
    )]
    fn spawn(&mut self, pieces: Pieces, work: impl Future<Output = ()> + Send + 'static) {
        let _task = AbortOnDropHandle::new(self.runtime.spawn(work));
        self.under_way.push_back(Part { pieces, _task });
    }

    fn fill(&mut self) {
        while self.under_way.len() < PARTS_AT_ONCE
            && let Some(range) = self.next_range()
        {
            let (sender, pieces) = mpsc::unbounded_channel();
            let object = self.object.clone();
            self.spawn(pieces, async move {
                match object.ask(range, sender.clone()).await {
                    Ok(pump) => pump.run().await,
                    Err(error) => drop(sender.send(Err(refusal::text(&error)))),
                }
            });
        }
    }
}

#[async_trait::async_trait]
impl Body for Parts {
    async fn piece(&mut self) -> Result<Option<Bytes>, String> {
        self.fill();
        while let Some(part) = self.under_way.front_mut() {
            if let Some(piece) = part.pieces.recv().await {
                return piece.map(Some);
            }
            self.under_way.pop_front();
            self.fill();
        }
        Ok(None)
    }
}
