//! The test hub, as it is seen on the wire.

mod access;
mod bodies;
mod client;
mod contract;
mod control;
mod headers;
mod life;
mod listings;

use std::io;

use weightsd_fixtures::hub::Hub;

const REPO: &str = "org/name";
const SMALL: &str = "config.json";
const LARGE: &str = "vae/model.safetensors";

/// A hub with a small file, a large one of 10 000 bytes, and one with an odd name.
struct Scene {
    hub: Hub,
    commit: String,
    large: Vec<u8>,
}

impl Scene {
    fn new() -> io::Result<Self> {
        let hub = Hub::start()?;
        let large: Vec<u8> = (0..10_000_u32).map(|at| (at % 251) as u8).collect();
        let files = vec![(SMALL, b"hello\n".to_vec()), (LARGE, large.clone()), ("sub/a b#c?.txt", b"odd".to_vec())];
        let commit = hub.publish_bytes(REPO, "main", files);
        Ok(Self { hub, commit, large })
    }

    fn api(&self, rest: &str) -> String {
        format!("{}/api/models/{REPO}{rest}", self.hub.endpoint())
    }

    fn file(&self, path: &str) -> String {
        format!("{}/{REPO}/resolve/main/{path}", self.hub.endpoint())
    }

    /// Where the large file is on the CDN.
    fn cdn(&self) -> io::Result<String> {
        let redirect = client::head(&self.file(LARGE))?;
        let place = redirect.header("location").expect("a redirect").to_owned();
        self.hub.clear_log();
        Ok(place)
    }
}
