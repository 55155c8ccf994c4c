//! What is counted while the daemon works. Every label has one of a few words of this program: nothing that a request says
//! becomes one, so the number of series is bounded. `docs/METRICS.md` lists them all.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// Upper bounds of the buckets of calls, in seconds: from a warm answer to a slow one.
const CALL_SECONDS: [f64; 9] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0];
/// Upper bounds of the buckets of loads, in seconds: from a warm one to a download.
const LOAD_SECONDS: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0, 60.0, 600.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCall {
    call: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLoad {
    road: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRefusal {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMirror {
    answer: &'static str,
}

/// How a component came to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// It was loaded before.
    Warm,
    /// It was loaded for this request, or for one that asked at the same time.
    Cold,
}

/// The counters. Clones count the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    calls: Family<OfCall, Histogram, fn() -> Histogram>,
    loads: Family<OfLoad, Histogram, fn() -> Histogram>,
    refusals: Family<OfRefusal, Counter>,
    mirrored: Family<OfMirror, Counter>,
    mirrored_bytes: Counter,
}

/// How the mirror answers.
const MIRRORED: [&str; 5] = ["info", "tree", "head", "content", "refused"];

impl Default for Metrics {
    fn default() -> Self {
        let mirrored = Family::<OfMirror, Counter>::default();
        // A series that begins at 0 shows its first step.
        MIRRORED.iter().for_each(|answer| drop(mirrored.get_or_create(&OfMirror { answer })));
        Self {
            calls: Family::new_with_constructor(|| Histogram::new(CALL_SECONDS)),
            loads: Family::new_with_constructor(|| Histogram::new(LOAD_SECONDS)),
            refusals: Family::default(),
            mirrored,
            mirrored_bytes: Counter::default(),
        }
    }
}

impl Metrics {
    /// A call was answered; one that streams, when its stream began.
    pub fn answered(&self, call: &'static str, took: Duration) {
        self.calls.get_or_create(&OfCall { call }).observe(took.as_secs_f64());
    }

    /// A request got its component.
    pub fn loaded(&self, road: Road, took: Duration) {
        let road = match road {
            Road::Warm => "warm",
            Road::Cold => "cold",
        };
        self.loads.get_or_create(&OfLoad { road }).observe(took.as_secs_f64());
    }

    /// A request was refused for this reason, by its name on the wire.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&OfRefusal { reason }).inc();
    }

    /// The mirror answered a request in this way.
    pub fn mirrored(&self, answer: &'static str) {
        self.mirrored.get_or_create(&OfMirror { answer }).inc();
    }

    /// The mirror sent bytes of contents.
    pub fn mirrored_bytes(&self, bytes: u64) {
        self.mirrored_bytes.inc_by(bytes);
    }

    /// Has `registry` show them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "call_seconds",
            "Time to the answer of a call, or to the beginning of its stream",
            self.calls.clone(),
        );
        registry.register("load_seconds", "Time from a request to its component", self.loads.clone());
        registry.register("mirror_requests", "Requests to the mirror, by answer", self.mirrored.clone());
        registry.register("mirror_sent_bytes", "Bytes of contents that the mirror sent", self.mirrored_bytes.clone());
        registry.register("refusals", "Requests that were refused, by reason", self.refusals.clone());
    }
}
