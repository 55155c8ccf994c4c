//! How many files this process may have open. The usual soft limit (1024, on macOS 256) is soon spent on connections and
//! shards.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most that is asked for: macOS's OPEN_MAX, beyond which it refuses even where the hard limit is infinite, and enough
/// anywhere.
const MOST: u64 = 10_240;

/// What became of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raised {
    /// More files may be open than before.
    More,
    /// It was as high already as this process can have it.
    AsItWas,
}

impl Raised {
    /// Whether more files may be open than before.
    #[must_use]
    pub fn is_more(self) -> bool {
        self == Self::More
    }
}

/// Raises the soft limit as far as the hard one and macOS allow.
///
/// # Errors
/// When the system refuses.
pub fn raise() -> io::Result<Raised> {
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = wanted(&limit) else { return Ok(Raised::AsItWas) };
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit })?;
    // macOS cuts what is above kern.maxfilesperproc, without a word.
    Ok(if getrlimit(Resource::Nofile).current == limit.current { Raised::AsItWas } else { Raised::More })
}

/// The soft limit to ask for; `None` when nothing is to be gained. In an [`Rlimit`], `None` is no limit.
fn wanted(limit: &Rlimit) -> Option<u64> {
    let wanted = limit.maximum.unwrap_or(MOST).min(MOST);
    limit.current.is_some_and(|current| current < wanted).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_goes_as_far_as_both_systems_allow() {
        let wanted = |current, maximum| wanted(&Rlimit { current, maximum });
        // A terminal and an agent on macOS; usual on Linux.
        assert_eq!(wanted(Some(256), None), Some(10_240));
        assert_eq!(wanted(Some(8192), Some(8192)), None);
        assert_eq!(wanted(Some(1024), Some(1 << 20)), Some(10_240));
        assert_eq!(wanted(Some(1024), Some(4096)), Some(4096));
        for enough in [None, Some(10_240), Some(1 << 20)] {
            assert_eq!(wanted(enough, None), None);
        }
    }
}
