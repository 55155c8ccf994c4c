//! Where the value of a setting comes from.

use std::{cell::RefCell, fmt, path::PathBuf};

use weightsd_core::{
    hub_env,
    places::{self, Env, Platform},
};

use super::Shown;

/// Where the value of a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A variable of the environment.
    Environment(String),
    /// The configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Environment(name) => write!(f, "environment: {name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A setting, its value, and where the value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// The setting.
    pub name: &'static str,
    /// Its value.
    pub value: Shown,
    /// Where the value comes from.
    pub origin: Origin,
}

/// The origin of a setting about which neither the command line nor the configuration file says anything.
pub(super) fn found(name: &str, env: Env<'_>) -> Origin {
    let platform = Platform::current();
    let decisive = match name {
        "socket" => first(env, &|env| drop(places::socket(env, 0, platform))),
        "hub_cache" => first(env, &|env| drop(places::hub_cache(env))),
        "own_cache" => first(env, &|env| drop(places::own_cache(env, platform))),
        "hub_endpoint" => first(env, &|env| drop(hub_env::endpoint(env))),
        "hub_token_file" => first(env, &|env| drop(places::hub_token_file(env))),
        // Each of its variables is read until one says yes.
        "offline" => read(env, &|env| _ = hub_env::is_offline(env)).pop(),
        _ => None,
    };
    decisive.map_or(Origin::Default, Origin::Environment)
}

/// The first variable that `find` read and that says something. The home is no setting.
fn first(env: Env<'_>, find: &dyn Fn(Env<'_>)) -> Option<String> {
    read(env, find).into_iter().find(|name| name != "HOME")
}

/// The variables that `find` read and that say something, in order.
fn read(env: Env<'_>, find: &dyn Fn(Env<'_>)) -> Vec<String> {
    let read = RefCell::new(Vec::new());
    find(&|name| {
        // The XDG specification has relative paths ignored.
        let counts = |value: &String| !value.is_empty() && (!name.starts_with("XDG_") || value.starts_with('/'));
        let value = env(name);
        if value.as_ref().is_some_and(counts) {
            read.borrow_mut().push(name.to_owned());
        }
        value
    });
    read.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_that_decides_is_named() {
        let of = |name: &str, variables: &[(&str, &str)]| {
            let env =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            found(name, &env)
        };
        let variable = |name: &str| Origin::Environment(name.to_owned());
        let home = ("HOME", "/home/a");
        assert_eq!(of("hub_cache", &[home]), Origin::Default);
        assert_eq!(of("hub_cache", &[home, ("HF_HOME", "/a"), ("XDG_CACHE_HOME", "/b")]), variable("HF_HOME"));
        assert_eq!(of("hub_cache", &[home, ("HF_HUB_CACHE", "~/x"), ("HF_HOME", "/a")]), variable("HF_HUB_CACHE"));
        assert_eq!(of("own_cache", &[home, ("XDG_CACHE_HOME", "relative")]), Origin::Default);
        assert_eq!(of("own_cache", &[home, ("XDG_CACHE_HOME", "/b")]), variable("XDG_CACHE_HOME"));
        let both = [("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")];
        assert_eq!(of("offline", &both), variable("TRANSFORMERS_OFFLINE"));
        assert_eq!(of("hub_endpoint", &[("HF_ENDPOINT", "")]), Origin::Default);
        assert_eq!(of("grace", &[("GRACE", "1s")]), Origin::Default);
    }
}
