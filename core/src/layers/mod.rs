//! The quantised layers of a component: what their tensors are, and from which of them numbers can be computed.
//!
//! Four witnesses are heard: the names and dtypes of tensors ([`recognise`]), the declaration, the catalogue's shapes,
//! and the packed shapes. A layer on which they agree, in a format of MLX, is [packed](Layers::packed). Of any other
//! layer, and of tensors whose dtype MLX has no arithmetic for, the bytes are lent as they are, and [`Layers::opaque`]
//! says why nothing is computed from them.

mod opaque;
mod packed;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    catalogue::{Catalogue, Expected, Role, Stored},
    layer_name::{layer_of, weight_of},
    naming::Naming,
    quantisation::{Declaration, Packed, Recognised, Scheme, SlotRole, recognise},
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

/// A layer in a format that MLX does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignLayer {
    /// The format, with the words by which the checkpoint declares it.
    pub format: String,
    /// Names and shapes of its tensors.
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
    /// Layers in formats that MLX does not have, by name.
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

    /// Notes in `table` the layers that the tensors of packed layers belong to.
    pub fn describe(&self, table: &mut Table) {
        table.describe(|name| self.slot_of(name));
    }

    /// Shape of the weight that a quantised layer stands for, as far as it is known.
    #[must_use]
    pub fn logical(&self, layer: &str) -> Option<&[u64]> {
        let packed = self.packed.get(layer).map(|packed| packed.logical.as_slice());
        packed.or_else(|| self.opaque.get(layer)?.logical.as_deref())
    }

    /// `catalogue` with the tensors of quantised layers in place of their weights.
    #[must_use]
    pub fn quantised(&self, catalogue: &Catalogue) -> Catalogue {
        catalogue.expanded(|expected| {
            if self.cast.contains(&expected.name) {
                return Some(vec![Expected { stored: Stored::Foreign, ..expected.clone() }]);
            }
            let layer = layer_of(&expected.name)?;
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
#[derive(Debug, Clone, Copy)]
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
}

impl Sought<'_> {
    /// Shape of a layer's weight by the catalogue.
    fn shape(&self, layer: &str) -> Option<&[u64]> {
        Some(self.catalogue?.get(&weight_of(layer))?.shape.as_slice())
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
    let recognised = recognise(tensors, foreign.map(|foreign| foreign.method.as_str()));
    let mut found = Layers::default();
    packed::find(&mut found, sought, &recognised);
    opaque::find(&mut found, sought, &recognised);
    found
}

/// Whether a format is one of MLX's.
fn is_mlx(recognised: &Recognised<'_>) -> bool {
    recognised.format.computed.is_some()
}
