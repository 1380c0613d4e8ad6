use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bson::oid::ObjectId;
use bson::raw::{RawBinaryRef, RawBson, cstr};
use bson::spec::BinarySubtype;
use bson::{RawDocument, RawDocumentBuf, rawdoc};
use rand::{RngExt, SeedableRng};
use ring::{digest, hmac, pbkdf2};

use super::*;
use crate::auth::scram::ScramHash;
use crate::auth::{Credential, Mechanism, Secret};
use crate::error::{Error, ErrorKind, Stage};

const PASSWORD: &str = "hunter2";

fn credential(mechanism: Option<Mechanism>) -> Credential {
    Credential {
        username: Some("ann".to_owned()),
        password: Some(Secret::new(PASSWORD)),
        source: "admin".to_owned(),
        mechanism,
        properties: Vec::new(),
    }
}

fn config(credential: Option<Credential>) -> ConversationConfig {
    ConversationConfig {
        client: Arc::new(rawdoc! { "driver": { "name": "x" } }),
        credential,
        hello_ok: false,
        load_balanced: false,
        nonces: [[7; 24], [8; 24]],
    }
}

fn begun(mechanism: Option<Mechanism>) -> (HandshakeCommand, Conversation) {
    Conversation::new(config(Some(credential(mechanism))))
}

fn hello() -> RawDocumentBuf {
    rawdoc! { "ismaster": true, "helloOk": true, "maxWireVersion": 21, "ok": 1 }
}

fn hello_with(key: &'static str, value: impl Into<RawBson>) -> RawDocumentBuf {
    let mut reply = hello();
    let value: RawBson = value.into();
    reply.append(bson::raw::CString::try_from(key).expect("key"), &value);
    reply
}

fn sent(step: Result<HandshakeStep, Error>) -> (HandshakeCommand, Conversation) {
    match step.expect("step") {
        HandshakeStep::Send(command, conversation) => (command, conversation),
        other @ (HandshakeStep::Work(..) | HandshakeStep::Ready(_)) => panic!("{other:?}"),
    }
}

fn derived(step: Result<HandshakeStep, Error>) -> (HandshakeCommand, Conversation) {
    match step.expect("step") {
        HandshakeStep::Work(HandshakeWork::DeriveKeys(derivation), conversation) => {
            sent(conversation.handle_work(HandshakeWorkResult::Keys(derivation.run())))
        }
        other @ (HandshakeStep::Send(..) | HandshakeStep::Ready(_)) => panic!("{other:?}"),
    }
}

fn ready(step: Result<HandshakeStep, Error>) -> HelloReply {
    match step.expect("step") {
        HandshakeStep::Ready(hello) => *hello,
        other @ (HandshakeStep::Send(..) | HandshakeStep::Work(..)) => panic!("{other:?}"),
    }
}

fn payload(command: &RawDocument) -> String {
    let payload = command.get_binary("payload").expect("payload");
    assert_eq!(payload.subtype, BinarySubtype::Generic);
    String::from_utf8(payload.bytes.to_vec()).expect("text")
}

/// The server side of SCRAM, implemented independently of the client's.
struct Scram {
    hash: ScramHash,
    password: String,
    bare: String,
    first: String,
    conversation_id: RawBson,
}

impl Scram {
    fn new(hash: ScramHash) -> Self {
        let password = match hash {
            ScramHash::Sha1 => format!("{:x}", md5::compute(format!("ann:mongo:{PASSWORD}"))),
            ScramHash::Sha256 => PASSWORD.to_owned(),
        };
        Self { hash, password, bare: String::new(), first: String::new(), conversation_id: RawBson::Int32(1) }
    }

    fn first(&mut self, start: &RawDocument) -> RawDocumentBuf {
        assert_eq!(start.get_str("mechanism").expect("mechanism"), self.hash.mechanism().name());
        assert!(start.get_document("options").expect("options").get_bool("skipEmptyExchange").expect("option"));
        let message = payload(start);
        self.bare = message.strip_prefix("n,,").expect("gs2 header").to_owned();
        let nonce = self.bare.strip_prefix("n=ann,r=").expect("nonce");
        self.first = format!("r={nonce}server,s={},i=4096", BASE64_STANDARD.encode("salt"));
        self.answer(&self.first, false)
    }

    fn last(&self, proceed: &RawDocument, done: bool) -> RawDocumentBuf {
        assert_eq!(proceed.get("conversationId").expect("valid"), Some(self.conversation_id.as_raw_bson_ref()));
        let message = payload(proceed);
        let (without_proof, proof) = message.rsplit_once(",p=").expect("proof");
        let (hmac_algorithm, digest_algorithm, pbkdf2_algorithm) = match self.hash {
            ScramHash::Sha1 => (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &digest::SHA1_FOR_LEGACY_USE_ONLY, pbkdf2::PBKDF2_HMAC_SHA1),
            ScramHash::Sha256 => (hmac::HMAC_SHA256, &digest::SHA256, pbkdf2::PBKDF2_HMAC_SHA256),
        };
        let mut salted = vec![0_u8; digest_algorithm.output_len()];
        pbkdf2::derive(pbkdf2_algorithm, NonZeroU32::new(4096).expect("number"), b"salt", self.password.as_bytes(), &mut salted);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac_algorithm, key), text).as_ref().to_vec();
        let signed = format!("{},{},{without_proof}", self.bare, self.first);
        let stored = digest::digest(digest_algorithm, &sign(&salted, b"Client Key"));
        let signature = sign(stored.as_ref(), signed.as_bytes());
        let proof = BASE64_STANDARD.decode(proof).expect("base64");
        let key: Vec<u8> = proof.iter().zip(&signature).map(|(proof, signature)| proof ^ signature).collect();
        assert_eq!(digest::digest(digest_algorithm, &key).as_ref(), stored.as_ref(), "the client's proof");
        let server = sign(&sign(&salted, b"Server Key"), signed.as_bytes());
        self.answer(&format!("v={}", BASE64_STANDARD.encode(server)), done)
    }

    fn answer(&self, message: &str, done: bool) -> RawDocumentBuf {
        let mut reply = rawdoc! { "done": done, "ok": 1 };
        reply.append(cstr!("conversationId"), &self.conversation_id);
        reply.append(cstr!("payload"), RawBinaryRef { subtype: BinarySubtype::Generic, bytes: message.as_bytes() });
        reply
    }
}

#[test]
fn monitor_is_ready_after_hello() {
    let (command, conversation) = Conversation::new(config(None));
    assert_eq!((command.name, command.database.as_str(), command.stage), ("isMaster", "admin", Stage::Hello));
    let expected =
        rawdoc! { "isMaster": 1, "helloOk": true, "client": { "driver": { "name": "x" } }, "compression": [], "backpressure": "2" };
    assert_eq!(*command.body, *expected);
    assert!(ready(conversation.handle_reply(&hello())).hello_ok);
}

#[test]
fn known_server_and_load_balancer_get_the_new_name() {
    let (command, _) = Conversation::new(ConversationConfig { hello_ok: true, ..config(None) });
    assert_eq!((command.name, command.body.get_i32("hello").ok()), ("hello", Some(1)));
    assert!(command.body.get("helloOk").expect("valid").is_none());
    let balanced = || Conversation::new(ConversationConfig { load_balanced: true, ..config(None) });
    let (command, conversation) = balanced();
    assert!(command.name == "hello" && command.body.get_bool("loadBalanced").expect("field"));
    let error = conversation.handle_reply(&hello()).map(drop).expect_err("refusal");
    assert!(error.to_string().contains("the server does not support this mode"), "{error}");
    let reply = hello_with("serviceId", ObjectId::from_bytes([1; 12]));
    assert!(ready(balanced().1.handle_reply(&reply)).service_id.is_some());
}

#[test]
fn service_is_known_from_the_hello_reply_on() {
    let service = ObjectId::from_bytes([1; 12]);
    let reply = hello_with("serviceId", service);
    let (_, balanced) = Conversation::new(ConversationConfig { load_balanced: true, ..config(None) });
    assert_eq!((balanced.service_in(&reply), balanced.service_in(&hello())), (Some(service), None));
    let refused = rawdoc! { "ok": 0.0, "errmsg": "no", "code": 11600, "serviceId": service };
    assert_eq!(balanced.service_in(&refused), None);
    let (_, plain) = Conversation::new(config(None));
    assert_eq!(plain.service_in(&reply), None);
}

#[test]
fn later_hellos_have_no_arguments_of_the_first() {
    assert_eq!(monitor_hello(false, None), rawdoc! { "isMaster": 1, "helloOk": true });
    assert_eq!(monitor_hello(true, None), rawdoc! { "hello": 1 });
    let process = ObjectId::from_bytes([3; 12]);
    let version = TopologyVersion::new(process, 4);
    let expected = rawdoc! { "hello": 1, "topologyVersion": { "processId": process, "counter": 4_i64 }, "maxAwaitTimeMS": 10_000_i64 };
    assert_eq!(monitor_hello(true, Some((version, Duration::from_secs(10)))), expected);
}

#[test]
fn first_hello_speculates_as_the_mechanism_allows() {
    for (mechanism, speculative, negotiates) in [
        (None, Some("SCRAM-SHA-256"), true),
        (Some(Mechanism::ScramSha256), Some("SCRAM-SHA-256"), false),
        (Some(Mechanism::ScramSha1), Some("SCRAM-SHA-1"), false),
        (Some(Mechanism::X509), Some("MONGODB-X509"), false),
        (Some(Mechanism::Plain), None, false),
        (Some(Mechanism::Gssapi), None, false),
    ] {
        let body = begun(mechanism).0.body;
        let sent = body.get_document("speculativeAuthenticate").ok();
        assert_eq!(sent.map(|sent| sent.get_str("mechanism").expect("mechanism")), speculative);
        assert!(sent.is_none_or(|sent| sent.get_str("db").expect("db") == "admin"));
        assert_eq!(body.get_str("saslSupportedMechs").ok(), negotiates.then_some("admin.ann"));
    }
}

#[test]
fn speculative_login_saves_the_round() {
    for mechanism in [None, Some(Mechanism::ScramSha256), Some(Mechanism::ScramSha1)] {
        let mut server = Scram::new(if mechanism == Some(Mechanism::ScramSha1) { ScramHash::Sha1 } else { ScramHash::Sha256 });
        let (command, conversation) = begun(mechanism);
        let start = command.body.get_document("speculativeAuthenticate").expect("speculation");
        let reply = hello_with("speculativeAuthenticate", server.first(start));
        let (command, conversation) = derived(conversation.handle_reply(&reply));
        assert_eq!((command.name, command.database.as_str(), command.stage), ("saslContinue", "admin", Stage::Auth));
        assert!(ready(conversation.handle_reply(&server.last(&command.body, true))).is_writable_primary);
    }
}

#[test]
fn ignored_speculation_leads_to_the_negotiated_mechanism() {
    for (given, listed, expected) in [
        (None, Some(rawdoc! { "l": ["SCRAM-SHA-1", "SCRAM-SHA-256"] }), ScramHash::Sha256),
        (None, Some(rawdoc! { "l": ["SCRAM-SHA-1"] }), ScramHash::Sha1),
        (None, Some(rawdoc! { "l": ["SOMETHING-ELSE", 5] }), ScramHash::Sha1),
        (None, None, ScramHash::Sha1),
        (Some(Mechanism::ScramSha256), Some(rawdoc! { "l": ["SCRAM-SHA-1"] }), ScramHash::Sha256),
        (Some(Mechanism::ScramSha1), Some(rawdoc! { "l": ["SCRAM-SHA-256"] }), ScramHash::Sha1),
    ] {
        let mut server = Scram::new(expected);
        let (first, conversation) = begun(given);
        let mut reply = hello();
        if let Some(listed) = &listed {
            reply.append(cstr!("saslSupportedMechs"), listed.get_array("l").expect("list"));
        }
        let (command, conversation) = sent(conversation.handle_reply(&reply));
        assert_eq!(command.name, "saslStart");
        let (command, conversation) = derived(conversation.handle_reply(&server.first(&command.body)));
        ready(conversation.handle_reply(&server.last(&command.body, true)));
        let speculated = payload(first.body.get_document("speculativeAuthenticate").expect("speculation"));
        assert_eq!(speculated, format!("n,,n=ann,r={}", BASE64_STANDARD.encode([7; 24])));
        let own = BASE64_STANDARD.encode([8; 24]);
        assert_eq!(server.bare, format!("n=ann,r={own}"), "nothing of the second nonce follows from the first");
    }
}

#[test]
fn empty_exchange_is_made_if_the_server_asks() {
    let mut server = Scram::new(ScramHash::Sha256);
    server.conversation_id = RawBson::String("seven".to_owned());
    let (command, conversation) = begun(None);
    let start = command.body.get_document("speculativeAuthenticate").expect("speculation");
    let (command, conversation) = derived(conversation.handle_reply(&hello_with("speculativeAuthenticate", server.first(start))));
    let (command, conversation) = sent(conversation.handle_reply(&server.last(&command.body, false)));
    assert_eq!((command.name, payload(&command.body).as_str()), ("saslContinue", ""));
    assert_eq!(command.body.get_str("conversationId").expect("id"), "seven");
    ready(conversation.handle_reply(&server.answer("", true)));
}

#[test]
fn exchange_without_end_is_refused() {
    let mut server = Scram::new(ScramHash::Sha256);
    let (command, conversation) = begun(None);
    let start = command.body.get_document("speculativeAuthenticate").expect("speculation");
    let (command, conversation) = derived(conversation.handle_reply(&hello_with("speculativeAuthenticate", server.first(start))));
    let (_, conversation) = sent(conversation.handle_reply(&server.last(&command.body, false)));
    let error = conversation.handle_reply(&server.answer("", false)).map(drop).expect_err("refusal");
    assert!(error.to_string().contains("saslContinue (empty exchange)"), "{error}");
}

#[test]
fn wrong_password_says_what_to_check() {
    let mut server = Scram::new(ScramHash::Sha256);
    let (command, conversation) = begun(None);
    let start = command.body.get_document("speculativeAuthenticate").expect("speculation");
    let (_, conversation) = derived(conversation.handle_reply(&hello_with("speculativeAuthenticate", server.first(start))));
    let reply =
        rawdoc! { "ok": 0, "errmsg": "Authentication failed.", "code": 18, "codeName": "AuthenticationFailed", "errorLabels": ["X"] };
    let error = conversation.handle_reply(&reply).map(drop).expect_err("refusal");
    assert_eq!((error.kind(), error.stage(), error.has_label("X")), (ErrorKind::Auth, Some(Stage::Auth), true));
    assert_eq!(
        error.to_string(),
        "auth: saslContinue (server signature) of user \"ann\" on \"admin\" with SCRAM-SHA-256 was refused: \
         Authentication failed. (code 18 AuthenticationFailed); check user name, password and authSource"
    );
    let cause = error.underlying().and_then(|cause| cause.downcast_ref::<Error>()).expect("cause");
    assert_eq!(cause.code(), Some(18));
}

#[test]
fn unknown_user_fails_in_auth_and_not_in_hello() {
    let (_, conversation) = begun(None);
    let (_, conversation) = sent(conversation.handle_reply(&hello()));
    let error = conversation.handle_reply(&rawdoc! { "ok": 0, "errmsg": "no such user", "code": 11 }).map(drop).expect_err("refusal");
    assert_eq!((error.kind(), error.stage()), (ErrorKind::Auth, Some(Stage::Auth)));
    assert!(error.to_string().starts_with("auth: saslStart of user \"ann\""), "{error}");
}

#[test]
fn server_that_proves_nothing_is_refused() {
    let mut server = Scram::new(ScramHash::Sha256);
    let (command, conversation) = begun(None);
    let start = command.body.get_document("speculativeAuthenticate").expect("speculation");
    let first = server.first(start);
    let mut early = rawdoc! { "done": true, "conversationId": 1 };
    early.append(cstr!("payload"), first.get("payload").expect("valid").expect("payload"));
    let error = conversation.handle_reply(&hello_with("speculativeAuthenticate", early)).map(drop).expect_err("refusal");
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert!(error.to_string().contains("without proving"), "{error}");

    let (_, conversation) = begun(None);
    let (_, conversation) = derived(conversation.handle_reply(&hello_with("speculativeAuthenticate", first)));
    let error = conversation.handle_reply(&server.answer("v=AAAA", true)).map(drop).expect_err("refusal");
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert!(error.to_string().contains("server's signature is wrong"), "{error}");
}

#[test]
fn impossible_replies_are_named() {
    let begin = || sent(begun(None).1.handle_reply(&hello())).1;
    for (reply, text) in [
        (rawdoc! { "ok": 1, "conversationId": 1, "done": false }, "without a payload"),
        (rawdoc! { "ok": 1, "payload": "r=x", "done": false }, "without a conversationId"),
        (rawdoc! { "ok": 1, "conversationId": 1, "payload": "r=x", "done": false }, "nonce does not continue the client's"),
        (rawdoc! { "done": false }, "reply without the field ok"),
    ] {
        let error = begin().handle_reply(&reply).map(drop).expect_err("refusal");
        assert_eq!(error.stage(), Some(Stage::Auth));
        assert!(error.to_string().contains(text) && error.to_string().contains("saslStart of user"), "{error}");
    }
}

#[test]
fn steps_out_of_turn_are_refused() {
    let mut server = Scram::new(ScramHash::Sha256);
    let (command, conversation) = begun(None);
    let start = command.body.get_document("speculativeAuthenticate").expect("speculation");
    let reply = hello_with("speculativeAuthenticate", server.first(start));
    let step = conversation.handle_reply(&reply).expect("step");
    let HandshakeStep::Work(HandshakeWork::DeriveKeys(derivation), conversation) = step else { panic!("derivation") };
    assert_eq!(conversation.handle_reply(&reply).map(drop).expect_err("refusal").kind(), ErrorKind::Internal);
    assert_eq!(
        begun(None).1.handle_work(HandshakeWorkResult::Keys(derivation.run())).map(drop).expect_err("refusal").kind(),
        ErrorKind::Internal
    );
}

#[test]
fn authentication_on_an_arbiter_is_refused() {
    for mechanism in [None, Some(Mechanism::ScramSha1), Some(Mechanism::Plain), Some(Mechanism::X509)] {
        let error = begun(mechanism).1.handle_reply(&hello_with("arbiterOnly", true)).map(drop).expect_err("no login");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::Auth, Some(Stage::Auth)));
        assert!(error.to_string().contains("arbiter, where user \"ann\" can't log in"), "{error}");
    }
    let (_, conversation) = Conversation::new(config(None));
    assert!(ready(conversation.handle_reply(&hello_with("arbiterOnly", true))).arbiter_only);
}

#[test]
fn certificate_logs_in_with_hello_or_after_it() {
    let with_certificate = || {
        let mut own = credential(Some(Mechanism::X509));
        (own.username, own.password, own.source) = (None, None, "$external".to_owned());
        Conversation::new(config(Some(own)))
    };
    let (command, conversation) = with_certificate();
    let sent_along = command.body.get_document("speculativeAuthenticate").expect("speculation").to_owned();
    assert_eq!(sent_along, rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509", "db": "$external" });
    ready(conversation.handle_reply(&hello_with("speculativeAuthenticate", rawdoc! { "dbname": "$external", "user": "CN=x" })));
    let (command, conversation) = sent(with_certificate().1.handle_reply(&hello()));
    assert_eq!((command.name, command.database.as_str()), ("authenticate", "$external"));
    assert_eq!(*command.body, *rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509" });
    ready(conversation.handle_reply(&rawdoc! { "ok": 1 }));
    let (_, conversation) = sent(with_certificate().1.handle_reply(&hello()));
    let error = conversation.handle_reply(&rawdoc! { "ok": 0, "errmsg": "no", "code": 18 }).map(drop).expect_err("refusal");
    assert!(error.to_string().contains("authenticate of the certificate's subject on \"$external\""), "{error}");
}

#[test]
fn plain_sends_user_and_password_after_hello() {
    let (_, conversation) = begun(Some(Mechanism::Plain));
    let (command, conversation) = sent(conversation.handle_reply(&hello()));
    assert_eq!((command.name, payload(&command.body).as_str()), ("saslStart", "\0ann\0hunter2"));
    assert!(command.body.get("options").expect("valid").is_none());
    ready(conversation.handle_reply(&rawdoc! { "ok": 1, "done": true, "conversationId": 1, "payload": "" }));
}

#[test]
fn password_that_the_server_repeats_is_in_no_error() {
    let (_, conversation) = begun(Some(Mechanism::Plain));
    let (_, conversation) = sent(conversation.handle_reply(&hello()));
    let reply = rawdoc! { "ok": 0, "code": 18, "errmsg": format!("no user ann with {PASSWORD}") };
    let error = conversation.handle_reply(&reply).map(drop).expect_err("refusal");
    assert_eq!((error.kind(), error.stage()), (ErrorKind::Auth, Some(Stage::Auth)));
    assert!(error.to_string().contains("was refused; the server's message contains the password"), "{error}");
    assert!(!format!("{error} {error:?}").contains(PASSWORD));
}

#[test]
fn unusable_credentials_are_named() {
    for mechanism in [Mechanism::Gssapi, Mechanism::Aws, Mechanism::Oidc] {
        let error = begun(Some(mechanism)).1.handle_reply(&hello()).map(drop).expect_err("refusal");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(mechanism.name()), "{error}");
    }
    let mut nameless = credential(None);
    nameless.username = None;
    let (command, conversation) = Conversation::new(config(Some(nameless)));
    assert!(command.body.get("speculativeAuthenticate").expect("valid").is_none());
    let error = conversation.handle_reply(&hello()).map(drop).expect_err("refusal");
    assert_eq!(error.to_string(), "auth: SCRAM-SHA-1 requires a user name");
}

#[test]
fn random_replies_never_panic() {
    let mut random = rand::rngs::SmallRng::seed_from_u64(4);
    let mut server = Scram::new(ScramHash::Sha256);
    let start = begun(None).0.body.get_document("speculativeAuthenticate").expect("speculation").to_owned();
    let plain = hello_with("speculativeAuthenticate", server.first(&start)).into_bytes();
    for _ in 0..20_000 {
        let mut bytes = plain.clone();
        for _ in 0..random.random_range(1..6) {
            let place = random.random_range(4..bytes.len());
            bytes[place] = random.random();
        }
        if let Ok(reply) = RawDocument::from_bytes(&bytes) {
            drop(begun(None).1.handle_reply(reply));
        }
    }
}

#[test]
fn debug_shows_neither_password_nor_messages() {
    let mut server = Scram::new(ScramHash::Sha256);
    let config = config(Some(credential(None)));
    let mut seen = format!("{config:?}");
    let (command, conversation) = Conversation::new(config);
    seen += &format!("{command:?} {conversation:?}");
    let start = command.body.get_document("speculativeAuthenticate").expect("speculation");
    let step = conversation.handle_reply(&hello_with("speculativeAuthenticate", server.first(start)));
    seen += &format!("{step:?}");
    let (command, conversation) = derived(step);
    seen += &format!("{command:?} {conversation:?}");
    let step = conversation.handle_reply(&server.last(&command.body, false));
    seen += &format!("{step:?}");
    let (_, conversation) = begun(Some(Mechanism::Plain));
    seen += &format!("{:?}", conversation.handle_reply(&hello()));
    let nonce = BASE64_STANDARD.encode([7_u8; 24]);
    let password_hex: String = PASSWORD.bytes().map(|byte| format!("{byte:02x}")).collect();
    for hidden in [PASSWORD, &password_hex, &nonce, "n,,", "c=biws"] {
        assert!(!seen.contains(hidden), "{hidden} in {seen}");
    }
}
