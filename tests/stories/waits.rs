//! `weightsd wait`: it starts before the daemon, outlives its absence, and ends when the machine has what is waited for.

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
};

use weightsd_fixtures::hub::{Fault, On};

use crate::{
    harness::{Home, eventually},
    hubs::{REPO, pull, selector, tiny_hub, visible},
};

/// A `weightsd wait` that runs. What it says goes to files, so that it never waits for a reader.
struct Waiting(Child);

impl Waiting {
    fn begin(home: &Home, arguments: &[&str]) -> Self {
        let mut command: Command = home.command();
        command.env_remove("HF_HUB_OFFLINE").arg("wait").args(arguments);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn is_over(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Exit code, output and errors.
    fn end(mut self) -> (Option<i32>, String, String) {
        eventually("the wait ends", || self.is_over());
        let code = self.0.wait().unwrap().code();
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (code, out, err)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_outlives_the_absence_of_daemon_and_hub() {
    let home = Home::new();
    let (hub, _) = tiny_hub(&home);
    let failing = hub.fault(On::api("/revision/"), Fault::status(503));
    let waiting = Waiting::begin(&home, &[REPO, "transformer", "vae"]);
    let mut other = Waiting::begin(&home, &["org/absent", "vae", "--timeout", "60s"]);
    let daemon = home.daemon_on(&hub, &["--hub-tries", "0"]);
    eventually("the hub was asked in vain", || !hub.seen(&On::api("/revision/")).is_empty());
    assert!(visible(&home, REPO).is_empty());
    failing.remove();
    let (code, out, err) = waiting.end();
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(out.matches("are here").count(), 2, "{out}");
    assert!(err.contains("still waiting for transformer"), "{err}");
    eventually("a model that does not exist is not waited for", || other.is_over());
    let (code, _, err) = other.end();
    assert!(matches!(code, Some(1 | 64)) && err.contains("org/absent"), "{code:?} {err}");
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_offline_ends_when_somebody_brought_the_files() {
    let home = Home::new();
    let (hub, _) = tiny_hub(&home);
    let daemon = home.daemon_on(&hub, &[]);
    let mut waiting = Waiting::begin(&home, &["--offline", REPO, "vae"]);
    let brief = Waiting::begin(&home, &["--offline", REPO, "vae", "--timeout", "300ms"]);
    let (code, _, err) = brief.end();
    assert!(code == Some(1) && err.contains("not in the Hugging Face cache"), "{code:?} {err}");
    assert!(!waiting.is_over() && hub.requests().is_empty(), "it asks nobody");
    pull(&daemon.client().await, selector(&home, REPO), &["vae"]).await.unwrap();
    let (code, out, err) = waiting.end();
    assert_eq!(code, Some(0), "{out}{err}");
}

#[test]
fn a_wait_gives_up_when_its_time_is_over() {
    let home = Home::new();
    let (code, out, err) = Waiting::begin(&home, &[REPO, "vae", "--timeout", "500ms"]).end();
    assert!(code == Some(69) && out.is_empty(), "{code:?} {out}");
    assert!(err.contains("error: no daemon is running"), "{err}");
}
