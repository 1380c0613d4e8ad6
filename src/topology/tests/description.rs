//! What a description says of its servers: what fits, how long sessions live, who was left out, what is no change.

use bson::oid::ObjectId;
use bson::rawdoc;

use super::*;
use crate::description::{MAX_WIRE_VERSION, MIN_WIRE_VERSION};
use crate::error::ErrorKind;
use crate::handshake::TopologyVersion;

fn of_hello(host: &str, reply: HelloReply) -> ServerDescription {
    ServerDescription::of_hello(&key(host), reply, Instant::now())
}

fn of_servers(replies: [HelloReply; 2]) -> TopologyDescription {
    let [first, second] = replies;
    TopologyDescription::new(TopologyType::ReplicaSetNoPrimary, [of_hello("a", first), of_hello("b", second)])
}

#[test]
fn wire_versions_fit_up_to_the_limits_themselves() {
    let speaks = |min_wire_version, max_wire_version| {
        let description = of_servers([secondary(&["a", "b"]), HelloReply { min_wire_version, max_wire_version, ..secondary(&["a", "b"]) }]);
        assert_eq!(description.is_compatible(), description.compatibility_error().is_none());
        description.is_compatible()
    };
    assert!(speaks(0, MIN_WIRE_VERSION) && !speaks(0, MIN_WIRE_VERSION - 1));
    assert!(speaks(MAX_WIRE_VERSION, MAX_WIRE_VERSION) && !speaks(MAX_WIRE_VERSION + 1, MAX_WIRE_VERSION + 1));
    assert!(!speaks(MAX_WIRE_VERSION + 2, MAX_WIRE_VERSION + 5));
}

#[test]
fn sessions_live_as_long_as_on_the_least_of_the_servers_with_data() {
    let minutes = |count: u64| Some(Duration::from_secs(60 * count));
    let lives = |timeout, other: HelloReply| {
        let first = HelloReply { logical_session_timeout: timeout, ..secondary(&["a", "b"]) };
        let description = of_servers([first, other]);
        assert_eq!(description.session_timeout(), description.logical_session_timeout());
        description.logical_session_timeout()
    };
    let other = HelloReply { logical_session_timeout: minutes(20), ..secondary(&["a", "b"]) };
    assert_eq!(lives(minutes(30), other.clone()), minutes(20));
    assert_eq!(lives(minutes(10), other.clone()), minutes(10));
    assert_eq!(lives(None, other.clone()), None);
    let arbiter = HelloReply { arbiter_only: true, ..member(&["a", "b"]) };
    assert_eq!(lives(minutes(30), arbiter), minutes(30));
    assert_eq!(of_hello("a", other).logical_session_timeout(), minutes(20));
}

#[test]
fn server_that_was_left_out_is_remembered_until_it_belongs() {
    let mut scene = Scene::of_set(&["a", "b", "c"]);
    scene.hello("b", standalone());
    scene.hello("c", standalone());
    let left_out = |scene: &Scene| scene.topology.description().left_out().iter().map(|reason| name(&reason.host)).collect::<Vec<_>>();
    assert_eq!(left_out(&scene), ["b", "c"]);
    scene.hello("a", primary(&["a", "b"]));
    assert_eq!(left_out(&scene), ["c"]);
}

#[test]
fn latest_sixteen_that_were_left_out_are_remembered() {
    let names: Vec<String> = (10..30).map(|number| format!("host-{number}")).collect();
    let mut scene = Scene::of_set(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for name in &names {
        scene.hello(name, standalone());
    }
    let left_out: Vec<_> = scene.topology.description().left_out().iter().map(|reason| name(&reason.host)).collect();
    assert_eq!(left_out, names[4..]);
}

#[test]
fn server_that_is_left_out_again_is_reported_once() {
    let mut scene = Scene::of_set(&["a", "b", "c"]);
    scene.hello("c", standalone());
    scene.hello("b", standalone());
    scene.hello("a", secondary(&["a", "b"]));
    scene.hello("b", standalone());
    let left_out = scene.topology.description().left_out().to_vec();
    assert_eq!(left_out.iter().map(|reason| name(&reason.host)).collect::<Vec<_>>(), ["c", "b"]);
}

#[test]
fn every_field_that_counts_makes_a_hello_another() {
    let version = |counter| Some(TopologyVersion::new(ObjectId::from([1; 12]), counter));
    let id = |byte| Some(ObjectId::from([byte; 12]));
    let plain = || HelloReply { election_id: id(1), topology_version: version(1), ..primary(&["a"]) };
    let others = [
        HelloReply { set_name: Some("other".into()), ..plain() },
        HelloReply { set_version: Some(1), ..plain() },
        HelloReply { election_id: id(2), ..plain() },
        HelloReply { me: Some(key("a")), ..plain() },
        HelloReply { primary: Some(key("a")), ..plain() },
        HelloReply { hosts: keys(&["b"]), ..plain() },
        HelloReply { passives: keys(&["b"]), ..plain() },
        HelloReply { arbiters: keys(&["b"]), ..plain() },
        HelloReply { tags: vec![("dc".into(), "x".into())], ..plain() },
        HelloReply { min_wire_version: 1, ..plain() },
        HelloReply { max_wire_version: 22, ..plain() },
        HelloReply { logical_session_timeout: Some(Duration::from_secs(60)), ..plain() },
        HelloReply { topology_version: version(2), ..plain() },
    ];
    assert!(of_hello("a", plain()).is_same_as(&of_hello("a", plain())));
    assert!(!of_hello("a", plain()).is_same_as(&of_hello("b", plain())));
    for other in others {
        assert!(!of_hello("a", plain()).is_same_as(&of_hello("a", other.clone())), "{other:?}");
    }
    let written = HelloReply { last_write_date_millis: Some(1), hello_ok: true, ..plain() };
    assert!(of_hello("a", plain()).is_same_as(&of_hello("a", written)));
}

#[test]
fn every_fact_that_counts_makes_an_error_another() {
    let failed = |error: Error| ServerDescription::failed(&key("a"), error, Instant::now());
    let closed = |kind, message: &str, stage| failed(Error::new(kind, message.to_owned()).at(stage));
    let plain = || closed(ErrorKind::Closed, "x", Stage::Read);
    assert!(plain().is_same_as(&plain()));
    assert!(!plain().is_same_as(&closed(ErrorKind::Protocol, "x", Stage::Read)));
    assert!(!plain().is_same_as(&closed(ErrorKind::Closed, "x", Stage::Hello)));
    assert!(!plain().is_same_as(&closed(ErrorKind::Closed, "y", Stage::Read)));
    assert!(!plain().is_same_as(&ServerDescription::unknown(&key("a"))));
    let command = |code: i32| failed(crate::operation::command_error(&rawdoc! { "ok": 0, "code": code, "errmsg": "no" }).expect("error"));
    assert!(command(1).is_same_as(&command(1)) && !command(1).is_same_as(&command(2)));
    let late = |millis| failed(Error::timeout(Stage::Tcp, "connectTimeoutMS", Duration::from_secs(1), Duration::from_millis(millis)));
    assert!(late(1001).is_same_as(&late(1009)), "time-outs differ by some milliseconds");
}
