//! Runs the suites of server-selection and max-staleness.
//!
//! Runs server-selection (`server_selection`, `in_window`) and max-staleness: suitable servers and latency window are
//! compared step by step, and the selection as a whole with both. Every key of a case is checked, an unknown one is a
//! failure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongolink::ServerAddress;
use mongolink::handshake::HelloReply;
use mongolink::selection::{self, Criteria, ReadPreference, ReadPreferenceMode, TagSet};
use mongolink::topology::{ServerDescription, ServerType, TopologyDescription, TopologyType};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Map, Value};

use crate::report::{Report, Suite, json_files};

/// How often a selection is made to see that it stays within the window.
const TRIALS: u64 = 50;

const CASE: [&str; 9] = [
    "topology_description",
    "operation",
    "read_preference",
    "deprioritized_servers",
    "suitable_servers",
    "in_latency_window",
    "heartbeatFrequencyMS",
    "error",
    "description",
];

const IN_WINDOW: [&str; 5] = ["description", "topology_description", "mocked_topology_state", "iterations", "outcome"];

const SERVER: [&str; 7] = ["address", "type", "avg_rtt_ms", "tags", "lastUpdateTime", "lastWrite", "maxWireVersion"];

pub(crate) fn run(folder: &Path, report: &mut Report) {
    let mut suite = report.suite_in(folder);
    run_below(folder, "", &mut suite);
}

fn run_below(folder: &Path, prefix: &str, suite: &mut Suite<'_>) {
    for (file, content) in json_files(folder) {
        suite.case(format!("{prefix}{file}"), || {
            let content = content?;
            if content.get("iterations").is_some() { check_frequencies(&content) } else { check(&content) }
        });
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut folders: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    for below in folders {
        let name = below.file_name().unwrap_or_default().to_string_lossy().into_owned();
        run_below(&below, &format!("{prefix}{name}/"), suite);
    }
}

fn check(content: &Value) -> Result<(), String> {
    let case = object(content, "the case", &CASE)?;
    let topology = topology(case)?;
    let criteria = criteria(case)?;
    let checked = selection::check(&topology, &criteria);
    if case.get("error").is_some_and(|error| error == &Value::Bool(true)) {
        return match checked {
            Ok(()) => Err("an error is expected".to_owned()),
            Err(_) => Ok(()),
        };
    }
    checked.map_err(|error| error.to_string())?;
    let suitable = selection::suitable_servers(&topology, &criteria);
    let wanted = expected(case, "suitable_servers")?;
    same("suitable servers", &suitable, &wanted)?;
    let window = selection::in_latency_window(suitable, topology.local_threshold());
    let wanted = expected(case, "in_latency_window")?;
    same("latency window", &window, &wanted)?;
    for seed in 0..TRIALS {
        match selection::select(&topology, &criteria, &|_| 0, &mut SmallRng::seed_from_u64(seed)) {
            Ok(server) if wanted.contains(&server.host) => {}
            Err(selection::Refusal::NoServer(reasons)) if wanted.is_empty() && reasons.len() == topology.servers().len() => {}
            other => return Err(format!("selected {other:?}, expected one of {wanted:?}")),
        }
    }
    Ok(())
}

fn check_frequencies(content: &Value) -> Result<(), String> {
    let case = object(content, "the case", &IN_WINDOW)?;
    let topology = topology(case)?;
    let mut loads = BTreeMap::new();
    for state in list(case, "mocked_topology_state")? {
        let state = object(state, "the state", &["address", "operation_count"])?;
        let count = state.get("operation_count").and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok());
        loads.insert(host(state)?, count.ok_or("there is no operation_count")?);
    }
    let iterations = case.get("iterations").and_then(Value::as_u64).ok_or("there are no iterations")?;
    let criteria = Criteria::read(ReadPreference::nearest());
    let mut rng = SmallRng::seed_from_u64(42);
    let mut counts: BTreeMap<ServerAddress, u64> = BTreeMap::new();
    for _ in 0..iterations {
        let load = |host: &ServerAddress| loads.get(host).copied().unwrap_or(0);
        let server = selection::select(&topology, &criteria, &load, &mut rng).map_err(|refusal| format!("{refusal:?}"))?;
        *counts.entry(server.host.clone()).or_default() += 1;
    }
    let outcome = object(case.get("outcome").ok_or("there is no outcome")?, "the outcome", &["tolerance", "expected_frequencies"])?;
    let tolerance = outcome.get("tolerance").and_then(Value::as_f64).ok_or("there is no tolerance")?;
    let frequencies = outcome.get("expected_frequencies").and_then(Value::as_object).ok_or("there are no frequencies")?;
    for (name, frequency) in frequencies {
        let wanted = frequency.as_f64().ok_or("a frequency is no number")?;
        let count = counts.remove(&ServerAddress::parse(name).map_err(|error| error.to_string())?).unwrap_or(0);
        let actual = count as f64 / iterations as f64;
        // All or nothing allows no tolerance.
        let allowed = if wanted == 0.0 || wanted == 1.0 { 0.0 } else { tolerance };
        if (actual - wanted).abs() > allowed {
            return Err(format!("{name} was selected with frequency {actual}, expected {wanted} ± {allowed}"));
        }
    }
    if counts.is_empty() { Ok(()) } else { Err(format!("unexpected selections: {counts:?}")) }
}

fn topology(case: &Map<String, Value>) -> Result<TopologyDescription, String> {
    let described = object(case.get("topology_description").ok_or("there is no topology")?, "the topology", &["type", "servers"])?;
    let kind = text(described, "type")?;
    let kinds = [
        TopologyType::Unknown,
        TopologyType::Single,
        TopologyType::ReplicaSetNoPrimary,
        TopologyType::ReplicaSetWithPrimary,
        TopologyType::Sharded,
        TopologyType::LoadBalanced,
    ];
    let kind = kinds.into_iter().find(|known| known.name() == kind).ok_or_else(|| format!("unknown topology type {kind:?}"))?;
    let began = Instant::now();
    let servers = list(described, "servers")?.iter().map(|described| server(described, began)).collect::<Result<Vec<_>, _>>()?;
    let topology = TopologyDescription::new(kind, servers);
    match case.get("heartbeatFrequencyMS") {
        Some(millis) => {
            Ok(topology.with_heartbeat_frequency(Duration::from_millis(millis.as_u64().ok_or("heartbeatFrequencyMS is no number")?)))
        }
        None => Ok(topology),
    }
}

fn server(described: &Value, began: Instant) -> Result<ServerDescription, String> {
    let described = object(described, "the server", &SERVER)?;
    let mut server = ServerDescription::unknown(&host(described)?);
    server.kind = server_type(text(described, "type")?)?;
    if let Some(average) = described.get("avg_rtt_ms") {
        let millis = average.as_f64().filter(|millis| *millis >= 0.0).ok_or("avg_rtt_ms is no length of time")?;
        server.round_trip_time = Some(Duration::from_secs_f64(millis / 1e3));
    }
    if let Some(millis) = described.get("lastUpdateTime") {
        server.last_update = Some(began + Duration::from_millis(millis.as_u64().ok_or("lastUpdateTime is no number")?));
    }
    let mut hello = HelloReply::default();
    hello.max_wire_version = match described.get("maxWireVersion") {
        Some(version) => version.as_i64().and_then(|version| i32::try_from(version).ok()).ok_or("maxWireVersion is no number")?,
        None => 21,
    };
    if let Some(write) = described.get("lastWrite") {
        let date = object(write, "lastWrite", &["lastWriteDate"])?.get("lastWriteDate").and_then(|date| date.get("$numberLong"));
        hello.last_write_date_millis =
            Some(date.and_then(Value::as_str).and_then(|date| date.parse().ok()).ok_or("lastWriteDate is no number")?);
    }
    if let Some(described) = described.get("tags") {
        hello.tags = tags(described)?;
    }
    if server.kind != ServerType::Unknown {
        server.hello = Some(Arc::new(hello));
    }
    Ok(server)
}

fn server_type(name: &str) -> Result<ServerType, String> {
    let kinds = [
        ServerType::Unknown,
        ServerType::Standalone,
        ServerType::Mongos,
        ServerType::RsPrimary,
        ServerType::RsSecondary,
        ServerType::RsArbiter,
        ServerType::RsOther,
        ServerType::RsGhost,
        ServerType::LoadBalancer,
    ];
    // A client that watches all servers at once needs no PossiblePrimary.
    let name = if name == "PossiblePrimary" { "Unknown" } else { name };
    kinds.into_iter().find(|kind| kind.name() == name).ok_or_else(|| format!("unknown server type {name:?}"))
}

fn criteria(case: &Map<String, Value>) -> Result<Criteria, String> {
    let described = object(
        case.get("read_preference").ok_or("there is no read preference")?,
        "the read preference",
        &["mode", "tag_sets", "maxStalenessSeconds"],
    )?;
    let mode = match described.get("mode") {
        Some(mode) => mode.as_str().and_then(ReadPreferenceMode::from_name).ok_or_else(|| format!("unknown mode {mode}"))?,
        None => ReadPreferenceMode::Primary,
    };
    let mut preference = ReadPreference::new(mode);
    if described.contains_key("tag_sets") {
        preference = preference.with_tag_sets(list(described, "tag_sets")?.iter().map(tags).collect::<Result<_, _>>()?);
    }
    if let Some(seconds) = described.get("maxStalenessSeconds") {
        let seconds = seconds.as_i64().ok_or("maxStalenessSeconds is no number")?;
        // -1 stands for no limit.
        if let Ok(seconds) = u64::try_from(seconds) {
            preference = preference.with_max_staleness(Duration::from_secs(seconds));
        }
    }
    let criteria = match case.get("operation").map(Value::as_str) {
        Some(Some("write")) => Criteria::write(),
        Some(Some("read")) | None => Criteria::read(preference),
        Some(other) => return Err(format!("unknown operation {other:?}")),
    };
    Ok(criteria.with_deprioritized(hosts(case, "deprioritized_servers")?))
}

/// The servers that a case expects: each as it stands in the topology.
fn expected(case: &Map<String, Value>, key: &str) -> Result<Vec<ServerAddress>, String> {
    let known = case.get("topology_description").and_then(|topology| topology.get("servers")).and_then(Value::as_array);
    if let Some(stranger) = list(case, key)?.iter().find(|server| !known.is_some_and(|known| known.contains(server))) {
        return Err(format!("{key} has a server that the topology has not: {stranger}"));
    }
    hosts(case, key)
}

fn hosts(case: &Map<String, Value>, key: &str) -> Result<Vec<ServerAddress>, String> {
    let Some(servers) = case.get(key) else { return Ok(Vec::new()) };
    let servers = servers.as_array().ok_or_else(|| format!("{key} is no list"))?;
    let mut hosts = servers.iter().map(|server| host(object(server, key, &SERVER)?)).collect::<Result<Vec<_>, _>>()?;
    hosts.sort();
    Ok(hosts)
}

fn same(what: &str, actual: &[&Arc<ServerDescription>], expected: &[ServerAddress]) -> Result<(), String> {
    let mut actual: Vec<ServerAddress> = actual.iter().map(|server| server.host.clone()).collect();
    actual.sort();
    if actual == expected { Ok(()) } else { Err(format!("{what}: {actual:?}, expected {expected:?}")) }
}

fn tags(value: &Value) -> Result<TagSet, String> {
    let object = value.as_object().ok_or("tags are no object")?;
    let tag = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    object.iter().map(tag).collect::<Option<_>>().ok_or_else(|| format!("a tag is no text: {value}"))
}

fn host(object: &Map<String, Value>) -> Result<ServerAddress, String> {
    ServerAddress::parse(text(object, "address")?).map_err(|error| error.to_string())
}

fn object<'a>(value: &'a Value, what: &str, known: &[&str]) -> Result<&'a Map<String, Value>, String> {
    let object = value.as_object().ok_or_else(|| format!("{what} is no object"))?;
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(format!("unknown key {key:?} in {what}")),
        None => Ok(object),
    }
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    object.get(key).and_then(Value::as_str).ok_or_else(|| format!("there is no text {key:?}"))
}

fn list<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], String> {
    object.get(key).and_then(Value::as_array).map(Vec::as_slice).ok_or_else(|| format!("there is no list {key:?}"))
}
