//! Which commands are safe to repeat, and which sessions and cursors are left on servers.

use std::time::{Duration, Instant};

use mongolink::bson::{Document, RawDocumentBuf, doc, rawdoc};
use mongolink::{Client, ErrorKind, Sandbox, ServerAddress, Stage, TryNext};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peers::{self, Peer, Turn};
use crate::support::{LONG, at_rest, in_time, totals, until};

/// How long finds take in these tests.
const SLOW: Duration = Duration::from_millis(20);

async fn one_member() -> (Sandbox, Client) {
    one_member_with("").await
}

async fn one_member_with(options: &str) -> (Sandbox, Client) {
    let sandbox = Sandbox::builder().members(1).start().await.expect("sandbox");
    let client = Client::new(format!("{}&{options}", sandbox.uri())).expect("client");
    let documents: Vec<RawDocumentBuf> = (0..7).map(|id| rawdoc! { "_id": id }).collect();
    let insert = client.database("test").run_command(doc! { "insert": "things" }).documents("documents", documents);
    insert.await.expect("inserted");
    (sandbox, client)
}

fn block(commands: &[&str], span: Duration) -> Document {
    let millis = i32::try_from(span.as_millis()).expect("short");
    let data = doc! { "failCommands": commands, "blockConnection": true, "blockTimeMS": millis };
    doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data }
}

fn find() -> Document {
    doc! { "find": "things", "batchSize": 2 }
}

/// Waits until no call has a connection; late replies may be outstanding.
async fn at_rest_but_draining(client: &Client) {
    until("no call has a connection", || totals(client).in_use == 0).await;
}

#[tokio::test]
async fn finds_that_time_out_leave_as_many_sessions_as_connections() {
    in_time(async {
        let (sandbox, client) = one_member_with("maxPoolSize=5").await;
        sandbox.fail_point(0, &block(&["find"], SLOW)).expect("armed");
        let mut late = 0;
        for _ in 0..1000 {
            let find = client.database("test").run_command(find()).timeout(Duration::from_millis(1));
            late += usize::from(find.await.is_err_and(|error| error.is_timeout()));
        }
        assert!(late > 900, "{late}");
        let sent = sandbox.commands_seen("find")[0];
        assert!(sent > 20 && sandbox.sessions() <= 6, "{} sessions after {sent} finds", sandbox.sessions());
        at_rest(&client).await;
        assert_eq!(sandbox.cursors(0), 0);
        client.shutdown().await;
        assert_eq!(sandbox.sessions(), 0);
    })
    .await;
}

#[tokio::test]
async fn sessions_whose_late_reply_is_awaited_are_ended_at_shutdown() {
    in_time(async {
        let (sandbox, client) = one_member().await;
        sandbox.fail_point(0, &block(&["find"], LONG)).expect("armed");
        for _ in 0..3 {
            let find = client.database("test").run_command(find()).timeout(Duration::from_millis(20));
            assert!(find.await.expect_err("late").is_timeout());
        }
        assert_eq!((totals(&client).draining, sandbox.sessions()), (3, 3));
        client.shutdown().await;
        assert_eq!(sandbox.sessions(), 0);
    })
    .await;
}

#[tokio::test]
async fn sessions_of_connections_that_were_closed_are_ended_in_batches() {
    in_time(async {
        let (sandbox, client) = one_member_with("socketTimeoutMS=5").await;
        sandbox.fail_point(0, &block(&["find"], LONG)).expect("armed");
        for _ in 0..250 {
            let error = client.database("test").run_command(find()).await.expect_err("late");
            assert!(error.is_timeout(), "{error}");
        }
        // Two batches are ended in the background, and 50 sessions are still to come.
        until("two batches are ended", || sandbox.sessions() <= 51).await;
        assert_eq!(sandbox.commands_seen("endSessions")[0], 2);
        client.shutdown().await;
        assert_eq!(sandbox.sessions(), 0);
    })
    .await;
}

/// A cursor that is not closed leaves no session and no cursor on the server.
#[tokio::test]
async fn shutdown_leaves_nothing_of_open_cursors_and_of_those_just_dropped() {
    in_time(async {
        for is_dropped in [false, true] {
            let (sandbox, client) = one_member().await;
            let cursor = client.database("test").run_cursor_command(find()).await.expect("a cursor");
            assert_eq!((sandbox.cursors(0), sandbox.sessions()), (1, 1));
            let kept = Some(cursor).filter(|_| !is_dropped);
            client.shutdown().await;
            assert_eq!((sandbox.cursors(0), sandbox.sessions()), (0, 0), "dropped: {is_dropped}");
            assert_eq!(sandbox.commands_seen("killCursors")[0], u64::from(is_dropped));
            drop(kept);
        }
    })
    .await;
}

#[tokio::test]
async fn session_of_a_call_that_shutdown_interrupts_is_ended() {
    in_time(async {
        let (sandbox, client) = one_member().await;
        sandbox.fail_point(0, &block(&["find"], LONG)).expect("armed");
        let call = tokio::spawn(client.database("test").run_command(find()).into_future());
        until("the call is under way", || sandbox.commands_seen("find")[0] == 1).await;
        assert_eq!(sandbox.sessions(), 1);
        client.shutdown().await;
        assert_eq!(call.await.expect("no panic").expect_err("interrupted").kind(), ErrorKind::Shutdown);
        assert_eq!(sandbox.sessions(), 0);
    })
    .await;
}

#[tokio::test]
async fn lost_sessions_are_ended_later() {
    in_time(async {
        let (sandbox, client) = one_member_with("socketTimeoutMS=5").await;
        sandbox.fail_point(0, &block(&["find", "endSessions"], LONG)).expect("armed");
        let lose = async || client.database("test").run_command(find()).await.expect_err("late");
        for _ in 0..100 {
            lose().await;
        }
        until("a batch is on its way", || sandbox.commands_seen("endSessions")[0] == 1).await;
        // It is given up, and stays without effect.
        at_rest_but_draining(&client).await;
        assert!(sandbox.sessions() >= 100, "{}", sandbox.sessions());
        sandbox.fail_point(0, &block(&["find"], LONG)).expect("armed");
        lose().await;
        until("all are ended", || sandbox.sessions() <= 1).await;
        client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn cursor_of_a_find_that_was_given_up_is_killed_on_its_connection() {
    in_time(async {
        let sandbox = Sandbox::builder().load_balancer(2).start().await.expect("sandbox");
        let client = Client::new(sandbox.uri()).expect("client");
        let documents: Vec<RawDocumentBuf> = (0..7).map(|id| rawdoc! { "_id": id }).collect();
        client.database("test").run_command(doc! { "insert": "things" }).documents("documents", documents).await.expect("inserted");
        for service in 0..2 {
            sandbox.fail_point(service, &block(&["find"], SLOW)).expect("armed");
        }
        for calls in 1..=4 {
            let find = client.database("test").run_cursor_command(find()).timeout(Duration::from_millis(5));
            assert!(find.await.expect_err("late").is_timeout());
            at_rest(&client).await;
            assert_eq!(sandbox.commands_seen("killCursors").iter().sum::<u64>(), calls);
            assert_eq!((sandbox.cursors(0), sandbox.cursors(1), sandbox.sessions()), (0, 0, 1));
        }
        client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn update_that_a_frozen_primary_has_received_is_not_safe_to_repeat() {
    in_time(async {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let client = Client::new(sandbox.uri()).expect("client");
        client.warm_up().await.expect("warm");
        until("all members are known", || client.topology().servers().iter().all(|server| server.is_known())).await;
        let frozen = sandbox.primary().expect("primary");
        sandbox.freeze(frozen);
        let update = doc! { "update": "things", "updates": [{ "q": { "_id": 1 }, "u": { "$inc": { "n": 1 } } }] };
        let database = client.database("test");
        let call = tokio::spawn(database.run_command(update).into_future());
        until("it is in flight", || totals(&client).in_use == 1).await;
        sandbox.elect((frozen + 1) % 3).expect("a majority runs");
        let error = call.await.expect("no panic").expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert!(error.may_have_executed() && !error.is_retryable() && !error.has_label("RetryableError"), "{error:?}");
        client.shutdown().await;
    })
    .await;
}

/// A standalone server that answers hellos, reads the beginning of any other command, and closes.
async fn closing_within_a_command() -> Peer {
    Peer::start(|mut tcp: TcpStream| async move {
        let me = tcp.local_addr().expect("connected");
        let mut decoder = mongolink::wire::Decoder::new(mongolink::wire::MESSAGE_SIZE_MAX);
        loop {
            let mut beginning = [0; 64];
            let Ok(count) = tcp.peek(&mut beginning).await else { return };
            if count == 0 || !beginning.windows(5).any(|bytes| bytes == b"hello" || bytes == b"isMas") {
                drop(tcp.read_exact(&mut [0; 16]).await);
                return;
            }
            let Some(hello) = peers::hear(&mut tcp, &mut decoder, me).await else { return };
            if tcp.write_all(&peers::message(hello.request_id, &peers::standalone_hello())).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn write_that_was_cut_off_on_a_broken_connection_is_safe_to_repeat() {
    in_time(async {
        let peer = closing_within_a_command().await;
        let client = Client::new(format!("mongodb://{}/", peer.host())).expect("client");
        client.warm_up().await.expect("warm");
        // More than the sockets' buffers take.
        let documents = vec![rawdoc! { "text": "x".repeat(4 * 1024 * 1024) }; 8];
        let insert = client.database("test").run_command(doc! { "insert": "things" }).documents("documents", documents);
        let error = insert.await.expect_err("closed");
        assert_eq!(error.stage(), Some(Stage::Write), "{error}");
        assert!(error.is_network() && !error.may_have_executed() && error.is_retryable(), "{error:?}");
        assert!(!error.has_label("RetryableError"), "a part was sent: {error:?}");
        // One that was sent as a whole may have been executed.
        let insert = client.database("test").run_command(doc! { "insert": "things", "documents": [{ "_id": 1 }] });
        let error = insert.await.expect_err("closed");
        assert!(error.is_network() && error.may_have_executed() && !error.is_retryable(), "{error:?}");
        client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn errors_before_sending_and_after_a_reply_say_whether_the_command_was_executed() {
    in_time(async {
        let peer = peers::scripted(|heard| match heard.name.as_str() {
            "insert" => Turn::Reply(doc! { "ok": 0, "code": 11000, "errmsg": "E11000 duplicate key" }),
            "update" => Turn::Reply(doc! { "ok": 0, "code": 50, "errmsg": "operation exceeded time limit" }),
            "count" => Turn::Reply(doc! { "ok": 1, "n": "many" }),
            _ => Turn::Reply(peers::standalone_hello()),
        })
        .await;
        let client = Client::new(format!("mongodb://{}/?serverSelectionTimeoutMS=500", peer.host())).expect("client");
        let database = client.database("test");
        let insert = database.run_command(doc! { "insert": "things", "documents": [{ "_id": 1 }] }).await.expect_err("duplicate");
        assert!(!insert.may_have_executed() && insert.is_retryable() && !insert.is_timeout(), "{insert:?}");
        let update = database.run_command(doc! { "update": "things", "updates": [{ "q": {}, "u": {} }] }).await.expect_err("late");
        assert!(update.may_have_executed() && !update.is_retryable() && update.is_timeout(), "{update:?}");
        #[derive(Debug, serde::Deserialize)]
        struct Count {
            #[serde(rename = "n")]
            _n: i64,
        }
        let count = database.run_command(doc! { "count": "things" }).typed::<Count>().await.expect_err("no number");
        assert!(count.kind() == ErrorKind::Bson && count.may_have_executed() && count.is_retryable(), "{count:?}");
        let unnamed = client.database("a.b").run_command(doc! { "drop": "things" }).await.expect_err("no name");
        assert!(!unnamed.may_have_executed() && unnamed.is_retryable(), "{unnamed:?}");
        client.shutdown().await;
        let ended = database.run_command(doc! { "drop": "things" }).await.expect_err("ended");
        assert!(!ended.may_have_executed() && ended.is_retryable(), "{ended:?}");
    })
    .await;
}

#[tokio::test]
async fn getmore_that_is_refused_for_its_session_names_the_way() {
    in_time(async {
        let (_sandbox, client) = one_member().await;
        let database = client.database("test");
        let reply = database.run_command(find()).await.expect("a cursor");
        let id = reply.get_document("cursor").and_then(|cursor| cursor.get_i64("id")).expect("an id");
        // Takes the session that the cursor belongs to.
        let other = database.run_cursor_command(find()).await.expect("a cursor");
        let error = database.run_command(doc! { "getMore": id, "collection": "things" }).await.expect_err("another session");
        assert_eq!(error.code(), Some(50738));
        assert!(error.to_string().contains("run_cursor_command"), "{error}");
        drop(other);
        client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn tailable_cursor_is_asked_with_growing_pauses_at_its_end() {
    in_time(async {
        let (sandbox, client) = one_member().await;
        let database = client.database("test");
        let tail = doc! { "find": "things", "tailable": true };
        let mut cursor = database.run_cursor_command(tail).await.expect("a cursor");
        for id in 0..7 {
            let document = cursor.next().await.expect("some").expect("a document");
            assert_eq!(document, doc! { "_id": id });
        }
        let began = Instant::now();
        let waited = tokio::time::timeout(Duration::from_secs(1), cursor.next()).await;
        let asked = sandbox.commands_seen("getMore")[0];
        assert!(waited.is_err() && asked < 20, "{asked} getMore commands in {:?}", began.elapsed());
        // At once, and once.
        assert_eq!(cursor.try_next().await.expect("nothing failed"), TryNext::NothingNow);
        assert!(sandbox.commands_seen("getMore")[0] <= asked + 2);
        database.run_command(doc! { "insert": "things", "documents": [{ "_id": 7 }, { "_id": 8 }] }).await.expect("inserted");
        assert_eq!(cursor.try_next().await.expect("nothing failed"), TryNext::Document(doc! { "_id": 7 }));
        assert_eq!(cursor.next().await.expect("some").expect("a document"), doc! { "_id": 8 });
        cursor.close().await;
        assert_eq!(sandbox.cursors(0), 0);
        let mut whole = database.run_cursor_command(doc! { "find": "things", "filter": { "_id": 1 } }).await.expect("a cursor");
        assert_eq!(whole.try_next().await.expect("nothing failed"), TryNext::Document(doc! { "_id": 1 }));
        assert_eq!(whole.try_next().await.expect("nothing failed"), TryNext::Ended);
        client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn server_of_another_deployment_is_refused_at_once() {
    in_time(async {
        let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
        let client = Client::new(sandbox.uri()).expect("client");
        let stranger = ServerAddress::parse("stranger.example").expect("a host");
        let began = Instant::now();
        let ping = client.database("admin").run_command(doc! { "ping": 1 }).on_server(stranger);
        let error = ping.await.expect_err("no member");
        assert!(began.elapsed() < LONG / 2 && error.kind() == ErrorKind::ServerSelection, "{error}");
        for host in sandbox.hosts() {
            assert!(error.to_string().contains(&host), "{error}");
        }
        client.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn write_without_a_primary_is_not_called_a_read() {
    in_time(async {
        let peer = peers::refusing();
        let client = Client::new(format!("mongodb://{}/?serverSelectionTimeoutMS=100", peer.host())).expect("client");
        let insert = client.database("test").run_command(doc! { "insert": "things", "documents": [{}] });
        let error = insert.await.expect_err("nobody listens");
        assert!(error.message().contains("no server for an operation on the primary") && !error.message().contains("read"), "{error}");
        client.shutdown().await;
    })
    .await;
}
