//! Somebody is killed, hangs up or is told to stop in the middle of a computation: nothing half-made is ever seen, and
//! the next one who asks is served.

use std::{fs, os::unix::net::UnixStream};

use rustix::process::Signal;
use weightsd_client::{ErrorReason, proto::EventKind};

use crate::{
    derivations::{Running, Worker, assert_tidy, files, folder, images, large, larger, look, sum, written},
    harness::{Daemon, Home, events, eventually, leases, until},
};

/// When the daemon is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// There is a file to write to, and nothing in it.
    Begun,
    /// The process that computes was just started.
    Started,
    /// So many of a hundred parts are computed.
    Computed(u64),
    /// It is said what the image is made from: the next step is to show it.
    Provenance,
    /// It can be seen.
    Published,
}

/// Kills the daemon at that moment of a computation that nobody hears the end of.
async fn kill_at(moment: Moment, home: &Home, daemon: Daemon, model: &str) -> Option<Worker> {
    let client = daemon.client().await;
    let mut running = Running::start(&client, home.usual_request(model, "transformer"));
    let folder = folder(home);
    let worker = match moment {
        Moment::Begun => {
            tokio::task::block_in_place(|| look(|| !files(&folder, "partial").is_empty()));
            None
        }
        Moment::Started => Some(Worker::started(&daemon).await),
        Moment::Computed(parts) => {
            let (worker, _) = running.stopped_at(&daemon, parts).await;
            worker.signal(Signal::CONT);
            Some(worker)
        }
        Moment::Provenance => {
            tokio::task::block_in_place(|| look(|| !files(&folder, "json").is_empty()));
            None
        }
        Moment::Published => {
            tokio::task::block_in_place(|| look(|| !images(&folder).is_empty()));
            None
        }
    };
    let worker = worker.or_else(|| Worker::of(&daemon));
    daemon.kill();
    drop(running);
    // A process that was about to become the one that computes has the daemon's socket and lock until it does.
    eventually("nobody listens", || UnixStream::connect(home.socket()).is_err());
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_at_any_moment_of_a_computation_leaves_no_half_image() {
    let home = Home::new();
    let model = written(&home, &larger(1));
    let folder = folder(&home);
    let expected = {
        let daemon = home.daemon();
        let client = daemon.client().await;
        let component = client.load(home.usual_request(&model, "transformer"), |_| ()).await.unwrap();
        sum(&component)
    };
    let moments = [
        Moment::Begun,
        Moment::Started,
        Moment::Computed(0),
        Moment::Computed(40),
        Moment::Computed(70),
        Moment::Provenance,
        Moment::Provenance,
        Moment::Published,
    ];
    for moment in moments {
        for file in files(&folder, "json").into_iter().chain(images(&folder)) {
            fs::remove_file(file).unwrap();
        }
        let worker = kill_at(moment, &home, home.daemon(), &model).await;
        if let Some(worker) = worker {
            worker.ends();
        }
        let is_seen = !images(&folder).is_empty();
        assert!(!is_seen || matches!(moment, Moment::Provenance | Moment::Published), "{moment:?}");
        let daemon = home.daemon();
        eventually("what is half-made is swept", || files(&folder, "partial").is_empty());
        let client = daemon.client().await;
        let component = client.load(home.usual_request(&model, "transformer"), |_| ()).await.unwrap();
        assert_eq!(sum(&component), expected, "{moment:?}");
        // Killed between the name and the seal, which is behind it, an image is there and is computed anew.
        let is_derived = !events(&client, EventKind::Derived).await.is_empty();
        assert!(is_derived || is_seen, "{moment:?}");
        assert_eq!(component.info().image.as_ref().unwrap().made_from, model, "{moment:?}");
        assert_tidy(&folder);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_computation_that_is_killed_is_an_error_and_the_next_one_succeeds() {
    let home = Home::new();
    let model = written(&home, &larger(2));
    home.tiny("test/z-image");
    let daemon = home.daemon();
    let client = daemon.client().await;
    let held = client.load(home.usual_request("test/z-image", "vae"), |_| ()).await.unwrap();
    let before = sum(&held);
    let request = || home.usual_request(&model, "transformer");
    for parts in [0, 50] {
        let mut running = Running::start(&client, request());
        let also = Running::start(&client, request());
        let (worker, _) = running.stopped_at(&daemon, parts).await;
        let sharers = async || client.status().await.unwrap().loads[0].progress.as_ref().map(|step| step.sharers);
        until("both wait for it", async || sharers().await == Some(2)).await;
        worker.signal(Signal::KILL);
        for running in [running, also] {
            let error = running.ended().await.map(|component| component.id().to_owned()).unwrap_err();
            assert_eq!(error.reason(), Some(ErrorReason::DerivationFailed), "{error}");
            assert!(error.retryable() && error.to_string().contains("signal: 9"), "{error}");
            assert!(error.hint().unwrap().contains("memory"), "{error}");
        }
        eventually("nothing half-made is left", || files(&folder(&home), "partial").is_empty());
        assert_tidy(&folder(&home));
        assert_eq!(sum(&held), before);
    }
    let failed = events(&client, EventKind::LoadFailed).await;
    assert!(failed.len() == 2 && failed[0].message.contains("transformer"), "{failed:?}");
    assert_eq!(leases(&client).await, 1);
    let component = client.load(request(), |_| ()).await.unwrap();
    assert!(component.info().computed_bytes > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_computation_that_nobody_waits_for_any_more_is_given_up() {
    let home = Home::new();
    let model = written(&home, &large(3));
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = || home.usual_request(&model, "transformer");
    let mut first = Running::start(&client, request());
    let (worker, _) = first.stopped_at(&daemon, 0).await;
    let mut second = Running::start(&client, request());
    second.told().await;
    // As long as one waits, it goes on.
    first.give_up().await;
    let waiting = async || client.status().await.unwrap().loads.first().and_then(|load| load.progress.clone());
    until("one waits", async || waiting().await.is_some_and(|progress| progress.sharers == 1)).await;
    assert_eq!((Worker::of(&daemon), files(&folder(&home), "partial").len()), (Some(worker), 1));
    second.give_up().await;
    // Stopped as it is, it ends all the same.
    worker.ends();
    until("the load ends", async || client.status().await.unwrap().loads.is_empty()).await;
    eventually("nothing half-made is left", || files(&folder(&home), "partial").is_empty());
    assert_tidy(&folder(&home));
    assert!(images(&folder(&home)).is_empty());
    let failed = events(&client, EventKind::LoadFailed).await;
    assert!(failed.len() == 1 && failed[0].message.contains("given up"), "{failed:?}");
    let component = client.load(request(), |_| ()).await.unwrap();
    assert!(component.info().computed_bytes > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_told_to_stop_does_not_wait_for_the_end_of_a_computation() {
    let home = Home::new();
    let model = written(&home, &large(4));
    let daemon = home.daemon_with(&["--grace", "10s"]);
    let client = daemon.client().await;
    let mut running = Running::start(&client, home.usual_request(&model, "transformer"));
    let (worker, _) = running.stopped_at(&daemon, 0).await;
    // Nor does it matter that another one waits for its turn.
    home.tiny("test/z-image");
    let mut other = Running::start(&client, home.usual_request("test/z-image", "vae"));
    while other.told().await.phase() != weightsd_client::Phase::Derive {}
    assert_eq!(daemon.terminate().code(), Some(0), "{}", home.log());
    assert!(!home.log().contains("the grace period passed"), "{}", home.log());
    worker.ends();
    for running in [running, other] {
        assert!(running.ended().await.is_err());
    }
    assert_tidy(&folder(&home));
    assert!(images(&folder(&home)).is_empty());
    let daemon = home.daemon();
    let client = daemon.client().await;
    let component = client.load(home.usual_request(&model, "transformer"), |_| ()).await.unwrap();
    assert_eq!(events(&client, EventKind::Derived).await.len(), 1);
    drop(component);
}

#[cfg(target_os = "linux")] // macOS tells nobody the most that another process had.
#[tokio::test(flavor = "multi_thread")]
async fn a_computation_takes_a_bounded_part_of_memory_and_gives_it_back() {
    use weightsd_client::proto::EvictRequest;

    use crate::derivations::{heavy, peak};

    /// What may be added to an idle daemon by it and by the process that computes, together.
    const MEMORY_MAX: u64 = 1 << 30;
    let home = Home::new();
    let checkpoint = heavy();
    assert!(checkpoint.payload_bytes() > 1_000_000_000);
    let model = written(&home, &checkpoint);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let idle = peak(daemon.pid());
    let running = Running::start(&client, home.usual_request(&model, "transformer"));
    let worker = Worker::started(&daemon).await;
    let mut most = 0;
    while !worker.has_ended() {
        most = most.max(peak(worker.0));
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    drop(running.ended().await.unwrap());
    let taken = peak(daemon.pid()) - idle + most;
    println!("{} MiB, {} of them the daemon's", taken >> 20, (peak(daemon.pid()) - idle) >> 20);
    assert!(most > 0 && taken < MEMORY_MAX, "{taken} bytes, {most} of them in the process that computes");
    until("nobody holds it", async || leases(&client).await == 0).await;
    let gone = client.evict(EvictRequest { images: true, ..EvictRequest::default() }).await.unwrap();
    assert_eq!((gone.images.len(), images(&folder(&home)).len()), (1, 0));
}
