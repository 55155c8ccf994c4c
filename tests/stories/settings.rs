//! Settings: where each comes from, what a wrong one is answered, and what changes while the daemon runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use rustix::process::Signal;
use serde_json::Value;
use weightsd_client::{
    Client, ClientError,
    proto::{ErrorReason, EventKind, ListComponentsRequest},
};
use weightsd_fixtures::hub::{Fault, Hub, On};

use crate::{
    harness::{Daemon, Home, events, eventually, tiny, until},
    hubs::{REPO as HUB_REPO, publish_weights, request},
};

const REPO: &str = "test/z-image";

/// Writes the configuration file of a home.
fn write(home: &Home, text: &str) -> PathBuf {
    let path = home.path().join("config.toml");
    fs::write(&path, text).unwrap();
    path
}

fn run(home: &Home, arguments: &[&str]) -> Output {
    home.command().args(arguments).env("WEIGHTSD_CONFIG", home.path().join("config.toml")).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn every_setting_is_shown_with_its_origin_and_without_a_daemon() {
    let home = Home::new();
    let file =
        write(&home, "# mine\nkeep_alive = \"1h\"\n\nallow = [\"test/*\", \"/models\"]\nimage_budget = \"20GB\"\n");
    let output = run(&home, &["config", "--image-budget", "30GB", "--json"]);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |name: &str| {
        let all = shown["settings"].as_array().unwrap();
        let found = all.iter().find(|setting| setting["name"] == name).unwrap();
        (found["value"].clone(), found["origin"].clone())
    };
    let at = |line: u64| serde_json::json!({"kind": "file", "path": file, "line": line});
    let variable = |name: &str| serde_json::json!({"kind": "environment", "variable": name});
    assert_eq!(of("keep_alive"), ("1h".into(), at(2)));
    assert_eq!(of("allow"), (serde_json::json!(["test/*", "/models"]), at(4)));
    assert_eq!(of("image_budget"), ("30GB".into(), serde_json::json!({"kind": "flag"})));
    assert_eq!(of("socket"), (home.socket().to_str().unwrap().into(), variable("WEIGHTSD_SOCKET")));
    assert_eq!(of("hub_cache"), (home.hub_cache().to_str().unwrap().into(), variable("HF_HUB_CACHE")));
    assert_eq!(of("offline"), ("true".into(), variable("HF_HUB_OFFLINE")));
    assert_eq!(of("grace"), ("5s".into(), serde_json::json!({"kind": "default"})));
    assert_eq!(of("preload"), (Value::Null, serde_json::json!({"kind": "default"})));
    assert_eq!(shown["file"], file.to_str().unwrap());

    let lines = text(run(&home, &["config"]).stdout);
    let line = |name: &str| {
        let line = lines.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("keep_alive"), ["keep_alive", "1h", &format!("{}:2", file.display())]);
    assert_eq!(line("offline"), ["offline", "true", "environment:", "HF_HUB_OFFLINE"]);
    assert_eq!(line("preload"), ["preload", "-", "default"]);
    assert!(lines.ends_with(&format!("configuration file: {}\n", file.display())), "{lines}");
}

#[test]
fn a_setting_that_there_is_not_is_refused_with_the_one_that_was_meant() {
    let home = Home::new();
    write(&home, "\nkeep-alive = \"1h\"\n");
    for command in ["serve", "config"] {
        let output = run(&home, &[command]);
        let said = text(output.stderr);
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains("line 2 of the configuration file") && said.contains("`keep-alive`"), "{said}");
        assert!(said.contains("hint: did you mean `keep_alive`?"), "{said}");
    }
}

fn refusal(error: &ClientError) -> (Option<ErrorReason>, String) {
    let daemon = error.daemon().unwrap();
    let detail = daemon.detail().unwrap();
    assert_eq!(daemon.code(), tonic::Code::PermissionDenied, "{daemon}");
    (daemon.reason(), format!("{} {} {}", daemon.message(), detail.resource, detail.hint))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_list_does_not_name_is_not_lent() {
    let home = Home::new();
    home.tiny(REPO);
    home.tiny("other/model");
    for folder in ["models/a", "elsewhere"] {
        tiny(1).write_directory(home.path().join(folder)).unwrap();
    }
    std::os::unix::fs::symlink(home.path().join("elsewhere"), home.path().join("models/link")).unwrap();
    let models = home.path().join("models");
    let daemon = home.daemon_with(&["--allow", "test/*", "--allow", models.to_str().unwrap()]);
    let client = daemon.client().await;
    // The client's own cache is the daemon's.
    drop(client.load(home.request(REPO, "vae"), |_| ()).await.unwrap());
    drop(client.load(home.request("./models/a", "vae"), |_| ()).await.unwrap());
    for spec in ["other/model", "./elsewhere", "./models/link", "./models/../elsewhere"] {
        let error = client.load(home.request(spec, "vae"), |_| ()).await.unwrap_err();
        let (reason, said) = refusal(&error);
        assert_eq!(reason, Some(ErrorReason::NotAllowed), "{spec}: {said}");
        assert!(said.contains("`allow`") && said.contains("SIGHUP"), "{spec}: {said}");
    }
    // What goes into a component counts as much as the model it is for, and so does the cache that a client names.
    let error = client.load(home.request(REPO, "vae").overlay("./elsewhere"), |_| ()).await.unwrap_err();
    assert_eq!(refusal(&error).0, Some(ErrorReason::NotAllowed));
    let stray = home.path().join("stray");
    tiny(2).write_hub_cache(&stray, REPO, "main").unwrap();
    let error = client.load(home.request(REPO, "vae").hub_cache(&stray), |_| ()).await.unwrap_err();
    assert!(refusal(&error).1.contains("stray"));
    for command in [["resolve", "other/model"], ["audit", "./elsewhere"], ["verify", "other/model"]] {
        let output = home.command().args(command).output().unwrap();
        let said = text(output.stderr);
        assert!(said.contains("`allow`") && !output.status.success(), "{command:?}: {said}");
    }
}

/// Sends SIGHUP and waits until the daemon says what it made of it.
async fn reload(daemon: &Daemon, client: &Client) -> String {
    let before = events(client, EventKind::SettingsRead).await.len();
    daemon.signal(Signal::HUP);
    let mut said = Vec::new();
    until("the daemon reads its configuration", async || {
        said = events(client, EventKind::SettingsRead).await;
        said.len() > before
    })
    .await;
    said.pop().unwrap().message
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_changes_what_can_change_and_names_what_cannot() {
    let home = Home::new();
    home.tiny(REPO);
    let file = write(&home, "keep_alive = \"1h\"\n");
    let daemon = home.daemon_with(&["--config", file.to_str().unwrap(), "--verify", "false"]);
    let client = daemon.client().await;
    let held = client.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
    let limits = async || client.status().await.unwrap().limits.unwrap();

    write(
        &home,
        "keep_alive = \"2h\"\nimage_budget = \"7GB\"\nconnections = 9\nverify = true\nallow = [\"other/*\"]\n",
    );
    let said = reload(&daemon, &client).await;
    for change in ["keep_alive=\"2h\" (was \"1h\")", "image_budget=\"7GB\" (was \"100GB\")", "allow=\"other/*\""] {
        assert!(said.contains(change), "{change}: {said}");
    }
    assert!(said.contains("after a restart: connections=\"9\" (is \"1024\")"), "{said}");
    assert!(!said.contains("verify"), "the flag stands over the file: {said}");
    let now = limits().await;
    assert_eq!(
        (now.keep_alive_default.unwrap().seconds, now.image_budget, now.connections),
        (7200, 7_000_000_000, 1024)
    );
    // Also for a request whose answer is known. Who holds something keeps it.
    let error = client.load(home.request(REPO, "vae"), |_| ()).await.unwrap_err();
    assert_eq!(refusal(&error).0, Some(ErrorReason::NotAllowed));
    assert!(held.tensors().next().is_some());
    assert_eq!(client.status().await.unwrap().leases, 1);

    write(&home, "keep_alive = \"soon\"\n");
    let said = reload(&daemon, &client).await;
    assert!(said.contains("the settings stay as they are") && said.contains("keep_alive"), "{said}");
    assert_eq!(limits().await.keep_alive_default.unwrap().seconds, 7200);
    assert!(home.log().contains("the settings stay as they are"), "{}", home.log());

    write(&home, "");
    let said = reload(&daemon, &client).await;
    assert!(said.contains("keep_alive=\"10m\" (was \"2h\")") && !said.contains("restart"), "{said}");
    drop(client.load(home.request(REPO, "vae"), |_| ()).await.unwrap());
    let said = reload(&daemon, &client).await;
    assert_eq!(said, "the configuration was read anew, and no setting changed");
}

/// The components that the daemon holds for itself.
async fn preloaded(client: &Client) -> Vec<String> {
    let list = client.list(ListComponentsRequest::default()).await.unwrap();
    let is_held = |name: &str| name == "preload";
    let held = list.components.into_iter().filter(|it| it.holders.iter().any(|holder| is_held(&holder.name)));
    held.map(|component| component.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_preloaded_is_there_before_anybody_asks_and_stays() {
    let home = Home::new();
    home.tiny(REPO);
    let model = home.path().join("model");
    tiny(2).write_directory(&model).unwrap();
    let list = format!("[\"{REPO}#vae\", \"test/absent#vae\", \"{}#text_encoder\"]", model.display());
    let file = write(&home, &format!("keep_alive = \"0s\"\npreload = {list}\n"));
    let daemon = home.daemon_with(&["--config", file.to_str().unwrap()]);
    let client = daemon.client().await;
    until("both are held", async || preloaded(&client).await == ["text_encoder", "vae"]).await;
    // As a client that says nothing special asks for it.
    assert!(client.load(home.usual_request(REPO, "vae"), |_| ()).await.unwrap().info().warm);
    let log = home.log();
    assert_eq!(log.matches("cannot preload").count(), 1, "{log}");
    assert!(log.lines().any(|line| line.contains("cannot preload") && line.contains("test/absent")), "{log}");

    // What leaves the list is let go.
    write(&home, &format!("keep_alive = \"0s\"\npreload = [\"{REPO}#vae\"]\n"));
    reload(&daemon, &client).await;
    until("one is let go", async || preloaded(&client).await == ["vae"]).await;
    // What changes is loaded anew.
    write(&home, &format!("keep_alive = \"0s\"\npreload = [\"{}#vae\"]\n", model.display()));
    reload(&daemon, &client).await;
    until("the other is held", async || preloaded(&client).await == ["vae"]).await;
    let spec = model.to_str().unwrap();
    let before = client.load(home.usual_request(spec, "vae"), |_| ()).await.unwrap().id().to_owned();
    tiny(3).write_directory(&model).unwrap();
    let after = client.load(home.usual_request(spec, "vae"), |_| ()).await.unwrap().id().to_owned();
    assert_ne!(before, after);
    reload(&daemon, &client).await;
    until("the new one is held", async || {
        let list = client.list(ListComponentsRequest::default()).await.unwrap().components;
        list.len() == 1 && list[0].id == after && list[0].holders.iter().any(|holder| holder.name == "preload")
    })
    .await;
    assert!(daemon.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_before_what_is_preloaded() {
    const LENGTH: usize = 4_000_000;
    let home = Home::new();
    home.tiny(REPO);
    let hub = Hub::start().unwrap();
    publish_weights(&hub, HUB_REPO, LENGTH);
    hub.fault(On::cdn(""), Fault::Slow { bytes_per_second: LENGTH as u64 });
    let file = write(&home, "");
    let daemon = home.daemon_on(&hub, &["--config", file.to_str().unwrap()]);
    let client = daemon.client().await;
    let asked = tokio::spawn({
        let (client, request) = (client.clone(), request(&home, HUB_REPO, "model"));
        async move { client.load(request, |_| ()).await.unwrap() }
    });
    until("the client's download runs", async || !client.status().await.unwrap().downloads.is_empty()).await;
    write(&home, &format!("preload = [\"{REPO}#vae\"]\n"));
    reload(&daemon, &client).await;
    drop(asked.await.unwrap());
    until("it is held", async || preloaded(&client).await == ["vae"]).await;
    let loaded = events(&client, EventKind::Loaded).await;
    let messages: Vec<&str> = loaded.iter().map(|event| event.message.as_str()).collect();
    assert!(messages.len() == 2 && messages[0].contains(HUB_REPO) && messages[1].contains(REPO), "{messages:?}");
}

#[test]
fn a_daemon_whose_preload_fails_serves_all_the_same() {
    let home = Home::new();
    let daemon = home.daemon_with(&["--preload", "test/absent#vae", "--preload", "/nowhere#vae"]);
    eventually("both failures are told", || home.log().matches("cannot preload").count() == 2);
    assert!(home.log().contains("/nowhere"), "{}", home.log());
    assert!(Path::new(daemon.socket()).exists());
    assert!(daemon.terminate().success());
}
