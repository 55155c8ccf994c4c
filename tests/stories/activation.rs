//! A socket that somebody else opened: systemd's protocol, by hand and by systemd's own program.

use std::{
    fs,
    os::{
        fd::AsFd as _,
        unix::{
            fs::MetadataExt as _,
            net::{UnixDatagram, UnixListener},
        },
    },
    process::{Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::Signal;
use weightsd_client::{Client, ConnectOptions, LeaseState};

use crate::{
    harness::{Daemon, Home, PATIENCE, PROGRAM, connect, until},
    not_run::not_run,
};

const REPO: &str = "test/z-image";
const SYSTEMD: &str = "systemd-socket-activate";

/// Loads from the daemon, ends it, and finds the socket where it was.
async fn serve_and_end(home: &Home, client: Client, daemon: Daemon) {
    let component = client.load(home.request(REPO, "transformer"), |_| ()).await.unwrap();
    assert!(component.tensors().len() > 100);
    let status = client.status().await.unwrap();
    assert_eq!((status.pid, status.socket), (daemon.pid(), home.socket().display().to_string()));
    let inode = fs::metadata(home.socket()).unwrap().ino();
    drop((component, client));
    assert!(daemon.terminate().success(), "{}", home.log());
    assert_eq!(fs::metadata(home.socket()).unwrap().ino(), inode, "the socket belongs to the service manager");
}

/// The daemon with descriptor 3 for its socket.
fn handed_down() -> Command {
    handed_down_with(&[])
}

fn handed_down_with(arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" serve --activated "$@""#, PROGRAM]).args(arguments);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handed_down_socket_is_served_and_left_in_place() {
    let home = Home::new();
    home.tiny(REPO);
    let listener = UnixListener::bind(home.socket()).unwrap();
    // The first client is there before the daemon, and waits for its answer.
    let socket = home.socket();
    let mut waiting = Some(tokio::spawn(async move { connect(&socket).await }));
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut command = home.around(handed_down());
        let parent_fd = listener.as_fd().try_clone_to_owned().unwrap();
        command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
        let daemon = home.start(command);
        if let Some(waiting) = waiting.take() {
            clients.push(waiting.await.unwrap());
        }
        serve_and_end(&home, clients[0].clone(), daemon).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_starts_the_daemon_on_the_first_connection() {
    let version = Command::new(SYSTEMD).arg("--version").stdout(Stdio::null()).status();
    if version.is_err() {
        return not_run(&format!("there is no {SYSTEMD}"));
    }
    let home = Home::new();
    home.tiny(REPO);
    let mut command = home.around(Command::new(SYSTEMD));
    command.arg("--listen").arg(home.socket());
    for variable in ["HF_HUB_CACHE", "WEIGHTSD_CONFIG", "WEIGHTSD_LOG"] {
        command.args(["--setenv", variable]);
    }
    command.args([PROGRAM, "serve", "--activated"]);
    let daemon = home.start(command);
    // The path is there a moment before systemd listens on it, and a connection that is refused starts nothing.
    let mut client = None;
    until("systemd listens", async || {
        client = Client::connect(ConnectOptions { socket: home.socket(), deadline: PATIENCE }).await.ok();
        client.is_some()
    })
    .await;
    serve_and_end(&home, client.unwrap(), daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_daemon_that_cannot_start_are_told_why() {
    use tonic::Code;
    use weightsd_client::proto::ErrorReason;

    let home = Home::new();
    let config = home.path().join("config.toml");
    fs::write(&config, "keep_alife = \"1h\"\n").unwrap();
    let listener = UnixListener::bind(home.socket()).unwrap();
    let ask = || {
        let options = ConnectOptions { socket: home.socket(), deadline: PATIENCE };
        tokio::spawn(async move { Client::connect(options).await.unwrap_err() })
    };
    let first = ask();
    let mut command = home.around(handed_down());
    command.env("WEIGHTSD_CONFIG", &config);
    let parent_fd = listener.as_fd().try_clone_to_owned().unwrap();
    command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
    let mut daemon = home.start(command);
    // Also who comes a moment later: launchd would not start another process for him yet.
    for error in [first.await.unwrap(), ask().await.unwrap()] {
        let told = error.daemon().unwrap();
        assert_eq!(told.reason(), Some(ErrorReason::CannotStart), "{told}");
        assert_eq!(told.code(), Code::Unavailable);
        for words in ["config.toml", "keep_alife"] {
            assert!(told.message().contains(words), "{told}");
        }
        assert!(error.hint().unwrap().contains("keep_alive"), "{error:?}");
        assert!(!error.retryable());
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(64), "{}", home.log());
    assert!(home.log().contains("cannot start: line 1 of the configuration file"), "{}", home.log());
    assert!(home.socket().exists(), "the socket belongs to the service manager");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_the_service_manager_that_is_deleted_is_told_and_not_made_here() {
    let home = Home::new();
    let listener = UnixListener::bind(home.socket()).unwrap();
    let mut command = home.around(handed_down());
    let parent_fd = listener.as_fd().try_clone_to_owned().unwrap();
    command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
    let daemon = home.start(command);
    let client = connect(&home.socket()).await;
    fs::remove_file(home.socket()).unwrap();
    home.logged("which belongs to the service manager");
    assert_eq!(client.status().await.unwrap().pid, daemon.pid());
    assert!(daemon.terminate().success());
    assert!(!home.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_the_service_manager_is_not_given_to_another_daemon() {
    let home = Home::new();
    let listener = UnixListener::bind(home.socket()).unwrap();
    let mut command = home.around(handed_down());
    let parent_fd = listener.as_fd().try_clone_to_owned().unwrap();
    command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
    let daemon = home.start(command);
    let client = connect(&home.socket()).await;
    let refused = home.command().args(["serve", "--replace"]).output().unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains("belongs to the service manager"), "{text}");
    assert!(text.contains("systemctl --user restart weightsd"), "{text}");
    assert_eq!(client.status().await.unwrap().pid, daemon.pid());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_nobody_needs_ends_and_the_next_one_answers_who_comes_then() {
    let home = Home::new();
    home.tiny(REPO);
    let listener = UnixListener::bind(home.socket()).unwrap();
    let start = || {
        let mut command = home.around(handed_down_with(&["--idle-exit", "500ms"]));
        let parent_fd = listener.as_fd().try_clone_to_owned().unwrap();
        command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
        home.start(command)
    };
    let mut daemon = start();
    let client = connect(&home.socket()).await;
    let request = home.request(REPO, "vae").keep_alive(Duration::ZERO);
    let held = client.load(request, |_| ()).await.unwrap();
    // Held for longer than it would stay alone.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((client.status().await.unwrap().pid, held.lease_state()), (daemon.pid(), LeaseState::Held));
    drop((held, client));
    assert_eq!(daemon.wait().code(), Some(0), "{}", home.log());
    home.logged("stopping: nobody needs the daemon");
    let socket = home.socket();
    let waiting = tokio::spawn(async move { connect(&socket).await.status().await.unwrap().pid });
    let next = start();
    assert_eq!(waiting.await.unwrap(), next.pid());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_what_the_daemon_does() {
    let home = Home::new();
    let place = home.path().join("notify");
    let manager = UnixDatagram::bind(&place).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = home.command();
    command.arg("serve").env("NOTIFY_SOCKET", &place).env("WATCHDOG_USEC", "200000");
    let daemon = home.start(command);
    let until_told = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted}: {error}: {}", home.log()));
            if String::from_utf8_lossy(&buffer[..length]).contains(wanted) {
                break;
            }
        }
    };
    until_told("READY=1");
    assert_eq!(connect(&home.socket()).await.status().await.unwrap().pid, daemon.pid(), "it serves when it says so");
    until_told("WATCHDOG=1");
    until_told("WATCHDOG=1");
    daemon.signal(Signal::HUP);
    until_told("STATUS=the configuration was read anew");
    daemon.signal(Signal::TERM);
    until_told("STOPPING=1");
}
