//! What the update table makes of elections, of set names, and of the time when a server was heard of.

use bson::oid::ObjectId;

use super::*;

/// The newest wire version of servers whose elections are ordered by the configuration's version first.
const BEFORE_ELECTION_IDS: i32 = 16;

fn elected(election: u8, version: i64, wire: i32) -> HelloReply {
    let election_id = Some(ObjectId::from([election; 12]));
    HelloReply { election_id, set_version: Some(version), max_wire_version: wire, ..primary(&["a", "b"]) }
}

fn after(hellos: &[(&str, HelloReply)]) -> Scene {
    let mut scene = Scene::of_set(&["a", "b"]);
    for (host, reply) in hellos {
        scene.hello(host, reply.clone());
    }
    scene
}

fn primary_of(scene: &Scene) -> Option<String> {
    scene.topology.description().primary().map(|server| name(&server.host))
}

#[test]
fn primary_of_an_older_configuration_is_stale() {
    let scene = after(&[("a", elected(1, 2, 21)), ("b", elected(1, 1, 21))]);
    assert_eq!(primary_of(&scene).as_deref(), Some("a"));
    let stale = scene.topology.description().server(&key("b")).expect("b").clone();
    assert_eq!((stale.kind, stale.last_update), (ServerType::Unknown, Some(scene.now)));
    assert!(stale.error.as_ref().is_some_and(|error| error.message().contains("electionId/setVersion mismatch")));
}

#[test]
fn election_counts_before_the_configuration_from_wire_version_seventeen_on() {
    let (first, second) = (elected(1, 2, 21), elected(2, 1, 21));
    assert_eq!(primary_of(&after(&[("a", first), ("b", second)])).as_deref(), Some("b"));
    let [first, second] = [elected(1, 2, BEFORE_ELECTION_IDS), elected(2, 1, BEFORE_ELECTION_IDS)];
    assert_eq!(primary_of(&after(&[("a", first), ("b", second)])).as_deref(), Some("a"));
}

#[test]
fn last_server_that_goes_by_another_name_leaves_its_list_behind() {
    let mut scene = Scene::of_set(&["a"]);
    scene.hello("a", primary(&["a"]));
    scene.hello("a", HelloReply { me: Some(key("b")), ..secondary(&["b", "c"]) });
    let hosts: Vec<String> = scene.topology.description().servers().iter().map(|server| name(&server.host)).collect();
    assert_eq!((hosts, scene.topology.description().kind()), (vec!["b".to_owned(), "c".to_owned()], TopologyType::ReplicaSetNoPrimary));
}

#[test]
fn primary_that_repeats_itself_stays_primary() {
    for wire in [BEFORE_ELECTION_IDS, 21] {
        let hello = elected(1, 1, wire);
        assert_eq!(primary_of(&after(&[("a", hello.clone()), ("a", hello)])).as_deref(), Some("a"), "wire version {wire}");
    }
}

#[test]
fn newest_configuration_that_was_seen_never_gets_older() {
    let version = |version| HelloReply { election_id: None, ..elected(1, version, BEFORE_ELECTION_IDS) };
    let scene = after(&[("a", version(2)), ("a", version(1))]);
    assert_eq!((primary_of(&scene).as_deref(), scene.topology.description().max_set_version()), (Some("a"), Some(2)));
}

#[test]
fn failed_server_keeps_the_time_when_that_was_noticed() {
    let mut scene = Scene::settled();
    scene.failed("a", refused());
    assert_eq!(scene.topology.description().server(&key("a")).expect("a").last_update, Some(scene.now));
}

#[test]
fn single_server_of_another_set_is_unknown_with_the_reason() {
    let mut config = TopologyConfig::new(keys(&["a"]));
    (config.direct_connection, config.set_name) = (Some(true), Some("rs".into()));
    let mut scene = Scene::new(config);
    scene.hello("a", HelloReply { set_name: Some("other".into()), ..primary(&["a"]) });
    let server = scene.topology.description().server(&key("a")).expect("a").clone();
    assert_eq!((server.kind, server.last_update), (ServerType::Unknown, Some(scene.now)));
    let error = server.error.as_ref().expect("error");
    assert_eq!(error.message(), "is a member of replica set \"other\", wanted is \"rs\"");
    scene.hello("a", primary(&["a"]));
    assert_eq!(scene.type_of("a"), Some(ServerType::RsPrimary));
    scene.failed("a", refused());
    let error = scene.topology.description().server(&key("a")).and_then(|server| server.error.clone()).expect("error");
    assert_eq!(error.stage(), Some(Stage::Tcp), "the failure is reported, and not a missing set name");
}

#[test]
fn lone_seed_that_is_a_standalone_makes_a_single_topology() {
    let mut scene = Scene::new(TopologyConfig::new(keys(&["a"])));
    scene.hello("a", standalone());
    assert_eq!((scene.kind(), scene.type_of("a")), (TopologyType::Single, Some(ServerType::Standalone)));
}

#[test]
fn member_of_a_set_makes_an_unknown_topology_a_set() {
    for (reply, kind) in
        [(secondary(&["a", "b"]), TopologyType::ReplicaSetNoPrimary), (primary(&["a", "b"]), TopologyType::ReplicaSetWithPrimary)]
    {
        let mut scene = Scene::new(TopologyConfig::new(keys(&["a"])));
        scene.hello("a", reply);
        assert_eq!((scene.kind(), scene.topology.description().set_name()), (kind, Some("rs")));
    }
}
