//! server-discovery-and-monitoring-logging-and-monitoring: events and their order.

use std::time::Instant;

use mongolink::topology::{Monitor, MonitorConfig};
use mongolink::{MonitorEvent, Stage, TopologyEvent};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::{Scene, closed_by_peer, member, ms, version};

#[test]
fn opening_event_is_first_and_closed_event_is_last() {
    let mut scene = Scene::of_seeds(&["a"]);
    scene.hello("a", member(true));
    scene.topology.handle_shutdown(scene.now);
    let events = scene.events();
    assert!(matches!(events.first(), Some(TopologyEvent::TopologyOpening)));
    let Some(TopologyEvent::TopologyDescriptionChanged { previous, .. }) = events.get(1) else { panic!("{:?}", events.get(1)) };
    assert_eq!((previous.kind().name(), previous.servers().len()), ("Unknown", 0));
    let [.., TopologyEvent::TopologyDescriptionChanged { new, .. }, TopologyEvent::TopologyClosed] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!((new.kind().name(), new.servers().len()), ("Unknown", 0));
}

#[test]
fn each_change_event_starts_from_the_previous_description() {
    let mut scene = Scene::of_seeds(&["a", "b"]);
    scene.hello("a", member(true));
    scene.hello("b", member(false));
    scene.failed("a", closed_by_peer(Stage::Read));
    scene.hello("a", member(true));
    scene.topology.handle_shutdown(scene.now);
    let mut last: Option<String> = None;
    let mut changes = 0;
    for event in scene.events() {
        if let TopologyEvent::TopologyDescriptionChanged { previous, new, .. } = event {
            assert!(last.is_none_or(|last| last == previous.to_string()), "{previous}");
            last = Some(new.to_string());
            changes += 1;
        }
    }
    assert_eq!(changes, 6);
}

/// Each check has a started event, then an end, before the next begins.
#[test]
fn each_started_heartbeat_ends_before_the_next() {
    for seed in 0..200 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut now = Instant::now();
        let config =
            MonitorConfig { heartbeat_frequency: ms(1_000), connect_timeout: Some(ms(500)), open_timeout: Some(ms(900)), streaming: true };
        let mut monitor = Monitor::new(config, now);
        let mut running = false;
        for step in 0..200 {
            now += ms(random.random_range(0..700));
            let mut reply = member(true);
            reply.topology_version = random.random_bool(0.5).then(|| version(1, step));
            match random.random_range(0..7) {
                0 => monitor.handle_opened(reply, ms(1), now),
                1 => monitor.handle_reply(reply, random.random_bool(0.5), now),
                2 => monitor.handle_failed(closed_by_peer(Stage::Read), now),
                3 => monitor.handle_check_now(now),
                4 => monitor.handle_cancel_check(now),
                5 => monitor.handle_resumed(now),
                _ => monitor.handle_timeout(now),
            }
            while monitor.poll_action().is_some() {}
            while let Some(event) = monitor.poll_event() {
                let begins = matches!(event, MonitorEvent::HeartbeatStarted { .. });
                assert_ne!(begins, running, "seed {seed} step {step}: {event:?}");
                running = begins;
            }
        }
    }
}
