//! Measures idle clients.

use std::path::Path;
use std::time::Duration;

use mongolink_benches::counting::heap;
use mongolink_benches::driver::{Driver, Kind};
use mongolink_benches::mock::Mock;
use mongolink_benches::op::{Op, message};
use mongolink_benches::usage;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Setting;

/// How many connections are opened beside the first.
const CONNECTIONS: usize = 100;

/// How long pings wait meanwhile, so that each needs a connection of its own.
const HOLD_MILLIS: u64 = 1000;

/// The heap that one more idle connection takes, plain and, with papers, over TLS.
pub async fn memory(setting: &Setting) -> Value {
    let plain = bytes_per_connection(setting.kind, None).await;
    let tls = match &setting.papers {
        Some(folder) => Some(bytes_per_connection(setting.kind, Some(folder)).await),
        None => None,
    };
    json!({ "plain_bytes": plain, "tls_bytes": tls })
}

async fn bytes_per_connection(kind: Kind, papers: Option<&Path>) -> f64 {
    let mut mock = Mock::start(1, papers);
    match Driver::new(kind, &mock.uri(&format!("maxPoolSize={CONNECTIONS}&maxConnecting=20"))).await {
        Some(driver) => bytes_of_driver(&driver, &mut mock).await,
        None => bytes_of_raw(&mock).await,
    }
}

async fn bytes_of_driver(driver: &Driver, mock: &mut Mock) -> f64 {
    driver.ping().await.expect("a reply");
    settle().await;
    let (open, live) = (mock.counts().await.open, heap().live);
    mock.order(&format!("delay {HOLD_MILLIS}"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut callers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let driver = driver.clone();
        callers.spawn(async move { driver.ping().await.expect("a reply") });
    }
    while callers.join_next().await.is_some() {}
    drop(callers);
    mock.order("delay 0");
    settle().await;
    let (open_now, live_now) = (mock.counts().await.open, heap().live);
    assert!(open_now - open > CONNECTIONS as i64 / 2, "most of the connections were opened: {}", open_now - open);
    (live_now - live) as f64 / (open_now - open) as f64
}

async fn bytes_of_raw(mock: &Mock) -> f64 {
    let ping = message(Op::Ping.command(), "admin");
    let mut kept = Vec::with_capacity(CONNECTIONS + 1);
    let mut live = 0;
    for number in 0..=CONNECTIONS {
        let mut raw = mock.raw().await;
        raw.exchange(&ping).await.expect("a reply");
        raw.rest();
        kept.push(raw);
        if number == 0 {
            live = heap().live;
        }
    }
    (heap().live - live) as f64 / CONNECTIONS as f64
}

/// An idle client of a set of three: how often its process wakes up. `raw` is a process without one.
pub async fn idle(setting: &Setting) -> Value {
    let watched = Duration::from_secs(setting.pick(15, 60));
    let mock = Mock::start(3, None);
    let driver = Driver::new(setting.kind, &mock.uri("")).await;
    if let Some(driver) = &driver {
        driver.ping().await.expect("a reply");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let hellos = mock.counts().await.hellos;
    settle().await;
    let (waits, cpu, heap_before) = (usage::waits(), usage::cpu(), heap());
    tokio::time::sleep(watched).await;
    let (waits, cpu, heap) = (usage::waits() - waits, usage::cpu() - cpu, heap().since(heap_before));
    let hellos = mock.counts().await.hellos - hellos;
    json!({
        "wake_ups": waits,
        "heartbeats": hellos,
        "cpu_us": cpu.as_secs_f64() * 1e6,
        "allocations": heap.allocations,
        "watched_s": watched.as_secs_f64(),
    })
}

/// Waits until what has just ended is gone.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}
