//! Text that goes to C: UTF-8 with a null at the end.

use std::ffi::CString;

/// Text for C. A null inside, which no text of the daemon has, would end it early and becomes U+FFFD.
pub(crate) fn text(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).unwrap_or_else(|error| {
        let text = String::from_utf8_lossy(&error.into_vec()).replace('\0', "\u{fffd}");
        CString::new(text).expect("every null was replaced")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_inside_ends_no_text() {
        assert_eq!(text("a\0b").to_str().unwrap(), "a\u{fffd}b");
        assert_eq!(text("é").to_str().unwrap(), "é");
    }
}
