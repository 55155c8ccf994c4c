//! Names of weight files, and of the indexes that list them.

/// Ending of a safetensors file.
pub const SUFFIX: &str = ".safetensors";
/// Ending of a GGUF file.
pub const GGUF_SUFFIX: &str = ".gguf";
/// Ending of an index file.
pub const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// Most digits of a shard's number.
const DIGITS_MAX: usize = 6;

/// What a weight file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// A safetensors file, or a file of another name that is taken for one.
    Safetensors,
    /// A GGUF file.
    Gguf,
}

impl Format {
    /// The format of the file at `path`.
    #[must_use]
    pub fn of(path: &str) -> Self {
        if path.ends_with(GGUF_SUFFIX) { Self::Gguf } else { Self::Safetensors }
    }

    /// The end of its name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Safetensors => SUFFIX,
            Self::Gguf => GGUF_SUFFIX,
        }
    }
}

/// A shard's name taken apart: `model-00001-of-00003.safetensors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardName<'a> {
    /// The set that it belongs to, `model`.
    pub set: &'a str,
    /// Its number as it is written.
    pub digits: &'a str,
    /// Its number, from 1.
    pub number: u32,
    /// How many shards the set has.
    pub total: u32,
}

impl<'a> ShardName<'a> {
    /// Takes a file's name apart; `None` when it is not the name of a shard.
    #[must_use]
    pub fn parse(file: &'a str) -> Option<Self> {
        let (before, total) = stem(file)?.rsplit_once("-of-")?;
        let (set, digits) = before.rsplit_once('-')?;
        let is_number =
            |text: &str| !text.is_empty() && text.len() <= DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(digits) || !is_number(total) {
            return None;
        }
        Some(Self { set, digits, number: digits.parse().ok()?, total: total.parse().ok()? })
    }
}

/// The path of a weight file without its ending; `None` for other files.
#[must_use]
pub fn stem(path: &str) -> Option<&str> {
    path.strip_suffix(SUFFIX).or_else(|| path.strip_suffix(GGUF_SUFFIX))
}

/// The set that a weight file belongs to, by its name.
#[must_use]
pub fn set_of(file: &str) -> Option<&str> {
    ShardName::parse(file).map(|shard| shard.set).or_else(|| stem(file))
}

/// The set that an index lists, by its name. A variant is written before `.safetensors` or, as diffusers does, before
/// `.json`: `model.fp16.safetensors.index.json` and `model.safetensors.index.fp16.json` mean one set.
#[must_use]
pub fn index_set(file: &str) -> Option<String> {
    if let Some(set) = file.strip_suffix(INDEX_SUFFIX) {
        return Some(set.to_owned());
    }
    let (stem, variant) = file.strip_suffix(".json")?.split_once(".safetensors.index.")?;
    (!variant.is_empty()).then(|| format!("{stem}.{variant}"))
}

/// Whether a file of that path belongs to weights: a safetensors or GGUF file, or an index in either spelling.
#[must_use]
pub fn is_weights(path: &str) -> bool {
    stem(path).is_some() || index_set(split(path).1).is_some()
}

/// A path as the folder, empty for the root, and the name in it.
#[must_use]
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The path of `name` in `folder`, which is empty for the root.
#[must_use]
pub fn in_folder(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_told_by_their_numbers() {
        let set = |file| ShardName::parse(file).map(|shard| (shard.set, shard.number, shard.total));
        assert_eq!(set("a-b-00002-of-00003.safetensors"), Some(("a-b", 2, 3)));
        for other in
            ["a.safetensors", "a-1-of-x.safetensors", "a-1-of-2.bin", "1-of-2.safetensors", "a--of-2.safetensors"]
        {
            assert_eq!(set(other), None, "{other}");
        }
        assert_eq!(set("a-0000001-of-0000002.safetensors"), None, "seven digits");
        assert_eq!((set_of("a-1-of-2.safetensors"), set_of("a.fp16.safetensors")), (Some("a"), Some("a.fp16")));
        assert_eq!((set("b-Q8_0-00001-of-00002.gguf"), set_of("b.gguf")), (Some(("b-Q8_0", 1, 2)), Some("b")));
        assert_eq!((Format::of("b.gguf"), Format::of("b.bin")), (Format::Gguf, Format::Safetensors));
    }

    #[test]
    fn an_index_is_known_in_either_spelling() {
        for index in ["t/m.safetensors.index.fp16.json", "m.fp16.safetensors.index.json"] {
            assert_eq!(index_set(split(index).1).as_deref(), Some("m.fp16"));
            assert!(is_weights(index));
        }
        assert!(!is_weights("config.json") && !is_weights("m.safetensors.index..txt"));
        assert_eq!((in_folder("", "x"), in_folder("a", "x")), ("x".to_owned(), "a/x".to_owned()));
        assert_eq!((split("a/b/x"), split("x")), (("a/b", "x"), ("", "x")));
    }
}
