//! server-selection: the server of an operation.

use std::sync::Arc;

use bson::rawdoc;
use mongolink::selection::{Criteria, check, in_latency_window, read_preference_to_send, select, suitable_servers};
use mongolink::{
    ErrorKind, HelloReply, ReadPreference, ReadPreferenceMode, ServerDescription, ServerType, TopologyDescription, TopologyType,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::support::{key, ms, parsed};

fn server(host: &str, kind: ServerType) -> ServerDescription {
    let mut server = ServerDescription::unknown(&key(host)).with_round_trip_time(ms(5));
    server.kind = kind;
    server.hello = Some(Arc::new(parsed(&rawdoc! { "ok": 1, "maxWireVersion": 21 })));
    server
}

fn with_tag(host: &str, value: &str) -> ServerDescription {
    let mut server = server(host, ServerType::RsSecondary);
    server.hello = Some(Arc::new(parsed(&rawdoc! { "ok": 1, "maxWireVersion": 21, "tags": { "dc": value } })));
    server
}

fn of(servers: impl IntoIterator<Item = ServerDescription>) -> TopologyDescription {
    TopologyDescription::new(TopologyType::ReplicaSetWithPrimary, servers)
}

fn suitable(topology: &TopologyDescription, criteria: &Criteria) -> Vec<String> {
    suitable_servers(topology, criteria).iter().map(|server| server.host.to_string().replace(":27017", "")).collect()
}

fn tags(values: &[&str]) -> Vec<Vec<(String, String)>> {
    let set = |value: &&str| if value.is_empty() { Vec::new() } else { vec![("dc".to_owned(), (*value).to_owned())] };
    values.iter().map(set).collect()
}

#[test]
fn deprioritized_servers_are_left_out_first_and_readmitted_if_nothing_else_suits() {
    let topology = of([server("p", ServerType::RsPrimary), server("s", ServerType::RsSecondary), server("t", ServerType::RsSecondary)]);
    let cases: [(ReadPreference, &[&str], &[&str]); 7] = [
        (ReadPreference::secondary(), &["s"], &["t"]),
        (ReadPreference::secondary(), &["s", "t"], &["s", "t"]),
        (ReadPreference::secondary_preferred(), &["s", "t"], &["p"]),
        (ReadPreference::secondary_preferred(), &["p", "s", "t"], &["s", "t"]),
        (ReadPreference::primary_preferred(), &["p"], &["s", "t"]),
        (ReadPreference::primary(), &["p"], &["p"]),
        (ReadPreference::nearest(), &["p", "t"], &["s"]),
    ];
    for (preference, without, expected) in cases {
        let criteria = Criteria::read(preference.clone()).with_deprioritized(without.iter().map(|host| key(host)).collect());
        assert_eq!(suitable(&topology, &criteria), expected, "{:?} without {without:?}", preference.mode);
    }
}

#[test]
fn first_tag_set_that_matches_anything_wins_and_an_empty_one_matches_all() {
    let topology = of([server("p", ServerType::RsPrimary), with_tag("s", "ny"), with_tag("t", "sf")]);
    let cases: [(&[&str], &[&str]); 5] =
        [(&["ny", "sf"], &["s"]), (&["la", "sf"], &["t"]), (&["la", ""], &["s", "t"]), (&["la"], &[]), (&[], &["s", "t"])];
    for (sets, expected) in cases {
        let criteria = Criteria::read(ReadPreference::secondary().with_tag_sets(tags(sets)));
        assert_eq!(suitable(&topology, &criteria), expected, "{sets:?}");
    }
}

#[test]
fn tags_of_the_primary_are_an_error() {
    let criteria = Criteria::read(ReadPreference::primary().with_tag_sets(tags(&["ny"])));
    let error = check(&of([server("p", ServerType::RsPrimary)]), &criteria).expect_err("refusal");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
}

#[test]
fn staleness_is_judged_before_tags() {
    let now = std::time::Instant::now();
    let written = |host: &str, value: &str, seconds: i64| {
        let date = bson::DateTime::from_millis(seconds * 1000);
        let mut server = server(host, ServerType::RsSecondary);
        let reply = rawdoc! { "ok": 1, "maxWireVersion": 21, "tags": { "dc": value }, "lastWrite": { "lastWriteDate": date } };
        (server.hello, server.last_update) = (Some(Arc::new(parsed(&reply))), Some(now));
        server
    };
    let servers = [written("s", "ny", 1_000), written("t", "sf", 2_000)];
    let topology = TopologyDescription::new(TopologyType::ReplicaSetNoPrimary, servers);
    let preference = ReadPreference::secondary().with_tag_sets(tags(&["ny", "sf"])).with_max_staleness(std::time::Duration::from_secs(90));
    assert_eq!(suitable(&topology, &Criteria::read(preference)), ["t"]);
}

#[test]
fn window_includes_its_end() {
    let near = server("s", ServerType::RsSecondary).with_round_trip_time(ms(5));
    let edge = server("t", ServerType::RsSecondary).with_round_trip_time(ms(20));
    let far = server("u", ServerType::RsSecondary).with_round_trip_time(ms(21));
    let topology = of([near, edge, far]);
    let hosts = in_latency_window(suitable_servers(&topology, &Criteria::read(ReadPreference::secondary())), ms(15));
    assert_eq!(hosts.len(), 2);
}

#[test]
fn less_busy_one_of_two_random_ones_is_taken() {
    let topology = of(["s", "t", "u"].map(|host| server(host, ServerType::RsSecondary)));
    let criteria = Criteria::read(ReadPreference::secondary());
    for seed in 0..100 {
        let loads = |host: &mongolink::ServerAddress| if *host == key("u") { 9 } else { 1 };
        let chosen = select(&topology, &criteria, &loads, &mut SmallRng::seed_from_u64(seed)).expect("a server");
        assert_ne!(chosen.host, key("u"), "seed {seed}: whichever two are drawn, one is less busy");
    }
}

#[test]
fn routers_are_sent_every_preference_but_the_primary() {
    let modes = [
        ReadPreferenceMode::Primary,
        ReadPreferenceMode::PrimaryPreferred,
        ReadPreferenceMode::Secondary,
        ReadPreferenceMode::SecondaryPreferred,
        ReadPreferenceMode::Nearest,
    ];
    for mode in modes {
        let criteria = Criteria::read(ReadPreference::new(mode));
        let sent = |topology, server| read_preference_to_send(topology, server, &criteria).map(|preference| preference.mode);
        let expected = Some(mode).filter(|mode| *mode != ReadPreferenceMode::Primary);
        assert_eq!(sent(TopologyType::Sharded, ServerType::Mongos), expected);
        assert_eq!(sent(TopologyType::Single, ServerType::Mongos), expected);
        assert_eq!(sent(TopologyType::LoadBalanced, ServerType::LoadBalancer), expected);
        assert_eq!(sent(TopologyType::Single, ServerType::Standalone), None);
        assert_eq!(sent(TopologyType::Single, ServerType::RsSecondary), expected.or(Some(ReadPreferenceMode::PrimaryPreferred)));
    }
}

#[test]
fn incompatible_server_is_an_error_at_once_for_all_criteria() {
    let mut old = server("s", ServerType::RsSecondary);
    let mut hello = HelloReply::default();
    hello.max_wire_version = 3;
    old.hello = Some(Arc::new(hello));
    let topology = of([server("p", ServerType::RsPrimary), old]);
    assert_eq!(check(&topology, &Criteria::write()).expect_err("refusal").kind(), ErrorKind::Incompatible);
}
