//! The pools of removed servers whose connections are still in use.
//!
//! They have been closed; a connection in use keeps its pool. Does not decide what happens to the commands on them
//! (`topology::liveness`).

use std::sync::{Arc, Weak};

use super::pool::ServerPool;
use super::shell::DeferredEffects;
use crate::error::Error;
use crate::host::ServerAddress;
use crate::observe::events::Wanted;

/// The pools of removed servers with connections in use.
#[derive(Default)]
pub(super) struct RetiredPools(Vec<Weak<ServerPool>>);

impl RetiredPools {
    /// Adds a pool that has been closed.
    pub(super) fn keep(&mut self, pool: &Arc<ServerPool>) {
        self.0.retain(|pool| pool.strong_count() > 0);
        self.0.push(Arc::downgrade(pool));
    }

    /// Returns the retired pools of a host.
    pub(super) fn of<'a>(&'a self, host: &'a ServerAddress) -> impl Iterator<Item = Arc<ServerPool>> + 'a {
        self.0.iter().filter_map(Weak::upgrade).filter(move |pool| pool.host() == host)
    }

    /// Interrupts the commands in flight on the connections of a host's pools.
    pub(super) fn interrupt(&self, host: &ServerAddress, why: &Error, wanted: Wanted) -> Vec<DeferredEffects<ServerPool>> {
        self.of(host).map(|pool| pool.close(why, true, wanted).1).collect()
    }

    /// Returns all pools.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<ServerPool>> {
        self.0.iter().filter_map(Weak::upgrade)
    }

    /// Removes and returns all pools.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Arc<ServerPool>> {
        std::mem::take(&mut self.0).into_iter().filter_map(|pool| pool.upgrade())
    }
}
