//! The events of a client, and their order.

use std::collections::BTreeMap;
use std::time::Duration;

use mongolink::{CloseReason, CommandEvent, Event, MonitorEvent, PoolEvent, ServerAddress, ServerType, TopologyEvent, TopologyType};

use crate::support::{MEMBERS, ReplicaSet, Security, ping, with_set};

/// Runs a client from start to shutdown, and returns its events.
async fn life(set: &ReplicaSet) -> (ServerAddress, Vec<Event>) {
    let client = set.root();
    let mut events = client.events();
    let primary = set.settle(&client).await;
    ping(&client).await.expect("a pong");
    client.shutdown().await;
    drop(client);
    let mut told = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(1), events.next()).await {
        told.push(event);
    }
    assert!(!told.iter().any(|event| matches!(event, Event::Missed(_))), "none is missed");
    (primary, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_client_come_in_order() {
    with_set(Security::Open, async |set| {
        let (primary, told) = life(set).await;
        topology_opens_first_and_closes_last(&told);
        each_check_starts_before_it_ends(&told);
        pool_of_the_primary_lends_and_closes(&primary, &told);
        each_command_starts_and_succeeds(&primary, &told);
    })
    .await;
}

fn topology_opens_first_and_closes_last(told: &[Event]) {
    let of_topology: Vec<&TopologyEvent> =
        told.iter().filter_map(|event| if let Event::Topology(event) = event { Some(event) } else { None }).collect();
    assert!(matches!(of_topology.first(), Some(TopologyEvent::TopologyOpening)), "{of_topology:?}");
    assert!(matches!(of_topology.last(), Some(TopologyEvent::TopologyClosed)), "{of_topology:?}");
    let opened = of_topology.iter().filter(|event| matches!(event, TopologyEvent::ServerOpening { .. })).count();
    let closed = of_topology.iter().filter(|event| matches!(event, TopologyEvent::ServerClosed { .. })).count();
    assert_eq!((opened, closed), (MEMBERS, MEMBERS), "{of_topology:?}");
    let found = |event: &&TopologyEvent| {
        matches!(event, TopologyEvent::TopologyDescriptionChanged { previous, new, .. }
            if previous.kind() == TopologyType::ReplicaSetNoPrimary && new.kind() == TopologyType::ReplicaSetWithPrimary)
    };
    assert!(of_topology.iter().copied().any(|event| found(&event)), "{of_topology:?}");
    let known = |event: &&TopologyEvent| {
        matches!(event, TopologyEvent::ServerDescriptionChanged { previous, new, .. }
            if previous.kind == ServerType::Unknown && new.kind.is_data_bearing())
    };
    assert_eq!(of_topology.iter().copied().filter(known).count(), MEMBERS, "{of_topology:?}");
}

fn each_check_starts_before_it_ends(told: &[Event]) {
    let mut under_way: BTreeMap<ServerAddress, bool> = BTreeMap::new();
    let mut succeeded: BTreeMap<ServerAddress, usize> = BTreeMap::new();
    for event in told {
        let Event::Heartbeat { host, event, .. } = event else { continue };
        if let MonitorEvent::HeartbeatStarted { awaited, .. } = event {
            assert_eq!(under_way.insert(host.clone(), *awaited), None, "{host}: a second check while one is under way");
        } else if let MonitorEvent::HeartbeatSucceeded { awaited, reply, .. } = event {
            assert_eq!(under_way.remove(host), Some(*awaited), "{host}: a check ends as it began");
            assert_eq!(reply.set_name.as_deref(), Some("live"));
            *succeeded.entry(host.clone()).or_default() += 1;
        } else {
            assert!(under_way.remove(host).is_some(), "{host}: a check that did not begin has failed: {event:?}");
        }
    }
    assert_eq!(succeeded.len(), MEMBERS, "every member was checked");
}

fn pool_of_the_primary_lends_and_closes(primary: &ServerAddress, told: &[Event]) {
    let of_pool: Vec<&PoolEvent> = told
        .iter()
        .filter_map(|event| if let Event::Pool { host, event, .. } = event { Some(event).filter(|_| host == primary) } else { None })
        .collect();
    let place = |what: &str, wanted: fn(&PoolEvent) -> bool| {
        of_pool.iter().position(|event| wanted(event)).unwrap_or_else(|| panic!("no {what} in {of_pool:?}"))
    };
    let places = [
        place("PoolCreated", |event| matches!(event, PoolEvent::PoolCreated { .. })),
        place("PoolReady", |event| matches!(event, PoolEvent::PoolReady)),
        place("CheckOutStarted", |event| matches!(event, PoolEvent::CheckOutStarted)),
        place("ConnectionCreated", |event| matches!(event, PoolEvent::ConnectionCreated { connection_id: 1, .. })),
        place("ConnectionReady", |event| matches!(event, PoolEvent::ConnectionReady { connection_id: 1, .. })),
        place("CheckedOut", |event| matches!(event, PoolEvent::CheckedOut { connection_id: 1, .. })),
        place("CheckedIn", |event| matches!(event, PoolEvent::CheckedIn { connection_id: 1, .. })),
        place("ConnectionClosed", |event| {
            matches!(event, PoolEvent::ConnectionClosed { connection_id: 1, reason: CloseReason::PoolClosed, .. })
        }),
        place("PoolClosed", |event| matches!(event, PoolEvent::PoolClosed)),
    ];
    assert!(places.is_sorted(), "{of_pool:?}");
    assert!(!of_pool.iter().any(|event| matches!(event, PoolEvent::PoolCleared { .. } | PoolEvent::CheckOutFailed { .. })), "{of_pool:?}");
}

fn each_command_starts_and_succeeds(primary: &ServerAddress, told: &[Event]) {
    let mut under_way = Vec::new();
    let mut names = Vec::new();
    for event in told {
        let Event::Command(event) = event else { continue };
        if let CommandEvent::Started { host, request_id, name, database, command, server_connection_id, .. } = event {
            assert_eq!(command.get_str("$db").ok(), Some(&**database), "{command:?}");
            assert!(server_connection_id.is_some(), "mongod numbers its connections");
            if &**name == "ping" {
                assert_eq!(host, primary);
                assert!(command.get_document("lsid").is_ok(), "an implicit session: {command:?}");
            }
            under_way.push((host.clone(), *request_id, name.clone()));
        } else if let CommandEvent::Succeeded { host, request_id, name, .. } = event {
            let at = under_way.iter().position(|begun| *begun == (host.clone(), *request_id, name.clone())).expect("it began");
            under_way.remove(at);
            names.push(name.to_string());
        } else {
            panic!("a command failed: {event:?}");
        }
    }
    assert!(under_way.is_empty(), "{under_way:?}");
    assert_eq!(names, ["ping", "endSessions"]);
}
