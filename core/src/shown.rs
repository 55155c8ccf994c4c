//! Untrusted text inside errors: an error is one line of bounded length, whatever a file or a request contains.

use std::fmt::Write as _;

/// Longest text that is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 300;

/// `text` on one line, control characters escaped, cut when it is long.
pub fn shown(text: &str) -> String {
    shown_up_to(text, SHOWN_BYTES_MAX)
}

/// As [`shown`], cut after about `bytes_max` bytes.
pub fn shown_up_to(text: &str, bytes_max: usize) -> String {
    let mut line = String::new();
    for character in text.chars() {
        if line.len() >= bytes_max {
            line.push('…');
            break;
        }
        if character.is_control() {
            let _ = write!(line, "{}", character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(shown("Zürich"), "Zürich");
        assert_eq!(shown("a\nb\0\u{1b}[31m"), "a\\nb\\u{0}\\u{1b}[31m");
        let cut = shown(&"é".repeat(1_000_000));
        assert!(cut.ends_with("é…") && cut.len() < SHOWN_BYTES_MAX + 8);
    }
}
