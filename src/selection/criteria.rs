//! The criteria of a selection, and the `$readPreference` sent to the selected server.
//!
//! Follows server-selection, "Passing read preference to mongos and load balancers" and "Topology type: Single". Does not
//! decide which servers are suitable (`eligible`).

use std::fmt;

use super::{ReadPreference, ReadPreferenceMode};
use crate::description::{ServerType, TopologyType};
use crate::host::ServerAddress;

/// The criteria of a selection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Criteria {
    /// The kind of server.
    pub target: Target,
    /// Servers to avoid while another one is suitable: the call has just failed on them.
    pub deprioritized: Vec<ServerAddress>,
}

/// The kind of server that a call needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// A server that accepts writes.
    #[default]
    Write,
    /// A server that a read preference admits.
    Read(ReadPreference),
    /// This server: it holds the cursor or the transaction.
    Server(ServerAddress),
    /// Any server that accepts reads.
    AnyReadable,
}

impl Criteria {
    /// Creates criteria for a kind of server.
    pub fn new(target: Target) -> Self {
        Self { target, deprioritized: Vec::new() }
    }

    /// Creates criteria for a server that accepts writes.
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "the specification has it"))]
    pub fn write() -> Self {
        Self::new(Target::Write)
    }

    /// Creates criteria for a server that a read preference admits.
    pub fn read(preference: ReadPreference) -> Self {
        Self::new(Target::Read(preference))
    }

    /// Creates criteria for one server.
    pub fn server(host: ServerAddress) -> Self {
        Self::new(Target::Server(host))
    }

    /// Creates criteria for any server that accepts reads.
    pub fn any_readable() -> Self {
        Self::new(Target::AnyReadable)
    }

    /// Sets the servers to avoid.
    #[must_use]
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "the specification has it"))]
    pub fn with_deprioritized(mut self, hosts: Vec<ServerAddress>) -> Self {
        self.deprioritized = hosts;
        self
    }
}

impl fmt::Display for Criteria {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Write => f.write_str("a write"),
            Target::Server(host) => write!(f, "an operation on {host}"),
            Target::AnyReadable => f.write_str("a read from any server"),
            // Writes that are given as commands use the primary in this way, too.
            Target::Read(preference) if *preference == ReadPreference::primary() => f.write_str("an operation on the primary"),
            Target::Read(preference) => {
                write!(f, "a read with preference {}", preference.mode.name())?;
                if !preference.tag_sets.is_empty() {
                    write!(f, ", tags {:?}", preference.tag_sets)?;
                }
                match preference.max_staleness {
                    Some(limit) => write!(f, ", maxStalenessSeconds {}", limit.as_secs()),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Returns the read preference that a command to a selected server sends in `$readPreference`, if any.
pub fn read_preference_to_send(topology: TopologyType, server: ServerType, criteria: &Criteria) -> Option<ReadPreference> {
    let configured = match &criteria.target {
        Target::Read(preference) => Some(preference.clone()),
        Target::AnyReadable => Some(ReadPreference::nearest()),
        Target::Write | Target::Server(_) => None,
    };
    let non_primary = configured.filter(|preference| preference.mode != ReadPreferenceMode::Primary);
    match (topology, server) {
        (_, ServerType::Standalone) => None,
        (_, ServerType::Mongos | ServerType::LoadBalancer) => non_primary,
        // "In order to allow any server type to handle the operation, primaryPreferred is sent to a single server."
        (TopologyType::Single, _) => Some(non_primary.unwrap_or_else(ReadPreference::primary_preferred)),
        (
            TopologyType::Unknown
            | TopologyType::ReplicaSetNoPrimary
            | TopologyType::ReplicaSetWithPrimary
            | TopologyType::Sharded
            | TopologyType::LoadBalanced,
            _,
        ) => non_primary,
    }
}
