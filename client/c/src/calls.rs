//! Questions to the daemon whose answers are JSON.

use std::ffi::{CString, c_char};

use weightsd_client::{LoadRequest, proto::AuditRequest};
use weightsd_proto::json;

use crate::{
    connection::weightsd_connection,
    error::{Failure, weightsd_code, weightsd_error},
    guard::{fallible, infallible},
    handle,
    options::{self, weightsd_model_options},
    outgoing, text,
};

/// Says what a spec means now: kind, commit, components, files, what is missing. Opens no weight file.
///
/// `options` may be null; base and overlay have no meaning here and are refused. `*json` is the JSON of
/// `weights.v1.ResolveResponse`, to be freed with `weightsd_text_free`. `error` as for `weightsd_load`.
///
/// # Safety
/// The pointers are null or valid, and the texts end with a null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_resolve(
    connection: *const weightsd_connection,
    spec: *const c_char,
    options: *const weightsd_model_options,
    json: *mut *mut c_char,
    error: *mut *mut weightsd_error,
) -> weightsd_code {
    // SAFETY: as this function's own contract says.
    unsafe {
        fallible(error, || {
            let json = handle::emptied(json, "json")?;
            let connection = handle::borrow(connection)?;
            let request = about(spec, options)?;
            let message = request.message();
            for (name, other) in [("base", &message.base), ("overlay", &message.overlay)] {
                if other.is_some() {
                    return Err(Failure::argument(name, "has no meaning for weightsd_resolve"));
                }
            }
            let (client, model) = (connection.client.clone(), message.model.clone().unwrap_or_default());
            let answer = connection.engine.wait_for(async move { client.resolve(model).await })??;
            json.write(outgoing::text(json::to_json("ResolveResponse", &answer).to_string()).into_raw());
            Ok(())
        })
    }
}

/// Compares a component with its family's catalogue, without loading it; every component when `component` is null.
///
/// `options` may be null. `*json` is the JSON of `weights.v1.AuditResponse`, to be freed with `weightsd_text_free`. `error` as for
/// `weightsd_load`.
///
/// # Safety
/// The pointers are null or valid, and the texts end with a null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_audit(
    connection: *const weightsd_connection,
    spec: *const c_char,
    component: *const c_char,
    options: *const weightsd_model_options,
    json: *mut *mut c_char,
    error: *mut *mut weightsd_error,
) -> weightsd_code {
    // SAFETY: as this function's own contract says.
    unsafe {
        fallible(error, || {
            let json = handle::emptied(json, "json")?;
            let connection = handle::borrow(connection)?;
            let components = text::optional(component, "component")?.into_iter().map(str::to_owned).collect();
            let request = about(spec, options)?;
            let message = request.message();
            let question = AuditRequest {
                model: message.model.clone(),
                components,
                base: message.base.clone(),
                overlay: message.overlay.clone(),
                ..AuditRequest::default()
            };
            let client = connection.client.clone();
            let answer = connection.engine.wait_for(async move { client.audit_with(question).await })??;
            json.write(outgoing::text(json::to_json("AuditResponse", &answer).to_string()).into_raw());
            Ok(())
        })
    }
}

/// Frees a text that a function of this library gave to the caller. Null is allowed.
///
/// # Safety
/// `text` came from such a function and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightsd_text_free(text: *mut c_char) {
    infallible((), || {
        if !text.is_null() {
            // SAFETY: it came from `CString::into_raw` here, and the caller gives it up.
            drop(unsafe { CString::from_raw(text) });
        }
    });
}

/// A request that names the files, whatever is asked about them.
///
/// # Safety
/// As for the functions above.
unsafe fn about(spec: *const c_char, options: *const weightsd_model_options) -> Result<LoadRequest, Failure> {
    // SAFETY: as this function's own contract says.
    unsafe {
        let request = LoadRequest::new(text::required(spec, "spec")?, "");
        match options::read(options)? {
            Some(options) => options.apply(request),
            None => Ok(request),
        }
    }
}
