//! The specifications' prose tests that a real mongod can show.

use std::time::{Duration, Instant};

use mongolink::bson::{Document, doc};
use mongolink::{Client, Event, Events, MonitorEvent, PoolEvent, TopologyEvent, TopologyType};

use crate::support::{CALL, Security, Server, TEST, eventually, mongod, ping, with_set, within};

/// Runs a scenario with a new mongod; skips it without mongod.
async fn with_server(scenario: impl AsyncFnOnce(&Server)) {
    let Some(program) = mongod() else { return };
    within(TEST, async {
        let server = Server::mongod(&program, &[]).await;
        scenario(&server).await;
    })
    .await;
}

fn client(server: &Server, options: &str) -> Client {
    Client::new(format!("mongodb://{}/?{options}", server.address())).expect("a client")
}

/// Arms `failCommand` for the commands of an application, by way of another client.
async fn arm(server: &Server, mode: Document, mut data: Document, app_name: &str) {
    data.insert("appName", app_name);
    let other = client(server, "");
    let command = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
    other.database("admin").run_command(command).timeout(CALL).await.expect("armed");
    other.shutdown().await;
}

async fn event<T>(events: &mut Events, wanted: impl Fn(&Event) -> Option<T>) -> T {
    loop {
        let event = events.next().await.expect("the client runs");
        if let Some(found) = wanted(&event) {
            return found;
        }
    }
}

fn heartbeat(event: &Event) -> Option<&MonitorEvent> {
    if let Event::Heartbeat { event, .. } = event { Some(event) } else { None }
}

fn pool(event: &Event) -> Option<&PoolEvent> {
    if let Event::Pool { event, .. } = event { Some(event) } else { None }
}

/// server-monitoring, "Streaming protocol Tests", 1.
#[tokio::test(flavor = "multi_thread")]
async fn mongod_answers_every_heartbeat_in_a_stream() {
    with_server(async |server| {
        let client = client(server, "heartbeatFrequencyMS=500");
        let mut events = client.events();
        ping(&client).await.expect("a pong");
        let awaited =
            |event: &Event| matches!(heartbeat(event), Some(MonitorEvent::HeartbeatSucceeded { awaited: true, .. })).then_some(());
        event(&mut events, awaited).await;
        let began = Instant::now();
        for _ in 0..4 {
            event(&mut events, awaited).await;
        }
        assert!((Duration::from_millis(1800)..Duration::from_secs(8)).contains(&began.elapsed()), "{:?}", began.elapsed());
        client.shutdown().await;
    })
    .await;
}

/// server-monitoring, "RTT Tests".
#[tokio::test(flavor = "multi_thread")]
async fn round_trip_time_of_mongod_follows_a_slow_hello() {
    with_server(async |server| {
        let client = client(server, "heartbeatFrequencyMS=500&appName=streamingRttTest");
        let mut events = client.events();
        ping(&client).await.expect("a pong");
        // The average, and with it the first description, rests on a sample.
        let first = |event: &Event| {
            if let Event::Topology(TopologyEvent::ServerDescriptionChanged { new, .. }) = event {
                return new.is_known().then_some(new.round_trip_time);
            }
            None
        };
        assert!(event(&mut events, first).await.is_some_and(|average| !average.is_zero()));
        let data = doc! { "failCommands": ["hello", "isMaster"], "blockConnection": true, "blockTimeMS": 500 };
        arm(server, doc! { "times": 1000 }, data, "streamingRttTest").await;
        eventually("an average above 250 ms", CALL, async || {
            let topology = client.topology();
            topology.servers().first().and_then(|server| server.round_trip_time).is_some_and(|average| average > Duration::from_millis(250))
        })
        .await;
        client.shutdown().await;
    })
    .await;
}

/// SDAM, "minHeartbeatFrequencyMS".
#[tokio::test(flavor = "multi_thread")]
async fn caller_waits_for_five_failed_checks_no_longer_than_it_must() {
    with_server(async |server| {
        let data = doc! { "failCommands": ["hello", "isMaster"], "errorCode": 1234 };
        arm(server, doc! { "times": 5 }, data, "SDAMMinHeartbeatFrequencyTest").await;
        let client = client(server, "appName=SDAMMinHeartbeatFrequencyTest&serverSelectionTimeoutMS=5000");
        let began = Instant::now();
        ping(&client).await.expect("a pong within 5 s");
        // Five failures with half a second between two checks; in the specification's words 2 to 3.5 s.
        assert!((Duration::from_secs(2)..Duration::from_secs(5)).contains(&began.elapsed()), "{:?}", began.elapsed());
        client.shutdown().await;
    })
    .await;
}

/// SDAM, "Connection Pool Management".
#[tokio::test(flavor = "multi_thread")]
async fn pool_of_mongod_follows_the_checks() {
    with_server(async |server| {
        let client = client(server, "heartbeatFrequencyMS=500&serverMonitoringMode=poll&appName=SDAMPoolManagementTest");
        let mut events = client.events();
        ping(&client).await.expect("a pong");
        let step = |event: &Event| match (heartbeat(event), pool(event)) {
            (Some(MonitorEvent::HeartbeatSucceeded { .. }), _) => Some("succeeded"),
            (Some(MonitorEvent::HeartbeatFailed { .. }), _) => Some("failed"),
            (_, Some(PoolEvent::PoolReady)) => Some("ready"),
            (_, Some(PoolEvent::PoolCleared { .. })) => Some("cleared"),
            _ => None,
        };
        assert_eq!((event(&mut events, step).await, event(&mut events, step).await), ("succeeded", "ready"));
        arm(server, doc! { "times": 2 }, doc! { "failCommands": ["hello", "isMaster"], "errorCode": 1234 }, "SDAMPoolManagementTest").await;
        let mut told = Vec::new();
        while told.last() != Some(&"ready") {
            told.push(event(&mut events, step).await);
        }
        let since = told.iter().position(|step| *step == "failed").expect("a failure");
        assert_eq!(told[since..], ["failed", "cleared", "failed", "succeeded", "ready"], "{told:?}");
        client.shutdown().await;
    })
    .await;
}

/// max-staleness, "Parse lastWriteDate response", and SDAM, "Topology discovery" and "Existing behavior".
#[tokio::test(flavor = "multi_thread")]
async fn secondary_leads_to_the_primary_and_its_last_write_is_known() {
    with_set(Security::Open, async |set| {
        let client = set.root();
        let primary = set.settle(&client).await;
        client.shutdown().await;
        let secondary = set.hosts().into_iter().find(|host| *host != primary).expect("a secondary");
        for options in ["", "directConnection=false"] {
            let client = set.trusting(&format!("mongodb://{secondary}/?heartbeatFrequencyMS=500&{options}")).build().expect("a client");
            let insert = async || {
                let command = client.database("live").run_command(doc! { "insert": "things", "documents": [{ "x": 1 }] });
                command.timeout(CALL).raw().await.expect("written").host().clone()
            };
            assert_eq!(insert().await, primary);
            assert_eq!(client.topology().kind(), TopologyType::ReplicaSetWithPrimary);
            let date = || client.topology().primary().and_then(|primary| primary.last_write_date_millis()).unwrap_or(0);
            let before = date();
            assert_ne!(before, 0);
            eventually("a later last write", CALL, async || {
                insert().await;
                date() > before
            })
            .await;
            client.shutdown().await;
        }
    })
    .await;
}
