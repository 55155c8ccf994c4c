//! Other users of the machine, whom the settings let in: they load and ask, from namespaces of their own, and see nothing of
//! others and may do nothing to them.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use weightsd_client::proto::EventKind;

use crate::{
    harness::{Daemon, Home, PROGRAM, WITHOUT_VERIFYING, events, leases, until},
    not_run::not_run,
};

const REPO: &str = "test/z-image";
const UID: u32 = 4343;
const GID: u32 = 4242;

/// A place that every user may enter, with the program in it, and a home whose socket others can reach.
struct Scene {
    home: Home,
    world: tempfile::TempDir,
}

/// What a command of a guest says, and its exit code.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    text: String,
}

impl Scene {
    /// `None` where such users and namespaces cannot be made.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            not_run("only root can start a process of another user");
            return None;
        }
        let home = Home::new();
        home.tiny(REPO);
        let open = || fs::Permissions::from_mode(0o755);
        fs::set_permissions(home.path(), open()).unwrap();
        let world = tempfile::Builder::new().prefix("wd-world-").permissions(open()).tempdir().unwrap();
        fs::copy(PROGRAM, world.path().join("weightsd")).unwrap();
        let scene = Self { home, world };
        let Said { code, text } = scene.say(UID, GID, &["--version"]);
        if code != Some(0) {
            not_run(&format!("this system makes no namespaces for a user: {text}"));
            return None;
        }
        Some(scene)
    }

    fn daemon(&self, arguments: &[&str]) -> Daemon {
        self.home.daemon_with(&[&WITHOUT_VERIFYING, arguments].concat())
    }

    /// Runs the command line as that user, in a user, mount and process namespace of its own.
    fn say(&self, uid: u32, gid: u32, arguments: &[&str]) -> Said {
        self.run(uid, gid, &self.program(), arguments)
    }

    /// The same with another program.
    fn run(&self, uid: u32, gid: u32, program: &Path, arguments: &[&str]) -> Said {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]);
        command.args(["unshare", "--user", "--map-current-user", "--mount", "--pid", "--fork", "--kill-child"]);
        command.arg(program).args(arguments).current_dir("/").env_clear();
        command.env("PATH", env::var_os("PATH").unwrap_or_default()).env("HOME", "/nonexistent");
        command.env("WEIGHTSD_SOCKET", self.home.socket()).env("HF_HUB_OFFLINE", "1");
        // In a user namespace that does not have the daemon's user, this is its number.
        command.env("WEIGHTSD_DAEMON_UID", "65534");
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = [stdout, stderr].concat();
        Said { code: status.code(), text: String::from_utf8(text).unwrap() }
    }

    fn program(&self) -> PathBuf {
        self.world.path().join("weightsd")
    }

    /// Whether a text names a folder of the daemon's user.
    fn shows(&self, text: &str) -> bool {
        let places: [&Path; 2] = [self.home.path(), Path::new(".cache/weightsd")];
        places.iter().any(|place| text.contains(place.to_str().unwrap()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_loads_and_asks_and_sees_nothing_of_others() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.daemon(&["--allow-gids", &GID.to_string()]);
    let client = daemon.client().await;
    let held =
        client.load(scene.home.request(REPO, "transformer").client_name("a-private-name"), |_| ()).await.unwrap();
    let path = scene.home.hub_cache().join("models--test--z-image").display().to_string();
    for (arguments, word) in [
        (&["load", REPO, "vae", "--layout", "source"][..], "vae"),
        (&["--json", "load", REPO, "vae", "--layout", "source"], "tensor"),
        (&["--json", "load", REPO, "transformer", "--dtype", "as-stored"], "warm"),
        (&["--json", "resolve", REPO], "transformer"),
        (&["audit", REPO, "vae"], "vae"),
        (&["--json", "status"], "version"),
        (&["wait", REPO, "vae"], "are here"),
    ] {
        let Said { code, text } = scene.say(UID, GID, arguments);
        assert!(code == Some(0) && text.contains(word), "{arguments:?}: {code:?} {text}");
        assert!(!scene.shows(&text) && !text.contains("a-private-name"), "{arguments:?}: {text}");
    }
    for arguments in [
        &["evict"][..],
        &["evict", &held.id()[..12]],
        &["pull", REPO],
        &["verify", REPO],
        &["ls"],
        &["explain", &held.id()[..12]],
        &["events"],
        &["load", &path, "vae"],
        &["resolve", &path],
        &["load", "file:///etc/passwd", "vae"],
        &["load", REPO, "vae", "--hold", "--residency", "pinned"],
        &["load", REPO, "vae", "--device", "GPU-01234567-89ab-cdef-0123-456789abcdef"],
        &["resolve", "test/absent"],
    ] {
        let Said { code, text } = scene.say(UID, GID, arguments);
        assert!(code == Some(1) && text.contains("hint: "), "{arguments:?}: {code:?} {text}");
        let echoed = text.replace(&path, "");
        assert!(!scene.shows(&echoed) && !text.contains("a-private-name"), "{arguments:?}: {text}");
    }
    assert_eq!(client.status().await.unwrap().components, 2, "nothing was dropped");
    until("the guests have let go", async || leases(&client).await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_granted_a_guest_may_do_and_strangers_learn_nothing() {
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.daemon(&["--allow-uids", &UID.to_string(), "--guests-may", "evict", "--guests-may", "verify"]);
    let client = daemon.client().await;
    drop(client.load(scene.home.request(REPO, "vae"), |_| ()).await.unwrap());
    until("nobody holds it", async || leases(&client).await == 0).await;
    let verified = scene.say(UID, GID, &["verify", REPO]);
    assert!(verified.code == Some(0) && !scene.shows(&verified.text), "{verified:?}");
    assert_eq!(scene.say(UID, GID, &["evict"]).code, Some(0));
    assert_eq!(client.status().await.unwrap().components, 0);
    assert_eq!(scene.say(UID, GID, &["pull", REPO]).code, Some(1), "that was not granted");

    let before = events(&client, EventKind::Refused).await.len();
    let stranger = scene.say(UID + 1, GID, &["status"]);
    assert!(stranger.code == Some(69) && !stranger.text.contains("version"), "{stranger:?}");
    let refused = events(&client, EventKind::Refused).await;
    assert!(refused.len() > before && refused.last().unwrap().message.contains("allow_gids"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_does_not_get_the_socket_of_the_daemon() {
    const ASK: &str = "import os, socket\nstream = socket.socket(socket.AF_UNIX)\n\
                       stream.connect(os.environ['WEIGHTSD_SOCKET'])\nstream.sendall(b'\\xd6\\x01')\n\
                       print('got', stream.recv(1))";
    let Some(scene) = Scene::new() else { return };
    let daemon = scene.daemon(&["--allow-gids", &GID.to_string()]);
    let said = scene.run(UID, GID, Path::new("python3"), &["-c", ASK]);
    assert!(said.code == Some(0) && said.text.contains("got b''"), "{said:?}");
    let mut ours = daemon.connect();
    ours.write_all(&[0xd6, 1]).unwrap();
    let mut given = [0];
    ours.read_exact(&mut given).unwrap();
    assert_eq!(given, [1], "the daemon's own user would get it");
    drop(ours);
    assert_eq!(scene.say(UID, GID, &["status"]).code, Some(0), "the daemon goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_lets_in_whom_its_own_settings_name() {
    let Some(scene) = Scene::new() else { return };
    let mut first = scene.daemon(&["--allow-gids", &GID.to_string()]);
    assert_eq!(scene.say(UID, GID, &["status"]).code, Some(0));
    let mode = || fs::metadata(scene.home.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o666);
    let mut second = scene.daemon(&["--replace", "--allow-gids", &(GID + 1).to_string()]);
    assert!(first.wait().success());
    let refused = scene.say(UID, GID, &["status"]);
    assert!(refused.code == Some(69) && !refused.text.contains("version"), "{refused:?}");
    assert_eq!(scene.say(UID, GID + 1, &["status"]).code, Some(0));
    fs::set_permissions(scene.home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let _third = scene.daemon(&["--replace"]);
    assert!(second.wait().success());
    assert_eq!(mode(), 0o600, "nobody else is let in any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_the_settings_allow_may_be_named_by_guests() {
    let Some(scene) = Scene::new() else { return };
    let folder = scene.home.hub_cache().join("models--test--z-image");
    let snapshots = fs::read_dir(folder.join("snapshots")).unwrap();
    let snapshot = snapshots.map(|entry| entry.unwrap().path()).next().unwrap().display().to_string();
    let allow = scene.home.hub_cache().display().to_string();
    let _daemon = scene.daemon(&["--allow-gids", &GID.to_string(), "--allow", &allow]);
    let said = scene.say(UID, GID, &["load", &snapshot, "vae", "--layout", "source"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = scene.say(UID, GID, &["load", "/etc", "vae"]);
    assert_eq!(said.code, Some(1), "{said:?}");
}
