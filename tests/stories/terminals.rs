//! What depends on a terminal: `weightsd top`, and a daemon whose terminal is closed.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use weightsd_client::proto::NoticeKind;

use crate::harness::{Home, PROGRAM, eventually};

const REPO: &str = "test/z-image";

/// A terminal: the side that a person sits at, and the side of the programs.
fn terminal() -> (File, OwnedFd) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let program = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    tcsetwinsize(&program, Winsize { ws_row: 30, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (person.into(), program)
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_the_daemon_until_q() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let _held = client.load(home.request(REPO, "vae").client_name("reader"), |_| ()).await.unwrap();
    let (mut person, program) = terminal();
    let side = || Stdio::from(program.try_clone().unwrap());
    let mut command = home.command();
    command.arg("top").env("TERM", "xterm").stdin(side()).stdout(side()).stderr(side());
    let mut top = command.spawn().unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let (shown, mut screen) = (Arc::clone(&seen), person.try_clone().unwrap());
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = screen.read(&mut bytes) {
            shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    });
    let pid = format!("(pid {})", daemon.pid());
    eventually("it shows the daemon and what is held", || {
        let seen = seen.lock().unwrap();
        [pid.as_str(), "reader", "vae", "EVENTS"].iter().all(|word| seen.contains(word))
    });
    person.write_all(b"q").unwrap();
    eventually("it ends", || top.try_wait().unwrap().is_some());
    assert!(top.wait().unwrap().success());
    // The screen is left as it was.
    eventually("the other screen is left", || seen.lock().unwrap().contains("\u{1b}[?1049l"));
    let piped = home.command().arg("top").output().unwrap();
    assert_eq!(piped.status.code(), Some(64));
    assert!(String::from_utf8(piped.stderr).unwrap().contains("needs a terminal"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_ends_with_its_terminal_and_says_goodbye() {
    let home = Home::new();
    home.tiny(REPO);
    let (person, program) = terminal();
    let mut command = home.around(Command::new("setsid"));
    command.args(["--ctty", PROGRAM, "serve"]);
    let log = File::options().create(true).append(true).open(home.path().join("log")).unwrap();
    let input = program.try_clone().unwrap();
    let mut daemon = home.ready(home.start_reading(command, input, log));
    let mut held = daemon.client().await.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
    drop((person, program));
    assert_eq!(held.next_notice().await.unwrap().kind(), NoticeKind::ShuttingDown);
    assert_eq!(daemon.wait().code(), Some(0), "{}", home.log());
}
