//! The socket: taken over from launchd or systemd, or made here. One daemon has it, and holds a lock file beside it.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, ErrorKind, Read as _, Seek as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    places::{self, Platform, SocketPathTooLong},
};
use weightsd_segment::activation;

use crate::{
    disk,
    private::{self, FolderError, Links, Others},
};

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
    /// The daemon whose socket this was, until it is told that this one serves.
    predecessor: Mutex<Option<UnixStream>>,
    /// Is cancelled when the next daemon serves on the socket.
    given_away: CancellationToken,
}

#[derive(Debug)]
enum Origin {
    /// Belongs to launchd or systemd, which keep it.
    Inherited,
    /// Made here. The file is the locked lock.
    Own(Mutex<Own>),
}

/// A socket that was made here. The file is the locked lock.
#[derive(Debug)]
struct Own {
    lock: File,
    socket: SocketFile,
    reach: Reach,
}

/// Who can connect to a socket. Whom it serves, the daemon decides for each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The daemon's user.
    Owner,
    /// Every user of this machine.
    Everybody,
}

impl Reach {
    fn make_folder(self, folder: &Path) -> Result<(), FolderError> {
        match self {
            Self::Owner => private::make(folder, Others::Nobody, Links::Followed),
            Self::Everybody => private::make_open(folder),
        }
    }

    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everybody => 0o666,
        }
    }
}

/// What became of the socket's file.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is where it was.
    There,
    /// It was gone, and there is a new one.
    MadeAgain(UnixListener),
    /// Something else is in its place, which may be another daemon's.
    Taken,
    /// It is gone, and belongs to the service manager.
    Lost,
}

/// Which socket lies at a path: its device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SocketFile(u64, u64);

impl SocketFile {
    /// The socket at `path`; `None` when something else is there.
    fn at(path: &Path) -> io::Result<Option<Self>> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(metadata.file_type().is_socket().then(|| Self(metadata.dev(), metadata.ino())))
    }
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
    #[error("the socket's directory cannot be used")]
    Directory(#[from] FolderError),
    /// The path of the socket is taken by something else.
    #[error("`{}` exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// `--activated`, and no socket was handed over.
    #[error("no socket was handed over by launchd or systemd")]
    NothingInherited,
    /// The daemon that serves there gives its socket to nobody.
    #[error("the daemon that serves on `{}` cannot be replaced while it runs", path.display())]
    NotReplaceable {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to the service manager.
    #[error("`{}` belongs to the service manager, which keeps it through a restart", path.display())]
    Managed {
        /// The socket.
        path: PathBuf,
    },
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
            Self::Directory(FolderError::NotOurs { .. }) => {
                (Reason::InvalidRequest, "`chmod 700` it, or name a socket in a directory of your own with `--socket`")
            }
            Self::Directory(error) => return error.explain(),
            Self::NotASocket { .. } => {
                (Reason::InvalidRequest, "move it away, or choose another path with `--socket` or WEIGHTSD_SOCKET")
            }
            Self::NothingInherited => (
                Reason::InvalidRequest,
                "`--activated` is for units of launchd and systemd, as `weightsd install` writes them: leave it out",
            ),
            Self::NotReplaceable { .. } => {
                (Reason::InUse, "it is of an older version, or does not answer: stop it, then start this one")
            }
            Self::Managed { .. } => (
                Reason::InUse,
                "have the service manager restart the daemon, such as with `systemctl --user restart weightsd`: who connects \
                 meanwhile waits, and nobody is refused",
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
        Ok(Some(Self::new(listener, path, Origin::Inherited)))
    }

    fn new(listener: UnixListener, path: PathBuf, origin: Origin) -> Self {
        Self { listener, path, origin, predecessor: Mutex::default(), given_away: CancellationToken::new() }
    }

    /// The setting `idle_exit` where the socket is a service manager's, which starts the next daemon.
    pub(super) fn idle_exit(&self, setting: Option<Duration>) -> Option<Duration> {
        let is_ours = matches!(self.origin, Origin::Own(_));
        if is_ours && setting.is_some() {
            tracing::warn!("`idle_exit` does nothing: no service manager would start this daemon again");
        }
        setting.filter(|_| !is_ours)
    }

    /// The socket, if it was handed over.
    pub(super) fn handed_over(&self) -> Option<UnixListener> {
        match self.origin {
            Origin::Inherited => self.listener.try_clone().ok(),
            Origin::Own(_) => None,
        }
    }

    /// Makes a socket at `path` for the daemon's user alone, as [`Self::bind_for`] does.
    ///
    /// # Errors
    /// As there.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Self::bind_for(path, Reach::Owner)
    }

    /// Makes a socket at `path`, mode 0600, in a directory of mode 0700 that is made if it is missing; for other users, mode
    /// 0666 in a directory that they may enter. A socket that a dead daemon left is removed: one that refuses connections
    /// for as long as a living listener with a full queue might.
    ///
    /// # Errors
    /// When another daemon has it, when others can enter the directory, or write to it, when something else is at `path`,
    /// when the path is too long, and when the system refuses.
    pub fn bind_for(path: &Path, reach: Reach) -> Result<Self, BindError> {
        places::check_socket_path(path, Platform::current())?;
        reach.make_folder(folder_of(path))?;
        let lock = lock(path)?;
        remove_stale(path, Platform::current(), connect)?;
        let (listener, socket) = make_socket(path, reach)?;
        Ok(Self::new(listener, path.to_owned(), Origin::Own(Mutex::new(Own { lock, socket, reach }))))
    }

    /// What `predecessor` gave: its listener at `path`, and the file that it has locked and this process has from now on.
    pub(super) fn taken(
        (path, reach): (&Path, Reach),
        [listener, lock]: [OwnedFd; 2],
        predecessor: UnixStream,
    ) -> Result<Self, BindError> {
        let at = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
        let (listener, mut lock) = (UnixListener::from(listener), File::from(lock));
        reach.make_folder(folder_of(path))?;
        listener.set_nonblocking(true).map_err(at("take over"))?;
        let socket = SocketFile::at(path).map_err(at("look at"))?;
        let socket = socket.ok_or_else(|| BindError::NotASocket { path: path.to_owned() })?;
        sign(&mut lock).map_err(at("lock"))?;
        let mut taken = Self::new(listener, path.to_owned(), Origin::Own(Mutex::new(Own { lock, socket, reach })));
        *taken.predecessor.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(predecessor);
        Ok(taken)
    }

    /// The listener and the lock, for the next daemon; `None` when they are the service manager's.
    pub(super) fn shared(&self) -> io::Result<Option<(UnixListener, File)>> {
        let Origin::Own(own) = &self.origin else { return Ok(None) };
        let lock = own.lock().unwrap_or_else(PoisonError::into_inner).lock.try_clone()?;
        Ok(Some((self.listener.try_clone()?, lock)))
    }

    /// The daemon whose socket this was, the first time.
    pub(super) fn predecessor(&self) -> Option<UnixStream> {
        self.predecessor.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Lets those in, and only those, whom this daemon's settings let in, to a socket that was another daemon's.
    pub(super) fn protect(&self) -> io::Result<()> {
        let Origin::Own(own) = &self.origin else { return Ok(()) };
        let reach = own.lock().unwrap_or_else(PoisonError::into_inner).reach;
        fs::set_permissions(&self.path, Permissions::from_mode(reach.mode()))
    }

    /// Whether the socket was another daemon's, which still serves.
    pub(super) fn has_predecessor(&self) -> bool {
        self.predecessor.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The next daemon serves on the socket: it stays when this one ends.
    pub(super) fn is_given_away(&self) {
        self.given_away.cancel();
    }

    /// The next daemon did not serve; the lock says again whose the socket is.
    pub(super) fn is_kept(&self) -> io::Result<()> {
        let Origin::Own(own) = &self.origin else { return Ok(()) };
        sign(&mut own.lock().unwrap_or_else(PoisonError::into_inner).lock)
    }

    /// Waits until the next daemon serves on the socket.
    pub(super) async fn until_given_away(&self) {
        self.given_away.cancelled().await;
    }
}

impl BoundListener {
    /// Looks whether clients still find the socket, and makes it again if it is gone and nobody else has taken its place:
    /// programs that tidy up delete sockets that look old. Blocks.
    ///
    /// # Errors
    /// When it is gone and cannot be made again.
    pub(super) fn look(&self) -> Result<Fate, BindError> {
        let found = match SocketFile::at(&self.path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
            Err(source) => return Err(BindError::Io { action: "look at", path: self.path.clone(), source }),
            Ok(found) => Some(found),
        };
        let Origin::Own(own) = &self.origin else {
            return Ok(if found.is_some() { Fate::There } else { Fate::Lost });
        };
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = found {
            return Ok(if found == Some(own.socket) { Fate::There } else { Fate::Taken });
        }
        own.reach.make_folder(self.folder())?;
        if !is_at(&own.lock, &lock_path(&self.path)) {
            match lock(&self.path) {
                Ok(lock) => own.lock = lock,
                Err(BindError::InUse { .. }) => return Ok(Fate::Taken),
                Err(error) => return Err(error),
            }
        }
        let (listener, socket) = make_socket(&self.path, own.reach)?;
        own.socket = socket;
        Ok(Fate::MadeAgain(listener))
    }

    /// The folder that the socket lies in.
    pub(super) fn folder(&self) -> &Path {
        folder_of(&self.path)
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Whether the open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |file: io::Result<fs::Metadata>| file.map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((same(file.metadata()), same(fs::symlink_metadata(path))), (Ok(open), Ok(there)) if open == there)
}

impl Drop for BoundListener {
    fn drop(&mut self) {
        let Origin::Own(own) = &mut self.origin else { return };
        if self.given_away.is_cancelled() {
            return;
        }
        let socket = own.get_mut().unwrap_or_else(PoisonError::into_inner).socket;
        // Service managers and other programs replace a socket without asking for our lock. The lock file stays, because
        // removing a locked file would let two daemons lock two files of one name.
        if SocketFile::at(&self.path).is_ok_and(|found| found == Some(socket)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A listening socket at `path` that does not block.
fn make_socket(path: &Path, reach: Reach) -> Result<(UnixListener, SocketFile), BindError> {
    let at = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
    let listener = UnixListener::bind(path).map_err(at("listen on"))?;
    let socket = SocketFile::at(path).map_err(at("look at"))?;
    let socket = socket.ok_or_else(|| BindError::NotASocket { path: path.to_owned() })?;
    // The directory keeps others out until this is done.
    fs::set_permissions(path, Permissions::from_mode(reach.mode())).map_err(at("protect"))?;
    listener.set_nonblocking(true).map_err(at("listen on"))?;
    Ok((listener, socket))
}

/// Locks the file beside the socket and writes the process id into it. The lock ends with the process, however it ends.
fn lock(socket: &Path) -> Result<File, BindError> {
    let path = lock_path(socket);
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
    sign(&mut file).map_err(at)?;
    Ok(file)
}

/// Writes the process id into the lock.
fn sign(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

/// Removes a socket that nobody listens on. What else may be the matter is an error: a listener with a full queue, or one
/// that this user may not connect to, is alive.
fn remove_stale(
    path: &Path,
    platform: Platform,
    connect: impl FnMut(&Path) -> io::Result<()>,
) -> Result<(), BindError> {
    let at = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
    let before = match SocketFile::at(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(at("look at")(source)),
        Ok(None) => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(found) => found,
    };
    // A socket that answers belongs to someone without our lock: a service manager, or another program.
    let in_use = || BindError::InUse { path: path.to_owned(), pid: None };
    match ask(path, platform, connect) {
        Ok(()) => Err(in_use()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => match SocketFile::at(path) {
            Ok(after) if after != before => Err(in_use()),
            _ => fs::remove_file(path).or_else(unless_gone).map_err(at("remove the stale socket")),
        },
        Err(source) => Err(at("find out who listens on")(source)),
    }
}

fn unless_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Connects, and asks again for a moment when it is refused: at least twice.
fn ask(path: &Path, platform: Platform, mut connect: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let asked = Instant::now();
    loop {
        match connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            answer => return answer,
        }
        thread::sleep(places::REFUSAL_PAUSE);
        if asked.elapsed() >= places::refusal_patience(platform) {
            return connect(path);
        }
    }
}

/// Connects without waiting. A queue that is full is somebody's who listens.
fn connect(path: &Path) -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INPROGRESS) => Ok(()),
        connected => Ok(connected?),
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
    fn a_daemon_removes_only_the_socket_that_it_made() {
        let folder = private();
        let path = folder.path().join("s");
        let first = BoundListener::bind(&path).unwrap();
        // As launchd and systemd take a path over: without asking for a lock.
        fs::remove_file(&path).unwrap();
        let manager = UnixListener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists(), "the manager's socket was removed");
        drop(manager);
    }

    #[test]
    fn a_socket_that_was_deleted_is_made_again_and_one_that_was_replaced_is_not() {
        let folder = private();
        let path = folder.path().join("run").join("s");
        let bound = BoundListener::bind(&path).unwrap();
        assert!(matches!(bound.look().unwrap(), Fate::There));
        fs::remove_file(&path).unwrap();
        let Fate::MadeAgain(again) = bound.look().unwrap() else { panic!("{path:?} was not made again") };
        connect(&path).unwrap();
        again.accept().unwrap();
        assert!(matches!(bound.look().unwrap(), Fate::There));
        // With its folder and its lock.
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert!(matches!(bound.look().unwrap(), Fate::MadeAgain(_)));
        assert!(matches!(BoundListener::bind(&path), Err(BindError::InUse { .. })), "it has the lock again");
        // Another daemon was faster.
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        let other = BoundListener::bind(&path).unwrap();
        assert!(matches!(bound.look().unwrap(), Fate::Taken));
        fs::remove_file(&path).unwrap();
        assert!(matches!(bound.look().unwrap(), Fate::Taken), "it has the lock, and will make its socket again");
        assert!(matches!(other.look().unwrap(), Fate::MadeAgain(_)));
        drop(bound);
        assert!(path.exists());
    }

    /// A listener whose queue is full, as macOS shows it.
    #[test]
    fn a_full_queue_is_no_stale_socket() {
        let folder = private();
        let path = folder.path().join("s");
        let living = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&living, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&living, 0).unwrap();
        // Not answered, and nobody waits for the answer: the queue is full now.
        let mut waiting = Vec::new();
        let full = loop {
            let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
            rustix::io::ioctl_fionbio(&socket, true).unwrap();
            match rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()) {
                Ok(()) => waiting.push(socket),
                Err(error) => break error,
            }
        };
        assert!(matches!(remove_stale(&path, Platform::Linux, connect), Err(BindError::InUse { .. })), "{full}");

        // On macOS the same queue refuses, until somebody takes from it.
        let mut refusals = 0;
        let as_on_macos = |path: &Path| {
            refusals += 1;
            if refusals < 3 { Err(ErrorKind::ConnectionRefused.into()) } else { connect(path) }
        };
        assert!(matches!(remove_stale(&path, Platform::MacOs, as_on_macos), Err(BindError::InUse { .. })));
        assert!(path.exists());
    }

    #[test]
    fn only_a_refusal_makes_a_socket_stale() {
        let folder = private();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        for kind in [ErrorKind::PermissionDenied, ErrorKind::Other] {
            let error = remove_stale(&path, Platform::Linux, |_| Err(kind.into())).unwrap_err();
            assert!(matches!(error, BindError::Io { action: "find out who listens on", .. }), "{error}");
            assert!(path.exists());
        }
        let mut asked = 0;
        let refuses = |_: &Path| {
            asked += 1;
            Err(ErrorKind::ConnectionRefused.into())
        };
        remove_stale(&path, Platform::Linux, refuses).unwrap();
        assert!(asked >= 2 && !path.exists(), "asked {asked} times");
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let folder = private();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let error = BoundListener::bind(&folder.path().join("s")).unwrap_err();
        assert!(weightsd_core::explain::sentence(&error).contains("0755"), "{error}");
    }
}
