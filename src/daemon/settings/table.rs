//! The table of settings, from which the configuration file, the flags of `serve`, their help and `docs/SETTINGS.md` are
//! made.

use std::{fmt, num::NonZeroUsize, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use serde::Deserialize;

use super::kind::{self, Endpoint, Kind, Preload, SystemId};
use crate::{daemon::MetricsPlace, guests::Right, mirror::MirrorPlace, resolve::Rule, sources::Sections};

/// A setting, as help and reference show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// In the configuration file; on the command line with `-` for `_`.
    pub name: &'static str,
    /// What stands for its value.
    pub placeholder: String,
    /// Its default, or where the default comes from.
    pub default: String,
    /// What it does.
    pub help: &'static str,
}

impl Settings {
    /// The settings that may change while the daemon runs.
    pub const LIVE: [&str; 8] =
        ["image_budget", "vram_budget", "keep_alive", "keep_alive_max", "free_space", "verify", "allow", "preload"];
}

/// The value of a setting, as it may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Nobody said anything, and nothing was found.
    Nothing,
    /// One value.
    One(String),
    /// A list, which is not empty.
    Many(Vec<String>),
}

impl Shown {
    fn one(value: Option<&impl Kind>) -> Self {
        value.map_or(Self::Nothing, |value| Self::One(value.show()))
    }

    fn many(values: &[impl Kind]) -> Self {
        if values.is_empty() { Self::Nothing } else { Self::Many(values.iter().map(Kind::show).collect()) }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::One(value) => f.write_str(value),
            Self::Many(values) => f.write_str(&values.join(", ")),
        }
    }
}

/// Each line is one setting: what it does, its name, its kind, and its default. `Fixed` is a value, `Found` says where the
/// value is found when nobody sets it. Those of `lists` have any number of values of their kind, and say what none means.
macro_rules! settings {
    ($( #[doc = $help:literal] $name:ident : $kind:ty = $how:ident($default:expr); )*
     lists { $( #[doc = $list_help:literal] $list:ident : $item:ty = $none:literal; )* }) => {
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
            $(
                #[doc = $list_help]
                #[arg(
                    long,
                    value_name = <$item as Kind>::PLACEHOLDER,
                    value_parser = <$item as Kind>::parse,
                    help = format!("{} (may be repeated) [default: {}]", $list_help.trim(), $none),
                )]
                #[serde(deserialize_with = "kind::list_from_file")]
                pub $list: Vec<$item>,
            )*
        }

        impl Settings {
            /// All settings, in the order of the table.
            #[must_use]
            pub fn table() -> Vec<Row> {
                vec![
                    Row {
                        name: "socket",
                        placeholder: PathBuf::PLACEHOLDER.to_owned(),
                        default: "the usual place of this user".to_owned(),
                        help: "Path of the socket",
                    },
                    $( Row {
                        name: stringify!($name),
                        placeholder: <$kind as Kind>::PLACEHOLDER.to_owned(),
                        default: shown!($how $kind, $default),
                        help: $help.trim_ascii(),
                    }, )*
                    $( Row {
                        name: stringify!($list),
                        placeholder: format!("[{}, ..]", <$item as Kind>::PLACEHOLDER),
                        default: $none.to_owned(),
                        help: $list_help.trim_ascii(),
                    }, )*
                ]
            }

            /// The values of `self` where it has some, of `other` where not.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                let source = if self.source.is_empty() { other.source } else { self.source };
                Self {
                    socket: self.socket.or(other.socket),
                    source,
                    $( $name: self.$name.or(other.$name), )*
                    $( $list: if self.$list.is_empty() { other.$list } else { self.$list }, )*
                }
            }

            /// Every setting with its value, in the order of the table.
            #[must_use]
            pub fn shown(&self) -> Vec<(&'static str, Shown)> {
                vec![
                    ("socket", Shown::one(self.socket.as_ref())),
                    $( (stringify!($name), Shown::one(self.$name.as_ref())), )*
                    $( (stringify!($list), Shown::many(&self.$list)), )*
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
    /// What components may take together in the memory of one card; the least recently used go
    vram_budget: ByteSize = Found("all that the card has");
    /// Copy tensors that begin at no multiple of their element's size into an image in layout MLX, once for all clients
    align_images: bool = Fixed(true);
    /// How long components stay warm when the client does not say
    keep_alive: Duration = Fixed(seconds(10 * 60));
    /// The longest keep-alive that a client is granted
    keep_alive_max: Duration = Fixed(seconds(24 * 3600));
    /// Load again after a restart what was loaded before, for as long as it would have stayed
    restore: bool = Fixed(true);
    /// Most components that are kept while nobody holds them; the least recently used go
    idle_components: NonZeroUsize = Fixed(some(4096));
    /// What the tables of components that nobody holds may take of the daemon's memory
    idle_memory: ByteSize = Fixed(ByteSize::mb(256));
    /// What components may take together that clients have locked in memory (`pinned`)
    pin_budget: ByteSize = Fixed(ByteSize::b(0));
    /// How long one load may take, downloads and computing not counted
    load_deadline: Duration = Fixed(seconds(120));
    /// How long a shutdown may take
    grace: Duration = Fixed(seconds(5));
    /// End when nobody is connected and nothing is loaded for this long, where launchd or systemd starts the daemon again
    idle_exit: Duration = Found("never");
    /// Most connections at once
    connections: NonZeroUsize = Fixed(some(1024));
    /// Never ask the hub, nor any other source
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
    /// Serve metrics for Prometheus at /metrics on this port of this machine, or on this socket
    metrics_listen: MetricsPlace = Found("no metrics");
    /// Serve the hub's read interface on this port of this machine, or at this address, to programs with HF_ENDPOINT
    mirror_listen: MirrorPlace = Found("no mirror");
    lists {
        /// Lend these models only: `org/repo`, `org/*`, the address of another source, or a folder and all below it
        allow: Rule = "everything";
        /// Serve these users of the machine, too, by their numbers: load, resolve, audit and status
        allow_uids: SystemId = "nobody else";
        /// Serve users whose processes run in these groups, by their numbers, in the same way
        allow_gids: SystemId = "nobody else";
        /// What other users may do beyond that: `pull`, `verify`, `evict`
        guests_may: Right = "nothing more";
        /// Repositories that the mirror gives to everybody who reaches it, without asking the hub for their rights
        mirror_allow: Rule = "none";
        /// Load these components at the start, behind the requests of clients, and hold them
        preload: Preload = "nothing";
    }
}
