//! What does a caller ask of a server, and what is the server told of it?
//!
//! The data of a selection, and `$readPreference` (server-selection, "Passing read preference to mongos and load
//! balancers"; "Topology type: Single"). Which servers suit is decided in `eligible`.

use std::fmt;

use super::{ReadPreference, ReadPreferenceMode};
use crate::host::ServerAddress;
use crate::topology::{ServerType, TopologyType};

/// Says which server a caller asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Criteria {
    /// The kind of server.
    pub target: Target,
    /// Servers to be avoided while another one suits: the call has just failed on them.
    pub deprioritized: Vec<ServerAddress>,
}

/// The kind of server that a caller asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// One that takes writes.
    #[default]
    Write,
    /// One that a read preference admits.
    Read(ReadPreference),
    /// This one: a cursor or a transaction lives on it.
    Server(ServerAddress),
    /// Any that takes reads.
    AnyReadable,
}

impl Criteria {
    /// Asks for a kind of server.
    pub fn new(target: Target) -> Self {
        Self { target, deprioritized: Vec::new() }
    }

    /// Asks for a server that takes writes.
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "the specification has it"))]
    pub fn write() -> Self {
        Self::new(Target::Write)
    }

    /// Asks for a server that a read preference admits.
    pub fn read(preference: ReadPreference) -> Self {
        Self::new(Target::Read(preference))
    }

    /// Asks for one server.
    pub fn server(host: ServerAddress) -> Self {
        Self::new(Target::Server(host))
    }

    /// Asks for any server that takes reads.
    pub fn any_readable() -> Self {
        Self::new(Target::AnyReadable)
    }

    /// Sets the servers to be avoided.
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
            // Writes that are given as commands ask for the primary in this way too.
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

/// Returns the read preference that a command to a selected server carries in `$readPreference`, if it carries one.
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
