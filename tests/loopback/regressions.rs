//! Known failures of other drivers, and that they don't happen here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mongolink::bson::{Document, doc, rawdoc};
use mongolink::{BootClock, Client, ErrorKind, Event, PoolEvent, Sandbox, ServerAddress, ServerType, Stage, TopologyEvent};

use crate::support::{Names, Proxy, Treatment, at_rest, in_time, ping, until};

/// A look-up may take longer than the connect time-out; numeric addresses never wait for one.
#[tokio::test]
async fn dns_time_does_not_count_against_connect_timeout() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let port = sandbox.addresses()[0].port();
        let names = Names::after(Duration::from_millis(900));
        let client = Client::builder(format!("mongodb://db.test:{port}/?connectTimeoutMS=300"))
            .expect("uri")
            .resolver(names.clone())
            .build()
            .expect("client");
        ping(&client).await.expect("the connect timer starts with the first address");
        assert_eq!(names.asked(), 1, "monitor and pool share the look-up");

        for address in [format!("127.0.0.1:{port}"), format!("[::ffff:127.0.0.1]:{port}")] {
            let numeric = Client::builder(format!("mongodb://{address}/")).expect("uri").resolver(names.clone()).build().expect("client");
            ping(&numeric).await.expect("ping");
        }
        assert_eq!(names.asked(), 1, "numeric hosts never meet the resolver");

        let hopeless = Client::builder("mongodb://db.test/?serverSelectionTimeoutMS=1500")
            .expect("uri")
            .dns_timeout(Duration::from_millis(200))
            .resolver(Names::after(Duration::from_secs(60)))
            .build()
            .expect("client");
        let error = ping(&hopeless).await.expect_err("no answer");
        let cause = error.servers()[0].error.as_ref().expect("cause");
        assert_eq!((cause.kind(), cause.stage()), (ErrorKind::Timeout, Some(Stage::Dns)));
        assert_eq!(cause.limit().expect("limit").name, "dnsTimeoutMS");
        assert!(!cause.has_label("SystemOverloadedError"), "a DNS failure says nothing of the server's load");
    })
    .await;
}

/// Names are looked up concurrently, each once, and known addresses survive a DNS outage.
#[tokio::test]
async fn lookups_run_concurrently_and_once_per_name() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let port = sandbox.addresses()[0].port();
        let names = Names::after(Duration::from_millis(300));
        let seeds: Vec<String> = (0..40).map(|number| format!("host{number}.test:{port}")).collect();
        let client = Client::builder(format!("mongodb://{}/?directConnection=false", seeds.join(",")))
            .expect("uri")
            .resolver(names.clone())
            .build()
            .expect("client");
        let began = Instant::now();
        // A standalone among many seeds is no member of anything: all are looked up, none is kept.
        let error =
            client.database("admin").run_command(doc! { "ping": 1 }).timeout(Duration::from_secs(2)).await.expect_err("no topology");
        assert_eq!(error.kind(), ErrorKind::ServerSelection);
        assert_eq!(names.asked(), 40, "one question a name");
        assert!(names.at_once_max.load(Ordering::SeqCst) >= 20, "side by side: {}", names.at_once_max.load(Ordering::SeqCst));
        assert!(began.elapsed() < Duration::from_secs(9), "one after the other it would take 12 s");

        let names = Names::after(Duration::from_millis(300));
        let one = Client::builder(format!("mongodb://db.test:{port}/")).expect("uri").resolver(names.clone()).build().expect("client");
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let one = one.clone();
                tokio::spawn(async move { ping(&one).await })
            })
            .collect();
        for call in calls {
            call.await.expect("task").expect("ping");
        }
        assert_eq!(names.asked(), 1, "a hundred callers, one question");
    })
    .await;
}

/// All spellings of a host are one server.
#[tokio::test]
async fn unicode_and_ascii_names_are_one_server() {
    in_time(async {
        let sandbox =
            Sandbox::builder().members(3).hosts(["Bücher.test", "xn--bcher-kva.example.", "GRÜN.test"]).start().await.expect("sandbox");
        let ports: Vec<u16> = sandbox.addresses().iter().map(|address| address.port()).collect();
        let seeds = format!("XN--BCHER-KVA.TEST:{},bücher.example:{}", ports[0], ports[1]);
        let client =
            Client::builder(format!("mongodb://{seeds}/?replicaSet=rs0")).expect("uri").resolver(Names::default()).build().expect("client");
        ping(&client).await.expect("ping");
        until("three members", || client.topology().servers().iter().filter(|server| server.kind != ServerType::Unknown).count() == 3)
            .await;
        let known: BTreeSet<String> = client.topology().servers().iter().map(|server| server.host.canonical().to_owned()).collect();
        let expected = [("xn--bcher-kva.test", ports[0]), ("xn--bcher-kva.example", ports[1]), ("xn--grn-ioa.test", ports[2])];
        assert_eq!(known, expected.iter().map(|(name, port)| format!("{name}:{port}")).collect());
        assert!(client.topology().primary().is_some(), "the primary's own name is the one it is known by");

        // The set's configuration takes up another spelling of the same name: nothing changes.
        let secondary = (0..3).find(|member| Some(*member) != sandbox.primary()).expect("secondary");
        let (name, port) = expected[secondary];
        let mut events = client.events();
        sandbox.rename(secondary, format!("{}.:{port}", name.to_uppercase())).expect("rename");
        ping(&client).await.expect("ping");
        until("the new configuration is known", || client.topology().max_set_version() == Some(2)).await;
        assert_eq!(client.topology().servers().len(), 3);
        while let Some(Some(event)) = events.next().now_or_never() {
            let is_end = matches!(
                &event,
                Event::Topology(TopologyEvent::ServerOpening { .. } | TopologyEvent::ServerClosed { .. })
                    | Event::Pool { event: PoolEvent::PoolCleared { .. } | PoolEvent::PoolClosed | PoolEvent::ConnectionClosed { .. }, .. }
            );
            assert!(!is_end, "no server and no connection is given up: {event:?}");
        }
    })
    .await;
}

/// A new client does no I/O; the first use starts it, and it starts again on another runtime.
#[test]
fn new_client_does_no_io() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    let servers = runtime();
    let sandbox = servers.block_on(async { Sandbox::builder().members(1).start().await.expect("sandbox") });
    let client = Client::new(sandbox.uri()).expect("no runtime is needed");
    assert_eq!((client.task_count(), sandbox.connections(0)), (0, 0));
    assert!(client.topology().servers().is_empty());

    let first = runtime();
    first.block_on(async { in_time(ping(&client)).await.expect("ping") });
    assert!(client.task_count() > 0);
    drop(first);

    let second = runtime();
    second.block_on(async { in_time(ping(&client)).await.expect("ping on another runtime") });
    second.block_on(client.shutdown());
    assert_eq!(client.task_count(), 0);
    let error = second.block_on(ping(&client)).expect_err("shut down");
    assert_eq!(error.kind(), ErrorKind::Shutdown);
    servers.block_on(async { until("all connections are gone", || sandbox.connections(0) == 0).await });
}

/// One client, many threads, two runtimes at once.
#[test]
fn client_is_shared_by_threads_and_runtimes() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let servers = runtime();
    let sandbox = servers.block_on(async { Sandbox::builder().members(3).start().await.expect("sandbox") });
    let client = Client::new(sandbox.uri()).expect("client");
    let owner = runtime();
    owner.block_on(async { in_time(ping(&client)).await.expect("ping") });
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let client = client.clone();
            scope.spawn(move || {
                let own = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
                own.block_on(in_time(async {
                    for number in 0..50 {
                        let echo = doc! { "insert": "things", "documents": [{ "_id": format!("{thread}-{number}") }] };
                        let reply = client.database("test").run_command(echo).await.expect("insert");
                        assert_eq!(reply.get_i32("n").ok(), Some(1));
                    }
                }));
            });
        }
    });
    owner.block_on(async {
        let mut cursor = client
            .database("test")
            .run_cursor_command(rawdoc! { "find": "things", "batchSize": 50 })
            .typed::<Document>()
            .await
            .expect("find");
        let mut found = BTreeSet::new();
        while let Some(document) = in_time(cursor.next()).await {
            found.insert(document.expect("document").get_str("_id").expect("id").to_owned());
        }
        assert_eq!(found.len(), 400);
        in_time(client.shutdown()).await;
    });
}

/// Partial reads and writes, and half-closed sockets.
#[tokio::test]
async fn partial_io_and_half_closed_sockets_are_handled() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let crumbs = Proxy::new(sandbox.addresses()[0], |_| Treatment::Crumbs).await;
        let client = Client::new(format!("mongodb://{}/", crumbs.address)).expect("client");
        let text = "x".repeat(3000);
        client.database("test").run_command(doc! { "insert": "crumbs", "documents": [{ "_id": 1, "text": &text }] }).await.expect("insert");
        let reply = client.database("test").run_command(doc! { "find": "crumbs", "filter": { "_id": 1 } }).await.expect("find");
        let batch = reply.get_document("cursor").expect("cursor").get_array("firstBatch").expect("batch");
        assert_eq!(batch[0].as_document().expect("document").get_str("text").ok(), Some(text.as_str()));

        // The monitor's connections pass; the pool's are half-closed after hello and one reply.
        let half = Proxy::new(sandbox.addresses()[0], |number| if number < 2 { Treatment::Pass } else { Treatment::HalfClosed }).await;
        let client = Client::new(format!("mongodb://{}/?maxPoolSize=1", half.address)).expect("client");
        ping(&client).await.expect("the reply came before the end");
        let mut failed = 0;
        for _ in 0..10 {
            match client.database("admin").run_command(doc! { "ping": 1 }).timeout(Duration::from_secs(5)).await {
                Ok(_) => {}
                Err(error) => {
                    failed += 1;
                    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                }
            }
        }
        assert!(failed > 0, "a half-closed connection was used");
        at_rest(&client).await;
    })
    .await;
}

/// A boot clock that the test sets.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl BootClock for Hand {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// The next call detects a suspension: servers are checked at once, and idle connections are closed.
#[tokio::test]
async fn suspension_distrusts_idle_connections_and_checks_servers() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let hand = Hand::default();
        let client = Client::builder(format!("mongodb://{}/?heartbeatFrequencyMS=60000", sandbox.addresses()[0]))
            .expect("uri")
            .boot_clock(hand.clone())
            .build()
            .expect("client");
        ping(&client).await.expect("ping");
        at_rest(&client).await;
        let greeted = || sandbox.commands_seen("isMaster")[0] + sandbox.commands_seen("hello")[0];
        let before = greeted();
        let (host, stats) = client.pool_stats().remove(0);
        assert_eq!(host, ServerAddress::parse(&sandbox.addresses()[0].to_string()).expect("host"));
        assert!(stats.idle >= 1 && stats.closed == 0);

        hand.0.store(3600, Ordering::SeqCst);
        ping(&client).await.expect("ping after the suspension");
        let (_, after) = client.pool_stats().remove(0);
        assert!(after.closed >= stats.idle as u64, "connections from before are gone: {after:?}");
        until("a check long before the heartbeat", || greeted() >= before + 2).await;
        let quiet = greeted();
        ping(&client).await.expect("ping");
        assert!(greeted() <= quiet + 1, "noticed once");
    })
    .await;
}
