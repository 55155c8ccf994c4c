//! What can go wrong.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::refusal::Refusal;

/// What goes wrong with the requests of a rule.
///
/// Faults of a body leave `HEAD` alone, and `HEAD` does not use them up. Several faults on one request add up.
/// In JSON: the name in snake case, with its fields: `"silence"`, `{"cut": {"after": 1000}}`,
/// `{"late": {"by_ms": 500}}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The body comes evenly at this rate, and little of it waits in the kernel.
    Slow {
        /// Of each answer by itself.
        bytes_per_second: u64,
    },
    /// Nothing comes for a while, then the answer.
    Late {
        /// For how long.
        #[serde(rename = "by_ms", deserialize_with = "milliseconds")]
        by: Duration,
    },
    /// Nothing comes until the client hangs up or the hub stops.
    Silence,
    /// The connection ends without an answer.
    HangUp,
    /// Nothing comes after that many bytes of the body, until the rule is removed, the client hangs up or the hub stops.
    Stall {
        /// Bytes that come.
        after: u64,
    },
    /// The connection ends after that many bytes of the body; `Content-Length` promised all.
    Cut {
        /// Bytes that come.
        after: u64,
    },
    /// As [`Fault::Cut`], with a TCP reset; what the client has not read is lost.
    Reset {
        /// Bytes that are sent.
        after: u64,
    },
    /// A chunked body that ends as it should, after that many bytes.
    CutChunked {
        /// Bytes that come.
        after: u64,
    },
    /// A body without `Content-Length`, over when the connection ends, after that many bytes.
    CutUntilClose {
        /// Bytes that come.
        after: u64,
    },
    /// A shorter body, and `Content-Length` agrees with it.
    Short {
        /// Its length.
        length: u64,
    },
    /// A longer body, and `Content-Length` agrees with it.
    Long {
        /// Bytes too many, at the end.
        extra: u64,
    },
    /// One byte of the file is another; the length is right.
    WrongByte {
        /// Which, counted from the start of the file, also for ranges.
        at: u64,
    },
    /// `Range` is ignored: the whole file, with 200.
    IgnoreRange,
    /// A 206 that begins elsewhere than asked, and says so.
    OtherRange {
        /// Where it begins.
        start: u64,
    },
    /// A 206 with the right bytes and this `Content-Range`.
    ContentRange {
        /// Its value.
        value: String,
    },
    /// 416, with the true length in `Content-Range`.
    Unsatisfiable,
    /// Another etag where one stands. With [`Rule::skip`](super::Rule::skip), one that changes in mid-download.
    OtherEtag {
        /// Without quotes; `../x` if it is to do harm.
        etag: String,
    },
    /// Neither `ETag` nor `X-Linked-ETag`.
    NoEtag,
    /// `W/"…"` in `ETag` and `X-Linked-ETag`.
    WeakEtag,
    /// No `X-Repo-Commit`.
    NoRepoCommit,
    /// Another `X-Repo-Commit`.
    OtherRepoCommit {
        /// Its value.
        commit: String,
    },
    /// No `X-Linked-Size`.
    NoLinkedSize,
    /// Another `X-Linked-Size`.
    OtherLinkedSize {
        /// Its value.
        size: String,
    },
    /// `If-None-Match` is ignored: no 304.
    IgnoreConditions,
    /// `X-Xet-Hash` on files, and `xetHash` in listings; the store that is named for it is dead.
    XetHash {
        /// 64 hex digits.
        hash: String,
    },
    /// This answer and no other.
    Status(Refusal),
    /// A redirect to this place, whatever it is.
    RedirectTo {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// `Location`.
        location: String,
    },
    /// A redirect to the same thing in a repository of another name.
    Renamed {
        /// The new name.
        to: String,
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// Which host it names.
        #[serde(default)]
        on: NextPage,
    },
    /// A 302 to [`Hub::stranger`](super::Hub::stranger), which has the right bytes.
    RedirectToStranger,
    /// A 302 to where the request came.
    RedirectLoop,
    /// The redirect of a large file names the CDN by the hub's own host name.
    SameHostCdn,
    /// The listing comes in pages.
    Pages {
        /// Entries of a page.
        size: usize,
        /// Where the next is said to be.
        #[serde(default)]
        next: NextPage,
    },
    /// Listings have one more file, of this name.
    HostilePath {
        /// `/abs`, `../x`, `a//b`, `a\b` …
        path: String,
    },
    /// Listings give another size for a file.
    TreeSize {
        /// Which file.
        path: String,
        /// What they say.
        size: u64,
    },
    /// Text that is no JSON, with 200.
    NotJson,
    /// The first half of the body, properly ended.
    TruncatedJson,
    /// The body after that many spaces: valid JSON, too large to hold.
    HugeJson {
        /// How many.
        bytes: u64,
    },
    /// After this answer the branch points elsewhere.
    MoveBranch {
        /// The branch, of the repository that was asked for.
        revision: String,
        /// A published commit.
        commit: String,
    },
}

/// Where the next page of a listing, or a renamed repository, is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NextPage {
    /// On the hub, as an absolute URL, as it should be.
    #[default]
    Absolute,
    /// On the hub, as a path.
    Relative,
    /// On [`Hub::stranger`](super::Hub::stranger), which answers.
    Stranger,
    /// The page itself, for ever.
    Itself,
}

impl Fault {
    /// A bare status; [`Refusal`] has more to say.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Refusal::status(status).into()
    }

    /// Whether there is nothing it could do to an answer without a body.
    pub(super) fn needs_body(&self) -> bool {
        matches!(
            self,
            Self::Slow { .. }
                | Self::Stall { .. }
                | Self::Cut { .. }
                | Self::Reset { .. }
                | Self::CutChunked { .. }
                | Self::CutUntilClose { .. }
                | Self::Short { .. }
                | Self::Long { .. }
                | Self::WrongByte { .. }
        )
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Status(refusal)
    }
}

fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}
