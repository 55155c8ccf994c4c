//! A request that joins a download late is told at once, in numbers, how far the download is.

use tokio::sync::oneshot;
use weightsd_client::{
    Phase, Progress,
    proto::{EventKind, FileState},
};
use weightsd_fixtures::hub::{Fault, Hub, On, Side};

use crate::{
    harness::{Home, events, until},
    hubs::{REPO, is_file, load, publish_weights, request},
};

const LENGTH: usize = 5_000_000;
/// Seconds that it takes: those after the sixty percent are enough to join, however busy the machine is.
const SECONDS: u64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn one_who_joins_at_sixty_percent_is_told_at_once() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, LENGTH);
    let rate = LENGTH as u64 / SECONDS;
    hub.fault(On::cdn(""), Fault::Slow { bytes_per_second: rate });
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let first = tokio::spawn({
        let (client, request) = (client.clone(), request(&home, REPO, "model"));
        async move { client.load(request, |_| ()).await.unwrap() }
    });
    until("60 % came", async || hub.bytes_sent(Side::Cdn) > LENGTH as u64 * 6 / 10).await;

    let mut downloads = client.status().await.unwrap().downloads;
    let running = downloads.pop().unwrap();
    assert!(downloads.is_empty() && running.what.contains(REPO) && running.what.contains("model"), "{running:?}");
    assert_plausible(&running.progress.unwrap(), file.len(), rate, 1);

    let (tell, told) = oneshot::channel();
    let (mut tell, mut steps) = (Some(tell), Vec::new());
    let second = client.load(request(&home, REPO, "model"), |step| {
        if let Some(tell) = tell.take() {
            let _ = tell.send((step.clone(), hub.bytes_sent(Side::Cdn)));
        }
        steps.push(step.clone());
    });
    let second = second.await.unwrap();
    let (step, sent) = told.await.unwrap();
    assert!(sent < file.len() as u64, "it was told while it ran");
    assert_plausible(&step, file.len(), rate, 2);
    let done: Vec<u64> =
        steps.iter().filter(|step| step.phase() == Phase::Download).map(|step| step.bytes_done).collect();
    assert!(done.len() > 3 && done.is_sorted(), "{done:?}");
    assert!(is_file(&first.await.unwrap(), &file) && is_file(&second, &file));
    let kinds = [EventKind::DownloadBegan, EventKind::Downloaded, EventKind::DownloadFailed];
    let mut counts = Vec::new();
    for kind in kinds {
        counts.push(events(&client, kind).await.len());
    }
    assert_eq!(counts, [1, 1, 0]);
    assert!(client.status().await.unwrap().downloads.is_empty());
}

fn assert_plausible(step: &Progress, length: usize, rate: u64, sharers: u32) {
    let length = length as u64;
    assert_eq!((step.phase(), step.sharers, step.bytes_total), (Phase::Download, sharers, length), "{step:?}");
    assert_eq!((step.files_done, step.files_total, step.file.as_str()), (0, 1, "model.safetensors"));
    assert!(step.bytes_done > length / 4 && step.bytes_done < length, "{step:?}");
    // On a busy machine everything takes longer.
    assert!(step.bytes_per_second > rate / 10 && step.bytes_per_second < rate * 2, "{step:?}");
    assert!(step.remaining.is_some());
    let file = &step.files[0];
    assert_eq!(
        (file.path.as_str(), file.state(), file.bytes_total),
        ("model.safetensors", FileState::Downloading, length)
    );
    assert_eq!(file.bytes_done, step.bytes_done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_the_daemon_waits_for_no_download() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    publish_weights(&hub, REPO, LENGTH);
    hub.fault(On::cdn(""), Fault::Stall { after: 100_000 });
    let daemon = home.daemon_on(&hub, &["--hub-stall", "1h", "--grace", "1h"]);
    let client = daemon.client().await;
    let load = load(&client, &home, "model");
    let stop = async {
        until("a part came", async || hub.bytes_sent(Side::Cdn) >= 100_000).await;
        #[expect(clippy::disallowed_methods, reason = "a thread of a test")]
        let ended = tokio::task::spawn_blocking(|| daemon.terminate());
        ended.await.unwrap()
    };
    let (refused, status) = tokio::join!(load, stop);
    assert!(refused.is_err() && status.success(), "{status}: {}", home.log());
}
