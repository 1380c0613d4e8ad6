//! The reasons why servers were not selected.
//!
//! Follows the steps of `eligible`, for one server at a time.

use super::eligible::{can_be_pinned, has_tags, is_fresh, selector};
use super::{Criteria, ReadPreference, ReadPreferenceMode, Target};
use crate::description::{ServerDescription, ServerType, TopologyDescription, TopologyType};
use crate::error::{Error, ErrorKind, Ineligible, ServerReason};
use crate::host::ServerAddress;

/// Returns for each server of a topology why it is not suitable, or that it is.
pub fn reasons(topology: &TopologyDescription, criteria: &Criteria) -> Vec<ServerReason> {
    let mut reasons = by_rules(topology, criteria);
    if let Some(selector) = selector(topology, criteria) {
        let suits = |server: &ServerDescription| ineligible(topology, criteria, server) == Ineligible::Eligible;
        let kept = selector.filter(topology, topology.servers().iter().filter(|server| suits(server)).collect());
        let left_out =
            |reason: &&mut ServerReason| reason.reason == Ineligible::Eligible && kept.iter().all(|server| server.host != reason.host);
        for left_out in reasons.iter_mut().filter(left_out) {
            left_out.reason = Ineligible::Selector;
        }
    }
    reasons
}

/// Returns the reasons for a call without a suitable server, without running the application's selector: it excluded every
/// server that is eligible otherwise.
pub fn reasons_without_selector(topology: &TopologyDescription, criteria: &Criteria) -> Vec<ServerReason> {
    let mut reasons = by_rules(topology, criteria);
    if selector(topology, criteria).is_some() {
        for left_out in reasons.iter_mut().filter(|reason| reason.reason == Ineligible::Eligible) {
            left_out.reason = Ineligible::Selector;
        }
    }
    reasons
}

fn by_rules(topology: &TopologyDescription, criteria: &Criteria) -> Vec<ServerReason> {
    let reason = |server: &ServerDescription| ServerReason {
        host: server.host.clone(),
        reason: ineligible(topology, criteria, server),
        error: server.error.clone(),
    };
    topology.servers().iter().map(|server| reason(server)).collect()
}

fn ineligible(topology: &TopologyDescription, criteria: &Criteria, server: &ServerDescription) -> Ineligible {
    if !server.is_known() {
        return Ineligible::Unknown;
    }
    let reason = match (topology.kind(), &criteria.target) {
        (_, Target::Server(host)) if server.host != *host => Ineligible::OtherServer,
        (_, Target::Server(_)) => suits(can_be_pinned(topology, server), server),
        (TopologyType::Unknown, _) => Ineligible::Type(server.kind.name()),
        (TopologyType::Single | TopologyType::LoadBalanced, _) => Ineligible::Eligible,
        (TopologyType::Sharded, _) => suits(server.kind == ServerType::Mongos, server),
        (TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary, Target::Write) => {
            suits(server.kind == ServerType::RsPrimary, server)
        }
        (TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary, Target::AnyReadable) => {
            suits(server.kind.is_data_bearing(), server)
        }
        (TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary, Target::Read(preference)) => {
            for_read(topology, preference, server)
        }
    };
    if reason == Ineligible::Eligible && criteria.deprioritized.contains(&server.host) {
        return Ineligible::Deprioritized;
    }
    reason
}

fn for_read(topology: &TopologyDescription, preference: &ReadPreference, server: &ServerDescription) -> Ineligible {
    let is_primary = server.kind == ServerType::RsPrimary;
    let is_secondary = server.kind == ServerType::RsSecondary;
    let (of_type, filtered) = match preference.mode {
        ReadPreferenceMode::Primary => (is_primary, false),
        ReadPreferenceMode::Secondary => (is_secondary, true),
        ReadPreferenceMode::PrimaryPreferred | ReadPreferenceMode::SecondaryPreferred => (is_primary || is_secondary, is_secondary),
        ReadPreferenceMode::Nearest => (is_primary || is_secondary, true),
    };
    if !of_type {
        Ineligible::Type(server.kind.name())
    } else if filtered && !is_fresh(topology, server, preference) {
        Ineligible::TooStale
    } else if filtered && !preference.tag_sets.is_empty() && !preference.tag_sets.iter().any(|tags| has_tags(server, tags)) {
        Ineligible::Tags
    } else {
        Ineligible::Eligible
    }
}

fn suits(suits: bool, server: &ServerDescription) -> Ineligible {
    if suits { Ineligible::Eligible } else { Ineligible::Type(server.kind.name()) }
}

/// The maximum number of hosts in an error.
const NAMED_HOSTS_MAX: usize = 10;

/// Checks that a server belongs to the deployment, once all its members are known.
pub(super) fn check_member(topology: &TopologyDescription, host: &ServerAddress) -> Result<(), Error> {
    if topology.server(host).is_some() {
        return Ok(());
    }
    match topology.kind() {
        // More may become known.
        TopologyType::Unknown | TopologyType::ReplicaSetNoPrimary => Ok(()),
        TopologyType::Single | TopologyType::ReplicaSetWithPrimary | TopologyType::Sharded | TopologyType::LoadBalanced => {
            Err(no_member(topology, host))
        }
    }
}

#[cold]
fn no_member(topology: &TopologyDescription, host: &ServerAddress) -> Error {
    let servers = topology.servers();
    let mut known: Vec<String> = servers.iter().take(NAMED_HOSTS_MAX).map(|server| server.host.to_string()).collect();
    if servers.len() > NAMED_HOSTS_MAX {
        known.push(format!("and {} more", servers.len() - NAMED_HOSTS_MAX));
    }
    let text = format!("{host} is not a server of this topology of type {}; known hosts: {}", topology.kind().name(), known.join(", "));
    Error::new(ErrorKind::ServerSelection, text)
}
