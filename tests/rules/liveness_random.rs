//! Random facts about liveness probes, and the actions that each must cause.
//!
//! The facts of `topology::liveness`, among the others of `topology_random`.

use std::time::{Duration, Instant};

use mongolink::topology::{ProbeId, ServerDescription, TopologyDescription, TopologyType};
use mongolink::{Error, ErrorKind, ServerAddress, Stage};
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::liveness_model::{CEILING, LivenessModel, Step};
use crate::support::{closed_by_peer, ms};
use crate::topology_model::{Outcome, Scene, is_busy};

/// How long a command may be unanswered.
const UNANSWERED: Duration = Duration::from_secs(5);

/// The shortest silence of a deposed primary.
const DEPOSED: Duration = Duration::from_millis(1500);

/// The shortest delay of an answer to a monitor that counts as late.
const SLACK: Duration = Duration::from_secs(1);

/// A command is unanswered: the server is probed, unless its next answer to its monitor is not due yet.
pub(crate) fn unanswered(scene: &mut Scene, host: &ServerAddress) {
    scene.look();
    let topology = scene.topology.description();
    let balanced = topology.kind() == TopologyType::LoadBalanced;
    let silent = |server: &ServerDescription| {
        let answered = scene.probes.answered(&server.host).filter(|_| server.is_known());
        answered.is_none_or(|at| at + topology.heartbeat_frequency() + limit(SLACK, server) <= scene.now)
    };
    // A server that has left has no monitor.
    let asked_for = match topology.server(host) {
        Some(server) => Some(limit(UNANSWERED, server)).filter(|_| silent(server)),
        None => Some(DEPOSED).filter(|_| is_busy(host)),
    };
    if asked_for.is_none() && topology.server(host).is_none() {
        return;
    }
    let free = !balanced && scene.probes.probe(host).is_none() && !scene.probes.rests(host, scene.now);
    let asks = asked_for.filter(|_| free);
    if let Some(limit) = asks {
        scene.probes.expect(host, limit);
    }
    scene.topology.handle_unanswered(host, scene.now);
    let outcome = scene.look();
    assert_eq!(outcome.asked.len(), usize::from(asks.is_some()));
    nothing_else(&outcome);
}

/// A fact about a running probe, or about one that is over.
pub(crate) fn answer(scene: &mut Scene, rng: &mut SmallRng) {
    scene.look();
    let under_way: Vec<ServerAddress> = scene.probes.hosts().cloned().collect();
    if under_way.is_empty() {
        return;
    }
    let host = &under_way[rng.random_range(0..under_way.len())];
    let probe = scene.probes.probe(host).expect("a probe");
    let own = rng.random_bool(0.9);
    let id = if own { probe.id } else { ProbeId(probe.id.0 + 1_000) };
    match probe.step {
        Step::CheckingTraffic { .. } => traffic_checked(scene, host, id, own, rng.random_bool(0.4)),
        Step::Naming { .. } if rng.random_bool(0.8) => {
            scene.probes.named(host, id, scene.now);
            scene.topology.handle_probe_resolved(host, id, scene.now);
            let outcome = scene.look();
            assert!(outcome.ended.is_empty() && outcome.asked.is_empty());
            nothing_else(&outcome);
        }
        Step::Naming { .. } | Step::Asked { .. } if rng.random_bool(0.4) => {
            let took = ms([0, 1, 100, 900, 5_000, 60_000][rng.random_range(0..6)]);
            scene.probes.reached(host, id, took, scene.now);
            scene.topology.handle_probe_reached(host, id, took, scene.now);
            let outcome = scene.look();
            assert!(outcome.ended.is_empty() && outcome.asked.is_empty());
            nothing_else(&outcome);
        }
        Step::Naming { .. } | Step::Asked { .. } if rng.random_bool(0.1) => traffic_checked(scene, host, id, false, false),
        Step::Naming { .. } | Step::Asked { .. } => probed(scene, host, id, own, rng),
    }
}

/// An attempt ends: any answer of the server's process counts, and a server that could not be reached is not silent.
fn probed(scene: &mut Scene, host: &ServerAddress, id: ProbeId, own: bool, rng: &mut SmallRng) {
    let refused = Error::new(ErrorKind::Io(std::io::ErrorKind::ConnectionRefused), "refused").at(Stage::Tcp);
    let (outcome, ends) = match rng.random_range(0..6) {
        0 => (Ok(()), true),
        1 => (Err(Error::new(ErrorKind::Closed, "closed").at(Stage::Hello)), true),
        2 => (Err(Error::new(ErrorKind::DnsFailed, "no answer").at(Stage::Dns)), true),
        3 => (Err(refused), false),
        4 => (Err(Error::timeout(Stage::Hello, "connectTimeoutMS", ms(1), ms(1))), false),
        _ => (Err(Error::timeout(Stage::Tcp, "connectTimeoutMS", ms(1), ms(1))), false),
    };
    let ends = ends && own;
    if outcome.as_ref().is_err_and(|error| error.message() == "refused") {
        scene.probes.reached(host, id, Duration::ZERO, scene.now);
    }
    scene.topology.handle_probed(host, id, outcome, scene.now);
    if ends {
        scene.rest(host);
    }
    let seen = scene.look();
    assert_eq!(seen.ended.len(), usize::from(ends), "a probe ends with a liveness probe");
    nothing_else(&seen);
}

/// The server's connections have received something, or nothing: then the server becomes unknown, its pool is cleared, and
/// the commands in flight are interrupted.
fn traffic_checked(scene: &mut Scene, host: &ServerAddress, id: ProbeId, counts: bool, anything: bool) {
    let generation = scene.topology.generation(host);
    scene.topology.handle_traffic_checked(host, id, anything, scene.now);
    if counts && anything {
        scene.rest(host);
    }
    let outcome = scene.look();
    assert_eq!(outcome.ended.len(), usize::from(counts), "a probe ends with the verdict");
    if !counts || anything {
        return nothing_else(&outcome);
    }
    assert_eq!(outcome.interrupted, std::slice::from_ref(host), "the connections in use of its retired pools are interrupted");
    let Some(generation) = generation else {
        assert!(outcome.actions == 0 && outcome.events == 0, "of a server that has left nothing else is known: {outcome:?}");
        return;
    };
    let server = scene.topology.description().server(host).expect("a server");
    assert!(!server.is_known() && server.error.as_ref().is_some_and(|error| error.kind() == ErrorKind::Silent), "{server} is silent");
    assert_eq!(outcome.cleared, [(host.clone(), true)], "what is in flight on a silent server is interrupted");
    assert_eq!(outcome.cancelled, std::slice::from_ref(host));
    assert_eq!(scene.topology.generation(host), Some(generation + 1));
}

/// A reply was handled: expects that the primary that it deposed is probed.
pub(crate) fn foretell_deposed(scene: &mut Scene, heard: &ServerAddress, before: &TopologyDescription) {
    let Some(deposed) = before.primary() else { return };
    let after = scene.topology.description();
    let replaced = after.primary().is_some_and(|primary| primary.host != deposed.host);
    if !replaced || after.server(&deposed.host).is_none_or(|server| server.is_known()) {
        return;
    }
    let limit = limit(DEPOSED, deposed);
    if scene.probes.probe(&deposed.host).is_some() && deposed.host != *heard {
        scene.probes.shorten(&deposed.host, limit, scene.now);
    } else {
        scene.probes.expect(&deposed.host, limit);
    }
}

/// A server has left with commands in flight: expects that it is probed.
pub(crate) fn foretell_left(probes: &mut LivenessModel, host: &ServerAddress, average: Option<Duration>, now: Instant) {
    let limit = average.map_or(DEPOSED, |average| (8 * average).clamp(DEPOSED, CEILING));
    match (probes.probe(host), average) {
        (Some(_), Some(_)) => probes.shorten(host, limit, now),
        // Its round-trip time is unknown: the probe keeps its limit.
        (Some(_), None) => {}
        (None, _) => probes.expect(host, limit),
    }
}

/// Facts about liveness probes after the shutdown.
pub(crate) fn after_the_end(scene: &mut Scene, host: &ServerAddress) {
    scene.topology.handle_unanswered(host, scene.now);
    scene.topology.handle_probe_resolved(host, ProbeId(0), scene.now);
    scene.topology.handle_probed(host, ProbeId(0), Err(closed_by_peer()), scene.now);
    scene.topology.handle_traffic_checked(host, ProbeId(0), false, scene.now);
    scene.topology.handle_probe_reached(host, ProbeId(0), ms(1), scene.now);
    scene.topology.handle_pool_closed(host, true, scene.now);
}

fn limit(floor: Duration, server: &ServerDescription) -> Duration {
    server.round_trip_time.map_or(floor, |average| (8 * average).clamp(floor, CEILING))
}

fn nothing_else(outcome: &Outcome) {
    assert!(outcome.interrupted.is_empty());
    assert!(outcome.actions == 0 && outcome.events == 0, "a question for an answer to a liveness probe has an effect: {outcome:?}");
}
