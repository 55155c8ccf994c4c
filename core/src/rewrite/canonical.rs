//! Applies a family's rules to the tensors of a file: each gets its name and shape in the catalogue.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use super::{Action, Rule, Rules, Ruleset};
use crate::{
    axes::Axes,
    header::{Dtype, TensorInfo},
    layer_name::{BIAS, WEIGHT, layer_of, weight_of},
    origin::{Operation, Origin},
    pattern::{Captures, Pattern},
    quantisation::{Recognised, Sharing, SlotRole, SlotSpec, TILE_ROWS, recognise},
    shown::shown,
    table::{Sourced, Table, Twice},
};

/// A tensor that a rule matches and cannot split. It keeps its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Name in the file.
    pub name: String,
    /// Its shape.
    pub found: Vec<u64>,
    /// Its dtype.
    pub dtype: Dtype,
    /// The number of equal parts that its rows should fall into.
    pub parts: u64,
}

/// Tensors under the names of the catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Canonical {
    /// The tensors.
    pub table: Table,
    /// Tensors that a rule cannot split. They are damaged, and the audit reports them.
    pub unusable: Vec<Unusable>,
    /// Tensors that no module has, by their names in the file. They are left out.
    pub dropped: Vec<String>,
}

/// Why the tensors of a file cannot be renamed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// Two tensors would get the same name.
    #[error("tensors `{first}` and `{second}` of the file both are `{name}`")]
    Collision {
        /// The name in the catalogue.
        name: String,
        /// One tensor.
        first: String,
        /// The other.
        second: String,
    },
}

/// Applies `rules` to `tensors`, pairs of the name without the part's prefix and the tensor itself. Each tensor is in the
/// table afterwards, or among those that were dropped.
///
/// # Errors
/// When two tensors get the same name.
pub fn canonical<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Sourced)>,
    rules: &Rules,
) -> Result<Canonical, RewriteError> {
    let tensors: Vec<(&str, &Sourced)> =
        tensors.into_iter().map(|(name, tensor)| (rules.set.stripped(name), tensor)).collect();
    let count = rules.count.unwrap_or_else(|| counted(rules.set, tensors.iter().map(|(name, _)| *name)));
    let quantised = recognise(tensors.iter().map(|(name, tensor)| (*name, &tensor.info)), None);
    let file = File {
        sides: sides(&quantised),
        quantised,
        named: tensors.iter().map(|(name, tensor)| (*name, *tensor)).collect(),
        rules: rules.set.rules,
        count,
    };
    let mut out = Vec::with_capacity(tensors.len() + tensors.len() / 4);
    let mut unusable = Vec::new();
    let mut dropped = Vec::new();
    for (name, tensor) in tensors {
        match file.applied(name) {
            None => out.push(renamed(tensor, name.to_owned())),
            Some(Applied::Dropped) => dropped.push(tensor.info.name.to_string()),
            Some(Applied::Renamed(name)) => out.push(renamed(tensor, name)),
            Some(Applied::Squeezed(name)) => out.push(squeezed(tensor, name)),
            Some(Applied::Row(name)) => out.push(row(tensor, name)),
            Some(Applied::FromOrder(name, axes)) => out.push(from_order(tensor, name, axes)),
            Some(Applied::Split(into)) => match file.split(name, tensor, &into) {
                Split::Parts(parts) => out.extend(parts),
                Split::Kept => out.push(renamed(tensor, name.to_owned())),
                Split::Impossible => {
                    unusable.push(Unusable {
                        name: tensor.info.name.to_string(),
                        found: tensor.info.shape.clone(),
                        dtype: tensor.info.dtype,
                        parts: into.iter().map(|(_, share)| share).sum(),
                    });
                    out.push(renamed(tensor, name.to_owned()));
                }
            },
        }
    }
    let table = Table::of(out).map_err(|Twice { first, second }| RewriteError::Collision {
        name: shown(&first.info.name),
        first: shown(first.source_name()),
        second: shown(second.source_name()),
    })?;
    Ok(Canonical { table, unusable, dropped })
}

/// The number of things that are counted from the other end, from the highest index that is there.
fn counted<'a>(set: &Ruleset, names: impl Iterator<Item = &'a str> + Clone) -> u64 {
    let turned = set.rules.iter().filter_map(|rule| Some((Pattern(rule.from), Pattern(rule.from).turned()?)));
    let others = set.counted.iter().map(|&pattern| (Pattern(pattern), 0));
    turned
        .chain(others)
        .flat_map(|(pattern, at)| names.clone().filter_map(move |name| Some(pattern.matches(name)?.indexes()[at])))
        .max()
        .map_or(0, |highest| highest.saturating_add(1))
}

enum Applied {
    Renamed(String),
    Squeezed(String),
    Row(String),
    FromOrder(String, Axes),
    Split(Vec<(String, u64)>),
    Dropped,
}

/// The result of splitting a tensor.
enum Split {
    Parts(Vec<Sourced>),
    /// The rule is not for this tensor, so it stays.
    Kept,
    Impossible,
}

fn sides<'a>(quantised: &BTreeMap<&'a str, Recognised<'a>>) -> HashMap<String, (&'a str, &'static SlotSpec)> {
    let slots = quantised.iter().flat_map(|(layer, quantised)| {
        let slots = quantised.slots.iter().filter(|(slot, _)| slot.suffix != WEIGHT);
        slots.map(move |(slot, _)| (format!("{layer}{}", slot.suffix), (*layer, *slot)))
    });
    slots.collect()
}

/// The tensors of a file, and the rules for them.
struct File<'a> {
    quantised: BTreeMap<&'a str, Recognised<'a>>,
    /// Parts of quantised layers, by the names of their tensors. Codes that are called `weight` are not among them.
    sides: HashMap<String, (&'a str, &'static SlotSpec)>,
    named: BTreeMap<&'a str, &'a Sourced>,
    rules: &'static [Rule],
    count: u64,
}

impl File<'_> {
    /// Applies the first rule that matches a name. A slot of a quantised layer follows its weight.
    fn applied(&self, name: &str) -> Option<Applied> {
        let Some(&(layer, slot)) = self.sides.get(name) else { return self.rule(name) };
        let of_slot = |weight: &str| format!("{}{}", layer_of(weight).unwrap_or(weight), slot.suffix);
        Some(match self.rule(&weight_of(layer))? {
            Applied::Renamed(weight)
            | Applied::Squeezed(weight)
            | Applied::Row(weight)
            | Applied::FromOrder(weight, _) => Applied::Renamed(of_slot(&weight)),
            Applied::Split(into) => {
                Applied::Split(into.iter().map(|(weight, share)| (of_slot(weight), *share)).collect())
            }
            Applied::Dropped => Applied::Dropped,
        })
    }

    fn rule(&self, name: &str) -> Option<Applied> {
        self.rules.iter().find_map(|rule| {
            let from = Pattern(rule.from);
            let captures: Captures<'_> = from.matches(name)?;
            let fill = |to: &'static str| Pattern(to).fill(&captures, from, self.count);
            Some(match rule.action {
                Action::Rename(to) => Applied::Renamed(fill(to)?),
                Action::Squeeze(to) => Applied::Squeezed(fill(to)?),
                Action::Row(to) => Applied::Row(fill(to)?),
                Action::FromOrder(to, axes) => Applied::FromOrder(fill(to)?, axes),
                Action::SplitRows(into) => {
                    Applied::Split(into.iter().map(|&(to, share)| Some((fill(to)?, share))).collect::<Option<_>>()?)
                }
                Action::StandsFor(_) => return None,
                Action::Drop => Applied::Dropped,
            })
        })
    }

    /// Splits a tensor of a fused layer into shares. The rows of weight and bias are dealt out, and so are the rows of
    /// a slot of a quantised layer if there are as many. Any other slot belongs to each of the layers.
    fn split(&self, name: &str, tensor: &Sourced, into: &[(String, u64)]) -> Split {
        let weight_or_bias = layer_of(name).or_else(|| name.strip_suffix(BIAS));
        let side = self.sides.get(name).copied();
        let Some(layer) = side.map(|(layer, _)| layer).or(weight_or_bias) else { return Split::Kept };
        let slot = side.map(|(_, slot)| slot);
        let shares: u64 = into.iter().map(|(_, share)| share).sum();
        if name.strip_suffix(BIAS).is_none() && !self.is_divisible(layer, shares) {
            // Codes that are packed as a whole are no damage: the layer keeps its name, and stands for all of its shares.
            // What is damage is reported once, for the weight.
            let is_damage = !self.is_packed_whole(layer) && slot.is_none_or(|slot| slot.role == SlotRole::Weight);
            return if is_damage { Split::Impossible } else { Split::Kept };
        }
        let rows = self.rows(layer);
        let is_whole =
            slot.is_some_and(|slot| slot.sharing == Sharing::Whole || tensor.info.shape.first() != rows.as_ref());
        if is_whole {
            return Split::Parts(into.iter().map(|(name, _)| renamed(tensor, name.clone())).collect());
        }
        shares_of(tensor, into).map_or(Split::Impossible, Split::Parts)
    }

    /// Whether the codes of a layer are in an order that no rows can be taken out of.
    fn is_packed_whole(&self, layer: &str) -> bool {
        let is_whole = |slot: &SlotSpec| slot.role == SlotRole::Weight && slot.sharing == Sharing::Whole;
        self.quantised.get(layer).is_some_and(|layer| layer.slots.iter().any(|(slot, _)| is_whole(slot)))
    }

    /// Rows of a layer's weight.
    fn rows(&self, layer: &str) -> Option<u64> {
        self.named.get(&*weight_of(layer))?.info.shape.first().copied()
    }

    /// Whether a layer falls into `shares` equal ones: the rows of its weight are a multiple, and all of its slots can
    /// be cut at these rows.
    fn is_divisible(&self, layer: &str, shares: u64) -> bool {
        let Some(rows) = self.rows(layer).filter(|rows| *rows > 0 && rows.is_multiple_of(shares)) else { return false };
        let Some(quantised) = self.quantised.get(layer) else { return true };
        quantised.slots.iter().all(|(slot, info)| match (slot.role, slot.sharing) {
            (SlotRole::Weight, Sharing::Whole) => false,
            (_, Sharing::ByTiles) => info.shape.first() != Some(&rows) || (rows / shares).is_multiple_of(TILE_ROWS),
            _ => true,
        })
    }
}

fn renamed(tensor: &Sourced, name: String) -> Sourced {
    let mut out = tensor.clone();
    if name != *tensor.info.name {
        out.origin
            .get_or_insert_with(|| Box::new(Origin { name: tensor.info.name.clone(), operation: Operation::Renamed }));
        out.info.name = name.into();
    }
    out
}

fn squeezed(tensor: &Sourced, name: String) -> Sourced {
    let shape = match *tensor.info.shape.as_slice() {
        [output, input, 1, 1] | [output, 1, 1, input] => vec![output, input],
        // A bias, a matrix already, or damage that the audit finds.
        _ => return renamed(tensor, name),
    };
    derived(tensor, name, shape, tensor.info.range.clone(), Operation::Reshaped)
}

fn row(tensor: &Sourced, name: String) -> Sourced {
    match *tensor.info.shape.as_slice() {
        [length] => derived(tensor, name, vec![1, length], tensor.info.range.clone(), Operation::Reshaped),
        _ => renamed(tensor, name),
    }
}

fn from_order(tensor: &Sourced, name: String, axes: Axes) -> Sourced {
    match axes.inverse().ordered(&tensor.info.shape) {
        Some(shape) => derived(tensor, name, shape, tensor.info.range.clone(), Operation::Ordered(axes)),
        None => renamed(tensor, name),
    }
}

fn derived(tensor: &Sourced, name: String, shape: Vec<u64>, range: Range<u64>, operation: Operation) -> Sourced {
    Sourced {
        source: tensor.source,
        info: TensorInfo { name: name.into(), shape, range, ..tensor.info.clone() },
        origin: Some(Box::new(Origin { name: tensor.source_name().into(), operation })),
        packed: None,
        coded: None,
        mark: tensor.mark.clone(),
    }
}

/// Cuts a tensor by rows. `None` when its rows are not a multiple of the shares, or a cut would fall inside a byte.
fn shares_of(tensor: &Sourced, into: &[(String, u64)]) -> Option<Vec<Sourced>> {
    let info = &tensor.info;
    let (&rows, rest) = info.shape.split_first()?;
    let shares: u64 = into.iter().map(|(_, share)| share).sum();
    if rows == 0 || !rows.is_multiple_of(shares) {
        return None;
    }
    let columns = rest.iter().try_fold(1_u64, |all, &side| all.checked_mul(side))?;
    let row_bits = info.bits_of(columns)?;
    let mut begin = 0;
    into.iter()
        .map(|(name, share)| {
            let count = rows / shares * share;
            let first = begin;
            begin += count;
            let at = |row: u64| {
                let bits = row.checked_mul(row_bits)?;
                bits.is_multiple_of(8).then_some(info.range.start + bits / 8)
            };
            let shape = std::iter::once(count).chain(rest.iter().copied()).collect();
            let range = at(first)?..at(first + count)?;
            Some(derived(tensor, name.clone(), shape, range, Operation::Rows { first, count, of: rows }))
        })
        .collect()
}
