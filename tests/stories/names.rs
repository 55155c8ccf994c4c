//! What a spec means.

use std::fs;

use tonic::Code;
use weightsd_client::{Client, ClientError, ErrorReason, Layout, LoadRequest, proto::ModelKind};
use weightsd_fixtures::HubFixture;

use crate::{
    harness::{Home, tiny},
    raw,
};

const REPO: &str = "org/repo";

/// The model that a request finds: its kind and its path.
async fn found(client: &Client, request: LoadRequest) -> Result<(ModelKind, String), ClientError> {
    let component = client.load(request, |_| ()).await?;
    let model = component.model().unwrap();
    Ok((model.kind(), model.path.clone()))
}

async fn refused(client: &Client, request: LoadRequest) -> (ErrorReason, String) {
    let error = client.load(request, |_| ()).await.unwrap_err();
    (error.reason().unwrap(), error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_found_wherever_they_start() {
    let home = Home::new();
    let here = home.path().join("work");
    let model = here.join("model");
    let written = tiny(1).write_directory(&model).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = |spec: &str| home.request(spec, "transformer").working_directory(&here);
    let directory = model.display().to_string();
    let below = here.join("below");
    fs::create_dir(&below).unwrap();
    let table = [
        (request(&directory), directory.clone()),
        (request(&format!("file://{directory}")), directory.clone()),
        (request("./model"), format!("{}/./model", here.display())),
        (request("model/"), format!("{}/model/", here.display())),
        (request("model"), directory.clone()),
        (request("../model").working_directory(&below), format!("{}/../model", below.display())),
        (request("~/work/model"), directory.clone()),
    ];
    for (request, expected) in table {
        let spec = request.message().model.clone().unwrap().spec;
        let (kind, path) = found(&client, request).await.unwrap_or_else(|error| panic!("{spec}: {error}"));
        let same = fs::canonicalize(&path).unwrap() == fs::canonicalize(&expected).unwrap();
        assert!(kind == ModelKind::Directory && same, "{spec}: {kind:?} {path}");
    }
    let file = written.weight_files_of("vae").remove(0).display().to_string();
    assert_eq!(found(&client, home.request(&file, "model")).await.unwrap(), (ModelKind::File, file.clone()));
    // All of these were one transformer.
    assert_eq!(client.status().await.unwrap().components, 2);

    let (reason, text) = refused(&client, request("./other")).await;
    assert!(reason == ErrorReason::PathNotFound && text.contains("/work/other"), "{text}");
    assert_eq!(refused(&client, request("~root/model")).await.0, ErrorReason::InvalidSpec);
    assert_eq!(refused(&client, request(&directory).revision("main")).await.0, ErrorReason::InvalidRequest);
    let config = model.join("transformer/config.json").display().to_string();
    assert_eq!(refused(&client, request(&config)).await.0, ErrorReason::NotAModel);

    // A daemon has no directory that a relative path could start from.
    let mut service = raw::service(daemon.socket()).await;
    let mut message = request("./model").message().clone();
    message.model.as_mut().unwrap().working_directory.clear();
    let status = raw::load(&mut service, message.clone()).await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    let detail = weightsd_proto::rich_error::decode(&status).unwrap();
    assert!(detail.reason() == ErrorReason::InvalidSpec && detail.hint.contains("working_directory"), "{detail:?}");
    message.model.as_mut().unwrap().working_directory = "work".to_owned();
    let status = raw::load(&mut service, message).await.err().unwrap();
    assert_eq!(weightsd_proto::rich_error::decode(&status).unwrap().reason(), ErrorReason::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_wins_over_an_id_of_the_same_spelling() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let (here, elsewhere) = (home.path().join("here"), home.path().join("elsewhere"));
    tiny(2).write_directory(here.join(REPO)).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = |spec: &str| home.request(spec, "transformer").working_directory(&here);
    let folder = (ModelKind::Directory, here.join(REPO).display().to_string());
    let snapshot = (ModelKind::Hub, hub.snapshot_dir.display().to_string());
    assert_eq!(found(&client, request(REPO)).await.unwrap(), folder);
    assert_eq!(found(&client, request(REPO).working_directory(&elsewhere)).await.unwrap(), snapshot);
    assert_eq!(found(&client, request("org/repo:main")).await.unwrap(), snapshot);

    // `models/x` is meant as a folder by everybody who writes it, and never becomes an id.
    let (reason, text) = refused(&client, request("models/x")).await;
    assert!(reason == ErrorReason::InvalidSpec && text.contains("`models` is a common folder name"), "{text}");
    tiny(3).write_directory(here.join("models/x")).unwrap();
    let models = here.join("models/x").display().to_string();
    assert_eq!(found(&client, request("models/x")).await.unwrap(), (ModelKind::Directory, models));
    let (reason, text) = refused(&client, request("models/y")).await;
    assert!(reason == ErrorReason::InvalidSpec && text.contains("./"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_that_the_client_names_is_looked_in() {
    let home = Home::new();
    home.tiny("org/other");
    let mine = home.path().join("mine");
    let hub = tiny(1).write_hub_cache(&mine, REPO, "main").unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let snapshot = (ModelKind::Hub, hub.snapshot_dir.display().to_string());
    let request = || home.request(REPO, "transformer");
    assert_eq!(found(&client, request().hub_cache(&mine)).await.unwrap(), snapshot);
    let (reason, text) = refused(&client, request()).await;
    assert!(reason == ErrorReason::RepoNotCached && text.contains(home.hub_cache().to_str().unwrap()), "{text}");
    // The daemon's own is used when none is named.
    let mut message = home.request("org/other", "transformer").message().clone();
    message.model.as_mut().unwrap().hub_cache.clear();
    let loaded = raw::load(&mut raw::service(daemon.socket()).await, message).await.unwrap();
    assert_eq!(loaded.component.model.unwrap().hub_cache, home.hub_cache().display().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_that_revision_and_no_other() {
    let home = Home::new();
    let old = home.tiny(REPO);
    let new: HubFixture = tiny(2).write_hub_cache(home.hub_cache(), REPO, "main").unwrap();
    assert_ne!(old.commit, new.commit);
    old.add_ref("v1").unwrap();
    old.add_ref("refs/pr/7").unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = |spec: &str| home.request(spec, "vae").layout(Layout::Source);
    let mut held = Vec::new();
    let table = [
        (request("org/repo"), "main", &new),
        (request("org/repo:main"), "main", &new),
        (request("org/repo").revision(&new.commit), new.commit.as_str(), &new),
        (request("org/repo@v1"), "v1", &old),
        (request("org/repo").revision("v1"), "v1", &old),
        (request("org/repo@v1").revision("v1"), "v1", &old),
        (request("org/repo").revision("refs/pr/7"), "refs/pr/7", &old),
        (request(&format!("org/repo@{}", old.commit)), old.commit.as_str(), &old),
    ];
    for (request, revision, hub) in table {
        let component = client.load(request, |_| ()).await.unwrap();
        let model = component.model().unwrap();
        assert_eq!((model.repo.as_str(), model.revision.as_str(), &model.commit), (REPO, revision, &hub.commit));
        let tensor = component.tensors().next().unwrap();
        assert_eq!(tensor.bytes(), hub.written.read(hub.written.tensor("vae", tensor.source_name()).unwrap()).unwrap());
        held.push((hub.commit.clone(), component));
    }
    // Names of one commit are one component.
    for (commit, component) in &held {
        let first = held.iter().find(|(first, _)| first == commit).unwrap();
        assert_eq!(component.id(), first.1.id());
    }
    assert_ne!(held[0].1.id(), held[3].1.id());
    assert_eq!(client.status().await.unwrap().components, 2);

    let absent = "0123456789012345678901234567890123456789";
    for revision in ["v2", absent, "refs/pr", "refs/pr/8"] {
        let (reason, text) = refused(&client, request(REPO).revision(revision)).await;
        assert!(reason == ErrorReason::RevisionNotCached && text.contains(revision), "{text}");
    }
    assert_eq!(refused(&client, request("org/repo@v1").revision("main")).await.0, ErrorReason::InvalidRequest);
    assert_eq!(refused(&client, request("org/absent")).await.0, ErrorReason::RepoNotCached);
    // A commit that a ref names, and whose snapshot is gone.
    fs::rename(&old.snapshot_dir, home.path().join("gone")).unwrap();
    assert_eq!(refused(&client, request("org/repo@v1")).await.0, ErrorReason::RevisionNotCached);
}
