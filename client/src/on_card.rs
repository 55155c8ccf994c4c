//! A component in the memory of a card: its table, its lease, and the descriptor of the memory.

use std::{collections::VecDeque, fmt, os::fd::OwnedFd, sync::Arc};

use safetensors::Dtype;
use tonic::Streaming;
use weightsd_core::{card::CardId, sheet::Row};
use weightsd_proto::v1::{self, LoadComponentResponse, Notice, load_component_response::Event};

use crate::{connect::Service, table::Table};

/// A component in the memory of a card, leased. Dropping it ends the lease; what was mapped of it stays.
#[must_use = "dropping a component ends its lease"]
pub struct CardComponent {
    info: Arc<v1::Component>,
    pub(crate) memory: CardMemory,
    pub(crate) table: Arc<Table>,
    notices: VecDeque<Notice>,
    stream: Streaming<LoadComponentResponse>,
    /// Keeps the connection under `stream` open when the client is dropped first.
    _service: Service,
}

/// The memory, as it was handed over.
#[derive(Debug, Clone)]
pub(crate) struct CardMemory {
    pub(crate) card: CardId,
    /// Length in bytes.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "nothing here maps it"))]
    pub(crate) bytes: u64,
    /// `None` without a hold: there is no ticket to exchange for it.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "they are held, and nothing here maps them"))]
    pub(crate) descriptors: Option<Arc<Descriptors>>,
}

/// What the hand-off gives for the memory of a card.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "they are held, and nothing here maps them"))]
pub(crate) struct Descriptors {
    pub(crate) memory: OwnedFd,
    /// Open for as long as this process has the memory mapped: the daemon knows by it.
    pub(crate) _tether: OwnedFd,
}

impl CardComponent {
    pub(crate) fn new(
        mut info: v1::Component,
        memory: CardMemory,
        table: Table,
        notices: VecDeque<Notice>,
        (stream, service): (Streaming<LoadComponentResponse>, Service),
    ) -> CardComponent {
        // The ticket was used, and callers may print `info`.
        if let Some(lease) = &mut info.lease {
            lease.ticket.clear();
        }
        CardComponent { info: Arc::new(info), memory, table: Arc::new(table), notices, stream, _service: service }
    }

    /// A hash of everything that determines the content, in 64 hex digits. The same component in files has the same one.
    pub fn id(&self) -> &str {
        &self.info.id
    }

    /// `transformer`, `text_encoder`, `vae`, ...
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The card.
    #[must_use]
    pub fn card(&self) -> CardId {
        self.memory.card
    }

    /// The daemon's whole description of the component, without the ticket.
    pub fn info(&self) -> &v1::Component {
        &self.info
    }

    /// The same, for those who need it after the lease.
    #[must_use]
    pub fn shared_info(&self) -> Arc<v1::Component> {
        Arc::clone(&self.info)
    }

    /// All tensors, in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = CardTensor<'_>> {
        self.table.rows().map(|row| CardTensor { row })
    }

    /// Waits for the next notice. `None` when no more will come: the daemon is gone, or the load had no hold. Dropping
    /// the future loses no notice.
    pub async fn next_notice(&mut self) -> Option<Notice> {
        if let Some(notice) = self.notices.pop_front() {
            return Some(notice);
        }
        loop {
            match self.stream.message().await {
                Ok(Some(LoadComponentResponse { event: Some(Event::Notice(notice)) })) => return Some(notice),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl fmt::Debug for CardComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CardComponent")
            .field("id", &self.info.id)
            .field("name", &self.info.name)
            .field("card", &self.memory.card)
            .finish_non_exhaustive()
    }
}

/// One tensor in the memory of a card.
#[derive(Clone, Copy)]
pub struct CardTensor<'a> {
    pub(crate) row: Row<'a>,
}

impl<'a> CardTensor<'a> {
    /// Name in the layout that was asked for.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.row.name
    }

    /// Name in the checkpoint.
    #[must_use]
    pub fn source_name(&self) -> &'a str {
        if self.row.source_name.is_empty() { self.row.name } else { self.row.source_name }
    }

    /// Type of its elements.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.row.dtype
    }

    /// Dimensions, row-major; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &'a [u64] {
        self.row.shape
    }

    /// Its first byte, from the start of the memory: a multiple of 256.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.row.offset
    }

    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.row.length
    }
}

impl fmt::Debug for CardTensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CardTensor")
            .field("name", &self.name())
            .field("dtype", &self.dtype())
            .field("shape", &self.shape())
            .field("offset", &self.offset())
            .finish_non_exhaustive()
    }
}
