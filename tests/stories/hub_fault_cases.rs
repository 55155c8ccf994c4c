//! Everything that a hub can do wrong, and what must come of it.

use std::time::Duration;

use tonic::Code::{self, DataLoss, NotFound, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable};
use weightsd_client::ErrorReason::{
    self, Corrupt, FileNotFound, Forbidden, HubFailing, HubInconsistent, HubMalformed, HubUnreachable, RateLimited,
    RepoNotFound, RevisionNotFound, TokenMissing,
};
use weightsd_fixtures::hub::{Fault, NextPage, On, Refusal};

/// Length of the weight file's tensor.
pub const LENGTH: usize = 300_000;
/// How long the daemon of these cases waits for an answer, or for the next bytes: long enough for a hub on a busy machine.
pub const PATIENCE_OF_THE_DAEMON: &str = "3s";

/// Which requests of a case's repository go wrong.
#[derive(Debug, Clone, Copy)]
pub enum At {
    Revision,
    Tree,
    /// The hub's answer about the weight file.
    Weights,
    /// The content of the weight file.
    Content,
    /// The small file.
    Config,
}

impl At {
    pub fn on(self, repo: &str) -> On {
        match self {
            Self::Revision => On::api(format!("/{repo}/revision/")),
            Self::Tree => On::api(format!("/{repo}/tree/")),
            Self::Weights => On::resolve(format!("/{repo}/resolve/")).method("GET"),
            Self::Content => On::cdn(format!("/{repo}/")),
            Self::Config => On::resolve(format!("/{repo}/resolve/")),
        }
    }
}

/// One thing that goes wrong.
#[derive(Debug)]
pub struct Case {
    pub at: At,
    pub fault: Fault,
    /// How often; always when there is no number.
    pub times: Option<u64>,
    /// Whether the first connection for the content breaks, so that there is something to resume.
    pub broken_before: bool,
    /// Code and reason; `None` when the daemon must cope.
    pub refusal: Option<(Code, ErrorReason)>,
}

fn copes(at: At, fault: Fault) -> Case {
    Case { at, fault, times: None, broken_before: false, refusal: None }
}

fn once(at: At, fault: Fault) -> Case {
    Case { times: Some(1), ..copes(at, fault) }
}

fn resumes(at: At, fault: Fault) -> Case {
    Case { broken_before: true, ..copes(at, fault) }
}

fn fails(at: At, fault: Fault, code: Code, reason: ErrorReason) -> Case {
    Case { refusal: Some((code, reason)), ..copes(at, fault) }
}

fn breaks(at: At, fault: Fault, reason: ErrorReason) -> Case {
    fails(at, fault, Unavailable, reason)
}

/// All of them. Some of one fault differ in where, or how often, it happens.
pub fn all() -> Vec<Case> {
    [slow_and_silent(), broken_bodies(), wrong_bodies(), ranges(), headers(), refusals(), redirects(), listings()]
        .into_iter()
        .flatten()
        .collect()
}

fn slow_and_silent() -> Vec<Case> {
    let long = Fault::Late { by: Duration::from_secs(10) };
    vec![
        copes(At::Content, Fault::Slow { bytes_per_second: 1_000_000 }),
        copes(At::Revision, Fault::Late { by: Duration::from_millis(100) }),
        copes(At::Content, Fault::Late { by: Duration::from_millis(100) }),
        breaks(At::Revision, long.clone(), HubUnreachable),
        breaks(At::Content, long, HubUnreachable),
        breaks(At::Revision, Fault::Silence, HubUnreachable),
        breaks(At::Tree, Fault::Silence, HubUnreachable),
        breaks(At::Config, Fault::Silence, HubUnreachable),
        breaks(At::Content, Fault::Silence, HubUnreachable),
        once(At::Content, Fault::Silence),
        breaks(At::Revision, Fault::Stall { after: 5 }, HubUnreachable),
        breaks(At::Tree, Fault::Stall { after: 5 }, HubUnreachable),
        breaks(At::Content, Fault::Stall { after: 0 }, HubUnreachable),
        once(At::Content, Fault::Stall { after: 1000 }),
    ]
}

fn broken_bodies() -> Vec<Case> {
    vec![
        breaks(At::Revision, Fault::HangUp, HubUnreachable),
        breaks(At::Tree, Fault::HangUp, HubUnreachable),
        breaks(At::Content, Fault::HangUp, HubUnreachable),
        once(At::Revision, Fault::HangUp),
        once(At::Tree, Fault::HangUp),
        once(At::Content, Fault::HangUp),
        breaks(At::Content, Fault::Cut { after: 0 }, HubUnreachable),
        breaks(At::Tree, Fault::Cut { after: 5 }, HubUnreachable),
        copes(At::Content, Fault::Cut { after: 150_000 }),
        once(At::Config, Fault::Cut { after: 1 }),
        breaks(At::Content, Fault::Reset { after: 0 }, HubUnreachable),
        once(At::Content, Fault::Reset { after: 1000 }),
        breaks(At::Content, Fault::CutChunked { after: 0 }, HubUnreachable),
        once(At::Content, Fault::CutChunked { after: 1000 }),
        once(At::Config, Fault::CutChunked { after: 1 }),
        breaks(At::Tree, Fault::CutChunked { after: 5 }, HubMalformed),
        breaks(At::Content, Fault::CutUntilClose { after: 0 }, HubUnreachable),
        once(At::Content, Fault::CutUntilClose { after: 1000 }),
    ]
}

fn wrong_bodies() -> Vec<Case> {
    vec![
        breaks(At::Content, Fault::Short { length: 1000 }, HubInconsistent),
        breaks(At::Config, Fault::Short { length: 1 }, HubInconsistent),
        breaks(At::Content, Fault::Long { extra: 10 }, HubInconsistent),
        breaks(At::Config, Fault::Long { extra: 10 }, HubInconsistent),
        fails(At::Content, Fault::WrongByte { at: 5000 }, DataLoss, Corrupt),
        fails(At::Config, Fault::WrongByte { at: 1 }, DataLoss, Corrupt),
        once(At::Content, Fault::WrongByte { at: 5000 }),
        once(At::Config, Fault::WrongByte { at: 1 }),
        // An error page with a good status, where weights should be.
        breaks(At::Content, Refusal::html_page(200).into(), HubInconsistent),
    ]
}

fn ranges() -> Vec<Case> {
    vec![
        resumes(At::Content, Fault::IgnoreRange),
        Case { refusal: Some((Unavailable, HubMalformed)), ..resumes(At::Content, Fault::OtherRange { start: 10 }) },
        Case {
            refusal: Some((Unavailable, HubMalformed)),
            ..resumes(At::Content, Fault::ContentRange { value: "bytes here-there/everywhere".into() })
        },
        Case {
            refusal: Some((Unavailable, HubInconsistent)),
            ..resumes(At::Content, Fault::ContentRange { value: "bytes 1000-1999/2000".into() })
        },
        resumes(At::Content, Fault::Unsatisfiable),
    ]
}

fn headers() -> Vec<Case> {
    let etag = |etag: &str| Fault::OtherEtag { etag: etag.to_owned() };
    vec![
        copes(At::Weights, etag("../../../x")),
        copes(At::Content, etag("/etc/passwd")),
        breaks(At::Weights, etag(&"a".repeat(64)), HubInconsistent),
        resumes(At::Content, etag("changed")),
        copes(At::Weights, Fault::NoEtag),
        resumes(At::Content, Fault::NoEtag),
        copes(At::Weights, Fault::WeakEtag),
        resumes(At::Content, Fault::WeakEtag),
        copes(At::Weights, Fault::NoRepoCommit),
        breaks(At::Weights, Fault::OtherRepoCommit { commit: "f".repeat(40) }, HubInconsistent),
        breaks(At::Weights, Fault::OtherRepoCommit { commit: "../x".into() }, HubInconsistent),
        copes(At::Weights, Fault::NoLinkedSize),
        copes(At::Weights, Fault::OtherLinkedSize { size: "99999999999999".into() }),
        copes(At::Weights, Fault::IgnoreConditions),
        copes(At::Weights, Fault::XetHash { hash: "b".repeat(64) }),
        copes(At::Tree, Fault::XetHash { hash: "b".repeat(64) }),
    ]
}

fn refusals() -> Vec<Case> {
    let status = |status| Refusal::status(status);
    let missing = |code: &str| status(404).code(code);
    let mut cases = vec![
        fails(At::Revision, status(401).code("RepoNotFound").into(), Unauthenticated, TokenMissing),
        fails(At::Weights, status(401).into(), Unauthenticated, TokenMissing),
        fails(At::Revision, status(403).into(), PermissionDenied, Forbidden),
        fails(At::Weights, status(403).into(), PermissionDenied, Forbidden),
        fails(At::Revision, missing("RepoNotFound").into(), NotFound, RepoNotFound),
        fails(At::Tree, missing("RepoNotFound").into(), NotFound, RepoNotFound),
        fails(At::Revision, missing("RevisionNotFound").into(), NotFound, RevisionNotFound),
        fails(At::Tree, missing("RevisionNotFound").into(), NotFound, RevisionNotFound),
        fails(At::Weights, missing("EntryNotFound").into(), NotFound, FileNotFound),
        // A 404 that says nothing of a hub's.
        breaks(At::Tree, status(404).into(), HubMalformed),
        breaks(At::Weights, status(404).into(), HubMalformed),
        breaks(At::Content, status(404).into(), HubFailing),
        breaks(At::Content, Refusal::access_denied().into(), HubFailing),
        once(At::Content, Refusal::access_denied().into()),
        breaks(At::Revision, status(418).into(), HubMalformed),
        breaks(At::Weights, status(418).into(), HubMalformed),
    ];
    for at in [At::Revision, At::Tree, At::Config, At::Weights, At::Content] {
        cases.extend([
            fails(at, status(429).into(), ResourceExhausted, RateLimited),
            fails(at, status(429).retry_after(3600).into(), ResourceExhausted, RateLimited),
            once(at, status(429).retry_after(1).into()),
            breaks(at, Refusal::html_page(503).into(), HubFailing),
            breaks(at, status(500).into(), HubFailing),
            once(at, status(502).into()),
        ]);
    }
    cases
}

fn redirects() -> Vec<Case> {
    let to = |location: &str| Fault::RedirectTo { status: 302, location: location.to_owned() };
    vec![
        breaks(At::Weights, to("file:///etc/passwd"), HubMalformed),
        breaks(At::Content, to("ftp://127.0.0.1/x"), HubMalformed),
        breaks(At::Weights, to("http://["), HubMalformed),
        breaks(At::Weights, to("http://127.0.0.1:1/x"), HubUnreachable),
        breaks(At::Revision, to("/elsewhere"), HubMalformed),
        copes(At::Revision, Fault::RedirectToStranger),
        // A repository that was renamed to a name that nobody has.
        fails(
            At::Revision,
            Fault::Renamed { to: "org/nobody".into(), status: 307, on: NextPage::Relative },
            Unauthenticated,
            TokenMissing,
        ),
        copes(At::Tree, Fault::RedirectToStranger),
        copes(At::Weights, Fault::RedirectToStranger),
        breaks(At::Revision, Fault::RedirectLoop, HubMalformed),
        breaks(At::Weights, Fault::RedirectLoop, HubMalformed),
        breaks(At::Content, Fault::RedirectLoop, HubMalformed),
        copes(At::Weights, Fault::SameHostCdn),
    ]
}

fn listings() -> Vec<Case> {
    let pages = |next| Fault::Pages { size: 1, next };
    let path = |path: &str| Fault::HostilePath { path: path.to_owned() };
    let size = |path: &str, size| Fault::TreeSize { path: path.to_owned(), size };
    vec![
        copes(At::Tree, pages(NextPage::Absolute)),
        copes(At::Tree, pages(NextPage::Relative)),
        copes(At::Tree, pages(NextPage::Stranger)),
        breaks(At::Tree, pages(NextPage::Itself), HubMalformed),
        copes(At::Tree, path("/abs")),
        copes(At::Tree, path("../../../x")),
        copes(At::Tree, path("vae/../../x")),
        copes(At::Tree, path("a//b")),
        copes(At::Tree, path("a\\b")),
        breaks(At::Tree, size("model.safetensors", 1000), HubInconsistent),
        breaks(At::Tree, size("model.safetensors", 1_000_000), HubInconsistent),
        breaks(At::Tree, size("config.json", 1), HubInconsistent),
        breaks(At::Revision, Fault::NotJson, HubMalformed),
        breaks(At::Tree, Fault::NotJson, HubMalformed),
        breaks(At::Revision, Fault::TruncatedJson, HubMalformed),
        breaks(At::Tree, Fault::TruncatedJson, HubMalformed),
        copes(At::Revision, Fault::HugeJson { bytes: 10_000_000 }),
        breaks(At::Tree, Fault::HugeJson { bytes: 40_000_000 }, HubMalformed),
        copes(At::Revision, Fault::MoveBranch { revision: "main".into(), commit: "0".repeat(40) }),
    ]
}
