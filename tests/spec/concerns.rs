//! Runs read-write-concern: concerns become the specified documents.
//!
//! Runs read-write-concern's `document` cases. Every key of a case is checked, an unknown one is a failure.

use std::path::Path;
use std::time::Duration;

use mongolink::bson::{Bson, Document};
use mongolink::{ReadConcern, W, WriteConcern};
use serde_json::{Map, Value};

use crate::report::{Report, json_files};

const READ: [&str; 5] = ["description", "valid", "readConcern", "readConcernDocument", "isServerDefault"];
const WRITE: [&str; 6] = ["description", "valid", "writeConcern", "writeConcernDocument", "isServerDefault", "isAcknowledged"];

pub(crate) fn run(folder: &Path, report: &mut Report) {
    let mut suite = report.suite_in(folder);
    for (file, content) in json_files(folder) {
        let cases = match content.map(|content| content.get("tests").and_then(Value::as_array).cloned()) {
            Ok(Some(cases)) => cases,
            Ok(None) => {
                suite.case(file, || Err("no tests".into()));
                continue;
            }
            Err(error) => {
                suite.case(file, || Err(error));
                continue;
            }
        };
        for case in cases {
            let name = case.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
            suite.case(format!("{file}: {name}"), || check(case.as_object().ok_or("case is no object")?));
        }
    }
}

fn check(case: &Map<String, Value>) -> Result<(), String> {
    let known: &[&str] = if case.contains_key("readConcern") { &READ } else { &WRITE };
    if let Some(key) = case.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("unknown key {key:?}"));
    }
    let valid = case.get("valid").and_then(Value::as_bool).ok_or("valid is no boolean")?;
    let outcome = match (case.get("readConcern"), case.get("writeConcern")) {
        (Some(given), None) => read(given).map(|concern| (concern.to_document(), concern.is_server_default(), None)),
        (None, Some(given)) => {
            write(given)?.map(|concern| (concern.to_document(), concern.is_server_default(), Some(concern.is_acknowledged())))
        }
        (Some(_), Some(_)) | (None, None) => return Err("neither or both concerns".into()),
    };
    let Some((document, is_default, is_acknowledged)) = outcome else {
        return if valid { Err("refused".into()) } else { Ok(()) };
    };
    if !valid {
        return Err("not refused".into());
    }
    let expected = case.get("readConcernDocument").or(case.get("writeConcernDocument")).ok_or("no document")?;
    if !same(&document, expected) {
        return Err(format!("document {document}, expected {expected}"));
    }
    if case.get("isServerDefault").and_then(Value::as_bool) != Some(is_default) {
        return Err(format!("isServerDefault is {is_default}"));
    }
    if let Some(is_acknowledged) = is_acknowledged
        && case.get("isAcknowledged").and_then(Value::as_bool) != Some(is_acknowledged)
    {
        return Err(format!("isAcknowledged is {is_acknowledged}"));
    }
    Ok(())
}

fn read(given: &Value) -> Option<ReadConcern> {
    let mut concern = ReadConcern::default();
    concern.level = given.get("level").and_then(Value::as_str).map(str::to_owned);
    Some(concern)
}

/// `None` if it is refused.
fn write(given: &Value) -> Result<Option<WriteConcern>, String> {
    let mut concern = WriteConcern::default();
    for (key, value) in given.as_object().ok_or("the concern is no object")? {
        match (key.as_str(), value) {
            ("w", Value::String(tag)) => concern.w = Some(W::Tag(tag.clone())),
            ("w", Value::Number(number)) => match W::nodes(number.as_i64().ok_or("w is no integer")?) {
                Ok(w) => concern.w = Some(w),
                Err(_) => return Ok(None),
            },
            ("journal", Value::Bool(journal)) => concern.journal = Some(*journal),
            // A length of time can't be negative by its type.
            ("wtimeoutMS", Value::Number(number)) => match number.as_u64() {
                Some(millis) => concern.w_timeout = Some(Duration::from_millis(millis)),
                None => return Ok(None),
            },
            (key, value) => return Err(format!("unknown {key:?}: {value}")),
        }
    }
    Ok(concern.validate().is_ok().then_some(concern))
}

fn same(document: &Document, expected: &Value) -> bool {
    let Some(expected) = expected.as_object() else { return false };
    document.len() == expected.len()
        && document.iter().all(|(key, value)| match (value, expected.get(key)) {
            (Bson::String(text), Some(Value::String(other))) => text == other,
            (Bson::Boolean(flag), Some(Value::Bool(other))) => flag == other,
            (Bson::Int32(number), Some(Value::Number(other))) => Some(i64::from(*number)) == other.as_i64(),
            (Bson::Int64(number), Some(Value::Number(other))) => Some(*number) == other.as_i64(),
            _ => false,
        })
}
