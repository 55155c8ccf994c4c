//! What ends a load early.

use tokio::sync::watch;

use crate::{
    guard::infallible,
    handle::{self, Tagged},
};

/// What ends loads early, from any thread.
#[derive(Debug)]
pub struct weightsd_cancellation(watch::Sender<bool>);

impl Tagged for weightsd_cancellation {
    const TAG: u64 = u64::from_be_bytes(*b"wd:cancl");
    const NAME: &'static str = "cancellation";
}

impl weightsd_cancellation {
    /// Becomes true when the loads are to end.
    pub(crate) fn subscribe(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}

/// Makes what can end loads early: name it in their options. Free it with `weightsd_cancellation_free`. Null when memory
/// has run out.
#[unsafe(no_mangle)]
pub extern "C" fn weightsd_cancellation_new() -> *mut weightsd_cancellation {
    infallible(std::ptr::null_mut(), || handle::into_raw(weightsd_cancellation(watch::Sender::new(false))))
}

/// Ends every load that names `cancellation`, now and later, with WEIGHTSD_CODE_CANCELLED. Any thread may call it.
///
/// # Safety
/// `cancellation` is null or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_cancel(cancellation: *const weightsd_cancellation) {
    infallible((), || {
        // SAFETY: as this function's own contract says.
        if let Ok(cancellation) = unsafe { handle::borrow(cancellation) } {
            cancellation.0.send_replace(true);
        }
    });
}

/// Frees a cancellation; loads that named it are not ended by that. Null is allowed.
///
/// # Safety
/// `cancellation` is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_cancellation_free(cancellation: *mut weightsd_cancellation) {
    // SAFETY: as this function's own contract says.
    infallible((), || drop(unsafe { handle::take(cancellation) }));
}
