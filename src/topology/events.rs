//! What does the topology tell its watchers?
//!
//! The server and topology events of server-discovery-and-monitoring-logging-and-monitoring. The heartbeat events are
//! the monitors'.

use std::sync::Arc;

use super::description::TopologyDescription;
use super::server::ServerDescription;
use crate::error::Error;
use crate::host::ServerAddress;

/// Tells what happened to the topology, in the order in which it happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TopologyEvent {
    /// The topology is opened; the first of all.
    TopologyOpening,
    /// A server is watched from now on.
    #[non_exhaustive]
    ServerOpening {
        /// The server.
        host: ServerAddress,
    },
    /// What is known of a server has changed.
    #[non_exhaustive]
    ServerDescriptionChanged {
        /// What was known before.
        previous: Arc<ServerDescription>,
        /// What is known now.
        new: Arc<ServerDescription>,
    },
    /// A server is no longer watched.
    #[non_exhaustive]
    ServerClosed {
        /// The server.
        host: ServerAddress,
    },
    /// What is known of the topology has changed.
    #[non_exhaustive]
    TopologyDescriptionChanged {
        /// What was known before.
        previous: Arc<TopologyDescription>,
        /// What is known now.
        new: Arc<TopologyDescription>,
    },
    /// A server named a host that can't be used; it costs that one host.
    #[non_exhaustive]
    HostUnusable {
        /// The server that named it.
        server: ServerAddress,
        /// The name.
        name: String,
        /// Why it can't be used.
        error: Error,
    },
    /// The topology is closed; the last of all.
    TopologyClosed,
}
