//! Checkpoints in formats that MLX does not have and that weightsd makes plain: the files of a Z-Image transformer that
//! people download, at true size and by their headers alone.

use std::collections::BTreeMap;

use weightsd_core::{
    assemble::{Assembled, Inputs, Raw, assemble},
    derive::{
        Alignment, CannotConvert, CodedLayers, Conversion, Converted, ExactLayers, Float, Held, Input, LayerFilter,
        Packing, Rule, Setting, plan,
    },
    family::{self, Family, ModelFacts, z_image::ZImage},
    header::Dtype,
    place::{Layout, place},
    quantisation::{Coding, Grid, Mode, Provenance, Scheme, SlotRole},
    source::SourceId,
    tool::Tool,
};

use crate::common::{Entry, Model, backwards, entries, table, under};

/// The prefixes under which people save the transformer.
const PREFIXES: [&str; 3] = ["model.diffusion_model.", "diffusion_model.", ""];

/// A file: its tensors, its marks by the names of their tensors, and its metadata.
#[derive(Clone, Default)]
struct File {
    tensors: Vec<Entry>,
    marks: BTreeMap<String, String>,
    metadata: BTreeMap<String, String>,
}

/// What a format makes of a weight: the ends of names, dtypes and shapes, and the mark.
type Made = (Vec<(&'static str, Dtype, Vec<u64>)>, &'static str);
type Parts<'a> = dyn Fn(&str, &[u64]) -> Made + 'a;

impl File {
    /// The transformer in the publisher's names, with `parts` in place of the weights that `is_coded` names; the others are
    /// of dtype `rest`.
    fn of(rest: Dtype, is_coded: &dyn Fn(&str) -> bool, parts: &Parts<'_>) -> Self {
        let description = Model::real().describe("transformer");
        let mut file = Self::default();
        for (name, dtype, shape) in backwards(&entries(&description.catalogue.unwrap(), rest), &description.rules) {
            let layer = name.strip_suffix(".weight").filter(|layer| shape.len() == 2 && is_coded(layer));
            let Some(layer) = layer else {
                file.tensors.push((name, dtype, shape));
                continue;
            };
            let (parts, mark) = parts(layer, &shape);
            file.tensors
                .extend(parts.into_iter().map(|(suffix, dtype, shape)| (format!("{layer}{suffix}"), dtype, shape)));
            if !mark.is_empty() {
                file.mark(layer, mark);
            }
        }
        file
    }

    fn mark(&mut self, layer: &str, mark: &str) {
        let name = format!("{layer}.comfy_quant");
        self.tensors.push((name.clone(), Dtype::U8, vec![mark.len() as u64]));
        self.marks.insert(name, mark.to_owned());
    }

    fn under(mut self, prefix: &str) -> Self {
        self.tensors = under(prefix, &self.tensors);
        self.marks = self.marks.into_iter().map(|(name, mark)| (format!("{prefix}{name}"), mark)).collect();
        self
    }

    /// Bytes of all tensors but the marks.
    fn bytes(&self) -> u64 {
        let tensors = self.tensors.iter().filter(|(name, ..)| !name.ends_with(".comfy_quant"));
        tensors.map(|(_, dtype, shape)| weightsd_core::header::byte_length(*dtype, shape).unwrap()).sum()
    }

    fn open(&self) -> Assembled {
        let mut table = table(&self.tensors);
        assert_eq!(table.add_list(&self.metadata), Ok(None));
        table.add_marks(SourceId(0), |name| Some(self.marks.get(name)?.as_bytes().into()));
        let (_, located) = family::locate(&table).expect("a file that is known");
        let raw = Raw::of_part(&table, &located, "transformer", None, &ZImage, Tool::Unknown).unwrap();
        let model = ZImage.name(Some("z_image_turbo"), &ModelFacts::default());
        let (component, family) = ("transformer", &ZImage);
        assemble(Inputs { component, family, description: None, model, raw, other: None, declaration: None }).unwrap()
    }

    /// The clause that says why nothing is computed from a layer.
    fn refusal(&self, layer: &str) -> String {
        let assembled = self.open();
        assert!(!assembled.report.foreign.is_empty(), "strict callers are refused");
        assert!(!assembled.layers.coded.contains_key(layer));
        assembled.layers.opaque[layer].why.clone()
    }
}

fn converted(assembled: &Assembled, layout: Layout, conversion: &Conversion) -> Result<Converted, CannotConvert> {
    let description = &assembled.description;
    let placed = place(&assembled.table, description.catalogue.as_ref(), &description.naming, layout).unwrap();
    let coded = if layout == Layout::Source { CodedLayers::AsStored } else { CodedLayers::Plain };
    let setting = Setting {
        quantises: &|layer| layer.contains("layers."),
        rule: Rule::Family,
        opaque: &assembled.layers.opaque,
        coded,
        alignment: Alignment::AsStored,
        deltas: BTreeMap::new(),
        metadata: BTreeMap::new(),
        files: Held::Otherwise,
        layers: ExactLayers::Packed,
    };
    plan(placed, conversion, setting)
}

fn bf16() -> Conversion {
    Conversion { dtype: Some(Float::Bf16), ..Conversion::default() }
}

fn is_linear(layer: &str) -> bool {
    ["layers.", "noise_refiner.", "context_refiner."].iter().any(|part| layer.starts_with(part))
}

const CONVROT: &str = r#"{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256}"#;
const NVFP4: &str = "{\"format\": \"nvfp4\"}\0\0\0\0\0";
const E4M3: &str = r#"{"format": "float8_e4m3fn", "full_precision_matrix_mult": false}"#;

fn int8(mark: &'static str) -> impl Fn(&str, &[u64]) -> Made {
    move |_, shape| {
        (vec![(".weight", Dtype::I8, shape.to_vec()), (".weight_scale", Dtype::F32, vec![shape[0], 1])], mark)
    }
}

fn tiles(shape: &[u64], group: u64) -> Vec<u64> {
    vec![shape[0].next_multiple_of(128), (shape[1] / group).next_multiple_of(4)]
}

fn nvfp4(_: &str, shape: &[u64]) -> Made {
    let parts = vec![
        (".weight", Dtype::U8, vec![shape[0], shape[1] / 2]),
        (".weight_scale", Dtype::F8_E4M3, tiles(shape, 16)),
        (".weight_scale_2", Dtype::F32, vec![]),
    ];
    (parts, NVFP4)
}

fn mxfp8(_: &str, shape: &[u64]) -> Made {
    let parts = vec![(".weight", Dtype::F8_E4M3, shape.to_vec()), (".weight_scale", Dtype::U8, tiles(shape, 32))];
    (parts, r#"{"params": {"format": "mxfp8"}}"#)
}

fn fp8(mark: &'static str) -> impl Fn(&str, &[u64]) -> Made {
    move |_, shape| {
        let scale = (".weight_scale", Dtype::F32, vec![]);
        (vec![(".weight", Dtype::F8_E4M3, shape.to_vec()), scale, (".input_scale", Dtype::F32, vec![])], mark)
    }
}

fn early(_: &str, shape: &[u64]) -> Made {
    (vec![(".weight", Dtype::F8_E4M3, shape.to_vec()), (".scale_weight", Dtype::F32, vec![])], "")
}

/// The coding of a layer.
fn coding(assembled: &Assembled, layer: &str) -> Coding {
    assembled.layers.coded[layer].coding
}

#[test]
fn the_published_files_have_the_published_counts_and_sums_and_audit_clean() {
    let in_layers = |layer: &str| layer.starts_with("layers.");
    let mut scaled = File::of(Dtype::BF16, &is_linear, &early);
    scaled.tensors.push(("scaled_fp8".into(), Dtype::F8_E4M3, vec![0]));
    let cases: [(&str, File, usize, u64, usize); 5] = [
        ("int8_convrot", File::of(Dtype::F32, &is_linear, &int8(CONVROT)), 857, 6_200_895_744, 202),
        ("nvfp4", File::of(Dtype::BF16, &in_layers, &nvfp4), 993, 4_509_395_792, 180),
        ("fp8 scaled, early", scaled, 453 + 202 + 1, 6_142_033_920 + 202 * 4 + 2 * 12_874_816, 202),
        (
            "fp8 scaled",
            File::of(Dtype::BF16, &is_linear, &fp8(E4M3)),
            453 + 3 * 202,
            6_142_033_920 + 202 * 8 + 2 * 12_874_816,
            202,
        ),
        (
            "mxfp8",
            File::of(Dtype::BF16, &is_linear, &mxfp8),
            453 + 2 * 202,
            6_142_033_920 / 32 * 33 + 2 * 12_874_816,
            202,
        ),
    ];
    for (name, file, count, bytes, layers) in cases {
        assert_eq!((file.tensors.len(), file.bytes()), (count, bytes), "{name}");
        for prefix in PREFIXES {
            let assembled = file.clone().under(prefix).open();
            let report = &assembled.report;
            let found = (report.summary(), &report.foreign, &report.extra);
            assert!(report.is_clean() && report.foreign.is_empty() && report.extra.is_empty(), "{name}: {found:?}");
            // A fused layer is three.
            let fused = file
                .tensors
                .iter()
                .filter(|(name, ..)| name.ends_with("qkv.weight"))
                .filter(|(name, ..)| layers == 202 || name.starts_with("layers."));
            assert_eq!(assembled.layers.coded.len(), layers + 2 * fused.count(), "{name}");
            let plan = converted(&assembled, Layout::Mlx, &bf16()).unwrap();
            assert!(
                plan.tensors.iter().all(|tensor| tensor.dtype == Dtype::BF16) && plan.tensors.len() == 521,
                "{name}"
            );
            assert!(plan.remarks.iter().any(|remark| remark.contains("computed in BF16")), "{:?}", plan.remarks);
            let qkv = plan.tensors.iter().find(|tensor| tensor.name == "layers.3.attention.to_k.weight").unwrap();
            let coded = qkv.coded.as_ref().unwrap();
            assert_eq!((coded.role, coded.logical_shape.as_slice()), (SlotRole::Weight, &[3840, 3840][..]), "{name}");
            let stored = converted(&assembled, Layout::Source, &Conversion::default()).unwrap();
            assert!(stored.derivation.is_none(), "{name}: layout SOURCE lends it as it is stored");
        }
    }
}

#[test]
fn a_fused_layer_is_split_with_its_scales() {
    let jobs = |file: &File| {
        let converted = converted(&file.open(), Layout::Mlx, &bf16()).unwrap();
        let jobs = converted.derivation.unwrap().jobs;
        let of = |name: &str| jobs.iter().find(|job| job.outputs[0].name == name).unwrap().input.clone();
        ["q", "k", "v"].map(|part| of(&format!("layers.0.attention.to_{part}.weight")))
    };
    let thirds = |file: &File, suffix: &str| {
        let whole = table(&file.tensors);
        let range = |name: &str| whole.get(name).unwrap().info.range.clone();
        let (weight, scales) =
            (range("layers.0.attention.qkv.weight"), range(&format!("layers.0.attention.qkv{suffix}")));
        for (at, input) in (0..).zip(jobs(file)) {
            let Input::Coded { slots, first_row, logical, .. } = &input else { panic!("{input:?}") };
            let third = |range: &std::ops::Range<u64>| {
                let length = (range.end - range.start) / 3;
                range.start + at * length..range.start + (at + 1) * length
            };
            assert_eq!((slots[&SlotRole::Weight].range.clone(), *first_row), (third(&weight), 0));
            assert_eq!(slots[&SlotRole::Scales].range, third(&scales), "the scales of each part are contiguous");
            assert_eq!(logical, &[3840, 3840]);
        }
    };
    thirds(&File::of(Dtype::F32, &is_linear, &int8(CONVROT)), ".weight_scale");
    thirds(&File::of(Dtype::BF16, &is_linear, &nvfp4), ".weight_scale");
    thirds(&File::of(Dtype::BF16, &is_linear, &mxfp8), ".weight_scale");
    // One scale for all, and scales that lie by columns or by squares, belong to each part.
    let shared = |file: &File, rows: [u64; 3]| {
        let inputs = jobs(file);
        let scales: Vec<_> = inputs.iter().map(|input| input.slices().nth(1).unwrap().clone()).collect();
        assert!(scales[0] == scales[1] && scales[1] == scales[2]);
        let first: Vec<_> = inputs
            .iter()
            .map(|input| match input {
                Input::Coded { first_row, .. } => *first_row,
                _ => panic!("{input:?}"),
            })
            .collect();
        assert_eq!(first, rows);
    };
    let first_rows = [0, 3840, 7680];
    shared(&File::of(Dtype::BF16, &is_linear, &fp8(E4M3)), first_rows);
    let awq = |_: &str, shape: &[u64]| {
        let groups = vec![shape[1] / 64, shape[0]];
        let weight = (".weight", Dtype::I8, vec![shape[0], shape[1] / 2]);
        let parts =
            vec![weight, (".weight_scale", Dtype::BF16, groups.clone()), (".weight_zeros", Dtype::BF16, groups)];
        (parts, r#"{"format": "awq_w4a16", "group_size": 64}"#)
    };
    shared(&File::of(Dtype::BF16, &is_linear, &awq), first_rows);
    let blocks = |_: &str, shape: &[u64]| {
        let scales = (".weight_scale_inv", Dtype::F32, vec![shape[0] / 128, shape[1] / 128]);
        (vec![(".weight", Dtype::F8_E4M3, shape.to_vec()), scales], "")
    };
    shared(&File::of(Dtype::BF16, &is_linear, &blocks), first_rows);
}

#[test]
fn each_generation_is_told_and_they_may_be_mixed() {
    let layer = "layers.1.feed_forward.w1";
    let unmarked = File::of(Dtype::BF16, &is_linear, &fp8(""));
    assert_eq!(coding(&unmarked.open(), layer).provenance, Provenance::Tensors);
    let marked = File::of(Dtype::BF16, &is_linear, &fp8(E4M3));
    assert_eq!(coding(&marked.open(), layer).provenance, Provenance::Mark);
    let mut early = File::of(Dtype::BF16, &is_linear, &early);
    early.tensors.push(("scaled_fp8".into(), Dtype::F32, vec![2]));
    assert_eq!(coding(&early.open(), layer).provenance, Provenance::FileMark);
    // A list names layers with or without the prefix of their part.
    for (prefix, listed) in [("model.diffusion_model.", ""), ("diffusion_model.", "diffusion_model."), ("", "")] {
        let layers: serde_json::Map<String, serde_json::Value> = unmarked
            .tensors
            .iter()
            .filter_map(|(name, ..)| name.strip_suffix(".weight_scale"))
            .map(|layer| (format!("{listed}{layer}"), serde_json::json!({"format": "float8_e4m3fn"})))
            .collect();
        let mut file = unmarked.clone().under(prefix);
        let json = serde_json::json!({"format_version": "1.0", "layers": layers}).to_string();
        file.metadata.insert("_quantization_metadata".into(), json);
        assert_eq!(coding(&file.open(), layer).provenance, Provenance::List, "{prefix}");
    }
    // Layer by layer.
    let mixed = File::of(Dtype::BF16, &is_linear, &|name, shape| match name {
        name if name.contains("w1") => nvfp4(name, shape),
        name if name.contains("w2") => int8(CONVROT)(name, shape),
        name if name.contains("w3") => mxfp8(name, shape),
        name => fp8(E4M3)(name, shape),
    });
    let assembled = mixed.under("diffusion_model.").open();
    assert!(assembled.report.is_clean() && assembled.report.foreign.is_empty(), "{}", assembled.report.summary());
    assert_eq!(assembled.report.schemes.len(), 4, "{:?}", assembled.report.schemes);
    let rotated = coding(&assembled, "layers.0.feed_forward.w2");
    assert_eq!((rotated.decoding.grid, rotated.decoding.rotation), (Grid::Rows, Some(256)));
    assert!(rotated.to_string().contains("scaled INT8, I8, rotated by 256 (by `.comfy_quant`)"), "{rotated}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of faults")]
fn what_breaks_others_is_refused_by_name() {
    let layer = "layers.1.feed_forward.w1";
    let weight = |parts: &[(&'static str, Dtype, &[u64])], mark: &'static str| {
        let parts: Vec<_> = parts.iter().map(|(suffix, dtype, shape)| (*suffix, *dtype, shape.to_vec())).collect();
        File::of(Dtype::BF16, &|name| name == layer, &move |_, _| (parts.clone(), mark))
    };
    let (rows, columns) = (10240, 3840);
    let codes = [rows, columns];
    let (fp8, scale) = ((".weight", Dtype::F8_E4M3, &codes[..]), (".weight_scale", Dtype::F32, &[][..]));
    let int8 = [(".weight", Dtype::I8, &codes[..]), (".weight_scale", Dtype::F32, &[rows, 1][..])];
    let packed = [
        (".weight", Dtype::U8, &[rows, columns / 2][..]),
        (".weight_scale", Dtype::F8_E4M3, &[rows, 240]),
        (".weight_scale_2", Dtype::F32, &[]),
    ];
    let e5m2 = (".weight", Dtype::F8_E5M2, &codes[..]);
    let cases: [(File, &[&str]); 20] = [
        (weight(&[fp8], E4M3), &["FP8 without a scale", "its scale is missing"]),
        (weight(&int8, ""), &["scaled INT8", "nothing says whether it was rotated"]),
        (weight(&int8, r#"{"format": "int8_tensorwise", "convrot_groupsize": 256}"#), &["no `convrot`"]),
        (
            weight(&int8, r#"{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 96}"#),
            &["a power of 4"],
        ),
        (
            weight(&int8, r#"{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 1024}"#),
            &["1024", "3840"],
        ),
        (weight(&packed, ""), &["NVFP4", "in which order"]),
        (weight(&packed, r#"{"format": "nvfp4", "group_size": 32}"#), &["groups of 32", "expected 16"]),
        (weight(&packed, r#"{"format": "mxfp8"}"#), &["says `mxfp8`", "those of NVFP4"]),
        (weight(&[fp8, scale], r#"{"format": "float9"}"#), &["`float9`", "no known format"]),
        (weight(&[fp8, scale], r#"{"format": "float8_e5m2"}"#), &["says E5M2", "its weight is E4M3"]),
        (weight(&[e5m2, scale], E4M3), &["says E4M3", "its weight is E5M2"]),
        (weight(&[fp8, scale], "{"), &["`.comfy_quant` cannot be used"]),
        (weight(&[fp8, scale], r#"{"format": "float8_e4m3fn", "zero_point": 3}"#), &["`zero_point`"]),
        (weight(&[fp8, scale, (".scale_weight", Dtype::F32, &[])], E4M3), &["`layers.1.feed_forward.w1.scale_weight`"]),
        (weight(&[fp8, scale, (".pre_quant_scale", Dtype::F32, &[columns])], E4M3), &["`pre_quant_scale`"]),
        (weight(&[fp8, (".weight_scale", Dtype::F32, &[columns])], E4M3), &["expected [10240]"]),
        (weight(&int8, r#"{"format": "asym_w4a8_int8"}"#), &["codebook"]),
        (weight(&[fp8, (".scale", Dtype::F32, &[rows, 120])], ""), &["FP8 of DeepSeek", "[80, 30]", "one number"]),
        (
            weight(&[fp8, (".weight_scale", Dtype::F8_E8M0, &[rows, 120])], ""),
            &["MXFP8", "in which order its codes and scales lie"],
        ),
        (
            weight(&[(".weight", Dtype::I8, &[rows, 1920]), (".scale", Dtype::F8_E8M0, &[rows, 120])], ""),
            &["MXFP4 of DeepSeek", "which half of a byte"],
        ),
    ];
    for (file, words) in cases {
        let why = file.refusal(layer);
        assert!(words.iter().all(|word| why.contains(word)), "{why} should say {words:?}");
        let assembled = file.open();
        let refused = converted(&assembled, Layout::Mlx, &Conversion { packing: Packing::Plain, ..bf16() });
        assert!(matches!(refused, Err(CannotConvert::Opaque { count: 1, .. })), "{words:?}");
        assert!(assembled.report.refusal.contains(layer) && assembled.report.refusal.contains(words[0]), "{words:?}");
    }
    let unread = File { marks: BTreeMap::new(), ..weight(&[fp8, scale], E4M3) };
    assert!(unread.refusal(layer).contains("was not read"));
    // The file says that its FP8 weights are scaled.
    let mut bare = weight(&[fp8], "");
    assert!(bare.open().layers.coded.contains_key(layer), "a plain cast");
    bare.tensors.push(("scaled_fp8".into(), Dtype::F8_E4M3, vec![0]));
    assert!(bare.refusal(layer).contains("the file says that its FP8 weights are scaled"));
    // Mark and list contradict each other.
    let mut torn = weight(&int8, CONVROT);
    let json = format!(r#"{{"layers": {{"{layer}": {{"format": "int8_tensorwise"}}}}}}"#);
    torn.metadata.insert("_quantization_metadata".into(), json);
    let why = torn.refusal(layer);
    assert!(
        why.contains("`.comfy_quant` says `int8_tensorwise`, rotated by 256") && why.contains("_metadata`"),
        "{why}"
    );
}

#[test]
fn scales_in_bf16_and_a_superfluous_norm_are_no_harm() {
    let mut file = File::of(Dtype::BF16, &is_linear, &|_, shape| {
        (vec![(".weight", Dtype::I8, shape.to_vec()), (".weight_scale", Dtype::BF16, vec![shape[0], 1])], CONVROT)
    });
    file.tensors.push(("norm_final.weight".into(), Dtype::BF16, vec![3840]));
    file.tensors.push(("layers.0.attention.comfy_attention.config".into(), Dtype::U8, vec![20]));
    let assembled = file.open();
    assert!(assembled.report.is_clean() && assembled.report.extra.is_empty(), "{:?}", assembled.report.extra);
    assert!(assembled.layers.opaque.is_empty(), "{:?}", assembled.layers.opaque.keys());
    assert!(
        assembled.report.remarks.iter().any(|remark| remark.contains("norm_final")),
        "{:?}",
        assembled.report.remarks
    );
}

#[test]
fn a_plain_cast_is_a_cast_back_for_every_tensor() {
    let description = Model::real().describe("transformer");
    let tensors = backwards(&entries(&description.catalogue.unwrap(), Dtype::F8_E4M3), &description.rules);
    let assembled = File { tensors, ..File::default() }.open();
    assert!(assembled.report.is_clean() && assembled.report.foreign.is_empty(), "{}", assembled.report.summary());
    assert_eq!(assembled.layers.coded.len(), 521);
    for float in [Float::Bf16, Float::F16, Float::F32] {
        let conversion = Conversion { dtype: Some(float), ..Conversion::default() };
        let plan = converted(&assembled, Layout::Mlx, &conversion).unwrap();
        assert!(plan.tensors.iter().all(|tensor| tensor.dtype == float.dtype() && tensor.at.is_derived()));
    }
}

#[test]
fn coded_layers_go_straight_into_a_scheme_of_mlx() {
    let scheme = |mode| Scheme::new(mode, None, None).unwrap();
    let quantised = |mode| Conversion { packing: Packing::Quantised(scheme(mode), LayerFilter::default()), ..bf16() };
    let file = File::of(Dtype::BF16, &|name| name.starts_with("layers."), &mxfp8);
    let assembled = file.open();
    for mode in [Mode::Affine, Mode::Mxfp8] {
        let plan = converted(&assembled, Layout::Mlx, &quantised(mode)).unwrap();
        let jobs = plan.derivation.unwrap().jobs;
        let job = jobs.iter().find(|job| job.outputs[0].name == "layers.0.feed_forward.w1.weight").unwrap();
        assert_eq!((job.quantise, job.outputs.len()), (Some(scheme(mode)), scheme(mode).slots().count()));
        let Input::Coded { decoding, .. } = &job.input else { panic!("{job:?}") };
        assert_eq!(decoding.is_repacked_as(&scheme(mode)), mode == Mode::Mxfp8);
    }
    let named = Conversion { dtype: Some(Float::F32), ..Conversion::default() };
    let source = converted(&assembled, Layout::Source, &named).unwrap();
    assert!(source.tensors.iter().all(|tensor| tensor.dtype == Dtype::F32), "a dtype that is asked for is given");
}

/// nunchaku's layers, packed for CUDA kernels: fused, so that four stand for seven.
fn svdquant(rank: u64) -> File {
    let mut file = File::default();
    let of_layer = |file: &mut File, layer: &str, rows: u64, columns: u64| {
        let parts: [(&str, Dtype, Vec<u64>); 6] = [
            (".qweight", Dtype::I8, vec![rows, columns / 2]),
            (".wscales", Dtype::BF16, vec![columns / 64, rows]),
            (".smooth_factor", Dtype::BF16, vec![columns]),
            (".smooth_factor_orig", Dtype::BF16, vec![columns]),
            (".proj_down", Dtype::BF16, vec![columns, rank]),
            (".proj_up", Dtype::BF16, vec![rows, rank]),
        ];
        file.tensors.extend(parts.map(|(suffix, dtype, shape)| (format!("{layer}{suffix}"), dtype, shape)));
    };
    for (name, dtype, shape) in entries(&Model::real().catalogue("transformer"), Dtype::BF16) {
        let is_packed = is_linear(&name) && shape.len() == 2 && !name.contains("adaLN");
        let Some(layer) = name.strip_suffix(".weight").filter(|_| is_packed) else {
            file.tensors.push((name, dtype, shape));
            continue;
        };
        let (rows, columns) = (shape[0], shape[1]);
        match layer.rsplit_once('.').unwrap() {
            (block, "to_q") => of_layer(&mut file, &format!("{block}.to_qkv"), 3 * rows, columns),
            (block, "w1") => of_layer(&mut file, &format!("{block}.net.0.proj"), 2 * rows, columns),
            (block, "w2") => of_layer(&mut file, &format!("{block}.net.2"), rows, columns),
            (_, "0") => of_layer(&mut file, layer, rows, columns),
            _ => {}
        }
    }
    file
}

#[test]
fn svdquant_is_audited_by_its_shapes_lent_as_stored_and_refused_by_name() {
    let file = svdquant(128);
    assert_eq!(file.bytes(), 4_011_249_792);
    let assembled = file.open();
    let report = &assembled.report;
    assert!(report.is_clean() && report.extra.is_empty(), "{} {:?}", report.summary(), report.missing.first());
    assert_eq!(report.schemes["SVDQuant"].tensors, 34 * 4);
    assert!(report.refusal.contains("SVDQuant") && report.refusal.contains("CUDA"), "{}", report.refusal);
    let stored = converted(&assembled, Layout::Source, &Conversion::default()).unwrap();
    assert_eq!((stored.tensors.len(), stored.derivation), (file.tensors.len(), None));
    let plain = Conversion { packing: Packing::Plain, ..bf16() };
    let refused = converted(&assembled, Layout::Source, &plain).unwrap_err().to_string();
    assert!(refused.contains("SVDQuant") && refused.contains("CUDA"), "{refused}");
    let mut damaged = file;
    damaged.tensors.iter_mut().find(|(name, ..)| name.ends_with("net.2.proj_down")).unwrap().2[0] += 1;
    let report = damaged.open().report;
    assert!(
        report.wrong_shape.len() == 1 && report.wrong_shape[0].name.ends_with("net.2.proj_down"),
        "{}",
        report.summary()
    );
}
