//! What a load needs of its caller: a place where components are kept and where requests for the same one share the work.

use std::{future::Future, sync::Arc};

use super::{AcquireError, Prepared, Tools};
use crate::{
    component::Component,
    derive::MakeRoom,
    progress::{Step, Watcher},
};

/// Is told each step of a load, and how many requests wait for it.
pub type Progress<'a> = &'a (dyn Fn(&Step, usize) + Send + Sync);

/// The caller of a load, where a request meets others for the same component. The cache makes one for each request.
pub trait Desk: Sync {
    /// What a request gets.
    type Lent: Send;

    /// What the stages work with.
    fn tools(&self) -> &Arc<Tools>;

    /// Compares the weight files with their hashes, unless they were compared before.
    ///
    /// # Errors
    /// When a file is damaged, or cannot be read.
    fn verify(&self, prepared: &Prepared) -> impl Future<Output = Result<(), AcquireError>> + Send;

    /// Gives the request the component that is kept under the id of `prepared`. If there is none, runs `work` once for all
    /// requests that ask meanwhile.
    ///
    /// # Errors
    /// Those of `work`.
    fn share<W, F>(&self, prepared: Prepared, work: W) -> impl Future<Output = Result<Self::Lent, AcquireError>> + Send
    where
        W: FnOnce(Prepared, Shared) -> F + Send + 'static,
        F: Future<Output = Result<Component, AcquireError>> + Send + 'static;
}

/// What shared work is given by the requests that wait for it.
#[derive(Clone)]
pub struct Shared {
    /// Is told each step.
    pub watcher: Arc<dyn Watcher + Send + Sync>,
    /// Makes room for images.
    pub make_room: MakeRoom,
}
