//! A component as a handle: its lease can end before its mappings do.

use std::{
    ffi::{CString, c_char},
    ptr,
    sync::{Arc, OnceLock},
};

use tokio::sync::{Mutex, watch};
use weightsd_client::{Component, Tensors, proto};
use weightsd_proto::json;

use crate::{
    engine::Engine,
    error::Failure,
    guard::infallible,
    handle::{self, Tagged},
    outgoing,
    table::{Table, weightsd_layer, weightsd_tensor, weightsd_view},
    text,
};

/// A component: tensors in mapped files, and the lease that holds them in the daemon. Everything that its functions return
/// lives until `weightsd_component_free`, also after the lease has ended and the daemon is gone. Several threads may use one
/// component at once.
pub struct weightsd_component {
    table: Table,
    /// What the table's pointers lead into.
    _tensors: Tensors,
    info: Arc<proto::Component>,
    report: OnceLock<CString>,
    pub(crate) lease: Arc<Lease>,
    /// Last: the lease may need the runtime.
    pub(crate) engine: Arc<Engine>,
}

impl Tagged for weightsd_component {
    const TAG: u64 = u64::from_be_bytes(*b"wd:compo");
    const NAME: &'static str = "component";
}

/// The stream that is the lease, until somebody ends it.
pub(crate) struct Lease {
    pub(crate) held: Mutex<Option<Component>>,
    pub(crate) has_ended: watch::Sender<bool>,
}

impl weightsd_component {
    pub(crate) fn new(component: Component, engine: Arc<Engine>) -> Result<weightsd_component, Failure> {
        let tensors = component.storage();
        let info = component.shared_info();
        let table = Table::new(&tensors, &info)?;
        let lease = Lease { held: Mutex::new(Some(component)), has_ended: watch::Sender::new(false) };
        Ok(weightsd_component {
            table,
            _tensors: tensors,
            info,
            report: OnceLock::new(),
            lease: Arc::new(lease),
            engine,
        })
    }

    /// Ends the lease, without waiting for the daemon.
    fn release(&self) {
        if !self.lease.has_ended.send_replace(true) {
            if let Ok(mut held) = self.lease.held.try_lock() {
                drop(held.take());
                return;
            }
            let lease = Arc::clone(&self.lease);
            // Later, so that nobody has to wait until a reader of the notices has noticed.
            self.engine.spawn(async move { drop(lease.held.lock().await.take()) });
        }
    }
}

impl Drop for weightsd_component {
    fn drop(&mut self) {
        self.release();
    }
}

/// Ends the lease and keeps the mappings: every pointer stays valid. The daemon may then drop the component, and no notice
/// comes any more; a thread that waits for one is woken. Does not wait for the daemon.
///
/// # Safety
/// `component` is null or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_release(component: *const weightsd_component) {
    // SAFETY: as this function's own contract says.
    infallible((), || unsafe { handle::borrow(component) }.map_or((), weightsd_component::release));
}

/// Frees a component: ends its lease and unmaps its files. Null is allowed.
///
/// # Safety
/// Neither `component` nor anything that came from it is used by any thread, now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_component_free(component: *mut weightsd_component) {
    // SAFETY: as this function's own contract says.
    infallible((), || drop(unsafe { handle::take(component) }));
}

/// An element of one of the lists, or null.
///
/// # Safety
/// `component` is null or was not freed.
unsafe fn element<T>(component: *const weightsd_component, find: impl FnOnce(&Table) -> Option<&T>) -> *const T {
    infallible(ptr::null(), || {
        // SAFETY: as this function's own contract says.
        let component = unsafe { handle::borrow::<weightsd_component>(component) };
        component.ok().and_then(|component| find(&component.table)).map_or(ptr::null(), ptr::from_ref)
    })
}

/// The length of one of the lists; 0 for a null handle.
///
/// # Safety
/// `component` is null or was not freed.
unsafe fn count(component: *const weightsd_component, of: impl FnOnce(&Table) -> usize) -> usize {
    infallible(0, || {
        // SAFETY: as this function's own contract says.
        unsafe { handle::borrow(component) }.map_or(0, |component: &weightsd_component| of(&component.table))
    })
}

/// Number of tensors.
///
/// # Safety
/// `component` is null or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_tensor_count(component: *const weightsd_component) -> usize {
    // SAFETY: as this function's own contract says.
    unsafe { count(component, |table| table.tensors().len()) }
}

/// A tensor by its number, in the order of the names; null beyond the last.
///
/// # Safety
/// `component` is null or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_tensor_at(
    component: *const weightsd_component,
    index: usize,
) -> *const weightsd_tensor {
    // SAFETY: as this function's own contract says.
    unsafe { element(component, |table| table.tensors().get(index)) }
}

/// A tensor by its name; null when there is none.
///
/// # Safety
/// `component` is null or was not freed; `name` is null or ends with a null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_tensor_named(
    component: *const weightsd_component,
    name: *const c_char,
) -> *const weightsd_tensor {
    // SAFETY: as this function's own contract says.
    unsafe { element(component, |table| table.named(text::optional(name, "name").ok()??.as_bytes())) }
}

/// Number of layers that are quantised in a format of MLX.
///
/// # Safety
/// `component` is null or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_layer_count(component: *const weightsd_component) -> usize {
    // SAFETY: as this function's own contract says.
    unsafe { count(component, |table| table.layers().len()) }
}

/// A quantised layer by its number, in the order of the names; null beyond the last.
///
/// # Safety
/// `component` is null or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_layer_at(
    component: *const weightsd_component,
    index: usize,
) -> *const weightsd_layer {
    // SAFETY: as this function's own contract says.
    unsafe { element(component, |table| table.layers().get(index)) }
}

/// Number of views: one for each segment, with the segment's number.
///
/// # Safety
/// `component` is null or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_view_count(component: *const weightsd_component) -> usize {
    // SAFETY: as this function's own contract says.
    unsafe { count(component, |table| table.views().len()) }
}

/// The view of a segment, by the segment's number; null beyond the last.
///
/// # Safety
/// `component` is null or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_view_at(component: *const weightsd_component, index: usize) -> *const weightsd_view {
    // SAFETY: as this function's own contract says.
    unsafe { element(component, |table| table.views().get(index)) }
}

/// All that the daemon said of the component, as the JSON of `weights.v1.Component`: id, model with its commit, config, audit,
/// verification, assumptions, what adapters changed, how long each phase took. Null for a null handle.
///
/// # Safety
/// `component` is null or was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_report(component: *const weightsd_component) -> *const c_char {
    infallible(ptr::null(), || {
        // SAFETY: as this function's own contract says.
        let Ok(component) = (unsafe { handle::borrow::<weightsd_component>(component) }) else { return ptr::null() };
        let report = || outgoing::text(json::to_json("Component", &*component.info).to_string());
        component.report.get_or_init(report).as_ptr()
    })
}
