//! Runs the cmap-format suites of connection-monitoring-and-pooling on the pool.
//!
//! Both styles run on virtual time (`cmap::world`): the threads take their operations, and events and errors are compared with
//! those expected. Every key of a
//! case is checked; unknown ones, and unknown operations, events and errors, are failures.

mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use mongolink::{Error, ErrorKind, Stage};
use serde_json::{Map, Value};

use crate::report::{Report, json_files};
use world::{Operation, World};

/// How long one operation may take, in virtual time, where the case says nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every event of the format.
const EVENTS: &[&str] = &[
    "ConnectionPoolCreated",
    "ConnectionPoolReady",
    "ConnectionPoolCleared",
    "ConnectionPoolClosed",
    "ConnectionCreated",
    "ConnectionReady",
    "ConnectionClosed",
    "ConnectionCheckOutStarted",
    "ConnectionCheckOutFailed",
    "ConnectionCheckedOut",
    "ConnectionCheckedIn",
];

/// Stands for any value that is there.
const ANY: i64 = 42;

pub(crate) fn run(folder: &Path, report: &mut Report) {
    let mut suite = report.suite_in(folder);
    for (file, content) in json_files(folder) {
        suite.case(file, || check(&content?));
    }
}

fn check(content: &Value) -> Result<(), String> {
    let keys = ["version", "style", "description", "runOn", "failPoint", "poolOptions", "operations", "error", "events", "ignore"];
    let case = object(content, "the case", &keys)?;
    if case.get("version").and_then(Value::as_i64) != Some(1) {
        return Err(format!("version {:?}", case.get("version")));
    }
    let is_integration = match text(case, "style")? {
        "unit" => false,
        "integration" => true,
        other => return Err(format!("unknown style {other:?}")),
    };
    if !is_integration && (case.contains_key("runOn") || case.contains_key("failPoint")) {
        return Err("a unit case with a server".into());
    }
    let (uri, background) = uri(case.get("poolOptions"))?;
    let mut world = World::new(&uri, background)?;
    if let Some(requirements) = case.get("runOn") {
        check_server(world.server_version()?, requirements)?;
    }
    if let Some(fail_point) = case.get("failPoint") {
        world.set_fail_point(fail_point)?;
    }
    let outcome = operate(&mut world, list(case, "operations")?)?;
    check_error(&world, outcome.err(), case.get("error"))?;
    let ignored = match case.get("ignore") {
        Some(_) => list(case, "ignore")?.iter().map(event_name).collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    check_events(world.events(), list(case, "events")?, &ignored)
}

/// Makes a connection string of a case's pool options, and reads how often the case's background thread runs.
fn uri(options: Option<&Value>) -> Result<(String, Option<i64>), String> {
    let mut pairs = Vec::new();
    let mut background = None;
    let options = match options {
        Some(options) => options.as_object().ok_or("poolOptions is no object")?.clone(),
        None => Map::new(),
    };
    for (key, value) in &options {
        match key.as_str() {
            "maxPoolSize" | "minPoolSize" | "maxIdleTimeMS" | "maxConnecting" | "waitQueueTimeoutMS" => {
                pairs.push(format!("{key}={}", value.as_u64().ok_or_else(|| format!("{key} is {value}"))?));
            }
            "appName" => pairs.push(format!("{key}={}", value.as_str().ok_or_else(|| format!("{key} is {value}"))?)),
            "backgroundThreadIntervalMS" => background = Some(value.as_i64().ok_or_else(|| format!("{key} is {value}"))?),
            other => return Err(format!("unknown pool option {other:?}")),
        }
    }
    Ok((format!("mongodb://{}/?{}", world::HOST, pairs.join("&")), background))
}

/// A case that the server at hand could not run would have to be skipped: there is none.
fn check_server(version: String, requirements: &Value) -> Result<(), String> {
    let parts = |text: &str| text.split('.').map(|part| part.parse::<u32>().map_err(|_| format!("version {text:?}"))).collect();
    let own: Vec<u32> = parts(&version)?;
    for requirement in requirements.as_array().ok_or("runOn is no list")? {
        let requirement = object(requirement, "runOn", &["minServerVersion", "maxServerVersion"])?;
        let bound = |key: &str| requirement.contains_key(key).then(|| parts(text(requirement, key)?)).transpose();
        let is_met = bound("minServerVersion")?.is_none_or(|min: Vec<u32>| min <= own)
            && bound("maxServerVersion")?.is_none_or(|max: Vec<u32>| own <= max);
        if is_met {
            return Ok(());
        }
    }
    Err(format!("the sandbox's version {version} is none of {requirements}"))
}

/// Runs the main thread's operations; the inner error is one that the case may expect, and ends them.
fn operate(world: &mut World, operations: &[Value]) -> Result<Result<(), Error>, String> {
    for operation in operations {
        let operation = operation.as_object().ok_or("an operation is no object")?;
        let keys: &[&str] = match text(operation, "name")? {
            "start" => &["name", "target"],
            "wait" => &["name", "ms", "thread"],
            "waitForThread" => &["name", "target"],
            "waitForEvent" => &["name", "event", "count", "timeout"],
            "checkOut" => &["name", "thread", "label"],
            "checkIn" => &["name", "thread", "connection"],
            "clear" => &["name", "thread", "interruptInUseConnections"],
            "close" | "ready" => &["name", "thread"],
            other => return Err(format!("unknown operation {other:?}")),
        };
        if let Some(key) = operation.keys().find(|key| !keys.contains(&key.as_str())) {
            return Err(format!("unknown key {key:?} in operation {operation:?}"));
        }
        let millis = |key: &str| number(operation, key).map(Duration::from_millis);
        let step = match text(operation, "name")? {
            "start" => {
                world.start(text(operation, "target")?)?;
                continue;
            }
            "waitForThread" => match world.wait_for_thread(text(operation, "target")?, PATIENCE)? {
                Ok(()) => continue,
                Err(error) => return Ok(Err(error)),
            },
            "waitForEvent" => {
                let name = event_name(operation.get("event").unwrap_or(&Value::Null))?;
                let count = usize::try_from(number(operation, "count")?).map_err(|error| error.to_string())?;
                let limit = if operation.contains_key("timeout") { millis("timeout")? } else { PATIENCE };
                world.wait_for_event(&name, count, limit)?;
                continue;
            }
            "wait" => Operation::Wait(millis("ms")?),
            "checkOut" => {
                Operation::CheckOut(operation.contains_key("label").then(|| text(operation, "label")).transpose()?.map(str::to_owned))
            }
            "checkIn" => Operation::CheckIn(text(operation, "connection")?.to_owned()),
            "clear" => Operation::Clear(match operation.get("interruptInUseConnections") {
                None => false,
                Some(flag) => flag.as_bool().ok_or("interruptInUseConnections is no boolean")?,
            }),
            "close" => Operation::Close,
            _ => Operation::Ready,
        };
        if operation.contains_key("thread") {
            world.give(text(operation, "thread")?, step)?;
        } else if let Err(error) = world.run(step, PATIENCE)? {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

fn check_error(world: &World, actual: Option<Error>, expected: Option<&Value>) -> Result<(), String> {
    let (actual, expected) = match (actual, expected) {
        (None, None) => return Ok(()),
        (Some(actual), Some(expected)) => (actual, expected),
        (actual, expected) => return Err(format!("error is {actual:?}, expected {expected:?}")),
    };
    for (key, expected) in object(expected, "the error", &["type", "message", "address"])? {
        let fits = match key.as_str() {
            "type" => match expected.as_str().unwrap_or_default() {
                "PoolClosedError" => actual.kind() == ErrorKind::PoolClosed,
                "PoolClearedError" => actual.kind() == ErrorKind::PoolCleared,
                "WaitQueueTimeoutError" => actual.kind() == ErrorKind::Timeout && actual.stage() == Some(Stage::Checkout),
                other => return Err(format!("unknown error {other:?}")),
            },
            // Case apart: messages begin with a small letter here.
            "message" => {
                let part = expected.as_str().ok_or("message is no text")?.to_lowercase();
                actual.message().to_lowercase().contains(&part)
            }
            _ => is_matched(&actual.host().map_or(Value::Null, |host| host.canonical().into()), expected),
        };
        if !fits {
            return Err(format!("{key} of the error {actual:?} is not {expected}; events were {}", names(world.events())));
        }
    }
    Ok(())
}

fn check_events(actual: &[Value], expected: &[Value], ignored: &[String]) -> Result<(), String> {
    let actual: Vec<&Value> = actual.iter().filter(|event| !ignored.iter().any(|name| event["type"] == **name)).collect();
    for (index, expected) in expected.iter().enumerate() {
        event_name(expected.get("type").unwrap_or(&Value::Null))?;
        match actual.get(index) {
            Some(event) if is_matched(event, expected) => {}
            Some(event) => return Err(format!("event {index} is {event}, expected {expected}")),
            None => return Err(format!("event {index} is missing, expected {expected}")),
        }
    }
    match actual.get(expected.len()) {
        Some(event) => Err(format!("event {event} is one too many")),
        None => Ok(()),
    }
}

/// Compares what is expected, member by member; more may be there, and [`ANY`] is fulfilled by whatever is there.
fn is_matched(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (actual, expected) if expected.as_i64() == Some(ANY) => !actual.is_null(),
        (Value::Object(actual), Value::Object(expected)) => {
            expected.iter().all(|(key, expected)| actual.get(key).is_some_and(|actual| is_matched(actual, expected)))
        }
        (actual, expected) => actual == expected,
    }
}

fn event_name(value: &Value) -> Result<String, String> {
    let name = value.as_str().unwrap_or_default();
    if EVENTS.contains(&name) { Ok(name.to_owned()) } else { Err(format!("unknown event {value}")) }
}

fn names(events: &[Value]) -> String {
    let mut counts = BTreeMap::new();
    for event in events {
        *counts.entry(event["type"].as_str().unwrap_or_default()).or_insert(0) += 1;
    }
    format!("{counts:?}")
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

fn number(object: &Map<String, Value>, key: &str) -> Result<u64, String> {
    object.get(key).and_then(Value::as_u64).ok_or_else(|| format!("there is no number {key:?}"))
}

fn list<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], String> {
    object.get(key).and_then(Value::as_array).map(Vec::as_slice).ok_or_else(|| format!("there is no list {key:?}"))
}
