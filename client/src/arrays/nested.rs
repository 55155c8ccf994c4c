use std::{collections::HashMap, rc::Rc};

use mlx_rs::{
    Array,
    module::ModuleParam,
    nested::{NestedHashMap, NestedValue},
};

use crate::{UnflattenError, tree::MAX_DEPTH};

type Entries = HashMap<Rc<str>, NestedValue<Rc<str>, Array>>;

/// Nested maps, the form in which modules of mlx-rs have their parameters. Flattening them gives the dotted names.
pub(super) fn nested<'a>(arrays: impl Iterator<Item = (&'a str, &'a Array)>) -> Result<ModuleParam, UnflattenError> {
    let mut entries = Entries::new();
    for (name, array) in arrays {
        insert(&mut entries, name, array)?;
    }
    Ok(NestedHashMap { entries })
}

fn insert(mut entries: &mut Entries, name: &str, array: &Array) -> Result<(), UnflattenError> {
    if name.split('.').count() > MAX_DEPTH {
        return Err(UnflattenError::TooDeep { name: name.to_owned() });
    }
    let (path, leaf) = name.rsplit_once('.').map_or((None, name), |(path, leaf)| (Some(path), leaf));
    let mut passed = 0;
    for key in path.into_iter().flat_map(|path| path.split('.')) {
        passed += key.len();
        let child = entries.entry(key.into()).or_insert_with(|| NestedValue::Map(Entries::new()));
        let NestedValue::Map(inner) = child else {
            return Err(UnflattenError::LeafAndParent { name: name[..passed].to_owned() });
        };
        entries = inner;
        passed += 1;
    }
    match entries.insert(leaf.into(), NestedValue::Value(array.clone())) {
        None => Ok(()),
        Some(_) => Err(UnflattenError::LeafAndParent { name: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Result<ModuleParam, UnflattenError> {
        let arrays: Vec<_> = (0..names.len()).map(|index| Array::from_int(index as i32)).collect();
        nested(names.iter().copied().zip(&arrays))
    }

    #[test]
    fn flattened_again_the_names_are_the_same() {
        let names = ["a.0.w", "a.1.w", "a.01", "a.x", "b", "c.", ".d", "e..f", "g.2-1.w"];
        let flat = of(&names).unwrap().flatten();
        assert_eq!(flat.len(), names.len());
        for (index, name) in names.iter().enumerate() {
            assert_eq!(flat[*name].item_exact::<i32>(), index as i32, "{name}");
        }
        assert!(of(&[]).unwrap().entries.is_empty());
    }

    #[test]
    fn a_name_cannot_be_a_leaf_and_the_beginning_of_others() {
        for (names, lost) in [(&["a", "a.b"][..], "a"), (&["x.a", "x.a.b.c"], "x.a"), (&["a.b", "a"], "a")] {
            assert_eq!(of(names).unwrap_err(), UnflattenError::LeafAndParent { name: lost.into() }, "{names:?}");
        }
        let deep = vec!["a"; MAX_DEPTH + 1].join(".");
        assert!(matches!(of(&[&deep]), Err(UnflattenError::TooDeep { .. })));
        of(&[&deep[2..]]).unwrap();
    }
}
