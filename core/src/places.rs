//! Where things are: the Hugging Face cache, the socket, the configuration file. Pure functions of an environment.
//!
//! Everywhere here an empty variable counts as an unset one. Python's `huggingface_hub` takes an empty `HF_HOME` for
//! the current directory; nobody means that, and a daemon has no useful current directory.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

/// An environment: the value of a variable, or `None` when it is unset (or is not UTF-8).
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The systems that have rules of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// Linux, and every other system that is not macOS.
    Linux,
    /// macOS.
    MacOs,
}

impl Platform {
    /// The one this program was built for.
    pub const fn current() -> Platform {
        if cfg!(target_os = "macos") { Platform::MacOs } else { Platform::Linux }
    }
}

/// A socket path that the system cannot bind or connect to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("socket path {path} has {length} bytes, the system allows {limit}")]
pub struct SocketPathTooLong {
    /// The path.
    pub path: String,
    /// Its length in bytes.
    pub length: usize,
    /// The most the system allows, in bytes.
    pub limit: usize,
}

/// The Hugging Face cache that Python's `huggingface_hub` would use in this environment: `HF_HUB_CACHE`,
/// `HUGGINGFACE_HUB_CACHE`, `$HF_HOME/hub`, `$XDG_CACHE_HOME/huggingface/hub`, `~/.cache/huggingface/hub`, with `~`,
/// `$VAR` and `${VAR}` expanded as `constants.py` of version 2.4 does. `None` when that leads to an unknown home.
///
/// The result may be relative, as it may be in Python. `~name` is left as it is: looking up another user's home is not
/// pure.
pub fn hub_cache(env: Env<'_>) -> Option<PathBuf> {
    let named = set(env, "HF_HUB_CACHE").or_else(|| set(env, "HUGGINGFACE_HUB_CACHE"));
    let cache = match named {
        Some(path) => path,
        None => join(&hub_home(env)?, "hub"),
    };
    expand(&cache, env).map(PathBuf::from)
}

/// `$HF_HOME`, `$XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface`.
fn hub_home(env: Env<'_>) -> Option<String> {
    let home = match (set(env, "HF_HOME"), set(env, "XDG_CACHE_HOME")) {
        (Some(home), _) => home,
        (None, Some(cache)) => join(&cache, "huggingface"),
        (None, None) => join(&expand_user("~", env)?, ".cache/huggingface"),
    };
    // Python expands here and then, as part of the default of HF_HUB_CACHE, once more.
    expand(&home, env)
}

/// The file that holds the hub's token: `HF_TOKEN_PATH`, or `token` beside the Hugging Face cache's default place.
pub fn hub_token_file(env: Env<'_>) -> Option<PathBuf> {
    let path = match set(env, "HF_TOKEN_PATH") {
        Some(path) => path,
        None => join(&hub_home(env)?, "token"),
    };
    expand(&path, env).map(PathBuf::from)
}

/// The folder for what the daemon can make again: `weightsd` in `$XDG_CACHE_HOME` or `~/.cache` (Linux), or in
/// `~/Library/Caches` (macOS). `None` when there is no home.
pub fn own_cache(env: Env<'_>, platform: Platform) -> Option<PathBuf> {
    let home = || set(env, "HOME").map(PathBuf::from);
    let base = match platform {
        Platform::Linux => set(env, "XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(home()?.join(".cache"))),
        Platform::MacOs => home().map(|home| home.join("Library/Caches")),
    };
    Some(base?.join("weightsd"))
}

/// Whether the environment says where the Hugging Face cache is. A client that lives in such an environment sends its
/// own cache, because the daemon does not see that environment.
pub fn hub_cache_is_named(env: Env<'_>) -> bool {
    ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"].iter().any(|name| set(env, name).is_some())
}

/// The daemon's socket: `$WEIGHTSD_SOCKET` as it stands; otherwise `weightsd/weightsd.sock` in `$XDG_RUNTIME_DIR`
/// (Linux) or in `~/Library/Application Support` (macOS); otherwise `/tmp/weightsd-<uid>/weightsd.sock`.
pub fn socket(env: Env<'_>, uid: u32, platform: Platform) -> PathBuf {
    if let Some(path) = set(env, "WEIGHTSD_SOCKET") {
        return PathBuf::from(path);
    }
    let base = match platform {
        // The XDG specification has relative paths ignored.
        Platform::Linux => set(env, "XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()),
        Platform::MacOs => application_support(env),
    };
    let folder = match base {
        Some(base) => base.join("weightsd"),
        None => PathBuf::from(format!("/tmp/weightsd-{uid}")),
    };
    folder.join("weightsd.sock")
}

/// The longest socket path in bytes: what `sockaddr_un` holds, less the terminating zero.
pub const fn socket_path_limit(platform: Platform) -> usize {
    match platform {
        Platform::Linux => 107,
        Platform::MacOs => 103,
    }
}

/// How long a connection that is refused is tried again before it means that nobody listens. On macOS a listener refuses
/// while its queue is full, as if it were gone. On Linux it refuses only for the moment between `bind` and `listen`.
pub const fn refusal_patience(platform: Platform) -> Duration {
    match platform {
        Platform::Linux => Duration::from_millis(20),
        Platform::MacOs => Duration::from_millis(400),
    }
}

/// The pause between two tries of a connection that is refused.
pub const REFUSAL_PAUSE: Duration = Duration::from_millis(2);

/// Refuses a socket path that is longer than [`socket_path_limit`].
pub fn check_socket_path(path: &Path, platform: Platform) -> Result<(), SocketPathTooLong> {
    let (length, limit) = (path.as_os_str().len(), socket_path_limit(platform));
    if length <= limit {
        return Ok(());
    }
    Err(SocketPathTooLong { path: path.display().to_string(), length, limit })
}

/// The configuration file: `$WEIGHTSD_CONFIG` as it stands; otherwise `weightsd/config.toml` in `$XDG_CONFIG_HOME` or
/// `~/.config` (Linux), or in `~/Library/Application Support` (macOS). `None` when there is no home.
pub fn config_file(env: Env<'_>, platform: Platform) -> Option<PathBuf> {
    if let Some(path) = set(env, "WEIGHTSD_CONFIG") {
        return Some(PathBuf::from(path));
    }
    let base = match platform {
        Platform::Linux => set(env, "XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(PathBuf::from(set(env, "HOME")?).join(".config"))),
        Platform::MacOs => application_support(env),
    };
    Some(base?.join("weightsd").join("config.toml"))
}

fn application_support(env: Env<'_>) -> Option<PathBuf> {
    Some(PathBuf::from(set(env, "HOME")?).join("Library/Application Support"))
}

fn set(env: Env<'_>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

fn expand(path: &str, env: Env<'_>) -> Option<String> {
    Some(expand_vars(&expand_user(path, env)?, env))
}

/// `os.path.join` of two parts; the second is relative.
fn join(base: &str, rest: &str) -> String {
    let slash = if base.is_empty() || base.ends_with('/') { "" } else { "/" };
    format!("{base}{slash}{rest}")
}

/// `os.path.expanduser`, for the user's own home.
fn expand_user(path: &str, env: Env<'_>) -> Option<String> {
    let Some(rest) = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return Some(path.to_owned());
    };
    let home = set(env, "HOME")?;
    let expanded = format!("{}{rest}", home.trim_end_matches('/'));
    Some(if expanded.is_empty() { "/".to_owned() } else { expanded })
}

/// `os.path.expandvars`: `$name` and `${anything but a brace}`; unknown variables stay; values are not looked at again.
fn expand_vars(path: &str, env: Env<'_>) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(dollar) = rest.find('$') {
        let (before, from) = rest.split_at(dollar);
        out.push_str(before);
        let (name, length) = variable(&from[1..]);
        let (reference, after) = from.split_at(1 + length);
        match name.and_then(env) {
            Some(value) => out.push_str(&value),
            None => out.push_str(reference),
        }
        rest = after;
    }
    out + rest
}

/// The variable named at the start of `text`, and how many bytes of it the reference takes.
fn variable(text: &str) -> (Option<&str>, usize) {
    if let Some(inner) = text.strip_prefix('{') {
        return match inner.find('}') {
            Some(end) => (Some(&inner[..end]), end + 2),
            None => (None, 0),
        };
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if end == 0 { (None, 0) } else { (Some(&text[..end]), end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables = &'static [(&'static str, &'static str)];

    fn env(variables: Variables) -> impl Fn(&str) -> Option<String> {
        move |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn the_hub_cache_is_where_python_has_it() {
        let table: &[(Variables, Option<&str>)] = &[
            (&[("HOME", "/home/u")], Some("/home/u/.cache/huggingface/hub")),
            (&[("HOME", "/home/u/")], Some("/home/u/.cache/huggingface/hub")),
            (&[("HOME", "/")], Some("/.cache/huggingface/hub")),
            (&[], None),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], Some("/x/huggingface/hub")),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "~/x/")], Some("/h/x/huggingface/hub")),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/hf")], Some("/hf/hub")),
            (&[("HF_HOME", "/hf/")], Some("/hf/hub")),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")], Some("/old")),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")], Some("/new")),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "")], Some("/old")),
            (&[("HOME", "/h"), ("HF_HUB_CACHE", "~")], Some("/h")),
            (&[("HOME", "/"), ("HF_HUB_CACHE", "~")], Some("/")),
            (&[("HF_HUB_CACHE", "~/x")], None),
            (&[("HOME", "/h"), ("HF_HUB_CACHE", "~other/x")], Some("~other/x")),
            (&[("HOME", "/h"), ("HF_HUB_CACHE", "/a/~/x")], Some("/a/~/x")),
            (&[("D", "/d"), ("HF_HUB_CACHE", "$D/x")], Some("/d/x")),
            (&[("D", "/d"), ("HF_HUB_CACHE", "${D}x")], Some("/dx")),
            (&[("D", "/d"), ("HF_HUB_CACHE", "$Dx/$/${D")], Some("$Dx/$/${D")),
            (&[("HF_HUB_CACHE", "/a/$NONE/${NONE}/b")], Some("/a/$NONE/${NONE}/b")),
            (&[("D", ""), ("HF_HUB_CACHE", "/a$D/b")], Some("/a/b")),
            // A value is not expanded again within one pass, but HF_HOME goes through two.
            (&[("A", "$B"), ("B", "b"), ("HF_HUB_CACHE", "/$A")], Some("/$B")),
            (&[("A", "$B"), ("B", "b"), ("HF_HOME", "/$A")], Some("/b/hub")),
            (&[("HF_HOME", "relative")], Some("relative/hub")),
            (&[("É", "x"), ("HF_HUB_CACHE", "/$É/${É}")], Some("/$É/x")),
        ];
        for (variables, expected) in table {
            assert_eq!(hub_cache(&env(variables)).as_deref(), expected.map(Path::new), "{variables:?}");
        }
    }

    #[test]
    fn a_cache_is_named_by_any_non_empty_variable() {
        let table: &[(Variables, bool)] = &[
            (&[("HOME", "/h")], false),
            (&[("HF_HOME", "")], false),
            (&[("HF_HOME", "/x")], true),
            (&[("XDG_CACHE_HOME", "/x")], true),
            (&[("HF_HUB_CACHE", "/x")], true),
            (&[("HUGGINGFACE_HUB_CACHE", "/x")], true),
        ];
        for (variables, expected) in table {
            assert_eq!(hub_cache_is_named(&env(variables)), *expected, "{variables:?}");
        }
    }

    #[test]
    fn the_socket_has_one_place() {
        use Platform::{Linux, MacOs};
        let mac = "/Users/u/Library/Application Support/weightsd/weightsd.sock";
        let table: &[(Variables, Platform, &str)] = &[
            (&[("XDG_RUNTIME_DIR", "/run/user/7")], Linux, "/run/user/7/weightsd/weightsd.sock"),
            (&[("XDG_RUNTIME_DIR", "run")], Linux, "/tmp/weightsd-7/weightsd.sock"),
            (&[("HOME", "/h")], Linux, "/tmp/weightsd-7/weightsd.sock"),
            (&[("WEIGHTSD_SOCKET", "/s"), ("XDG_RUNTIME_DIR", "/run")], Linux, "/s"),
            (&[("WEIGHTSD_SOCKET", ""), ("XDG_RUNTIME_DIR", "/run")], Linux, "/run/weightsd/weightsd.sock"),
            (&[("HOME", "/Users/u"), ("XDG_RUNTIME_DIR", "/run")], MacOs, mac),
            (&[("WEIGHTSD_SOCKET", "/s"), ("HOME", "/Users/u")], MacOs, "/s"),
            (&[], MacOs, "/tmp/weightsd-7/weightsd.sock"),
        ];
        for (variables, platform, expected) in table {
            assert_eq!(socket(&env(variables), 7, *platform), Path::new(expected), "{variables:?}");
        }
    }

    #[test]
    fn long_socket_paths_are_refused() {
        for platform in [Platform::Linux, Platform::MacOs] {
            let limit = socket_path_limit(platform);
            assert_eq!(check_socket_path(Path::new(&"x".repeat(limit)), platform), Ok(()));
            let error = check_socket_path(Path::new(&"x".repeat(limit + 1)), platform).unwrap_err();
            assert_eq!((error.length, error.limit), (limit + 1, limit));
        }
    }

    #[test]
    fn the_configuration_has_one_place() {
        use Platform::{Linux, MacOs};
        let table: &[(Variables, Platform, Option<&str>)] = &[
            (&[("HOME", "/h")], Linux, Some("/h/.config/weightsd/config.toml")),
            (&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")], Linux, Some("/c/weightsd/config.toml")),
            (&[("HOME", "/h"), ("XDG_CONFIG_HOME", "c")], Linux, Some("/h/.config/weightsd/config.toml")),
            (&[("HOME", "/h"), ("WEIGHTSD_CONFIG", "/w.toml")], Linux, Some("/w.toml")),
            (&[], Linux, None),
            (&[("HOME", "/h")], MacOs, Some("/h/Library/Application Support/weightsd/config.toml")),
            (&[], MacOs, None),
        ];
        for (variables, platform, expected) in table {
            assert_eq!(config_file(&env(variables), *platform).as_deref(), expected.map(Path::new), "{variables:?}");
        }
    }
}
