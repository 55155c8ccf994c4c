//! Configs as they are found, what they decide about tensors, and what single tensors measure.

use serde_json::json;
use weightsd_core::{
    audit::{Sample, audit},
    family::{
        Family, ModelFacts,
        z_image::{SCHEDULER_CONFIG, SchedulerConfig, TextEncoderConfig, TransformerConfig, VaeConfig, ZImage},
    },
    header::{Dtype, Header, byte_length, dtype_from_name},
    source::SourceId,
};

use crate::common::{Model, entries, table};

fn parse<T: serde::de::DeserializeOwned>(json: &serde_json::Value) -> Result<T, String> {
    serde_json::from_str(&json.to_string()).map_err(|error| error.to_string())
}

fn value(config: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(config).unwrap()
}

#[test]
fn the_four_configs_are_read() {
    let real = Model::real();
    let mut transformer = value(&real.transformer);
    transformer["norm_eps"] = json!(1e-6);
    transformer["axes_lens"] = json!([1, 128, 128]);
    transformer["unknown_key"] = json!({"ignored": true});
    let found: TransformerConfig = parse(&transformer).unwrap();
    assert!((found.norm_eps - 1e-6).abs() < f64::EPSILON);
    assert_eq!((found.axes_lens, found.dim, found.n_layers), ([1, 128, 128], 3840, 30));
    let text_encoder: TextEncoderConfig = parse(&value(&real.text_encoder)).unwrap();
    assert_eq!((text_encoder.num_hidden_layers, text_encoder.intermediate_size), (36, 9728));
    assert_eq!(parse::<VaeConfig>(&value(&real.vae)).unwrap(), real.vae);
    let scheduler = json!({"num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": true, "base_shift": 0.5,
        "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096});
    let full: SchedulerConfig = parse(&scheduler).unwrap();
    assert_eq!((full.base_shift, full.max_image_seq_len), (Some(0.5), Some(4096)));
}

#[test]
fn a_short_scheduler_config_has_no_options() {
    for shift in [3.0, 6.0] {
        let found: SchedulerConfig =
            parse(&json!({"num_train_timesteps": 1000, "shift": shift, "use_dynamic_shifting": false})).unwrap();
        assert!((found.shift - shift).abs() < f64::EPSILON);
        assert_eq!((found.base_shift, found.max_shift), (None, None));
        assert_eq!((found.base_image_seq_len, found.max_image_seq_len), (None, None));
    }
}

#[test]
fn numbers_keep_their_precision() {
    let mut written = value(&Model::real().text_encoder);
    written["rope_theta"] = json!(1.000_000_1);
    written["vocab_size"] = json!(4_000_000_000_u64);
    let found: TextEncoderConfig = parse(&written).unwrap();
    assert_eq!(value(&found)["rope_theta"], json!(1.000_000_1));
    assert_eq!(found.vocab_size, 4_000_000_000);
    written["rope_theta"] = json!(1_000_000);
    assert!(
        (parse::<TextEncoderConfig>(&written).unwrap().rope_theta - 1e6).abs() < f64::EPSILON,
        "an integer will do"
    );
}

#[test]
fn incomplete_configs_are_errors_that_name_the_key() {
    let real = Model::real();
    let cases = [
        ("transformer", value(&real.transformer), "n_heads"),
        ("text_encoder", value(&real.text_encoder), "hidden_size"),
        ("vae", value(&real.vae), "scaling_factor"),
    ];
    for (component, mut config, key) in cases {
        config.as_object_mut().unwrap().remove(key);
        for json in [config.to_string(), config.to_string()[1..].to_owned()] {
            let path = format!("{component}/config.json");
            let facts = ModelFacts { files: vec![], documents: [(path.clone(), json.into_bytes())].into() };
            let site = ZImage.components(&facts).into_iter().find(|site| site.name == component).unwrap();
            let error = ZImage.describe(&site, &facts).unwrap_err().to_string();
            assert!(error.contains(&path), "{error}");
        }
        let facts = ModelFacts {
            files: vec![],
            documents: [(format!("{component}/config.json"), config.to_string().into_bytes())].into(),
        };
        let site = ZImage.components(&facts).into_iter().find(|site| site.name == component).unwrap();
        assert!(ZImage.describe(&site, &facts).unwrap_err().to_string().contains(key));
        assert!(!ZImage.configs(&facts).contains_key("scheduler"), "{SCHEDULER_CONFIG} is not there");
    }
}

#[test]
fn images_are_scaled_by_blocks() {
    let mut vae = Model::real().vae;
    assert_eq!((vae.scale_factor(), vae.picture_multiple()), (8, 16));
    for (blocks, factor) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
        vae.block_out_channels = vec![32; blocks];
        assert_eq!(vae.scale_factor(), factor);
    }
}

#[test]
fn head_norms_are_required_where_heads_are_normed() {
    let mut model = Model::real();
    let name = "layers.0.attention.norm_q.weight";
    assert!(model.catalogue("transformer").contains(name));
    assert!(model.catalogue("transformer").contains("layers.0.attention.norm_k.weight"));
    model.transformer.qk_norm = false;
    let catalogue = model.catalogue("transformer");
    assert!(!catalogue.contains(name));
    assert_eq!(catalogue.tensors().len(), 521 - 2 * 34);
}

#[test]
fn coverage_is_the_share_that_matches() {
    let catalogue = Model::real().catalogue("transformer");
    let all = entries(&catalogue, Dtype::BF16);
    let coverage = |entries: &[crate::common::Entry]| audit("transformer", &table(entries), Some(&catalogue), vec![]);
    let full = coverage(&all);
    assert!((full.coverage().unwrap() - 1.0).abs() < f64::EPSILON && full.is_clean());
    // Four names were nearly enough for the old audit; here one that is missing is one too many.
    let four = coverage(&all[..4]);
    assert!(four.coverage().unwrap() < 0.01 && !four.is_clean());
    let but_one = coverage(&all[1..]);
    assert!(but_one.coverage().unwrap() > 0.99 && !but_one.is_clean());
    for name in ["cap_embedder.0.weight", "cap_embedder.1.weight", "cap_embedder.1.bias", "x_pad_token"] {
        assert!(catalogue.contains(name), "{name} counts");
    }
    assert_eq!(audit("x", &table(&all), None, vec![]).coverage(), None);
    // Samples show the first names and say how many more there are; the list itself is whole.
    assert_eq!(four.missing.len(), 517);
    let sample = Sample::of(&four.missing, 2);
    let expected = format!("{}, {}, … (515 more)", four.missing[0], four.missing[1]);
    assert_eq!(sample.to_string(), expected);
    assert_eq!(Sample::of(&four.missing[..2], 2).to_string(), four.missing[..2].join(", "));
}

#[test]
fn the_report_counts_shapes_dtypes_and_origins() {
    let catalogue = Model::real().catalogue("vae");
    let mut own = entries(&catalogue, Dtype::BF16);
    own[0].1 = Dtype::F32;
    let report = audit("vae", &table(&own), Some(&catalogue), vec![]);
    assert_eq!(report.dtypes["F32"].tensors, 1);
    assert_eq!(report.dtypes["BF16"].tensors, 243);
    assert_eq!(report.shapes.values().map(|total| total.tensors).sum::<u32>(), 244);
    assert_eq!(report.shapes.values().map(|total| total.bytes).sum::<u64>(), report.tensor_bytes);
    assert_eq!(report.shapes[&vec![512, 512]].tensors, 8, "four projections in each half");
    assert_eq!(report.origins[&SourceId(0)].as_they_are, 244);
    assert!(report.remarks.iter().any(|remark| remark.contains("several dtypes")));
}

#[test]
fn tensors_measure_what_the_format_says() {
    let count = |shape: &[u64]| byte_length(Dtype::U8, shape).unwrap();
    assert_eq!((count(&[10, 20, 30]), count(&[256]), count(&[])), (6000, 256, 1));
    let sizes = [
        ("F64", 8),
        ("I64", 8),
        ("U64", 8),
        ("F32", 4),
        ("I32", 4),
        ("U32", 4),
        ("F16", 2),
        ("BF16", 2),
        ("I16", 2),
        ("U16", 2),
        ("I8", 1),
        ("U8", 1),
        ("BOOL", 1),
        ("F8_E4M3", 1),
    ];
    for (name, bytes) in sizes {
        assert_eq!(byte_length(dtype_from_name(name).unwrap(), &[]), Some(bytes), "{name}");
    }
    let json = br#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    let header = Header::parse(json, 8 + json.len() as u64 + 16).unwrap();
    assert_eq!(header.get("a").unwrap().bytes(), 16);
    assert!(header.get("b").is_none());
}
