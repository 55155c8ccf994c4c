//! The MLX that computes is a part of what a component is: another package of it computes other bits.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use weightsd_client::{Layout, proto::EventKind};

use crate::harness::{Daemon, Home, events};

const REPO: &str = "test/z-image";

/// A copy of the package of MLX that this build uses.
fn package(home: &Home, name: &str) -> PathBuf {
    let library = weightsd_arrays::find().unwrap();
    let copy = home.path().join(name);
    let copied = Command::new("cp").arg("-RL").arg(library.parent().unwrap()).arg(&copy).status().unwrap();
    assert!(copied.success());
    copy
}

/// Makes MLX in a package another build, which computes the same all the same.
fn rebuild(package: &Path) {
    if cfg!(target_os = "macos") {
        // A byte more would spoil the signature without which the system loads no library.
        let library = package.join("mlx/lib/libmlx.dylib");
        let signing = ["--force", "--sign", "-", "--identifier", "another-build"];
        assert!(Command::new("codesign").args(signing).arg(library).status().unwrap().success());
    } else {
        let library = package.join("mlx/lib/libmlx.so");
        fs::OpenOptions::new().append(true).open(library).unwrap().write_all(b"another build").unwrap();
    }
}

fn daemon(home: &Home, package: &Path) -> Daemon {
    let mut command = home.command();
    command.arg("serve").env("WEIGHTSD_MLX", package);
    home.ready(home.start(command))
}

/// The ids of the autoencoder as it is computed and as it is stored, and how many images had to be computed for that.
async fn loaded(daemon: Daemon, home: &Home) -> (String, String, usize) {
    let client = daemon.client().await;
    let computed = client.load(home.usual_request(REPO, "vae"), |_| ()).await.unwrap();
    let stored = client.load(home.request(REPO, "vae").layout(Layout::Source), |_| ()).await.unwrap();
    assert!(computed.info().computed_bytes > 0 && stored.info().computed_bytes == 0);
    let derived = events(&client, EventKind::Derived).await.len();
    let ids = (computed.id().to_owned(), stored.id().to_owned());
    drop((computed, stored));
    assert!(daemon.terminate().success());
    (ids.0, ids.1, derived)
}

fn images(home: &Home) -> usize {
    let entries = fs::read_dir(home.path().join(if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" }));
    let folder = entries.unwrap().next().unwrap().unwrap().path().join("images");
    let is_image = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "safetensors");
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(is_image).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_build_of_mlx_has_ids_and_images_of_its_own_and_a_copy_has_not() {
    let home = Home::new();
    home.tiny(REPO);
    let (copy, other) = (package(&home, "copy"), package(&home, "other"));
    rebuild(&other);
    let (id, stored, computed) = loaded(home.daemon(), &home).await;
    assert_eq!((computed, images(&home)), (1, 1));
    assert_eq!(loaded(home.daemon(), &home).await, (id.clone(), stored.clone(), 0), "the same after a restart");
    assert_eq!(loaded(daemon(&home, &copy), &home).await, (id.clone(), stored.clone(), 0), "it was only moved");
    let (elsewhere, still, computed) = loaded(daemon(&home, &other), &home).await;
    assert_eq!((computed, images(&home)), (1, 2), "what the first one computed is not lent as this one's");
    assert!(elsewhere != id && still == stored, "what is lent as it is stored does not depend on it");
    assert_eq!(loaded(home.daemon(), &home).await, (id, stored, 0));
}

/// On some of Apple's processors MLX multiplies F32 with 11 bits of precision, unless it is told otherwise.
#[cfg(target_os = "linux")] // macOS hides the environment of other processes.
#[tokio::test(flavor = "multi_thread")]
async fn the_worker_multiplies_in_full_precision_whatever_the_daemon_was_told() {
    use crate::derivations::{Running, Worker, large, written};

    let home = Home::new();
    let model = written(&home, &large(1));
    let mut command = home.command();
    command.arg("serve").env("MLX_ENABLE_TF32", "1");
    let daemon = home.ready(home.start(command));
    let running = Running::start(&daemon.client().await, home.usual_request(&model, "transformer"));
    let worker = Worker::stopped_at_once(&daemon).await;
    let environment = fs::read(format!("/proc/{}/environ", worker.0)).unwrap();
    worker.signal(rustix::process::Signal::CONT);
    let named: Vec<_> = environment.split(|byte| *byte == 0).filter(|it| it.starts_with(b"MLX_ENABLE_TF32=")).collect();
    assert_eq!(named, [b"MLX_ENABLE_TF32=0"]);
    drop(running.ended().await.unwrap());
}

/// What the worker answers to one line.
fn worker(home: &Home, task: &Value) -> Value {
    let mut command = home.command();
    command.arg("derive-worker").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", json!({"version": env!("CARGO_PKG_VERSION"), "task": task})).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(input);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_worker_whose_mlx_is_not_the_ordered_one_computes_nothing() {
    let home = Home::new();
    let image = home.path().join("image");
    fs::write(&image, "").unwrap();
    let mut engine = worker(&home, &json!("Describe"))["Engine"].take();
    let order =
        |engine: &Value| json!({"Compute": {"engine": engine, "files": [], "image": image, "head": [], "jobs": []}});
    assert_eq!(worker(&home, &order(&engine)), json!("Finished"));
    engine["engine"]["architecture"] = json!("another");
    let refused = worker(&home, &order(&engine));
    assert_eq!(refused["Failed"]["kind"], "Engine", "{refused}");
    assert!(refused["Failed"]["message"].as_str().unwrap().contains("another"), "{refused}");
}
