//! The variables of this process; every part of weightsd reads them here.

use std::env;

/// The value of a variable; `None` when it is unset or not UTF-8. A process without `HOME`, such as one that an init
/// system starts, has the home that the system's user database names.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    match name {
        "HOME" => dirs::home_dir()?.into_os_string().into_string().ok(),
        _ => env::var(name).ok(),
    }
}

/// Like [`variable`], with a mark (U+FFFD) in the place of what is not UTF-8: for values that must not be taken for unset.
#[must_use]
pub fn variable_lossy(name: &str) -> Option<String> {
    variable(name).or_else(|| Some(env::var_os(name)?.to_string_lossy().into_owned()))
}

/// The first of `names` whose value is not UTF-8. [`variable`] treats it as unset.
#[must_use]
pub fn not_utf8<'a>(names: &[&'a str]) -> Option<&'a str> {
    names.iter().copied().find(|name| env::var_os(name).is_some_and(|value| value.to_str().is_none()))
}
