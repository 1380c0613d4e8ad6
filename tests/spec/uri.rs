//! Runs the connection string and URI option suites.
//!
//! Runs the case format of connection-string, uri-options, auth (legacy) and read-write-concern (connection-string). A
//! case is valid if the string can be read, and has the credential that is expected; it is invalid if it can't be read, or
//! no client can be made of it. Every key of a case is checked, an unknown one is a failure.

use std::path::Path;

use mongolink::uri::{ConnectionString, OptionValue, option_names, option_value, validate};
use mongolink::{Error, ErrorKind};
use serde_json::{Map, Value};

use crate::report::{Report, json_files};

/// What the texts of those errors contain that make no client of a string that can be read: the two-level rules of
/// [`mongolink::uri`].
const SECOND_LEVEL: [&str; 4] = ["without a password", "option w:", "option wTimeoutMS:", "option tls"];

pub(crate) fn run(folder: &Path, report: &mut Report) {
    let mut suite = report.suite_in(folder);
    for (file, content) in json_files(folder) {
        let tests = content.and_then(|content| tests(&content));
        match tests {
            Ok(tests) => {
                for test in tests {
                    let name = test.get("description").and_then(Value::as_str).unwrap_or("(no description)");
                    suite.case(format!("{file}: {name}"), || check(&test));
                }
            }
            Err(error) => suite.case(file, || Err(error)),
        }
    }
}

fn tests(content: &Value) -> Result<Vec<Value>, String> {
    let file = object(content, "the file")?;
    if let Some(key) = file.keys().find(|key| key.as_str() != "tests") {
        return Err(format!("unknown key {key:?} in the file"));
    }
    let tests = file.get("tests").and_then(Value::as_array).ok_or("there is no list \"tests\"")?;
    Ok(tests.clone())
}

fn check(test: &Value) -> Result<(), String> {
    let test = object(test, "the case")?;
    let uri = test.get("uri").and_then(Value::as_str).ok_or("there is no text \"uri\"")?;
    let valid = test.get("valid").and_then(Value::as_bool).ok_or("there is no flag \"valid\"")?;
    test.get("description").and_then(Value::as_str).ok_or("there is no text \"description\"")?;
    if !valid {
        check_invalid(uri)?;
    }
    let read = if valid { Some(read_valid(uri)?) } else { None };
    for (key, expected) in test {
        match (key.as_str(), &read) {
            ("description" | "uri" | "valid", _) => {}
            ("warning", None) => nothing_or_false(key, expected)?,
            ("hosts" | "auth" | "options" | "credential" | "readConcern" | "writeConcern", None) => nothing_or_false(key, expected)?,
            ("warning", Some(read)) => check_warning(read, expected)?,
            ("hosts", Some(read)) => check_hosts(read, expected)?,
            ("auth", Some(read)) => check_auth(read, expected)?,
            ("options", Some(read)) => check_options(read, expected)?,
            ("credential", Some(read)) => check_credential(read, expected)?,
            ("readConcern", Some(read)) => check_concern(read, expected, &[("level", "readConcernLevel")])?,
            ("writeConcern", Some(read)) => {
                check_concern(read, expected, &[("w", "w"), ("journal", "journal"), ("wtimeoutMS", "wTimeoutMS")])?;
            }
            (other, _) => return Err(format!("unknown key {other:?}")),
        }
    }
    Ok(())
}

/// A string that is not valid has no further expectations.
fn nothing_or_false(key: &str, expected: &Value) -> Result<(), String> {
    if expected.is_null() || (key == "warning" && expected.is_boolean()) {
        return Ok(());
    }
    Err(format!("{key:?} of an invalid case is {expected}"))
}

fn read_valid(uri: &str) -> Result<ConnectionString, String> {
    let read = ConnectionString::parse(uri).map_err(|error| format!("could not be read: {error}"))?;
    match validate(&read.options) {
        Err(error) if error.kind() != ErrorKind::Unsupported && !SECOND_LEVEL.iter().any(|text| error.message().contains(text)) => {
            Err(format!("could be read, but makes no client: {error}"))
        }
        Ok(()) | Err(_) => Ok(read),
    }
}

fn check_invalid(uri: &str) -> Result<(), String> {
    let outcome = ConnectionString::parse(uri).and_then(|read| {
        validate(&read.options)?;
        read.options.credential().map(|_| read)
    });
    match outcome {
        Ok(read) => Err(format!("is valid: {read:?}")),
        // Refused because the mechanism is not supported.
        Err(error) if error.kind() == ErrorKind::Unsupported && error.message().contains("MONGODB-AWS") => Ok(()),
        Err(error) => is_refusal(&error),
    }
}

fn is_refusal(error: &Error) -> Result<(), String> {
    if matches!(error.kind(), ErrorKind::InvalidUri | ErrorKind::InvalidHost | ErrorKind::InvalidOption) {
        return Ok(());
    }
    Err(format!("is an error of the wrong kind, {:?}: {error}", error.kind()))
}

fn check_warning(read: &ConnectionString, expected: &Value) -> Result<(), String> {
    let warned = !read.warnings.is_empty();
    match expected {
        Value::Null => Ok(()),
        Value::Bool(expected) if *expected == warned => Ok(()),
        Value::Bool(expected) => Err(format!("warning expected: {expected}, warnings: {:?}", read.warnings)),
        Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => Err(format!("unknown type of \"warning\": {expected}")),
    }
}

fn check_hosts(read: &ConnectionString, expected: &Value) -> Result<(), String> {
    if expected.is_null() {
        return Ok(());
    }
    let expected = expected.as_array().ok_or("\"hosts\" is no list")?;
    let hosts = &read.options.hosts;
    if hosts.len() != expected.len() {
        return Err(format!("{} hosts expected, got {hosts:?}", expected.len()));
    }
    for (key, expected) in hosts.iter().zip(expected) {
        let expected = object(expected, "a host")?;
        let spelled = key.to_string();
        let [canonical, spelled] = [key.canonical(), &spelled].map(|text| without_port(text, key.port()));
        let kind = match (key.name(), key.port()) {
            (Some(_), _) => "hostname",
            (None, 0) => "unix",
            (None, _) if canonical.starts_with('[') => "ip_literal",
            (None, _) => "ipv4",
        };
        let default = if kind == "unix" { 0 } else { 27017 };
        for (part, value) in expected {
            let same = match part.as_str() {
                "type" => value == kind,
                "host" => value == spelled || value == canonical.trim_start_matches('[').trim_end_matches(']'),
                "port" => value.as_u64().map_or(value.is_null().then_some(default), |port| u16::try_from(port).ok()) == Some(key.port()),
                _ => return Err(format!("unknown key {part:?} of a host")),
            };
            if !same {
                return Err(format!("{part} of host {key} expected: {value} ({kind})"));
            }
        }
    }
    Ok(())
}

fn without_port(host: &str, port: u16) -> &str {
    host.strip_suffix(&format!(":{port}")).unwrap_or(host)
}

fn check_auth(read: &ConnectionString, expected: &Value) -> Result<(), String> {
    if expected.is_null() {
        return Ok(());
    }
    for (key, expected) in object(expected, "\"auth\"")? {
        let found = match key.as_str() {
            "username" => read.options.username.as_deref(),
            "password" => read.options.password.as_ref().map(|password| password.reveal()),
            "db" => read.options.database.as_deref(),
            _ => return Err(format!("unknown key {key:?} of \"auth\"")),
        };
        same_text(key, found, expected)?;
    }
    Ok(())
}

fn check_options(read: &ConnectionString, expected: &Value) -> Result<(), String> {
    if expected.is_null() {
        return Ok(());
    }
    for (name, expected) in object(expected, "\"options\"")? {
        if name != "ssl" && !option_names().any(|known| known.eq_ignore_ascii_case(name)) {
            return Err(format!("unknown option {name:?}"));
        }
        let found = option_value(&read.options, name);
        // -1 means "no limit", which is what no value means.
        let is_unset = found.is_none() && name.eq_ignore_ascii_case("maxStalenessSeconds") && expected == -1;
        if !is_unset {
            same_value(name, found.as_ref(), expected)?;
        }
    }
    Ok(())
}

fn check_credential(read: &ConnectionString, expected: &Value) -> Result<(), String> {
    let found = read.options.credential().map_err(|error| format!("no credential: {error}"))?;
    let found = match (found, expected.is_null()) {
        (None, true) => return Ok(()),
        (Some(found), false) => found,
        (found, _) => return Err(format!("credential expected: {expected}, got {}", if found.is_some() { "one" } else { "none" })),
    };
    for (key, expected) in object(expected, "\"credential\"")? {
        match key.as_str() {
            "username" => same_text(key, found.username.as_deref(), expected)?,
            "password" => same_text(key, found.password.as_ref().map(|password| password.reveal()), expected)?,
            "source" => same_text(key, Some(&found.source), expected)?,
            "mechanism" => same_text(key, found.mechanism.map(|mechanism| mechanism.name()), expected)?,
            "mechanism_properties" => {
                let pairs: Vec<(String, OptionValue)> =
                    found.properties.iter().map(|(name, value)| (name.clone(), OptionValue::Text(value.reveal().to_owned()))).collect();
                let none = Value::Object(Map::new());
                same_value(key, Some(&OptionValue::Pairs(pairs)), if expected.is_null() { &none } else { expected })?;
            }
            _ => return Err(format!("unknown key {key:?} of \"credential\"")),
        }
    }
    Ok(())
}

/// Compares a concern with the options that make it: those that are not expected must not be given.
fn check_concern(read: &ConnectionString, expected: &Value, parts: &[(&str, &str)]) -> Result<(), String> {
    let expected = object(expected, "the concern")?;
    if let Some(key) = expected.keys().find(|key| !parts.iter().any(|(part, _)| part == key)) {
        return Err(format!("unknown key {key:?} of a concern"));
    }
    for (part, option) in parts {
        let found = option_value(&read.options, option);
        same_value(part, found.as_ref(), expected.get(*part).unwrap_or(&Value::Null))?;
    }
    Ok(())
}

fn same_text(key: &str, found: Option<&str>, expected: &Value) -> Result<(), String> {
    let is_known = expected.is_null() || expected.is_string();
    if is_known && found == expected.as_str() {
        return Ok(());
    }
    Err(format!("{key} expected: {expected}, got {found:?}"))
}

fn same_value(key: &str, found: Option<&OptionValue>, expected: &Value) -> Result<(), String> {
    let same = match found {
        None => expected.is_null(),
        Some(found) => is_same(found, expected)?,
    };
    if same { Ok(()) } else { Err(format!("{key} expected: {expected}, got {found:?}")) }
}

fn is_same(found: &OptionValue, expected: &Value) -> Result<bool, String> {
    Ok(match found {
        OptionValue::Bool(flag) => expected.as_bool() == Some(*flag),
        OptionValue::Int(number) => expected.as_i64() == Some(*number),
        OptionValue::Text(text) => expected.as_str() == Some(text.as_str()),
        OptionValue::Secret(secret) => expected.as_str() == Some(secret.reveal()),
        OptionValue::List(items) => texts(expected) == Some(items.iter().map(String::as_str).collect::<Vec<_>>()),
        OptionValue::Pairs(pairs) => {
            let Some(expected) = expected.as_object() else { return Ok(false) };
            expected.len() == pairs.len()
                && pairs.iter().all(|(name, value)| expected.get(name).is_some_and(|expected| is_same_property(value, expected)))
        }
        OptionValue::Tags(sets) => {
            let Some(expected) = expected.as_array() else { return Ok(false) };
            expected.len() == sets.len() && sets.iter().zip(expected).all(|(set, expected)| is_same_set(set, expected))
        }
        other => return Err(format!("unknown type of value: {other:?}")),
    })
}

/// Flags among the properties are texts to the crate.
fn is_same_property(found: &OptionValue, expected: &Value) -> bool {
    let expected = expected.as_bool().map(|flag| flag.to_string()).or_else(|| expected.as_str().map(str::to_owned));
    let found = if let OptionValue::Text(text) = found {
        Some(text.as_str())
    } else if let OptionValue::Secret(secret) = found {
        Some(secret.reveal())
    } else {
        None
    };
    found.is_some() && expected.as_deref() == found
}

fn is_same_set(found: &[(String, String)], expected: &Value) -> bool {
    let Some(expected) = expected.as_object() else { return false };
    expected.len() == found.len() && found.iter().all(|(name, value)| expected.get(name).and_then(Value::as_str) == Some(value.as_str()))
}

fn texts(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{what} is no object"))
}
