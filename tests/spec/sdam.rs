//! Runs server-discovery-and-monitoring on the topology.
//!
//! Runs the phases of server-discovery-and-monitoring on the topology's rules: hello replies and application errors go
//! in, and after each phase the description, the pools' generations or the events are compared. Every key of a case is
//! checked, an unknown one is a failure.

use std::path::Path;
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{Bson, Document, RawDocumentBuf};
use mongolink::handshake::{HelloReply, TopologyVersion};
use mongolink::topology::{Fault, ServerDescription, Topology, TopologyConfig, TopologyDescription, TopologyEvent};
use mongolink::uri::ConnectionString;
use mongolink::{Error, ErrorKind, ServerAddress, Stage};
use serde_json::{Map, Value, json};

use crate::report::{Report, json_files};

pub(crate) fn run(folder: &Path, report: &mut Report) {
    let mut suite = report.suite_in(folder);
    for (file, content) in json_files(folder) {
        suite.case(file, || check(&content?));
    }
}

fn check(content: &Value) -> Result<(), String> {
    let file = object(content, "the file", &["description", "uri", "phases"])?;
    let uri = text(file, "uri")?;
    let options = ConnectionString::parse(uri).map_err(|error| error.to_string())?.options;
    let now = Instant::now();
    let mut topology = Topology::new(TopologyConfig::from_options(&options), 1, now);
    for (index, phase) in list(file, "phases")?.iter().enumerate() {
        run_phase(&mut topology, phase, now + Duration::from_secs(index as u64))
            .map_err(|error| format!("phase {}: {error}", index + 1))?;
    }
    Ok(())
}

fn run_phase(topology: &mut Topology, phase: &Value, now: Instant) -> Result<(), String> {
    let phase = object(phase, "the phase", &["description", "responses", "applicationErrors", "outcome"])?;
    for response in optional_list(phase, "responses")? {
        let [address, reply] = response.as_array().map(Vec::as_slice).unwrap_or_default() else {
            return Err(format!("response {response}"));
        };
        respond(topology, &host(address)?, reply, now)?;
    }
    for error in optional_list(phase, "applicationErrors")? {
        apply_error(topology, error, now)?;
    }
    let events: Vec<TopologyEvent> = std::iter::from_fn(|| topology.poll_event()).collect();
    while topology.poll_action().is_some() {}
    let outcome = phase.get("outcome").ok_or("there is no outcome")?;
    check_outcome(topology, outcome, &events)
}

/// An empty reply stands for a network error.
fn respond(topology: &mut Topology, host: &ServerAddress, reply: &Value, now: Instant) -> Result<(), String> {
    if reply.as_object().is_some_and(Map::is_empty) {
        let error = Error::new(ErrorKind::Closed, "closed by the server").at(Stage::Read).on(host);
        topology.handle_check_failed(host, error, now);
        return Ok(());
    }
    match HelloReply::parse(&raw(reply)?) {
        Ok(reply) => topology.handle_hello(host, reply, Some(Duration::from_millis(1)), now),
        Err(error) => topology.handle_check_failed(host, error, now),
    }
    Ok(())
}

fn apply_error(topology: &mut Topology, error: &Value, now: Instant) -> Result<(), String> {
    let error = object(error, "the error", &["address", "generation", "maxWireVersion", "when", "type", "response"])?;
    let host = host(error.get("address").ok_or("an error without address")?)?;
    let generation = match error.get("generation") {
        Some(generation) => generation.as_u64().ok_or("generation is no number")?,
        None => topology.generation(&host).unwrap_or(0),
    };
    let before = match text(error, "when")? {
        "beforeHandshakeCompletes" => true,
        "afterHandshakeCompletes" => false,
        other => return Err(format!("unknown moment {other:?}")),
    };
    let stage = if before { Stage::Hello } else { Stage::Read };
    // Network errors of a connection's set-up carry the label that client-backpressure demands.
    let labelled = |error: Error| if before { error.with_label("SystemOverloadedError") } else { error };
    let fault = match text(error, "type")? {
        "command" => {
            let reply = raw(error.get("response").ok_or("a command error without response")?)?;
            Fault::in_reply(&host, &reply, generation)
        }
        "network" => Some(Fault::new(labelled(Error::new(ErrorKind::Closed, "closed by the server").at(stage)), generation)),
        "timeout" => {
            let limit = Duration::from_secs(1);
            Some(Fault::new(labelled(Error::timeout(stage, "socketTimeoutMS", limit, limit)), generation))
        }
        other => return Err(format!("unknown type {other:?}")),
    };
    // A reply without a change of state is no fault of the server's.
    if let Some(fault) = fault {
        topology.handle_fault(&host, if before { fault.during_handshake() } else { fault }, now);
    }
    Ok(())
}

fn check_outcome(topology: &Topology, outcome: &Value, events: &[TopologyEvent]) -> Result<(), String> {
    let description = topology.description();
    for (key, expected) in outcome.as_object().ok_or("the outcome is no object")? {
        match key.as_str() {
            "servers" => check_servers(topology, expected)?,
            "topologyType" => same(key, expected, &json!(description.kind().name()))?,
            "setName" => same(key, expected, &json!(description.set_name()))?,
            "logicalSessionTimeoutMinutes" => same(key, expected, &minutes(description.logical_session_timeout()))?,
            "compatible" => same(key, expected, &json!(description.is_compatible()))?,
            "maxSetVersion" => same(key, expected, &json!(description.max_set_version()))?,
            "maxElectionId" => same(key, expected, &object_id(description.max_election_id()))?,
            "events" => {
                same(key, &without_possible_primaries(expected), &Value::Array(events.iter().map(event).collect::<Result<_, _>>()?))?
            }
            other => return Err(format!("unknown key {other:?} in the outcome")),
        }
    }
    Ok(())
}

fn check_servers(topology: &Topology, expected: &Value) -> Result<(), String> {
    let expected = expected.as_object().ok_or("servers is no object")?;
    let mut wanted =
        expected.keys().map(|name| ServerAddress::parse(name).map_err(|error| error.to_string())).collect::<Result<Vec<_>, _>>()?;
    wanted.sort();
    let actual: Vec<ServerAddress> = topology.description().servers().iter().map(|server| server.host.clone()).collect();
    if actual != wanted {
        return Err(format!("servers are {actual:?}, expected {wanted:?}"));
    }
    for (name, expected) in expected {
        let host = ServerAddress::parse(name).map_err(|error| error.to_string())?;
        let server = topology.description().server(&host).ok_or("server is gone")?;
        check_server(topology, server, expected).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

fn check_server(topology: &Topology, server: &ServerDescription, expected: &Value) -> Result<(), String> {
    let wire_version = |of: fn((i32, i32)) -> i32| json!(server.wire_versions().map(of));
    for (key, expected) in expected.as_object().ok_or("the server is no object")? {
        match key.as_str() {
            "type" => same(key, &without_possible_primaries(expected), &json!(server.kind.name()))?,
            "setName" => same(key, expected, &json!(server.set_name()))?,
            "setVersion" => same(key, expected, &json!(server.set_version()))?,
            "electionId" => same(key, expected, &object_id(server.election_id()))?,
            "logicalSessionTimeoutMinutes" => same(key, expected, &minutes(server.logical_session_timeout()))?,
            "minWireVersion" => same(key, expected, &wire_version(|(oldest, _)| oldest))?,
            "maxWireVersion" => same(key, expected, &wire_version(|(_, newest)| newest))?,
            "topologyVersion" => same(key, expected, &topology_version(server.topology_version))?,
            "pool" => same(key, expected, &json!({ "generation": topology.generation(&server.host) }))?,
            "error" => check_error(server.error.as_ref(), expected)?,
            other => return Err(format!("unknown key {other:?}")),
        }
    }
    Ok(())
}

/// Replaces the type `PossiblePrimary`, at any depth: a client that checks servers in the background knows no such type, and
/// the server is Unknown to it.
fn without_possible_primaries(value: &Value) -> Value {
    match value {
        Value::String(text) if text == "PossiblePrimary" => json!("Unknown"),
        Value::Array(items) => items.iter().map(without_possible_primaries).collect(),
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), without_possible_primaries(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn check_error(actual: Option<&Error>, expected: &Value) -> Result<(), String> {
    let fits = match (actual, expected.as_str()) {
        (Some(error), Some(part)) => error.message().contains(part),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if fits { Ok(()) } else { Err(format!("error is {actual:?}, expected {expected}")) }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the format knows no other events")]
fn event(event: &TopologyEvent) -> Result<Value, String> {
    let id = "42";
    Ok(match event {
        TopologyEvent::TopologyOpening => json!({ "topology_opening_event": { "topologyId": id } }),
        TopologyEvent::TopologyClosed => json!({ "topology_closed_event": { "topologyId": id } }),
        TopologyEvent::ServerOpening { host, .. } => json!({ "server_opening_event": { "topologyId": id, "address": host.canonical() } }),
        TopologyEvent::ServerClosed { host, .. } => json!({ "server_closed_event": { "topologyId": id, "address": host.canonical() } }),
        TopologyEvent::ServerDescriptionChanged { previous, new, .. } => json!({ "server_description_changed_event": {
            "topologyId": id,
            "address": new.host.canonical(),
            "previousDescription": server(previous),
            "newDescription": server(new),
        } }),
        TopologyEvent::TopologyDescriptionChanged { previous, new, .. } => json!({ "topology_description_changed_event": {
            "topologyId": id,
            "previousDescription": described(previous),
            "newDescription": described(new),
        } }),
        other => return Err(format!("event {other:?}")),
    })
}

fn server(server: &ServerDescription) -> Value {
    let hello = server.hello.as_deref().cloned().unwrap_or_default();
    let names = |hosts: &[ServerAddress]| hosts.iter().map(|host| host.canonical().to_owned()).collect::<Vec<_>>();
    let mut value = json!({
        "address": server.host.canonical(),
        "type": server.kind.name(),
        "hosts": names(&hello.hosts),
        "passives": names(&hello.passives),
        "arbiters": names(&hello.arbiters),
    });
    if let Some(primary) = &hello.primary {
        value["primary"] = json!(primary.canonical());
    }
    if let Some(name) = &hello.set_name {
        value["setName"] = json!(name);
    }
    value
}

fn described(topology: &TopologyDescription) -> Value {
    let servers: Vec<Value> = topology.servers().iter().map(|one| server(one)).collect();
    let mut value = json!({ "topologyType": topology.kind().name(), "servers": servers });
    if let Some(name) = topology.set_name() {
        value["setName"] = json!(name);
    }
    value
}

fn same(key: &str, expected: &Value, actual: &Value) -> Result<(), String> {
    if expected == actual { Ok(()) } else { Err(format!("{key} is {actual}, expected {expected}")) }
}

fn minutes(span: Option<Duration>) -> Value {
    json!(span.map(|span| span.as_secs() / 60))
}

fn object_id(id: Option<ObjectId>) -> Value {
    id.map_or(Value::Null, |id| json!({ "$oid": id.to_hex() }))
}

fn topology_version(version: Option<TopologyVersion>) -> Value {
    version.map_or(
        Value::Null,
        |version| json!({ "processId": object_id(Some(version.process_id)), "counter": { "$numberLong": version.counter.to_string() } }),
    )
}

fn host(value: &Value) -> Result<ServerAddress, String> {
    ServerAddress::parse(value.as_str().ok_or_else(|| format!("address {value}"))?).map_err(|error| error.to_string())
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

fn optional_list<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], String> {
    if object.contains_key(key) { list(object, key) } else { Ok(&[]) }
}

/// Reads a reply, in extended JSON, into BSON.
fn raw(value: &Value) -> Result<RawDocumentBuf, String> {
    let document = document(value.as_object().ok_or_else(|| format!("reply {value}"))?)?;
    RawDocumentBuf::try_from(&document).map_err(|error| error.to_string())
}

fn document(object: &Map<String, Value>) -> Result<Document, String> {
    object.iter().map(|(key, value)| Ok((key.clone(), bson_of(value)?))).collect()
}

fn bson_of(value: &Value) -> Result<Bson, String> {
    let unknown = || format!("can't read {value}");
    Ok(match value {
        Value::Null => Bson::Null,
        Value::Bool(flag) => Bson::Boolean(*flag),
        Value::String(text) => Bson::String(text.clone()),
        Value::Array(items) => Bson::Array(items.iter().map(bson_of).collect::<Result<_, _>>()?),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => i32::try_from(whole).map_or(Bson::Int64(whole), Bson::Int32),
            None => Bson::Double(number.as_f64().ok_or_else(unknown)?),
        },
        Value::Object(object) => match (object.get("$oid"), object.get("$numberLong")) {
            (Some(id), _) => Bson::ObjectId(ObjectId::parse_str(id.as_str().ok_or_else(unknown)?).map_err(|_| unknown())?),
            (None, Some(number)) => Bson::Int64(number.as_str().and_then(|text| text.parse().ok()).ok_or_else(unknown)?),
            (None, None) => Bson::Document(document(object)?),
        },
    })
}
