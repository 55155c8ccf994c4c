//! From an adapter's tensors to what it adds to each layer of a component.

use std::{collections::BTreeMap, ops::Range};

use super::{
    AdapterConfig, AdapterError, AdapterRefused, AdapterReport, Change, LayerKeys, Targets, Written,
    error::sample,
    fit::{Frame, Tensors},
    recognise,
};
use crate::{
    derive::{Alpha, Delta},
    layer_name::layer_of,
    shown::shown,
    table::Table,
};

/// An adapter that somebody wants to be applied.
#[derive(Debug, Clone, Copy)]
pub struct AdapterInput<'a> {
    /// Its name in errors and reports.
    pub name: &'a str,
    /// The tensors of its files.
    pub tensors: &'a Table,
    /// Its config, when there is one.
    pub config: Option<&'a AdapterConfig>,
    /// How much of it is wanted: 1 for all, negative for the opposite.
    pub scale: f64,
}

/// What an adapter adds, and what of it is left out.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterPlan {
    /// By layer: the name of its weight in the catalogue, without `.weight`.
    pub deltas: BTreeMap<String, Delta>,
    /// What was done.
    pub report: AdapterReport,
}

/// Plans an adapter for a component, whose layers have the names of `targets`. `blocks_of` gives the number of blocks
/// in a list, `shape_of` the shape `[output, input]` of a layer of the catalogue, unpacked where it is quantised.
///
/// A change of several layers at once is as high as all of them, and each takes its rows.
///
/// # Errors
/// [`AdapterRefused`].
pub fn plan(
    input: &AdapterInput<'_>,
    component: &str,
    targets: &Targets,
    blocks_of: impl Fn(&str) -> u64,
    shape_of: impl Fn(&str) -> Option<Vec<u64>>,
) -> Result<AdapterPlan, AdapterRefused> {
    deltas(input, component, targets, blocks_of, shape_of)
        .map_err(|problem| AdapterRefused { adapter: shown(input.name), problem })
}

fn deltas(
    input: &AdapterInput<'_>,
    component: &str,
    targets: &Targets,
    blocks_of: impl Fn(&str) -> u64,
    shape_of: impl Fn(&str) -> Option<Vec<u64>>,
) -> Result<AdapterPlan, AdapterError> {
    if !input.scale.is_finite() || input.scale == 0.0 {
        return Err(AdapterError::Scale { found: input.scale });
    }
    if let Some(sign) = input.config.and_then(AdapterConfig::dora) {
        return Err(AdapterError::Dora { sign });
    }
    let names = input.tensors.tensors().iter().map(|tensor| &*tensor.info.name);
    let found = recognise(names, targets, blocks_of)?;
    let tensors = Tensors { table: input.tensors };
    let mut deltas = BTreeMap::new();
    let mut without_target = found.without_target;
    let mut remarks = Remarks::default();
    for keys in found.layers {
        let Some(place) = Place::of(&keys, &shape_of) else {
            without_target.push(targets.stripped(&keys.base).to_owned());
            continue;
        };
        let frame = Frame { layer: &keys.fused[0], output: place.output, input: place.input };
        let (product, rank) = tensors.product(&keys.change, frame)?;
        let (alpha, divisor) = factor(&keys, rank, tensors, input.config)?;
        remarks.note(&keys, rank, input.config);
        deltas.insert(keys.target.layer, Delta { product, scale: input.scale, alpha, divisor, rows: place.rows });
    }
    without_target.sort_unstable();
    without_target.dedup();
    if deltas.is_empty() {
        return Err(AdapterError::no_targets(without_target, found.other_component.len()));
    }
    let report = AdapterReport {
        adapter: shown(input.name),
        component: component.to_owned(),
        applied: deltas.keys().cloned().collect(),
        without_target,
        without_partner: found.without_partner,
        other_component: found.other_component,
        unsupported: found.unsupported.into_iter().map(|(kind, keys)| (kind.to_string(), keys)).collect(),
        unknown: found.unknown,
        remarks: remarks.said(input.config),
    };
    Ok(AdapterPlan { deltas, report })
}

/// Where in a change a layer is.
struct Place {
    /// Rows of the change.
    output: u64,
    /// Columns of the change.
    input: u64,
    /// Rows of the layer.
    rows: Range<u64>,
}

impl Place {
    /// `None` when one of the layers is not there, or no matrix.
    fn of(keys: &LayerKeys, shape_of: impl Fn(&str) -> Option<Vec<u64>>) -> Option<Self> {
        let (mut output, mut input, mut rows) = (0u64, None, None);
        for (part, layer) in (0..).zip(&keys.fused) {
            let [height, width] = shape_of(layer)?[..] else { return None };
            if *input.get_or_insert(width) != width {
                return None;
            }
            let begin = output;
            output = output.checked_add(height)?;
            if part == keys.target.part.0 {
                rows = Some(begin..output);
            }
        }
        Some(Self { output, input: input?, rows: rows? })
    }
}

/// By what a product is multiplied and divided: the layer's own alpha, else the config's, else nothing.
fn factor(
    keys: &LayerKeys,
    rank: Option<u64>,
    tensors: Tensors<'_>,
    config: Option<&AdapterConfig>,
) -> Result<(Alpha, f64), AdapterError> {
    let stored = keys.alpha.as_deref().map(|key| tensors.scalar(key)).transpose()?;
    let configured = match (rank, &keys.change) {
        (Some(rank), _) => config.and_then(|config| config.factor_of(module(keys), rank)),
        // An alpha beside whole factors says nothing, and that it is there says that LyCORIS wrote them.
        (None, Change::Kronecker { .. }) if stored.is_none() => {
            config.and_then(|config| config.factor_of_whole(module(keys)))
        }
        (None, _) => None,
    };
    Ok(match (stored, rank, configured) {
        (Some(alpha), Some(rank), _) => (Alpha::Stored(alpha), rank as f64),
        (_, _, Some(factor)) => (Alpha::Value(factor.alpha), factor.divisor),
        _ => (Alpha::One, 1.0),
    })
}

/// The name of the module in the trainer's words.
fn module(keys: &LayerKeys) -> &str {
    layer_of(&keys.base).unwrap_or(&keys.base)
}

/// What is noticed on the way.
#[derive(Default)]
struct Remarks {
    other_ranks: Vec<String>,
    has_mlx: bool,
}

impl Remarks {
    fn note(&mut self, keys: &LayerKeys, rank: Option<u64>, config: Option<&AdapterConfig>) {
        let told = config.and_then(|config| config.rank_of(module(keys)));
        if rank.is_some() && told.is_some() && rank != told {
            self.other_ranks.push(keys.target.layer.clone());
        }
        self.has_mlx |= matches!(&keys.change, Change::LowRank(pair) if pair.written == Written::Mlx);
    }

    fn said(self, config: Option<&AdapterConfig>) -> Vec<String> {
        let mut said = Vec::new();
        match config {
            Some(config) if !self.other_ranks.is_empty() => said.push(format!(
                "`{}` gives another rank than the matrices have, whose is taken ({})",
                config.path(),
                sample(&self.other_ranks)
            )),
            None if self.has_mlx => {
                said.push(
                    "mlx-lm writes the scale of an adapter into its config, which is not there: 1 is taken".to_owned(),
                );
            }
            _ => {}
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        derive::{Factor, Product},
        header::{Dtype, TensorInfo, byte_length},
        source::SourceId,
        table::Sourced,
    };

    const OUTPUT: u64 = 12;
    const INPUT: u64 = 8;

    /// Two blocks with a wide layer `w`, a square one `s`, and three that may be fused, one of them higher.
    static TARGETS: Targets = Targets {
        prefixes: &["base_model.model.", "model."],
        others: &["te."],
        blocks: &[("layers", "layers")],
        layers: &[("w", &["w"]), ("s", &["s"]), ("absent", &["absent"]), ("qkv", &["q", "k", "v"])],
        singles: &[],
    };

    fn shape_of(layer: &str) -> Option<Vec<u64>> {
        match layer.rsplit('.').next()? {
            "w" => Some(vec![OUTPUT, INPUT]),
            "s" => Some(vec![4, 4]),
            "q" => Some(vec![10, INPUT]),
            "k" | "v" => Some(vec![5, INPUT]),
            _ => None,
        }
    }

    type Tensor<'a> = (&'a str, Dtype, &'a [u64]);

    fn table(tensors: &[Tensor]) -> Table {
        let mut begin = 100;
        let sourced = |(number, &(name, dtype, shape)): (u32, &Tensor<'_>)| {
            let range = begin..begin + byte_length(dtype, shape).unwrap();
            begin = range.end;
            let info = TensorInfo { name: name.into(), dtype, shape: shape.to_vec(), range };
            Sourced { source: SourceId(5 + number % 2), info, origin: None, packed: None }
        };
        Table::of((0..).zip(tensors).map(sourced).collect()).unwrap()
    }

    fn plan_with(tensors: &[Tensor], config: Option<&AdapterConfig>, scale: f64) -> Result<AdapterPlan, AdapterError> {
        let tensors = table(tensors);
        let input = AdapterInput { name: "style", tensors: &tensors, config, scale };
        plan(&input, "transformer", &TARGETS, |_| 2, shape_of).map_err(|refused| {
            assert!(refused.to_string().starts_with("adapter `style`: "), "{refused}");
            refused.problem
        })
    }

    /// A plan of F32 matrices.
    fn planned(tensors: &[(&str, &[u64])], config: Option<&AdapterConfig>) -> Result<AdapterPlan, AdapterError> {
        let tensors: Vec<_> = tensors.iter().map(|&(name, shape)| (name, Dtype::F32, shape)).collect();
        plan_with(&tensors, config, 1.0)
    }

    fn config(json: &str) -> AdapterConfig {
        AdapterConfig::parse("adapter_config.json", json.as_bytes()).unwrap()
    }

    fn only(plan: AdapterPlan) -> Delta {
        assert_eq!(plan.deltas.len(), 1);
        plan.deltas.into_values().next().unwrap()
    }

    #[test]
    fn a_pair_becomes_a_delta() {
        let tensors: [Tensor; 3] = [
            ("layers.1.w.alpha", Dtype::I64, &[]),
            ("layers.1.w.lora_A.weight", Dtype::BF16, &[2, INPUT, 1, 1]),
            ("layers.1.w.lora_B.weight", Dtype::F16, &[OUTPUT, 2]),
        ];
        let plan = plan_with(&tensors, None, -0.5).unwrap();
        assert_eq!(plan.report.applied, ["layers.1.w"]);
        assert!(!plan.report.is_partial());
        assert_eq!(plan.report.summary(), "adapter `style` changes 1 layer of `transformer`");
        let delta = only(plan);
        assert_eq!((delta.scale, delta.divisor, delta.rows), (-0.5, 2.0, 0..OUTPUT));
        assert!(
            matches!(delta.alpha, Alpha::Stored(slice) if slice.source == SourceId(5) && slice.range == (100..108))
        );
        let Product::LowRank { down, up } = delta.product else { panic!() };
        assert_eq!((down.slice.source, down.slice.shape, down.slice.dtype), (SourceId(6), vec![2, INPUT], Dtype::BF16));
        assert_eq!((up.slice.source, up.slice.shape, up.transposed), (SourceId(5), vec![OUTPUT, 2], false));
    }

    #[test]
    fn matrices_may_be_written_either_way() {
        let (torch, mlx) = (["lora_A.weight", "lora_B.weight"], ["lora_a", "lora_b"]);
        let cases = [
            ("w", torch, [2, INPUT], [OUTPUT, 2], (false, false)),
            ("w", torch, [INPUT, 2], [2, OUTPUT], (true, true)),
            ("w", torch, [INPUT, 2], [OUTPUT, 2], (true, false)),
            ("w", torch, [2, INPUT], [2, OUTPUT], (false, true)),
            ("w", mlx, [INPUT, 2], [2, OUTPUT], (true, true)),
            // All of the rank: every order fits, and the writer's own is meant.
            ("s", torch, [4, 4], [4, 4], (false, false)),
            ("s", mlx, [4, 4], [4, 4], (true, true)),
            ("w", torch, [INPUT, INPUT], [OUTPUT, INPUT], (false, false)),
        ];
        for (layer, markers, down, up, expected) in cases {
            let names = markers.map(|marker| format!("layers.0.{layer}.{marker}"));
            let delta = only(planned(&[(&names[0], &down), (&names[1], &up)], None).unwrap());
            let Product::LowRank { down, up } = delta.product else { panic!() };
            assert_eq!((down.transposed, up.transposed), expected, "{names:?}");
            assert_eq!((delta.alpha, delta.divisor), (Alpha::One, 1.0));
        }
    }

    #[test]
    fn a_fused_layer_is_divided_by_rows() {
        let plan = planned(&[("layers.0.qkv.lora_A", &[2, INPUT]), ("layers.0.qkv.lora_B", &[20, 2])], None).unwrap();
        let rows: Vec<_> = plan.deltas.iter().map(|(layer, delta)| (layer.as_str(), delta.rows.clone())).collect();
        assert_eq!(rows, [("layers.0.k", 10..15), ("layers.0.q", 0..10), ("layers.0.v", 15..20)]);
        assert!(plan.deltas.values().all(|delta| delta.product.dimensions() == Some((20, INPUT))));
    }

    #[test]
    fn kronecker_factors_may_be_products() {
        let alpha = ("layers.0.w.alpha", &[][..]);
        let (w1, w1_a, w1_b) = ("layers.0.w.lokr_w1", "layers.0.w.lokr_w1_a", "layers.0.w.lokr_w1_b");
        let (w2, w2_a, w2_b) = ("layers.0.w.lokr_w2", "layers.0.w.lokr_w2_a", "layers.0.w.lokr_w2_b");
        let whole = planned(&[alpha, (w1, &[3, 2]), (w2, &[4, 4])], None).unwrap();
        let delta = only(whole);
        assert_eq!((delta.alpha, delta.divisor), (Alpha::One, 1.0), "an alpha beside whole factors is not theirs");
        let mixed = only(planned(&[alpha, (w1, &[3, 2]), (w2_a, &[4, 1]), (w2_b, &[1, 4])], None).unwrap());
        assert!(matches!(mixed.alpha, Alpha::Stored(_)));
        assert_eq!(mixed.divisor, 1.0);
        assert!(matches!(mixed.product, Product::Kronecker { first: Factor::Whole(_), second: Factor::Product(_, _) }));
        let mixed = only(planned(&[alpha, (w1_a, &[3, 2]), (w1_b, &[2, 2]), (w2, &[4, 4])], None).unwrap());
        assert_eq!(mixed.divisor, 2.0);
        let both = [(w1_a, &[3, 2][..]), (w1_b, &[2, 2]), (w2_a, &[4, 2]), (w2_b, &[2, 4])];
        let delta = only(planned(&both, None).unwrap());
        assert_eq!((delta.alpha, delta.divisor), (Alpha::One, 1.0), "no alpha is alpha = rank");
        assert_eq!(delta.product.dimensions(), Some((OUTPUT, INPUT)));
        let peft = config(r#"{"peft_type": "LOKR", "r": 8, "alpha": 4}"#);
        let delta = only(planned(&[(w1, &[3, 2]), (w2, &[4, 4])], Some(&peft)).unwrap());
        assert_eq!((delta.alpha, delta.divisor), (Alpha::Value(4.0), 8.0));
        for wrong in [[(w1, &[3, 2][..]), (w2, &[4, 3])], [(w1, &[3, 2, 2]), (w2, &[4, 4])]] {
            assert!(matches!(planned(&wrong, None), Err(AdapterError::Shape { .. })));
        }
        let wrong = [(w1, &[3, 2][..]), (w2_a, &[4, 2]), (w2_b, &[1, 4])];
        assert!(matches!(planned(&wrong, None), Err(AdapterError::Shape { .. })));
    }

    #[test]
    fn loha_and_whole_differences_are_planned() {
        let names = ["w1_a", "w1_b", "w2_a", "w2_b"].map(|marker| format!("layers.0.w.hada_{marker}"));
        let shapes: [&[u64]; 4] = [&[OUTPUT, 3], &[3, INPUT], &[OUTPUT, 3], &[3, INPUT]];
        let mut tensors: Vec<_> = names.iter().map(String::as_str).zip(shapes).collect();
        tensors.push(("layers.0.w.alpha", &[1]));
        let delta = only(planned(&tensors, None).unwrap());
        assert!(matches!(delta.product, Product::Hadamard { .. }) && matches!(delta.alpha, Alpha::Stored(_)));
        assert_eq!(delta.divisor, 3.0);
        let delta = only(planned(&[("layers.0.w.diff", &[OUTPUT, INPUT])], None).unwrap());
        assert!(matches!(delta.product, Product::Full(_)));
        assert_eq!((delta.alpha, delta.divisor), (Alpha::One, 1.0));
        assert!(matches!(planned(&[("layers.0.w.diff", &[INPUT, OUTPUT])], None), Err(AdapterError::Shape { .. })));
    }

    #[test]
    fn the_factor_is_the_layers_then_the_configs() {
        let pair: [(&str, &[u64]); 2] = [
            ("base_model.model.layers.0.w.lora_A.weight", &[4, INPUT]),
            ("base_model.model.layers.0.w.lora_B.weight", &[OUTPUT, 4]),
        ];
        let cases = [
            (r#"{"r": 4, "lora_alpha": 8}"#, 8.0, 4.0),
            (r#"{"r": 4, "lora_alpha": 8, "use_rslora": true}"#, 8.0, 2.0),
            (r#"{"r": 4, "lora_alpha": 8, "alpha_pattern": {"w": 6}}"#, 6.0, 4.0),
            (r#"{"r": 4, "lora_alpha": 8, "alpha_pattern": {"layers.1.w": 6}}"#, 8.0, 4.0),
            (r#"{"lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.0}}"#, 20.0, 1.0),
        ];
        for (json, alpha, divisor) in cases {
            let delta = only(planned(&pair, Some(&config(json))).unwrap());
            assert_eq!((delta.alpha, delta.divisor), (Alpha::Value(alpha), divisor), "{json}");
        }
        let own = [pair[0], pair[1], ("base_model.model.layers.0.w.alpha", &[1, 1])];
        let delta = only(planned(&own, Some(&config(r#"{"r": 4, "lora_alpha": 8, "use_rslora": true}"#))).unwrap());
        assert!(matches!(delta.alpha, Alpha::Stored(_)) && delta.divisor == 4.0);
        assert_eq!(only(planned(&pair, Some(&config("{}"))).unwrap()).alpha, Alpha::One);
    }

    #[test]
    fn what_is_untidy_is_remarked() {
        let pair: [(&str, &[u64]); 2] = [("layers.0.w.lora_a", &[INPUT, 4]), ("layers.0.w.lora_b", &[4, OUTPUT])];
        let said = planned(&pair, None).unwrap().report.summary();
        assert!(said.contains("1 is taken"), "{said}");
        let said = planned(&pair, Some(&config(r#"{"r": 8}"#))).unwrap().report.summary();
        assert!(said.contains("another rank") && said.contains("layers.0.w"), "{said}");
        let told = config(r#"{"lora_parameters": {"rank": 4, "scale": 2.0}}"#);
        assert!(planned(&pair, Some(&told)).unwrap().report.remarks.is_empty());
    }

    #[test]
    fn what_is_left_out_is_reported() {
        let tensors: [(&str, &[u64]); 12] = [
            ("layers.0.w.lora_A", &[2, INPUT]),
            ("layers.0.w.lora_B", &[OUTPUT, 2]),
            ("layers.0.w.lora_B.bias", &[OUTPUT]),
            ("layers.0.absent.lora_A", &[2, INPUT]),
            ("layers.0.absent.lora_B", &[OUTPUT, 2]),
            ("model.layers.7.w.lora_A", &[2, INPUT]),
            ("model.layers.7.w.lora_B", &[OUTPUT, 2]),
            ("layers.1.w.lora_A", &[2, INPUT]),
            ("te.layers.0.w.lora_A", &[2, 3]),
            ("te.layers.0.w.lora_B", &[3, 2]),
            ("layers.1.s.lokr_t2", &[2, 2]),
            ("note", &[1]),
        ];
        let report = planned(&tensors, None).unwrap().report;
        assert!(report.is_partial());
        assert_eq!(report.without_target, ["layers.0.absent", "layers.7.w"]);
        assert_eq!(report.without_partner, ["layers.1.w.lora_A"]);
        assert_eq!(report.other_component, ["te.layers.0.w.lora_A", "te.layers.0.w.lora_B"]);
        assert_eq!(
            report.summary(),
            "adapter `style` changes 1 layer of `transformer`; not applied: 2 changes without a target \
             (layers.0.absent, layers.7.w), 1 key without its partner (layers.1.w.lora_A), 1 unknown key (note), \
             1 key of Tucker cores (layers.1.s.lokr_t2), 1 key of biases (layers.0.w.lora_B.bias); for another component: 2 keys"
        );
        let report = planned(&[tensors[0], tensors[1], tensors[8], tensors[9]], None).unwrap().report;
        assert!(!report.is_partial(), "the other component's share is not missing here");
    }

    #[test]
    fn what_cannot_be_applied_is_refused_with_a_reason() {
        let (down, up) = ("layers.0.w.lora_A", "layers.0.w.lora_B");
        let good: [Tensor; 2] = [(down, Dtype::F32, &[2, INPUT]), (up, Dtype::F32, &[OUTPUT, 2])];
        let cases: [(&[Tensor], &str); 8] = [
            (
                &[(down, Dtype::F32, &[2, 7]), good[1]],
                "layer `layers.0.w`: `layers.0.w.lora_A`: expected [rank, 8] and [12, rank], or either one transposed, found [2, 7] and [12, 2]",
            ),
            (&[good[0], (up, Dtype::F32, &[OUTPUT, 3])], "`layers.0.w.lora_B`: expected [rank, 8]"),
            (&[(down, Dtype::F32, &[0, INPUT]), (up, Dtype::F32, &[OUTPUT, 0])], "found [0, 8]"),
            (&[(down, Dtype::F32, &[2, INPUT, 3, 3]), good[1]], "found [2, 8, 3, 3]"),
            (&[(down, Dtype::I8, &[2, INPUT]), good[1]], "`layers.0.w.lora_A` is I8, expected F32, F16 or BF16"),
            (&[good[0], good[1], ("layers.0.w.alpha", Dtype::F32, &[2])], "has shape [2], expected one element"),
            (&[good[0], good[1], ("layers.0.w.alpha", Dtype::BOOL, &[])], "is BOOL, expected a float or an integer"),
            (
                &[("layers.0.absent.lora_A", Dtype::F32, &[2, 2]), ("layers.0.absent.lora_B", Dtype::F32, &[2, 2])],
                "zero valid target layers: 1 changes, and none is for a layer of this model: layers.0.absent",
            ),
        ];
        for (tensors, expected) in cases {
            let said = plan_with(tensors, None, 1.0).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
        for scale in [0.0, -0.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(plan_with(&good, None, scale), Err(AdapterError::Scale { .. })), "{scale}");
        }
    }

    #[test]
    fn dora_is_refused_by_key_and_by_config() {
        let pair: [(&str, &[u64]); 3] = [
            ("layers.0.w.lora_A", &[2, INPUT]),
            ("layers.0.w.lora_B", &[OUTPUT, 2]),
            ("layers.1.w.lora_magnitude_vector", &[OUTPUT]),
        ];
        let said = planned(&pair, None).unwrap_err().to_string();
        assert!(said.contains("DoRA") && said.contains(pair[2].0), "{said}");
        let said = planned(&pair[..2], Some(&config(r#"{"use_dora": true}"#))).unwrap_err().to_string();
        assert!(said.contains("`use_dora` is true in `adapter_config.json`"), "{said}");
    }
}
