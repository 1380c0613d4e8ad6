//! connection-monitoring-and-pooling: who gets which connection, and what is told?

use std::time::Instant;

use mongolink::deadline::Deadline;
use mongolink::pool::{Checkout, Health, Lease, Pool, PoolAction, WaiterId, closed};
use mongolink::{ConnectionString, Error, ErrorKind, PoolConfig, PoolEvent, Stage};

use crate::support::{Scene, closed_by_peer, ms};
use mongolink::topology::Fault;

fn config() -> PoolConfig {
    PoolConfig {
        max_size: Some(4),
        min_size: 0,
        max_connecting: 2,
        max_idle_time: None,
        open_timeout: None,
        drain_limit: std::time::Duration::from_secs(10),
    }
}

/// A pool of numbered connections.
struct Bench {
    pool: Pool<u64>,
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

    fn actions(&mut self) -> Vec<PoolAction<u64>> {
        std::iter::from_fn(|| self.pool.poll_action()).collect()
    }

    fn opens(&mut self) -> Vec<Lease> {
        self.actions().into_iter().filter_map(|action| if let PoolAction::Open(lease) = action { Some(lease) } else { None }).collect()
    }

    fn events(&mut self) -> String {
        let names = std::iter::from_fn(|| self.pool.poll_event());
        names.map(|event| format!("{event:?}").split([' ', '{']).next().unwrap_or_default().to_owned()).collect::<Vec<_>>().join(" ")
    }

    fn wait(&mut self) -> WaiterId {
        match self.pool.handle_checkout(None, self.now) {
            Checkout::Waiting(waiter) => waiter,
            other @ (Checkout::CheckedOut { .. } | Checkout::Refused(_)) => panic!("{other:?}"),
        }
    }

    fn refused(&mut self) -> Error {
        match self.pool.handle_checkout(None, self.now) {
            Checkout::Refused(error) => error,
            other @ (Checkout::CheckedOut { .. } | Checkout::Waiting(_)) => panic!("{other:?}"),
        }
    }

    /// Lends a new connection.
    fn lend(&mut self) -> Lease {
        self.wait();
        let lease = self.opens()[0];
        self.pool.handle_opened(lease, lease.id, self.now);
        assert!(matches!(self.actions().as_slice(), [PoolAction::Deliver { .. }]));
        lease
    }

    fn clear(&mut self, interrupt: bool) {
        self.pool.handle_clear(&closed_by_peer(Stage::Read), interrupt, self.now);
    }
}

#[test]
fn options_come_from_the_connection_string_and_are_the_same_for_every_pool() {
    let text = "mongodb://a,b/?maxPoolSize=7&minPoolSize=2&maxIdleTimeMS=300&maxConnecting=3&waitQueueTimeoutMS=40";
    let options = ConnectionString::parse(text).expect("options").options;
    let one = PoolConfig::from_options(&options);
    assert_eq!((one.max_size, one.min_size, one.max_connecting, one.max_idle_time), (Some(7), 2, 3, Some(ms(300))));
    assert_eq!(options.wait_queue_timeout_or_default(), Some(ms(40)));
    assert_eq!(format!("{one:?}"), format!("{:?}", PoolConfig::from_options(&options)));
    let plain = PoolConfig::from_options(&ConnectionString::parse("mongodb://a").expect("options").options);
    assert_eq!((plain.max_size, plain.min_size, plain.max_connecting, plain.max_idle_time), (Some(100), 0, 2, None));
    let endless = PoolConfig::from_options(&ConnectionString::parse("mongodb://a/?maxPoolSize=0").expect("options").options);
    assert_eq!(endless.max_size, None);
}

#[test]
fn limits_of_the_wait_queue_itself_are_no_options() {
    for key in ["waitQueueSize", "waitQueueMultiple"] {
        let read = ConnectionString::parse(&format!("mongodb://a/?{key}=3")).expect("options");
        let [warning] = &read.warnings[..] else { panic!("{:?}", read.warnings) };
        assert!(warning.to_string().contains("is not an option"), "{warning}");
    }
}

#[test]
fn paused_pool_opens_nothing_until_it_is_ready_and_tells_that_first() {
    let mut bench = Bench::new(PoolConfig { min_size: 2, ..config() });
    bench.pool.handle_timeout(bench.now + ms(100_000));
    assert_eq!((bench.opens().len(), bench.events().as_str(), bench.pool.poll_timeout()), (0, "", None));
    bench.pool.handle_ready(bench.now);
    assert_eq!(bench.opens().len(), 2);
    assert_eq!(bench.events(), "PoolReady ConnectionCreated ConnectionCreated");
}

#[test]
fn ready_twice_and_cleared_twice_are_told_once() {
    let mut bench = Bench::new(config());
    bench.clear(false);
    assert_eq!(bench.events(), "", "it was paused");
    bench.pool.handle_ready(bench.now);
    bench.pool.handle_ready(bench.now);
    bench.clear(false);
    bench.clear(true);
    assert_eq!(bench.events(), "PoolReady PoolCleared");
    assert_eq!(bench.pool.stats().generation, 3, "each makes older connections stale");
}

#[test]
fn clear_refuses_all_who_wait_at_once_with_an_error_that_is_retryable_and_nobodys_fault() {
    let mut bench = Bench::ready(config());
    let waiters: Vec<_> = (0..5).map(|_| bench.wait()).collect();
    bench.actions();
    bench.clear(false);
    let mut refused = Vec::new();
    for action in bench.actions() {
        if let PoolAction::Refuse(waiter, error) = action {
            assert_eq!(error.kind(), ErrorKind::PoolCleared);
            assert!(error.has_label("RetryableError"), "{error:?}");
            let mut scene = Scene::settled();
            scene.fault("a", Fault::new(error, 0));
            assert!(scene.orders().is_empty());
            refused.push(waiter);
        }
    }
    assert_eq!(refused, waiters);
    assert_eq!(bench.refused().kind(), ErrorKind::PoolCleared, "until it is ready again");
}

#[test]
fn interruption_hits_older_generations_only_the_pending_ones_too_and_the_pool_goes_on() {
    let mut bench = Bench::ready(config());
    let old = bench.lend();
    bench.wait();
    let pending = bench.opens()[0];
    bench.clear(true);
    let hit: Vec<u64> = bench
        .actions()
        .iter()
        .filter_map(|action| if let PoolAction::Interrupt(lease, _) = action { Some(lease.id) } else { None })
        .collect();
    assert_eq!(hit, [old.id, pending.id]);
    bench.pool.handle_ready(bench.now);
    let new = bench.lend();
    assert_eq!(new.generation, 1, "a new connection does not wait for the old ones");
    bench.clear(true);
    let again: Vec<u64> = bench
        .actions()
        .iter()
        .filter_map(|action| if let PoolAction::Interrupt(lease, _) = action { Some(lease.id) } else { None })
        .collect();
    assert_eq!(again, [new.id], "each is interrupted once");
}

#[test]
fn connections_are_numbered_from_one_in_each_pool() {
    for _ in 0..2 {
        let mut bench = Bench::ready(config());
        let ids: Vec<u64> = (0..3).map(|_| bench.lend().id).collect();
        assert_eq!(ids, [1, 2, 3]);
    }
}

#[test]
fn perished_connections_met_on_the_way_are_closed_and_the_search_goes_on() {
    let mut bench = Bench::ready(PoolConfig { max_idle_time: Some(ms(100)), ..config() });
    let (one, two) = (bench.lend(), bench.lend());
    bench.pool.handle_checkin(one, 1, Health::Good, bench.now);
    bench.pool.handle_checkin(two, 2, Health::Good, bench.now);
    bench.events();
    bench.now += ms(100);
    bench.wait();
    let closed: Vec<u64> =
        bench.actions().iter().filter_map(|action| if let PoolAction::Close(_, id) = action { Some(*id) } else { None }).collect();
    assert_eq!(closed, [2, 1]);
    assert_eq!(bench.events(), "CheckOutStarted ConnectionClosed ConnectionClosed ConnectionCreated");
}

#[test]
fn foreign_connection_is_closed_and_changes_nothing() {
    let mut bench = Bench::ready(config());
    let own = bench.lend();
    let before = bench.pool.stats();
    bench.events();
    bench.pool.handle_checkin(Lease { id: 77, ..own }, 77, Health::Good, bench.now);
    assert!(matches!(bench.actions().as_slice(), [PoolAction::Close(_, 77)]));
    assert_eq!((bench.pool.stats(), bench.events().as_str()), (before, ""));
}

#[test]
fn connection_is_told_as_checked_in_before_it_is_told_as_closed() {
    let ends: [fn(&mut Bench, Lease); 3] = [
        |bench, lease| bench.pool.handle_checkin(lease, lease.id, Health::Broken, bench.now),
        |bench, lease| {
            bench.clear(false);
            bench.pool.handle_checkin(lease, lease.id, Health::Good, bench.now);
        },
        |bench, lease| {
            bench.pool.handle_close(&closed(), false, bench.now);
            bench.pool.handle_checkin(lease, lease.id, Health::Good, bench.now);
        },
    ];
    for end in ends {
        let mut bench = Bench::ready(config());
        let lease = bench.lend();
        bench.events();
        end(&mut bench, lease);
        assert!(bench.events().ends_with("CheckedIn ConnectionClosed"));
    }
}

#[test]
fn who_came_first_is_served_first_also_by_a_connection_that_comes_back() {
    let mut bench = Bench::ready(PoolConfig { max_connecting: 1, ..config() });
    let lent = bench.lend();
    let waiters: Vec<_> = (0..3).map(|_| bench.wait()).collect();
    let opens = bench.opens();
    assert_eq!(opens.len(), 1, "maxConnecting");
    bench.pool.handle_checkin(lent, lent.id, Health::Good, bench.now);
    bench.pool.handle_opened(opens[0], opens[0].id, bench.now);
    let served: Vec<_> = bench
        .actions()
        .iter()
        .filter_map(|action| if let PoolAction::Deliver { waiter, connection, .. } = action { Some((*waiter, *connection)) } else { None })
        .collect();
    assert_eq!(served, [(waiters[0], 1), (waiters[1], 2)]);
}

#[test]
fn failed_set_up_is_a_failed_checkout_by_a_connection_error() {
    let mut bench = Bench::ready(config());
    bench.wait();
    let lease = bench.opens()[0];
    bench.events();
    bench.pool.handle_open_failed(lease, &closed_by_peer(Stage::Hello), bench.now);
    bench.pool.handle_refill(bench.now);
    let failures: Vec<_> = std::iter::from_fn(|| bench.pool.poll_event())
        .filter_map(|event| if let PoolEvent::CheckOutFailed { reason, error, .. } = event { Some((reason, error.kind())) } else { None })
        .collect();
    assert_eq!(failures, [(mongolink::CheckOutFailure::ConnectionError, ErrorKind::Closed)]);
}

#[test]
fn wait_queue_timeout_names_its_limit_and_closed_pool_says_so() {
    let mut bench = Bench::ready(PoolConfig { max_size: Some(1), ..config() });
    bench.lend();
    let deadline = Deadline::new("waitQueueTimeoutMS", ms(50), bench.now);
    assert!(matches!(bench.pool.handle_checkout(Some(deadline), bench.now), Checkout::Waiting(_)));
    bench.now += ms(50);
    bench.pool.handle_timeout(bench.now);
    let actions = bench.actions();
    let [PoolAction::Refuse(_, error)] = actions.as_slice() else { panic!("{actions:?}") };
    assert!(error.is_timeout() && error.limit().is_some_and(|limit| limit.name == "waitQueueTimeoutMS"), "{error}");
    bench.pool.handle_close(&closed(), false, bench.now);
    assert_eq!(bench.refused().kind(), ErrorKind::PoolClosed);
}

#[test]
fn count_of_operations_falls_however_one_ends() {
    type End = (&'static str, fn(&mut Bench, Lease));
    type Refusal = (&'static str, fn(&mut Bench, WaiterId));
    let ends: [End; 5] = [
        ("well", |bench, lease| bench.pool.handle_checkin(lease, 1, Health::Good, bench.now)),
        ("with a broken connection", |bench, lease| bench.pool.handle_checkin(lease, 1, Health::Broken, bench.now)),
        ("abandoned", |bench, lease| bench.pool.handle_checkin(lease, 1, Health::ReplyOutstanding, bench.now)),
        ("after a clearing", |bench, lease| {
            bench.pool.handle_clear(&closed_by_peer(Stage::Read), true, bench.now);
            bench.pool.handle_checkin(lease, 1, Health::Broken, bench.now);
        }),
        ("after the pool", |bench, lease| {
            bench.pool.handle_close(&closed(), true, bench.now);
            bench.pool.handle_checkin(lease, 1, Health::Good, bench.now);
        }),
    ];
    for (name, end) in ends {
        let mut bench = Bench::ready(config());
        bench.wait();
        assert_eq!(bench.pool.load(), 1, "who waits counts");
        let lease = bench.opens()[0];
        bench.pool.handle_opened(lease, 1, bench.now);
        assert_eq!(bench.pool.load(), 1, "who has one counts");
        end(&mut bench, lease);
        assert_eq!(bench.pool.load(), 0, "{name}");
    }
    let refusals: [Refusal; 4] = [
        ("cancelled", |bench, waiter| bench.pool.handle_cancel(waiter, bench.now)),
        ("cleared", |bench, _| bench.pool.handle_clear(&closed_by_peer(Stage::Read), false, bench.now)),
        ("closed", |bench, _| bench.pool.handle_close(&closed(), false, bench.now)),
        ("not opened", |bench, _| {
            let lease = bench.opens()[0];
            bench.pool.handle_open_failed(lease, &closed_by_peer(Stage::Tcp), bench.now);
        }),
    ];
    for (name, end) in refusals {
        let mut bench = Bench::ready(config());
        let waiter = bench.wait();
        assert_eq!(bench.pool.load(), 1);
        end(&mut bench, waiter);
        assert_eq!(bench.pool.load(), 0, "{name}");
    }
    let mut bench = Bench::ready(PoolConfig { max_size: Some(1), ..config() });
    bench.wait();
    let lease = bench.opens()[0];
    bench.pool.handle_opened(lease, 1, bench.now);
    let deadline = Deadline::new("waitQueueTimeoutMS", ms(100), bench.now);
    assert!(matches!(bench.pool.handle_checkout(Some(deadline), bench.now), Checkout::Waiting(_)));
    assert_eq!(bench.pool.load(), 2);
    bench.pool.handle_timeout(bench.now + ms(100));
    assert_eq!(bench.pool.load(), 1, "late");
}
