//! Layers in formats that MLX does not have, and tensors of dtypes that it does not compute with.

use std::collections::{BTreeMap, BTreeSet};

use super::{ForeignLayer, LayerProblem, Layers, Opaque, Sought, is_mlx};
use crate::{
    header::{Dtype, FLOATS, names},
    layer_name::{BIAS, layer_of, weight_of},
    quantisation::{Foreign, Recognised, SlotRole, is_file_mark, side_layer},
    table::Sourced,
};

/// Adds the layers that other libraries quantised, and what else has numbers that are not known.
pub(super) fn find(found: &mut Layers, sought: &Sought<'_>, recognised: &BTreeMap<&str, Recognised<'_>>) {
    let declared = sought.declaration.and_then(|declaration| declaration.foreign.as_ref());
    for (layer, of_format) in recognised.iter().filter(|(_, layer)| !is_mlx(layer)) {
        add(found, sought, declared, layer, of_format);
    }
    declared_only(found, sought, declared);
    contradictions(found, sought);
    dtypes(found, sought);
    if let Some(declared) = declared {
        remark(found, sought, declared);
    }
}

/// The name of a format, and where the checkpoint names it.
fn named(format: &str, declared: Option<&Foreign>) -> String {
    match declared {
        Some(declared) => format!("{format} ({declared})"),
        None => format.to_owned(),
    }
}

/// A layer that its slots show.
fn add(found: &mut Layers, sought: &Sought<'_>, declared: Option<&Foreign>, layer: &str, recognised: &Recognised<'_>) {
    let format = recognised.format;
    let logical = sought.shape(layer).map(<[u64]>::to_vec);
    for (slot, info) in &recognised.slots {
        // A norm may be cast like anything else, and nothing packs it.
        let fits = |logical: &[u64]| match logical.len() {
            0 | 1 => slot.role != SlotRole::Weight || info.shape == logical,
            _ => slot.shape.may_be(&info.shape, logical),
        };
        if let Some(logical) = logical.as_deref().filter(|logical| !fits(logical)) {
            let expected = format!("a slot of a weight of {logical:?} ({})", format.name);
            let what = format!("{} {:?}", info.dtype, info.shape);
            found.problems.push(LayerProblem { name: info.name.to_string(), expected, found: what });
        }
    }
    let name = named(format.name, declared);
    let mut why = format!("it is quantised as {name}, which is recognised and not computed with");
    // What belongs to another format, or to none.
    let slots: BTreeSet<&str> = recognised.slots.iter().map(|(_, info)| &*info.name).collect();
    let others = beside(sought, layer).filter(|tensor| !slots.contains(&*tensor.info.name));
    let others: Vec<String> = others.map(|tensor| tensor.info.name.to_string()).collect();
    if !others.is_empty() {
        let shown = others.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        why = format!("{why}; {shown} beside it belongs to no such layer");
    }
    if format.slots.len() == 1 && is_marked(sought) {
        why = format!("{why}; the file says that its FP8 weights are scaled, and the scale is missing");
    }
    let tensors = recognised.slots.iter().map(|(_, info)| (info.name.to_string(), info.shape.clone())).collect();
    let names = slots.iter().map(|name| (*name).to_owned()).chain(others).collect();
    found.foreign.insert(layer.to_owned(), ForeignLayer { format: name, tensors });
    found.opaque.insert(layer.to_owned(), Opaque { tensors: names, logical, why });
}

/// Tensors of a layer other than its weight and bias that the catalogue does not know either.
fn beside<'a>(sought: &Sought<'a>, layer: &str) -> impl Iterator<Item = &'a Sourced> {
    let (weight, bias) = (weight_of(layer), format!("{layer}{BIAS}"));
    let catalogue = sought.catalogue;
    sought.table.under(&format!("{layer}.")).iter().filter(move |tensor| {
        let name = &*tensor.info.name;
        name != weight && name != bias && !catalogue.is_some_and(|catalogue| catalogue.contains(name))
    })
}

/// Whether the file says that its FP8 weights are scaled.
fn is_marked(sought: &Sought<'_>) -> bool {
    sought.table.tensors().iter().any(|tensor| is_file_mark(&tensor.info.name))
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
        let is_known = found.foreign.contains_key(layer) || found.packed.contains_key(layer);
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
    let is_matrix = sought.table.get(&weight_of(layer)).is_some_and(|weight| weight.info.shape.len() == 2);
    let is_expected = sought.catalogue.is_some_and(|catalogue| catalogue.contains(name));
    (is_matrix && !is_expected).then_some(layer)
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
        let Some(weight) = sought.table.get(&weight_of(layer)) else { continue };
        if found.opaque.contains_key(layer) || found.packed.contains_key(layer) {
            continue;
        }
        let shown = sides.iter().map(|tensor| format!("`{}`", tensor.info.name)).collect::<Vec<_>>().join(", ");
        let why = format!(
            "its weight is {}, and {shown} beside it belongs to a quantised layer of no known format",
            weight.info.dtype
        );
        let tensors = std::iter::once(weight).chain(sides).map(|tensor| tensor.info.name.to_string()).collect();
        found.opaque.insert(layer.to_owned(), Opaque { tensors, logical: Some(weight.info.shape.clone()), why });
    }
}

/// Tensors that should be floats, and are of a dtype that is not cast.
fn dtypes(found: &mut Layers, sought: &Sought<'_>) {
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
        let is_cast = matches!(info.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ);
        if is_cast && is_expected {
            found.cast.insert(info.name.to_string());
        }
        let name = layer_of(&info.name).unwrap_or(&info.name);
        let why = format!("it is {}, expected {}", info.dtype, names(&FLOATS));
        let opaque = Opaque { tensors: vec![info.name.to_string()], logical: Some(info.shape.clone()), why };
        found.opaque.entry(name.to_owned()).or_insert(opaque);
    }
}

/// What the declaration says and no tensor shows.
fn remark(found: &mut Layers, sought: &Sought<'_>, declared: &Foreign) {
    if found.foreign.is_empty() && found.packed.is_empty() {
        found.remarks.push(format!("{declared}, and no layer is quantised"));
    } else if found.foreign.is_empty() && sought.declaration.is_some_and(|declaration| declaration.default.is_none()) {
        found.remarks.push(format!("{declared}, and the layers have the tensors of MLX's formats"));
        let why = format!("{declared}, and its tensors are those of another format, MLX's");
        for (layer, packed) in &found.packed {
            let tensors = sought.of_layer(layer).iter().map(|tensor| tensor.info.name.to_string()).collect();
            let opaque = Opaque { tensors, logical: Some(packed.logical.clone()), why: why.clone() };
            found.opaque.entry(layer.clone()).or_insert(opaque);
        }
    }
}
