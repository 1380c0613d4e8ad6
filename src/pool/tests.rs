//! What the model of the pool (`tests/rules/pool_model.rs`) leaves out: error texts, timer names, and the recorded matrix.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::*;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};

mod balanced;
mod login;

type Number = u64;

const DRAIN_LIMIT: Duration = Duration::from_secs(10);

fn config() -> PoolConfig {
    PoolConfig { max_size: Some(2), min_size: 0, max_connecting: 2, max_idle_time: None, open_timeout: None, drain_limit: DRAIN_LIMIT }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A pool with shorthands for tests.
struct Bench {
    pool: Pool<Number>,
    now: Instant,
}

impl Bench {
    fn new(config: PoolConfig) -> Self {
        let mut pool = Pool::new(config, 0);
        pool.record_events(true);
        Self { pool, now: Instant::now() }
    }

    fn ready(config: PoolConfig) -> Self {
        let mut bench = Self::new(config);
        bench.pool.handle_ready(bench.now);
        bench
    }

    fn wait(&mut self) -> WaiterId {
        self.wait_until(None)
    }

    fn wait_until(&mut self, limit: Option<Duration>) -> WaiterId {
        match self.pool.handle_checkout(Deadline::maybe("waitQueueTimeoutMS", limit, self.now), self.now) {
            Checkout::Waiting(waiter) => waiter,
            other @ (Checkout::CheckedOut { .. } | Checkout::Refused(_)) => panic!("{other:?}"),
        }
    }

    fn check_out(&mut self) -> (Lease, Number, Option<WaiterId>) {
        match self.pool.handle_checkout(None, self.now) {
            Checkout::CheckedOut { lease, connection, liveness_check } => (lease, connection, liveness_check),
            other @ (Checkout::Waiting(_) | Checkout::Refused(_)) => panic!("{other:?}"),
        }
    }

    fn refused(&mut self) -> Error {
        match self.pool.handle_checkout(None, self.now) {
            Checkout::Refused(error) => error,
            other @ (Checkout::CheckedOut { .. } | Checkout::Waiting(_)) => panic!("{other:?}"),
        }
    }

    fn actions(&mut self) -> Vec<PoolAction<Number>> {
        std::iter::from_fn(|| self.pool.poll_action()).collect()
    }

    fn text(&mut self) -> String {
        self.actions().iter().map(describe).collect::<Vec<_>>().join(" ")
    }

    fn opens(&mut self) -> Vec<Lease> {
        self.actions().iter().filter_map(|action| if let PoolAction::Open(lease) = action { Some(*lease) } else { None }).collect()
    }

    /// Checks a new connection out.
    fn check_out_new(&mut self) -> Lease {
        let waiter = self.wait();
        let open = self.opens()[0];
        self.pool.handle_opened(open, open.id, self.now);
        assert_eq!(self.text(), format!("deliver {} to {}", open.id, waiter.0));
        open
    }

    fn later(&mut self, span: Duration) {
        self.now += span;
        self.pool.handle_timeout(self.now);
    }
}

fn describe(action: &PoolAction<Number>) -> String {
    match action {
        PoolAction::Open(lease) => format!("open {}", lease.id),
        PoolAction::Close(_, connection) => format!("close {connection}"),
        PoolAction::Deliver { waiter, connection, .. } => format!("deliver {connection} to {}", waiter.0),
        PoolAction::Refuse(waiter, error) => format!("refuse {} {:?}", waiter.0, error.kind()),
        PoolAction::Interrupt(lease, _) => format!("interrupt {}", lease.id),
        PoolAction::Drain(_, connection) => format!("drain {connection}"),
        PoolAction::Unanswered => "unanswered".to_owned(),
    }
}

#[test]
fn closed_pool_is_over_when_the_last_connection_is_checked_in() {
    let mut bench = Bench::ready(config());
    assert!(!bench.pool.is_over(), "an empty pool may be used again");
    let lease = bench.check_out_new();
    assert!(!bench.pool.is_over());
    bench.pool.handle_close(&closed(), false, bench.now);
    assert!(bench.pool.is_closed() && !bench.pool.is_over());
    bench.pool.handle_checkin(lease, lease.id, Health::Good, bench.now);
    assert!(bench.pool.is_over());
}

/// Of two timers that are due at the same moment, a caller's is named.
#[test]
fn each_timer_is_named_after_its_limit() {
    let limits = PoolConfig { min_size: 1, max_size: Some(1), max_idle_time: Some(ms(500)), open_timeout: Some(ms(2000)), ..config() };
    let mut bench = Bench::ready(limits);
    let timer = |bench: &Bench| bench.pool.poll_timeout().map(|(at, name)| (at - bench.now, name));
    let open = bench.opens()[0];
    assert_eq!(timer(&bench), Some((ms(2000), "opening")));
    bench.pool.handle_open_failed(open, &Error::new(ErrorKind::Closed, "refused"), bench.now);
    bench.pool.handle_refill(bench.now);
    assert_eq!(timer(&bench), Some((ms(1000), "minPoolSize")));
    bench.later(ms(1000));
    let open = bench.opens()[0];
    bench.pool.handle_opened(open, 2, bench.now);
    assert_eq!(timer(&bench), Some((ms(500), "maxIdleTimeMS")));
    bench.check_out();
    assert_eq!(timer(&bench), Some((UNANSWERED_AFTER, "UNANSWERED_AFTER")));
    bench.wait_until(Some(UNANSWERED_AFTER));
    assert_eq!(timer(&bench), Some((UNANSWERED_AFTER, "waitQueueTimeoutMS")));
    bench.pool.handle_checkin(open, 2, Health::ReplyOutstanding, bench.now);
    assert_eq!(timer(&bench), Some((ms(50), "draining")));
}

#[test]
fn refused_callers_get_the_cause() {
    let mut bench = Bench::ready(config());
    bench.wait();
    bench.opens();
    bench.pool.handle_clear(&Error::new(ErrorKind::Closed, "reset"), false, bench.now);
    let actions = bench.actions();
    let [PoolAction::Refuse(_, waiting), PoolAction::Interrupt(..)] = actions.as_slice() else { panic!("{actions:?}") };
    for error in [waiting, &bench.refused()] {
        assert_eq!(error.kind(), ErrorKind::PoolCleared);
        assert!(error.to_string().contains("reset") && error.has_label("RetryableError"), "{error}");
    }
    bench.pool.handle_ready(bench.now);
    bench.pool.handle_close(&Error::new(ErrorKind::Shutdown, "over"), true, bench.now);
    assert_eq!(bench.refused().kind(), ErrorKind::Shutdown);
}

#[test]
fn late_reply_that_never_comes_names_its_limit() {
    let mut bench = Bench::ready(config());
    let lease = bench.check_out_new();
    bench.pool.handle_checkin(lease, 1, Health::ReplyOutstanding, bench.now);
    bench.actions();
    bench.later(DRAIN_LIMIT);
    let interrupts: Vec<_> = bench.actions().into_iter().filter(|action| matches!(action, PoolAction::Interrupt(..))).collect();
    let [PoolAction::Interrupt(_, error)] = interrupts.as_slice() else { panic!("{interrupts:?}") };
    assert_eq!(error.limit().map(|limit| limit.name), Some("drain_limit"));
}

#[test]
fn waiter_times_out_exactly_and_says_why() {
    let mut bench = Bench::ready(PoolConfig { max_connecting: 1, ..config() });
    bench.wait();
    bench.wait_until(Some(ms(100)));
    bench.opens();
    assert_eq!(bench.pool.poll_timeout(), Some((bench.now + ms(100), "waitQueueTimeoutMS")));
    bench.later(ms(99));
    assert_eq!(bench.text(), "");
    bench.later(ms(1));
    match bench.actions().as_slice() {
        [PoolAction::Refuse(WaiterId(1), error)] => {
            let text = error.to_string();
            assert!(
                text.contains("connection pool, after 100 ms")
                    && text.contains("waitQueueTimeoutMS of 100 ms")
                    && text.contains("1 opening"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.pool.poll_timeout(), None);
}

#[test]
fn closing_of_a_failed_connection_is_published_with_its_cause() {
    let closed = |bench: &mut Bench| {
        let events = std::iter::from_fn(|| bench.pool.poll_event());
        let closed = events.filter_map(|event| {
            let PoolEvent::ConnectionClosed { connection_id, reason, error } = event else { return None };
            Some((connection_id, reason, error.map(|error| error.kind())))
        });
        closed.collect::<Vec<_>>()
    };
    let reset = Error::new(ErrorKind::Closed, "reset");
    let mut bench = Bench::ready(PoolConfig { max_size: Some(9), open_timeout: Some(ms(500)), ..config() });
    // One that is checked in broken; one that is stale by then, which is no failure of its own.
    let (one, two) = (bench.check_out_new(), bench.check_out_new());
    bench.pool.handle_cause(one, &reset);
    bench.pool.handle_checkin(one, 1, Health::Broken, bench.now);
    assert_eq!(closed(&mut bench), [(1, CloseReason::Error, Some(ErrorKind::Closed))]);
    bench.pool.handle_clear(&reset, false, bench.now);
    bench.pool.handle_ready(bench.now);
    bench.pool.handle_cause(two, &reset);
    bench.pool.handle_checkin(two, 2, Health::Broken, bench.now);
    assert_eq!(closed(&mut bench), [(2, CloseReason::Stale, None)]);
    // One that can't be opened; one that is not opened in time, published once.
    bench.wait();
    bench.wait();
    let opens = bench.opens();
    bench.pool.handle_open_failed(opens[0], &reset, bench.now);
    bench.pool.handle_refill(bench.now);
    assert_eq!(closed(&mut bench), [(3, CloseReason::Error, Some(ErrorKind::Closed))]);
    bench.later(ms(500));
    assert_eq!(closed(&mut bench), [(4, CloseReason::Error, Some(ErrorKind::Timeout))]);
    bench.pool.handle_open_failed(opens[1], &Error::new(ErrorKind::Interrupted, "too late"), bench.now);
    bench.pool.handle_refill(bench.now);
    assert_eq!(closed(&mut bench), []);
    // One that fails its liveness check. The cause of another connection is not used.
    bench.actions();
    let five = bench.check_out_new();
    bench.pool.handle_checkin(five, 5, Health::Good, bench.now);
    bench.now += ms(1001);
    let (lease, connection, liveness_check) = bench.check_out();
    let place = QueuePosition { waiter: liveness_check.expect("looked at"), requested_at: bench.now, deadline: None };
    assert!(matches!(bench.pool.handle_liveness_check_failed(lease, connection, place, bench.now), Checkout::Waiting(_)));
    assert_eq!(closed(&mut bench), [(5, CloseReason::Error, Some(ErrorKind::Closed))]);
    let six = bench.opens()[0];
    bench.pool.handle_opened(six, 6, bench.now);
    bench.pool.handle_cause(one, &reset);
    bench.pool.handle_checkin(six, 6, Health::Broken, bench.now);
    assert_eq!(closed(&mut bench), [(6, CloseReason::Error, None)]);
}

/// Every fact in every state of pool and connection, against the recorded matrix.
#[test]
fn states_and_events_match_the_recorded_matrix() {
    type Step = (&'static str, fn(&mut Bench, Lease));
    type Make = fn() -> (Bench, Lease);
    let states: [(&str, Make); 7] = [
        ("Paused", || {
            let mut bench = Bench::ready(config());
            let lease = bench.check_out_new();
            bench.pool.handle_checkin(lease, 1, Health::Broken, bench.now);
            bench.pool.handle_clear(&Error::new(ErrorKind::Closed, "x"), false, bench.now);
            (bench, lease)
        }),
        ("Ready, empty", || {
            let mut bench = Bench::ready(config());
            let lease = bench.check_out_new();
            bench.pool.handle_checkin(lease, 1, Health::Broken, bench.now);
            (bench, lease)
        }),
        ("Ready, Opening", || {
            let mut bench = Bench::ready(config());
            bench.wait();
            let lease = bench.opens()[0];
            (bench, lease)
        }),
        ("Ready, Idle", || {
            let mut bench = Bench::ready(config());
            let lease = bench.check_out_new();
            bench.pool.handle_checkin(lease, 1, Health::Good, bench.now);
            (bench, lease)
        }),
        ("Ready, InUse", || {
            let mut bench = Bench::ready(config());
            let lease = bench.check_out_new();
            (bench, lease)
        }),
        ("Ready, Draining", || {
            let mut bench = Bench::ready(config());
            let lease = bench.check_out_new();
            bench.pool.handle_checkin(lease, 1, Health::ReplyOutstanding, bench.now);
            (bench, lease)
        }),
        ("Closed", || {
            let mut bench = Bench::ready(config());
            let lease = bench.check_out_new();
            bench.pool.handle_checkin(lease, 1, Health::Broken, bench.now);
            bench.pool.handle_close(&closed(), false, bench.now);
            (bench, lease)
        }),
    ];
    let steps: [Step; 10] = [
        ("checkout", |bench, _| {
            let answer = bench.pool.handle_checkout(None, bench.now);
            drop(answer);
        }),
        ("cancel", |bench, _| bench.pool.handle_cancel(WaiterId(0), bench.now)),
        ("opened", |bench, lease| bench.pool.handle_opened(lease, lease.id, bench.now)),
        ("open failed", |bench, lease| {
            bench.pool.handle_open_failed(lease, &Error::new(ErrorKind::Closed, "x"), bench.now);
            bench.pool.handle_refill(bench.now);
        }),
        ("ready", |bench, _| bench.pool.handle_ready(bench.now)),
        ("clear", |bench, _| bench.pool.handle_clear(&Error::new(ErrorKind::Closed, "x"), false, bench.now)),
        ("clear, interrupt", |bench, _| bench.pool.handle_clear(&Error::new(ErrorKind::Closed, "x"), true, bench.now)),
        ("resumed", |bench, _| bench.pool.handle_resumed(bench.now)),
        ("timeout", |bench, _| bench.later(DRAIN_LIMIT)),
        ("close", |bench, _| bench.pool.handle_close(&closed(), false, bench.now)),
    ];
    let mut matrix = String::new();
    for (state, make) in states {
        for (name, step) in steps {
            let (mut bench, lease) = make();
            bench.actions();
            step(&mut bench, lease);
            let text = bench.text();
            let stats = bench.pool.stats();
            let after = format!(
                "ready {} opening {} idle {} in use {} draining {} waiting {}",
                stats.ready, stats.opening, stats.idle, stats.in_use, stats.draining, stats.waiting
            );
            writeln!(matrix, "{state} x {name}: [{text}] -> {after}").expect("string");
        }
    }
    crate::matrix::compare("pool", &matrix);
}
