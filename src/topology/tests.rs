mod description;
mod faults;
mod srv;
mod update;
mod waiting;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::deadline::Deadline;
use crate::error::{Error, Stage};
use crate::handshake::HelloReply;
use crate::host::ServerAddress;
use crate::selection::{Criteria, select};

fn key(text: &str) -> ServerAddress {
    ServerAddress::parse(text).expect(text)
}

fn keys(names: &[&str]) -> Vec<ServerAddress> {
    names.iter().map(|name| key(name)).collect()
}

/// A member's hello, of a set `rs`.
fn member(hosts: &[&str]) -> HelloReply {
    HelloReply { set_name: Some("rs".into()), hosts: keys(hosts), max_wire_version: 21, ..HelloReply::default() }
}

fn primary(hosts: &[&str]) -> HelloReply {
    HelloReply { is_writable_primary: true, ..member(hosts) }
}

fn secondary(hosts: &[&str]) -> HelloReply {
    HelloReply { secondary: true, ..member(hosts) }
}

fn standalone() -> HelloReply {
    HelloReply { is_writable_primary: true, max_wire_version: 21, ..HelloReply::default() }
}

fn refused() -> Error {
    Error::io(Stage::Tcp, std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
}

/// A topology, its clock, and what it has said since it was last asked.
struct Scene {
    topology: Topology,
    now: Instant,
}

impl Scene {
    fn new(config: TopologyConfig) -> Self {
        let now = Instant::now();
        Self { topology: Topology::new(config, 1, now), now }
    }

    fn of_set(seeds: &[&str]) -> Self {
        let mut config = TopologyConfig::new(keys(seeds));
        config.set_name = Some("rs".into());
        Self::new(config)
    }

    /// A set of a primary `a` and a secondary `b`, all orders and events taken.
    fn settled() -> Self {
        let mut scene = Self::of_set(&["a", "b"]);
        scene.hello("a", primary(&["a", "b"]));
        scene.hello("b", secondary(&["a", "b"]));
        scene.drain();
        scene
    }

    fn hello(&mut self, host: &str, reply: HelloReply) {
        self.topology.handle_hello(&key(host), reply, Some(Duration::from_millis(5)), self.now);
    }

    fn failed(&mut self, host: &str, error: Error) {
        self.topology.handle_check_failed(&key(host), error, self.now);
    }

    fn fault(&mut self, host: &str, fault: Fault) {
        self.topology.handle_fault(&key(host), fault, self.now);
    }

    fn select(&mut self, id: u64, deadline: Option<Deadline>) {
        self.topology.handle_select(SelectId(id), Arc::new(Criteria::write()), deadline, self.now);
    }

    fn drain(&mut self) {
        self.orders();
        self.take_events();
    }

    fn orders(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.topology.poll_action()).map(|action| in_short(&action)).collect()
    }

    fn take_events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.topology.poll_event()).map(|event| event_in_short(&event)).collect()
    }

    fn kind(&self) -> TopologyType {
        self.topology.description().kind()
    }

    fn type_of(&self, host: &str) -> Option<ServerType> {
        self.topology.description().server(&key(host)).map(|server| server.kind)
    }
}

fn name(host: &ServerAddress) -> String {
    host.to_string().replace(":27017", "")
}

fn in_short(action: &TopologyAction) -> String {
    match action {
        TopologyAction::StartMonitor(host) => format!("watch {}", name(host)),
        TopologyAction::StopMonitor(host) => format!("unwatch {}", name(host)),
        TopologyAction::CreatePool { host, .. } => format!("create {}", name(host)),
        TopologyAction::ReadyPool(host) => format!("ready {}", name(host)),
        TopologyAction::ClearService { host, service_id, .. } => format!("clear {} {service_id}", name(host)),
        TopologyAction::ClearPool { host, interrupt, .. } => {
            format!("clear {}{}", name(host), if *interrupt { " and interrupt" } else { "" })
        }
        TopologyAction::ClosePool(host) => format!("close {}", name(host)),
        TopologyAction::InterruptRetired { host, .. } => format!("interrupt deposed {}", name(host)),
        TopologyAction::CheckNow(host) => format!("check {}", name(host)),
        TopologyAction::CancelCheck(host) => format!("cancel {}", name(host)),
        TopologyAction::Probe { host, again, .. } => format!("ask {}{}", name(host), if *again { " again" } else { "" }),
        TopologyAction::CheckTraffic { host, .. } => format!("check_traffic {}", name(host)),
        TopologyAction::EndProbe(host) => format!("end asking {}", name(host)),
        TopologyAction::Publish(topology) => format!("publish {}", topology.kind().name()),
        TopologyAction::Selected(id) => format!("selected {}", id.0),
        TopologyAction::NotSelected(id, error) => format!("not selected {}: {:?}", id.0, error.kind()),
    }
}

fn event_in_short(event: &TopologyEvent) -> String {
    match event {
        TopologyEvent::TopologyOpening => "opening".into(),
        TopologyEvent::ServerOpening { host } => format!("opening {}", name(host)),
        TopologyEvent::ServerClosed { host } => format!("closed {}", name(host)),
        TopologyEvent::ServerDescriptionChanged { previous, new } => {
            format!("{} {} -> {}", name(&new.host), previous.kind.name(), new.kind.name())
        }
        TopologyEvent::TopologyDescriptionChanged { previous, new } => {
            format!("{}/{} -> {}/{}", previous.kind().name(), previous.servers().len(), new.kind().name(), new.servers().len())
        }
        TopologyEvent::HostUnusable { server, name: host, .. } => format!("{} names {host}", name(server)),
        TopologyEvent::TopologyClosed => "closed".into(),
    }
}

#[test]
fn opening_makes_paused_pools_and_then_monitors() {
    let mut scene = Scene::of_set(&["b", "a"]);
    assert_eq!(scene.orders(), ["create a", "create b", "publish ReplicaSetNoPrimary", "watch a", "watch b"]);
    assert_eq!(scene.take_events(), ["opening", "Unknown/0 -> ReplicaSetNoPrimary/2", "opening a", "opening b"]);
}

#[test]
fn primary_adds_its_members_and_readies_its_pool_before_it_is_published() {
    let mut scene = Scene::of_set(&["a"]);
    scene.drain();
    scene.hello("a", primary(&["a", "b"]));
    assert_eq!(scene.orders(), ["create b", "ready a", "publish ReplicaSetWithPrimary", "watch b"]);
    assert_eq!(scene.take_events(), ["a Unknown -> RSPrimary", "opening b", "ReplicaSetNoPrimary/1 -> ReplicaSetWithPrimary/2"]);
}

#[test]
fn removed_member_has_no_monitor_and_no_pool() {
    let mut scene = Scene::settled();
    scene.hello("a", primary(&["a"]));
    assert_eq!(scene.orders(), ["publish ReplicaSetWithPrimary", "unwatch b", "close b"]);
    assert_eq!(scene.take_events(), ["a RSPrimary -> RSPrimary", "closed b", "ReplicaSetWithPrimary/2 -> ReplicaSetWithPrimary/1"]);
    scene.hello("b", secondary(&["a", "b"]));
    assert_eq!(scene.orders(), [""; 0]);
}

#[test]
fn equal_hello_refreshes_without_an_event() {
    let mut scene = Scene::settled();
    scene.now += Duration::from_secs(10);
    scene.hello("a", primary(&["a", "b"]));
    assert_eq!(scene.take_events(), [""; 0]);
    assert_eq!(scene.orders(), ["publish ReplicaSetWithPrimary"]);
    let server = scene.topology.description().server(&key("a")).expect("a").clone();
    assert_eq!(server.last_update, Some(scene.now));
}

#[test]
fn last_write_date_is_no_change() {
    let mut scene = Scene::settled();
    scene.hello("a", HelloReply { last_write_date_millis: Some(5), connection_id: Some(77), ..primary(&["a", "b"]) });
    assert_eq!(scene.take_events(), [""; 0]);
    assert_eq!(scene.topology.description().primary().and_then(|server| server.last_write_date_millis()), Some(5));
}

#[test]
fn round_trip_times_are_published_without_an_event() {
    let mut scene = Scene::settled();
    scene.topology.handle_rtt(&key("a"), Duration::from_millis(9), Duration::from_millis(3), scene.now);
    assert_eq!(scene.orders(), ["publish ReplicaSetWithPrimary"]);
    assert_eq!(scene.take_events(), [""; 0]);
    scene.topology.handle_hello(&key("a"), primary(&["a", "b"]), None, scene.now);
    let server = scene.topology.description().primary().expect("primary").clone();
    assert_eq!((server.round_trip_time, server.min_round_trip_time), (Some(Duration::from_millis(9)), Duration::from_millis(3)));
}

/// Where writes go, each of fifty draws taken.
fn taken(topology: &TopologyDescription) -> BTreeSet<String> {
    let draw = |seed| select(topology, &Criteria::write(), &|_| 0, &mut SmallRng::seed_from_u64(seed));
    (0..50).map(|seed| draw(seed).expect("a router").host.to_string()).collect()
}

#[test]
fn router_that_is_found_far_away_is_left_alone() {
    let mut scene = Scene::new(TopologyConfig::new(keys(&["a", "b", "c"])));
    for host in ["a", "b", "c"] {
        scene.hello(host, HelloReply { is_mongos: true, max_wire_version: 21, ..HelloReply::default() });
    }
    assert_eq!(taken(scene.topology.description()).len(), 3);
    let rtt = |scene: &mut Scene, millis| scene.topology.handle_rtt(&key("b"), Duration::from_millis(millis), Duration::ZERO, scene.now);
    rtt(&mut scene, 21);
    assert!(taken(scene.topology.description()).into_iter().eq(["a:27017", "c:27017"]), "the window is 15 ms wide");
    rtt(&mut scene, 20);
    assert_eq!(taken(scene.topology.description()).len(), 3);
    scene.failed("a", refused());
    assert!(taken(scene.topology.description()).into_iter().eq(["b:27017", "c:27017"]));
    let wide = TopologyDescription::clone(scene.topology.description());
    let narrow = wide.with_local_threshold(Duration::from_millis(14));
    assert!(taken(&narrow).into_iter().eq(["c:27017"]));
}

#[test]
fn failed_check_publishes_before_it_clears() {
    let mut scene = Scene::settled();
    scene.failed("a", refused());
    assert_eq!(scene.orders(), ["publish ReplicaSetNoPrimary", "clear a"]);
    assert_eq!(scene.take_events(), ["a RSPrimary -> Unknown", "ReplicaSetWithPrimary/2 -> ReplicaSetNoPrimary/2"]);
    let server = scene.topology.description().server(&key("a")).expect("a").clone();
    assert_eq!((server.round_trip_time, server.hello.is_none()), (None, true));
    scene.hello("a", primary(&["a", "b"]));
    assert_eq!(scene.orders(), ["ready a", "publish ReplicaSetWithPrimary"]);
}

#[test]
fn check_that_times_out_interrupts_connections_in_use() {
    let mut scene = Scene::settled();
    scene.failed("a", Error::timeout(Stage::Hello, "connectTimeoutMS", Duration::from_secs(1), Duration::from_millis(1001)));
    assert_eq!(scene.orders(), ["publish ReplicaSetNoPrimary", "clear a and interrupt"]);
    scene.drain();
    // The same fault, a millisecond later: nothing new.
    scene.failed("a", Error::timeout(Stage::Hello, "connectTimeoutMS", Duration::from_secs(1), Duration::from_millis(1002)));
    assert_eq!(scene.take_events(), [""; 0]);
    assert_eq!(scene.topology.generation(&key("a")), Some(2));
}

#[test]
fn look_up_that_times_out_interrupts_nothing() {
    let mut scene = Scene::settled();
    scene.failed("a", Error::timeout(Stage::Dns, "dnsTimeoutMS", Duration::from_secs(15), Duration::from_secs(15)));
    assert_eq!(scene.orders(), ["publish ReplicaSetNoPrimary", "clear a"]);
}

#[test]
fn new_primary_makes_the_old_one_unknown_and_keeps_its_pool() {
    let mut scene = Scene::settled();
    scene.hello("b", HelloReply { set_version: Some(2), ..primary(&["a", "b"]) });
    assert_eq!(scene.orders(), ["publish ReplicaSetWithPrimary", "ask a"]);
    assert_eq!(scene.take_events()[..2], ["b RSSecondary -> RSPrimary", "a RSPrimary -> Unknown"]);
    let old = scene.topology.description().server(&key("a")).expect("a").clone();
    assert!(old.error.as_ref().is_some_and(|error| error.message().contains("discovery of newer primary")));
    assert_eq!(scene.topology.description().primary().map(|server| server.host.clone()), Some(key("b")));
}

#[test]
fn single_server_of_any_type_gets_a_ready_pool() {
    let mut config = TopologyConfig::new(keys(&["a"]));
    config.direct_connection = Some(true);
    let mut scene = Scene::new(config);
    scene.drain();
    scene.hello("a", HelloReply { arbiter_only: true, ..member(&["a"]) });
    assert_eq!(scene.orders(), ["ready a", "publish Single"]);
}

#[test]
fn arbiter_of_a_set_keeps_its_pool_paused() {
    let mut scene = Scene::of_set(&["a"]);
    scene.drain();
    scene.hello("a", HelloReply { arbiter_only: true, ..member(&["a"]) });
    assert_eq!(scene.orders(), ["publish ReplicaSetNoPrimary"]);
}

#[test]
fn load_balancer_is_known_at_once_and_never_watched() {
    let mut config = TopologyConfig::new(keys(&["a"]));
    config.load_balanced = true;
    let mut scene = Scene::new(config);
    assert_eq!(scene.orders(), ["create a", "publish LoadBalanced", "ready a", "publish LoadBalanced"]);
    assert_eq!(
        scene.take_events(),
        ["opening", "Unknown/0 -> LoadBalanced/1", "opening a", "a Unknown -> LoadBalancer", "LoadBalanced/1 -> LoadBalanced/1"]
    );
    scene.failed("a", refused());
    assert_eq!(scene.orders(), [""; 0]);
}

#[test]
fn load_balancer_is_described_by_its_address_alone() {
    let mut config = TopologyConfig::new(keys(&["a"]));
    config.load_balanced = true;
    let mut scene = Scene::new(config);
    scene.drain();
    scene.hello("a", HelloReply { logical_session_timeout: Some(Duration::from_secs(60)), max_wire_version: 1, ..standalone() });
    let description = Arc::clone(scene.topology.description());
    let server = description.server(&key("a")).expect("the balancer");
    assert!(server.is_same_as(&ServerDescription::load_balancer(&key("a"))), "{server:?}");
    assert!(server.round_trip_time.is_none() && server.last_update.is_none());
    assert!(server.kind.is_data_bearing() && description.is_compatible());
    assert_eq!((description.logical_session_timeout(), description.session_timeout()), (None, Some(Duration::MAX)));
}

#[test]
fn load_balancer_suits_every_caller_at_once() {
    let mut config = TopologyConfig::new(keys(&["a"]));
    config.load_balanced = true;
    let mut scene = Scene::new(config);
    scene.drain();
    scene.select(1, None);
    assert_eq!(scene.orders(), ["selected 1"]);
}

#[test]
fn load_balanced_topology_never_follows_srv_records() {
    let mut config = TopologyConfig::new(keys(&["a"]));
    config.load_balanced = true;
    config.srv = true;
    let mut scene = Scene::new(config);
    scene.drain();
    scene.topology.handle_srv_hosts(keys(&["a", "b"]), scene.now);
    assert_eq!((scene.orders().len(), scene.topology.description().servers().len()), (0, 1));
}

#[test]
fn load_balanced_topology_closes_with_the_fixed_series() {
    let mut config = TopologyConfig::new(keys(&["a"]));
    config.load_balanced = true;
    let mut scene = Scene::new(config);
    scene.drain();
    scene.topology.handle_shutdown(scene.now);
    assert_eq!(scene.orders(), ["publish Unknown", "close a"]);
    assert_eq!(scene.take_events(), ["closed a", "LoadBalanced/1 -> Unknown/0", "closed"]);
}

#[test]
fn unusable_name_costs_that_host_and_is_reported_once() {
    let mut scene = Scene::of_set(&["a"]);
    scene.drain();
    let unusable =
        |name: &str| crate::handshake::UnusableHost { name: name.into(), error: ServerAddress::parse(name).expect_err("invalid") };
    let reply = |names: &[&str]| HelloReply { unusable_hosts: names.iter().map(|name| unusable(name)).collect(), ..primary(&["a"]) };
    scene.hello("a", reply(&["b..c"]));
    assert_eq!(scene.take_events()[0], "a names b..c");
    scene.hello("a", reply(&["b..c"]));
    assert_eq!(scene.take_events(), [""; 0]);
    scene.hello("a", reply(&["b..c", "d..e"]));
    assert_eq!(scene.take_events(), ["a names d..e"]);
}

#[test]
fn unusable_names_are_reported_at_a_limited_rate() {
    let mut scene = Scene::of_set(&["a"]);
    scene.drain();
    let error = ServerAddress::parse("b..c").expect_err("invalid");
    let unusable = |number: u64| crate::handshake::UnusableHost { name: format!("{number}..x"), error: error.clone() };
    let mut events = 0;
    for number in 0..1000 {
        scene.hello("a", HelloReply { unusable_hosts: vec![unusable(2 * number), unusable(2 * number + 1)], ..primary(&["a"]) });
        events += scene.take_events().iter().filter(|text| text.starts_with("a names")).count();
    }
    assert_eq!(events, 2 * 5, "a burst of replies");
    scene.now += Duration::from_secs(60);
    for number in [5000, 5000, 6000] {
        scene.hello("a", HelloReply { unusable_hosts: vec![unusable(number)], ..primary(&["a"]) });
    }
    assert_eq!(scene.take_events(), ["a names 5000..x"], "names of later replies are reported later");
    scene.now += Duration::from_secs(60);
    scene.hello("a", HelloReply { unusable_hosts: vec![unusable(6000)], ..primary(&["a"]) });
    assert_eq!(scene.take_events(), ["a names 6000..x"], "what was left out is reported if it is still named");
}

#[test]
fn unix_sockets_are_members_only_where_one_was_given() {
    let sockets = |me: Option<&str>| HelloReply {
        hosts: keys(&["a", "/run/x.sock"]),
        passives: keys(&["/run/y.sock"]),
        arbiters: keys(&["/run/z.sock"]),
        primary: Some(key("/run/x.sock")),
        me: me.map(key),
        ..primary(&[])
    };
    let mut scene = Scene::of_set(&["a"]);
    scene.hello("a", sockets(Some("/run/x.sock")));
    let description = Arc::clone(scene.topology.description());
    assert_eq!(description.servers().len(), 1, "{description}");
    let hello = description.server(&key("a")).and_then(|server| server.hello.clone()).expect("known");
    assert_eq!((hello.unusable_hosts.len(), hello.primary.as_ref(), hello.me.as_ref()), (5, None, None));
    let events: Vec<String> = scene.take_events().into_iter().filter(|text| text.contains("names")).collect();
    assert_eq!(events, ["a names /run/x.sock", "a names /run/y.sock", "a names /run/z.sock"]);

    let mut scene = Scene::of_set(&["/run/x.sock"]);
    scene.hello("/run/x.sock", sockets(None));
    assert_eq!(scene.topology.description().servers().len(), 4);
}

#[test]
fn srv_records_are_followed_until_a_replica_set_is_known() {
    let mut config = TopologyConfig::new(keys(&["a", "b"]));
    config.srv = true;
    let mut scene = Scene::new(config);
    scene.drain();
    scene.topology.handle_srv_hosts(keys(&["b", "c"]), scene.now);
    assert_eq!(scene.orders(), ["create c", "publish Unknown", "unwatch a", "close a", "watch c"]);
    scene.topology.handle_srv_hosts(Vec::new(), scene.now);
    assert_eq!(scene.orders(), [""; 0]);
    scene.hello("b", primary(&["b", "c"]));
    scene.drain();
    scene.topology.handle_srv_hosts(keys(&["x"]), scene.now);
    assert_eq!(scene.orders(), [""; 0]);
}

#[test]
fn srv_hosts_are_limited_and_known_ones_stay() {
    let mut config = TopologyConfig::new(keys(&["a", "b"]));
    (config.srv, config.srv_max_hosts) = (true, 2);
    let mut scene = Scene::new(config);
    scene.topology.handle_srv_hosts(keys(&["b", "c", "d", "e"]), scene.now);
    let description = scene.topology.description();
    assert_eq!(description.servers().len(), 2);
    assert!(description.server(&key("b")).is_some());
}

#[test]
fn standalone_in_a_set_is_left_out_with_its_reason() {
    let mut scene = Scene::of_set(&["a", "b"]);
    scene.drain();
    scene.hello("b", standalone());
    assert_eq!(scene.take_events(), ["b Unknown -> Standalone", "closed b", "ReplicaSetNoPrimary/2 -> ReplicaSetNoPrimary/1"]);
    let left_out = scene.topology.description().left_out().to_vec();
    assert!(left_out[0].to_string().contains("no member of a replica set, wanted is \"rs\""), "{}", left_out[0]);
}

#[test]
fn shutdown_leaves_nothing() {
    let mut scene = Scene::settled();
    scene.failed("a", refused());
    scene.select(1, Some(Deadline::new("serverSelectionTimeoutMS", Duration::from_secs(1), scene.now)));
    scene.drain();
    scene.topology.handle_shutdown(scene.now);
    assert_eq!(scene.orders(), ["publish Unknown", "unwatch a", "close a", "unwatch b", "close b", "not selected 1: Shutdown"]);
    assert_eq!(scene.take_events(), ["closed a", "closed b", "ReplicaSetNoPrimary/2 -> Unknown/0", "closed"]);
    scene.topology.handle_shutdown(scene.now);
    scene.hello("a", primary(&["a"]));
    scene.failed("b", refused());
    assert_eq!((scene.orders().len(), scene.take_events().len()), (0, 0));
    assert_eq!((scene.topology.waiting(), scene.topology.poll_timeout()), (0, None));
    scene.select(2, None);
    assert_eq!(scene.orders(), ["not selected 2: Shutdown"]);
}

#[test]
fn hello_with_too_many_members_is_a_failed_check() {
    let mut scene = Scene::settled();
    let names: Vec<String> = (0..=SERVERS_MAX).map(|number| format!("host-{number}")).collect();
    scene.hello("a", primary(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!((scene.type_of("a"), scene.kind()), (Some(ServerType::Unknown), TopologyType::ReplicaSetNoPrimary));
    let server = scene.topology.description().server(&key("a")).expect("a").clone();
    assert!(server.error.as_ref().is_some_and(|error| error.to_string().contains("limit SERVERS_MAX of 1024")));
}

#[test]
fn members_of_every_kind_count_and_the_limit_itself_is_allowed() {
    let names = |range: std::ops::Range<usize>| range.map(|number| key(&format!("host-{number}"))).collect::<Vec<_>>();
    for count in [SERVERS_MAX, SERVERS_MAX + 1] {
        let mut scene = Scene::settled();
        let (hosts, passives, arbiters) = (names(10..count), names(0..5), names(5..10));
        scene.hello("b", HelloReply { hosts, passives, arbiters, ..secondary(&[]) });
        assert_eq!(scene.type_of("b"), Some(if count > SERVERS_MAX { ServerType::Unknown } else { ServerType::RsSecondary }));
    }
}

#[test]
fn description_displays_servers_and_reasons() {
    let mut scene = Scene::settled();
    scene.failed("b", refused());
    let text = scene.topology.description().to_string();
    assert!(text.starts_with("ReplicaSetWithPrimary \"rs\": a:27017 RSPrimary 5.0 ms, b:27017 Unknown [tcp: "), "{text}");
}
