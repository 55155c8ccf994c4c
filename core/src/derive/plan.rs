//! Which tensors have to be computed for a conversion, and how; the others are lent from where they lie.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use super::{
    CannotConvert, Conversion, Delta, Float, Form, Input, Job, LayerFilter, Merged, Output, Packing, Slice,
    choose::choose,
    encoded::{self, ExactLayers},
    error::Wish,
    image::{self, ImagePlan, ROOM},
    outputs::{Planned, outputs, reordered, slice},
    unit::{CodedUnit, Layer, Unit, units},
};
use crate::{
    header::{Dtype, FLOATS},
    layer_name::{layer_of, weight_of},
    layers::Opaque,
    place::{At, Making, Placed, is_misaligned},
    quantisation::{Scheme, SlotRole},
    shown::shown,
};

/// What is computed, and the file that it makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Derivation {
    /// Computations, in the order of their inputs on disk.
    pub jobs: Vec<Job>,
    /// The file.
    pub image: ImagePlan,
}

impl Derivation {
    /// Bytes that are read.
    #[must_use]
    pub fn input_bytes(&self) -> u64 {
        self.jobs.iter().map(Job::input_bytes).sum()
    }

    /// Whether something is computed with MLX: the rest is copied or decoded, which needs no MLX.
    #[must_use]
    pub fn needs_engine(&self) -> bool {
        self.jobs.iter().any(Job::needs_engine)
    }

    /// Whether something is copied for the sake of its alignment.
    #[must_use]
    pub fn copies(&self) -> bool {
        self.jobs.iter().any(Job::is_copy)
    }
}

/// The tensors of a component as they are lent.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// The tensors, sorted by name.
    pub tensors: Vec<Placed<At>>,
    /// What has to be computed; `None` when everything is lent from where it lies.
    pub derivation: Option<Derivation>,
    /// The dtype that was wanted and that some tensors do not have, because their numbers are not known. A caller who
    /// named the dtype is refused; where it is the family's usual one, it is a remark.
    pub unmet: Option<CannotConvert>,
    /// What is worth knowing, and refuses nothing.
    pub remarks: Vec<String>,
}

/// Who says which layers are quantised, when a request names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The family knows the model's layers.
    Family,
    /// Nothing knows them. Matrices are taken for linear layers and embeddings, which mlx-lm quantises wherever rows are
    /// whole groups.
    Guess,
}

/// What becomes of misaligned tensors: nothing is computed for them, and no array of their dtype can begin where they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Alignment {
    /// They are copied into the image, so that no client has to copy them.
    Mended,
    /// They are lent from where they lie.
    #[default]
    AsStored,
}

/// What becomes of layers in formats that MLX does not have, when nobody asks for anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CodedLayers {
    /// They are made plain, since modules of MLX cannot use them.
    Plain,
    /// They are lent as they are stored.
    #[default]
    AsStored,
}

/// What a plan rests on, beside the tensors and the conversion.
pub struct Setting<'a> {
    /// Whether a layer of that name is quantised when the request names none.
    pub quantises: &'a dyn Fn(&str) -> bool,
    /// Who says so.
    pub rule: Rule,
    /// Layers and tensors from which nothing is computed.
    pub opaque: &'a BTreeMap<String, Opaque>,
    /// What becomes of layers in formats that MLX does not have.
    pub coded: CodedLayers,
    /// What becomes of misaligned tensors.
    pub alignment: Alignment,
    /// What adapters do, by the catalogue name of the tensor.
    pub deltas: BTreeMap<String, Vec<Delta>>,
    /// What the image says of itself.
    pub metadata: BTreeMap<String, String>,
    /// Whether the files of the tensors hold exactly them, under their names.
    pub files: Held,
    /// What becomes of encoded layers that MLX's quantisation can say exactly.
    pub layers: ExactLayers,
}

/// What the files of a component's tensors hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Exactly them, under the names by which they are lent.
    Exactly,
    /// More of them, or the same under other names or in other shapes.
    Otherwise,
}

/// The dtype of coded layers that are made plain when nobody says which.
const CODED_FLOAT: Float = Float::Bf16;

/// Plans `conversion` for `placed` tensors.
///
/// # Errors
/// When the conversion has no meaning for these tensors. A dtype that some of them cannot have is no error: see
/// [`Converted::unmet`].
pub fn plan(placed: Vec<Placed>, conversion: &Conversion, setting: Setting<'_>) -> Result<Converted, CannotConvert> {
    let Setting { quantises, rule, opaque, coded, alignment, mut deltas, metadata, files, layers } = setting;
    let units = units(placed, opaque)?;
    let mut remarks = Vec::new();
    let chosen = match &conversion.packing {
        Packing::Quantised(scheme, filter) => {
            let chosen = choose(&units, *scheme, filter, quantises)?;
            remarks.extend(guess(rule, filter, &chosen, &units));
            remarks.extend(stacks(&units));
            chosen
        }
        Packing::AsStored | Packing::Plain => BTreeSet::new(),
    };
    if conversion.packing == Packing::Plain && !units.iter().any(is_quantised) {
        remarks.push("no layer is quantised, so none was dequantised".to_owned());
    }
    let unmet = closed(&units, conversion, &deltas)?;
    remarks.extend(long(&units, conversion));
    let mut tensors: Vec<Placed<At>> = Vec::new();
    let mut jobs: Vec<Planned> = Vec::new();
    for unit in units {
        let added = in_order_of(&unit, deltas.remove(&unit.weight()).unwrap_or_default());
        match job(&unit, (conversion, layers), &chosen, added, coded)? {
            Some(job) => jobs.push(job),
            None => {
                let is_copied =
                    |placed: &Placed| alignment == Alignment::Mended && is_misaligned(placed.dtype, &placed.at.range);
                let (copied, lent): (Vec<_>, Vec<_>) = unit.into_placed().into_iter().partition(is_copied);
                jobs.extend(copied.into_iter().map(copy));
                tensors.extend(lent.into_iter().map(|placed| placed.moved(At::Source)));
            }
        }
    }
    remarks.extend(mended(&jobs));
    remarks.extend(decoded(&jobs, conversion));
    remarks.extend(encoded::told(&jobs));
    if let Some(layer) = deltas.into_keys().next() {
        return Err(CannotConvert::NoLayer { layer });
    }
    if conversion.form == Form::Files && (files == Held::Otherwise || !jobs.is_empty()) {
        jobs.extend(mem::take(&mut tensors).into_iter().map(taken));
    }
    let derivation = lay_out(jobs, &metadata, conversion.form, &mut tensors)?;
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(CannotConvert::NameCollision { name: shown(&pair[0].name) });
    }
    Ok(Converted { tensors, derivation, unmet, remarks })
}

/// What adapters do to a unit, told in which order its dimensions lie.
fn in_order_of(unit: &Unit<'_>, mut deltas: Vec<Delta>) -> Vec<Delta> {
    if let Unit::Plain(placed) = unit {
        deltas.iter_mut().for_each(|delta| delta.order = placed.stored_order());
    }
    deltas
}

/// Whether a unit is quantised in a way that can be made plain.
fn is_quantised(unit: &Unit<'_>) -> bool {
    match unit {
        Unit::Plain(placed) => placed.encoding.is_some(),
        Unit::Packed(_) | Unit::Coded(_) => true,
        Unit::Opaque(_) => false,
    }
}

/// The job that takes a tensor into the image as it lies.
fn taken(placed: Placed<At>) -> Planned {
    let stored = match &placed.at {
        At::Source(stored) => stored.clone(),
        At::Derived(_) => unreachable!("what is computed has its place after this"),
    };
    let bytes = stored.range.end - stored.range.start;
    let slice = Slice { source: stored.source, range: stored.range.clone(), dtype: Dtype::U8, shape: vec![bytes] };
    let placed = placed.moved(|_| stored);
    let output = Output { name: placed.name.clone(), dtype: placed.dtype, shape: placed.shape.clone(), range: 0..0 };
    let input = Input::Bytes(slice);
    let job = Job { input, deltas: Vec::new(), cast: None, reorder: None, quantise: None, outputs: vec![output] };
    (job, vec![placed])
}

/// Gives the outputs of `jobs` their places in the image, and adds them to `tensors`.
fn lay_out(
    mut jobs: Vec<Planned>,
    metadata: &BTreeMap<String, String>,
    form: Form,
    tensors: &mut Vec<Placed<At>>,
) -> Result<Option<Derivation>, CannotConvert> {
    // In the order of their inputs, so that a disk is read and written from one end to the other.
    jobs.sort_by_key(|(job, _)| job.input.slices().next().map(|slice| (slice.source, slice.range.start)));
    let mut outputs: Vec<&mut Output> = jobs.iter_mut().flat_map(|(job, _)| &mut job.outputs).collect();
    if let Some(reserved) = outputs.iter().find(|output| output.name.starts_with(ROOM)) {
        return Err(CannotConvert::ReservedName { name: shown(&reserved.name) });
    }
    let image = image::lay_out(&mut outputs, metadata, form);
    for (job, models) in &mut jobs {
        for (output, mut placed) in job.outputs.iter().zip(models.drain(..)) {
            placed.name.clone_from(&output.name);
            placed.dtype = output.dtype;
            placed.shape.clone_from(&output.shape);
            placed.making = Making::AsStored;
            tensors.push(placed.moved(|_| At::Derived(output.range.clone())));
        }
    }
    let jobs: Vec<Job> = jobs.into_iter().map(|(job, _)| job).collect();
    Ok((!jobs.is_empty()).then_some(Derivation { jobs, image }))
}

/// The job that gives a tensor another place and nothing else.
fn copy(placed: Placed) -> Planned {
    let Placed { name, dtype, shape, .. } = placed.clone();
    let outputs = vec![Output { name, dtype, shape, range: 0..0 }];
    let input = Input::Plain(slice(&placed));
    (Job { input, deltas: Vec::new(), cast: None, reorder: None, quantise: None, outputs }, vec![placed])
}

/// The remark on tensors that are copied for the sake of their alignment.
fn mended(jobs: &[Planned]) -> Option<String> {
    let copies = || jobs.iter().map(|(job, _)| job).filter(|job| job.is_copy());
    let (count, bytes) = (copies().count(), copies().map(Job::input_bytes).sum::<u64>());
    (count > 0).then(|| {
        format!(
            "{count} tensors of {bytes} bytes begin in their file at no multiple of their element's size, so they are lent \
             from an aligned copy, made once for all"
        )
    })
}

/// The remark on how layers were chosen, where it is a guess.
fn guess(rule: Rule, filter: &LayerFilter, chosen: &BTreeSet<String>, units: &[Unit<'_>]) -> Option<String> {
    if rule == Rule::Family || !filter.only.is_empty() {
        return None;
    }
    let matrices = units.iter().filter(|unit| unit.logical().len() == 2).count();
    Some(format!(
        "no family knows the layers of this model: {} of {matrices} matrices were taken for linear layers and embeddings and \
         quantised, as mlx-lm does with layers whose rows are whole groups; name layers to choose otherwise",
        chosen.len()
    ))
}

/// The remark on stacks of matrices, which are most of a model with experts, and which nobody quantises here.
fn stacks(units: &[Unit<'_>]) -> Option<String> {
    let mut stacks = units.iter().filter_map(|unit| match unit {
        Unit::Plain(placed) if placed.shape.len() == 3 && FLOATS.contains(&placed.dtype) => Some(placed),
        _ => None,
    });
    let first = stacks.next()?;
    let count = 1 + stacks.count();
    Some(format!(
        "{count} tensors of three dimensions, such as `{}`, stay as they are: only matrices are quantised",
        shown(&first.name)
    ))
}

/// Says which floats keep their dtype, since MLX computes with theirs on no graphics processor.
fn long(units: &[Unit<'_>], conversion: &Conversion) -> Option<String> {
    conversion.dtype?;
    let mut long = units.iter().filter_map(|unit| match unit {
        Unit::Plain(placed) if matches!(placed.dtype, Dtype::F64 | Dtype::C64) => Some(placed),
        _ => None,
    });
    let first = long.next()?;
    let count = 1 + long.count();
    Some(format!("{count} tensors, such as `{}`, are {} and stay so", shown(&first.name), first.dtype))
}

/// Refuses to compute from layers whose numbers are not known; the dtype that they cannot have is returned.
fn closed(
    units: &[Unit<'_>],
    conversion: &Conversion,
    deltas: &BTreeMap<String, Vec<Delta>>,
) -> Result<Option<CannotConvert>, CannotConvert> {
    let opaque: Vec<_> = units
        .iter()
        .filter_map(|unit| match unit {
            Unit::Opaque(unit) => Some(unit),
            Unit::Plain(_) | Unit::Packed(_) | Unit::Coded(_) => None,
        })
        .collect();
    let refusal = |wish: Wish, is_wished: &dyn Fn(&str, &[Placed]) -> bool| {
        let mut wished = opaque.iter().filter(|unit| is_wished(unit.name, &unit.tensors));
        let first = wished.next()?;
        let (layer, why) = (first.name.to_owned(), first.opaque.why.clone());
        Some(CannotConvert::Opaque { wish, count: 1 + wished.count(), layer, why })
    };
    let moved = |_: &str, tensors: &[Placed]| tensors.iter().any(|tensor| reordered(tensor).is_some());
    let quantised =
        |_: &str, tensors: &[Placed]| tensors.iter().any(|tensor| !matches!(tensor.dtype, Dtype::F64 | Dtype::C64));
    // Nobody can be lent blocks as they are stored.
    let encoded = |_: &str, tensors: &[Placed]| tensors.iter().any(|tensor| tensor.encoding.is_some());
    let refused = refusal(Wish::Adapt, &|name, _| deltas.contains_key(name) || deltas.contains_key(&weight_of(name)))
        .or_else(|| (conversion.packing == Packing::Plain).then(|| refusal(Wish::Dequantise, &quantised))?)
        .or_else(|| refusal(Wish::Reorder, &moved))
        .or_else(|| refusal(Wish::Decode, &encoded));
    if let Some(refused) = refused {
        return Err(refused);
    }
    // Layers that MLX packed are no floats, and keep the dtype of their scales.
    let wanted = conversion.dtype.map(super::Float::dtype);
    let uncast = |_: &str, tensors: &[Placed]| {
        tensors.iter().all(|tensor| tensor.packed.is_none())
            && tensors.iter().any(|tensor| wanted.is_some_and(|wanted| tensor.dtype != wanted))
    };
    Ok(refusal(Wish::Cast, &uncast))
}

/// What is to be done with a unit, and for each output a tensor like it; `None` when it is lent as it lies.
fn job(
    unit: &Unit<'_>,
    (conversion, layers): (&Conversion, ExactLayers),
    chosen: &BTreeSet<String>,
    deltas: Vec<Delta>,
    coded_layers: CodedLayers,
) -> Result<Option<Planned>, CannotConvert> {
    let asked = match &conversion.packing {
        Packing::Quantised(scheme, _) if unit.layer().is_some_and(|layer| chosen.contains(layer)) => Some(*scheme),
        _ => None,
    };
    match unit {
        Unit::Opaque(_) => Ok(None),
        Unit::Plain(placed) => match placed.encoding {
            Some(encoding) => encoded::encoded(placed, encoding, (conversion, layers), asked, deltas).map(Some),
            None => plain(placed, conversion, asked, deltas),
        },
        Unit::Packed(layer) => packed(layer, conversion, asked, deltas),
        Unit::Coded(unit) => {
            let is_plain = coded_layers == CodedLayers::Plain
                || conversion.packing == Packing::Plain
                || conversion.dtype.is_some()
                || asked.is_some()
                || !deltas.is_empty();
            Ok(is_plain.then(|| coded(unit, conversion, asked, deltas)))
        }
    }
}

/// The job that makes a coded layer plain, or quantises it in a format of MLX.
fn coded(unit: &CodedUnit, conversion: &Conversion, asked: Option<Scheme>, deltas: Vec<Delta>) -> Planned {
    let CodedUnit { decoding, logical, weight, others } = unit;
    let reorder = reordered(weight);
    let read = others.iter().filter(|(role, _)| decoding.reads(*role)).map(|(role, placed)| (*role, slice(placed)));
    let mut codes = slice(weight);
    // What is stored may have more rows; the others follow.
    if let (Some(&rows), Some(stored)) = (logical.first(), codes.shape.first().copied().filter(|_| reorder.is_none()))
        && rows < stored
    {
        codes.range.end = codes.range.start + codes.bytes() / stored * rows;
        codes.shape[0] = rows;
    }
    let logical = if reorder.is_some() { codes.shape.clone() } else { logical.clone() };
    let input = Input::Coded {
        slots: std::iter::once((SlotRole::Weight, codes)).chain(read).collect(),
        decoding: *decoding,
        logical: logical.clone(),
        first_row: unit.first_row(),
    };
    let dtype = conversion.dtype.unwrap_or(CODED_FLOAT).dtype();
    let shape = if reorder.is_some() { &weight.shape } else { &unit.logical };
    let (outputs, models) = outputs(weight, dtype, shape, asked);
    (Job { input, deltas, cast: Some(dtype), reorder, quantise: asked, outputs }, models)
}

/// Says which layers were made plain, and in which dtype.
fn decoded(jobs: &[Planned], conversion: &Conversion) -> Option<String> {
    let of_codes = |(job, models): &Planned| match (&job.input, models.first()) {
        (Input::Coded { .. }, Some(model)) => model.coded.as_deref().map(|coded| coded.coding.format.name),
        _ => None,
    };
    let formats: Vec<&str> = jobs.iter().filter_map(of_codes).collect();
    let count = formats.len();
    let names: BTreeSet<&str> = formats.into_iter().collect();
    let dtype = conversion.dtype.unwrap_or(CODED_FLOAT).dtype();
    (count > 0).then(|| {
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        format!("{count} weights are stored in formats that MLX does not have ({names}) and were computed in {dtype}")
    })
}

/// What is to be done with a plain tensor.
fn plain(
    placed: &Placed,
    conversion: &Conversion,
    asked: Option<Scheme>,
    deltas: Vec<Delta>,
) -> Result<Option<Planned>, CannotConvert> {
    let is_float = FLOATS.contains(&placed.dtype);
    if !deltas.is_empty() && !is_float {
        let layer = layer_of(&placed.canonical).unwrap_or(&placed.canonical).to_owned();
        return Err(CannotConvert::NoFloats { layer, dtype: placed.dtype });
    }
    let reorder = reordered(placed);
    let wanted = conversion.dtype.map(super::Float::dtype);
    let cast = wanted.filter(|&wanted| wanted != placed.dtype && is_float);
    if deltas.is_empty() && cast.is_none() && reorder.is_none() && asked.is_none() {
        return Ok(None);
    }
    let (outputs, models) = outputs(placed, cast.unwrap_or(placed.dtype), &placed.shape, asked);
    Ok(Some((Job { input: Input::Plain(slice(placed)), deltas, cast, reorder, quantise: asked, outputs }, models)))
}

/// What is to be done with a packed layer.
fn packed(
    layer: &Layer,
    conversion: &Conversion,
    asked: Option<Scheme>,
    deltas: Vec<Delta>,
) -> Result<Option<Planned>, CannotConvert> {
    let Some(weight) = layer.weight() else { return Ok(None) };
    let quantise = match (&conversion.packing, asked) {
        (_, Some(asked)) => Some(asked),
        (Packing::Plain, None) => None,
        (_, None) if !deltas.is_empty() && conversion.merged == Merged::Plain => None,
        (_, None) => Some(layer.scheme),
    };
    let stays = match asked {
        Some(asked) => layer.is_exactly(asked),
        None => quantise.is_some(),
    };
    if deltas.is_empty() && stays {
        return Ok(None);
    }
    if asked.is_none() && quantise.is_some() && !layer.is_exactly(layer.scheme) {
        return Err(CannotConvert::GlobalScale { layer: layer.name.clone(), scheme: layer.scheme.to_string() });
    }
    let found = layer.scheme.dequantised(|role| layer.slots.get(&role).map(|slot| slot.dtype));
    let wanted = conversion.dtype.map(super::Float::dtype);
    // A layer that is quantised again as it was keeps the dtype of its scales.
    let cast = wanted.filter(|&wanted| wanted != found && quantise != Some(layer.scheme));
    let slots = layer.slots.iter().map(|(role, slot)| (*role, slice(slot))).collect();
    let input = Input::Packed { slots, scheme: layer.scheme };
    let (outputs, models) = outputs(weight, cast.unwrap_or(found), &layer.logical, quantise);
    Ok(Some((Job { input, deltas, cast, reorder: None, quantise, outputs }, models)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        axes::Axes,
        derive::{Effect, Matrix, Product},
        place::Stored,
        quantisation::{Mode, Packed, SlotSpec},
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
            coded: None,
            encoding: None,
        }
    }

    fn packed(layer: &str, scheme: Scheme, logical: [u64; 2], scales: Dtype) -> Vec<Placed> {
        let slot = |slot: &SlotSpec| {
            let shape = scheme.shape_of(slot.role, &logical).unwrap();
            let mut tensor = placed(&format!("{layer}{}", slot.suffix), slot.dtype.written(scales), &shape);
            tensor.packed = Some(Box::new(Packed { scheme, role: slot.role, logical_shape: logical.to_vec() }));
            tensor
        };
        scheme.slots().map(slot).collect()
    }

    fn scheme(mode: Mode, bits: u64, group: u64) -> Scheme {
        Scheme::new(mode, Some(bits), Some(group)).unwrap()
    }

    fn delta() -> Delta {
        let slice = Slice { source: SourceId(3), range: 0..4, dtype: Dtype::F32, shape: vec![1, 1] };
        let product = Product::Full(Matrix { slice, transposed: false });
        Delta {
            product,
            scale: 1.0,
            alpha: 1.0,
            divisor: 1.0,
            rows: 0..1,
            effect: Effect::Adds,
            magnitude: None,
            order: None,
        }
    }

    fn run(tensors: Vec<Placed>, conversion: &Conversion, deltas: &[&str]) -> Result<Converted, CannotConvert> {
        let deltas = deltas.iter().map(|&layer| (weight_of(layer), vec![delta()])).collect();
        let quantises = |layer: &str| !layer.contains("embed");
        let opaque = BTreeMap::new();
        let metadata = BTreeMap::new();
        plan(
            tensors,
            conversion,
            Setting {
                quantises: &quantises,
                rule: Rule::Family,
                opaque: &opaque,
                coded: CodedLayers::Plain,
                alignment: Alignment::Mended,
                deltas,
                metadata,
                files: Held::Otherwise,
                layers: ExactLayers::Packed,
            },
        )
    }

    /// Names and dtypes of what is lent, and whether it was computed.
    fn lent(derived: &Converted) -> Vec<(&str, Dtype, bool)> {
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
    fn stacks_of_matrices_that_stay_plain_are_told() {
        let experts = placed("experts.gate_up_proj", Dtype::BF16, &[4, 64, 64]);
        let packing = Packing::Quantised(scheme(Mode::Affine, 4, 64), LayerFilter::default());
        let wish = Conversion { packing, ..bf16() };
        let matrix = placed("a.weight", Dtype::BF16, &[4, 64]);
        let said = run(vec![matrix.clone(), experts], &wish, &[]).unwrap().remarks;
        assert!(
            said[0].starts_with("1 tensors of three dimensions, such as `module.experts.gate_up_proj`"),
            "{said:?}"
        );
        assert!(run(vec![matrix], &wish, &[]).unwrap().remarks.is_empty());
    }

    #[test]
    fn files_for_other_programs_hold_every_tensor_or_are_the_checkpoints_own() {
        let tensors = vec![
            placed("a.weight", Dtype::BF16, &[4, 64]),
            placed("b.weight", Dtype::F32, &[4, 64]),
            placed("four", Dtype::F4, &[3, 2]),
        ];
        let files = |dtype| Conversion { dtype, form: Form::Files, ..Conversion::default() };
        let derived = run(tensors.clone(), &files(Some(Float::Bf16)), &[]).unwrap();
        assert!(derived.tensors.iter().all(|tensor| tensor.at.is_derived()), "{:?}", lent(&derived));
        let jobs = derived.derivation.unwrap().jobs;
        let taken: Vec<_> = jobs.iter().filter(|job| matches!(job.input, Input::Bytes(_))).collect();
        assert_eq!(taken.len(), 2);
        let four = taken.iter().find(|job| job.outputs[0].dtype == Dtype::F4).unwrap();
        assert_eq!((four.input_bytes(), &four.outputs[0].shape), (3, &vec![3, 2]));
        // Nothing to compute: the files decide.
        assert!(run(tensors.clone(), &files(None), &[]).unwrap().derivation.is_some(), "they hold them otherwise");
        let (quantises, opaque, metadata) = (|_: &str| false, BTreeMap::new(), BTreeMap::new());
        let (deltas, files_hold, rule) = (BTreeMap::new(), Held::Exactly, Rule::Family);
        let alignment = Alignment::Mended;
        let setting = Setting {
            quantises: &quantises,
            rule,
            opaque: &opaque,
            coded: CodedLayers::Plain,
            alignment,
            deltas,
            metadata,
            files: files_hold,
            layers: ExactLayers::Packed,
        };
        assert_eq!(plan(tensors, &files(None), setting).unwrap().derivation, None);
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
            let selection = LayerFilter { only: list(only), except: list(except) };
            Conversion { packing: Packing::Quantised(scheme(Mode::Affine, 4, 64), selection), ..bf16() }
        };
        let packed = |derived: &Converted| -> Vec<String> {
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
        let same = conversion(Packing::Quantised(stored, LayerFilter::default()));
        assert_eq!(run(tensors(), &same, &[]).unwrap().derivation, None);
        let other = conversion(Packing::Quantised(scheme(Mode::Mxfp4, 4, 32), LayerFilter::default()));
        let expected = [("module.a.scales", Dtype::U8, true), ("module.a.weight", Dtype::U32, true)];
        assert_eq!(lent(&run(tensors(), &other, &[]).unwrap()), expected);
        let mut torn = tensors();
        torn.retain(|tensor| !tensor.name.ends_with("biases"));
        assert!(matches!(run(torn, &bf16(), &[]), Err(CannotConvert::Torn { missing: "biases", .. })));
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
        let plain = Conversion { merged: Merged::Plain, ..Conversion::default() };
        let expected = [("module.a.weight", Dtype::BF16, true), ("module.b.weight", Dtype::F32, false)];
        assert_eq!(lent(&run(tensors(), &plain, &["a"]).unwrap()), expected);
        let absent = run(tensors(), &Conversion::default(), &["c"]).unwrap_err();
        assert_eq!(absent, CannotConvert::NoLayer { layer: "c.weight".into() });
    }

    #[test]
    fn names_are_not_taken_twice() {
        let quantised = Packing::Quantised(scheme(Mode::Affine, 4, 64), LayerFilter::default());
        let conversion = Conversion { packing: quantised, ..Conversion::default() };
        let taken = vec![placed("a.weight", Dtype::F32, &[4, 64]), placed("a.biases", Dtype::F32, &[4])];
        let error = run(taken, &conversion, &[]).unwrap_err();
        assert_eq!(error, CannotConvert::NameCollision { name: "module.a.biases".into() });
        let mut reserved = placed("a", Dtype::F32, &[3]);
        reserved.name = format!("{ROOM}0");
        assert!(run(vec![reserved.clone()], &Conversion::default(), &[]).is_ok(), "it is lent as it is");
        assert!(matches!(run(vec![reserved], &bf16(), &[]), Err(CannotConvert::ReservedName { .. })));
    }
}
