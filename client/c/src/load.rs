//! Loading a component: progress goes to the caller while it waits, and it can give the load up.

use std::{
    ffi::{c_char, c_void},
    future::pending,
    sync::Arc,
};

use tokio::sync::watch;
use weightsd_client::{Component, LoadRequest, Progress};

use crate::{
    component::weightsd_component,
    connection::weightsd_connection,
    constants::phase,
    engine::{Steps, Wanted},
    error::{Failure, weightsd_code, weightsd_error},
    guard::fallible,
    handle,
    options::{self, weightsd_load_options},
    outgoing,
    progress::{weightsd_on_progress, weightsd_progress},
    text,
};

/// Loads a component, or joins a load that is under way, and maps its files. Waits until that is done. Loads over one
/// connection may run on several threads at once.
///
/// `spec` is a path, or a Hugging Face id with or without a revision; `component` is "transformer", "vae" and so on; `options`
/// may be null. `*result` is the component, to be freed with `weightsd_component_free`; it may outlive the connection. `error` may
/// be null; `*error` is null after success, and otherwise to be freed with `weightsd_error_free`.
///
/// # Safety
/// The texts end with a null. `connection` was not freed, and is not until this returns; nor is what `options` points at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_load(
    connection: *const weightsd_connection,
    spec: *const c_char,
    component: *const c_char,
    options: *const weightsd_load_options,
    result: *mut *mut weightsd_component,
    error: *mut *mut weightsd_error,
) -> weightsd_code {
    // SAFETY: as this function's own contract says.
    unsafe {
        fallible(error, || {
            let result = handle::emptied(result, "result")?;
            let connection = handle::borrow(connection)?;
            let mut request = LoadRequest::new(text::required(spec, "spec")?, text::required(component, "component")?);
            let mut listener = Listener::default();
            if let Some(options) = options::read(options)? {
                request = options.apply(request)?;
                listener = Listener::of(&options)?;
            }
            let loaded = load(connection, request, listener)?;
            result.write(handle::into_raw(weightsd_component::new(loaded, Arc::clone(&connection.engine))?));
            Ok(())
        })
    }
}

/// Who hears of the progress, and what ends the load.
#[derive(Default)]
struct Listener {
    on_progress: weightsd_on_progress,
    context: Context,
    cancelled: Option<watch::Receiver<bool>>,
}

/// The caller's own pointer, which only the caller's thread sees.
#[derive(Clone, Copy)]
struct Context(*mut c_void);

impl Default for Context {
    fn default() -> Context {
        Context(std::ptr::null_mut())
    }
}

impl Listener {
    /// # Safety
    /// `cancellation` is null or was not freed.
    unsafe fn of(options: &weightsd_load_options) -> Result<Listener, Failure> {
        let cancelled = match options.cancellation.is_null() {
            true => None,
            // SAFETY: as this function's own contract says.
            false => Some(unsafe { handle::borrow(options.cancellation) }?.subscribe()),
        };
        Ok(Listener { on_progress: options.on_progress, context: Context(options.context), cancelled })
    }

    /// Tells the caller. Whether the load goes on.
    fn hear(&self, progress: &Progress) -> Wanted {
        let Some(on_progress) = self.on_progress else { return Wanted::Yes };
        let file = outgoing::text(progress.file.as_str());
        let remaining = progress.remaining.as_ref();
        let told = weightsd_progress {
            phase: phase(progress.phase),
            sharers: progress.sharers,
            file: file.as_ptr(),
            files_done: progress.files_done,
            files_total: progress.files_total,
            bytes_done: progress.bytes_done,
            bytes_total: progress.bytes_total,
            bytes_per_second: progress.bytes_per_second,
            remaining_ms: remaining
                .map_or(-1, |time| time.seconds.saturating_mul(1000) + i64::from(time.nanos) / 1_000_000),
        };
        // SAFETY: the caller's function, with the caller's own pointer, on the caller's thread; what it is shown lives
        // until it returns, and the header says that nothing may leave it but its result.
        let goes_on = unsafe { on_progress(&raw const told, self.context.0) };
        if goes_on { Wanted::Yes } else { Wanted::No }
    }
}

fn load(connection: &weightsd_connection, request: LoadRequest, listener: Listener) -> Result<Component, Failure> {
    let client = connection.client.clone();
    let is_heard = listener.on_progress.is_some();
    let cancelled = listener.cancelled.clone();
    let work = async move |steps: Steps<Progress>| {
        let load = client.load(request, |progress| {
            if is_heard {
                steps.report(progress.clone());
            }
        });
        tokio::select! {
            loaded = load => Some(loaded),
            () = told_to_stop(cancelled) => None,
        }
    };
    let result = connection.engine.run(work, |progress| listener.hear(&progress))?;
    match result.flatten() {
        Some(loaded) => Ok(loaded?),
        None => Err(Failure::Cancelled { operation: "the load" }),
    }
}

/// Waits until the caller cancels.
async fn told_to_stop(cancelled: Option<watch::Receiver<bool>>) {
    if let Some(mut cancelled) = cancelled
        && cancelled.wait_for(|is_cancelled| *is_cancelled).await.is_ok()
    {
        return;
    }
    // Nobody can cancel it any more.
    pending().await
}
