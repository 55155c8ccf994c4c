//! A daemon ends and another one serves on the same socket: those who hold something have their leases again, what was loaded
//! is loaded, and those who ask meanwhile are answered.

use std::{
    fs,
    io::Write as _,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use tokio::time::timeout;
use weightsd_client::{
    Client, Component, Layout, LeaseState,
    proto::{EventKind, ListComponentsRequest, NoticeKind},
};
use weightsd_segment::descriptors;

use crate::{
    client_process::checksum,
    harness::{Daemon, Home, PATIENCE, WITHOUT_VERIFYING, connect, events, eventually, leases, tiny, until},
};

const REPO: &str = "test/z-image";
const REMEMBERING: [&str; 4] = ["--restore", "true", "--verify", "false"];

/// The kinds of the notices that `held` gets, up to one of `last`.
async fn told(held: &mut Component, last: NoticeKind) -> Vec<NoticeKind> {
    let mut kinds = Vec::new();
    while kinds.last() != Some(&last) {
        let notice = timeout(PATIENCE, held.next_notice()).await.expect("a notice comes").expect("it is not the last");
        kinds.push(notice.kind());
    }
    kinds
}

async fn state(held: &Component, wanted: LeaseState) {
    until(&format!("the lease is {wanted:?}"), async || held.lease_state() == wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_has_its_lease_again_without_loading_anything() {
    let home = Home::new();
    home.tiny(REPO);
    let mut daemon = home.daemon();
    let client = daemon.client().await;
    let request = || home.request(REPO, "transformer").layout(Layout::Source);
    let mut held = client.load(request(), |_| ()).await.unwrap();
    let place = |held: &Component| held.tensors().next().unwrap().bytes().as_ptr();
    let (before, sum) = (place(&held), checksum(held.tensors().map(|tensor| tensor.bytes())));
    for ends_badly in [true, false] {
        if ends_badly {
            daemon.kill();
        } else {
            daemon.signal(Signal::TERM);
            assert!(daemon.wait().success());
        }
        state(&held, LeaseState::Interrupted).await;
        daemon = home.daemon();
        let kinds = told(&mut held, NoticeKind::LeasedAgain).await;
        assert_eq!(kinds.contains(&NoticeKind::ShuttingDown), !ends_badly, "{kinds:?}");
        assert_eq!((held.lease_state(), leases(&client).await), (LeaseState::Held, 1));
        // The daemon says so, too, and nobody's bytes have moved.
        let again = events(&client, EventKind::LeasedAgain).await;
        assert!(again.len() == 1 && again[0].component_id == held.id(), "{again:?}");
        assert_eq!((place(&held), checksum(held.tensors().map(|tensor| tensor.bytes()))), (before, sum));
        assert!(client.load(request(), |_| ()).await.unwrap().info().warm);
    }
    // It is a lease like any other.
    drop(held);
    until("it is let go", async || leases(&client).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_on_what_is_another_component_by_now_is_lost_and_that_is_told() {
    let home = Home::new();
    let folder = home.path().join("model");
    tiny(1).write_directory(&folder).unwrap();
    let daemon = home.daemon();
    let request = home.request(folder.to_str().unwrap(), "vae").layout(Layout::Source);
    let mut held = daemon.client().await.load(request, |_| ()).await.unwrap();
    let sum = checksum(held.tensors().map(|tensor| tensor.bytes()));
    daemon.kill();
    state(&held, LeaseState::Interrupted).await;
    fs::rename(&folder, home.path().join("before")).unwrap();
    tiny(2).write_directory(&folder).unwrap();
    let daemon = home.daemon();
    assert_eq!(told(&mut held, NoticeKind::LeaseLost).await, [NoticeKind::LeaseLost]);
    assert_eq!((held.next_notice().await, held.lease_state()), (None, LeaseState::Ended));
    assert_eq!(checksum(held.tensors().map(|tensor| tensor.bytes())), sum, "what is mapped keeps its bytes");
    assert_eq!(leases(&daemon.client().await).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_moved_takes_no_lease_away() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let mut held = daemon.client().await.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
    daemon.kill();
    tiny(2).write_hub_cache(home.hub_cache(), REPO, "main").unwrap();
    let daemon = home.daemon();
    assert_eq!(told(&mut held, NoticeKind::LeasedAgain).await, [NoticeKind::LeasedAgain]);
    let now = daemon.client().await.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
    assert_ne!(now.id(), held.id(), "the branch means another commit");
}

async fn loaded(client: &Client) -> Vec<String> {
    let listed = client.list(ListComponentsRequest::default()).await.unwrap().components;
    let mut ids: Vec<_> = listed.into_iter().map(|component| component.id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_loaded_is_loaded_again_for_as_long_as_it_would_have_stayed() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon_with(&REMEMBERING);
    let client = daemon.client().await;
    let mut ids = Vec::new();
    for (component, keep_alive) in [("transformer", 3600), ("vae", 3600), ("text_encoder", 0)] {
        let request = home.request(REPO, component).keep_alive(Duration::from_secs(keep_alive));
        let loaded = client.load(request, |_| ()).await.unwrap();
        ids.extend((keep_alive > 0).then(|| loaded.id().to_owned()));
    }
    ids.sort_unstable();
    until("one is not kept", async || loaded(&client).await == ids).await;
    let noted = || {
        let notes = fs::read_dir(home.path().join(".cache/weightsd")).into_iter().flatten().flatten();
        let mut notes = notes.filter(|file| file.file_name().to_string_lossy().starts_with("loaded-"));
        notes.next().and_then(|note| fs::read_to_string(note.path()).ok()).unwrap_or_default()
    };
    // Noted as let go: then each has its time.
    let is_noted = || {
        let text = noted();
        text.matches("\"until\":").count() == 2 && !text.contains("null") && ids.iter().all(|id| text.contains(id))
    };
    eventually("both are noted", is_noted);
    daemon.kill();
    let daemon = home.daemon_with(&REMEMBERING);
    let client = daemon.client().await;
    until("both are loaded again", async || loaded(&client).await == ids).await;
    until("nobody holds them", async || leases(&client).await == 0).await;
    assert!(client.load(home.request(REPO, "vae"), |_| ()).await.unwrap().info().warm);
    drop(client);
    // What is not here any more is not loaded, and is no failure.
    assert!(daemon.terminate().success());
    fs::remove_dir_all(home.hub_cache()).unwrap();
    let daemon = home.daemon_with(&REMEMBERING);
    home.logged("is not loaded again");
    assert_eq!(loaded(&daemon.client().await).await, [""; 0]);
}

/// Clients that load all the time, and what they met.
struct Busy {
    stop: Arc<AtomicBool>,
    loads: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Busy {
    async fn start(home: &Home) -> Self {
        let (stop, loads) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut clients = Vec::new();
        for number in 0..6 {
            let client = connect(&home.socket()).await;
            let (stop, loads) = (Arc::clone(&stop), Arc::clone(&loads));
            let component = ["transformer", "vae"][number % 2];
            // Cold loads, too.
            let keep_alive = Duration::from_secs([0, 600][number / 2 % 2]);
            let request = home.request(REPO, component).layout(Layout::Source).keep_alive(keep_alive);
            clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let loaded = client.load(request.clone(), |_| ()).await;
                    let loaded = loaded.map_err(|error| weightsd_core::explain::sentence(&error))?;
                    assert!(loaded.tensors().len() > 10);
                    client.status().await.map_err(|error| weightsd_core::explain::sentence(&error))?;
                    loads.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        Self { stop, loads, clients }
    }

    /// Waits for more loads, of all clients as a rule.
    async fn go_on(&self) {
        let wanted = self.loads.load(Ordering::Relaxed) + 30;
        let alive = || self.clients.iter().all(|client| !client.is_finished());
        until("they go on", async || !alive() || self.loads.load(Ordering::Relaxed) >= wanted).await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap().unwrap();
        }
    }
}

fn replacing(home: &Home) -> Daemon {
    let mut command = home.command();
    command.args(["serve", "--replace"]).args(WITHOUT_VERIFYING);
    home.start(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_is_replaced_and_clients_notice_nothing() {
    let home = Home::new();
    home.tiny(REPO);
    let mut daemon = home.daemon_with(&WITHOUT_VERIFYING);
    let client = daemon.client().await;
    let inode = fs::metadata(home.socket()).unwrap().ino();
    let mut held = client.load(home.request(REPO, "text_encoder"), |_| ()).await.unwrap();
    let busy = Busy::start(&home).await;
    for _ in 0..3 {
        busy.go_on().await;
        let next = replacing(&home);
        assert!(daemon.wait().success(), "{}", home.log());
        daemon = next;
        busy.go_on().await;
        told(&mut held, NoticeKind::LeasedAgain).await;
        assert_eq!(client.status().await.unwrap().pid, daemon.pid());
        let lock = fs::read_to_string(home.path().join("weightsd.sock.lock")).unwrap();
        assert_eq!(lock.trim(), daemon.pid().to_string());
    }
    busy.end().await;
    home.logged("stopping: another daemon has taken over");
    assert_eq!(fs::metadata(home.socket()).unwrap().ino(), inode, "it is the same socket");
    let second = home.command().arg("serve").output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains(&format!("(pid {})", daemon.pid())));
    assert!(daemon.terminate().success());
    assert!(!home.socket().exists(), "the last one removes it");
    // Where nobody serves there is nobody to replace.
    assert!(home.ready(replacing(&home)).terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_daemon_that_fails_changes_nothing() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let mut next = daemon.connect();
    next.write_all(&[0xD6, 1]).unwrap();
    let (answer, files) = descriptors::receive(next.as_fd(), 2).unwrap();
    assert_eq!((answer, files.len()), (1, 2));
    drop((next, files));
    home.logged("the next daemon did not begin to serve, so this one goes on");
    let _held = client.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
    assert_eq!(client.status().await.unwrap().pid, daemon.pid());
    assert!(!home.command().arg("serve").output().unwrap().status.success(), "the lock is this one's still");
    assert!(daemon.terminate().success());
    assert!(!home.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_nobody_s_to_give_is_not_taken() {
    let home = Home::new();
    // Something else that listens there, and hangs up.
    let listener = std::os::unix::net::UnixListener::bind(home.socket()).unwrap();
    let other = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let refused = home.command().args(["serve", "--replace"]).output().unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains("cannot be replaced while it runs"), "{text}");
    assert!(text.contains("stop it, then start this one"), "{text}");
    other.join().unwrap();
    assert!(home.socket().exists());
}
