//! How the bytes of a component come into memory, and stay there.

use std::{fs, time::Duration};

use tokio::time::timeout;
use weightsd_client::{Component, Layout, Phase, Residency};
use weightsd_segment::{PinnedFile, advice};

use crate::{
    harness::{Home, WITHOUT_VERIFYING, tiny, until},
    not_run::not_run,
};

/// A model of this home whose bytes are not in memory, and its weight files. `None` where they cannot be put out of it.
fn a_cold_model(home: &Home) -> Option<(String, Vec<PinnedFile>)> {
    let folder = home.path().join("model");
    tiny(1).write_directory(&folder).unwrap();
    let files = fs::read_dir(folder.join("transformer")).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    let files: Vec<_> = files.map(|path| PinnedFile::open(path).unwrap()).collect();
    assert!(!files.is_empty());
    chill(&files);
    if resident(&files) > 0 {
        not_run("this file system keeps all in memory");
        return None;
    }
    Some((folder.to_str().unwrap().to_owned(), files))
}

/// Puts the files out of memory.
fn chill(files: &[PinnedFile]) {
    for file in files {
        file.file().sync_all().unwrap();
        advice::forget(file.file(), 0..file.identity().length);
    }
}

fn resident(files: &[PinnedFile]) -> u64 {
    files.iter().map(|file| file.resident_bytes().unwrap()).sum()
}

fn is_read_ahead(held: &Component) -> bool {
    held.read_ahead().is_some_and(|step| {
        assert_eq!(step.phase(), Phase::Prefetch);
        step.bytes_done == step.bytes_total && step.bytes_total >= held.info().tensor_bytes
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_reads_ahead_while_the_holder_has_it_mapped() {
    let home = Home::new();
    let Some((model, files)) = a_cold_model(&home) else { return };
    let length: u64 = files.iter().map(|file| file.identity().length).sum();
    let daemon = home.daemon_with(&WITHOUT_VERIFYING);
    let client = daemon.client().await;
    let request = home.request(&model, "transformer").layout(Layout::Source);
    let lazy = client.load(request.clone().residency(Residency::Lazy), |_| ()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(lazy.read_ahead().is_none() && resident(&files) < length / 2, "{} of {length}", resident(&files));
    let held = client.load(request.clone(), |_| ()).await.unwrap();
    until("all is in memory", async || is_read_ahead(&held)).await;
    assert_eq!(resident(&files), length);
    // What was lately brought is not read again.
    let again = client.load(request, |_| ()).await.unwrap();
    let mut second = client.load(home.request(&model, "vae").layout(Layout::Source), |_| ()).await.unwrap();
    until("another one is read ahead", async || is_read_ahead(&second)).await;
    assert!(again.read_ahead().is_none_or(|_| is_read_ahead(&again)));
    assert!(timeout(Duration::from_millis(50), second.next_notice()).await.is_err(), "progress is no notice");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_is_locked_while_it_is_held_and_a_refusal_has_its_reason() {
    let home = Home::new();
    let Some((model, _files)) = a_cold_model(&home) else { return };
    let request = || home.request(&model, "transformer").layout(Layout::Source).residency(Residency::Pinned);
    let refusal = async |budget: &str| {
        let daemon = home.daemon_with(&["--pin-budget", budget]);
        let client = daemon.client().await;
        let mut held = client.load(request(), |_| ()).await.unwrap();
        let notice = timeout(crate::harness::PATIENCE, held.next_notice()).await.unwrap().unwrap();
        assert_eq!(notice.kind(), weightsd_client::proto::NoticeKind::NotPinned);
        until("it is read ahead all the same", async || is_read_ahead(&held)).await;
        assert_eq!(client.status().await.unwrap().pinned_bytes, 0);
        notice.message
    };
    let message = refusal("0B").await;
    assert!(message.contains("`pin_budget` allows 0 B"), "{message}");
    let daemon = home.daemon_with(&["--pin-budget", "1GB"]);
    let client = daemon.client().await;
    let mut held = client.load(request(), |_| ()).await.unwrap();
    if !rustix::process::geteuid().is_root() {
        // It depends on the limit of this user whether there is a notice.
        return not_run("only root may lock as much as it likes");
    }
    until("it is pinned", async || is_read_ahead(&held)).await;
    let bytes = held.info().tensor_bytes;
    let locked = || {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap().to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    };
    assert!(locked() >= bytes && client.status().await.unwrap().pinned_bytes >= bytes, "{} of {bytes}", locked());
    assert!(timeout(Duration::from_millis(50), held.next_notice()).await.is_err(), "there is nothing to say");
    drop(held);
    until("it is let go", async || locked() == 0 && client.status().await.unwrap().pinned_bytes == 0).await;
}
