//! server-monitoring, and the rest of server-discovery-and-monitoring.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mongolink::bson::doc;
use mongolink::{CheckOutFailure, Client, ErrorKind, Event, Events, MonitorEvent, PoolEvent, Sandbox, ServerAddress, ServerType};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use super::{event, heartbeat, pool, server_changed, settled, told_so_far};
use crate::peers::{Authority, Heard, Peer, Turn, refusing, scripted, scripted_over_tls, standalone_hello};
use crate::support::{in_time, ping, until};

/// "Streaming protocol Tests", 1: servers answer every `heartbeatFrequencyMS`.
#[tokio::test]
async fn streaming_servers_answer_every_heartbeat() {
    in_time(async {
        let builders = [Sandbox::builder().standalone(), Sandbox::builder().members(1), Sandbox::builder().mongos()];
        for builder in builders {
            let sandbox = builder.start().await.expect("sandbox");
            let client =
                Client::builder(sandbox.uri()).expect("uri").heartbeat_frequency(Duration::from_millis(500)).build().expect("client");
            let mut events = client.events();
            ping(&client).await.expect("ping");
            let awaited =
                |event: &Event| matches!(heartbeat(event), Some(MonitorEvent::HeartbeatSucceeded { awaited: true, .. })).then_some(());
            event(&mut events, awaited).await;
            let began = Instant::now();
            for _ in 0..4 {
                event(&mut events, awaited).await;
            }
            // The heartbeats of ten seconds that are the default would take forty.
            assert!((Duration::from_millis(1800)..Duration::from_secs(8)).contains(&began.elapsed()), "{:?}", began.elapsed());
        }
    })
    .await;
}

/// "RTT Tests": a hello that is slow to be answered raises the average.
#[tokio::test]
async fn round_trip_time_follows_a_slow_hello() {
    in_time(async {
        let sandbox = Sandbox::builder().members(1).start().await.expect("sandbox");
        let uri = format!("{}&heartbeatFrequencyMS=500&appName=streamingRttTest", sandbox.uri());
        let client = Client::new(uri).expect("client");
        let mut events = client.events();
        ping(&client).await.expect("ping");
        let average = || client.topology().primary().and_then(|primary| primary.round_trip_time).unwrap_or_default();
        assert!(average() < Duration::from_millis(250), "{:?}", average());
        let data =
            doc! { "failCommands": ["hello", "isMaster"], "blockConnection": true, "blockTimeMS": 500, "appName": "streamingRttTest" };
        sandbox.fail_point(0, &doc! { "configureFailPoint": "failCommand", "mode": { "times": 1000 }, "data": data }).expect("armed");
        until("the average is above 250 ms", || average() > Duration::from_millis(250)).await;
        let told = told_so_far(&mut events).await;
        for server in told.iter().filter_map(server_changed).filter(|server| server.is_known()) {
            assert!(server.round_trip_time.is_some_and(|average| !average.is_zero()), "{server}");
        }
    })
    .await;
}

/// "Heartbeat Tests": the started event comes before there is a socket.
#[tokio::test]
async fn heartbeat_starts_before_its_socket_and_fails_after_it() {
    type Log = Arc<Mutex<Vec<&'static str>>>;
    type Ears = Arc<Mutex<Option<Events>>>;
    fn listen(ears: &Ears, log: &Log) {
        let mut ears = ears.lock().expect("no panic");
        while let Some(Some(event)) = ears.as_mut().and_then(|events| events.next().now_or_never()) {
            log.lock().expect("no panic").extend(match heartbeat(&event) {
                Some(MonitorEvent::HeartbeatStarted { .. }) => Some("heartbeat started"),
                Some(MonitorEvent::HeartbeatFailed { .. }) => Some("heartbeat failed"),
                _ => None,
            });
        }
    }
    in_time(async {
        let (log, ears) = (Log::default(), Ears::default());
        let peer = Peer::start({
            let (log, ears) = (Arc::clone(&log), Arc::clone(&ears));
            move |mut tcp| {
                let (log, ears) = (Arc::clone(&log), Arc::clone(&ears));
                async move {
                    listen(&ears, &log);
                    log.lock().expect("no panic").push("client connected");
                    drop(tcp.read(&mut [0; 4096]).await);
                    listen(&ears, &log);
                    log.lock().expect("no panic").push("client hello received");
                }
            }
        })
        .await;
        let client = Client::new(format!("mongodb://{}/?serverSelectionTimeoutMS=300", peer.address())).expect("client");
        *ears.lock().expect("no panic") = Some(client.events());
        ping(&client).await.expect_err("no server");
        listen(&ears, &log);
        let told = log.lock().expect("no panic").clone();
        assert_eq!(told[..4], ["heartbeat started", "client connected", "client hello received", "heartbeat failed"], "{told:?}");
    })
    .await;
}

/// SDAM events: the events of a reply come before the next check begins.
#[tokio::test]
async fn next_heartbeat_starts_after_the_descriptions_of_the_last() {
    in_time(async {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let client = Client::builder(sandbox.uri()).expect("uri").heartbeat_frequency(Duration::from_millis(500)).build().expect("client");
        let mut events = client.events();
        settled(&client, &sandbox).await;
        sandbox.step_down().expect("step down");
        until("another primary is known", || sandbox.primary().is_some() && client.topology().primary().is_some()).await;
        let told = told_so_far(&mut events).await;
        let mut checking: Vec<&ServerAddress> = Vec::new();
        let mut changes = 0;
        for event in &told {
            if let Event::Heartbeat { host, event, .. } = event {
                checking.retain(|other| *other != host);
                if matches!(event, MonitorEvent::HeartbeatStarted { .. }) {
                    checking.push(host);
                }
            } else if let Some(new) = server_changed(event).filter(|new| new.is_known()) {
                changes += 1;
                assert!(!checking.contains(&&new.host), "{} changes while it is being checked: {told:?}", new.host);
            }
        }
        assert!(changes >= 5, "three servers are found, two change their roles: {told:?}");
    })
    .await;
}

/// "All servers unavailable".
#[tokio::test]
async fn client_of_servers_that_are_not_there_can_be_made() {
    in_time(async {
        let (first, second) = (refusing(), refusing());
        let uri = format!("mongodb://{},{}/?serverSelectionTimeoutMS=300", first.address(), second.address());
        let client = Client::new(uri).expect("no error, and nothing is tried yet");
        assert_eq!(ping(&client).await.expect_err("nobody listens").kind(), ErrorKind::ServerSelection);
        let kinds: Vec<ServerType> = client.topology().servers().iter().map(|server| server.kind).collect();
        assert_eq!(kinds, [ServerType::Unknown; 2]);
    })
    .await;
}

/// "Topology discovery" and "Existing behavior": by default, a seed leads to its set.
#[tokio::test]
async fn seed_that_is_a_secondary_leads_to_the_primary() {
    in_time(async {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let primary = sandbox.primary().expect("primary");
        let secondary = sandbox.addresses()[(primary + 1) % 3];
        for options in ["directConnection=false", ""] {
            let client = Client::new(format!("mongodb://{secondary}/?{options}")).expect("client");
            let insert = client.database("test").run_command(doc! { "insert": "things", "documents": [{ "x": 1 }] });
            assert_eq!(insert.raw().await.expect("written").host().port(), sandbox.addresses()[primary].port());
        }
        let direct = Client::new(format!("mongodb://{secondary}/?directConnection=true")).expect("client");
        let insert = direct.database("test").run_command(doc! { "insert": "things", "documents": [{ "x": 1 }] });
        assert_eq!(insert.await.expect_err("a secondary takes no writes").code(), Some(10107));
    })
    .await;
}

/// "Connection Pool Management".
#[tokio::test]
async fn pool_is_ready_after_a_check_and_cleared_by_one_that_fails() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let options = "heartbeatFrequencyMS=500&serverMonitoringMode=poll&appName=SDAMPoolManagementTest";
        let client = Client::new(format!("mongodb://{}/?{options}", sandbox.addresses()[0])).expect("client");
        let mut events = client.events();
        ping(&client).await.expect("ping");
        let step = |event: &Event| match (heartbeat(event), pool(event)) {
            (Some(MonitorEvent::HeartbeatSucceeded { .. }), _) => Some("succeeded"),
            (Some(MonitorEvent::HeartbeatFailed { .. }), _) => Some("failed"),
            (_, Some(PoolEvent::PoolReady)) => Some("ready"),
            (_, Some(PoolEvent::PoolCleared { .. })) => Some("cleared"),
            _ => None,
        };
        assert_eq!((event(&mut events, step).await, event(&mut events, step).await), ("succeeded", "ready"));
        let data = doc! { "failCommands": ["isMaster", "hello"], "errorCode": 1234, "appName": "SDAMPoolManagementTest" };
        sandbox.fail_point(0, &doc! { "configureFailPoint": "failCommand", "mode": { "times": 2 }, "data": data }).expect("armed");
        let mut told = Vec::new();
        while told.last() != Some(&"ready") {
            told.push(event(&mut events, step).await);
        }
        // Checks may have gone well before the fail point was armed; the pool is cleared once, being paused the second time.
        let since = told.iter().position(|step| *step == "failed").expect("a failure");
        assert_eq!(told[since..], ["failed", "cleared", "failed", "succeeded", "ready"], "{told:?}");
    })
    .await;
}

/// "Connection Pool Backpressure": a server that turns connections away is overloaded, not gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_turned_away_fail_their_callers_and_clear_no_pool() {
    let peer = scripted(overloaded()).await;
    assert_borne(&peer, "").await;
}

/// The same with TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_turned_away_after_tls_fail_their_callers_and_clear_no_pool() {
    let authority = Authority::new("ours");
    let peer = scripted_over_tls(authority.server("127.0.0.1", 4000), overloaded()).await;
    assert_borne(&peer, &format!("&tls=true&tlsCAFile={}", authority.file().display())).await;
}

/// Makes a server that answers hello on the first connection only, the monitor's.
fn overloaded() -> impl Fn(&Heard) -> Turn + Send + Sync + 'static {
    let greeted = Arc::new(Mutex::new(0));
    move |heard: &Heard| {
        let mut greeted = greeted.lock().expect("no panic");
        if heard.body.contains_key("client") {
            *greeted += 1;
        }
        match *greeted {
            // The monitor is heard on.
            _ if heard.is_hello() && !heard.body.contains_key("client") => Turn::Reply(standalone_hello()),
            1 => Turn::Reply(standalone_hello()),
            _ => Turn::Close,
        }
    }
}

async fn assert_borne(peer: &Peer, options: &str) {
    in_time(async {
        let client = Client::new(format!("mongodb://{}/?maxConnecting=100{options}", peer.address())).expect("client");
        let mut events = client.events();
        let mut callers = JoinSet::new();
        for _ in 0..100 {
            let client = client.clone();
            callers.spawn(async move { ping(&client).await.expect_err("turned away") });
        }
        for error in callers.join_all().await {
            assert!(error.has_label("SystemOverloadedError") && error.has_label("RetryableError"), "{error}");
        }
        let told = told_so_far(&mut events).await;
        let failed =
            |event: &&Event| matches!(pool(event), Some(PoolEvent::CheckOutFailed { reason: CheckOutFailure::ConnectionError, .. }));
        assert!(told.iter().filter(failed).count() >= 10, "{told:?}");
        assert!(!told.iter().any(|event| matches!(pool(event), Some(PoolEvent::PoolCleared { .. }))), "{told:?}");
        assert_eq!(client.topology().servers().first().map(|server| server.kind), Some(ServerType::Standalone));
    })
    .await;
}
