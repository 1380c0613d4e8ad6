//! Failovers of every kind while fifty tasks send commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mongolink::bson::{Document, doc};
use mongolink::{Client, Error, ServerAddress};
use tokio::task::JoinSet;

use crate::support::{CALL, CHANGE, ROOT, ReplicaSet, Security, eventually, ping, view, with_set};

const TASKS: usize = 50;

/// How many connections the tasks share.
const POOL: u32 = 20;

/// How long each call may take, by its own deadline.
const DEADLINE: Duration = Duration::from_secs(3);

/// How much later than its deadline a call may end on a busy machine.
const GRACE: Duration = Duration::from_secs(1);

/// How long a task rests between calls, so that it is the servers and not the machine that are tried.
const REST: Duration = Duration::from_millis(20);

/// The shared state and records of the tasks.
struct Load {
    state: Arc<State>,
    tasks: JoinSet<()>,
}

struct State {
    client: Client,
    stop: AtomicBool,
    tallies: Vec<Tally>,
    failures: AtomicU64,
    slowest_millis: AtomicU64,
}

/// Counts one task's successes.
#[derive(Default)]
struct Tally {
    pings: AtomicU64,
    inserts: AtomicU64,
}

impl Load {
    fn start(client: &Client) -> Self {
        let state = Arc::new(State {
            client: client.clone(),
            stop: AtomicBool::new(false),
            tallies: (0..TASKS).map(|_| Tally::default()).collect(),
            failures: AtomicU64::new(0),
            slowest_millis: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for number in 0..TASKS {
            tasks.spawn(call_on(Arc::clone(&state), number));
        }
        Self { state, tasks }
    }

    /// Waits until each task has pinged and inserted again, and once more: the first may have begun before.
    async fn goes_on(&self, after: &str) {
        let counts = || -> Vec<u64> {
            let each = |tally: &Tally| [tally.pings.load(Ordering::Relaxed), tally.inserts.load(Ordering::Relaxed)];
            self.state.tallies.iter().flat_map(each).collect()
        };
        let before = counts();
        let what = format!("each task pings and inserts again, {after}");
        eventually(&what, CHANGE, async || counts().iter().zip(&before).all(|(now, before)| *now >= before + 2)).await;
    }

    /// Ends the tasks, and returns how many inserts were acknowledged.
    async fn end(mut self) -> u64 {
        self.state.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no task panics");
        }
        let slowest = Duration::from_millis(self.state.slowest_millis.load(Ordering::Relaxed));
        assert!(slowest <= DEADLINE + GRACE, "a call took {slowest:?}, its deadline was {DEADLINE:?}");
        let inserts = self.state.tallies.iter().map(|tally| tally.inserts.load(Ordering::Relaxed)).sum();
        let pings: u64 = self.state.tallies.iter().map(|tally| tally.pings.load(Ordering::Relaxed)).sum();
        println!("{pings} pings, {inserts} inserts, {} failures, slowest {slowest:?}", self.state.failures.load(Ordering::Relaxed));
        inserts
    }
}

impl State {
    /// Runs a command, notes how long it took, and tells whether it was carried out and acknowledged.
    async fn call(&self, database: &str, command: Document) -> bool {
        let began = Instant::now();
        let outcome = self.client.database(database).run_command(command).timeout(DEADLINE).await;
        let millis = u64::try_from(began.elapsed().as_millis()).expect("a short time");
        self.slowest_millis.fetch_max(millis, Ordering::Relaxed);
        let done = match outcome {
            Ok(reply) => !reply.contains_key("writeErrors") && !reply.contains_key("writeConcernError"),
            Err(error) => {
                assert_is_of_a_failover(&error);
                false
            }
        };
        if !done {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        done
    }
}

async fn call_on(state: Arc<State>, number: usize) {
    let tally = state.tallies.get(number).expect("one for each task");
    let mut next = 0_i64;
    while !state.stop.load(Ordering::Relaxed) {
        if state.call("admin", doc! { "ping": 1 }).await {
            tally.pings.fetch_add(1, Ordering::Relaxed);
        }
        let id = doc! { "task": i64::try_from(number).expect("small"), "number": next };
        next += 1;
        if state.call("live", doc! { "insert": "load", "documents": [{ "_id": id }] }).await {
            tally.inserts.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(REST).await;
    }
}

/// Whatever goes wrong says where, and not the password.
fn assert_is_of_a_failover(error: &Error) {
    let text = format!("{error} {error:?}");
    assert!(error.stage().is_some(), "{text}");
    assert!(!text.contains("the root of all trees"), "{text}");
}

/// Waits until the client knows another primary, and is served by it.
async fn find_another(client: &Client, old: &ServerAddress) -> ServerAddress {
    let another = |primary: &ServerAddress| primary != old;
    view(client, "another primary", |topology| topology.primary().is_some_and(|primary| another(&primary.host))).await;
    let mut found = None;
    eventually("an answer of another primary", CHANGE, async || {
        let reply = client.database("admin").run_command(doc! { "ping": 1 }).timeout(DEADLINE).raw().await;
        found = reply.ok().map(|reply| reply.host().clone()).filter(&another);
        found.is_some()
    })
    .await;
    found.expect("found")
}

/// Counts the client's tasks when no more of them come and go.
async fn tasks_at_rest(client: &Client) -> usize {
    let mut counts = vec![client.task_count()];
    eventually("tasks that stay", CHANGE, async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        counts.push(client.task_count());
        counts.iter().rev().take(10).all(|count| Some(count) == counts.last()) && counts.len() > 10
    })
    .await;
    client.task_count()
}

async fn kill_the_primary(set: &mut ReplicaSet, client: &Client, load: &Load) {
    let old = set.settle(client).await;
    set.member(&old).kill();
    find_another(client, &old).await;
    load.goes_on("with the old primary killed").await;
    set.member(&old).restart(&[]).await;
}

async fn freeze_the_primary(set: &mut ReplicaSet, client: &Client, load: &Load) {
    let old = set.settle(client).await;
    set.member(&old).freeze();
    find_another(client, &old).await;
    load.goes_on("with the old primary frozen").await;
    set.member(&old).thaw();
}

async fn step_the_primary_down(set: &mut ReplicaSet, client: &Client, load: &Load) {
    let old = set.settle(client).await;
    let command = doc! { "replSetStepDown": 20, "secondaryCatchUpPeriodSecs": 10 };
    client.database("admin").run_command(command).on_server(old.clone()).timeout(CALL).await.expect("stepped down");
    find_another(client, &old).await;
    load.goes_on("with the old primary stepped down").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_follows_a_primary_that_is_killed_frozen_and_stepped_down() {
    with_set(Security::Users, async |set| {
        let builder = set.builder_for(ROOT).max_pool_size(POOL).connect_timeout(Duration::from_secs(2));
        let client = builder.build().expect("a client");
        set.settle(&client).await;
        ping(&client).await.expect("a pong");
        let tasks_before = tasks_at_rest(&client).await;

        let load = Load::start(&client);
        load.goes_on("at the beginning").await;
        kill_the_primary(set, &client, &load).await;
        freeze_the_primary(set, &client, &load).await;
        step_the_primary_down(set, &client, &load).await;
        set.settle(&client).await;
        load.goes_on("at the end").await;
        let acknowledged = load.end().await;

        eventually("pools that rest", CHANGE, async || {
            let stats = client.pool_stats();
            stats.iter().all(|(_, stats)| stats.opening + stats.in_use + stats.draining + stats.waiting == 0)
        })
        .await;
        for (host, stats) in client.pool_stats() {
            assert!(stats.total() <= POOL as usize, "{host}: {stats:?}");
            assert!(stats.ready, "{host}: {stats:?}");
        }
        eventually("as many tasks as before", CHANGE, async || client.task_count() == tasks_before).await;

        let reply = client.database("live").run_command(doc! { "count": "load" }).timeout(CALL).await.expect("a count");
        let kept = u64::try_from(reply.get_i32("n").expect("a number")).expect("positive");
        assert!(kept >= acknowledged, "{acknowledged} inserts were acknowledged, {kept} are there");
        client.shutdown().await;
        assert_eq!(client.task_count(), 0, "nothing is left of the client");
    })
    .await;
}
