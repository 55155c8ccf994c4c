//! A disk without room: found out before the first byte, or in the middle, and what has come is kept.

use weightsd_client::ErrorReason;
use weightsd_fixtures::hub::{Hub, On};

use crate::{
    harness::Home,
    hubs::{REPO, assert_sound, is_file, load, partials, publish_weights, visible},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_is_found_out_before_the_first_byte() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, 100_000);
    // No disk has as much free as this.
    let daemon = home.daemon_on(&hub, &["--free-space", "1000000TB"]);
    let client = daemon.client().await;
    let error = load(&client, &home, "model").await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::NoSpace), "{error}");
    let detail = error.daemon().unwrap().detail().unwrap();
    assert_eq!(detail.resource, home.hub_cache().display().to_string());
    assert_eq!(hub.seen(&On::resolve("")).len(), 0, "nothing was asked for");
    assert!(visible(&home, REPO).is_empty() && partials(&home, REPO).is_empty());
    drop(daemon);
    let daemon = home.daemon_on(&hub, &[]);
    assert!(is_file(&load(&daemon.client().await, &home, "model").await.unwrap(), &file));
    assert_sound(&home, REPO);
}

#[cfg(target_os = "linux")]
mod full {
    use std::fs;

    use weightsd_client::ErrorReason;
    use weightsd_fixtures::hub::{Fault, Hub, On, Side};

    use crate::{
        harness::{Home, until},
        hubs::{REPO, assert_sound, is_file, load, partials, publish_weights, visible},
        small_disk::SmallDisk,
    };

    const LENGTH: usize = 5_000_000;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_that_fills_in_the_middle_keeps_what_has_come() {
        let home = Home::new();
        let Some(disk) = SmallDisk::mount(&home.hub_cache(), 8) else { return };
        let hub = Hub::start().unwrap();
        let file = publish_weights(&hub, REPO, LENGTH);
        let slow = hub.fault(On::cdn(""), Fault::Slow { bytes_per_second: 2_500_000 });
        let daemon = home.daemon_on(&hub, &[]);
        let client = daemon.client().await;
        let fill = async {
            until("a part came", async || hub.bytes_sent(Side::Cdn) > 1_000_000).await;
            disk.fill()
        };
        let (refused, ballast) = tokio::join!(load(&client, &home, "model"), fill);
        let error = refused.unwrap_err();
        assert_eq!(error.reason(), Some(ErrorReason::NoSpace), "{error}");
        assert!(visible(&home, REPO).is_empty());
        let kept = partials(&home, REPO).remove(0).metadata().unwrap().len();
        assert!(kept >= 900_000 && kept < LENGTH as u64, "{kept}");
        // It is full already when the next one asks.
        let asked = hub.seen(&On::cdn("")).len();
        let again = load(&client, &home, "model").await.unwrap_err();
        assert_eq!((again.reason(), hub.seen(&On::cdn("")).len()), (Some(ErrorReason::NoSpace), asked), "{again}");

        fs::remove_file(ballast).unwrap();
        slow.remove();
        let component = load(&client, &home, "model").await.unwrap();
        assert!(is_file(&component, &file));
        let range = hub.seen(&On::cdn("")).pop().unwrap().headers["range"].clone();
        let from: u64 = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
        assert_eq!(from, kept);
        assert_sound(&home, REPO);
        drop((component, daemon, disk));
    }
}
