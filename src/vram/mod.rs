//! Components in the memory of a card. A loader process puts one there, compares what is on the card with what it read, hands
//! its descriptor over, and ends; from then on the descriptor keeps the memory. The daemon never opens the driver: it has the
//! descriptor and nothing else, so no fault of the driver can reach it.

mod error;
mod ledger;
pub mod loader;
mod order;
mod process;

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
    time::Duration,
};

use prost::bytes::Bytes;
use weightsd_core::{
    card::{self, Arrangement, CardId},
    place::Placed,
};
use weightsd_segment::Tether;

pub use self::{
    error::{LoaderKind, VramFailed},
    ledger::{Departed, Ledger},
    order::Order,
    process::fill,
};
use crate::{
    component::{Component, Lent},
    lanes::dispose,
};

/// A component in the memory of a card, whole and immutable.
#[derive(Debug)]
pub struct OnCard {
    /// What it is. Its files need not be there any more.
    pub component: Arc<Component>,
    /// The card.
    pub card: CardId,
    /// Where its tensors lie, in their order.
    pub arrangement: Arrangement,
    /// The card gives memory in multiples of this, in bytes.
    pub granularity: u64,
    /// How long filling it took.
    pub took: Duration,
    /// The tensor table as the service sends it: made at the first request, the same for all.
    pub encoded_pages: OnceLock<Vec<Bytes>>,
    /// `None` only while it is dropped.
    held: Option<Held>,
    ledger: Arc<Ledger>,
}

/// What keeps the memory, and tells who else does.
#[derive(Debug)]
struct Held {
    memory: OwnedFd,
    travels: OwnedFd,
    tether: Tether,
}

/// Memory that a loader filled.
#[derive(Debug)]
pub struct Filled {
    /// Keeps it.
    pub memory: OwnedFd,
    /// Its length in bytes.
    pub bytes: u64,
    /// The card gives memory in multiples of this, in bytes.
    pub granularity: u64,
    /// How long it took.
    pub took: Duration,
}

impl OnCard {
    /// Takes over what a loader filled, and counts it in `ledger` until the last process has let go of it.
    ///
    /// # Errors
    /// When the daemon may have no more files open. The memory is free again then.
    pub fn new(
        component: Arc<Component>,
        (card, mut arrangement): (CardId, Arrangement),
        filled: Filled,
        ledger: &Arc<Ledger>,
    ) -> std::io::Result<Self> {
        let Filled { memory, bytes, granularity, took } = filled;
        arrangement.bytes = bytes;
        let (tether, travels) = Tether::new()?;
        ledger.loaded(arrangement.bytes);
        Ok(Self {
            component,
            card,
            arrangement,
            granularity,
            took,
            encoded_pages: OnceLock::new(),
            held: Some(Held { memory, travels, tether }),
            ledger: Arc::clone(ledger),
        })
    }

    /// Bytes of the allocation.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.arrangement.bytes
    }

    /// The tensors and the first byte of each.
    pub fn tensors(&self) -> impl Iterator<Item = (&Placed<Lent>, u64)> {
        self.component.tensors.iter().zip(self.arrangement.offsets.iter().copied())
    }

    /// What a holder is given: the memory, and the end of the tether that tells as long as the holder has it mapped.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.held.iter().flat_map(|held| [held.memory.as_fd(), held.travels.as_fd()]).collect()
    }
}

impl Drop for OnCard {
    fn drop(&mut self) {
        let Some(Held { memory, travels, tether }) = self.held.take() else { return };
        drop(travels);
        let (bytes, name, id) = (self.bytes(), self.component.name.clone(), self.component.id);
        let ledger = Arc::clone(&self.ledger);
        // The driver takes its time to free much memory. No disk has this number.
        dispose(u64::MAX, move |_| {
            drop(memory);
            ledger.dropped(Departed { id, name, bytes, tether });
        });
    }
}

/// Where the tensors of a component lie in memory of a card.
///
/// # Errors
/// When they are longer together than memory can be.
pub fn arrange(component: &Component) -> Result<Arrangement, VramFailed> {
    card::arrange(component.tensors.iter().map(|tensor| tensor.at.at.bytes())).ok_or(VramFailed::TooLong)
}
