//! What the hosts of SRV records do to a topology.

use std::collections::BTreeSet;

use super::*;

/// A topology of SRV seeds that have turned out to be routers.
fn routers(seeds: &[&str], max_hosts: u32, seed: u64) -> Scene {
    let mut config = TopologyConfig::new(keys(seeds));
    (config.srv, config.srv_max_hosts) = (true, max_hosts);
    let now = Instant::now();
    let mut scene = Scene { topology: Topology::new(config, seed, now), now };
    for host in seeds {
        scene.hello(host, HelloReply { is_mongos: true, max_wire_version: 21, ..HelloReply::default() });
    }
    assert_eq!(scene.kind(), TopologyType::Sharded);
    scene.drain();
    scene
}

fn hosts(scene: &Scene) -> Vec<String> {
    scene.topology.description().servers().iter().map(|server| name(&server.host)).collect()
}

#[test]
fn srv_hosts_that_stay_are_left_alone() {
    let mut scene = routers(&["a", "b"], 0, 1);
    scene.topology.handle_srv_hosts(keys(&["b", "c"]), scene.now);
    assert_eq!(scene.orders(), ["create c", "publish Sharded", "unwatch a", "close a", "watch c"]);
    assert_eq!(scene.take_events(), ["opening c", "closed a", "Sharded/2 -> Sharded/2"]);
    assert_eq!(scene.type_of("b"), Some(ServerType::Mongos));
    assert_eq!(scene.type_of("c"), Some(ServerType::Unknown));
}

#[test]
fn srv_hosts_may_only_go_or_only_come() {
    let mut scene = routers(&["a", "b"], 0, 1);
    scene.topology.handle_srv_hosts(keys(&["b"]), scene.now);
    assert_eq!(
        (hosts(&scene), scene.orders()),
        (vec!["b".to_owned()], vec!["publish Sharded".into(), "unwatch a".into(), "close a".into()])
    );
    scene.topology.handle_srv_hosts(keys(&["b", "c"]), scene.now);
    assert_eq!(scene.orders(), ["create c", "publish Sharded", "watch c"]);
}

#[test]
fn srv_hosts_of_a_topology_that_lost_all_are_opened_before_they_are_described() {
    for events_were_taken in [true, false] {
        let mut config = TopologyConfig::new(keys(&["a", "b"]));
        config.srv = true;
        let mut scene = Scene::new(config);
        scene.hello("a", standalone());
        scene.hello("b", standalone());
        assert_eq!((scene.kind(), hosts(&scene).len()), (TopologyType::Unknown, 0));
        if events_were_taken {
            scene.drain();
        }
        scene.topology.handle_srv_hosts(keys(&["c"]), scene.now);
        let events = scene.take_events();
        assert_eq!(events[events.len() - 2..], ["opening c", "Unknown/0 -> Unknown/1"]);
        scene.hello("c", standalone());
        assert_eq!(scene.kind(), TopologyType::Single, "there is one seed now");
    }
}

#[test]
fn derived_values_follow_the_remaining_srv_hosts() {
    let mut scene = routers(&["a", "b"], 0, 1);
    scene.hello("a", HelloReply { is_mongos: true, max_wire_version: 7, ..HelloReply::default() });
    assert!(!scene.topology.description().is_compatible());
    scene.topology.handle_srv_hosts(keys(&["b"]), scene.now);
    assert!(scene.topology.description().is_compatible());
}

#[test]
fn srv_hosts_are_checked_for_waiting_callers() {
    let mut config = TopologyConfig::new(keys(&["a", "b"]));
    config.srv = true;
    let mut scene = Scene::new(config);
    scene.select(1, None);
    scene.drain();
    scene.topology.handle_srv_hosts(keys(&["a", "c"]), scene.now);
    assert_eq!(scene.orders(), ["create c", "publish Unknown", "unwatch b", "close b", "watch c", "check a", "check c"]);
}

#[test]
fn same_srv_hosts_give_no_orders() {
    let mut scene = routers(&["a", "b"], 0, 1);
    scene.topology.handle_srv_hosts(keys(&["b", "a", "b"]), scene.now);
    assert_eq!((scene.orders(), scene.take_events()), (vec![], vec![]));
}

#[test]
fn srv_max_hosts_draws_the_new_ones_and_keeps_the_old() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let mut scene = routers(&["a", "b"], 3, seed);
        scene.topology.handle_srv_hosts(keys(&["a", "c", "d", "e", "f"]), scene.now);
        let hosts = hosts(&scene);
        assert_eq!((hosts.len(), hosts[0].as_str()), (3, "a"));
        seen.extend(hosts.into_iter().skip(1));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["c", "d", "e", "f"]);
}

#[test]
fn srv_max_hosts_with_room_for_all_takes_all() {
    let mut scene = routers(&["a", "b"], 2, 1);
    scene.topology.handle_srv_hosts(keys(&["c", "d"]), scene.now);
    assert_eq!(hosts(&scene), ["c", "d"]);
}

#[test]
fn full_srv_max_hosts_adds_no_host() {
    let mut scene = routers(&["a", "b"], 2, 1);
    scene.topology.handle_srv_hosts(keys(&["a", "b", "c"]), scene.now);
    assert_eq!((hosts(&scene), scene.orders()), (vec!["a".to_owned(), "b".to_owned()], vec![]));
}

#[test]
fn hosts_are_not_followed_behind_a_load_balancer_or_without_srv() {
    let mut config = TopologyConfig::new(keys(&["a"]));
    (config.srv, config.load_balanced) = (true, true);
    for config in [config, TopologyConfig::new(keys(&["a"]))] {
        let mut scene = Scene::new(config);
        scene.drain();
        scene.topology.handle_srv_hosts(keys(&["b"]), scene.now);
        assert_eq!((hosts(&scene), scene.orders()), (vec!["a".to_owned()], vec![]));
    }
}

#[test]
fn hosts_are_not_followed_after_the_end() {
    let mut scene = routers(&["a"], 0, 1);
    scene.topology.handle_shutdown(scene.now);
    scene.drain();
    scene.topology.handle_srv_hosts(keys(&["b"]), scene.now);
    assert_eq!((hosts(&scene).len(), scene.orders().len()), (0, 0));
}
