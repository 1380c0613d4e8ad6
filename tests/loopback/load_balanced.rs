//! A client behind a load balancer (load-balancers), against the sandbox with two services, and against scripted servers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongolink::bson::oid::ObjectId;
use mongolink::bson::{Document, RawDocumentBuf, doc, rawdoc};
use mongolink::{
    CheckOutFailure, Client, CloseReason, CommandEvent, Cursor, ErrorKind, Event, Events, PoolEvent, Reply, Sandbox, ServerType,
    TopologyEvent, TopologyType,
};

use crate::peers::{Turn, scripted, standalone_hello};
use crate::support::{at_rest, in_time, ping, totals, until};

/// A load balancer with so many services, and a client whose options end like this.
async fn balanced(services: usize, options: &str) -> (Sandbox, Client) {
    let sandbox = Sandbox::builder().load_balancer(services).start().await.expect("sandbox");
    let client = Client::new(format!("{}{options}", sandbox.uri())).expect("client");
    (sandbox, client)
}

async fn fill(client: &Client, count: i32) {
    let documents: Vec<RawDocumentBuf> = (0..count).map(|id| rawdoc! { "_id": id }).collect();
    client.database("test").run_command(doc! { "insert": "things" }).documents("documents", documents).await.expect("insert");
}

async fn find(client: &Client, batch_size: i32) -> mongolink::Result<Cursor> {
    let find = doc! { "find": "things", "batchSize": batch_size };
    client.database("test").run_cursor_command(find).batch_size(2).await
}

/// Reads a cursor's documents to its end, or to an error.
async fn read(cursor: &mut Cursor) -> mongolink::Result<Vec<Document>> {
    let mut documents = Vec::new();
    while let Some(document) = cursor.next().await {
        documents.push(document?);
    }
    Ok(documents)
}

fn closing(command: &str, times: i32) -> Document {
    doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": { "failCommands": [command], "closeConnection": true } }
}

fn failing(command: &str, code: i32) -> Document {
    doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": { "failCommands": [command], "errorCode": code } }
}

/// Takes the events that have been sent so far.
async fn told(events: &mut Events) -> Vec<Event> {
    let mut told = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(50), events.next()).await {
        told.push(event);
    }
    told
}

/// The pool's events in short, without those that only ask.
fn of_pool(events: &[Event]) -> Vec<String> {
    let in_short = |event: &Event| {
        let Event::Pool { event, .. } = event else { return None };
        Some(match event {
            PoolEvent::PoolCreated { .. } | PoolEvent::CheckOutStarted => return None,
            PoolEvent::PoolReady => "ready".to_owned(),
            PoolEvent::PoolCleared { service_id, .. } => format!("cleared {}", if service_id.is_some() { "service" } else { "all" }),
            PoolEvent::PoolClosed => "closed".to_owned(),
            PoolEvent::ConnectionCreated { connection_id, .. } => format!("{connection_id} created"),
            PoolEvent::ConnectionReady { connection_id, .. } => format!("{connection_id} ready"),
            PoolEvent::ConnectionClosed { connection_id, reason, .. } => format!("{connection_id} closed {reason:?}"),
            PoolEvent::CheckOutFailed { reason, .. } => format!("failed {reason:?}"),
            PoolEvent::CheckedOut { connection_id, .. } => format!("{connection_id} out"),
            PoolEvent::CheckedIn { connection_id, .. } => format!("{connection_id} in"),
            other => format!("{other:?}"),
        })
    };
    events.iter().filter_map(in_short).collect()
}

/// The commands of a name, with the connections they went out on.
fn sent(events: &[Event], wanted: &str) -> Vec<u64> {
    let started = |event: &Event| {
        let Event::Command(CommandEvent::Started { name, connection_id, .. }) = event else { return None };
        (&**name == wanted).then_some(*connection_id)
    };
    events.iter().filter_map(started).collect()
}

/// The service that an event of a command, or of a cleared pool, names.
fn service_of(event: &Event) -> Option<Option<ObjectId>> {
    if let Event::Command(
        CommandEvent::Started { service_id, .. } | CommandEvent::Succeeded { service_id, .. } | CommandEvent::Failed { service_id, .. },
    )
    | Event::Pool { event: PoolEvent::PoolCleared { service_id, .. }, .. } = event
    {
        return Some(*service_id);
    }
    None
}

fn kinds(client: &Client) -> (TopologyType, Vec<ServerType>) {
    let topology = client.topology();
    (topology.kind(), topology.servers().iter().map(|server| server.kind).collect())
}

fn untouched(client: &Client) -> bool {
    let topology = client.topology();
    let clean = topology.servers().iter().all(|server| server.error.is_none());
    clean && kinds(client) == (TopologyType::LoadBalanced, vec![ServerType::LoadBalancer])
}

#[tokio::test]
async fn load_balanced_commands_reach_every_service_and_no_monitor_runs() {
    in_time(async {
        let (sandbox, client) = balanced(2, "&heartbeatFrequencyMS=500").await;
        assert!(client.warnings().is_empty(), "{:?}", client.warnings());
        fill(&client, 1).await;
        let mut cursors = Vec::new();
        for _ in 0..2 {
            let client = client.clone();
            cursors.push(tokio::spawn(async move { client.database("test").run_command(doc! { "count": "things" }).await }));
        }
        for count in cursors {
            assert_eq!(count.await.expect("task").expect("count").get_i32("n").ok(), Some(1));
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(untouched(&client) && client.topology().is_compatible());
        let created: u64 = totals(&client).created;
        assert_eq!(sandbox.commands_seen("hello").iter().sum::<u64>(), created, "one hello for each pooled connection");
        assert_eq!(sandbox.commands_seen("isMaster"), [0, 0]);
    })
    .await;
}

#[tokio::test]
async fn load_balanced_events_are_the_fixed_series() {
    in_time(async {
        let (_sandbox, client) = balanced(2, "").await;
        let mut events = client.events();
        ping(&client).await.expect("ping");
        client.shutdown().await;
        let events = told(&mut events).await;
        assert!(!events.iter().any(|event| matches!(event, Event::Heartbeat { .. })), "nobody checks a load balancer");
        let series: Vec<String> = events
            .iter()
            .filter_map(|event| if let Event::Topology(event) = event { Some(event) } else { None })
            .map(|event| match event {
                TopologyEvent::TopologyOpening => "opening".to_owned(),
                TopologyEvent::TopologyDescriptionChanged { previous, new, .. } => {
                    let kinds: Vec<_> = new.servers().iter().map(|server| server.kind.name()).collect();
                    format!("{} -> {} {kinds:?}", previous.kind().name(), new.kind().name())
                }
                TopologyEvent::ServerOpening { .. } => "server opening".to_owned(),
                TopologyEvent::ServerDescriptionChanged { previous, new, .. } => format!("{} -> {}", previous.kind.name(), new.kind.name()),
                TopologyEvent::ServerClosed { .. } => "server closed".to_owned(),
                TopologyEvent::TopologyClosed => "closed".to_owned(),
                TopologyEvent::HostUnusable { name, .. } => format!("unusable {name}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(
            series,
            [
                "opening",
                "Unknown -> LoadBalanced [\"Unknown\"]",
                "server opening",
                "Unknown -> LoadBalancer",
                "LoadBalanced -> LoadBalanced [\"LoadBalancer\"]",
                "server closed",
                "LoadBalanced -> Unknown []",
                "closed"
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn first_message_to_a_load_balancer_is_hello_as_op_msg() {
    in_time(async {
        let heard = Arc::<Mutex<Vec<Document>>>::default();
        let log = Arc::clone(&heard);
        // Scripted servers understand nothing but OP_MSG.
        let peer = scripted(move |heard| {
            log.lock().expect("log").push(heard.body.clone());
            let mut reply = if heard.is_hello() {
                standalone_hello()
            } else {
                doc! { "ok": 1.0 }
            };
            reply.insert("serviceId", ObjectId::from_bytes([7; 12]));
            Turn::Reply(reply)
        })
        .await;
        let client = Client::new(format!("mongodb://{}/?loadBalanced=true", peer.address())).expect("client");
        ping(&client).await.expect("ping");
        let heard = heard.lock().expect("log").clone();
        assert_eq!((heard[0].get_i32("hello").ok(), heard[0].get_bool("loadBalanced").ok()), (Some(1), Some(true)));
        assert!(!heard[0].contains_key("helloOk") && heard[0].contains_key("client"));
        // This server names no time-out of sessions: behind a load balancer they are used all the same.
        assert!(heard[1].contains_key("ping") && heard[1].contains_key("lsid"), "{}", heard[1]);
        assert_eq!(client.topology().logical_session_timeout(), None);
    })
    .await;
}

#[tokio::test]
async fn read_preference_passes_the_load_balancer() {
    in_time(async {
        let (_sandbox, client) = balanced(1, "").await;
        let mut events = client.events();
        let nearest = mongolink::ReadPreference::nearest();
        client.database("admin").run_command(doc! { "ping": 1 }).read_preference(nearest).await.expect("any server suits");
        ping(&client).await.expect("ping");
        let modes: Vec<Option<String>> = told(&mut events)
            .await
            .iter()
            .filter_map(|event| if let Event::Command(CommandEvent::Started { command, .. }) = event { Some(command) } else { None })
            .map(|command| command.get_document("$readPreference").ok().and_then(|sent| sent.get_str("mode").ok().map(str::to_owned)))
            .collect();
        assert_eq!(modes, [Some("nearest".to_owned()), None]);
    })
    .await;
}

#[tokio::test]
async fn server_without_services_is_refused_by_name() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let client = Client::new(format!("{}?loadBalanced=true", sandbox.uri())).expect("client");
        let mut events = client.events();
        let error = ping(&client).await.expect_err("no service");
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        let text = "Driver attempted to initialize in load balancing mode, but the server does not support this mode.";
        assert!(error.to_string().contains(text), "{error}");
        assert!(untouched(&client));
        let events = of_pool(&told(&mut events).await);
        assert_eq!(events, ["ready", "1 created", "1 closed Error", "failed ConnectionError"]);
        let plain = Client::new(format!("{}?loadBalanced=false", sandbox.uri())).expect("client");
        ping(&plain).await.expect("ping");
    })
    .await;
}

#[tokio::test]
async fn load_balancer_refuses_a_client_that_does_not_know_of_it() {
    in_time(async {
        let (sandbox, _) = balanced(1, "").await;
        let uri = format!("mongodb://{}/?directConnection=true&serverSelectionTimeoutMS=300", sandbox.addresses()[0]);
        let client = Client::new(uri).expect("client");
        assert_eq!(ping(&client).await.expect_err("refusal").kind(), ErrorKind::ServerSelection);
        let server = client.topology().servers()[0].clone();
        assert_eq!(server.error.as_ref().and_then(mongolink::Error::code), Some(354));
    })
    .await;
}

#[tokio::test]
async fn cursor_of_one_batch_keeps_no_connection() {
    in_time(async {
        let (_sandbox, client) = balanced(2, "").await;
        fill(&client, 3).await;
        let mut events = client.events();
        let cursor = find(&client, 10).await.expect("find");
        assert_eq!(totals(&client).in_use, 0);
        drop(cursor);
        assert_eq!(of_pool(&told(&mut events).await), ["1 out", "1 in"]);
    })
    .await;
}

#[tokio::test]
async fn cursor_keeps_its_connection_to_its_end() {
    in_time(async {
        let (sandbox, client) = balanced(2, "").await;
        fill(&client, 9).await;
        let mut events = client.events();
        // One on each service, read in turns; a getMore that went astray would find no cursor.
        let mut one = find(&client, 2).await.expect("find");
        let mut two = find(&client, 2).await.expect("find");
        assert_eq!((totals(&client).in_use, client.pool_stats()[0].1.pinned), (2, 2));
        assert_eq!([sandbox.cursors(0), sandbox.cursors(1)], [1, 1]);
        for id in 0..9 {
            for cursor in [&mut one, &mut two] {
                assert_eq!(cursor.next().await.expect("some").expect("document").get_i32("_id").ok(), Some(id));
            }
        }
        // The last batch says that there are no more: the connection is returned before the caller reads the end.
        assert_eq!((totals(&client).in_use, client.pool_stats()[0].1.pinned), (0, 0));
        assert!(one.next().await.is_none() && two.next().await.is_none());
        let events = told(&mut events).await;
        assert_eq!(of_pool(&events), ["1 out", "2 created", "2 ready", "2 out", "1 in", "2 in"]);
        assert_eq!((sent(&events, "find"), sent(&events, "getMore")), (vec![1, 2], [1, 2].repeat(4)));
    })
    .await;
}

#[tokio::test]
async fn closed_cursor_is_killed_on_its_connection_which_goes_back() {
    in_time(async {
        let (sandbox, client) = balanced(2, "").await;
        fill(&client, 9).await;
        let mut events = client.events();
        let one = find(&client, 2).await.expect("find");
        let two = find(&client, 2).await.expect("find");
        two.close().await;
        assert_eq!((totals(&client).in_use, sandbox.cursors(0) + sandbox.cursors(1)), (1, 1));
        drop(one);
        at_rest(&client).await;
        assert_eq!(sandbox.cursors(0) + sandbox.cursors(1), 0);
        let events = told(&mut events).await;
        assert_eq!(sent(&events, "killCursors"), [2, 1]);
        assert_eq!(of_pool(&events), ["1 out", "2 created", "2 ready", "2 out", "2 in", "1 in"]);
    })
    .await;
}

#[tokio::test]
async fn close_that_is_not_awaited_still_kills_the_cursor() {
    in_time(async {
        let (sandbox, client) = balanced(2, "").await;
        fill(&client, 9).await;
        for polls in 0..3 {
            let mut closing = Box::pin(find(&client, 2).await.expect("find").close());
            for _ in 0..polls {
                if futures_util::poll!(&mut closing).is_ready() {
                    break;
                }
            }
            drop(closing);
            at_rest(&client).await;
            until("no cursor is left", || sandbox.cursors(0) + sandbox.cursors(1) == 0).await;
        }
    })
    .await;
}

#[tokio::test]
async fn cursor_dropped_during_a_getmore_is_killed_on_its_connection() {
    in_time(async {
        let (sandbox, client) = balanced(2, "").await;
        fill(&client, 9).await;
        for service in 0..2 {
            let hold = doc! { "failCommands": ["getMore"], "blockConnection": true, "blockTimeMS": 100 };
            let command = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": hold };
            sandbox.fail_point(service, &command).expect("fail point");
        }
        let mut events = client.events();
        let mut cursor = find(&client, 1).await.expect("find");
        cursor.next().await.expect("some").expect("document");
        tokio::time::timeout(Duration::from_millis(20), cursor.next()).await.expect_err("held");
        drop(cursor);
        at_rest(&client).await;
        assert_eq!(sandbox.cursors(0) + sandbox.cursors(1), 0);
        let events = told(&mut events).await;
        assert_eq!((sent(&events, "getMore"), sent(&events, "killCursors")), (vec![1], vec![1]));
        assert_eq!(of_pool(&events), ["1 out", "1 in"]);
    })
    .await;
}

#[tokio::test]
async fn getmore_that_ran_out_of_time_is_followed_by_killcursors_on_its_connection() {
    in_time(async {
        let (sandbox, client) = balanced(1, "").await;
        fill(&client, 9).await;
        let hold = doc! { "failCommands": ["getMore"], "blockConnection": true, "blockTimeMS": 200 };
        let command = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": hold };
        sandbox.fail_point(0, &command).expect("fail point");
        let mut events = client.events();
        let command = client.database("test").run_cursor_command(doc! { "find": "things", "batchSize": 1 });
        let mut cursor = command.timeout(Duration::from_millis(50)).await.expect("find");
        assert_eq!(read(&mut cursor).await.expect_err("too late").kind(), ErrorKind::Timeout);
        at_rest(&client).await;
        assert_eq!(sandbox.cursors(0), 0);
        let events = told(&mut events).await;
        assert_eq!(sent(&events, "killCursors"), [1]);
        assert_eq!(of_pool(&events), ["1 out", "1 in"], "a time-out clears nothing");
    })
    .await;
}

#[tokio::test]
async fn broken_getmore_leaves_the_connection_pinned_and_kills_nothing() {
    in_time(async {
        let (sandbox, client) = balanced(1, "").await;
        fill(&client, 9).await;
        sandbox.fail_point(0, &closing("getMore", 1)).expect("fail point");
        let mut events = client.events();
        let mut cursor = find(&client, 2).await.expect("find");
        assert!(read(&mut cursor).await.expect_err("closed").is_network());
        assert!(cursor.next().await.is_none());
        assert_eq!((totals(&client).in_use, client.pool_stats()[0].1.pinned), (1, 1));
        cursor.close().await;
        assert_eq!(totals(&client).total(), 0);
        let events = told(&mut events).await;
        assert_eq!(sent(&events, "killCursors"), [0; 0]);
        assert_eq!(of_pool(&events), ["1 out", "cleared service", "1 in", "1 closed Error"]);
        assert!(untouched(&client));
    })
    .await;
}

#[tokio::test]
async fn refused_getmore_gives_the_connection_back() {
    in_time(async {
        let (sandbox, client) = balanced(1, "").await;
        fill(&client, 9).await;
        sandbox.fail_point(0, &failing("getMore", 8)).expect("fail point");
        let mut events = client.events();
        let mut cursor = find(&client, 2).await.expect("find");
        assert_eq!(read(&mut cursor).await.expect_err("refused").code(), Some(8));
        at_rest(&client).await;
        let events = told(&mut events).await;
        assert_eq!(sent(&events, "killCursors"), [1]);
        assert_eq!(of_pool(&events), ["1 out", "1 in"]);
        drop(cursor);
    })
    .await;
}

#[tokio::test]
async fn broken_killcursors_gives_the_connection_back() {
    in_time(async {
        let (sandbox, client) = balanced(1, "").await;
        fill(&client, 9).await;
        sandbox.fail_point(0, &closing("killCursors", 1)).expect("fail point");
        let mut events = client.events();
        find(&client, 2).await.expect("find").close().await;
        assert_eq!(totals(&client).total(), 0);
        assert_eq!(of_pool(&told(&mut events).await), ["1 out", "cleared service", "1 in", "1 closed Error"]);
    })
    .await;
}

#[tokio::test]
async fn only_the_failing_services_connections_are_closed() {
    in_time(async {
        let (sandbox, client) = balanced(2, "").await;
        fill(&client, 9).await;
        let (one, two) = (find(&client, 2).await.expect("find"), find(&client, 2).await.expect("find"));
        one.close().await;
        two.close().await;
        let mut events = client.events();
        // Connection 2 came back last, and reaches the second service.
        sandbox.fail_point(1, &failing("insert", 11600)).expect("fail point");
        let insert = || client.database("test").run_command(doc! { "insert": "others", "documents": [{ "x": 1 }] });
        assert_eq!(insert().await.expect_err("ends").code(), Some(11600));
        insert().await.expect("the other service");
        let events = of_pool(&told(&mut events).await);
        assert_eq!(events, ["2 out", "cleared service", "2 in", "2 closed Stale", "1 out", "1 in"]);
        assert!(untouched(&client));
        assert!(client.pool_stats()[0].1.ready, "the pool is not paused");
    })
    .await;
}

#[tokio::test]
async fn state_change_behind_a_load_balancer_changes_nothing() {
    in_time(async {
        let (sandbox, client) = balanced(1, "").await;
        sandbox.fail_point(0, &failing("ping", 10107)).expect("fail point");
        let mut events = client.events();
        assert_eq!(ping(&client).await.expect_err("refused").code(), Some(10107));
        let events = of_pool(&told(&mut events).await);
        assert_eq!(events, ["ready", "1 created", "1 ready", "1 out", "1 in"]);
        assert!(untouched(&client));
    })
    .await;
}

#[tokio::test]
async fn stale_errors_of_a_service_are_ignored() {
    in_time(async {
        let (sandbox, client) = balanced(1, "").await;
        fill(&client, 9).await;
        sandbox.fail_point(0, &closing("getMore", 2)).expect("fail point");
        let mut events = client.events();
        let (mut one, mut two) = (find(&client, 2).await.expect("find"), find(&client, 2).await.expect("find"));
        for cursor in [&mut one, &mut two] {
            assert!(read(cursor).await.expect_err("closed").is_network());
        }
        ping(&client).await.expect("a new connection");
        drop((one, two));
        let events = of_pool(&told(&mut events).await);
        assert_eq!(events.iter().filter(|event| *event == "cleared service").count(), 1, "{events:?}");
        assert_eq!(events.last().map(String::as_str), Some("2 closed Error"));
        assert_eq!(totals(&client).idle, 1, "the new connection is not stale");
    })
    .await;
}

#[tokio::test]
async fn errors_before_the_hello_reply_are_ignored() {
    in_time(async {
        for fail_point in [failing("hello", 11600), closing("hello", 1)] {
            let (sandbox, client) = balanced(1, "").await;
            sandbox.fail_point(0, &fail_point).expect("fail point");
            let mut events = client.events();
            ping(&client).await.expect_err("no hello");
            assert_eq!(of_pool(&told(&mut events).await), ["ready", "1 created", "1 closed Error", "failed ConnectionError"]);
            assert!(untouched(&client));
            ping(&client).await.expect("the pool is ready");
        }
    })
    .await;
}

#[tokio::test]
async fn errors_of_the_login_clear_their_service() {
    in_time(async {
        for (fail_point, kind) in [(failing("saslContinue", 18), ErrorKind::Auth), (closing("saslContinue", 1), ErrorKind::Closed)] {
            let sandbox = Sandbox::builder().load_balancer(1).user("ann", "pencil").start().await.expect("sandbox");
            let client = Client::new(sandbox.uri()).expect("client");
            sandbox.fail_point(0, &fail_point).expect("fail point");
            let mut events = client.events();
            ping(&client).await.expect_err("no login");
            let events = of_pool(&told(&mut events).await);
            assert_eq!(events, ["ready", "1 created", "cleared service", "1 closed Error", "failed ConnectionError"]);
            assert!(untouched(&client));
            // A login that failed is not tried again at once, and the pool stays ready.
            while let Err(error) = ping(&client).await {
                assert_eq!((error.kind(), error.stage()), (kind, Some(mongolink::Stage::Auth)), "{error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn events_name_the_service() {
    in_time(async {
        let (sandbox, client) = balanced(2, "").await;
        let mut events = client.events();
        ping(&client).await.expect("ping");
        sandbox.fail_point(0, &closing("ping", 1)).expect("fail point");
        ping(&client).await.expect_err("closed");
        ping(&client).await.expect("the other service");
        let events = told(&mut events).await;
        let services: Vec<Option<ObjectId>> = events.iter().filter_map(service_of).collect();
        let (one, other) = (services[0], services[5]);
        assert!(one.is_some() && other.is_some() && one != other);
        // Started, succeeded; started, failed, cleared; started, succeeded.
        assert_eq!(services, [one, one, one, one, one, other, other]);
        let plain = Sandbox::builder().standalone().start().await.expect("sandbox");
        let client = Client::new(plain.uri()).expect("client");
        let mut events = client.events();
        ping(&client).await.expect("ping");
        let named = |event: &Event| matches!(event, Event::Command(CommandEvent::Started { service_id: Some(_), .. }));
        assert!(!told(&mut events).await.iter().any(named));
    })
    .await;
}

#[tokio::test]
async fn wait_queue_timeout_counts_cursors_and_others() {
    in_time(async {
        let (sandbox, client) = balanced(1, "&maxPoolSize=2&waitQueueTimeoutMS=100").await;
        fill(&client, 9).await;
        let cursor = find(&client, 2).await.expect("find");
        let hold = doc! { "failCommands": ["count"], "blockConnection": true, "blockTimeMS": 1000 };
        let command = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": hold };
        sandbox.fail_point(0, &command).expect("fail point");
        let busy = client.clone();
        let busy = tokio::spawn(async move { busy.database("test").run_command(doc! { "count": "things" }).await });
        until("both are in use", || totals(&client).in_use == 2).await;
        let mut events = client.events();
        let error = ping(&client).await.expect_err("none is free");
        assert_eq!((error.kind(), error.limit().map(|limit| limit.name)), (ErrorKind::Timeout, Some("waitQueueTimeoutMS")));
        let text = "maxPoolSize: 2, connections in use by cursors: 1, connections in use by transactions: 0, connections in use by \
                    other operations: 1";
        assert!(error.to_string().contains(text), "{error}");
        let timed_out =
            |event: &Event| matches!(event, Event::Pool { event: PoolEvent::CheckOutFailed { reason: CheckOutFailure::Timeout, .. }, .. });
        assert!(told(&mut events).await.iter().any(timed_out));
        busy.await.expect("task").expect("count");
        cursor.close().await;
        ping(&client).await.expect("both are free");
    })
    .await;
}

#[tokio::test]
async fn sessions_behind_a_load_balancer_are_shared_and_ended() {
    in_time(async {
        let (sandbox, client) = balanced(2, "").await;
        fill(&client, 9).await;
        let mut events = client.events();
        let mut cursor = find(&client, 2).await.expect("find");
        read(&mut cursor).await.expect("documents");
        ping(&client).await.expect("ping");
        let sessions: Vec<Document> = told(&mut events)
            .await
            .iter()
            .filter_map(|event| if let Event::Command(CommandEvent::Started { command, .. }) = event { Some(command) } else { None })
            .map(|command| Document::try_from(command.get_document("lsid").expect("lsid")).expect("lsid"))
            .collect();
        assert!(sessions.len() > 3 && sessions.iter().all(|lsid| *lsid == sessions[0]), "{sessions:?}");
        client.shutdown().await;
        assert_eq!(sandbox.commands_seen("endSessions").iter().sum::<u64>(), 1);
    })
    .await;
}

/// An open cursor keeps what a call needs, and no watch.
#[tokio::test]
async fn watch_ends_at_shutdown_although_a_cursor_is_open() {
    in_time(async {
        let (sandbox, client) = balanced(2, "").await;
        fill(&client, 9).await;
        let cursor = find(&client, 2).await.expect("find");
        let mut watch = client.watch_topology().await.expect("watch");
        client.shutdown().await;
        assert_eq!([sandbox.cursors(0), sandbox.cursors(1)], [0, 0]);
        while watch.next().await.is_some() {}
        drop(cursor);
    })
    .await;
}

#[tokio::test]
async fn lost_service_costs_its_connections_and_the_other_serves_on() {
    in_time(async {
        let (sandbox, client) = balanced(2, "").await;
        fill(&client, 9).await;
        let (mut lost, mut kept) = (find(&client, 2).await.expect("find"), find(&client, 2).await.expect("find"));
        let mut events = client.events();
        sandbox.stop(0).await;
        assert!(read(&mut lost).await.expect_err("reset").is_network());
        assert_eq!(read(&mut kept).await.expect("documents").len(), 9);
        drop(lost);
        for _ in 0..5 {
            ping(&client).await.expect("the other service");
        }
        sandbox.start(0).await.expect("start");
        assert!(untouched(&client));
        let events = told(&mut events).await;
        let closed = |event: &Event| {
            matches!(event, Event::Pool { event: PoolEvent::ConnectionClosed { connection_id: 2, reason: CloseReason::Stale, .. }, .. })
        };
        assert!(!events.iter().any(closed));
    })
    .await;
}

#[tokio::test]
async fn probe_of_a_load_balancer_names_its_service() {
    in_time(async {
        let (_sandbox, client) = balanced(2, "").await;
        ping(&client).await.expect("ping");
        let host = client.topology().servers()[0].host.clone();
        let probe = client.probe(&host).await.expect("probe");
        assert!(probe.error.is_none() && probe.ping.is_some(), "{probe:?}");
        assert!(probe.hello.expect("hello").service_id.is_some());
        let reply: Reply = client.database("admin").run_command(rawdoc! { "ping": 1 }).on_server(host.clone()).raw().await.expect("ping");
        assert_eq!(reply.host(), &host);
    })
    .await;
}

#[tokio::test]
async fn shutdown_takes_pinned_connections_along() {
    in_time(async {
        let (sandbox, client) = balanced(2, "").await;
        fill(&client, 9).await;
        let mut cursor = find(&client, 2).await.expect("find");
        client.shutdown().await;
        assert!(read(&mut cursor).await.is_err());
        drop(cursor);
        until("no connection is left", || sandbox.connections(0) + sandbox.connections(1) == 0).await;
        assert_eq!(client.task_count(), 0);
    })
    .await;
}
