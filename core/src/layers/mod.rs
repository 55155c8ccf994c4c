//! The quantised layers of a component: what their tensors are, and from which of them numbers can be computed.
//!
//! Four witnesses are heard: the names and dtypes of tensors (`recognise`), the declaration, the catalogue's shapes,
//! and the packed shapes. A layer on which they agree, in a format of MLX, is [packed](Layers::packed); one in a format
//! that weightsd makes plain, on which the marks of its file agree too, is [coded](Layers::coded). Of any other
//! layer, and of tensors whose dtype nothing has arithmetic for, the bytes are lent as they are, and [`Layers::opaque`]
//! says why nothing is computed from them.

mod coded;
mod opaque;
mod packed;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    catalogue::{Catalogue, Expected, Role, Stored},
    layer_name::{layer_of, weight_of},
    naming::Naming,
    quantisation::{Coded, Coding, Declaration, Packed, Recognised, Scheme, SlotRole, recognise_called},
    table::{Sourced, Table},
};

/// What a quantised layer's tensor should be, and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProblem {
    /// The tensor.
    pub name: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

/// A layer that MLX quantised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedLayer {
    /// How it is quantised.
    pub scheme: Scheme,
    /// Shape of the weight that it stands for.
    pub logical: Vec<u64>,
    /// Parts that it has and that other layers of the scheme can do without.
    pub optional: Vec<SlotRole>,
}

/// A layer in a format that MLX does not have, and that weightsd makes plain. Tensors that were cast to 8-bit floats without
/// a scale are such layers too, each by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodedLayer {
    /// How it is stored.
    pub coding: Coding,
    /// Shape of the weight that it stands for.
    pub logical: Vec<u64>,
    /// Role, name and shape of its tensors.
    pub tensors: Vec<(SlotRole, String, Vec<u64>)>,
}

/// A layer in a format that MLX does not have, and from which nothing is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignLayer {
    /// The format, with the words by which the checkpoint declares it.
    pub format: String,
    /// Names and shapes of its tensors; empty where they belong to a fused layer that another entry has.
    pub tensors: Vec<(String, Vec<u64>)>,
}

/// Tensors from which nothing is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opaque {
    /// Their names.
    pub tensors: Vec<String>,
    /// Shape of the weight that they stand for, as far as it is known.
    pub logical: Option<Vec<u64>>,
    /// Why not: a clause about the layer, such as `it is quantised as GPTQ`.
    pub why: String,
}

/// What is known of the layers of a component that are not plain floats.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// Layers that MLX quantised, by name.
    pub packed: BTreeMap<String, PackedLayer>,
    /// Layers in other formats that weightsd makes plain, by name; tensors that were cast, by their own names.
    pub coded: BTreeMap<String, CodedLayer>,
    /// Layers in formats from which nothing is computed, by name.
    pub foreign: BTreeMap<String, ForeignLayer>,
    /// Layers, or single tensors, from which nothing is computed, by name.
    pub opaque: BTreeMap<String, Opaque>,
    /// Names of single tensors that were cast to 8-bit floats, as whole models are.
    pub cast: BTreeSet<String>,
    /// What does not fit.
    pub problems: Vec<LayerProblem>,
    /// What a person should know, and refuses nothing.
    pub remarks: Vec<String>,
}

impl Layers {
    /// The layer that a tensor belongs to.
    #[must_use]
    pub fn slot_of(&self, name: &str) -> Option<Packed> {
        // Layers have dots in their names, and so have suffixes: the longest layer is the tensor's.
        let mut end = name.len();
        while let Some(dot) = name[..end].rfind('.') {
            if let Some(PackedLayer { scheme, logical, .. }) = self.packed.get(&name[..dot]) {
                let slots = scheme.slots().chain(scheme.optional());
                let role = slots.filter(|slot| slot.suffix == &name[dot..]).map(|slot| slot.role).next()?;
                return Some(Packed { scheme: *scheme, role, logical_shape: logical.clone() });
            }
            end = dot;
        }
        None
    }

    /// The coded layer that a tensor belongs to.
    #[must_use]
    pub fn coded_slot_of(&self, name: &str) -> Option<Coded> {
        let (CodedLayer { coding, logical, .. }, role) = self.coded_layer(name)?;
        Some(Coded { coding: *coding, role, logical_shape: logical.clone() })
    }

    /// Notes in `table` the layers that the tensors of packed and of coded layers belong to.
    pub fn describe(&self, table: &mut Table) {
        table.describe(|name| self.slot_of(name), |name| self.coded_slot_of(name));
    }

    /// Shape of the weight that a quantised layer stands for, as far as it is known.
    #[must_use]
    pub fn logical(&self, layer: &str) -> Option<&[u64]> {
        let packed = self.packed.get(layer).map(|packed| packed.logical.as_slice());
        let coded = || self.coded.get(layer).map(|coded| coded.logical.as_slice());
        packed.or_else(coded).or_else(|| self.opaque.get(layer)?.logical.as_deref())
    }

    /// `catalogue` with the tensors of quantised layers in place of their weights.
    #[must_use]
    pub fn quantised(&self, catalogue: &Catalogue) -> Catalogue {
        catalogue.expanded(|expected| {
            if self.cast.contains(&expected.name) {
                return Some(vec![Expected { stored: Stored::Foreign, ..expected.clone() }]);
            }
            let layer = layer_of(&expected.name).unwrap_or(&expected.name);
            if let Some(coded) = self.coded.get(layer).or_else(|| self.coded.get(&expected.name)) {
                let tensor = |(role, name, shape): &(SlotRole, String, Vec<u64>)| Expected {
                    name: name.clone(),
                    shape: shape.clone(),
                    // A kernel is still one: its codes are put in order when they are made plain.
                    role: if *role == SlotRole::Weight { expected.role } else { Role::Plain },
                    stored: Stored::Foreign,
                };
                return Some(coded.tensors.iter().map(tensor).collect());
            }
            if let Some(foreign) = self.foreign.get(layer) {
                let tensor = |(name, shape): &(String, Vec<u64>)| Expected {
                    name: name.clone(),
                    shape: shape.clone(),
                    role: Role::Plain,
                    stored: Stored::Foreign,
                };
                return Some(foreign.tensors.iter().map(tensor).collect());
            }
            let PackedLayer { scheme, logical, optional } = self.packed.get(layer)?;
            let required = scheme.slots().map(|slot| slot.role);
            let slot = |role: SlotRole| {
                let slot = scheme.slot(role)?;
                let packed = Packed { scheme: *scheme, role, logical_shape: logical.clone() };
                let shape = scheme.shape_of(role, &expected.shape).unwrap_or_default();
                let name = format!("{layer}{}", slot.suffix);
                Some(Expected { name, shape, role: Role::Plain, stored: Stored::Packed(packed) })
            };
            required.chain(optional.iter().copied()).map(slot).collect()
        })
    }
}

/// What is known of a component when its quantised layers are looked for.
#[derive(Clone, Copy)]
pub struct Sought<'a> {
    /// The component.
    pub component: &'a str,
    /// Its tensors, under the catalogue's names.
    pub table: &'a Table,
    /// What is said of its quantisation.
    pub declaration: Option<&'a Declaration>,
    /// The tensors that it must have.
    pub catalogue: Option<&'a Catalogue>,
    /// Names of modules, under which some writers declare layers.
    pub naming: &'a Naming,
    /// The layers of the catalogue for which a layer of that name stands, if its writer fused several and packed them so that
    /// they cannot be taken apart.
    pub stands_for: &'a dyn Fn(&str) -> Option<Vec<String>>,
}

impl fmt::Debug for Sought<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sought").field("component", &self.component).finish_non_exhaustive()
    }
}

impl Sought<'_> {
    /// Shape of a layer's weight by the catalogue.
    fn shape(&self, layer: &str) -> Option<&[u64]> {
        Some(self.catalogue?.get(&weight_of(layer))?.shape.as_slice())
    }

    /// The layers of the catalogue that were fused into this one, and the shape of their weights one above the other.
    fn fused(&self, layer: &str) -> Option<(Vec<String>, Vec<u64>)> {
        let layers = (self.stands_for)(layer)?;
        let mut rows = 0_u64;
        let mut columns = None;
        for shape in layers.iter().map(|layer| self.shape(layer)) {
            let &[own, width] = shape? else { return None };
            rows = rows.checked_add(own)?;
            if columns.replace(width).is_some_and(|found| found != width) {
                return None;
            }
        }
        Some((layers, vec![rows, columns?]))
    }

    /// Tensors whose names begin with that of the layer and a dot.
    fn of_layer(&self, layer: &str) -> &[Sourced] {
        self.table.under(&format!("{layer}."))
    }
}

/// Finds the quantised layers. With a catalogue, logical shapes are the catalogue's and the audit compares the tensors
/// with them; without one they follow from the packed shapes, and are compared here.
#[must_use]
pub fn layers(sought: &Sought<'_>) -> Layers {
    let foreign = sought.declaration.and_then(|declaration| declaration.foreign.as_ref());
    let tensors = sought.table.tensors().iter().map(|tensor| (&*tensor.info.name, &tensor.info));
    let marks = coded::marks(sought);
    let method = foreign.map(|foreign| foreign.method.as_str());
    let called = |layer: &str| match marks.get(layer) {
        Some(Ok((mark, _))) => Some(mark.format.as_str()),
        _ => method,
    };
    let recognised = recognise_called(tensors, called);
    let mut found = Layers::default();
    packed::find(&mut found, sought, &recognised);
    opaque::find(&mut found, sought, &recognised, &marks);
    found
}

/// Whether a format is one of MLX's.
fn is_mlx(recognised: &Recognised<'_>) -> bool {
    recognised.format.computed().is_some()
}
