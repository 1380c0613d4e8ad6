//! The actions of the topology for the shell.
//!
//! Does not decide when they occur (`machine`).

use std::sync::Arc;

use bson::oid::ObjectId;

use super::description::TopologyDescription;
use super::liveness::ProbeId;
use super::waiters::SelectId;
use crate::error::Error;
use crate::host::ServerAddress;

/// An action of the topology for the shell.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TopologyAction {
    /// Start to monitor a server.
    StartMonitor(ServerAddress),
    /// Stop to monitor a server.
    StopMonitor(ServerAddress),
    /// Create a server's pool, paused, with this first generation.
    CreatePool {
        /// The server.
        host: ServerAddress,
        /// The first generation: above those of an earlier pool of the host.
        generation: u64,
    },
    /// Mark a server's pool as ready.
    ReadyPool(ServerAddress),
    /// Clear a server's pool: its generation grows by one, whatever its state.
    ClearPool {
        /// The server.
        host: ServerAddress,
        /// The cause.
        cause: Error,
        /// Whether connections in use are interrupted, too.
        interrupt: bool,
    },
    /// Clear the connections of one service behind a load balancer, unless the fault has an older generation of it.
    ClearService {
        /// The load balancer.
        host: ServerAddress,
        /// The service.
        service_id: ObjectId,
        /// The generation of the connection that failed.
        generation: u64,
        /// The cause.
        cause: Error,
    },
    /// Close a server's pool for good, and report at once whether commands are in flight on its connections.
    ClosePool(ServerAddress),
    /// Interrupt the commands in flight on closed pools of the server.
    InterruptRetired {
        /// The server.
        host: ServerAddress,
        /// The error of the commands.
        why: Error,
    },
    /// Check a server now, or as soon as the minimum interval between checks allows.
    CheckNow(ServerAddress),
    /// Cancel a server's running check.
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
