//! A request as the hub saw it.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::on::Side;

/// A request that arrived, and what became of it so far.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    /// When its head had been read, counted from the hub's start.
    #[serde(rename = "at_ms", serialize_with = "milliseconds")]
    pub at: Duration,
    /// Where.
    pub side: Side,
    /// In capitals.
    pub method: String,
    /// Decoded.
    pub path: String,
    /// What follows `?`, as it came.
    pub query: String,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The status answered; `None` while there is none.
    pub status: Option<u16>,
    /// Bytes of the body that were given to the kernel. While a write is under way it counts as done.
    pub sent: u64,
    /// Whether the answer is over, however it ended.
    pub over: bool,
}

impl Seen {
    /// The token it came with.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.headers.get("authorization")?.strip_prefix("Bearer ")
    }
}

fn milliseconds<S: serde::Serializer>(at: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(at.as_millis()).unwrap_or(u64::MAX))
}
