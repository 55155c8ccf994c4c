//! The log has no reader, no room or no file, and nobody notices but those who ask how much of it was lost.

use std::{
    fs,
    io::{self, PipeReader},
    process::Stdio,
};

use weightsd_client::{
    Hold,
    proto::{EventKind, WatchEventsRequest},
};

use crate::{
    harness::{Daemon, Home, events, tiny, until},
    small_disk::SmallDisk,
};

const REPO: &str = "test/z-image";

/// A daemon that logs everything to `log`.
fn daemon(home: &Home, log: impl Into<Stdio>) -> Daemon {
    let mut command = home.command();
    command.arg("serve").env("WEIGHTSD_LOG", "trace");
    home.ready(home.start_logging_to(command, log))
}

/// Loads until the daemon says that lines were lost, and ends it. Nothing fails, and nothing waits.
async fn serves_and_loses(home: &Home, daemon: Daemon) {
    let client = daemon.client().await;
    until("lines are lost", async || {
        for component in ["vae", "transformer", "text_encoder"] {
            let _lease = client.load(home.request(REPO, component), |_| ()).await.unwrap();
        }
        client.load(home.request(REPO, "unet"), |_| ()).await.unwrap_err();
        client.status().await.unwrap().log_lines_lost > 0
    })
    .await;
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_the_log() {
    let home = Home::new();
    home.tiny(REPO);
    let (reader, writer) = io::pipe().unwrap();
    let daemon = daemon(&home, writer);
    serves_and_loses(&home, daemon).await;
    drop::<PipeReader>(reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_of_the_log_is_gone() {
    let home = Home::new();
    home.tiny(REPO);
    let (reader, writer) = io::pipe().unwrap();
    let daemon = daemon(&home, writer);
    drop(reader);
    serves_and_loses(&home, daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_the_log_is_full_and_then_it_is_not() {
    let home = Home::new();
    home.tiny(REPO);
    let Some(disk) = SmallDisk::mount(&home.path().join("small"), 2) else { return };
    let path = home.path().join("small/log");
    let log = fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let daemon = daemon(&home, log);
    let ballast = disk.fill();
    let client = daemon.client().await;
    until("lines are lost", async || {
        let _lease = client.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
        client.status().await.unwrap().log_lines_lost > 0
    })
    .await;
    fs::remove_file(ballast).unwrap();
    until("the log goes on and says what is missing", async || {
        client.status().await.unwrap();
        fs::read_to_string(&path).unwrap().contains("lines of this log were lost")
    })
    .await;
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_hides_nothing() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let _held = client.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
    // A load that fails for each of them: the file that they name is no model.
    let bad = home.path().join("bad.safetensors");
    fs::write(&bad, [0xff; 64]).unwrap();
    for number in 0..1500 {
        let (spec, component) = if number % 2 == 0 { (bad.to_str().unwrap(), "model") } else { (REPO, "unet") };
        client.load(home.request(spec, component).hold(Hold::None), |_| ()).await.unwrap_err();
    }
    assert_eq!(events(&client, EventKind::Loaded).await.len(), 1, "it was pushed out");
    let lines = home.log().lines().filter(|line| line.contains("refused: ")).count();
    assert!((1..1000).contains(&lines), "{lines} lines");
    let past = WatchEventsRequest { past_only: true, ..WatchEventsRequest::default() };
    let mut stream = client.watch_events(past).await.unwrap();
    let mut count = 0;
    while stream.next().await.unwrap().is_some() {
        count += 1;
    }
    assert!(count < 1000, "{count} events");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_of_a_failed_load_says_why() {
    let home = Home::new();
    let written = tiny(1).write_directory(home.path().join("model")).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let path = home.path().join("model/vae/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let refused = client.load(home.request("model", "vae"), |_| ()).await.unwrap_err();
    let failed = events(&client, EventKind::LoadFailed).await;
    assert_eq!(failed.len(), 1);
    // The answer to the client is the error with its causes; the event has all of it.
    let answer = refused.daemon().unwrap().message().to_owned();
    assert!(answer.contains(": ") && failed[0].message.ends_with(&answer), "{} / {answer}", failed[0].message);
    drop(written);
}
