//! A daemon of one test: its own folder, socket and configuration, killed when the test ends.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use weightsd_client::{
    Client, ConnectOptions, FloatType, LoadRequest,
    proto::{Event, EventKind, WatchEventsRequest},
};
use weightsd_fixtures::{Checkpoint, Contents, Dims, HubFixture, hub::Hub};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a daemon deals with a hub of a test, unless the test says otherwise: it gives up soon.
const QUICK: [(&str, &str); 5] = [
    ("--free-space", "0B"),
    ("--hub-tries", "1"),
    ("--hub-deadline", "3s"),
    ("--hub-stall", "3s"),
    ("--downloads", "4"),
];

/// Arguments of a daemon that never hashes what it has lent. Others do, two seconds after the first lease: they open the
/// files once more, tell of it, and act on what they find.
pub const WITHOUT_VERIFYING: [&str; 2] = ["--verify", "false"];

/// Arguments and variables of a daemon.
pub type Setting<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_weightsd");

/// A private folder with a place for a socket and a Hugging Face cache.
pub struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        let mode = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("wd-").permissions(mode).tempdir().unwrap();
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("weightsd.sock")
    }

    pub fn hub_cache(&self) -> PathBuf {
        self.path().join("hub")
    }

    /// A tiny checkpoint in the Hugging Face cache.
    pub fn tiny(&self, repo: &str) -> HubFixture {
        tiny(1).write_hub_cache(self.hub_cache(), repo, "main").unwrap()
    }

    /// A request as a process in this home would make it, for weights as they are stored.
    pub fn request(&self, spec: &str, component: &str) -> LoadRequest {
        self.usual_request(spec, component).dtype(FloatType::AsStored)
    }

    /// The same, for weights as the family's users expect them.
    pub fn usual_request(&self, spec: &str, component: &str) -> LoadRequest {
        LoadRequest::new(spec, component).hub_cache(self.hub_cache()).working_directory(self.path())
    }

    /// `weightsd` with nothing of the user's own around it.
    pub fn command(&self) -> Command {
        self.around(Command::new(PROGRAM))
    }

    /// `command` with nothing of the user's own around it.
    pub fn around(&self, mut command: Command) -> Command {
        let of_the_user = |name: &str| {
            name.starts_with("HF_") || name.starts_with("HUGGING") || name.to_ascii_lowercase().ends_with("_proxy")
        };
        let variables = std::env::vars_os().map(|(name, _)| name);
        for name in variables.filter(|name| name.to_str().is_some_and(of_the_user)) {
            command.env_remove(name);
        }
        for name in ["TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME", "LISTEN_FDS", "LISTEN_PID"] {
            command.env_remove(name);
        }
        command
            .env("HOME", self.path())
            .env("WEIGHTSD_CONFIG", "/dev/null")
            .env("WEIGHTSD_SOCKET", self.socket())
            .env("HF_HUB_CACHE", self.hub_cache())
            // No test asks a hub that it did not start.
            .env("HF_HUB_OFFLINE", "1")
            .current_dir(self.path());
        command
    }

    /// A daemon that is ready.
    pub fn daemon(&self) -> Daemon {
        self.daemon_with(&[])
    }

    pub fn daemon_with(&self, arguments: &[&str]) -> Daemon {
        let mut command = self.command();
        command.arg("serve").args(without_restoring(arguments)).args(arguments);
        self.ready(self.start(command))
    }

    /// A daemon that asks this hub.
    pub fn daemon_on(&self, hub: &Hub, arguments: &[&str]) -> Daemon {
        self.daemon_so(hub, arguments, &[])
    }

    /// The same, with more in its environment.
    pub fn daemon_so(&self, hub: &Hub, arguments: &[&str], variables: &[(&str, &str)]) -> Daemon {
        let mut command = self.command();
        command
            .arg("serve")
            .args(without_restoring(arguments))
            .args(arguments)
            .env("HF_ENDPOINT", hub.endpoint())
            .env_remove("HF_HUB_OFFLINE");
        for (flag, value) in QUICK.iter().filter(|(flag, _)| !arguments.contains(flag)) {
            command.args([flag, value]);
        }
        command.envs(variables.iter().copied());
        self.ready(self.start(command))
    }

    /// `daemon`, once it listens.
    pub fn ready(&self, daemon: Daemon) -> Daemon {
        eventually("the daemon listens", || UnixStream::connect(&daemon.socket).is_ok());
        daemon
    }

    /// Starts a command that is, or becomes, a daemon on the socket of this home. The descriptors that the command holds
    /// for its child are closed.
    pub fn start(&self, command: Command) -> Daemon {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path().join("log")).unwrap();
        self.start_logging_to(command, log)
    }

    /// The same, with the log elsewhere.
    pub fn start_logging_to(&self, command: Command, log: impl Into<Stdio>) -> Daemon {
        self.start_reading(command, Stdio::null(), log)
    }

    /// The same, with another standard input.
    pub fn start_reading(&self, mut command: Command, input: impl Into<Stdio>, log: impl Into<Stdio>) -> Daemon {
        if !command.get_envs().any(|(name, _)| name == "WEIGHTSD_LOG") {
            command.env("WEIGHTSD_LOG", "debug");
        }
        command.stdin(input).stdout(Stdio::null()).stderr(log);
        Daemon { child: command.spawn().unwrap(), socket: self.socket() }
    }

    /// Waits until the log has these words: a thread of its own writes it.
    pub fn logged(&self, words: &str) -> String {
        let mut log = String::new();
        eventually(&format!("the log says {words:?}"), || {
            log = self.log();
            log.contains(words)
        });
        log
    }

    /// What the daemon wrote so far, until it paused. Of a daemon that still runs this is no proof that something is not in
    /// the log, and for what must be in it there is [`Self::logged`].
    pub fn log(&self) -> String {
        let read = || fs::read_to_string(self.path().join("log")).unwrap_or_default();
        let mut last = read();
        loop {
            thread::sleep(Duration::from_millis(20));
            let now = read();
            if now.len() == last.len() {
                return now;
            }
            last = now;
        }
    }
}

/// What a daemon does by itself after a restart would come between a story and what it waits for: none does it, but those
/// that say so.
fn without_restoring(arguments: &[&str]) -> &'static [&'static str] {
    if arguments.contains(&"--restore") { &[] } else { &["--restore", "false"] }
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn client(&self) -> Client {
        connect(&self.socket).await
    }

    /// A connection that says nothing by itself.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the exit status.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the daemon ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn connect(socket: &Path) -> Client {
    Client::connect(ConnectOptions { socket: socket.to_owned(), deadline: PATIENCE }).await.unwrap()
}

/// A tiny checkpoint with contents of its own.
pub fn tiny(seed: u64) -> Checkpoint {
    Checkpoint::new(&Dims::tiny(), Contents::Random { seed }).unwrap()
}

/// The events of that kind, so far.
pub async fn events(client: &Client, kind: EventKind) -> Vec<Event> {
    let past = WatchEventsRequest { past_only: true, ..WatchEventsRequest::default() };
    let mut stream = client.watch_events(past).await.unwrap();
    let mut events = Vec::new();
    while let Some(response) = stream.next().await.unwrap() {
        events.extend(response.event.filter(|event| event.kind() == kind));
    }
    events
}

/// The leases that are held, as the daemon counts them.
pub async fn leases(client: &Client) -> u32 {
    client.status().await.unwrap().leases
}

/// Waits until `condition`, which asks the daemon, holds.
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    assert!(within(PATIENCE, condition).await, "{what}: not within {PATIENCE:?}");
}

/// Whether `condition` holds within that time. Only for what is promised with a time.
pub async fn within(time: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}
