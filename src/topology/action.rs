//! The actions of the topology for the shell.
//!
//! Does not decide when they occur (`machine`).

use std::sync::Arc;

use bson::oid::ObjectId;

use super::liveness::ProbeId;
use super::waiters::SelectId;
use crate::description::TopologyDescription;
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
    /// Send a server a liveness probe: look up its address and report that it is known, open a connection for monitoring, report
    /// the outcome, and close it. As soon as the connection is accepted, report how long that took.
    ///
    /// With the first attempt, start to record whether the connections of the server's pool and of its closed pools receive
    /// anything.
    Probe {
        /// The server.
        host: ServerAddress,
        /// The id for the reports.
        id: ProbeId,
        /// Whether an earlier attempt is in progress, which continues.
        again: bool,
    },
    /// Report at once whether any of these connections have received anything since the probe began.
    CheckTraffic {
        /// The server.
        host: ServerAddress,
        /// The id for the report.
        id: ProbeId,
    },
    /// End all attempts of a server's probe.
    EndProbe(ServerAddress),
    /// Publish a description to the callers.
    Publish(Arc<TopologyDescription>),
    /// Report to a caller that the published description has a suitable server.
    Selected(SelectId),
    /// Report to a caller that it gets no server.
    NotSelected(SelectId, Error),
}
