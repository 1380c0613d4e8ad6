//! Logins that succeed, logins that fail, and their errors.

use std::time::{Duration, Instant};

use mongolink::bson::doc;
use mongolink::{Client, ClientBuilder, Error, ErrorKind, Mechanism, Secret, Stage};

use crate::support::{
    Authority, CALL, CLIENT_SUBJECT, NAME, ReplicaSet, Security, User, create_user, eventually, ping, who_am_i, with_set,
};

const SHA1: User = User { name: "sha1", password: "sha1's own word", mechanisms: &[Mechanism::ScramSha1] };
const SHA256: User = User { name: "sha256", password: "sha256's own word", mechanisms: &[Mechanism::ScramSha256] };
const BOTH: User = User { name: "both", password: "a word for both", mechanisms: &[Mechanism::ScramSha1, Mechanism::ScramSha256] };

/// Has a password that must be escaped in a connection string.
const ESCAPED: User = User { name: "at", password: "p@ss:w/rd?%&", mechanisms: &[Mechanism::ScramSha256] };

/// The users of auth ("SCRAM-SHA-256 and SASLprep"): plain letters, and the Roman numerals nine and four.
const PLAIN_NINE: User = User { name: "IX", password: "IX", mechanisms: &[Mechanism::ScramSha256] };
const ROMAN_NINE: User = User { name: "\u{2168}", password: "\u{2163}", mechanisms: &[Mechanism::ScramSha256] };

/// How long a refusal may take: mongod answers at once, the client asks once.
const REFUSAL: Duration = Duration::from_secs(5);

async fn create_users(set: &ReplicaSet, users: &[User]) {
    let root = set.root();
    for user in users {
        create_user(&root, "admin", user.to_command()).await;
    }
    root.shutdown().await;
}

/// Logs in, asks the server for the user, and logs out.
async fn log_in(builder: ClientBuilder) -> Option<String> {
    let client = builder.build().expect("a client");
    let user = who_am_i(&client).await;
    client.shutdown().await;
    user
}

/// Tries to log in, and returns the error with which that ends soon.
async fn refusal(builder: ClientBuilder) -> Error {
    let client = builder.build().expect("a client");
    let began = Instant::now();
    let error = ping(&client).await.expect_err("refused");
    assert!(began.elapsed() < REFUSAL, "{:?}: {error}", began.elapsed());
    client.shutdown().await;
    assert_eq!(client.task_count(), 0, "nothing is left of the client");
    error
}

/// What every refused login has in common.
fn assert_refused(error: &Error, password: &str) {
    assert_eq!((error.kind(), error.stage()), (ErrorKind::Auth, Some(Stage::Auth)), "{error}");
    assert!(error.host().is_some() && error.address().is_some(), "{error}");
    let cause = error.underlying().and_then(|cause| cause.downcast_ref::<Error>()).expect("the server's answer");
    assert_eq!(cause.code(), Some(18), "{cause}");
    for text in [error.to_string(), format!("{error:?}"), cause.to_string()] {
        assert!(!text.contains(password), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_user_logs_in_with_its_mechanisms() {
    with_set(Security::Users, async |set| {
        create_users(set, &[SHA1, SHA256, BOTH, ESCAPED]).await;
        let (one, two) = (Mechanism::ScramSha1, Mechanism::ScramSha256);
        // The mechanism asked for, the one used, and whether hello's words were enough.
        let logins = [
            (SHA1, None, one, false),
            (SHA1, Some(one), one, true),
            (SHA256, None, two, true),
            (SHA256, Some(two), two, true),
            (BOTH, None, two, true),
            (BOTH, Some(one), one, true),
            (BOTH, Some(two), two, true),
        ];
        for (user, asked, used, speculative) in logins {
            let before = set.logins(user.name, used, speculative);
            let builder = set.builder_for(user);
            let builder = if let Some(mechanism) = asked { builder.auth_mechanism(mechanism) } else { builder };
            assert_eq!(log_in(builder).await.as_deref(), Some(user.name));
            let what = format!("{} with {asked:?} logs in with {used:?}, speculative: {speculative}", user.name);
            eventually(&what, CALL, async || set.logins(user.name, used, speculative) > before).await;
        }
        let host = set.hosts().first().expect("a host").clone();
        let uri = format!("mongodb://at:p%40ss%3Aw%2Frd%3F%25%26@{host}/?replicaSet={NAME}");
        assert_eq!(log_in(set.trusting(&uri)).await.as_deref(), Some(ESCAPED.name));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_prepared_before_they_are_compared() {
    with_set(Security::Users, async |set| {
        create_users(set, &[PLAIN_NINE, ROMAN_NINE]).await;
        let forms = [(PLAIN_NINE, "IX"), (PLAIN_NINE, "I\u{ad}X"), (ROMAN_NINE, "IV"), (ROMAN_NINE, "I\u{ad}V")];
        for (user, password) in forms {
            for asked in [None, Some(Mechanism::ScramSha256)] {
                let builder = set.builder_for(User { password, ..user });
                let builder = if let Some(mechanism) = asked { builder.auth_mechanism(mechanism) } else { builder };
                assert_eq!(log_in(builder).await.as_deref(), Some(user.name), "{password:?} with {asked:?}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_refused_at_once_and_named() {
    with_set(Security::Users, async |set| {
        create_users(set, &[SHA1, SHA256, BOTH]).await;
        let wrong = "not the word at all";
        for user in [SHA1, SHA256, BOTH] {
            let error = refusal(set.builder_for(User { password: wrong, ..user })).await;
            assert_refused(&error, wrong);
            assert!(error.to_string().contains(&format!("user {:?} on \"admin\"", user.name)), "{error}");
        }
        let error = refusal(set.builder_for(User { name: "nobody", ..BOTH })).await;
        assert_refused(&error, BOTH.password);
        assert!(error.to_string().contains("nobody"), "{error}");
        for (user, other) in [(SHA1, Mechanism::ScramSha256), (SHA256, Mechanism::ScramSha1)] {
            let error = refusal(set.builder_for(user).auth_mechanism(other)).await;
            assert_refused(&error, user.password);
            assert!(error.to_string().contains(other.name()), "{error}");
        }
        let error = refusal(set.builder_for(BOTH).auth_source("elsewhere")).await;
        assert_refused(&error, BOTH.password);
        assert_eq!(log_in(set.builder_for(BOTH)).await.as_deref(), Some(BOTH.name), "the right word still opens");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthorized_command_error_names_the_missing_right() {
    with_set(Security::Users, async |set| {
        let client = set.builder().build().expect("a client");
        let find = doc! { "find": "things" };
        let error = client.database("live").run_command(find).timeout(CALL).await.expect_err("refused");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Command, Some(13)), "{error}");
        client.shutdown().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_set_name_and_unknown_issuer_fail_the_selection_with_their_reasons() {
    with_set(Security::Users, async |set| {
        let soon = Duration::from_secs(2);
        let hosts = set.hosts();

        let misnamed = set.builder().replica_set("other").server_selection_timeout(soon);
        let error = refusal(misnamed).await;
        assert_eq!((error.kind(), error.stage()), (ErrorKind::ServerSelection, Some(Stage::Selection)), "{error}");
        assert!(error.to_string().contains("is a member of replica set \"live\", wanted is \"other\""), "{error}");

        let stranger = set.file("stranger.pem", &Authority::new("somebody else").pem());
        let error = refusal(set.builder().tls_ca_file(stranger).server_selection_timeout(soon)).await;
        assert_eq!(error.kind(), ErrorKind::ServerSelection, "{error}");
        assert_eq!(error.servers().len(), hosts.len(), "{error}");
        for reason in error.servers() {
            let cause = reason.error.as_ref().expect("a reason");
            assert_eq!((cause.kind(), cause.stage()), (ErrorKind::CertificateUnknownIssuer, Some(Stage::Tls)), "{cause}");
            assert!(cause.labels().is_empty(), "a certificate is no overload: {cause:?}");
        }

        let in_clear = hosts.first().expect("a host");
        let uri = format!("mongodb://{in_clear}/?replicaSet={NAME}&serverSelectionTimeoutMS=2000&connectTimeoutMS=1000");
        let error = refusal(Client::builder(uri).expect("a connection string")).await;
        assert_eq!(error.kind(), ErrorKind::ServerSelection, "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificate_logs_in() {
    with_set(Security::Users, async |set| {
        let root = set.root();
        create_user(&root, "$external", doc! { "createUser": CLIENT_SUBJECT, "roles": [{ "role": "readWrite", "db": "live" }] }).await;
        root.shutdown().await;
        let by_certificate = || set.builder().auth_mechanism(Mechanism::X509);

        let client = by_certificate().tls_certificate_key_file(set.client_certificate()).build().expect("a client");
        assert_eq!(who_am_i(&client).await.as_deref(), Some(CLIENT_SUBJECT));
        let insert = doc! { "insert": "things", "documents": [{ "_id": 1 }] };
        client.database("live").run_command(insert).timeout(CALL).await.expect("allowed to write");
        client.shutdown().await;

        let named = by_certificate().username(CLIENT_SUBJECT).tls_certificate_key_file(set.client_certificate());
        assert_eq!(log_in(named).await.as_deref(), Some(CLIENT_SUBJECT));

        let error = refusal(by_certificate()).await;
        assert_eq!((error.kind(), error.stage()), (ErrorKind::Auth, Some(Stage::Auth)), "{error}");
        let other = by_certificate().username("CN=other").tls_certificate_key_file(set.client_certificate());
        assert_refused(&refusal(other).await, "BEGIN PRIVATE KEY");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_does_not_spoil_the_pool_for_its_successor() {
    with_set(Security::Users, async |set| {
        create_users(set, &[BOTH]).await;
        let client = set.builder_for(BOTH).password(Secret::new("tomorrow's word")).build().expect("a client");
        for _ in 0..3 {
            let error = ping(&client).await.expect_err("refused");
            assert!(!error.to_string().contains("tomorrow's word"), "{error}");
        }
        let root = set.root();
        let change = doc! { "updateUser": BOTH.name, "pwd": "tomorrow's word" };
        root.database("admin").run_command(change).timeout(CALL).await.expect("changed");
        root.shutdown().await;
        eventually("the password that has become right", CALL, async || ping(&client).await.is_ok()).await;
        client.shutdown().await;
    })
    .await;
}
