//! File descriptors of a client, in a process of its own, where they can be counted and used up.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "tests start a process and look at the clock")]

use std::fs::File;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mongolink::bson::{Document, doc};
use mongolink::{Client, ErrorKind, Sandbox};
use tokio::runtime::{Builder, Runtime};

/// A bound that only a hang breaks.
const LONG: Duration = Duration::from_secs(30);

/// One test at a time uses the descriptors.
static ALONE: Mutex<()> = Mutex::new(());

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

async fn ping(client: &Client) -> mongolink::Result<Document> {
    tokio::time::timeout(LONG, client.database("admin").run_command(doc! { "ping": 1 }).into_future()).await.expect("hangs")
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A client that is used on one runtime after the other has the sockets of one.
#[test]
fn client_keeps_no_sockets_of_runtimes_that_have_ended() {
    let _alone = ALONE.lock();
    let servers = runtime();
    let sandbox = servers.block_on(async { Sandbox::builder().members(3).start().await.expect("sandbox") });
    let client = Client::new(sandbox.uri()).expect("client");
    let open = || (0..3).map(|member| sandbox.connections(member)).sum::<usize>();
    for round in 0..30 {
        let current = runtime();
        current.block_on(async {
            let callers: Vec<_> = (0..8)
                .map(|_| {
                    let client = client.clone();
                    tokio::spawn(async move { ping(&client).await })
                })
                .collect();
            for caller in callers {
                caller.await.expect("no panic").expect("ping");
            }
        });
        // Two for each monitor, and at most one for each caller.
        assert!(open() <= 6 + 8, "{} connections in round {round}", open());
        drop(current);
        until("the sockets of the runtime that has ended are closed", || open() == 0);
    }
    // A client that is still in use elsewhere lets go when it starts again.
    runtime().block_on(client.shutdown());
    until("nothing is left", || open() == 0);
}

/// The name of the environment variable that tells a test that it runs in a process with few descriptors.
const FEW: &str = "MONGOLINK_FEW_DESCRIPTORS";

#[test]
fn lack_of_descriptors_is_a_local_error_and_no_fault_of_the_server() {
    if std::env::var_os(FEW).is_none() {
        let name = "lack_of_descriptors_is_a_local_error_and_no_fault_of_the_server";
        let program = std::env::current_exe().expect("this program");
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""]).arg(program).args([name, "--exact", "--nocapture"]).env(FEW, "1");
        let output = shell.output().expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    runtime().block_on(async {
        let sandbox = Sandbox::builder().members(1).start().await.expect("sandbox");
        let client = Client::new(format!("{}&heartbeatFrequencyMS=500", sandbox.uri())).expect("client");
        ping(&client).await.expect("ping");
        let slow = doc! {
            "configureFailPoint": "failCommand", "mode": { "times": 1 },
            "data": { "failCommands": ["ping"], "blockConnection": true, "blockTimeMS": 3_000 },
        };
        sandbox.fail_point(0, &slow).expect("a fail point");
        let held = tokio::spawn({
            let client = client.clone();
            async move { ping(&client).await }
        });
        let in_use = || client.pool_stats().iter().map(|(_, stats)| stats.in_use).sum::<usize>();
        while in_use() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut files = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            files.push(file);
        }
        let error = ping(&client).await.expect_err("no descriptor is left for a second connection");
        let ours = client.topology();
        drop(files);
        assert_eq!(error.kind(), ErrorKind::LocalResources, "{error}");
        assert!(error.to_string().contains("no file descriptors left") && error.labels().is_empty(), "{error:?}");
        let primary = ours.primary().expect("the server is what it was");
        assert!(primary.error.is_none(), "{primary}");
        held.await.expect("no panic").expect("the connection in use stays");
        ping(&client).await.expect("descriptors are there again");
        client.shutdown().await;
    });
}
