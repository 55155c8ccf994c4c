//! The daemon's own files, compiled against shuttle's tokio and dashmap. `tests/` has what must hold in every
//! interleaving. Run it with `.ci/model`.

#[path = "../../src/flight.rs"]
pub mod flight;
