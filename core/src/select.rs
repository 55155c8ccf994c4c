//! Which files of a folder are its weights.
//!
//! The rule, first match wins: the index of the expected name; the set of files of the expected name; the only set
//! there is. Anything else is ambiguous and refused with the list, because a guess would lend the wrong weights. A
//! *variant* such as `fp16` is part of the expected name: only the set that carries it is taken, never another.

use std::collections::{BTreeMap, BTreeSet};

use crate::explain::{Explain, Explanation, Reason};

/// Ending of an index file.
pub const INDEX_SUFFIX: &str = ".safetensors.index.json";
const SUFFIX: &str = ".safetensors";
/// What helps when shards are missing.
const FETCH: &str = "`weightsd pull` fetches what is missing; a directory of your own has to be copied again";
/// Most missing shards that an error names.
const NAMED_MAX: usize = 16;

/// What a folder's weights are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightFiles {
    /// An index names the shards. Path below the model's directory.
    Index(String),
    /// These files, in shard order. Paths below the model's directory.
    Files(Vec<String>),
}

/// Why a folder has no usable weights.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No safetensors file.
    #[error("there are no safetensors files in `{folder}`")]
    Nothing {
        /// The folder.
        folder: String,
    },
    /// No set of that variant.
    #[error("`{folder}` has no weights of variant `{variant}`; it has {}", candidates.join(", "))]
    NoVariant {
        /// The folder.
        folder: String,
        /// What was asked for.
        variant: String,
        /// One name a set.
        candidates: Vec<String>,
    },
    /// Several sets.
    #[error("`{folder}` holds several sets of weights: {}", candidates.join(", "))]
    Ambiguous {
        /// The folder.
        folder: String,
        /// One name a set.
        candidates: Vec<String>,
    },
    /// A numbered set with holes.
    #[error("`{folder}` lacks {count} of {total} shards: {}{}", missing.join(", "), if missing.len() < *count { ", …" } else { "" })]
    MissingShards {
        /// The folder.
        folder: String,
        /// Their names, or the first ones when there are many.
        missing: Vec<String>,
        /// How many are missing.
        count: usize,
        /// How many there should be.
        total: u32,
    },
}

impl Explain for SelectError {
    fn explain(&self) -> Explanation {
        let (reason, folder, hint) = match self {
            Self::NoVariant { folder, .. } => {
                (Reason::VariantNotFound, folder, "leave the variant out, or name one that is listed")
            }
            Self::Nothing { folder } => (
                Reason::SnapshotIncomplete,
                folder,
                "`weightsd pull` fetches what is missing, `weightsd resolve` lists what is here",
            ),
            Self::MissingShards { folder, .. } => (Reason::SnapshotIncomplete, folder, FETCH),
            Self::Ambiguous { folder, .. } => (
                Reason::AmbiguousWeights,
                folder,
                "choose with `--pattern` or `--variant` (`patterns`, `variant`), or name the file that you mean by its path",
            ),
        };
        Explanation::new(reason, folder, hint)
    }
}

impl SelectError {
    /// The same, naming the folder as `path`: whoever reads it may not know of which model it is.
    #[must_use]
    pub fn in_folder(mut self, path: String) -> Self {
        match &mut self {
            Self::Nothing { folder }
            | Self::NoVariant { folder, .. }
            | Self::Ambiguous { folder, .. }
            | Self::MissingShards { folder, .. } => *folder = path,
        }
        self
    }
}

/// A shard's name taken apart: `model-00001-of-00003.safetensors`.
#[derive(Debug, PartialEq, Eq)]
struct ShardName<'a> {
    set: String,
    digits: &'a str,
    number: u32,
    total: u32,
}

fn shard_name(file: &str) -> Option<ShardName<'_>> {
    let stem = file.strip_suffix(SUFFIX)?;
    let of = stem.rfind("-of-")?;
    let (before, after) = (&stem[..of], &stem[of + 4..]);
    let dash = before.rfind('-')?;
    let digits = &before[dash + 1..];
    let all_digits = |text: &str| !text.is_empty() && text.len() <= 6 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(digits) || !all_digits(after) {
        return None;
    }
    Some(ShardName { set: before[..dash].to_owned(), digits, number: digits.parse().ok()?, total: after.parse().ok()? })
}

/// The set that an index lists, by its name. A variant is written before `.safetensors` or, as diffusers does, before
/// `.json`: `model.fp16.safetensors.index.json` and `model.safetensors.index.fp16.json` mean one set.
fn index_set(file: &str) -> Option<String> {
    if let Some(set) = file.strip_suffix(INDEX_SUFFIX) {
        return Some(set.to_owned());
    }
    let (stem, variant) = file.strip_suffix(".json")?.split_once(".safetensors.index.")?;
    (!variant.is_empty()).then(|| format!("{stem}.{variant}"))
}

/// Whether a file of that path belongs to weights: a safetensors file, or an index in either spelling.
#[must_use]
pub fn is_weights(path: &str) -> bool {
    path.ends_with(SUFFIX) || path.rsplit('/').next().and_then(index_set).is_some()
}

/// Whether a file of that name holds tensors. What macOS leaves beside files on foreign disks does not.
#[must_use]
pub fn is_tensors(name: &str) -> bool {
    name.ends_with(SUFFIX) && !name.starts_with("._")
}

/// Chooses the weights of `folder` (empty for the root) among `files`, the paths of all files of the model. `stem` is
/// the expected name, such as `diffusion_pytorch_model`; `variant` the part after it, such as `fp16`.
///
/// # Errors
/// [`SelectError`].
pub fn weight_files<'a>(
    files: impl IntoIterator<Item = &'a str>,
    folder: &str,
    stem: &str,
    variant: Option<&str>,
) -> Result<WeightFiles, SelectError> {
    let names: Vec<&str> = files.into_iter().filter_map(|path| name_in(path, folder)).collect();
    let join = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let shown = if folder.is_empty() { "." } else { folder }.to_owned();
    let mut sets: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut indexes: BTreeMap<String, &str> = BTreeMap::new();
    for name in &names {
        if let Some(bare) = name.strip_suffix(SUFFIX) {
            let set = shard_name(name).map_or_else(|| bare.to_owned(), |shard| shard.set);
            sets.entry(set).or_default().push(name);
        } else if let Some(set) = index_set(name) {
            sets.entry(set.clone()).or_default();
            indexes.entry(set).or_insert(name);
        }
    }
    let chosen = match variant {
        None => expected_or_only(&sets, stem, &shown)?,
        Some(variant) => of_variant(&sets, stem, variant, &shown)?,
    };
    match indexes.get(&chosen) {
        Some(index) => Ok(WeightFiles::Index(join(index))),
        None => order_set(&sets[&chosen], shown, &join),
    }
}

fn expected_or_only(sets: &BTreeMap<String, Vec<&str>>, stem: &str, folder: &str) -> Result<String, SelectError> {
    if sets.contains_key(stem) {
        return Ok(stem.to_owned());
    }
    let mut candidates: Vec<String> = sets.keys().cloned().collect();
    match candidates.len() {
        0 => Err(SelectError::Nothing { folder: folder.to_owned() }),
        1 => Ok(candidates.remove(0)),
        _ => Err(SelectError::Ambiguous { folder: folder.to_owned(), candidates }),
    }
}

/// The set of the expected name and variant, or the only set of that variant. Case does not count.
fn of_variant(
    sets: &BTreeMap<String, Vec<&str>>,
    stem: &str,
    variant: &str,
    folder: &str,
) -> Result<String, SelectError> {
    let folder = folder.to_owned();
    if sets.is_empty() {
        return Err(SelectError::Nothing { folder });
    }
    let is_variant = |set: &&String| set.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(variant));
    let mut matching: Vec<&String> = sets.keys().filter(is_variant).collect();
    let expected = |set: &&&String| set.rsplit_once('.').is_some_and(|(before, _)| before == stem);
    if let Some(set) = matching.iter().find(expected) {
        return Ok((*set).clone());
    }
    match matching.len() {
        0 => Err(SelectError::NoVariant {
            folder,
            variant: variant.to_owned(),
            candidates: sets.keys().cloned().collect(),
        }),
        1 => Ok(matching.remove(0).clone()),
        _ => Err(SelectError::Ambiguous { folder, candidates: matching.into_iter().cloned().collect() }),
    }
}

fn name_in<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let name = if folder.is_empty() { path } else { path.strip_prefix(folder)?.strip_prefix('/')? };
    (!name.contains('/')).then_some(name)
}

fn order_set(names: &[&str], folder: String, join: &impl Fn(&str) -> String) -> Result<WeightFiles, SelectError> {
    let mut shards = Vec::new();
    let mut whole = Vec::new();
    for name in names {
        match shard_name(name) {
            Some(shard) => shards.push((shard, *name)),
            None => whole.push(*name),
        }
    }
    shards.sort_by_key(|(shard, _)| (shard.total, shard.number));
    let totals: Vec<u32> = shards.iter().map(|(shard, _)| shard.total).collect();
    match (whole.as_slice(), totals.first()) {
        ([one], None) => Ok(WeightFiles::Files(vec![join(one)])),
        ([], Some(&total)) if totals.iter().all(|&other| other == total) => {
            let (first, _) = &shards[0];
            let width = first.digits.len();
            let name_of = |number: u32| format!("{}-{number:0width$}-of-{total:0width$}{SUFFIX}", first.set);
            let present: BTreeSet<u32> = shards.iter().map(|(shard, _)| shard.number).collect();
            let absent = || (1..=total).filter(|number| !present.contains(number));
            let count = absent().count();
            if count > 0 || total == 0 {
                let missing = absent().take(NAMED_MAX).map(name_of).collect();
                return Err(SelectError::MissingShards { folder, missing, count, total });
            }
            if u32::try_from(shards.len()) != Ok(total) {
                let candidates = names.iter().map(|&name| name.to_owned()).collect();
                return Err(SelectError::Ambiguous { folder, candidates });
            }
            Ok(WeightFiles::Files(shards.iter().map(|(_, name)| join(name)).collect()))
        }
        _ => Err(SelectError::Ambiguous { folder, candidates: names.iter().map(|&name| name.to_owned()).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEM: &str = "diffusion_pytorch_model";

    fn select(files: &[&str]) -> Result<WeightFiles, SelectError> {
        weight_files(files.iter().copied(), "t", STEM, None)
    }

    #[test]
    fn index_then_named_set_then_only_set() {
        let index = "t/diffusion_pytorch_model.safetensors.index.json";
        assert_eq!(select(&[index, "t/other.safetensors"]), Ok(WeightFiles::Index(index.into())));
        let single = "t/diffusion_pytorch_model.safetensors";
        assert_eq!(select(&[single, "t/x.fp16.safetensors"]), Ok(WeightFiles::Files(vec![single.into()])));
        assert_eq!(
            select(&["t/0.safetensors", "u/1.safetensors"]),
            Ok(WeightFiles::Files(vec!["t/0.safetensors".into()]))
        );
    }

    #[test]
    fn shards_are_ordered_by_number_and_must_be_complete() {
        let files = ["t/a-00002-of-00002.safetensors", "t/a-00001-of-00002.safetensors"];
        assert_eq!(select(&files), Ok(WeightFiles::Files(vec![files[1].into(), files[0].into()])));
        assert_eq!(
            select(&files[..1]),
            Err(SelectError::MissingShards {
                folder: "t".into(),
                missing: vec!["a-00001-of-00002.safetensors".into()],
                count: 1,
                total: 2
            })
        );
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        assert!(matches!(select(&[]), Err(SelectError::Nothing { .. })));
        assert!(matches!(select(&["t/a.safetensors", "t/b.safetensors"]), Err(SelectError::Ambiguous { .. })));
        let mixed = ["t/a-00001-of-00002.safetensors", "t/a-00001-of-00001.safetensors"];
        assert!(matches!(select(&mixed), Err(SelectError::Ambiguous { .. })));
        let beyond = ["t/a-00001-of-00001.safetensors", "t/a-00002-of-00001.safetensors"];
        assert!(matches!(select(&beyond), Err(SelectError::Ambiguous { .. })));
        let both = ["t/a-00001-of-00001.safetensors", "t/a.safetensors"];
        assert!(matches!(select(&both), Err(SelectError::Ambiguous { .. })));
    }

    #[test]
    fn the_root_is_a_folder_too() {
        let found = weight_files(["model.safetensors", "t/x.safetensors"], "", "model", None);
        assert_eq!(found, Ok(WeightFiles::Files(vec!["model.safetensors".into()])));
    }
    #[test]
    fn a_variant_is_that_variant() {
        let choose = |files: &[&str], variant| weight_files(files.iter().copied(), "t", STEM, Some(variant));
        let plain = "t/diffusion_pytorch_model.safetensors";
        let half = "t/diffusion_pytorch_model.fp16.safetensors";
        assert_eq!(choose(&[plain, half], "FP16"), Ok(WeightFiles::Files(vec![half.into()])));
        assert!(matches!(choose(&[plain, half], "bf16"), Err(SelectError::NoVariant { candidates, .. })
            if candidates == [STEM, "diffusion_pytorch_model.fp16"]));
        assert!(matches!(choose(&[], "fp16"), Err(SelectError::Nothing { .. })));
        let shards = [
            "t/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "t/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
        ];
        assert_eq!(choose(&shards, "fp16"), Ok(WeightFiles::Files(shards.map(str::to_owned).to_vec())));
        for index in [
            "t/diffusion_pytorch_model.safetensors.index.fp16.json",
            "t/diffusion_pytorch_model.fp16.safetensors.index.json",
        ] {
            let files = [shards[0], index, plain, "t/diffusion_pytorch_model.safetensors.index.json"];
            assert_eq!(choose(&files, "fp16"), Ok(WeightFiles::Index(index.into())));
            assert!(is_weights(index));
        }
        let other = ["t/a.fp16.safetensors", "t/b.fp16.safetensors"];
        assert!(matches!(choose(&other, "fp16"), Err(SelectError::Ambiguous { .. })));
        assert_eq!(choose(&other[..1], "fp16"), Ok(WeightFiles::Files(vec![other[0].into()])));
    }
}
