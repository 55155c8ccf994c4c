//! Files and names change under the daemon, and one content goes by several names.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use weightsd_client::{
    Component, Layout,
    proto::{EventKind, NoticeKind},
};
use weightsd_fixtures::{CacheForm, Written, damage};

use crate::harness::{Home, PATIENCE, WITHOUT_VERIFYING, events, eventually, tiny};

const REPO: &str = "org/repo";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const TENSOR: &str = "decoder.conv_in.weight";

/// Whether the component has the bytes that were written.
pub fn is(component: &Component, written: &Written) -> bool {
    component.tensors().all(|tensor| {
        let placed = written.tensor(component.name(), tensor.source_name()).unwrap();
        tensor.bytes() == written.read(placed).unwrap()
    })
}

/// Waits until the file is so old that the daemon remembers what it says; see `cache::recall`.
pub fn settle(path: &Path) {
    eventually("the file is old", || {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        SystemTime::now().duration_since(modified).is_ok_and(|age| age > Duration::from_millis(300))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_moved_is_followed() {
    let home = Home::new();
    let old = home.tiny(REPO);
    let reference = old.repo_dir.join("refs/main");
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = || home.request(REPO, "vae").layout(Layout::Source);
    settle(&reference);
    let mut held = Vec::new();
    for warm in [false, true, true] {
        let component = client.load(request(), |_| ()).await.unwrap();
        assert_eq!((component.info().warm, &component.model().unwrap().commit), (warm, &old.commit));
        held.push(component);
    }
    let new = tiny(2).write_hub_cache(home.hub_cache(), REPO, "main").unwrap();
    let moved = client.load(request(), |_| ()).await.unwrap();
    assert_eq!(moved.model().unwrap().commit, new.commit);
    assert_ne!(moved.id(), held[0].id());
    assert!(is(&moved, &new.written) && is(&held[0], &old.written));
    // And back again, to what is still loaded.
    old.add_ref("main").unwrap();
    let back = client.load(request(), |_| ()).await.unwrap();
    assert_eq!((back.id(), back.info().warm), (held[0].id(), true));
    assert!(events(&client, EventKind::FileChanged).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_by_rename_is_another_component() {
    let home = Home::new();
    let model = home.path().join("model");
    tiny(1).write_directory(&model).unwrap();
    let copy = tiny(1).write_directory(home.path().join("copy")).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = || home.request(model.to_str().unwrap(), "vae").layout(Layout::Source);
    settle(&model.join(VAE));
    let old = client.load(request(), |_| ()).await.unwrap();
    assert!(client.load(request(), |_| ()).await.unwrap().info().warm);
    // As every careful program does: written beside, and moved into place.
    let written = tiny(2).write_directory(&model).unwrap();
    let new = client.load(request(), |_| ()).await.unwrap();
    assert_ne!(new.id(), old.id());
    assert!(is(&new, &written) && is(&old, &copy) && !is(&old, &written));
    // The old one has lost its name, and none of its bytes: there is nothing to tell its holder.
    assert!(events(&client, EventKind::FileChanged).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_deleted_and_fetched_again_is_lent_anew() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = || home.request(REPO, "vae").layout(Layout::Source);
    let old = client.load(request(), |_| ()).await.unwrap();
    fs::remove_dir_all(&hub.repo_dir).unwrap();
    let hub = home.tiny(REPO);
    let new = client.load(request(), |_| ()).await.unwrap();
    // The same content by the same name, in another file.
    assert_eq!((new.id(), new.info().warm), (old.id(), false));
    assert_ne!(new.info().segments[0].identity, old.info().segments[0].identity);
    assert!(is(&new, &hub.written) && is(&old, &hub.written));
    assert!(events(&client, EventKind::FileChanged).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_changed_in_place_is_told_to_its_holder() {
    let home = Home::new();
    let model = home.path().join("model");
    let written = tiny(1).write_directory(&model).unwrap();
    let hub = home.tiny(REPO);
    // A daemon that verifies would find the damaged blob after a while, too, and move it.
    let daemon = home.daemon_with(&WITHOUT_VERIFYING);
    let client = daemon.client().await;
    for (spec, path) in [(model.to_str().unwrap(), model.join(VAE)), (REPO, hub.snapshot_dir.join(VAE))] {
        let told_before = events(&client, EventKind::FileChanged).await.len();
        let request = || home.request(spec, "vae").layout(Layout::Source);
        settle(&path);
        let mut old = client.load(request(), |_| ()).await.unwrap();
        let mut also = client.load(request(), |_| ()).await.unwrap();
        assert!(also.info().warm && also.id() == old.id());
        let placed = written.tensor("vae", TENSOR).unwrap();
        let before = old.tensor(TENSOR).unwrap().bytes()[0];
        damage::flip_byte(&path, placed.range.start).unwrap();

        let fresh = client.load(request(), |_| ()).await.unwrap();
        assert!(!fresh.info().warm, "{spec}");
        assert_eq!(fresh.tensor(TENSOR).unwrap().bytes()[0], !before);
        for holder in [&mut old, &mut also] {
            let notice = tokio::time::timeout(PATIENCE, holder.next_notice()).await;
            let notice = notice.unwrap_or_else(|_| panic!("{spec}: no notice")).unwrap();
            assert_eq!(notice.kind(), NoticeKind::FileChanged);
            assert!(notice.message.contains("vae"), "{notice:?}");
        }
        let told = events(&client, EventKind::FileChanged).await;
        assert_eq!(told.len(), told_before + 1, "{told:?}");
        assert_eq!(told[told_before].component_id, old.id());
        // The new state is as good as any other.
        assert!(client.load(request(), |_| ()).await.unwrap().info().warm);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_is_refused_and_the_daemon_lives() {
    let home = Home::new();
    let model = home.path().join("model");
    tiny(1).write_directory(&model).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = || home.request(model.to_str().unwrap(), "vae").layout(Layout::Source);
    let mut old = client.load(request(), |_| ()).await.unwrap();
    damage::set_length(&model.join(VAE), 4096).unwrap();
    let error = client.load(request(), |_| ()).await.unwrap_err();
    assert_eq!(error.reason(), Some(weightsd_client::ErrorReason::InvalidCheckpoint), "{error}");
    assert!(error.to_string().contains(VAE), "{error}");
    let notice = tokio::time::timeout(PATIENCE, old.next_notice()).await.unwrap();
    assert_eq!(notice.unwrap().kind(), NoticeKind::FileChanged);
    assert_eq!(client.status().await.unwrap().pid, daemon.pid());
    let _other = client.load(home.request(model.to_str().unwrap(), "transformer"), |_| ()).await.unwrap();
}

/// How soon holders are told of what happens to their files.
const SOON: Duration = Duration::from_secs(2);

/// What is done to a file, and what its holders are told.
type Deed = (&'static str, fn(&Path), NoticeKind);

const DEEDS: [Deed; 5] = [
    ("cut", |path| damage::set_length(path, 4096).unwrap(), NoticeKind::FileChanged),
    (
        "written",
        |path| damage::flip_byte(path, fs::metadata(path).unwrap().len() - 1).unwrap(),
        NoticeKind::FileChanged,
    ),
    ("replaced", |path| fs::rename(beside(path, "new"), path).unwrap(), NoticeKind::FileGone),
    ("deleted", |path| fs::remove_file(path).unwrap(), NoticeKind::FileGone),
    ("moved", |path| fs::rename(path, beside(path, "elsewhere")).unwrap(), NoticeKind::FileGone),
];

/// A file beside `path`; the one called `new` is a copy of it.
fn beside(path: &Path, name: &str) -> PathBuf {
    let beside = path.with_file_name(name);
    if name == "new" {
        fs::copy(path, &beside).unwrap();
    }
    beside
}

/// The file that holds the autoencoder of a model of each kind, what it is asked for by, and the name of the component.
fn models(home: &Home, number: usize) -> Vec<(PathBuf, String, &'static str)> {
    let path = |name: &str| home.path().join(format!("{name}{number}"));
    tiny(1).write_directory(path("folder")).unwrap();
    let single = path("single").with_extension("safetensors");
    tiny(2).write_directory(path("other")).unwrap();
    fs::rename(path("other").join(VAE), &single).unwrap();
    let hub = tiny(3).write_hub_cache(home.hub_cache(), &format!("org/repo{number}"), "main").unwrap();
    let blob = fs::canonicalize(hub.snapshot_dir.join(VAE)).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    vec![
        (path("folder").join(VAE), text(&path("folder")), "vae"),
        (single.clone(), text(&single), "model"),
        (blob, hub.repo, "vae"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_are_told_what_becomes_of_their_files_without_anybody_asking() {
    let home = Home::new();
    let daemon = home.daemon();
    let client = daemon.client().await;
    for (number, (what, act, kind)) in DEEDS.into_iter().enumerate() {
        for (path, spec, name) in models(&home, number) {
            let mut held = client.load(home.request(&spec, name).layout(Layout::Source), |_| ()).await.unwrap();
            act(&path);
            let told = tokio::time::timeout(SOON, held.next_notice()).await;
            let told = told.unwrap_or_else(|_| panic!("{spec} was {what}, and nobody is told")).unwrap();
            assert_eq!(told.kind(), kind, "{spec} was {what}: {told:?}");
            if kind == NoticeKind::FileGone {
                // What it holds is whole.
                assert!(held.tensors().all(|tensor| !tensor.bytes().is_empty()));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_times_and_more_names_are_no_change() {
    let home = Home::new();
    let daemon = home.daemon();
    let client = daemon.client().await;
    for (path, spec, name) in models(&home, 0) {
        let request = || home.request(&spec, name).layout(Layout::Source);
        let mut held = client.load(request(), |_| ()).await.unwrap();
        let deeds: [&dyn Fn(); 4] = [
            &|| fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap(),
            &|| {
                let now = SystemTime::now();
                let times = fs::FileTimes::new().set_accessed(now).set_modified(now);
                fs::File::open(&path).unwrap().set_times(times).unwrap();
            },
            &|| fs::hard_link(&path, path.with_extension("link")).unwrap(),
            &|| fs::remove_file(path.with_extension("link")).unwrap(),
        ];
        for deed in deeds {
            deed();
            // A request for it has it looked at.
            let _ = client.load(request(), |_| ()).await.unwrap();
        }
        assert!(events(&client, EventKind::FileChanged).await.is_empty(), "{spec}");
        // The first that its holder hears of is the one that happened to its content.
        fs::remove_file(&path).unwrap();
        let told = tokio::time::timeout(SOON, held.next_notice()).await.unwrap().unwrap();
        assert_eq!(told.kind(), NoticeKind::FileGone, "{spec}: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_and_then_written_to_is_told_twice() {
    let home = Home::new();
    let model = home.path().join("model");
    tiny(1).write_directory(&model).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = home.request(model.to_str().unwrap(), "vae").layout(Layout::Source);
    let mut held = client.load(request, |_| ()).await.unwrap();
    let other = model.join("other");
    fs::hard_link(model.join(VAE), &other).unwrap();
    fs::remove_file(model.join(VAE)).unwrap();
    for (act, kind) in [(None, NoticeKind::FileGone), (Some(4096), NoticeKind::FileChanged)] {
        if let Some(length) = act {
            damage::set_length(&other, length).unwrap();
        }
        let told = tokio::time::timeout(SOON, held.next_notice()).await.unwrap().unwrap();
        assert_eq!(told.kind(), kind, "{told:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_tells_of_nothing_is_asked() {
    use crate::fuse_disk::{Close, FuseDisk};

    let home = Home::new();
    let (origin, shown) = (home.path().join("origin"), home.path().join("disk"));
    for name in ["cut", "deleted", "quiet"] {
        tiny(1).write_directory(origin.join(name)).unwrap();
    }
    let Some(_disk) = FuseDisk::mount(&origin, &shown, Close::IsSilent) else { return };
    let daemon = home.daemon();
    let mut service = crate::raw::service(daemon.socket()).await;
    let mut held = Vec::new();
    for name in ["cut", "deleted", "quiet"] {
        let request = home.request(shown.join(name).to_str().unwrap(), "vae").layout(Layout::Source);
        // Reading ahead would tell how far it is.
        let residency = weightsd_client::proto::Residency::Lazy.into();
        let message = weightsd_client::proto::LoadComponentRequest { residency, ..request.message().clone() };
        held.push(crate::raw::load(&mut service, message).await.unwrap());
    }
    damage::set_length(&origin.join("cut").join(VAE), 4096).unwrap();
    fs::remove_file(origin.join("deleted").join(VAE)).unwrap();
    // A server that has deleted a file may have no bytes for its holders, either.
    for held in &mut held[..2] {
        let told = tokio::time::timeout(SOON, held.stream.message()).await.unwrap().unwrap().unwrap();
        let Some(weightsd_client::proto::load_component_response::Event::Notice(notice)) = told.event else {
            panic!("{told:?}")
        };
        assert_eq!(notice.kind(), NoticeKind::FileChanged, "{notice:?}");
    }
    let quiet = tokio::time::timeout(SOON, held[2].stream.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_content_under_two_repositories_is_one_component() {
    for form in [CacheForm::Links, CacheForm::SharedStore] {
        let home = Home::new();
        let [one, two] = ["org/one", "org/two"]
            .map(|repo| tiny(1).write_hub_cache_as(form, home.hub_cache(), repo, "main").unwrap());
        assert_ne!(one.commit, two.commit);
        let other = tiny(1).write_hub_cache_as(form, home.path().join("other"), "org/three", "main").unwrap();
        let daemon = home.daemon_with(&WITHOUT_VERIFYING);
        let client = daemon.client().await;
        let load = async |hub: &weightsd_fixtures::HubFixture, layout| {
            let request = home.request(&hub.repo, "transformer").hub_cache(&hub.cache_root).layout(layout);
            client.load(request, |_| ()).await.unwrap()
        };
        let first = load(&one, Layout::Mlx).await;
        for hub in [&two, &other] {
            let same = load(hub, Layout::Mlx).await;
            assert_eq!((same.id(), same.info().warm), (first.id(), true), "{form:?}");
            assert_eq!(same.info().segments, first.info().segments, "{form:?}");
        }
        // Another layout is another component over the same files.
        let source = load(&two, Layout::Source).await;
        assert_ne!(source.id(), first.id());
        assert_eq!(source.info().segments, first.info().segments);
        #[cfg(target_os = "linux")]
        assert_eq!(shards_open(daemon.pid()), sorted(one.written.weight_files_of("transformer")), "{form:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_two_components_share_is_opened_once() {
    for form in [CacheForm::Links, CacheForm::SharedStore] {
        let home = Home::new();
        let one = tiny(1).write_hub_cache_as(form, home.hub_cache(), "org/one", "main").unwrap();
        let mut changed = tiny(1);
        let last = changed.component("transformer").tensors().last().unwrap().clone();
        changed.component_mut("transformer").retype(&last.name, weightsd_fixtures::Dtype::BF16);
        let two = changed.write_hub_cache_as(form, home.hub_cache(), "org/two", "main").unwrap();
        let daemon = home.daemon_with(&WITHOUT_VERIFYING);
        let client = daemon.client().await;
        let first = client.load(home.request("org/one", "transformer"), |_| ()).await.unwrap();
        let second = client.load(home.request("org/two", "transformer"), |_| ()).await.unwrap();
        assert_ne!(first.id(), second.id());
        assert!(is(&first, &one.written) && is(&second, &two.written));
        let (first, second) = (&first.info().segments, &second.info().segments);
        let shared = first.iter().filter(|segment| second.contains(segment)).count();
        assert_eq!((first.len(), second.len(), shared), (first.len(), first.len(), first.len() - 1), "{form:?}");
        #[cfg(target_os = "linux")]
        assert_eq!(shards_open(daemon.pid()).len(), first.len() + 1, "{form:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn files_are_closed_when_the_last_component_over_them_is_gone() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon_with(&WITHOUT_VERIFYING);
    let client = daemon.client().await;
    let request = |layout| home.request(REPO, "transformer").layout(layout).keep_alive(Duration::ZERO);
    let mlx = client.load(request(Layout::Mlx), |_| ()).await.unwrap();
    let source = client.load(request(Layout::Source), |_| ()).await.unwrap();
    let count = mlx.info().segments.len();
    drop(mlx);
    crate::harness::until("one is dropped", async || client.status().await.unwrap().components == 1).await;
    assert_eq!(shards_open(daemon.pid()).len(), count);
    drop(source);
    crate::harness::until("both are dropped", async || client.status().await.unwrap().components == 0).await;
    crate::harness::until("the files are closed", async || shards_open(daemon.pid()).is_empty()).await;
}

/// The weight files that the process has open, one path a descriptor. Blobs of weights have names of 64 digits.
#[cfg(target_os = "linux")]
fn shards_open(pid: u32) -> Vec<PathBuf> {
    let is_blob = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 64);
    sorted(crate::processes::descriptors_of(pid).into_iter().filter(is_blob).collect())
}

/// The files that the paths lead to.
#[cfg(target_os = "linux")]
fn sorted(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut paths: Vec<_> = paths.into_iter().map(|path| fs::canonicalize(path).unwrap()).collect();
    paths.sort();
    paths
}
