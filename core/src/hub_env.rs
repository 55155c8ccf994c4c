//! What the environment says about the hub: where it is, whether it may be asked, and where the token is. The variables
//! and their precedence are those of Python's `huggingface_hub`; an empty variable counts as an unset one.

use std::path::PathBuf;

use crate::places::{self, Env};

/// The hub that everybody means.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The address of the hub: `HF_ENDPOINT` without a final `/`, or [`DEFAULT_ENDPOINT`].
#[must_use]
pub fn endpoint(env: Env<'_>) -> String {
    let named = env("HF_ENDPOINT").map(|endpoint| endpoint.trim().trim_end_matches('/').to_owned());
    named.filter(|endpoint| !endpoint.is_empty()).unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned())
}

/// Whether the environment forbids asking the hub: `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` is `1`, `ON`, `YES` or
/// `TRUE` in any case.
#[must_use]
pub fn is_offline(env: Env<'_>) -> bool {
    ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].iter().any(|name| env(name).is_some_and(|value| is_true(&value)))
}

/// Whether snapshots are to hold files instead of links: `HF_HUB_DISABLE_SYMLINKS`.
#[must_use]
pub fn avoids_links(env: Env<'_>) -> bool {
    env("HF_HUB_DISABLE_SYMLINKS").is_some_and(|value| is_true(&value))
}

fn is_true(value: &str) -> bool {
    matches!(value.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

/// Where a token comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// The value of a variable. Not shown by `Debug`.
    Value(String),
    /// A file that holds it; it may be absent, and it may change.
    File(PathBuf),
    /// The user wants no token to be sent.
    None,
}

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value(_) => f.write_str("Value(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::None => f.write_str("None"),
        }
    }
}

/// Where the token comes from: nowhere with `HF_HUB_DISABLE_IMPLICIT_TOKEN`; `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`; the
/// file that `HF_TOKEN_PATH` names; `token` in the Hugging Face home.
#[must_use]
pub fn token_source(env: Env<'_>) -> TokenSource {
    if env("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
        return TokenSource::None;
    }
    let value = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().filter_map(env).find_map(|value| clean(&value));
    if let Some(value) = value {
        return TokenSource::Value(value);
    }
    places::hub_token_file(env).map_or(TokenSource::None, TokenSource::File)
}

/// A token as it may be sent: without the line breaks that editors and shells add. `None` when nothing is left, or when
/// no header can carry it.
#[must_use]
pub fn clean(token: &str) -> Option<String> {
    let token: String = token.chars().filter(|character| !matches!(character, '\r' | '\n')).collect();
    let token = token.trim();
    (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn env<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn the_endpoint() {
        for (variables, expected) in [
            (vec![], DEFAULT_ENDPOINT),
            (vec![("HF_ENDPOINT", "")], DEFAULT_ENDPOINT),
            (vec![("HF_ENDPOINT", "http://h:1/p/")], "http://h:1/p"),
        ] {
            assert_eq!(endpoint(&env(&variables)), expected);
        }
    }

    #[test]
    fn offline_is_what_python_takes_for_it() {
        for (value, expected) in [("1", true), ("on", true), ("Yes", true), ("TRUE", true), ("0", false), ("", false)] {
            assert_eq!(is_offline(&env(&[("HF_HUB_OFFLINE", value)])), expected, "{value}");
            assert_eq!(is_offline(&env(&[("TRANSFORMERS_OFFLINE", value)])), expected, "{value}");
        }
    }

    #[test]
    fn the_token_has_one_source() {
        let value = |text: &str| TokenSource::Value(text.to_owned());
        let file = |path: &str| TokenSource::File(Path::new(path).to_owned());
        let home = ("HOME", "/h");
        for (variables, expected) in [
            (vec![home], file("/h/.cache/huggingface/token")),
            (vec![home, ("HF_HOME", "/x")], file("/x/token")),
            (vec![home, ("HF_TOKEN_PATH", "~/t")], file("/h/t")),
            (vec![home, ("HF_TOKEN", " hf_a\n"), ("HF_TOKEN_PATH", "/t")], value("hf_a")),
            (vec![home, ("HF_TOKEN", " "), ("HUGGING_FACE_HUB_TOKEN", "hf_b")], value("hf_b")),
            (vec![home, ("HF_TOKEN", "hf_a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], TokenSource::None),
            (vec![], TokenSource::None),
        ] {
            assert_eq!(token_source(&env(&variables)), expected, "{variables:?}");
        }
        assert!(!format!("{:?}", value("hf_secret")).contains("secret"));
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_none() {
        assert_eq!(clean(" hf_a\r\n"), Some("hf_a".to_owned()));
        for bad in ["", " \n", "hf a", "hf_\u{e9}", "a\0b"] {
            assert_eq!(clean(bad), None, "{bad:?}");
        }
    }
}
