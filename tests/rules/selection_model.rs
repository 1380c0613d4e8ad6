//! The model of server selection.
//!
//! A filter over rows, one for each server, compared with the selection on random descriptions and criteria.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongolink::selection::{self, Criteria, Refusal, Target};
use mongolink::topology::{ServerDescription, ServerType, TopologyDescription, TopologyType};
use mongolink::{ErrorKind, HelloReply, Ineligible, ReadPreference, ReadPreferenceMode, ServerAddress, TagSet};
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::support::{for_seeds, key, ms};

const SEEDS: u64 = 10_000;

/// How often each selection is repeated: enough that each of two servers in the window is selected.
const TRIALS: usize = 60;

const MODES: [ReadPreferenceMode; 5] = [
    ReadPreferenceMode::Primary,
    ReadPreferenceMode::PrimaryPreferred,
    ReadPreferenceMode::Secondary,
    ReadPreferenceMode::SecondaryPreferred,
    ReadPreferenceMode::Nearest,
];

/// A server as the filter sees it; times in milliseconds.
#[derive(Clone, Debug)]
struct Row {
    host: ServerAddress,
    kind: ServerType,
    tags: TagSet,
    round_trip: Option<u64>,
    updated: i64,
    written: Option<i64>,
}

#[derive(Debug)]
struct Case {
    kind: TopologyType,
    rows: Vec<Row>,
    heartbeat: i64,
    threshold: u64,
    criteria: Criteria,
}

#[test]
fn selection_chooses_what_a_naive_filter_does() {
    let began = Instant::now() + Duration::from_secs(1_000);
    for_seeds(SEEDS, |rng| {
        let case = case(rng);
        let topology = describe(&case, began);
        let expected: BTreeSet<ServerAddress> = window(&case, suitable(&case)).into_iter().map(|row| row.host.clone()).collect();
        let loads: Vec<(ServerAddress, u32)> = case.rows.iter().map(|row| (row.host.clone(), rng.random_range(0..3))).collect();
        let load = |host: &ServerAddress| loads.iter().find(|(known, _)| known == host).map_or(0, |(_, load)| *load);
        if is_invalid(&case) {
            let refusal = selection::select(&topology, &case.criteria, &load, rng);
            assert!(matches!(refusal, Err(Refusal::Invalid(error)) if error.kind() == ErrorKind::InvalidOption), "{case:?}");
            assert!(selection::is_served(&topology, &case.criteria).is_err());
            return;
        }
        assert_eq!(selection::is_served(&topology, &case.criteria).ok(), Some(!expected.is_empty()), "{case:?}");
        check_reasons(&case, &topology);
        let mut chosen = BTreeSet::new();
        for _ in 0..TRIALS {
            match selection::select(&topology, &case.criteria, &load, rng) {
                Ok(server) => chosen.extend([server.host.clone()]),
                Err(Refusal::NoServer(reasons)) => assert_eq!(reasons.len(), case.rows.len()),
                Err(Refusal::Invalid(error)) => panic!("{error}: {case:?}"),
            }
        }
        assert!(chosen.is_subset(&expected), "{chosen:?} of {expected:?}: {case:?}");
        let reachable = reachable(&expected, &load);
        assert!(chosen.is_subset(&reachable) && chosen.is_empty() == expected.is_empty(), "{case:?}");
        assert!(expected.len() > 2 || chosen == reachable, "one of two is never met: {case:?}");
    });
}

/// The less loaded of two random servers is selected: a server with a higher load than all others never is.
fn reachable(window: &BTreeSet<ServerAddress>, load: &dyn Fn(&ServerAddress) -> u32) -> BTreeSet<ServerAddress> {
    let beaten = |host: &ServerAddress| window.len() > 1 && window.iter().all(|other| other == host || load(other) < load(host));
    window.iter().filter(|host| !beaten(host)).cloned().collect()
}

/// The reason of an eligible server says so, unless it is deprioritized; that of an unknown server says unknown.
fn check_reasons(case: &Case, topology: &TopologyDescription) {
    let suitable = suitable(case);
    for reason in selection::reasons(topology, &case.criteria) {
        let row = case.rows.iter().find(|row| row.host == reason.host).expect("a row");
        if suitable.iter().any(|row| row.host == reason.host) {
            let avoided = case.criteria.deprioritized.contains(&reason.host);
            let expected = if avoided { Ineligible::Deprioritized } else { Ineligible::Eligible };
            assert_eq!(reason.reason, expected, "{case:?}");
        } else if row.kind == ServerType::Unknown {
            assert_eq!(reason.reason, Ineligible::Unknown, "{case:?}");
        }
    }
}

fn is_invalid(case: &Case) -> bool {
    let Target::Read(preference) = &case.criteria.target else { return false };
    let plain = preference.tag_sets.iter().all(Vec::is_empty) && preference.max_staleness.is_none();
    let least = 90_000.max(case.heartbeat + 10_000);
    let too_small = preference.max_staleness.is_some_and(|limit| millis(limit) < least) && case.kind.is_replica_set();
    (preference.mode == ReadPreferenceMode::Primary && !plain) || too_small
}

/// Deprioritized servers are selected only if no other is eligible.
fn suitable(case: &Case) -> Vec<&Row> {
    let avoided = |row: &&Row| case.criteria.deprioritized.contains(&row.host);
    let rest: Vec<&Row> = case.rows.iter().filter(|row| !avoided(row)).collect();
    let found = among(case, &rest);
    if found.is_empty() { among(case, &case.rows.iter().collect::<Vec<_>>()) } else { found }
}

fn among<'a>(case: &Case, rows: &[&'a Row]) -> Vec<&'a Row> {
    let of = |kinds: &[ServerType]| rows.iter().filter(|row| kinds.contains(&row.kind)).copied().collect::<Vec<_>>();
    let data = [ServerType::Standalone, ServerType::Mongos, ServerType::RsPrimary, ServerType::RsSecondary, ServerType::LoadBalancer];
    let single = matches!(case.kind, TopologyType::Single | TopologyType::LoadBalanced);
    match &case.criteria.target {
        _ if case.kind == TopologyType::Unknown => Vec::new(),
        Target::Server(host) if case.kind == TopologyType::Single => {
            rows.iter().filter(|row| row.host == *host && row.kind != ServerType::Unknown).copied().collect()
        }
        Target::Server(host) => of(&data).into_iter().filter(|row| row.host == *host).collect(),
        _ if single => rows.iter().filter(|row| row.kind != ServerType::Unknown).copied().collect(),
        _ if case.kind == TopologyType::Sharded => of(&[ServerType::Mongos]),
        Target::Write => of(&[ServerType::RsPrimary]),
        Target::AnyReadable => of(&data),
        Target::Read(preference) => {
            let primary = of(&[ServerType::RsPrimary]);
            let fit = |rows: Vec<&'a Row>| by_tags(rows.into_iter().filter(|row| fresh(case, preference, row)).collect(), preference);
            let secondaries = || fit(of(&[ServerType::RsSecondary]));
            match preference.mode {
                ReadPreferenceMode::Primary => primary,
                ReadPreferenceMode::PrimaryPreferred if primary.is_empty() => secondaries(),
                ReadPreferenceMode::PrimaryPreferred => primary,
                ReadPreferenceMode::Secondary => secondaries(),
                ReadPreferenceMode::SecondaryPreferred if secondaries().is_empty() => primary,
                ReadPreferenceMode::SecondaryPreferred => secondaries(),
                ReadPreferenceMode::Nearest | _ => fit(of(&[ServerType::RsPrimary, ServerType::RsSecondary])),
            }
        }
        target => panic!("a target that is not known: {target:?}"),
    }
}

/// "(S.lastUpdateTime - S.lastWriteDate) - (P.lastUpdateTime - P.lastWriteDate) + heartbeatFrequencyMS", and without a
/// primary "SMax.lastWriteDate - S.lastWriteDate + heartbeatFrequencyMS".
fn fresh(case: &Case, preference: &ReadPreference, row: &Row) -> bool {
    let Some(limit) = preference.max_staleness.filter(|_| row.kind == ServerType::RsSecondary) else { return true };
    let Some(written) = row.written else { return false };
    let newest = case.rows.iter().filter(|row| row.kind == ServerType::RsSecondary).filter_map(|row| row.written).max();
    let primary = case.rows.iter().find(|row| row.kind == ServerType::RsPrimary).and_then(|row| Some((row.updated, row.written?)));
    let behind = match primary {
        Some((primary_updated, primary_written)) => (row.updated - written) - (primary_updated - primary_written),
        None => newest.unwrap_or(written) - written,
    };
    behind + case.heartbeat <= millis(limit)
}

fn by_tags<'a>(rows: Vec<&'a Row>, preference: &ReadPreference) -> Vec<&'a Row> {
    if preference.tag_sets.is_empty() {
        return rows;
    }
    for wanted in &preference.tag_sets {
        let found: Vec<&Row> = rows.iter().filter(|row| wanted.iter().all(|tag| row.tags.contains(tag))).copied().collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

fn window<'a>(case: &Case, rows: Vec<&'a Row>) -> Vec<&'a Row> {
    let nearest = rows.iter().filter_map(|row| row.round_trip).min().unwrap_or(0);
    rows.into_iter().filter(|row| row.round_trip.is_none_or(|time| time <= nearest + case.threshold)).collect()
}

fn case(rng: &mut SmallRng) -> Case {
    let kinds = [
        TopologyType::Unknown,
        TopologyType::Single,
        TopologyType::Sharded,
        TopologyType::LoadBalanced,
        TopologyType::ReplicaSetNoPrimary,
        TopologyType::ReplicaSetWithPrimary,
        TopologyType::ReplicaSetWithPrimary,
        TopologyType::ReplicaSetWithPrimary,
    ];
    let kind = kinds[rng.random_range(0..kinds.len())];
    let count = if matches!(kind, TopologyType::Single | TopologyType::LoadBalanced) { 1 } else { rng.random_range(1..7) };
    let primary = rng.random_range(0..count);
    let rows: Vec<Row> = (0..count).map(|at| row(rng, at, kind, at == primary)).collect();
    let criteria = criteria(rng, &rows);
    let heartbeat = [500, 10_000, 120_000][rng.random_range(0..3)];
    Case { kind, rows, heartbeat, threshold: rng.random_range(0..40), criteria }
}

fn server_kind(rng: &mut SmallRng, topology: TopologyType, primary: bool) -> ServerType {
    let set = [ServerType::RsSecondary, ServerType::RsSecondary, ServerType::RsArbiter, ServerType::RsOther, ServerType::RsGhost];
    if topology == TopologyType::LoadBalanced {
        return ServerType::LoadBalancer;
    }
    let unknown = topology == TopologyType::Unknown || (!primary && rng.random_bool(0.15));
    if unknown {
        ServerType::Unknown
    } else if topology == TopologyType::Sharded {
        ServerType::Mongos
    } else if topology == TopologyType::Single {
        [ServerType::Standalone, ServerType::RsSecondary, ServerType::RsGhost][rng.random_range(0..3)]
    } else if topology == TopologyType::ReplicaSetWithPrimary && primary {
        ServerType::RsPrimary
    } else {
        set[rng.random_range(0..set.len())]
    }
}

fn row(rng: &mut SmallRng, at: usize, topology: TopologyType, primary: bool) -> Row {
    let kind = server_kind(rng, topology, primary);
    let known = kind != ServerType::Unknown;
    let plain = matches!(kind, ServerType::LoadBalancer | ServerType::Unknown);
    Row {
        host: key(&format!("{}.example", ["a", "b", "c", "d", "e", "f"][at])),
        kind,
        tags: if plain { TagSet::new() } else { tags(rng) },
        round_trip: (known && rng.random_bool(0.9)).then(|| rng.random_range(1..50)),
        updated: rng.random_range(-20_000..20_000),
        written: (!plain && rng.random_bool(0.9)).then(|| rng.random_range(0..200_000)),
    }
}

fn tags(rng: &mut SmallRng) -> TagSet {
    let one = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut tags = TagSet::new();
    if rng.random_bool(0.5) {
        tags.push(one("dc", ["ny", "sf"][rng.random_range(0..2)]));
    }
    if rng.random_bool(0.4) {
        tags.push(one("use", ["web", "batch"][rng.random_range(0..2)]));
    }
    tags
}

fn criteria(rng: &mut SmallRng, rows: &[Row]) -> Criteria {
    let some = |rng: &mut SmallRng| rows[rng.random_range(0..rows.len())].host.clone();
    let target = match rng.random_range(0..8) {
        0 => Target::Write,
        1 => Target::AnyReadable,
        2 => Target::Server(some(rng)),
        _ => {
            let mut preference = ReadPreference::new(MODES[rng.random_range(0..MODES.len())]);
            if preference.mode != ReadPreferenceMode::Primary || rng.random_bool(0.1) {
                preference = preference.with_tag_sets((0..rng.random_range(0..3)).map(|_| tags(rng)).collect());
                if rng.random_bool(0.5) {
                    let limits = [50, 90, 100, 129, 130, 150, 200];
                    preference = preference.with_max_staleness(Duration::from_secs(limits[rng.random_range(0..limits.len())]));
                }
            }
            Target::Read(preference)
        }
    };
    let avoided: Vec<ServerAddress> =
        if rng.random_bool(0.4) { (0..rng.random_range(1..3)).map(|_| some(rng)).collect() } else { Vec::new() };
    Criteria::new(target).with_deprioritized(avoided)
}

fn describe(case: &Case, began: Instant) -> TopologyDescription {
    let servers = case.rows.iter().map(|row| {
        let mut server = ServerDescription::unknown(&row.host);
        server.kind = row.kind;
        if row.kind != ServerType::Unknown {
            let mut hello = HelloReply::default();
            hello.max_wire_version = 21;
            hello.tags = row.tags.clone();
            hello.last_write_date_millis = row.written;
            server.hello = (row.kind != ServerType::LoadBalancer).then(|| Arc::new(hello));
            server.round_trip_time = row.round_trip.map(ms);
            let shift = ms(row.updated.unsigned_abs());
            server.last_update = Some(if row.updated < 0 { began - shift } else { began + shift });
        }
        server
    });
    TopologyDescription::new(case.kind, servers)
        .with_heartbeat_frequency(ms(case.heartbeat.unsigned_abs()))
        .with_local_threshold(ms(case.threshold))
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).expect("a short span")
}
