//! Open shards, shared by content: two layouts of a component, two names of a commit, and one blob in two repositories
//! use one descriptor and one parsed header.

use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};

use dashmap::DashMap;
use weightsd_core::{identity::ContentKey, weight_name::Format};

use super::{CheckpointError, OpenShard, open_shard};
use crate::{lanes::MayBlock, snapshot::ShardFile};

/// What a shard is shared by: its content, its disk, and the format that it is read as. Requests for one shard wait for its opening, so
/// a shard is shared on one disk only: no request waits for a disk that it does not need.
type Key = (ContentKey, u64, Format);

/// Open shards by content. Holds none open by itself.
#[derive(Debug, Default)]
pub struct ShardPool {
    slots: DashMap<Key, Arc<Mutex<Weak<OpenShard>>>>,
}

impl ShardPool {
    /// The open shard of that content. Callers who ask for one shard at the same time wait for one opening.
    ///
    /// # Errors
    /// When the file cannot be opened, breaks the format, or is not the one that was listed.
    pub fn get_or_open(&self, shard: &ShardFile, may: &MayBlock<'_>) -> Result<Arc<OpenShard>, CheckpointError> {
        let key = (shard.content.clone(), shard.identity.device, Format::of(&shard.name));
        let slot = Arc::clone(&self.slots.entry(key.clone()).or_default());
        let result = open_in(&mut slot.lock().unwrap_or_else(PoisonError::into_inner), shard, may);
        drop(slot);
        if result.is_err() {
            // A client that tries a million bad files must not leave a million names behind.
            self.slots.remove_if(&key, |_, slot| !is_held(slot));
        }
        result
    }

    /// Forgets the names of shards that nobody holds any more.
    pub fn sweep(&self) {
        self.slots.retain(|_, slot| is_held(slot));
    }
}

/// Whether somebody waits for the shard, or has it.
fn is_held(slot: &Arc<Mutex<Weak<OpenShard>>>) -> bool {
    // A slot that is locked is being opened, which may take as long as its disk likes.
    let is_open_or_locked = match slot.try_lock() {
        Ok(slot) => slot.strong_count() > 0,
        Err(error) => matches!(error, TryLockError::WouldBlock),
    };
    Arc::strong_count(slot) > 1 || is_open_or_locked
}

fn open_in(
    slot: &mut Weak<OpenShard>,
    shard: &ShardFile,
    may: &MayBlock<'_>,
) -> Result<Arc<OpenShard>, CheckpointError> {
    if let Some(open) = slot.upgrade().filter(|open| open.file.is_unchanged()) {
        return Ok(open);
    }
    let open = Arc::new(open_shard(shard, may)?);
    *slot = Arc::downgrade(&open);
    Ok(open)
}
