//! Checkpoints in formats that MLX does not have, and packed layers beside which something lies that nothing explains.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weightsd_core::{
    assemble::{AssembleError, Assembled, Inputs, Raw, assemble, declaration},
    derive::{
        Alignment, CannotConvert, CodedLayers, Conversion, ExactLayers, Float, Held, LayerFilter, Packing, Rule,
        Setting, Wish, plan,
    },
    family::{Family, ModelFacts, detect, z_image::ZImage},
    header::Dtype,
    place::{Layout, place},
    quantisation::{Mode, Scheme, SlotRole},
    tool::Tool,
};

use crate::common::{Entry, Model, backwards, entries, table};

/// A small language model, with that quantisation in its config.
fn language_model(quantisation: &serde_json::Value) -> ModelFacts {
    let mut config = serde_json::json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 256,
        "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64,
        "num_hidden_layers": 1, "vocab_size": 64, "tie_word_embeddings": true});
    config.as_object_mut().unwrap().extend(quantisation.as_object().unwrap().clone());
    ModelFacts {
        files: vec!["config.json".into(), "model.safetensors".into()],
        documents: [("config.json".to_owned(), config.to_string().into_bytes())].into(),
    }
}

/// The model with `packed` in place of each matrix but the embedding, opened.
fn open(facts: &ModelFacts, packed: impl Fn(&str, &[u64]) -> Vec<Entry>) -> Assembled {
    let family = detect(facts);
    let site = family.components(facts).remove(0);
    let description = family.describe(&site, facts).unwrap();
    let mut file = Vec::new();
    for (name, dtype, shape) in entries(description.catalogue.as_ref().unwrap(), Dtype::BF16) {
        match name.strip_suffix(".weight").filter(|layer| layer.ends_with("_proj")) {
            Some(layer) => file.extend(packed(layer, &shape)),
            None => file.push((name, dtype, shape)),
        }
    }
    let declared = declaration(facts, &site, &BTreeMap::new()).unwrap();
    let raw = Raw::of_files(&table(&file), "model", Some(&description), family, Tool::Unknown).unwrap();
    let description = Some(description);
    let inputs = Inputs {
        component: "model",
        family,
        description,
        model: None,
        raw,
        other: None,
        declaration: declared.as_ref(),
    };
    assemble(inputs).unwrap()
}

/// What becomes of `conversion`.
fn converted(assembled: &Assembled, conversion: &Conversion) -> Result<Option<CannotConvert>, CannotConvert> {
    let catalogue = assembled.description.catalogue.as_ref();
    let placed = place(&assembled.table, catalogue, &assembled.description.naming, Layout::Mlx).unwrap();
    assert_eq!(placed.len(), assembled.table.tensors().len(), "all are lent");
    let setting = Setting {
        quantises: &|layer| !layer.contains("norm"),
        rule: Rule::Family,
        opaque: &assembled.layers.opaque,
        coded: CodedLayers::AsStored,
        alignment: Alignment::AsStored,
        deltas: BTreeMap::new(),
        metadata: BTreeMap::new(),
        files: Held::Otherwise,
        layers: ExactLayers::Packed,
    };
    plan(placed, conversion, setting).map(|converted| converted.unmet)
}

fn quantised(except: &[&str]) -> Conversion {
    let scheme = Scheme::new(Mode::Affine, None, None).unwrap();
    let filter = LayerFilter { only: Vec::new(), except: except.iter().map(|&glob| glob.to_owned()).collect() };
    Conversion { packing: Packing::Quantised(scheme, filter), ..Conversion::default() }
}

fn entry(layer: &str, suffix: &str, dtype: Dtype, shape: &[u64]) -> Entry {
    (format!("{layer}{suffix}"), dtype, shape.to_vec())
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of formats")]
fn every_format_is_lent_and_named_and_nothing_is_computed_from_it() {
    use Dtype::{BF16, F8_E4M3, F16, F32, I8, I32, U8};
    type Parts = fn(&str, u64, u64) -> Vec<Entry>;
    let cases: [(&str, &str, Parts); 8] = [
        ("gptq", "GPTQ", |l, n, k| {
            vec![
                entry(l, ".qweight", I32, &[k / 8, n]),
                entry(l, ".qzeros", I32, &[k / 128, n / 8]),
                entry(l, ".scales", F16, &[k / 128, n]),
                entry(l, ".g_idx", I32, &[k]),
            ]
        }),
        ("awq", "AWQ", |l, n, k| {
            vec![
                entry(l, ".qweight", I32, &[k, n / 8]),
                entry(l, ".qzeros", I32, &[k / 128, n / 8]),
                entry(l, ".scales", F16, &[k / 128, n]),
            ]
        }),
        ("bitsandbytes", "bitsandbytes 4-bit", |l, n, k| {
            vec![
                entry(l, ".weight", U8, &[n * k / 2, 1]),
                entry(l, ".weight.absmax", F32, &[n * k / 64]),
                entry(l, ".weight.quant_state.bitsandbytes__nf4", U8, &[90]),
            ]
        }),
        ("bitsandbytes", "bitsandbytes 8-bit", |l, n, k| {
            vec![entry(l, ".weight", I8, &[n, k]), entry(l, ".SCB", F32, &[n])]
        }),
        ("compressed-tensors", "compressed-tensors", |l, n, k| {
            vec![
                entry(l, ".weight_packed", I32, &[n, k / 8]),
                entry(l, ".weight_scale", BF16, &[n, k / 128]),
                entry(l, ".weight_shape", I32, &[2]),
            ]
        }),
        ("modelopt", "NVFP4 with two scales", |l, n, k| {
            vec![
                entry(l, ".weight", U8, &[n, k / 2]),
                entry(l, ".weight_scale", F8_E4M3, &[n, k / 16]),
                entry(l, ".weight_scale_2", F32, &[]),
                entry(l, ".input_scale", F32, &[]),
            ]
        }),
        ("quanto", "quanto", |l, n, k| {
            vec![entry(l, ".weight._data", I8, &[n, k]), entry(l, ".weight._scale", BF16, &[n, 1])]
        }),
        // A method that nobody here has heard of, under names that nobody here has heard of.
        ("zipq", "zipq", |l, n, k| vec![entry(l, ".zipped", U8, &[n, k / 3]), entry(l, ".dictionary", F32, &[16])]),
    ];
    for (method, name, parts) in cases {
        let facts = language_model(&serde_json::json!({"quantization_config": {"quant_method": method}}));
        let assembled = open(&facts, |layer, shape| parts(layer, shape[0], shape[1]));
        let report = &assembled.report;
        assert!(report.is_clean() && report.extra.is_empty(), "{method}: {} {:?}", report.summary(), report.missing);
        let [format] = &report.foreign[..] else { panic!("{method}: {:?}", report.foreign) };
        assert!(format.starts_with(name) && format.contains(&format!("`{method}`")), "{format}");
        assert_eq!(report.schemes[format].tensors, 7, "{method}");
        assert_eq!(converted(&assembled, &Conversion::default()), Ok(None), "{method} is lent as it is stored");
        let plain = Conversion { packing: Packing::Plain, ..Conversion::default() };
        for (conversion, expected) in [(plain, Wish::Dequantise), (quantised(&[]), Wish::Quantise)] {
            let refused = converted(&assembled, &conversion).unwrap_err();
            let CannotConvert::Opaque { wish, count: 7, why, .. } = &refused else { panic!("{method}: {refused}") };
            assert!(*wish == expected && why.contains(name), "{method}: {refused}");
        }
        assert_eq!(converted(&assembled, &quantised(&["*_proj"])), Ok(None), "{method}: the rest is quantised");
        let cast = Conversion { dtype: Some(Float::F16), ..Conversion::default() };
        let unmet = converted(&assembled, &cast).unwrap().unwrap();
        assert!(matches!(unmet, CannotConvert::Opaque { wish: Wish::Cast, count: 7, .. }), "{method}: {unmet}");
    }
}

#[test]
fn what_lies_beside_a_packed_layer_and_nothing_explains_forbids_computing() {
    let facts = language_model(&serde_json::json!({"quantization": {"group_size": 64, "bits": 4}}));
    let affine = Scheme::new(Mode::Affine, None, None).unwrap();
    let packed = |layer: &str, shape: &[u64]| -> Vec<Entry> {
        let slot = |slot: &weightsd_core::quantisation::SlotSpec| {
            entry(layer, slot.suffix, slot.dtype.written(Dtype::BF16), &affine.shape_of(slot.role, shape).unwrap())
        };
        affine.slots().map(slot).collect()
    };
    let plain = Conversion { packing: Packing::Plain, ..Conversion::default() };
    let good = open(&facts, packed);
    assert!(good.layers.opaque.is_empty() && converted(&good, &plain) == Ok(None));
    let strangers: [(&str, Dtype, &[u64]); 6] = [
        (".zero_point", Dtype::I32, &[256]),
        (".g_idx", Dtype::I32, &[256]),
        (".input_scale", Dtype::F32, &[]),
        (".global_scale", Dtype::F32, &[]),
        (".weight_scale", Dtype::U8, &[1]),
        (".lora_a.weight", Dtype::BF16, &[4, 256]),
    ];
    for (suffix, dtype, shape) in strangers {
        let odd = "model.layers.0.mlp.up_proj";
        let with = open(&facts, |layer, logical| {
            let mut parts = packed(layer, logical);
            parts.extend((layer == odd).then(|| entry(layer, suffix, dtype, shape)));
            parts
        });
        let CannotConvert::Opaque { layer, count: 1, why, .. } = plan_refusal(&with, &plain) else {
            panic!("{suffix}")
        };
        assert!(layer == odd && why.contains(suffix), "{why}");
        assert!(with.report.is_clean() && with.report.schemes.len() == 1, "{suffix}: it is lent as it is stored");
    }
}

/// Why a conversion of all tensors of the table is refused.
fn plan_refusal(assembled: &Assembled, conversion: &Conversion) -> CannotConvert {
    let placed = place(&assembled.table, None, &assembled.description.naming, Layout::Source).unwrap();
    let setting = Setting {
        quantises: &|_| true,
        rule: Rule::Family,
        opaque: &assembled.layers.opaque,
        coded: CodedLayers::AsStored,
        alignment: Alignment::AsStored,
        deltas: BTreeMap::new(),
        metadata: BTreeMap::new(),
        files: Held::Otherwise,
        layers: ExactLayers::Packed,
    };
    plan(placed, conversion, setting).unwrap_err()
}

#[test]
fn unknown_keys_of_a_declaration_forbid_computing_from_the_layers_that_they_concern() {
    let affine = Scheme::new(Mode::Affine, None, None).unwrap();
    let packed = |layer: &str, shape: &[u64]| -> Vec<Entry> {
        let slot = |slot: &weightsd_core::quantisation::SlotSpec| {
            entry(layer, slot.suffix, slot.dtype.written(Dtype::BF16), &affine.shape_of(slot.role, shape).unwrap())
        };
        affine.slots().map(slot).collect()
    };
    let plain = Conversion { packing: Packing::Plain, ..Conversion::default() };
    let one = serde_json::json!({"quantization": {"group_size": 64, "bits": 4,
        "model.layers.0.mlp.up_proj": {"group_size": 64, "bits": 4, "zero_point": 8}}});
    let CannotConvert::Opaque { layer, count: 1, why, .. } = plan_refusal(&open(&language_model(&one), packed), &plain)
    else {
        panic!("it is refused")
    };
    assert!(layer == "model.layers.0.mlp.up_proj" && why.contains("`zero_point`"), "{why}");
    let all = serde_json::json!({"quantization": {"group_size": 64, "bits": 4, "rotation": 16}});
    let refused = plan_refusal(&open(&language_model(&all), packed), &plain);
    assert!(matches!(&refused, CannotConvert::Opaque { count: 7, why, .. } if why.contains("`rotation`")), "{refused}");
}

#[test]
fn a_global_scale_is_a_part_of_its_layer() {
    let facts = language_model(&serde_json::json!({"quantization": {"group_size": 16, "bits": 4, "mode": "nvfp4"}}));
    let nvfp4 = Scheme::new(Mode::Nvfp4, None, None).unwrap();
    let with = |dtype: Dtype, shape: &'static [u64]| {
        open(&facts, move |layer, logical| {
            let slot = |slot: &weightsd_core::quantisation::SlotSpec| {
                entry(layer, slot.suffix, slot.dtype.written(Dtype::BF16), &nvfp4.shape_of(slot.role, logical).unwrap())
            };
            nvfp4.slots().map(slot).chain([entry(layer, ".global_scale", dtype, shape)]).collect()
        })
    };
    for shape in [&[][..], &[1]] {
        let good = with(Dtype::F32, shape);
        assert!(good.report.is_clean() && good.report.extra.is_empty(), "{}", good.report.summary());
        let part = good.table.get("model.layers.0.mlp.up_proj.global_scale").unwrap().packed.as_ref().unwrap();
        assert_eq!(part.role, SlotRole::GlobalScale);
        assert_eq!(converted(&good, &Conversion { packing: Packing::Plain, ..Conversion::default() }), Ok(None));
    }
    for (dtype, shape) in [(Dtype::BF16, &[][..]), (Dtype::F32, &[256])] {
        let bad = with(dtype, shape);
        assert!(!bad.report.is_clean(), "{dtype} {shape:?}");
        let refused = plan_refusal(&bad, &Conversion { packing: Packing::Plain, ..Conversion::default() });
        assert!(refused.to_string().contains("global_scale"), "{refused}");
    }
}

#[test]
fn marks_of_scaled_fp8_that_contradict_or_lack_their_scale_are_named() {
    let facts = language_model(&serde_json::json!({}));
    let fp8 = |others: &'static [(&'static str, Dtype)]| {
        let assembled = open(&facts, move |layer, shape| {
            let side = others.iter().map(|(suffix, dtype)| entry(layer, suffix, *dtype, &[]));
            std::iter::once(entry(layer, ".weight", Dtype::F8_E4M3, shape)).chain(side).collect()
        });
        let opaque = assembled.layers.opaque["model.layers.0.mlp.up_proj"].clone();
        assert_eq!(opaque.tensors.len(), 1 + others.len());
        opaque.why
    };
    let both = fp8(&[(".scale_weight", Dtype::F32), (".weight_scale", Dtype::F32)]);
    assert!(both.contains("scaled FP8") && both.contains(".scale_weight`"), "{both}");
    let missing = fp8(&[(".comfy_quant", Dtype::U8)]);
    assert!(missing.contains("FP8 without a scale") && missing.contains("comfy_quant"), "{missing}");
    let siblings = open(&facts, |layer, shape| {
        let scale = entry(layer, ".weight_scale", Dtype::F32, &[]);
        let scale = Some(scale).filter(|_| !layer.ends_with("up_proj"));
        std::iter::once(entry(layer, ".weight", Dtype::F8_E4M3, shape)).chain(scale).collect()
    });
    let alone = &siblings.layers.opaque["model.layers.0.mlp.up_proj"].why;
    assert!(alone.contains("6 other FP8 weights have a scale"), "{alone}");
    let float = open(&facts, |layer, shape| {
        vec![entry(layer, ".weight", Dtype::BF16, shape), entry(layer, ".weight_scale", Dtype::F32, &[])]
    });
    assert!(float.layers.opaque["model.layers.0.mlp.up_proj"].why.contains("its weight is BF16"));
}

/// Tensors called `scales` of modules that nobody quantised.
#[test]
fn a_tensor_called_scales_is_no_quantisation() {
    let file: Vec<Entry> = vec![
        entry("quantizer", ".scales", Dtype::F32, &[8]),
        entry("codec", ".weight", Dtype::F32, &[4, 4]),
        entry("codec", ".scales", Dtype::F32, &[4]),
    ];
    let facts = ModelFacts { files: vec!["model.safetensors".into()], ..ModelFacts::default() };
    let family = detect(&facts);
    let site = family.components(&facts).remove(0);
    let description = family.describe(&site, &facts).unwrap();
    let raw = Raw::of_files(&table(&file), "model", Some(&description), family, Tool::Unknown).unwrap();
    let description = Some(description);
    let inputs = Inputs { component: "model", family, description, model: None, raw, other: None, declaration: None };
    let assembled = assemble(inputs).unwrap();
    assert!(assembled.report.is_clean() && assembled.layers.opaque.is_empty(), "{:?}", assembled.layers);
}

/// A file of a fused layer in ComfyUI's scaled FP8.
fn comfy(prefix: &str) -> Vec<Entry> {
    let description = Model::real().describe("transformer");
    let file = backwards(&entries(&description.catalogue.unwrap(), Dtype::BF16), &description.rules);
    let mut out = Vec::new();
    for (name, dtype, shape) in file {
        let name = format!("{prefix}{name}");
        match name.strip_suffix(".attention.qkv.weight") {
            Some(block) => {
                let layer = format!("{block}.attention.qkv");
                out.push(entry(&layer, ".weight", Dtype::F8_E4M3, &shape));
                out.push(entry(&layer, ".weight_scale", Dtype::F32, &[]));
                out.push(entry(&layer, ".input_scale", Dtype::F32, &[1]));
                out.push(entry(&layer, ".comfy_quant", Dtype::U8, &[27]));
            }
            None => out.push((name, dtype, shape)),
        }
    }
    out
}

fn transformer(file: &[Entry]) -> Result<Assembled, AssembleError> {
    let description = Model::real().describe("transformer");
    let raw = Raw::of_override(&table(file), "transformer", Some(&description), &ZImage, Tool::Unknown)?;
    let description = Some(description);
    let family: &dyn Family = &ZImage;
    let inputs =
        Inputs { component: "transformer", family, description, model: None, raw, other: None, declaration: None };
    assemble(inputs)
}

#[test]
fn each_layer_of_a_fused_one_has_its_scale_and_its_whole_marker() {
    for prefix in ["", "model.diffusion_model."] {
        let assembled = transformer(&comfy(prefix)).unwrap();
        assert!(assembled.report.is_clean() && assembled.report.extra.is_empty(), "{}", assembled.report.summary());
        for part in ["to_q", "to_k", "to_v"] {
            let tensor = |suffix: &str| assembled.table.get(&format!("layers.3.attention.{part}{suffix}")).unwrap();
            assert_eq!(tensor(".weight").info.shape, [3840, 3840]);
            assert_eq!(tensor(".weight_scale").info.shape, [0; 0]);
            assert_eq!(
                (tensor(".comfy_quant").info.shape.as_slice(), tensor(".comfy_quant").info.bytes()),
                (&[27][..], 27)
            );
            assert_eq!(tensor(".input_scale").info.bytes(), 4);
        }
    }
    // One scale a row goes with the rows.
    let mut rows = comfy("");
    for (name, _, shape) in &mut rows {
        if name.ends_with(".weight_scale") {
            *shape = vec![11520, 1];
        }
    }
    let assembled = transformer(&rows).unwrap();
    assert!(assembled.report.is_clean(), "{}", assembled.report.summary());
    let scales =
        |part: &str| assembled.table.get(&format!("layers.3.attention.{part}.weight_scale")).unwrap().info.clone();
    assert_eq!(scales("to_q").shape, [3840, 1]);
    assert_eq!(scales("to_q").range.end, scales("to_k").range.start);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever a tensor is called and whatever shape it has, it is lent, or the report or the refusal names it.
    #[test]
    fn no_tensor_of_a_file_vanishes(
        layer in prop::sample::select(vec!["layers.0.attention.qkv", "layers.0.attention.out", "final_layer.linear", "odd.one",
            "norm_final", "t_embedder.linear1", "layers.0.attention.q_norm"]),
        suffix in "\\.(weight|bias|weight_scale|comfy_quant|input_scale|scales|biases|qweight|weight\\.absmax|[a-z_]{1,12})(\\.[a-z]{1,4})?",
        dtype in prop::sample::select(vec![Dtype::F8_E4M3, Dtype::BF16, Dtype::U8, Dtype::U32, Dtype::I32, Dtype::F64]),
        shape in prop::collection::vec(prop::sample::select(vec![0u64, 1, 2, 3, 27, 96, 3840, 11520]), 0..4),
    ) {
        let name = format!("{layer}{suffix}");
        let mut file = comfy("");
        file.retain(|(other, ..)| *other != name);
        file.push((name.clone(), dtype, shape));
        let assembled = match transformer(&file) {
            Ok(assembled) => assembled,
            Err(error) => {
                prop_assert!(error.to_string().contains(&name), "{name}: {error}");
                return Ok(());
            }
        };
        let lent = assembled.table.tensors().iter().any(|tensor| tensor.source_name() == name);
        let said = assembled.report.remarks.iter().any(|remark| remark.contains(&name));
        prop_assert!(lent || said, "{name} is gone");
    }
}
