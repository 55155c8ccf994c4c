//! The user's token. It is read anew for each request, so that a login counts at once, and it is never shown.

use std::{fmt, fs::File, io::Read as _};

use reqwest::header::HeaderValue;
use weightsd_core::hub_env::{self, TokenSource};

/// Longest token file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// A token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// The token as it is now; `None` when there is none.
    pub(super) fn read(source: &TokenSource) -> Option<Self> {
        match source {
            TokenSource::Value(value) => hub_env::clean(value).map(Self),
            TokenSource::File(path) => {
                // A FIFO in its place could make the daemon wait for ever.
                let file = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|_| File::open(path))?;
                let mut text = String::new();
                file.ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
                hub_env::clean(&text).map(Self)
            }
            TokenSource::None => None,
        }
    }

    /// A token that somebody else brings.
    pub(super) fn given(text: &str) -> Option<Self> {
        hub_env::clean(text).map(Self)
    }

    /// For hf-hub, which sends it in its own way.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// The `Authorization` header, marked so that nothing prints it.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Where the daemon looks for a token, for those who wonder why theirs does not count.
pub(super) fn looked(source: &TokenSource) -> String {
    match source {
        TokenSource::Value(_) => "HF_TOKEN of the daemon's environment is empty or no token".to_owned(),
        TokenSource::File(path) => {
            format!("the daemon was started without HF_TOKEN, and `{}` holds none", path.display())
        }
        TokenSource::None => "the daemon was started without HF_TOKEN or a home, or is told to use none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_counts_at_once_and_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let source = TokenSource::File(path.clone());
        assert_eq!(Token::read(&source), None);
        std::fs::write(&path, "hf_secret\n").unwrap();
        let token = Token::read(&source).unwrap();
        assert_eq!(token.expose(), "hf_secret");
        let shown = format!("{token:?} {:?}", token.header());
        assert!(!shown.contains("secret"), "{shown}");
        std::fs::write(&path, "").unwrap();
        assert_eq!(Token::read(&source), None);
        assert_eq!(Token::read(&TokenSource::File(folder.path().to_owned())), None);
    }
}
