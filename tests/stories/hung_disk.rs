//! A disk stops answering while models lie on it. Requests that need that disk wait, and no others do.

use std::{
    fs,
    future::Future,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::task::JoinSet;
use tonic::Code;
use weightsd_client::{
    Client, Layout,
    proto::{ErrorReason, EvictRequest, ListComponentsRequest, LoadComponentRequest},
};

use crate::{
    fuse_disk::{Close, FuseDisk},
    harness::{Daemon, Home, leases, tiny, until},
    raw::{self, Loaded, Service},
};

/// How long an answer that needs no hung disk may take. It takes milliseconds; a hung disk answers never.
const PROMPT: Duration = Duration::from_secs(10);
/// More requests than there are places for a disk.
const MANY: usize = 24;

/// Two disks with a model each, and a daemon.
struct Scene {
    // Gone before the home is deleted, which would wait for it.
    disk: FuseDisk,
    home: Home,
    healthy: PathBuf,
    hung: PathBuf,
}

impl Scene {
    fn new(close: Close) -> Option<Self> {
        let home = Home::new();
        let (healthy, hung) = (home.path().join("model"), home.path().join("disk/model"));
        tiny(1).write_directory(&healthy).unwrap();
        tiny(2).write_directory(home.path().join("origin/model")).unwrap();
        let disk = FuseDisk::mount(&home.path().join("origin"), &home.path().join("disk"), close)?;
        Some(Self { disk, home, healthy, hung })
    }

    fn message(&self, model: &Path, component: &str) -> LoadComponentRequest {
        self.home.request(model.to_str().unwrap(), component).message().clone()
    }

    /// A lease on a component of the hung disk, by a client that takes no descriptors: its own `close` would hang.
    async fn lease(&self, service: &mut Service, component: &str) -> Loaded {
        raw::load(service, self.message(&self.hung, component)).await.unwrap()
    }

    /// What another client does with the healthy disk, each within the time: a warm load, a cold one, questions.
    async fn is_served(&self, client: &Client, cold: &str) {
        let load = |name: &str| client.load(self.home.request(self.healthy.to_str().unwrap(), name), |_| ());
        let warm = prompt("a warm load", load("vae")).await.unwrap();
        assert!(warm.info().warm);
        let cold = prompt("a cold load", load(cold)).await.unwrap();
        assert!(!cold.info().warm);
        prompt("the status", client.status()).await.unwrap();
        for (residency, images) in [(false, false), (true, true)] {
            let request = ListComponentsRequest { residency, images };
            prompt("the list", client.list(request)).await.unwrap();
        }
    }
}

async fn prompt<T>(what: &str, answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(PROMPT, answer).await.unwrap_or_else(|_| panic!("{what}: not within {PROMPT:?}"))
}

/// Requests for the hung model, which wait.
async fn crowd(scene: &Scene, daemon: &Daemon, component: &str) -> JoinSet<Result<Loaded, tonic::Status>> {
    let mut crowd = JoinSet::new();
    for _ in 0..MANY {
        let (mut service, message) = (raw::service(daemon.socket()).await, scene.message(&scene.hung, component));
        crowd.spawn(async move { raw::load(&mut service, message).await });
    }
    crowd
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_disk_stops_nobody_who_does_not_need_it() {
    let Some(scene) = Scene::new(Close::Asks) else { return };
    let daemon = scene.home.daemon();
    let _recovers = scene.disk.recovers();
    let (client, mut service) = (daemon.client().await, raw::service(daemon.socket()).await);
    let kept = client.load(scene.home.request(scene.healthy.to_str().unwrap(), "vae"), |_| ()).await.unwrap();
    let held = scene.lease(&mut service, "transformer").await;
    let dropped = scene.lease(&mut service, "vae").await;
    let evicted = scene.lease(&mut service, "text_encoder").await;
    scene.disk.hang();

    // The end of a lease, and an eviction: the last reference to files of the disk goes.
    let (one, other) = (dropped.component.id.clone(), evicted.component.id.clone());
    drop((dropped, evicted));
    until("the leases have ended", async || leases(&client).await == 2).await;
    for id in [one, other] {
        prompt("an eviction", client.evict(EvictRequest { id, ..EvictRequest::default() })).await.unwrap();
    }
    // What is warm, what is cold.
    let mut waiting = crowd(&scene, &daemon, "transformer").await;
    let mut cold = crowd(&scene, &daemon, "vae").await;
    scene.is_served(&client, "transformer").await;
    // Also when every thread that waits for the disk has waited for long.
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.is_served(&client, "text_encoder").await;
    assert!(waiting.try_join_next().is_none() && cold.try_join_next().is_none(), "the disk answers: it does not hang");

    scene.disk.recover();
    for crowd in [&mut waiting, &mut cold] {
        while let Some(loaded) = crowd.join_next().await {
            loaded.unwrap().unwrap();
        }
    }
    drop((kept, held));
    assert!(daemon.terminate().success(), "{}", scene.home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_ends_when_it_is_told_to_while_a_disk_hangs() {
    // The kernel lets nobody end who has files open on a disk that is asked about it.
    let Some(scene) = Scene::new(Close::IsSilent) else { return };
    // A grace period that no test waits for: nothing may wait for the disk.
    let daemon = scene.home.daemon_with(&["--grace", "1h"]);
    let mut service = raw::service(daemon.socket()).await;
    let held = scene.lease(&mut service, "transformer").await;
    scene.disk.hang();
    let mut waiting = crowd(&scene, &daemon, "vae").await;
    let client = daemon.client().await;
    // Requests that look at files, and hold no lease.
    let model = scene.home.request(scene.hung.to_str().unwrap(), "").message().clone().model.unwrap();
    let asked = tokio::spawn({
        let client = daemon.client().await;
        async move { client.resolve(model).await }
    });
    until("all are connected", async || client.status().await.unwrap().connections as usize >= MANY + 3).await;
    assert!(daemon.terminate().success(), "{}", scene.home.log());
    assert!(!scene.home.log().contains("the grace period passed"), "{}", scene.home.log());
    while let Some(loaded) = waiting.join_next().await {
        assert_eq!(loaded.unwrap().err().unwrap().code(), Code::Unavailable);
    }
    asked.await.unwrap().unwrap_err();
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_a_disk_holds_up_ends_at_its_deadline_and_says_which_disk() {
    let Some(scene) = Scene::new(Close::Asks) else { return };
    let daemon = scene.home.daemon_with(&["--load-deadline", "3s"]);
    let _recovers = scene.disk.recovers();
    let client = daemon.client().await;
    let _ = client.load(scene.home.request(scene.healthy.to_str().unwrap(), "vae"), |_| ()).await.unwrap();
    // By a link, too: nothing in the path says which disk it leads to.
    let link = scene.home.path().join("link");
    symlink(&scene.hung, &link).unwrap();
    scene.disk.hang();
    for model in [&scene.hung, &link] {
        let request = scene.home.request(model.to_str().unwrap(), "vae");
        let refused = prompt("the deadline", client.load(request, |_| ())).await.unwrap_err();
        assert_eq!(refused.reason(), Some(ErrorReason::Deadline), "{refused}");
        let disk = scene.home.path().join("disk");
        assert!(refused.to_string().contains(disk.to_str().unwrap()), "{refused}");
    }
    // Again and again: what is stuck is bounded, and the threads that wait are not everybody's.
    for _ in 0..4 {
        let mut crowd = crowd(&scene, &daemon, "vae").await;
        while let Some(loaded) = prompt("the deadline of many", crowd.join_next()).await {
            assert_eq!(loaded.unwrap().err().unwrap().code(), Code::DeadlineExceeded);
        }
    }
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().count();
    assert!(threads < 64, "{threads} threads");
    scene.is_served(&client, "transformer").await;
    scene.disk.recover();
    let again = scene.home.request(scene.hung.to_str().unwrap(), "vae");
    let _ = prompt("a load from the disk", client.load(again, |_| ())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_own_folder_may_hang_too() {
    let Some(scene) = Scene::new(Close::Asks) else { return };
    fs::create_dir_all(scene.home.path().join("origin/images")).unwrap();
    let images = scene.home.path().join("disk/images");
    let daemon = scene.home.daemon_with(&["--image-folder", images.to_str().unwrap()]);
    let client = daemon.client().await;
    // Nothing is computed: the folder cannot be written to.
    let request = || scene.home.request(scene.healthy.to_str().unwrap(), "vae").layout(Layout::Source);
    let _ = client.load(request(), |_| ()).await.unwrap();
    scene.disk.hang();
    for _ in 0..3 {
        prompt("the status", client.status()).await.unwrap();
    }
    let all = EvictRequest { images: true, ..EvictRequest::default() };
    let evicting = tokio::spawn({
        let client = daemon.client().await;
        async move { client.evict(all).await }
    });
    let _ = client.load(request(), |_| ()).await.unwrap();
    prompt("the status", client.status()).await.unwrap();
    evicting.abort();
    assert!(daemon.terminate().success(), "{}", scene.home.log());
}
