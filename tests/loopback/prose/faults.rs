//! server-discovery-and-monitoring: how errors of commands change the topology.
//!
//! The servers are polled, once a minute: what is known again before that, was asked for.

use std::time::Duration;

use mongolink::bson::{Document, doc};
use mongolink::{Client, ErrorKind, Event, Events, PoolEvent, ReadPreference, Sandbox, ServerType, TopologyType};

use super::{event, pool, server_changed, settled, told_so_far, topology_type};
use crate::support::{in_time, until};

/// A set of three, a client that has settled, and its events from then on.
async fn scene() -> (Sandbox, Client, Events) {
    let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
    let uri = format!("{}&heartbeatFrequencyMS=60000&serverMonitoringMode=poll&appName=faults", sandbox.uri());
    let client = Client::new(uri).expect("client");
    let mut events = client.events();
    settled(&client, &sandbox).await;
    // Checks that were wished for while the set was looked for come after half a second at the latest.
    while tokio::time::timeout(Duration::from_millis(800), events.next()).await.is_ok() {}
    (sandbox, client, events)
}

fn arm(sandbox: &Sandbox, member: usize, data: &Document) {
    let mut data = data.clone();
    data.insert("appName", "faults");
    let command = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data };
    sandbox.fail_point(member, &command).expect("armed");
}

fn insert() -> Document {
    doc! { "insert": "things", "documents": [{ "x": 1 }] }
}

/// "Network error when writing".
#[tokio::test]
async fn network_error_of_a_write_makes_the_primary_unknown_and_asks_for_no_check() {
    in_time(async {
        let (sandbox, client, mut events) = scene().await;
        let member = sandbox.primary().expect("primary");
        arm(&sandbox, member, &doc! { "failCommands": ["insert"], "closeConnection": true });
        let error = client.database("test").run_command(insert()).await.expect_err("closed");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        let topology = client.topology();
        assert_eq!(topology.kind(), TopologyType::ReplicaSetNoPrimary);
        let server = topology.server(error.host().expect("host")).expect("server").clone();
        assert_eq!(server.kind, ServerType::Unknown);
        assert!(server.error.as_ref().is_some_and(|known| known.kind() == ErrorKind::Closed), "{server}");
        // Longer than a requested check has to wait.
        tokio::time::sleep(Duration::from_millis(800)).await;
        let told = told_so_far(&mut events).await;
        assert!(told.iter().any(|event| matches!(pool(event), Some(PoolEvent::PoolCleared { .. }))), "{told:?}");
        let checked = |event: &Event| matches!(event, Event::Heartbeat { host, .. } if *host == server.host);
        assert!(!told.iter().any(checked), "{told:?}");
        assert_eq!(client.topology().kind(), TopologyType::ReplicaSetNoPrimary);
    })
    .await;
}

/// "NotWritablePrimary": the text of the server is kept, the pool too, and the server is checked at once.
#[tokio::test]
async fn not_writable_primary_makes_it_unknown_until_it_is_checked() {
    in_time(async {
        let (sandbox, client, mut events) = scene().await;
        let primary = client.topology().primary().expect("primary").host.clone();
        sandbox.step_down().expect("step down");
        let error = client.database("test").run_command(insert()).await.expect_err("refused");
        assert_eq!((error.code(), error.host()), (Some(10107), Some(&primary)));
        let kept = event(&mut events, |event| server_changed(event).filter(|server| !server.is_known())?.error.clone()).await;
        assert_eq!((kept.code(), kept.message()), (Some(10107), error.message()));
        assert_eq!(event(&mut events, topology_type).await, TopologyType::ReplicaSetNoPrimary);
        until("it is known again", || client.topology().server(&primary).is_some_and(|server| server.is_known())).await;
        let told = told_so_far(&mut events).await;
        assert!(!told.iter().any(|event| matches!(pool(event), Some(PoolEvent::PoolCleared { .. }))), "{told:?}");
    })
    .await;
}

/// "NodeIsRecovering" on a read that secondaries may have.
#[tokio::test]
async fn recovering_secondary_becomes_unknown_and_the_primary_stays() {
    in_time(async {
        let (sandbox, client, mut events) = scene().await;
        let primary = sandbox.primary().expect("primary");
        for member in (0..3).filter(|member| *member != primary) {
            arm(&sandbox, member, &doc! { "failCommands": ["find"], "errorCode": 11600 });
        }
        let find = client.database("test").run_command(doc! { "find": "things" }).read_preference(ReadPreference::secondary());
        let error = find.await.expect_err("refused");
        assert_eq!(error.code(), Some(11600));
        let host = error.host().expect("host").clone();
        let unknown = event(&mut events, |event| Some(server_changed(event).filter(|server| !server.is_known())?.host.clone())).await;
        assert_eq!(unknown, host);
        assert_eq!(event(&mut events, topology_type).await, TopologyType::ReplicaSetWithPrimary);
        until("it is known again", || client.topology().server(&host).is_some_and(|server| server.is_known())).await;
    })
    .await;
}

/// "NodeIsRecovering" of a write concern error: the reply is a success, and the server ends.
#[tokio::test]
async fn node_that_shuts_down_in_a_write_concern_error_is_unknown() {
    in_time(async {
        let (sandbox, client, mut events) = scene().await;
        let data = doc! { "failCommands": ["insert"], "writeConcernError": { "code": 91, "errmsg": "shuts down" } };
        arm(&sandbox, sandbox.primary().expect("primary"), &data);
        let reply = client.database("test").run_command(insert()).await.expect("ok: 1");
        assert!(reply.contains_key("writeConcernError"), "{reply}");
        let kept = event(&mut events, |event| server_changed(event).filter(|server| !server.is_known())?.error.clone()).await;
        assert!(kept.to_string().contains("shuts down"), "{kept}");
        assert_eq!(event(&mut events, topology_type).await, TopologyType::ReplicaSetNoPrimary);
        event(&mut events, |event| matches!(pool(event), Some(PoolEvent::PoolCleared { .. })).then_some(())).await;
        until("the primary is known again", || client.topology().primary().is_some()).await;
        client.database("test").run_command(insert()).await.expect("inserted");
    })
    .await;
}
