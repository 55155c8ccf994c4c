//! The table of settings, from which the configuration file, the flags of `serve`, their help and `docs/SETTINGS.md` are
//! made.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use serde::Deserialize;

use super::kind::{self, Endpoint, Kind};
use crate::sources::Sections;

/// A setting, as help and reference show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// In the configuration file; on the command line with `-` for `_`.
    pub name: &'static str,
    /// What stands for its value.
    pub placeholder: &'static str,
    /// Its default, or where the default comes from.
    pub default: String,
    /// What it does.
    pub help: &'static str,
}

/// Each line is one setting: what it does, its name, its kind, and its default. `Fixed` is a value, `Found` says where the
/// value is found when nobody sets it.
macro_rules! settings {
    ($( #[doc = $help:literal] $name:ident : $kind:ty = $how:ident($default:expr); )*) => {
        /// What the configuration file or the command line of `serve` says. `None` where it says nothing.
        #[derive(Debug, Clone, Default, PartialEq, Deserialize, clap::Args)]
        #[serde(deny_unknown_fields, default)]
        pub struct Settings {
            /// Path of the socket. On the command line `--socket` serves all commands.
            #[arg(skip)]
            #[serde(deserialize_with = "kind::from_file")]
            pub socket: Option<PathBuf>,
            /// What only one source needs: sections `[source.NAME]` of the configuration file, which that source reads.
            #[arg(skip)]
            pub source: Sections,
            $(
                #[doc = $help]
                #[arg(
                    long,
                    value_name = <$kind as Kind>::PLACEHOLDER,
                    value_parser = <$kind as Kind>::parse,
                    num_args = kind::words::<$kind>(),
                    default_missing_value = "true",
                    help = format!("{} [default: {}]", $help.trim(), shown!($how $kind, $default)),
                )]
                #[serde(deserialize_with = "kind::from_file")]
                pub $name: Option<$kind>,
            )*
        }

        impl Settings {
            /// All settings, in the order of the table.
            #[must_use]
            pub fn table() -> Vec<Row> {
                vec![
                    Row {
                        name: "socket",
                        placeholder: PathBuf::PLACEHOLDER,
                        default: "the usual place of this user".to_owned(),
                        help: "Path of the socket",
                    },
                    $( Row {
                        name: stringify!($name),
                        placeholder: <$kind as Kind>::PLACEHOLDER,
                        default: shown!($how $kind, $default),
                        help: $help.trim_ascii(),
                    }, )*
                ]
            }

            /// The values of `self` where it has some, of `other` where not.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                let source = if self.source.is_empty() { other.source } else { self.source };
                Self { socket: self.socket.or(other.socket), source, $( $name: self.$name.or(other.$name), )* }
            }

            /// Every setting with its value; without one where nothing was found.
            #[must_use]
            pub fn shown(&self) -> Vec<(&'static str, String)> {
                let none = String::new;
                vec![
                    ("socket", self.socket.as_ref().map_or_else(none, Kind::show)),
                    $( (stringify!($name), self.$name.as_ref().map_or_else(none, Kind::show)), )*
                ]
            }

            $( value!($how $name: $kind = $default); )*
        }
    };
}

macro_rules! shown {
    (Fixed $kind:ty, $default:expr) => {
        <$kind as Kind>::show(&$default)
    };
    (Found $kind:ty, $default:expr) => {
        $default.to_owned()
    };
}

/// The value that counts, of a setting with a default of its own.
macro_rules! value {
    (Fixed $name:ident : $kind:ty = $default:expr) => {
        pub(in crate::daemon) fn $name(&mut self) -> $kind {
            *self.$name.get_or_insert($default)
        }
    };
    (Found $name:ident : $kind:ty = $default:expr) => {};
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn some(count: usize) -> NonZeroUsize {
    match NonZeroUsize::new(count) {
        Some(count) => count,
        None => panic!("a constant of this table is 0"),
    }
}

settings! {
    /// The Hugging Face cache
    hub_cache: PathBuf = Found("as huggingface_hub finds it");
    /// The folder for what weightsd itself keeps
    own_cache: PathBuf = Found("weightsd in the user's caches");
    /// The folder for what has to be computed; a tmpfs keeps it in memory
    image_folder: PathBuf = Found("images in own_cache");
    /// What derived images may take together; the least recently used go
    image_budget: ByteSize = Fixed(ByteSize::gb(100));
    /// How long components stay warm when the client does not say
    keep_alive: Duration = Fixed(seconds(10 * 60));
    /// The longest keep-alive that a client is granted
    keep_alive_max: Duration = Fixed(seconds(24 * 3600));
    /// Most components that are kept while nobody holds them; the least recently used go
    idle_components: NonZeroUsize = Fixed(some(4096));
    /// What the tables of components that nobody holds may take of the daemon's memory
    idle_memory: ByteSize = Fixed(ByteSize::mb(256));
    /// How long one load may take, downloads and computing not counted
    load_deadline: Duration = Fixed(seconds(120));
    /// How long a shutdown may take
    grace: Duration = Fixed(seconds(5));
    /// Most connections at once
    connections: NonZeroUsize = Fixed(some(1024));
    /// Never ask the hub
    offline: bool = Found("as HF_HUB_OFFLINE says");
    /// Address of the hub
    hub_endpoint: Endpoint = Found("HF_ENDPOINT, or https://huggingface.co");
    /// File that holds the hub's token
    hub_token_file: PathBuf = Found("as huggingface_hub finds it");
    /// How long what a branch means is believed without asking the hub again
    hub_freshness: Duration = Fixed(seconds(5 * 60));
    /// How long a connection to the hub, and the beginning of an answer, may take
    hub_deadline: Duration = Fixed(seconds(10));
    /// How long a download may pause before another connection is tried
    hub_stall: Duration = Fixed(seconds(30));
    /// How often the hub is asked again after a failure that may pass
    hub_tries: usize = Fixed(4);
    /// Files that are downloaded at once
    downloads: NonZeroUsize = Fixed(some(4));
    /// What downloads and derived images leave free on the disk
    free_space: ByteSize = Fixed(ByteSize::gb(1));
    /// Hash files that were here before, once, after they are lent
    verify: bool = Fixed(true);
}
