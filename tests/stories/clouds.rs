//! Whole models in stores of every kind: Amazon's, Google's, Microsoft's, and folders of the web. All come in parts, each asked
//! for once, and are models like any others; what a store refuses is named, and no credential is shown.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use weightsd_bucket::{Asked, Bucket, KEY_ID, Protocol, SECRET};
use weightsd_client::{Client, ClientError, Component, ErrorReason};
use weightsd_fixtures::{Checkpoint, Contents, Dims, hub::Hub};

use crate::{
    changes::is,
    harness::{Daemon, Home, tiny},
    hubs::{REPO, is_file, reason, request, selector, weights},
    not_run::not_run,
};

const PART: u64 = 8 << 20;

/// What leads to a store's credentials, as its own tools want it.
struct Keys {
    variables: Vec<(&'static str, String)>,
    /// What nobody may see.
    secrets: Vec<String>,
}

/// `None` where openssl is not installed.
fn keys(protocol: Protocol) -> Option<Keys> {
    let (id, secret) = (KEY_ID.to_owned(), SECRET.to_owned());
    let (variables, secrets) = match protocol {
        Protocol::S3 => (vec![("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret.clone())], vec![secret]),
        Protocol::Gs => {
            let (account, key) = account(&id)?;
            let line = key.lines().nth(3).unwrap().to_owned();
            (vec![("GOOGLE_SERVICE_ACCOUNT_KEY", account)], vec![line, "Bearer ey".to_owned()])
        }
        Protocol::Az => {
            let signature = format!("sv=2024-11-04&sr=c&sp=rl&sig={secret}");
            let name = ("AZURE_STORAGE_ACCOUNT_NAME", "ofthisstory".to_owned());
            (vec![name, ("AZURE_STORAGE_SAS_KEY", signature)], vec![secret])
        }
        Protocol::Dav => (Vec::new(), Vec::new()),
    };
    Some(Keys { variables, secrets })
}

/// The file of a Google account, and the key in it.
fn account(email: &str) -> Option<(String, String)> {
    let Ok(made) = Command::new("openssl").args(["genrsa", "2048"]).output() else {
        not_run("openssl is not installed (`.ci/tools proxy`)");
        return None;
    };
    let key = String::from_utf8(made.stdout).unwrap();
    let account = serde_json::json!({
        "type": "service_account", "private_key": key, "private_key_id": "one", "client_email": email,
        "client_id": "1", "token_uri": "https://oauth2.googleapis.com/token",
    });
    Some((account.to_string(), key))
}

/// The name of a store's section, and how models in it are named.
fn names(protocol: Protocol, folder: &str) -> (&'static str, String) {
    match protocol {
        Protocol::S3 => ("s3", format!("s3://models/{folder}")),
        Protocol::Gs => ("gs", format!("gs://models/{folder}")),
        Protocol::Az => ("az", format!("az://models/{folder}")),
        Protocol::Dav => ("https", format!("https://files.example/{folder}")),
    }
}

/// A daemon that finds the store, and a hub that nobody may ask.
fn daemon(home: &Home, protocol: Protocol, bucket: &Bucket, keys: &[(&str, String)]) -> (Daemon, Hub) {
    let hub = Hub::start().unwrap();
    let config = home.path().join("config.toml");
    let section = names(protocol, "").0;
    let text = format!("hub_freshness = \"0s\"\n[source.{section}]\nendpoint = {:?}\n", bucket.endpoint());
    fs::write(&config, text).unwrap();
    let mut variables = vec![("WEIGHTSD_CONFIG", config.to_str().unwrap()), ("WEIGHTSD_LOG", "trace")];
    variables.extend(keys.iter().map(|(name, value)| (*name, value.as_str())));
    (home.daemon_so(&hub, &[], &variables), hub)
}

async fn load(client: &Client, home: &Home, model: &str, component: &str) -> Result<Component, ClientError> {
    client.load(request(home, model, component), |_| ()).await
}

/// All of an object came once, in parts that end at multiples of their size; one that fits into a part came whole.
#[track_caller]
fn assert_came_once(bucket: &Bucket, key: &str, bytes: u64) {
    let asked = bucket.asked();
    let mut parts: Vec<_> = asked
        .iter()
        .filter_map(|asked| match asked {
            Asked::Get(of, range) if of == key => Some(range.clone().unwrap_or(0..bytes)),
            _ => None,
        })
        .collect();
    parts.sort_by_key(|part| part.start);
    let expected: Vec<_> = (0..bytes.div_ceil(PART)).map(|at| at * PART..((at + 1) * PART).min(bytes)).collect();
    assert_eq!(parts, expected, "{key}");
}

/// Files of a model, each with its name.
type Files = Vec<(&'static str, Vec<u8>)>;

/// A language model of 35 MB in two shards: its files, and what its tensors hold.
fn language_model() -> (Files, BTreeMap<String, Vec<u8>>) {
    let (hidden, inner, words) = (512_usize, 1024, 12_000);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![words, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
        ("lm_head.weight".to_owned(), vec![words, hidden]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![hidden / 2, hidden]),
            ("self_attn.v_proj", vec![hidden / 2, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let mut tensors = BTreeMap::new();
    let mut places = serde_json::Map::new();
    let mut shard = |name: &'static str, seed: usize, shapes: &[(String, Vec<usize>)]| {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (at, (tensor, shape)) in shapes.iter().enumerate() {
            let bytes = shape.iter().product::<usize>() * 2;
            let file = weights((seed + at) as u64, bytes);
            let content = file[file.len() - bytes..].to_vec();
            let offsets = [data.len(), data.len() + bytes];
            header
                .insert(tensor.clone(), serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": offsets}));
            data.extend(&content);
            tensors.insert(tensor.clone(), content);
            places.insert(tensor.clone(), name.into());
        }
        let header = serde_json::Value::from(header).to_string();
        (name, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat())
    };
    let first = shard("model-00001-of-00002.safetensors", 100, &shapes[..2]);
    let second = shard("model-00002-of-00002.safetensors", 200, &shapes[2..]);
    let total: usize = tensors.values().map(Vec::len).sum();
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": places});
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": words,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    });
    let small = [("config.json", config), ("model.safetensors.index.json", index)];
    let small = small.map(|(name, json)| (name, json.to_string().into_bytes()));
    (small.into_iter().chain([first, second]).collect(), tensors)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_z_image_and_a_language_model_come_whole_and_each_part_once() {
    let home = Home::new();
    let (bucket, keys) = (Bucket::start().unwrap(), keys(Protocol::S3).unwrap());
    let image = Checkpoint::new(&Dims::demo(), Contents::Random { seed: 3 }).unwrap();
    let fixture = image.write_hub_cache(home.path().join("published"), REPO, "main").unwrap();
    let mut files = BTreeMap::new();
    for file in &fixture.files {
        let key = format!("z-image/{}", file.path);
        bucket.put_in_parts(&key, fs::read(&file.target).unwrap(), 8 << 20);
        files.insert(key, file.bytes);
    }
    let (language, tensors) = language_model();
    for (name, bytes) in language {
        let key = format!("language/{name}");
        files.insert(key.clone(), bytes.len() as u64);
        bucket.put_in_parts(&key, bytes, 8 << 20);
    }
    let (daemon, hub) = daemon(&home, Protocol::S3, &bucket, &keys.variables);
    let client = daemon.client().await;
    let mut held = Vec::new();
    for component in ["transformer", "text_encoder", "vae"] {
        let loaded = load(&client, &home, "s3://models/z-image", component).await.unwrap();
        assert!(is(&loaded, &fixture.written), "{component}");
        held.push(loaded);
    }
    let model = load(&client, &home, "s3://models/language", "model").await.unwrap();
    assert_eq!(model.tensors().len(), tensors.len());
    for tensor in model.tensors() {
        assert!(tensor.bytes() == tensors[tensor.source_name()], "{}", tensor.source_name());
    }
    let weights: Vec<_> = files.iter().filter(|(key, _)| key.ends_with(".safetensors")).collect();
    assert!(weights.iter().filter(|(_, bytes)| **bytes > 2 * PART).count() >= 3, "{weights:?}");
    for (key, bytes) in weights {
        assert_came_once(&bucket, key, *bytes);
    }
    assert!(hub.requests().is_empty());
}

/// The whole of it, against one kind of store.
async fn a_model_like_any_other(protocol: Protocol) {
    let Some(keys) = keys(protocol) else { return };
    let home = Home::new();
    let bucket = Bucket::start_as(protocol).unwrap();
    let fixture = tiny(1).write_hub_cache(home.path().join("published"), REPO, "main").unwrap();
    for file in &fixture.files {
        bucket.put(&format!("art/z-image/{}", file.path), fs::read(&file.target).unwrap());
    }
    let (daemon, hub) = daemon(&home, protocol, &bucket, &keys.variables);
    let client = daemon.client().await;
    let (_, image) = names(protocol, "art/z-image");
    let model = client.resolve(selector(&home, &image)).await.unwrap().model.unwrap();
    assert_eq!(model.commit.len(), 40);
    // The audit reads headers and no weights.
    assert!(client.audit(selector(&home, &image), Vec::new()).await.unwrap().reports.len() > 2);
    for component in ["transformer", "text_encoder", "vae"] {
        let loaded = load(&client, &home, &image, component).await.unwrap();
        assert!(is(&loaded, &fixture.written), "{component}");
        assert_eq!(loaded.info().model.as_ref().unwrap().commit, model.commit);
    }
    bucket.clear_log();
    drop(load(&client, &home, &format!("{image}@{}", model.commit), "vae").await.unwrap());
    assert!(bucket.asked().is_empty() && hub.requests().is_empty(), "a commit asks nobody");

    let (_, language) = names(protocol, "language");
    let old = weights(7, 20 << 20);
    bucket.put("language/config.json", b"{}".to_vec());
    bucket.put("language/model.safetensors", old.clone());
    let component = load(&client, &home, &language, "model").await.unwrap();
    assert!(is_file(&component, &old));
    assert_came_once(&bucket, "language/model.safetensors", old.len() as u64);
    let before = component.info().model.as_ref().unwrap().commit.clone();

    let new = weights(8, 20 << 20);
    bucket.put("language/model.safetensors", new.clone());
    let component = load(&client, &home, &language, "model").await.unwrap();
    assert!(is_file(&component, &new));
    assert_ne!(component.info().model.as_ref().unwrap().commit, before);
    let pinned = load(&client, &home, &format!("{language}@{before}"), "model").await.unwrap();
    assert!(is_file(&pinned, &old), "a pinned one is never another");
    drop((client, daemon));
    assert_not_shown(&home, &keys);
}

#[track_caller]
fn assert_not_shown(home: &Home, keys: &Keys) {
    let log = home.log();
    assert!(log.contains("TRACE"));
    for secret in &keys.secrets {
        assert!(!log.contains(secret), "{secret}");
    }
    let below = |folder: &Path| crate::hubs::files_below(folder).join("\n");
    assert!(keys.secrets.iter().all(|secret| !below(&home.path().join(".cache")).contains(secret)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_at_google_is_a_model_like_any_other() {
    a_model_like_any_other(Protocol::Gs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_at_microsoft_is_a_model_like_any_other() {
    a_model_like_any_other(Protocol::Az).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_a_folder_of_the_web_is_a_model_like_any_other() {
    a_model_like_any_other(Protocol::Dav).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_refuses_is_named() {
    let of_another = account("another@example").map(|(account, _)| ("GOOGLE_SERVICE_ACCOUNT_KEY", account));
    let Some(of_another) = of_another else { return };
    let name = ("AZURE_STORAGE_ACCOUNT_NAME", "ofthisstory".to_owned());
    let signature = ("AZURE_STORAGE_SAS_KEY", "sv=2024-11-04&sp=rl&sig=AnotherSecretOfThisStory".to_owned());
    for (protocol, wrong) in
        [(Protocol::Gs, vec![of_another]), (Protocol::Az, vec![name, signature]), (Protocol::Dav, Vec::new())]
    {
        let keys = keys(protocol).unwrap();
        let home = Home::new();
        let bucket = Bucket::start_as(protocol).unwrap();
        bucket.put("language/config.json", b"{}".to_vec());
        bucket.put("language/model.safetensors", weights(1, 1000));
        let (_, language) = names(protocol, "language");
        if !wrong.is_empty() {
            let (daemon, _hub) = daemon(&home, protocol, &bucket, &wrong);
            let error = load(&daemon.client().await, &home, &language, "model").await.unwrap_err();
            assert_eq!(error.reason(), Some(ErrorReason::TokenRefused), "{protocol:?}: {error:?}");
            assert!(!format!("{error:?}{error}").contains("AnotherSecret"), "{error:?}");
            drop(daemon);
            assert!(!home.log().contains("AnotherSecret"));
        }
        let (daemon, _hub) = daemon(&home, protocol, &bucket, &keys.variables);
        let client = daemon.client().await;
        let absent = names(protocol, "absent").1;
        assert_eq!(reason(load(&client, &home, &absent, "model").await), ErrorReason::RepoNotFound, "{protocol:?}");
        bucket.wire().down();
        let away = load(&client, &home, &language, "model").await;
        assert_eq!(reason(away), ErrorReason::HubUnreachable, "{protocol:?}");
        bucket.wire().up();
        drop(load(&client, &home, &language, "model").await.unwrap());
    }
}
