//! The tensors of a component as units: what is computed, or lent, together.

use std::collections::BTreeMap;

use super::CannotConvert;
use crate::{
    layer_name::{layer_of, weight_of},
    layers::Opaque,
    origin::Operation,
    place::Placed,
    quantisation::{Decoding, Scheme, SlotRole},
};

/// What is computed together.
pub(super) enum Unit<'a> {
    /// A tensor.
    Plain(Placed),
    /// The tensors of a packed layer.
    Packed(Box<Layer>),
    /// The tensors of a layer in a format that weightsd makes plain.
    Coded(Box<CodedUnit>),
    /// The tensors of a layer, or a single one, whose numbers are not known.
    Opaque(OpaqueUnit<'a>),
}

/// A packed layer.
pub(super) struct Layer {
    pub(super) name: String,
    pub(super) scheme: Scheme,
    /// Dimensions of the weight that it stands for.
    pub(super) logical: Vec<u64>,
    pub(super) slots: BTreeMap<SlotRole, Placed>,
}

/// A layer in a format that weightsd makes plain.
pub(super) struct CodedUnit {
    pub(super) decoding: Decoding,
    /// Dimensions of the weight that it stands for.
    pub(super) logical: Vec<u64>,
    /// The codes.
    pub(super) weight: Placed,
    /// The other tensors.
    pub(super) others: Vec<(SlotRole, Placed)>,
}

impl CodedUnit {
    /// The row of the scales that belongs to its first row.
    pub(super) fn first_row(&self) -> u64 {
        let rows = |placed: &Placed| match placed.origin.as_deref()?.operation {
            Operation::Rows { first, .. } => Some(first),
            _ => None,
        };
        let scales = self.others.iter().find(|(role, _)| *role == SlotRole::Scales);
        // Scales that were dealt out begin with the row that the codes begin with.
        match scales.map(|(_, placed)| rows(placed)) {
            Some(None) => rows(&self.weight).unwrap_or(0),
            Some(Some(_)) | None => 0,
        }
    }
}

/// Tensors that can only be lent.
pub(super) struct OpaqueUnit<'a> {
    pub(super) name: &'a str,
    pub(super) opaque: &'a Opaque,
    pub(super) tensors: Vec<Placed>,
}

impl Layer {
    /// The codes.
    pub(super) fn weight(&self) -> Option<&Placed> {
        self.slots.get(&SlotRole::Weight)
    }

    /// Whether the layer is quantised by `scheme` and has no slots that other layers of the scheme do without.
    pub(super) fn is_exactly(&self, scheme: Scheme) -> bool {
        self.scheme == scheme && scheme.optional().all(|slot| !self.slots.contains_key(&slot.role))
    }
}

impl Unit<'_> {
    /// Name of the layer; `None` for a tensor that is no layer's weight.
    pub(super) fn layer(&self) -> Option<&str> {
        match self {
            Self::Plain(placed) => layer_of(&placed.canonical),
            Self::Packed(layer) => Some(&layer.name),
            Self::Coded(unit) => layer_of(&unit.weight.canonical),
            Self::Opaque(unit) => Some(unit.name),
        }
    }

    /// Catalogue name of the tensor that adapters change.
    pub(super) fn weight(&self) -> String {
        match self {
            Self::Plain(placed) => placed.canonical.to_string(),
            Self::Packed(layer) => weight_of(&layer.name),
            Self::Coded(unit) => unit.weight.canonical.to_string(),
            Self::Opaque(unit) => weight_of(unit.name),
        }
    }

    /// Dimensions of the weight; empty where they are not known.
    pub(super) fn logical(&self) -> &[u64] {
        match self {
            Self::Plain(placed) => &placed.shape,
            Self::Packed(layer) => &layer.logical,
            Self::Coded(unit) => &unit.logical,
            Self::Opaque(unit) => unit.opaque.logical.as_deref().unwrap_or_default(),
        }
    }

    /// Its tensors.
    pub(super) fn into_placed(self) -> Vec<Placed> {
        match self {
            Self::Plain(placed) => vec![placed],
            Self::Packed(layer) => layer.slots.into_values().collect(),
            Self::Coded(unit) => {
                std::iter::once(unit.weight).chain(unit.others.into_iter().map(|(_, placed)| placed)).collect()
            }
            Self::Opaque(unit) => unit.tensors,
        }
    }
}

/// Brings the tensors of packed, of coded and of opaque layers together.
///
/// # Errors
/// When a packed or coded layer lacks a slot.
pub(super) fn units<'a>(
    placed: Vec<Placed>,
    opaque: &'a BTreeMap<String, Opaque>,
) -> Result<Vec<Unit<'a>>, CannotConvert> {
    let owners: BTreeMap<&str, (&'a str, &'a Opaque)> = opaque
        .iter()
        .flat_map(|(name, opaque)| opaque.tensors.iter().map(move |tensor| (tensor.as_str(), (name.as_str(), opaque))))
        .collect();
    let mut units = Vec::new();
    let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
    let mut coded: BTreeMap<String, Vec<(SlotRole, Placed)>> = BTreeMap::new();
    let mut closed: BTreeMap<&str, OpaqueUnit<'a>> = BTreeMap::new();
    for tensor in placed {
        if let Some(&(name, opaque)) = owners.get(&*tensor.canonical) {
            let unit = closed.entry(name).or_insert_with(|| OpaqueUnit { name, opaque, tensors: Vec::new() });
            unit.tensors.push(tensor);
            continue;
        }
        if let Some(found) = tensor.coded.as_deref() {
            let role = found.role;
            let slots = found.coding.format.slots.iter().filter(|slot| slot.role == role);
            let name = slots.filter_map(|slot| tensor.canonical.strip_suffix(slot.suffix)).next();
            let name = name.unwrap_or(&tensor.canonical).to_owned();
            coded.entry(name).or_default().push((role, tensor));
            continue;
        }
        let Some(packed) = tensor.packed.as_deref().cloned() else {
            units.push(Unit::Plain(tensor));
            continue;
        };
        let suffix = packed.scheme.slot(packed.role).map_or("", |slot| slot.suffix);
        let name = tensor.canonical.strip_suffix(suffix).unwrap_or(&tensor.canonical).to_owned();
        let layer = layers.entry(name).or_insert_with_key(|name| Layer {
            name: name.clone(),
            scheme: packed.scheme,
            logical: packed.logical_shape,
            slots: BTreeMap::new(),
        });
        layer.slots.insert(packed.role, tensor);
    }
    for layer in layers.into_values() {
        if let Some(slot) = layer.scheme.slots().find(|slot| !layer.slots.contains_key(&slot.role)) {
            return Err(CannotConvert::Torn { layer: layer.name, missing: slot.name() });
        }
        units.push(Unit::Packed(Box::new(layer)));
    }
    for (layer, slots) in coded {
        units.push(Unit::Coded(Box::new(coded_unit(layer, slots)?)));
    }
    units.extend(closed.into_values().map(Unit::Opaque));
    Ok(units)
}

/// The unit of the tensors of one coded layer.
fn coded_unit(layer: String, mut slots: Vec<(SlotRole, Placed)>) -> Result<CodedUnit, CannotConvert> {
    let weight = slots.iter().position(|(role, _)| *role == SlotRole::Weight);
    let Some(weight) = weight.map(|at| slots.remove(at).1) else {
        return Err(CannotConvert::Torn { layer, missing: "weight" });
    };
    let Some(coded) = weight.coded.as_deref() else { unreachable!("the tensors of a coded layer know it") };
    let required = coded.coding.format.required().filter(|slot| coded.coding.decoding.reads(slot.role));
    if let Some(slot) = required
        .filter(|slot| slot.role != SlotRole::Weight)
        .find(|slot| slots.iter().all(|(role, _)| *role != slot.role))
    {
        return Err(CannotConvert::Torn { layer, missing: slot.name() });
    }
    Ok(CodedUnit { decoding: coded.coding.decoding, logical: coded.logical_shape.clone(), weight, others: slots })
}
