//! What does the topology order?
//!
//! When each order is given is decided in `machine`.

use std::sync::Arc;

use bson::oid::ObjectId;

use super::description::TopologyDescription;
use super::liveness::ProbeId;
use super::waiters::SelectId;
use crate::error::Error;
use crate::host::ServerAddress;

/// Is an order of the topology.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TopologyAction {
    /// Start to watch a server.
    StartMonitor(ServerAddress),
    /// Stop to watch a server.
    StopMonitor(ServerAddress),
    /// Make a server's pool, paused, at generation 0.
    CreatePool {
        /// The server.
        host: ServerAddress,
        /// The number that its generations begin with: above those of an earlier pool of the host.
        generation: u64,
    },
    /// Let a server's pool open connections.
    ReadyPool(ServerAddress),
    /// Clear a server's pool: its generation grows by one, whatever state it is in.
    ClearPool {
        /// The server.
        host: ServerAddress,
        /// Why.
        cause: Error,
        /// Whether connections in use are interrupted too.
        interrupt: bool,
    },
    /// Clear the connections of one service behind a load balancer, unless the fault is of an older generation of it.
    ClearService {
        /// The load balancer.
        host: ServerAddress,
        /// The service.
        service_id: ObjectId,
        /// The generation of the connection that failed.
        generation: u64,
        /// Why.
        cause: Error,
    },
    /// Close a server's pool for good, and tell at once whether commands are in flight on its connections.
    ClosePool(ServerAddress),
    /// Interrupt what is in flight on the connections of pools of the server that have been closed.
    InterruptRetired {
        /// The server.
        host: ServerAddress,
        /// What the commands end with.
        why: Error,
    },
    /// Check a server now, or as soon as the shortest time between checks allows.
    CheckNow(ServerAddress),
    /// End a server's running check.
    CancelCheck(ServerAddress),
    /// Ask a server for an answer to a liveness probe: look up its address, tell that it is known, open a connection for monitoring, tell
    /// how that went, and close it. As soon as it is accepted, tell how long that took.
    ///
    /// With the first attempt, begin to note whether the connections of the server's pool receive anything, and those of its
    /// pools that have been closed.
    Probe {
        /// The server.
        host: ServerAddress,
        /// What the facts that follow are to be told with.
        id: ProbeId,
        /// Whether an attempt is under way already, which goes on.
        again: bool,
    },
    /// Tell at once whether any of these connections have received anything since the probe began.
    CheckTraffic {
        /// The server.
        host: ServerAddress,
        /// What the answer is to be told with.
        id: ProbeId,
    },
    /// End all attempts of a server's probe.
    EndProbe(ServerAddress),
    /// Make a description the one that callers see.
    Publish(Arc<TopologyDescription>),
    /// Tell a caller that a server suits it in the published description.
    Selected(SelectId),
    /// Tell a caller that it gets none.
    NotSelected(SelectId, Error),
}
