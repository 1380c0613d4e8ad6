//! Counts the allocations of a command on a warm pool.
//!
//! Counts the allocations of the client's thread, exactly: the client runs on a runtime of one thread, the server on a
//! thread of its own. No timing is in it, so the same code gives the same count on any machine. The ceilings below are
//! what was counted; with `MONGOLINK_RECORD` set and `--nocapture`, each test says what it counts now.
#![allow(clippy::disallowed_methods, reason = "the server has a thread of its own")]

use std::sync::mpsc;
use std::thread::JoinHandle;

use mongolink::bson::{RawDocumentBuf, rawdoc};
use mongolink::{Client, Database, Sandbox};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// The most allocations of one warm command: its reply.
const PING_MAX: u64 = 1;
const FIND_MAX: u64 = 1;
const INSERT_MAX: u64 = 1;

/// What entering the runtime may ask for, once for all commands of a try.
const ENTRY_MAX: u64 = 16;

/// How many commands are run in a try.
const COMMANDS: u64 = 200;

/// The calmest of so many tries counts: the client's own tasks run on the same thread, and may wake up in one.
const TRIES: usize = 5;

#[test]
fn warm_ping_stays_below_its_ceiling() {
    check("ping", "admin", rawdoc! { "ping": 1 }, PING_MAX);
}

#[test]
fn warm_find_stays_below_its_ceiling() {
    check("find", "things", rawdoc! { "find": "one", "filter": { "_id": 1 }, "limit": 1, "singleBatch": true }, FIND_MAX);
}

#[test]
fn warm_insert_stays_below_its_ceiling() {
    check("insert", "things", rawdoc! { "insert": "many", "documents": [{ "name": "a document" }] }, INSERT_MAX);
}

fn check(name: &str, database: &str, command: RawDocumentBuf, most: u64) {
    let server = Server::start();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    // Heartbeats stay away.
    let client = Client::new(format!("{}&heartbeatFrequencyMS=600000", server.uri)).expect("a client");
    let things = client.database("things");
    runtime.block_on(async {
        let one = rawdoc! { "insert": "one", "documents": [{ "_id": 1, "name": "a document" }] };
        things.run_command(one).await.expect("inserted");
    });
    let database = client.database(database);
    // Tables and queues have grown to their size after the first.
    let tries: Vec<(u64, u64)> = (0..=TRIES).map(|_| count(&runtime, &database, &command)).skip(1).collect();
    let (allocations, bytes) = tries.iter().copied().min().expect("some tries");
    if std::env::var_os("MONGOLINK_RECORD").is_some() {
        let each = |total: u64| total as f64 / COMMANDS as f64;
        println!("{name}: {:.2} allocations, {:.0} bytes; all tries: {tries:?}", each(allocations), each(bytes));
    }
    assert!(
        allocations <= most * COMMANDS + ENTRY_MAX,
        "{COMMANDS} times {name}: {allocations} allocations, at most {most} each are allowed; all tries: {tries:?}"
    );
    runtime.block_on(client.shutdown());
}

/// Counts allocations and bytes of some commands, which are made beforehand: they are their caller's.
fn count(runtime: &Runtime, database: &Database, command: &RawDocumentBuf) -> (u64, u64) {
    let commands: Vec<RawDocumentBuf> = (0..COMMANDS).map(|_| command.clone()).collect();
    let counted = allocation_counter::measure(|| {
        runtime.block_on(async {
            for command in commands {
                drop(database.run_command(command).raw().await.expect("a reply"));
            }
        });
    });
    (counted.count_total, counted.bytes_total)
}

/// A replica set of one on a thread of its own; it ends when this is dropped.
struct Server {
    uri: String,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let (tell, told) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let sandbox = Sandbox::builder().members(1).start().await.expect("sandbox");
                tell.send(sandbox.uri()).expect("somebody waits for it");
                // A dropped sender ends it, too.
                ended.await.ok();
                sandbox.shutdown().await;
            });
        });
        Self { uri: told.recv().expect("the server starts"), end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
