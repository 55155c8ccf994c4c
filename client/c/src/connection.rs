//! The connection to the daemon, as a handle.

use std::{sync::Arc, time::Duration};

use weightsd_client::{Client, ConnectOptions};

use crate::{
    engine::Engine,
    error::{Failure, weightsd_code, weightsd_error},
    guard::{fallible, infallible},
    handle::{self, Tagged},
    options::{self, weightsd_connect_options},
    text,
};

/// A connection to the daemon. It connects again by itself after the daemon restarted. All functions that take one may be
/// called from several threads at once.
#[derive(Debug)]
pub struct weightsd_connection {
    pub(crate) client: Client,
    /// After the client: its drop may need the thread.
    pub(crate) engine: Arc<Engine>,
}

impl Tagged for weightsd_connection {
    const TAG: u64 = u64::from_be_bytes(*b"wd:conne");
    const NAME: &'static str = "connection";
}

/// Connects to the daemon, and checks that it speaks this library's version of the interface. Each connection has one thread,
/// which sleeps while nothing happens.
///
/// `options` may be null. `*result` is the connection, to be closed with `weightsd_disconnect`. `error` may be null; `*error` is null
/// after success, and otherwise to be freed with `weightsd_error_free`.
///
/// # Safety
/// The pointers are null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_connect(
    options: *const weightsd_connect_options,
    result: *mut *mut weightsd_connection,
    error: *mut *mut weightsd_error,
) -> weightsd_code {
    // SAFETY: as this function's own contract says.
    unsafe {
        fallible(error, || {
            let result = handle::emptied(result, "result")?;
            let mut wanted = ConnectOptions::default();
            if let Some(options) = options::read(options)? {
                if let Some(socket) = text::path(options.socket) {
                    wanted.socket = socket;
                }
                if options.deadline_ms != 0 {
                    wanted.deadline = Duration::from_millis(options.deadline_ms);
                }
            }
            let engine = Engine::start().map_err(Failure::Thread)?;
            let client = engine.wait_for(Client::connect(wanted))??;
            result.write(handle::into_raw(weightsd_connection { client, engine: Arc::new(engine) }));
            Ok(())
        })
    }
}

/// Closes a connection and frees it. Components that were loaded over it keep their leases. Null is allowed.
///
/// # Safety
/// `connection` is not used by any thread, now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_disconnect(connection: *mut weightsd_connection) {
    // SAFETY: as this function's own contract says.
    infallible((), || drop(unsafe { handle::take(connection) }));
}
