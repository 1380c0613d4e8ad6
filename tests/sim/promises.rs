//! What must hold of routers, SRV records and load balancers?
//!
//! One function for each invariant, as in `invariants`; they are asked by `srv`, `balancer` and `calls`.

use std::collections::BTreeSet;
use std::time::Instant;

use bson::oid::ObjectId;
use mongolink::selection::{self, Criteria};
use mongolink::topology::{ServerType, TopologyAction, TopologyDescription, TopologyType};
use mongolink::{PoolStats, ServerAddress};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::invariants::{PoolLedger, violated};

/// Of several servers that suit, none is taken that is farther away than the latency window, or the busiest of all.
pub(crate) fn selected_is_near_and_free(topology: &TopologyDescription, selected: &ServerAddress, loads: &dyn Fn(&ServerAddress) -> u32) {
    let routers = || topology.servers().iter().filter(|server| server.kind == ServerType::Mongos);
    let Some(nearest) = routers().filter_map(|server| server.round_trip_time).min() else { return };
    let limit = nearest + topology.local_threshold();
    let near =
        |host: &ServerAddress| topology.server(host).and_then(|server| server.round_trip_time).is_none_or(|average| average <= limit);
    if !near(selected) {
        violated("selected_is_near_and_free", format!("{selected} is selected, which is not within {limit:?}: {topology}"));
    }
    let mut others = routers().map(|server| &server.host).filter(|host| *host != selected && near(host)).peekable();
    let load = loads(selected);
    if others.peek().is_some() && others.all(|host| loads(host) < load) {
        violated("selected_is_near_and_free", format!("{selected} has {load} operations, all others have less: {topology}"));
    }
}

/// Whoever may go to any router may go to each that suits and is near, and to no other.
pub(crate) fn every_near_router_is_had(topology: &TopologyDescription) {
    if topology.kind() != TopologyType::Sharded || !topology.is_compatible() {
        return;
    }
    let criteria = Criteria::write();
    let near = selection::in_latency_window(selection::suitable_servers(topology, &criteria), topology.local_threshold());
    let mut random = SmallRng::seed_from_u64(7);
    for wanted in topology.servers() {
        // It has the least to do: whenever it is drawn, it is taken.
        let loads = |host: &ServerAddress| u32::from(*host != wanted.host);
        let mut draw = || selection::select(topology, &criteria, &loads, &mut random).is_ok_and(|taken| taken.host == wanted.host);
        let is_had = (0..DRAWS).any(|_| draw());
        if is_had != near.iter().any(|server| server.host == wanted.host) {
            violated("every_near_router_is_had", format!("{} of {topology}: drawn {is_had}", wanted.host));
        }
    }
}

/// With so many draws of two, each of a dozen is drawn.
const DRAWS: usize = 200;

/// SRV records are looked at again when it is time, not before, and not later.
pub(crate) fn polling_keeps_its_distance(client: usize, due: Instant, now: Instant) {
    if now < due {
        violated("polling_keeps_its_distance", format!("client {client}: the SRV records are looked at {:?} too early", due - now));
    }
    if now > due {
        violated("polling_keeps_its_distance", format!("client {client}: the SRV records are looked at {:?} too late", now - due));
    }
}

/// One question for the SRV records is under way at the most.
pub(crate) fn srv_one_query(client: usize, in_flight: bool) {
    if in_flight {
        violated("srv_one_query", format!("client {client}: asks for the SRV records while a question is under way"));
    }
}

/// SRV records are looked at while no other topology than routers is known, and never after the shutdown.
pub(crate) fn only_routers_are_polled(client: usize, kind: TopologyType, is_shut_down: bool) {
    if !kind.follows_srv() || is_shut_down {
        let when = if is_shut_down { "after the shutdown" } else { "" };
        violated("only_routers_are_polled", format!("client {client}: the SRV records of a {} are looked at {when}", kind.name()));
    }
}

/// The hosts are those of the last good answer, as many as may be.
pub(crate) fn hosts_are_the_last_good(client: usize, hosts: &BTreeSet<ServerAddress>, good: &[ServerAddress], max: usize) {
    let known = hosts.iter().all(|host| good.contains(host));
    if !known || hosts.len() != good.len().min(max) {
        violated("hosts_are_the_last_good", format!("client {client}: uses {hosts:?}, at most {max} of {good:?}"));
    }
}

/// A host that is still in the records stays.
pub(crate) fn those_who_stay_are_left_alone(
    client: usize,
    before: &BTreeSet<ServerAddress>,
    good: &[ServerAddress],
    after: &BTreeSet<ServerAddress>,
) {
    if let Some(gone) = before.iter().find(|host| good.contains(host) && !after.contains(*host)) {
        violated("those_who_stay_are_left_alone", format!("client {client}: {gone} left, and is in the records still"));
    }
}

/// Within the bound after the records are good again, the hosts are theirs.
pub(crate) fn hosts_are_those_of_the_records(client: usize, hosts: &BTreeSet<ServerAddress>, records: &[ServerAddress], max: usize) {
    let known = hosts.iter().all(|host| records.contains(host));
    if !known || hosts.len() != records.len().min(max) {
        violated("hosts_are_those_of_the_records", format!("client {client}: still uses {hosts:?}, the records have {records:?}"));
    }
}

/// Every host has a pool and a monitor, and no other host has; a load balancer has no monitor.
pub(crate) fn removed_is_gone<'a>(
    client: usize,
    hosts: &BTreeSet<&'a ServerAddress>,
    pools: impl Iterator<Item = &'a ServerAddress>,
    monitors: impl Iterator<Item = &'a ServerAddress>,
    stray: Option<&ServerAddress>,
    is_balanced: bool,
) {
    if !pools.eq(hosts.iter().copied()) {
        violated("removed_is_gone", format!("client {client}: the pools are not those of {hosts:?}"));
    }
    let watched = if is_balanced { BTreeSet::new() } else { hosts.clone() };
    if !monitors.eq(watched.iter().copied()) {
        violated("removed_is_gone", format!("client {client}: the monitors are not those of {watched:?}"));
    }
    if let Some(host) = stray {
        violated("removed_is_gone", format!("client {client}: {host} is still checked, and nobody has told its monitor to stop"));
    }
}

/// The pool of a host that is gone has nothing but what callers still use.
pub(crate) fn removed_pool_is_empty(host: &ServerAddress, stats: &PoolStats, ledger: &PoolLedger) {
    let goes_on = ledger.opening.difference(&ledger.interrupted).next().is_some();
    if stats.ready || stats.idle > 0 || stats.waiting > 0 || goes_on {
        violated("removed_pool_is_empty", format!("{host} is gone, and its pool goes on: {stats:?}"));
    }
}

/// Nobody checks a load balancer, and its pool is never cleared as a whole.
#[allow(clippy::wildcard_enum_match_arm, reason = "all other orders are allowed")]
pub(crate) fn balancer_is_not_watched(action: &TopologyAction) {
    match action {
        TopologyAction::StartMonitor(_)
        | TopologyAction::StopMonitor(_)
        | TopologyAction::CheckNow(_)
        | TopologyAction::CancelCheck(_)
        | TopologyAction::Probe { .. }
        | TopologyAction::CheckTraffic { .. }
        | TopologyAction::EndProbe(_)
        | TopologyAction::ClearPool { .. } => violated("balancer_is_not_watched", format!("behind a load balancer: {action:?}")),
        _ => {}
    }
}

/// A load balancer is what it is, whatever happens.
pub(crate) fn balancer_stays_known(topology: &TopologyDescription, is_balanced: bool, watches: usize) {
    let known = topology.servers().iter().all(|server| server.kind == ServerType::LoadBalancer);
    if !is_balanced || !known || topology.servers().len() != 1 || watches > 0 {
        violated("balancer_stays_known", format!("{watches} monitors, and {topology}"));
    }
}

/// A connection gets a generation of its service that was never cleared.
pub(crate) fn generation_is_new(host: &ServerAddress, service: ObjectId, generation: u64, cleared: Option<u64>) {
    if cleared.is_some_and(|cleared| generation <= cleared) {
        violated("generation_is_new", format!("{host}: {service} gives out generation {generation}, {cleared:?} was cleared"));
    }
}

/// What is lent or rests reaches a service that was not cleared since.
pub(crate) fn service_is_current(host: &ServerAddress, connection: u64, is_obsolete: bool) {
    if is_obsolete {
        violated("service_is_current", format!("{host}: connection {connection} is of a cleared generation of its service"));
    }
}

/// When a service is cleared, its own obsolete connections are closed, and no others.
pub(crate) fn only_the_service_is_cleared(
    host: &ServerAddress,
    connection: u64,
    service: ObjectId,
    of: Option<ObjectId>,
    is_obsolete: bool,
) {
    if of != Some(service) || !is_obsolete {
        violated("only_the_service_is_cleared", format!("{host}: {service} is cleared, and connection {connection} of {of:?} is closed"));
    }
}

/// A service is cleared once for each of its generations, and not again for late errors of an older one.
pub(crate) fn service_is_cleared_once(host: &ServerAddress, service: ObjectId, is_old: bool, times: u64) {
    if times != u64::from(!is_old) {
        let of = if is_old { "an old" } else { "the current" };
        violated("service_is_cleared_once", format!("{host}: {service} is cleared {times} times for an error of {of} generation"));
    }
}

/// A broken connection is its service's fault.
pub(crate) fn failed_service_is_cleared(host: &ServerAddress, service: ObjectId, is_cleared: bool) {
    if !is_cleared {
        violated("failed_service_is_cleared", format!("{host}: a connection to {service} broke, and its service is not cleared"));
    }
}

/// The pool counts those connections as kept that cursors keep.
pub(crate) fn pinned_add_up(host: &ServerAddress, told: usize, kept: usize) {
    if told != kept {
        violated("pinned_add_up", format!("{host}: cursors keep {kept} connections, the pool counts {told}"));
    }
}

/// A cursor's commands reach the service that knows it.
pub(crate) fn cursor_stays_at_its_service(call: u64, code: Option<i64>) {
    if code == Some(CURSOR_NOT_FOUND) {
        violated("cursor_stays_at_its_service", format!("call {call}: its cursor is not known where the command went"));
    }
}

const CURSOR_NOT_FOUND: i64 = 43;
