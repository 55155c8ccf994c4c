//! Free space, and what errors of the system mean: a full disk, a file that is gone, a file that must not be read.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use weightsd_core::{
    explain::{Explanation, Reason},
    places::Platform,
};

use crate::lanes::TooManyOpen;

/// Whether a file cannot be written because the disk, or what this user may have of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Bytes that this user may write to the file system of `path`, which need not exist yet.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    weightsd_segment::free_space(existing)
}

/// Explains why the system refuses `path`.
pub(crate) fn explain(path: &Path, error: &io::Error) -> Explanation {
    explain_on(Platform::current(), path, error)
}

/// Whether macOS's protection of private folders refuses. It lets look and not open, and answers EPERM where permissions
/// of files answer EACCES.
fn is_privacy(platform: Platform, error: &io::Error) -> bool {
    platform == Platform::MacOs && is(error, Errno::PERM)
}

/// What opens the private folders of macOS to the daemon.
fn privacy_hint() -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "weightsd".into());
    format!(
        "macOS keeps programs out of Desktop, Documents, Downloads, iCloud and external disks until they are let in: give `{}` \
         Full Disk Access in System Settings > Privacy & Security (again after each build of it), or start `weightsd serve` in a \
         terminal that has it, or move the files",
        program.display()
    )
}

fn explain_on(platform: Platform, path: &Path, error: &io::Error) -> Explanation {
    const NOT_A_FILE: &str = "put a regular file in its place";
    if let Some(link) = dangling(path) {
        return Explanation::new(Reason::FileRefused, link.path.display().to_string(), link.hint());
    }
    if is_privacy(platform, error) {
        return Explanation::new(Reason::FileRefused, path.display().to_string(), privacy_hint());
    }
    let (reason, hint) = match error.kind() {
        _ if is_full(error) => (Reason::NoSpace, "make room on that disk; what has come already is kept"),
        io::ErrorKind::NotFound => (Reason::FileVanished, "the file was there a moment ago: try again"),
        io::ErrorKind::PermissionDenied => (Reason::FileRefused, "make it readable for the daemon's user"),
        _ if is(error, Errno::LOOP) => (Reason::FileRefused, "links at this path lead in a circle: remove them"),
        // A socket cannot even be opened.
        _ if is(error, Errno::NXIO) => (Reason::FileRefused, NOT_A_FILE),
        io::ErrorKind::InvalidInput => (Reason::FileRefused, NOT_A_FILE),
        io::ErrorKind::IsADirectory => (Reason::FileRefused, "a folder lies where a file belongs: move it away"),
        _ if error.get_ref().is_some_and(|inner| inner.is::<TooManyOpen>()) => {
            (Reason::Busy, "try again when others have let go, or raise the limit of open files (`ulimit -n`)")
        }
        _ => (Reason::Io, "see the daemon's log, and whether the disk or the limit of open files is exhausted"),
    };
    Explanation::new(reason, path.display().to_string(), hint)
}

/// What it means that the system does not let the daemon write `path`. `instead` names the setting that can point
/// elsewhere.
pub(crate) fn explain_write(path: &Path, error: &io::Error, instead: &str) -> Explanation {
    let hint = match error.kind() {
        _ if is_privacy(Platform::current(), error) => privacy_hint(),
        io::ErrorKind::PermissionDenied => {
            // The nearest thing that is there is what refuses.
            let refusing = path.ancestors().find_map(|path| Some((path, fs::symlink_metadata(path).ok()?.uid())));
            let (refusing, owner) = refusing.unwrap_or((path, 0));
            format!(
                "`{}` belongs to the user with id {owner}, and the daemon runs as {}: let that user's group write to it, or \
                 {instead}",
                refusing.display(),
                rustix::process::geteuid().as_raw()
            )
        }
        io::ErrorKind::ReadOnlyFilesystem => format!("the file system is mounted read-only: {instead}"),
        _ => return explain(path, error),
    };
    if dangling(path).is_some() {
        return explain(path, error);
    }
    Explanation::new(Reason::FileRefused, path.display().to_string(), hint)
}

/// A link that leads to nothing, such as a folder on a disk that is not mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dangling {
    path: PathBuf,
    target: PathBuf,
}

/// The link on the way to `path` that leads to nothing.
pub(crate) fn dangling(path: &Path) -> Option<Dangling> {
    let leads_nowhere = |path: &&Path| {
        path.is_symlink() && fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let path = path.ancestors().find(leads_nowhere)?;
    Some(Dangling { path: path.to_owned(), target: fs::read_link(path).ok()? })
}

impl Dangling {
    /// What can help.
    pub(crate) fn hint(&self) -> String {
        let Self { path, target } = self;
        format!(
            "`{}` is a link to `{}`, where nothing is: mount that disk, or mend the link",
            path.display(),
            target.display()
        )
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_to_nothing_is_named_from_whatever_lies_below_it() {
        let folder = tempfile::tempdir().unwrap();
        let (link, good) = (folder.path().join("cache"), folder.path().join("good"));
        symlink("away/hub", &link).unwrap();
        symlink(folder.path(), &good).unwrap();
        for below in [link.clone(), link.join("models--a--b/blobs/x")] {
            let hint = dangling(&below).unwrap().hint();
            assert!(hint.contains(&format!("`{}` is a link to `away/hub`", link.display())), "{hint}");
            let error = fs::create_dir_all(&below).unwrap_err();
            let explanation = explain_write(&below, &error, "");
            assert!(explanation.reason == Reason::FileRefused && explanation.hint == hint, "{explanation:?}");
        }
        assert_eq!(dangling(&good.join("absent/x")), None);
    }

    #[test]
    fn the_privacy_of_macos_is_told_from_permissions() {
        let hint = |platform, errno: Errno| {
            explain_on(platform, Path::new("/Users/ada/Downloads/x"), &io::Error::from(errno)).hint.into_owned()
        };
        let private = hint(Platform::MacOs, Errno::PERM);
        assert!(private.contains("Full Disk Access") && private.contains("weightsd serve"), "{private}");
        for (platform, errno) in [(Platform::MacOs, Errno::ACCESS), (Platform::Linux, Errno::PERM)] {
            assert_eq!(hint(platform, errno), "make it readable for the daemon's user");
        }
    }

    #[test]
    fn whoever_refuses_a_write_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("models--a--b/blobs/x");
        let denied = explain_write(&below, &io::ErrorKind::PermissionDenied.into(), "name another");
        let owner = format!(
            "`{}` belongs to the user with id {}",
            folder.path().display(),
            rustix::process::geteuid().as_raw()
        );
        assert!(denied.hint.contains(&owner) && denied.hint.ends_with("name another"), "{denied:?}");
        let frozen = explain_write(&below, &io::ErrorKind::ReadOnlyFilesystem.into(), "name another");
        assert!(frozen.hint.contains("read-only"), "{frozen:?}");
    }
}
