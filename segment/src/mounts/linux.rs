//! `/proc/self/mountinfo`, as `proc_pid_mountinfo(5)` describes it.

use std::{ffi::OsString, fs, io, os::unix::ffi::OsStringExt as _, path::PathBuf};

use super::Mount;

pub(super) fn read() -> io::Result<Vec<Mount>> {
    Ok(fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n').filter_map(mount).collect())
}

/// One line: `36 35 98:0 /mnt1 /mnt/two\040words rw,noatime ...`.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let (numbers, _, at) = (fields.next()?, fields.next()?, fields.next()?);
    let (major, minor) = std::str::from_utf8(numbers).ok()?.split_once(':')?;
    let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    Some(Mount { at: PathBuf::from(OsString::from_vec(unescaped(at))), device })
}

/// Space, tab, line feed and backslash are written as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_escapes() {
        let line = br"36 35 98:3 /mnt1 /mnt/two\040words\134\011 rw,noatime master:1 - ext3 /dev/root rw";
        let expected = Mount { at: PathBuf::from("/mnt/two words\\\t"), device: rustix::fs::makedev(98, 3) };
        assert_eq!(mount(line), Some(expected));
        assert_eq!((mount(b""), mount(b"36 35 x:y / /mnt")), (None, None));
    }
}
