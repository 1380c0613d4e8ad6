//! Measures faults: a frozen server, silent dials, cancelled callers.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mongolink_benches::driver::Driver;
use mongolink_benches::mock::Mock;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Setting;

/// How long the server of [`stall`] stands still, and before that answers.
const STALL: Duration = Duration::from_secs(5);
const BEFORE_STALL: Duration = Duration::from_secs(1);

/// How long a caller of [`stall`] waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two requests of [`stall`]: 500 a second.
const EVERY: Duration = Duration::from_millis(2);

/// How long a ping takes in [`silent_dials`], and how many connections the pool may have.
const PING_MILLIS: u64 = 20;
const POOL: usize = 20;

/// How many commands are given up in [`cancelled`].
const CANCELLED: usize = 50;

/// A request: when it was made, counted from the beginning, and whether it was answered in time.
type Request = (Duration, bool);

/// 500 requests a second on a pool of ten; the server stands still for five seconds, callers give up after one.
///
/// It is over when requests made from then on are answered in time, but for one in a hundred.
pub async fn stall(setting: &Setting) -> Value {
    let mut mock = Mock::start(1, None);
    let driver = Driver::new(setting.kind, &mock.uri("maxPoolSize=10")).await.expect("a driver");
    driver.ping().await.expect("a reply");
    let watched = Duration::from_secs(setting.pick(6, 20));
    let requests = Arc::<Mutex<Vec<Request>>>::default();
    let mut callers = JoinSet::new();
    let mut ticks = tokio::time::interval(EVERY);
    let began = Instant::now();
    let mut thaw: Option<Duration> = None;
    while thaw.is_none_or(|thaw| began.elapsed() < thaw + watched) {
        ticks.tick().await;
        let made = began.elapsed();
        if thaw.is_none() && made > BEFORE_STALL {
            mock.order(&format!("freeze {}", STALL.as_millis()));
            thaw = Some(made + STALL);
        }
        let (driver, requests) = (driver.clone(), Arc::clone(&requests));
        callers.spawn(async move {
            let outcome = tokio::time::timeout(PATIENCE, driver.ping()).await;
            requests.lock().expect("nobody panics with it").push((made, matches!(outcome, Ok(Ok(())))));
        });
        while callers.try_join_next().is_some() {}
    }
    while callers.join_next().await.is_some() {}
    let thaw = thaw.unwrap_or_default();
    let mut since: Vec<Request> = requests.lock().expect("nobody panics with it").iter().copied().filter(|(at, _)| *at >= thaw).collect();
    since.sort();
    let answered = since.iter().filter(|(_, answered)| *answered).count();
    let recovered = recovery(&since).map(|at| (at - thaw).as_secs_f64()).filter(|seconds| *seconds < watched.as_secs_f64() - 1.0);
    json!({ "full_rate_after_s": recovered, "answered": answered, "of": since.len(), "watched_s": watched.as_secs_f64() })
}

/// Returns from when on at most one request in a hundred failed, if that ever was.
fn recovery(requests: &[Request]) -> Option<Duration> {
    let (mut failed, mut total, mut from) = (0, 0, None);
    for (at, answered) in requests.iter().rev() {
        total += 1;
        failed += usize::from(!answered);
        if failed * 100 <= total {
            from = Some(*at);
        }
    }
    from
}

/// Two dials of a pool of twenty meet silence; forty callers ask on, each ping taking 20 ms.
pub async fn silent_dials(setting: &Setting) -> Value {
    let mut mock = Mock::start(1, None);
    let options = format!("maxPoolSize={POOL}&connectTimeoutMS=2000");
    let driver = Driver::new(setting.kind, &mock.uri(&options)).await.expect("a driver");
    driver.ping().await.expect("a reply");
    // The connections that watch the server are open by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    mock.order(&format!("delay {PING_MILLIS}"));
    mock.order("silent 2");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let watched = Duration::from_secs(setting.pick(6, 20));
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..2 * POOL {
        let driver = driver.clone();
        callers.spawn(async move {
            let mut answered = Vec::new();
            while began.elapsed() < watched {
                // Who is refused asks again.
                match tokio::time::timeout(watched.saturating_sub(began.elapsed()), driver.ping()).await {
                    Ok(Ok(())) => answered.push(began.elapsed()),
                    Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
                    Err(_) => break,
                }
            }
            answered
        });
    }
    let mut answered = Vec::new();
    while let Some(times) = callers.join_next().await {
        answered.extend(times.expect("a caller never panics"));
    }
    // Timers are in milliseconds and rounded up: a ping takes one or two more than was asked for.
    let possible = POOL as f64 / (PING_MILLIS + 2) as f64 * 1e3;
    let rate = |from: f64| {
        let within = answered.iter().map(Duration::as_secs_f64).filter(|at| (from..from + 0.25).contains(at));
        within.count() as f64 * 4.0
    };
    let quarters = (watched.as_secs() - 1) * 4;
    let full = (0..quarters).map(|quarter| quarter as f64 / 4.0).find(|from| rate(*from) >= 0.9 * possible);
    let last = rate(watched.as_secs_f64() - 1.0);
    let connections = (last / possible * POOL as f64).round().min(POOL as f64);
    json!({ "full_rate_after_s": full, "rate_at_the_end": last, "possible": possible, "connections": connections })
}

/// Fifty commands are given up after 10 ms, each answered after 100 ms: how many connections that costs.
pub async fn cancelled(setting: &Setting) -> Value {
    let mut mock = Mock::start(1, None);
    let driver = Driver::new(setting.kind, &mock.uri("")).await.expect("a driver");
    driver.ping().await.expect("a reply");
    tokio::time::sleep(Duration::from_millis(300)).await;
    mock.order("delay 100");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = mock.counts().await;
    for _ in 0..CANCELLED {
        // Those that found no connection in time have given up, too.
        drop(tokio::time::timeout(Duration::from_millis(10), driver.ping()).await);
    }
    mock.order("delay 0");
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..CANCELLED {
        driver.ping().await.expect("a reply");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let after = mock.counts().await;
    // The first question's own connection has ended since, and does not count.
    json!({ "used_up": after.closed() - before.closed() - 1, "opened": after.accepted - before.accepted - 1 })
}
