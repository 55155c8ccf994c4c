//! One at a time: what takes tens of megabytes for a moment, and is never that large in a sound model.

use std::{
    panic,
    sync::{Mutex, PoisonError},
    thread,
};

/// JSON over this, in bytes, is read in turn. Real headers and most indexes are below it.
const LARGE_BYTES: u64 = 2 << 20;

static TURN: Mutex<()> = Mutex::new(());

/// Does `work` on `bytes` of JSON. Large pieces wait for each other, so that a hundred requests for a hundred of them do
/// not take gigabytes at once; and each has a thread that ends with it, since glibc keeps for every thread that lives what
/// was freed there, and the daemon's threads are many.
pub(crate) fn in_turn<T: Send>(bytes: u64, work: impl FnOnce() -> T + Send) -> T {
    if bytes <= LARGE_BYTES {
        return work();
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| panic::resume_unwind(panic))
}
