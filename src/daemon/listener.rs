//! The socket: taken over from launchd or systemd, or made here. One daemon a socket; a lock file beside it says whose.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    places::{self, Platform, SocketPathTooLong},
};
use weightsd_segment::activation;

use crate::disk;

/// Name of the socket in the launchd plist.
const LAUNCHD_NAME: &str = "Listener";

/// A listening socket. Dropping it removes a socket that was made here.
#[derive(Debug)]
pub struct BoundListener {
    /// The socket.
    pub listener: UnixListener,
    /// Where it is.
    pub path: PathBuf,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    /// Belongs to launchd or systemd, which keep it.
    Inherited,
    /// Made here. The file is the locked lock.
    Own { _lock: File },
}

/// How long the lock of a daemon that is gone may last: a process that it was about to start has it until it is another
/// program.
const LINGERING: Duration = Duration::from_millis(500);

/// Why there is no socket to serve on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A path that the system cannot hold.
    #[error(transparent)]
    TooLong(#[from] SocketPathTooLong),
    /// Another daemon serves there.
    #[error("another weightsd{} serves on `{}`", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Its process.
        pid: Option<u32>,
    },
    /// The socket's directory is open to others.
    #[error("`{}` {problem}, and the socket's directory must be the user's alone (mode 0700)", path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Something else is in the socket's place.
    #[error("`{}` exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// `--activated`, and no socket was handed over.
    #[error("no socket was handed over by launchd or systemd")]
    NothingInherited,
    /// The system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Explain for BindError {
    fn explain(&self) -> Explanation {
        let (reason, hint) = match self {
            Self::TooLong(_) => (Reason::InvalidRequest, "name a shorter path with `--socket` or WEIGHTSD_SOCKET"),
            Self::InUse { .. } => (
                Reason::InUse,
                "`weightsd status` shows the daemon; stop it first, or choose another socket with `--socket`",
            ),
            Self::OpenDirectory { .. } => {
                (Reason::InvalidRequest, "`chmod 700` it, or name a socket in a directory of your own with `--socket`")
            }
            Self::NotASocket { .. } => {
                (Reason::InvalidRequest, "move it away, or choose another path with `--socket` or WEIGHTSD_SOCKET")
            }
            Self::NothingInherited => (
                Reason::InvalidRequest,
                "`--activated` is for units of launchd and systemd, as `weightsd install` writes them: leave it out",
            ),
            Self::Io { path, source, .. } => return disk::explain(path, source),
        };
        Explanation::new(reason, "", hint)
    }
}

impl BoundListener {
    /// Takes over the socket that the service manager hands over, if it hands one over. Call it before there are threads.
    ///
    /// # Errors
    /// When what is handed over is no listening Unix socket, and when there `must_be` one and is none.
    pub fn inherit(must_be: bool) -> Result<Option<Self>, BindError> {
        let io_error = |source| BindError::Io { action: "take over", path: "the inherited socket".into(), source };
        let Some(listener) = activation::inherited_listener(LAUNCHD_NAME).map_err(io_error)? else {
            return if must_be { Err(BindError::NothingInherited) } else { Ok(None) };
        };
        let address = listener.local_addr().map_err(io_error)?;
        let path = address.as_pathname().map(Path::to_owned).unwrap_or_default();
        Ok(Some(Self { listener, path, origin: Origin::Inherited }))
    }

    /// Makes a socket at `path`, mode 0600, in a directory of mode 0700 that is made if it is missing. A socket that a
    /// dead daemon left is removed.
    ///
    /// # Errors
    /// When another daemon has it, when others can enter the directory, when something else is at `path`, when the path is
    /// too long, and when the system refuses.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        places::check_socket_path(path, Platform::current())?;
        let at = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        private_directory(directory)?;
        let lock = lock(path)?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(at("listen on"))?;
        // The directory keeps others out until this is done.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(at("protect"))?;
        listener.set_nonblocking(true).map_err(at("listen on"))?;
        Ok(Self { listener, path: path.to_owned(), origin: Origin::Own { _lock: lock } })
    }
}

impl Drop for BoundListener {
    fn drop(&mut self) {
        if matches!(self.origin, Origin::Own { .. }) {
            // The lock is still held: nobody else can have made a socket here. The lock file stays, because removing a
            // locked file would let two daemons lock two files of one name.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn private_directory(directory: &Path) -> Result<(), BindError> {
    let at = |action| move |source| BindError::Io { action, path: directory.to_owned(), source };
    if !directory.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at("make"))?;
    }
    let metadata = fs::metadata(directory).map_err(at("look at"))?;
    let fail = |problem| Err(BindError::OpenDirectory { path: directory.to_owned(), problem });
    if !metadata.is_dir() {
        return fail("is not a directory".to_owned());
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return fail(format!("belongs to uid {}", metadata.uid()));
    }
    if metadata.mode() & 0o077 != 0 {
        return fail(format!("has mode {:04o}", metadata.mode() & 0o7777));
    }
    Ok(())
}

/// Locks the file beside the socket and writes the process id into it. The lock ends with the process, however it ends.
fn lock(socket: &Path) -> Result<File, BindError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let at = |source| BindError::Io { action: "lock", path: path.clone(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(at)?;
    let asked = Instant::now();
    let locked = loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if asked.elapsed() < LINGERING => thread::sleep(LINGERING / 50),
            locked => break locked,
        }
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(BindError::InUse { path: socket.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(at(source)),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(at)?;
    writeln!(file, "{}", std::process::id()).map_err(at)?;
    Ok(file)
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let at = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(at("look at")(source)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    // A socket that answers belongs to someone without our lock: a service manager, or another program.
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse { path: path.to_owned(), pid: None }),
        Err(_) => fs::remove_file(path).map_err(at("remove the stale socket")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        folder
    }

    #[test]
    fn one_daemon_a_socket() {
        let folder = private();
        let path = folder.path().join("new").join("s");
        let first = BoundListener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        match BoundListener::bind(&path).unwrap_err() {
            BindError::InUse { pid, .. } => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other}"),
        }
        drop(first);
        assert!(!path.exists());
        drop(BoundListener::bind(&path).unwrap());
    }

    #[test]
    fn stale_sockets_go_and_other_files_stay() {
        let folder = private();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the socket behind, like a killed daemon");
        drop(BoundListener::bind(&path).unwrap());
        let living = UnixListener::bind(&path).unwrap();
        assert!(matches!(BoundListener::bind(&path), Err(BindError::InUse { pid: None, .. })));
        drop(living);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(BoundListener::bind(&path), Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let folder = private();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let error = BoundListener::bind(&folder.path().join("s")).unwrap_err();
        assert!(error.to_string().contains("0755"), "{error}");
    }
}
