//! Quantised checkpoints as the tools write them, at true dimensions.

use std::collections::BTreeMap;

use weightsd_core::{
    assemble::{AssembleError, Assembled, Inputs, Raw, assemble, declaration},
    axes::Axes,
    family::{ComponentSite, Family, Membership, ModelFacts, detect, is_document, z_image::ZImage},
    header::Dtype,
    place::{Layout, Making, place},
    quantisation::{CONTROLNET_MANIFEST, Declaration, MANIFEST, Mode, Scheme, SlotRole},
    tool::Tool,
};

use crate::common::{Entry, Model, entries, table};

fn scheme(mode: Mode, bits: u64, group_size: u64) -> Scheme {
    Scheme::new(mode, Some(bits), Some(group_size)).unwrap()
}

/// What zimage.swift quantises.
fn is_quantised(name: &str, shape: &[u64]) -> bool {
    name.ends_with(".weight")
        && shape.len() == 2
        && !name.contains("embed")
        && !name.contains("norm")
        && !name.starts_with("all_")
}

/// The component with its layers packed, and how many there are.
fn packed(model: &Model, component: &str, scheme: Scheme) -> (Vec<Entry>, usize) {
    let (mut out, mut layers) = (Vec::new(), 0);
    for (name, dtype, shape) in entries(&model.catalogue(component), Dtype::BF16) {
        if !is_quantised(&name, &shape) {
            out.push((name, dtype, shape));
            continue;
        }
        layers += 1;
        for slot in scheme.slots() {
            let layer = name.strip_suffix(".weight").unwrap();
            let shape = scheme.shape_of(slot.role, &shape).unwrap();
            out.push((format!("{layer}{}", slot.suffix), slot.dtype.written(Dtype::F32), shape));
        }
    }
    (out, layers)
}

fn open(
    model: &Model,
    component: &str,
    file: &[Entry],
    declaration: Option<&Declaration>,
) -> Result<Assembled, AssembleError> {
    let description = model.describe(component);
    let raw = Raw::of_files(&table(file), component, Some(&description), &ZImage, Tool::Unknown)?;
    assemble(Inputs {
        component,
        family: &ZImage,
        description: Some(description),
        model: None,
        raw,
        other: None,
        declaration,
    })
}

fn manifest(json: serde_json::Value) -> Declaration {
    Declaration::from_manifest(MANIFEST, json.to_string().as_bytes()).unwrap()
}

fn default_manifest(scheme: Scheme) -> Declaration {
    manifest(
        serde_json::json!({"group_size": scheme.group_size(), "bits": scheme.bits(), "mode": scheme.mode().name(), "layers": []}),
    )
}

#[test]
fn all_modes_are_audited_by_their_formulas() {
    let model = Model::real();
    let schemes = [
        scheme(Mode::Affine, 8, 32),
        scheme(Mode::Affine, 4, 64),
        scheme(Mode::Affine, 3, 128),
        scheme(Mode::Mxfp4, 4, 32),
        scheme(Mode::Mxfp8, 8, 32),
        scheme(Mode::Nvfp4, 4, 16),
    ];
    for scheme in schemes {
        for (component, expected_layers) in [("transformer", 270), ("text_encoder", 252)] {
            let (file, layers) = packed(&model, component, scheme);
            assert_eq!(layers, expected_layers);
            let assembled = open(&model, component, &file, Some(&default_manifest(scheme))).unwrap();
            let report = &assembled.report;
            assert!(report.is_clean() && report.extra.is_empty(), "{scheme}: {}", report.summary());
            assert_eq!(report.matched, file.len());
            assert_eq!(report.schemes[&scheme.to_string()].tensors as usize, layers);
            assert!(report.remarks.is_empty(), "{:?}", report.remarks);
        }
    }
}

#[test]
fn each_tensor_says_what_it_stands_for() {
    let model = Model::real();
    let scheme = scheme(Mode::Affine, 8, 32);
    let (file, _) = packed(&model, "text_encoder", scheme);
    let assembled = open(&model, "text_encoder", &file, Some(&default_manifest(scheme))).unwrap();
    for layout in [Layout::Mlx, Layout::Source] {
        let naming = &assembled.description.naming;
        let placed = place(&assembled.table, assembled.description.catalogue.as_ref(), naming, layout).unwrap();
        assert_eq!(placed.len(), file.len());
        let start = if layout == Layout::Mlx { "encoder." } else { "model." };
        let tensor = |name: &str| placed.iter().find(|tensor| tensor.name == format!("{start}{name}")).unwrap();
        for (role, name, shape) in [
            (SlotRole::Weight, "weight", [2560, 2432]),
            (SlotRole::Scales, "scales", [2560, 304]),
            (SlotRole::Biases, "biases", [2560, 304]),
        ] {
            let found = tensor(&format!("layers.0.mlp.down_proj.{name}"));
            let packed = found.packed.as_ref().unwrap();
            assert_eq!((packed.role, &packed.logical_shape, packed.scheme), (role, &vec![2560, 9728], scheme));
            assert_eq!(found.shape, shape);
        }
        assert!(tensor("embed_tokens.weight").packed.is_none());
    }
}

#[test]
fn overrides_of_single_layers_are_honoured() {
    let model = Model::real();
    let eight = scheme(Mode::Affine, 8, 32);
    let four = scheme(Mode::Affine, 4, 64);
    let (mut file, _) = packed(&model, "transformer", eight);
    for (name, _, shape) in &mut file {
        if let Some(ending) = name.strip_prefix("layers.5.feed_forward.w1.") {
            let slot = four.slots().find(|slot| slot.name() == ending).unwrap();
            *shape = four.shape_of(slot.role, &[10240, 3840]).unwrap();
        }
    }
    let with = |name: &str| {
        manifest(serde_json::json!({"group_size": 32, "bits": 8, "mode": "affine", "layers": [
            {"name": name, "shape": [10240, 3840], "in_dim": 3840, "out_dim": 10240, "file": "", "bits": 4, "group_size": 64}]}))
    };
    for name in ["transformer.layers.5.feed_forward.w1", "layers.5.feed_forward.w1"] {
        let report = open(&model, "transformer", &file, Some(&with(name))).unwrap().report;
        assert!(report.is_clean(), "{name}: {}", report.summary());
        assert_eq!(report.schemes[&four.to_string()].tensors, 1);
    }
    // Without an entry the shapes decide, as in mlx-lm, and the report says so with both schemes.
    for manifest in [default_manifest(eight), with("transformer.model.layers.5.feed_forward.w1")] {
        let report = open(&model, "transformer", &file, Some(&manifest)).unwrap().report;
        assert!(report.is_clean(), "{}", report.summary());
        assert_eq!(report.schemes[&four.to_string()].tensors, 1);
        let remark = report.remarks.iter().find(|remark| remark.contains("by their shapes")).unwrap();
        assert!(remark.contains(&four.to_string()) && remark.contains(&eight.to_string()), "{remark}");
        let unused = report.remarks.iter().any(|remark| remark.contains("transformer.model.layers.5"));
        assert_eq!(unused, manifest.listed().count() == 1, "{:?}", report.remarks);
    }
    // An entry that the shapes contradict is no matter of opinion.
    let wrong = manifest(serde_json::json!({"group_size": 64, "bits": 4, "mode": "affine", "layers": [
        {"name": "layers.5.feed_forward.w1", "shape": [10240, 3840], "in_dim": 3840, "out_dim": 10240, "file": "", "bits": 3}]}));
    let report = open(&model, "transformer", &file, Some(&wrong)).unwrap().report;
    let wrong: Vec<&str> = report.wrong_shape.iter().map(|mismatch| mismatch.name.as_str()).collect();
    assert_eq!(wrong, ["layers.5.feed_forward.w1.weight"]);
}

#[test]
fn damage_is_found() {
    let model = Model::real();
    let scheme = scheme(Mode::Affine, 8, 32);
    let (file, _) = packed(&model, "transformer", scheme);
    let manifest = default_manifest(scheme);
    let spoilt = |spoil: &dyn Fn(&mut Vec<Entry>)| {
        let mut file = file.clone();
        spoil(&mut file);
        open(&model, "transformer", &file, Some(&manifest)).unwrap().report
    };
    let at = |file: &[Entry], name: &str| file.iter().position(|(entry, ..)| entry == name).unwrap();
    let gone = |name: &'static str| spoilt(&|file: &mut Vec<Entry>| file.retain(|(entry, ..)| entry != name));
    assert_eq!(gone("layers.3.attention.to_q.weight").missing, ["layers.3.attention.to_q.weight"]);
    assert_eq!(gone("layers.3.attention.to_q.biases").missing, ["layers.3.attention.to_q.biases"]);
    assert_eq!(gone("layers.3.attention.to_q.scales").missing, ["layers.3.attention.to_q.scales"]);
    let report = spoilt(&|file| {
        let at = at(file, "layers.3.attention.to_q.weight");
        file[at].1 = Dtype::F32;
    });
    assert_eq!((report.wrong_dtype[0].expected.as_str(), report.wrong_dtype[0].found.as_str()), ("U32", "F32"));
    let report = spoilt(&|file| {
        let at = at(file, "layers.3.attention.to_q.scales");
        file[at].2 = vec![3840, 60];
    });
    assert_eq!(report.wrong_shape[0].expected, "[3840, 120]");
}

#[test]
fn a_layer_that_is_declared_and_not_there_is_missed() {
    let model = Model::real();
    let plain = entries(&model.catalogue("transformer"), Dtype::BF16);
    let listed = manifest(serde_json::json!({"group_size": 32, "bits": 8, "mode": "affine", "layers": [
        {"name": "transformer.layers.0.attention.to_q", "shape": [3840, 3840], "in_dim": 3840, "out_dim": 3840, "file": ""}]}));
    let report = open(&model, "transformer", &plain, Some(&listed)).unwrap().report;
    assert_eq!(report.missing, ["layers.0.attention.to_q.scales", "layers.0.attention.to_q.biases"]);
    // A manifest without layers says nothing about which there are.
    let report =
        open(&model, "transformer", &plain, Some(&default_manifest(scheme(Mode::Affine, 8, 32)))).unwrap().report;
    assert!(report.is_clean());
}

#[test]
fn without_a_declaration_shapes_tell_where_the_catalogue_knows_them() {
    let model = Model::real();
    for scheme in [
        scheme(Mode::Affine, 8, 64),
        scheme(Mode::Affine, 6, 32),
        scheme(Mode::Mxfp8, 8, 32),
        scheme(Mode::Nvfp4, 4, 16),
    ] {
        let (file, _) = packed(&model, "transformer", scheme);
        let report = open(&model, "transformer", &file, None).unwrap().report;
        assert!(report.is_clean(), "{scheme}: {}", report.summary());
        assert_eq!(report.schemes.keys().collect::<Vec<_>>(), [&scheme.to_string()]);
        assert!(report.remarks.iter().any(|remark| remark.contains("nothing declares")));
    }
}

#[test]
fn without_a_catalogue_the_packed_shapes_are_compared_with_each_other() {
    let scheme = scheme(Mode::Affine, 4, 64);
    let file = |scales: &[u64]| -> Vec<Entry> {
        vec![
            ("a.weight".into(), Dtype::U32, vec![8, 16]),
            ("a.scales".into(), Dtype::F16, scales.to_vec()),
            ("a.biases".into(), Dtype::F16, vec![8, 2]),
            ("a.bias".into(), Dtype::F16, vec![8]),
        ]
    };
    let facts = ModelFacts { files: vec!["model.safetensors".into()], ..ModelFacts::default() };
    let generic = detect(&facts);
    let open = |file: &[Entry], declaration: Option<&Declaration>| {
        let site = generic.components(&facts).remove(0);
        let description = generic.describe(&site, &facts).unwrap();
        let raw = Raw::of_files(&table(file), "model", Some(&description), generic, Tool::Unknown).unwrap();
        assemble(Inputs {
            component: "model",
            family: generic,
            description: Some(description),
            model: None,
            raw,
            other: None,
            declaration,
        })
        .unwrap()
    };
    let good = open(&file(&[8, 2]), Some(&default_manifest(scheme)));
    assert!(good.report.is_clean());
    let weight = good.table.get("a.weight").unwrap().packed.as_ref().unwrap();
    assert_eq!(weight.logical_shape, [8, 128]);
    assert!(good.table.get("a.bias").unwrap().packed.is_none(), "the layer's own bias is not its biases");
    let bad = open(&file(&[8, 4]), Some(&default_manifest(scheme))).report;
    assert_eq!((bad.wrong_shape.len(), bad.wrong_shape[0].name.as_str(), bad.is_clean()), (1, "a.scales", false));
    let undeclared = open(&file(&[8, 2]), None).report;
    assert!(undeclared.wrong_shape[0].expected.contains("declaration") && !undeclared.is_clean());
}

#[test]
fn declarations_are_found_where_the_tools_put_them() {
    let site = |name: &str, folder: &str| ComponentSite {
        name: name.into(),
        folder: folder.into(),
        stem: "model".into(),
        config: Some(if folder.is_empty() { "config.json".into() } else { format!("{folder}/config.json") }),
        membership: Membership::Member,
    };
    let facts = |path: &str, json: &str| ModelFacts {
        files: Vec::new(),
        documents: [(path.to_owned(), json.as_bytes().to_vec())].into(),
    };
    let none = BTreeMap::new();
    let manifest = r#"{"group_size": 32, "bits": 8, "mode": "affine", "layers": []}"#;
    for path in [MANIFEST, CONTROLNET_MANIFEST, "transformer/quantization.json"] {
        assert!(is_document(path), "{path} is read");
    }
    let found = declaration(&facts(MANIFEST, manifest), &site("transformer", "transformer"), &none).unwrap();
    assert_eq!(found.unwrap().default.unwrap(), scheme(Mode::Affine, 8, 32));
    assert!(declaration(&facts(CONTROLNET_MANIFEST, manifest), &site("controlnet", ""), &none).unwrap().is_some());
    let mlx_lm = r#"{"quantization": {"group_size": 64, "bits": 4}}"#;
    let found = declaration(&facts("config.json", mlx_lm), &site("model", ""), &none).unwrap();
    assert_eq!(found.unwrap().default.unwrap(), scheme(Mode::Affine, 4, 64));
    let mflux = BTreeMap::from([("quantization_level".to_owned(), "4".to_owned())]);
    let found = declaration(&ModelFacts::default(), &site("transformer", "transformer"), &mflux).unwrap();
    assert_eq!(found.unwrap().default.unwrap(), scheme(Mode::Affine, 4, 64));
    assert!(declaration(&facts(MANIFEST, "{"), &site("vae", "vae"), &none).is_err(), "damage is an error");
    assert_eq!(declaration(&ModelFacts::default(), &site("vae", "vae"), &none), Ok(None));
}

#[test]
fn a_vae_that_mflux_saved_is_computed_for_the_published_layout_only() {
    let model = Model::real();
    let file: Vec<Entry> = entries(&model.catalogue("vae"), Dtype::BF16)
        .into_iter()
        .map(|(name, dtype, shape)| {
            let name = name
                .replace("encoder.conv_in.", "encoder.conv_in.conv2d.")
                .replace("encoder.conv_out.", "encoder.conv_out.conv2d.")
                .replace("decoder.conv_in.", "decoder.conv_in.conv.")
                .replace("decoder.conv_out.", "decoder.conv_out.conv.")
                .replace(".conv_norm_out.", ".conv_norm_out.norm.");
            let shape = match *shape.as_slice() {
                [o, i, h, w] => vec![o, h, w, i],
                _ => shape,
            };
            (name, dtype, shape)
        })
        .collect();
    let description = model.describe("vae");
    let metadata = BTreeMap::from([("mflux_version".to_owned(), "0.9".to_owned())]);
    let raw = Raw::of_files(&table(&file), "vae", Some(&description), &ZImage, Tool::of_metadata(&metadata)).unwrap();
    let assembled = assemble(Inputs {
        component: "vae",
        family: &ZImage,
        description: Some(description),
        model: None,
        raw,
        other: None,
        declaration: None,
    })
    .unwrap();
    assert!(assembled.report.is_clean(), "{}", assembled.report.summary());
    let place = |layout| {
        place(&assembled.table, assembled.description.catalogue.as_ref(), &assembled.description.naming, layout)
            .unwrap()
    };
    let lent = place(Layout::Mlx);
    let kernel = lent.iter().find(|tensor| tensor.name == "decoder.conv_in.weight").unwrap();
    assert_eq!(kernel.shape, [512, 3, 3, 16]);
    assert_eq!(kernel.source_name.as_deref(), Some("decoder.conv_in.conv.weight"));
    assert!(lent.iter().all(|tensor| tensor.making == Making::AsStored));

    // The published layout has the published order, also where both orders have one shape.
    let published = model.catalogue("vae");
    let published_kernels = published.tensors().iter().filter(|tensor| tensor.shape.len() == 4);
    let source = place(Layout::Source);
    for kernel in published_kernels {
        let placed = source.iter().find(|tensor| tensor.name == kernel.name).unwrap();
        assert_eq!(placed.shape, kernel.shape, "{}", kernel.name);
        let moves = kernel.shape[1] > 1 && kernel.shape[2] > 1;
        let expected = if moves { Making::ToReorder(Axes::CONV2D.inverse()) } else { Making::AsStored };
        assert_eq!(placed.making, expected, "{}", kernel.name);
    }
    let first = source.iter().find(|tensor| tensor.name == "encoder.conv_in.weight").unwrap();
    assert_eq!(
        (first.shape.as_slice(), first.making),
        (&[128, 3, 3, 3][..], Making::ToReorder(Axes::CONV2D.inverse()))
    );
}

/// mflux packs every matrix of a module, embeddings included, saves module names, and no configs.
#[test]
fn a_model_that_mflux_saved_describes_itself() {
    let model = Model::real();
    let scheme = scheme(Mode::Affine, 4, 64);
    let metadata: BTreeMap<String, String> =
        [("mflux_version", "0.9"), ("quantization_level", "4")].map(|(key, value)| (key.into(), value.into())).into();
    let declared = Declaration::from_metadata("0.safetensors", &metadata).unwrap();
    for (component, layers) in [("transformer", 278 - 2), ("text_encoder", 253)] {
        let mut file: Vec<Entry> = Vec::new();
        for (name, dtype, shape) in entries(&model.catalogue(component), Dtype::BF16) {
            let name = name
                .replace("t_embedder.mlp.0.", "t_embedder.linear1.")
                .replace("t_embedder.mlp.2.", "t_embedder.linear2.")
                .replace("all_final_layer.2-1.adaLN_modulation.1.", "all_final_layer.2-1.adaLN_modulation.0.");
            let name = name.strip_prefix("model.").unwrap_or(&name).to_owned();
            match name.strip_suffix(".weight").filter(|_| shape.len() == 2) {
                None => file.push((name, dtype, shape)),
                Some(layer) => file.extend(scheme.slots().map(|slot| {
                    let dtype = slot.dtype.written(Dtype::BF16);
                    (format!("{layer}{}", slot.suffix), dtype, scheme.shape_of(slot.role, &shape).unwrap())
                })),
            }
        }
        let raw = Raw::of_files(&table(&file), component, None, &ZImage, Tool::of_metadata(&metadata)).unwrap();
        let assembled = assemble(Inputs {
            component,
            family: &ZImage,
            description: None,
            model: ZImage.name(Some("a/Z-Image-Turbo-MLX-Q4"), &ModelFacts::default()),
            raw,
            other: None,
            declaration: declared.as_ref(),
        })
        .unwrap();
        let report = &assembled.report;
        assert!(report.is_clean() && report.extra.is_empty(), "{component}: {}", report.summary());
        assert_eq!(report.schemes[&scheme.to_string()].tensors, layers, "{component}");
        assert_eq!(assembled.description.config, model.describe(component).config);
    }
}
