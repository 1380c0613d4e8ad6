//! An official driver (PyMongo) works with the sandbox as with a replica set.

use std::process::Stdio;
use std::time::Duration;

use mongolink::Sandbox;
use tokio::process::Command;

/// Needs `MONGOLINK_PYTHON`: a Python that has PyMongo.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pymongo_connects_writes_reads_and_follows_a_step_down() {
    let Ok(python) = std::env::var("MONGOLINK_PYTHON") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "MONGOLINK_PYTHON is not set");
        println!("SKIPPED: MONGOLINK_PYTHON is not set");
        return;
    };
    let sandbox = Sandbox::builder().members(3).start().await.expect("sandbox");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/loopback/pymongo.py");
    let run = Command::new(python).arg(script).arg(sandbox.uri()).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(60), run).await.expect("hangs").expect("python runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(text.matches("PASS").count() >= 4, "{text}");
}
