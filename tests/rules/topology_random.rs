//! Random sequences of facts for a topology, and the actions that each must cause.
//!
//! Sets, sharded clusters, single servers and load balancers; replies that contradict each other, stale ones, failed
//! checks, and errors of connections of any generation.

use std::sync::Arc;
use std::time::Instant;

use mongolink::bson::oid::ObjectId;
use mongolink::deadline::Deadline;
use mongolink::selection::Criteria;
use mongolink::topology::{Fault, SelectId, ServerType, StateChange, TopologyConfig, TopologyDescription, TopologyType};
use mongolink::{Error, ErrorKind, HelloReply, ReadPreference, ServerAddress, Stage, TopologyVersion};
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::liveness_random;
use crate::support::{closed_by_peer, for_seeds, key, ms};
use crate::topology_model::{Order, Scene, is_busy};

const SEEDS: u64 = 2_500;
const STEPS: usize = 80;
const HOSTS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// The kind of deployment that most replies are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    Set,
    Sharded,
    Single,
    Balanced,
}

#[test]
fn topology_keeps_its_rules() {
    let began = Instant::now();
    for_seeds(SEEDS, |rng| {
        let world = [World::Set, World::Set, World::Set, World::Sharded, World::Single, World::Balanced][rng.random_range(0..6)];
        let order = if rng.random_bool(0.6) { Order::ElectionFirst } else { Order::VersionFirst };
        let mut scene = Scene::new(config(rng, world), order, rng.random(), began);
        let mut callers = 0;
        for _ in 0..STEPS {
            step(&mut scene, world, rng, &mut callers);
        }
        scene.shut_down();
        for _ in 0..10 {
            after_the_end(&mut scene, world, rng, &mut callers);
        }
    });
}

fn config(rng: &mut SmallRng, world: World) -> TopologyConfig {
    let seeds = match world {
        World::Single | World::Balanced => 1,
        World::Set | World::Sharded => rng.random_range(1..4),
    };
    let mut config = TopologyConfig::new(HOSTS.iter().take(seeds).map(|host| key(host)).collect());
    config.set_name = (world != World::Sharded && rng.random_bool(0.4)).then(|| "rs".to_owned());
    config.direct_connection = (world == World::Single && rng.random_bool(0.7)).then_some(true);
    config.load_balanced = world == World::Balanced;
    config.srv = world == World::Sharded && rng.random_bool(0.5);
    config.srv_max_hosts = rng.random_range(0..4);
    if config.load_balanced {
        config.set_name = None;
    }
    config
}

fn step(scene: &mut Scene, world: World, rng: &mut SmallRng, callers: &mut u64) {
    let host = key(HOSTS[rng.random_range(0..HOSTS.len())]);
    match rng.random_range(0..25) {
        0..=7 => hello(scene, &host, world, rng),
        8 | 9 => check_failed(scene, &host, rng),
        10..=12 => fault(scene, &host, rng),
        13 => round_trips(scene, &host, rng),
        14 | 15 => {
            select(scene, rng, callers);
        }
        16 => scene.cancel_select(rng.random_range(0..3)),
        17 => {
            let hosts: Vec<ServerAddress> = HOSTS.iter().filter(|_| rng.random_bool(0.5)).map(|host| key(host)).collect();
            scene.topology.handle_srv_hosts(hosts, scene.now);
        }
        18 => {
            let due = scene.topology.poll_timeout().map_or(scene.now, |(at, _)| at);
            scene.now = scene.now.max(due);
            scene.time();
        }
        19 => liveness_random::unanswered(scene, &host),
        20..=22 => liveness_random::answer(scene, rng),
        23 if rng.random_bool(0.3) => {
            scene.now += ms(rng.random_range(0..9_000));
            scene.time();
        }
        _ => {
            scene.now += ms(rng.random_range(0..40));
            scene.time();
        }
    }
    scene.look();
}

/// A caller selects a server; returns whether the answer came at once.
fn select(scene: &mut Scene, rng: &mut SmallRng, callers: &mut u64) -> bool {
    *callers += 1;
    let criteria = match rng.random_range(0..4) {
        0 => Criteria::write(),
        1 => Criteria::any_readable(),
        2 => Criteria::read(ReadPreference::secondary()),
        _ => Criteria::server(key(HOSTS[rng.random_range(0..HOSTS.len())])),
    };
    let limit = rng.random_bool(0.8).then(|| ms(rng.random_range(0..200)));
    scene.look();
    let waiting = scene.topology.waiting();
    scene.select(SelectId(*callers), criteria, Deadline::maybe("serverSelectionTimeoutMS", limit, scene.now));
    let waits = scene.topology.waiting() > waiting;
    let hosts = hosts(scene.topology.description());
    let balanced = scene.topology.description().kind() == TopologyType::LoadBalanced;
    let outcome = scene.look();
    assert_eq!(outcome.checks, if waits && !balanced { hosts } else { Vec::new() }, "a waiter has every server checked");
    !waits && outcome.actions == 1
}

/// A round trip is measured apart from the checks: there is no event, but the server has answered.
fn round_trips(scene: &mut Scene, host: &ServerAddress, rng: &mut SmallRng) {
    scene.look();
    let is_known = scene.topology.description().server(host).is_some_and(|server| server.is_known());
    let asked = scene.probes.probe(host).is_some();
    if is_known {
        scene.probes.answer(host, scene.now);
    }
    scene.topology.handle_rtt(host, ms(rng.random_range(1..50)), ms(1), scene.now);
    let outcome = scene.look();
    assert_eq!((outcome.ended.len(), outcome.events), (usize::from(is_known && asked), 0));
}

/// A hello reply: an outdated one changes nothing; otherwise the server is as the reply says, or is left out.
fn hello(scene: &mut Scene, host: &ServerAddress, world: World, rng: &mut SmallRng) {
    scene.look();
    let before = Arc::clone(scene.topology.description());
    let reply = some_hello(scene, world, rng);
    let known = before.server(host).and_then(|server| server.topology_version);
    let stale =
        matches!((reply.topology_version, known), (Some(new), Some(old)) if new.process_id == old.process_id && new.counter < old.counter);
    let (version, says_primary) = (reply.topology_version, ServerType::of_hello(&reply) == ServerType::RsPrimary);
    let election = (reply.election_id, reply.set_version);
    let said = reply.clone();
    let mut asked: Vec<ServerAddress> = scene.probes.hosts().filter(|_| world != World::Balanced).cloned().collect();
    let round_trip = ms([5, 300, 10_000][rng.random_range(0..3)]);
    if before.server(host).is_some() {
        scene.probes.answer(host, scene.now);
    }
    scene.topology.handle_hello(host, reply, Some(round_trip), scene.now);
    let after = Arc::clone(scene.topology.description());
    liveness_random::foretell_deposed(scene, host, &before);
    let mut outcome = scene.look();
    let leaves = |asked: &ServerAddress| before.server(asked).is_some() && after.server(asked).is_none() && !is_busy(asked);
    asked.retain(|asked| leaves(asked) || (asked == host && before.server(host).is_some()));
    asked.sort();
    outcome.ended.sort();
    assert_eq!(outcome.ended, asked, "who is heard, or gone, is not asked for an answer to a liveness probe any more");
    if stale || before.server(host).is_none() || world == World::Balanced {
        assert!(Arc::ptr_eq(&before, &after) && outcome.actions == 0 && outcome.events == 0, "a reply that is too old has an effect");
        return;
    }
    assert!(outcome.cleared.is_empty(), "a reply clears no pool");
    check_members(host, &said, &before, &after);
    let Some(server) = after.server(host) else { return };
    assert!(!server.is_known() || server.topology_version == version, "the version of the server's state");
    assert_eq!(server.last_update, Some(scene.now).filter(|_| server.last_update.is_some()));
    if says_primary && after.kind().is_replica_set() && scene.order == Order::ElectionFirst && before.kind().is_replica_set() {
        let newest = (before.max_election_id(), before.max_set_version());
        assert_eq!(server.kind == ServerType::RsPrimary, election >= newest, "{election:?} against {newest:?}");
    }
}

/// Checks that only the accepted primary's list of members counts, and every member's without a primary.
fn check_members(host: &ServerAddress, said: &HelloReply, before: &TopologyDescription, after: &TopologyDescription) {
    if !after.kind().is_replica_set() {
        return;
    }
    let mut named: Vec<ServerAddress> = said.hosts.iter().chain(&said.passives).chain(&said.arbiters).cloned().collect();
    named.sort();
    named.dedup();
    let kind = ServerType::of_hello(said);
    let is_primary = after.server(host).is_some_and(|server| server.kind == ServerType::RsPrimary);
    let is_member = matches!(kind, ServerType::RsSecondary | ServerType::RsArbiter | ServerType::RsOther);
    if is_primary {
        assert_eq!(hosts(after), named, "the primary's members are all there are");
    } else if is_member && said.set_name.as_deref() != after.set_name() {
        assert!(after.server(host).is_none(), "{host} is of another set, and stays");
    } else if is_member && said.me.as_ref().is_some_and(|me| me != host) {
        assert!(after.server(host).is_none(), "{host} is called otherwise, and stays");
    } else if is_member && before.primary().is_some_and(|primary| primary.host != *host) {
        assert!(hosts(after).iter().all(|host| before.server(host).is_some()), "a member adds members beside the primary");
    } else if is_member && before.primary().is_none() {
        assert!(named.iter().all(|host| after.server(host).is_some()), "without a primary every member's word counts");
    }
}

fn hosts(topology: &TopologyDescription) -> Vec<ServerAddress> {
    topology.servers().iter().map(|server| server.host.clone()).collect()
}

/// A failed check: the server becomes unknown and its pool is cleared; a time-out also interrupts connections in use.
fn check_failed(scene: &mut Scene, host: &ServerAddress, rng: &mut SmallRng) {
    scene.look();
    let error = match rng.random_range(0..3) {
        0 => Error::timeout(Stage::Hello, "connectTimeoutMS", ms(10), ms(10)),
        1 => closed_by_peer(),
        _ => Error::new(ErrorKind::DnsFailed, "no answer").at(Stage::Dns),
    };
    let (is_there, watched) = (scene.topology.description().server(host).is_some(), scene.topology.description().kind());
    let balanced = watched == TopologyType::LoadBalanced;
    let generation = scene.topology.generation(host);
    let asked = scene.probes.probe(host).is_some();
    scene.topology.handle_check_failed(host, error.clone(), scene.now);
    let late = error.kind() == ErrorKind::Timeout && is_there && !balanced;
    if late {
        scene.probes.forget(host);
    }
    let outcome = scene.look();
    assert_eq!(outcome.ended.len(), usize::from(late && asked), "the monitor's time-out is a verdict already");
    assert_eq!(outcome.interrupted, outcome.ended, "the monitor's time-out has the effect of a verdict");
    if !is_there || balanced {
        assert!(outcome.actions == 0 && outcome.events == 0);
        return;
    }
    assert!(unknown(scene.topology.description(), host), "a server that can't be checked is unknown");
    assert_eq!(outcome.cleared, [(host.clone(), error.kind() == ErrorKind::Timeout)]);
    assert_eq!(scene.topology.generation(host), generation.map(|generation| generation + 1));
}

/// The expected effect of a connection's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Nothing,
    /// The server becomes unknown, its pool is cleared, the running check cancelled.
    Broken,
    /// The server becomes unknown and is checked; its pool is cleared if the server shuts down.
    StateChanged {
        clear: bool,
    },
}

fn fault(scene: &mut Scene, host: &ServerAddress, rng: &mut SmallRng) {
    scene.look();
    let before = Arc::clone(scene.topology.description());
    if before.kind() == TopologyType::LoadBalanced {
        return fault_behind_load_balancer(scene, host, rng);
    }
    let (Some(server), Some(generation)) = (before.server(host).cloned(), scene.topology.generation(host)) else {
        scene.topology.handle_fault(host, Fault::new(closed_by_peer(), 99), scene.now);
        assert_eq!(scene.look().actions, 0, "an error of a server that is gone has an effect");
        return;
    };
    let stale = rng.random_bool(0.3) && generation > 0;
    let own = if stale { rng.random_range(0..generation) } else { generation };
    let (mut fault, mut effect) = match rng.random_range(0..6) {
        0 => (Fault::new(closed_by_peer(), own), Effect::Broken),
        1 => (Fault::new(Error::timeout(Stage::Read, "socketTimeoutMS", ms(1), ms(1)), own), Effect::Nothing),
        2 => (Fault::new(Error::new(ErrorKind::Auth, "refused").at(Stage::Auth), own).during_handshake(), Effect::Broken),
        3 => (Fault::new(Error::timeout(Stage::Hello, "connectTimeoutMS", ms(1), ms(1)), own).during_handshake(), Effect::Broken),
        4 => {
            let overloaded = closed_by_peer().with_label("SystemOverloadedError");
            (Fault::new(overloaded, own).during_handshake(), Effect::Nothing)
        }
        _ => {
            let changes = [StateChange::NotWritablePrimary, StateChange::Recovering, StateChange::ShuttingDown];
            let change = changes[rng.random_range(0..3)];
            let mut fault = Fault::new(Error::new(ErrorKind::Protocol, "not primary").at(Stage::Server), own);
            fault.state_change = Some(change);
            fault.topology_version = version(rng);
            (fault, Effect::StateChanged { clear: change == StateChange::ShuttingDown })
        }
    };
    let outdated = matches!((fault.topology_version, server.topology_version), (Some(new), Some(old)) if new.process_id == old.process_id && new.counter <= old.counter);
    if stale || outdated {
        effect = Effect::Nothing;
    }
    fault.error = fault.error.on(host);
    let shown = fault.clone();
    scene.topology.handle_fault(host, fault, scene.now);
    let after = Arc::clone(scene.topology.description());
    let waiting = scene.topology.waiting() > 0;
    let outcome = scene.look();
    let cleared = match effect {
        Effect::Nothing => {
            assert!(Arc::ptr_eq(&before, &after) && outcome.actions == 0 && outcome.events == 0, "{shown:?} has an effect");
            return;
        }
        Effect::Broken => {
            assert_eq!(outcome.cancelled, std::slice::from_ref(host), "the running check is cancelled");
            true
        }
        Effect::StateChanged { clear } => {
            assert!(outcome.checks.contains(host), "{host} is to be checked at once");
            clear
        }
    };
    assert!(unknown(&after, host), "{shown:?} leaves {host} known");
    assert_eq!(outcome.cleared, if cleared { vec![(host.clone(), false)] } else { Vec::new() });
    assert_eq!(scene.topology.generation(host), Some(generation + u64::from(cleared)));
    let asked = matches!(effect, Effect::StateChanged { .. }) || waiting;
    assert_eq!(!outcome.checks.is_empty(), asked, "checks are requested after a change of state, and by waiters");
    let server = after.server(host).expect("a server");
    assert_eq!(server.topology_version, shown.topology_version, "the error's version is remembered");
}

/// Behind a load balancer nothing makes a server unknown; only a service's connections are cleared.
fn fault_behind_load_balancer(scene: &mut Scene, host: &ServerAddress, rng: &mut SmallRng) {
    let before = Arc::clone(scene.topology.description());
    let service = rng.random_bool(0.5).then(|| ObjectId::from_bytes([7; 12]));
    let (is_there, generation) = (before.server(host).is_some(), rng.random_range(0..3));
    scene.topology.handle_fault(host, Fault::new(closed_by_peer(), generation).of_service(service), scene.now);
    let outcome = scene.look();
    assert!(Arc::ptr_eq(&before, scene.topology.description()) && outcome.cleared.is_empty());
    let expected = service.filter(|_| is_there).map(|service| (host.clone(), service, generation));
    assert_eq!(outcome.services, Vec::from_iter(expected), "the service's connections are cleared, and no others");
}

/// After the shutdown the only answers are refusals.
fn after_the_end(scene: &mut Scene, world: World, rng: &mut SmallRng, callers: &mut u64) {
    let host = key(HOSTS[rng.random_range(0..HOSTS.len())]);
    let reply = some_hello(scene, world, rng);
    scene.topology.handle_hello(&host, reply, Some(ms(5)), scene.now);
    scene.topology.handle_check_failed(&host, closed_by_peer(), scene.now);
    scene.topology.handle_fault(&host, Fault::new(closed_by_peer(), 99), scene.now);
    scene.topology.handle_rtt(&host, ms(1), ms(1), scene.now);
    scene.topology.handle_srv_hosts(vec![host.clone()], scene.now);
    liveness_random::after_the_end(scene, &host);
    scene.topology.handle_shutdown(scene.now);
    scene.now += ms(50);
    scene.time();
    let outcome = scene.look();
    assert!(outcome.actions == 0 && outcome.events == 0, "something is said after the end");
    assert!(select(scene, rng, callers), "who comes after the end is refused at once");
}

fn unknown(topology: &TopologyDescription, host: &ServerAddress) -> bool {
    topology.server(host).is_some_and(|server| server.kind == ServerType::Unknown && server.error.is_some())
}

fn some_hello(scene: &Scene, world: World, rng: &mut SmallRng) -> HelloReply {
    let mut reply = HelloReply::default();
    reply.max_wire_version = match scene.order {
        Order::ElectionFirst => 21,
        Order::VersionFirst => 16,
    };
    reply.topology_version = version(rng);
    reply.last_write_date_millis = Some(rng.random_range(0..1_000));
    if rng.random_bool(0.02) {
        (reply.min_wire_version, reply.max_wire_version) = match scene.order {
            Order::ElectionFirst => (40, 41),
            Order::VersionFirst => (0, 6),
        };
    }
    let odd = rng.random_bool(0.05);
    if world == World::Sharded && !odd {
        reply.is_mongos = true;
    } else if world == World::Single && rng.random_bool(0.4) {
        reply.is_writable_primary = true;
    } else if odd && rng.random_bool(0.5) {
        (reply.is_replica_set, reply.is_writable_primary) = if rng.random() { (true, false) } else { (false, true) };
    } else {
        member(&mut reply, rng);
    }
    reply
}

/// Makes a reply that of a replica set's member.
fn member(reply: &mut HelloReply, rng: &mut SmallRng) {
    reply.set_name = Some(if rng.random_bool(0.03) { "other" } else { "rs" }.to_owned());
    reply.hosts = HOSTS.iter().filter(|_| rng.random_bool(0.8)).map(|host| key(host)).collect();
    reply.passives = HOSTS.iter().filter(|_| rng.random_bool(0.1)).map(|host| key(host)).collect();
    match rng.random_range(0..10) {
        0..=3 => reply.is_writable_primary = true,
        4..=7 => reply.secondary = true,
        8 => reply.arbiter_only = true,
        _ => reply.hidden = rng.random_bool(0.5),
    }
    reply.set_version = rng.random_bool(0.9).then(|| rng.random_range(1..5));
    reply.election_id = rng.random_bool(0.9).then(|| ObjectId::from_bytes([rng.random_range(1..6); 12]));
    reply.me = rng.random_bool(0.05).then(|| key(HOSTS[rng.random_range(0..HOSTS.len())]));
}

fn version(rng: &mut SmallRng) -> Option<TopologyVersion> {
    rng.random_bool(0.5).then(|| TopologyVersion::new(ObjectId::from_bytes([rng.random_range(1..3); 12]), rng.random_range(0..6)))
}
