//! The border: what comes back from Rust becomes a code and an error, and no panic passes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    error::{Failure, weightsd_code, weightsd_error},
    handle::out,
};

/// Runs the body of a function that may fail. On failure it fills `error`, unless that is null.
///
/// # Safety
/// `error` is null, or points at a pointer that may be written.
pub(crate) unsafe fn fallible(
    error: *mut *mut weightsd_error,
    body: impl FnOnce() -> Result<(), Failure>,
) -> weightsd_code {
    // Whatever state a panic leaves behind is the body's own: the handles that it reads are not changed by calls, or
    // behind locks that treat poison as no news.
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => {
            // SAFETY: as this function's own contract says.
            unsafe { out(error, std::ptr::null_mut()) };
            return weightsd_code::Ok;
        }
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::panic(&*panic),
    };
    let code = failure.code();
    // Made only for somebody who will free it.
    if !error.is_null() {
        // SAFETY: it is not null, so it may be written.
        unsafe { error.write(failure.into_raw()) };
    }
    code
}

/// Runs the body of a function that has no way to say that it failed: a panic gives `otherwise`.
pub(crate) fn infallible<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use std::{ffi::CStr, ptr};

    use super::*;
    use crate::error::weightsd_error_free;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let mut error = ptr::null_mut();
        // SAFETY: it is a pointer of this function.
        let code = unsafe { fallible(&raw mut error, || panic!("number {}", 7)) };
        assert_eq!(code, weightsd_code::Panic);
        // SAFETY: the error was filled.
        let message = unsafe { CStr::from_ptr((*error).message) };
        assert!(message.to_str().unwrap().contains("number 7"), "{message:?}");
        // SAFETY: it is not used again.
        unsafe { weightsd_error_free(error) };
        // SAFETY: null is allowed.
        let code = unsafe { fallible(ptr::null_mut(), || panic!("nobody asks why")) };
        assert_eq!(code, weightsd_code::Panic);
        assert_eq!(infallible(3, || panic!("nobody is told")), 3);
    }
}
