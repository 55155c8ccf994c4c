//! Repositories of nothing but GGUF files: looked at by their headers, chosen by quantisation, in parts and in folders.

use weightsd_client::{
    AuditPolicy, Component, ErrorReason, Layout,
    proto::{AuditReport, AuditRequest, ModelSelector, PullRequest},
};
use weightsd_fixtures::{
    Checkpoint, Contents, Dims, FilePart, GgmlType, GgufForm, GgufValue, Names,
    hub::{Hub, On, Side},
};

use crate::{
    harness::{Home, PATIENCE, tiny},
    hubs::{REPO, assert_sound, files_below, gets, pull, reason, request, selector, sent, visible, weights},
};

/// Three quantisations: one in a file, one in three, and one in two that lie in a folder of their own.
const FORMS: [GgufForm<'static>; 3] = [
    GgufForm { stem: "qwen-Q4_0", parts: 1, metadata: &[], layers: GgmlType::Q4_0 },
    GgufForm { stem: "qwen-F32", parts: 3, metadata: &[], layers: GgmlType::F32 },
    GgufForm { stem: "Q8_0/qwen-Q8_0", parts: 2, metadata: &[], layers: GgmlType::Q8_0 },
];
const LANGUAGE_MODEL: [FilePart<'static>; 1] =
    [FilePart { component: "text_encoder", prefix: "", names: Names::LlamaCpp }];

/// What llama.cpp's converter writes of the text encoder.
fn metadata(dims: &Dims) -> Vec<(&'static str, GgufValue<'static>)> {
    let config = &dims.text_encoder;
    let number = |number: u64| GgufValue::U32(u32::try_from(number).unwrap());
    vec![
        ("general.architecture", GgufValue::Text("qwen3")),
        ("qwen3.block_count", number(config.num_hidden_layers)),
        ("qwen3.embedding_length", number(config.hidden_size)),
        ("qwen3.feed_forward_length", number(config.intermediate_size)),
        ("qwen3.attention.head_count", number(config.num_attention_heads)),
        ("qwen3.attention.head_count_kv", number(config.num_key_value_heads)),
        ("qwen3.attention.key_length", number(config.head_dim)),
        ("qwen3.attention.layer_norm_rms_epsilon", GgufValue::F32(1e-6)),
    ]
}

/// Publishes the three, beside a projector that is no model.
fn publish(home: &Home, hub: &Hub, checkpoint: &Checkpoint, dims: &Dims) -> std::path::PathBuf {
    let root = home.path().join("ggufs");
    let metadata = metadata(dims);
    for form in FORMS {
        checkpoint.write_gguf(&root, LANGUAGE_MODEL[0], GgufForm { metadata: &metadata, ..form }).unwrap();
    }
    std::fs::write(root.join("mmproj-F16.gguf"), b"GGUF").unwrap();
    std::fs::write(root.join("README.md"), b"# Qwen").unwrap();
    hub.publish_directory(REPO, "main", &root).unwrap();
    root
}

fn of(home: &Home, spec: &str, variant: &str) -> ModelSelector {
    ModelSelector { variant: variant.to_owned(), spec: spec.to_owned(), ..selector(home, REPO) }
}

fn says_the_three(text: &str) {
    for set in ["qwen-Q4_0", "qwen-F32", "Q8_0/qwen-Q8_0"] {
        assert!(text.contains(set), "{text}");
    }
    assert!(!text.contains("mmproj"), "{text}");
}

fn is_clean(reports: &[AuditReport], tensors: usize) -> bool {
    matches!(reports, [report] if report.clean && report.component == "model" && report.expected as usize == tensors)
}

/// The tensors by name, with dtype, shape and bytes.
fn content(component: &Component) -> Vec<(String, String, Vec<u64>, Vec<u8>)> {
    let tensors = component.tensors();
    let one = |tensor: weightsd_client::Tensor<'_>| {
        (tensor.name().to_owned(), tensor.dtype().to_string(), tensor.shape().to_vec(), tensor.bytes().to_vec())
    };
    let mut found: Vec<_> = tensors.map(one).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_looked_at_by_its_headers_alone() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let mut dims = Dims::tiny();
    dims.text_encoder.vocab_size = 40_000;
    let checkpoint = Checkpoint::new(&dims, Contents::Random { seed: 5 }).unwrap();
    publish(&home, &hub, &checkpoint, &dims);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let tensors = checkpoint.component("text_encoder").tensors().len();

    let refused = client.audit(selector(&home, REPO), Vec::new()).await.unwrap_err();
    assert_eq!(refused.reason(), Some(ErrorReason::AmbiguousWeights));
    says_the_three(&refused.to_string());
    let resolved = client.resolve(selector(&home, REPO)).await.unwrap();
    assert_eq!(resolved.components.len(), 1);
    says_the_three(&resolved.components[0].problem);
    assert_eq!(hub.bytes_sent(Side::Cdn), 0, "no weight file was touched");

    for (model, parts) in [
        (of(&home, REPO, "q8_0"), 2),
        (of(&home, &format!("{REPO}:Q4_0"), ""), 1),
        (ModelSelector { patterns: vec!["*F32*".into()], ..selector(&home, REPO) }, 3),
    ] {
        hub.clear_log();
        let audit = client.audit(model.clone(), Vec::new()).await.unwrap();
        assert!(audit.family == "causal-lm" && is_clean(&audit.reports, tensors), "{audit:?}");
        let ranges = hub.seen(&On::cdn(""));
        assert_eq!(ranges.len(), parts, "{ranges:?}");
        assert!(ranges.iter().all(|seen| seen.headers.contains_key("range")));
        // 5 MB of vocabulary alone in each.
        assert!(sent(&hub) < parts as u64 * 66_000 + 20_000, "{} bytes", sent(&hub));
        let resolved = client.resolve(model).await.unwrap();
        let [component] = &resolved.components[..] else { panic!("{resolved:?}") };
        assert_eq!((component.problem.as_str(), component.files.len()), ("", parts));
    }
    let missing = client.audit(of(&home, REPO, "Q6_K"), Vec::new()).await.unwrap_err();
    assert_eq!(missing.reason(), Some(ErrorReason::SnapshotIncomplete));
    says_the_three(&missing.to_string());
    assert_eq!(files_below(&home.hub_cache()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_tells_what_it_is_from_afar_too() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let checkpoint = Checkpoint::new(&Dims::demo(), Contents::Sparse).unwrap();
    let part = FilePart { component: "transformer", prefix: "model.diffusion_model.", names: Names::Original };
    let form = GgufForm { stem: "small-Q8_0", parts: 1, metadata: &[], layers: GgmlType::Q8_0 };
    checkpoint.write_gguf(home.path().join("gguf"), part, form).unwrap();
    hub.publish_directory(REPO, "main", home.path().join("gguf")).unwrap();
    let (base, overlay) = (home.path().join("base"), home.path().join("overlay.safetensors"));
    checkpoint.write_directory(&base).unwrap();
    std::fs::write(&overlay, weights(1, 8)).unwrap();
    let local = |path: &std::path::Path| Some(weightsd_client::selector(path.to_str().unwrap()));
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let audit = async |overlay| {
        let model = Some(selector(&home, REPO));
        let request = AuditRequest { model, base: local(&base), overlay, ..AuditRequest::default() };
        client.audit_with(request).await.unwrap()
    };
    let found = audit(None).await;
    let [report] = &found.reports[..] else { panic!("{found:?}") };
    assert!(found.family == "z-image" && report.clean && report.expected > 100, "{found:?}");
    assert!(sent(&hub) < 200_000, "{} bytes", sent(&hub));
    let found = audit(local(&overlay)).await;
    assert!(found.reports[0].remarks.iter().any(|remark| remark.contains("the overlay is not laid")), "{found:?}");
    assert_eq!(files_below(&home.hub_cache()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quantisation_is_loaded_from_all_of_its_parts_and_no_more() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let root = publish(&home, &hub, &tiny(6), &Dims::tiny());
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await.with_deadline(PATIENCE);
    let refused = client.load(request(&home, REPO, "model"), |_| ()).await;
    assert_eq!(reason(refused), ErrorReason::AmbiguousWeights);
    assert_eq!(hub.bytes_sent(Side::Cdn), 0);

    for (form, spec, variant) in [
        (&FORMS[2], REPO.to_owned(), "Q8_0"),
        (&FORMS[1], REPO.to_owned(), "f32"),
        (&FORMS[0], format!("{REPO}:Q4_0"), ""),
    ] {
        let wanted = request(&home, &spec, "model").variant(variant).layout(Layout::Mlx);
        hub.clear_log();
        let lent = client.load(wanted.audit_policy(AuditPolicy::Strict), |_| ()).await;
        let lent = lent.unwrap_or_else(|error| panic!("{}: {error:?}", form.stem));
        assert!(lent.audit().unwrap().clean, "{:?}", lent.audit());
        let came: Vec<String> = gets(&hub, Side::Cdn).into_keys().collect();
        assert!(came.len() == form.parts && came.iter().all(|path| path.contains(form.stem)), "{came:?}");
        // The same as from a folder.
        let folder = home.usual_request(root.to_str().unwrap(), "model").variant(form.stem.rsplit_once('-').unwrap().1);
        let folder = client.load(folder.layout(Layout::Mlx), |_| ()).await.unwrap();
        assert!(content(&lent) == content(&folder), "{}", form.stem);
    }
    assert!(visible(&home, REPO).iter().all(|path| !path.contains("mmproj") && path != "README.md"));
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_brings_the_quantisation_that_is_named() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    publish(&home, &hub, &tiny(7), &Dims::tiny());
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    assert_eq!(reason(pull(&client, selector(&home, REPO), &[]).await), ErrorReason::AmbiguousWeights);
    assert_eq!(reason(pull(&client, selector(&home, REPO), &["model"]).await), ErrorReason::AmbiguousWeights);
    assert_eq!(hub.bytes_sent(Side::Cdn), 0);
    let report = pull(&client, of(&home, &format!("{REPO}:Q8_0"), ""), &[]).await.unwrap();
    let files: Vec<&str> = report.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, ["Q8_0/qwen-Q8_0-00001-of-00002.gguf", "Q8_0/qwen-Q8_0-00002-of-00002.gguf"]);
    assert_eq!(visible(&home, REPO), files);
    // What is here is looked at here.
    hub.clear_log();
    let offline = ModelSelector { offline: true, ..of(&home, REPO, "Q8_0") };
    let audit = client.audit(offline.clone(), Vec::new()).await.unwrap();
    assert!(audit.reports[0].clean && hub.requests().is_empty());
    let other = client.audit(ModelSelector { variant: "Q4_0".into(), ..offline }, Vec::new()).await;
    assert_eq!(reason(other), ErrorReason::SnapshotIncomplete);

    let model = ModelSelector { patterns: vec!["*Q4_0*".into()], ..selector(&home, REPO) };
    let whole = PullRequest { model: Some(model), whole_repository: true, ..PullRequest::default() };
    let report = client.pull(whole, |_| ()).await.unwrap();
    assert_eq!(report.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["qwen-Q4_0.gguf"]);
    assert_sound(&home, REPO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_not_there_or_no_gguf_is_named_before_a_byte_of_weights() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let root = publish(&home, &hub, &tiny(8), &Dims::tiny());
    let daemon = home.daemon_on(&hub, &["--hub-freshness", "0s"]);
    let client = daemon.client().await;
    let second = "Q8_0/qwen-Q8_0-00002-of-00002.gguf";
    let whole = std::fs::read(root.join(second)).unwrap();

    std::fs::write(root.join(second), &whole[..whole.len() - 4096]).unwrap();
    hub.publish_directory(REPO, "main", &root).unwrap();
    let error = client.audit(of(&home, REPO, "Q8_0"), Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains(second), "{error}");
    assert_eq!(error.reason(), Some(ErrorReason::InvalidCheckpoint), "{error}");

    std::fs::remove_file(root.join(second)).unwrap();
    hub.publish_directory(REPO, "main", &root).unwrap();
    hub.clear_log();
    let error = client.audit(of(&home, REPO, "Q8_0"), Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains(second), "{error}");
    assert_eq!(error.reason(), Some(ErrorReason::SnapshotIncomplete));
    let error = client.load(request(&home, REPO, "model").variant("Q8_0"), |_| ()).await.unwrap_err();
    assert!(error.to_string().contains(second), "{error}");
    assert_eq!(hub.bytes_sent(Side::Cdn), 0, "no weight file was touched");
}
