//! How a daemon begins and ends, and how many connections it has in between.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::Command,
};

use rustix::process::Signal;
use weightsd_client::{
    Component, Layout,
    proto::{EventKind, NoticeKind, WatchEventsRequest},
};
use weightsd_core::handoff::{MAGIC, Request, Status};

use crate::{
    client_process::{ClientProcess, Job},
    harness::{Daemon, Home, PROGRAM, connect, events, eventually, leases, until},
    not_run::not_run,
    raw,
};

const REPO: &str = "test/z-image";
/// A grace period that no test waits for: what ends within the patience of the tests has ended by itself.
const LONG_GRACE: [&str; 2] = ["--grace", "1h"];

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused_and_told_by_whom() {
    let home = Home::new();
    let daemon = home.daemon();
    let second = home.command().arg("serve").output().unwrap();
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success());
    let expected = format!("another weightsd (pid {}) serves on `{}`", daemon.pid(), home.socket().display());
    assert!(text.contains(&expected), "{text}");
    assert_eq!(daemon.client().await.status().await.unwrap().pid, daemon.pid());
    assert!(daemon.terminate().success());
    assert!(!home.socket().exists());
    // The lock is free again.
    assert!(home.daemon().terminate().success());
}

/// A daemon on a socket in a folder of its own below the home, and a client that holds something.
async fn in_a_folder(home: &Home) -> (Daemon, PathBuf, Component) {
    home.tiny(REPO);
    let socket = home.path().join("run/s");
    let mut command = home.command();
    command.args(["serve", "--socket", socket.to_str().unwrap()]);
    let daemon = home.start(command);
    eventually("the daemon listens", || UnixStream::connect(&socket).is_ok());
    let held = connect(&socket).await.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
    (daemon, socket, held)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_deleted_is_made_again() {
    let home = Home::new();
    let (daemon, socket, mut held) = in_a_folder(&home).await;
    let away = home.path().join("away");
    // The folder in one step: the daemon would be quicker than one file after the other.
    let delete: [&dyn Fn() -> std::io::Result<()>; 2] =
        [&|| fs::remove_file(&socket), &|| fs::rename(socket.parent().unwrap(), &away)];
    for delete in delete {
        delete().unwrap();
        eventually("the socket is back", || UnixStream::connect(&socket).is_ok());
        let status = connect(&socket).await.status().await.unwrap();
        assert_eq!((status.pid, status.leases), (daemon.pid(), 1), "{}", home.log());
    }
    home.logged("it was made again");
    daemon.signal(Signal::TERM);
    assert_eq!(held.next_notice().await.unwrap().kind(), NoticeKind::ShuttingDown);
    eventually("the daemon removes its socket", || !socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_another_is_noticed_and_left_alone() {
    let home = Home::new();
    let (daemon, socket, _held) = in_a_folder(&home).await;
    // In one step: the daemon makes a socket again that is gone.
    let beside = home.path().join("s");
    let other = UnixListener::bind(&beside).unwrap();
    fs::rename(&beside, &socket).unwrap();
    home.logged("another program has taken");
    assert!(daemon.terminate().success());
    assert!(socket.exists());
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_that_ends_a_program_ends_with_a_goodbye() {
    let home = Home::new();
    home.tiny(REPO);
    for signal in [Signal::QUIT, Signal::USR1, Signal::USR2, Signal::ALARM, Signal::INT, Signal::TERM] {
        let mut daemon = home.daemon();
        let mut held = daemon.client().await.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
        daemon.signal(signal);
        assert_eq!(held.next_notice().await.unwrap().kind(), NoticeKind::ShuttingDown, "{signal:?}");
        assert_eq!(daemon.wait().code(), Some(0), "{signal:?}: {}", home.log());
        assert!(!home.socket().exists(), "{signal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nohup_is_obeyed() {
    let home = Home::new();
    let mut command = home.around(Command::new("nohup"));
    command.args([PROGRAM, "serve"]);
    let daemon = home.ready(home.start(command));
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.client().await.status().await.unwrap().pid, daemon.pid());
    assert!(daemon.terminate().success());
    assert!(!home.log().contains("SIGHUP"), "{}", home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_were_blocked_at_the_start_end_it_all_the_same() {
    const BLOCKED: &str = "--block-signal";
    if !Command::new("env").args([BLOCKED, "true"]).status().is_ok_and(|status| status.success()) {
        return not_run("this `env` blocks no signals");
    }
    let home = Home::new();
    let mut command = home.around(Command::new("env"));
    command.args([BLOCKED, PROGRAM, "serve"]);
    let daemon = home.ready(home.start(command));
    assert!(daemon.terminate().success(), "{}", home.log());
}

#[test]
fn the_log_goes_to_a_file_of_its_own() {
    let home = Home::new();
    let file = home.path().join("daemon.log");
    let daemon = home.daemon_with(&["--log-file", file.to_str().unwrap()]);
    assert!(daemon.terminate().success());
    let log = fs::read_to_string(&file).unwrap();
    assert!(log.contains("ready") && log.contains("stopped"), "{log}");
    assert_eq!(home.log(), "", "standard error is elsewhere");
    // A log that cannot be kept there is kept where it was, and keeps nobody from being served.
    let daemon = home.daemon_with(&["--log-file", home.path().to_str().unwrap()]);
    assert!(daemon.terminate().success());
    assert!(home.log().contains("the log cannot be kept in its file"), "{}", home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_are_told_of_the_end_and_keep_their_bytes() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let mut daemon = home.daemon_with(&LONG_GRACE);
    let client = daemon.client().await;
    let job = Job { model: REPO.into(), component: "transformer".into(), source_layout: true };
    let mut process = ClientProcess::start(&home, &job);
    let before = process.held();
    let mut held = Vec::new();
    for name in ["transformer", "vae"] {
        held.push((name, client.load(home.request(REPO, name).layout(Layout::Source), |_| ()).await.unwrap()));
    }
    assert_eq!(leases(&client).await, 3);
    daemon.signal(Signal::TERM);
    for (_, component) in &mut held {
        let notice = component.next_notice().await.unwrap();
        assert_eq!(notice.kind(), NoticeKind::ShuttingDown, "{}", notice.message);
    }
    let status = daemon.wait();
    assert_eq!(status.code(), Some(0), "{}", home.log());
    assert!(!home.socket().exists());
    assert!(!home.log().contains("the grace period passed"), "{}", home.log());
    for (name, component) in &held {
        for tensor in component.tensors() {
            let written = hub.written.tensor(name, tensor.source_name()).unwrap();
            assert_eq!(tensor.bytes(), hub.written.read(written).unwrap(), "{name} {}", tensor.name());
        }
    }
    assert_eq!(process.read_again().checksum, before.checksum);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_hold_up_the_end() {
    let home = Home::new();
    home.tiny(REPO);
    let mut daemon = home.daemon_with(&LONG_GRACE);
    let client = daemon.client().await;
    let silent = daemon.connect();
    let mut half = daemon.connect();
    half.write_all(&[MAGIC]).unwrap();
    let mut service = raw::service(daemon.socket()).await;
    let loaded = raw::load(&mut service, home.request(REPO, "transformer").message().clone()).await.unwrap();
    let mut handoff = daemon.connect();
    let reply = raw::ask(&mut handoff, &Request { ticket: loaded.ticket() }.encode());
    assert_eq!(raw::receive(&mut handoff, reply).len(), loaded.component.segments.len());
    let mut watched = client.watch_events(WatchEventsRequest::default()).await.unwrap();
    // A client whose runtime does not run hears nothing of the end.
    let socket = daemon.socket().to_owned();
    let asleep = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(connect(&socket));
        runtime.block_on(client.status()).unwrap();
        (runtime, client)
    });
    let (runtime, asleep) = asleep.join().unwrap();
    // Client, silent, half, service, hand-off, asleep.
    until("all are counted", async || client.status().await.unwrap().connections == 6).await;

    daemon.signal(Signal::TERM);
    let mut told = Vec::new();
    while let Some(response) = watched.next().await.unwrap() {
        told.push(response.event.unwrap().kind());
    }
    assert!(told.contains(&EventKind::ShuttingDown), "{told:?}");
    assert_eq!(daemon.wait().code(), Some(0), "{}", home.log());
    assert!(!home.log().contains("the grace period passed"), "{}", home.log());
    assert!(raw::drain(&silent).is_empty());
    for stream in [&half, &handoff] {
        assert_eq!(raw::drain(stream), [Status::ShuttingDown as u8, 0, 0, 0]);
    }
    drop(asleep);
    runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stalls_is_cut_when_the_grace_period_ends() {
    let home = Home::new();
    let daemon = home.daemon_with(&["--grace", "100ms"]);
    let client = daemon.client().await;
    let mut begun = daemon.connect();
    begun.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    until("it is counted", async || client.status().await.unwrap().connections == 2).await;
    assert_eq!(daemon.terminate().code(), Some(0), "{}", home.log());
    raw::drain(&begun);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_daemon_refuses_and_recovers() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon_with(&["--connections", "4"]);
    let client = daemon.client().await;
    assert_eq!(client.status().await.unwrap().limits.unwrap().connections, 4);
    until("the harness has hung up", async || client.status().await.unwrap().connections == 1).await;
    let mut idle: Vec<UnixStream> = (0..3).map(|_| daemon.connect()).collect();
    until("it is full", async || client.status().await.unwrap().connections == 4).await;
    for _ in 0..3 {
        let mut refused = daemon.connect();
        assert_eq!(refused.read(&mut [0]).unwrap(), 0);
    }
    let refused = events(&client, EventKind::Refused).await;
    assert_eq!(refused.len(), 3);
    // All of them are this process's, so that is what it hears.
    assert!(refused[0].message.contains("has 4 connections open"), "{refused:?}");
    // One place for a hand-off is enough.
    idle.truncate(2);
    until("a place is free", async || client.status().await.unwrap().connections == 3).await;
    let _held = client.load(home.request(REPO, "transformer"), |_| ()).await.unwrap();
    drop(idle);
    until("all places but two are free", async || client.status().await.unwrap().connections == 2).await;
    assert_eq!(daemon.client().await.status().await.unwrap().pid, daemon.pid());
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_short_connections_leave_nothing_behind() {
    let home = Home::new();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let alone = async || client.status().await.unwrap().connections == 1;
    until("the harness has hung up", alone).await;
    let descriptors =
        |daemon: &crate::harness::Daemon| std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let before = descriptors(&daemon);
    for number in 0..1000_usize {
        let words: [&[u8]; 5] = [b"", b"P", &[MAGIC], b"x", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"];
        // Fails when the daemon was faster.
        let _ = daemon.connect().write_all(words[number % words.len()]);
    }
    until("all connections have ended", alone).await;
    // Not equal: at the start it may have had its own folders open.
    until("their descriptors are closed", async || descriptors(&daemon) <= before).await;
    assert_eq!(events(&client, EventKind::Refused).await, []);
}

/// Variables of one try, and the words that the refusal must have.
type Bad<'a> = (&'a str, std::ffi::OsString, &'a [&'a str]);

#[test]
fn a_bad_setting_is_found_at_the_start_and_named() {
    use std::os::unix::ffi::OsStringExt as _;
    let home = Home::new();
    let file = home.path().join("bad.toml");
    std::fs::write(&file, "keep_alive = \"1h\"\nhub_endpoint = \"huggingface.co\"\n").unwrap();
    let cases: [Bad<'_>; 6] = [
        ("HF_ENDPOINT", "huggingface.co".into(), &["HF_ENDPOINT", "`huggingface.co`", "https://"]),
        ("HF_ENDPOINT", "localhost:8080".into(), &["HF_ENDPOINT", "localhost:8080"]),
        ("SSL_CERT_FILE", "/nowhere/ca.pem".into(), &["SSL_CERT_FILE", "/nowhere/ca.pem"]),
        ("HF_HUB_CACHE", std::ffi::OsString::from_vec(b"/caf\xe9".to_vec()), &["HF_HUB_CACHE", "UTF-8"]),
        ("WEIGHTSD_CONFIG", file.clone().into(), &["bad.toml", "hub_endpoint", "https://"]),
        ("WEIGHTSD_CONFIG", "/nowhere.toml".into(), &["/nowhere.toml", "--config"]),
    ];
    for (name, value, words) in cases {
        let output = home.command().arg("serve").env(name, &value).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{name}={value:?}: {text}");
        for word in words.iter().chain(&["hint: "]) {
            assert!(text.contains(word), "{name}={value:?} does not say {word}: {text}");
        }
        assert!(!home.socket().exists(), "{name}: it was found before anybody could connect");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_in_force_are_logged_and_the_token_is_not() {
    let home = Home::new();
    let mut command = home.command();
    command.args(["serve", "--keep-alive", "7min", "--connections", "99"]).env("HF_TOKEN", "hf_sEcReT");
    let daemon = home.start(command);
    eventually("the daemon listens", || UnixStream::connect(daemon.socket()).is_ok());
    let status = daemon.client().await.status().await.unwrap();
    assert!(status.has_hub_token);
    let log = home.logged("settings: ");
    let line = log.lines().find(|line| line.contains("settings: ")).unwrap();
    for word in ["keep_alive=\"7m\"", "connections=\"99\"", "offline=\"true\"", "grace=\"5s\"", "hub_cache="] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    assert!(!log.contains("sEcReT"), "{log}");
}

#[test]
fn a_daemon_that_is_refused_touches_nothing_of_the_other() {
    let home = Home::new();
    let images = home.path().join(".cache/weightsd/images");
    std::fs::create_dir_all(&images).unwrap();
    let half = images.join("x-1-0.partial");
    std::fs::write(&half, "x").unwrap();
    // The daemon sweeps after it listens; what is written after that sweep can be deleted by a second daemon only.
    let daemon = home.daemon();
    eventually("the daemon has swept", || !half.exists());
    std::fs::write(&half, "x").unwrap();
    assert!(!home.command().arg("serve").output().unwrap().status.success());
    assert!(half.exists(), "the second daemon swept before it had the socket");
    daemon.terminate();
    let _again = home.daemon();
    eventually("what is half-written is swept", || !half.exists());
}

#[test]
fn without_a_home_the_user_database_tells_it() {
    let home = Home::new();
    let output = home.command().args(["install", "--dry-run"]).env_remove("HOME").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("# /"), "{text}");
}

#[test]
fn activated_without_a_socket_is_an_error() {
    let home = Home::new();
    let output = home.command().args(["serve", "--activated"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(text.contains("error: no socket was handed over by launchd or systemd"), "{text}");
    assert!(!home.socket().exists());
}
