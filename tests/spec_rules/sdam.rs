//! server-discovery-and-monitoring: the effect of replies and errors.

use bson::oid::ObjectId;
use bson::{RawDocumentBuf, rawdoc};
use mongolink::topology::{Fault, TopologyConfig};
use mongolink::{ServerType, Stage};

use crate::support::{Scene, closed_by_peer, key, member, parsed, timed_out, version};

const NOTHING: [&str; 0] = [];

fn refusal(code: i32) -> RawDocumentBuf {
    rawdoc! { "ok": 0, "code": code, "errmsg": "refused" }
}

fn fault(reply: &RawDocumentBuf, generation: u64) -> Fault {
    Fault::in_reply(&key("a"), reply, generation).expect("a change of state")
}

#[test]
fn generation_is_judged_before_the_state_version() {
    let mut scene = Scene::settled();
    scene.fault("a", Fault::new(closed_by_peer(Stage::Read), 0));
    let mut reply = member(true);
    reply.topology_version = Some(version(1, 5));
    scene.hello("a", reply);
    scene.orders();
    let mut newer = refusal(10107);
    newer.append(bson::raw::cstr!("topologyVersion"), version(1, 6).to_document());
    scene.fault("a", fault(&newer, 0));
    assert_eq!((scene.orders().len(), scene.type_of("a")), (0, Some(ServerType::RsPrimary)), "of an older generation");
    scene.fault("a", fault(&newer, 1));
    assert_eq!(scene.type_of("a"), Some(ServerType::Unknown));
}

#[test]
fn error_without_version_or_of_another_process_is_fresh() {
    for other in [None, Some(version(2, 1))] {
        let mut scene = Scene::settled();
        let mut reply = member(true);
        reply.topology_version = Some(version(1, 5));
        scene.hello("a", reply);
        let mut error = refusal(10107);
        if let Some(version) = other {
            error.append(bson::raw::cstr!("topologyVersion"), version.to_document());
        }
        scene.fault("a", fault(&error, 0));
        assert_eq!(scene.type_of("a"), Some(ServerType::Unknown), "{other:?}");
    }
}

#[test]
fn only_codes_of_a_shutdown_clear_the_pool() {
    for code in [10058, 10107, 13435, 189, 11602, 13436, 91, 11600] {
        let shapes = [refusal(code), rawdoc! { "ok": 1, "writeConcernError": { "code": code, "errmsg": "refused" } }];
        for reply in shapes {
            let mut scene = Scene::settled();
            scene.fault("a", fault(&reply, 0));
            let expected: &[&str] = if matches!(code, 91 | 11600) { &["clear a", "check a"] } else { &["check a"] };
            assert_eq!(scene.orders(), expected, "{code}");
            assert_eq!(scene.type_of("a"), Some(ServerType::Unknown));
        }
    }
}

#[test]
fn order_of_the_fields_of_a_state_change_makes_no_difference() {
    let shapes = [
        rawdoc! { "ok": 0, "errmsg": "not primary", "code": 10107 },
        rawdoc! { "code": 10107, "errmsg": "not primary", "ok": 0 },
        rawdoc! { "ok": 0, "errmsg": "not master" },
        rawdoc! { "ok": 1, "writeConcernError": { "code": 10107, "errmsg": "not primary" } },
        rawdoc! { "writeConcernError": { "errmsg": "not primary", "code": 10107 }, "n": 1, "ok": 1 },
    ];
    for reply in shapes {
        let mut scene = Scene::settled();
        scene.fault("a", fault(&reply, 0));
        let server = scene.server("a");
        assert_eq!(server.kind, ServerType::Unknown, "{reply:?}");
        let told = server.error.expect("the error is kept");
        assert!(told.message().contains("not primary") || told.message().contains("not master"), "{told}");
    }
}

#[test]
fn code_alone_decides_where_there_is_one() {
    let with_code = rawdoc! { "ok": 0, "code": 1, "errmsg": "not master, node is recovering" };
    assert!(Fault::in_reply(&key("a"), &with_code, 0).is_none());
    assert!(Fault::in_reply(&key("a"), &rawdoc! { "ok": 0, "errmsg": "x not master y" }, 0).is_some());
    let write_errors = rawdoc! { "ok": 1, "writeErrors": [{ "index": 0, "code": 91, "errmsg": "not master" }] };
    assert!(Fault::in_reply(&key("a"), &write_errors, 0).is_none());
}

/// What becomes of `a`, primary of election 2 in configuration 1, and of `b`, that says it is primary.
fn rivals(wire_version: i32, election_id: Option<u8>, set_version: i32) -> (Option<ServerType>, Option<ServerType>, String) {
    let claim = |election_id: Option<u8>, set_version: i32| {
        let mut reply = member(true);
        reply.max_wire_version = wire_version;
        reply.election_id = election_id.map(|number| ObjectId::from_bytes([number; 12]));
        reply.set_version = Some(i64::from(set_version));
        reply
    };
    let mut scene = Scene::settled();
    scene.hello("a", claim(Some(2), 1));
    scene.hello("b", claim(election_id, set_version));
    let error = [scene.server("a").error, scene.server("b").error].into_iter().flatten().next().map(|error| error.to_string());
    (scene.type_of("a"), scene.type_of("b"), error.unwrap_or_default())
}

#[test]
fn newer_election_wins_before_newer_configuration_since_wire_version_17() {
    let stale = "primary marked stale due to electionId/setVersion mismatch";
    for (election_id, set_version) in [(Some(1), 9), (None, 9), (Some(2), 0)] {
        let (first, second, error) = rivals(17, election_id, set_version);
        assert_eq!((first, second), (Some(ServerType::RsPrimary), Some(ServerType::Unknown)), "{election_id:?} {set_version}");
        assert!(error.contains(stale), "{error}");
    }
    let (first, second, error) = rivals(17, Some(3), 0);
    assert_eq!((first, second), (Some(ServerType::Unknown), Some(ServerType::RsPrimary)));
    assert!(error.contains("discovery of newer primary"), "{error}");
}

#[test]
fn newer_configuration_wins_before_newer_election_up_to_wire_version_16() {
    let (first, second, error) = rivals(16, Some(1), 2);
    assert_eq!((first, second), (Some(ServerType::Unknown), Some(ServerType::RsPrimary)));
    assert!(error.contains("discovery of newer primary"), "{error}");
    let (first, second, error) = rivals(16, Some(3), 0);
    assert_eq!((first, second), (Some(ServerType::RsPrimary), Some(ServerType::Unknown)));
    assert!(error.contains("primary marked stale due to electionId/setVersion mismatch"), "{error}");
}

#[test]
fn network_error_clears_the_pool_and_cancels_the_check() {
    let mut scene = Scene::settled();
    scene.fault("a", Fault::new(closed_by_peer(Stage::Read), 0));
    assert_eq!(scene.orders(), ["clear a", "cancel a"]);
    assert_eq!((scene.type_of("a"), scene.kind()), (Some(ServerType::Unknown), "ReplicaSetNoPrimary"));
    let mut scene = Scene::settled();
    scene.fault("a", Fault::new(timed_out(Stage::Read), 0));
    assert_eq!(scene.orders(), NOTHING);
    assert_eq!(scene.type_of("a"), Some(ServerType::RsPrimary), "a time-out after the handshake");
}

#[test]
fn recovering_secondary_becomes_unknown_and_the_primary_stays() {
    let mut scene = Scene::settled();
    scene.fault("b", Fault::in_reply(&key("b"), &refusal(13436), 0).expect("a change of state"));
    assert_eq!(scene.orders(), ["check b"]);
    assert_eq!((scene.type_of("b"), scene.kind()), (Some(ServerType::Unknown), "ReplicaSetWithPrimary"));
}

#[test]
fn session_timeout_is_the_least_of_the_servers_with_data() {
    let minutes = |scene: &Scene| scene.topology.description().logical_session_timeout().map(|span| span.as_secs() / 60);
    let mut scene = Scene::settled();
    let reply = |is_primary: bool, minutes: Option<i32>| {
        let mut reply = member(is_primary);
        reply.logical_session_timeout = minutes.map(|minutes| std::time::Duration::from_secs(60 * u64::from(minutes.unsigned_abs())));
        reply
    };
    scene.hello("a", reply(true, Some(30)));
    assert_eq!(minutes(&scene), None, "b has none");
    scene.hello("b", reply(false, Some(20)));
    assert_eq!(minutes(&scene), Some(20));
    let mut arbiter = reply(false, None);
    (arbiter.secondary, arbiter.arbiter_only) = (false, true);
    scene.hello("b", arbiter);
    assert_eq!(minutes(&scene), Some(30), "an arbiter has no data");
    scene.failed("b", closed_by_peer(Stage::Read));
    assert_eq!(minutes(&scene), Some(30), "an unknown server has none either");
}

#[test]
fn names_are_compared_in_small_letters() {
    let mut scene = Scene::of_seeds(&["A.Example"]);
    assert_eq!(scene.type_of("a.example"), Some(ServerType::Unknown));
    let reply = rawdoc! {
        "ok": 1, "setName": "rs", "isWritablePrimary": true, "maxWireVersion": 21, "me": "A.EXAMPLE:27017",
        "hosts": ["A.example:27017", "B.Example"], "passives": ["C.EXAMPLE"], "arbiters": ["D.eXAMPLE:27017"],
    };
    scene.hello("a.EXAMPLE", parsed(&reply));
    let hosts: Vec<String> = scene.topology.description().servers().iter().map(|server| server.host.canonical().to_owned()).collect();
    assert_eq!(hosts, ["a.example:27017", "b.example:27017", "c.example:27017", "d.example:27017"]);
    assert_eq!(scene.type_of("a.example"), Some(ServerType::RsPrimary), "me is its own name");
}

#[test]
fn ghost_never_changes_the_type_of_the_topology() {
    let ghost = parsed(&rawdoc! { "ok": 1, "isreplicaset": true, "maxWireVersion": 21 });
    let mut scene = Scene::of_seeds(&["a", "b"]);
    scene.hello("a", ghost.clone());
    assert_eq!((scene.kind(), scene.type_of("a")), ("Unknown", Some(ServerType::RsGhost)));
    let mut scene = Scene::settled();
    scene.hello("b", ghost);
    assert_eq!((scene.kind(), scene.type_of("b")), ("ReplicaSetWithPrimary", Some(ServerType::RsGhost)));
}

#[test]
fn standalone_is_taken_alone_and_removed_among_several_seeds() {
    let standalone = parsed(&rawdoc! { "ok": 1, "isWritablePrimary": true, "maxWireVersion": 21 });
    let mut scene = Scene::of_seeds(&["a"]);
    scene.hello("a", standalone.clone());
    assert_eq!((scene.kind(), scene.type_of("a")), ("Single", Some(ServerType::Standalone)));
    let mut scene = Scene::of_seeds(&["a", "b"]);
    scene.hello("a", standalone.clone());
    assert_eq!((scene.kind(), scene.type_of("a")), ("Unknown", None));
    scene.hello("a", standalone);
    assert_eq!(scene.type_of("a"), None, "a removed server's reply is ignored");
}

#[test]
fn srv_topology_starts_unknown_whatever_the_count_of_hosts() {
    for hosts in [vec!["a"], vec!["a", "b"]] {
        let mut config = TopologyConfig::new(hosts.iter().map(|host| key(host)).collect());
        config.srv = true;
        assert_eq!(Scene::new(config).kind(), "Unknown", "{hosts:?}");
    }
}
