//! Which files of a folder are its weights.
//!
//! The rule, first match wins: the index of the expected name; the set of files of the expected name; the only set
//! there is; the only index, when it lists every other file. Anything else is ambiguous and refused with the list,
//! because a guess would lend the wrong weights. A *variant* such as `fp16` is part of the expected name: only the set
//! that carries it is taken, never another.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    explain::{Explain, Explanation, Reason},
    gguf_files,
    index::Index,
    weight_name::{self, Format, SUFFIX, ShardName},
};

/// What helps when shards are missing.
const FETCH: &str = "`weightsd pull` fetches what is missing; a directory of your own has to be copied again";
/// Most missing shards that an error names.
const NAMED_MAX: usize = 16;

/// What a folder's weights are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightFiles {
    /// An index names the shards.
    Index(IndexFile),
    /// These files, in shard order. Paths below the model's directory.
    Files(Vec<String>),
}

/// An index that was chosen by its name, before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexFile {
    /// Path below the model's directory.
    pub path: String,
    /// Other weight files of the folder, which the index must list: sets of their own would leave the choice open.
    claims: Vec<String>,
    /// Other indexes of the folder that are no variants of this one, as paths.
    rivals: Vec<String>,
    /// Whether the index has the name that was expected.
    expected: bool,
}

/// How sure it is which name the weights of a folder have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// A config says what they are, and so what they are called.
    Known,
    /// Nothing says it.
    Guessed,
}

impl IndexFile {
    /// Paths of other indexes that must list the same files, because nothing says which of them is meant.
    #[must_use]
    pub fn rivals(&self, expectation: Expectation) -> &[String] {
        match expectation {
            Expectation::Known if self.expected => &[],
            Expectation::Known | Expectation::Guessed => &self.rivals,
        }
    }

    /// Compares what the index lists with what one of its rivals lists.
    ///
    /// # Errors
    /// When they list different files.
    pub fn agree(&self, index: &Index, rival: &str, listed: &Index) -> Result<(), SelectError> {
        let set = |index: &Index| index.shards().into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        if set(index) == set(listed) {
            return Ok(());
        }
        let folder = shown_folder(weight_name::split(&self.path).0);
        let candidates = [&*self.path, rival].map(|path| weight_name::split(path).1.to_owned()).to_vec();
        Err(SelectError::Ambiguous { folder, candidates })
    }

    /// Checks the choice against what the index lists.
    ///
    /// # Errors
    /// When the folder has weight files that the index does not list, and nothing says which of both is meant.
    pub fn settle(&self, index: &Index) -> Result<(), SelectError> {
        let listed = index.shards();
        let strangers: Vec<&String> = self.claims.iter().filter(|path| !listed.contains(&path.as_str())).collect();
        if strangers.is_empty() {
            return Ok(());
        }
        let (folder, index) = weight_name::split(&self.path);
        let candidates = strangers.into_iter().map(|path| weight_name::split(path).1.to_owned());
        let candidates = std::iter::once(index.to_owned()).chain(candidates).collect();
        Err(SelectError::Ambiguous { folder: shown_folder(folder), candidates })
    }
}

/// Why a folder has no usable weights.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No weight file.
    #[error("there are no safetensors or GGUF files in `{folder}`{}", instead(others))]
    Nothing {
        /// The folder.
        folder: String,
        /// Weights in other formats, as phrases.
        others: Vec<String>,
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
            Self::Nothing { folder, others } if others.is_empty() => (
                Reason::SnapshotIncomplete,
                folder,
                "`weightsd pull` fetches what is missing, `weightsd resolve` lists what is here",
            ),
            Self::Nothing { folder, .. } => (
                Reason::SnapshotIncomplete,
                folder,
                "weightsd lends safetensors and GGUF: convert the weights, or name a repository that has them in these formats",
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
    /// The same error with the folder's whole path: its reader may not know which model is meant.
    #[must_use]
    pub fn in_folder(mut self, path: String) -> Self {
        match &mut self {
            Self::Nothing { folder, .. }
            | Self::NoVariant { folder, .. }
            | Self::Ambiguous { folder, .. }
            | Self::MissingShards { folder, .. } => *folder = path,
        }
        self
    }
}

/// Endings of weights in other formats.
const OTHER_FORMATS: [(&str, &[&str]); 5] = [
    ("PyTorch", &[".bin", ".pt", ".pth", ".ckpt"]),
    ("ONNX", &[".onnx"]),
    ("Keras", &[".h5", ".keras"]),
    ("Flax", &[".msgpack"]),
    ("NumPy", &[".npz"]),
];

/// Weights among `files` that are in other formats, a phrase each.
#[must_use]
pub fn other_weights<'a>(files: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let files: Vec<&str> = files.into_iter().collect();
    let phrase = |(format, endings): (&str, &[&str])| {
        let has_ending = |file: &&&str| endings.iter().any(|ending| file.to_lowercase().ends_with(ending));
        let of: Vec<&&str> = files.iter().filter(has_ending).collect();
        let first = of.first()?;
        Some(match of.len() {
            1 => format!("{format} (`{first}`)"),
            count => format!("{format} ({count} files, such as `{first}`)"),
        })
    };
    OTHER_FORMATS.into_iter().filter_map(phrase).collect()
}

fn instead(others: &[String]) -> String {
    if others.is_empty() { String::new() } else { format!("; its weights are in other formats: {}", others.join(", ")) }
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
/// When the folder holds no weights, several sets that `stem` and `variant` do not tell apart, or none of the variant.
pub fn weight_files<'a>(
    files: impl IntoIterator<Item = &'a str>,
    folder: &str,
    stem: &str,
    variant: Option<&str>,
) -> Result<WeightFiles, SelectError> {
    let names: Vec<&str> = files.into_iter().filter_map(|path| name_in(path, folder)).collect();
    let join = |name: &str| weight_name::in_folder(folder, name);
    let shown = shown_folder(folder);
    let (sets, indexes) = sets(&names);
    let index = |set: &str, claims: Vec<String>, expected| {
        // Variants stand beside their plain set, and who names one has chosen.
        let is_rival = |(other, _): &(&String, &&str)| {
            variant.is_none() && *other != set && !other.starts_with(&format!("{set}."))
        };
        let rivals = indexes.iter().filter(is_rival).map(|(_, name)| join(name)).collect();
        WeightFiles::Index(IndexFile { path: join(indexes[set]), claims, rivals, expected })
    };
    if sets.is_empty() {
        return Err(SelectError::Nothing { folder: shown, others: other_weights(names.iter().copied()) });
    }
    let chosen = match variant {
        None => expected_or_only(&sets, stem, &shown),
        Some(variant) => of_variant(&sets, stem, variant, &shown),
    };
    let chosen = match (chosen, variant, indexes.keys().next()) {
        // Some tools name shards by numbers alone, so that each looks like a set: a set is what its index lists.
        (Err(SelectError::Ambiguous { .. }), None, Some(first)) => {
            let claims = names.iter().filter(|name| weight_name::stem(name).is_some()).map(|name| join(name));
            return Ok(index(first, claims.collect(), false));
        }
        (chosen, ..) => chosen?,
    };
    match indexes.contains_key(&chosen) {
        true => Ok(index(&chosen, Vec::new(), chosen == stem || variant.is_some())),
        false => order_set(&sets[&chosen], shown, &join),
    }
}

type Sets<'a> = BTreeMap<String, Vec<&'a str>>;

/// The files of each set, by name, and the index of each set that has one.
fn sets<'a>(names: &[&'a str]) -> (Sets<'a>, BTreeMap<String, &'a str>) {
    let (mut sets, mut indexes) = (Sets::new(), BTreeMap::new());
    for &name in names {
        if let Some(set) = weight_name::set_of(name) {
            sets.entry(set.to_owned()).or_default().push(name);
        } else if let Some(set) = weight_name::index_set(name) {
            sets.entry(set.clone()).or_default();
            indexes.entry(set).or_insert(name);
        }
    }
    (sets, indexes)
}

fn shown_folder(folder: &str) -> String {
    if folder.is_empty() { "." } else { folder }.to_owned()
}

/// Complete sets of weight files in `folder`, as paths below the model's directory, that have no file in `listed`: what
/// is there beside the files that an index lists.
#[must_use]
pub fn unlisted_sets<'a>(
    files: impl IntoIterator<Item = &'a str>,
    folder: &str,
    listed: &[String],
) -> Vec<Vec<String>> {
    let names: Vec<&str> = files.into_iter().filter_map(|path| name_in(path, folder)).collect();
    let join = |name: &str| weight_name::in_folder(folder, name);
    let (sets, _) = sets(&names);
    let whole = |names: &Vec<&str>| {
        // Shards of several totals may carry one name: each total is a set.
        let total = |name: &str| ShardName::parse(name).map(|shard| shard.total);
        let totals: BTreeSet<Option<u32>> = names.iter().map(|name| total(name)).collect();
        let of_total = |wanted: Option<u32>| -> Option<Vec<String>> {
            let of: Vec<&str> = names.iter().copied().filter(|name| total(name) == wanted).collect();
            match order_set(&of, folder.to_owned(), &join) {
                Ok(WeightFiles::Files(paths)) => Some(paths),
                Ok(WeightFiles::Index(_)) | Err(_) => None,
            }
        };
        totals.into_iter().filter_map(of_total).collect::<Vec<_>>()
    };
    sets.values().flat_map(whole).filter(|paths| !paths.iter().any(|path| listed.contains(path))).collect()
}

fn expected_or_only(sets: &Sets<'_>, stem: &str, folder: &str) -> Result<String, SelectError> {
    if sets.contains_key(stem) {
        return Ok(stem.to_owned());
    }
    let mut candidates: Vec<String> = sets.keys().cloned().collect();
    match candidates.len() {
        1 => Ok(candidates.remove(0)),
        _ => Err(SelectError::Ambiguous { folder: folder.to_owned(), candidates }),
    }
}

/// The set of the expected name and variant, or the only set of that variant. Case does not count.
fn of_variant(sets: &Sets<'_>, stem: &str, variant: &str, folder: &str) -> Result<String, SelectError> {
    let folder = folder.to_owned();
    let is_variant = |set: &&String| match sets[*set].first().map(|name| Format::of(name)) {
        Some(Format::Gguf) => gguf_files::is_quantisation(set, variant),
        _ => set.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(variant)),
    };
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

/// The path of a file below `folder`, if it is one of its files: its name, or, of a GGUF file in a folder that is called
/// after its quantisation, that folder too.
fn name_in<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let name = if folder.is_empty() { path } else { path.strip_prefix(folder)?.strip_prefix('/')? };
    (!name.contains('/') || gguf_files::folder_of(path) == folder).then_some(name)
}

fn order_set(names: &[&str], folder: String, join: &impl Fn(&str) -> String) -> Result<WeightFiles, SelectError> {
    let mut shards = Vec::new();
    let mut whole = Vec::new();
    for name in names {
        match ShardName::parse(name) {
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
            let suffix = Format::of(names[0]).suffix();
            let name_of = |number: u32| format!("{}-{number:0width$}-of-{total:0width$}{suffix}", first.set);
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

    fn chosen_index(path: &str) -> WeightFiles {
        WeightFiles::Index(IndexFile { path: path.to_owned(), claims: Vec::new(), rivals: Vec::new(), expected: true })
    }

    fn select(files: &[&str]) -> Result<WeightFiles, SelectError> {
        weight_files(files.iter().copied(), "t", STEM, None)
    }

    #[test]
    fn index_then_named_set_then_only_set() {
        let index = "t/diffusion_pytorch_model.safetensors.index.json";
        assert_eq!(select(&[index, "t/other.safetensors"]), Ok(chosen_index(index)));
        let single = "t/diffusion_pytorch_model.safetensors";
        assert_eq!(select(&[single, "t/x.fp16.safetensors"]), Ok(WeightFiles::Files(vec![single.into()])));
        assert_eq!(
            select(&["t/0.safetensors", "u/1.safetensors"]),
            Ok(WeightFiles::Files(vec!["t/0.safetensors".into()]))
        );
    }

    #[test]
    fn folders_of_quantisations_hold_sets_of_the_folder_above() {
        let files = ["m-Q4_K_M.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf", "Q8_0/m-Q8_0-00001-of-00002.gguf", "a/x.gguf"];
        let of = |files: &[&str], variant| weight_files(files.iter().copied(), "", "model", variant);
        let both = WeightFiles::Files(vec![files[2].into(), files[1].into()]);
        assert_eq!(of(&files, Some("q8_0")), Ok(both.clone()));
        assert_eq!(of(&files[1..], None), Ok(both));
        assert_eq!(of(&files, Some("Q4_K_M")), Ok(WeightFiles::Files(vec![files[0].into()])));
        let error = of(&files, None).unwrap_err();
        assert!(
            matches!(&error, SelectError::Ambiguous { candidates, .. }
            if *candidates == ["Q8_0/m-Q8_0", "m-Q4_K_M"]),
            "{error}"
        );
        let error = of(&files[..2], Some("Q8_0")).unwrap_err();
        assert!(
            matches!(&error, SelectError::MissingShards { missing, .. }
            if *missing == ["Q8_0/m-Q8_0-00001-of-00002.gguf"]),
            "{error}"
        );
    }

    #[test]
    fn two_indexes_must_list_the_same_files_unless_one_has_the_known_name() {
        let index = |files: &[&str]| {
            let map: serde_json::Map<_, _> =
                files.iter().map(|file| (format!("w of {file}"), (*file).into())).collect();
            Index::parse(serde_json::json!({ "weight_map": map }).to_string().as_bytes(), "t").unwrap()
        };
        let paths = ["t/a.safetensors.index.json", "t/b.safetensors.index.json"];
        let numbered = ["t/0.safetensors", "t/1.safetensors"];
        let Ok(WeightFiles::Index(chosen)) = select(&[&paths[..], &numbered].concat()) else { panic!() };
        assert_eq!((chosen.path.as_str(), chosen.rivals(Expectation::Known)), (paths[0], &[paths[1].to_owned()][..]));
        let both = index(&["0.safetensors", "1.safetensors"]);
        assert_eq!(chosen.agree(&both, paths[1], &both), Ok(()));
        let error = chosen.agree(&both, paths[1], &index(&["1.safetensors"])).unwrap_err();
        assert!(matches!(&error, SelectError::Ambiguous { candidates, .. } if candidates.len() == 2), "{error}");

        let known = "t/diffusion_pytorch_model.safetensors.index.json";
        let variant = "t/diffusion_pytorch_model.fp16.safetensors.index.json";
        let Ok(WeightFiles::Index(chosen)) = select(&[known, variant, paths[1], numbered[0]]) else { panic!() };
        assert_eq!((chosen.path.as_str(), chosen.rivals(Expectation::Known)), (known, &[][..]));
        assert_eq!(chosen.rivals(Expectation::Guessed), [paths[1].to_owned()], "a variant is no rival");
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

    /// mflux numbers its shards from 0, without a total, and calls its index as transformers does.
    #[test]
    fn weights_in_other_formats_are_named() {
        let error = select(&["t/a.onnx", "t/b.onnx", "t/pytorch_model.bin", "t/config.json"]).unwrap_err().to_string();
        assert!(error.contains("ONNX (2 files, such as `a.onnx`)"), "{error}");
        assert!(error.contains("PyTorch (`pytorch_model.bin`)"), "{error}");
        assert!(!select(&["t/config.json"]).unwrap_err().to_string().contains("formats"));
    }

    #[test]
    fn a_set_is_what_its_index_lists() {
        let files = ["t/0.safetensors", "t/1.safetensors", "t/model.safetensors.index.json"];
        let Ok(WeightFiles::Index(chosen)) = select(&files) else { panic!("the only index") };
        assert_eq!(chosen.path, files[2]);
        let index = |listed: &[&str]| {
            let map: serde_json::Map<_, _> =
                listed.iter().map(|&file| (file.to_owned(), serde_json::Value::from(file))).collect();
            Index::parse(serde_json::json!({"weight_map": map}).to_string().as_bytes(), "t").unwrap()
        };
        assert_eq!(chosen.settle(&index(&["0.safetensors", "1.safetensors"])), Ok(()));
        let error = chosen.settle(&index(&["0.safetensors"])).unwrap_err();
        assert!(
            matches!(&error, SelectError::Ambiguous { candidates, .. }
            if candidates == &["model.safetensors.index.json", "1.safetensors"]),
            "{error}"
        );
        let two = [files[0], files[1], files[2], "t/other.safetensors.index.json"];
        let Ok(WeightFiles::Index(chosen)) = select(&two) else { panic!() };
        assert_eq!(chosen.rivals(Expectation::Known), [two[3].to_owned()]);
    }

    #[test]
    fn complete_sets_beside_an_index_are_found() {
        let files = [
            "t/model.safetensors.index.json",
            "t/model-00001-of-00002.safetensors",
            "t/model-00002-of-00002.safetensors",
            "t/model-00001-of-00003.safetensors",
            "t/half-00001-of-00002.safetensors",
            "t/whole.safetensors",
        ];
        let found = |listed: &[&str]| {
            let listed: Vec<String> = listed.iter().map(|&path| path.to_owned()).collect();
            unlisted_sets(files, "t", &listed)
        };
        let [two, whole] = [files[1..3].to_vec(), files[5..].to_vec()];
        assert_eq!(found(&["t/model-00001-of-00005.safetensors"]), [two, whole.clone()]);
        assert_eq!(found(&files[1..2]), [whole]);
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
            assert_eq!(choose(&files, "fp16"), Ok(chosen_index(index)));
            assert!(weight_name::is_weights(index));
        }
        let gguf =
            ["t/m-Q4_K_M.gguf", "t/m-Q8_0-00001-of-00002.gguf", "t/m-Q8_0-00002-of-00002.gguf", "t/m-UD-Q4_K_XL.gguf"];
        assert_eq!(choose(&gguf, "q4_k_m"), Ok(WeightFiles::Files(vec![gguf[0].into()])));
        assert_eq!(choose(&gguf, "Q8_0"), Ok(WeightFiles::Files(vec![gguf[1].into(), gguf[2].into()])));
        assert!(matches!(choose(&gguf, "Q4_K"), Err(SelectError::NoVariant { candidates, .. })
            if candidates == ["m-Q4_K_M", "m-Q8_0", "m-UD-Q4_K_XL"]));
        assert!(matches!(choose(&gguf[1..2], "Q8_0"), Err(SelectError::MissingShards { missing, .. })
            if missing == ["m-Q8_0-00002-of-00002.gguf"]));
        let other = ["t/a.fp16.safetensors", "t/b.fp16.safetensors"];
        assert!(matches!(choose(&other, "fp16"), Err(SelectError::Ambiguous { .. })));
        assert_eq!(choose(&other[..1], "fp16"), Ok(WeightFiles::Files(vec![other[0].into()])));
    }
}
