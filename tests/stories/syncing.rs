//! File systems that cannot promise that a disk has emptied its own cache, as exFAT and SMB volumes on macOS.

use std::{fs, path::PathBuf, process::Command};

use weightsd_client::proto::EventKind;

use crate::{
    harness::{Home, events},
    hubs::{REPO, assert_sound, tiny_hub},
};

/// A library that stands before the system's and refuses the standard library's way to sync, in the words of such a
/// volume. The plain way does not go through it.
fn refusing(home: &Home) -> PathBuf {
    let (source, library) = (home.path().join("refusing.c"), home.path().join("refusing.so"));
    let program = "#include <errno.h>\n\
        int fsync(int file) { errno = ENOTTY; return -1; }\n\
        int fdatasync(int file) { errno = ENOTTY; return -1; }\n";
    fs::write(&source, program).unwrap();
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(made.success());
    library
}

#[tokio::test(flavor = "multi_thread")]
async fn where_files_are_synced_plainly_downloads_and_images_are_kept() {
    let home = Home::new();
    let (hub, published) = tiny_hub(&home);
    let library = refusing(&home);
    let daemon = home.daemon_so(&hub, &[], &[("LD_PRELOAD", library.to_str().unwrap())]);
    let client = daemon.client().await;
    let component = client.load(home.usual_request(REPO, "vae"), |_| ()).await.unwrap();
    assert!(component.info().computed_bytes > 0);
    assert_eq!(events(&client, EventKind::Derived).await.len(), 1);
    assert_sound(&home, REPO);
    let folder = home.hub_cache().join(format!("models--{}", REPO.replace('/', "--")));
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), published.commit);
    assert!(!home.log().contains("is not safely on the disk"), "{}", home.log());
}
