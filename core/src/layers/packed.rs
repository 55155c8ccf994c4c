//! Layers in formats of MLX: which of its schemes each is quantised by.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{LayerProblem, Layers, Opaque, PackedLayer, Sought, is_mlx};
use crate::{
    catalogue::Catalogue,
    header::{Dtype, FLOATS, TensorInfo, names},
    layer_name::{BIAS, layer_of, weight_of},
    quantisation::{Declared, Recognised, Scheme, SlotRole, SlotSpec},
    shown::shown,
    tool::Tool,
};

/// Names that a remark shows.
const SAMPLE: usize = 3;

/// What was found beside the layers themselves.
#[derive(Default)]
struct Notes<'a> {
    /// Tensors that belong to some quantised layer.
    explained: HashSet<&'a str>,
    /// Entries of the declaration that named a layer.
    used: BTreeSet<&'a str>,
    /// A setting of all layers whose meaning is not known.
    switch: Option<String>,
    /// Layers that no declaration describes; their shapes did.
    undeclared: usize,
    /// Layers whose shapes show another scheme than the declaration's default, by that scheme.
    by_shapes: BTreeMap<String, Vec<String>>,
}

/// Adds the layers that MLX quantised.
pub(super) fn find(found: &mut Layers, sought: &Sought<'_>, recognised: &BTreeMap<&str, Recognised<'_>>) {
    let slots = recognised.values().flat_map(|layer| &layer.slots).map(|(_, info)| &*info.name);
    let mut notes = Notes { explained: slots.collect(), switch: switch(sought), ..Notes::default() };
    for layer in candidates(sought, recognised) {
        add(found, &mut notes, sought, &layer);
    }
    if notes.undeclared > 0 {
        found
            .remarks
            .push(format!("nothing declares how {} layers are quantised: their shapes tell", notes.undeclared));
    }
    let default = sought.declaration.and_then(|declaration| declaration.default);
    for (scheme, layers) in &notes.by_shapes {
        let default = default.map_or_else(|| "nothing".to_owned(), |default| default.to_string());
        found.remarks.push(format!(
            "{} layers, such as `{}`, are {scheme} by their shapes; for them the declaration says {default}",
            layers.len(),
            layers[0]
        ));
    }
    let Some(declaration) = sought.declaration else { return };
    // A manifest lists the layers of all components.
    let own = format!("{}.", sought.component);
    let concerns = |entry: &&str| declaration.tool == Tool::MlxLm || entry.starts_with(&own);
    let unused: Vec<&str> = declaration.listed().filter(concerns).filter(|entry| !notes.used.contains(entry)).collect();
    if !unused.is_empty() {
        let shown =
            unused.iter().take(SAMPLE).map(|entry| format!("`{}`", shown(entry))).collect::<Vec<_>>().join(", ");
        let count = unused.len();
        let remark =
            format!("{count} entries of the declaration, such as {shown}, name no quantised layer of the component");
        found.remarks.push(remark);
    }
}

/// Names of layers that MLX quantised, or should have.
fn candidates(sought: &Sought<'_>, recognised: &BTreeMap<&str, Recognised<'_>>) -> BTreeSet<String> {
    let mut names: BTreeSet<String> =
        recognised.iter().filter(|(_, layer)| is_mlx(layer)).map(|(name, _)| (*name).to_owned()).collect();
    // Parts that no format explains belong to a damaged layer, where something says that there is a layer.
    let suffixes = |role| Scheme::all().filter_map(move |scheme| scheme.slot(role)).map(|slot| slot.suffix);
    let sides: BTreeSet<&str> = suffixes(SlotRole::Scales).chain(suffixes(SlotRole::Biases)).collect();
    let default = sought.declaration.and_then(|declaration| declaration.default);
    for tensor in sought.table.tensors() {
        let layer = sides.iter().find_map(|suffix| tensor.info.name.strip_suffix(*suffix));
        let Some(layer) = layer.filter(|layer| !recognised.contains_key(layer)) else { continue };
        let weight = sought.table.get(&weight_of(layer)).map(|weight| &weight.info);
        let is_layer = match (weight, sought.shape(layer)) {
            // Codes without all that belongs to them.
            (Some(weight), _) if weight.dtype == Dtype::U32 => true,
            // A plain weight, beside a tensor of another module that is called so.
            (Some(weight), Some(shape)) => !(FLOATS.contains(&weight.dtype) && weight.shape == shape),
            // Codes of another dtype, where the declaration says that layers are packed.
            (Some(weight), None) => default.is_some() && !FLOATS.contains(&weight.dtype),
            (None, Some(_)) => true,
            (None, None) => matches!(entry(sought, layer).0, Declared::Packed(_)),
        };
        if is_layer {
            names.insert(layer.to_owned());
        }
    }
    let expected = sought.catalogue.into_iter().flat_map(Catalogue::tensors);
    let listed = expected
        .filter_map(|expected| layer_of(&expected.name))
        .filter(|layer| !recognised.contains_key(layer) && matches!(entry(sought, layer).0, Declared::Packed(_)));
    names.extend(listed.map(str::to_owned));
    names
}

/// What the declaration says of a layer, and under which name.
fn entry<'a>(sought: &Sought<'a>, layer: &str) -> (Declared, Option<&'a str>) {
    let Some(declaration) = sought.declaration else { return (Declared::Silent, None) };
    let module = sought.naming.apply(&weight_of(layer));
    let module = module.as_deref().and_then(layer_of);
    let names: Vec<&str> = [Some(layer), module].into_iter().flatten().collect();
    declaration.entry(sought.component, &names)
}

fn add<'a>(found: &mut Layers, notes: &mut Notes<'a>, sought: &Sought<'a>, layer: &str) {
    let (declared, listed) = entry(sought, layer);
    notes.used.extend(listed);
    let name = |slot: &SlotSpec| format!("{layer}{}", slot.suffix);
    let tensors = Tensors { sought, layer };
    let problem = |found: &mut Layers, name: String, expected: String, what: String| {
        found.problems.push(LayerProblem { name, expected, found: what });
    };
    let (scheme, logical) = match chosen(&tensors, notes, declared) {
        Ok(chosen) => chosen,
        Err(LayerProblem { name, expected, found: what }) => {
            let why = format!("its `{name}` should be {expected}, and is {what}");
            problem(found, format!("{layer}.{name}"), expected, what);
            return shut(found, &tensors, None, why);
        }
    };
    let optional: Vec<SlotRole> =
        scheme.optional().filter(|slot| tensors.get(slot.role, &scheme).is_some()).map(|slot| slot.role).collect();
    let slots = scheme.slots().chain(scheme.optional().filter(|slot| optional.contains(&slot.role)));
    let mut damage = None;
    for slot in slots {
        let Some((expected, what)) = tensors.compare(slot, &scheme, &logical) else { continue };
        damage.get_or_insert_with(|| format!("its `{}` should be {expected}, and is {what}", slot.name()));
        // With a catalogue, the audit compares what has one shape.
        if sought.shape(layer).is_none() || scheme.shape_of(slot.role, &logical).is_none() {
            problem(found, name(slot), expected, what);
        }
    }
    let strangers = strangers(sought, notes, layer, &scheme);
    let global = global_scale(sought, listed, optional.contains(&SlotRole::GlobalScale));
    let doubt = sought.declaration.and_then(|declaration| declaration.doubt(listed)).or(notes.switch.as_deref());
    let why = damage
        .or(strangers)
        .or(global)
        .or_else(|| doubt.map(|doubt| format!("{doubt}, and nothing here knows what that means")));
    if let Some(why) = why {
        shut(found, &tensors, Some(logical.clone()), why);
    }
    found.packed.insert(layer.to_owned(), PackedLayer { scheme, logical, optional });
}

/// How the declaration and the tensors of a layer contradict each other about its global scale.
fn global_scale(sought: &Sought<'_>, entry: Option<&str>, is_there: bool) -> Option<String> {
    match (sought.declaration?.global_scale(entry)?, is_there) {
        (true, false) => Some("the declaration says that it has a global scale, and none lies beside it".to_owned()),
        (false, true) => Some("the declaration says that it has no global scale, and one lies beside it".to_owned()),
        _ => None,
    }
}

/// A setting of the declaration that is on and that nobody knows: an entry in the form of a layer's that names no
/// module here.
fn switch(sought: &Sought<'_>) -> Option<String> {
    // Heads that share the embedding are listed all the same.
    const TIED: [&str; 2] = ["lm_head", "embed_tokens"];
    let is_module = |name: &str| {
        name.contains('.')
            || TIED.contains(&name)
            || !sought.table.under(&format!("{name}.")).is_empty()
            || sought.shape(name).is_some()
    };
    let name = sought.declaration?.switches().find(|name| !is_module(name))?;
    Some(format!("the declaration has `{}`, which is on and names no layer", shown(name)))
}

/// Nothing is computed from the layer.
fn shut(found: &mut Layers, tensors: &Tensors<'_>, logical: Option<Vec<u64>>, why: String) {
    let names = tensors.sought.of_layer(tensors.layer).iter().map(|tensor| tensor.info.name.to_string()).collect();
    found.opaque.insert(tensors.layer.to_owned(), Opaque { tensors: names, logical, why });
}

/// What lies beside the slots of a layer and nothing explains.
fn strangers(sought: &Sought<'_>, notes: &Notes<'_>, layer: &str, scheme: &Scheme) -> Option<String> {
    let is_known = |name: &str| {
        let suffix = &name[layer.len()..];
        suffix == BIAS
            || notes.explained.contains(name)
            || scheme.slots().chain(scheme.optional()).any(|slot| slot.suffix == suffix)
            || sought.catalogue.is_some_and(|catalogue| catalogue.contains(name) || catalogue.tolerates(name))
    };
    let names = sought.of_layer(layer).iter().map(|tensor| &*tensor.info.name).filter(|name| !is_known(name));
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| format!("beside it lies {}, and nothing here knows what that means", names.join(", ")))
}

/// The scheme of a layer and the shape of the weight that it stands for. An error names the wrong tensor without its
/// layer.
fn chosen(
    tensors: &Tensors<'_>,
    notes: &mut Notes<'_>,
    declared: Declared,
) -> Result<(Scheme, Vec<u64>), LayerProblem> {
    let (sought, layer) = (tensors.sought, tensors.layer);
    let scheme = scheme_of(tensors, notes, declared)?;
    if let Some(logical) = sought.shape(layer) {
        return match scheme.packs(logical) {
            true => Ok((scheme, logical.to_vec())),
            false => Err(wrong("weight", format!("rows of whole groups ({scheme})"), format!("{logical:?}"))),
        };
    }
    let Some(weight) = tensors.get(SlotRole::Weight, &scheme) else {
        return Err(wrong("weight", "a packed weight beside the scales".into(), "none".into()));
    };
    let logical = scheme.logical_shape(&weight.shape);
    logical
        .map(|logical| (scheme, logical))
        .ok_or_else(|| wrong("weight", format!("a packed shape ({scheme})"), format!("{:?}", weight.shape)))
}

/// The scheme that the declaration and the shapes of the slots agree on.
fn scheme_of(tensors: &Tensors<'_>, notes: &mut Notes<'_>, declared: Declared) -> Result<Scheme, LayerProblem> {
    let (sought, layer) = (tensors.sought, tensors.layer);
    let default = sought.declaration.and_then(|declaration| declaration.default);
    let said = match declared {
        Declared::Plain => {
            return Err(wrong("scales", "absent: the layer is declared as not quantised".into(), "there".into()));
        }
        Declared::Packed(scheme) => Some(scheme),
        Declared::Silent => default,
    };
    let by_shapes = tensors.schemes();
    match (said, &by_shapes[..]) {
        // Entries bind. The default gives way to shapes that leave no choice, as it does in mlx-lm.
        (Some(said), _) if declared != Declared::Silent => Ok(said),
        (Some(said), shown) if shown.contains(&said) => {
            not_misplaced(sought, layer, said, shown)?;
            Ok(said)
        }
        (Some(_), [shown]) => {
            notes.by_shapes.entry(shown.to_string()).or_default().push(layer.to_owned());
            Ok(*shown)
        }
        (Some(said), [_, _, ..]) => {
            let found = format!("of a shape that is {}", list(&by_shapes));
            Err(wrong("weight", format!("a packed shape ({said})"), found))
        }
        (Some(said), []) => Ok(said),
        (None, [shown]) => {
            notes.undeclared += 1;
            Ok(*shown)
        }
        (None, shown) => {
            let what = if shown.is_empty() {
                "none, and the shapes do not tell".to_owned()
            } else {
                format!("none, and by its shapes it is {}", list(shown))
            };
            Err(wrong("scales", "a declaration of bits and group size".into(), what))
        }
    }
}

fn wrong(name: &str, expected: String, found: String) -> LayerProblem {
    LayerProblem { name: name.to_owned(), expected, found }
}

/// Fails when an entry that names no layer here would be this one's under another spelling, and shapes allow what it
/// says as well as what the default says.
fn not_misplaced(sought: &Sought<'_>, layer: &str, default: Scheme, by_shapes: &[Scheme]) -> Result<(), LayerProblem> {
    let names_nothing = |entry: &str| sought.table.get(&weight_of(entry)).is_none();
    let mut alike = sought.declaration.into_iter().flat_map(|declaration| declaration.alike(layer));
    let other = alike.find(|(entry, said)| *said != default && by_shapes.contains(said) && names_nothing(entry));
    let Some((entry, said)) = other else { return Ok(()) };
    let entry = shown(entry);
    Err(LayerProblem {
        name: "weight".to_owned(),
        expected: format!("{default}, which is the default, or {said}, as `{entry}` says, an entry of no layer here"),
        found: "of a shape that is either".to_owned(),
    })
}

/// `affine 6-bit, groups of 32, or affine 3-bit, groups of 64`.
fn list(schemes: &[Scheme]) -> String {
    schemes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", or ")
}

/// The tensors of one layer.
#[derive(Clone, Copy)]
struct Tensors<'a> {
    sought: &'a Sought<'a>,
    layer: &'a str,
}

impl<'a> Tensors<'a> {
    fn get(&self, role: SlotRole, scheme: &Scheme) -> Option<&'a TensorInfo> {
        let name = format!("{}{}", self.layer, scheme.slot(role)?.suffix);
        self.sought.table.get(&name).map(|found| &found.info)
    }

    /// The schemes whose slots all have these shapes and dtypes.
    fn schemes(&self) -> Vec<Scheme> {
        let fits = |scheme: &Scheme| {
            let logical = match self.sought.shape(self.layer) {
                Some(logical) => Some(logical.to_vec()),
                None => self.get(SlotRole::Weight, scheme).and_then(|weight| scheme.logical_shape(&weight.shape)),
            };
            logical.is_some_and(|logical| scheme.slots().all(|slot| self.compare(slot, scheme, &logical).is_none()))
        };
        Scheme::all().filter(fits).collect()
    }

    /// What a slot should be, and what it is; `None` when it is so.
    fn compare(&self, slot: &SlotSpec, scheme: &Scheme, logical: &[u64]) -> Option<(String, String)> {
        let shape = || {
            scheme
                .shape_of(slot.role, logical)
                .map_or_else(|| "one number for each matrix".to_owned(), |shape| format!("{shape:?}"))
        };
        match self.get(slot.role, scheme) {
            None => Some((format!("{} ({scheme})", shape()), "none".to_owned())),
            Some(info) if !scheme.fits(slot, &info.shape, logical) => {
                Some((format!("{} ({scheme})", shape()), format!("{:?}", info.shape)))
            }
            Some(info) if !slot.dtype.allows(info.dtype) => {
                Some((format!("{} ({scheme})", names(scheme.dtypes(slot.role))), info.dtype.to_string()))
            }
            Some(_) => None,
        }
    }
}
