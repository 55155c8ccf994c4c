//! Folders that must be this user's: whose they are, whom they let in, and what is refused.

use std::{
    fs::{self, DirBuilder, Metadata, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use weightsd_core::explain::{Explain, Explanation, Reason};

use crate::disk;

/// Whom a folder may let in besides its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// Nobody: a user who enters can connect to what lies there.
    Nobody,
    /// Those who only read: what lies there is protected by itself.
    Readers,
}

/// Whether the folder may be a link to another place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// It may; the place that it leads to is judged.
    Followed,
    /// It may not: the owner of the link decides what the folder is.
    Refused,
}

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is another user's, or others may enter it.
    #[error("`{}` {problem}, and it must be {expected}", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// What it is.
        problem: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The system refuses.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Explain for FolderError {
    fn explain(&self) -> Explanation {
        match self {
            Self::NotOurs { path, .. } => Explanation::new(
                Reason::OwnFiles,
                path.display().to_string(),
                "name a folder of your own, or take this one from others (`chown`, `chmod 700`)",
            ),
            Self::Io { path, source, .. } => disk::explain(path, source),
        }
    }
}

impl FolderError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

impl Others {
    /// The bits of a mode that must not be set.
    const fn closed(self) -> u32 {
        match self {
            Self::Nobody => 0o077,
            Self::Readers => 0o022,
        }
    }

    const fn expected(self) -> &'static str {
        match self {
            Self::Nobody => "a directory of the daemon's user that nobody else can enter (mode 0700)",
            Self::Readers => "a directory of the daemon's user that nobody else can write to",
        }
    }
}

/// Makes the folder with mode 0700 if it is missing, and judges it.
///
/// # Errors
/// When it is refused, or cannot be made or looked at.
pub(crate) fn make(path: &Path, others: Others, links: Links) -> Result<(), FolderError> {
    match judge(path, others, links) {
        Err(FolderError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FolderError::io("make", path))?;
            judge(path, others, links)
        }
        judged => judged,
    }
}

/// Makes a folder that others may enter and not write to, with mode 0755, if it is missing, and judges it.
///
/// # Errors
/// When it is refused, or cannot be made or looked at.
pub(crate) fn make_open(path: &Path) -> Result<(), FolderError> {
    if let Err(FolderError::Io { source, .. }) = judge(path, Others::Readers, Links::Followed)
        && source.kind() == io::ErrorKind::NotFound
    {
        make(path, Others::Nobody, Links::Followed)?;
        fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(FolderError::io("open to others", path))?;
    }
    judge(path, Others::Readers, Links::Followed)
}

/// Judges a folder that exists.
///
/// # Errors
/// When it is refused, or cannot be looked at.
pub(crate) fn judge(path: &Path, others: Others, links: Links) -> Result<(), FolderError> {
    let metadata = match links {
        Links::Followed => fs::metadata(path),
        Links::Refused => fs::symlink_metadata(path),
    };
    let metadata = metadata.map_err(FolderError::io("look at", path))?;
    let mode = metadata.mode();
    match owned(&metadata) {
        Err(problem) => Err(problem),
        Ok(()) if mode & others.closed() != 0 => Err(format!("has mode {:04o}", mode & 0o7777)),
        Ok(()) => Ok(()),
    }
    .map_err(|problem| FolderError::NotOurs { path: path.to_owned(), problem, expected: others.expected() })
}

/// Makes a folder of weightsd's own with mode 0700, or takes from others what they may do with it.
///
/// # Errors
/// When it is another user's or a link, or the system refuses.
pub(crate) fn make_or_close(path: &Path) -> Result<(), FolderError> {
    match make(path, Others::Nobody, Links::Refused) {
        Err(FolderError::NotOurs { .. }) if fs::symlink_metadata(path).is_ok_and(|found| owned(&found).is_ok()) => {
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(FolderError::io("close to others", path))
        }
        made => made,
    }
}

fn owned(metadata: &Metadata) -> Result<(), String> {
    let user = rustix::process::geteuid().as_raw();
    if metadata.is_symlink() {
        return Err("is a link".to_owned());
    }
    if !metadata.is_dir() {
        return Err("is not a directory".to_owned());
    }
    if metadata.uid() != user {
        return Err(format!("belongs to uid {}, not to {user}", metadata.uid()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn problem(path: &Path, others: Others, links: Links) -> String {
        match judge(path, others, links).unwrap_err() {
            FolderError::NotOurs { problem, .. } => problem,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_folder_is_ours_or_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("a/b");
        make(&folder, Others::Nobody, Links::Refused).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o700);
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(problem(&folder, Others::Nobody, Links::Refused), "has mode 0755");
        judge(&folder, Others::Readers, Links::Refused).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(problem(&folder, Others::Readers, Links::Refused), "has mode 1777");

        let link = home.path().join("link");
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        symlink(&folder, &link).unwrap();
        judge(&link, Others::Nobody, Links::Followed).unwrap();
        assert_eq!(problem(&link, Others::Nobody, Links::Refused), "is a link");
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(problem(&file, Others::Nobody, Links::Followed), "is not a directory");

        if chown(&folder, Some(4321), None).is_ok() {
            assert!(problem(&folder, Others::Nobody, Links::Refused).starts_with("belongs to uid 4321"));
            assert!(make_or_close(&folder).is_err());
        }
    }

    #[test]
    fn a_folder_of_weightsd_is_closed_to_others() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("weightsd");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        make_or_close(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o700);
        let link = home.path().join("link");
        symlink(&folder, &link).unwrap();
        assert!(make_or_close(&link).is_err());
    }
}
