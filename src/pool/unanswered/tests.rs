use super::*;
use crate::error::{Error, ErrorKind};
use crate::pool::{Checkout, Health, Lease, Pool, PoolConfig};

/// A pool whose connections are numbers.
struct Bench {
    pool: Pool<u64>,
    now: Instant,
    began: Instant,
}

impl Bench {
    fn new() -> Self {
        let config = PoolConfig {
            max_size: None,
            min_size: 0,
            max_connecting: 2,
            max_idle_time: None,
            open_timeout: None,
            drain_limit: Duration::from_secs(10),
        };
        let now = Instant::now();
        let mut pool = Pool::new(config, 0);
        pool.handle_ready(now);
        Self { pool, now, began: now }
    }

    /// Checks a new connection out.
    fn check_out_new(&mut self) -> Lease {
        assert!(matches!(self.pool.handle_checkout(None, self.now), Checkout::Waiting(_)));
        let Some(PoolAction::Open(lease)) = self.pool.poll_action() else { panic!("nothing is opened") };
        self.pool.handle_opened(lease, lease.id, self.now);
        assert!(matches!(self.pool.poll_action(), Some(PoolAction::Deliver { .. })));
        lease
    }

    fn check_in(&mut self, lease: Lease, health: Health) {
        self.pool.handle_checkin(lease, lease.id, health, self.now);
    }

    /// Runs the timers. Returns the milliseconds at which a command was reported as unanswered, and the number of timers that ran.
    fn run(&mut self, millis: u64) -> (Vec<u128>, usize) {
        let end = self.now + Duration::from_millis(millis);
        let (mut published, mut timers) = (Vec::new(), 0);
        while let Some((at, _)) = self.pool.poll_timeout().filter(|(at, _)| *at <= end) {
            assert!(at >= self.now, "no timer lies in the past");
            (self.now, timers) = (at, timers + 1);
            self.pool.handle_timeout(at);
            while let Some(action) = self.pool.poll_action() {
                if matches!(action, PoolAction::Unanswered) {
                    published.push(at.duration_since(self.began).as_millis());
                }
            }
            assert!(self.pool.poll_timeout().is_none_or(|(next, _)| next > at));
        }
        self.now = end;
        (published, timers)
    }
}

#[test]
fn idle_pool_has_no_timer() {
    let mut bench = Bench::new();
    assert_eq!(bench.pool.poll_timeout(), None);
    let lease = bench.check_out_new();
    assert_eq!(bench.pool.poll_timeout(), Some((bench.began + UNANSWERED_AFTER, "UNANSWERED_AFTER")));
    bench.check_in(lease, Health::Good);
    assert_eq!(bench.pool.poll_timeout(), None);
    assert_eq!(bench.run(3_600_000), (vec![], 0));
    assert!(matches!(bench.pool.handle_checkout(None, bench.now), Checkout::CheckedOut { .. }));
    assert_eq!(bench.pool.poll_timeout(), Some((bench.now + UNANSWERED_AFTER, "UNANSWERED_AFTER")));
}

#[test]
fn command_that_runs_long_is_reported_every_five_seconds() {
    let mut bench = Bench::new();
    let lease = bench.check_out_new();
    assert_eq!(bench.run(17_000), (vec![5000, 10_000, 15_000], 3));
    bench.check_in(lease, Health::Good);
    assert_eq!(bench.run(3_600_000), (vec![], 0));
}

#[test]
fn busy_pool_of_short_commands_reports_nothing() {
    let mut bench = Bench::new();
    let mut in_use = [bench.check_out_new(), bench.check_out_new()];
    // There is always one in use, and none for long.
    for round in 0..30 {
        let (published, _) = bench.run(1000);
        assert!(published.is_empty());
        let at = round % 2;
        bench.check_in(in_use[at], Health::Good);
        let Checkout::CheckedOut { lease, .. } = bench.pool.handle_checkout(None, bench.now) else { panic!("one rests") };
        in_use[at] = lease;
    }
}

#[test]
fn oldest_command_counts() {
    let mut bench = Bench::new();
    let first = bench.check_out_new();
    bench.run(2000);
    bench.check_out_new();
    bench.check_in(first, Health::Good);
    assert_eq!(bench.run(6000), (vec![7000], 2), "looked at 5000, when the second was three seconds old");
}

#[test]
fn reply_that_its_caller_gave_up_on_is_unanswered_too() {
    let mut bench = Bench::new();
    let lease = bench.check_out_new();
    bench.run(1000);
    bench.check_in(lease, Health::ReplyOutstanding);
    assert!(matches!(bench.pool.poll_action(), Some(PoolAction::Drain(..))));
    assert_eq!(bench.run(5000).0, [5000]);
}

#[test]
fn interrupted_command_is_no_longer_waited_for() {
    let mut bench = Bench::new();
    bench.check_out_new();
    bench.pool.handle_clear(&Error::new(ErrorKind::Silent, "silent"), true, bench.now);
    while bench.pool.poll_action().is_some() {}
    assert_eq!(bench.run(60_000), (vec![], 1));
    // A connection that is checked out beside it is waited for like any other.
    bench.pool.handle_ready(bench.now);
    bench.check_out_new();
    assert_eq!(bench.run(5000).0, [65_000]);
}
