//! Secrets never appear in logs, events and error texts.

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use mongolink::{Client, ErrorKind, Sandbox};
use tokio::runtime::Builder;
use tracing::dispatcher::Dispatch;

use super::soon;
use crate::peers::host_of;
use crate::support::ping;

const USER: &str = "u_log";

const PASSWORD: &str = "s3cr3t-p4ss";

/// What every SCRAM conversation says, and nothing else does: the beginnings of the client's messages, and the end of the
/// server's first one.
const SCRAM: [&str; 3] = ["n,,n=u_log", "c=biws", ",i=4096"];

/// What proof and signature follow; these are random, and at least so long.
const SCRAM_KEYS: [&str; 2] = [",p=", "v="];
const PROOF_CHARS_MIN: usize = 20;

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The forms in which a text may be printed: itself, in hexadecimal, as a list of bytes, percent-encoded, and within
/// longer base64, at each of the three places that it may have there.
fn forms(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let joined = |separator: &str, show: fn(&u8) -> String| bytes.iter().map(show).collect::<Vec<_>>().join(separator);
    let mut forms = vec![text.to_owned(), joined("", |byte| format!("{byte:02x}")), joined(", ", u8::to_string)];
    forms.push(percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string());
    // The first and the last character may depend on the neighbours.
    for (shift, first) in [(0, 0), (1, 2), (2, 3)] {
        let mut shifted = vec![0; shift];
        shifted.extend_from_slice(bytes);
        let mut encoded = STANDARD_NO_PAD.encode(&shifted);
        if !shifted.len().is_multiple_of(3) {
            encoded.pop();
        }
        forms.push(encoded.split_off(first));
    }
    forms
}

/// Returns what a text shows of the login, if it does.
fn leak(text: &str) -> Option<String> {
    let digest = format!("{:x}", md5::compute(format!("{USER}:mongo:{PASSWORD}")));
    let is_random = |next: &char| next.is_ascii_alphanumeric() || matches!(next, '+' | '/');
    let is_random_behind =
        |key: &str| text.match_indices(key).any(|(at, _)| text[at + key.len()..].chars().take_while(is_random).count() >= PROOF_CHARS_MIN);
    let known = [PASSWORD, &digest].into_iter().chain(SCRAM).flat_map(forms).find(|form| text.contains(form.as_str()));
    known.or_else(|| SCRAM_KEYS.into_iter().find(|key| is_random_behind(key)).map(str::to_owned))
}

fn assert_hidden(place: &str, text: &str) {
    if let Some(form) = leak(text) {
        let lines = text.lines().filter(|line| line.contains(&form)).take(3).collect::<Vec<_>>().join("\n");
        panic!("{place} shows {form:?}:\n{lines}");
    }
}

#[test]
fn search_finds_secrets_in_every_form() {
    for secret in [PASSWORD, "c=biws,r=fyko", "n,,n=u_log,r=fyko", "r=fyko,s=QSXC,i=4096"] {
        for form in [secret.to_owned(), format!("{:?}", secret.as_bytes())] {
            assert!(leak(&form).is_some(), "{form}");
        }
        for before in ["", "a", "ab", "abc"] {
            let encoded = STANDARD_NO_PAD.encode(format!("{before}{secret},more"));
            assert!(leak(&encoded).is_some(), "{secret} behind {before:?}: {encoded}");
        }
    }
    assert!(leak("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_some());
    assert!(leak("c=x,r=y,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").is_some());
    assert_eq!(leak("previous=Unknown, ipv=6, user \"u_log\" with SCRAM-SHA-256, srv=cluster.example"), None);
}

#[test]
fn login_shows_no_secret_in_log_events_and_texts() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(move || writer.clone());
    let dispatch = Dispatch::new(subscriber.finish());
    // For the whole process: a call site that another thread met first would stay silent for one thread's subscriber. What
    // other tests log here shows no secret either.
    tracing::dispatcher::set_global_default(dispatch).expect("the only subscriber");
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let told = runtime.block_on(log_in());
    drop(runtime);
    let logged = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let logged = String::from_utf8(logged).expect("text");
    assert!(logged.contains("TRACE mongolink") && logged.contains("command sent"), "nothing was logged");
    assert!(told.contains("Started") && told.contains("HeartbeatSucceeded") && told.contains("ConnectionReady"), "nothing was told");
    assert!(told.contains("was refused"), "the wrong password was taken");
    assert_hidden("the log", &logged);
    assert_hidden("an event or a text", &told);
}

/// Logs in with both mechanisms, and with a wrong password; returns all that a user can see.
async fn log_in() -> String {
    let sandbox = Sandbox::builder().members(1).user(USER, PASSWORD).start().await.expect("sandbox");
    let host = host_of(sandbox.addresses()[0]);
    let mut told = String::new();
    for (mechanism, suffix) in [("SCRAM-SHA-256", ""), ("SCRAM-SHA-1", ""), ("SCRAM-SHA-256", "-not"), ("SCRAM-SHA-1", "-not")] {
        let uri = format!("mongodb://{USER}:{PASSWORD}{suffix}@{host}/?replicaSet=rs0&authMechanism={mechanism}");
        let client = Client::new(&uri).expect("client");
        let mut events = client.events();
        let outcome = soon("a ping", ping(&client)).await;
        match &outcome {
            Ok(_) => assert_eq!(suffix, "", "{mechanism}"),
            Err(error) => assert_eq!((error.kind(), suffix), (ErrorKind::Auth, "-not"), "{mechanism}: {error}"),
        }
        if let Err(error) = &outcome {
            writeln!(told, "{error}").expect("written");
        }
        let probe = soon("a probe", client.probe(&host)).await;
        let parsed = mongolink::ConnectionString::parse(&uri).expect("a connection string");
        writeln!(told, "{outcome:?} {probe:?} {parsed} {parsed:?} {client:?} {:?} {}", client.options(), client.topology())
            .expect("written");
        soon("shutdown", client.shutdown()).await;
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(100), events.next()).await {
            writeln!(told, "{event:?}").expect("written");
        }
    }
    soon("the sandbox's end", sandbox.shutdown()).await;
    told
}
