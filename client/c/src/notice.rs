//! Notices: what the daemon tells the holder of a component.

use std::{
    ffi::{CString, c_char},
    sync::Arc,
    time::Duration,
};

use tokio::time;
use weightsd_client::{ClientError, Notice};

use crate::{
    component::{Lease, weightsd_component},
    constants::{notice_kind, weightsd_notice_kind},
    error::{weightsd_code, weightsd_error},
    guard::{fallible, infallible},
    handle, outgoing,
};

/// Something that the holder of a component should know. Lives until `weightsd_notice_free`.
#[repr(C)]
#[derive(Debug)]
pub struct weightsd_notice {
    /// What it is about.
    pub kind: weightsd_notice_kind,
    /// The same in words, in UTF-8.
    pub message: *const c_char,
}

/// The notice with its text. C sees the first field.
#[repr(C)]
struct Owned {
    public: weightsd_notice,
    _message: CString,
}

/// Waits for the next notice about a component.
///
/// `timeout_ms` limits the wait, and a negative one does not. After success `*notice` is the notice, to be freed with
/// `weightsd_notice_free`, or null when no more will come: the lease was released or lost. A daemon that is gone ends no wait,
/// since the library asks the next one for the lease. WEIGHTSD_CODE_DEADLINE says that the time has passed. Each notice goes to
/// one of the threads that wait. `error` as for `weightsd_load`.
///
/// # Safety
/// `component` is null or not freed until this returns; the other pointers are null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_next_notice(
    component: *const weightsd_component,
    timeout_ms: i64,
    notice: *mut *mut weightsd_notice,
    error: *mut *mut weightsd_error,
) -> weightsd_code {
    // SAFETY: as this function's own contract says.
    unsafe {
        fallible(error, || {
            let place = handle::emptied(notice, "notice")?;
            let component = handle::borrow(component)?;
            let lease = Arc::clone(&component.lease);
            let next = component.engine.wait_for(async move {
                let Ok(patience) = u64::try_from(timeout_ms).map(Duration::from_millis) else {
                    return Ok(next(&lease).await);
                };
                let late = |_| ClientError::Deadline { operation: "waiting for a notice".into(), after: patience };
                time::timeout(patience, next(&lease)).await.map_err(late)
            })??;
            if let Some(next) = next {
                place.write(into_raw(&next));
            }
            Ok(())
        })
    }
}

/// The next notice; `None` when the lease has ended or no more will come.
async fn next(lease: &Lease) -> Option<Notice> {
    let mut has_ended = lease.has_ended.subscribe();
    let notice = async { lease.held.lock().await.as_mut()?.next_notice().await };
    tokio::select! {
        notice = notice => notice,
        _ = has_ended.wait_for(|has_ended| *has_ended) => None,
    }
}

fn into_raw(notice: &Notice) -> *mut weightsd_notice {
    let message = outgoing::text(notice.message.as_str());
    let public = weightsd_notice { kind: notice_kind(notice.kind), message: message.as_ptr() };
    Box::into_raw(Box::new(Owned { public, _message: message })).cast()
}

/// Frees a notice. Null is allowed.
///
/// # Safety
/// `notice` came from this library and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_notice_free(notice: *mut weightsd_notice) {
    infallible((), || {
        if !notice.is_null() {
            // SAFETY: `into_raw` made it of this type, whose first field it is, and the caller gives it up.
            drop(unsafe { Box::from_raw(notice.cast::<Owned>()) });
        }
    });
}
