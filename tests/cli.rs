//! The program `mongolink` as its users meet it: arguments in, exit code and text out.
#![allow(clippy::disallowed_methods, reason = "tests start programs and look at the clock")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mongolink::bson::{RawArrayBuf, RawDocumentBuf, rawdoc};
use mongolink::operation::command_name;
use mongolink::wire::{Decoder, Flags, MESSAGE_SIZE_MAX, Message, WriteBuffer, encode_message};
use serde_json::Value;

/// How long any run of the program may take here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child process that does not outlive its test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    elapsed: Duration,
}

fn start(arguments: &[&str]) -> Guard {
    start_with(arguments, None, Stdio::null())
}

fn start_with(arguments: &[&str], variable: Option<&str>, input: Stdio) -> Guard {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mongolink"));
    command.args(arguments).env_remove("RUST_LOG").env_remove("MONGOLINK_URI");
    command.envs(variable.map(|uri| ("MONGOLINK_URI", uri)));
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    Guard(command.spawn().expect("the program starts"))
}

fn mongolink(arguments: &[&str]) -> Ended {
    end(start(arguments))
}

/// Runs the program with a value of `MONGOLINK_URI`, and with standard input.
fn with_uri(arguments: &[&str], variable: Option<&str>, input: &str) -> Ended {
    let mut guard = start_with(arguments, variable, Stdio::piped());
    guard.0.stdin.take().expect("piped").write_all(input.as_bytes()).expect("room for it in the pipe");
    end(guard)
}

fn end(mut guard: Guard) -> Ended {
    let began = Instant::now();
    let stdout = drain(guard.0.stdout.take().expect("piped"));
    let stderr = drain(guard.0.stderr.take().expect("piped"));
    let status = wait(&mut guard);
    let elapsed = began.elapsed();
    Ended { code: status.code(), stdout: stdout.join().expect("read"), stderr: stderr.join().expect("read"), elapsed }
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).expect("UTF-8");
        text
    })
}

fn wait(guard: &mut Guard) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = guard.0.try_wait().expect("a child") {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "the program does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts `mongolink sandbox` and returns it with its URI.
fn sandbox(arguments: &[&str]) -> (Guard, String) {
    let mut guard = start(&[&["sandbox", "--port", "0"][..], arguments].concat());
    let mut lines = BufReader::new(guard.0.stdout.take().expect("piped"));
    let mut uri = String::new();
    lines.read_line(&mut uri).expect("a line");
    // The pipe is read on, so that later lines find a reader.
    drop(drain(lines));
    assert!(uri.starts_with("mongodb://"), "{uri:?}");
    (guard, uri.trim_end().to_owned())
}

/// Returns a port of this host that refuses connections.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

#[test]
fn doctor_examines_its_own_sandbox() {
    let ended = mongolink(&["doctor"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    for stage in ["uri", "dns", "tcp", "tls", "hello", "auth", "topology", "ping"] {
        assert!(ended.stdout.lines().any(|line| line.trim_start().starts_with(stage)), "{stage} in {}", ended.stdout);
    }
    let members = ended.stdout.lines().filter(|line| line.starts_with("127.0.0.1:")).count();
    assert_eq!(members, 3, "{}", ended.stdout);
    assert!(ended.stdout.contains("RSPrimary") && !ended.stdout.contains('\x1b'), "{}", ended.stdout);
}

#[test]
fn doctor_prints_one_json_object() {
    let ended = mongolink(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&ended.stdout).expect("one JSON object");
    assert_eq!(ended.code, Some(0), "{report:#}");
    assert_eq!(report["usable"], true);
    assert_eq!(report["servers"].as_array().map(Vec::len), Some(3));
    assert_eq!(report["topology"]["type"], "ReplicaSetWithPrimary");
    assert_eq!(report["ping"]["ok"], true);
    assert_eq!(report["advice"], serde_json::json!([]));
    let stages = report["stages"].as_array().expect("stages");
    for stage in ["uri", "tcp", "hello", "auth", "ping", "topology"] {
        assert!(stages.iter().any(|line| line["stage"] == stage && line["ok"] == true), "{stage} in {report:#}");
    }
}

#[test]
fn doctor_advises_on_a_refused_connection() {
    let uri = format!("mongodb://127.0.0.1:{}/", free_port());
    let ended = mongolink(&["doctor", &uri, "--timeout", "5"]);
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.elapsed < Duration::from_secs(8), "{:?}", ended.elapsed);
    assert!(ended.stdout.contains("FAILED") && ended.stdout.contains("not usable"), "{}", ended.stdout);
    assert!(ended.stdout.contains("Nothing listens at 127.0.0.1:"), "{}", ended.stdout);
}

#[test]
fn doctor_ends_in_time_without_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let uri = format!("mongodb://{}/", listener.local_addr().expect("bound"));
    let ended = mongolink(&["doctor", &uri, "--timeout", "2", "--json"]);
    let report: Value = serde_json::from_str(&ended.stdout).expect("one JSON object");
    assert_eq!(ended.code, Some(1), "{report:#}");
    assert!(ended.elapsed < Duration::from_secs(5), "{:?}", ended.elapsed);
    assert!(
        report["stages"].as_array().is_some_and(|stages| stages.iter().any(|line| line["stage"] == "hello" && line["ok"] == false)),
        "{report:#}"
    );
}

#[test]
fn doctor_follows_overrides() {
    let (_guard, uri) = sandbox(&["--standalone"]);
    let address = uri.trim_start_matches("mongodb://").split('/').next().expect("a host").to_owned();
    let given = format!("nowhere.invalid:27017:{address}");
    let ended = mongolink(&["doctor", "mongodb://nowhere.invalid/", "--resolve", &given]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
}

#[test]
fn doctor_says_both_names_of_a_wrong_set() {
    let (_guard, uri) = sandbox(&["--set", "green"]);
    let ended = mongolink(&["doctor", &uri.replace("green", "blue"), "--timeout", "8"]);
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("\"blue\"") && ended.stdout.contains("replicaSet=green"), "{}", ended.stdout);
}

#[test]
fn bad_uri_is_bad_usage_and_keeps_the_password() {
    for uri in ["mongodb://ann:s3cret@h:99999/", "mongodb://ann:s3cret@/", "mangodb://ann:s3cret@h/", "ann:s3cret@h"] {
        for arguments in [
            &["doctor", uri][..],
            &["doctor", uri, "--json"],
            &["run", uri, "test", "{\"ping\":1}"],
            &["watch", uri],
            &["doctor", "mongodb://h", uri],
        ] {
            let ended = mongolink(arguments);
            assert_eq!(ended.code, Some(2), "{arguments:?}: {}{}", ended.stdout, ended.stderr);
            assert!(!ended.stderr.is_empty(), "{arguments:?}");
            assert!(!ended.stdout.contains("s3cret") && !ended.stderr.contains("s3cret"), "{}{}", ended.stdout, ended.stderr);
        }
    }
}

#[test]
fn uri_comes_from_the_environment_a_file_or_standard_input() {
    let (_guard, uri) = sandbox(&["--standalone"]);
    let path = std::env::temp_dir().join(format!("mongolink-uri-{}", std::process::id()));
    std::fs::write(&path, format!("{uri}\n")).expect("a file");
    let file = format!("@{}", path.display());
    let ping = r#"{"ping":1}"#;
    for (arguments, variable, input) in [
        (&["run", "test", ping][..], Some(uri.as_str()), ""),
        (&["run", &uri, "test", ping], Some("mongodb://u:s3cret@:x/"), ""),
        (&["run", &file, "test", ping], None, ""),
        (&["run", "-", "test", ping], None, uri.as_str()),
        (&["doctor", "--json"], Some(uri.as_str()), ""),
        (&["doctor", "-"], None, uri.as_str()),
    ] {
        let ended = with_uri(arguments, variable, input);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}{}", ended.stdout, ended.stderr);
        assert!(!ended.stderr.contains("process list"), "{arguments:?}: {}", ended.stderr);
    }
    std::fs::write(&path, "mongodb://u:s3cret@h:x/").expect("a file");
    for (arguments, variable, input, source) in [
        (&["watch"][..], Some("mongodb://u:s3cret@h:x/"), "", "MONGOLINK_URI: "),
        (&["watch", &file], None, "", "the file "),
        (&["doctor", "-"], None, "mongodb://u:s3cret@h:x/", "standard input: "),
        (&["watch"], None, "", "set MONGOLINK_URI"),
        (&["run", "test", ping], None, "", "MONGOLINK_URI is not set"),
    ] {
        let ended = with_uri(arguments, variable, input);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains(source) && !ended.stderr.contains("s3cret"), "{arguments:?}: {}", ended.stderr);
    }
    std::fs::remove_file(&path).expect("the file");
    let exposed = with_uri(&["doctor", "mongodb://u:s3cret@h:x/"], None, "");
    assert!(exposed.stderr.contains("visible in the process list") && !exposed.stderr.contains("s3cret"), "{}", exposed.stderr);
    for arguments in [&["--help"][..], &["run", "--help"], &["doctor", "--help"], &["watch", "--help"]] {
        let help = mongolink(arguments).stdout;
        assert!(help.lines().take(3).any(|line| line.contains("MONGOLINK_URI")), "{help}");
    }
}

#[test]
fn unknown_command_is_bad_usage() {
    assert_eq!(mongolink(&["frobnicate"]).code, Some(2));
    assert_eq!(mongolink(&[]).code, Some(2));
    let help = mongolink(&["doctor", "--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("With --json") && help.stdout.contains("duration_ms"), "{}", help.stdout);
}

#[test]
fn sandbox_takes_commands() {
    let (_guard, uri) = sandbox(&["--members", "1"]);
    let people = [r#"{"_id":1,"name":"Ann"}"#, r#"{"_id":2,"name":"Bo"}"#, r#"{"_id":3,"born":{"$date":"1970-01-01T00:00:01Z"}}"#];
    let insert = format!(r#"{{"insert":"people","documents":[{}]}}"#, people.join(","));
    let inserted = mongolink(&["run", &uri, "test", &insert]);
    assert_eq!(inserted.code, Some(0), "{}", inserted.stderr);
    let reply: Value = serde_json::from_str(&inserted.stdout).expect("a reply");
    assert_eq!(reply["n"], 3);
    let found = mongolink(&["run", &uri, "test", r#"{"find":"people","filter":{},"batchSize":2}"#]);
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    assert_eq!(found.stdout.lines().collect::<Vec<_>>(), people);
    let canonical = mongolink(&["run", &uri, "test", r#"{"find":"people","filter":{"_id":1}}"#, "--canonical", "--timeout", "10"]);
    assert_eq!(canonical.stdout.trim_end(), r#"{"_id":{"$numberInt":"1"},"name":"Ann"}"#);
    let refused = mongolink(&["run", &uri, "test", r#"{"frobnicate":1}"#]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("frobnicate"), "{}", refused.stderr);
    assert_eq!(mongolink(&["run", &uri, "test", "{ping:1}"]).code, Some(2));
}

/// Serves a standalone server that answers every command but hello with a document's bytes; returns its URI.
fn peer(answer: impl Fn(&str) -> Vec<u8> + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let uri = format!("mongodb://{}/", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let (mut decoder, mut chunk) = (Decoder::new(MESSAGE_SIZE_MAX), [0; 4096]);
                while let Some(size) = stream.read(&mut chunk).ok().filter(|size| *size > 0) {
                    decoder.buffer().extend_from_slice(&chunk[..size]);
                    while let Ok(Some(frame)) = decoder.next_frame() {
                        let message = Message::parse(frame).expect("a command");
                        let body = match command_name(message.body()) {
                            "hello" | "isMaster" => hello().into_bytes(),
                            name => answer(name),
                        };
                        let body = RawDocumentBuf::from_bytes(body).expect("framed");
                        let mut out = WriteBuffer::default();
                        encode_message(&mut out, 1, message.request_id, Flags::default(), &body.into(), |_| {});
                        drop(stream.write_all(&out.to_bytes()));
                    }
                }
            });
        }
    });
    uri
}

fn hello() -> RawDocumentBuf {
    rawdoc! { "isWritablePrimary": true, "helloOk": true, "maxWireVersion": 21, "ok": 1.0 }
}

/// A document of so many levels in a field of a reply, encoded by hand: what encodes it otherwise is recursive.
fn nested(levels: usize) -> Vec<u8> {
    (1..levels).fold(rawdoc! { "ok": 1 }.into_bytes(), |inner, level| {
        let ok: &[u8] = if level + 1 == levels { b"\x10ok\0\x01\0\0\0" } else { b"" };
        let length = u32::try_from(inner.len() + 7 + ok.len()).expect("short");
        [&length.to_le_bytes()[..], ok, b"\x03\0", &inner, b"\0"].concat()
    })
}

#[test]
fn reply_that_nests_too_deep_is_a_named_error() {
    let uri = peer(|name| if name == "find" { cursor_of(&nested(1000)) } else { nested(1000) });
    for command in [r#"{"ping":1}"#, r#"{"find":"x"}"#] {
        let ended = mongolink(&["run", &uri, "admin", command]);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("limit NESTING_DEPTH_MAX of 200"), "{}", ended.stderr);
    }
    // A server that answers is usable.
    let ended = mongolink(&["doctor", &uri]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
}

fn cursor_of(document: &[u8]) -> Vec<u8> {
    let mut batch = RawArrayBuf::new();
    batch.push(rawdoc! { "n": 1 });
    batch.push(RawDocumentBuf::from_bytes(document.to_vec()).expect("framed"));
    batch.push(rawdoc! { "n": 3 });
    rawdoc! { "ok": 1, "cursor": { "id": 0.0, "ns": "admin.x", "firstBatch": batch } }.into_bytes()
}

#[test]
fn document_that_cannot_be_read_costs_only_itself() {
    let uri = peer(|name| {
        let mut document = rawdoc! { "names": [{ "first": "QQ" }] }.into_bytes();
        let place = document.windows(2).position(|bytes| bytes == b"QQ").expect("there");
        document[place] = 0xff;
        if name == "find" { cursor_of(&document) } else { rawdoc! { "ok": 1 }.into_bytes() }
    });
    let ended = mongolink(&["run", &uri, "admin", r#"{"find":"x"}"#]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(ended.stdout, "{\"n\":1}\n{\"names\":[{\"first\":\"\u{fffd}Q\"}]}\n{\"n\":3}\n");
    assert!(ended.stderr.contains(r#"error: document 2: the field "names.0.first" can't be read"#), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[test]
fn refused_writes_are_reported_and_fail() {
    let (_guard, uri) = sandbox(&["--members", "1"]);
    let insert = r#"{"insert":"people","documents":[{"_id":1},{"_id":1}]}"#;
    let ended = mongolink(&["run", &uri, "test", insert]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let reply: Value = serde_json::from_str(&ended.stdout).expect("the reply");
    assert_eq!((&reply["ok"], &reply["writeErrors"][0]["code"]), (&Value::from(1.0), &Value::from(11000)));
    assert!(ended.stderr.starts_with("error: write 1: E11000") && ended.stderr.contains("(code 11000"), "{}", ended.stderr);
    let uri = peer(|_| {
        rawdoc! { "ok": 1, "n": 1, "writeConcernError": { "code": 64, "codeName": "WriteConcernFailed", "errmsg": "late" } }.into_bytes()
    });
    let ended = mongolink(&["run", &uri, "test", r#"{"insert":"people","documents":[{}]}"#]);
    assert_eq!((ended.code, ended.stderr.trim_end()), (Some(1), "error: write concern: late (code 64 WriteConcernFailed)"));
}

#[test]
fn watch_shows_the_servers_as_json() {
    let (_sandbox, uri) = sandbox(&["--members", "2"]);
    let mut guard = start(&["watch", &uri, "--json"]);
    let lines = BufReader::new(guard.0.stdout.take().expect("piped")).lines();
    let complete = lines.map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("a JSON object a line"));
    let mut complete = complete.filter(|state| state["topology"]["type"] == "ReplicaSetWithPrimary");
    let state = complete.next().expect("a primary is found");
    assert_eq!(state["servers"].as_array().map(Vec::len), Some(2), "{state:#}");
}

/// A program that is stopped for longer than a check may take (a debugger, a container that is paused) finds, when it goes
/// on, that its time is over, and that the answers have come: they count.
#[test]
#[cfg(unix)]
fn client_that_was_stopped_does_not_blame_the_servers() {
    let (_sandbox, uri) = sandbox(&["--standalone"]);
    // A check may take 800 ms.
    let uri = format!("{uri}?connectTimeoutMS=300&heartbeatFrequencyMS=500");
    let mut guard = start(&["watch", &uri, "--json"]);
    let mut lines = BufReader::new(guard.0.stdout.take().expect("piped"));
    let mut known = String::new();
    while !known.contains("Standalone") {
        known.clear();
        assert!(lines.read_line(&mut known).expect("a line") > 0, "it ended");
    }
    let later = drain(lines);
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &guard.0.id().to_string()]).status();
        assert!(status.expect("kill runs").success(), "it ended");
    };
    // It may be stopped at another moment of its work each time.
    for pause in [1200, 1350, 1500, 1650] {
        signal("-STOP");
        std::thread::sleep(Duration::from_millis(pause));
        signal("-CONT");
        std::thread::sleep(Duration::from_millis(700));
    }
    drop(guard);
    let later = later.join().expect("read");
    assert!(!later.contains("Unknown"), "{later}");
}

#[test]
fn reader_that_goes_away_causes_no_panic() {
    for arguments in [&["doctor"][..], &["doctor", "--json"], &["--help"]] {
        let mut guard = start(arguments);
        drop(guard.0.stdout.take());
        let stderr = drain(guard.0.stderr.take().expect("piped"));
        let status = wait(&mut guard);
        let stderr = stderr.join().expect("read");
        assert_eq!(status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}
