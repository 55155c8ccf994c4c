//! A daemon of the benchmark's own.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use weightsd_client::ConnectOptions;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A private folder with a socket in it.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::below(&std::env::temp_dir())
    }

    pub(crate) fn below(parent: &Path) -> anyhow::Result<Self> {
        let mode = fs::Permissions::from_mode(0o700);
        Ok(Self(tempfile::Builder::new().prefix("weightsd-bench-").permissions(mode).tempdir_in(parent)?))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A running daemon, killed when dropped.
pub(crate) struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Starts the daemon and waits until its socket answers; says how long that took.
    pub(crate) fn start(program: &Path, folder: &Folder) -> anyhow::Result<(Self, Duration)> {
        // The names of sparse blobs are not their hashes.
        Self::start_with(program, folder, &["--offline", "--verify", "false"])
    }

    /// The same, with settings of the caller's choice.
    pub(crate) fn start_with(program: &Path, folder: &Folder, settings: &[&str]) -> anyhow::Result<(Self, Duration)> {
        let socket = folder.path().join("weightsd.sock");
        let began = Instant::now();
        let child = Command::new(program)
            .args(["serve", "--socket"])
            .arg(&socket)
            .arg("--hub-cache")
            .arg(folder.path().join("hub"))
            .arg("--own-cache")
            .arg(folder.path().join("own"))
            .args(settings)
            .env("WEIGHTSD_CONFIG", "/dev/null")
            .env("WEIGHTSD_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}: build it with `cargo build --release`", program.display()))?;
        let server = Self { child, socket };
        while UnixStream::connect(&server.socket).is_err() {
            anyhow::ensure!(began.elapsed() < PATIENCE, "the daemon does not answer");
            std::thread::sleep(Duration::from_micros(50));
        }
        let ready = began.elapsed();
        Ok((server, ready))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        ConnectOptions { socket: self.socket.clone(), ..ConnectOptions::default() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The next daemon would ask what it left behind twice before it replaced it.
        let _ = fs::remove_file(&self.socket);
    }
}
