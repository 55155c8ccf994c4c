//! The quantised layers of a checkpoint, found by their scales.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    catalogue::{Catalogue, Expected, Role},
    header::names,
    quantisation::{Declaration, Packed, PackedRole, Scheme},
    table::Table,
};

/// What a layer's packed tensors should be, and are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProblem {
    /// The tensor.
    pub name: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

/// The tensors of quantised layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// Layers by name (without `.weight`), with scheme and logical shape.
    pub layers: BTreeMap<String, (Scheme, Vec<u64>)>,
    /// What does not fit.
    pub problems: Vec<LayerProblem>,
    /// Layers of which no declaration tells how they are quantised; their shapes did.
    pub inferred: usize,
}

impl Layers {
    /// What a tensor is a part of.
    #[must_use]
    pub fn packed(&self, name: &str) -> Option<Packed> {
        let (layer, ending) = name.rsplit_once('.')?;
        let (scheme, logical_shape) = self.layers.get(layer)?;
        let role = scheme.roles().iter().copied().find(|role| role.name() == ending)?;
        Some(Packed { scheme: *scheme, role, logical_shape: logical_shape.clone() })
    }

    /// Notes in `table` what the tensors of quantised layers are parts of.
    pub fn describe(&self, table: &mut Table) {
        table.describe(|name| self.packed(name));
    }

    /// `catalogue` with the packed tensors of quantised layers in place of their weights.
    #[must_use]
    pub fn quantised(&self, catalogue: &Catalogue) -> Catalogue {
        catalogue.expanded(|expected| {
            let layer = expected.name.strip_suffix(".weight")?;
            let (scheme, logical) = self.layers.get(layer)?;
            let part = |&role: &PackedRole| {
                let name = format!("{layer}.{}", role.name());
                let packed = Packed { scheme: *scheme, role, logical_shape: logical.clone() };
                let shape = scheme.shape_of(role, &expected.shape)?;
                Some(Expected { name, shape, role: Role::Plain, packed: Some(packed) })
            };
            scheme.roles().iter().map(part).collect()
        })
    }
}

/// Finds the quantised layers in `table`: those that have scales, and those that the declaration lists by name. With a
/// catalogue, logical shapes are the catalogue's and the audit compares the tensors with them; without one they follow
/// from the packed shapes, and are compared here.
#[must_use]
pub fn layers(
    component: &str,
    table: &Table,
    declaration: Option<&Declaration>,
    catalogue: Option<&Catalogue>,
) -> Layers {
    let scaled = table.tensors().iter().filter_map(|tensor| tensor.info.name.strip_suffix(".scales"));
    let listed = catalogue.into_iter().flat_map(Catalogue::tensors).filter_map(|expected| {
        let layer = expected.name.strip_suffix(".weight")?;
        declaration?.entry(component, layer)??;
        Some(layer)
    });
    let names: BTreeSet<&str> = scaled.chain(listed).collect();
    let mut found = Layers::default();
    for layer in names {
        add_layer(&mut found, component, layer, table, declaration, catalogue);
    }
    found
}

fn add_layer(
    found: &mut Layers,
    component: &str,
    layer: &str,
    table: &Table,
    declaration: Option<&Declaration>,
    catalogue: Option<&Catalogue>,
) {
    let tensor = |role: PackedRole| table.get(&format!("{layer}.{}", role.name())).map(|found| &found.info);
    let weight = tensor(PackedRole::Weight);
    let mut problem = |name: String, expected: String, what: String| {
        found.problems.push(LayerProblem { name, expected, found: what });
    };
    let logical = catalogue.and_then(|catalogue| catalogue.get(&format!("{layer}.weight"))).map(|e| e.shape.clone());
    let entry = declaration.and_then(|declaration| declaration.entry(component, layer));
    if entry == Some(None) {
        problem(format!("{layer}.scales"), "no scales: the layer is declared as not quantised".into(), "scales".into());
        return;
    }
    let declared = entry.flatten().or_else(|| declaration.map(|declaration| declaration.default));
    let by_shapes = || {
        let (weight, scales) = (weight?, tensor(PackedRole::Scales)?);
        Scheme::inferred(logical.as_ref()?, &weight.shape, &scales.shape, scales.dtype)
    };
    let Some(scheme) = declared.or_else(by_shapes) else {
        problem(
            format!("{layer}.scales"),
            "a declaration of bits and group size".into(),
            "none, and the shapes do not tell".into(),
        );
        return;
    };
    found.inferred += usize::from(declared.is_none());
    if let Some(logical) = logical {
        if scheme.shape_of(PackedRole::Weight, &logical).is_none() {
            problem(format!("{layer}.weight"), format!("rows of whole groups ({scheme})"), format!("{logical:?}"));
        } else {
            found.layers.insert(layer.to_owned(), (scheme, logical));
        }
        return;
    }
    let Some(weight) = weight else {
        problem(format!("{layer}.weight"), "a packed weight beside the scales".into(), "none".into());
        return;
    };
    let Some(logical) = scheme.logical_shape(&weight.shape) else {
        problem(format!("{layer}.weight"), format!("a packed shape ({scheme})"), format!("{:?}", weight.shape));
        return;
    };
    for &role in scheme.roles() {
        let name = format!("{layer}.{}", role.name());
        let Some(shape) = scheme.shape_of(role, &logical) else { continue };
        match tensor(role) {
            None => problem(name, format!("{shape:?} ({scheme})"), "none".into()),
            Some(info) if info.shape != shape => {
                problem(name, format!("{shape:?} ({scheme})"), format!("{:?}", info.shape));
            }
            Some(info) if !scheme.dtypes(role).contains(&info.dtype) => {
                problem(name, format!("{} ({scheme})", names(scheme.dtypes(role))), info.dtype.to_string());
            }
            Some(_) => {}
        }
    }
    found.layers.insert(layer.to_owned(), (scheme, logical));
}
