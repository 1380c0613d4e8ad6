use bson::{Bson, Document, RawDocumentBuf, doc};

use super::extjson::parse;
use super::output::{Paint, printable};
use super::report::{ExaminationOutcome, Report, StageLine, failed_probe, probe_lines, servers_json, topology_json};
use super::*;
use crate::error::Stage;
use crate::handshake::HelloReply;
use crate::host::{Address, ServerAddress};
use crate::operation::json::Json;
use crate::topology::{ServerDescription, TopologyDescription, TopologyType};

fn key(text: &str) -> ServerAddress {
    ServerAddress::parse(text).expect(text)
}

fn write(document: &Document, canonical: bool) -> String {
    let raw = RawDocumentBuf::try_from(document).expect("encoded");
    let json = Json::of(&raw);
    if canonical { json.canonical().to_string() } else { json.to_string() }
}

fn arguments(line: &[&str]) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(std::iter::once("mongolink").chain(line.iter().copied()))
}

#[test]
fn arguments_make_a_consistent_command() {
    use clap::CommandFactory;
    Arguments::command().debug_assert();
}

#[test]
fn doctor_has_defaults() {
    let Ok(Arguments { command: CliCommand::Doctor(doctor), verbose: 2 }) = arguments(&["doctor", "-vv"]) else {
        panic!("doctor is a command")
    };
    assert_eq!((doctor.uri, doctor.json, doctor.timeout), (None, false, Duration::from_secs(15)));
}

#[test]
fn bad_arguments_are_refused() {
    for line in [
        &["doctor", "--timeout", "0"][..],
        &["doctor", "--timeout", "nan"],
        &["sandbox", "--members", "51"],
        &["sandbox", "--standalone", "--members", "2"],
    ] {
        assert!(arguments(line).is_err(), "{line:?}");
    }
    assert!(arguments(&["run", "mongodb://h", "db", "{}", "--read-preference", "fastest"]).is_err());
}

#[test]
fn number_of_positionals_says_whether_there_is_a_uri() {
    let of = |line: &[&str]| run::Positionals::of(line.iter().map(ToString::to_string).collect());
    let read = |line: &[&str]| of(line).ok().map(|read| (read.uri, read.database, read.command));
    let expected = |uri: Option<&str>| Some((uri.map(str::to_owned), "db".to_owned(), "{}".to_owned()));
    assert_eq!(read(&["mongodb://h", "db", "{}"]), expected(Some("mongodb://h")));
    assert_eq!(read(&["-", "db", "{}"]), expected(Some("-")));
    assert_eq!(read(&["db", "{}"]), expected(None));
    for line in [&["db"][..], &["mongodb://h", "db"], &["@file", "db"], &["-", "db"]] {
        assert!(read(line).is_none(), "{line:?}");
    }
    assert!(arguments(&["run"]).is_err() && arguments(&["run", "-", "db", "{}", "more"]).is_err());
    assert!(arguments(&["run", "-", "db", "{}", "--timeout", "5"]).is_ok() && arguments(&["run", "--canonical", "db", "{}"]).is_ok());
}

#[test]
fn override_is_host_port_and_address() {
    let read = |text: &str| args::resolve(text).map(|given| (given.host.canonical().to_owned(), given.address.to_string()));
    let pair = |host: &str, address: &str| Ok((host.to_owned(), address.to_owned()));
    assert_eq!(read("db1:27017:10.0.0.7"), pair("db1:27017", "10.0.0.7:27017"));
    assert_eq!(read("db1:27017:10.0.0.7:30001"), pair("db1:27017", "10.0.0.7:30001"));
    assert_eq!(read("db1:27017:::1"), pair("db1:27017", "[::1]:27017"));
    assert_eq!(read("[::1]:5:[::2]:6"), pair("[::1]:5", "[::2]:6"));
    for text in ["db1", "db1:27017", "db1:27017:", "db1:0:10.0.0.7", "db1:27017:elsewhere", "a..b:1:10.0.0.7", "[::1]"] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn quoted_arguments_lose_what_may_be_secret() {
    let uri = "mongodb://ann:s3cret@h";
    let Err(error) = arguments(&["doctor", "mongodb://h", uri]) else { panic!("too many arguments") };
    assert!(error.to_string().contains("s3cret"));
    let text = hidden(error.to_string(), ["doctor", uri].map(OsString::from).into_iter());
    assert!(!text.contains("s3cret") && text.contains("***"), "{text}");
    let option = hidden(format!("invalid value '{uri}'"), std::iter::once(OsString::from(format!("--timeout={uri}"))));
    assert_eq!(option, "invalid value '***'");
}

#[test]
fn keys_keep_their_order() {
    let command = parse(r#"{"zebra": 1, "apple": {"y": 1, "x": [{"b": 1, "a": 2}]}, "mango": 3}"#).expect("JSON");
    assert_eq!(command.keys().collect::<Vec<_>>(), ["zebra", "apple", "mango"]);
    assert_eq!(write(&command, false), r#"{"zebra":1,"apple":{"y":1,"x":[{"b":1,"a":2}]},"mango":3}"#);
}

#[test]
fn plain_numbers_take_the_smallest_type() {
    let numbers = parse(r#"{"a": -1, "b": 2147483648, "c": -2147483649, "d": 1.0}"#).expect("JSON");
    assert_eq!(numbers, doc! { "a": -1_i32, "b": 2_147_483_648_i64, "c": -2_147_483_649_i64, "d": 1.0 });
    assert!(parse(r#"{"a": 18446744073709551615}"#).expect_err("too large").contains("$numberDecimal"));
}

#[test]
fn extended_values_are_read_and_written_in_both_forms() {
    let canonical = [
        r#"{"v":{"$oid":"0123456789abcdef01234567"}}"#,
        r#"{"v":{"$numberInt":"7"}}"#,
        r#"{"v":{"$numberLong":"7"}}"#,
        r#"{"v":{"$numberDouble":"-0.0"}}"#,
        r#"{"v":{"$numberDecimal":"1.5"}}"#,
        r#"{"v":{"$date":{"$numberLong":"-1"}}}"#,
        r#"{"v":{"$binary":{"base64":"AQI=","subType":"04"}}}"#,
        r#"{"v":{"$regularExpression":{"pattern":"a","options":"i"}}}"#,
        r#"{"v":{"$timestamp":{"t":1,"i":4294967295}}}"#,
        r#"{"v":{"$code":"f","$scope":{"z":{"$numberInt":"1"},"a":null}}}"#,
        r#"{"v":{"$minKey":1}}"#,
    ];
    for text in canonical {
        assert_eq!(write(&parse(text).expect(text), true), text);
    }
    let date = parse(r#"{"v": {"$date": "1970-01-01T00:00:01Z"}}"#).expect("a date");
    assert_eq!(date.get("v"), Some(&Bson::DateTime(bson::DateTime::from_millis(1000))));
    assert_eq!(write(&date, false), r#"{"v":{"$date":"1970-01-01T00:00:01Z"}}"#);
    // Outside of the years with four digits, and before 1970.
    for millis in ["253402300800000", "9223372036854775807", "-1", "-9223372036854775808"] {
        let text = format!(r#"{{"v":{{"$date":{{"$numberLong":"{millis}"}}}}}}"#);
        assert_eq!(write(&parse(&text).expect("a date"), false), text);
    }
    let operator = r#"{"v":{"$regex":"^a","$options":"i"}}"#;
    assert_eq!(write(&parse(operator).expect("an operator"), false), operator);
}

#[test]
fn malformed_commands_say_what_is_wrong() {
    assert!(parse("[1]").expect_err("an array").contains("not a JSON object"));
    assert!(parse(r#"{"$oid":"0123456789abcdef01234567"}"#).expect_err("a value").contains("not a JSON object"));
    assert!(parse(r#"{"a":1,"a":2}"#).expect_err("twice").contains("duplicate key"));
    assert!(parse(r#"{"a":{"$oid":"12"}}"#).is_err());
    assert!(parse(r#"{"a":{"$oid":"0123456789abcdef01234567","b":1}}"#).is_err());
    assert!(parse(r#"{"a":1"#).expect_err("cut off").contains("line 1"));
}

#[test]
fn four_commands_make_cursors() {
    assert!(run::makes_cursor(&doc! { "find": "people" }));
    assert!(run::makes_cursor(&doc! { "aggregate": "people" }));
    assert!(!run::makes_cursor(&doc! { "aggregate": "people", "explain": true }));
    assert!(!run::makes_cursor(&doc! { "ping": 1, "find": "people" }));
}

#[test]
fn text_from_outside_cannot_steer_the_terminal() {
    assert_eq!(printable("a\x1b[2Jb\r\nc"), "a\u{fffd}[2Jb\u{fffd}\nc");
}

#[test]
fn topology_progress_waits_for_every_check() {
    let now = Instant::now();
    let primary = HelloReply { is_writable_primary: true, set_name: Some("rs0".into()), ..HelloReply::default() };
    let secondary = HelloReply { secondary: true, set_name: Some("rs0".into()), ..HelloReply::default() };
    let describe = |kind, servers: Vec<ServerDescription>| doctor::progress_of(&TopologyDescription::new(kind, servers));
    let first = ServerDescription::of_hello(&key("h1"), primary, now);
    let second = ServerDescription::of_hello(&key("h2"), secondary, now);
    let failed = ServerDescription::failed(&key("h3"), Error::new(ErrorKind::Closed, "x"), now);
    let with_primary = TopologyType::ReplicaSetWithPrimary;
    assert_eq!(describe(with_primary, vec![first.clone(), ServerDescription::unknown(&key("h3"))]), doctor::TopologyProgress::Checking);
    assert_eq!(describe(with_primary, vec![first, failed.clone()]), doctor::TopologyProgress::Writable);
    assert_eq!(describe(TopologyType::ReplicaSetNoPrimary, vec![second.clone(), failed.clone()]), doctor::TopologyProgress::WithoutPrimary);
    assert_eq!(describe(TopologyType::ReplicaSetNoPrimary, vec![failed]), doctor::TopologyProgress::NeverWritable);
    assert_eq!(describe(TopologyType::Single, vec![second]), doctor::TopologyProgress::NeverWritable);
}

#[test]
fn probe_reports_its_final_error_once() {
    let cut = failed_probe(key("h1"), Error::new(ErrorKind::Timeout, "x"));
    assert_eq!(probe_lines(&cut).iter().map(|line| line.stage.as_str()).collect::<Vec<_>>(), ["probe"]);
    let unanswered = failed_probe(key("h1"), Error::new(ErrorKind::Closed, "x").at(Stage::Read));
    assert_eq!(probe_lines(&unanswered).iter().map(|line| line.stage.as_str()).collect::<Vec<_>>(), ["ping"]);
}

#[test]
fn report_has_two_forms_of_the_same() {
    let mut report = Report::new(Some("mongodb://h1:27017/".into()));
    report.start.push(StageLine::new(Stage::Uri, Duration::from_micros(1500), None));
    report.probes.push(failed_probe(key("h1"), Error::io(Stage::Tcp, io::ErrorKind::ConnectionRefused.into()).on(&key("h1"))));
    report.advice.push("start it".into());
    let json = report.to_json();
    assert_eq!(json["usable"], false);
    assert_eq!(json["stages"][0]["duration_ms"], 1.5);
    assert_eq!((json["stages"][1]["stage"].as_str(), json["stages"][1]["host"].as_str()), (Some("tcp"), Some("h1:27017")));
    assert_eq!(json["stages"][1]["ok"], false);
    let text = report.to_text(Paint::default());
    for part in ["mongodb://h1:27017/", "h1:27017\n", "tcp", "FAILED", "not usable", "start it"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(report.outcome, ExaminationOutcome::Unusable);
}

#[test]
fn topology_json_lists_every_server() {
    let address = Address::Ip(([127, 0, 0, 1], 1).into());
    let error = Error::new(ErrorKind::Closed, "gone").with_address(&address);
    let topology = TopologyDescription::new(TopologyType::Unknown, [ServerDescription::failed(&key("h1"), error, Instant::now())]);
    assert_eq!(topology_json(&topology)["type"], "Unknown");
    let servers = servers_json(&topology);
    assert_eq!((servers[0]["host"].as_str(), servers[0]["type"].as_str()), (Some("h1:27017"), Some("Unknown")));
    assert!(servers[0]["error"].as_str().is_some_and(|error| error.contains("127.0.0.1:1") && error.contains("gone")));
}
