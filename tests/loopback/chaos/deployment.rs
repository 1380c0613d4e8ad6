//! Deployments that are not what the connection string says, or not there.

use std::io;

use mongolink::bson::doc;
use mongolink::{Error, ErrorKind, Event, Ineligible, Sandbox, ServerAddress, Stage, TopologyEvent};

use super::{CALM, Guest, PATIENT, assert_placed, assert_told, soon};
use crate::peers::{self, Heard, Turn};

/// The reasons of a failed selection: each server's host, and its error.
fn reasons(selection: &Error) -> Vec<(&ServerAddress, &Error)> {
    selection.servers().iter().map(|server| (&server.host, server.error.as_ref().expect("a reason"))).collect()
}

#[tokio::test]
async fn members_of_another_set_are_left_out_with_both_names() {
    let sandbox = Sandbox::builder().members(3).set_name("rs0").start().await.expect("sandbox");
    let guest = Guest::new(sandbox.hosts().join(","), CALM, "replicaSet=other");
    let selection = guest.unselected().await;
    let reasons = reasons(&selection);
    assert_eq!(reasons.len(), 3, "{selection}");
    for (host, error) in reasons {
        assert_eq!((error.kind(), error.host()), (ErrorKind::InvalidOption, Some(host)), "{error}");
        assert!(error.message().contains("is a member of replica set \"rs0\", wanted is \"other\""), "{error}");
        assert!(selection.to_string().contains(&error.to_string()), "{selection}");
    }
    assert!(selection.to_string().contains("ReplicaSetNoPrimary"), "{selection}");
    guest.end().await;
}

#[tokio::test]
async fn standalone_given_as_a_set_is_left_out() {
    let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
    let guest = Guest::new(sandbox.addresses()[0], CALM, "replicaSet=rs0");
    let selection = guest.unselected().await;
    let [server] = selection.servers() else { panic!("not one server: {selection}") };
    assert_eq!(server.reason, Ineligible::Type("Standalone"), "{selection}");
    assert!(selection.to_string().contains("no member of a replica set, wanted is \"rs0\""), "{selection}");
    guest.end().await;
}

#[tokio::test]
async fn members_that_are_all_unreachable_are_all_named() {
    let members = [peers::refusing(), peers::refusing(), peers::refusing()];
    let seeds: Vec<String> = members.iter().map(|member| member.address().to_string()).collect();
    let guest = Guest::new(seeds.join(","), CALM, "replicaSet=rs0");
    let selection = guest.unselected().await;
    let reasons = reasons(&selection);
    assert_eq!(reasons.len(), 3, "{selection}");
    for member in &members {
        let (_, error) = reasons.iter().find(|(host, _)| **host == member.host()).expect("named");
        assert_told(error, ErrorKind::Io(io::ErrorKind::ConnectionRefused), Stage::Tcp, &member.host(), "refused");
        assert_placed(error, member.address());
        assert!(selection.to_string().contains(&error.to_string()), "{selection}");
    }
    guest.end().await;
}

#[tokio::test]
async fn host_name_that_cannot_be_used_costs_that_host_alone() {
    let turn = |heard: &Heard| {
        let me = heard.me.to_string();
        let (hello, pong) = (peers::primary_hello("rs0", &me, &[&me, "b..c:27017"]), doc! { "ok": 1.0 });
        Turn::Reply(if heard.is_hello() { hello } else { pong })
    };
    let peer = peers::scripted(turn).await;
    let guest = Guest::new(peer.address(), PATIENT, "replicaSet=rs0");
    let mut events = guest.client.events();
    guest.ping().await.expect("the other member is used");
    let unusable = async {
        loop {
            if let Event::Topology(TopologyEvent::HostUnusable { server, name, error, .. }) = events.next().await.expect("an event") {
                return (server, name, error);
            }
        }
    };
    let (server, name, error) = soon("the event", unusable).await;
    assert_eq!((server, name.as_str(), error.kind()), (peer.host(), "b..c:27017", ErrorKind::InvalidHost));
    assert!(error.to_string().contains("b..c") && error.to_string().contains("empty label"), "{error}");
    assert_eq!(guest.client.topology().servers().len(), 1);
    guest.end().await;
}
