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

/// A text with `…` in the place of each absolute path. A path in backquotes ends with them, and another one with its word.
#[must_use]
pub fn without_paths(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        let begins_word = before.is_whitespace() || "`\"'(=[".contains(before);
        if begins_word && (next == '/' || rest.starts_with("~/")) {
            let ends = |character: char| match before {
                '`' | '"' | '\'' => character == before,
                _ => character.is_whitespace() || ",;)]".contains(character),
            };
            out.push('…');
            rest = &rest[rest.find(ends).unwrap_or(rest.len())..];
            before = '…';
        } else {
            out.push(next);
            rest = &rest[next.len_utf8()..];
            before = next;
        }
    }
    out
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

    #[test]
    fn paths_are_taken_out_of_texts_and_names_stay() {
        for (text, expected) in [
            ("cannot read `/home/me/my models/x`: refused", "cannot read `…`: refused"),
            ("`org/repo` is not in the cache `/root/.cache` (main)", "`org/repo` is not in the cache `…` (main)"),
            ("see /var/log/x, and ~/y too", "see …, and … too"),
            ("from https://hub/x and vae/config.json", "from https://hub/x and vae/config.json"),
            ("`/unended", "`…"),
            ("", ""),
        ] {
            assert_eq!(without_paths(text), expected);
        }
    }
}
