//! Logins leave no secrets in logs, events and error texts.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mongolink::bson::doc;
use mongolink::{Client, Mechanism, Secret};
use tokio::runtime::Builder;
use tracing::dispatcher::{Dispatch, set_global_default};
use tracing::level_filters::LevelFilter;

use crate::support::{CALL, ReplicaSet, Security, User, create_user, ping, with_set};

const SHA1: User = User { name: "quiet1", password: "hushhush-first-sesame", mechanisms: &[Mechanism::ScramSha1] };
const SHA256: User = User { name: "quiet256", password: "hushhush-second-sesame", mechanisms: &[Mechanism::ScramSha256] };
const WRONG: &str = "hushhush-wrong-sesame";

/// How many letters a SCRAM proof has at the least: SHA-1's twenty bytes in base64.
const PROOF_LETTERS: usize = 27;

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn full_trace_of_logins_shows_no_password_and_no_scram_message() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false).with_writer(move || writer.clone()).finish();
    let dispatch = Dispatch::new(subscriber);
    // For the whole process: a call site that another thread met first would stay silent for one thread's subscriber.
    set_global_default(dispatch).expect("the only subscriber");
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let ran = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&ran);
    runtime.block_on(with_set(Security::Users, async move |set| {
        let shown = logins(set).await;
        *seen.lock().expect("ours alone") = shown;
    }));
    drop(runtime);
    let shown = std::mem::take(&mut *ran.lock().expect("ours alone"));
    if shown.is_empty() {
        return; // Skipped: there is no mongod.
    }
    let log = log.text();
    for part in ["TRACE", "DEBUG", "command sent", "quiet1", "quiet256"] {
        let start: String = log.chars().take(2000).collect();
        assert!(log.contains(part), "the log is one of logins: no {part} in its {} bytes: {start}", log.len());
    }
    assert_silent("the log", &log);
    assert_silent("events and texts", &shown);
}

/// Logs in by both mechanisms, well and wrongly, and returns what could be seen of it without a log.
async fn logins(set: &ReplicaSet) -> String {
    let mut shown = String::new();
    let root = set.root();
    let mut events = vec![root.events()];
    for user in [SHA1, SHA256] {
        create_user(&root, "admin", user.to_command()).await;
    }
    root.shutdown().await;
    for user in [SHA1, SHA256] {
        for password in [user.password, WRONG] {
            let client = set.builder_for(user).password(Secret::new(password)).build().expect("a client");
            events.push(client.events());
            let outcome = ping(&client).await;
            assert_eq!(outcome.is_ok(), password == user.password, "{outcome:?}");
            shown.push_str(&format!("{outcome:?} {client:?} {:?}\n", client.options()));
            if let Err(error) = &outcome {
                shown.push_str(&format!("{error} {:?}\n", error.underlying()));
            }
            client.shutdown().await;
            shown.push_str(&format!("{} {:?}\n", client.topology(), client.topology()));
        }
        shown.push_str(&in_uri(set, user).await);
    }
    for mut events in events {
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(200), events.next()).await {
            shown.push_str(&format!("{event:?}\n"));
        }
    }
    shown
}

/// Logs in with the password in the connection string.
async fn in_uri(set: &ReplicaSet, user: User) -> String {
    let host = set.hosts().first().expect("a host").clone();
    let uri = format!("mongodb://{}:{}@{host}/?directConnection=true&authSource=admin&unheardOf=1", user.name, user.password);
    let client = set.trusting(&uri).build().expect("a client");
    client.database("admin").run_command(doc! { "ping": 1 }).timeout(CALL).await.expect("a pong");
    client.shutdown().await;
    let broken = Client::new(uri.replace("authSource=admin", "authMechanism=NONE")).map(drop);
    format!("{client:?} {:?} {:?} {broken:?}\n", client.warnings(), mongolink::ConnectionString::parse(&uri))
}

fn assert_silent(what: &str, text: &str) {
    let hashed = |user: User| format!("{:x}", md5::compute(format!("{}:mongo:{}", user.name, user.password)));
    let secrets = [SHA1.password.to_owned(), SHA256.password.to_owned(), WRONG.to_owned(), hashed(SHA1), hashed(SHA256)];
    // What SCRAM's messages begin with or contain: "n,,n=user", "c=biws,r=", ",i=15000".
    let messages = ["n,,n=", "c=biws", ",i=10000", ",i=15000"].map(str::to_owned);
    for secret in secrets.iter().chain(&messages) {
        for form in forms(secret) {
            let found = text.find(&form);
            assert!(found.is_none(), "{what}: {secret:?} as {form:?}: {}", around(text, found.unwrap_or_default()));
        }
    }
    // The proof and the server's signature, and the beginning of "v=" in base64.
    for (mark, letters) in [("p=", PROOF_LETTERS), ("v=", PROOF_LETTERS), ("dj", PROOF_LETTERS + 10)] {
        for (at, _) in text.match_indices(mark) {
            let after = text.get(at + mark.len()..).unwrap_or_default();
            let length = after.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')).count();
            assert!(length < letters, "{what}: a proof or signature after {mark:?}: {}", around(text, at));
        }
    }
}

/// Writes a text as a log could: as it is, in hexadecimal, as a list of bytes, and in base64 at every alignment.
fn forms(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let mut forms = vec![text.to_owned(), hexadecimal, list.join(", ")];
    for shift in 0..3 {
        let shifted: Vec<u8> = std::iter::repeat_n(0, shift).chain(bytes.iter().copied()).collect();
        let encoded = STANDARD.encode(&shifted);
        // Only the letters that depend on no neighbour.
        let whole = (shift * 8).div_ceil(6)..shifted.len() * 8 / 6;
        forms.push(encoded.get(whole).expect("ASCII").to_owned());
    }
    forms
}

/// Cuts out what stands around a place.
fn around(text: &str, at: usize) -> String {
    let (before, after) = text.split_at(at);
    let before: Vec<char> = before.chars().rev().take(100).collect();
    before.into_iter().rev().chain(after.chars().take(200)).collect()
}
