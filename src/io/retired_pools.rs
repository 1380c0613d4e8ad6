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

/// Knows the pools of servers that are gone, as long as somebody uses a connection of theirs.
#[derive(Default)]
pub(super) struct RetiredPools(Vec<Weak<ServerPool>>);

impl RetiredPools {
    /// Takes a pool that has been closed.
    pub(super) fn keep(&mut self, pool: &Arc<ServerPool>) {
        self.0.retain(|pool| pool.strong_count() > 0);
        self.0.push(Arc::downgrade(pool));
    }

    /// Returns the pools that a host had.
    pub(super) fn of<'a>(&'a self, host: &'a ServerAddress) -> impl Iterator<Item = Arc<ServerPool>> + 'a {
        self.0.iter().filter_map(Weak::upgrade).filter(move |pool| pool.host() == host)
    }

    /// Interrupts what is in flight on the connections that a host's pools have lent.
    pub(super) fn interrupt(&self, host: &ServerAddress, why: &Error, wanted: Wanted) -> Vec<DeferredEffects<ServerPool>> {
        self.of(host).map(|pool| pool.close(why, true, wanted).1).collect()
    }

    /// Returns all of them.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<ServerPool>> {
        self.0.iter().filter_map(Weak::upgrade)
    }

    /// Takes all of them out.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Arc<ServerPool>> {
        std::mem::take(&mut self.0).into_iter().filter_map(|pool| pool.upgrade())
    }
}
