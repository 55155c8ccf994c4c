//! What has come is not fetched again, whatever ended the download; and what is put together is what it should be.

use std::fs;

use weightsd_fixtures::hub::{Fault, Hub, On, Side};

use crate::{
    harness::{Home, until},
    hubs::{REPO, assert_sound, folder, is_file, load, partials, publish_weights, request, visible, weights},
};

const LENGTH: usize = 32_000_000;
const KILLS: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_at_any_point_of_a_download_goes_on_with_it() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, LENGTH);
    let length = file.len() as u64;
    hub.fault(On::cdn(""), Fault::Slow { bytes_per_second: 8_000_000 });
    // What the kernel had taken from the hub is lost with the daemon. What it had written is not asked for again.
    let goes_on_from = |written: u64| {
        let first = hub.seen(&On::cdn("")).swap_remove(0);
        let expected = (written > 0).then(|| format!("bytes={written}-"));
        assert_eq!(first.headers.get("range"), expected.as_ref());
    };
    let mut written = 0;
    for number in 0..KILLS {
        // Somewhere in the next part of it.
        let more = length / (KILLS + 1) / 2 + u64::from(rand_byte()) * (length / (KILLS + 1) / 512);
        hub.clear_log();
        let daemon = home.daemon_on(&hub, &[]);
        let client = daemon.client().await;
        let load = tokio::spawn({
            let request = request(&home, REPO, "model");
            async move { client.load(request, |_| ()).await }
        });
        let on_disk = || partials(&home, REPO).first().map_or(0, |partial| partial.metadata().unwrap().len());
        until("a part came", async || on_disk() > written + more).await;
        daemon.kill();
        load.await.unwrap().unwrap_err();
        assert!(visible(&home, REPO).is_empty(), "kill {number}");
        goes_on_from(written);
        written = on_disk();
    }
    assert!(written > length / 2);
    hub.clear_log();
    let daemon = home.daemon_on(&hub, &[]);
    let component = load(&daemon.client().await, &home, "model").await.unwrap();
    assert!(is_file(&component, &file));
    goes_on_from(written);
    assert!(partials(&home, REPO).is_empty());
    assert_sound(&home, REPO);
}

fn rand_byte() -> u8 {
    let mut byte = [0];
    getrandom::fill(&mut byte).unwrap();
    byte[0]
}

/// A hub with a file of half a megabyte, and the home of a daemon that tries again.
fn half_a_megabyte() -> (Home, Hub, Vec<u8>) {
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, 500_000);
    (Home::new(), hub, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_followed_by_another_for_the_rest() {
    let faults = [
        Fault::Cut { after: 200_000 },
        Fault::CutChunked { after: 200_000 },
        Fault::CutUntilClose { after: 200_000 },
        Fault::Stall { after: 200_000 },
    ];
    for fault in faults {
        let (home, hub, file) = half_a_megabyte();
        hub.fault(On::cdn(""), fault.clone()).times(2);
        let daemon = home.daemon_on(&hub, &[]);
        assert!(is_file(&load(&daemon.client().await, &home, "model").await.unwrap(), &file), "{fault:?}");
        let ranges: Vec<_> = hub.seen(&On::cdn("")).iter().map(|seen| seen.headers.get("range").cloned()).collect();
        let expected = [None, Some("bytes=200000-".to_owned()), Some("bytes=400000-".to_owned())];
        assert_eq!(
            (ranges.as_slice(), hub.bytes_sent(Side::Cdn)),
            (expected.as_slice(), file.len() as u64),
            "{fault:?}"
        );
        assert_sound(&home, REPO);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_knows_no_ranges_starts_over() {
    let (home, hub, file) = half_a_megabyte();
    hub.fault(On::cdn(""), Fault::IgnoreRange);
    hub.fault(On::cdn(""), Fault::Cut { after: 300_000 }).times(1);
    let daemon = home.daemon_on(&hub, &[]);
    assert!(is_file(&load(&daemon.client().await, &home, "model").await.unwrap(), &file));
    assert_eq!(hub.bytes_sent(Side::Cdn), 300_000 + file.len() as u64);
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_a_range_is_asked_for_all_of_it() {
    for direct in [false, true] {
        let (home, hub, file) = half_a_megabyte();
        hub.set_lfs_direct(REPO, direct);
        let on = || On::any(".safetensors");
        hub.fault(on(), Fault::Cut { after: 300_000 }).skip(u64::from(!direct)).times(1);
        hub.fault(on(), Fault::Unsatisfiable).skip(if direct { 1 } else { 3 }).times(1);
        let daemon = home.daemon_on(&hub, &["--hub-tries", "2"]);
        assert!(is_file(&load(&daemon.client().await, &home, "model").await.unwrap(), &file), "{direct}");
        assert_sound(&home, REPO);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_changes_in_the_middle_is_not_put_together() {
    // The host that sends it has another one now, and says so.
    let (home, hub, file) = half_a_megabyte();
    hub.fault(On::cdn(""), Fault::Cut { after: 200_000 }).times(1);
    hub.fault(On::cdn(""), Fault::OtherEtag { etag: "another".into() }).skip(1);
    let daemon = home.daemon_on(&hub, &[]);
    assert!(is_file(&load(&daemon.client().await, &home, "model").await.unwrap(), &file));
    let last = hub.seen(&On::cdn("")).pop().unwrap();
    assert!(last.headers.contains_key("if-range"), "{last:?}");
    assert_eq!((last.status, hub.bytes_sent(Side::Cdn)), (Some(200), 200_000 + file.len() as u64));
    assert_sound(&home, REPO);

    // The hub itself says that the file is another one.
    let (home, hub, file) = half_a_megabyte();
    hub.fault(On::cdn(""), Fault::Cut { after: 200_000 }).times(1);
    let other = hub.fault(On::resolve("safetensors"), Fault::OtherEtag { etag: "a".repeat(64) }).skip(1);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let error = load(&client, &home, "model").await.unwrap_err();
    assert_eq!(error.reason(), Some(weightsd_client::ErrorReason::HubInconsistent), "{error}");
    assert!(visible(&home, REPO).is_empty());
    other.remove();
    assert!(is_file(&load(&client, &home, "model").await.unwrap(), &file));
    let last = hub.seen(&On::cdn("")).pop().unwrap();
    assert_eq!(last.headers["range"], "bytes=200000-", "what had come was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_attempt_left_is_not_believed() {
    let (home, hub, file) = half_a_megabyte();
    let mut wrong = file.clone();
    wrong[1000] ^= 1;
    let longer = [file.as_slice(), b"x"].concat();
    // Left bytes, bytes that come.
    let table = [
        (file[..200_000].to_vec(), file.len() - 200_000),
        (file.clone(), 0),
        (wrong[..200_000].to_vec(), 2 * file.len() - 200_000),
        (wrong, file.len()),
        (longer, file.len()),
        (Vec::new(), file.len()),
        (weights(9, 10), 2 * file.len() - weights(9, 10).len()),
    ];
    for (number, (left, expected)) in table.into_iter().enumerate() {
        let daemon = home.daemon_on(&hub, &[]);
        let client = daemon.client().await;
        let partial = folder(&home, REPO).join("blobs").join(format!("{}.incomplete", sha256(&file)));
        fs::create_dir_all(partial.parent().unwrap()).unwrap();
        fs::write(&partial, left).unwrap();
        hub.clear_log();
        assert!(is_file(&load(&client, &home, "model").await.unwrap(), &file), "{number}");
        assert_eq!(hub.bytes_sent(Side::Cdn), expected as u64, "{number}");
        assert!(partials(&home, REPO).is_empty());
        assert_sound(&home, REPO);
        fs::remove_dir_all(home.hub_cache()).unwrap();
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_another_program_downloads_is_waited_for() {
    let (home, hub, file) = half_a_megabyte();
    let name = sha256(&file);
    let lock = home.hub_cache().join(".locks/models--org--repo").join(format!("{name}.lock"));
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let lock = fs::File::create(lock).unwrap();
    lock.lock().unwrap();
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let waiting = tokio::spawn({
        let (client, request) = (client.clone(), request(&home, REPO, "model"));
        async move { client.load(request, |_| ()).await }
    });
    until("it waits for the other program", async || {
        let downloads = client.status().await.unwrap().downloads;
        let files = downloads.into_iter().filter_map(|download| download.progress).flat_map(|progress| progress.files);
        files.into_iter().any(|file| file.state() == weightsd_client::proto::FileState::Elsewhere)
    })
    .await;
    let blobs = folder(&home, REPO).join("blobs");
    fs::write(blobs.join("other.tmp"), &file).unwrap();
    fs::rename(blobs.join("other.tmp"), blobs.join(&name)).unwrap();
    drop(lock);
    assert!(is_file(&waiting.await.unwrap().unwrap(), &file));
    assert_eq!(hub.bytes_sent(Side::Cdn), 0);
}
