//! `Range: bytes=…`, one range only.

use std::ops::Range;

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The whole file: no header, one that cannot be read, or several ranges (RFC 9110 14.2 lets a server ignore it).
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that the file does not have.
    Beyond,
}

impl Asked {
    pub(super) fn parse(header: Option<&str>, length: u64) -> Self {
        let Some((first, last)) = header.and_then(|value| value.trim().strip_prefix("bytes=")?.split_once('-')) else {
            return Self::Whole;
        };
        match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
            (Ok(first), Ok(last)) if first > last => Self::Whole,
            (Ok(first), _) if first >= length && (last.trim().is_empty() || last.trim().parse::<u64>().is_ok()) => {
                Self::Beyond
            }
            (Ok(first), Ok(last)) => Self::Part(first..length.min(last.saturating_add(1))),
            (Ok(first), Err(_)) if last.trim().is_empty() => Self::Part(first..length),
            (Err(_), Ok(0)) if first.trim().is_empty() => Self::Beyond,
            (Err(_), Ok(suffix)) if first.trim().is_empty() && length > 0 => {
                Self::Part(length.saturating_sub(suffix)..length)
            }
            _ => Self::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_read_and_anything_else_is_the_whole() {
        for (header, asked) in [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=3-", Asked::Part(3..10)),
            ("bytes=3-999", Asked::Part(3..10)),
            ("bytes=9-9", Asked::Part(9..10)),
            ("bytes=-4", Asked::Part(6..10)),
            ("bytes=-40", Asked::Part(0..10)),
            ("bytes=10-", Asked::Beyond),
            ("bytes=10-12", Asked::Beyond),
            ("bytes=-0", Asked::Beyond),
            ("bytes=5-3", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("bytes=20-21,3-4", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=x-3", Asked::Whole),
            ("items=0-1", Asked::Whole),
        ] {
            assert_eq!(Asked::parse(Some(header), 10), asked, "{header}");
        }
        assert_eq!(Asked::parse(None, 10), Asked::Whole);
    }

    #[test]
    fn an_empty_file_has_no_ranges() {
        assert_eq!(Asked::parse(Some("bytes=0-"), 0), Asked::Beyond);
        assert_eq!(Asked::parse(Some("bytes=-4"), 0), Asked::Whole);
    }
}
