//! A hub to test downloads against: HTTP/1.1 on loopback, in the words that `hf-hub` and `huggingface_hub` understand,
//! with a switch for everything that goes wrong on real ones.
//!
//! ```
//! use weightsd_fixtures::hub::{Fault, Hub, On, Side};
//!
//! let hub = Hub::start()?;
//! hub.publish_bytes("org/repo", "main", vec![("vae/model.safetensors", vec![7; 4096])]);
//! hub.fault(On::cdn("vae/"), Fault::Cut { after: 1000 }).times(2);
//! // HF_ENDPOINT=hub.endpoint() …
//! assert_eq!(hub.bytes_sent(Side::Cdn), 0);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! A request's road: `connection` reads it, `route` says what it asks for, `rules` which faults are in force, `answer`
//! composes the honest reply (`api`, `resolve`, `content`) and lets the faults change it, `wire` sends it, and `log`
//! keeps what was seen. Everything is blocking, with a thread for each connection: faults want to hold sockets by the
//! hand.

mod access;
mod answer;
mod api;
mod body;
mod connection;
mod connections;
mod content;
mod control;
mod door;
mod doors;
mod fault;
mod faults;
mod log;
mod on;
mod ports;
mod publish;
mod range;
mod refusal;
mod reply;
mod request;
mod resolve;
mod route;
mod rules;
mod seen;
mod server;
mod shelf;
mod state;
mod tamper;
mod wire;

pub use fault::{Fault, NextPage};
pub use on::{On, Side};
pub use refusal::Refusal;
pub use rules::Rule;
pub use seen::Seen;
pub use server::Hub;
