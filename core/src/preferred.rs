//! Chooses the weights of a directory that has safetensors files, and neither an index nor configs.
//!
//! People keep several versions of a checkpoint in one directory. The rule: the only one; the only one whose name says
//! `v2`; the largest one. Where that leaves two, both are named and none is taken.

use std::{collections::BTreeMap, fmt};

use crate::{
    explain::{Explain, Explanation, Reason},
    weight_name::set_of,
};

/// A name with this word wins over size.
const NEWER: &str = "v2";
/// Most names that an error lists.
const NAMED_MAX: usize = 16;

/// The reason for a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// It is the only candidate.
    Only,
    /// Its name says `v2`.
    Newer,
    /// It has the most bytes.
    Largest,
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Only => "it is the only one",
            Self::Newer => "its name says `v2`",
            Self::Largest => "it is the largest",
        })
    }
}

/// Which candidates are acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// A single candidate. For control checkpoints and adapters, whose size says nothing about the one wanted.
    OnlyOne,
    /// The rule of this module.
    NewerOrLargest,
}

/// A choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preferred {
    /// Names of the files, in shard order; usually one.
    pub files: Vec<String>,
    /// The reason.
    pub ground: Ground,
    /// The others, one name each.
    pub others: Vec<String>,
}

/// Why no choice is possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreferredError {
    /// No safetensors file.
    #[error("there are no safetensors files")]
    Nothing,
    /// More than one fits.
    #[error("any of {} may be meant: {}", candidates.len(), sample(candidates))]
    Ambiguous {
        /// One name each.
        candidates: Vec<String>,
    },
}

impl Explain for PreferredError {
    fn explain(&self) -> Explanation {
        let hint = match self {
            Self::Nothing => {
                "give the directory that holds `.safetensors` files; `weightsd pull` fetches those of a Hugging Face id"
            }
            Self::Ambiguous { .. } => "give the path of the file instead of its directory",
        };
        Explanation::new(Reason::AmbiguousWeights, "", hint)
    }
}

fn sample(names: &[String]) -> String {
    let shown = &names[..names.len().min(NAMED_MAX)];
    let more = if shown.len() < names.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Chooses among `files`, names and lengths in bytes of the files in one directory, in any order. Shards of one set are
/// one candidate.
///
/// # Errors
/// When no file fits, or several fit equally well.
pub fn preferred<'a>(
    files: impl IntoIterator<Item = (&'a str, u64)>,
    preference: Preference,
) -> Result<Preferred, PreferredError> {
    let mut sets: BTreeMap<&str, (Vec<&str>, u64)> = BTreeMap::new();
    for (name, bytes) in files {
        // macOS leaves `._` files beside files on foreign disks. They are not the user's.
        let Some(set) = set_of(name).filter(|_| !name.starts_with("._") && !name.contains('/')) else { continue };
        let set = sets.entry(set).or_default();
        set.0.push(name);
        set.1 = set.1.saturating_add(bytes);
    }
    let says_newer = |set: &&str| set.to_lowercase().contains(NEWER);
    let newer: Vec<&str> = sets.keys().copied().filter(says_newer).collect();
    let largest = sets.values().map(|(_, bytes)| *bytes).max();
    let as_large: Vec<&str> = sets.iter().filter(|(_, set)| Some(set.1) == largest).map(|(name, _)| *name).collect();
    let all: Vec<&str> = sets.keys().copied().collect();
    let (chosen, ground) = match (all.as_slice(), newer.as_slice(), as_large.as_slice(), preference) {
        ([], ..) => return Err(PreferredError::Nothing),
        ([one], ..) => (*one, Ground::Only),
        (_, _, _, Preference::OnlyOne) => return Err(ambiguous(&sets, &all)),
        (_, [one], ..) => (*one, Ground::Newer),
        (_, [], [one], _) => (*one, Ground::Largest),
        (_, [], many, _) | (_, many, ..) => return Err(ambiguous(&sets, many)),
    };
    let mut files: Vec<String> = sets[chosen].0.iter().map(|&name| name.to_owned()).collect();
    files.sort_unstable();
    let others = all.iter().filter(|&&set| set != chosen).map(|set| first(&sets, set)).collect();
    Ok(Preferred { files, ground, others })
}

type Sets<'a> = BTreeMap<&'a str, (Vec<&'a str>, u64)>;

fn ambiguous(sets: &Sets<'_>, candidates: &[&str]) -> PreferredError {
    PreferredError::Ambiguous { candidates: candidates.iter().map(|set| first(sets, set)).collect() }
}

fn first(sets: &Sets<'_>, set: &str) -> String {
    sets[set].0.iter().min().map_or_else(String::new, |&name| name.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_rule() {
        type Case<'a> = (&'a [(&'a str, u64)], &'a str, Ground);
        let cases: [Case<'_>; 6] = [
            (&[("a.safetensors", 1), ("readme.md", 9)], "a.safetensors", Ground::Only),
            (&[("a.safetensors", 1), ("b.safetensors", 2)], "b.safetensors", Ground::Largest),
            (&[("a-V2.safetensors", 1), ("b.safetensors", 2)], "a-V2.safetensors", Ground::Newer),
            (&[("._a.safetensors", 9), ("a.safetensors", 1)], "a.safetensors", Ground::Only),
            (&[("a.safetensors", 1), ("b.SAFETENSORS", 2)], "a.safetensors", Ground::Only),
            (&[("sub/b.safetensors", 2), ("a.safetensors", 1)], "a.safetensors", Ground::Only),
        ];
        for (files, chosen, ground) in cases {
            let found = preferred(files.iter().copied(), Preference::NewerOrLargest).unwrap();
            assert_eq!((found.files, found.ground), (vec![chosen.to_owned()], ground), "{files:?}");
        }
        let shards = [("m-00002-of-00002.safetensors", 4), ("x.safetensors", 5), ("m-00001-of-00002.safetensors", 4)];
        let found = preferred(shards, Preference::NewerOrLargest).unwrap();
        assert_eq!(found.files, ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]);
        assert_eq!(found.others, ["x.safetensors"]);
    }

    #[test]
    fn what_is_ambiguous_is_refused_with_the_list() {
        let ambiguous = |files: &[(&str, u64)], preference| match preferred(files.iter().copied(), preference) {
            Err(PreferredError::Ambiguous { candidates }) => candidates,
            other => panic!("{other:?}"),
        };
        let two = [("b.safetensors", 2), ("a.safetensors", 2), ("c.safetensors", 1)];
        assert_eq!(ambiguous(&two, Preference::NewerOrLargest), ["a.safetensors", "b.safetensors"]);
        let newer = [("a_v2.safetensors", 1), ("b_v2.safetensors", 2)];
        assert_eq!(ambiguous(&newer, Preference::NewerOrLargest), ["a_v2.safetensors", "b_v2.safetensors"]);
        let control = [("tile.safetensors", 2), ("union.safetensors", 3)];
        assert_eq!(ambiguous(&control, Preference::OnlyOne), ["tile.safetensors", "union.safetensors"]);
        let error = preferred(control, Preference::OnlyOne).unwrap_err();
        assert!(error.to_string().contains("tile.safetensors, union.safetensors"), "{error}");
        assert!(error.explain().hint.contains("path of the file"));
        assert_eq!(preferred([("a.txt", 1)], Preference::NewerOrLargest), Err(PreferredError::Nothing));
    }

    proptest! {
        #[test]
        fn the_order_of_the_directory_does_not_matter(
            files in proptest::collection::btree_map("[ab]{1,2}(v2)?", 0u64..4, 0..6),
            seed in any::<u64>(),
        ) {
            let mut named: Vec<(String, u64)> = files.into_iter().map(|(name, bytes)| (format!("{name}.safetensors"), bytes)).collect();
            let choose = |files: &[(String, u64)]| preferred(files.iter().map(|(name, bytes)| (name.as_str(), *bytes)), Preference::NewerOrLargest);
            let before = choose(&named);
            let length = named.len().max(1) as u64;
            named.rotate_left(usize::try_from(seed % length).unwrap());
            named.reverse();
            prop_assert_eq!(choose(&named), before);
        }
    }
}
