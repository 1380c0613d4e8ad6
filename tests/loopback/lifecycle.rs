//! Callbacks that use the client; runtimes that end; graceful shutdown.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hickory_server::proto::rr::RecordType;
use mongolink::bson::{RawDocumentBuf, doc, rawdoc};
use mongolink::{
    Address, BootClock, Client, Cursor, Error, ErrorKind, Event, ReadPreference, Resolve, ResolveFuture, Sandbox, ServerAddress,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use crate::peers::silent;
use crate::support::{LONG, at_rest, in_time, ping, totals, until};
use crate::zone::{ServerMode, Zone};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Runs something on a thread of its own, so that a deadlock fails the test instead of hanging it.
fn without_deadlock(run: impl FnOnce() + Send + 'static) {
    let (tell, done) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        run();
        tell.send(()).expect("the test waits");
    });
    match done.recv_timeout(LONG) {
        Ok(()) => thread.join().expect("no panic"),
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("deadlock"),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().expect_err("it panicked")),
    }
}

thread_local! {
    /// Whether this thread is within a subscriber or callback already.
    static WITHIN: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Uses a client in every way that a subscriber or a callback might, unless that is what called it.
fn use_client(client: &OnceLock<Client>, uses: &AtomicUsize) {
    let Some(client) = client.get() else { return };
    // A call that finds no server has the servers checked, and checks call again: without an end that goes on for ever.
    if uses.fetch_add(1, Ordering::SeqCst) >= 500 || WITHIN.replace(true) {
        return;
    }
    drop((client.pool_stats(), client.topology(), client.events(), client.task_count()));
    drop(ping(client).now_or_never());
    WITHIN.set(false);
}

/// A subscriber that uses the client with every line.
struct Meddler {
    client: Arc<OnceLock<Client>>,
    lines: Arc<AtomicUsize>,
    uses: AtomicUsize,
}

impl Subscriber for Meddler {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_ours = metadata.target().starts_with("mongolink");
        if is_ours {
            use_client(&self.client, &self.uses);
        }
        is_ours
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.lines.fetch_add(1, Ordering::SeqCst);
        use_client(&self.client, &self.uses);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn subscriber_may_use_the_client_with_every_line() {
    without_deadlock(|| {
        let known = Arc::<OnceLock<Client>>::default();
        let lines = Arc::<AtomicUsize>::default();
        let meddler = Meddler { client: Arc::clone(&known), lines: Arc::clone(&lines), uses: AtomicUsize::new(0) };
        let _guard = tracing::subscriber::set_default(meddler);
        let current = Builder::new_current_thread().enable_all().build().expect("a runtime");
        current.block_on(in_time(async {
            let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
            let client = Client::new(format!("{}&maxPoolSize=2", sandbox.uri())).expect("client");
            known.set(client.clone()).expect("once");
            for _ in 0..3 {
                drop(futures_util::future::join_all((0..8).map(|_| ping(&client))).await);
                until("there is a primary", || sandbox.primary().is_some()).await;
                sandbox.step_down().expect("another follows");
            }
            until("the servers are known again", || client.topology().primary().is_some()).await;
            client.shutdown().await;
        }));
        assert!(lines.load(Ordering::SeqCst) > 200, "{lines:?}");
    });
}

#[test]
fn server_selector_may_use_the_client() {
    without_deadlock(|| {
        let known = Arc::<OnceLock<Client>>::default();
        let (inner, nobody) = (Arc::clone(&known), Arc::new(AtomicBool::new(true)));
        let (refuses, uses) = (Arc::clone(&nobody), AtomicUsize::new(0));
        let current = Builder::new_current_thread().enable_all().build().expect("a runtime");
        current.block_on(in_time(async {
            let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
            let client = Client::builder(format!("{}&heartbeatFrequencyMS=500", sandbox.uri()))
                .expect("uri")
                .server_selector(move |_, servers| {
                    use_client(&inner, &uses);
                    if refuses.load(Ordering::SeqCst) {
                        servers.clear();
                    }
                })
                .build()
                .expect("client");
            known.set(client.clone()).expect("once");
            let error = client
                .database("admin")
                .run_command(doc! { "ping": 1 })
                .timeout(Duration::from_millis(700))
                .await
                .expect_err("the selector keeps no server");
            assert_eq!(error.kind(), ErrorKind::ServerSelection, "{error}");
            assert!(error.to_string().contains("was excluded by the selector"), "{error}");
            // Callers that wait ask it again with the next description.
            let waiting = tokio::spawn({
                let client = client.clone();
                async move { ping(&client).await }
            });
            tokio::time::sleep(Duration::from_millis(100)).await;
            nobody.store(false, Ordering::SeqCst);
            waiting.await.expect("no panic").expect("the selector keeps all");
            client.shutdown().await;
        }));
    });
}

/// A boot clock that uses the client, and panics on request.
#[derive(Default)]
struct Clock {
    client: OnceLock<Client>,
    uses: AtomicUsize,
    panics: AtomicBool,
}

struct SharedClock(Arc<Clock>);

impl BootClock for SharedClock {
    fn now(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        use_client(&self.0.client, &self.0.uses);
        assert!(!self.0.panics.swap(false, Ordering::SeqCst), "a clock that panics");
        START.get_or_init(Instant::now).elapsed()
    }
}

#[test]
fn boot_clock_may_use_the_client() {
    without_deadlock(|| {
        let clock = Arc::<Clock>::default();
        runtime().block_on(in_time(async {
            let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
            let builder = Client::builder(sandbox.uri()).expect("uri").boot_clock(SharedClock(Arc::clone(&clock)));
            let client = builder.build().expect("client");
            assert!(clock.client.set(client.clone()).is_ok());
            for _ in 0..20 {
                ping(&client).await.expect("ping");
            }
            client.shutdown().await;
        }));
    });
}

/// The monitors' tasks ask the boot clock: one that panics ends them, and the next call starts everything again.
#[tokio::test]
async fn client_whose_background_task_panics_starts_again() {
    in_time(async {
        let sandbox = Sandbox::builder().members(1).start().await.expect("sandbox");
        let clock = Arc::<Clock>::default();
        let client = Client::builder(format!("{}&heartbeatFrequencyMS=500&maxPoolSize=1", sandbox.uri()))
            .expect("uri")
            .boot_clock(SharedClock(Arc::clone(&clock)))
            .build()
            .expect("client");
        fill(&client, 10).await;
        let cursor = find(&client).await;
        at_rest(&client).await;
        clock.panics.store(true, Ordering::SeqCst);
        until("a monitor has asked the clock", || !clock.panics.load(Ordering::SeqCst)).await;
        until("all tasks have ended", || client.task_count() == 0).await;
        let pools: Vec<(bool, usize)> = client.pool_stats().iter().map(|(_, stats)| (stats.ready, stats.total())).collect();
        assert_eq!(pools, [(false, 0)], "the pool ended with the tasks");
        ping(&client).await.expect("started again");
        assert!(client.task_count() > 0);
        drop(cursor);
        client.shutdown().await;
    })
    .await;
}

/// A resolver that panics for the first time it is asked.
#[derive(Default)]
struct Clumsy(AtomicBool);

impl Resolve for Clumsy {
    fn resolve(&self, _name: &str) -> ResolveFuture<'_> {
        assert!(self.0.swap(true, Ordering::SeqCst), "a resolver that panics");
        Box::pin(std::future::ready(Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()])))
    }
}

#[tokio::test]
async fn resolver_that_panics_costs_one_look_up() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let uri = format!("mongodb://db.test:{}/?heartbeatFrequencyMS=500", sandbox.addresses()[0].port());
        let client = Client::builder(uri).expect("uri").resolver(Clumsy::default()).build().expect("client");
        let mut events = client.events();
        ping(&client).await.expect("the second check asks again");
        let failed = loop {
            if let Event::Heartbeat { event: mongolink::MonitorEvent::HeartbeatFailed { error, .. }, .. } =
                events.next().await.expect("open")
            {
                break error;
            }
        };
        assert_eq!(failed.kind(), ErrorKind::DnsFailed);
        assert!(failed.to_string().contains("own resolver: it has panicked"), "{failed}");
        client.shutdown().await;
    })
    .await;
}

async fn fill(client: &Client, count: i32) {
    let documents: Vec<RawDocumentBuf> = (0..count).map(|id| rawdoc! { "_id": id }).collect();
    client.database("test").run_command(doc! { "insert": "things" }).documents("documents", documents).await.expect("insert");
}

async fn find(client: &Client) -> Cursor {
    client.database("test").run_cursor_command(doc! { "find": "things", "batchSize": 2 }).batch_size(2).await.expect("a cursor")
}

/// Starts callers that wait for a connection on a runtime.
fn crowd(client: &Client, callers: usize, on: &Runtime) -> JoinSet<mongolink::Result<mongolink::bson::Document>> {
    let mut crowd = JoinSet::new();
    for _ in 0..callers {
        let client = client.clone();
        crowd.spawn_on(async move { ping(&client).await }, on.handle());
    }
    crowd
}

/// All waiters of a pool whose runtime has ended are refused, without recursion.
fn assert_all_waiters_are_refused(uri: &str, servers: &Runtime, cursor_holds: bool) {
    const CALLERS: usize = 50_000;
    let client = Client::new(uri).expect("client");
    let (owner, other) = (runtime(), runtime());
    owner.block_on(in_time(fill(&client, 10)));
    let cursor = cursor_holds.then(|| owner.block_on(in_time(find(&client))));
    let held = (!cursor_holds).then(|| {
        let client = client.clone();
        owner.spawn(async move { ping(&client).await })
    });
    servers.block_on(until("the connection is in use", || totals(&client).in_use == 1));
    let mut crowd = crowd(&client, CALLERS, &other);
    servers.block_on(until("all wait", || totals(&client).waiting == CALLERS));
    owner.shutdown_background();
    other.block_on(in_time(async {
        while let Some(refused) = crowd.join_next().await {
            let error = refused.expect("no panic").expect_err("the runtime of the client's tasks has ended");
            assert_eq!(error.kind(), ErrorKind::Shutdown, "{error}");
            assert!(error.to_string().contains("the runtime of the client's tasks has ended"), "{error}");
        }
    }));
    assert_eq!(totals(&client).waiting, 0);
    drop(cursor);
    drop(held);
    other.block_on(in_time(async {
        ping(&client).await.expect("started again where the call was made");
        client.shutdown().await;
    }));
}

#[test]
fn fifty_thousand_callers_behind_a_load_balancer_outlive_the_tasks_runtime() {
    let servers = runtime();
    let sandbox = servers.block_on(async { Sandbox::builder().load_balancer(1).start().await.expect("sandbox") });
    assert_all_waiters_are_refused(&format!("{}&maxPoolSize=1", sandbox.uri()), &servers, true);
}

#[test]
fn fifty_thousand_callers_of_a_replica_set_outlive_the_tasks_runtime() {
    let servers = runtime();
    let sandbox = servers.block_on(async { Sandbox::builder().members(1).start().await.expect("sandbox") });
    let slow = doc! {
        "configureFailPoint": "failCommand", "mode": { "times": 1 },
        "data": { "failCommands": ["ping"], "blockConnection": true, "blockTimeMS": 20_000 },
    };
    sandbox.fail_point(0, &slow).expect("a fail point");
    assert_all_waiters_are_refused(&format!("{}&maxPoolSize=1", sandbox.uri()), &servers, false);
}

/// Many callers that are cancelled at once, each of which may have just got the connection.
#[test]
fn connection_passes_through_callers_that_go_away() {
    let servers = runtime();
    let sandbox = servers.block_on(async { Sandbox::builder().standalone().start().await.expect("sandbox") });
    let client = Client::new(format!("mongodb://{}/?maxPoolSize=1", sandbox.addresses()[0])).expect("client");
    let (owner, other) = (runtime(), runtime());
    owner.block_on(in_time(ping(&client))).expect("ping");
    for _ in 0..3 {
        let crowd = crowd(&client, 5_000, &other);
        drop(crowd);
    }
    other.shutdown_background();
    owner.block_on(in_time(async {
        ping(&client).await.expect("the connection is free");
        at_rest(&client).await;
        client.shutdown().await;
    }));
}

/// Threads read the clock before they have the pool's lock; the rules must not see time go back (they check it in debug builds).
#[test]
fn time_never_goes_back_for_the_pool() {
    let threads = Builder::new_multi_thread().worker_threads(8).enable_all().build().expect("a runtime");
    threads.block_on(in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let client = Client::new(format!("mongodb://{}/?maxPoolSize=4", sandbox.addresses()[0])).expect("client");
        let mut callers = JoinSet::new();
        for _ in 0..64 {
            let client = client.clone();
            callers.spawn(async move {
                for _ in 0..100 {
                    ping(&client).await.expect("ping");
                }
            });
        }
        while let Some(caller) = callers.join_next().await {
            caller.expect("no panic");
        }
        client.shutdown().await;
    }));
}

#[test]
fn shutdown_after_the_runtime_has_ended_starts_nothing() {
    let servers = runtime();
    let sandbox = servers.block_on(async { Sandbox::builder().standalone().start().await.expect("sandbox") });
    let client = Client::new(format!("mongodb://{}/", sandbox.addresses()[0])).expect("client");
    let mut events = client.events();
    let first = runtime();
    first.block_on(in_time(ping(&client))).expect("ping");
    drop(first);
    let before: u64 = sandbox.commands_seen("hello").iter().chain(&sandbox.commands_seen("isMaster")).sum();
    let second = runtime();
    second.block_on(in_time(client.shutdown()));
    assert_eq!(client.task_count(), 0);
    let after: u64 = sandbox.commands_seen("hello").iter().chain(&sandbox.commands_seen("isMaster")).sum();
    assert_eq!(before, after, "no server was greeted again");
    second.block_on(in_time(async { while events.next().await.is_some() {} }));
    assert_eq!(second.block_on(in_time(ping(&client))).expect_err("ended").kind(), ErrorKind::Shutdown);
}

#[tokio::test]
async fn events_end_with_a_client_whatever_became_of_it() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let client = Client::new(format!("mongodb://{}/", sandbox.addresses()[0])).expect("client");
        ping(&client).await.expect("ping");
        client.shutdown().await;
        assert!(client.events().next().await.is_none(), "after the end");
        // One that was never used, and one that is dropped.
        let unused = Client::new("mongodb://127.0.0.1:1/").expect("client");
        let mut events = unused.events();
        unused.shutdown().await;
        assert!(events.next().await.is_none() && unused.events().next().await.is_none());
        let dropped = Client::new(format!("mongodb://{}/", sandbox.addresses()[0])).expect("client");
        let mut events = dropped.events();
        ping(&dropped).await.expect("ping");
        drop(dropped);
        while events.next().await.is_some() {}
    })
    .await;
}

/// A standalone server on which pings take a while, and a client of it.
async fn slow_pings(block_ms: i32) -> (Sandbox, Client) {
    let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
    let client = Client::new(format!("mongodb://{}/", sandbox.addresses()[0])).expect("client");
    ping(&client).await.expect("ping");
    let slow = doc! {
        "configureFailPoint": "failCommand", "mode": { "times": 1 },
        "data": { "failCommands": ["ping"], "blockConnection": true, "blockTimeMS": block_ms },
    };
    sandbox.fail_point(0, &slow).expect("a fail point");
    (sandbox, client)
}

#[tokio::test]
async fn graceful_shutdown_lets_calls_under_way_end_and_refuses_new_ones() {
    in_time(async {
        let (sandbox, client) = slow_pings(400).await;
        fill(&client, 10).await;
        let mut cursor = find(&client).await;
        let slow = tokio::spawn({
            let client = client.clone();
            async move { ping(&client).await }
        });
        until("the call is under way", || totals(&client).in_use == 1).await;
        let ending = tokio::spawn({
            let client = client.clone();
            async move { client.shutdown_within(LONG).await }
        });
        let refused = loop {
            if let Err(error) = client.database("test").run_command(doc! { "count": "things" }).await {
                break error;
            }
        };
        assert_eq!(refused.kind(), ErrorKind::Shutdown);
        assert!(refused.to_string().contains("is shutting down, and takes no new calls"), "{refused}");
        let mut read = 0;
        while let Some(document) = cursor.next().await {
            document.expect("open cursors may be read on");
            read += 1;
        }
        assert_eq!(read, 10);
        assert!(!ending.is_finished(), "the call is still under way");
        slow.await.expect("no panic").expect("it had the time that it needed");
        ending.await.expect("no panic");
        assert_eq!(sandbox.commands_seen("endSessions").iter().sum::<u64>(), 1);
        assert_eq!(client.task_count(), 0);
    })
    .await;
}

#[tokio::test]
async fn graceful_shutdown_ends_when_its_grace_is_over() {
    in_time(async {
        let (_sandbox, client) = slow_pings(20_000).await;
        let slow = tokio::spawn({
            let client = client.clone();
            async move { ping(&client).await }
        });
        until("the call is under way", || totals(&client).in_use == 1).await;
        client.shutdown_within(Duration::from_millis(200)).await;
        let error = slow.await.expect("no panic").expect_err("interrupted");
        assert_eq!(error.kind(), ErrorKind::Shutdown, "{error}");
    })
    .await;
}

/// Calls that wait for a server are under way, too.
#[tokio::test]
async fn graceful_shutdown_waits_for_calls_that_wait_for_a_server() {
    in_time(async {
        let peer = silent().await;
        let uri = format!("mongodb://{}/?serverSelectionTimeoutMS=300&connectTimeoutMS=60000", peer.address());
        let client = Client::new(uri).expect("client");
        let call = tokio::spawn({
            let client = client.clone();
            async move { ping(&client).await }
        });
        until("the client runs", || client.task_count() > 0).await;
        until("the call waits", || peer.accepted() > 0).await;
        client.shutdown_within(LONG).await;
        assert_eq!(call.await.expect("no panic").expect_err("no server").kind(), ErrorKind::ServerSelection);
    })
    .await;
}

/// Calls that wait for the client's start are under way, too; those that come later are refused.
#[tokio::test]
async fn graceful_shutdown_waits_for_calls_that_wait_for_the_start() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let zone = Zone::start().await;
        let address = sandbox.addresses()[0];
        zone.serve("_mongodb._tcp.cluster.db.example", 60, &[("a.db.example", address.port())]).await;
        zone.set_mode(ServerMode::Silent);
        let client = Client::builder("mongodb+srv://cluster.db.example/?tls=false")
            .expect("uri")
            .dns(zone.dns())
            .resolve(ServerAddress::new("a.db.example", address.port()).expect("a host"), Address::Ip(address))
            .build()
            .expect("client");
        let call = tokio::spawn({
            let client = client.clone();
            async move { ping(&client).await }
        });
        until("the start is under way", || zone.asked(RecordType::SRV) > 0).await;
        let ending = tokio::spawn({
            let client = client.clone();
            async move { client.shutdown_within(LONG).await }
        });
        tokio::task::yield_now().await;
        let refused = ping(&client).await.expect_err("a new call");
        assert!(refused.to_string().contains("is shutting down, and takes no new calls"), "{refused}");
        assert!(!ending.is_finished());
        zone.set_mode(ServerMode::Answering);
        call.await.expect("no panic").expect("it had the time that it needed");
        ending.await.expect("no panic");
        let refused = ping(&client).await.expect_err("after the end");
        assert!(refused.to_string().contains("the client has been shut down"), "{refused}");
    })
    .await;
}

/// A call is under way between the choice of its server and the check-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graceful_shutdown_waits_for_a_call_that_chooses_its_server() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let (chooses, goes_on, holds) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (told, may_go, held) = (Arc::clone(&chooses), Arc::clone(&goes_on), Arc::clone(&holds));
        let client = Client::builder(format!("mongodb://{}/", sandbox.addresses()[0]))
            .expect("uri")
            .server_selector(move |_, _| {
                if held.swap(false, Ordering::SeqCst) {
                    told.store(true, Ordering::SeqCst);
                    let began = Instant::now();
                    while !may_go.load(Ordering::SeqCst) && began.elapsed() < LONG {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            })
            .build()
            .expect("client");
        ping(&client).await.expect("ping");
        at_rest(&client).await;
        holds.store(true, Ordering::SeqCst);
        let call = tokio::spawn({
            let client = client.clone();
            async move { ping(&client).await }
        });
        until("the call chooses", || chooses.load(Ordering::SeqCst)).await;
        assert_eq!(totals(&client).in_use, 0);
        let mut ending = std::pin::pin!(client.shutdown_within(LONG));
        // Without the call there would be nothing to wait for but the end of the session.
        let ended = tokio::time::timeout(Duration::from_millis(300), &mut ending).await;
        goes_on.store(true, Ordering::SeqCst);
        assert!(ended.is_err(), "a call is under way");
        call.await.expect("no panic").expect("it had the time that it needed");
        ending.await;
    })
    .await;
}

/// A watcher that is never read holds a description, and no sockets.
#[tokio::test]
async fn watchers_that_are_never_read_keep_no_connection() {
    in_time(async {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let client = Client::new(sandbox.uri()).expect("client");
        let (watch, events) = (client.watch_topology().await.expect("watch"), client.events());
        ping(&client).await.expect("ping");
        let nearest = client.database("admin").run_command(doc! { "ping": 1 }).read_preference(ReadPreference::nearest());
        nearest.await.expect("ping");
        drop(client);
        until("all connections are closed", || (0..3).all(|member| sandbox.connections(member) == 0)).await;
        drop((watch, events));
    })
    .await;
}

/// Calls that time out on a full pool delay no other call: their late replies make room.
#[tokio::test]
async fn late_replies_make_room_for_waiting_callers() {
    in_time(async {
        let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
        let client = Client::new(format!("mongodb://{}/?maxPoolSize=4", sandbox.addresses()[0])).expect("client");
        ping(&client).await.expect("ping");
        let slow = doc! {
            "configureFailPoint": "failCommand", "mode": { "times": 4 },
            "data": { "failCommands": ["ping"], "blockConnection": true, "blockTimeMS": 9_000 },
        };
        sandbox.fail_point(0, &slow).expect("a fail point");
        let impatient = || client.database("admin").run_command(doc! { "ping": 1 }).timeout(Duration::from_millis(300)).into_future();
        let outcomes = futures_util::future::join_all((0..4).map(|_| impatient())).await;
        assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(Error::is_timeout)), "{outcomes:?}");
        until("all drain", || totals(&client).draining == 4).await;
        let began = Instant::now();
        ping(&client).await.expect("a connection is opened in the place of one that drains");
        assert!(began.elapsed() < Duration::from_secs(8), "the late replies take longer");
        assert_eq!(totals(&client).draining, 3, "one caller, one place");
        client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn graceful_shutdown_may_have_all_the_time_there_is() {
    in_time(async {
        let (_sandbox, client) = slow_pings(0).await;
        client.shutdown_within(Duration::MAX).await;
        assert_eq!(client.task_count(), 0);
    })
    .await;
}

/// The waker of a task that uses the client when it is woken.
struct Curious(Client);

impl std::task::Wake for Curious {
    fn wake(self: Arc<Self>) {
        drop((self.0.pool_stats(), self.0.topology()));
    }
}

#[test]
fn waker_may_use_the_client_while_its_own_call_is_given_up() {
    without_deadlock(|| {
        runtime().block_on(async {
            let sandbox = Sandbox::builder().standalone().start().await.expect("sandbox");
            let client = Client::new(format!("mongodb://{}/?maxPoolSize=1", sandbox.addresses()[0])).expect("client");
            ping(&client).await.expect("ping");
            let slow = doc! {
                "configureFailPoint": "failCommand", "mode": { "times": 1 },
                "data": { "failCommands": ["ping"], "blockConnection": true, "blockTimeMS": 20_000 },
            };
            sandbox.fail_point(0, &slow).expect("a fail point");
            let holder = tokio::spawn({
                let client = client.clone();
                async move { ping(&client).await }
            });
            until("the connection is in use", || totals(&client).in_use == 1).await;
            let waker = std::task::Waker::from(Arc::new(Curious(client.clone())));
            let mut context = std::task::Context::from_waker(&waker);
            // One waits for a connection, one for a server.
            let unknown = Client::new("mongodb://127.0.0.1:1/").expect("client");
            let waker_of_unknown = std::task::Waker::from(Arc::new(Curious(unknown.clone())));
            let mut context_of_unknown = std::task::Context::from_waker(&waker_of_unknown);
            let mut waiting = Box::pin(ping(&client));
            let mut selecting = Box::pin(ping(&unknown));
            assert!(waiting.as_mut().poll(&mut context).is_pending());
            assert!(selecting.as_mut().poll(&mut context_of_unknown).is_pending());
            until("the first waits", || totals(&client).waiting == 1).await;
            until("the server is looked for", || !unknown.topology().servers().is_empty()).await;
            assert!(selecting.as_mut().poll(&mut context_of_unknown).is_pending());
            drop((waiting, selecting));
            holder.abort();
        });
    });
}
