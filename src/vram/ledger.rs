//! What a card's memory is taken for: components that are loaded, and components that were dropped while processes had them
//! mapped, which keeps their memory until the last of those processes lets go.

use std::sync::{Mutex, MutexGuard, PoisonError};

use weightsd_core::identity::ComponentId;
use weightsd_segment::Tether;

/// A component that was dropped.
#[derive(Debug)]
pub struct Departed {
    /// Which.
    pub id: ComponentId,
    /// Its name.
    pub name: String,
    /// Bytes of its allocation.
    pub bytes: u64,
    pub(super) tether: Tether,
}

/// The account of one card.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Account>);

#[derive(Debug, Default)]
struct Account {
    loaded: u64,
    departed: Vec<Departed>,
}

impl Ledger {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn loaded(&self, bytes: u64) {
        self.account().loaded += bytes;
    }

    pub(super) fn dropped(&self, departed: Departed) {
        let mut account = self.account();
        account.loaded -= departed.bytes;
        if departed.tether.is_held() {
            account.departed.push(departed);
        }
    }

    /// Bytes of components that are loaded or held, and of components that were dropped and that processes keep.
    #[must_use]
    pub fn taken(&self) -> (u64, u64) {
        let mut account = self.account();
        account.departed.retain(|departed| departed.tether.is_held());
        (account.loaded, account.departed.iter().map(|departed| departed.bytes).sum())
    }

    /// Components that were dropped and that processes keep: id, name and bytes.
    #[must_use]
    pub fn departed(&self) -> Vec<(ComponentId, String, u64)> {
        let mut account = self.account();
        account.departed.retain(|departed| departed.tether.is_held());
        account.departed.iter().map(|departed| (departed.id, departed.name.clone(), departed.bytes)).collect()
    }
}
