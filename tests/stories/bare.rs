//! Weights without configs in folders: the models that mflux saves, and shards that somebody copied. Their tensors tell
//! what they are, as those of a single file do; a base gives the kind of those that tell nothing.

use std::{fs, path::Path};

use weightsd_client::{Client, ClientError, Component, ErrorReason, Layout, proto::ResolveResponse, selector};
use weightsd_fixtures::{Checkpoint, Contents, Dims, hub::Hub};

use crate::{
    changes::settle,
    harness::{Daemon, Home, PATIENCE, tiny},
    hubs,
};

/// Component, tensors: the published figures.
const COMPONENTS: [(&str, usize); 3] = [("transformer", 521), ("text_encoder", 398), ("vae", 244)];

struct Scene {
    home: Home,
    _daemon: Daemon,
    client: Client,
}

impl Scene {
    async fn of(checkpoint: &Checkpoint) -> Self {
        let home = Home::new();
        checkpoint.write_directory(home.path().join("model")).unwrap();
        let daemon = home.daemon();
        let client = daemon.client().await.with_deadline(PATIENCE);
        Self { home, _daemon: daemon, client }
    }

    fn spec(&self, below: &str) -> String {
        self.home.path().join("model").join(below).display().to_string()
    }

    fn folder(&self, below: &str) -> std::path::PathBuf {
        self.home.path().join("model").join(below)
    }

    async fn resolve(&self, below: &str) -> ResolveResponse {
        self.client.resolve(selector(self.spec(below))).await.unwrap()
    }

    async fn load(&self, below: &str, component: &str) -> Result<Component, ClientError> {
        self.client.load(self.home.usual_request(&self.spec(below), component), |_| ()).await
    }

    async fn refusal(&self, below: &str, component: &str) -> ClientError {
        self.load(below, component).await.map(|component| component.id().to_owned()).unwrap_err()
    }
}

fn true_size() -> Checkpoint {
    Checkpoint::new(&Dims::true_size(), Contents::Sparse).unwrap().as_mflux(2 << 30)
}

fn names(resolved: &ResolveResponse) -> Vec<&str> {
    resolved.components.iter().map(|component| component.name.as_str()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::write(to, fs::read(from).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_mflux_saved_is_told_by_its_tensors() {
    let scene = Scene::of(&true_size()).await;
    let resolved = scene.resolve("").await;
    assert_eq!((resolved.family.as_str(), names(&resolved)), ("z-image", vec!["text_encoder", "transformer", "vae"]));
    assert!(resolved.components.iter().all(|component| component.problem.is_empty()), "{resolved:?}");
    for (name, tensors) in COMPONENTS {
        let lent = scene.load("", name).await.unwrap();
        let audit = lent.audit().unwrap();
        assert!(audit.clean, "{audit:?}");
        assert_eq!((audit.expected as usize, audit.matched as usize, audit.extra), (tensors, tensors, 0), "{name}");
        // The modules' own form is what mflux saves, so nothing is computed.
        assert_eq!((lent.info().computed_bytes, lent.tensors().count()), (0, tensors), "{name}");
    }
    let vae = scene.load("", "vae").await.unwrap();
    assert_eq!(vae.tensor("decoder.conv_in.weight").unwrap().shape(), [512, 3, 3, 16]);
    // One folder of it is a model of one component.
    let resolved = scene.resolve("text_encoder").await;
    assert_eq!((resolved.family.as_str(), names(&resolved)), ("z-image", vec!["text_encoder"]));
    assert!(scene.load("text_encoder", "text_encoder").await.unwrap().audit().unwrap().clean);
}

#[cfg(target_os = "linux")] // Which alone tells what a process has read.
#[tokio::test(flavor = "multi_thread")]
async fn what_its_headers_tell_is_read_once() {
    use crate::{keeping::heavy, verifying::read_bytes};

    let home = Home::new();
    let daemon = home.daemon();
    let client = daemon.client().await.with_deadline(PATIENCE);
    for count in [1, 2] {
        let model = home.path().join(format!("model-{count}"));
        fs::create_dir(&model).unwrap();
        let mut bytes = 0;
        for number in 1..=count {
            // Other names in each file, of the same length.
            let mut file = heavy(50_000);
            let header = String::from_utf8(file.split_off(8)).unwrap();
            file.extend(header.replace("\"tensor.", &format!("\"tenso{number}.")).into_bytes());
            bytes += file.len() as u64;
            fs::write(model.join(format!("model-{number:05}-of-{count:05}.safetensors")), file).unwrap();
        }
        let before = read_bytes(daemon.pid());
        let request = weightsd_client::LoadRequest::new(model.display().to_string(), "model").layout(Layout::Source);
        drop(client.load(request, |_| ()).await.unwrap());
        let read = read_bytes(daemon.pid()) - before;
        assert!(read >= bytes && read < bytes * 3 / 2, "{read} bytes were read of {bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_of_a_text_encoder_without_a_config_are_told_too() {
    let mut checkpoint = Checkpoint::new(&Dims::true_size(), Contents::Sparse).unwrap();
    checkpoint.remove_file("text_encoder/config.json");
    let scene = Scene::of(&checkpoint).await;
    // Under the names of transformers, and beside nothing else.
    let resolved = scene.resolve("text_encoder").await;
    assert_eq!((resolved.family.as_str(), names(&resolved)), ("z-image", vec!["text_encoder"]));
    let lent = scene.load("text_encoder", "text_encoder").await.unwrap();
    let audit = lent.audit().unwrap();
    assert!(audit.clean && audit.expected == 398, "{audit:?}");
    assert!(scene.load("text_encoder", "transformer").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_gives_the_kind_of_folders_that_tell_nothing() {
    let checkpoint = tiny(3).as_mflux(100_000);
    let scene = Scene::of(&checkpoint).await;
    let base = scene.home.path().join("base");
    tiny(3).write_directory(&base).unwrap();
    // No published model has these widths.
    assert_eq!(scene.resolve("").await.family, "generic");
    for (name, _) in COMPONENTS {
        let request = scene.home.usual_request(&scene.spec(""), name).base(base.display().to_string());
        let lent = scene.client.load(request, |_| ()).await.unwrap();
        assert!(lent.audit().unwrap().clean, "{:?}", lent.audit());
        let stored = checkpoint.component(name).tensors();
        assert_eq!((lent.info().family.as_str(), lent.tensors().count()), ("z-image", stored.len()));
        for tensor in stored {
            let bytes = checkpoint.expected_bytes(name, &tensor.name);
            let same = |lent: &weightsd_client::Tensor| lent.shape() == tensor.shape && lent.bytes() == bytes;
            assert!(lent.tensors().any(|lent| same(&lent)), "{name}: {}", tensor.name);
        }
    }
    // A model of another kind is no base.
    let other = scene.home.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    copy(&scene.folder("vae/0.safetensors"), &other.join("model.safetensors"));
    let request = scene.home.usual_request(&scene.spec(""), "vae").base(other.display().to_string());
    let error = scene.client.load(request, |_| ()).await.map(|component| component.id().to_owned()).unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::InvalidRequest), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_of_it_is_lent_and_what_is_not_is_named() {
    let scene = Scene::of(&true_size()).await;
    fs::remove_file(scene.folder("transformer/3.safetensors")).unwrap();
    fs::create_dir(scene.folder("extras")).unwrap();
    fs::write(scene.folder("extras/x.safetensors"), hubs::weights(1, 100)).unwrap();
    let resolved = scene.resolve("").await;
    assert_eq!(resolved.family, "z-image");
    let mut found = names(&resolved);
    found.sort_unstable();
    assert_eq!(found, ["extras", "text_encoder", "transformer", "vae"]);
    let error = scene.refusal("", "transformer").await;
    assert_eq!(error.reason(), Some(ErrorReason::SnapshotIncomplete), "{error}");
    assert!(error.to_string().contains("transformer/3.safetensors"), "{error}");
    assert!(scene.load("", "vae").await.unwrap().audit().unwrap().clean);
    // What the family has no name for is lent as it is.
    assert_eq!(scene.load("", "extras").await.unwrap().info().family, "generic");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_indexes_of_one_folder_must_list_the_same_files() {
    let scene = Scene::of(&true_size()).await;
    let (index, other) =
        (scene.folder("transformer/model.safetensors.index.json"), "transformer/x.safetensors.index.json");
    copy(&index, &scene.folder(other));
    // The daemon remembers the answer, and still sees that the second index becomes another one.
    settle(&scene.folder(other));
    assert!(scene.load("", "transformer").await.unwrap().audit().unwrap().clean, "one set, listed twice");
    let listed: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    let first: serde_json::Map<_, _> = listed["weight_map"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, file)| *file == "0.safetensors")
        .map(|(name, file)| (name.clone(), file.clone()))
        .collect();
    fs::write(scene.folder(other), serde_json::json!({ "weight_map": first }).to_string()).unwrap();
    let error = scene.refusal("", "transformer").await;
    assert_eq!(error.reason(), Some(ErrorReason::AmbiguousWeights), "{error}");
    let text = error.to_string();
    assert!(text.contains("model.safetensors.index.json") && text.contains("x.safetensors.index.json"), "{text}");
    assert!(scene.load("", "vae").await.unwrap().audit().unwrap().clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_component_of_it_comes_from_the_hub_and_is_told_by_a_base() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let checkpoint = tiny(4).as_mflux(100_000);
    let published = checkpoint.write_hub_cache(home.path().join("published"), hubs::REPO, "main").unwrap();
    hub.publish(&published, "main");
    let base = home.path().join("base");
    tiny(4).write_directory(&base).unwrap();
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await.with_deadline(PATIENCE);
    let request = hubs::request(&home, hubs::REPO, "vae").layout(Layout::Mlx).base(base.display().to_string());
    let lent = client.load(request, |_| ()).await.unwrap();
    assert!(lent.audit().unwrap().clean, "{:?}", lent.audit());
    let (name, stored) = ("decoder.conv_in.weight", "decoder.conv_in.conv.weight");
    assert_eq!(lent.tensor(name).unwrap().bytes(), checkpoint.expected_bytes("vae", stored));
    assert!(!hubs::visible(&home, hubs::REPO).iter().any(|file| file.contains("transformer/0.safetensors")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_says_what_it_is_is_not_told_by_one_of_its_folders() {
    // FLUX has the same autoencoder.
    let scene = Scene::of(&true_size()).await;
    fs::write(scene.folder("model_index.json"), r#"{"_class_name": "FluxPipeline"}"#).unwrap();
    assert_eq!(scene.resolve("").await.family, "generic");
}
