//! MLX is in the process that computes and nowhere else, and what needs no computing is lent without it.

use std::{fs, path::Path};

use tonic::Code;
use weightsd_client::{Client, ClientError, ErrorReason, proto::EventKind};

use crate::harness::{Daemon, Home, PROGRAM, events};

const REPO: &str = "test/z-image";

/// A daemon that looks for MLX in `folder`.
fn daemon(home: &Home, folder: &Path) -> Daemon {
    let mut command = home.command();
    command.arg("serve").env("WEIGHTSD_MLX", folder);
    home.ready(home.start(command))
}

/// Why weights that would have to be computed are refused.
async fn refusal(client: &Client, home: &Home) -> String {
    let result = client.load(home.usual_request(REPO, "transformer"), |_| ()).await;
    let error: ClientError = result.map(|component| component.id().to_owned()).unwrap_err();
    let daemon = error.daemon().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!((daemon.reason(), daemon.code()), (Some(ErrorReason::CannotConvert), Code::FailedPrecondition));
    assert!(!error.retryable(), "{error}");
    let hint = daemon.hint().unwrap();
    assert!(
        hint.contains("cargo build") && hint.contains("WEIGHTSD_MLX") && hint.contains("--layout source"),
        "{hint}"
    );
    daemon.message().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_mlx_everything_is_lent_but_what_must_be_computed() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = daemon(&home, &home.path().join("nowhere"));
    let client = daemon.client().await;
    let message = refusal(&client, &home).await;
    assert!(message.contains("MLX is not on this machine") && message.contains("nowhere/libmlxc."), "{message}");
    // It was refused before room was made for it, and the daemon goes on.
    assert_eq!(events(&client, EventKind::Derived).await.len(), 0);
    let stored = client.load(home.request(REPO, "transformer"), |_| ()).await.unwrap();
    assert_eq!(stored.info().computed_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_computed_before_is_lent_without_mlx() {
    let home = Home::new();
    home.tiny(REPO);
    let with = home.daemon();
    let was = with.client().await.load(home.usual_request(REPO, "transformer"), |_| ()).await.unwrap();
    assert!(with.terminate().success());
    let without = daemon(&home, &home.path().join("nowhere"));
    let client = without.client().await;
    let found = client.load(home.usual_request(REPO, "transformer"), |_| ()).await.unwrap();
    assert_eq!((found.id(), &found.info().segments), (was.id(), &was.info().segments));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_is_not_this_builds_is_refused_by_its_name() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = daemon(&home, home.path());
    let client = daemon.client().await;
    let library = home.path().join(if cfg!(target_os = "macos") { "libmlxc.dylib" } else { "libmlxc.so" });
    fs::write(&library, "no library").unwrap();
    let message = refusal(&client, &home).await;
    assert!(message.contains(&*library.to_string_lossy()), "{message}");
    // This program is a library enough to be opened, and is not the one.
    fs::copy(PROGRAM, &library).unwrap();
    let message = refusal(&client, &home).await;
    assert!(message.contains(&*library.to_string_lossy()), "{message}");
    assert!(client.status().await.is_ok());
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_has_something_computed_does_not_carry_mlx() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let computed = client.load(home.usual_request(REPO, "transformer"), |_| ()).await.unwrap();
    assert!(computed.info().computed_bytes > 0);
    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
    assert!(maps.contains("weightsd") && !maps.contains("libmlx") && !maps.contains("libstdc++"), "{maps}");
}
