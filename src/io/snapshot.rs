//! What do callers see of the servers at one moment?
//!
//! A description and the pools that belong to it, which never change: whoever holds a snapshot needs no lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pool::ServerPool;
use crate::host::HostKey;
use crate::topology::{ServerType, TopologyDescription};

/// Is what callers see of the topology at one moment.
pub(crate) struct Snapshot {
    pub(crate) description: Arc<TopologyDescription>,
    /// The servers' pools, in the order of the description's servers.
    pub(super) pools: Vec<Option<Arc<ServerPool>>>,
}

/// Is a server that was selected, in the snapshot that it was selected from.
#[derive(Clone)]
pub(crate) struct Selected {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) place: usize,
}

impl Snapshot {
    pub(super) fn new(description: Arc<TopologyDescription>, pools: &BTreeMap<HostKey, Arc<ServerPool>>) -> Self {
        let pools = description.servers().iter().map(|server| pools.get(&server.host).cloned()).collect();
        Self { description, pools }
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = &Arc<ServerPool>> {
        self.pools.iter().flatten()
    }

    pub(super) fn pool(&self, host: &HostKey) -> Option<&Arc<ServerPool>> {
        self.pools.get(self.place(host)?)?.as_ref()
    }

    /// Says where a host stands among the servers, which are sorted by host.
    pub(super) fn place(&self, host: &HostKey) -> Option<usize> {
        self.description.servers().binary_search_by(|server| server.host.cmp(host)).ok()
    }
}

impl Selected {
    pub(crate) fn description(&self) -> &TopologyDescription {
        &self.snapshot.description
    }

    pub(crate) fn kind(&self) -> ServerType {
        self.snapshot.description.servers().get(self.place).map_or(ServerType::Unknown, |server| server.kind)
    }

    pub(crate) fn pool(&self) -> &Arc<ServerPool> {
        self.snapshot.pools.get(self.place).and_then(Option::as_ref).expect("checked when it was selected")
    }
}
