//! What `install` and `uninstall` do, decided without doing it: folders, files and words for each service manager, as
//! pure functions, so that both are tested on every system.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use weightsd_core::places::{self, Platform};

const PLIST: &str = include_str!("../../../launchd/dev.weightsd.plist");
const SOCKET_UNIT: &str = include_str!("../../../systemd/weightsd.socket");
const SERVICE_UNIT: &str = include_str!("../../../systemd/weightsd.service");

/// The name of the agent in launchd.
const LABEL: &str = "dev.weightsd";
/// Folders that macOS closes to programs that launchd starts, below the home.
const PRIVATE: [&str; 5] = ["Desktop", "Documents", "Downloads", "Library/Mobile Documents", "Library/CloudStorage"];

/// The user and the program that a service is for.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    /// The user's home, absolute.
    pub(super) home: PathBuf,
    /// This program, absolute.
    pub(super) program: PathBuf,
    /// The user's number.
    pub(super) uid: u32,
    /// `WEIGHTSD_SOCKET` of this shell, which the service manager does not see.
    pub(super) socket_variable: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`, in which systemd makes the socket.
    pub(super) runtime_folder: Option<PathBuf>,
}

/// A command of the service manager.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The program and its arguments.
    pub(super) words: Vec<String>,
    /// Whether the next step is taken all the same when it fails.
    pub(super) may_fail: bool,
}

impl Step {
    fn new(words: &str) -> Self {
        Self { words: words.split(' ').map(str::to_owned).collect(), may_fail: false }
    }

    fn trying(words: &str) -> Self {
        Self { may_fail: true, ..Self::new(words) }
    }
}

/// A file of the service manager.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// Where it belongs.
    pub(super) path: PathBuf,
    /// All of it.
    pub(super) text: String,
}

/// A folder that the service manager needs and does not make.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Folder {
    /// Where it belongs.
    pub(super) path: PathBuf,
    /// Whether it is the user's alone (mode 0700). Otherwise the system has it already as it wants it, as a rule.
    pub(super) is_ours: bool,
}

/// What an installation makes, and the words that follow.
#[derive(Debug)]
pub(super) struct Installation {
    /// Made first.
    pub(super) folders: Vec<Folder>,
    /// Written then.
    pub(super) units: Vec<Unit>,
    /// Taken then, for the service manager to know of the files.
    pub(super) steps: Vec<Step>,
    /// On which the daemon answers after that.
    pub(super) socket: PathBuf,
    /// The steps for somebody who takes them by hand. Ends with a line break.
    pub(super) by_hand: String,
    /// What to know. Ends with a line break.
    pub(super) words: String,
}

/// What the end of an installation removes, and the words that follow.
#[derive(Debug)]
pub(super) struct Removal {
    /// Taken first, so that nothing runs whose files are gone.
    pub(super) before: Vec<Step>,
    /// Taken when the files are gone.
    pub(super) after: Vec<Step>,
    /// Files and links of the service manager. They may be absent.
    pub(super) files: Vec<PathBuf>,
    /// The steps for somebody who takes them by hand, and what stays. Ends with a line break.
    pub(super) words: String,
}

impl Installation {
    /// For the service manager of `platform`.
    ///
    /// # Errors
    /// When a path does not fit the service manager: the socket's is too long, or one has characters that cannot be
    /// written to its files.
    pub(super) fn new(platform: Platform, around: &Surroundings) -> anyhow::Result<Self> {
        let Surroundings { home, program, uid, .. } = around;
        let program = words_of(program)?;
        match platform {
            Platform::MacOs => {
                let (socket, log) = (socket(around)?, log(home));
                let text = PLIST
                    .replace("@PROGRAM@", &xml(program))
                    .replace("@SOCKET@", &xml(words_of(&socket)?))
                    .replace("@LOG@", &xml(words_of(&log)?));
                let ours = socket.parent().map(|path| Folder { path: path.to_owned(), is_ours: true });
                let logs = log.parent().map(|path| Folder { path: path.to_owned(), is_ours: false });
                let plist = plist(home);
                let (by_hand, words) = launchd_words(around, &plist, &log, &socket)?;
                let bootstrap = ["launchctl", "bootstrap", &format!("gui/{uid}"), words_of(&plist)?].map(str::to_owned);
                let steps = vec![
                    Step::trying(&format!("launchctl bootout gui/{uid}/{LABEL}")),
                    Step { words: bootstrap.into(), may_fail: false },
                ];
                let units = vec![Unit { path: plist, text }];
                let folders = ours.into_iter().chain(logs).collect();
                Ok(Self { folders, units, steps, socket, by_hand, words })
            }
            Platform::Linux => {
                let folder = systemd(home);
                let runtime = around.runtime_folder.clone();
                let runtime = runtime.unwrap_or_else(|| PathBuf::from(format!("/run/user/{uid}")));
                let socket = runtime.join("weightsd/weightsd.sock");
                let units = vec![
                    Unit { path: folder.join("weightsd.socket"), text: SOCKET_UNIT.to_owned() },
                    Unit {
                        path: folder.join("weightsd.service"),
                        text: SERVICE_UNIT.replace("@PROGRAM@", &systemd_quoted(program)),
                    },
                ];
                let by_hand =
                    "\nnow run:\n  systemctl --user daemon-reload\n  systemctl --user enable --now weightsd.socket\n";
                let words = format!(
                    "logs: journalctl --user -u weightsd\n\
                     systemd ends what it started when you log out for the last time, unless: loginctl enable-linger\n{}",
                    elsewhere(around, &socket),
                );
                let steps = vec![
                    Step::new("systemctl --user daemon-reload"),
                    Step::new("systemctl --user enable --now weightsd.socket"),
                    // One of an earlier program, if it runs, makes room for this one; clients wait in the socket meanwhile.
                    Step::new("systemctl --user try-restart weightsd.service"),
                ];
                Ok(Self { folders: Vec::new(), units, steps, socket, by_hand: by_hand.to_owned(), words })
            }
        }
    }
}

impl Removal {
    /// For the service manager of `platform`.
    pub(super) fn new(platform: Platform, around: &Surroundings) -> Self {
        let Surroundings { home, uid, .. } = around;
        let env = |name: &str| (name == "HOME").then(|| home.display().to_string());
        let kept = |path: Option<PathBuf>| path.unwrap_or_default().display().to_string();
        let config = kept(places::config_file(&env, platform));
        let own_cache = kept(places::own_cache(&env, platform));
        let (files, commands, logs) = match platform {
            Platform::MacOs => (
                vec![plist(home)],
                format!(
                    "launchctl bootout gui/{uid}/{LABEL}\nor, where it was started over SSH: launchctl bootout user/{uid}/{LABEL}"
                ),
                format!(", the log ({})", log(home).display()),
            ),
            Platform::Linux => {
                let folder = systemd(home);
                (
                    // The link is what `systemctl enable` made; `disable` no longer finds it once the unit is gone.
                    ["sockets.target.wants/weightsd.socket", "weightsd.socket", "weightsd.service"]
                        .map(|name| folder.join(name))
                        .into(),
                    "systemctl --user stop weightsd.socket weightsd.service\n  systemctl --user daemon-reload"
                        .to_owned(),
                    String::new(),
                )
            }
        };
        let words = format!(
            "\nnow run:\n  {commands}\nleft in place: the settings ({config}), what was computed and attested ({own_cache}){logs}, \
             and every downloaded model\n"
        );
        let (before, after) = match platform {
            Platform::MacOs => (vec![Step::trying(&format!("launchctl bootout gui/{uid}/{LABEL}"))], Vec::new()),
            Platform::Linux => (
                vec![Step::trying("systemctl --user disable --now weightsd.socket weightsd.service")],
                vec![Step::trying("systemctl --user daemon-reload")],
            ),
        };
        Self { before, after, files, words }
    }
}

/// The socket that clients look for, which launchd makes. The agent does not see this shell's variables.
fn socket(around: &Surroundings) -> anyhow::Result<PathBuf> {
    let env = |name: &str| (name == "HOME").then(|| around.home.display().to_string());
    let socket = places::socket(&env, around.uid, Platform::MacOs);
    places::check_socket_path(&socket, Platform::MacOs)?;
    Ok(socket)
}

fn plist(home: &Path) -> PathBuf {
    home.join("Library/LaunchAgents/dev.weightsd.plist")
}

fn log(home: &Path) -> PathBuf {
    home.join("Library/Logs/weightsd.log")
}

fn systemd(home: &Path) -> PathBuf {
    home.join(".config/systemd/user")
}

/// What to do by hand, and what to know.
fn launchd_words(around: &Surroundings, plist: &Path, log: &Path, socket: &Path) -> anyhow::Result<(String, String)> {
    let Surroundings { home, program, uid, .. } = around;
    let plist = shell_quoted(words_of(plist)?);
    let by_hand = format!(
        "\nnow run both; the first ends the agent of an earlier installation, if there is one:\n\
         \x20 launchctl bootout gui/{uid}/{LABEL} 2>/dev/null\n\
         \x20 launchctl bootstrap gui/{uid} {plist}\n\
         \"5: Input/output error\" means that the earlier agent has not ended yet: run the second command again.\n\
         Over SSH, when nobody is logged in at the screen, \"125: Domain does not support specified action\" means: write \
         user/{uid} in place of gui/{uid}.\n",
    );
    let mut words = format!(
        "macOS announces a background item of that name; System Settings > General > Login Items can switch it off.\n\
         log: {}\n",
        log.display(),
    );
    if let Some(folder) = closed_folder(program, home) {
        words.push_str(&format!(
            "warning: this program lies in {folder}, and macOS keeps agents out of there: move it, such as to ~/.cargo/bin, and \
             install again\n"
        ));
    }
    words.push_str(&elsewhere(around, socket));
    Ok((by_hand, words))
}

/// A warning when the variable of this shell sends clients to another socket than the service's.
fn elsewhere(around: &Surroundings, socket: &Path) -> String {
    match &around.socket_variable {
        Some(named) if named != socket => format!(
            "warning: WEIGHTSD_SOCKET sends the clients of this shell to {}, and the service listens on {}: unset it\n",
            named.display(),
            socket.display(),
        ),
        _ => String::new(),
    }
}

/// The folder around `path` that macOS closes to agents, as a user knows it.
fn closed_folder(path: &Path, home: &Path) -> Option<String> {
    let in_home = PRIVATE.iter().find(|folder| path.starts_with(home.join(folder))).map(|folder| format!("~/{folder}"));
    in_home.or_else(|| path.starts_with("/Volumes").then(|| "/Volumes".to_owned()))
}

/// A path as text for a service manager's file. Control characters have no place in either kind of file.
fn words_of(path: &Path) -> anyhow::Result<&str> {
    let text = path.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))?;
    anyhow::ensure!(!text.contains(|c: char| c.is_control()), "{text:?} has characters that no service manager takes");
    Ok(text)
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// What stands between double quotes in a systemd unit.
fn systemd_quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%")
}

/// One word of every shell.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
