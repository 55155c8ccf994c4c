//! Control checkpoints, told apart by their tensors alone.

use weightsd_core::{
    assemble::{AssembleError, Assembled, Inputs, Raw, assemble},
    family::{self, Family, InferError, ModelFacts, z_image::ZImage},
    header::Dtype,
    parts::FileKind,
    tool::Tool,
};

use crate::common::{Entry, Model, table};

/// A control file, written from the published lists: `refiners` are plain blocks or projected ones.
fn control(dim: u64, layers: u64, refiners: Option<bool>, in_dim: u64) -> Vec<Entry> {
    let (hidden, head) = (dim * 8 / 3, 128);
    let mut file = vec![
        ("control_all_x_embedder.2-1.weight".to_owned(), vec![dim, 4 * in_dim]),
        ("control_all_x_embedder.2-1.bias".to_owned(), vec![dim]),
    ];
    let mut block = |base: String, is_first: bool, is_projected: bool| {
        let mut add = |name: &str, shape: &[u64]| file.push((format!("{base}.{name}"), shape.to_vec()));
        add("adaLN_modulation.0.weight", &[4 * dim, dim.min(256)]);
        add("adaLN_modulation.0.bias", &[4 * dim]);
        for name in ["to_q", "to_k", "to_v", "to_out.0"] {
            add(&format!("attention.{name}.weight"), &[dim, dim]);
        }
        for name in ["norm_q", "norm_k"] {
            add(&format!("attention.{name}.weight"), &[head]);
        }
        for name in ["attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"] {
            add(&format!("{name}.weight"), &[dim]);
        }
        for (name, shape) in [("w1", [hidden, dim]), ("w2", [dim, hidden]), ("w3", [hidden, dim])] {
            add(&format!("feed_forward.{name}.weight"), &shape);
        }
        for name in ["after_proj", "before_proj"] {
            if is_projected && (name == "after_proj" || is_first) {
                add(&format!("{name}.weight"), &[dim, dim]);
                add(&format!("{name}.bias"), &[dim]);
            }
        }
    };
    for layer in 0..layers {
        block(format!("control_layers.{layer}"), layer == 0, true);
    }
    for refiner in 0..if refiners.is_some() { 2 } else { 0 } {
        block(format!("control_noise_refiner.{refiner}"), refiner == 0, refiners == Some(true));
    }
    file.into_iter().map(|(name, shape)| (name, Dtype::BF16, shape)).collect()
}

fn open(file: &[Entry]) -> Result<Assembled, AssembleError> {
    let table = table(file);
    let (family, located) = family::locate(&table).expect("a control file");
    assert_eq!((located.kind, located.parts[0].component), (FileKind::Single, "controlnet"));
    let raw = Raw::of_part(&table, &located, "controlnet", None, family, Tool::Unknown)?;
    assemble(Inputs {
        component: "controlnet",
        family,
        description: None,
        model: ZImage.name(None, &ModelFacts::default()),
        raw,
        other: None,
        declaration: None,
    })
}

#[test]
fn the_four_versions_have_their_published_sizes() {
    let cases = [
        (control(3840, 6, Some(false), 16), "1.0", 136, 1_550_778_368),
        (control(3840, 15, None, 33), "2.0", 259, 0),
        (control(3840, 15, Some(true), 33), "2.1", 295, 3_356_225_792),
        (control(3840, 3, Some(true), 33), "2.1-lite", 91, 1_008_308_480),
    ];
    for (file, version, tensors, parameters) in cases {
        let assembled = open(&file).unwrap();
        assert_eq!(assembled.description.config["version"], version);
        assert!(assembled.report.is_clean(), "{version}: {}", assembled.report.summary());
        assert_eq!((assembled.report.matched, assembled.report.extra.len()), (tensors, 0), "{version}");
        let catalogue = assembled.description.catalogue.unwrap();
        if parameters > 0 {
            assert_eq!(catalogue.parameters(), parameters, "{version}");
        }
    }
}

#[test]
fn the_config_is_that_of_the_version() {
    let config = open(&control(3840, 15, Some(true), 33)).unwrap().description.config;
    let places: Vec<u64> = (0..15).map(|place| 2 * place).collect();
    assert_eq!(config["control_layers_places"], serde_json::json!(places));
    assert_eq!(config["control_refiner_layers_places"], serde_json::json!([0, 1]));
    assert_eq!(
        (&config["control_in_dim"], &config["add_control_noise_refiner"]),
        (&33.into(), &"control_noise_refiner".into())
    );
    let lite = open(&control(3840, 3, Some(true), 33)).unwrap().description.config;
    assert_eq!(lite["control_layers_places"], serde_json::json!([0, 10, 20]));
    let second = open(&control(3840, 15, None, 33)).unwrap().description.config;
    assert_eq!(second["add_control_noise_refiner"], "control_layers");
    let first = open(&control(3840, 6, Some(false), 16)).unwrap().description.config;
    assert!(first["add_control_noise_refiner"].is_null() && first["control_layers_places"].is_null());
}

#[test]
fn no_other_combination_is_guessed() {
    for (file, found) in [
        (control(3840, 4, Some(true), 33), "4 control layers"),
        (control(3840, 15, Some(false), 33), "(plain)"),
        (control(3840, 15, Some(true), 16), "16 input channels"),
    ] {
        let error = open(&file).unwrap_err();
        assert!(matches!(error, AssembleError::Infer(InferError::Unknown { .. })));
        let said = error.to_string();
        assert!(said.contains(found) && said.contains("2.1 has 15"), "{said}");
    }
}

#[test]
fn what_is_not_there_is_missing() {
    let mut file = control(256, 15, Some(true), 33);
    file.retain(|(name, ..)| !name.starts_with("control_layers.7."));
    let report = open(&file).unwrap().report;
    assert_eq!((report.missing.len(), report.matched), (17, 278));
    file.retain(|(name, ..)| name != "control_all_x_embedder.2-1.bias");
    assert!(matches!(open(&file), Err(AssembleError::Infer(InferError::Absent { .. }))));
}

#[test]
fn modulation_may_be_counted_from_its_activation() {
    let mut file = control(256, 3, Some(true), 33);
    for (name, ..) in &mut file {
        *name = name.replace("adaLN_modulation.0.", "adaLN_modulation.1.");
    }
    assert!(open(&file).unwrap().report.is_clean());
}

#[test]
fn what_it_borrows_is_said() {
    let report = open(&control(3840, 15, Some(true), 33)).unwrap().report;
    let transformer = Model::real().catalogue("transformer");
    assert!(report.borrowed.iter().all(|name| transformer.contains(name)));
    // All that is neither a main block nor the final layer: 2 x 15 + 2 x 13 of the refiners, and 11 others.
    assert_eq!(report.borrowed.len(), 67);
    for name in ["t_embedder.mlp.0.weight", "x_pad_token", "cap_embedder.0.weight", "all_x_embedder.2-1.bias"] {
        assert!(report.borrowed.iter().any(|borrowed| borrowed == name), "{name}");
    }
    assert!(!report.borrowed.iter().any(|name| name.starts_with("layers.") || name.starts_with("all_final_layer.")));
}

/// As ComfyUI names them: attention fused, as in the transformer's original names.
#[test]
fn control_files_under_the_original_names_are_the_same_models() {
    for (refiners, layers, in_dim, version) in [(Some(true), 15, 33, "2.1"), (Some(true), 3, 33, "2.1-lite")] {
        let published = control(3840, layers, refiners, in_dim);
        let original = |(name, dtype, shape): &Entry| {
            let name = name.replace("attention.to_out.0.", "attention.out.").replace("to_q.", "qkv.");
            let name = name.replace("norm_q.", "q_norm.").replace("norm_k.", "k_norm.");
            let mut shape = shape.clone();
            shape[0] *= if name.contains(".qkv.") { 3 } else { 1 };
            (!name.contains("to_k.") && !name.contains("to_v.")).then_some((name, *dtype, shape))
        };
        let fused: Vec<Entry> = published.iter().filter_map(original).collect();
        assert!(fused.len() < published.len());
        let [published, fused] = [open(&published).unwrap(), open(&fused).unwrap()];
        assert!(fused.report.is_clean(), "{}", fused.report.summary());
        assert_eq!((fused.report.matched, fused.report.extra.len()), (published.report.matched, 0));
        assert!(fused.report.remarks.contains(&format!("control version {version}")), "{:?}", fused.report.remarks);
    }
}
