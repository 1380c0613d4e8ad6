//! Which commands are safe to repeat, and which sessions and cursors are left on mongod.

use std::time::Duration;

use mongolink::bson::{Document, doc, rawdoc};
use mongolink::{Client, ErrorKind, TryNext};

use super::standalone::with_client;
use crate::support::{CALL, eventually};

async fn run(client: &Client, command: Document) -> mongolink::Result<Document> {
    client.database("live").run_command(command).timeout(CALL).await
}

async fn status(client: &Client) -> Document {
    client.database("admin").run_command(doc! { "serverStatus": 1 }).timeout(CALL).await.expect("a status")
}

async fn open_cursors(client: &Client) -> i64 {
    let status = status(client).await;
    let open = status.get_document("metrics").and_then(|metrics| metrics.get_document("cursor")?.get_document("open"));
    open.and_then(|open| open.get_i64("total")).expect("a number")
}

async fn get_mores(client: &Client) -> i64 {
    let status = status(client).await;
    let commands = status.get_document("metrics").and_then(|metrics| metrics.get_document("commands"));
    commands.and_then(|commands| commands.get_document("getMore")?.get_i64("total")).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_that_time_out_leave_few_sessions_and_no_cursor() {
    with_client(async |client, _| {
        let documents = (0..20).map(|id| rawdoc! { "_id": id }).collect();
        let insert = client.database("live").run_command(doc! { "insert": "things" }).documents("documents", documents);
        insert.timeout(CALL).await.expect("inserted");
        let data = doc! { "failCommands": ["find"], "blockConnection": true, "blockTimeMS": 20 };
        let block = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
        client.database("admin").run_command(block).timeout(CALL).await.expect("armed");
        let (mut late, find) = (0, doc! { "find": "things", "batchSize": 2 });
        for _ in 0..500 {
            let call = client.database("live").run_command(find.clone()).timeout(Duration::from_millis(2));
            late += i32::from(call.await.is_err_and(|error| error.is_timeout()));
        }
        assert!(late > 400, "{late}");
        eventually("no cursor is open", CALL, async || open_cursors(client).await == 0).await;
        let list = doc! { "aggregate": 1, "pipeline": [{ "$listLocalSessions": { "allUsers": true } }], "cursor": { "batchSize": 1000 } };
        let mut sessions = client.database("admin").run_cursor_command(list).timeout(CALL).await.expect("a list");
        let mut count = 0;
        while let Some(session) = sessions.next().await {
            session.expect("a session");
            count += 1;
        }
        assert!(count < 110, "{count} sessions");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_for_the_session_name_the_way() {
    with_client(async |client, _| {
        let documents = doc! { "insert": "things", "documents": [{ "_id": 1 }, { "_id": 2 }, { "_id": 3 }] };
        run(client, documents).await.expect("inserted");
        let find = doc! { "find": "things", "batchSize": 1 };
        let reply = run(client, find.clone()).await.expect("a cursor");
        let id = reply.get_document("cursor").and_then(|cursor| cursor.get_i64("id")).expect("an id");
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(client.database("live").run_cursor_command(find.clone()).timeout(CALL).await.expect("a cursor"));
        }
        let error = run(client, doc! { "getMore": id, "collection": "things" }).await.expect_err("another session");
        assert!(error.to_string().contains("run_cursor_command"), "{error}");
        let mut twice = find;
        twice.insert("lsid", doc! { "id": mongolink::bson::Uuid::new() });
        let error = run(client, twice).await.expect_err("two sessions");
        assert!(error.to_string().contains("leave it out"), "{error}");
        assert!(!error.may_have_executed() || error.is_retryable(), "it only reads");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_writes_say_what_happened() {
    with_client(async |client, _| {
        let index = doc! { "createIndexes": "things", "indexes": [{ "key": { "a": 1 }, "name": "only_a", "unique": true }] };
        run(client, index).await.expect("an index");
        run(client, doc! { "insert": "things", "documents": [{ "_id": 1, "a": 7 }, { "_id": 2, "a": 8 }] }).await.expect("inserted");
        let change = doc! { "findAndModify": "things", "query": { "_id": 2 }, "update": { "$set": { "a": 7 } } };
        let error = run(client, change).await.expect_err("a duplicate");
        let key = error.duplicate_key().expect("a duplicate key");
        assert_eq!((key.duplicate_key_index(), &key.key_pattern, &key.key_value), (Some("only_a"), &Some(rawdoc! { "a": 1 }), &Some(rawdoc! { "a": 7 })));
        assert!(error.is_duplicate_key() && !error.may_have_executed() && error.is_retryable());
        let again = client.database("live").run_command(doc! { "insert": "things", "documents": [{ "a": 9 }, { "a": 7 }] });
        let reply = again.raw().timeout(CALL).await.expect("a reply");
        let [refused] = &reply.write_errors()[..] else { panic!("{reply:?}") };
        assert!(refused.is_duplicate_key());
        assert_eq!((refused.index, refused.duplicate_key_index(), &refused.key_value), (1, Some("only_a"), &Some(rawdoc! { "a": 7 })));
        let slow = doc! { "update": "things", "updates": [{ "q": { "$where": "sleep(300) || true" }, "u": { "$set": { "b": 1 } }, "multi": true }], "maxTimeMS": 100 };
        let error = run(client, slow).await.expect_err("too slow");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Command, Some(50)), "{error}");
        assert!(error.is_timeout() && error.may_have_executed() && !error.is_retryable(), "{error:?}");
        let unknown = run(client, doc! { "noSuchCommand": 1 }).await.expect_err("unknown");
        assert!(!unknown.may_have_executed() && unknown.is_retryable(), "{unknown:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tailable_cursor_without_await_is_asked_with_pauses() {
    with_client(async |client, _| {
        run(client, doc! { "create": "capped", "capped": true, "size": 100_000 }).await.expect("created");
        run(client, doc! { "insert": "capped", "documents": [{ "_id": 1 }] }).await.expect("inserted");
        let tail = doc! { "find": "capped", "tailable": true };
        let mut cursor = client.database("live").run_cursor_command(tail).timeout(CALL).await.expect("a cursor");
        assert_eq!(cursor.next().await.expect("some").expect("a document"), doc! { "_id": 1 });
        let before = get_mores(client).await;
        assert!(tokio::time::timeout(Duration::from_secs(1), cursor.next()).await.is_err(), "there is nothing");
        let asked = get_mores(client).await - before;
        assert!(asked < 20, "{asked} getMore commands");
        assert_eq!(cursor.try_next().await.expect("nothing failed"), TryNext::NothingNow);
        run(client, doc! { "insert": "capped", "documents": [{ "_id": 2 }] }).await.expect("inserted");
        assert_eq!(cursor.next().await.expect("some").expect("a document"), doc! { "_id": 2 });
        cursor.close().await;

        // One that awaits data is asked again at once, as often as its own limit says.
        let tail = doc! { "find": "capped", "tailable": true, "awaitData": true };
        let command = client.database("live").run_cursor_command(tail).max_await_time(Duration::from_millis(50));
        let mut cursor = command.timeout(CALL).await.expect("a cursor");
        for _ in 0..2 {
            cursor.next().await.expect("some").expect("a document");
        }
        let before = get_mores(client).await;
        assert!(tokio::time::timeout(Duration::from_secs(2), cursor.next()).await.is_err(), "there is nothing");
        let asked = get_mores(client).await - before;
        assert!((5..50).contains(&asked), "{asked} getMore commands");
        cursor.close().await;
    })
    .await;
}
