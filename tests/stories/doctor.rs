//! `weightsd doctor` on the real machine, with and without a daemon.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::harness::Home;

/// What the doctor says: its exit code, and its findings.
fn doctor(home: &Home, arguments: &[&str]) -> (i32, Value) {
    let output = home.command().args(["doctor", "--json"]).args(arguments).output().unwrap();
    let shown = serde_json::from_slice(&output.stdout);
    let shown = shown.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), shown)
}

/// The verdict about one thing, and what was found.
fn of(shown: &Value, check: &str) -> (String, String) {
    let all = shown["findings"].as_array().unwrap();
    let found = all.iter().find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no {check} in {shown:#}"));
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    assert_eq!(text("verdict") == "ok", text("advice").is_empty(), "{found:#}");
    (text("verdict"), text("found"))
}

fn entries(folder: PathBuf) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn without_a_daemon_it_says_what_to_do_and_leaves_nothing_behind() {
    let home = Home::new();
    fs::create_dir(home.hub_cache()).unwrap();
    let (code, shown) = doctor(&home, &[]);
    let (verdict, found) = of(&shown, "daemon");
    assert!(verdict == "warn" && found.contains("nobody serves"), "{found}");
    assert!(code != 0 && shown["worst"] != "ok", "{shown:#}");
    for (check, words) in
        [("settings", "/dev/null"), ("hub cache", "hub"), ("own cache", "made when"), ("clock", "agrees")]
    {
        let (verdict, found) = of(&shown, check);
        assert!(verdict == "ok" && found.contains(words), "{check}: {found}");
    }
    assert!(of(&shown, "mlx").1.contains("MLX"), "{shown:#}");
    assert_eq!((entries(home.hub_cache()), home.path().join(".cache").exists()), (0, false));
}

#[test]
fn a_daemon_is_named_and_a_socket_that_it_left_too() {
    let home = Home::new();
    let daemon = home.daemon();
    let (verdict, found) = of(&doctor(&home, &[]).1, "daemon");
    assert!(verdict == "ok" && found.contains(&format!("pid {}", daemon.pid())), "{found}");
    daemon.kill();
    let (verdict, found) = of(&doctor(&home, &[]).1, "daemon");
    assert!(verdict == "warn" && found.contains("left from a daemon"), "{found}");
}

#[test]
fn what_is_wrong_is_found() {
    let home = Home::new();
    let config = home.path().join("config.toml");
    let config = config.to_str().unwrap();
    fs::write(config, "keep_alve = \"1h\"\n").unwrap();
    let (code, shown) = doctor(&home, &["--config", config]);
    let (verdict, found) = of(&shown, "settings");
    assert!(code == 1 && verdict == "fail" && found.contains("keep_alve"), "{code} {found}");

    let images = home.path().join("images");
    let blobs = home.hub_cache().join("models--a--b/blobs");
    for folder in [&images, &blobs] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(config, format!("image_folder = {images:?}\n")).unwrap();
    fs::set_permissions(config, Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(&images, Permissions::from_mode(0o777)).unwrap();
    fs::write(images.join("a.partial"), "half").unwrap();
    fs::write(blobs.join("fresh.incomplete"), "half").unwrap();
    fs::write(blobs.join("old.incomplete"), "half").unwrap();
    let old = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(blobs.join("old.incomplete")).unwrap().set_modified(old).unwrap();
    let writer = File::open(images.join("a.partial")).unwrap();
    writer.lock().unwrap();
    let (code, shown) = doctor(&home, &["--config", config]);
    assert_eq!(code, 1);
    let (verdict, found) = of(&shown, "settings");
    assert!(verdict == "warn" && found.contains("others may write"), "{found}");
    let (verdict, found) = of(&shown, "images");
    assert!(verdict == "fail" && found.contains("0777"), "{found}");
    let (verdict, found) = of(&shown, "unfinished");
    assert!(verdict == "warn" && found.contains("1 downloads") && !found.contains("images"), "{found}");
    drop(writer);
    let (_, found) = of(&doctor(&home, &["--config", config]).1, "unfinished");
    assert!(found.contains("1 images that nobody writes"), "{found}");
    // The text has the same findings.
    let text = home.command().args(["doctor", "--config", config]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("fail  images") && text.contains("-> ") && text.contains(" failed, "), "{text}");
}
