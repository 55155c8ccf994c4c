//! One at a time: what takes tens of megabytes for a moment, and is never that large in a sound model.

use std::{
    collections::BTreeMap,
    panic,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// JSON over this, in bytes, is read in turn. Real headers and most indexes are below it.
const LARGE_BYTES: u64 = 2 << 20;

/// The turns, by the device number of the disk that is read: a disk that hangs keeps its own and no other.
static TURNS: Mutex<BTreeMap<u64, Arc<Mutex<()>>>> = Mutex::new(BTreeMap::new());

/// Does `work` on `bytes` of JSON that come from the disk `device`. Large pieces wait for each other, so that a hundred
/// requests for a hundred of them do not take gigabytes at once; and each has a thread that ends with it, since glibc
/// keeps for every thread that lives what was freed there, and the daemon's threads are many.
pub(crate) fn in_turn<T: Send>(device: u64, bytes: u64, work: impl FnOnce() -> T + Send) -> T {
    if bytes <= LARGE_BYTES {
        return work();
    }
    let turn = Arc::clone(TURNS.lock().unwrap_or_else(PoisonError::into_inner).entry(device).or_default());
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| panic::resume_unwind(panic))
}
