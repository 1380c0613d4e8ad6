use bson::oid::ObjectId;
use bson::{RawDocumentBuf, rawdoc};

use super::fault::StateChange;
use super::*;
use crate::error::ErrorKind;
use crate::handshake::TopologyVersion;

fn not_primary(counter: Option<i64>) -> RawDocumentBuf {
    let mut reply = rawdoc! { "ok": 0.0, "errmsg": "not primary", "code": 10107 };
    if let Some(counter) = counter {
        reply.append(bson::raw::cstr!("topologyVersion"), version(counter).to_document());
    }
    reply
}

fn version(counter: i64) -> TopologyVersion {
    TopologyVersion::new(ObjectId::from([1; 12]), counter)
}

fn in_reply(reply: &RawDocumentBuf, generation: u64) -> Fault {
    Fault::in_reply(&key("a"), reply, generation).expect("fault")
}

fn broken() -> Error {
    Error::new(ErrorKind::Closed, "closed by the server").at(Stage::Read)
}

fn socket_timeout() -> Error {
    Error::timeout(Stage::Read, "socketTimeoutMS", Duration::from_secs(1), Duration::from_secs(1))
}

fn timeout(stage: Stage) -> Error {
    Error::timeout(stage, "limit", Duration::from_secs(1), Duration::from_secs(1))
}

/// What a settled set orders when its primary `a` shows a fault.
fn orders_after(fault: Fault) -> Vec<String> {
    let mut scene = Scene::settled();
    scene.fault("a", fault);
    scene.orders()
}

const IGNORED: [&str; 0] = [];
const NO_PRIMARY: &str = "publish ReplicaSetNoPrimary";

#[test]
fn state_change_is_checked_at_once_and_keeps_the_pool() {
    assert_eq!(orders_after(in_reply(&not_primary(None), 0)), [NO_PRIMARY, "check a"]);
}

#[test]
fn server_that_ends_loses_its_pool() {
    let reply = rawdoc! { "ok": 0, "errmsg": "bye", "code": 91 };
    assert_eq!(orders_after(in_reply(&reply, 0)), [NO_PRIMARY, "clear a", "check a"]);
    let reply = rawdoc! { "ok": 1, "writeConcernError": { "code": 11600, "errmsg": "bye" } };
    assert_eq!(orders_after(in_reply(&reply, 0)), [NO_PRIMARY, "clear a", "check a"]);
}

#[test]
fn text_counts_only_without_a_code() {
    assert_eq!(StateChange::of(None, "not master"), Some(StateChange::NotWritablePrimary));
    assert_eq!(StateChange::of(None, "not master or secondary"), Some(StateChange::Recovering));
    assert_eq!(StateChange::of(None, "node is recovering"), Some(StateChange::Recovering));
    assert_eq!(StateChange::of(Some(1), "not master"), None);
}

#[test]
fn every_code_of_a_state_change_is_known() {
    let codes = [
        (StateChange::NotWritablePrimary, vec![10058, 10107, 13435]),
        (StateChange::Recovering, vec![189, 11602, 13436]),
        (StateChange::ShuttingDown, vec![91, 11600]),
    ];
    for (change, codes) in codes {
        assert!(codes.iter().all(|code| StateChange::of(Some(*code), "") == Some(change)), "{change:?}");
    }
    assert_eq!(StateChange::of(None, "out of memory"), None);
}

#[test]
fn write_errors_are_ignored() {
    let reply = rawdoc! { "ok": 1, "writeErrors": [{ "code": 10107, "errmsg": "not master", "index": 0 }] };
    assert!(Fault::in_reply(&key("a"), &reply, 0).is_none());
}

#[test]
fn reply_without_a_state_change_is_no_fault() {
    for code in [1, 18, 11000] {
        let reply = rawdoc! { "ok": 0, "errmsg": "not master", "code": code };
        assert!(Fault::in_reply(&key("a"), &reply, 0).is_none(), "{code}");
    }
}

#[test]
fn error_of_an_older_generation_changes_nothing() {
    let mut scene = Scene::settled();
    scene.fault("a", Fault::new(broken(), 0));
    assert_eq!(scene.orders(), [NO_PRIMARY, "clear a", "cancel a"]);
    scene.hello("a", primary(&["a", "b"]));
    scene.drain();
    scene.fault("a", Fault::new(broken(), 0));
    scene.fault("a", in_reply(&not_primary(None), 0));
    assert_eq!(scene.orders(), IGNORED);
    assert_eq!(scene.topology.generation(&key("a")), Some(1));
}

#[test]
fn error_of_an_older_state_changes_nothing() {
    let mut scene = Scene::settled();
    scene.hello("a", HelloReply { topology_version: Some(version(5)), ..primary(&["a", "b"]) });
    scene.drain();
    scene.fault("a", in_reply(&not_primary(Some(5)), 0));
    assert_eq!(scene.orders(), IGNORED);
    scene.fault("a", in_reply(&not_primary(Some(6)), 0));
    assert_eq!(scene.orders(), [NO_PRIMARY, "check a"]);
    // The version of the error is remembered: an older hello does not bring the old state back.
    scene.hello("a", HelloReply { topology_version: Some(version(5)), ..primary(&["a", "b"]) });
    assert_eq!((scene.orders().len(), scene.type_of("a")), (0, Some(ServerType::Unknown)));
    scene.hello("a", HelloReply { topology_version: Some(version(6)), ..secondary(&["a", "b"]) });
    assert_eq!(scene.type_of("a"), Some(ServerType::RsSecondary));
}

#[test]
fn timeout_after_the_handshake_proves_nothing() {
    assert_eq!(orders_after(Fault::new(timeout(Stage::Read), 0)), IGNORED);
    assert_eq!(orders_after(Fault::new(socket_timeout(), 0)), IGNORED);
    assert_eq!(orders_after(Fault::new(timeout(Stage::Checkout), 0)), IGNORED);
}

#[test]
fn overloaded_server_is_left_alone() {
    for error in [timeout(Stage::Tcp), Error::new(ErrorKind::Closed, "closed").at(Stage::Hello)] {
        let labelled = error.clone().with_label("SystemOverloadedError");
        assert_eq!(orders_after(Fault::new(labelled, 0).during_handshake()), IGNORED);
        assert_eq!(orders_after(Fault::new(error, 0).during_handshake()), [NO_PRIMARY, "clear a", "cancel a"]);
    }
}

#[test]
fn connection_that_cannot_be_set_up_makes_the_server_unknown() {
    let kinds = [
        (ErrorKind::NoSuchName, Stage::Dns),
        (ErrorKind::DnsFailed, Stage::Dns),
        (ErrorKind::Timeout, Stage::Dns),
        (ErrorKind::CertificateName, Stage::Tls),
        (ErrorKind::CertificateExpired, Stage::Tls),
    ];
    for (kind, stage) in kinds {
        let fault = Fault::new(Error::new(kind, "no").at(stage), 0).during_handshake();
        assert_eq!(orders_after(fault), [NO_PRIMARY, "clear a"], "{kind:?}");
    }
}

#[test]
fn server_that_refuses_a_login_is_checked_for_the_next_caller() {
    let fault = Fault::new(Error::new(ErrorKind::Auth, "no").at(Stage::Auth), 0).during_handshake();
    assert_eq!(orders_after(fault), [NO_PRIMARY, "clear a", "cancel a"]);
}

#[test]
fn refused_command_counts_only_during_the_handshake() {
    let error = crate::operation::command_error(&rawdoc! { "ok": 0, "code": 18, "errmsg": "no" }).expect("error");
    assert_eq!(orders_after(Fault::new(error.clone(), 0)), IGNORED);
    assert_eq!(orders_after(Fault::new(error, 0).during_handshake()), [NO_PRIMARY, "clear a"]);
}

#[test]
fn errors_of_our_own_never_count() {
    let kinds = [
        ErrorKind::PoolCleared,
        ErrorKind::PoolClosed,
        ErrorKind::TooManyWaiters,
        ErrorKind::LocalResources,
        ErrorKind::Shutdown,
        ErrorKind::Bson,
        ErrorKind::Interrupted,
    ];
    for kind in kinds {
        assert_eq!(orders_after(Fault::new(Error::new(kind, "x"), 0).during_handshake()), IGNORED, "{kind:?}");
    }
    // What is the network's on a socket is the caller's elsewhere.
    for kind in [ErrorKind::Timeout, ErrorKind::Protocol, ErrorKind::Tls] {
        let at = |stage| orders_after(Fault::new(Error::new(kind, "x").at(stage), 0).during_handshake());
        assert_eq!((at(Stage::Checkout), at(Stage::Hello).len()), (vec![], 3), "{kind:?}");
    }
}

#[test]
fn error_of_an_unknown_host_is_ignored() {
    let mut scene = Scene::settled();
    scene.fault("x", Fault::new(broken(), 0));
    assert_eq!(scene.orders(), IGNORED);
}

fn balanced() -> Scene {
    let mut config = TopologyConfig::new(keys(&["a"]));
    config.load_balanced = true;
    let mut scene = Scene::new(config);
    scene.drain();
    scene
}

#[test]
fn load_balancer_stays_known_and_only_its_service_is_cleared() {
    let mut scene = balanced();
    scene.fault("a", Fault::new(broken(), 0).during_handshake());
    assert_eq!(scene.orders(), IGNORED);
    let service = ObjectId::from([9; 12]);
    scene.fault("a", Fault::new(broken(), 3).of_service(Some(service)));
    let Some(TopologyAction::ClearService { service_id, generation, .. }) = scene.topology.poll_action() else { panic!("no order") };
    assert_eq!((service_id, generation, scene.type_of("a")), (service, 3, Some(ServerType::LoadBalancer)));
    assert_eq!((scene.orders(), scene.take_events()), (Vec::<String>::new(), Vec::<String>::new()));
}

#[test]
fn error_before_the_hello_reply_never_reaches_a_load_balanced_topology() {
    let errors = [
        broken(),
        timeout(Stage::Tcp),
        timeout(Stage::Hello),
        Error::new(ErrorKind::CertificateName, "no").at(Stage::Tls),
        Error::new(ErrorKind::Incompatible, "no service").at(Stage::Hello),
        crate::operation::command_error(&rawdoc! { "ok": 0, "code": 11600, "errmsg": "no" }).expect("error"),
    ];
    for error in errors {
        let mut scene = balanced();
        scene.fault("a", Fault::new(error.clone(), 0).during_handshake());
        assert_eq!((scene.orders().len(), scene.take_events().len()), (0, 0), "{error}");
        assert_eq!(scene.type_of("a"), Some(ServerType::LoadBalancer), "{error}");
    }
}

#[test]
fn error_behind_a_load_balancer_clears_its_service_if_it_would_clear_a_pool() {
    let service = ObjectId::from([9; 12]);
    let clear = format!("clear a {service}");
    let reply = |code: i32| in_reply(&rawdoc! { "ok": 0, "errmsg": "x", "code": code }, 0);
    let refused = crate::operation::command_error(&rawdoc! { "ok": 0, "code": 18, "errmsg": "no" }).expect("error");
    let cases = [
        (Fault::new(broken(), 0), true),
        (Fault::new(timeout(Stage::Read), 0), false),
        (Fault::new(socket_timeout(), 0), false),
        (Fault::new(timeout(Stage::Auth), 0).during_handshake(), true),
        (Fault::new(refused.clone(), 0).during_handshake(), true),
        (Fault::new(refused, 0), false),
        (Fault::new(Error::new(ErrorKind::Auth, "no").at(Stage::Auth), 0).during_handshake(), true),
        (reply(11600), true),
        (reply(91), true),
        (reply(10107), false),
        (Fault::new(Error::new(ErrorKind::PoolCleared, "x"), 0), false),
    ];
    for (fault, clears) in cases {
        let mut scene = balanced();
        let text = fault.error.to_string();
        scene.fault("a", fault.of_service(Some(service)));
        assert_eq!(scene.orders(), if clears { vec![clear.clone()] } else { Vec::new() }, "{text}");
        assert_eq!((scene.take_events().len(), scene.type_of("a")), (0, Some(ServerType::LoadBalancer)), "{text}");
    }
}

/// Every order of some fields.
fn orders_of(fields: &[(&str, bson::Bson)]) -> Vec<bson::Document> {
    if fields.is_empty() {
        return vec![bson::Document::new()];
    }
    let mut all = Vec::new();
    for (at, (name, value)) in fields.iter().enumerate() {
        let rest: Vec<_> = fields.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, field)| field.clone()).collect();
        for tail in orders_of(&rest) {
            let mut document = bson::doc! { *name: value.clone() };
            document.extend(tail);
            all.push(document);
        }
    }
    all
}

/// SDAM, "Parsing not writable primary and node is recovering errors": the reply's shape and the order of its fields don't matter.
#[test]
fn state_change_is_read_off_every_shape_of_reply() {
    let field = |name: &'static str, value: bson::Bson| (name, value);
    let shapes = [
        vec![field("ok", 0.into()), field("errmsg", "not master".into())],
        vec![field("ok", 0.into()), field("errmsg", "stepped away".into()), field("code", 10107.into())],
        vec![field("ok", 0.into()), field("errmsg", "node is recovering".into())],
        vec![field("ok", 0.into()), field("errmsg", "going down".into()), field("code", 91.into())],
        vec![field("ok", 1.into()), field("writeConcernError", bson::doc! { "code": 91, "errmsg": "going down" }.into())],
        vec![field("ok", 1.into()), field("writeConcernError", bson::doc! { "errmsg": "stepped away", "code": 10107 }.into())],
    ];
    for shape in shapes {
        for reply in orders_of(&shape) {
            let reply = RawDocumentBuf::try_from(&reply).expect("document");
            let mut scene = Scene::settled();
            scene.fault("a", in_reply(&reply, 0));
            assert_eq!(scene.type_of("a"), Some(ServerType::Unknown), "{reply:?}");
            let server = scene.topology.description().server(&key("a")).expect("server").clone();
            let text = server.error.as_ref().expect("error").to_string();
            let message = ["not master", "stepped away", "node is recovering", "going down"];
            assert!(message.iter().any(|message| text.contains(message)), "{text}");
        }
    }
}
