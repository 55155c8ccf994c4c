//! Adapters for the real models, and for layers of any size.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use weightsd_core::{
    adapter::{
        AdapterError, AdapterInput, AdapterPlan, AdapterRefused, FileStrengths, Incomplete, Targets, Weights, alphas,
        plan,
    },
    derive::Product,
    family::{Family, z_image::ZImage},
    header::Dtype,
};

use crate::common::{Entry, Model, table};

fn targets(component: &str) -> &'static Targets {
    ZImage.adapter_targets(component).unwrap()
}

fn shapes(component: &str) -> BTreeMap<String, Vec<u64>> {
    let catalogue = Model::real().catalogue(component);
    let weights = catalogue.tensors().iter();
    let weight = |name: &str| name.strip_suffix(".weight").map(str::to_owned);
    weights.filter_map(|expected| Some((weight(&expected.name)?, expected.shape.clone()))).collect()
}

fn planned(component: &str, entries: &[Entry]) -> Result<AdapterPlan, AdapterRefused> {
    let catalogue = Model::real().catalogue(component);
    let weights = catalogue.tensors().iter().map(|expected| (expected.name.clone(), expected.shape.clone()));
    planned_for(component, &Weights::new(weights), entries)
}

/// A plan where all alphas are 128.
fn planned_for(component: &str, weights: &Weights, entries: &[Entry]) -> Result<AdapterPlan, AdapterRefused> {
    let tensors = table(entries);
    let alphas = alphas(&tensors).map(|tensor| (tensor.info.name.to_string(), 128.0)).collect();
    let metadata = FileStrengths::default();
    let input = AdapterInput {
        name: "a",
        tensors: &tensors,
        alphas: &alphas,
        config: None,
        metadata: &metadata,
        scale: 0.8,
        incomplete: Incomplete::Refused,
    };
    plan(&input, component, targets(component), weights)
}

/// Attention of one size in the first block.
fn attention(output: u64, input: u64) -> Weights {
    let layers = ["to_q", "to_k", "to_v"].map(|layer| format!("layers.0.attention.{layer}.weight"));
    Weights::new(layers.map(|name| (name, vec![output, input])))
}

/// A pair for a layer, as kohya's trainer names it.
fn pair(base: &str, rank: u64, shape: &[u64]) -> [Entry; 2] {
    let name = |marker| format!("{base}.{marker}.weight");
    [(name("lora_down"), Dtype::BF16, vec![rank, shape[1]]), (name("lora_up"), Dtype::BF16, vec![shape[0], rank])]
}

#[test]
fn the_distilled_adapter_of_the_publisher_changes_204_layers_by_the_factor_1() {
    let mut entries: Vec<Entry> = Vec::new();
    for (layer, shape) in shapes("transformer") {
        let is_changed = [".to_q", ".to_k", ".to_v", ".w1", ".w2", ".w3"].iter().any(|end| layer.ends_with(end));
        if is_changed {
            let base = format!("lora_unet__{}", layer.replace('.', "_"));
            entries.extend(pair(&base, 128, &shape));
            entries.push((format!("{base}.alpha"), Dtype::BF16, Vec::new()));
        }
    }
    let plan = planned("transformer", &entries).unwrap();
    assert_eq!(plan.deltas.len(), 204);
    assert!(!plan.report.is_partial(), "{}", plan.report.summary());
    for (tensor, deltas) in &plan.deltas {
        let [delta] = &deltas[..] else { panic!("{tensor}: {deltas:?}") };
        assert_eq!((delta.alpha, delta.divisor, delta.scale), (128.0, 128.0, 0.8), "{tensor}");
    }
    let refused = planned("text_encoder", &entries).unwrap_err();
    assert!(matches!(*refused.problem, AdapterError::NoTargets { found: 0, other_component: 612, .. }), "{refused}");
}

#[test]
fn every_linear_layer_of_the_transformer_that_a_trainer_knows_is_a_target() {
    let shapes = shapes("transformer");
    let linear: Vec<_> = shapes.iter().filter(|(_, shape)| shape.len() == 2).collect();
    assert_eq!(linear.len(), 276);
    let entries: Vec<Entry> = linear.iter().flat_map(|(layer, shape)| pair(layer, 4, shape)).collect();
    let plan = planned("transformer", &entries).unwrap();
    assert_eq!(plan.report.applied.iter().collect::<BTreeSet<_>>(), linear.iter().map(|(layer, _)| *layer).collect());
    assert!(!plan.report.is_partial());
    // The context refiner has no modulation.
    let absent = pair("context_refiner.0.adaLN_modulation.0", 4, &[15360, 256]);
    let entries = [entries, absent.to_vec()].concat();
    let refused = planned("transformer", &entries).unwrap_err();
    let AdapterError::Incomplete { changed: 276, left_out } = &*refused.problem else { panic!("{refused}") };
    assert_eq!(*left_out, ["1 change without a target (context_refiner.0.adaLN_modulation.0)"]);
}

#[test]
fn a_file_for_both_components_gives_each_its_own() {
    let query = shapes("text_encoder")["model.layers.0.self_attn.q_proj"].clone();
    let entries = [
        pair("lora_unet_layers_0_attention_to_q", 4, &[3840, 3840]),
        pair("lora_te_model_layers_0_self_attn_q_proj", 4, &query),
    ]
    .concat();
    let plan = planned("transformer", &entries).unwrap();
    assert_eq!(plan.report.applied, ["layers.0.attention.to_q"]);
    assert_eq!(plan.report.other_component, [entries[2].0.clone(), entries[3].0.clone()]);
    let plan = planned("text_encoder", &entries).unwrap();
    assert_eq!(plan.report.applied, ["model.layers.0.self_attn.q_proj"]);
    assert_eq!(plan.report.other_component, [entries[0].0.clone(), entries[1].0.clone()]);
}

proptest! {
    #[test]
    fn matrices_of_any_rank_and_order_multiply_to_the_layers_shape(
        (output, input) in (1u64..40, 1u64..40),
        rank in 1u64..40,
        (turn_down, turn_up, is_mlx, ones) in any::<(bool, bool, bool, bool)>(),
        fused in any::<bool>(),
    ) {
        let turned = |shape: [u64; 2], turn: bool| {
            let [rows, columns] = if turn { [shape[1], shape[0]] } else { shape };
            if ones { vec![rows, columns, 1, 1] } else { vec![rows, columns] }
        };
        let (layer, parts) = if fused { ("layers.0.attention.qkv", 3) } else { ("layers.0.attention.to_q", 1) };
        let [down, up] = if is_mlx { ["lora_a", "lora_b"] } else { ["lora_A.weight", "lora_B.weight"] };
        let entries = [
            (format!("{layer}.{down}"), Dtype::F16, turned([rank, input], turn_down)),
            (format!("{layer}.{up}"), Dtype::F16, turned([parts * output, rank], turn_up)),
        ];
        let plan = planned_for("transformer", &attention(output, input), &entries).unwrap();
        prop_assert_eq!(plan.deltas.len() as u64, parts);
        let mut rows: Vec<_> = plan.deltas.values().flatten().map(|delta| delta.rows.clone()).collect();
        rows.sort_by_key(|rows| rows.start);
        prop_assert_eq!(rows, (0..parts).map(|part| part * output..(part + 1) * output).collect::<Vec<_>>());
        for delta in plan.deltas.values().flatten() {
            let Product::LowRank { down, up } = &delta.product else { panic!("{delta:?}") };
            let (down, up) = (down.dimensions().unwrap(), up.dimensions().unwrap());
            prop_assert_eq!(up.1, down.0);
            prop_assert_eq!((up.0, down.1), (parts * output, input));
        }
    }

    #[test]
    fn any_shapes_give_an_answer(
        shapes in proptest::collection::vec(proptest::collection::vec(0u64..7, 0..5), 8),
        markers in proptest::sample::subsequence(
            vec!["lora_A", "lora_B", "lora_a", "lora_b", "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a",
                "lokr_w2_b", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "diff", "alpha", "lokr_t2"],
            0..8,
        ),
    ) {
        let entries: Vec<Entry> = markers
            .iter()
            .zip(shapes)
            .map(|(marker, shape)| (format!("layers.0.attention.to_q.{marker}"), Dtype::F32, shape))
            .collect();
        let plan = planned_for("transformer", &attention(4, 6), &entries);
        let Ok(plan) = plan else { return Ok(()) };
        for delta in plan.deltas.values().flatten() {
            prop_assert_eq!(delta.product.dimensions(), Some((4, 6)));
            prop_assert!(delta.divisor >= 1.0 && delta.rows == (0..4));
        }
    }
}
