use std::collections::BTreeMap;

use bson::oid::ObjectId;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::error::ErrorKind;

const HOSTS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn some_hosts(rng: &mut SmallRng) -> Vec<&'static str> {
    HOSTS.into_iter().filter(|_| rng.random_bool(0.7)).collect()
}

fn some_hello(rng: &mut SmallRng) -> HelloReply {
    let hosts = some_hosts(rng);
    let mut reply = match rng.random_range(0..8) {
        0 => standalone(),
        1 => HelloReply { is_mongos: true, ..standalone() },
        2 => HelloReply { is_replica_set: true, ..member(&[]) },
        3 | 4 => secondary(&hosts),
        5 => member(&hosts),
        _ => primary(&hosts),
    };
    reply.set_version = rng.random_bool(0.8).then(|| rng.random_range(1..4));
    reply.election_id = rng.random_bool(0.8).then(|| ObjectId::from([rng.random_range(1..5); 12]));
    if rng.random_bool(0.1) {
        reply.me = Some(key("a"));
    }
    if rng.random_bool(0.05) {
        reply.set_name = Some("other".into());
    }
    reply
}

fn step(scene: &mut Scene, rng: &mut SmallRng, ids: &mut u64) {
    let host = HOSTS[rng.random_range(0..HOSTS.len())];
    match rng.random_range(0..10) {
        0..=3 => {
            let reply = some_hello(rng);
            scene.hello(host, reply);
        }
        4 => scene.failed(host, refused()),
        5 => scene.fault(host, Fault::new(Error::new(ErrorKind::Closed, "closed").at(Stage::Read), rng.random_range(0..3))),
        6 => {
            *ids += 1;
            let limit = Duration::from_millis(rng.random_range(0..40));
            scene.select(*ids, Some(Deadline::new("limit", limit, scene.now)));
        }
        7 => scene.topology.handle_unanswered(&key(host), scene.now),
        8 => {
            let (id, now) = (ProbeId(rng.random_range(0..6)), scene.now);
            match rng.random_range(0..5) {
                4 => scene.topology.handle_probe_reached(&key(host), id, Duration::from_millis(rng.random_range(0..2000)), now),
                0 => scene.topology.handle_probed(&key(host), id, Ok(()), now),
                1 => scene.topology.handle_probed(&key(host), id, Err(refused()), now),
                _ => scene.topology.handle_probe_resolved(&key(host), id, now),
            }
        }
        _ => {
            let most = if rng.random_bool(0.1) { 8000 } else { 20 };
            scene.now += Duration::from_millis(rng.random_range(0..most));
            scene.topology.handle_timeout(scene.now);
            assert!(scene.topology.poll_timeout().is_none_or(|(at, _)| at > scene.now));
            scene.topology.handle_timeout(scene.now);
        }
    }
}

/// Follows the orders as a shell would, and says what does not fit.
#[derive(Default)]
struct Shell {
    pools: Vec<ServerAddress>,
    ready: Vec<ServerAddress>,
    monitors: Vec<ServerAddress>,
    answered: Vec<SelectId>,
    probes: BTreeMap<ServerAddress, ProbeId>,
    /// What is to be answered at once.
    overhearing: Vec<(ServerAddress, ProbeId)>,
    closing: Vec<ServerAddress>,
}

impl Shell {
    fn obey(&mut self, action: TopologyAction) {
        let take = |list: &mut Vec<ServerAddress>, host: &ServerAddress| {
            let at = list.iter().position(|other| other == host).expect("known host");
            list.remove(at);
        };
        match action {
            TopologyAction::CreatePool { host, .. } => {
                assert!(!self.pools.contains(&host));
                self.pools.push(host);
            }
            TopologyAction::ClosePool(host) => {
                self.ready.retain(|other| *other != host);
                take(&mut self.pools, &host);
                self.closing.push(host);
            }
            TopologyAction::InterruptRetired { .. } => {}
            TopologyAction::ReadyPool(host) => {
                assert!(self.pools.contains(&host) && !self.ready.contains(&host));
                self.ready.push(host);
            }
            TopologyAction::ClearPool { host, .. } => {
                assert!(self.pools.contains(&host));
                self.ready.retain(|other| *other != host);
            }
            TopologyAction::ClearService { host, .. } => panic!("{host} is no load balancer"),
            TopologyAction::StartMonitor(host) => {
                assert!(!self.monitors.contains(&host));
                self.monitors.push(host);
            }
            TopologyAction::StopMonitor(host) => take(&mut self.monitors, &host),
            TopologyAction::CheckNow(host) | TopologyAction::CancelCheck(host) => assert!(self.monitors.contains(&host)),
            TopologyAction::Probe { host, id, again } => {
                assert_eq!(self.probes.contains_key(&host), again, "one probe at a time");
                self.probes.insert(host, id);
            }
            TopologyAction::CheckTraffic { host, id } => {
                assert_eq!(self.probes.get(&host), Some(&id));
                self.overhearing.push((host, id));
            }
            TopologyAction::EndProbe(host) => assert!(self.probes.remove(&host).is_some()),
            TopologyAction::Publish(topology) => {
                let primaries = topology.servers().iter().filter(|server| server.kind == ServerType::RsPrimary).count();
                assert!(primaries <= 1);
                assert_eq!(topology.kind() == TopologyType::ReplicaSetWithPrimary, primaries == 1);
                assert_eq!(topology.primary().is_some(), primaries == 1);
                assert!(topology.servers().is_sorted_by(|a, b| a.host < b.host));
                let open = topology.servers().iter().filter(|server| server.kind.is_data_bearing());
                assert!(open.clone().all(|server| self.ready.contains(&server.host)));
            }
            TopologyAction::Selected(id) | TopologyAction::NotSelected(id, _) => {
                assert!(!self.answered.contains(&id));
                self.answered.push(id);
            }
        }
    }
}

#[test]
fn any_sequence_keeps_the_invariants() {
    for seed in 0..300 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut scene = if rng.random_bool(0.5) { Scene::of_set(&["a", "b"]) } else { Scene::new(TopologyConfig::new(keys(&["a", "b"]))) };
        let (mut shell, mut ids, mut newest) = (Shell::default(), 0, (None, None));
        for _ in 0..200 {
            step(&mut scene, &mut rng, &mut ids);
            while let Some(action) = scene.topology.poll_action() {
                shell.obey(action);
                while let Some((host, id)) = shell.overhearing.pop() {
                    scene.topology.handle_traffic_checked(&host, id, rng.random_bool(0.3), scene.now);
                }
                while let Some(host) = shell.closing.pop() {
                    scene.topology.handle_pool_closed(&host, rng.random_bool(0.5), scene.now);
                }
            }
            let description = scene.topology.description();
            let election = (description.max_election_id(), description.max_set_version());
            assert!(election >= newest, "seed {seed}");
            newest = election;
        }
        scene.topology.handle_shutdown(scene.now);
        while let Some(action) = scene.topology.poll_action() {
            shell.obey(action);
        }
        assert!(shell.pools.is_empty() && shell.monitors.is_empty() && shell.ready.is_empty() && shell.probes.is_empty(), "seed {seed}");
        assert_eq!(shell.answered.len() as u64, ids, "seed {seed}");
        let events: Vec<_> = std::iter::from_fn(|| scene.topology.poll_event()).collect();
        assert!(matches!(events.first(), Some(TopologyEvent::TopologyOpening)));
        assert!(matches!(events.last(), Some(TopologyEvent::TopologyClosed)));
    }
}
