//! Tensors as the tree that dots in their names describe.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

/// Names deeper than this are refused, so that no name can exhaust the stack.
pub(crate) const MAX_DEPTH: usize = 256;

/// Names that describe no tree.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnflattenError {
    /// A name is also the beginning of others: `a` and `a.b`.
    #[error("tensor {name:?} cannot be in a tree: its name is also the beginning of others, or comes twice")]
    LeafAndParent {
        /// The name.
        name: String,
    },
    /// A name has too many parts.
    #[error("tensor {name:?} cannot be in a tree: its name has more than {MAX_DEPTH} parts")]
    TooDeep {
        /// The name.
        name: String,
    },
}

/// A tree as `mlx.utils.tree_unflatten` builds it from dotted names.
///
/// A node whose keys are all numbers is a list in the order of the numbers; numbers that are left out become empty
/// maps. Every other node is a map. Lists whose gaps would take much more room than there are tensors (as of the one
/// name `4000000000`) stay maps. Only ASCII digits count as numbers; Python's `int` also takes `+1`, `1_0` and ` 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree<T> {
    /// A leaf.
    Tensor(T),
    /// A node with numbered children.
    List(Vec<Tree<T>>),
    /// A node with named children.
    Map(BTreeMap<String, Tree<T>>),
}

impl<T> Tree<T> {
    /// The child of that name, or of that number.
    pub fn get(&self, key: &str) -> Option<&Tree<T>> {
        match self {
            Tree::Tensor(_) => None,
            Tree::List(list) => list.get(number(key)?),
            Tree::Map(map) => map.get(key),
        }
    }

    /// The leaf, if this is one.
    pub fn as_tensor(&self) -> Option<&T> {
        match self {
            Tree::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }
}

/// A leaf that is not in its place yet.
struct Item<'a, T> {
    name: &'a str,
    /// The rest of the name below the node; empty for the node itself.
    rest: &'a str,
    value: T,
}

/// Builds the tree of all items.
pub(crate) fn unflatten<'a, T>(items: impl Iterator<Item = (&'a str, T)>) -> Result<Tree<T>, UnflattenError> {
    let items: Vec<_> = items.map(|(name, value)| Item { name, rest: name, value }).collect();
    // One budget for the whole tree. With one for each node, the name `9999.9999.9999` would get three.
    let mut gaps = 10_000 + 4 * items.len();
    if let [Item { rest: "", .. }] = items.as_slice() {
        return node(items, 0, &mut gaps);
    }
    children(items, 0, &mut gaps)
}

fn node<T>(mut items: Vec<Item<'_, T>>, depth: usize, gaps: &mut usize) -> Result<Tree<T>, UnflattenError> {
    match items.iter().position(|item| item.rest.is_empty()) {
        None => children(items, depth, gaps),
        Some(0) if items.len() == 1 => Ok(Tree::Tensor(items.remove(0).value)),
        Some(index) => Err(UnflattenError::LeafAndParent { name: items[index].name.to_owned() }),
    }
}

fn children<T>(items: Vec<Item<'_, T>>, depth: usize, gaps: &mut usize) -> Result<Tree<T>, UnflattenError> {
    if depth == MAX_DEPTH {
        let name = items.first().map(|item| item.name.to_owned()).unwrap_or_default();
        return Err(UnflattenError::TooDeep { name });
    }
    let mut groups: BTreeMap<&str, Vec<Item<'_, T>>> = BTreeMap::new();
    for Item { name, rest, value } in items {
        let (key, rest) = rest.split_once('.').unwrap_or((rest, ""));
        groups.entry(key).or_default().push(Item { name, rest, value });
    }
    if !is_list(&groups, gaps) {
        let child = |(key, items): (&str, _)| Ok((key.to_owned(), node(items, depth + 1, gaps)?));
        return groups.into_iter().map(child).collect::<Result<_, _>>().map(Tree::Map);
    }
    let mut numbered: Vec<_> = groups.into_iter().filter_map(|(key, items)| Some((number(key)?, items))).collect();
    numbered.sort_by_key(|(index, _)| *index);
    let mut list = Vec::new();
    for (index, items) in numbered {
        list.resize_with(index, || Tree::Map(BTreeMap::new()));
        list.push(node(items, depth + 1, gaps)?);
    }
    Ok(Tree::List(list))
}

/// Whether all keys are different numbers (`1` and `01` are not) and the budget covers the gaps between them.
fn is_list<T>(groups: &BTreeMap<&str, Vec<Item<'_, T>>>, gaps: &mut usize) -> bool {
    let Some(numbers) = groups.keys().map(|key| number(key)).collect::<Option<BTreeSet<usize>>>() else {
        return false;
    };
    let needed = numbers.last().map_or(0, |last| last.saturating_add(1).saturating_sub(numbers.len()));
    let fits = numbers.len() == groups.len() && needed <= *gaps;
    if fits {
        *gaps -= needed;
    }
    fits
}

fn number(key: &str) -> Option<usize> {
    // `parse` would take a leading plus.
    if key.bytes().all(|byte| byte.is_ascii_digit()) { key.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(names: &[&'static str]) -> Result<Tree<&'static str>, UnflattenError> {
        unflatten(names.iter().map(|name| (*name, *name)))
    }

    /// The tree in Python's notation.
    fn show(tree: &Tree<&str>) -> String {
        match tree {
            Tree::Tensor(name) => (*name).to_owned(),
            Tree::List(list) => format!("[{}]", list.iter().map(show).collect::<Vec<_>>().join(", ")),
            Tree::Map(map) => {
                let entries: Vec<_> = map.iter().map(|(key, value)| format!("{key}: {}", show(value))).collect();
                format!("{{{}}}", entries.join(", "))
            }
        }
    }

    // These expectations are results of mlx.utils.tree_unflatten of mlx 0.32.4.
    #[test]
    fn trees_are_those_of_mlx() {
        let table: &[(&[&str], &str)] = &[
            (&[], "[]"),
            (&[""], ""),
            (&["hello.world"], "{hello: {world: hello.world}}"),
            (&["l.0.w", "l.1.w", "n"], "{l: [{w: l.0.w}, {w: l.1.w}], n: n}"),
            (&["l.10", "l.2"], "{l: [{}, {}, l.2, {}, {}, {}, {}, {}, {}, {}, l.10]}"),
            (&["l.0", "l.x"], "{l: {0: l.0, x: l.x}}"),
            (&["e.2-1.w", "e.2-2.w"], "{e: {2-1: {w: e.2-1.w}, 2-2: {w: e.2-2.w}}}"),
            (&["l.01"], "{l: [{}, l.01]}"),
            (&["l.01", "l.1"], "{l: {01: l.01, 1: l.1}}"),
            (&["0", "1"], "[0, 1]"),
            (&["a."], "{a: a.}"),
            (&[".b"], "{: {b: .b}}"),
            (&["a..b"], "{a: {: {b: a..b}}}"),
        ];
        for (names, expected) in table {
            assert_eq!(show(&tree(names).unwrap()), *expected, "{names:?}");
        }
    }

    #[test]
    fn no_tensor_is_lost() {
        for (names, lost) in
            [(&["a", "a.b"][..], "a"), (&["a.b", "a"], "a"), (&["x.a", "x.a.b.c", "x.b"], "x.a"), (&["a", "a."], "a")]
        {
            assert_eq!(tree(names), Err(UnflattenError::LeafAndParent { name: lost.into() }), "{names:?}");
        }
    }

    #[test]
    fn hostile_numbers_allocate_nothing() {
        let huge = ["4000000000", "18446744073709551615", "99999999999999999999999"];
        for name in huge {
            let tree = unflatten([(name, ())].into_iter()).unwrap();
            assert_eq!(tree, Tree::Map(BTreeMap::from([(name.to_owned(), Tree::Tensor(()))])));
        }
        // The first list takes nearly all the budget, so the others stay maps.
        let tree = tree(&["9999.9999.9999"]).unwrap();
        let Tree::List(list) = &tree else { panic!("{tree:?}") };
        assert_eq!(list.len(), 10_000);
        assert!(matches!(&list[9999], Tree::Map(map) if map.contains_key("9999")));
    }

    #[test]
    fn hostile_depth_is_an_error() {
        let name = "a.".repeat(100_000);
        assert!(matches!(unflatten([(name.as_str(), ())].into_iter()), Err(UnflattenError::TooDeep { .. })));
        let name = vec!["a"; MAX_DEPTH].join(".");
        unflatten([(name.as_str(), ())].into_iter()).unwrap();
    }

    // Every leaf can be found under its own name, for all names.
    #[test]
    fn leaves_are_where_their_names_say() {
        let parts = ["a", "b", "0", "1", "7", "2-1", "weight"];
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..500 {
            let names: BTreeSet<String> = (0..random(20))
                .map(|_| (0..=random(4)).map(|_| parts[random(parts.len())]).collect::<Vec<_>>().join("."))
                .collect();
            let clash = names.iter().any(|name| names.iter().any(|other| other.starts_with(&format!("{name}."))));
            let result = unflatten(names.iter().map(|name| (name.as_str(), name)));
            assert_eq!(result.is_err(), clash, "{names:?}");
            let Ok(tree) = result else { continue };
            for name in &names {
                let found = name.split('.').try_fold(&tree, |node, key| node.get(key));
                assert_eq!(found.and_then(Tree::as_tensor), Some(&name), "{names:?}");
            }
        }
    }
}
