//! Start, waiting and shutdown of a client, on one runtime and on another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mongolink::bson::doc;
use mongolink::{Client, Cursor, ErrorKind, Event, Sandbox, ServerDescription, Stage, TopologyDescription, TopologyEvent};
use tokio::runtime::{Builder, Runtime};

use crate::peers::{Authority, Peer, Turn, scripted, silent, silent_dns, standalone_hello};
use crate::support::{Names, at_rest, in_time, ping, totals, until};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// server-monitoring, "minHeartbeatFrequencyMS": a waiting caller causes a check every half second.
#[tokio::test]
async fn waiting_caller_has_the_server_checked_again_and_again() {
    in_time(async {
        let refused = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&refused);
        let peer = scripted(move |heard| {
            if heard.is_hello() && count.fetch_add(1, Ordering::SeqCst) < 5 {
                return Turn::Reply(doc! { "ok": 0, "code": 1234, "errmsg": "not yet" });
            }
            Turn::Reply(if heard.is_hello() {
                standalone_hello()
            } else {
                doc! { "ok": 1 }
            })
        })
        .await;
        let client = Client::new(format!("mongodb://{}/?serverSelectionTimeoutMS=8000", peer.address())).expect("client");
        let began = Instant::now();
        ping(&client).await.expect("the sixth hello is answered");
        assert!(began.elapsed() >= Duration::from_millis(1900), "five pauses of half a second, the first may be shorter");
        assert!(refused.load(Ordering::SeqCst) >= 6);
    })
    .await;
}

/// A call keeps its own deadline when the runtime of the client's tasks ends.
#[test]
fn call_ends_in_time_when_the_tasks_runtime_ends() {
    let servers = runtime();
    let peer = servers.block_on(silent());
    let uri = format!("mongodb://{}/?serverSelectionTimeoutMS=60000&connectTimeoutMS=60000", peer.address());
    let client = Client::new(uri).expect("client");
    let (owner, other) = (runtime(), runtime());
    let first = owner.spawn({
        let client = client.clone();
        async move { drop(ping(&client).await) }
    });
    // Whoever comes first decides which runtime the tasks run on.
    servers.block_on(until("the tasks run", || client.task_count() > 0));
    let (tell, waits) = tokio::sync::oneshot::channel();
    let waiting = other.spawn({
        let client = client.clone();
        async move {
            let mut call = Box::pin(ping(&client));
            let mut tell = Some(tell);
            std::future::poll_fn(|context| {
                let outcome = call.as_mut().poll(context);
                tell.take().map(|tell| tell.send(()));
                outcome
            })
            .await
        }
    });
    servers.block_on(waits).expect("polled");
    owner.shutdown_background();
    drop(first);
    let error = other.block_on(in_time(waiting)).expect("no panic").expect_err("nobody watches the server any more");
    assert_eq!(error.kind(), ErrorKind::Shutdown, "{error}");

    // The next call starts everything anew where it is made, and ends by its own limit.
    let limited = async { client.database("admin").run_command(doc! { "ping": 1 }).timeout(Duration::from_millis(200)).await };
    let error = other.block_on(in_time(limited)).expect_err("silent");
    assert!(error.limit().is_some_and(|limit| limit.name == "timeout"), "{error}");
}

/// With the client's tasks on a runtime that is not driven, calls on another end at their deadline.
#[test]
fn call_ends_in_time_when_the_tasks_runtime_stands_still() {
    let servers = runtime();
    let sandbox = servers.block_on(async { Sandbox::builder().standalone().start().await.expect("sandbox") });
    let client = Client::new(format!("mongodb://{}/?maxPoolSize=1", sandbox.addresses()[0])).expect("client");
    let still = Builder::new_current_thread().enable_all().build().expect("a runtime");
    still.block_on(in_time(ping(&client))).expect("ping");
    let other = runtime();
    let outcomes = other.block_on(in_time(async {
        let calls: Vec<_> = (0..4)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(
                    async move { client.database("admin").run_command(doc! { "ping": 1 }).timeout(Duration::from_millis(500)).await },
                )
            })
            .collect();
        let mut outcomes = Vec::new();
        for call in calls {
            outcomes.push(call.await.expect("no panic"));
        }
        outcomes
    }));
    // One has the connection, whose socket belongs to the runtime that stands still; the others wait for it.
    let mut stages = Vec::new();
    for outcome in outcomes {
        let error = outcome.expect_err("no reply is read");
        assert_eq!((error.kind(), error.limit().map(|limit| limit.name)), (ErrorKind::Timeout, Some("timeout")), "{error}");
        stages.push(error.stage());
    }
    stages.sort_by_key(|stage| *stage != Some(Stage::Read));
    assert_eq!(stages, [Some(Stage::Read), Some(Stage::Checkout), Some(Stage::Checkout), Some(Stage::Checkout)]);
    other.block_on(in_time(client.shutdown()));
}

/// Reads on until a condition holds, which comes before the next document.
async fn read_until(cursor: &mut Cursor, what: &str, holds: impl Fn() -> bool) {
    tokio::select! {
        biased;
        next = cursor.next() => panic!("there is no next document: {next:?}"),
        () = until(what, holds) => {}
    }
}

/// The pause of a tailable cursor does not depend on the runtime that it began on.
#[test]
fn tailable_cursor_is_used_on_one_runtime_after_another() {
    let servers = runtime();
    let sandbox = servers.block_on(async { Sandbox::builder().members(1).start().await.expect("sandbox") });
    let client = Client::new(sandbox.uri()).expect("client");
    let database = client.database("test");
    let mut cursor = servers.block_on(in_time(async {
        let documents = [doc! { "_id": 0 }];
        database.run_command(doc! { "insert": "things", "documents": documents.as_slice() }).await.expect("inserted");
        let mut cursor: Cursor = database.run_cursor_command(doc! { "find": "things", "tailable": true }).await.expect("a cursor");
        assert_eq!(cursor.next().await.expect("some").expect("a document"), doc! { "_id": 0 });
        cursor
    }));
    for asked in [3, 5, 7] {
        let current = Builder::new_current_thread().enable_all().build().expect("a runtime");
        current.block_on(in_time(read_until(&mut cursor, "asked", || sandbox.commands_seen("getMore")[0] >= asked)));
    }
    runtime().block_on(in_time(async {
        database.run_command(doc! { "insert": "things", "documents": [{ "_id": 1 }] }).await.expect("inserted");
        assert_eq!(cursor.next().await.expect("some").expect("a document"), doc! { "_id": 1 });
        cursor.close().await;
    }));
    servers.block_on(in_time(client.shutdown()));
}

/// Makes a server whose cursors have one document, and no answer for getMore.
async fn silent_about_more(asked: Arc<AtomicUsize>) -> Peer {
    scripted(move |heard| match heard.name.as_str() {
        "find" => Turn::Reply(doc! { "ok": 1, "cursor": { "id": 7_i64, "ns": "test.things", "firstBatch": [{ "_id": 0 }] } }),
        "getMore" => {
            asked.fetch_add(1, Ordering::SeqCst);
            Turn::Silence
        }
        _ if heard.is_hello() => Turn::Reply(standalone_hello()),
        _ => Turn::Reply(doc! { "ok": 1 }),
    })
    .await
}

/// A getMore keeps its limit on any runtime, and ends with the runtime of its socket.
#[test]
fn batch_under_way_is_waited_for_on_one_runtime_after_another() {
    let servers = runtime();
    for (limit, is_owner) in [("socketTimeoutMS", false), ("timeout", false), ("", true)] {
        let asked = Arc::<AtomicUsize>::default();
        let peer = servers.block_on(silent_about_more(Arc::clone(&asked)));
        let options = if limit == "socketTimeoutMS" { "socketTimeoutMS=700" } else { "" };
        let client = Client::new(format!("mongodb://{}/?{options}", peer.address())).expect("client");
        if !is_owner {
            servers.block_on(in_time(ping(&client))).expect("ping");
        }
        let first = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut cursor = first.block_on(in_time(async {
            let find = client.database("test").run_cursor_command(doc! { "find": "things" });
            let find = if limit == "timeout" { find.timeout(Duration::from_millis(700)) } else { find };
            let mut cursor: Cursor = find.await.expect("a cursor");
            assert!(cursor.next().await.expect("some").is_ok());
            read_until(&mut cursor, "asked for more", || asked.load(Ordering::SeqCst) == 1).await;
            cursor
        }));
        drop(first);
        let second = runtime();
        let error = second.block_on(in_time(cursor.next())).expect("not the end").expect_err("silent");
        if is_owner {
            assert_eq!(error.kind(), ErrorKind::Shutdown, "{error}");
            assert!(error.to_string().contains("the runtime of the client's tasks has ended"), "{error}");
        } else {
            assert_eq!(error.limit().map(|limit| limit.name), Some(limit), "{error}");
            assert_eq!(error.is_network(), limit == "socketTimeoutMS", "{error}");
        }
        assert!(second.block_on(in_time(cursor.next())).is_none(), "an error ends it");
        drop(cursor);
        (if is_owner { &second } else { &servers }).block_on(in_time(client.shutdown()));
    }
}

/// A standalone server, and a client of it with one connection, which a ping holds for a while.
async fn one_connection_held() -> (Sandbox, Client, tokio::task::JoinHandle<mongolink::Result<mongolink::bson::Document>>) {
    let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
    let client = Client::new(format!("mongodb://{}/?maxPoolSize=1", sandbox.addresses()[0])).expect("client");
    client.warm_up().await.expect("a connection");
    let slow = doc! {
        "configureFailPoint": "failCommand", "mode": { "times": 1 },
        "data": { "failCommands": ["ping"], "blockConnection": true, "blockTimeMS": 300 },
    };
    sandbox.fail_point(0, &slow).expect("a fail point");
    let held = tokio::spawn({
        let client = client.clone();
        async move { ping(&client).await }
    });
    until("the connection is held", || totals(&client).in_use == 1).await;
    (sandbox, client, held)
}

/// Without a limit the place in the queue is part of the call itself.
#[tokio::test]
async fn connection_delivered_to_a_cancelled_caller_goes_to_the_next() {
    in_time(async {
        let (_sandbox, client, held) = one_connection_held().await;
        let mut waiting = Box::pin(ping(&client));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(totals(&client).waiting, 1);
        held.await.expect("no panic").expect("answered late");
        // It belongs to the other caller, which has not been polled yet.
        assert_eq!((totals(&client).waiting, totals(&client).in_use), (0, 1));
        drop(waiting);
        ping(&client).await.expect("the connection is free again");
        assert_eq!((totals(&client).created, totals(&client).in_use), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn cancelled_caller_leaves_the_wait_queue() {
    in_time(async {
        let (_sandbox, client, held) = one_connection_held().await;
        let mut waiting = Box::pin(ping(&client));
        let mut next = Box::pin(ping(&client));
        assert!(futures_util::poll!(&mut waiting).is_pending() && futures_util::poll!(&mut next).is_pending());
        drop(waiting);
        assert_eq!(totals(&client).waiting, 1);
        next.await.expect("it has the connection next");
        held.await.expect("no panic").expect("answered late");
        assert_eq!((totals(&client).created, totals(&client).waiting), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn callers_in_the_queue_are_refused_when_the_client_ends() {
    in_time(async {
        let (_sandbox, client, held) = one_connection_held().await;
        let mut waiting = Box::pin(ping(&client));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        client.shutdown().await;
        let error = waiting.await.expect_err("the client has ended");
        assert!(matches!(error.kind(), ErrorKind::Shutdown | ErrorKind::PoolClosed), "{error}");
        drop(held.await.expect("no panic"));
    })
    .await;
}

/// What the application's selector takes counts against no limit of the queue or the socket.
#[tokio::test]
async fn slow_selector_does_not_eat_up_the_sockets_time() {
    in_time(async {
        let sandbox = Sandbox::builder().members(1).start().await.expect("sandbox");
        let is_slow = Arc::<AtomicBool>::default();
        let slow = Arc::clone(&is_slow);
        let selector = move |_: &TopologyDescription, _: &mut Vec<&Arc<ServerDescription>>| {
            if slow.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1500));
            }
        };
        let uri = format!("{}&socketTimeoutMS=1000&waitQueueTimeoutMS=1000", sandbox.uri());
        let client = Client::builder(uri).expect("uri").server_selector(selector).build().expect("client");
        client.warm_up().await.expect("a connection");
        is_slow.store(true, Ordering::SeqCst);
        ping(&client).await.expect("the server answers at once");
    })
    .await;
}

/// Cancelled callers don't end a start, which is shared by all callers.
#[tokio::test]
async fn impatient_callers_share_one_start() {
    in_time(async {
        let dns = silent_dns().await;
        let client = Client::builder("mongodb+srv://cluster.db.example/")
            .expect("uri")
            .dns(mongolink::DnsConfig::Servers(vec![dns.address()]))
            .dns_timeout(Duration::from_secs(2))
            .build()
            .expect("client");
        for _ in 0..5 {
            let error =
                client.database("admin").run_command(doc! { "ping": 1 }).timeout(Duration::from_millis(150)).await.expect_err("no answer");
            assert_eq!(error.kind(), ErrorKind::Timeout);
        }
        assert!(dns.heard() <= 2, "SRV and TXT once each, not {}", dns.heard());
        let error = ping(&client).await.expect_err("the look-up's own limit");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::Timeout, Some(mongolink::Stage::Srv)), "{error}");
        assert_eq!(error.limit().expect("limit").name, "dnsTimeoutMS");
    })
    .await;
}

/// Shutting down while a start is under way leaves nothing behind it.
#[tokio::test]
async fn shutdown_ends_a_start_under_way() {
    in_time(async {
        let dns = silent_dns().await;
        let client = Client::builder("mongodb+srv://cluster.db.example/")
            .expect("uri")
            .dns(mongolink::DnsConfig::Servers(vec![dns.address()]))
            .build()
            .expect("client");
        let call = tokio::spawn({
            let client = client.clone();
            async move { ping(&client).await }
        });
        until("the start has begun", || dns.heard() > 0).await;
        client.shutdown().await;
        let error = call.await.expect("no panic").expect_err("shut down");
        assert_eq!(error.kind(), ErrorKind::Shutdown, "{error}");
        assert!(error.to_string().contains("the client has been shut down"), "{error}");
        assert_eq!(ping(&client).await.expect_err("shut down").kind(), ErrorKind::Shutdown);
    })
    .await;
}

/// Shutting down interrupts the commands that wait for a reply, and ends the streams.
#[tokio::test]
async fn shutdown_interrupts_what_is_under_way() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let client = Client::builder(format!("mongodb://db.test:{}/", sandbox.addresses()[0].port()))
            .expect("uri")
            .resolver(Names::default())
            .build()
            .expect("client");
        let mut events = client.events();
        ping(&client).await.expect("ping");
        at_rest(&client).await;
        sandbox.freeze(0);
        let call = tokio::spawn({
            let client = client.clone();
            async move { ping(&client).await }
        });
        until("the command is under way", || client.pool_stats().iter().any(|(_, stats)| stats.in_use == 1)).await;
        let mut states = client.watch_topology().await.expect("watch");
        client.shutdown().await;
        let error = call.await.expect("no panic").expect_err("interrupted");
        assert_eq!(error.kind(), ErrorKind::Shutdown, "{error}");
        let mut last = None;
        while let Some(event) = events.next().await {
            last = Some(event);
        }
        assert!(matches!(last, Some(Event::Topology(TopologyEvent::TopologyClosed))), "{last:?}");
        assert!(events.next().await.is_none());
        while states.next().await.is_some() {}
        assert!(states.next().await.is_none());
    })
    .await;
}

/// A unix socket is a host like any other, and meets no resolver.
#[cfg(unix)]
#[tokio::test]
async fn unix_socket_carries_commands() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let target = sandbox.addresses()[0];
        let folder = std::env::temp_dir().join(format!("mongolink-{}-{}", std::process::id(), target.port()));
        std::fs::create_dir(&folder).expect("a folder");
        let path = folder.join("mongodb.sock");
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        let mut links = tokio::task::JoinSet::new();
        links.spawn(async move {
            let mut carried = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                carried.spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(target).await.expect("the sandbox");
                    drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                });
            }
        });
        let encoded = path.to_str().expect("UTF-8").replace('/', "%2F");
        let client = Client::builder(format!("mongodb://{encoded}/")).expect("uri").resolver(Names::default()).build().expect("client");
        ping(&client).await.expect("ping");
        assert_eq!(client.topology().servers()[0].host.canonical(), path.to_str().expect("UTF-8"));
        client.shutdown().await;
        std::fs::remove_dir_all(&folder).expect("ours");
    })
    .await;
}

/// The whole way on loopback: three names, TLS with an authority of one's own, a user, a step-down.
#[tokio::test]
async fn replica_set_over_tls_with_a_user() {
    in_time(async {
        let authority = Authority::new("an authority of the test");
        let sandbox = Sandbox::builder()
            .members(3)
            .hosts(["db.test", "db.test", "db.test"])
            .user("ann", "p@ss:w/rd")
            .tls(authority.server("db.test", 2100))
            .start()
            .await
            .expect("sandbox");
        let client = Client::builder(format!("{}&tlsCAFile={}", sandbox.uri(), authority.file().display()))
            .expect("uri")
            .resolver(Names::default())
            .build()
            .expect("client");
        let write = || doc! { "insert": "things", "documents": [{ "x": 1 }] };
        let first = client.database("test").run_command(write()).raw().await.expect("insert");
        sandbox.step_down().expect("another follows");
        until("the new primary is known", || client.topology().primary().is_some_and(|primary| &primary.host != first.host())).await;
        let second = client.database("test").run_command(write()).raw().await.expect("insert");
        assert_ne!(first.host(), second.host());
        let probe = client.probe(second.host()).await.expect("probe");
        let stages: Vec<String> = probe.stages.iter().map(|report| report.stage.to_string()).collect();
        assert_eq!(stages, ["dns", "tcp", "tls", "hello", "auth"]);
        client.shutdown().await;
    })
    .await;
}

/// A server that has left the set leaves no task behind, though threads that call nothing any more still know its pool.
#[test]
fn server_that_left_leaves_no_task() {
    let threads = Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime");
    threads.block_on(in_time(async {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let client = Client::new(sandbox.uri()).expect("client");
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { ping(&client).await })
            })
            .collect();
        for caller in callers {
            caller.await.expect("no panic").expect("ping");
        }
        until("all members are known", || client.topology().servers().iter().filter(|server| server.is_known()).count() == 3).await;
        at_rest(&client).await;
        until("no task that ends by itself", || client.task_count() == client.pool_stats().len() * 3 + 1).await;
        let tasks = client.task_count();
        let secondary = (0..3).find(|member| Some(*member) != sandbox.primary()).expect("three members");
        let renamed = format!("localhost:{}", sandbox.addresses()[secondary].port());
        sandbox.rename(secondary, renamed.clone()).expect("rename");
        until("the new name is known", || {
            client.topology().servers().iter().any(|server| server.host.to_string() == renamed && server.is_known())
        })
        .await;
        until("as many tasks as before", || client.task_count() == tasks).await;
        client.shutdown().await;
    }));
}
