//! LoRA and its kin, added to the weights of a component: wherever they come from, another component for each.

use std::{fs, path::Path};

use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use weightsd_client::{
    AuditPolicy, Client, ClientError, Component, ErrorReason, FloatType, LoadRequest,
    proto::{AdapterReport, AdapterStrengthSource, EventKind, SegmentKind},
};
use weightsd_fixtures::hub::{Hub, On};

use crate::harness::{Home, events, tiny};

const LAYER: &str = "layers.0.attention.to_q";
/// Rows and columns of that layer.
const SIZE: usize = 24;
/// Where the adapter of [`lora`] adds something.
const PLACE: (usize, usize) = (5, 7);

/// Low-rank pairs for these layers, of rank 1: `amount` is added at [`PLACE`], and nothing elsewhere.
fn lora(path: &Path, amount: f32, layers: &[&str]) {
    let one =
        |at: usize, value: f32| (0..SIZE).map(|number| if number == at { value } else { 0.0 }).collect::<Vec<_>>();
    let (up, down) = (one(PLACE.0, amount), one(PLACE.1, 1.0));
    let pair = |layer: &&str| {
        let name = |matrix: &str| format!("{layer}.lora_{matrix}.weight");
        [(name("A"), vec![1, SIZE], &down[..]), (name("B"), vec![SIZE, 1], &up[..])]
    };
    write(path, &layers.iter().flat_map(pair).collect::<Vec<_>>());
}

/// Tensors in F32 under their names, as a file.
fn write(path: &Path, tensors: &[(String, Vec<usize>, &[f32])]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    serialize_to_file(views, None, path).unwrap();
}

/// A home with a model in it.
struct Model {
    home: Home,
    spec: String,
}

impl Model {
    fn new() -> Self {
        let home = Home::new();
        let model = home.path().join("model");
        tiny(1).write_directory(&model).unwrap();
        let spec = model.display().to_string();
        Self { home, spec }
    }

    /// The transformer in F32, as it is stored.
    fn request(&self) -> LoadRequest {
        self.home.request(&self.spec, "transformer")
    }

    /// What the command line says of a load with this adapter, on one line.
    fn shown(&self, adapter: &Path, more: &[&str]) -> String {
        let arguments =
            ["load", &self.spec, "transformer", "--dtype", "as-stored", "--adapter", adapter.to_str().unwrap()];
        let output = self.home.command().args(arguments).args(more).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }
}

fn floats(component: &Component, layer: &str) -> Vec<f32> {
    let tensor = component.tensor(&format!("{layer}.weight")).unwrap();
    tensor.bytes().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// What was added to the layer, where something was, in F32.
fn added(plain: &Component, fused: &Component, layer: &str) -> Vec<(usize, usize, f32, f32)> {
    let pairs = floats(plain, layer).into_iter().zip(floats(fused, layer)).enumerate();
    let changed = pairs.filter(|(_, (before, after))| before != after);
    changed.map(|(at, (before, after))| (at / SIZE, at % SIZE, before, after)).collect()
}

/// That `amount` was added at its place to that layer, and nothing else is different.
#[track_caller]
fn assert_added(plain: &Component, fused: &Component, amount: f32) {
    let [(row, column, before, after)] = added(plain, fused, LAYER)[..] else { panic!("not one place") };
    assert_eq!((row, column, after), (PLACE.0, PLACE.1, before + amount));
    for tensor in fused.tensors().filter(|tensor| tensor.name() != format!("{LAYER}.weight")) {
        assert!(tensor.bytes() == plain.tensor(tensor.name()).unwrap().bytes(), "{}", tensor.name());
    }
}

fn report(component: &Component) -> &AdapterReport {
    let [report] = &component.info().adapters[..] else { panic!("{:?}", component.info().adapters) };
    report
}

async fn refused(client: &Client, request: LoadRequest) -> (ErrorReason, String) {
    let error: ClientError = client.load(request, |_| ()).await.map(|component| component.id().to_owned()).unwrap_err();
    assert!(error.hint().is_some() && !error.retryable(), "{error}");
    (error.reason().unwrap(), error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_from_a_file_or_its_folder_is_added_and_all_else_is_lent_in_place() {
    let model = Model::new();
    let file = model.path("style/style.safetensors");
    lora(&file, 0.5, &[LAYER]);
    let daemon = model.home.daemon();
    let client = daemon.client().await;
    let plain = client.load(model.request(), |_| ()).await.unwrap();
    let mut ids = Vec::new();
    for spec in [&file, &model.path("style"), Path::new("./style/style.safetensors")] as [&Path; 3] {
        let request = || model.request().adapter(spec.to_str().unwrap(), 1.0);
        let fused = client.load(request(), |_| ()).await.unwrap();
        assert_added(&plain, &fused, 0.5);
        assert_eq!((report(&fused).layers, report(&fused).scale, report(&fused).without_target), (1, 1.0, 0));
        // One matrix was computed, and nothing of the adapter itself is lent.
        assert_eq!(fused.info().computed_bytes as usize, SIZE * SIZE * 4);
        let segments = &fused.info().segments;
        assert!(segments.iter().all(|segment| !segment.path.ends_with("style.safetensors")), "{segments:?}");
        assert_eq!(segments.last().unwrap().kind(), SegmentKind::Derived);
        let image = fused.info().image.as_ref().unwrap();
        assert!(image.made_from.contains(&model.spec) && image.made_from.contains("style.safetensors"), "{image:?}");
        assert!(client.load(request(), |_| ()).await.unwrap().info().warm);
        ids.push(fused.id().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "it is the same file, whatever it is called");
    assert_eq!(events(&client, EventKind::Derived).await.len(), 1);
    // Together with a cast all is computed at once: the sum is rounded, not the parts.
    let request = model.request().dtype(FloatType::Bf16).adapter(file.to_str().unwrap(), 1.0);
    let cast = client.load(request, |_| ()).await.unwrap();
    let exact = client.load(model.request().adapter(file.to_str().unwrap(), 1.0), |_| ()).await.unwrap();
    for tensor in cast.tensors() {
        let expected = exact.tensor(tensor.name()).unwrap().bytes();
        let expected = expected
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|single| half::bf16::from_f32(f32::from_le_bytes(*single)).to_le_bytes());
        assert!(tensor.bytes().iter().copied().eq(expected), "{}", tensor.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_scale_another_order_or_another_config_is_another_component() {
    let model = Model::new();
    let file = model.path("style/style.safetensors");
    let spec = file.to_str().unwrap();
    lora(&file, 0.5, &[LAYER]);
    let more = model.path("more/more.safetensors");
    lora(&more, 0.25, &[LAYER]);
    let config = model.path("style/adapter_config.json");
    let daemon = model.home.daemon();
    let client = daemon.client().await;
    let plain = client.load(model.request(), |_| ()).await.unwrap();
    let mut held = Vec::new();
    for (scale, amount) in [(1.0, 0.5), (0.5, 0.25), (-2.0, -1.0)] {
        let fused = client.load(model.request().adapter(spec, scale), |_| ()).await.unwrap();
        assert_added(&plain, &fused, amount);
        assert_eq!(report(&fused).scale, scale);
        held.push(fused);
    }
    // Several are added up.
    for (first, second) in [(spec, more.to_str().unwrap()), (more.to_str().unwrap(), spec)] {
        let request = model.request().adapter(first, 1.0).adapter(second, 2.0);
        let fused = client.load(request, |_| ()).await.unwrap();
        assert_added(&plain, &fused, if first == spec { 1.0 } else { 1.25 });
        assert_eq!(fused.info().adapters.len(), 2);
        held.push(fused);
    }
    // A config that comes, changes and goes.
    for (json, amount) in [
        (Some(r#"{"r": 1, "lora_alpha": 2}"#), 1.0),
        (Some(r#"{"r": 1, "lora_alpha": 4}"#), 2.0),
        (Some(r#"{"r": 1, "lora_alpha": 4, "alpha_pattern": {"layers.0.attention.to_q": 8}}"#), 4.0),
    ] {
        fs::write(&config, json.unwrap()).unwrap();
        let fused = client.load(model.request().adapter(spec, 1.0), |_| ()).await.unwrap();
        assert_added(&plain, &fused, amount);
        held.push(fused);
    }
    let mut ids: Vec<_> = held.iter().map(Component::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), held.len());
    fs::remove_file(config).unwrap();
    let again = client.load(model.request().adapter(spec, 1.0), |_| ()).await.unwrap();
    assert_eq!((again.id(), again.info().warm), (held[0].id(), true));
    // Another file under its name.
    lora(&file, 0.125, &[LAYER]);
    let other = client.load(model.request().adapter(spec, 1.0), |_| ()).await.unwrap();
    assert_added(&plain, &other, 0.125);
    assert_added(&plain, &again, 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_adapter_has_for_others_is_reported() {
    let model = Model::new();
    let file = model.path("style.safetensors");
    lora(&file, 0.5, &["transformer.layers.0.attention.to_q", "text_encoder.layers.0.q"]);
    let daemon = model.home.daemon();
    let client = daemon.client().await;
    let plain = client.load(model.request(), |_| ()).await.unwrap();
    let fused = client.load(model.request().adapter(file.to_str().unwrap(), 1.0), |_| ()).await.unwrap();
    assert_added(&plain, &fused, 0.5);
    let report = report(&fused);
    assert_eq!((report.layers, report.without_target, report.other_component), (1, 0, 2), "{report:?}");
    assert_eq!(report.other_component_sample[0], "text_encoder.layers.0.q.lora_A.weight");
    let [strength] = &report.strengths[..] else { panic!("{report:?}") };
    assert_eq!((strength.source(), strength.strength, strength.layers), (AdapterStrengthSource::Nothing, 1.0, 1));
    // Also on the command line.
    let text = model.shown(&file, &[]);
    assert!(text.contains("1 layers changed; 1 layers as they are, since nothing says a strength"), "{text}");
    assert!(text.contains("2 keys are of other components, such as text_encoder.layers.0.q.lora_A.weight"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_adapter_is_lent_only_to_who_asks_for_a_report() {
    let model = Model::new();
    let file = model.path("style.safetensors");
    lora(&file, 0.5, &["transformer.layers.0.attention.to_q", "layers.99.attention.to_q"]);
    let daemon = model.home.daemon();
    let client = daemon.client().await;
    let plain = client.load(model.request(), |_| ()).await.unwrap();
    let request = || model.request().adapter(file.to_str().unwrap(), 1.0);
    let (reason, text) = refused(&client, request()).await;
    assert_eq!(reason, ErrorReason::InvalidAdapter);
    assert!(text.contains("1 of its changes can be applied") && text.contains("layers.99.attention.to_q"), "{text}");
    let fused = client.load(request().audit_policy(AuditPolicy::ReportOnly), |_| ()).await.unwrap();
    assert_added(&plain, &fused, 0.5);
    assert_eq!(report(&fused).without_target_sample, ["layers.99.attention.to_q"]);
    let text = model.shown(&file, &["--report-only"]);
    assert!(text.contains("1 changes of no layer here, such as layers.99.attention.to_q"), "{text}");
    // Where nothing fits, nothing is lent.
    lora(&file, 0.5, &["layers.99.attention.to_q"]);
    let (reason, text) = refused(&client, request().audit_policy(AuditPolicy::ReportOnly)).await;
    assert_eq!(reason, ErrorReason::InvalidAdapter);
    assert!(text.contains("layers.99.attention.to_q") && text.contains("style.safetensors"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_config_of_another_file_says_nothing() {
    let model = Model::new();
    let (style, own) = (model.path("loras/style.safetensors"), model.path("loras/adapter_model.safetensors"));
    for file in [&style, &own] {
        lora(file, 0.5, &[LAYER]);
    }
    fs::write(model.path("loras/adapter_config.json"), r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 8}"#).unwrap();
    let daemon = model.home.daemon();
    let client = daemon.client().await;
    let plain = client.load(model.request(), |_| ()).await.unwrap();
    let source = |component: &Component| report(component).strengths[0].source();
    let fused = client.load(model.request().adapter(style.to_str().unwrap(), 1.0), |_| ()).await.unwrap();
    assert_added(&plain, &fused, 0.5);
    assert_eq!(source(&fused), AdapterStrengthSource::Nothing);
    assert!(report(&fused).remarks[0].contains("belongs to another file of its folder"), "{:?}", report(&fused));
    let fused = client.load(model.request().adapter(own.to_str().unwrap(), 1.0), |_| ()).await.unwrap();
    assert_added(&plain, &fused, 4.0);
    assert_eq!(source(&fused), AdapterStrengthSource::Config);
    // Alone in its folder, the file is whom the config means, whatever it is called.
    fs::remove_file(&own).unwrap();
    let fused = client.load(model.request().adapter(style.to_str().unwrap(), 1.0), |_| ()).await.unwrap();
    assert_added(&plain, &fused, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_change_under_two_names_counts_once() {
    let model = Model::new();
    let file = model.path("style.safetensors");
    lora(&file, 0.5, &[LAYER, "lora_unet_layers_0_attn_to_q"]);
    let daemon = model.home.daemon();
    let client = daemon.client().await;
    let plain = client.load(model.request(), |_| ()).await.unwrap();
    let fused = client.load(model.request().adapter(file.to_str().unwrap(), 1.0), |_| ()).await.unwrap();
    assert_added(&plain, &fused, 0.5);
    // One that differs in a single number is another change.
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] = 0x40;
    fs::write(&file, bytes).unwrap();
    let (reason, text) = refused(&client, model.request().adapter(file.to_str().unwrap(), 1.0)).await;
    assert_eq!(reason, ErrorReason::InvalidAdapter);
    assert!(text.contains("by `layers.0.attention.to_q` and by `lora_unet_layers_0_attn_to_q`"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_folder_is_its_finished_adapter() {
    let model = Model::new();
    for (file, amount) in [("adapters", 0.5), ("0000100_adapters", 0.25), ("0000200_adapters", 0.125)] {
        lora(&model.path(&format!("mlx/{file}.safetensors")), amount, &[LAYER]);
    }
    let hub = Hub::start().unwrap();
    let files = ["adapters", "0000100_adapters"].map(|file| format!("{file}.safetensors"));
    let files = files.map(|file| (file.clone(), fs::read(model.path("mlx").join(file)).unwrap()));
    hub.publish_bytes("org/trained", "main", files.into());
    let daemon = model.home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let plain = client.load(model.request(), |_| ()).await.unwrap();
    for (spec, offline) in [(model.path("mlx").display().to_string(), true), ("org/trained".to_owned(), false)] {
        let request = model.request().adapter(spec, 1.0).offline(offline);
        assert_added(&plain, &client.load(request, |_| ()).await.unwrap(), 0.5);
    }
    assert_eq!(hub.seen(&On::resolve("0000100_adapters.safetensors")).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ambiguous_or_of_another_kind_is_refused() {
    let model = Model::new();
    for (name, amount) in [("a", 0.5), ("b", 0.25)] {
        lora(&model.path(&format!("styles/{name}.safetensors")), amount, &[LAYER]);
    }
    let daemon = model.home.daemon();
    let client = daemon.client().await;
    let plain = client.load(model.request(), |_| ()).await.unwrap();
    let folder = model.path("styles").display().to_string();
    let (reason, text) = refused(&client, model.request().adapter(&folder, 1.0)).await;
    assert_eq!(reason, ErrorReason::AmbiguousWeights);
    assert!(text.contains("a.safetensors, b.safetensors") && text.contains("path of the file"), "{text}");
    let chosen = client.load(model.request().adapter_file(&folder, "b.*", 1.0), |_| ()).await.unwrap();
    assert_added(&plain, &chosen, 0.25);
    // The magnitudes that its config tells of are not there.
    let file = model.path("dora/style.safetensors");
    lora(&file, 0.5, &[LAYER]);
    fs::write(model.path("dora/adapter_config.json"), r#"{"r": 1, "lora_alpha": 1, "use_dora": true}"#).unwrap();
    let (reason, text) = refused(&client, model.request().adapter(file.to_str().unwrap(), 1.0)).await;
    assert!(reason == ErrorReason::InvalidAdapter && text.contains("no magnitudes"), "{text}");
    // What is for the transformer is not for the VAE.
    let (reason, _) = refused(&client, model.home.request(&model.spec, "vae").adapter(&folder, 1.0)).await;
    assert_eq!(reason, ErrorReason::AmbiguousWeights);
    let request = model.home.request(&model.spec, "vae").adapter_file(&folder, "b.*", 1.0);
    let (reason, text) = refused(&client, request).await;
    assert!(reason == ErrorReason::InvalidAdapter && text.contains("zero valid target layers"), "{text}");
    assert_eq!(events(&client, EventKind::Derived).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_on_the_hub_is_downloaded_once_and_found_in_the_cache_afterwards() {
    let model = Model::new();
    let file = model.path("style.safetensors");
    lora(&file, 0.5, &[LAYER]);
    let hub = Hub::start().unwrap();
    let config = br#"{"r": 1, "lora_alpha": 2}"#.to_vec();
    let files = vec![
        ("README.md", b"a style".to_vec()),
        ("adapter_config.json", config),
        ("style.safetensors", fs::read(&file).unwrap()),
    ];
    hub.publish_bytes("org/style", "main", files);
    let request = |model: &Model| model.request().adapter("org/style", 1.0).offline(false);
    let id = {
        let daemon = model.home.daemon_on(&hub, &[]);
        let client = daemon.client().await;
        let plain = client.load(model.request(), |_| ()).await.unwrap();
        let fused = client.load(request(&model), |_| ()).await.unwrap();
        assert_added(&plain, &fused, 1.0);
        assert!(report(&fused).adapter.contains("org/style"), "{:?}", report(&fused));
        assert_eq!(events(&client, EventKind::Downloaded).await.len(), 1);
        let asked = hub.seen(&On::resolve("style.safetensors")).len();
        assert!(client.load(request(&model), |_| ()).await.unwrap().info().warm);
        assert_eq!(hub.seen(&On::resolve("style.safetensors")).len(), asked);
        fused.id().to_owned()
    };
    hub.stop();
    // A daemon that asks nobody has all it needs, the image included.
    let daemon = model.home.daemon();
    let client = daemon.client().await;
    let fused = client.load(model.request().adapter("org/style", 1.0), |_| ()).await.unwrap();
    assert_eq!((fused.id(), events(&client, EventKind::Derived).await.len()), (id.as_str(), 0));
    let (reason, text) = refused(&client, model.request().adapter("org/absent", 1.0)).await;
    assert!(reason == ErrorReason::RepoNotCached && text.contains("org/absent"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_repository_with_several_adapters_one_is_named_and_no_other_comes() {
    let model = Model::new();
    let hub = Hub::start().unwrap();
    let mut files = Vec::new();
    for (name, amount) in [("a", 0.5), ("b", 0.25)] {
        let path = model.path(&format!("{name}.safetensors"));
        lora(&path, amount, &[LAYER]);
        files.push((format!("{name}.safetensors"), fs::read(&path).unwrap()));
    }
    hub.publish_bytes("org/styles", "main", files);
    let daemon = model.home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let plain = client.load(model.request(), |_| ()).await.unwrap();
    let (reason, text) = refused(&client, model.request().adapter("org/styles", 1.0).offline(false)).await;
    assert_eq!(reason, ErrorReason::AmbiguousWeights, "{text}");
    assert!(text.contains("several sets of weights: a, b;") && text.contains("`patterns`"), "{text}");
    assert_eq!(hub.seen(&On::resolve(".safetensors")).len(), 0, "nothing is fetched to find that out");
    let request = model.request().adapter_file("org/styles", "b.safetensors", 2.0).offline(false);
    assert_added(&plain, &client.load(request, |_| ()).await.unwrap(), 0.5);
    assert_eq!(hub.seen(&On::resolve("a.safetensors")).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kronecker_product_is_added_and_an_alpha_beside_whole_factors_counts_for_nothing() {
    const SECOND: usize = SIZE / 2;
    let model = Model::new();
    let file = model.path("lokr.safetensors");
    let first = [0.5, -1.0, 0.25, 2.0];
    let second: Vec<f32> = (0..SECOND * SECOND).map(|number| number as f32 / 64.0).collect();
    let tensors = [
        ("alpha", vec![], &[9_999_220_736.0][..]),
        ("lokr_w1", vec![2, 2], &first[..]),
        ("lokr_w2", vec![SECOND, SECOND], &second[..]),
    ];
    let tensors =
        tensors.map(|(name, shape, values)| (format!("lycoris_layers_0_attention_to_q.{name}"), shape, values));
    write(&file, &tensors);
    let daemon = model.home.daemon();
    let client = daemon.client().await;
    let plain = client.load(model.request(), |_| ()).await.unwrap();
    let fused = client.load(model.request().adapter(file.to_str().unwrap(), 1.0), |_| ()).await.unwrap();
    let expected = floats(&plain, LAYER).into_iter().enumerate().map(|(at, before)| {
        let (row, column) = (at / SIZE, at % SIZE);
        let product = first[row / SECOND * 2 + column / SECOND] * second[row % SECOND * SECOND + column % SECOND];
        before + product
    });
    assert!(floats(&fused, LAYER).into_iter().eq(expected));
    assert_eq!(report(&fused).layers, 1);
}
