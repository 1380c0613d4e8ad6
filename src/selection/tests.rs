use std::time::{Duration, Instant};

use rand::SeedableRng;

use super::*;
use crate::error::{ErrorKind, Ineligible};
use crate::handshake::HelloReply;
use crate::topology::{ServerType, TopologyType};

fn key(text: &str) -> ServerAddress {
    ServerAddress::parse(text).expect(text)
}

fn server(host: &str, kind: ServerType, average_millis: u64) -> ServerDescription {
    let mut server = ServerDescription::unknown(&key(host)).with_round_trip_time(Duration::from_millis(average_millis));
    server.kind = kind;
    if kind != ServerType::Unknown {
        server.hello = Some(Arc::new(HelloReply { max_wire_version: 21, ..HelloReply::default() }));
    }
    server
}

fn tagged(mut server: ServerDescription, tags: &[(&str, &str)]) -> ServerDescription {
    let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    server.hello = Some(Arc::new(HelloReply { max_wire_version: 21, tags, ..HelloReply::default() }));
    server
}

fn replica_set() -> TopologyDescription {
    TopologyDescription::new(
        TopologyType::ReplicaSetWithPrimary,
        [
            server("a", ServerType::RsSecondary, 5),
            server("b", ServerType::RsPrimary, 5),
            server("c", ServerType::RsSecondary, 20),
            server("d", ServerType::RsSecondary, 21),
            server("e", ServerType::Unknown, 0),
        ],
    )
}

fn selected(topology: &TopologyDescription, criteria: &Criteria, seed: u64) -> String {
    let mut rng = SmallRng::seed_from_u64(seed);
    select(topology, criteria, &|_| 0, &mut rng).expect("server").host.to_string()
}

fn refused(topology: &TopologyDescription, criteria: &Criteria) -> Refusal {
    select(topology, criteria, &|_| 0, &mut SmallRng::seed_from_u64(0)).expect_err("no server")
}

#[test]
fn every_server_is_found_in_its_place() {
    let kinds = [ServerType::RsSecondary, ServerType::RsPrimary, ServerType::RsSecondary];
    let servers = ["b", "c", "a"].into_iter().zip(kinds).map(|(host, kind)| server(host, kind, 5));
    let topology = TopologyDescription::new(TopologyType::ReplicaSetWithPrimary, servers);
    for (place, server) in topology.servers().iter().enumerate() {
        assert_eq!(topology.place_of(server), Some(place));
        assert_eq!(topology.place_of(&Arc::new(ServerDescription::clone(server))), Some(place), "the host counts");
    }
    assert_eq!(topology.place_of(&Arc::new(server("d", ServerType::RsPrimary, 5))), None);
}

#[test]
fn write_goes_to_the_primary_even_if_it_is_deprioritized() {
    let topology = replica_set();
    assert_eq!(selected(&topology, &Criteria::write(), 1), "b:27017");
    assert_eq!(selected(&topology, &Criteria::write().with_deprioritized(vec![key("b")]), 1), "b:27017");
}

#[test]
fn secondary_is_preferred_to_a_deprioritized_primary() {
    let criteria = Criteria::read(ReadPreference::primary_preferred()).with_deprioritized(vec![key("b")]);
    for seed in 0..50 {
        assert_ne!(selected(&replica_set(), &criteria, seed), "b:27017");
    }
}

#[test]
fn window_is_inclusive() {
    let topology = replica_set();
    let suitable = suitable_servers(&topology, &Criteria::read(ReadPreference::nearest()));
    assert_eq!(suitable.len(), 4);
    let hosts: Vec<String> = in_latency_window(suitable, Duration::from_millis(15)).iter().map(|server| server.host.to_string()).collect();
    assert_eq!(hosts, ["a:27017", "b:27017", "c:27017"]);
}

#[test]
fn unmeasured_server_is_in_the_window() {
    let mut unmeasured = server("b", ServerType::Mongos, 0);
    unmeasured.round_trip_time = None;
    let topology = TopologyDescription::new(TopologyType::Sharded, [server("a", ServerType::Mongos, 5), unmeasured]);
    let suitable = suitable_servers(&topology, &Criteria::write());
    assert_eq!(in_latency_window(suitable, Duration::ZERO).len(), 2);
}

#[test]
fn less_loaded_of_two_is_taken() {
    let topology =
        TopologyDescription::new(TopologyType::Sharded, [server("a", ServerType::Mongos, 5), server("b", ServerType::Mongos, 5)]);
    let loads = |host: &ServerAddress| if *host == key("a") { 7 } else { 3 };
    for seed in 0..50 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let server = select(&topology, &Criteria::write(), &loads, &mut rng).expect("server");
        assert_eq!(server.host, key("b"));
    }
}

#[test]
fn equal_loads_are_shared_evenly() {
    let topology = TopologyDescription::new(TopologyType::Sharded, ["a", "b", "c"].map(|host| server(host, ServerType::Mongos, 5)));
    let mut rng = SmallRng::seed_from_u64(7);
    let mut counts = [0_u32; 3];
    for _ in 0..3000 {
        let host = &select(&topology, &Criteria::write(), &|_| 0, &mut rng).expect("server").host;
        let place = ["a", "b", "c"].iter().position(|name| key(name) == *host).expect("one of three");
        counts[place] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn every_server_has_its_reason() {
    let topology = TopologyDescription::new(
        TopologyType::ReplicaSetNoPrimary,
        [
            tagged(server("a", ServerType::RsSecondary, 5), &[("dc", "x")]),
            server("b", ServerType::RsArbiter, 5),
            server("c", ServerType::Unknown, 0),
        ],
    );
    let wanted = ReadPreference::secondary().with_tag_sets(vec![vec![("dc".into(), "y".into())]]);
    let Refusal::NoServer(reasons) = refused(&topology, &Criteria::read(wanted)) else { panic!("invalid") };
    let reasons: Vec<_> = reasons.into_iter().map(|reason| reason.reason).collect();
    assert_eq!(reasons, [Ineligible::Tags, Ineligible::Type("RSArbiter"), Ineligible::Unknown]);
}

#[test]
fn incompatible_server_is_an_error_at_once() {
    let mut old = server("a", ServerType::RsPrimary, 5);
    old.hello = Some(Arc::new(HelloReply { max_wire_version: 7, ..HelloReply::default() }));
    let topology = TopologyDescription::new(TopologyType::ReplicaSetWithPrimary, [old]);
    let Refusal::Invalid(error) = refused(&topology, &Criteria::write()) else { panic!("no server") };
    assert_eq!(error.kind(), ErrorKind::Incompatible);
    assert!(error.message().contains("reports wire version 7"), "{error}");
    assert!(error.message().contains("requires at least 8 (MongoDB 4.2)"), "{error}");
}

#[test]
fn limit_of_staleness_has_a_minimum_in_replica_sets_only() {
    let criteria = |seconds| Criteria::read(ReadPreference::nearest().with_max_staleness(Duration::from_secs(seconds)));
    let topology = replica_set();
    assert!(check(&topology, &criteria(90)).is_ok());
    assert_eq!(check(&topology, &criteria(89)).expect_err("too small").kind(), ErrorKind::InvalidOption);
    let slow = replica_set().with_heartbeat_frequency(Duration::from_secs(120));
    assert!(check(&slow, &criteria(129)).is_err());
    assert!(check(&slow, &criteria(130)).is_ok());
    let sharded = TopologyDescription::new(TopologyType::Sharded, [server("a", ServerType::Mongos, 5)]);
    assert!(check(&sharded, &criteria(1)).is_ok());
}

#[test]
fn staleness_is_measured_exactly_and_the_limit_is_inclusive() {
    let now = Instant::now();
    let written = |host: &str, kind, millis: i64, updated: Instant| {
        let mut server = server(host, kind, 5);
        let hello = HelloReply { max_wire_version: 21, last_write_date_millis: Some(millis), ..HelloReply::default() };
        (server.hello, server.last_update) = (Some(Arc::new(hello)), Some(updated));
        server
    };
    let (earlier, later) = (now - Duration::from_millis(2500), now + Duration::from_secs(3));
    let servers = [
        written("a", ServerType::RsPrimary, 200_000, now),
        // 3 s later, and 77 s behind: 80 s, and 10 s of heartbeat.
        written("b", ServerType::RsSecondary, 123_000, later),
        written("c", ServerType::RsSecondary, 122_999, later),
        // 2.5 s earlier, and 82.5 s behind.
        written("d", ServerType::RsSecondary, 117_500, earlier),
        written("e", ServerType::RsSecondary, 117_499, earlier),
        server("f", ServerType::RsSecondary, 5),
    ];
    let topology = TopologyDescription::new(TopologyType::ReplicaSetWithPrimary, servers);
    let criteria = Criteria::read(ReadPreference::secondary().with_max_staleness(Duration::from_secs(90)));
    assert_eq!(fresh(&topology, &criteria), ["b", "d"]);

    // Without a primary, the most advanced secondary is the reference: 80 s behind, and 10 s of heartbeat.
    let servers = [
        written("a", ServerType::RsSecondary, 200_000, now),
        written("b", ServerType::RsSecondary, 120_000, later),
        written("c", ServerType::RsSecondary, 119_999, later),
    ];
    let topology = TopologyDescription::new(TopologyType::ReplicaSetNoPrimary, servers);
    assert_eq!(fresh(&topology, &criteria), ["a", "b"]);
}

/// The suitable hosts; the others, if not primary, must have the reason "too stale".
fn fresh(topology: &TopologyDescription, criteria: &Criteria) -> Vec<String> {
    let suitable = suitable_servers(topology, criteria);
    for reason in reasons(topology, criteria).iter().filter(|reason| !matches!(reason.reason, Ineligible::Type("RSPrimary"))) {
        let suits = suitable.iter().any(|server| server.host == reason.host);
        assert_eq!(reason.reason, if suits { Ineligible::Eligible } else { Ineligible::TooStale }, "{}", reason.host);
    }
    suitable.iter().map(|server| server.host.to_string().replace(":27017", "")).collect()
}

#[test]
fn pinned_operation_stays_where_it_is() {
    let topology = replica_set();
    assert_eq!(selected(&topology, &Criteria::server(key("d")), 1), "d:27017");
    assert!(matches!(refused(&topology, &Criteria::server(key("e"))), Refusal::NoServer(_)));
    let reasons: Vec<_> = reasons(&topology, &Criteria::server(key("d"))).into_iter().map(|reason| reason.reason).collect();
    let other = Ineligible::OtherServer;
    assert_eq!(reasons, [other.clone(), other.clone(), other, Ineligible::Eligible, Ineligible::Unknown]);
}

#[test]
fn server_of_another_deployment_is_refused_once_all_members_are_known() {
    let asked = Criteria::server(key("x"));
    let topology = replica_set();
    let Refusal::Invalid(error) = refused(&topology, &asked) else { panic!("waits in vain") };
    assert_eq!(error.kind(), ErrorKind::ServerSelection);
    let hosts = topology.servers().iter().map(|server| server.host.to_string()).collect::<Vec<_>>().join(", ");
    let kind = topology.kind().name();
    assert_eq!(error.to_string(), format!("x:27017 is not a server of this topology of type {kind}; known hosts: {hosts}"));
    for undecided in [TopologyType::Unknown, TopologyType::ReplicaSetNoPrimary] {
        let topology = TopologyDescription::new(undecided, []);
        assert!(matches!(refused(&topology, &asked), Refusal::NoServer(_)), "{undecided:?}");
    }
}

#[test]
fn shortcut_agrees_with_the_full_evaluation() {
    let kinds = [
        TopologyType::Unknown,
        TopologyType::Single,
        TopologyType::ReplicaSetNoPrimary,
        TopologyType::ReplicaSetWithPrimary,
        TopologyType::Sharded,
        TopologyType::LoadBalanced,
    ];
    let members = [ServerType::RsPrimary, ServerType::RsSecondary, ServerType::Mongos, ServerType::RsGhost, ServerType::Unknown];
    let modes = [ReadPreference::primary(), ReadPreference::primary_preferred(), ReadPreference::secondary(), ReadPreference::nearest()];
    let mut criteria: Vec<Criteria> = modes.into_iter().map(Criteria::read).collect();
    criteria.extend([Criteria::write(), Criteria::any_readable(), Criteria::server(key("a"))]);
    for kind in kinds {
        for member in members {
            let topology = TopologyDescription::new(kind, [server("a", member, 5)]);
            for criteria in criteria.iter().flat_map(|plain| [plain.clone(), plain.clone().with_deprioritized(vec![key("a")])]) {
                // A pinned operation in an unknown topology is the only case in which the full evaluation is skipped.
                if kind == TopologyType::Unknown && matches!(criteria.target, Target::Server(_)) {
                    continue;
                }
                let long = !suitable_servers(&topology, &criteria).is_empty();
                assert_eq!(is_served(&topology, &criteria).expect("valid"), long, "{kind:?} {member:?} {criteria:?}");
            }
        }
    }
}

#[test]
fn read_preference_is_sent_where_it_is_understood() {
    let secondary = Criteria::read(ReadPreference::secondary());
    let primary = Criteria::read(ReadPreference::primary());
    let mode = |topology, server, criteria: &Criteria| {
        read_preference_to_send(topology, server, criteria).map(|preference| preference.mode.name())
    };
    assert_eq!(mode(TopologyType::Single, ServerType::Standalone, &secondary), None);
    assert_eq!(mode(TopologyType::Single, ServerType::RsSecondary, &primary), Some("primaryPreferred"));
    assert_eq!(mode(TopologyType::Single, ServerType::RsSecondary, &secondary), Some("secondary"));
    assert_eq!(mode(TopologyType::Single, ServerType::Mongos, &primary), None);
    assert_eq!(mode(TopologyType::Sharded, ServerType::Mongos, &secondary), Some("secondary"));
    assert_eq!(mode(TopologyType::LoadBalanced, ServerType::LoadBalancer, &secondary), Some("secondary"));
    assert_eq!(mode(TopologyType::ReplicaSetWithPrimary, ServerType::RsPrimary, &primary), None);
    assert_eq!(mode(TopologyType::ReplicaSetWithPrimary, ServerType::RsPrimary, &Criteria::write()), None);
    assert_eq!(mode(TopologyType::ReplicaSetWithPrimary, ServerType::RsSecondary, &Criteria::any_readable()), Some("nearest"));
}

fn with_selector(keep: impl Fn(&TopologyDescription, &mut Vec<&Arc<ServerDescription>>) + Send + Sync + 'static) -> TopologyDescription {
    replica_set().with_server_selector(Some(ServerSelector::new(keep)))
}

/// server-selection, "Filter suitable servers by calling the optional, application-provided server selector".
#[test]
fn selector_runs_after_the_read_preference_and_before_the_window() {
    let topology = with_selector(|topology, servers| {
        let hosts: Vec<String> = servers.iter().map(|server| server.host.to_string()).collect();
        assert_eq!((topology.servers().len(), hosts), (5, vec!["a:27017".to_owned(), "c:27017".to_owned(), "d:27017".to_owned()]));
        servers.retain(|server| server.host == key("d"));
    });
    for seed in 0..20 {
        // It is outside the window of all servers, but no nearer one is left.
        assert_eq!(selected(&topology, &Criteria::read(ReadPreference::secondary()), seed), "d:27017");
    }
}

#[test]
fn selector_applies_to_writes() {
    let topology = with_selector(|_, servers| servers.retain(|server| server.kind != ServerType::RsPrimary));
    for criteria in [Criteria::write(), Criteria::read(ReadPreference::primary())] {
        let Refusal::NoServer(reasons) = refused(&topology, &criteria) else { panic!("not invalid") };
        let of = |host: &str| reasons.iter().find(|reason| reason.host == key(host)).expect("reason").reason.clone();
        assert_eq!((of("b"), of("a"), of("e")), (Ineligible::Selector, Ineligible::Type("RSSecondary"), Ineligible::Unknown));
        assert!(is_served(&topology, &criteria).expect("valid"), "by the rules alone");
    }
}

#[test]
fn selector_excludes_only_the_servers_that_it_removes() {
    let topology = with_selector(|_, servers| {
        assert!(servers.iter().all(|server| server.kind == ServerType::RsSecondary), "only those that suit");
        servers.retain(|server| server.host != key("c"));
    });
    let reasons: Vec<_> =
        reasons(&topology, &Criteria::read(ReadPreference::secondary())).into_iter().map(|reason| reason.reason).collect();
    let [eligible, left_out] = [Ineligible::Eligible, Ineligible::Selector];
    assert_eq!(reasons, [eligible.clone(), Ineligible::Type("RSPrimary"), left_out, eligible, Ineligible::Unknown]);
}

#[test]
fn selector_does_not_run_for_pinned_operations_or_load_balancers() {
    let nobody = ServerSelector::new(|_, servers| servers.clear());
    let topology = replica_set().with_server_selector(Some(nobody.clone()));
    assert_eq!(selected(&topology, &Criteria::server(key("d")), 1), "d:27017");
    let balanced = TopologyDescription::new(TopologyType::LoadBalanced, [server("a", ServerType::LoadBalancer, 0)]);
    assert_eq!(selected(&balanced.with_server_selector(Some(nobody.clone())), &Criteria::write(), 1), "a:27017");
    let single = TopologyDescription::new(TopologyType::Single, [server("a", ServerType::Standalone, 0)]);
    assert!(matches!(refused(&single.with_server_selector(Some(nobody)), &Criteria::write()), Refusal::NoServer(_)));
}

#[test]
fn deprioritized_server_is_used_if_the_selector_excludes_all_others() {
    let topology = with_selector(|_, servers| servers.retain(|server| server.host == key("a")));
    let criteria = Criteria::read(ReadPreference::nearest()).with_deprioritized(vec![key("a")]);
    assert_eq!(selected(&topology, &criteria, 1), "a:27017");
}

#[test]
fn primary_with_tags_or_staleness_is_refused() {
    let tags = vec![vec![("dc".to_owned(), "ny".to_owned())]];
    let stale = ReadPreference::primary().with_max_staleness(Duration::from_secs(120));
    for preference in [ReadPreference::primary().with_tag_sets(tags), stale] {
        assert_eq!(preference.validate().expect_err("refusal").kind(), ErrorKind::InvalidOption);
        assert!(matches!(refused(&replica_set(), &Criteria::read(preference)), Refusal::Invalid(_)));
    }
    assert!(ReadPreference::primary().with_tag_sets(vec![Vec::new()]).validate().is_ok(), "an empty tag set says nothing");
}

#[test]
fn modes_are_read_in_any_case() {
    let all = [
        ReadPreference::primary(),
        ReadPreference::primary_preferred(),
        ReadPreference::secondary(),
        ReadPreference::secondary_preferred(),
        ReadPreference::nearest(),
    ];
    let names = all.each_ref().map(|preference| preference.mode.name());
    assert_eq!(names, ["primary", "primaryPreferred", "secondary", "secondaryPreferred", "nearest"]);
    for preference in all {
        for name in [preference.mode.name().to_owned(), preference.mode.name().to_uppercase()] {
            assert_eq!(ReadPreferenceMode::from_name(&name), Some(preference.mode));
        }
    }
    assert_eq!(ReadPreferenceMode::from_name("second"), None);
}

#[test]
fn read_preference_is_shown_and_sent_with_all_fields() {
    let plain = ReadPreference::secondary_preferred();
    assert_eq!(plain.to_document(), bson::doc! { "mode": "secondaryPreferred" });
    assert_eq!(Criteria::read(plain.clone()).to_string(), "a read with preference secondaryPreferred");
    let full = plain.with_tag_sets(vec![vec![("dc".into(), "x".into())], Vec::new()]).with_max_staleness(Duration::from_secs(120));
    let tags = bson::bson!([{ "dc": "x" }, {}]);
    assert_eq!(full.to_document(), bson::doc! { "mode": "secondaryPreferred", "tags": tags, "maxStalenessSeconds": 120_i64 });
    let text = "a read with preference secondaryPreferred, tags [[(\"dc\", \"x\")], []], maxStalenessSeconds 120";
    assert_eq!(Criteria::read(full).to_string(), text);
}
