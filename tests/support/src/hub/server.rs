//! The hub itself.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    doors::Doors,
    fault::Fault,
    on::{On, Side},
    ports, publish,
    rules::Rule,
    seen::Seen,
    shelf::{Commit, Repository},
    state::State,
};
use crate::{FixtureError, HubFixture};

/// How long ports that were this hub's a moment ago may be refused.
const PORTS_COME_BACK: Duration = Duration::from_secs(5);

/// A hub on loopback. Dropping it ends its connections and frees its ports.
#[derive(Debug)]
pub struct Hub {
    state: Arc<State>,
    doors: Mutex<Option<Doors>>,
}

impl Hub {
    /// Listens, with nothing published.
    ///
    /// # Errors
    /// When there are no ports or threads to be had.
    pub fn start() -> io::Result<Self> {
        let (ports, listeners) = ports::claim()?;
        let state = Arc::new(State::new(ports));
        state.connections.open();
        let doors = Doors::open(&state, listeners)?;
        Ok(Self { state, doors: Mutex::new(Some(doors)) })
    }

    /// What `HF_ENDPOINT` is to be: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.state.ports.hub_url()
    }

    /// Where large files come from: another address and another port than the hub's.
    #[must_use]
    pub fn cdn(&self) -> String {
        self.state.ports.cdn_url()
    }

    /// A host that has all the files of the hub and the CDN, asks for no token and should get none.
    #[must_use]
    pub fn stranger(&self) -> String {
        self.state.ports.stranger_url()
    }

    /// Publishes every file below a directory as a commit, points the revision at it, and returns its name. The files
    /// are hashed now and read when they are asked for. Files of 10 MiB and more, and those whose name ends in
    /// `.safetensors`, are large: their etag is a sha-256, and they come from the CDN.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn publish_directory(
        &self,
        repo: &str,
        revision: &str,
        root: impl AsRef<Path>,
    ) -> Result<String, FixtureError> {
        Ok(self.add(repo, revision, publish::directory(repo, root.as_ref())?))
    }

    /// Publishes a fixture under its own name, commit and etags.
    pub fn publish(&self, fixture: &HubFixture, revision: &str) -> String {
        self.add(&fixture.repo, revision, publish::fixture(fixture))
    }

    /// Publishes these files; as [`publish_directory`](Self::publish_directory).
    pub fn publish_bytes(&self, repo: &str, revision: &str, files: Vec<(impl Into<String>, Vec<u8>)>) -> String {
        let files = files.into_iter().map(|(path, bytes)| (path.into(), bytes)).collect();
        self.add(repo, revision, publish::bytes(repo, files))
    }

    /// Points a revision at a commit that was published.
    pub fn point(&self, repo: &str, revision: &str, commit: &str) {
        self.change(repo, |repository| {
            repository.branches.insert(revision.to_owned(), commit.to_owned());
        });
    }

    /// Whether large files come from the hub itself, with 200, as mirrors do it.
    pub fn set_lfs_direct(&self, repo: &str, direct: bool) {
        self.change(repo, |repository| repository.lfs_direct = direct);
    }

    /// Whether small files come through a relative 307 to `/api/resolve-cache/`, as the real Hub does it.
    pub fn set_resolve_cache(&self, repo: &str, through_cache: bool) {
        self.change(repo, |repository| repository.resolve_cache = through_cache);
    }

    /// Makes a repository private, and lets this token see it.
    ///
    /// As soon as the hub knows a token, others are refused with 401, whatever they ask for.
    pub fn require_token(&self, repo: &str, token: &str) {
        self.grant(repo, token);
        self.change(repo, |repository| repository.private = true);
    }

    /// Makes a repository gated: all see its listing, and its files come with a token of
    /// [`grant`](Self::grant) only.
    pub fn gate(&self, repo: &str) {
        self.change(repo, |repository| repository.gated = true);
    }

    /// Lets a token see what is private or gated of a repository.
    pub fn grant(&self, repo: &str, token: &str) {
        self.add_token(token);
        self.change(repo, |repository| {
            repository.tokens.insert(token.to_owned());
        });
    }

    /// A token that is somebody's and opens nothing.
    pub fn add_token(&self, token: &str) {
        self.state.shelf_mut().tokens.insert(token.to_owned());
    }

    /// Switches a fault on, at once and until it is removed or used up.
    pub fn fault(&self, on: On, fault: impl Into<Fault>) -> Rule {
        self.state.rules.add(on, fault.into(), 0, None)
    }

    /// Switches all faults off. Answers that are under way stay as they are, but for
    /// those that stall: they go on.
    pub fn clear_faults(&self) {
        self.state.rules.clear();
    }

    /// What was asked, in order of arrival. `/api/agent-harnesses` and `/_test/` are left out.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.state.log.seen()
    }

    /// The requests that a rule for these would have been in force for.
    #[must_use]
    pub fn seen(&self, on: &On) -> Vec<Seen> {
        let matches = |seen: &Seen| on.matches_parts(seen.side, &seen.method, &seen.path);
        self.requests().into_iter().filter(matches).collect()
    }

    /// How many `GET` requests there were for paths that end so, on any side; a large file takes two.
    #[must_use]
    pub fn gets_of(&self, path: &str) -> usize {
        self.requests().iter().filter(|seen| seen.method == "GET" && seen.path.ends_with(path)).count()
    }

    /// Bytes of bodies that were given to the kernel. While a write is under way it counts as done.
    #[must_use]
    pub fn bytes_sent(&self, side: Side) -> u64 {
        self.state.log.bytes_sent(side)
    }

    /// Forgets what was asked.
    pub fn clear_log(&self) {
        self.state.log.clear();
    }

    /// Waits until a request like this has arrived, and returns whether one has.
    #[must_use]
    pub fn wait_for(&self, on: &On, longest: Duration) -> bool {
        let start = Instant::now();
        while self.seen(on).is_empty() {
            if start.elapsed() > longest {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Ends all connections; new ones are refused from when this returns.
    pub fn stop(&self) {
        let doors = self.doors().take();
        if let Some(doors) = doors {
            self.state.connections.close();
            doors.close();
        }
    }

    /// Listens on the same ports again, with everything as it was.
    ///
    /// # Errors
    /// When somebody else has taken a port.
    pub fn resume(&self) -> io::Result<()> {
        let mut doors = self.doors();
        if doors.is_some() {
            return Ok(());
        }
        let start = Instant::now();
        let listeners = loop {
            match ports::reclaim(self.state.ports) {
                Ok(listeners) => break listeners,
                Err(error) if start.elapsed() > PORTS_COME_BACK => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        self.state.connections.open();
        *doors = Some(Doors::open(&self.state, listeners)?);
        Ok(())
    }

    fn add(&self, repo: &str, revision: &str, commit: Commit) -> String {
        let id = commit.id.clone();
        self.state.shelf_mut().add(repo, revision, commit);
        id
    }

    fn change(&self, repo: &str, change: impl FnOnce(&mut Repository)) {
        change(self.state.shelf_mut().repository_mut(repo));
    }

    fn doors(&self) -> MutexGuard<'_, Option<Doors>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop();
    }
}
