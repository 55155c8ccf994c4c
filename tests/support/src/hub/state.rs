//! What all threads of a hub share.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{connections::Connections, log::Log, ports::Ports, rules::Rules, shelf::Shelf};

#[derive(Debug)]
pub(super) struct State {
    pub(super) ports: Ports,
    pub(super) rules: Arc<Rules>,
    pub(super) log: Log,
    pub(super) connections: Connections,
    shelf: RwLock<Shelf>,
}

impl State {
    pub(super) fn new(ports: Ports) -> Self {
        Self {
            ports,
            rules: Arc::default(),
            log: Log::new(),
            connections: Connections::default(),
            shelf: RwLock::default(),
        }
    }

    pub(super) fn shelf(&self) -> RwLockReadGuard<'_, Shelf> {
        self.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shelf_mut(&self) -> RwLockWriteGuard<'_, Shelf> {
        self.shelf.write().unwrap_or_else(PoisonError::into_inner)
    }
}
