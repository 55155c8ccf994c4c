//! File systems that clone: what is lent is a clone, and whatever happens to the file, its holders read what they were lent.
//! Only root can mount them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use weightsd_client::{Client, Component, Handoff, Layout, proto::NoticeKind};
use weightsd_fixtures::damage;

use crate::{
    changes::is,
    client_process::{ClientProcess, Job},
    harness::{Home, tiny},
    not_run::not_run,
    volumes::loop_devices,
};

const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
/// How soon holders are told.
const SOON: Duration = Duration::from_secs(2);
/// Smaller images are refused by `mkfs.xfs`.
const IMAGE_BYTES: u64 = 512 << 20;

/// A file with a file system in it, mounted. Gone when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(home: &Home, kind: &str) -> Option<Self> {
        let (image, at) = (home.path().join(format!("{kind}.img")), home.path().join(kind));
        fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        fs::create_dir_all(&at).unwrap();
        let does = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made = does(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        (made && does(Command::new("mount").args(["-o", "loop"]).args([&image, &at]))).then_some(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn load(client: &Client, home: &Home, model: &Path, handoff: Handoff) -> Component {
    let request = home.request(model.to_str().unwrap(), "vae").layout(Layout::Source).handoff(handoff);
    client.load(request, |_| ()).await.unwrap()
}

async fn told(held: &mut Component) -> NoticeKind {
    tokio::time::timeout(SOON, held.next_notice()).await.expect("it is told").unwrap().kind()
}

async fn a_file_that_is_cut_is_whole_for_its_holders(kind: &str) {
    let home = Home::new();
    let _alone = loop_devices();
    let Some(mounted) = Mounted::new(&home, kind) else {
        return not_run(&format!("only root can mount {kind}, and only with mkfs.{kind}"));
    };
    let model = mounted.0.join("model");
    let written = tiny(1).write_directory(&model).unwrap();
    let copy = tiny(1).write_directory(home.path().join("copy")).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let mut held = load(&client, &home, &model, Handoff::Descriptors).await;
    let same = load(&client, &home, &model, Handoff::Descriptors).await;
    assert_eq!(held.info().segments, same.info().segments, "one clone for all");
    let mut by_path = load(&client, &home, &model, Handoff::Path).await;
    assert!(by_path.info().warm && by_path.info().segments[0].identity != held.info().segments[0].identity);
    let job = Job { model: model.to_str().unwrap().into(), component: "vae".into(), source_layout: true };
    let mut other = ClientProcess::start(&home, &job);
    let before = other.held();
    assert_eq!(before.error, None);

    // A process that reads the original through a mapping would be ended by SIGBUS.
    damage::set_length(&model.join(VAE), 4096).unwrap();
    assert_eq!(told(&mut held).await, NoticeKind::FileGone);
    assert_eq!(told(&mut by_path).await, NoticeKind::FileChanged);
    assert!(is(&held, &copy) && is(&same, &copy));
    assert_eq!(other.read_again().checksum, before.checksum);
    // Nobody can open it to write to it, but for root, who can do everything.
    let names: Vec<_> = fs::read_dir(model.join("vae")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_str().unwrap().starts_with('.')), "{names:?}");
    let refused = client.load(home.request(model.to_str().unwrap(), "vae"), |_| ()).await.unwrap_err();
    assert!(refused.to_string().contains(VAE), "{refused}");
    drop(written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_on_btrfs_that_is_cut_is_whole_for_its_holders() {
    a_file_that_is_cut_is_whole_for_its_holders("btrfs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_on_xfs_that_is_cut_is_whole_for_its_holders() {
    a_file_that_is_cut_is_whole_for_its_holders("xfs").await;
}
