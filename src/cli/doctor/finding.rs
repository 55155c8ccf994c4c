//! One line of `weightsd doctor`.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Ok,
    /// It works, or will, and not as well as it could.
    Warn,
    /// Something does not work.
    Fail,
}

impl Verdict {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    /// How it is.
    pub(super) found: String,
    /// What to do; empty when nothing is to be done.
    pub(super) advice: String,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    pub(super) fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), advice: advice.into() }
    }

    pub(super) fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, found: found.into(), advice: advice.into() }
    }
}

/// The worst verdict.
pub(super) fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}

/// The findings as people read them.
pub(super) fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut out = String::new();
    for Finding { check, verdict, found, advice } in findings {
        let _ = writeln!(out, "{:<4}  {check:<width$}  {found}", verdict.word());
        if !advice.is_empty() {
            let _ = writeln!(out, "      {:<width$}  -> {advice}", "");
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let _ = match (count(Verdict::Fail), count(Verdict::Warn)) {
        (0, 0) => write!(out, "all is well"),
        (fails, warnings) => write!(out, "{fails} failed, {warnings} to look at"),
    };
    out
}

/// The findings for programs.
pub(super) fn as_json(findings: &[Finding]) -> Value {
    let one = |Finding { check, verdict, found, advice }: &Finding| json!({"check": check, "verdict": verdict.word(), "found": found, "advice": advice});
    json!({"worst": worst(findings).word(), "findings": findings.iter().map(one).collect::<Vec<_>>()})
}
