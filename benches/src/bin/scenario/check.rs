//! Checks that the fake server answers its clients, and that a real one is ready.

use std::time::{Duration, Instant};

use mongolink::bson::{Document, doc, oid::ObjectId};
use mongolink::{Client, ServerType};
use mongolink_benches::driver::{Driver, Kind};
use mongolink_benches::mock::{Mock, document};
use mongolink_benches::op::{BIG_DOCUMENT_BYTES, BIG_DOCUMENTS, DATABASE, Op, encoded, message, one};
use serde_json::{Value, json};

use super::Setting;

/// How long a held hello is asked to wait.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long a real server may take to become primary.
const ELECTION: Duration = Duration::from_secs(30);

/// Asks the fake server all that is asked in the bench, as all kinds of clients, and panics at a wrong answer.
pub async fn check(setting: &Setting) -> Value {
    let mut counted = 0;
    for papers in [None, setting.papers.as_deref()] {
        let mut mock = Mock::start(3, papers);
        raw(&mock).await;
        mongolink(&mock).await;
        official(&mock).await;
        orders(&mut mock).await;
        let counts = mock.counts().await;
        assert!(counts.accepted >= counts.open && counts.open > 0 && counts.hellos > 0, "{counts:?}");
        counted += counts.accepted;
    }
    json!({ "right": true, "connections": counted })
}

/// Makes a real server a replica set of one with the data of the bench.
pub async fn prepare(setting: &Setting) -> Value {
    let host = format!("127.0.0.1:{}", setting.port.expect("--port is missing"));
    let direct = Client::new(format!("mongodb://{host}/?directConnection=true")).expect("a client");
    let config = doc! { "_id": "bench", "members": [{ "_id": 0, "host": host.as_str() }] };
    direct.database("admin").run_command(doc! { "replSetInitiate": config }).await.expect("initiated");
    direct.shutdown().await;
    let uri = format!("mongodb://{host}/?replicaSet=bench&serverSelectionTimeoutMS={}", ELECTION.as_millis());
    let client = Client::new(uri).expect("a client");
    let database = client.database(DATABASE);
    database.run_command(doc! { "insert": "one", "documents": [one()] }).await.expect("inserted");
    let capped = doc! { "create": "many", "capped": true, "size": 64 * 1024 * 1024 };
    database.run_command(capped).await.expect("created");
    let version: Document = client.database("admin").run_command(doc! { "buildInfo": 1 }).await.expect("a version");
    client.shutdown().await;
    json!({ "version": version.get_str("version").unwrap_or("unknown") })
}

async fn raw(mock: &Mock) {
    let mut raw = mock.raw().await;
    let mut last = None;
    for op in [Op::Ping, Op::Find, Op::Insert1k, Op::Insert1m, Op::Find16m, Op::Ping] {
        let mut request = message(op.command(), op.database());
        let number = 77_i32.to_le_bytes();
        request[4..8].copy_from_slice(&number);
        let reply = raw.exchange(&request).await.expect("a reply");
        assert_eq!(reply[8..12], number, "{op:?}: responseTo");
        let reply = document(reply);
        assert_eq!(reply.get_f64("ok").ok(), Some(1.0), "{op:?}");
        let time = reply.get_document("$clusterTime").and_then(|time| time.get_timestamp("clusterTime")).expect("a cluster time");
        assert!(last.is_none_or(|last| time > last), "{op:?}: the cluster time advances");
        last = Some(time);
    }
    let version = doc! { "processId": ObjectId::new(), "counter": 1_i64 };
    let held = message(encoded(&doc! { "hello": 1, "topologyVersion": version, "maxAwaitTimeMS": PATIENCE.as_millis() as i64 }), "admin");
    let began = Instant::now();
    raw.exchange(&held).await.expect("a reply");
    assert!(began.elapsed() >= PATIENCE, "a hello that waits for a change is held");
    let refused = raw.exchange(&message(encoded(&doc! { "dance": 1 }), "admin")).await.expect("a reply");
    assert_eq!(document(refused).get_i32("code").ok(), Some(59));
}

async fn mongolink(mock: &Mock) {
    let client = Client::new(mock.uri("")).expect("a client");
    let ping: Document = client.database("admin").run_command(doc! { "ping": 1 }).await.expect("a reply");
    assert_eq!(ping.get_f64("ok").ok(), Some(1.0));
    let mut watch = client.watch_topology().await.expect("started");
    loop {
        let now = watch.next().await.expect("the client runs");
        let secondaries = now.servers().iter().filter(|server| server.kind == ServerType::RsSecondary).count();
        if now.primary().is_some() && secondaries == 2 {
            break;
        }
    }
    let database = client.database(DATABASE);
    let mut found = database.run_cursor_command(Op::Find.command()).await.expect("a cursor");
    assert_eq!(found.next().await.expect("one").expect("a document"), one());
    assert!(found.next().await.is_none());
    for op in [Op::Insert1k, Op::Insert1m] {
        let reply: Document = database.run_command(op.command()).await.expect("a reply");
        assert_eq!(reply.get_i32("n").ok(), Some(1));
    }
    let mut big = database.run_cursor_command(Op::Find16m.command()).typed::<mongolink::Reply>().await.expect("a cursor");
    let mut count = 0;
    while let Some(document) = big.next().await {
        assert_eq!(document.expect("a document").bytes().len(), BIG_DOCUMENT_BYTES);
        count += 1;
    }
    assert_eq!(count, BIG_DOCUMENTS);
    client.shutdown().await;
}

async fn official(mock: &Mock) {
    let Some(driver) = Driver::new(Kind::Official, &mock.uri("")).await else { return };
    driver.ping().await.expect("a reply");
    let Driver::Official(client) = driver else { return };
    let database = client.database(DATABASE);
    for op in [Op::Find, Op::Insert1k, Op::Insert1m] {
        let command = mongodb::bson::RawDocumentBuf::from_bytes(op.command().into_bytes()).expect("a document");
        let reply = database.run_raw_command(command).await.expect("a reply");
        assert_eq!(reply.get_f64("ok").ok(), Some(1.0), "{op:?}");
    }
    let command = mongodb::bson::RawDocumentBuf::from_bytes(Op::Find16m.command().into_bytes()).expect("a document");
    let mut cursor = database.run_raw_cursor_command(command).await.expect("a cursor");
    let mut count = 0;
    while cursor.advance().await.expect("a document") {
        assert_eq!(cursor.current().as_bytes().len(), BIG_DOCUMENT_BYTES);
        count += 1;
    }
    assert_eq!(count, BIG_DOCUMENTS);
    // Shutting down waits for every cursor to be gone.
    drop(cursor);
    client.shutdown().await;
}

async fn orders(mock: &mut Mock) {
    let ping = message(Op::Ping.command(), "admin");
    let mut raw = mock.raw().await;
    for order in ["delay 100", "delay 0", "freeze 100"] {
        mock.order(order);
        // The order goes another way than the ping.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let began = Instant::now();
        raw.exchange(&ping).await.expect("a reply");
        assert_eq!(began.elapsed() >= Duration::from_millis(50), order != "delay 0", "{order}");
    }
    mock.order("silent 1");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let silent = async { mock.raw().await.exchange(&ping).await.map(drop) };
    tokio::time::timeout(Duration::from_millis(100), silent).await.expect_err("silence");
    raw.exchange(&ping).await.expect("others are answered");
}
