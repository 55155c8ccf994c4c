//! What stories about downloads share: hubs with something on them, and what must be true of a cache whatever a hub did.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use weightsd_client::{
    Client, ClientError, Component, ErrorReason, Layout, LoadRequest,
    proto::{ModelSelector, PullReport, PullRequest},
};
use weightsd_fixtures::{
    HubFixture,
    hub::{Hub, Side},
};

use crate::harness::{Home, tiny};

pub const REPO: &str = "org/repo";
/// The only weight file of what [`publish_weights`] publishes, whose component is called `model`.
pub const WEIGHTS: &str = "model.safetensors";

/// A hub with a tiny checkpoint, whose files lie in a cache that no daemon looks at.
pub fn tiny_hub(home: &Home) -> (Hub, HubFixture) {
    let hub = Hub::start().unwrap();
    let fixture = publish_tiny(home, &hub, 1);
    (hub, fixture)
}

/// Publishes a tiny checkpoint with contents of its own, and points `main` at it.
pub fn publish_tiny(home: &Home, hub: &Hub, seed: u64) -> HubFixture {
    let fixture = tiny(seed).write_hub_cache(home.path().join("published"), REPO, "main").unwrap();
    hub.publish(&fixture, "main");
    fixture
}

/// A safetensors file with one tensor, `t`, of `bytes` bytes, which differ by `seed`.
pub fn weights(seed: u64, bytes: usize) -> Vec<u8> {
    let mut header = format!(r#"{{"t":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let end = file.len() + bytes;
    while file.len() < end {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.extend(state.to_le_bytes());
    }
    file.truncate(end);
    file
}

/// Publishes a model of one weight file, and returns the file.
pub fn publish_weights(hub: &Hub, repo: &str, bytes: usize) -> Vec<u8> {
    let file = weights(repo.len() as u64, bytes);
    hub.publish_bytes(repo, "main", vec![("config.json", b"{}".to_vec()), (WEIGHTS, file.clone())]);
    file
}

/// A request for a component as its files have it, that may ask the hub whatever the environment says.
pub fn request(home: &Home, repo: &str, component: &str) -> LoadRequest {
    home.request(repo, component).layout(Layout::Source).offline(false)
}

pub async fn load(client: &Client, home: &Home, component: &str) -> Result<Component, ClientError> {
    client.load(request(home, REPO, component), |_| ()).await
}

pub fn selector(home: &Home, repo: &str) -> ModelSelector {
    request(home, repo, "any").message().model.clone().unwrap()
}

pub async fn pull(client: &Client, model: ModelSelector, components: &[&str]) -> Result<PullReport, ClientError> {
    let components = components.iter().map(ToString::to_string).collect();
    let request = PullRequest { model: Some(model), components, whole_repository: false };
    client.pull(request, |_| ()).await
}

/// The reason of a refusal.
#[track_caller]
pub fn reason<T>(result: Result<T, ClientError>) -> ErrorReason {
    let Err(error) = result else { panic!("it was not refused") };
    error.reason().unwrap_or_else(|| panic!("{error:?}"))
}

/// Whether a component of one tensor has the bytes of this file.
pub fn is_file(component: &Component, file: &[u8]) -> bool {
    let tensor = component.tensor("t").unwrap();
    file.ends_with(tensor.bytes()) && file.len() < tensor.bytes().len() + 200
}

/// The repository's folder in the daemon's cache.
pub fn folder(home: &Home, repo: &str) -> PathBuf {
    home.hub_cache().join(weightsd_fixtures::repo_folder(repo).unwrap())
}

/// The names of a folder's entries, sorted; none when there is no such folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// All files and links below a folder, by their paths below it, sorted.
pub fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(&name);
        match path.symlink_metadata().unwrap().is_dir() {
            true => found.extend(files_below(&path).iter().map(|below| format!("{name}/{below}"))),
            false => found.push(name),
        }
    }
    found
}

/// What is visible of a repository, over all commits.
pub fn visible(home: &Home, repo: &str) -> Vec<String> {
    let snapshots = folder(home, repo).join("snapshots");
    let below = |commit: &String| files_below(&snapshots.join(commit));
    names(&snapshots).iter().flat_map(below).collect()
}

/// The partial files of a repository.
pub fn partials(home: &Home, repo: &str) -> Vec<PathBuf> {
    let blobs = folder(home, repo).join("blobs");
    let names = names(&blobs).into_iter().filter(|name| name.ends_with(".incomplete"));
    names.map(|name| blobs.join(name)).collect()
}

/// Every blob is what its name says, and every link leads to one.
#[track_caller]
pub fn assert_sound(home: &Home, repo: &str) {
    let folder = folder(home, repo);
    for name in names(&folder.join("blobs")) {
        let bytes = || fs::read(folder.join("blobs").join(&name)).unwrap();
        let found = match name.len() {
            40 => hex::encode(
                Sha1::new().chain_update(format!("blob {}\0", bytes().len())).chain_update(bytes()).finalize(),
            ),
            64 => hex::encode(Sha256::digest(bytes())),
            _ => continue,
        };
        assert_eq!(found, name, "a blob of {repo} is not what its name says");
    }
    for commit in names(&folder.join("snapshots")) {
        let snapshot = folder.join("snapshots").join(commit);
        for file in files_below(&snapshot) {
            assert!(snapshot.join(&file).exists(), "{file} of {repo} leads to nothing");
        }
    }
}

/// How often each file was asked for on that side of the hub.
pub fn gets(hub: &Hub, side: Side) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for seen in hub.requests().into_iter().filter(|seen| seen.side == side && seen.method == "GET") {
        *counts.entry(seen.path).or_default() += 1;
    }
    counts
}

/// Bytes of all that the hub sent.
pub fn sent(hub: &Hub) -> u64 {
    [Side::Api, Side::Resolve, Side::Cdn, Side::Stranger].iter().map(|side| hub.bytes_sent(*side)).sum()
}
