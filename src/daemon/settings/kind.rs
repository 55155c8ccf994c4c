//! Kinds of values that settings have: how each is written, read, and shown. One way of reading serves the command line
//! and the configuration file.

use std::{fmt, num::NonZeroUsize, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::builder::ValueRange;
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use weightsd_core::spec::ModelSpec;

use crate::{daemon::MetricsPlace, guests::Right, mirror::MirrorPlace, resolve::Rule, sources::hub};

/// Longest duration. Sums of durations must not overflow, and a century is for ever.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A kind of value.
pub(super) trait Kind: Sized {
    /// What stands for a value in help texts.
    const PLACEHOLDER: &'static str;
    /// How many words the value takes on the command line.
    const WORDS: std::ops::RangeInclusive<usize> = 1..=1;

    /// Reads what somebody wrote.
    ///
    /// # Errors
    /// When it is not of this kind, with what was expected.
    fn parse(text: &str) -> Result<Self, String>;

    /// As [`Self::parse`], from a configuration file, which is read in another directory than it was written for.
    ///
    /// # Errors
    /// When it is not of this kind, or means something else in each directory.
    fn parse_in_file(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }

    /// As it may be written. Shows no secrets.
    fn show(&self) -> String;
}

/// The number of words for clap.
pub(super) fn words<T: Kind>() -> ValueRange {
    T::WORDS.into()
}

impl Kind for Duration {
    const PLACEHOLDER: &'static str = "TIME";

    fn parse(text: &str) -> Result<Self, String> {
        let duration = humantime::parse_duration(text).map_err(|error| format!("{error}; write it like `1h 30min`"))?;
        match duration <= DURATION_MAX {
            true => Ok(duration),
            false => Err(format!("longer than {}", humantime::format_duration(DURATION_MAX))),
        }
    }

    fn show(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

impl Kind for ByteSize {
    const PLACEHOLDER: &'static str = "SIZE";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{error}; write it like `20GB`"))
    }

    fn show(&self) -> String {
        humansize::format_size(self.as_u64(), humansize::DECIMAL.space_after_value(false))
    }
}

impl Kind for PathBuf {
    const PLACEHOLDER: &'static str = "PATH";

    fn parse(text: &str) -> Result<Self, String> {
        std::path::absolute(text).map_err(|error| error.to_string())
    }

    fn parse_in_file(text: &str) -> Result<Self, String> {
        match PathBuf::from(text) {
            path if path.is_absolute() => Ok(path),
            _ => {
                Err(format!("`{text}` is a relative path, and the daemon has no directory of yours: write it in full"))
            }
        }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Kind for usize {
    const PLACEHOLDER: &'static str = "N";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| format!("`{text}`: {error}"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Kind for NonZeroUsize {
    const PLACEHOLDER: &'static str = "N";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| format!("`{text}`: {error}"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Kind for bool {
    const PLACEHOLDER: &'static str = "BOOL";
    /// `--offline` alone means yes.
    const WORDS: std::ops::RangeInclusive<usize> = 0..=1;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("`{text}` is neither `true` nor `false`"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// The number of a user or group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemId(pub u32);

impl Kind for SystemId {
    const PLACEHOLDER: &'static str = "N";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("`{text}` is no number of a user or group (`id` shows them)"))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl Kind for Right {
    const PLACEHOLDER: &'static str = "CALL";

    fn parse(text: &str) -> Result<Self, String> {
        let right = Self::ALL.into_iter().find(|right| right.name() == text);
        right.ok_or_else(|| format!("`{text}` is none of `pull`, `verify` and `evict`"))
    }

    fn show(&self) -> String {
        self.name().to_owned()
    }
}

/// The address of a hub, without a final `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(pub String);

impl Kind for Endpoint {
    const PLACEHOLDER: &'static str = "URL";

    fn parse(text: &str) -> Result<Self, String> {
        hub::check_endpoint(text)?;
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Kind for MetricsPlace {
    const PLACEHOLDER: &'static str = "ADDRESS";

    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') { Ok(Self::Socket(PathBuf::from(text))) } else { Self::of_port(text) }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Kind for MirrorPlace {
    const PLACEHOLDER: &'static str = "ADDRESS";

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Kind for Rule {
    const PLACEHOLDER: &'static str = "MODEL";

    fn parse(text: &str) -> Result<Self, String> {
        match Self::of_repositories(text)? {
            Some(repositories) => Ok(repositories),
            None => PathBuf::parse(text).map(Self::Folder),
        }
    }

    fn parse_in_file(text: &str) -> Result<Self, String> {
        match Self::of_repositories(text)? {
            Some(repositories) => Ok(repositories),
            None => PathBuf::parse_in_file(text).map(Self::Folder),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Folder(folder) => folder.show(),
            Self::Repositories(glob) => glob.glob().to_owned(),
        }
    }
}

/// A component that the daemon loads by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preload {
    /// The model. A path is absolute or begins with `~`.
    pub spec: String,
    /// The component.
    pub component: String,
}

impl Preload {
    /// `path` says what becomes of a relative path.
    fn read(text: &str, path: impl FnOnce(&str) -> Result<PathBuf, String>) -> Result<Self, String> {
        const EXPECTED: &str = "expected a model and a component, such as `org/repo#transformer`";
        let parts = text.rsplit_once('#').filter(|(spec, component)| !spec.is_empty() && !component.is_empty());
        let (spec, component) = parts.ok_or_else(|| format!("`{text}`: {EXPECTED}"))?;
        let spec = match ModelSpec::parse(spec).map_err(|error| error.to_string())? {
            ModelSpec::Path(written) if !written.starts_with('~') => path(&written)?.show(),
            ModelSpec::Path(_) | ModelSpec::Id(_) | ModelSpec::Address { .. } => spec.to_owned(),
        };
        Ok(Self { spec, component: component.to_owned() })
    }
}

impl Kind for Preload {
    const PLACEHOLDER: &'static str = "MODEL#COMPONENT";

    fn parse(text: &str) -> Result<Self, String> {
        Self::read(text, PathBuf::parse)
    }

    fn parse_in_file(text: &str) -> Result<Self, String> {
        Self::read(text, PathBuf::parse_in_file)
    }

    fn show(&self) -> String {
        format!("{}#{}", self.spec, self.component)
    }
}

/// Reads a list of a configuration file; one value needs no brackets.
pub(super) fn list_from_file<'de, D: Deserializer<'de>, T: Kind>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Texts;

    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of texts or numbers")
        }

        fn visit_str<E: de::Error>(self, value: &str) -> Result<Vec<String>, E> {
            Ok(vec![value.to_owned()])
        }

        fn visit_i64<E: de::Error>(self, value: i64) -> Result<Vec<String>, E> {
            Ok(vec![value.to_string()])
        }

        fn visit_u64<E: de::Error>(self, value: u64) -> Result<Vec<String>, E> {
            Ok(vec![value.to_string()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<Vec<String>, A::Error> {
            let texts: Vec<Text> = Vec::deserialize(de::value::SeqAccessDeserializer::new(values))?;
            Ok(texts.into_iter().map(|Text(text)| text).collect())
        }
    }

    let texts = deserializer.deserialize_any(Texts)?;
    texts.iter().map(|text| T::parse_in_file(text)).collect::<Result<_, _>>().map_err(de::Error::custom)
}

/// A text of a configuration file, where numbers and truth values need no quotes.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number or a truth value")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Text, E> {
                Ok(Text(value.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// Reads a value of a configuration file.
pub(super) fn from_file<'de, D: Deserializer<'de>, T: Kind>(deserializer: D) -> Result<Option<T>, D::Error> {
    let Text(text) = Text::deserialize(deserializer)?;
    T::parse_in_file(&text).map(Some).map_err(de::Error::custom)
}
