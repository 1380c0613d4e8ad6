//! Runs the round-trip cases of server-selection.
//!
//! Runs server-selection's `rtt` cases. Every key of a case is checked, an unknown one is a failure.

use std::path::Path;
use std::time::Duration;

use mongolink::topology::RoundTrips;
use serde_json::{Map, Value};

use crate::report::{Report, json_files};

pub(crate) fn run(folder: &Path, report: &mut Report) {
    let mut suite = report.suite_in(folder);
    for (file, content) in json_files(folder) {
        suite.case(file, || check(content?.as_object().ok_or("case is no object")?));
    }
}

fn check(case: &Map<String, Value>) -> Result<(), String> {
    if let Some(key) = case.keys().find(|key| !["avg_rtt_ms", "new_rtt_ms", "new_avg_rtt"].contains(&key.as_str())) {
        return Err(format!("unknown key {key:?}"));
    }
    let millis = |key: &str| case.get(key).and_then(Value::as_f64).ok_or(format!("{key} is no number"));
    let before = match case.get("avg_rtt_ms") {
        Some(Value::String(text)) if text == "NULL" => None,
        _ => Some(Duration::from_secs_f64(millis("avg_rtt_ms")? / 1e3)),
    };
    let mut trips = RoundTrips::new(before);
    trips.handle_sample(Duration::from_secs_f64(millis("new_rtt_ms")? / 1e3));
    let average = trips.average().ok_or("no average")?.as_secs_f64() * 1e3;
    let expected = millis("new_avg_rtt")?;
    if (average - expected).abs() < 1e-6 { Ok(()) } else { Err(format!("average {average}, expected {expected}")) }
}
