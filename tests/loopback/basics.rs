//! The main path: connection string, topology, commands, cursors, events, shutdown.

use std::time::Duration;

use futures_util::TryStreamExt;
use mongolink::bson::{Document, RawDocumentBuf, doc, rawdoc};
use mongolink::{
    Client, CommandEvent, ErrorKind, Event, PoolEvent, ReadPreference, Reply, Sandbox, ServerType, TopologyEvent, TopologyType,
};
use serde::Deserialize;

use crate::support::{at_rest, in_time, ping, until};

#[derive(Debug, Deserialize, PartialEq)]
struct Thing {
    #[serde(rename = "_id")]
    id: i32,
}

async fn set_of_three() -> (Sandbox, Client) {
    let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
    let client = Client::new(sandbox.uri()).expect("client");
    (sandbox, client)
}

async fn insert(client: &Client, count: i32) {
    let documents: Vec<RawDocumentBuf> = (0..count).map(|id| rawdoc! { "_id": id }).collect();
    let reply = client.database("test").run_command(doc! { "insert": "things" }).documents("documents", documents).await.expect("insert");
    assert_eq!(reply.get_i32("n").ok(), Some(count));
}

#[tokio::test]
async fn replies_come_in_every_form() {
    in_time(async {
        let (_sandbox, client) = set_of_three().await;
        let database = client.database("admin");
        let document = database.run_command(doc! { "ping": 1 }).await.expect("document");
        assert_eq!(document.get_f64("ok").ok(), Some(1.0));
        let raw: Reply = database.run_command(rawdoc! { "ping": 1 }).raw().await.expect("raw");
        assert_eq!(raw.document().get_f64("ok").expect("ok"), 1.0);
        assert_eq!(Some(raw.host()), client.topology().primary().map(|primary| &primary.host));
        #[derive(Deserialize)]
        struct Pong {
            ok: f64,
        }
        assert_eq!(database.run_command(doc! { "ping": 1 }).typed::<Pong>().await.expect("typed").ok, 1.0);
        let error = database.run_command(doc! { "nonsense": 1 }).await.expect_err("unknown command");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Command, Some(59)));
        assert_eq!(database.run_command(doc! {}).await.expect_err("empty").kind(), ErrorKind::InvalidArgument);
        assert_eq!(client.database("a.b").run_command(doc! { "ping": 1 }).await.expect_err("name").kind(), ErrorKind::InvalidArgument);
    })
    .await;
}

#[tokio::test]
async fn cursor_streams_to_its_end_in_one_session() {
    in_time(async {
        let (sandbox, client) = set_of_three().await;
        insert(&client, 250).await;
        let cursor = client
            .database("test")
            .run_cursor_command(doc! { "find": "things", "batchSize": 10 })
            .batch_size(100)
            .typed::<Thing>()
            .await
            .expect("find");
        let things: Vec<Thing> = cursor.try_collect().await.expect("documents");
        assert_eq!(things, (0..250).map(|id| Thing { id }).collect::<Vec<_>>());
        let primary = sandbox.primary().expect("primary");
        assert_eq!((sandbox.commands_seen("getMore")[primary], sandbox.cursors(primary)), (3, 0));
        at_rest(&client).await;
    })
    .await;
}

#[tokio::test]
async fn cursor_dropped_early_is_killed_on_the_server() {
    in_time(async {
        let (sandbox, client) = set_of_three().await;
        insert(&client, 50).await;
        let mut events = client.events();
        let mut cursor = client.database("test").run_cursor_command(doc! { "find": "things", "batchSize": 10 }).await.expect("find");
        let first: Document = cursor.next().await.expect("some").expect("document");
        assert_eq!(first.get_i32("_id").ok(), Some(0));
        let primary = sandbox.primary().expect("primary");
        assert_eq!(sandbox.cursors(primary), 1);
        drop(cursor);
        until("the cursor is gone", || sandbox.cursors(primary) == 0).await;
        let mut session = async |wanted: &str| loop {
            if let Event::Command(CommandEvent::Started { name, command, .. }) = events.next().await.expect("open")
                && &*name == wanted
            {
                break Document::try_from(command.get_document("lsid").expect("lsid")).expect("a session");
            }
        };
        assert_eq!(session("find").await, session("killCursors").await, "a cursor is killed in its own session");
        let error = client.database("test").run_cursor_command(doc! { "ping": 1 }).await.expect_err("no cursor");
        assert_eq!(error.kind(), ErrorKind::Protocol);
    })
    .await;
}

#[tokio::test]
async fn read_preference_chooses_the_member() {
    in_time(async {
        let (_sandbox, client) = set_of_three().await;
        insert(&client, 1).await;
        let find = || client.database("test").run_command(doc! { "find": "things" });
        let reply = find().read_preference(ReadPreference::secondary()).raw().await.expect("from a secondary");
        let topology = client.topology();
        assert_eq!(topology.server(reply.host()).expect("server").kind, ServerType::RsSecondary);
        let secondary = reply.host().clone();
        let direct =
            find().on_server(secondary.clone()).read_preference(ReadPreference::secondary_preferred()).raw().await.expect("direct");
        assert_eq!(direct.host(), &secondary);
        let stale = ReadPreference::secondary().with_max_staleness(Duration::from_secs(1));
        assert_eq!(find().read_preference(stale).await.expect_err("too small").kind(), ErrorKind::InvalidOption);
        let tagged = ReadPreference::secondary().with_tag_sets(vec![vec![("dc".into(), "none".into())]]);
        let error = find().read_preference(tagged).timeout(Duration::from_millis(300)).await.expect_err("no such tag");
        assert_eq!(error.kind(), ErrorKind::ServerSelection);
        assert!(error.to_string().contains("has other tags") && error.to_string().contains("timeout"), "{error}");
        assert_eq!(error.servers().len(), 3);
    })
    .await;
}

#[tokio::test]
async fn client_follows_a_step_down() {
    in_time(async {
        let (sandbox, client) = set_of_three().await;
        insert(&client, 1).await;
        let old = client.topology().primary().expect("primary").host.clone();
        let mut watch = client.watch_topology().await.expect("watch");
        sandbox.step_down().expect("step down");
        loop {
            let topology = watch.next().await.expect("change");
            if topology.primary().is_some_and(|primary| primary.host != old) {
                break;
            }
        }
        let reply =
            client.database("test").run_command(doc! { "insert": "things", "documents": [{ "_id": 99 }] }).raw().await.expect("insert");
        assert_ne!(reply.host(), &old);
    })
    .await;
}

#[tokio::test]
async fn client_survives_the_loss_of_its_primary() {
    in_time(async {
        let (sandbox, client) = set_of_three().await;
        insert(&client, 1).await;
        let lost = sandbox.primary().expect("primary");
        sandbox.stop(lost).await;
        let mut failures = 0;
        while let Err(error) = client
            .database("test")
            .run_command(doc! { "insert": "things", "documents": [{ "x": 1 }] })
            .timeout(Duration::from_secs(10))
            .await
        {
            failures += 1;
            assert!(error.is_network() || error.kind() == ErrorKind::PoolCleared || error.code().is_some(), "{error}");
            assert!(failures < 50, "{error}");
        }
        sandbox.start(lost).await.expect("start");
        until("all three are known", || {
            client.topology().servers().iter().filter(|server| server.kind != ServerType::Unknown).count() == 3
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn events_arrive_in_order() {
    in_time(async {
        let (_sandbox, client) = set_of_three().await;
        let mut events = client.events();
        ping(&client).await.expect("ping");
        client.shutdown().await;
        let mut told = Vec::new();
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(200), events.next()).await {
            told.push(event);
        }
        assert!(matches!(told.first(), Some(Event::Topology(TopologyEvent::TopologyOpening))), "{:?}", told.first());
        let position = |wanted: &dyn Fn(&Event) -> bool| told.iter().position(wanted).expect("told");
        let started =
            position(&|event| matches!(event, Event::Command(mongolink::CommandEvent::Started { name, .. }) if &**name == "ping"));
        let succeeded =
            position(&|event| matches!(event, Event::Command(mongolink::CommandEvent::Succeeded { name, .. }) if &**name == "ping"));
        let ready = position(&|event| matches!(event, Event::Pool { event: PoolEvent::PoolReady, .. }));
        let created = position(&|event| matches!(event, Event::Pool { event: PoolEvent::ConnectionCreated { .. }, .. }));
        let checked =
            position(&|event| matches!(event, Event::Heartbeat { event: mongolink::MonitorEvent::HeartbeatSucceeded { .. }, .. }));
        assert!(checked < ready && ready < created && created < started && started < succeeded);
        let closed = position(&|event| matches!(event, Event::Topology(TopologyEvent::TopologyClosed)));
        assert!(told[closed..].iter().all(|event| !matches!(event, Event::Topology(TopologyEvent::ServerDescriptionChanged { .. }))));
        let beats = |wanted: fn(&mongolink::MonitorEvent) -> bool| {
            told.iter().filter(|event| matches!(event, Event::Heartbeat { event, .. } if wanted(event))).count()
        };
        let begun = beats(|event| matches!(event, mongolink::MonitorEvent::HeartbeatStarted { .. }));
        let ended = beats(|event| !matches!(event, mongolink::MonitorEvent::HeartbeatStarted { .. }));
        assert_eq!(begun, ended, "every check that began has ended");
    })
    .await;
}

#[tokio::test]
async fn slow_subscriber_gets_the_number_of_missed_events() {
    in_time(async {
        let (_sandbox, client) = set_of_three().await;
        let mut events = client.events();
        for _ in 0..1500 {
            ping(&client).await.expect("ping");
        }
        let mut missed = 0;
        for _ in 0..10 {
            if let Some(Event::Missed(count)) = events.next().await {
                missed += count;
            }
        }
        assert!(missed > 0);
    })
    .await;
}

#[tokio::test]
async fn shutdown_ends_sessions_tasks_and_connections() {
    in_time(async {
        let (sandbox, client) = set_of_three().await;
        ping(&client).await.expect("ping");
        assert_eq!(client.topology().kind(), TopologyType::ReplicaSetWithPrimary);
        client.shutdown().await;
        assert_eq!(client.task_count(), 0);
        assert_eq!(sandbox.commands_seen("endSessions").iter().sum::<u64>(), 1);
        until("no connection is left", || (0..3).all(|member| sandbox.connections(member) == 0)).await;
    })
    .await;
}

#[tokio::test]
async fn dropped_client_leaves_nothing() {
    in_time(async {
        let (sandbox, client) = set_of_three().await;
        ping(&client).await.expect("ping");
        let cursor = client.database("test").run_cursor_command(doc! { "find": "none" }).await.expect("find");
        drop(client);
        drop(cursor);
        until("no connection is left", || (0..3).all(|member| sandbox.connections(member) == 0)).await;
    })
    .await;
}

#[tokio::test]
async fn user_logs_in() {
    in_time(async {
        let sandbox = Sandbox::builder().members(3).user("ann", "pencil").start().await.expect("sandbox");
        let client = Client::new(sandbox.uri()).expect("client");
        insert(&client, 3).await;
        let probe = client.probe(&client.topology().primary().expect("primary").host).await.expect("probe");
        assert!(probe.error.is_none() && probe.ping.is_some(), "{probe:?}");
        let stages: Vec<String> = probe.stages.iter().map(|report| report.stage.to_string()).collect();
        assert_eq!(stages.last().map(String::as_str), Some("auth"), "{stages:?}");
    })
    .await;
}
