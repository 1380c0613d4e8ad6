//! The servers suitable for a call, latency aside.
//!
//! Type, staleness, tags and the application's selector, in the order of server-selection, "Topology type:
//! ReplicaSetWithPrimary or ReplicaSetNoPrimary". Does not decide which suitable server is selected (`window`).

use std::sync::Arc;

use super::staleness::Staleness;
use super::{Criteria, ReadPreference, ReadPreferenceMode, ServerSelector, TagSet, Target};
use crate::description::{ServerDescription, ServerType, TopologyDescription, TopologyType};
use crate::host::ServerAddress;

/// The result of a selection that needs no iteration over the servers.
pub(super) enum Shortcut<'a> {
    /// This server, or none.
    Settled(Option<&'a Arc<ServerDescription>>),
    /// Any router within the latency window, which the description knows.
    NearRouter,
    /// The servers have to be iterated.
    Open,
}

/// Returns the result where no iteration is needed: a single server, a pinned one, the primary, a router.
pub(super) fn shortcut<'a>(topology: &'a TopologyDescription, criteria: &Criteria) -> Shortcut<'a> {
    match (topology.kind(), &criteria.target) {
        (TopologyType::Unknown, _) => Shortcut::Settled(None),
        (_, Target::Server(host)) => Shortcut::Settled(topology.server(host).filter(|server| can_be_pinned(topology, server))),
        _ if selector(topology, criteria).is_some() => Shortcut::Open,
        (TopologyType::Single | TopologyType::LoadBalanced, _) => {
            Shortcut::Settled(topology.servers().first().filter(|server| server.is_known()))
        }
        (TopologyType::Sharded, _) if criteria.deprioritized.is_empty() => Shortcut::NearRouter,
        (TopologyType::Sharded, _) => Shortcut::Open,
        (TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary, Target::Write) => Shortcut::Settled(topology.primary()),
        (TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary, Target::AnyReadable) => Shortcut::Open,
        (TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary, Target::Read(preference)) => match preference.mode {
            ReadPreferenceMode::Primary => Shortcut::Settled(topology.primary()),
            ReadPreferenceMode::PrimaryPreferred => {
                match topology.primary().filter(|primary| !criteria.deprioritized.contains(&primary.host)) {
                    Some(primary) => Shortcut::Settled(Some(primary)),
                    None => Shortcut::Open,
                }
            }
            ReadPreferenceMode::Secondary | ReadPreferenceMode::SecondaryPreferred | ReadPreferenceMode::Nearest => Shortcut::Open,
        },
    }
}

/// Returns all suitable servers; deprioritized ones only if no other is suitable.
///
/// Does not check the criteria: [`select`](super::select) does.
pub fn suitable_servers<'a>(topology: &'a TopologyDescription, criteria: &Criteria) -> Vec<&'a Arc<ServerDescription>> {
    let wanted = |servers| match selector(topology, criteria) {
        Some(selector) => selector.filter(topology, servers),
        None => servers,
    };
    let preferred = wanted(eligible(topology, criteria, Admit { but: &criteria.deprioritized }));
    if !preferred.is_empty() || criteria.deprioritized.is_empty() {
        return preferred;
    }
    wanted(eligible(topology, criteria, Admit { but: &[] }))
}

/// Returns whether any server is suitable, without running the application's selector.
pub(super) fn any_by_rules(topology: &TopologyDescription, criteria: &Criteria) -> bool {
    !eligible(topology, criteria, Admit { but: &[] }).is_empty()
}

/// Returns the application's selector where it applies: not behind a load balancer, and not for operations bound to one server.
pub(super) fn selector<'a>(topology: &'a TopologyDescription, criteria: &Criteria) -> Option<&'a ServerSelector> {
    let selector = topology.server_selector()?;
    let is_free = topology.kind() != TopologyType::LoadBalanced && !matches!(criteria.target, Target::Server(_));
    Some(selector).filter(|_| is_free)
}

/// Returns whether a server can continue what was started on it, such as a cursor.
pub(super) fn can_be_pinned(topology: &TopologyDescription, server: &ServerDescription) -> bool {
    server.kind.is_data_bearing() || (topology.kind() == TopologyType::Single && server.is_known())
}

/// Which servers are considered.
#[derive(Clone, Copy)]
struct Admit<'c> {
    but: &'c [ServerAddress],
}

impl Admit<'_> {
    fn admits(self, server: &ServerDescription) -> bool {
        self.but.is_empty() || !self.but.contains(&server.host)
    }
}

fn of_kind<'a>(
    topology: &'a TopologyDescription,
    admit: Admit<'_>,
    wanted: impl Fn(&ServerDescription) -> bool,
) -> Vec<&'a Arc<ServerDescription>> {
    let mut suitable = Vec::with_capacity(topology.servers().len());
    suitable.extend(topology.servers().iter().filter(|server| admit.admits(server) && wanted(server)));
    suitable
}

fn eligible<'a>(topology: &'a TopologyDescription, criteria: &Criteria, admit: Admit<'_>) -> Vec<&'a Arc<ServerDescription>> {
    if let Target::Server(host) = &criteria.target {
        return of_kind(topology, admit, |server| server.host == *host && can_be_pinned(topology, server));
    }
    match topology.kind() {
        TopologyType::Unknown => Vec::new(),
        TopologyType::Single | TopologyType::LoadBalanced => of_kind(topology, admit, |server| server.is_known()),
        TopologyType::Sharded => of_kind(topology, admit, |server| server.kind == ServerType::Mongos),
        TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary => {
            let primary = || of_kind(topology, admit, |server| server.kind == ServerType::RsPrimary);
            match &criteria.target {
                Target::Write | Target::Server(_) => primary(),
                Target::AnyReadable => of_kind(topology, admit, |server| server.kind.is_data_bearing()),
                Target::Read(preference) => by_mode(topology, preference, admit, primary),
            }
        }
    }
}

fn by_mode<'a>(
    topology: &'a TopologyDescription,
    preference: &ReadPreference,
    admit: Admit<'_>,
    primary: impl Fn() -> Vec<&'a Arc<ServerDescription>>,
) -> Vec<&'a Arc<ServerDescription>> {
    let members = |with_primary: bool| {
        let wanted = |server: &ServerDescription| match server.kind {
            ServerType::RsSecondary => true,
            ServerType::RsPrimary => with_primary,
            ServerType::Unknown
            | ServerType::Standalone
            | ServerType::Mongos
            | ServerType::RsArbiter
            | ServerType::RsOther
            | ServerType::RsGhost
            | ServerType::LoadBalancer => false,
        };
        let staleness = Staleness::of(topology, preference.max_staleness);
        let fresh = topology.servers().iter().filter(|server| admit.admits(server) && wanted(server) && staleness.admits(server));
        by_tags(fresh.collect(), &preference.tag_sets)
    };
    let first_of = |first: Vec<&'a Arc<ServerDescription>>, then: &dyn Fn() -> Vec<&'a Arc<ServerDescription>>| {
        if first.is_empty() { then() } else { first }
    };
    match preference.mode {
        ReadPreferenceMode::Primary => primary(),
        ReadPreferenceMode::PrimaryPreferred => first_of(primary(), &|| members(false)),
        ReadPreferenceMode::Secondary => members(false),
        ReadPreferenceMode::SecondaryPreferred => first_of(members(false), &primary),
        ReadPreferenceMode::Nearest => members(true),
    }
}

/// Keeps the servers that match the first tag set with any match; without tag sets all.
fn by_tags<'a>(servers: Vec<&'a Arc<ServerDescription>>, tag_sets: &[TagSet]) -> Vec<&'a Arc<ServerDescription>> {
    let Some(tags) = tag_sets.iter().find(|tags| servers.iter().any(|server| has_tags(server, tags))) else {
        return if tag_sets.is_empty() { servers } else { Vec::new() };
    };
    servers.into_iter().filter(|server| has_tags(server, tags)).collect()
}

/// Returns whether a server has all tags of a set.
pub(super) fn has_tags(server: &ServerDescription, tags: &[(String, String)]) -> bool {
    tags.iter().all(|tag| server.tags().contains(tag))
}

/// Returns whether a server is fresh enough for a read preference.
pub(super) fn is_fresh(topology: &TopologyDescription, server: &ServerDescription, preference: &ReadPreference) -> bool {
    Staleness::of(topology, preference.max_staleness).admits(server)
}
