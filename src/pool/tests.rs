use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::*;
use crate::deadline::Deadline;
use crate::error::{Error, ErrorKind};

mod balanced;
mod late;
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

    /// Returns the names of the events since the last call.
    fn events(&mut self) -> String {
        let names = std::iter::from_fn(|| self.pool.poll_event());
        names.map(|event| format!("{event:?}").split([' ', '{']).next().unwrap_or_default().to_owned()).collect::<Vec<_>>().join(" ")
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
fn paused_pool_refuses_checkout() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.refused().kind(), ErrorKind::PoolCleared);
    assert!(bench.refused().has_label("RetryableError"));
    assert_eq!(bench.text(), "");
}

#[test]
fn closed_pool_refuses_checkouts_and_closes_connections_at_checkin() {
    let mut bench = Bench::ready(config());
    let lease = bench.check_out_new();
    bench.pool.handle_close(&closed(), false, bench.now);
    assert_eq!(bench.refused().kind(), ErrorKind::PoolClosed);
    bench.pool.handle_checkin(lease, lease.id, Health::Good, bench.now);
    assert_eq!(bench.text(), "close 1");
    assert_eq!(bench.pool.stats().total(), 0);
}

#[test]
fn closed_pool_interrupts_connections_in_use_later() {
    let mut bench = Bench::ready(config());
    bench.check_out_new();
    bench.pool.handle_close(&closed(), false, bench.now);
    assert_eq!(bench.text(), "");
    bench.pool.handle_close(&closed(), true, bench.now);
    assert_eq!(bench.text(), "interrupt 1");
    bench.pool.handle_close(&closed(), true, bench.now);
    assert_eq!(bench.text(), "", "once");
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

#[test]
fn load_counts_connections_in_use_and_waiters() {
    let mut bench = Bench::ready(config());
    assert_eq!(bench.pool.load(), 0);
    let leases = [bench.check_out_new(), bench.check_out_new()];
    assert_eq!(bench.pool.load(), 2);
    for waiting in 1..=3 {
        bench.wait();
        assert_eq!(bench.pool.load(), 2 + waiting);
    }
    for lease in leases {
        bench.pool.handle_checkin(lease, lease.id, Health::Good, bench.now);
    }
    assert_eq!(bench.pool.load(), 3, "a connection that is checked in goes to a waiter");
}

#[test]
fn connection_that_was_idle_for_too_long_is_never_checked_out_even_if_no_timer_ran() {
    let mut bench = Bench::ready(PoolConfig { max_idle_time: Some(ms(500)), ..config() });
    let lease = bench.check_out_new();
    bench.pool.handle_checkin(lease, lease.id, Health::Good, bench.now);
    bench.events();
    bench.now += ms(500);
    bench.wait();
    assert_eq!(bench.text(), "close 1 open 2");
    assert_eq!(bench.events(), "CheckOutStarted ConnectionClosed ConnectionCreated");
}

#[test]
fn connection_that_has_been_idle_longest_sets_the_timer() {
    let mut bench = Bench::ready(PoolConfig { max_idle_time: Some(ms(500)), ..config() });
    let leases = [bench.check_out_new(), bench.check_out_new()];
    let began = bench.now;
    for lease in leases {
        bench.pool.handle_checkin(lease, lease.id, Health::Good, bench.now);
        bench.now += ms(100);
    }
    assert_eq!(bench.pool.poll_timeout(), Some((began + ms(500), "maxIdleTimeMS")));
    bench.later(ms(300));
    assert_eq!(bench.text(), "close 1");
    assert_eq!(bench.pool.poll_timeout(), Some((began + ms(600), "maxIdleTimeMS")));
}

#[test]
fn of_timers_at_one_moment_that_of_the_caller_is_named() {
    let mut bench = Bench::ready(PoolConfig { max_size: Some(1), ..config() });
    bench.check_out_new();
    let due = bench.now + UNANSWERED_AFTER;
    assert_eq!(bench.pool.poll_timeout(), Some((due, "UNANSWERED_AFTER")));
    bench.wait_until(Some(UNANSWERED_AFTER));
    assert_eq!(bench.pool.poll_timeout(), Some((due, "waitQueueTimeoutMS")));
}

#[test]
fn pause_after_a_failure_ends_even_if_no_timer_ran() {
    let mut bench = Bench::ready(PoolConfig { min_size: 2, max_size: Some(3), max_connecting: 1, ..config() });
    let mut in_use = Vec::new();
    for number in 1..3 {
        let opens = bench.opens();
        bench.pool.handle_opened(opens[0], number, bench.now);
    }
    for _ in 0..2 {
        let Checkout::CheckedOut { lease, connection, .. } = bench.pool.handle_checkout(None, bench.now) else { panic!("two are idle") };
        in_use.push((lease, connection));
    }
    bench.wait();
    let opens = bench.opens();
    bench.pool.handle_open_failed(opens[0], &Error::new(ErrorKind::Closed, "gone"), bench.now);
    for (lease, connection) in in_use {
        bench.pool.handle_checkin(lease, connection, Health::Good, bench.now);
    }
    bench.now += Duration::from_secs(5);
    bench.pool.handle_resumed(bench.now);
    assert_eq!(bench.pool.stats().opening, 1, "maxConnecting");
    assert!(bench.pool.poll_timeout().is_none_or(|(at, _)| at > bench.now), "{:?}", bench.pool.poll_timeout());
}

#[test]
fn waiters_are_served_in_order() {
    let mut bench = Bench::ready(config());
    let waiters: Vec<_> = (0..4).map(|_| bench.wait()).collect();
    let opens = bench.opens();
    assert_eq!(opens.len(), 2, "maxPoolSize");
    bench.pool.handle_opened(opens[1], 2, bench.now);
    bench.pool.handle_opened(opens[0], 1, bench.now);
    assert_eq!(bench.text(), "deliver 2 to 0 deliver 1 to 1");
    bench.pool.handle_checkin(opens[0], 1, Health::Good, bench.now);
    bench.pool.handle_checkin(opens[1], 2, Health::Good, bench.now);
    assert_eq!(bench.text(), format!("deliver 1 to {} deliver 2 to {}", waiters[2].0, waiters[3].0));
}

#[test]
fn max_connecting_holds_and_a_checkin_serves_the_waiter() {
    let mut bench = Bench::ready(PoolConfig { max_size: Some(10), max_connecting: 1, ..config() });
    let lease = bench.check_out_new();
    bench.wait();
    bench.wait();
    assert_eq!(bench.text(), "open 2");
    bench.pool.handle_checkin(lease, 1, Health::Good, bench.now);
    assert_eq!(bench.text(), "deliver 1 to 1");
    assert_eq!(bench.pool.stats().opening, 1);
}

#[test]
fn cancelled_waiter_leaves_at_once_and_its_opening_continues() {
    let mut bench = Bench::ready(config());
    let waiter = bench.wait_until(Some(ms(100)));
    let open = bench.opens()[0];
    bench.pool.handle_cancel(waiter, bench.now);
    assert_eq!(bench.pool.stats().waiting, 0);
    assert_eq!(bench.pool.poll_timeout(), None);
    bench.pool.handle_opened(open, 1, bench.now);
    assert_eq!(bench.pool.stats().idle, 1);
    assert_eq!(bench.text(), "");
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

#[test]
fn time_in_the_wait_queue_ends_where_a_connection_is_opened() {
    let mut bench = Bench::ready(PoolConfig { max_size: Some(10), max_connecting: 1, ..config() });
    bench.wait_until(Some(ms(100)));
    let open = bench.opens()[0];
    bench.later(ms(100));
    assert_eq!((bench.text(), bench.pool.poll_timeout()), (String::new(), None));
    let call = Deadline::new("timeoutMS", ms(100), bench.now);
    assert!(matches!(bench.pool.handle_checkout(Some(call), bench.now), Checkout::Waiting(_)));
    bench.pool.handle_opened(open, 1, bench.now);
    assert_eq!(bench.text(), "deliver 1 to 0 open 2");
    bench.later(ms(100));
    assert_eq!(bench.text(), "refuse 1 Timeout", "the limit of a whole call counts all of it");
}

#[test]
fn opening_that_serves_an_earlier_waiter_no_longer_spares_a_later_one() {
    for room in [false, true] {
        let mut bench = Bench::ready(PoolConfig { max_size: Some(3), max_connecting: if room { 2 } else { 1 }, ..config() });
        let one = bench.check_out_new();
        let two = bench.check_out_new();
        bench.pool.handle_checkin(two, 2, Health::Good, bench.now);
        bench.now += ms(1001);
        let (lease, connection, liveness_check) = bench.check_out();
        let earlier = QueuePosition { waiter: liveness_check.expect("looked at"), requested_at: bench.now, deadline: None };
        let later = bench.wait_until(Some(ms(100)));
        let dial = bench.opens()[0];
        bench.later(ms(100));
        assert_eq!((bench.text(), bench.pool.stats().waiting), (String::new(), 1), "a connection is on its way");
        let back = bench.pool.handle_liveness_check_failed(lease, connection, earlier, bench.now);
        assert!(matches!(back, Checkout::Waiting(waiter) if waiter < later));
        if room {
            assert_eq!(bench.text(), "close 2 open 4", "each has one on its way");
            bench.pool.handle_opened(dial, 3, bench.now);
            assert_eq!(bench.text(), format!("deliver 3 to {}", earlier.waiter.0));
        } else {
            assert_eq!(bench.text(), format!("close 2 refuse {} Timeout", later.0));
            bench.pool.handle_opened(dial, 3, bench.now);
            bench.pool.handle_checkin(one, 1, Health::Good, bench.now);
            assert_eq!(bench.text(), format!("deliver 3 to {}", earlier.waiter.0));
        }
    }
}

#[test]
fn newest_idle_connection_is_checked_out_and_old_ones_need_a_liveness_check() {
    let mut bench = Bench::ready(config());
    let one = bench.check_out_new();
    let two = bench.check_out_new();
    bench.pool.handle_checkin(two, 2, Health::Good, bench.now);
    bench.pool.handle_checkin(one, 1, Health::Good, bench.now);
    bench.now += ms(1000);
    assert_eq!(bench.check_out(), (one, 1, None));
    bench.now += ms(1);
    let (lease, connection, liveness_check) = bench.check_out();
    assert_eq!(connection, 2);
    let later = bench.wait();
    let waiter = liveness_check.expect("looked at");
    let place = QueuePosition { waiter, requested_at: bench.now, deadline: None };
    match bench.pool.handle_liveness_check_failed(lease, connection, place, bench.now) {
        Checkout::Waiting(waiter) => assert!(waiter < later, "the place in the queue is kept"),
        other @ (Checkout::CheckedOut { .. } | Checkout::Refused(_)) => panic!("{other:?}"),
    }
    assert_eq!(bench.text(), "close 2 open 3");
}

#[test]
fn clear_refuses_waiters_at_once_and_makes_the_rest_stale() {
    let mut bench = Bench::ready(config());
    let in_use = bench.check_out_new();
    bench.wait();
    let open = bench.opens()[0];
    bench.pool.handle_clear(&Error::new(ErrorKind::Closed, "reset"), false, bench.now);
    match bench.actions().as_slice() {
        [PoolAction::Refuse(_, error), PoolAction::Interrupt(..)] => assert!(error.to_string().contains("reset"), "{error}"),
        other => panic!("{other:?}"),
    }
    bench.pool.handle_ready(bench.now);
    bench.pool.handle_opened(open, 2, bench.now);
    bench.pool.handle_checkin(in_use, 1, Health::Good, bench.now);
    assert_eq!(bench.text(), "close 2 close 1");
    assert_eq!(bench.pool.stats().generation, 1);
}

#[test]
fn stale_openings_do_not_count_against_max_connecting_after_a_clear() {
    let mut bench = Bench::ready(config());
    bench.wait();
    bench.wait();
    let opens = bench.opens();
    bench.pool.handle_clear(&Error::new(ErrorKind::Closed, "reset"), false, bench.now);
    assert_eq!(bench.text(), "refuse 0 PoolCleared refuse 1 PoolCleared interrupt 1 interrupt 2");
    bench.pool.handle_ready(bench.now);
    for open in opens {
        bench.pool.handle_open_failed(open, &Error::new(ErrorKind::Interrupted, "stale"), bench.now);
    }
    bench.wait();
    assert_eq!(bench.text(), "open 3");
}

#[test]
fn shutting_down_interrupts_what_is_in_use() {
    let mut bench = Bench::ready(config());
    let lease = bench.check_out_new();
    bench.pool.handle_close(&Error::new(ErrorKind::Shutdown, "over"), true, bench.now);
    assert_eq!(bench.text(), "interrupt 1");
    assert_eq!(bench.refused().kind(), ErrorKind::Shutdown);
    bench.pool.handle_checkin(lease, 1, Health::Broken, bench.now);
    assert_eq!(bench.text(), "close 1");
}

#[test]
fn clear_with_interrupt_hits_older_generations_only() {
    let mut bench = Bench::ready(PoolConfig { max_size: Some(5), ..config() });
    let in_use = bench.check_out_new();
    bench.wait();
    let open = bench.opens()[0];
    let cause = Error::new(ErrorKind::Timeout, "silent");
    bench.pool.handle_clear(&cause, true, bench.now);
    assert_eq!(bench.text(), format!("refuse 1 PoolCleared interrupt {} interrupt {}", in_use.id, open.id));
    bench.pool.handle_clear(&cause, true, bench.now);
    assert_eq!(bench.text(), "", "interrupted once");
    bench.pool.handle_ready(bench.now);
    bench.pool.handle_open_failed(open, &cause, bench.now);
    bench.pool.handle_checkin(in_use, 1, Health::Good, bench.now);
    assert_eq!(bench.text(), "close 1");
}

#[test]
fn late_reply_is_drained_and_the_connection_is_idle_again() {
    let mut bench = Bench::ready(PoolConfig { max_size: Some(1), ..config() });
    let lease = bench.check_out_new();
    bench.wait();
    bench.pool.handle_checkin(lease, 1, Health::ReplyOutstanding, bench.now);
    assert_eq!(bench.text(), "drain 1");
    assert_eq!((bench.pool.stats().draining, bench.pool.stats().total()), (1, 1));
    bench.pool.handle_checkin(lease, 1, Health::Good, bench.now);
    assert_eq!(bench.text(), "deliver 1 to 1");
}

#[test]
fn reply_that_never_comes_costs_the_connection() {
    let mut bench = Bench::ready(PoolConfig { min_size: 1, max_size: Some(1), ..config() });
    let lease = bench.opens()[0];
    bench.pool.handle_opened(lease, 1, bench.now);
    bench.check_out();
    bench.pool.handle_checkin(lease, 1, Health::ReplyOutstanding, bench.now);
    bench.text();
    assert_eq!(bench.pool.poll_timeout(), Some((bench.now + UNANSWERED_AFTER, "UNANSWERED_AFTER")));
    bench.later(UNANSWERED_AFTER);
    assert_eq!(bench.text(), "unanswered");
    bench.later(DRAIN_LIMIT - UNANSWERED_AFTER);
    assert_eq!(bench.text(), "interrupt 1");
    assert_eq!(bench.pool.poll_timeout(), None);
    bench.pool.handle_checkin(lease, 1, Health::Broken, bench.now);
    assert_eq!(bench.text(), "close 1 open 2");
}

#[test]
fn failed_opening_is_reported_to_the_first_waiter_only() {
    let mut bench = Bench::ready(config());
    bench.wait();
    bench.wait();
    bench.wait();
    let opens = bench.opens();
    bench.pool.handle_open_failed(opens[0], &Error::new(ErrorKind::Closed, "refused"), bench.now);
    assert_eq!((bench.text(), bench.pool.stats().waiting), (String::new(), 2));
    bench.pool.handle_refill(bench.now);
    assert_eq!(bench.text(), "refuse 0 Closed open 3");
}

#[test]
fn min_size_is_kept_and_failures_pause_it() {
    let mut bench = Bench::ready(PoolConfig { min_size: 2, max_connecting: 1, ..config() });
    let open = bench.opens()[0];
    bench.pool.handle_open_failed(open, &Error::new(ErrorKind::Closed, "refused"), bench.now);
    bench.pool.handle_refill(bench.now);
    assert_eq!(bench.text(), "");
    assert_eq!(bench.pool.poll_timeout(), Some((bench.now + ms(1000), "minPoolSize")));
    bench.later(ms(1000));
    let open = bench.opens()[0];
    bench.pool.handle_opened(open, 2, bench.now);
    assert_eq!(bench.text(), "open 3");
}

#[test]
fn min_size_is_kept_when_dead_connections_are_skipped_at_checkout() {
    let mut bench = Bench::ready(PoolConfig { min_size: 2, ..config() });
    for (connection, open) in (1..).zip(bench.opens()) {
        bench.pool.handle_opened(open, connection, bench.now);
    }
    // Perished ones are found at the check-out, dead ones by the liveness check.
    bench.pool.record_events(true);
    bench.later(ms(1001));
    let (dead, connection, liveness_check) = bench.check_out();
    let place = QueuePosition { waiter: liveness_check.expect("looked at"), requested_at: bench.now, deadline: None };
    assert!(matches!(
        bench.pool.handle_liveness_check_failed(dead, connection, place, bench.now),
        Checkout::CheckedOut { connection: 1, .. }
    ));
    assert_eq!(bench.text(), "close 2 open 3");
    assert_eq!(bench.pool.poll_timeout().map(|(at, _)| at > bench.now), Some(true));
}

#[test]
fn idle_connections_perish_and_are_replaced() {
    let mut bench = Bench::ready(PoolConfig { min_size: 1, max_idle_time: Some(ms(500)), ..config() });
    let open = bench.opens()[0];
    bench.pool.handle_opened(open, 1, bench.now);
    assert_eq!(bench.pool.poll_timeout(), Some((bench.now + ms(500), "maxIdleTimeMS")));
    bench.later(ms(500));
    assert_eq!(bench.text(), "close 1 open 2");
}

#[test]
fn suspension_closes_idle_connections() {
    let mut bench = Bench::ready(config());
    let lease = bench.check_out_new();
    bench.pool.handle_checkin(lease, 1, Health::Good, bench.now);
    bench.pool.handle_resumed(bench.now);
    assert_eq!(bench.text(), "close 1");
    assert_eq!(bench.pool.stats().idle, 0);
}

#[test]
fn connection_in_use_across_a_suspension_is_closed_at_checkin() {
    for health in [Health::Good, Health::ReplyOutstanding] {
        let mut bench = Bench::ready(config());
        let lease = bench.check_out_new();
        bench.pool.handle_resumed(bench.now);
        assert_eq!(bench.text(), "", "its reply may still come");
        bench.pool.handle_checkin(lease, 1, health, bench.now);
        assert_eq!(bench.text(), "close 1", "no late reply is waited for");
    }
}

#[test]
fn late_reply_is_not_waited_for_across_a_suspension() {
    let mut bench = Bench::ready(config());
    let lease = bench.check_out_new();
    bench.pool.handle_checkin(lease, 1, Health::ReplyOutstanding, bench.now);
    bench.actions();
    bench.pool.handle_resumed(bench.now);
    assert_eq!(bench.text(), "interrupt 1");
    bench.pool.handle_checkin(lease, 1, Health::Broken, bench.now);
    assert_eq!((bench.text().as_str(), bench.pool.stats().draining), ("close 1", 0));
}

#[test]
fn opening_across_a_suspension_is_repeated_for_the_same_waiter() {
    let mut bench = Bench::ready(config());
    bench.wait();
    let open = bench.opens()[0];
    bench.events();
    bench.pool.handle_resumed(bench.now);
    assert_eq!(bench.text(), "interrupt 1");
    assert_eq!(bench.events(), "ConnectionClosed", "published in that moment");
    bench.pool.handle_open_failed(open, &Error::new(ErrorKind::Interrupted, "suspended"), bench.now);
    bench.pool.handle_refill(bench.now);
    let again = bench.opens()[0];
    assert_eq!((again.id, bench.pool.stats().waiting), (2, 1));
    bench.pool.handle_opened(again, 2, bench.now);
    assert_eq!(bench.text(), "deliver 2 to 0");
}

#[test]
fn opening_across_a_suspension_is_published_as_closed_once() {
    for opened in [false, true] {
        let mut bench = Bench::ready(config());
        bench.wait();
        let open = bench.opens()[0];
        while bench.pool.poll_event().is_some() {}
        bench.pool.handle_resumed(bench.now);
        let event = bench.pool.poll_event();
        assert!(
            matches!(event, Some(PoolEvent::ConnectionClosed { connection_id: 1, reason: CloseReason::Idle, error: None })),
            "{event:?}"
        );
        if opened {
            bench.pool.handle_opened(open, open.id, bench.now);
        } else {
            bench.pool.handle_open_failed(open, &Error::new(ErrorKind::Interrupted, "suspended"), bench.now);
            bench.pool.handle_refill(bench.now);
        }
        let event = bench.pool.poll_event();
        assert!(matches!(event, Some(PoolEvent::ConnectionCreated { connection_id: 2 })), "{event:?}");
    }
}

#[test]
fn pause_that_is_over_has_no_timer_when_an_opening_from_before_a_suspension_ends() {
    let mut bench = Bench::ready(PoolConfig { min_size: 1, ..config() });
    let refused = Error::new(ErrorKind::Io(std::io::ErrorKind::ConnectionRefused), "refused");
    let first = bench.opens()[0];
    bench.pool.handle_open_failed(first, &refused, bench.now);
    bench.pool.handle_refill(bench.now);
    bench.later(ms(900));
    bench.wait();
    let second = bench.opens()[0];
    bench.pool.handle_resumed(bench.now);
    bench.now += ms(101);
    bench.pool.handle_open_failed(second, &Error::new(ErrorKind::Interrupted, "suspended"), bench.now);
    assert_eq!(bench.pool.poll_timeout(), None);
    bench.pool.handle_refill(bench.now);
    assert_eq!(bench.text(), format!("interrupt {} open 3", second.id));
}

#[test]
fn opening_has_a_limit() {
    let mut bench = Bench::ready(PoolConfig { open_timeout: Some(ms(2000)), ..config() });
    bench.wait();
    let open = bench.opens()[0];
    bench.later(ms(2000));
    assert_eq!(bench.text(), format!("interrupt {}", open.id));
    bench.pool.handle_open_failed(open, &Error::new(ErrorKind::Interrupted, "late"), bench.now);
    bench.pool.handle_refill(bench.now);
    assert_eq!(bench.text(), "refuse 0 Interrupted");
}

#[test]
fn events_come_in_the_order_of_the_specification() {
    let mut bench = Bench::ready(config());
    let lease = bench.check_out_new();
    bench.pool.handle_checkin(lease, 1, Health::Good, bench.now);
    bench.pool.handle_clear(&Error::new(ErrorKind::Closed, "x"), false, bench.now);
    bench.pool.handle_clear(&Error::new(ErrorKind::Closed, "x"), false, bench.now);
    bench.pool.handle_close(&closed(), false, bench.now);
    assert_eq!(
        bench.events(),
        "PoolReady CheckOutStarted ConnectionCreated ConnectionReady CheckedOut CheckedIn PoolCleared ConnectionClosed PoolClosed"
    );
}

#[test]
fn pool_is_cleared_before_the_failed_connection_is_closed_and_its_waiter_refused() {
    let mut bench = Bench::ready(config());
    let waiter = bench.wait();
    let open = bench.opens()[0];
    let cause = Error::new(ErrorKind::Auth, "refused");
    bench.pool.handle_open_failed(open, &cause, bench.now);
    bench.pool.handle_clear(&cause, false, bench.now);
    bench.pool.handle_refill(bench.now);
    assert_eq!(bench.text(), format!("refuse {} Auth", waiter.0), "with the error itself");
    assert_eq!(bench.events(), "PoolReady CheckOutStarted ConnectionCreated PoolCleared ConnectionClosed CheckOutFailed");
}

#[test]
fn aborted_connection_is_published_as_closed_once_and_before_its_waiter_is_refused() {
    let ends: [fn(&mut Bench); 2] = [
        |bench| bench.pool.handle_clear(&Error::new(ErrorKind::Closed, "x"), true, bench.now),
        |bench| bench.pool.handle_close(&closed(), false, bench.now),
    ];
    let published = ["PoolCleared ConnectionClosed CheckOutFailed", "ConnectionClosed CheckOutFailed PoolClosed"];
    for (end, published) in ends.into_iter().zip(published) {
        for is_opened in [true, false] {
            let mut bench = Bench::ready(config());
            bench.wait();
            let open = bench.opens()[0];
            bench.events();
            end(&mut bench);
            match is_opened {
                true => bench.pool.handle_opened(open, 1, bench.now),
                false => bench.pool.handle_open_failed(open, &Error::new(ErrorKind::Interrupted, "x"), bench.now),
            }
            bench.pool.handle_refill(bench.now);
            assert_eq!(bench.events(), published);
            assert_eq!((bench.pool.stats().created, bench.pool.stats().closed), (1, 1));
        }
    }
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

/// Random facts keep the invariants of the pool.
#[test]
fn random_sequences_keep_the_promises() {
    use rand::{RngExt, SeedableRng};
    for seed in 0..300 {
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let mut bench = Bench::new(PoolConfig {
            max_size: Some(3),
            min_size: 1,
            max_connecting: 2,
            max_idle_time: Some(ms(5000)),
            open_timeout: Some(ms(3000)),
            drain_limit: DRAIN_LIMIT,
        });
        let mut opening: Vec<Lease> = Vec::new();
        let mut in_use: Vec<Lease> = Vec::new();
        let mut draining: Vec<Lease> = Vec::new();
        let mut waiting: Vec<WaiterId> = Vec::new();
        let mut generation = 0;
        let mut ready = false;
        for step in 0..400 {
            let place = |random: &mut rand::rngs::SmallRng, length: usize| random.random_range(0..length.max(1));
            match random.random_range(0..12) {
                0..3 => {
                    match bench.pool.handle_checkout(Deadline::maybe("w", Some(ms(random.random_range(1..4000))), bench.now), bench.now) {
                        Checkout::CheckedOut { lease, .. } => {
                            assert!(
                                ready && lease.generation == generation,
                                "seed {seed} step {step}: only current connections of a ready pool"
                            );
                            in_use.push(lease);
                        }
                        Checkout::Waiting(waiter) => waiting.push(waiter),
                        Checkout::Refused(_) => assert!(!ready, "seed {seed} step {step}"),
                    }
                }
                3 if !waiting.is_empty() => {
                    let waiter = waiting.remove(place(&mut random, waiting.len()));
                    bench.pool.handle_cancel(waiter, bench.now);
                }
                4..6 if !opening.is_empty() => {
                    let lease = opening.remove(place(&mut random, opening.len()));
                    bench.pool.handle_opened(lease, lease.id, bench.now);
                }
                6 if !opening.is_empty() => {
                    let lease = opening.remove(place(&mut random, opening.len()));
                    bench.pool.handle_open_failed(lease, &Error::new(ErrorKind::Closed, "x"), bench.now);
                    bench.pool.handle_refill(bench.now);
                }
                7..9 if !in_use.is_empty() => {
                    let lease = in_use.remove(place(&mut random, in_use.len()));
                    let health = [Health::Good, Health::Broken, Health::ReplyOutstanding][random.random_range(0..3)];
                    bench.pool.handle_checkin(lease, lease.id, health, bench.now);
                }
                9 if !draining.is_empty() => {
                    let lease = draining.remove(place(&mut random, draining.len()));
                    bench.pool.handle_checkin(lease, lease.id, Health::Good, bench.now);
                }
                10 => {
                    bench.pool.handle_ready(bench.now);
                    ready = true;
                }
                11 if random.random_bool(0.3) => {
                    bench.pool.handle_clear(&Error::new(ErrorKind::Closed, "x"), random.random_bool(0.5), bench.now);
                    generation += 1;
                    ready = false;
                }
                _ => bench.later(ms(random.random_range(0..2000))),
            }
            for action in bench.actions() {
                match action {
                    PoolAction::Open(lease) => opening.push(lease),
                    PoolAction::Deliver { waiter, lease, .. } => {
                        assert_eq!(waiting.iter().min(), Some(&waiter), "seed {seed} step {step}: no waiter is passed over");
                        assert_eq!(lease.generation, generation, "seed {seed} step {step}");
                        waiting.retain(|other| *other != waiter);
                        in_use.push(lease);
                    }
                    PoolAction::Refuse(waiter, _) => {
                        assert!(waiting.contains(&waiter), "seed {seed} step {step}: refused once");
                        waiting.retain(|other| *other != waiter);
                    }
                    PoolAction::Drain(lease, _) => draining.push(lease),
                    PoolAction::Close(..) | PoolAction::Interrupt(..) | PoolAction::Unanswered => {}
                }
            }
            let stats = bench.pool.stats();
            assert!(stats.total() <= 3 && stats.opening <= 2, "seed {seed} step {step}: {stats:?}");
            assert_eq!(
                (stats.opening, stats.in_use, stats.draining, stats.waiting),
                (opening.len(), in_use.len(), draining.len(), waiting.len()),
                "seed {seed} step {step}"
            );
            assert!(!(stats.idle > 0 && stats.waiting > 0), "seed {seed} step {step}: no waiter beside an idle connection");
            if let Some((at, name)) = bench.pool.poll_timeout() {
                bench.pool.handle_timeout(bench.now);
                assert!(
                    at > bench.now || bench.pool.poll_timeout().is_none_or(|(next, _)| next > bench.now),
                    "seed {seed} step {step}: {name} lies in the past"
                );
            }
        }
    }
}
