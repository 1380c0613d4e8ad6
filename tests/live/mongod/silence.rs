//! The primary is frozen or killed under load: commands end soon after the set has a new primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mongolink::bson::doc;
use mongolink::{Client, Error, ErrorKind, ServerAddress, TopologyDescription};
use tokio::task::JoinSet;

use crate::support::{CALL, CHANGE, NAME, ReplicaSet, Security, view, with_set};

/// The time between two inserts.
const PACE: Duration = Duration::from_millis(10);

/// How long no command may wait past the new primary. On a machine with time to spare it is two seconds at the most; drivers
/// that wait for a monitor's time-out need ten times as much.
const PAST: Duration = Duration::from_secs(5);

/// One attempt to insert, and who acknowledged it.
struct Attempt {
    began: Instant,
    ended: Instant,
    outcome: Result<ServerAddress, Error>,
}

/// Waits until one of the members other than the old primary says that it is primary, on connections beside the client's.
async fn new_primary(set: &ReplicaSet, old: &ServerAddress) -> Instant {
    let mut watchers = JoinSet::new();
    for host in set.hosts().into_iter().filter(|host| host != old) {
        let client = set.direct(&host).build().expect("a client");
        watchers.spawn(async move {
            loop {
                let reply = client.database("admin").run_command(doc! { "hello": 1 }).timeout(CALL).await;
                if reply.is_ok_and(|reply| reply.get_bool("isWritablePrimary").unwrap_or(false)) {
                    return Instant::now();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let first = tokio::time::timeout(CHANGE, watchers.join_next()).await.expect("a new primary");
    first.expect("two watchers").expect("no panic")
}

/// Inserts at a steady pace until stopped, each insert once and in a task of its own.
async fn insert_steadily(client: Client, stop: Arc<AtomicBool>) -> Vec<Attempt> {
    let mut inserts = JoinSet::new();
    let mut ticks = tokio::time::interval(PACE);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let client = client.clone();
        inserts.spawn(async move {
            let began = Instant::now();
            let command = doc! { "insert": "steady", "documents": [{ "x": 1 }], "writeConcern": { "w": 1 } };
            let outcome = client.database("live").run_command(command).raw().await.map(|reply| reply.host().clone());
            Attempt { began, ended: Instant::now(), outcome }
        });
    }
    inserts.join_all().await
}

/// Strikes the primary under load; returns every attempt, the old primary, and when the set had a new one.
async fn strike(set: &mut ReplicaSet, blow: impl FnOnce(&mut ReplicaSet, &ServerAddress)) -> (Vec<Attempt>, ServerAddress, Instant) {
    let hosts: Vec<String> = set.hosts().iter().map(ToString::to_string).collect();
    let client = set.trusting(&format!("mongodb://{}/?replicaSet={NAME}", hosts.join(","))).build().expect("a client");
    let old = set.settle(&client).await;
    let stop = Arc::<AtomicBool>::default();
    let load = tokio::spawn(insert_steadily(client.clone(), Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    blow(set, &old);
    let elected = new_primary(set, &old).await;
    let follows = |topology: &TopologyDescription| topology.primary().is_some_and(|primary| primary.host != old);
    view(&client, "the new primary", follows).await;
    tokio::time::sleep(PAST).await;
    stop.store(true, Ordering::Relaxed);
    let attempts = tokio::time::timeout(CHANGE, load).await.expect("no insert hangs").expect("no panic");
    client.shutdown().await;
    assert_eq!(client.task_count(), 0);
    (attempts, old, elected)
}

/// Prints how long the client waited for the new primary, and checks that no call waited for the old one.
fn judge(attempts: &[Attempt], old: &ServerAddress, elected: Instant) {
    let past = |attempt: &Attempt| attempt.ended.saturating_duration_since(attempt.began.max(elected));
    let longest = attempts.iter().map(past).max().expect("attempts");
    let served = attempts.iter().filter(|attempt| attempt.outcome.as_ref().is_ok_and(|host| host != old));
    let first = served.map(|attempt| attempt.ended).min().expect("the new primary serves");
    let failures = attempts.iter().filter(|attempt| attempt.outcome.is_err()).count();
    let first = first.saturating_duration_since(elected);
    println!("past the new primary: first success {first:?}, longest wait {longest:?}; {failures} of {} failed", attempts.len());
    assert!(longest <= PAST, "a command waited for {longest:?} past the new primary");
    assert!(first <= PAST, "the first success came {first:?} after the new primary");
    for error in attempts.iter().filter_map(|attempt| attempt.outcome.as_ref().err()) {
        assert!(error.is_network() || error.has_label("RetryableError") || error.code().is_some(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_primary_holds_no_command_once_it_is_deposed() {
    with_set(Security::Open, async |set| {
        let (attempts, old, elected) = strike(set, |set, old| set.member(old).freeze()).await;
        judge(&attempts, &old, elected);
        let of_silence = |error: &&Error| error.kind() == ErrorKind::Interrupted && error.is_network();
        let errors = attempts.iter().filter_map(|attempt| attempt.outcome.as_ref().err());
        assert!(errors.filter(of_silence).count() > 0, "what was in flight was interrupted");
        set.member(&old).thaw();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_primary_holds_no_command() {
    with_set(Security::Open, async |set| {
        let (attempts, old, elected) = strike(set, |set, old| set.member(old).kill()).await;
        judge(&attempts, &old, elected);
    })
    .await;
}
