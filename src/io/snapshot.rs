//! The servers as callers see them at one moment: a description and the pools that belong to it.
//!
//! Never changes, so that no lock is needed to read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pool::ServerPool;
use crate::host::ServerAddress;
use crate::topology::TopologyDescription;

/// A description of the topology, and the pools that belong to it.
pub(crate) struct Snapshot {
    pub(crate) description: Arc<TopologyDescription>,
    /// The servers' pools, in the order of the description's servers.
    pools: Vec<Option<Arc<ServerPool>>>,
}

impl Snapshot {
    pub(super) fn new(description: Arc<TopologyDescription>, pools: &BTreeMap<ServerAddress, Arc<ServerPool>>) -> Self {
        let pools = description.servers().iter().map(|server| pools.get(&server.host).cloned()).collect();
        Self { description, pools }
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = &Arc<ServerPool>> {
        self.pools.iter().flatten()
    }

    /// Returns the pool of the server at a place.
    pub(super) fn pool_at(&self, place: usize) -> Option<&Arc<ServerPool>> {
        self.pools.get(place)?.as_ref()
    }

    /// Returns whether the server at a place has a pool.
    pub(super) fn has_pool(&self, place: usize) -> bool {
        self.pool_at(place).is_some()
    }

    pub(super) fn pool(&self, host: &ServerAddress) -> Option<&Arc<ServerPool>> {
        self.pool_at(self.place(host)?)
    }

    /// Returns the place of a host among the servers, which are sorted by host.
    fn place(&self, host: &ServerAddress) -> Option<usize> {
        self.description.servers().binary_search_by(|server| server.host.cmp(host)).ok()
    }
}
