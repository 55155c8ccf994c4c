//! From an adapter's tensors to what it does to each tensor of a component.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    AdapterConfig, AdapterConfigError, AdapterError, AdapterRefused, AdapterReport, AppliedStrength, Change,
    FileStrengths, LayerChange, Side, StrengthSource, Targets, Twin, Weights, WholeWeights,
    agreement::{ROUNDING, Statement, agreed},
    config::{Method, Saved},
    fit::{Frame, Tensors},
    recognise,
    strength::Strength,
    twin,
};
use crate::{
    derive::{Delta, Effect},
    layer_name::{BIAS, layer_of},
    shown::shown,
    table::Table,
    tool::Tool,
};

/// What PEFT puts before the names of modules.
const PEFT_PREFIX: &str = "base_model.model.";

/// An adapter that somebody wants to be applied.
#[derive(Debug, Clone, Copy)]
pub struct AdapterInput<'a> {
    /// Its name in errors and reports.
    pub name: &'a str,
    /// The tensors of its file.
    pub tensors: &'a Table,
    /// The values of [`super::alphas`], by key.
    pub alphas: &'a BTreeMap<String, f64>,
    /// The config that is its own, when there is one.
    pub config: Option<&'a AdapterConfig>,
    /// What the metadata of its file says.
    pub metadata: &'a FileStrengths,
    /// The factor on all of its changes; a negative one subtracts them.
    pub scale: f64,
    /// What becomes of an adapter that cannot be applied whole.
    pub incomplete: Incomplete,
}

/// What becomes of an adapter that cannot be applied whole. Tensors of another component are never missing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incomplete {
    /// It is refused: half an adapter is another model.
    Refused,
    /// The part that fits is applied, and the report names the rest.
    Reported,
}

/// The changes that an adapter makes, and the parts of it that are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterPlan {
    /// By the catalogue name of the tensor that is changed, in the order in which they count.
    pub deltas: BTreeMap<String, Vec<Delta>>,
    /// Changes that are planned once and written twice: the plan holds only if these are equal.
    pub twins: Vec<Twin>,
    /// What was done.
    pub report: AdapterReport,
}

/// Plans an adapter for the component that has `weights`, whose layers have the names of `targets`.
///
/// A change of several layers at once is as high as all of them, and each takes its rows.
///
/// # Errors
/// When it changes nothing of the component, when its tensors do not fit or say two things, and when a part of it cannot
/// be applied and `input` refuses that.
pub fn plan(
    input: &AdapterInput<'_>,
    component: &str,
    targets: &Targets,
    weights: &Weights,
) -> Result<AdapterPlan, AdapterRefused> {
    planned(input, component, targets, weights)
        .map_err(|problem| AdapterRefused { adapter: shown(input.name), problem: Box::new(problem) })
}

/// Adds the deltas of one more adapter to those of others.
///
/// # Errors
/// When one adapter replaces a tensor that another one changes: the result would depend on their order.
pub fn merge(
    all: &mut BTreeMap<String, Vec<Delta>>,
    deltas: BTreeMap<String, Vec<Delta>>,
    adapter: &str,
) -> Result<(), AdapterRefused> {
    for (tensor, mut more) in deltas {
        let before = all.entry(tensor.clone()).or_default();
        let replaces = |deltas: &[Delta]| deltas.iter().any(|delta| delta.effect == Effect::Replaces);
        if !before.is_empty() && (replaces(before) || replaces(&more)) {
            let problem = Box::new(AdapterError::ReplacedAndChanged { layer: tensor });
            return Err(AdapterRefused { adapter: shown(adapter), problem });
        }
        before.append(&mut more);
    }
    Ok(())
}

fn planned(
    input: &AdapterInput<'_>,
    component: &str,
    targets: &Targets,
    weights: &Weights,
) -> Result<AdapterPlan, AdapterError> {
    if !input.scale.is_finite() || input.scale == 0.0 {
        return Err(AdapterError::Scale { found: input.scale });
    }
    let whole = match input.config.map(AdapterConfig::saved) {
        Some(Saved::Everything) => WholeWeights::Expected,
        Some(Saved::Modules(modules)) if !modules.is_empty() => WholeWeights::Expected,
        _ => WholeWeights::BesideChanges,
    };
    let names = input.tensors.tensors().iter().map(|tensor| &*tensor.info.name);
    let mut found = recognise(names, targets, weights, whole)?;
    let tensors = Tensors { table: input.tensors, alphas: input.alphas };
    let mut planner = Planner::new(input, targets, weights, tensors);
    for change in &found.changes {
        if !planner.add(change)? {
            let side = if change.side == Side::Bias { BIAS } else { "" };
            found.without_target.push(format!("{}{side}", targets.stripped(&change.base)));
        }
    }
    found.without_target.sort_unstable();
    found.without_target.dedup();
    if planner.deltas.is_empty() {
        return Err(AdapterError::no_targets(found.without_target, found.other_component.len()));
    }
    let saved = planner.saved(&found.changes);
    let (deltas, twins, mut report) = planner.finish(component);
    report.without_target = found.without_target;
    report.without_partner = found.without_partner;
    report.other_component = found.other_component;
    report.unsupported = found.unsupported.into_iter().map(|(kind, keys)| (kind.to_string(), keys)).collect();
    report.unknown = found.unknown;
    let left_out = report.left_out();
    if input.incomplete == Incomplete::Refused && !left_out.is_empty() {
        return Err(AdapterError::Incomplete { changed: report.applied.len(), left_out });
    }
    saved?;
    Ok(AdapterPlan { deltas, twins, report })
}

/// The rows of a change that one tensor gets.
struct RowSpan {
    layer: String,
    /// Catalogue name of the tensor.
    tensor: String,
    /// Its rows of the change.
    rows: Range<u64>,
}

/// The tensors of a change, and the shape of all of them. `None` when one of them is not there, or of another width.
fn spans(change: &LayerChange, weights: &Weights) -> Option<(Vec<RowSpan>, Vec<u64>)> {
    let mut shape: Option<Vec<u64>> = None;
    let mut spans = Vec::new();
    let mut begin = 0u64;
    for target in &change.layers {
        let (tensor, own) = weights.tensor(&target.layer, change.side)?;
        let (height, width) = own.split_first()?;
        let end = begin.checked_add(*height)?;
        let all = shape.get_or_insert_with(|| own.to_vec());
        if all[1..] != *width {
            return None;
        }
        all[0] = end;
        spans.push(RowSpan { layer: target.layer.clone(), tensor: tensor.to_owned(), rows: begin..end });
        begin = end;
    }
    Some((spans, shape?))
}

/// What is planned for one tensor.
struct Planned {
    delta: Delta,
    base: String,
}

/// Changes that were planned, and what was noticed on the way.
struct Planner<'a> {
    input: &'a AdapterInput<'a>,
    targets: &'a Targets,
    weights: &'a Weights,
    tensors: Tensors<'a>,
    deltas: BTreeMap<String, Vec<Planned>>,
    twins: Vec<Twin>,
    applied: BTreeSet<String>,
    strengths: BTreeMap<(StrengthSource, u64), BTreeSet<String>>,
    /// Where metadata says the strength of a change.
    places: BTreeSet<String>,
    /// Whole weights that configs in the metadata promise.
    promised: Vec<(String, Saved)>,
    /// Alphas of changes that are not scaled.
    idle_alphas: Vec<String>,
    /// Layers that are brought to magnitudes.
    rescaled: BTreeSet<String>,
    has_mlx: bool,
}

impl<'a> Planner<'a> {
    fn new(input: &'a AdapterInput<'a>, targets: &'a Targets, weights: &'a Weights, tensors: Tensors<'a>) -> Self {
        Self {
            input,
            targets,
            weights,
            tensors,
            deltas: BTreeMap::new(),
            twins: Vec::new(),
            applied: BTreeSet::new(),
            strengths: BTreeMap::new(),
            places: BTreeSet::new(),
            promised: Vec::new(),
            idle_alphas: Vec::new(),
            rescaled: BTreeSet::new(),
            has_mlx: false,
        }
    }

    /// Plans a change. Returns whether the component has the tensor.
    fn add(&mut self, change: &LayerChange) -> Result<bool, AdapterError> {
        let Some((spans, shape)) = spans(change, self.weights) else { return Ok(false) };
        let frame = Frame { layer: &change.layers[0].layer, shape };
        let (product, rank) = self.tensors.product(&change.change, &frame)?;
        let (source, strength) = self.strength(change, rank)?;
        let effect = match &change.change {
            Change::Whole(key) => {
                let scale = self.input.scale;
                if scale.to_bits() != 1f64.to_bits() {
                    return Err(AdapterError::ScaledReplacement { key: shown(key), scale });
                }
                Effect::Replaces
            }
            _ => Effect::Adds,
        };
        self.has_mlx |= matches!(&change.change, Change::LowRank(pair) if pair.tool == Tool::MlxLm);
        let layers = self.strengths.entry((source, strength.value().to_bits())).or_default();
        for RowSpan { layer, tensor, rows } in spans {
            layers.insert(layer.clone());
            self.applied.insert(layer.clone());
            let magnitude = change.magnitude.as_ref().map(|keys| self.tensors.magnitude(keys, &frame, &rows));
            let magnitude = magnitude.transpose()?;
            self.rescaled.extend(magnitude.is_some().then(|| layer.clone()));
            let (Strength { alpha, divisor }, scale) = (strength, self.input.scale);
            let product = product.clone();
            let delta = Delta { product, scale, alpha, divisor, rows, effect, magnitude, order: None };
            let before = self.deltas.entry(tensor).or_default();
            match before.iter().find(|before| before.delta.effect == effect) {
                None => before.push(Planned { delta, base: change.base.clone() }),
                Some(first) => {
                    let (first, second) = (shown(&first.base), shown(&change.base));
                    let twin = |pairs| Twin { layer: layer.clone(), first, second, pairs };
                    let first = before.iter().find(|before| before.delta.effect == effect);
                    match first.and_then(|first| twin::pairs(&first.delta, &delta)) {
                        Some(pairs) => self.twins.push(twin(pairs)),
                        None => return Err(twin(Vec::new()).differs()),
                    }
                }
            }
        }
        Ok(true)
    }

    /// How strong a change is, and who says so. Differences and whole weights are as they are.
    fn strength(
        &mut self,
        change: &LayerChange,
        rank: Option<u64>,
    ) -> Result<(StrengthSource, Strength), AdapterError> {
        // LyCORIS writes an alpha beside whole factors, and others beside differences: it says nothing there.
        let is_kronecker = matches!(change.change, Change::Kronecker { .. });
        if rank.is_none() && (!is_kronecker || !change.alphas.is_empty()) {
            self.idle_alphas.extend(change.alphas.iter().cloned());
            return Ok((StrengthSource::Nothing, Strength::ONE));
        }
        let layer = &change.layers[0].layer;
        let mut statements = Vec::new();
        for key in &change.alphas {
            let (alpha, divisor) = (self.tensors.alpha(key)?, rank.unwrap_or(1) as f64);
            let place = format!("`{}`", shown(key));
            statements.push(Statement {
                source: StrengthSource::AlphaTensor,
                place,
                strength: Strength { alpha, divisor },
            });
        }
        let base = layer_of(&change.base).unwrap_or(&change.base);
        let mut configs: Vec<(&AdapterConfig, &str)> =
            self.input.config.map(|config| (config, base)).into_iter().collect();
        configs.extend(self.input.metadata.of_base(base, self.targets)?);
        for (config, written) in configs {
            decomposed(config, change)?;
            if let Some(problem) = method_of(&change.change).and_then(|method| config.contradicts(method)) {
                return Err(AdapterConfigError::Malformed { place: config.place().to_owned(), problem }.into());
            }
            let module = module(written, change);
            if let Some((said, found)) = config.rank_of(module).zip(rank).filter(|(said, found)| said != found) {
                let place = config.place().to_owned();
                return Err(AdapterError::Rank { layer: shown(layer), place, said, found });
            }
            let strength = match rank {
                Some(rank) => config.strength_of(module, rank),
                None => config.strength_of_whole(module),
            };
            let promise = || (config.place().to_owned(), config.saved().clone());
            if !self.promised.iter().any(|(place, _)| place == config.place()) {
                self.promised.push(promise());
            }
            if let Some(strength) = strength {
                if config.source() == StrengthSource::Metadata {
                    self.places.insert(config.place().to_owned());
                }
                let place = config.place().to_owned();
                statements.push(Statement { source: config.source(), place, strength });
            }
        }
        if !statements.iter().any(|statement| statement.source == StrengthSource::AlphaTensor) {
            self.input.metadata.unread(self.targets).map_or(Ok(()), Err)?;
        }
        agreed(layer, &statements)
    }

    /// Whether the whole weights are there that configs promise.
    fn saved(&self, changes: &[LayerChange]) -> Result<(), AdapterError> {
        let own = self.input.config.map(|config| (config.place(), config.saved()));
        let promised = self.promised.iter().map(|(place, saved)| (place.as_str(), saved)).chain(own);
        for (place, saved) in promised {
            let Saved::Modules(modules) = saved else { continue };
            let is_there = |module: &&String| {
                let of =
                    |change: &LayerChange| change.base == ***module || change.base.ends_with(&format!(".{module}"));
                changes.iter().any(|change| matches!(change.change, Change::Whole(_)) && of(change))
            };
            if let Some(module) = modules.iter().find(|module| !is_there(module)) {
                return Err(AdapterError::NotSaved { place: place.to_owned(), module: shown(module) });
            }
        }
        Ok(())
    }

    fn finish(self, component: &str) -> (BTreeMap<String, Vec<Delta>>, Vec<Twin>, AdapterReport) {
        let remarks = self.remarks();
        let deltas = self.deltas.into_iter().map(|(tensor, mut planned)| {
            // A weight is replaced before it is changed.
            planned.sort_by_key(|planned| planned.delta.effect == Effect::Adds);
            (tensor, planned.into_iter().map(|planned| planned.delta).collect())
        });
        let strengths = self.strengths.into_iter().map(|((source, strength), layers)| AppliedStrength {
            source,
            strength: f64::from_bits(strength),
            layers: layers.into_iter().collect(),
        });
        let report = AdapterReport {
            adapter: shown(self.input.name),
            component: component.to_owned(),
            applied: self.applied.into_iter().collect(),
            strengths: strengths.collect(),
            remarks,
            ..AdapterReport::default()
        };
        (deltas.collect(), self.twins, report)
    }

    /// Remarks on alpha tensors that contradict what the file says of its training. All programs go by the tensors.
    fn trained(&self) -> Option<String> {
        let trained = self.input.metadata.trained()?;
        let mut tensors = self.strengths.keys().filter(|(source, _)| *source == StrengthSource::AlphaTensor);
        let differs = |found: f64| (found - trained).abs() > ROUNDING * found.abs().max(trained.abs());
        let (_, found) = tensors.find(|(_, strength)| differs(f64::from_bits(*strength)))?;
        let (told, found) = (self.input.metadata.told().join(", "), f64::from_bits(*found));
        Some(format!(
            "the file's metadata tells of its training {told}, and the alpha tensors say {found}, which counts"
        ))
    }

    fn remarks(&self) -> Vec<String> {
        let mut said: Vec<String> =
            self.places.iter().map(|place| format!("{place} says how strong the adapter is")).collect();
        let is_silent = self.strengths.keys().any(|(source, _)| *source == StrengthSource::Nothing);
        let told = self.input.metadata.told();
        if is_silent && !told.is_empty() {
            said.push(format!(
                "the file's metadata tells of its training {}, which no program takes for a strength, and has no alpha \
                 tensors: 1 is taken",
                told.join(", ")
            ));
        }
        said.extend(self.trained());
        if self.has_mlx && self.input.config.is_none() && is_silent {
            said.push(
                "mlx-lm writes the scale of an adapter into its config, which is not there: 1 is taken".to_owned(),
            );
        }
        if !self.rescaled.is_empty() {
            let (count, scale) = (self.rescaled.len(), self.input.scale);
            let mut remark = format!("DoRA: {count} layers are brought to the adapter's magnitudes after the sum");
            if scale.to_bits() != 1f64.to_bits() {
                remark
                    .push_str(&format!("; the scale {scale} is on what is added, inside of the norm, as PEFT has it"));
            }
            said.push(remark);
        }
        if let Some(key) = self.idle_alphas.first() {
            let count = self.idle_alphas.len();
            said.push(format!("{count} alphas beside whole matrices, such as `{}`, scale nothing", shown(key)));
        }
        said
    }
}

/// Compares what a config says of DoRA with the magnitudes that are there: without them a pair makes another model.
fn decomposed(config: &AdapterConfig, change: &LayerChange) -> Result<(), AdapterError> {
    let layer = || shown(&change.layers[0].layer);
    match (&change.change, config.dora(), &change.magnitude) {
        (Change::LowRank(_), Some(Ok(sign)), None) => Err(AdapterError::NoMagnitude { layer: layer(), sign }),
        (_, Some(Err(sign)), Some(magnitude)) => {
            Err(AdapterError::UnsaidMagnitude { layer: layer(), key: shown(&magnitude.key), sign })
        }
        _ => Ok(()),
    }
}

/// PEFT's method with such matrices; `None` for changes that no config scales.
fn method_of(change: &Change) -> Option<Method> {
    match change {
        Change::LowRank(_) => Some(Method::Lora),
        Change::Kronecker { .. } => Some(Method::Lokr),
        Change::Hadamard { .. } => Some(Method::Loha),
        Change::Full(_) | Change::Whole(_) => None,
    }
}

/// The name of the module in PEFT's words. A name without dots is kohya's, whose trainer replaces them all; then it is the
/// component's own name.
fn module<'a>(written: &'a str, change: &'a LayerChange) -> &'a str {
    let module = written.strip_prefix(PEFT_PREFIX).unwrap_or(written);
    if module.contains('.') { module } else { &change.layers[0].layer }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        derive::{Factor, Lines, Product},
        header::{Dtype, TensorInfo, byte_length},
        source::SourceId,
        table::Sourced,
    };

    const OUTPUT: u64 = 12;
    const INPUT: u64 = 8;

    /// Blocks with a wide layer `w`, a square one `s`, three that may be fused, one of them higher, and a norm.
    static TARGETS: Targets = Targets {
        prefixes: &["base_model.model.", "model."],
        others: &["te."],
        blocks: &[("layers", "layers")],
        layers: &[("qkv", &["q", "k", "v"]), ("query", &["q"])],
        singles: &[],
    };

    /// Those of two blocks.
    fn weights() -> Weights {
        let layers: [(&str, &[u64]); 7] = [
            ("w.weight", &[OUTPUT, INPUT]),
            ("s.weight", &[4, 4]),
            ("q.weight", &[10, INPUT]),
            ("k.weight", &[5, INPUT]),
            ("v.weight", &[5, INPUT]),
            ("norm.weight", &[INPUT]),
            ("w.bias", &[OUTPUT]),
        ];
        let names =
            (0..2).flat_map(|block| layers.map(|(name, shape)| (format!("layers.{block}.{name}"), shape.to_vec())));
        let others = [("head.weight".to_owned(), vec![6, INPUT]), ("conv.weight".to_owned(), vec![7, 5, 3, 1])];
        Weights::new(names.chain(others))
    }

    /// The value of every alpha.
    const ALPHA: f64 = 3.0;

    type Tensor<'a> = (&'a str, Dtype, &'a [u64]);

    fn table(tensors: &[Tensor]) -> Table {
        let mut begin = 100;
        let sourced = |(number, &(name, dtype, shape)): (u32, &Tensor<'_>)| {
            let range = begin..begin + byte_length(dtype, shape).unwrap();
            begin = range.end;
            let info = TensorInfo { name: name.into(), dtype, shape: shape.to_vec(), range, encoding: None };
            Sourced { source: SourceId(5 + number % 2), info, origin: None, packed: None, coded: None, mark: None }
        };
        Table::of((0..).zip(tensors).map(sourced).collect()).unwrap()
    }

    fn plan_of(
        tensors: &[Tensor],
        config: Option<&AdapterConfig>,
        metadata: &[(&str, &str)],
        (scale, incomplete): (f64, Incomplete),
    ) -> Result<AdapterPlan, AdapterError> {
        let tensors = table(tensors);
        let alphas = super::super::alphas(&tensors).map(|tensor| (tensor.info.name.to_string(), ALPHA)).collect();
        let metadata = metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let metadata = FileStrengths::parse(&metadata).unwrap();
        let input = AdapterInput {
            name: "style",
            tensors: &tensors,
            alphas: &alphas,
            config,
            metadata: &metadata,
            scale,
            incomplete,
        };
        plan(&input, "transformer", &TARGETS, &weights()).map_err(|refused| {
            assert!(refused.to_string().starts_with("adapter `style`: "), "{refused}");
            *refused.problem
        })
    }

    fn plan_with(tensors: &[Tensor], config: Option<&AdapterConfig>, scale: f64) -> Result<AdapterPlan, AdapterError> {
        plan_of(tensors, config, &[], (scale, Incomplete::Refused))
    }

    /// Tensors of F32.
    fn floats<'a>(tensors: &[(&'a str, &'a [u64])]) -> Vec<Tensor<'a>> {
        tensors.iter().map(|&(name, shape)| (name, Dtype::F32, shape)).collect()
    }

    /// A plan of F32 matrices.
    fn planned(tensors: &[(&str, &[u64])], config: Option<&AdapterConfig>) -> Result<AdapterPlan, AdapterError> {
        plan_with(&floats(tensors), config, 1.0)
    }

    /// The same with metadata.
    fn told(tensors: &[(&str, &[u64])], metadata: &[(&str, &str)]) -> Result<AdapterPlan, AdapterError> {
        plan_of(&floats(tensors), None, metadata, (1.0, Incomplete::Refused))
    }

    fn config(json: &str) -> AdapterConfig {
        AdapterConfig::parse("adapter_config.json", json.as_bytes()).unwrap()
    }

    fn only(plan: AdapterPlan) -> Delta {
        assert_eq!(plan.deltas.len(), 1);
        let mut deltas = plan.deltas.into_values().next().unwrap();
        assert_eq!(deltas.len(), 1);
        deltas.remove(0)
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
        assert_eq!(
            plan.report.summary(),
            "adapter `style` changes 1 layer of `transformer`; 1 layer by 1.5 (alpha tensors)"
        );
        let delta = only(plan);
        assert_eq!((delta.scale, delta.divisor, delta.rows), (-0.5, 2.0, 0..OUTPUT));
        assert_eq!((delta.alpha, delta.effect), (ALPHA, Effect::Adds));
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
            assert_eq!((delta.alpha, delta.divisor), (1.0, 1.0));
        }
    }

    #[test]
    fn a_fused_layer_is_divided_by_rows() {
        let plan = planned(&[("layers.0.qkv.lora_A", &[2, INPUT]), ("layers.0.qkv.lora_B", &[20, 2])], None).unwrap();
        let rows: Vec<_> =
            plan.deltas.iter().map(|(tensor, deltas)| (tensor.as_str(), deltas[0].rows.clone())).collect();
        assert_eq!(rows, [("layers.0.k.weight", 10..15), ("layers.0.q.weight", 0..10), ("layers.0.v.weight", 15..20)]);
        assert!(plan.deltas.values().all(|deltas| deltas[0].product.dimensions() == Some((20, INPUT))));
    }

    #[test]
    fn kronecker_factors_may_be_products() {
        let alpha = ("layers.0.w.alpha", &[][..]);
        let (w1, w1_a, w1_b) = ("layers.0.w.lokr_w1", "layers.0.w.lokr_w1_a", "layers.0.w.lokr_w1_b");
        let (w2, w2_a, w2_b) = ("layers.0.w.lokr_w2", "layers.0.w.lokr_w2_a", "layers.0.w.lokr_w2_b");
        let whole = planned(&[alpha, (w1, &[3, 2]), (w2, &[4, 4])], None).unwrap();
        let delta = only(whole);
        assert_eq!((delta.alpha, delta.divisor), (1.0, 1.0), "an alpha beside whole factors is not theirs");
        let mixed = only(planned(&[alpha, (w1, &[3, 2]), (w2_a, &[4, 1]), (w2_b, &[1, 4])], None).unwrap());
        assert_eq!(mixed.alpha, ALPHA);
        assert_eq!(mixed.divisor, 1.0);
        assert!(matches!(mixed.product, Product::Kronecker { first: Factor::Whole(_), second: Factor::Product(_, _) }));
        let mixed = only(planned(&[alpha, (w1_a, &[3, 2]), (w1_b, &[2, 2]), (w2, &[4, 4])], None).unwrap());
        assert_eq!(mixed.divisor, 2.0);
        let both = [(w1_a, &[3, 2][..]), (w1_b, &[2, 2]), (w2_a, &[4, 2]), (w2_b, &[2, 4])];
        let delta = only(planned(&both, None).unwrap());
        assert_eq!((delta.alpha, delta.divisor), (1.0, 1.0), "no alpha is alpha = rank");
        assert_eq!(delta.product.dimensions(), Some((OUTPUT, INPUT)));
        let peft = config(r#"{"peft_type": "LOKR", "r": 8, "alpha": 4}"#);
        let delta = only(planned(&[(w1, &[3, 2]), (w2, &[4, 4])], Some(&peft)).unwrap());
        assert_eq!((delta.alpha, delta.divisor), (4.0, 8.0));
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
        assert!(matches!(delta.product, Product::Hadamard { .. }) && delta.alpha == ALPHA);
        assert_eq!(delta.divisor, 3.0);
        let delta = only(planned(&[("layers.0.w.diff", &[OUTPUT, INPUT])], None).unwrap());
        assert!(matches!(delta.product, Product::Full(_)));
        assert_eq!((delta.alpha, delta.divisor), (1.0, 1.0));
        assert!(matches!(planned(&[("layers.0.w.diff", &[INPUT, OUTPUT])], None), Err(AdapterError::Shape { .. })));
    }

    /// A pair of rank 4 for `w`.
    const PAIR: [(&str, &[u64]); 2] = [
        ("base_model.model.layers.0.w.lora_A.weight", &[4, INPUT]),
        ("base_model.model.layers.0.w.lora_B.weight", &[OUTPUT, 4]),
    ];

    #[test]
    fn the_strength_is_the_configs() {
        let cases = [
            (r#"{"r": 4, "lora_alpha": 8}"#, 8.0, 4.0),
            (r#"{"r": 4, "lora_alpha": 8, "use_rslora": true}"#, 8.0, 2.0),
            (r#"{"r": 4, "lora_alpha": 8, "alpha_pattern": {"w": 6}}"#, 6.0, 4.0),
            (r#"{"r": 4, "lora_alpha": 8, "alpha_pattern": {"layers.1.w": 6}}"#, 8.0, 4.0),
            (r#"{"r": 4, "lora_alpha": 8, "alpha_pattern": {"^layers\\.[01]\\.w": 6}}"#, 6.0, 4.0),
            (r#"{"r": 8, "lora_alpha": 8, "rank_pattern": {".*\\.w": 4}}"#, 8.0, 4.0),
            (r#"{"lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.0}}"#, 20.0, 1.0),
        ];
        for (json, alpha, divisor) in cases {
            let plan = planned(&PAIR, Some(&config(json))).unwrap();
            let [strength] = &plan.report.strengths[..] else { panic!("{:?}", plan.report) };
            assert_eq!((strength.source, strength.strength), (StrengthSource::Config, alpha / divisor), "{json}");
            let delta = only(plan);
            assert_eq!((delta.alpha, delta.divisor), (alpha, divisor), "{json}");
        }
        assert_eq!(only(planned(&PAIR, Some(&config("{}"))).unwrap()).alpha, 1.0);
        // kohya's names have no dots, and patterns mean the layer all the same.
        let pair: [(&str, &[u64]); 2] =
            [("layers_0_w.lora_down.weight", &[4, INPUT]), ("layers_0_w.lora_up.weight", &[OUTPUT, 4])];
        let json = r#"{"r": 4, "lora_alpha": 8, "alpha_pattern": {"layers.0.w": 6}}"#;
        assert_eq!(only(planned(&pair, Some(&config(json))).unwrap()).alpha, 6.0);
    }

    #[test]
    fn the_strength_is_the_metadatas() {
        let json = r#"{"r": 4, "lora_alpha": 16}"#;
        let plan = told(&PAIR, &[("lora_adapter_metadata", json)]).unwrap();
        let [strength] = &plan.report.strengths[..] else { panic!("{:?}", plan.report) };
        assert_eq!((strength.source, strength.strength), (StrengthSource::Metadata, 4.0));
        assert_eq!(
            plan.report.remarks,
            ["`lora_adapter_metadata` in the file's metadata says how strong the adapter is"]
        );
        let plan = told(&PAIR, &[("ss_network_alpha", "2"), ("ss_network_dim", "4")]).unwrap();
        assert_eq!(plan.report.strengths[0].source, StrengthSource::Nothing);
        assert!(plan.report.remarks[0].contains("ss_network_alpha 2, ss_network_dim 4"), "{:?}", plan.report.remarks);
    }

    #[test]
    fn two_strengths_are_refused_unless_they_are_one() {
        let own = [PAIR[0], PAIR[1], ("base_model.model.layers.0.w.alpha", &[1, 1][..])];
        // The alpha is 3.
        let plan = planned(&own, Some(&config(r#"{"r": 4, "lora_alpha": 3}"#))).unwrap();
        assert_eq!(plan.report.strengths[0].source, StrengthSource::AlphaTensor);
        let said = planned(&own, Some(&config(r#"{"r": 4, "lora_alpha": 8}"#))).unwrap_err().to_string();
        assert_eq!(
            said,
            "layer `layers.0.w`: `base_model.model.layers.0.w.alpha` says 0.75, and `adapter_config.json` says 2"
        );
        let said = told(&own, &[("lora_alpha", "8")]).unwrap_err().to_string();
        assert!(said.contains("`lora_alpha` in the file's metadata says 2"), "{said}");
        for (json, expected) in [
            (r#"{"r": 8, "lora_alpha": 8}"#, "`adapter_config.json` says rank 8, and the matrices have rank 4"),
            (r#"{"lora_parameters": {"rank": 8, "scale": 2.0}}"#, "says rank 8"),
        ] {
            let said = planned(&PAIR, Some(&config(json))).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn an_alpha_that_means_nothing_is_refused() {
        for (value, expected) in
            [(0.0, "kohya's trainer takes that for the rank"), (f64::NAN, "finite"), (f64::INFINITY, "finite")]
        {
            let key = "base_model.model.layers.0.w.alpha";
            let tensors = table(&floats(&[PAIR[0], PAIR[1], (key, &[1])]));
            let (alphas, metadata) = (BTreeMap::from([(key.to_owned(), value)]), FileStrengths::default());
            let input = AdapterInput {
                name: "style",
                tensors: &tensors,
                alphas: &alphas,
                config: None,
                metadata: &metadata,
                scale: 1.0,
                incomplete: Incomplete::Refused,
            };
            let said = plan(&input, "transformer", &TARGETS, &weights()).unwrap_err().to_string();
            assert!(said.contains(key) && said.contains(expected), "{said}");
        }
    }

    #[test]
    fn vectors_and_biases_have_differences() {
        let plan = planned(&[("layers.0.norm.diff", &[INPUT]), ("layers.1.w.diff_b", &[OUTPUT])], None).unwrap();
        let tensors: Vec<_> =
            plan.deltas.iter().map(|(tensor, deltas)| (tensor.as_str(), deltas[0].rows.clone())).collect();
        assert_eq!(tensors, [("layers.0.norm.weight", 0..INPUT), ("layers.1.w.bias", 0..OUTPUT)]);
        for (tensor, shape, expected) in [
            ("layers.0.norm.diff", &[INPUT, INPUT][..], "expected [8], found [8, 8]"),
            ("layers.0.w.diff_b", &[INPUT], "expected [12], found [8]"),
            ("layers.0.s.diff_b", &[4], "layers.0.s.bias"),
        ] {
            let said = planned(&[(tensor, shape)], None).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
        let pair: [(&str, &[u64]); 2] = [("layers.0.norm.lora_A", &[2, INPUT]), ("layers.0.norm.lora_B", &[INPUT, 2])];
        let said = planned(&pair, None).unwrap_err().to_string();
        assert!(said.contains("expected a difference [8], since the layer has no matrix"), "{said}");
    }

    #[test]
    fn a_whole_weight_takes_the_place_of_the_layers_own() {
        let saved = ("base_model.model.head.weight", &[6, INPUT][..]);
        let json = config(r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "modules_to_save": ["head"]}"#);
        let plan = planned(&[PAIR[0], PAIR[1], saved], Some(&json)).unwrap();
        assert_eq!(plan.report.applied, ["head", "layers.0.w"]);
        let deltas = &plan.deltas["head.weight"];
        assert_eq!((deltas.len(), deltas[0].effect, deltas[0].alpha), (1, Effect::Replaces, 1.0));
        // PEFT saves what is under a pair too; it counts first.
        let under = ("base_model.model.layers.0.w.base_layer.weight", &[OUTPUT, INPUT][..]);
        let plan = planned(&[PAIR[0], PAIR[1], under], None).unwrap();
        let effects: Vec<_> = plan.deltas["layers.0.w.weight"].iter().map(|delta| delta.effect).collect();
        assert_eq!(effects, [Effect::Replaces, Effect::Adds]);
        let said = planned(&PAIR, Some(&json)).unwrap_err().to_string();
        assert!(said.contains("holds the whole weights of `head`, and the file does not"), "{said}");
        let tensors = floats(&[PAIR[0], PAIR[1], saved]);
        let said = plan_with(&tensors, None, 0.5).unwrap_err().to_string();
        assert!(said.contains("cannot be scaled: the scale is 0.5"), "{said}");
        let resized = ("base_model.model.head.weight", &[7, INPUT][..]);
        let said = planned(&[PAIR[0], PAIR[1], resized], None).unwrap_err().to_string();
        assert!(said.contains("`base_model.model.head.weight`: expected [6, 8], found [7, 8]"), "{said}");
        let full = config(r#"{"fine_tune_type": "full"}"#);
        let plan = planned(&[("head.weight", saved.1), ("layers.0.norm.weight", &[INPUT])], Some(&full)).unwrap();
        assert!(plan.deltas.values().all(|deltas| deltas[0].effect == Effect::Replaces));
        // Another adapter that adds to it would count before or after.
        let mut all = BTreeMap::new();
        merge(&mut all, planned(&[("head.diff", saved.1)], None).unwrap().deltas, "a").unwrap();
        merge(&mut all, planned(&[("head.diff", saved.1)], None).unwrap().deltas, "b").unwrap();
        assert_eq!(all["head.weight"].len(), 2);
        let said = merge(&mut all, plan.deltas, "c").unwrap_err().to_string();
        assert!(said.contains("`head.weight` is replaced by one adapter"), "{said}");
    }

    #[test]
    fn the_same_change_under_two_names_is_one() {
        let fused: [(&str, &[u64]); 2] = [("layers.0.qkv.lora_A", &[2, INPUT]), ("layers.0.qkv.lora_B", &[20, 2])];
        let split: [(&str, &[u64]); 4] = [
            ("layers.0.q.lora_A", &[2, INPUT]),
            ("layers.0.q.lora_B", &[10, 2]),
            ("layers.0.k.lora_A", &[2, INPUT]),
            ("layers.0.k.lora_B", &[5, 2]),
        ];
        let plan = planned(&[&fused[..], &split[..]].concat(), None).unwrap();
        assert!(plan.deltas.values().all(|deltas| deltas.len() == 1));
        let twins: Vec<_> =
            plan.twins.iter().map(|twin| (twin.layer.as_str(), twin.first.as_str(), twin.second.as_str())).collect();
        assert_eq!(twins, [("layers.0.q", "layers.0.q", "layers.0.qkv"), ("layers.0.k", "layers.0.k", "layers.0.qkv")]);
        let [(down, of_fused), (up, rows)] = &plan.twins[1].pairs[..] else { panic!("{:?}", plan.twins) };
        assert_eq!((down.bytes(), of_fused.bytes()), (2 * INPUT * 4, 2 * INPUT * 4));
        // Rows 10 to 15 of 20, of two F32 each.
        let whole = plan.deltas["layers.0.v.weight"][0].product.clone();
        let Product::LowRank { up: whole, .. } = whole else { panic!() };
        assert_eq!((up.bytes(), rows.range.start - whole.slice.range.start, rows.bytes()), (40, 80, 40));
        // Two names of one layer, as well.
        let named: [(&str, &[u64]); 2] = [("layers.0.query.lora_A", &[2, INPUT]), ("layers.0.query.lora_B", &[10, 2])];
        assert_eq!(planned(&[&split[..2], &named[..]].concat(), None).unwrap().twins.len(), 1);
        for other in [
            &[("layers.0.query.lora_A", &[3, INPUT][..]), ("layers.0.query.lora_B", &[10, 3])][..],
            &[("layers.0.query.diff", &[10, INPUT])],
        ] {
            let error = planned(&[&split[..2], other].concat(), None).unwrap_err();
            let said = error.to_string();
            assert!(said.contains("by `layers.0.q` and by `layers.0.query`, and the two are not the same"), "{said}");
        }
    }

    #[test]
    fn what_is_untidy_is_remarked() {
        let pair: [(&str, &[u64]); 2] = [("layers.0.w.lora_a", &[INPUT, 4]), ("layers.0.w.lora_b", &[4, OUTPUT])];
        let said = planned(&pair, None).unwrap().report.summary();
        assert!(said.contains("1 is taken"), "{said}");
        let mlx = config(r#"{"lora_parameters": {"rank": 4, "scale": 2.0}}"#);
        assert!(planned(&pair, Some(&mlx)).unwrap().report.remarks.is_empty());
        let said = planned(&[("layers.0.w.diff", &[OUTPUT, INPUT]), ("layers.0.w.alpha", &[])], None).unwrap();
        assert!(said.report.remarks[0].contains("`layers.0.w.alpha`, scale nothing"), "{:?}", said.report.remarks);
    }

    #[test]
    fn half_an_adapter_is_refused_or_reported() {
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
            ("layers.1.s.lokr_t1", &[2, 2]),
            ("note", &[1]),
        ];
        let left_out = "2 changes without a target (layers.0.absent, layers.7.w), 1 key without its partner \
                        (layers.1.w.lora_A), 1 key of no known form (note), \
                        1 key of biases of low-rank pairs (`lora_bias`) (layers.0.w.lora_B.bias), \
                        1 key of cores of LoKr's first factor (layers.1.s.lokr_t1)";
        let said = planned(&tensors, None).unwrap_err().to_string();
        assert_eq!(said, format!("1 of its changes can be applied, and not all of it: {left_out}"));
        let report = plan_of(&floats(&tensors), None, &[], (1.0, Incomplete::Reported)).unwrap().report;
        assert!(report.is_partial());
        assert_eq!(report.without_target, ["layers.0.absent", "layers.7.w"]);
        assert_eq!(report.without_partner, ["layers.1.w.lora_A"]);
        assert_eq!(report.other_component, ["te.layers.0.w.lora_A", "te.layers.0.w.lora_B"]);
        assert_eq!(
            report.summary(),
            format!(
                "adapter `style` changes 1 layer of `transformer`; 1 layer as they are, since nothing says a strength; \
                 not applied: {left_out}; for another component: 2 keys (te.layers.0.w.lora_A, te.layers.0.w.lora_B)"
            )
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
    fn magnitudes_are_of_rows_or_of_columns() {
        let (one, of_columns) = (("layers.0.w.lora_A", &[2, INPUT][..]), Lines::Columns);
        for (key, shape, expected) in [
            ("layers.0.w.lora_magnitude_vector.weight", &[OUTPUT][..], Lines::Rows),
            ("layers.0.w.lora_magnitude_vector", &[1, OUTPUT, 1, 1], Lines::Rows),
            ("layers.0.w.m", &[OUTPUT], Lines::Rows),
            ("layers.0.w.dora_scale", &[OUTPUT, 1], Lines::Rows),
            ("layers.0.w.dora_scale", &[1, INPUT], of_columns),
            ("model.layers_0_w.dora_scale", &[1, INPUT, 1, 1], of_columns),
        ] {
            let plan = planned(&[one, ("layers.0.w.lora_B", &[OUTPUT, 2]), (key, shape)], None).unwrap();
            let said = &plan.report.remarks;
            assert!(said[0].starts_with("DoRA: 1 layers"), "{said:?}");
            let magnitude = only(plan).magnitude.unwrap();
            let count = if expected == of_columns { INPUT } else { OUTPUT };
            assert_eq!((magnitude.of, magnitude.slice.shape), (expected, vec![count]), "{key}");
        }
        // Of a fused layer each takes its own rows.
        let qkv = [("layers.0.qkv.lora_A", &[2, INPUT][..]), ("layers.0.qkv.lora_B", &[20, 2])];
        let plan = planned(&[&qkv[..], &[("layers.0.qkv.dora_scale", &[20, 1])]].concat(), None).unwrap();
        let of = |layer: &str| plan.deltas[layer][0].magnitude.clone().unwrap().slice;
        let (first, last) = (of("layers.0.q.weight"), of("layers.0.v.weight"));
        assert_eq!((first.shape, last.shape, last.range.start - first.range.start), (vec![10], vec![5], 15 * 4));
        for (shape, key) in [(&[1, INPUT][..], "layers.0.qkv.dora_scale"), (&[10, 2], "layers.0.qkv.m")] {
            let said = planned(&[&qkv[..], &[(key, shape)]].concat(), None).unwrap_err().to_string();
            assert!(said.contains(&format!("`{key}`: expected 20 magnitudes of rows")), "{said}");
        }
    }

    #[test]
    fn a_config_and_magnitudes_agree_about_dora() {
        let pair: [(&str, &[u64]); 3] = [
            ("layers.0.w.lora_A", &[2, INPUT]),
            ("layers.0.w.lora_B", &[OUTPUT, 2]),
            ("layers.0.w.lora_magnitude_vector", &[OUTPUT]),
        ];
        let (with, without) = (r#"{"use_dora": true}"#, r#"{"use_dora": false}"#);
        assert!(only(planned(&pair, Some(&config(with))).unwrap()).magnitude.is_some());
        assert!(only(planned(&pair[..2], Some(&config(without))).unwrap()).magnitude.is_none());
        let said = planned(&pair[..2], Some(&config(with))).unwrap_err().to_string();
        assert!(said.contains("`use_dora` is true in `adapter_config.json`, and the file has no magnitudes"), "{said}");
        let said = planned(&pair, Some(&config(without))).unwrap_err().to_string();
        assert!(said.contains("`use_dora` is false") && said.contains(pair[2].0), "{said}");
        // Magnitudes without a pair, and those that two names of a layer share.
        let said = planned(&[pair[0], pair[1], ("layers.1.w.m", &[OUTPUT])], None).unwrap_err().to_string();
        assert!(said.contains("1 key without its partner (layers.1.w.m)"), "{said}");
        let twice = [pair[0], pair[1], pair[2], ("layers_0_w.lora_A", pair[0].1), ("layers_0_w.lora_B", pair[1].1)];
        let said = planned(&twice, None).unwrap_err().to_string();
        assert!(said.contains("changed twice"), "{said}");
        let both = [&twice[..], &[("layers_0_w.m", &[OUTPUT][..])]].concat();
        assert_eq!(planned(&both, None).unwrap().twins[0].pairs.len(), 3);
    }

    #[test]
    fn kernels_are_matrices_of_what_is_behind_their_outputs() {
        let plan = |tensors: &[(&str, &[u64])]| planned(tensors, None).map(only);
        let down = ("conv.lora_down.weight", &[2, 5, 3, 1][..]);
        let up = ("conv.lora_up.weight", &[7, 2, 1, 1][..]);
        let delta = plan(&[down, up]).unwrap();
        assert_eq!((delta.product.dimensions(), delta.rows), (Some((7, 15)), 0..7));
        let narrow = ("conv.lora_down.weight", &[2, 5, 1, 1][..]);
        let core = ("conv.lora_mid.weight", &[2, 2, 3, 1][..]);
        let cored = plan(&[narrow, up, core]).unwrap();
        assert!(matches!(&cored.product, Product::Cored(Factor::Cored { core, .. }) if core.shape == [2, 2, 3]));
        assert_eq!((cored.product.dimensions(), cored.divisor), (Some((7, 15)), 1.0));
        let whole = plan(&[("conv.diff", &[7, 5, 3, 1])]).unwrap();
        assert!(matches!(whole.product, Product::Full(_)));
        let loha = ["w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"].map(|marker| format!("conv.hada_{marker}"));
        let shapes: [&[u64]; 6] = [&[2, 7], &[2, 5], &[2, 7], &[2, 5], &[2, 2, 3, 1], &[2, 2, 3, 1]];
        let loha: Vec<_> = loha.iter().map(String::as_str).zip(shapes).chain([("conv.alpha", &[][..])]).collect();
        let delta = plan(&loha).unwrap();
        assert_eq!((delta.product.dimensions(), delta.alpha, delta.divisor), (Some((7, 15)), ALPHA, 2.0));
        let lokr = [("conv.lokr_w1", &[1, 5][..]), ("conv.lokr_w2_a", &[2, 7]), ("conv.lokr_w2_b", &[2, 1])];
        let delta = plan(&[&lokr[..], &[("conv.lokr_t2", &[2, 2, 3, 1])]].concat()).unwrap();
        assert_eq!((delta.product.dimensions(), delta.divisor), (Some((7, 15)), 1.0));
        for wrong in [
            vec![("conv.lora_down.weight", &[2, 5, 3, 3][..]), up],
            vec![narrow, up],
            vec![down, up, core],
            vec![narrow, up, ("conv.lora_mid.weight", &[2, 2, 3, 3])],
            lokr.to_vec(),
            loha[..5].to_vec(),
        ] {
            let said = plan(&wrong).unwrap_err().to_string();
            assert!(said.starts_with("layer `conv`: "), "{said}");
        }
        // A core under another name of the layer is the same layer's, and one that is left over forbids the pair.
        assert!(plan(&[narrow, up, ("model.conv.lora_mid.weight", core.1)]).unwrap().product.dimensions().is_some());
        assert!(plan(&[down, up, ("conv.lokr_t2", core.1)]).is_err());
    }
}
