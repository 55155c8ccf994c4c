//! Which tensors have to be computed for a conversion, and how; the others are lent from where they lie.

use std::collections::{BTreeMap, BTreeSet};

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::{
    Conversion, Delta, Fused, Input, Job, Output, Packing, Selection, Slice,
    image::{self, Layout, ROOM},
};
use crate::{
    axes::Axes,
    explain::{Explain, Explanation, Reason},
    header::Dtype,
    header::FLOATS,
    place::{At, Making, Placed, Stored},
    quantisation::{Mode, Packed, PackedRole, Scheme},
    shown::shown,
};

/// Names that an error shows.
const SAMPLE: usize = 4;

/// Why a conversion cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// Not a glob.
    #[error("the pattern {pattern:?} cannot be used: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A pattern that means nothing.
    #[error("the pattern {pattern:?} matches none of the {layers} layers, such as {}", sample.join(", "))]
    NothingMatches {
        /// The pattern.
        pattern: String,
        /// Layers there are.
        layers: usize,
        /// Some of them.
        sample: Vec<String>,
    },
    /// Nothing to quantise.
    #[error("no layer of the component can be quantised ({scheme}): {found} matrices, and none is meant by the rule")]
    NothingToQuantise {
        /// What was asked for.
        scheme: String,
        /// Matrices there are.
        found: usize,
    },
    /// A layer that a pattern names and that cannot be packed.
    #[error("layer `{layer}` of shape {shape:?} cannot be quantised: its rows are no whole groups ({scheme})")]
    Ragged {
        /// The layer.
        layer: String,
        /// Its shape.
        shape: Vec<u64>,
        /// What was asked for.
        scheme: String,
    },
    /// A packed layer of which something is missing.
    #[error("the packed layer `{layer}` has no {missing}, so that nothing can be computed from it")]
    Torn {
        /// The layer.
        layer: String,
        /// What is missing.
        missing: &'static str,
    },
    /// A name that an image keeps for itself.
    #[error(
        "tensor `{name}` would have to be computed, and names that begin with `{ROOM}` are those of room in images"
    )]
    ReservedName {
        /// The name.
        name: String,
    },
    /// A tensor that is there and one that is computed have one name.
    #[error("two tensors would be called `{name}`")]
    NameCollision {
        /// The name.
        name: String,
    },
    /// An adapter changes a layer that is not there.
    #[error("an adapter changes layer `{layer}`, which the component does not hold")]
    NoLayer {
        /// The layer.
        layer: String,
    },
    /// An adapter changes what are no floats.
    #[error("an adapter changes layer `{layer}`, which is {dtype}, expected F32, F16 or BF16")]
    NoFloats {
        /// The layer.
        layer: String,
        /// What it is.
        dtype: Dtype,
    },
}

impl Explain for DeriveError {
    fn explain(&self) -> Explanation {
        let reason = match self {
            Self::Torn { .. } => Reason::TornLayer,
            _ => Reason::CannotConvert,
        };
        let hint = match self {
            Self::Pattern { .. } | Self::NothingMatches { .. } => {
                "patterns match names of layers without `.weight`; `weightsd inspect` lists them"
            }
            Self::NothingToQuantise { .. } => "name the layers: `quantise.only`, or `--only`",
            Self::Ragged { .. } => "choose a smaller group size, or except the layer",
            Self::ReservedName { .. } | Self::NameCollision { .. } => {
                "ask for the weights as they are stored, or rename the tensor"
            }
            Self::Torn { .. } | Self::NoLayer { .. } | Self::NoFloats { .. } => {
                "the checkpoint lacks it: `weightsd audit` says what it has"
            }
        };
        Explanation::new(reason, "", hint)
    }
}

/// What is computed, and the file that it makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Derivation {
    /// Computations, in the order of their inputs on disk.
    pub jobs: Vec<Job>,
    /// The file.
    pub image: Layout,
}

impl Derivation {
    /// Bytes that are read.
    #[must_use]
    pub fn input_bytes(&self) -> u64 {
        self.jobs.iter().map(Job::input_bytes).sum()
    }
}

/// The tensors of a component, and what has to be computed for them.
#[derive(Debug, Clone, PartialEq)]
pub struct Derived {
    /// The tensors, sorted by name.
    pub tensors: Vec<Placed<At>>,
    /// What has to be computed; `None` when everything is lent from where it lies.
    pub derivation: Option<Derivation>,
    /// What is worth knowing, and refuses nothing.
    pub remarks: Vec<String>,
}

/// What a plan rests on, beside the tensors and the conversion.
pub struct Setting<'a> {
    /// Whether the family quantises a layer of that name.
    pub quantises: &'a dyn Fn(&str) -> bool,
    /// What adapters add, by layer.
    pub deltas: BTreeMap<String, Vec<Delta>>,
    /// What the image says of itself.
    pub metadata: BTreeMap<String, String>,
}

/// Plans `conversion` for `placed` tensors.
///
/// # Errors
/// [`DeriveError`].
pub fn plan(placed: Vec<Placed>, conversion: &Conversion, setting: Setting<'_>) -> Result<Derived, DeriveError> {
    let Setting { quantises, mut deltas, metadata } = setting;
    let units = units(placed)?;
    let mut remarks = Vec::new();
    let chosen = match &conversion.packing {
        Packing::Quantised(scheme, selection) => choose(&units, *scheme, selection, quantises)?,
        Packing::AsStored | Packing::Plain => BTreeSet::new(),
    };
    if conversion.packing == Packing::Plain && !units.iter().any(|unit| matches!(unit, Unit::Packed(_))) {
        remarks.push("no layer is quantised, so none was dequantised".to_owned());
    }
    let mut tensors = Vec::new();
    let mut jobs: Vec<(Job, Vec<Placed>)> = Vec::new();
    for unit in units {
        let added = unit.layer().and_then(|layer| deltas.remove(layer)).unwrap_or_default();
        match job(&unit, conversion, &chosen, added)? {
            Some((job, models)) => jobs.push((job, models)),
            None => tensors.extend(unit.into_placed().into_iter().map(|placed| placed.moved(At::Source))),
        }
    }
    if let Some(layer) = deltas.into_keys().next() {
        return Err(DeriveError::NoLayer { layer });
    }
    // In the order of their inputs, so that a disk is read and written from one end to the other.
    jobs.sort_by_key(|(job, _)| job.input.slices().next().map(|slice| (slice.source, slice.range.start)));
    let mut outputs: Vec<&mut Output> = jobs.iter_mut().flat_map(|(job, _)| &mut job.outputs).collect();
    if let Some(reserved) = outputs.iter().find(|output| output.name.starts_with(ROOM)) {
        return Err(DeriveError::ReservedName { name: shown(&reserved.name) });
    }
    let layout = image::lay_out(&mut outputs, &metadata);
    for (job, models) in &mut jobs {
        for (output, mut placed) in job.outputs.iter().zip(models.drain(..)) {
            placed.name.clone_from(&output.name);
            placed.dtype = output.dtype;
            placed.shape.clone_from(&output.shape);
            placed.making = Making::AsStored;
            tensors.push(placed.moved(|_| At::Derived(output.range.clone())));
        }
    }
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(DeriveError::NameCollision { name: shown(&pair[0].name) });
    }
    let jobs: Vec<Job> = jobs.into_iter().map(|(job, _)| job).collect();
    let derivation = (!jobs.is_empty()).then_some(Derivation { jobs, image: layout });
    Ok(Derived { tensors, derivation, remarks })
}

/// What is computed together.
enum Unit {
    Plain(Placed),
    Packed(Box<Layer>),
}

/// A packed layer.
struct Layer {
    name: String,
    scheme: Scheme,
    /// Dimensions of the weight that it stands for.
    logical: Vec<u64>,
    weight: Placed,
    scales: Placed,
    biases: Option<Placed>,
}

impl Unit {
    /// Name of the layer, when it has a weight.
    fn layer(&self) -> Option<&str> {
        match self {
            Self::Plain(placed) => placed.canonical.strip_suffix(".weight"),
            Self::Packed(layer) => Some(&layer.name),
        }
    }

    /// Dimensions of what it stands for.
    fn logical(&self) -> &[u64] {
        match self {
            Self::Plain(placed) => &placed.shape,
            Self::Packed(layer) => &layer.logical,
        }
    }

    fn into_placed(self) -> Vec<Placed> {
        match self {
            Self::Plain(placed) => vec![placed],
            Self::Packed(layer) => [layer.weight, layer.scales].into_iter().chain(layer.biases).collect(),
        }
    }
}

/// The tensors of packed layers brought together.
fn units(placed: Vec<Placed>) -> Result<Vec<Unit>, DeriveError> {
    let mut units = Vec::new();
    let mut layers: BTreeMap<String, BTreeMap<&'static str, Placed>> = BTreeMap::new();
    for tensor in placed {
        match tensor.packed.as_ref().map(|packed| packed.role) {
            None => units.push(Unit::Plain(tensor)),
            Some(role) => {
                let ending = 1 + role.name().len();
                let layer = tensor.canonical[..tensor.canonical.len() - ending].to_owned();
                layers.entry(layer).or_default().insert(role.name(), tensor);
            }
        }
    }
    for (layer, mut parts) in layers {
        let mut part = |role: PackedRole| parts.remove(role.name());
        let (weight, scales, biases) = (part(PackedRole::Weight), part(PackedRole::Scales), part(PackedRole::Biases));
        let torn = |missing| DeriveError::Torn { layer: layer.clone(), missing };
        let weight = weight.ok_or_else(|| torn("weight"))?;
        let scales = scales.ok_or_else(|| torn("scales"))?;
        let Some(Packed { scheme, logical_shape: logical, .. }) = weight.packed.as_deref().cloned() else {
            return Err(torn("declaration"));
        };
        if biases.is_none() && scheme.mode() == Mode::Affine {
            return Err(torn("biases"));
        }
        units.push(Unit::Packed(Box::new(Layer { name: layer, scheme, logical, weight, scales, biases })));
    }
    Ok(units)
}

/// The layers that are to be quantised.
fn choose(
    units: &[Unit],
    scheme: Scheme,
    selection: &Selection,
    quantises: &dyn Fn(&str) -> bool,
) -> Result<BTreeSet<String>, DeriveError> {
    let matrices: Vec<(&str, &[u64])> = units
        .iter()
        .filter(|unit| match unit {
            Unit::Plain(placed) => placed.shape.len() == 2 && FLOATS.contains(&placed.dtype),
            Unit::Packed(_) => true,
        })
        .filter_map(|unit| Some((unit.layer()?, unit.logical())))
        .collect();
    let (only, except) = (globs(&selection.only, &matrices)?, globs(&selection.except, &matrices)?);
    let mut chosen = BTreeSet::new();
    for &(layer, shape) in &matrices {
        let is_named = only.as_ref().is_some_and(|only| only.is_match(layer));
        let is_meant = if only.is_some() { is_named } else { quantises(layer) };
        if !is_meant || except.as_ref().is_some_and(|except| except.is_match(layer)) {
            continue;
        }
        match scheme.shape_of(PackedRole::Weight, shape) {
            Some(_) => drop(chosen.insert(layer.to_owned())),
            None if is_named => {
                let scheme = scheme.to_string();
                return Err(DeriveError::Ragged { layer: layer.to_owned(), shape: shape.to_vec(), scheme });
            }
            None => {}
        }
    }
    if chosen.is_empty() {
        return Err(DeriveError::NothingToQuantise { scheme: scheme.to_string(), found: matrices.len() });
    }
    Ok(chosen)
}

/// The patterns, each of which must mean something; `None` when there are none.
fn globs(patterns: &[String], matrices: &[(&str, &[u64])]) -> Result<Option<GlobSet>, DeriveError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut all = GlobSetBuilder::new();
    for pattern in patterns {
        let bad =
            |error: globset::Error| DeriveError::Pattern { pattern: shown(pattern), problem: error.kind().to_string() };
        let glob = Glob::new(pattern).map_err(bad)?;
        let one = glob.compile_matcher();
        if !matrices.iter().any(|(layer, _)| one.is_match(layer)) {
            let sample = matrices.iter().take(SAMPLE).map(|(layer, _)| shown(layer)).collect();
            return Err(DeriveError::NothingMatches { pattern: shown(pattern), layers: matrices.len(), sample });
        }
        all.add(glob);
    }
    let bad = |error: globset::Error| DeriveError::Pattern {
        pattern: "all of them".into(),
        problem: error.kind().to_string(),
    };
    all.build().map(Some).map_err(bad)
}

/// What is to be done with a unit, and for each output a tensor like it; `None` when it is lent as it lies.
fn job(
    unit: &Unit,
    conversion: &Conversion,
    chosen: &BTreeSet<String>,
    deltas: Vec<Delta>,
) -> Result<Option<(Job, Vec<Placed>)>, DeriveError> {
    let asked = match &conversion.packing {
        Packing::Quantised(scheme, _) if unit.layer().is_some_and(|layer| chosen.contains(layer)) => Some(*scheme),
        _ => None,
    };
    let wanted = conversion.dtype.map(super::Float::dtype);
    let (input, found, quantise, base) = match unit {
        Unit::Plain(placed) => {
            let is_float = FLOATS.contains(&placed.dtype);
            if !deltas.is_empty() && !is_float {
                let layer = unit.layer().unwrap_or(&placed.canonical).to_owned();
                return Err(DeriveError::NoFloats { layer, dtype: placed.dtype });
            }
            if !is_float && placed.making == Making::AsStored {
                return Ok(None);
            }
            (Input::Plain(slice(placed)), placed.dtype, asked, placed)
        }
        Unit::Packed(layer) => {
            let Layer { scheme, weight, scales, biases, .. } = &**layer;
            let quantise = match (&conversion.packing, asked) {
                (_, Some(asked)) => Some(asked),
                (Packing::Plain, None) => None,
                // Fused layers are plain where that is wished.
                (_, None) if !deltas.is_empty() && conversion.fused == Fused::Plain => None,
                (_, None) => Some(*scheme),
            };
            if deltas.is_empty() && quantise == Some(*scheme) {
                return Ok(None);
            }
            let found = if scheme.mode() == Mode::Affine { scales.dtype } else { Dtype::BF16 };
            let input = Input::Packed {
                weight: slice(weight),
                scales: slice(scales),
                biases: biases.as_ref().map(slice),
                scheme: *scheme,
            };
            (input, found, quantise, weight)
        }
    };
    // A layer that is quantised again as it was keeps the dtype of its scales.
    let keeps = matches!(unit, Unit::Packed(layer) if quantise == Some(layer.scheme));
    let cast = wanted.filter(|&wanted| wanted != found && !keeps && FLOATS.contains(&found));
    let reorder = reordered(base);
    if deltas.is_empty() && cast.is_none() && reorder.is_none() && quantise.is_none() && matches!(unit, Unit::Plain(_))
    {
        return Ok(None);
    }
    let (dtype, shape) = (cast.unwrap_or(found), unit.logical().to_vec());
    let (outputs, models) = outputs(base, dtype, &shape, quantise);
    Ok(Some((Job { input, deltas, cast, reorder, quantise, outputs }, models)))
}

/// The outputs of a job, and what they are like.
fn outputs(base: &Placed, dtype: Dtype, shape: &[u64], quantise: Option<Scheme>) -> (Vec<Output>, Vec<Placed>) {
    let output = |name: String, dtype, shape: Vec<u64>| Output { name, dtype, shape, range: 0..0 };
    let Some(scheme) = quantise else {
        let model = Placed { packed: None, ..base.clone() };
        return (vec![output(base.name.clone(), dtype, shape.to_vec())], vec![model]);
    };
    let layer = |name: &str| name.strip_suffix(".weight").unwrap_or(name).to_owned();
    let part = |&role: &PackedRole| {
        let dtype = match (role, scheme.mode()) {
            (PackedRole::Weight, _) => Dtype::U32,
            (_, Mode::Affine) => dtype,
            (_, Mode::Mxfp4 | Mode::Mxfp8 | Mode::Nvfp4) => Dtype::U8,
        };
        let packed = Packed { scheme, role, logical_shape: shape.to_vec() };
        let model = Placed {
            canonical: format!("{}.{}", layer(&base.canonical), role.name()).into(),
            packed: Some(Box::new(packed)),
            ..base.clone()
        };
        let shape = scheme.shape_of(role, shape).unwrap_or_default();
        (output(format!("{}.{}", layer(&base.name), role.name()), dtype, shape), model)
    };
    scheme.roles().iter().map(part).unzip()
}

/// How the dimensions of a tensor have to be reordered.
fn reordered(placed: &Placed) -> Option<Axes> {
    match placed.making {
        Making::ToReorder(axes) => Some(axes),
        Making::AsStored => None,
    }
}

/// The bytes of a tensor where they lie.
fn slice(placed: &Placed) -> Slice {
    let stored = reordered(placed).and_then(|axes| axes.inverse().ordered(&placed.shape));
    let shape = stored.unwrap_or_else(|| placed.shape.clone());
    let Stored { source, range } = placed.at.clone();
    Slice { source, range, dtype: placed.dtype, shape }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        derive::{Alpha, Float, Matrix, Product},
        source::SourceId,
    };

    fn placed(name: &str, dtype: Dtype, shape: &[u64]) -> Placed {
        Placed {
            name: format!("module.{name}"),
            canonical: name.into(),
            source_name: None,
            making: Making::AsStored,
            dtype,
            shape: shape.to_vec(),
            at: Stored { source: SourceId(0), range: 1000..1000 + crate::header::byte_length(dtype, shape).unwrap() },
            origin: None,
            packed: None,
        }
    }

    fn packed(layer: &str, scheme: Scheme, logical: [u64; 2], scales: Dtype) -> Vec<Placed> {
        let part = |&role: &PackedRole| {
            let dtype = if role == PackedRole::Weight { Dtype::U32 } else { scales };
            let mut tensor =
                placed(&format!("{layer}.{}", role.name()), dtype, &scheme.shape_of(role, &logical).unwrap());
            tensor.packed = Some(Box::new(Packed { scheme, role, logical_shape: logical.to_vec() }));
            tensor
        };
        scheme.roles().iter().map(part).collect()
    }

    fn scheme(mode: Mode, bits: u64, group: u64) -> Scheme {
        Scheme::new(mode, Some(bits), Some(group)).unwrap()
    }

    fn delta() -> Delta {
        let slice = Slice { source: SourceId(3), range: 0..4, dtype: Dtype::F32, shape: vec![1, 1] };
        let product = Product::Full(Matrix { slice, transposed: false });
        Delta { product, scale: 1.0, alpha: Alpha::One, divisor: 1.0, rows: 0..1 }
    }

    fn run(tensors: Vec<Placed>, conversion: &Conversion, deltas: &[&str]) -> Result<Derived, DeriveError> {
        let deltas = deltas.iter().map(|&layer| (layer.to_owned(), vec![delta()])).collect();
        let quantises = |layer: &str| !layer.contains("embed");
        plan(tensors, conversion, Setting { quantises: &quantises, deltas, metadata: BTreeMap::new() })
    }

    /// Names and dtypes of what is lent, and whether it was computed.
    fn lent(derived: &Derived) -> Vec<(&str, Dtype, bool)> {
        derived.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.dtype, tensor.at.is_derived())).collect()
    }

    fn bf16() -> Conversion {
        Conversion { dtype: Some(Float::Bf16), ..Conversion::default() }
    }

    #[test]
    fn what_is_as_wished_stays_where_it_lies() {
        let tensors = vec![
            placed("a.weight", Dtype::BF16, &[4, 64]),
            placed("b.weight", Dtype::F32, &[4, 64]),
            placed("ids", Dtype::I64, &[3]),
        ];
        let derived = run(tensors.clone(), &bf16(), &[]).unwrap();
        let expected = [
            ("module.a.weight", Dtype::BF16, false),
            ("module.b.weight", Dtype::BF16, true),
            ("module.ids", Dtype::I64, false),
        ];
        assert_eq!(lent(&derived), expected);
        let jobs = derived.derivation.unwrap().jobs;
        assert_eq!((jobs.len(), jobs[0].cast, jobs[0].quantise), (1, Some(Dtype::BF16), None));
        assert_eq!(run(tensors, &Conversion::default(), &[]).unwrap().derivation, None);
    }

    #[test]
    fn kernels_are_reordered_and_cast_at_once() {
        let mut kernel = placed("conv.weight", Dtype::F32, &[8, 3, 3, 2]);
        kernel.making = Making::ToReorder(Axes::CONV2D);
        let jobs = run(vec![kernel], &bf16(), &[]).unwrap().derivation.unwrap().jobs;
        let Input::Plain(slice) = &jobs[0].input else { panic!("it is plain") };
        assert_eq!(slice.shape, [8, 2, 3, 3], "as it lies");
        assert_eq!((jobs[0].reorder, jobs[0].cast), (Some(Axes::CONV2D), Some(Dtype::BF16)));
        assert_eq!(jobs[0].outputs[0].shape, [8, 3, 3, 2]);
    }

    #[test]
    fn layers_are_quantised_by_the_rule_or_by_patterns() {
        let tensors = || {
            vec![
                placed("a.weight", Dtype::F32, &[4, 64]),
                placed("b.weight", Dtype::BF16, &[4, 128]),
                placed("b.bias", Dtype::BF16, &[4]),
                placed("embed.weight", Dtype::BF16, &[4, 64]),
                placed("odd.weight", Dtype::BF16, &[4, 65]),
            ]
        };
        let conversion = |only: &[&str], except: &[&str]| {
            let list = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            let selection = Selection { only: list(only), except: list(except) };
            Conversion { packing: Packing::Quantised(scheme(Mode::Affine, 4, 64), selection), ..bf16() }
        };
        let packed = |derived: &Derived| -> Vec<String> {
            let jobs = &derived.derivation.as_ref().unwrap().jobs;
            let of = |job: &&Job| job.quantise.is_some();
            let mut names: Vec<_> = jobs.iter().filter(of).map(|job| job.outputs[0].name.clone()).collect();
            names.sort();
            names
        };
        let derived = run(tensors(), &conversion(&[], &[]), &[]).unwrap();
        assert_eq!(packed(&derived), ["module.a.weight", "module.b.weight"]);
        let expected = [
            ("module.a.biases", Dtype::BF16, true),
            ("module.a.scales", Dtype::BF16, true),
            ("module.a.weight", Dtype::U32, true),
            ("module.b.bias", Dtype::BF16, false),
        ];
        assert_eq!(lent(&derived)[..4], expected);
        let weight = derived.tensors.iter().find(|tensor| tensor.name == "module.b.weight").unwrap();
        assert_eq!(weight.shape, [4, 16]);
        assert_eq!(weight.packed.as_ref().unwrap().logical_shape, [4, 128]);
        assert_eq!(packed(&run(tensors(), &conversion(&["e*", "a"], &[]), &[]).unwrap()).len(), 2);
        assert_eq!(packed(&run(tensors(), &conversion(&[], &["a"]), &[]).unwrap()), ["module.b.weight"]);
        let errors = [
            (conversion(&["x.*"], &[]), "x.*"),
            (conversion(&["odd"], &[]), "odd"),
            (conversion(&["[a"], &[]), "[a"),
            (conversion(&[], &["*"]), "no layer"),
        ];
        for (conversion, word) in errors {
            let error = run(tensors(), &conversion, &[]).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn packed_layers_stay_go_plain_or_change() {
        let stored = scheme(Mode::Affine, 8, 32);
        let tensors = || packed("a", stored, [4, 64], Dtype::F32);
        let conversion = |packing| Conversion { packing, ..bf16() };
        assert_eq!(run(tensors(), &bf16(), &[]).unwrap().derivation, None, "scales are not cast");
        let plain = run(tensors(), &conversion(Packing::Plain), &[]).unwrap();
        assert_eq!(lent(&plain), [("module.a.weight", Dtype::BF16, true)]);
        assert_eq!(plain.tensors[0].shape, [4, 64]);
        let same = conversion(Packing::Quantised(stored, Selection::default()));
        assert_eq!(run(tensors(), &same, &[]).unwrap().derivation, None);
        let other = conversion(Packing::Quantised(scheme(Mode::Mxfp4, 4, 32), Selection::default()));
        let expected = [("module.a.scales", Dtype::U8, true), ("module.a.weight", Dtype::U32, true)];
        assert_eq!(lent(&run(tensors(), &other, &[]).unwrap()), expected);
        let mut torn = tensors();
        torn.retain(|tensor| !tensor.name.ends_with("biases"));
        assert!(matches!(run(torn, &bf16(), &[]), Err(DeriveError::Torn { missing: "biases", .. })));
    }

    #[test]
    fn adapters_keep_what_a_layer_is() {
        let stored = scheme(Mode::Nvfp4, 4, 16);
        let tensors = || {
            let mut tensors = packed("a", stored, [4, 64], Dtype::U8);
            tensors.push(placed("b.weight", Dtype::F32, &[4, 64]));
            tensors
        };
        let again = run(tensors(), &Conversion::default(), &["a", "b"]).unwrap();
        let expected = [
            ("module.a.scales", Dtype::U8, true),
            ("module.a.weight", Dtype::U32, true),
            ("module.b.weight", Dtype::F32, true),
        ];
        assert_eq!(lent(&again), expected);
        assert!(again.derivation.unwrap().jobs.iter().all(|job| job.deltas.len() == 1 && job.cast.is_none()));
        let plain = Conversion { fused: Fused::Plain, ..Conversion::default() };
        let expected = [("module.a.weight", Dtype::BF16, true), ("module.b.weight", Dtype::F32, false)];
        assert_eq!(lent(&run(tensors(), &plain, &["a"]).unwrap()), expected);
        let absent = run(tensors(), &Conversion::default(), &["c"]).unwrap_err();
        assert_eq!(absent, DeriveError::NoLayer { layer: "c".into() });
    }

    #[test]
    fn names_are_not_taken_twice() {
        let quantised = Packing::Quantised(scheme(Mode::Affine, 4, 64), Selection::default());
        let conversion = Conversion { packing: quantised, ..Conversion::default() };
        let taken = vec![placed("a.weight", Dtype::F32, &[4, 64]), placed("a.biases", Dtype::F32, &[4])];
        let error = run(taken, &conversion, &[]).unwrap_err();
        assert_eq!(error, DeriveError::NameCollision { name: "module.a.biases".into() });
        let mut reserved = placed("a", Dtype::F32, &[3]);
        reserved.name = format!("{ROOM}0");
        assert!(run(vec![reserved.clone()], &Conversion::default(), &[]).is_ok(), "it is lent as it is");
        assert!(matches!(run(vec![reserved], &bf16(), &[]), Err(DeriveError::ReservedName { .. })));
    }
}
