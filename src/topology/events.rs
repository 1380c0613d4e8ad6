//! The server and topology events.
//!
//! Follows server-discovery-and-monitoring-logging-and-monitoring. Does not define the heartbeat events (`monitor`).

use std::sync::Arc;

use crate::description::ServerDescription;
use crate::description::TopologyDescription;
use crate::error::Error;
use crate::host::ServerAddress;

/// An event of the topology, in the order of occurrence.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TopologyEvent {
    /// The topology is opened; always the first event.
    TopologyOpening,
    /// A server is monitored from now on.
    #[non_exhaustive]
    ServerOpening {
        /// The server.
        host: ServerAddress,
    },
    /// The description of a server has changed.
    #[non_exhaustive]
    ServerDescriptionChanged {
        /// The previous description.
        previous: Arc<ServerDescription>,
        /// The new description.
        new: Arc<ServerDescription>,
    },
    /// A server is no longer monitored.
    #[non_exhaustive]
    ServerClosed {
        /// The server.
        host: ServerAddress,
    },
    /// The description of the topology has changed.
    #[non_exhaustive]
    TopologyDescriptionChanged {
        /// The previous description.
        previous: Arc<TopologyDescription>,
        /// The new description.
        new: Arc<TopologyDescription>,
    },
    /// A server's reply contained an invalid host name; only that host is left out.
    #[non_exhaustive]
    HostUnusable {
        /// The server that sent it.
        server: ServerAddress,
        /// The name.
        name: String,
        /// Why it is invalid.
        error: Error,
    },
    /// The topology is closed; always the last event.
    TopologyClosed,
}
