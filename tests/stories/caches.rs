//! Caches that the daemon cannot use as they are: each refusal says what is there, what it means, and what can help.

use std::{ffi::OsStr, fs, net::TcpListener, os::unix::fs::symlink, process::Stdio};

use weightsd_client::ClientError;
use weightsd_fixtures::hub::Hub;

use crate::{
    harness::{Home, until},
    hubs::{REPO, WEIGHTS, folder, is_file, load, names, publish_weights, pull, request, selector},
};

const LENGTH: usize = 100_000;

/// The message and the hint of a refusal.
#[track_caller]
fn said<T>(result: Result<T, ClientError>) -> (String, String) {
    let Err(error) = result else { panic!("it was not refused") };
    let hint = error.daemon().unwrap().detail().unwrap().hint.clone();
    (error.to_string(), hint)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_a_link_to_nothing_is_named_with_where_it_leads() {
    let (home, hub) = (Home::new(), Hub::start().unwrap());
    publish_weights(&hub, REPO, LENGTH);
    symlink("/mnt/no-such-disk/hub", home.hub_cache()).unwrap();
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let link = format!("`{}` is a link to `/mnt/no-such-disk/hub`", home.hub_cache().display());
    let offline = client.load(request(&home, REPO, "model").offline(true), |_| ()).await;
    let path = home.hub_cache().join("file.safetensors");
    let by_path = client.load(request(&home, path.to_str().unwrap(), "model"), |_| ()).await;
    for refused in [offline.map(drop), load(&client, &home, "model").await.map(drop), by_path.map(drop)] {
        let (error, hint) = said(refused);
        assert!(hint.contains(&link) && hint.contains("mount"), "{error}; {hint}");
    }
    let (error, hint) = said(pull(&client, selector(&home, REPO), &[]).await);
    assert!(hint.contains(&link), "{error}; {hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_down_is_named() {
    let (home, hub) = (Home::new(), Hub::start().unwrap());
    publish_weights(&hub, REPO, LENGTH);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (proxy, tries) = (format!("http://{closed}"), ["--hub-tries", "0"]);
    let daemon = home.daemon_so(&hub, &tries, &[("HTTP_PROXY", &proxy), ("http_proxy", &proxy), ("NO_PROXY", "")]);
    let client = daemon.client().await;
    for refused in
        [load(&client, &home, "model").await.map(drop), pull(&client, selector(&home, REPO), &[]).await.map(drop)]
    {
        let (error, hint) = said(refused);
        assert!(error.contains(&format!("through the proxy `{closed}`")), "{error}; {hint}");
        assert!(hint.contains("proxy"), "{error}; {hint}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_another_set_on_the_hub_is_told_with_the_set_beside_it() {
    let (home, hub) = (Home::new(), Hub::start().unwrap());
    let index = br#"{"metadata": {}, "weight_map": {"t": "model-00001-of-00002.safetensors", "u": "model-00002-of-00002.safetensors"}}"#;
    let file = crate::hubs::weights(1, LENGTH);
    hub.publish_bytes(
        REPO,
        "main",
        vec![
            ("config.json", b"{}".to_vec()),
            ("model.safetensors.index.json", index.to_vec()),
            (WEIGHTS, file.clone()),
        ],
    );
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let loaded = load(&client, &home, "model").await.map(drop);
    for refused in [loaded, pull(&client, selector(&home, REPO), &["model"]).await.map(drop)] {
        let (error, hint) = said(refused);
        assert!(error.contains("model-00001-of-00002") && error.contains(WEIGHTS), "{error}; {hint}");
        assert!(error.contains("that the index does not list"), "{error}; {hint}");
        assert!(hint.contains("fetching again cannot help") && !hint.contains("weightsd pull"), "{error}; {hint}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_a_cache_that_no_request_can_hold_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;

    let home = Home::new();
    home.tiny(REPO);
    let _daemon = home.daemon();
    let odd = OsStr::from_bytes(b"/data/h\xffb");
    for name in ["HF_HUB_CACHE", "HF_HOME"] {
        for arguments in [&["load", REPO, "vae"][..], &["resolve", REPO], &["inspect", REPO]] {
            let mut command = home.command();
            let output = command.env_remove("HF_HUB_CACHE").env(name, odd).args(arguments).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(64), "{name} {arguments:?}: {text}");
            assert!(text.contains("UTF-8") && text.contains("--hub-cache"), "{name} {arguments:?}: {text}");
        }
    }
    let cache = home.hub_cache();
    let mut command = home.command();
    command.env("HF_HUB_CACHE", odd).args(["resolve", REPO, "--hub-cache"]).arg(&cache);
    assert!(command.output().unwrap().status.success(), "a cache that is named counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_program_has_locked_is_told_as_such() {
    let (home, hub) = (Home::new(), Hub::start().unwrap());
    let file = publish_weights(&hub, REPO, LENGTH);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    // Where the lock lies shows when the file has come once.
    drop(load(&client, &home, "model").await.unwrap());
    let locks = home.hub_cache().join(".locks").join(folder(&home, REPO).file_name().unwrap());
    let held: Vec<_> = names(&locks).iter().map(|name| fs::File::open(locks.join(name)).unwrap()).collect();
    assert!(!held.is_empty());
    for lock in &held {
        lock.lock().unwrap();
    }
    client.evict(weightsd_client::proto::EvictRequest::default()).await.unwrap();
    fs::remove_dir_all(folder(&home, REPO)).unwrap();
    let mut command = home.command();
    command.args(["load", REPO, "model", "--layout", "source"]).env_remove("HF_HUB_OFFLINE").stdout(Stdio::null());
    let mut loading = command.spawn().unwrap();
    let status = || String::from_utf8(home.command().arg("status").output().unwrap().stdout).unwrap();
    until("the status tells of the lock", async || {
        let text = status();
        text.contains("waiting for another program's download") && text.contains("which has locked it")
    })
    .await;
    let log = home.logged("another program has the lock");
    assert!(log.contains(locks.to_str().unwrap()), "{log}");
    drop(held);
    assert!(loading.wait().unwrap().success());
    assert!(is_file(&load(&client, &home, "model").await.unwrap(), &file));
}

/// Stories that only root can set up.
#[cfg(target_os = "linux")]
mod guarded {
    use std::{
        fs::Permissions,
        os::unix::fs::{PermissionsExt as _, chown},
        process::Command,
    };

    use super::*;
    use crate::{harness::PROGRAM, not_run::not_run, small_disk::SmallDisk};

    /// Somebody else.
    const OTHER: u32 = 12_345;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cache_that_cannot_be_written_to_names_the_commit_that_is_in_it() {
        let (home, hub) = (Home::new(), Hub::start().unwrap());
        let Some(disk) = SmallDisk::mount(&home.hub_cache(), 8) else { return };
        let old = publish_weights(&hub, REPO, LENGTH);
        let daemon = home.daemon_on(&hub, &["--hub-freshness", "0s"]);
        let client = daemon.client().await;
        drop(load(&client, &home, "model").await.unwrap());
        let commit = names(&folder(&home, REPO).join("snapshots")).remove(0);
        hub.publish_bytes(
            REPO,
            "main",
            vec![("config.json", b"{}".to_vec()), (WEIGHTS, crate::hubs::weights(9, LENGTH))],
        );
        disk.freeze();
        let (error, hint) = said(load(&client, &home, "model").await);
        let here = format!("{REPO}@{commit}");
        assert!(error.contains(&format!("`{here}` is here whole")) && hint.contains(&here), "{error}; {hint}");
        assert!(hint.contains("read-only") && hint.contains("--hub-cache"), "{error}; {hint}");
        let pinned = client.load(request(&home, &here, "model"), |_| ()).await.unwrap();
        assert!(is_file(&pinned, &old));
        drop((pinned, daemon, disk));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_users_lock_is_respected_and_named_where_it_cannot_be() {
        if !rustix::process::geteuid().is_root() {
            return not_run("only root can make files of another user");
        }
        let (home, hub) = (Home::new(), Hub::start().unwrap());
        let file = publish_weights(&hub, REPO, LENGTH);
        // Root without the right to everybody's files.
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-dac_override,-dac_read_search,-fowner", PROGRAM]);
        let mut command = home.around(command);
        command.args(["serve", "--hub-stall", "5s"]).env("HF_ENDPOINT", hub.endpoint()).env_remove("HF_HUB_OFFLINE");
        let daemon = home.ready(home.start(command));
        let client = daemon.client().await;
        drop(load(&client, &home, "model").await.unwrap());
        let locks = home.hub_cache().join(".locks").join(folder(&home, REPO).file_name().unwrap());
        for (mode, is_refused) in [(0o644, false), (0o600, true)] {
            for name in names(&locks) {
                chown(locks.join(&name), Some(OTHER), Some(OTHER)).unwrap();
                fs::set_permissions(locks.join(&name), Permissions::from_mode(mode)).unwrap();
            }
            client.evict(weightsd_client::proto::EvictRequest::default()).await.unwrap();
            fs::remove_dir_all(folder(&home, REPO)).unwrap();
            let loaded = load(&client, &home, "model").await;
            if !is_refused {
                assert!(is_file(&loaded.unwrap(), &file));
                continue;
            }
            let (error, hint) = said(loaded);
            assert!(error.contains("cannot lock") && error.contains(locks.to_str().unwrap()), "{error}; {hint}");
            assert!(hint.contains(&format!("id {OTHER}")) && hint.contains("--hub-cache"), "{error}; {hint}");
        }
        let refused = crate::hubs::reason(load(&client, &home, "model").await);
        assert_eq!(refused, weightsd_client::ErrorReason::Io);
    }
}
