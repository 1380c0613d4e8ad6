//! What do callers see of the servers at one moment?
//!
//! A description and the pools that belong to it, which never change: whoever holds a snapshot needs no lock.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::SmallRng;

use super::pool::ServerPool;
use super::topology::TopologyDriver;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::host::ServerAddress;
use crate::selection::{self, Criteria, Refusal};
use crate::topology::{ServerType, TopologyDescription};

/// Is what callers see of the topology at one moment.
pub(crate) struct Snapshot {
    pub(crate) description: Arc<TopologyDescription>,
    /// The servers' pools, in the order of the description's servers.
    pub(super) pools: Vec<Option<Arc<ServerPool>>>,
}

/// Is all that a call needs to find its server. Clones of it are counted with every call: nothing else stands where they are.
#[repr(align(128))]
pub(crate) struct SelectionSource {
    pub(crate) driver: Arc<TopologyDriver>,
    pub(crate) snapshot: Arc<Snapshot>,
    /// Tells the driver that it is in use.
    pub(super) _count: Arc<()>,
}

/// Is a server that was selected, in the snapshot that it was selected from.
#[derive(Clone)]
pub(crate) struct SelectedServer {
    source: Arc<SelectionSource>,
    place: usize,
}

impl Snapshot {
    pub(super) fn new(description: Arc<TopologyDescription>, pools: &BTreeMap<ServerAddress, Arc<ServerPool>>) -> Self {
        let pools = description.servers().iter().map(|server| pools.get(&server.host).cloned()).collect();
        Self { description, pools }
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = &Arc<ServerPool>> {
        self.pools.iter().flatten()
    }

    fn pool(&self, host: &ServerAddress) -> Option<&Arc<ServerPool>> {
        self.pools.get(self.place(host)?)?.as_ref()
    }

    /// Says where a host stands among the servers, which are sorted by host.
    fn place(&self, host: &ServerAddress) -> Option<usize> {
        self.description.servers().binary_search_by(|server| server.host.cmp(host)).ok()
    }
}

impl SelectionSource {
    /// Chooses a server, if one suits now.
    pub(crate) fn choose(self: Arc<Self>, criteria: &Criteria, random: &mut SmallRng) -> Result<Option<SelectedServer>> {
        let snapshot = &self.snapshot;
        let loads = |host: &ServerAddress| snapshot.pool(host).map_or(0, |pool| pool.load());
        let server = match selection::select(&snapshot.description, criteria, &loads, random) {
            Ok(server) => server,
            Err(Refusal::NoServer(_)) => return Ok(None),
            Err(Refusal::Invalid(error)) => return Err(error.at(Stage::Selection)),
        };
        match snapshot.description.place_of(server).filter(|place| snapshot.pools.get(*place).is_some_and(Option::is_some)) {
            Some(place) => Ok(Some(SelectedServer { source: self, place })),
            None => {
                let error = Error::new(ErrorKind::Internal, "a server without a pool was selected");
                Err(error.at(Stage::Selection).on(&server.host))
            }
        }
    }
}

impl SelectedServer {
    pub(crate) fn driver(&self) -> &Arc<TopologyDriver> {
        &self.source.driver
    }

    pub(crate) fn description(&self) -> &TopologyDescription {
        &self.source.snapshot.description
    }

    pub(crate) fn kind(&self) -> ServerType {
        self.source.snapshot.description.servers().get(self.place).map_or(ServerType::Unknown, |server| server.kind)
    }

    pub(crate) fn pool(&self) -> &Arc<ServerPool> {
        self.source.snapshot.pools.get(self.place).and_then(Option::as_ref).expect("checked when it was selected")
    }
}

impl Borrow<Arc<ServerPool>> for SelectedServer {
    fn borrow(&self) -> &Arc<ServerPool> {
        self.pool()
    }
}
