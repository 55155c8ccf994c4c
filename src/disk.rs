//! Free space, errors that mean there is none, and what other errors of the system mean.

use std::{io, path::Path};

use rustix::io::Errno;
use weightsd_core::explain::{Explanation, Reason};

/// Whether a file cannot be written because the disk, or what this user may have of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Bytes that this user may write to the file system of `path`, which need not exist yet.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let space = rustix::fs::statvfs(existing)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// What it means that the system refuses `path`.
pub(crate) fn explain(path: &Path, error: &io::Error) -> Explanation {
    const NOT_A_FILE: &str = "put a regular file in its place";
    let (reason, hint) = match error.kind() {
        _ if is_full(error) => (Reason::NoSpace, "make room on that disk; what has come already is kept"),
        io::ErrorKind::NotFound => (Reason::FileVanished, "the file was there a moment ago: try again"),
        io::ErrorKind::PermissionDenied => (Reason::FileRefused, "make it readable for the daemon's user"),
        _ if is(error, Errno::LOOP) => (Reason::FileRefused, "links at this path lead in a circle: remove them"),
        // A socket cannot even be opened.
        _ if is(error, Errno::NXIO) => (Reason::FileRefused, NOT_A_FILE),
        io::ErrorKind::InvalidInput => (Reason::FileRefused, NOT_A_FILE),
        _ => (Reason::Io, "see the daemon's log, and whether the disk or the limit of open files is exhausted"),
    };
    Explanation::new(reason, path.display().to_string(), hint)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
