//! Logins that are refused, or not answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mongolink::bson::doc;
use mongolink::bson::oid::ObjectId;
use mongolink::{Client, Error, ErrorKind, Sandbox, Stage};

use super::{CALM, Guest, Limits, PATIENT, assert_placed, assert_timed_out, assert_told, soon};
use crate::peers::{self, Heard, Turn};

/// The limits of a client whose login is not answered.
const LIMITS: Limits = Limits { connect: 500, select: 10_000 };

/// Answers hello, and every command of the login with this reply.
fn in_auth(turn: impl Fn(&Heard) -> Turn + Send + Sync + 'static) -> impl Fn(&Heard) -> Turn + Send + Sync + 'static {
    move |heard| {
        if heard.is_hello() {
            return Turn::Reply(peers::standalone_hello());
        }
        assert_eq!((heard.name.as_str(), heard.body.get_str("mechanism").ok()), ("saslStart", Some("SCRAM-SHA-256")));
        turn(heard)
    }
}

#[tokio::test]
async fn silence_in_the_login_is_a_time_out_of_auth() {
    let peer = peers::scripted(in_auth(|_| Turn::Silence)).await;
    let guest = Guest::new(format!("ann:pencil@{}", peer.address()), LIMITS, "authMechanism=SCRAM-SHA-256");
    let error = guest.ping().await.expect_err("no login");
    assert_timed_out(&error, Stage::Auth, peer.address(), LIMITS);
    assert_timed_out(&guest.probe_fault(&peer.host()).await, Stage::Auth, peer.address(), LIMITS);
    guest.end().await;
}

#[tokio::test]
async fn connection_closed_in_the_login_is_an_error_of_auth() {
    let peer = peers::scripted(in_auth(|_| Turn::Close)).await;
    let guest = Guest::new(format!("ann:pencil@{}", peer.address()), PATIENT, "authMechanism=SCRAM-SHA-256");
    for error in [guest.ping().await.expect_err("no login"), guest.probe_fault(&peer.host()).await] {
        assert_told(&error, ErrorKind::Closed, Stage::Auth, &peer.host(), "connection closed by the server");
        assert_placed(&error, peer.address());
        assert!(!error.has_label("SystemOverloadedError"), "{error:?}");
    }
    guest.end().await;
}

/// Logs in to a server with one user, and returns the errors of a command and a probe.
async fn refused_login(user: &str, password: &str, words: &str) -> [Error; 2] {
    let sandbox = Sandbox::builder().standalone().user("ann", "pencil").start().await.expect("sandbox");
    let address = sandbox.addresses()[0];
    let guest = Guest::new(format!("{user}:{password}@{address}"), PATIENT, "");
    let faults = [guest.ping().await.expect_err("no login"), guest.probe_fault(&peers::host_of(address)).await];
    for fault in &faults {
        assert_told(fault, ErrorKind::Auth, Stage::Auth, &peers::host_of(address), words);
        assert_placed(fault, address);
        let text = fault.to_string();
        assert!(text.contains("Authentication failed.") && text.contains("check user name, password and authSource"), "{text}");
        assert!(!text.contains(password) && !format!("{fault:?}").contains(password), "{fault:?}");
        let cause = fault.underlying().and_then(|cause| cause.downcast_ref::<Error>()).expect("the server's refusal");
        assert_eq!((cause.kind(), cause.code()), (ErrorKind::Command, Some(18)));
    }
    guest.end().await;
    faults
}

#[tokio::test]
async fn wrong_password_names_step_user_source_and_mechanism() {
    refused_login("ann", "wr0ng-pw", "saslContinue (server signature) of user \"ann\" on \"admin\" with SCRAM-SHA-256 was refused").await;
}

#[tokio::test]
async fn unknown_user_names_step_user_source_and_mechanism() {
    // The mechanisms of an unknown user are not known.
    refused_login("nobody", "wr0ng-pw", "saslStart of user \"nobody\" on \"admin\" with SCRAM-SHA-1 was refused").await;
}

#[tokio::test]
async fn user_of_another_database_is_unknown() {
    let sandbox = Sandbox::builder().standalone().user("ann", "pencil").start().await.expect("sandbox");
    let address = sandbox.addresses()[0];
    let guest = Guest::new(format!("ann:pencil@{address}"), PATIENT, "authSource=other");
    let error = guest.ping().await.expect_err("no login");
    assert_told(&error, ErrorKind::Auth, Stage::Auth, &peers::host_of(address), "of user \"ann\" on \"other\"");
    guest.end().await;
}

#[tokio::test]
async fn refused_login_is_why_the_server_is_not_selected_next() {
    let sandbox = Sandbox::builder().standalone().user("ann", "pencil").start().await.expect("sandbox");
    let guest = Guest::new(format!("ann:wr0ng-pw@{}", sandbox.addresses()[0]), CALM, "");
    let refused = guest.ping().await.expect_err("no login");
    assert_eq!(refused.kind(), ErrorKind::Auth, "{refused}");
    let known = guest.client.topology();
    let [server] = known.servers() else { panic!("one server: {known}") };
    assert_eq!(server.error.as_ref().map(Error::kind), Some(ErrorKind::Auth), "{known}");
    guest.end().await;
}

#[tokio::test]
async fn password_of_reserved_characters_logs_in_when_it_is_encoded() {
    let sandbox = Sandbox::builder().standalone().user("a@n:n", "p@ss:w/rd?#[]%").start().await.expect("sandbox");
    let guest = Guest::of(Client::builder(sandbox.uri()).expect("a connection string"));
    let status = guest.client.database("admin").run_command(doc! { "connectionStatus": 1 });
    let status = soon("a login", status.into_future()).await.expect("logged in");
    assert!(format!("{status}").contains("a@n:n"), "{status}");
    guest.end().await;
}

#[tokio::test]
async fn server_that_says_it_is_an_arbiter_gets_no_command_without_a_login() {
    let inserts = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&inserts);
    let peer = peers::scripted(move |heard| {
        let mut hello = peers::standalone_hello();
        if heard.is_hello() {
            // A monitor's hello asks for no mechanisms.
            if heard.body.contains_key("saslSupportedMechs") {
                hello.insert("arbiterOnly", true);
            }
            return Turn::Reply(hello);
        }
        seen.fetch_add(usize::from(heard.name == "insert"), Ordering::SeqCst);
        Turn::Reply(doc! { "ok": 1, "n": 1 })
    })
    .await;
    let guest = Guest::new(format!("ann:pencil@{}", peer.address()), PATIENT, "");
    let insert = guest.client.database("shop").run_command(doc! { "insert": "orders", "documents": [{ "card": "4711" }] });
    let error = soon("an insert", insert.into_future()).await.expect_err("no login");
    assert_told(&error, ErrorKind::Auth, Stage::Auth, &peer.host(), "an arbiter, where user \"ann\" can't log in");
    assert_eq!(inserts.load(Ordering::SeqCst), 0, "the insert was sent without a login");
    guest.end().await;
}

/// How many logins a pause that doubles admits within a time.
fn logins_admitted(elapsed: Duration) -> usize {
    (0..).take_while(|refused| Duration::from_millis(100) * ((1 << refused) - 1) <= elapsed).count()
}

#[tokio::test]
async fn refused_login_fails_at_once_and_is_not_repeated_for_a_while() {
    let logins = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&logins);
    let peer = peers::scripted(move |heard| {
        if heard.is_hello() {
            let mut hello = peers::standalone_hello();
            hello.insert("serviceId", ObjectId::from([7; 12]));
            return Turn::Reply(hello);
        }
        assert_eq!(heard.name, "saslStart");
        counted.fetch_add(1, Ordering::SeqCst);
        Turn::Reply(doc! { "ok": 0, "code": 18, "codeName": "AuthenticationFailed", "errmsg": "Authentication failed." })
    })
    .await;
    let guest = Guest::new(format!("ann:pencil@{}", peer.address()), PATIENT, "loadBalanced=true");
    let began = Instant::now();
    for _ in 0..50 {
        let error = guest.ping().await.expect_err("no login");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::Auth, Some(Stage::Auth)), "{error}");
    }
    let (made, admitted) = (logins.load(Ordering::SeqCst), logins_admitted(began.elapsed()));
    assert!((1..=admitted).contains(&made), "{made} logins where {admitted} are admitted");
    guest.end().await;
}

#[tokio::test]
async fn error_after_a_refused_login_names_the_login_and_no_time_out() {
    let sandbox = Sandbox::builder().members(1).user("ann", "pencil").start().await.expect("sandbox");
    let limits = Limits { connect: 10_000, select: 5_000 };
    // A monitor that streams would tell of the server again after this time.
    let guest = Guest::new(format!("ann:wr0ng-pw@{}", sandbox.addresses()[0]), limits, "replicaSet=rs0&heartbeatFrequencyMS=60000");
    for _ in 0..3 {
        let error = guest.ping().await.expect_err("no login");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::Auth, Some(Stage::Auth)), "{error}");
    }
    guest.end().await;
}
