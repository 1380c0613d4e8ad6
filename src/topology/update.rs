//! The update table of the topology.
//!
//! Follows server-discovery-and-monitoring, "TopologyType table", in full. Does not decide whether an error makes a server
//! unknown (`fault`), nor what follows for monitors, pools and events (`machine`).

use std::sync::Arc;

use crate::description::{ServerDescription, ServerType};
use crate::description::{TopologyDescription, TopologyType};
use crate::error::{Error, ErrorKind, Stage};
use crate::host::ServerAddress;

/// The wire version (MongoDB 6.0) from which on elections are ordered by election id first.
const ELECTION_ID_FIRST: i32 = 17;

/// Applies a new description of a server; a server that is not in the topology changes nothing.
pub(super) fn apply(topology: &mut TopologyDescription, incoming: ServerDescription, seeds: usize) {
    if topology.server(&incoming.host).is_none() {
        return;
    }
    let incoming = Arc::new(checked_if_single(topology, incoming));
    topology.put(Arc::clone(&incoming));
    match topology.kind {
        TopologyType::Single | TopologyType::LoadBalanced => {}
        TopologyType::Unknown => update_unknown(topology, &incoming, seeds),
        TopologyType::Sharded => update_sharded(topology, &incoming),
        TopologyType::ReplicaSetNoPrimary => update_without_primary(topology, &incoming),
        TopologyType::ReplicaSetWithPrimary => update_with_primary(topology, &incoming),
    }
    topology.settle();
}

/// "If the TopologyType is Single and the set name does not match, the client MUST replace the server's description with
/// a default ServerDescription of type Unknown."
fn checked_if_single(topology: &TopologyDescription, incoming: ServerDescription) -> ServerDescription {
    let Some(wanted) = topology.set_name.as_deref().filter(|_| topology.kind == TopologyType::Single) else { return incoming };
    if !incoming.is_known() || incoming.set_name() == Some(wanted) {
        return incoming;
    }
    let error = wrong_set(&incoming, wanted);
    ServerDescription { error: Some(error), last_update: incoming.last_update, ..ServerDescription::unknown(&incoming.host) }
}

fn update_unknown(topology: &mut TopologyDescription, server: &ServerDescription, seeds: usize) {
    match server.kind {
        ServerType::Unknown | ServerType::RsGhost | ServerType::LoadBalancer => {}
        ServerType::Standalone if seeds == 1 => topology.kind = TopologyType::Single,
        ServerType::Standalone => topology.leave_out(server, misplaced("is a standalone, and several seeds were given")),
        ServerType::Mongos => topology.kind = TopologyType::Sharded,
        ServerType::RsPrimary => from_primary(topology, server),
        ServerType::RsSecondary | ServerType::RsArbiter | ServerType::RsOther => {
            topology.kind = TopologyType::ReplicaSetNoPrimary;
            from_member_without_primary(topology, server);
        }
    }
}

fn update_sharded(topology: &mut TopologyDescription, server: &ServerDescription) {
    match server.kind {
        ServerType::Unknown | ServerType::Mongos => {}
        ServerType::Standalone
        | ServerType::RsPrimary
        | ServerType::RsSecondary
        | ServerType::RsArbiter
        | ServerType::RsOther
        | ServerType::RsGhost
        | ServerType::LoadBalancer => topology.leave_out(server, misplaced("is no mongos, and the others are")),
    }
}

fn update_without_primary(topology: &mut TopologyDescription, server: &ServerDescription) {
    match server.kind {
        ServerType::Unknown | ServerType::RsGhost => {}
        ServerType::Standalone | ServerType::Mongos | ServerType::LoadBalancer => leave_out_non_member(topology, server),
        ServerType::RsPrimary => from_primary(topology, server),
        ServerType::RsSecondary | ServerType::RsArbiter | ServerType::RsOther => from_member_without_primary(topology, server),
    }
}

fn update_with_primary(topology: &mut TopologyDescription, server: &ServerDescription) {
    match server.kind {
        ServerType::Unknown | ServerType::RsGhost => {}
        ServerType::Standalone | ServerType::Mongos | ServerType::LoadBalancer => leave_out_non_member(topology, server),
        ServerType::RsPrimary => from_primary(topology, server),
        ServerType::RsSecondary | ServerType::RsArbiter | ServerType::RsOther => from_member_with_primary(topology, server),
    }
    check_primary(topology);
}

/// "updateRSWithoutPrimary": while there is no primary, every member's list counts.
///
/// The field `primary` needs no rule: every server has a monitor of its own.
fn from_member_without_primary(topology: &mut TopologyDescription, server: &ServerDescription) {
    if topology.set_name.is_none() {
        topology.set_name = server.set_name().map(str::to_owned);
    } else if leave_out_of_wrong_set(topology, server) {
        return;
    }
    topology.add_missing(server.members());
    leave_out_if_misnamed(topology, server);
}

/// "updateRSWithPrimaryFromMember": only the primary's list of members counts.
///
/// Beyond the specification: if the member was the last server, under a name that it has no more, its own list counts.
/// Otherwise no server could ever be found.
fn from_member_with_primary(topology: &mut TopologyDescription, server: &ServerDescription) {
    if !leave_out_of_wrong_set(topology, server) {
        leave_out_if_misnamed(topology, server);
        if topology.servers().is_empty() {
            topology.add_missing(server.members());
        }
    }
}

/// "updateRSFromPrimary".
fn from_primary(topology: &mut TopologyDescription, server: &ServerDescription) {
    if topology.set_name.is_none() {
        topology.set_name = server.set_name().map(str::to_owned);
    } else if leave_out_of_wrong_set(topology, server) {
        return;
    }
    if !adopt_election(topology, server) {
        topology.put(Arc::new(stale(server, "primary marked stale due to electionId/setVersion mismatch")));
        return;
    }
    let others = |other: &&Arc<ServerDescription>| other.kind == ServerType::RsPrimary && other.host != server.host;
    let outdated: Vec<_> = topology.servers().iter().filter(others).cloned().collect();
    for other in outdated {
        topology.put(Arc::new(stale(&other, "primary marked stale due to discovery of newer primary")));
    }
    let mut members: Vec<&ServerAddress> = server.members().collect();
    members.sort_unstable();
    topology.add_missing(members.iter().copied());
    topology.retain(|host| members.binary_search(&host).is_ok());
    check_primary(topology);
}

/// Adopts a primary's election if it is not older than the newest known one, and returns whether it was adopted.
fn adopt_election(topology: &mut TopologyDescription, server: &ServerDescription) -> bool {
    let (election, version) = (server.election_id(), server.set_version());
    let newest_wire = server.wire_versions().map_or(0, |(_, newest)| newest);
    if newest_wire >= ELECTION_ID_FIRST {
        // `None` orders before every value, as null does in the specification.
        if (election, version) < (topology.max_election_id, topology.max_set_version) {
            return false;
        }
        (topology.max_election_id, topology.max_set_version) = (election, version);
        return true;
    }
    if let (Some(election), Some(version)) = (election, version) {
        if let (Some(max_election), Some(max_version)) = (topology.max_election_id, topology.max_set_version)
            && (version, election) < (max_version, max_election)
        {
            return false;
        }
        topology.max_election_id = Some(election);
    }
    topology.max_set_version = topology.max_set_version.max(version);
    true
}

/// "checkIfHasPrimary".
fn check_primary(topology: &mut TopologyDescription) {
    let has_primary = topology.servers().iter().any(|server| server.kind == ServerType::RsPrimary);
    topology.kind = if has_primary { TopologyType::ReplicaSetWithPrimary } else { TopologyType::ReplicaSetNoPrimary };
}

fn leave_out_of_wrong_set(topology: &mut TopologyDescription, server: &ServerDescription) -> bool {
    let Some(wanted) = topology.set_name.clone().filter(|wanted| server.set_name() != Some(wanted.as_str())) else { return false };
    topology.leave_out(server, wrong_set(server, &wanted));
    true
}

fn leave_out_non_member(topology: &mut TopologyDescription, server: &ServerDescription) {
    let wanted = topology.set_name.clone().unwrap_or_default();
    topology.leave_out(server, wrong_set(server, &wanted));
}

fn leave_out_if_misnamed(topology: &mut TopologyDescription, server: &ServerDescription) {
    if let Some(me) = server.me().filter(|me| **me != server.host) {
        topology.leave_out(server, misplaced(&format!("is called {me} in the replica set's configuration")));
    }
}

fn wrong_set(server: &ServerDescription, wanted: &str) -> Error {
    misplaced(&match server.set_name() {
        Some(name) => format!("is a member of replica set {name:?}, wanted is {wanted:?}"),
        None => format!("is a {} and no member of a replica set, wanted is {wanted:?}", server.kind.name()),
    })
}

fn misplaced(why: &str) -> Error {
    Error::new(ErrorKind::InvalidOption, why).at(Stage::Hello)
}

fn stale(server: &ServerDescription, why: &str) -> ServerDescription {
    let error = Error::new(ErrorKind::Protocol, why).at(Stage::Hello).on(&server.host);
    ServerDescription { error: Some(error), last_update: server.last_update, ..ServerDescription::unknown(&server.host) }
}
