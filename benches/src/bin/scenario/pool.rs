//! Measures check-out, selection and a long queue by themselves.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mongolink::pool::{PoolAction, Checkout, Health, Pool, PoolConfig};
use mongolink::selection::{Criteria, select};
use mongolink::{Client, HelloReply, ServerAddress, ServerDescription, TopologyDescription, TopologyType};
use mongolink_benches::driver::Driver;
use mongolink_benches::mock::Mock;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use tokio::sync::Barrier;

use super::{Setting, median, print};

/// How many callers there are at the least and at the most, and how many connections they share.
const FEW: usize = 100;
const MANY: usize = 10_000;
const POOL: usize = 100;

/// How long a crowd asks at once.
const CROWD_TIME: Duration = Duration::from_millis(800);

/// How long each measurement of a few nanoseconds takes.
const LONG_ENOUGH: Duration = Duration::from_millis(400);

/// How many callers contend in [`checkout`].
const CONTENDERS: usize = 64;

/// A hundred and ten thousand callers on a pool of a hundred: a row for each.
pub async fn queue(setting: &Setting) {
    let mock = Mock::start(1, None);
    let uri = mock.uri(&format!("maxPoolSize={POOL}&maxConnecting=10"));
    let driver = Driver::new(setting.kind, &uri).await.expect("a driver");
    let (mut few, mut many) = (Vec::new(), Vec::new());
    // In turns, as the machine is not the same from second to second.
    for _ in 0..setting.pick(3, 9) {
        few.push(crowd(&driver, FEW, CROWD_TIME).await);
        many.push(crowd(&driver, MANY, CROWD_TIME).await);
    }
    driver.shutdown().await;
    let rates = few.iter().zip(&many).map(|(few, many)| many.throughput / few.throughput);
    let mut figures = Crowd::to_json(&many);
    figures["throughput_to_few"] = json!(median(rates.collect()));
    print(&format!("queue-{FEW}"), setting.kind, &Crowd::to_json(&few));
    print(&format!("queue-{MANY}"), setting.kind, &figures);
}

/// What came of a crowd; times in milliseconds.
struct Crowd {
    throughput: f64,
    median_caller: f64,
    slowest_caller: f64,
    longest: f64,
}

impl Crowd {
    /// Takes the medians of several rounds, and the longest of all.
    fn to_json(rounds: &[Self]) -> Value {
        let middle = |figure: fn(&Self) -> f64| median(rounds.iter().map(figure).collect());
        json!({
            "throughput": middle(|crowd| crowd.throughput),
            "median_caller_ms": middle(|crowd| crowd.median_caller),
            "slowest_caller_ms": middle(|crowd| crowd.slowest_caller),
            "slowest_to_median": middle(|crowd| crowd.slowest_caller / crowd.median_caller),
            "longest_ms": rounds.iter().map(|crowd| crowd.longest).fold(0.0, f64::max),
        })
    }
}

/// What a caller of a crowd has seen.
struct Seen {
    ops: usize,
    mean: Duration,
    longest: Duration,
}

async fn crowd(driver: &Driver, callers: usize, time: Duration) -> Crowd {
    let (start, stop) = (Arc::new(Barrier::new(callers + 1)), Arc::<AtomicBool>::default());
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (driver, start, stop) = (driver.clone(), Arc::clone(&start), Arc::clone(&stop));
            tokio::spawn(async move {
                driver.ping().await.expect("a reply");
                start.wait().await;
                let mut seen = Seen { ops: 0, mean: Duration::ZERO, longest: Duration::ZERO };
                let mut total = Duration::ZERO;
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    driver.ping().await.expect("a reply");
                    let took = began.elapsed();
                    seen.ops += 1;
                    seen.longest = seen.longest.max(took);
                    total += took;
                }
                seen.mean = total.checked_div(u32::try_from(seen.ops).unwrap_or(u32::MAX)).unwrap_or_default();
                seen
            })
        })
        .collect();
    start.wait().await;
    let began = Instant::now();
    tokio::time::sleep(time).await;
    stop.store(true, Relaxed);
    let mut all = Vec::with_capacity(callers);
    for task in tasks {
        all.push(task.await.expect("a caller never panics"));
    }
    let seconds = began.elapsed().as_secs_f64();
    let ops: usize = all.iter().map(|seen| seen.ops).sum();
    let means: Vec<f64> = all.iter().map(|seen| seen.mean.as_secs_f64() * 1e3).collect();
    let slowest_caller = means.iter().copied().fold(0.0, f64::max);
    let longest = all.iter().map(|seen| seen.longest.as_secs_f64() * 1e3).fold(0.0, f64::max);
    Crowd { throughput: ops as f64 / seconds, median_caller: median(means), slowest_caller, longest }
}

/// Check-out and check-in alone: the rules, the rules behind a lock that two threads share, and through the client.
pub async fn checkout() -> Value {
    let mut pool = idle_pool();
    let now = Instant::now();
    let rules = nanos_each(|| turn(&mut pool, now));
    let shared = Mutex::new(idle_pool());
    let contended = on_two_threads(|| turn(&mut shared.lock().expect("nobody panics with it"), now));
    let mock = Mock::start(1, None);
    let client = Client::new(mock.uri(&format!("maxPoolSize={POOL}"))).expect("a client");
    client.warm_up().await.expect("warm");
    let alone = warm_ups(&client, 1).await;
    let crowded = warm_ups(&client, CONTENDERS).await;
    client.shutdown().await;
    json!({ "rules_ns": rules, "rules_two_threads_ns": contended, "client_ns": alone, "client_64_callers_ns": crowded })
}

/// Selection of a primary among fifty members, and of a router among a thousand.
pub fn selection() -> Value {
    let set = TopologyDescription::new(TopologyType::ReplicaSetWithPrimary, (0..50).map(|number| server(number, false)));
    let routers = TopologyDescription::new(TopologyType::Sharded, (0..1000).map(|number| server(number, true)));
    json!({ "primary_of_50_ns": selection_nanos(&set), "mongos_of_1000_ns": selection_nanos(&routers) })
}

/// As the client does it: each selection draws from a sequence of its own.
fn selection_nanos(topology: &TopologyDescription) -> f64 {
    let criteria = Criteria::write();
    let mut draws = 0;
    nanos_each(|| {
        draws += 1;
        let mut random = SmallRng::seed_from_u64(draws);
        let selected = select(black_box(topology), &criteria, &|_| 0, &mut random);
        black_box(selected.expect("one suits"));
    })
}

#[allow(clippy::field_reassign_with_default, reason = "it can be made no other way from outside")]
fn server(number: usize, router: bool) -> ServerDescription {
    let host = ServerAddress::parse(&format!("server{number}.example:27017")).expect("a host");
    let mut hello = HelloReply::default();
    hello.max_wire_version = 17;
    hello.logical_session_timeout = Some(Duration::from_secs(1800));
    if router {
        hello.is_mongos = true;
    } else {
        hello.set_name = Some("bench".to_owned());
        hello.is_writable_primary = number == 0;
        hello.secondary = number != 0;
    }
    ServerDescription::of_hello(&host, hello, Instant::now()).with_round_trip_time(Duration::from_micros(500))
}

/// Makes a pool with one connection, idle.
fn idle_pool() -> Pool<u64> {
    let config = PoolConfig { max_size: Some(100), min_size: 0, max_connecting: 2, max_idle_time: None, open_timeout: None, drain_limit: Duration::from_secs(10) };
    let (mut pool, now) = (Pool::new(config, 0), Instant::now());
    pool.handle_ready(now);
    let Checkout::Waiting(_) = pool.handle_checkout(None, now) else { panic!("there is no connection yet") };
    let Some(PoolAction::Open(lease)) = pool.poll_action() else { panic!("one is to be opened") };
    pool.handle_opened(lease, 7, now);
    let Some(PoolAction::Deliver { lease, connection, .. }) = pool.poll_action() else { panic!("it is waited for") };
    pool.handle_checkin(lease, connection, Health::Good, now);
    pool
}

/// One check-out and check-in.
fn turn(pool: &mut Pool<u64>, now: Instant) {
    let Checkout::CheckedOut { lease, connection, .. } = pool.handle_checkout(None, now) else { panic!("one is idle") };
    pool.handle_checkin(lease, black_box(connection), Health::Good, now);
    assert!(pool.poll_action().is_none());
}

fn nanos_each(mut step: impl FnMut()) -> f64 {
    let (began, mut steps) = (Instant::now(), 0_u64);
    while began.elapsed() < LONG_ENOUGH {
        for _ in 0..1000 {
            step();
        }
        steps += 1000;
    }
    began.elapsed().as_secs_f64() * 1e9 / steps as f64
}

/// The time that two threads together take for one step.
fn on_two_threads(step: impl Fn() + Sync) -> f64 {
    let each = std::thread::scope(|scope| {
        let threads = [scope.spawn(|| nanos_each(&step)), scope.spawn(|| nanos_each(&step))];
        threads.map(|thread| thread.join().expect("a thread never panics"))
    });
    // Steps in a nanosecond add up.
    1.0 / each.iter().map(|nanos| 1.0 / nanos).sum::<f64>()
}

/// The time that callers together take to select, check out and check in once.
async fn warm_ups(client: &Client, callers: usize) -> f64 {
    let stop = Arc::<AtomicBool>::default();
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut turns = 0_u64;
                while !stop.load(Relaxed) {
                    client.warm_up().await.expect("warm");
                    turns += 1;
                    if turns.is_multiple_of(64) {
                        // Nothing above ever waits; others, and the timer, want their turn.
                        tokio::task::yield_now().await;
                    }
                }
                turns
            })
        })
        .collect();
    tokio::time::sleep(LONG_ENOUGH).await;
    stop.store(true, Relaxed);
    let mut turns = 0;
    for task in tasks {
        turns += task.await.expect("a caller never panics");
    }
    began.elapsed().as_secs_f64() * 1e9 / turns as f64
}
