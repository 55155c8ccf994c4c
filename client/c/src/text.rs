//! Text that comes from C: UTF-8 with a null at the end.

use std::{
    ffi::{CStr, OsStr, c_char},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

use crate::error::Failure;

/// Text from C. `None` for null.
///
/// # Errors
/// When it is not UTF-8.
///
/// # Safety
/// `text` is null, or points at bytes with a null at the end that do not change for as long as `'a` lasts.
pub(crate) unsafe fn optional<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: it is not null, so it ends with a null and does not change.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|error| Failure::argument(name, format!("is not UTF-8 ({error})")))
}

/// Text from C that must be there.
///
/// # Errors
/// When it is null, empty or not UTF-8.
///
/// # Safety
/// As for [`optional`].
pub(crate) unsafe fn required<'a>(text: *const c_char, name: &str) -> Result<&'a str, Failure> {
    // SAFETY: as this function's own contract says.
    match unsafe { optional(text, name) }? {
        None => Err(Failure::argument(name, "is null")),
        Some("") => Err(Failure::argument(name, "is empty")),
        Some(text) => Ok(text),
    }
}

/// A path from C, whose bytes may be any but null. `None` for null.
///
/// # Safety
/// As for [`optional`].
pub(crate) unsafe fn path(text: *const c_char) -> Option<PathBuf> {
    if text.is_null() {
        return None;
    }
    // SAFETY: it is not null, so it ends with a null and does not change.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    Some(OsStr::from_bytes(bytes).into())
}

/// A list of texts from C.
///
/// # Errors
/// When the list is null and its count is not 0, or one of the texts is null or not UTF-8.
///
/// # Safety
/// `list` is null, or points at `count` texts, each as for [`optional`].
pub(crate) unsafe fn list<'a>(list: *const *const c_char, count: usize, name: &str) -> Result<Vec<&'a str>, Failure> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if list.is_null() {
        return Err(Failure::argument(name, format!("is null, and its count is {count}")));
    }
    // SAFETY: it is not null, so there are that many.
    let texts = unsafe { std::slice::from_raw_parts(list, count) };
    let text = |(at, text): (usize, &*const c_char)| {
        // SAFETY: as this function's own contract says.
        unsafe { required(*text, &format!("{name}[{at}]")) }
    };
    texts.iter().enumerate().map(text).collect()
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn what_is_no_text_is_named() {
        let latin = b"caf\xe9\0";
        // SAFETY: the texts are null or end with a null.
        unsafe {
            let error = optional(latin.as_ptr().cast(), "spec").unwrap_err().to_string();
            assert!(error.starts_with("argument `spec` is not UTF-8"), "{error}");
            assert!(required(ptr::null(), "spec").is_err() && required(c"".as_ptr(), "spec").is_err());
            assert_eq!(required(c"a".as_ptr(), "spec").unwrap(), "a");
            assert_eq!(path(latin.as_ptr().cast()).unwrap().as_os_str().len(), 4);
            let texts = [c"a".as_ptr(), ptr::null()];
            assert_eq!(list(texts.as_ptr(), 1, "patterns").unwrap(), ["a"]);
            let error = list(texts.as_ptr(), 2, "patterns").unwrap_err().to_string();
            assert!(error.contains("`patterns[1]` is null"), "{error}");
            assert!(list(ptr::null(), 1, "patterns").is_err());
            assert!(list(ptr::null(), 0, "patterns").unwrap().is_empty());
        }
    }
}
