//! One mongod alone.

use std::time::{Duration, Instant};

use mongolink::bson::{RawDocumentBuf, doc, rawdoc};
use mongolink::{Client, CommandEvent, ErrorKind, Event, Limit, LimitValue, ServerType, Stage, TopologyType};

use crate::support::{CALL, Server, TEST, eventually, mongod, ping, within};

/// How many documents the long results have.
const DOCUMENTS: i32 = 1000;

/// How many of them come at once.
const BATCH: u32 = 101;

/// Runs a scenario with a client of a new mongod; skips it without mongod.
pub(super) async fn with_client(scenario: impl AsyncFnOnce(&Client, &Server)) {
    let Some(program) = mongod() else { return };
    within(TEST, async {
        let server = Server::mongod(&program, &[]).await;
        let client = Client::new(format!("mongodb://{}", server.address())).expect("a client");
        scenario(&client, &server).await;
        client.shutdown().await;
        assert_eq!(client.task_count(), 0, "nothing is left of the client");
    })
    .await;
}

fn documents() -> Vec<RawDocumentBuf> {
    (0..DOCUMENTS).map(|number| rawdoc! { "_id": number, "text": format!("document {number}") }).collect()
}

async fn insert_all(client: &Client) {
    let insert = client.database("live").run_command(doc! { "insert": "things" }).documents("documents", documents());
    let reply = insert.timeout(CALL).await.expect("inserted");
    assert_eq!(reply.get_i32("n").ok(), Some(DOCUMENTS), "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_is_found_and_answers() {
    with_client(async |client, server| {
        assert_eq!(client.task_count(), 0, "nothing runs before the first use");
        let reply = ping(client).await.expect("a pong");
        assert_eq!(reply.get_f64("ok").ok(), Some(1.0));
        let topology = client.topology();
        assert_eq!(topology.kind(), TopologyType::Single);
        let known = topology.servers().first().expect("one server");
        assert_eq!((known.kind, known.host.port()), (ServerType::Standalone, server.port()));
        assert_eq!(known.wire_versions().map(|(_, newest)| newest), Some(17), "mongod 6.0");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn find_fetches_a_thousand_documents_in_batches() {
    with_client(async |client, _| {
        insert_all(client).await;
        let mut events = client.events();
        let find = doc! { "find": "things", "sort": { "_id": 1 }, "batchSize": BATCH };
        let mut cursor = client.database("live").run_cursor_command(find).batch_size(BATCH).timeout(CALL).await.expect("a cursor");
        for number in 0..DOCUMENTS {
            let document = cursor.next().await.expect("another document").expect("fetched");
            assert_eq!(document, doc! { "_id": number, "text": format!("document {number}") });
        }
        assert!(cursor.next().await.is_none(), "the end");
        let mut asked = Vec::new();
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(200), events.next()).await {
            if let Event::Command(CommandEvent::Succeeded { name, .. }) = event {
                asked.push(name.to_string());
            }
        }
        let batches = u32::try_from(DOCUMENTS).expect("positive").div_ceil(BATCH) as usize;
        assert_eq!(asked.first().map(String::as_str), Some("find"));
        assert_eq!(asked.iter().filter(|name| *name == "getMore").count(), batches - 1, "{asked:?}");
        assert_eq!(asked.len(), batches, "one command for each batch: {asked:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cursor_dropped_early_is_closed_on_the_server() {
    with_client(async |client, _| {
        insert_all(client).await;
        let open = async || {
            let status = client.database("admin").run_command(doc! { "serverStatus": 1 }).timeout(CALL).await.expect("a status");
            let cursors = status.get_document("metrics").and_then(|metrics| metrics.get_document("cursor")).expect("cursors");
            cursors.get_document("open").and_then(|open| open.get_i64("total")).expect("a number")
        };
        let find = doc! { "find": "things", "batchSize": BATCH };
        let mut cursor = client.database("live").run_cursor_command(find).timeout(CALL).await.expect("a cursor");
        cursor.next().await.expect("a document").expect("fetched");
        assert_eq!(open().await, 1);
        drop(cursor);
        eventually("no open cursor", CALL, async || open().await == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_command_error_names_server_and_command() {
    with_client(async |client, server| {
        let error = client.database("live").run_command(doc! { "brewCoffee": 1 }).timeout(CALL).await.expect_err("refused");
        assert_eq!((error.kind(), error.stage(), error.code()), (ErrorKind::Command, Some(Stage::Server), Some(59)));
        let failure = error.command().expect("a reply");
        assert_eq!(failure.code_name, "CommandNotFound");
        assert_eq!(failure.message, "no such command: 'brewCoffee'");
        assert_eq!(failure.reply.get_f64("ok").ok(), Some(0.0));
        let text = error.to_string();
        let start = format!("server: 127.0.0.1:{}: no such command: 'brewCoffee' (code 59 CommandNotFound), after ", server.port());
        assert!(text.starts_with(&start), "{text}");
        ping(client).await.expect("the connection is as good as before");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn document_of_17_mb_is_refused_before_it_is_sent() {
    with_client(async |client, _| {
        ping(client).await.expect("a pong");
        let large = doc! { "insert": "things", "documents": [{ "_id": 1, "text": "x".repeat(17 * 1024 * 1024) }] };
        let error = client.database("live").run_command(large).timeout(CALL).await.expect_err("refused");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::InvalidArgument, Some(Stage::Write)), "{error}");
        let Some(Limit { value: LimitValue::Bytes(limit), .. }) = error.limit() else { panic!("no limit of bytes: {error}") };
        assert!((16 * 1024 * 1024..17 * 1024 * 1024).contains(&limit), "{error}");
        assert!(error.to_string().contains("17825"), "the size is told: {error}");
        ping(client).await.expect("nothing has happened to the connection");
        let opened: u64 = client.pool_stats().iter().map(|(_, stats)| stats.created).sum();
        assert_eq!(opened, 1, "the connection is still the first");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn call_that_runs_out_of_time_costs_the_connection_nothing() {
    with_client(async |client, _| {
        ping(client).await.expect("a pong");
        let fail_point = doc! {
            "configureFailPoint": "failCommand", "mode": { "times": 1 },
            "data": { "failCommands": ["find"], "blockConnection": true, "blockTimeMS": 600 },
        };
        client.database("admin").run_command(fail_point).timeout(CALL).await.expect("armed");
        let limit = Duration::from_millis(200);
        let began = Instant::now();
        let error = client.database("live").run_command(doc! { "find": "things" }).timeout(limit).await.expect_err("too slow");
        assert!(began.elapsed() >= limit && began.elapsed() < limit + Duration::from_secs(1), "{:?}", began.elapsed());
        assert!(error.is_timeout(), "{error}");
        assert_eq!(error.limit().map(|limit| (limit.name, limit.value)), Some(("timeout", LimitValue::Time(limit))));
        let used = || client.pool_stats().iter().map(|(_, stats)| stats.in_use + stats.draining).sum::<usize>();
        eventually("the late reply is read", CALL, async || used() == 0).await;
        ping(client).await.expect("a pong");
        let opened: u64 = client.pool_stats().iter().map(|(_, stats)| stats.created).sum();
        assert_eq!(opened, 1, "the connection is still the first");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_is_no_member_of_a_replica_set() {
    with_client(async |_, server| {
        let uri = format!("mongodb://{}/?replicaSet=wanted&serverSelectionTimeoutMS=1000", server.address());
        let client = Client::new(uri).expect("a client");
        let error = ping(&client).await.expect_err("not selected");
        assert_eq!(error.kind(), ErrorKind::ServerSelection, "{error}");
        let text = error.to_string();
        assert!(text.contains("is a Standalone and no member of a replica set, wanted is \"wanted\""), "{text}");
        client.shutdown().await;
    })
    .await;
}
