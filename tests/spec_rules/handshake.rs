//! mongodb-handshake: the first messages of a connection.

use std::sync::Arc;

use bson::{RawBsonRef, RawDocument, rawdoc};
use mongolink::handshake::{Conversation, ConversationConfig, HandshakeCommand, HandshakeStep, monitor_hello};
use mongolink::operation::is_sensitive;
use mongolink::{ConnectionString, Credential, ErrorKind, Stage};

fn first(credential: Option<Credential>, hello_ok: bool, load_balanced: bool) -> (HandshakeCommand, Conversation) {
    let client = Arc::new(rawdoc! { "driver": { "name": "x" } });
    Conversation::new(ConversationConfig { client, credential, hello_ok, load_balanced, nonces: [[7; 24], [8; 24]] })
}

fn ann(mechanism: &str) -> Credential {
    let text = format!("mongodb://ann:hunter2@a/{mechanism}");
    ConnectionString::parse(&text).expect("options").options.credential().expect("credential").expect("a user")
}

fn keys(body: &RawDocument) -> Vec<&str> {
    body.iter().map(|field| field.expect("field").0.as_str()).collect()
}

#[test]
fn legacy_hello_is_used_until_hello_ok_or_behind_a_load_balancer() {
    let cases = [((false, false), "isMaster"), ((true, false), "hello"), ((false, true), "hello")];
    for ((hello_ok, load_balanced), name) in cases {
        let (command, _) = first(None, hello_ok, load_balanced);
        assert_eq!((command.name, command.database.as_str(), keys(&command.body)[0]), (name, "admin", name));
        assert_eq!(command.body.get_bool("helloOk").is_ok(), name == "isMaster");
        assert_eq!(command.body.get_bool("loadBalanced").is_ok(), load_balanced);
    }
}

#[test]
fn every_first_hello_has_backpressure_as_a_string() {
    for credential in [None, Some(ann(""))] {
        for load_balanced in [false, true] {
            let (command, _) = first(credential.clone(), false, load_balanced);
            assert_eq!(command.body.get("backpressure").expect("document"), Some(RawBsonRef::String("2")));
        }
    }
}

#[test]
fn arguments_of_the_handshake_are_on_the_first_hello_only() {
    let (command, _) = first(None, false, false);
    for key in ["client", "compression", "backpressure"] {
        assert!(keys(&command.body).contains(&key), "{key}");
    }
    for hello_ok in [false, true] {
        assert!(!keys(&monitor_hello(hello_ok, None)).iter().any(|key| ["client", "compression", "backpressure"].contains(key)));
    }
}

#[test]
fn connection_without_a_credential_is_ready_after_hello() {
    let (command, conversation) = first(None, false, false);
    assert!(!keys(&command.body).iter().any(|key| ["saslSupportedMechs", "speculativeAuthenticate"].contains(key)));
    let reply = rawdoc! { "ok": 1, "isWritablePrimary": true, "maxWireVersion": 21 };
    assert!(matches!(conversation.handle_reply(&reply), Ok(HandshakeStep::Ready(_))));
}

#[test]
fn unnamed_mechanism_is_asked_for_and_guessed() {
    let (command, _) = first(Some(ann("")), false, false);
    assert_eq!(command.body.get_str("saslSupportedMechs").ok(), Some("admin.ann"));
    let guess = command.body.get_document("speculativeAuthenticate").expect("a guess");
    assert_eq!((guess.get_str("mechanism").ok(), guess.get_str("db").ok()), (Some("SCRAM-SHA-256"), Some("admin")));
    let (command, _) = first(Some(ann("?authMechanism=SCRAM-SHA-1")), false, false);
    assert!(!keys(&command.body).contains(&"saslSupportedMechs"));
}

#[test]
fn invalid_mechanism_list_is_no_error_and_selects_scram_sha_1() {
    let (_, conversation) = first(Some(ann("")), false, false);
    let reply = rawdoc! { "ok": 1, "isWritablePrimary": true, "maxWireVersion": 21, "saslSupportedMechs": ["ARBITRARY", "", "x"] };
    let HandshakeStep::Send(command, _) = conversation.handle_reply(&reply).expect("no error") else { panic!("no login") };
    assert_eq!((command.name, command.body.get_str("mechanism").ok()), ("saslStart", Some("SCRAM-SHA-1")));
}

#[test]
fn both_spellings_of_the_old_name_may_carry_secrets() {
    let guess = rawdoc! { "speculativeAuthenticate": {} };
    for name in ["hello", "isMaster", "ismaster"] {
        assert!(is_sensitive(name, &guess), "{name}");
        assert!(!is_sensitive(name, &rawdoc! {}), "{name}");
    }
}

#[test]
fn load_balancer_without_a_service_is_refused_with_the_specified_message() {
    let (_, conversation) = first(None, false, true);
    let reply = rawdoc! { "ok": 1, "isWritablePrimary": true, "msg": "isdbgrid", "maxWireVersion": 21 };
    let error = conversation.handle_reply(&reply).expect_err("refusal");
    assert_eq!((error.kind(), error.stage()), (ErrorKind::Incompatible, Some(Stage::Hello)));
    assert_eq!(error.message(), "Driver attempted to initialize in load balancing mode, but the server does not support this mode.");
}
