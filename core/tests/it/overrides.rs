//! Components with some or all tensors from another file.

use std::collections::BTreeSet;

use weightsd_core::{
    assemble::{AssembleError, Assembled, Inputs, Raw, assemble},
    explain::Explain as _,
    family::z_image::ZImage,
    header::Dtype,
    place::{Layout, place},
    quantisation::{Mode, Scheme},
    rewrite::{OverlayError, overlay},
    source::SourceId,
    table::{Shard, Table},
    tool::Tool,
};

use crate::common::{Entry, Model, all_in_one, backwards, entries, header, table, under};

/// The file that is laid over it.
const THE_OTHER: SourceId = SourceId(2);

/// The component in two shards, as in a snapshot.
fn base(model: &Model, component: &str) -> Table {
    let own = entries(&model.catalogue(component), Dtype::F32);
    let (first, second) = own.split_at(own.len() / 2);
    let shard = |id, name, entries| Shard { source: SourceId(id), name, header: header(entries) };
    Table::merge(vec![shard(0, "a", first), shard(1, "b", second)]).unwrap()
}

fn the_other(file: &[Entry]) -> Table {
    Table::merge(vec![Shard { source: THE_OTHER, name: "c", header: header(file) }]).unwrap()
}

fn with_override(model: &Model, component: &str, file: &[Entry]) -> Result<Assembled, AssembleError> {
    let description = model.describe(component);
    let raw = Raw::of_files(&base(model, component), component, Some(&description), &ZImage, Default::default())?;
    let other = Raw::of_override(&the_other(file), component, Some(&description), &ZImage, Tool::Unknown)?;
    assemble(Inputs {
        component,
        family: &ZImage,
        description: Some(description),
        model: None,
        raw,
        other: Some(other),
        declaration: None,
    })
}

fn original(model: &Model) -> Vec<Entry> {
    let description = model.describe("transformer");
    backwards(&entries(&description.catalogue.unwrap(), Dtype::BF16), &description.rules)
}

#[test]
fn all_of_a_transformer_is_replaced_in_either_layout_under_any_prefix() {
    let model = Model::real();
    let own = entries(&model.catalogue("transformer"), Dtype::BF16);
    for file in [
        own.clone(),
        original(&model),
        under("model.diffusion_model.", &original(&model)),
        under("diffusion_model.", &own),
        under("transformer.", &own),
        under("model.", &original(&model)),
        under("transformer.model.", &original(&model)),
        all_in_one(&model),
    ] {
        let assembled = with_override(&model, "transformer", &file).unwrap();
        assert!(assembled.report.is_clean(), "{}: {}", file[0].0, assembled.report.summary());
        let summary = assembled.overlay.unwrap();
        assert_eq!((summary.replaced.len(), summary.added.len(), summary.kept), (521, 0, 0), "{}", file[0].0);
        assert!(assembled.table.tensors().iter().all(|tensor| tensor.source == THE_OTHER));
    }
}

#[test]
fn some_tensors_are_replaced_and_the_report_says_which() {
    let model = Model::real();
    let is_layer_7 = |(name, ..): &Entry| name.starts_with("layers.7.");
    let some: Vec<Entry> = original(&model).into_iter().filter(is_layer_7).collect();
    assert_eq!(some.len(), 13);
    let assembled = with_override(&model, "transformer", &under("model.diffusion_model.", &some)).unwrap();
    assert!(assembled.report.is_clean());
    let summary = assembled.overlay.unwrap();
    assert_eq!((summary.replaced.len(), summary.kept), (15, 506));
    let from_file: BTreeSet<_> = assembled
        .table
        .tensors()
        .iter()
        .filter(|tensor| tensor.source == THE_OTHER)
        .collect::<Vec<_>>()
        .iter()
        .map(|tensor| tensor.info.name.to_string())
        .collect();
    assert_eq!(from_file, summary.replaced.iter().cloned().collect());
    let origins = &assembled.report.origins;
    assert_eq!(origins.values().map(|origin| origin.tensors()).collect::<Vec<_>>().iter().sum::<u32>(), 521);
    assert_eq!((origins[&THE_OTHER].tensors(), origins[&THE_OTHER].rows, origins[&THE_OTHER].renamed), (15, 3, 12));
    assert!(assembled.report.remarks.iter().any(|remark| remark.contains("15 tensors come from the override, 506")));
    // And each tensor that is lent says so.
    let catalogue = assembled.description.catalogue.as_ref();
    let placed = place(&assembled.table, catalogue, &assembled.description.naming, Layout::Mlx).unwrap();
    let q = placed.iter().find(|tensor| tensor.name == "layers.7.attention.to_q.weight").unwrap();
    assert_eq!((q.at.source, q.dtype), (THE_OTHER, Dtype::BF16));
    assert_eq!(q.source_name.as_deref(), Some("model.diffusion_model.layers.7.attention.qkv.weight"));
    let other = placed.iter().find(|tensor| tensor.name == "layers.8.attention.to_q.weight").unwrap();
    assert_eq!((other.dtype, other.source_name.as_deref()), (Dtype::F32, None));
    let caption = placed.iter().find(|tensor| tensor.name == "capEmbedNorm.weight").unwrap();
    assert_eq!(caption.source_name.as_deref(), Some("cap_embedder.0.weight"));
}

#[test]
fn names_are_those_of_the_other_layout() {
    let model = Model::real();
    let file = |name: &str, shape: &[u64]| vec![(format!("transformer.{name}"), Dtype::BF16, shape.to_vec())];
    for (name, shape, expected) in [
        ("final_layer.linear.weight", vec![64, 3840], "all_final_layer.2-1.linear.weight"),
        ("layers.0.attention.q_norm.weight", vec![128], "layers.0.attention.norm_q.weight"),
        ("layers.0.attention.k_norm.weight", vec![128], "layers.0.attention.norm_k.weight"),
        ("noise_refiner.1.attention.out.weight", vec![3840, 3840], "noise_refiner.1.attention.to_out.0.weight"),
        ("x_embedder.bias", vec![3840], "all_x_embedder.2-1.bias"),
        ("x_pad_token", vec![1, 3840], "x_pad_token"),
    ] {
        let assembled = with_override(&model, "transformer", &file(name, &shape)).unwrap();
        assert_eq!(assembled.overlay.unwrap().replaced, [expected]);
        assert!(assembled.report.is_clean());
    }
}

#[test]
fn the_other_components_are_overridden_alike() {
    let model = Model::real();
    for (component, prefix) in [("text_encoder", "text_encoders.qwen3_4b.transformer."), ("vae", "first_stage_model.")]
    {
        let description = model.describe(component);
        let own = entries(&description.catalogue.unwrap(), Dtype::BF16);
        let file = if component == "vae" { backwards(&own, &description.rules) } else { own.clone() };
        for file in [under(prefix, &file), file, all_in_one(&model)] {
            let assembled = with_override(&model, component, &file).unwrap();
            assert!(assembled.report.is_clean(), "{}", assembled.report.summary());
            assert_eq!(assembled.overlay.unwrap().replaced.len(), own.len());
        }
    }
}

#[test]
fn another_width_is_one_error_whatever_the_prefix() {
    let mut small = Model::real();
    (small.transformer.dim, small.transformer.n_heads, small.transformer.n_kv_heads) = (2304, 18, 18);
    for prefix in ["", "model.diffusion_model.", "transformer.model."] {
        let error = with_override(&Model::real(), "transformer", &under(prefix, &original(&small))).unwrap_err();
        let AssembleError::OtherModel { expected, found, .. } = &error else { panic!("{error}") };
        assert_eq!((expected, found), (&vec![3840], &vec![2304]));
        assert!(error.to_string().contains("2304") && error.explain().hint.contains("base"));
    }
}

#[test]
fn one_wrong_tensor_is_the_audit_s() {
    let file = [
        ("layers.0.attention_norm1.weight".to_owned(), Dtype::BF16, vec![3840]),
        ("layers.0.feed_forward.w1.weight".to_owned(), Dtype::BF16, vec![10240, 3841]),
    ];
    let report = with_override(&Model::real(), "transformer", &file).unwrap().report;
    assert_eq!((report.wrong_shape.len(), report.is_clean()), (1, false));
}

#[test]
fn a_file_about_something_else_is_refused() {
    let lora = [("diffusion_model.layers.0.attention.to_q.lora_A.weight".to_owned(), Dtype::BF16, vec![8, 3840])];
    let error = with_override(&Model::real(), "transformer", &lora).unwrap_err();
    assert!(
        matches!(&error, AssembleError::Overlay(OverlayError::NothingReplaced { found: 1, sample }) if sample.contains("lora_A"))
    );
    assert!(error.explain().hint.contains("--adapter"));
}

#[test]
fn plain_weights_do_not_go_over_quantised_ones() {
    let model = Model::real();
    let scheme = Scheme::new(Mode::Affine, Some(8), Some(32)).unwrap();
    let name = "layers.0.attention.to_q";
    let logical = [3840, 3840];
    let packed: Vec<Entry> = scheme
        .slots()
        .map(|part| {
            let shape = scheme.shape_of(part.role, &logical).unwrap();
            (format!("{name}{}", part.suffix), part.dtype.written(Dtype::F32), shape)
        })
        .collect();
    let mut quantised = entries(&model.catalogue("transformer"), Dtype::BF16);
    quantised.retain(|(entry, ..)| entry != &format!("{name}.weight"));
    quantised.extend(packed.clone());
    let plain = vec![(format!("{name}.weight"), Dtype::BF16, logical.to_vec())];
    let description = model.describe("transformer");
    let over = |base: &[Entry], other: &[Entry]| {
        let raw = |entries: &[Entry]| {
            Raw::of_files(&table(entries), "transformer", Some(&description), &ZImage, Default::default()).unwrap()
        };
        assemble(Inputs {
            component: "transformer",
            family: &ZImage,
            description: Some(description.clone()),
            model: None,
            raw: raw(base),
            other: Some(raw(other)),
            declaration: None,
        })
    };
    let error = over(&quantised, &plain).unwrap_err();
    assert!(matches!(error, AssembleError::Overlay(OverlayError::PlainOverQuantised { count: 1, .. })));
    assert!(error.explain().hint.contains("not quantised"));
    let error = over(&entries(&model.catalogue("transformer"), Dtype::BF16), &packed).unwrap_err();
    assert!(matches!(error, AssembleError::Overlay(OverlayError::QuantisedOverPlain { count: 1, .. })));
    assert!(over(&quantised, &packed).unwrap().report.is_clean());
}

/// A layer of so many tensors, each of a suffix.
fn layer(suffixes: &[(&str, Dtype, &[u64])]) -> Table {
    let entries: Vec<Entry> =
        suffixes.iter().map(|(suffix, dtype, shape)| (format!("a{suffix}"), *dtype, shape.to_vec())).collect();
    the_other(&entries)
}

#[test]
fn a_quantised_layer_is_replaced_whole_with_its_marks_or_not_at_all() {
    use Dtype::{F8_E4M3, F32, I8, U8, U32};
    let codes: (&str, Dtype, &[u64]) = (".weight", I8, &[8, 256]);
    let scales: (&str, Dtype, &[u64]) = (".weight_scale", F32, &[8, 1]);
    let mark: (&str, Dtype, &[u64]) = (".comfy_quant", U8, &[40]);
    let input: (&str, Dtype, &[u64]) = (".input_scale", F32, &[]);
    let rotated = layer(&[codes, scales, mark, input]);
    for half in [codes, scales, mark] {
        let error = overlay(&rotated, &layer(&[half])).unwrap_err();
        let OverlayError::PartOfQuantised { count: 1, sample } = &error else { panic!("{error}") };
        assert_eq!(*sample, format!("a{}", half.0));
    }
    // The mark says that the old codes were rotated.
    let whole = overlay(&rotated, &layer(&[codes, scales])).unwrap();
    assert_eq!((whole.dropped.as_slice(), whole.kept), (&["a.comfy_quant", "a.input_scale"].map(str::to_owned)[..], 0));
    assert!(whole.table.get("a.comfy_quant").is_none() && whole.table.get("a.weight").is_some());

    let words: (&str, Dtype, &[u64]) = (".weight", U32, &[8, 32]);
    let own: (&str, Dtype, &[u64]) = (".scales", U8, &[8, 16]);
    let global: (&str, Dtype, &[u64]) = (".global_scale", F32, &[]);
    let whole = overlay(&layer(&[words, own, global]), &layer(&[words, own])).unwrap();
    assert_eq!(whole.dropped, ["a.global_scale"]);
    let other: [(&str, Dtype, &[u64]); 2] = [(".weight", F8_E4M3, &[8, 256]), (".weight_scale", F32, &[])];
    let whole = overlay(&layer(&[words, own, global]), &layer(&other)).unwrap();
    assert_eq!(whole.dropped, ["a.global_scale", "a.scales"]);
}
