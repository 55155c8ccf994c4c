//! Models that are no plain diffusers directories: variants, files without a word, quantised and control checkpoints.
//! All-in-one files and overlays are judged byte by byte in `tests/python/test_round_trip.py`.

use std::fs;

use safetensors::tensor::TensorView;
use weightsd_client::{
    AuditReport, Client, ClientError, Component, ErrorReason, Layout,
    proto::{AuditRequest, FileKind, KnownBy, PackingRole, QuantisationMode, ResolveResponse, Tensor},
    selector,
};
use weightsd_core::family;
use weightsd_fixtures::{Checkpoint, Contents, ControlVersion, Dims, Dtype, FilePart, Names, Quantisation};

use crate::{
    harness::{Daemon, Home, tiny},
    raw,
};

/// Layers of the tiny text encoder that are packed: seven matrices in each of three blocks.
const PACKED: u32 = 21;

struct Model {
    home: Home,
    daemon: Daemon,
    client: Client,
}

impl Model {
    /// `model` in the home of a daemon.
    async fn of(checkpoint: &Checkpoint) -> Self {
        let home = Home::new();
        checkpoint.write_directory(home.path().join("model")).unwrap();
        Self::in_home(home).await
    }

    async fn in_home(home: Home) -> Self {
        let daemon = home.daemon();
        let client = daemon.client().await;
        Self { home, daemon, client }
    }

    fn spec(&self) -> String {
        self.home.path().join("model").display().to_string()
    }

    async fn load_so(&self, component: &str, variant: &str) -> Result<Component, ClientError> {
        let request = self.home.request(&self.spec(), component).variant(variant).layout(Layout::Source);
        self.client.load(request, |_| ()).await
    }

    async fn load(&self, component: &str) -> Result<Component, ClientError> {
        self.load_so(component, "").await
    }

    async fn refusal(&self, component: &str) -> ClientError {
        self.load(component).await.map(|component| component.id().to_owned()).unwrap_err()
    }

    async fn resolve(&self) -> ResolveResponse {
        self.client.resolve(selector(self.spec())).await.unwrap()
    }

    async fn audit(&self, component: &str) -> AuditReport {
        let request = AuditRequest {
            model: Some(selector(self.spec())),
            components: vec![component.to_owned()],
            full_lists: true,
            ..AuditRequest::default()
        };
        self.client.audit_with(request).await.unwrap().reports.remove(0)
    }

    /// The messages about its tensors.
    async fn tensors(&self, component: &str) -> Vec<Tensor> {
        let request = self.home.request(&self.spec(), component).layout(Layout::Source).message().clone();
        raw::load(&mut raw::service(self.daemon.socket()).await, request).await.unwrap().tensors
    }
}

/// The files of a component get `fp16` into their names, beside what is there.
fn variant(folder: &std::path::Path, component: &str) {
    for entry in fs::read_dir(folder.join("other").join(component)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Some(stem) = name.strip_suffix(".safetensors") {
            fs::rename(&path, folder.join("model").join(component).join(format!("{stem}.fp16.safetensors"))).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_are_never_mixed_and_one_that_lacks_is_named() {
    let home = Home::new();
    let mut whole = [tiny(1), tiny(2)];
    for checkpoint in &mut whole {
        for component in ["transformer", "text_encoder", "vae"] {
            checkpoint.component_mut(component).set_shard_bytes_max(u64::MAX);
        }
    }
    whole[1].component_mut("vae").set_dtype(Dtype::F16);
    whole[0].write_directory(home.path().join("model")).unwrap();
    whole[1].write_directory(home.path().join("other")).unwrap();
    for component in ["transformer", "vae"] {
        variant(home.path(), component);
    }
    let model = Model::in_home(home).await;
    let [plain, half] = [model.load_so("vae", "").await.unwrap(), model.load_so("vae", "fp16").await.unwrap()];
    let name = "decoder.conv_in.bias";
    assert_eq!(plain.tensor(name).unwrap().bytes(), whole[0].expected_bytes("vae", name));
    assert_eq!(half.tensor(name).unwrap().bytes(), whole[1].expected_bytes("vae", name));
    assert_eq!(half.tensor(name).unwrap().dtype(), Dtype::F16);
    let files = |component: &Component| component.info().segments.iter().filter(|s| s.path.contains("fp16")).count();
    assert_eq!((files(&plain), files(&half)), (0, 1));

    // An audit of the whole model takes the plain weights of what has no such variant, and says so.
    let mut request = AuditRequest { model: Some(selector(model.spec())), ..AuditRequest::default() };
    request.model.as_mut().unwrap().variant = "fp16".to_owned();
    let reports = model.client.audit_with(request).await.unwrap().reports;
    let said: Vec<bool> = reports
        .iter()
        .map(|report| report.remarks.iter().any(|remark| remark.contains("no weights of variant `fp16`")))
        .collect();
    assert_eq!(said, [false, true, false], "{reports:?}");

    // A component without such a variant says so, and lists the variants it has.
    let error = model.load_so("text_encoder", "fp16").await.map(|component| component.id().to_owned()).unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::SnapshotIncomplete), "{error}");
    assert!(error.to_string().contains("text_encoder") && error.to_string().contains("variant `fp16`"), "{error}");
    let mut asked = selector(model.spec());
    asked.variant = "fp16".to_owned();
    let resolved = model.client.resolve(asked).await.unwrap();
    let lacking: Vec<&str> =
        resolved.components.iter().filter(|c| !c.problem.is_empty()).map(|c| c.name.as_str()).collect();
    assert_eq!(lacking, ["text_encoder"]);
}

/// A directory of files and nothing else: transformers in the original names, of those names.
fn files(home: &Home, names: &[(&str, u64)]) {
    for (name, seed) in names {
        let part = [FilePart { component: "transformer", prefix: "diffusion_model.", names: Names::Original }];
        tiny(*seed).write_single_file(home.path().join("model"), name, &part).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_files_without_a_word_the_newer_or_the_larger_is_meant_and_equals_are_refused_with_the_list() {
    let home = Home::new();
    tiny(9).write_directory(home.path().join("base")).unwrap();
    files(&home, &[("a.safetensors", 1), ("b.safetensors", 2)]);
    let model = Model::in_home(home).await;
    let error = model.refusal("transformer").await;
    assert_eq!(error.reason(), Some(ErrorReason::AmbiguousWeights), "{error}");
    assert!(error.to_string().contains("a.safetensors") && error.to_string().contains("b.safetensors"), "{error}");
    assert!(error.hint().is_some());

    let base = model.home.path().join("base").display().to_string();
    let meant = async || {
        let request = model.home.request(&model.spec(), "transformer").base(&base).layout(Layout::Source);
        let component = model.client.load(request, |_| ()).await.unwrap();
        component.info().segments.iter().map(|segment| segment.path.rsplit('/').next().unwrap().to_owned()).collect()
    };
    files(&model.home, &[("a-v2.safetensors", 3)]);
    let found: Vec<String> = meant().await;
    assert_eq!(found, ["a-v2.safetensors"]);
    fs::remove_file(model.home.path().join("model/a-v2.safetensors")).unwrap();
    // A larger one: it has a VAE too.
    tiny(4).write_single_file(model.home.path().join("model"), "c.safetensors", &FilePart::COMFY).unwrap();
    let found: Vec<String> = meant().await;
    assert_eq!(found, ["c.safetensors"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn quantised_layers_are_described_by_any_declaration() {
    let cases = [
        (Quantisation::Manifest { bits: 8, group_size: 32 }, (QuantisationMode::Affine, 8, 32), 3),
        (Quantisation::MlxLm { bits: 4, group_size: 64 }, (QuantisationMode::Affine, 4, 64), 3),
        (Quantisation::Mflux { bits: 4 }, (QuantisationMode::Affine, 4, 64), 3),
        (Quantisation::Mxfp4, (QuantisationMode::Mxfp4, 4, 32), 2),
    ];
    for (how, scheme, tensors_of_layer) in cases {
        let mut checkpoint = tiny(5);
        assert_eq!(checkpoint.quantise("text_encoder", how), PACKED as usize);
        let model = Model::of(&checkpoint).await;
        let encoder = model.load("text_encoder").await.unwrap();
        let report = encoder.audit().unwrap();
        assert!(report.clean && report.coverage >= 1.0, "{how:?}: {report:?}");
        assert_eq!(report.schemes.iter().map(|scheme| scheme.layers).collect::<Vec<_>>(), [PACKED], "{how:?}");
        let packed: Vec<Tensor> = model.tensors("text_encoder").await;
        let packed: Vec<&Tensor> = packed.iter().filter(|tensor| tensor.packing.is_some()).collect();
        assert_eq!(packed.len() as u32, PACKED * tensors_of_layer, "{how:?}");
        for tensor in packed {
            let packing = tensor.packing.as_ref().unwrap();
            let found = (packing.mode(), u64::from(packing.bits), u64::from(packing.group_size));
            assert_eq!(found, scheme, "{how:?}");
            let columns = packing.logical_shape[1];
            let expected = match packing.role() {
                PackingRole::Weight => columns * found.1 / 32,
                _ => columns / found.2,
            };
            assert_eq!(tensor.shape, [packing.logical_shape[0], expected], "{how:?}: {}", tensor.name);
        }
        for tensor in encoder.tensors() {
            assert_eq!(tensor.bytes(), checkpoint.expected_bytes("text_encoder", tensor.name()), "{}", tensor.name());
        }
        assert!(model.audit("text_encoder").await.clean);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_an_error_and_not_a_silence() {
    let damages = ["{", r#"{"group_size": 32, "bits": 8, "mode": "fast", "layers": []}"#];
    for damage in damages {
        let mut checkpoint = tiny(6);
        checkpoint.quantise("text_encoder", Quantisation::Manifest { bits: 8, group_size: 32 });
        checkpoint.put_file("quantization.json", damage);
        let model = Model::of(&checkpoint).await;
        let error = model.refusal("text_encoder").await;
        assert_eq!(error.reason(), Some(ErrorReason::InvalidConfig), "{error}");
        assert!(error.to_string().contains("quantization.json"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_file_is_the_component_controlnet_and_says_what_it_borrows() {
    for quantised in [false, true] {
        let home = Home::new();
        let mut checkpoint = tiny(7);
        checkpoint.add_control(ControlVersion::V2_1);
        let mut packed = 0;
        let part = [FilePart { component: "controlnet", prefix: "", names: Names::Diffusers }];
        if quantised {
            packed = checkpoint.quantise("controlnet", Quantisation::Manifest { bits: 8, group_size: 32 });
            assert!(packed > 0);
            fs::create_dir(home.path().join("model")).unwrap();
            let manifest = checkpoint.file("quantization.json").unwrap();
            fs::write(home.path().join("model/controlnet_quantization.json"), manifest).unwrap();
        }
        checkpoint.write_single_file(home.path().join("model"), "control.safetensors", &part).unwrap();
        let model = Model::in_home(home).await;
        let resolved = model.resolve().await;
        let names: Vec<&str> = resolved.components.iter().map(|component| component.name.as_str()).collect();
        assert_eq!((resolved.family.as_str(), names), ("z-image", vec!["controlnet"]));
        assert_eq!(resolved.inspection.unwrap().kind(), FileKind::OneComponent);
        let control = model.load("controlnet").await.unwrap();
        // Scales and biases come with each packed weight.
        assert_eq!((control.tensors().len(), control.audit().unwrap().clean), (295 + 2 * packed, true));
        let schemes: u32 = control.audit().unwrap().schemes.iter().map(|scheme| scheme.layers).sum();
        assert_eq!(schemes as usize, packed);
        let config: serde_json::Value = serde_json::from_str(&control.info().config_json).unwrap();
        assert_eq!(config["version"], "2.1");
        let report = model.audit("controlnet").await;
        assert!(report.borrowed.iter().any(|name| name.starts_with("t_embedder.")), "{:?}", report.borrowed);
        assert!(!report.borrowed.iter().any(|name| name.starts_with("control_")), "{:?}", report.borrowed);
        for tensor in control.tensors() {
            assert_eq!(tensor.bytes(), checkpoint.expected_bytes("controlnet", tensor.name()), "{}", tensor.name());
        }
        fs::write(model.home.path().join("model/controlnet_quantization.json"), "[").unwrap();
        let error = model.refusal("controlnet").await;
        assert_eq!(error.reason(), Some(ErrorReason::InvalidConfig), "{error}");
        assert!(error.to_string().contains("controlnet_quantization.json"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_of_each_family_loads() {
    let families: Vec<_> = family::all().filter(|family| family.id() != family::GENERIC).collect();
    assert!(families.len() > 1);
    for family in families {
        let sample = Checkpoint::of_family(family, Contents::Random { seed: 5 }).unwrap();
        let sample = sample.unwrap_or_else(|| panic!("{} gives no sample", family.id()));
        let model = Model::of(&sample).await;
        assert_eq!(model.resolve().await.family, family.id());
        for component in sample.components() {
            let report = model.audit(component.name()).await;
            assert!(report.clean && report.expected > 0, "{}: {report:?}", component.name());
            let lent = model.load(component.name()).await.unwrap();
            assert_eq!(lent.tensors().count(), component.tensors().len());
            for tensor in lent.tensors() {
                assert_eq!(tensor.bytes(), sample.expected_bytes(component.name(), tensor.name()), "{}", tensor.name());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_model_has_its_preset() {
    // By what its directory shows, against its name.
    for (shift, name, steps) in [(3.0, "z-image-turbo", 9), (6.0, "z-image", 50)] {
        let mut checkpoint = tiny(8);
        let scheduler = format!(r#"{{"num_train_timesteps": 1000, "shift": {shift}, "use_dynamic_shifting": false}}"#);
        checkpoint.put_file("scheduler/scheduler_config.json", scheduler);
        let model = Model::of(&checkpoint).await;
        let known = model.resolve().await.known.unwrap();
        let preset: serde_json::Value = serde_json::from_str(&known.preset_json).unwrap();
        assert_eq!((known.name.as_str(), &preset["steps"]), (name, &serde_json::json!(steps)));
        let expected = serde_json::json!([1024, 1024, 512]);
        assert_eq!(serde_json::json!([preset["width"], preset["height"], preset["max_sequence_length"]]), expected);
        assert_eq!(known.known_by(), KnownBy::Config);
        assert!(known.evidence.contains("shift"), "{known:?}");
        // By its id, whatever the directory shows.
        let repo = "Tongyi-MAI/Z-Image";
        checkpoint.write_hub_cache(model.home.hub_cache(), repo, "main").unwrap();
        let mut asked = selector(repo);
        asked.hub_cache = model.home.hub_cache().display().to_string();
        let known = model.client.resolve(asked.clone()).await.unwrap().known.unwrap();
        let preset: serde_json::Value = serde_json::from_str(&known.preset_json).unwrap();
        assert_eq!((known.name.as_str(), known.known_by()), ("z-image", KnownBy::Id));
        assert_eq!((&preset["steps"], &preset["guidance"]), (&serde_json::json!(50), &serde_json::json!(4.0)));
        // Of an id that nobody knows, its snapshot tells.
        checkpoint.write_hub_cache(model.home.hub_cache(), "someone/finetune", "main").unwrap();
        asked.spec = "someone/finetune".to_owned();
        assert_eq!(model.client.resolve(asked).await.unwrap().known.unwrap().name, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_a_family_has_no_name_for_are_components_too() {
    let model = Model::of(&tiny(1)).await;
    let folder = model.home.path().join("model");
    fs::create_dir(folder.join("controlnet")).unwrap();
    let weights = "diffusion_pytorch_model.safetensors";
    fs::copy(folder.join("vae").join(weights), folder.join("controlnet").join(weights)).unwrap();
    fs::write(folder.join("controlnet/config.json"), r#"{"_class_name": "SomeControlNet"}"#).unwrap();
    let resolved = model.resolve().await;
    let names: Vec<_> = resolved.components.iter().map(|component| component.name.as_str()).collect();
    assert_eq!(
        (resolved.family.as_str(), names),
        ("z-image", vec!["transformer", "text_encoder", "vae", "controlnet"])
    );
    let added = model.load("controlnet").await.unwrap();
    assert_eq!(added.info().family, "generic");
    let [added, vae] = [added, model.load("vae").await.unwrap()];
    let name = "decoder.conv_in.weight";
    assert_eq!(added.tensor(name).unwrap().bytes(), vae.tensor(name).unwrap().bytes());
    assert!(added.config_json().contains("SomeControlNet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_another_class_is_lent_unchecked_and_the_report_says_why() {
    let model = Model::of(&tiny(1)).await;
    let config = model.home.path().join("model/vae/config.json");
    let written = fs::read_to_string(&config).unwrap();
    fs::write(&config, written.replace("\"AutoencoderKL\"", "\"AutoencoderTiny\"")).unwrap();
    let report = model.audit("vae").await;
    assert_eq!((report.expected, report.clean), (0, true), "{report:?}");
    // Nothing is compared, so nothing is extra.
    let tensors: u32 = report.dtypes.iter().map(|dtype| dtype.tensors).sum();
    assert_eq!((report.unchecked, report.extra, report.extra_sample.len()), (tensors, 0, 0), "{report:?}");
    let said = report.remarks.join("; ");
    assert!(said.contains("not checked") && said.contains("AutoencoderTiny"), "{said}");
    assert!(model.load("vae").await.is_ok());
}

/// Shards of the tiny text encoder under these names, and an index that lists `listed`.
fn shards(model: &Model, listed: &[&str]) -> std::path::PathBuf {
    let folder = model.home.path().join("model/text_encoder");
    let map: serde_json::Map<_, _> =
        listed.iter().map(|&file| (format!("tensor of {file}"), serde_json::Value::from(file))).collect();
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_another_set_is_refused_with_both_lists_and_a_step_that_helps() {
    let mut checkpoint = tiny(1);
    checkpoint.component_mut("text_encoder").set_shard_bytes_max(u64::MAX);
    let model = Model::of(&checkpoint).await;
    let whole = model.load("text_encoder").await.unwrap().tensors().count();
    let folder = shards(&model, &["model-00001-of-00005.safetensors", "model-00005-of-00005.safetensors"]);
    let error = model.refusal("text_encoder").await;
    assert_eq!(error.reason(), Some(ErrorReason::SnapshotIncomplete), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("model-00005-of-00005.safetensors") && said.contains("text_encoder/model.safetensors"),
        "{said}"
    );
    assert!(error.hint().unwrap().contains("move the index away"), "{error}");
    // The step helps.
    fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    assert_eq!(model.load("text_encoder").await.unwrap().tensors().count(), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_given_as_a_model_is_told_with_the_command_that_applies_it() {
    let home = Home::new();
    let folder = home.path().join("model");
    fs::create_dir(&folder).unwrap();
    let bytes = [0; 16];
    let view = || TensorView::new(safetensors::Dtype::F32, vec![2, 2], &bytes).unwrap();
    let keys = ["A", "B"].map(|matrix| (format!("base_model.model.layers.0.q.lora_{matrix}.weight"), view()));
    safetensors::serialize_to_file(keys, None, &folder.join("adapter_model.safetensors")).unwrap();
    fs::write(folder.join("adapter_config.json"), r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 2}"#).unwrap();
    let model = Model::in_home(home).await;
    let command = format!("weightsd load BASE COMPONENT --adapter {}", model.spec());
    // Asked for as a component of the model that it changes, it is refused.
    let error = model.refusal("transformer").await;
    assert_eq!(error.reason(), Some(ErrorReason::ComponentNotFound), "{error}");
    assert!(error.to_string().contains(&command) && error.hint().unwrap().contains("--adapter"), "{error}");
    // Its tensors are lent as they are to somebody who asks for them, and both reports say what they are.
    let lent = model.load("model").await.unwrap();
    for report in [lent.audit().unwrap().clone(), model.audit("model").await] {
        assert!(report.remarks.iter().any(|remark| remark.contains(&command)), "{:?}", report.remarks);
    }
    // A file of a model is none.
    let plain = [("layers.0.q.weight".to_owned(), view())];
    safetensors::serialize_to_file(plain, None, &folder.join("adapter_model.safetensors")).unwrap();
    let error = model.refusal("transformer").await;
    assert!(!error.to_string().contains("adapter and no model"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_lacks_one_tensor_of_a_known_component_is_refused_with_its_name() {
    let home = Home::new();
    let mut checkpoint = Checkpoint::new(&Dims::true_size(), Contents::Sparse).unwrap();
    checkpoint.component_mut("transformer").remove("cap_embedder.0.weight");
    let part = [FilePart { component: "transformer", prefix: "", names: Names::Diffusers }];
    checkpoint.write_single_file(home.path().join("model"), "z.safetensors", &part).unwrap();
    let model = Model::in_home(home).await;
    let error = model.refusal("transformer").await;
    let said = "520 of the 521 tensors of z-image's transformer and lack cap_embedder.0.weight";
    assert_eq!(error.reason(), Some(ErrorReason::ComponentNotFound), "{error}");
    assert!(error.to_string().contains(said) && error.hint().unwrap().contains("save it whole"), "{error}");
    let report = model.audit("model").await;
    assert!(report.remarks.iter().any(|remark| remark.contains(said)), "{:?}", report.remarks);
    // A base does not make it one.
    model.home.tiny("org/base");
    let request = model.home.request(&model.spec(), "model").base("org/base");
    let error = model.client.load(request, |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("of none that is known") && error.to_string().contains(said), "{error}");
    assert!(error.hint().unwrap().contains("save it whole"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_in_other_formats_are_refused_by_name_and_not_audited_as_nothing() {
    let home = Home::new();
    let folder = home.path().join("model");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("pytorch_model.bin"), b"PK\x03\x04").unwrap();
    fs::write(folder.join("config.json"), r#"{"model_type": "some"}"#).unwrap();
    let model = Model::in_home(home).await;
    let request = AuditRequest { model: Some(selector(model.spec())), ..AuditRequest::default() };
    for error in [model.client.audit_with(request).await.unwrap_err(), model.refusal("model").await] {
        assert!(error.to_string().contains("PyTorch (`pytorch_model.bin`)"), "{error}");
        assert!(error.hint().unwrap().contains("convert"), "{error}");
    }
    // The same under the name of a safetensors file, and in place of a config.
    for (start, word) in [(&b"PK\x03\x04\0\0\0\x7f"[..], "PyTorch"), (b"GGUF\x03\0\0\0", "GGUF")] {
        fs::write(folder_of(&model).join("model.safetensors"), start).unwrap();
        let error = model.refusal("model").await;
        let said = format!("{error} {}", error.hint().unwrap());
        assert!(said.contains(word), "{said}");
    }
    fs::write(folder_of(&model).join("config.json"), "version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
        .unwrap();
    let error = model.refusal("model").await;
    assert!(error.to_string().contains("config.json") && error.to_string().contains("Git LFS pointer"), "{error}");
}

fn folder_of(model: &Model) -> std::path::PathBuf {
    model.home.path().join("model")
}
