//! Layers in formats that nothing here computes with, and tensors of dtypes that have no arithmetic. Layers of formats that
//! weightsd makes plain are told apart here; [`super::coded`] judges them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ForeignLayer, LayerProblem, Layers, Opaque, Sought,
    coded::{self, Fp8, Marks},
    is_mlx,
};
use crate::{
    header::{Dtype, FLOATS, TensorInfo, names},
    layer_name::{BIAS, layer_of, weight_of},
    quantisation::{Arithmetic, Foreign, Recognised, SlotRole, is_file_mark, is_harmless, side_layer},
    table::Sourced,
};

/// Adds the layers that other libraries quantised, and what else has numbers that are not known.
pub(super) fn find(
    found: &mut Layers,
    sought: &Sought<'_>,
    recognised: &BTreeMap<&str, Recognised<'_>>,
    marks: &Marks,
) {
    let declared = sought.declaration.and_then(|declaration| declaration.foreign.as_ref());
    let fp8 = Fp8::of(sought, recognised);
    for (layer, of_format) in recognised.iter().filter(|(_, layer)| !is_mlx(layer)) {
        let strangers = strangers(sought, layer, of_format);
        let why = match (&of_format.format.arithmetic, strangers) {
            (Arithmetic::Lent(reason), strangers) => {
                let reason = format!("which is recognised and not computed with, because {reason}");
                std::iter::once(reason).chain(strangers).collect::<Vec<_>>().join("; ")
            }
            (_, Some(strangers)) => format!("and {strangers}"),
            (_, None) => match coded::resolve(sought, layer, of_format, marks, &fp8) {
                Ok(coded) => {
                    found.coded.insert((*layer).to_owned(), coded);
                    continue;
                }
                Err(refusal) => {
                    found.problems.extend(refusal.problem);
                    format!("and {}", refusal.why)
                }
            },
        };
        add(found, sought, declared, (layer, of_format), &why);
    }
    unrecognised(found, sought, recognised, marks);
    declared_only(found, sought, declared);
    contradictions(found, sought);
    dtypes(found, sought, &fp8);
    if let Some(declared) = declared {
        remark(found, sought, declared);
    }
}

/// What lies beside the slots of a layer and belongs to another format, or to none.
fn strangers(sought: &Sought<'_>, layer: &str, recognised: &Recognised<'_>) -> Option<String> {
    let slots: BTreeSet<&str> = recognised.slots.iter().map(|(_, info)| &*info.name).collect();
    let others = beside(sought, layer).map(|tensor| &*tensor.info.name);
    let others: Vec<_> = others.filter(|name| !slots.contains(name)).map(|name| format!("`{name}`")).collect();
    (!others.is_empty()).then(|| format!("{} beside it belongs to no such layer", others.join(", ")))
}

/// Layers that have a mark, and whose tensors are those of no format.
fn unrecognised(found: &mut Layers, sought: &Sought<'_>, recognised: &BTreeMap<&str, Recognised<'_>>, marks: &Marks) {
    for (layer, mark) in marks.iter().filter(|(layer, _)| recognised.get(layer.as_str()).is_none_or(is_mlx)) {
        let Some(weight) = sought.table.get(&weight_of(layer)) else { continue };
        let why = match mark {
            Ok((mark, who)) => format!("{who} says `{}`, and its tensors are not those of that format", mark.format),
            Err(why) => why.clone(),
        };
        let tensors: Vec<&Sourced> = std::iter::once(weight).chain(beside(sought, layer)).collect();
        let names = tensors.iter().map(|tensor| tensor.info.name.to_string()).collect();
        let logical = sought.shape(layer).map(<[u64]>::to_vec);
        found.opaque.insert(layer.clone(), Opaque { tensors: names, logical, why });
        let format = match mark {
            Ok((mark, who)) => format!("{} (by {who})", mark.format),
            Err(_) => "an unknown format".to_owned(),
        };
        let tensors = tensors.iter().map(|tensor| (tensor.info.name.to_string(), tensor.info.shape.clone())).collect();
        found.packed.remove(layer);
        found.foreign.insert(layer.clone(), ForeignLayer { format, tensors });
    }
}

/// The name of a format, and where the checkpoint names it.
fn named(format: &str, declared: Option<&Foreign>) -> String {
    match declared {
        Some(declared) => format!("{format} ({declared})"),
        None => format.to_owned(),
    }
}

/// A layer that its slots show, and from which nothing is computed. `why` goes on after the name of its format.
fn add(
    found: &mut Layers,
    sought: &Sought<'_>,
    declared: Option<&Foreign>,
    (layer, recognised): (&str, &Recognised<'_>),
    why: &str,
) {
    let format = recognised.format;
    let (stands_for, fused) = sought.fused(layer).unzip();
    let logical = sought.shape(layer).map(<[u64]>::to_vec).or(fused);
    for (slot, info) in &recognised.slots {
        // A norm may be cast like anything else, and nothing packs it.
        let fits = |logical: &[u64]| match logical.len() {
            0 | 1 => slot.role != SlotRole::Weight || info.shape == logical,
            _ => slot.shape.may_be(&info.shape, logical),
        };
        let is_said = found.problems.iter().any(|problem| problem.name == *info.name);
        if let Some(logical) = logical.as_deref().filter(|logical| !is_said && !fits(logical)) {
            let expected = format!("a slot of a weight of {logical:?} ({})", format.name);
            let what = format!("{} {:?}", info.dtype, info.shape);
            found.problems.push(LayerProblem { name: info.name.to_string(), expected, found: what });
        }
    }
    let name = named(format.name, declared);
    let why = format!("it is quantised as {name}, {why}");
    let slots: BTreeSet<&str> = recognised.slots.iter().map(|(_, info)| &*info.name).collect();
    let others = beside(sought, layer).filter(|tensor| !slots.contains(&*tensor.info.name));
    let others = others.map(|tensor| tensor.info.name.to_string());
    let tensors = recognised.slots.iter().map(|(_, info)| (info.name.to_string(), info.shape.clone())).collect();
    let names = slots.iter().map(|name| (*name).to_owned()).chain(others).collect();
    let mut entries = stands_for.unwrap_or_else(|| vec![layer.to_owned()]).into_iter();
    let first = entries.next().unwrap_or_else(|| layer.to_owned());
    for other in entries {
        found.foreign.insert(other, ForeignLayer { format: name.clone(), tensors: Vec::new() });
    }
    found.foreign.insert(first.clone(), ForeignLayer { format: name, tensors });
    found.opaque.insert(first, Opaque { tensors: names, logical, why });
}

/// Tensors of a layer other than its weight and bias that the catalogue does not know either.
fn beside<'a>(sought: &Sought<'a>, layer: &str) -> impl Iterator<Item = &'a Sourced> {
    let (weight, bias) = (weight_of(layer), format!("{layer}{BIAS}"));
    let catalogue = sought.catalogue;
    sought.table.under(&format!("{layer}.")).iter().filter(move |tensor| {
        let name = &*tensor.info.name;
        let is_known = catalogue.is_some_and(|catalogue| catalogue.contains(name));
        name != weight && name != bias && !is_known && !is_harmless(name)
    })
}

/// Layers of a format that is declared and that no row of the table describes: their weights are not there, and other
/// tensors are.
fn declared_only(found: &mut Layers, sought: &Sought<'_>, declared: Option<&Foreign>) {
    let Some(declared) = declared else { return };
    let expected: Vec<(&str, Option<&[u64]>)> = match sought.catalogue {
        Some(catalogue) => catalogue.tensors().iter().map(|it| (it.name.as_str(), Some(it.shape.as_slice()))).collect(),
        // Where nothing says what there should be, matrices of integers are what is quantised.
        None => {
            let matrices = sought.table.tensors().iter().filter(|tensor| tensor.info.shape.len() == 2);
            matrices.map(|tensor| (&*tensor.info.name, None)).collect()
        }
    };
    for (name, shape) in expected {
        let Some(layer) = layer_of(name) else { continue };
        let is_known =
            found.foreign.contains_key(layer) || found.packed.contains_key(layer) || found.coded.contains_key(layer);
        let weight = sought.table.get(name);
        if is_known || weight.is_some_and(|weight| FLOATS.contains(&weight.info.dtype)) {
            continue;
        }
        let tensors: Vec<_> = weight.into_iter().chain(beside(sought, layer)).collect();
        if tensors.is_empty() {
            continue;
        }
        let format = named(&declared.method, Some(declared));
        let why = format!("it is quantised as {format}, which is not computed with");
        let logical = shape.map(<[u64]>::to_vec);
        let names = tensors.iter().map(|tensor| tensor.info.name.to_string()).collect();
        found.opaque.insert(layer.to_owned(), Opaque { tensors: names, logical, why });
        let tensors = tensors.iter().map(|tensor| (tensor.info.name.to_string(), tensor.info.shape.clone())).collect();
        found.foreign.insert(layer.to_owned(), ForeignLayer { format, tensors });
    }
}

/// The layer whose matrix a tensor of this name seems to scale, though no format has such a slot.
fn scaled_layer<'a>(sought: &Sought<'_>, name: &'a str) -> Option<&'a str> {
    const SCALES: [&str; 4] = [".scale", ".scaling", ".weight.scale", ".weight.scaling"];
    let suffix = SCALES.iter().rev().find(|suffix| name.ends_with(*suffix))?;
    let layer = name.strip_suffix(suffix)?;
    let is_matrix = sought.table.get(&weight_of(layer)).is_some_and(|weight| weight.info.shape.len() == 2)
        || sought.fused(layer).is_some();
    let is_expected = sought.catalogue.is_some_and(|catalogue| catalogue.contains(name));
    (is_matrix && !is_expected).then_some(layer)
}

/// How the numbers of a tensor are stored.
fn stored_as(info: &TensorInfo) -> String {
    info.encoding.map_or_else(|| info.dtype.to_string(), |encoding| encoding.blocks.to_string())
}

/// Weights that are floats, beside slots that only quantised layers have, and matrices beside scales of no format.
fn contradictions(found: &mut Layers, sought: &Sought<'_>) {
    let mut sides: BTreeMap<&str, Vec<&Sourced>> = BTreeMap::new();
    for tensor in sought.table.tensors() {
        let name = &*tensor.info.name;
        if let Some(layer) = side_layer(name).or_else(|| scaled_layer(sought, name)) {
            sides.entry(layer).or_default().push(tensor);
        }
    }
    for (layer, sides) in sides {
        let shown = sides.iter().map(|tensor| format!("`{}`", tensor.info.name)).collect::<Vec<_>>().join(", ");
        let sides: Vec<String> = sides.iter().map(|tensor| tensor.info.name.to_string()).collect();
        // Beside a fused layer they concern all that it was taken apart into.
        let fused = sought.fused(layer).map(|(layers, _)| layers);
        for layer in fused.unwrap_or_else(|| vec![layer.to_owned()]) {
            let Some(weight) = sought.table.get(&weight_of(&layer)) else { continue };
            let (opaque, packed, coded) = (&found.opaque, &found.packed, &found.coded);
            if opaque.contains_key(&layer) || packed.contains_key(&layer) || coded.contains_key(&layer) {
                continue;
            }
            let why = format!(
                "its weight is {}, and {shown} beside it belongs to a quantised layer of no known format",
                stored_as(&weight.info)
            );
            let tensors = std::iter::once(weight.info.name.to_string()).chain(sides.iter().cloned()).collect();
            found.opaque.insert(layer, Opaque { tensors, logical: Some(weight.info.shape.clone()), why });
        }
    }
}

/// Tensors that should be floats, and are of a dtype that is not cast.
fn dtypes(found: &mut Layers, sought: &Sought<'_>, fp8: &Fp8) {
    let known: BTreeSet<String> = found.opaque.values().flat_map(|opaque| opaque.tensors.iter().cloned()).collect();
    for tensor in sought.table.tensors() {
        let info = &tensor.info;
        let is_expected = sought.catalogue.is_some_and(|catalogue| catalogue.contains(&info.name));
        let is_float = !matches!(
            info.dtype,
            Dtype::BOOL
                | Dtype::U8
                | Dtype::I8
                | Dtype::U16
                | Dtype::I16
                | Dtype::U32
                | Dtype::I32
                | Dtype::U64
                | Dtype::I64
        );
        // Long floats and complex numbers of models that nothing describes stay as they are, and a plan says so.
        let is_long = matches!(info.dtype, Dtype::F64 | Dtype::C64);
        let is_odd = !FLOATS.contains(&info.dtype) && (is_float && !is_long || is_expected);
        if !is_odd || known.contains(&*info.name) || found.slot_of(&info.name).is_some() {
            continue;
        }
        if found.coded_slot_of(&info.name).is_some() || is_file_mark(&info.name) {
            continue;
        }
        let cast = coded::cast(info, fp8).map(|cast| match scale_of(sought, &info.name) {
            Some(scale) => Err(format!("`{scale}` beside it scales it in a way that is not known")),
            None => cast,
        });
        if let Some(Ok(cast)) = cast {
            found.coded.insert(info.name.to_string(), cast);
            continue;
        }
        if coded::is_float8(info.dtype) && is_expected {
            found.cast.insert(info.name.to_string());
        }
        let name = layer_of(&info.name).unwrap_or(&info.name);
        let because = cast.and_then(Result::err).map(|why| format!(", and {why}")).unwrap_or_default();
        let why = format!("it is {}, expected {}{because}", info.dtype, names(&FLOATS));
        let opaque = Opaque { tensors: vec![info.name.to_string()], logical: Some(info.shape.clone()), why };
        found.opaque.entry(name.to_owned()).or_insert(opaque);
    }
}

/// The tensor that seems to scale one that is no layer's weight, such as the stack of all experts, by its name.
fn scale_of<'a>(sought: &Sought<'a>, name: &str) -> Option<&'a str> {
    let mut names = sought.table.under(name).iter().map(|tensor| &*tensor.info.name);
    names.find(|other| {
        let rest = &other[name.len()..];
        rest.starts_with(['_', '.'])
            && rest.contains("scale")
            && !rest.contains("input")
            && !rest.contains("activation")
    })
}

/// What the declaration says and no tensor shows.
fn remark(found: &mut Layers, sought: &Sought<'_>, declared: &Foreign) {
    if found.foreign.is_empty() && found.packed.is_empty() && found.coded.is_empty() {
        found.remarks.push(format!("{declared}, and no layer is quantised"));
    } else if found.foreign.is_empty()
        && found.coded.is_empty()
        && sought.declaration.is_some_and(|declaration| declaration.default.is_none())
    {
        found.remarks.push(format!("{declared}, and the layers have the tensors of MLX's formats"));
        let why = format!("{declared}, and its tensors are those of another format, MLX's");
        for (layer, packed) in &found.packed {
            let tensors = sought.of_layer(layer).iter().map(|tensor| tensor.info.name.to_string()).collect();
            let opaque = Opaque { tensors, logical: Some(packed.logical.clone()), why: why.clone() };
            found.opaque.entry(layer.clone()).or_insert(opaque);
        }
    }
}
