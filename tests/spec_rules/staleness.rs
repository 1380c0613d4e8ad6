//! max-staleness: valid limits, and the servers within them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Bson, rawdoc};
use mongolink::selection::{Criteria, check, suitable_servers};
use mongolink::{ClientOptions, ConnectionString, Error, ReadPreference, ServerDescription, ServerType, TopologyDescription, TopologyType};

use crate::support::{key, ms, parsed};

fn options(query: &str) -> Result<ClientOptions, Error> {
    ConnectionString::parse(&format!("mongodb://a/?{query}")).map(|read| read.options)
}

fn limit(query: &str) -> Option<Duration> {
    options(query).expect(query).read_preference.and_then(|preference| preference.max_staleness)
}

/// A server that last wrote and was last heard at these seconds of some day.
fn written(host: &str, kind: ServerType, wrote: i64, heard: u64, day: Instant) -> ServerDescription {
    let mut server = ServerDescription::unknown(&key(host)).with_round_trip_time(ms(5));
    let date = bson::DateTime::from_millis(wrote * 1000);
    server.kind = kind;
    server.hello = Some(Arc::new(parsed(&rawdoc! { "ok": 1, "maxWireVersion": 21, "lastWrite": { "lastWriteDate": date } })));
    server.last_update = Some(day + Duration::from_secs(heard));
    server
}

fn admitted(topology: &TopologyDescription, preference: ReadPreference, seconds: u64) -> Vec<String> {
    let criteria = Criteria::read(preference.with_max_staleness(Duration::from_secs(seconds)));
    suitable_servers(topology, &criteria).iter().map(|server| server.host.to_string().replace(":27017", "")).collect()
}

#[test]
fn limit_is_read_and_minus_one_is_none() {
    assert_eq!(limit("readPreference=secondary&maxStalenessSeconds=120"), Some(Duration::from_secs(120)));
    assert_eq!(limit("readPreference=secondary&maxStalenessSeconds=-1"), None);
    assert_eq!(limit("maxStalenessSeconds=-1"), None);
    assert_eq!(limit("readPreference=secondary&maxStalenessSeconds=1"), Some(Duration::from_secs(1)), "judged at selection");
}

#[test]
fn limit_for_the_primary_is_refused_in_the_connection_string() {
    for query in ["maxStalenessSeconds=120", "readPreference=primary&maxStalenessSeconds=120"] {
        let error = options(query).expect_err(query);
        assert!(error.message().contains("maxStalenessSeconds"), "{error}");
    }
}

#[test]
fn heartbeat_frequency_of_half_a_second_is_taken() {
    assert_eq!(options("heartbeatFrequencyMS=500").expect("options").heartbeat_frequency_or_default(), ms(500));
}

#[test]
fn small_limits_are_errors_in_replica_sets_only_and_at_selection() {
    let kinds = [
        (TopologyType::ReplicaSetWithPrimary, true),
        (TopologyType::ReplicaSetNoPrimary, true),
        (TopologyType::Sharded, false),
        (TopologyType::Single, false),
        (TopologyType::Unknown, false),
    ];
    for (kind, is_judged) in kinds {
        let topology = TopologyDescription::new(kind, []);
        for (seconds, is_small) in [(0, true), (1, true), (89, true), (90, false)] {
            let criteria = Criteria::read(ReadPreference::nearest().with_max_staleness(Duration::from_secs(seconds)));
            assert_eq!(check(&topology, &criteria).is_err(), is_judged && is_small, "{kind:?} {seconds}");
        }
        let slow = TopologyDescription::new(kind, []).with_heartbeat_frequency(Duration::from_secs(90));
        let criteria = |seconds| Criteria::read(ReadPreference::nearest().with_max_staleness(Duration::from_secs(seconds)));
        assert_eq!((check(&slow, &criteria(99)).is_err(), check(&slow, &criteria(100)).is_err()), (is_judged, false));
    }
}

#[test]
fn staleness_is_measured_against_the_primary() {
    let day = Instant::now();
    let servers = [
        written("p", ServerType::RsPrimary, 1_000, 10, day),
        // 75 s behind and heard 5 s later: 80 s, and 10 s of heartbeat.
        written("s", ServerType::RsSecondary, 925, 15, day),
        written("t", ServerType::RsSecondary, 924, 15, day),
    ];
    let topology = TopologyDescription::new(TopologyType::ReplicaSetWithPrimary, servers);
    assert_eq!(admitted(&topology, ReadPreference::secondary(), 90), ["s"]);
    assert_eq!(admitted(&topology, ReadPreference::nearest(), 90), ["p", "s"], "the primary is never stale");
}

#[test]
fn staleness_is_measured_against_the_newest_secondary_without_a_primary() {
    let day = Instant::now();
    let servers = [
        written("s", ServerType::RsSecondary, 1_000, 500, day),
        written("t", ServerType::RsSecondary, 920, 0, day),
        written("u", ServerType::RsSecondary, 919, 900, day),
        ServerDescription::unknown(&key("v")),
    ];
    let topology = TopologyDescription::new(TopologyType::ReplicaSetNoPrimary, servers);
    assert_eq!(admitted(&topology, ReadPreference::nearest(), 90), ["s", "t"], "whenever they were heard");
}

#[test]
fn mongos_is_never_stale_and_gets_the_limit_as_an_integer() {
    let day = Instant::now();
    let topology = TopologyDescription::new(TopologyType::Sharded, [written("m", ServerType::Mongos, 0, 0, day)]);
    assert_eq!(admitted(&topology, ReadPreference::nearest(), 1), ["m"]);
    let document = ReadPreference::nearest().with_max_staleness(Duration::from_secs(123)).to_document();
    assert!(matches!(document.get("maxStalenessSeconds"), Some(Bson::Int32(123) | Bson::Int64(123))), "{document}");
    assert!(!ReadPreference::nearest().to_document().contains_key("maxStalenessSeconds"));
}
