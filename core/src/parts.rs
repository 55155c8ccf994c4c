//! Which components lie in one file, told from the names of its tensors.
//!
//! A file may hold a model's components under prefixes (an all-in-one checkpoint), or one component under its own names.
//! A family gives a table of [`PartSign`]s; this engine knows no prefix. The answer depends on the names alone, never on
//! their order.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{
    header::{Dtype, FLOATS},
    layer_name::layer_of,
    pattern::Pattern,
    quantisation::{Arithmetic, Recognised, is_file_mark, recognise, side_layer},
    table::{DtypeTotal, Sourced, Table},
};

/// What tells that a file holds a component, and under which prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartSign {
    /// The component.
    pub component: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// Prefixes that only this component has; a part `*` stands for any name. All end in a dot.
    pub prefixes: &'static [&'static str],
    /// Prefixes that other components or models share; the empty string stands for no prefix.
    pub shared_prefixes: &'static [&'static str],
    /// Tensors, with their shapes, that a part under a shared prefix must have to be of this family: those of one of these
    /// lists, one for each dialect. Never matrices, because those may be packed. No list: the names suffice.
    pub shared_shapes: &'static [&'static [(&'static str, &'static [u64])]],
    /// Names for `*` that win where several components fit.
    pub preferred: &'static [&'static str],
    /// Tensors that the component must have.
    pub landmarks: &'static [Landmark],
    /// Whether an all-in-one file needs it to be a whole model.
    pub housing: Housing,
}

/// Whether a component ships inside an all-in-one file or alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Housing {
    /// Inside an all-in-one file.
    InAllInOne,
    /// In a file of its own.
    Alone,
}

/// One feature that a component must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landmark {
    /// Its name in errors.
    pub what: &'static str,
    /// Alternatives. In one of these lists every pattern must match some name.
    pub any_of: &'static [&'static [Pattern]],
}

/// A component in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePart {
    /// The component.
    pub component: &'static str,
    /// Its prefix; empty when it has none.
    pub prefix: String,
    /// Number of its tensors.
    pub tensors: usize,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Number of its tensors by dtype.
    pub dtypes: BTreeMap<String, DtypeTotal>,
    /// Limits on its use.
    pub limits: Vec<Limit>,
}

/// A limit on the use of a part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// Tensors of a dtype that MLX does not compute with.
    #[error(
        "{tensors} tensors, such as `{sample}`, are {dtype}, which MLX has no arithmetic for: they can be lent in layout \
         SOURCE, audited with REPORT_ONLY, and not be used by a module"
    )]
    Dtype {
        /// The dtype.
        dtype: Dtype,
        /// How many.
        tensors: usize,
        /// One of them.
        sample: String,
    },
    /// Layers in a format that MLX does not have.
    #[error(
        "{layers} layers, such as `{sample}`, are quantised as {format}, which MLX does not have: they can be lent as they \
         are stored, in layout SOURCE or with REPORT_ONLY, and not be used by a module"
    )]
    ForeignQuantisation {
        /// The format.
        format: &'static str,
        /// How many.
        layers: usize,
        /// One of them.
        sample: String,
    },
}

/// Why a part was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartProblem {
    /// No tensor is under its prefixes.
    #[error("no {title}: no tensor is named {}", quoted(expected))]
    Missing {
        /// The component.
        component: &'static str,
        /// What people call it.
        title: &'static str,
        /// Prefixes that were looked for.
        expected: Vec<&'static str>,
    },
    /// Its prefix has tensors, and a landmark is missing.
    #[error("the {title} under `{prefix}` lacks {what} ({})", patterns.join(", or "))]
    Incomplete {
        /// The component.
        component: &'static str,
        /// What people call it.
        title: &'static str,
        /// The prefix.
        prefix: String,
        /// The missing landmark.
        what: &'static str,
        /// The names that would satisfy it, one text for each alternative.
        patterns: Vec<String>,
    },
    /// It is there more than once.
    #[error("the file holds {} of the kind {title}, under {}", prefixes.len(), quoted(prefixes))]
    Several {
        /// The component.
        component: &'static str,
        /// What people call it.
        title: &'static str,
        /// The prefixes.
        prefixes: Vec<String>,
    },
}

impl PartProblem {
    /// The component that the problem concerns.
    #[must_use]
    pub fn component(&self) -> &'static str {
        match self {
            Self::Missing { component, .. } | Self::Incomplete { component, .. } | Self::Several { component, .. } => {
                component
            }
        }
    }
}

fn quoted<T: AsRef<str>>(texts: &[T]) -> String {
    texts.iter().map(|text| format!("`{}`", text.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Which share of a model a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A whole model.
    AllInOne,
    /// Some components of one.
    SomeParts,
    /// One component.
    Single,
    /// No component of the family.
    Unknown,
}

/// The parts of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The share of a model.
    pub kind: FileKind,
    /// The components in it, in the order of the family.
    pub parts: Vec<FilePart>,
    /// Why other components are not in it.
    pub problems: Vec<PartProblem>,
    /// Names that belong to no part.
    pub unassigned: Vec<String>,
}

impl Located {
    /// The part of that component.
    #[must_use]
    pub fn part(&self, component: &str) -> Option<&FilePart> {
        self.parts.iter().find(|part| part.component == component)
    }

    /// The tensors of a part, under their names without its prefix. A longer prefix of another part wins.
    pub fn tensors<'a>(&'a self, part: &'a FilePart, table: &'a Table) -> impl Iterator<Item = (&'a str, &'a Sourced)> {
        table.tensors().iter().filter_map(move |tensor| {
            let owner = owner(&self.parts, &tensor.info.name)?;
            (owner.component == part.component).then(|| (&tensor.info.name[part.prefix.len()..], tensor))
        })
    }
}

fn owner<'a>(parts: &'a [FilePart], name: &str) -> Option<&'a FilePart> {
    parts.iter().filter(|part| name.starts_with(&part.prefix)).max_by_key(|part| part.prefix.len())
}

/// Finds the parts of a file by the signs of a family. Reads names, shapes and dtypes, never the tensors' bytes.
#[must_use]
pub fn locate(table: &Table, rules: &[PartSign]) -> Located {
    locate_by(table, rules, SharedPrefixes::ByShape)
}

/// The evidence that a part under a shared prefix needs beside its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedPrefixes {
    /// The shapes of the family's models, because names alone fit several families.
    ByShape,
    /// None: the caller knows the family.
    ByName,
}

/// Like [`locate`], with a choice of evidence for shared prefixes.
#[must_use]
pub fn locate_by(table: &Table, rules: &[PartSign], shared: SharedPrefixes) -> Located {
    let mut parts = Vec::new();
    let mut problems = Vec::new();
    for rule in rules {
        match find(table, rule, shared) {
            Ok(prefix) => parts.push(FilePart {
                component: rule.component,
                prefix,
                tensors: 0,
                bytes: 0,
                dtypes: BTreeMap::new(),
                limits: Vec::new(),
            }),
            // Components that ship in a file of their own are not expected here; do not report them missing.
            Err(PartProblem::Missing { .. }) if rule.housing == Housing::Alone => {}
            Err(problem) => problems.push(problem),
        }
    }
    let unassigned = count(&mut parts, table);
    let wanted = rules.iter().filter(|rule| rule.housing == Housing::InAllInOne);
    let is_whole = wanted.clone().count() > 0
        && wanted.clone().all(|rule| parts.iter().any(|part| part.component == rule.component));
    let kind = match parts.len() {
        0 => FileKind::Unknown,
        _ if is_whole => FileKind::AllInOne,
        1 => FileKind::Single,
        _ => FileKind::SomeParts,
    };
    Located { kind, parts, problems, unassigned }
}

/// Counts the tensors of each part, and returns the names that belong to none.
fn count(parts: &mut [FilePart], table: &Table) -> Vec<String> {
    let mut unassigned = Vec::new();
    let mut unusable: BTreeMap<(&str, String), (Dtype, usize, String)> = BTreeMap::new();
    let quantised = recognise(table.tensors().iter().map(|tensor| (&*tensor.info.name, &tensor.info)), None);
    let explained: HashSet<&str> =
        quantised.values().flat_map(|layer| &layer.slots).map(|(_, info)| &*info.name).collect();
    for tensor in table.tensors() {
        let info = &tensor.info;
        let Some(component) = owner(parts, &info.name).map(|part| part.component) else {
            unassigned.push(info.name.to_string());
            continue;
        };
        let Some(part) = parts.iter_mut().find(|part| part.component == component) else { continue };
        part.tensors += 1;
        part.bytes += info.bytes();
        part.dtypes.entry(info.stored_type()).or_default().add(1, info.bytes());
        if !FLOATS.contains(&info.dtype) && !explained.contains(&*info.name) && !is_file_mark(&info.name) {
            let entry = unusable.entry((component, info.dtype.to_string()));
            entry.or_insert((info.dtype, 0, info.name.to_string())).1 += 1;
        }
    }
    let foreign = foreign(parts, &quantised);
    for part in parts {
        let dtypes = unusable.iter().filter(|((component, _), _)| *component == part.component);
        part.limits.extend(dtypes.map(|(_, (dtype, tensors, sample))| Limit::Dtype {
            dtype: *dtype,
            tensors: *tensors,
            sample: sample.clone(),
        }));
        let formats = foreign.iter().filter(|((component, _), _)| *component == part.component);
        part.limits.extend(formats.map(|((_, format), (layers, sample))| Limit::ForeignQuantisation {
            format,
            layers: *layers,
            sample: sample.clone(),
        }));
    }
    unassigned
}

/// For each component and format that is only lent: the number of layers and the name of one.
fn foreign(
    parts: &[FilePart],
    quantised: &BTreeMap<&str, Recognised<'_>>,
) -> BTreeMap<(&'static str, &'static str), (usize, String)> {
    let mut foreign = BTreeMap::new();
    for (layer, of_format) in
        quantised.iter().filter(|(_, layer)| matches!(layer.format.arithmetic, Arithmetic::Lent(_)))
    {
        let Some((_, first)) = of_format.slots.first() else { continue };
        if let Some(part) = owner(parts, &first.name) {
            let entry = foreign.entry((part.component, of_format.format.name));
            entry.or_insert((0, (*layer).to_owned())).0 += 1;
        }
    }
    foreign
}

/// Whether a tensor beside the weight shows that it is quantised.
pub(crate) fn is_quantised(table: &Table, weight: &str) -> bool {
    let layer = layer_of(weight);
    layer.is_some_and(|layer| {
        table.under(&format!("{layer}.")).iter().any(|tensor| side_layer(&tensor.info.name) == Some(layer))
    })
}

/// All prefixes under which a component may lie: its own that are there, and those that others have too.
pub(crate) fn prefixes(table: &Table, rule: &PartSign) -> BTreeSet<String> {
    let shared = rule.shared_prefixes.iter().map(|&prefix| prefix.to_owned());
    rule.prefixes.iter().flat_map(|prefix| expand(table, prefix)).chain(shared).collect()
}

/// The prefix under which a component lies.
fn find(table: &Table, rule: &PartSign, shared: SharedPrefixes) -> Result<String, PartProblem> {
    let (component, title) = (rule.component, rule.title);
    let own: BTreeSet<String> = rule.prefixes.iter().flat_map(|prefix| expand(table, prefix)).collect();
    let whole = |prefixes: &mut dyn Iterator<Item = String>| -> Vec<String> {
        prefixes.filter(|prefix| lacks(table, prefix, rule).is_none()).collect()
    };
    let mut found = whole(&mut own.iter().cloned());
    if found.is_empty() {
        let has_shape = |prefix: &str, (name, shape): &(&str, &[u64])| {
            let name = format!("{prefix}{name}");
            // A quantised tensor has another shape than the plain one.
            table.get(&name).is_some_and(|tensor| tensor.info.shape == *shape || is_quantised(table, &name))
        };
        let has_shapes = |prefix: &&&str| {
            shared == SharedPrefixes::ByName
                || rule.shared_shapes.is_empty()
                || rule.shared_shapes.iter().any(|list| list.iter().all(|shape| has_shape(prefix, shape)))
        };
        found = whole(&mut rule.shared_prefixes.iter().filter(has_shapes).map(|&prefix| prefix.to_owned()));
    }
    if found.len() > 1 {
        let is_preferred =
            |prefix: &&String| rule.preferred.iter().any(|name| prefix.split('.').any(|part| part == *name));
        let preferred: Vec<&String> = found.iter().filter(is_preferred).collect();
        if let [one] = preferred.as_slice() {
            return Ok((*one).clone());
        }
        return Err(PartProblem::Several { component, title, prefixes: found });
    }
    if let Some(prefix) = found.pop() {
        return Ok(prefix);
    }
    // The incomplete part with the most tensors is the one to report.
    let torso = own.into_iter().max_by_key(|prefix| table.under(prefix).len());
    match torso.and_then(|prefix| Some((lacks(table, &prefix, rule)?, prefix))) {
        Some((sign, prefix)) => {
            let way = |way: &&[Pattern]| -> String {
                way.iter().map(|pattern| format!("`{prefix}{}`", pattern.0)).collect::<Vec<_>>().join(" and ")
            };
            let patterns = sign.any_of.iter().map(way).collect();
            Err(PartProblem::Incomplete { component, title, patterns, what: sign.what, prefix })
        }
        None => Err(PartProblem::Missing { component, title, expected: rule.prefixes.to_vec() }),
    }
}

/// The prefixes of the form `prefix` that the table has.
fn expand(table: &Table, prefix: &str) -> BTreeSet<String> {
    let parts: Vec<&str> = prefix.trim_end_matches('.').split('.').collect();
    let start = prefix.split('*').next().unwrap_or_default();
    table
        .under(start)
        .iter()
        .filter_map(|tensor| {
            let mut found = tensor.info.name.split('.');
            let fits = parts.iter().all(|part| found.next().is_some_and(|name| *part == "*" || name == *part));
            // A name follows every prefix.
            (fits && found.next().is_some())
                .then(|| tensor.info.name.split('.').take(parts.len()).flat_map(|part| [part, "."]).collect::<String>())
        })
        .collect()
}

/// The first landmark that the table lacks under `prefix`.
fn lacks(table: &Table, prefix: &str, rule: &PartSign) -> Option<&'static Landmark> {
    let tensors = table.under(prefix);
    let is_there = |pattern: &Pattern| {
        if !pattern.0.contains(['#', '*', '~']) {
            return table.get(&format!("{prefix}{}", pattern.0)).is_some();
        }
        tensors.iter().any(|tensor| pattern.matches(&tensor.info.name[prefix.len()..]).is_some())
    };
    rule.landmarks.iter().find(|sign| !sign.any_of.iter().any(|way| way.iter().all(is_there)))
}
