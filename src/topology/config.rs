//! The configuration and initial state of a topology.
//!
//! The settings that the rules need, and the initial TopologyType that follows from them (server-discovery-and-monitoring,
//! "Initial TopologyType"). Does not decide which options contradict each other (`uri`).

use std::time::Duration;

use crate::description::ServerDescription;
use crate::description::ServerSelector;
use crate::description::{TopologyDescription, TopologyType};
use crate::host::ServerAddress;
use crate::options::ClientOptions;

/// The configuration of a topology.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopologyConfig {
    /// The seeds.
    pub seeds: Vec<ServerAddress>,
    /// The configured replica set.
    pub set_name: Option<String>,
    /// Whether to use the only seed as it is, whatever it belongs to; unset means no.
    pub direct_connection: Option<bool>,
    /// Whether the only seed is a load balancer.
    pub load_balanced: bool,
    /// Whether the seeds come from SRV records, and follow them.
    pub srv: bool,
    /// The maximum number of hosts used from the SRV records; 0 for all.
    pub srv_max_hosts: u32,
    /// The interval between two checks.
    pub heartbeat_frequency: Duration,
    /// The width of the latency window.
    pub local_threshold: Duration,
    /// Whether servers that seem unresponsive are sent liveness probes.
    pub liveness_probes: bool,
    /// The application's own selector.
    pub server_selector: Option<ServerSelector>,
}

impl TopologyConfig {
    /// Creates the configuration of some seeds, with every default.
    #[cfg(any(test, feature = "internals"))]
    pub fn new(seeds: Vec<ServerAddress>) -> Self {
        Self::from_options(&ClientOptions { hosts: seeds, ..ClientOptions::default() })
    }

    /// Creates the configuration from a client's options, after an SRV look-up if there is one.
    pub fn from_options(options: &ClientOptions) -> Self {
        Self {
            seeds: options.hosts.clone(),
            set_name: options.replica_set.clone(),
            direct_connection: options.direct_connection,
            load_balanced: options.load_balanced.unwrap_or(false),
            srv: options.srv.is_some(),
            srv_max_hosts: options.srv_max_hosts.unwrap_or(0),
            heartbeat_frequency: options.heartbeat_frequency_or_default(),
            local_threshold: options.local_threshold_or_default(),
            liveness_probes: options.liveness_probes_or_default(),
            server_selector: None,
        }
    }

    /// Returns the type that the topology starts with.
    pub(super) fn first_type(&self) -> TopologyType {
        if self.load_balanced {
            TopologyType::LoadBalanced
        } else if self.direct_connection == Some(true) {
            TopologyType::Single
        } else if self.set_name.is_some() {
            TopologyType::ReplicaSetNoPrimary
        } else {
            TopologyType::Unknown
        }
    }

    /// Creates a description of servers with the settings that selection needs.
    pub(super) fn describe(&self, kind: TopologyType, servers: impl IntoIterator<Item = ServerDescription>) -> TopologyDescription {
        TopologyDescription::new(kind, servers)
            .with_heartbeat_frequency(self.heartbeat_frequency)
            .with_local_threshold(self.local_threshold)
            .with_server_selector(self.server_selector.clone())
    }
}
