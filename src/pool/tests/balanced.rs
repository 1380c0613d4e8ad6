//! Pools behind a load balancer: load-balancers, "Connection Pooling" and "Error Handling".

use bson::oid::ObjectId;

use super::*;

fn service(number: u8) -> ObjectId {
    ObjectId::from_bytes([number; 12])
}

fn failure() -> Error {
    Error::new(ErrorKind::Closed, "x")
}

impl Bench {
    fn balanced(config: PoolConfig) -> Self {
        let mut pool = Pool::new(config, 0).behind_load_balancer();
        pool.record_events(true);
        let mut bench = Self { pool, now: Instant::now() };
        bench.pool.handle_ready(bench.now);
        bench
    }

    /// Starts to open a connection for a waiter, up to its hello.
    fn greeted(&mut self, number: u8) -> Lease {
        self.wait();
        let open = self.opens()[0];
        self.pool.handle_greeted(open, service(number))
    }

    /// Checks out a new connection that reaches a service.
    fn check_out_of(&mut self, number: u8) -> Lease {
        let lease = self.greeted(number);
        self.pool.handle_opened(lease, lease.id, self.now);
        assert!(self.text().starts_with(&format!("deliver {} to", lease.id)));
        lease
    }

    fn back(&mut self, lease: Lease) {
        self.pool.handle_checkin(lease, lease.id, Health::Good, self.now);
    }

    fn clear(&mut self, lease: Lease, number: u8) {
        self.pool.handle_clear_service(service(number), lease.generation, &failure(), self.now);
    }

    fn published(&mut self) -> Vec<PoolEvent> {
        std::iter::from_fn(|| self.pool.poll_event()).collect()
    }

    fn cleared(&mut self) -> Vec<Option<ObjectId>> {
        let events = self.published().into_iter();
        events.filter_map(|event| if let PoolEvent::PoolCleared { service_id, .. } = event { Some(service_id) } else { None }).collect()
    }
}

fn four() -> PoolConfig {
    PoolConfig { max_size: Some(4), ..config() }
}

#[test]
fn service_whose_last_connection_is_closed_returns_with_a_newer_generation() {
    let mut bench = Bench::balanced(four());
    let (gone, other) = (bench.check_out_of(1), bench.check_out_of(2));
    bench.pool.handle_checkin(gone, gone.id, Health::Broken, bench.now);
    let failed = bench.greeted(3);
    bench.pool.handle_open_failed(failed, &failure(), bench.now);
    bench.pool.handle_refill(bench.now);
    bench.clear(other, 2);
    bench.text();
    assert_eq!((gone.generation, bench.greeted(1).generation), (0, 1));
    assert_eq!((failed.generation, bench.greeted(3).generation), (0, 1));
}

#[test]
fn lease_that_is_over_neither_joins_a_service_nor_is_pinned() {
    let mut bench = Bench::balanced(four());
    let over = bench.check_out_of(1);
    bench.clear(over, 1);
    bench.back(over);
    bench.text();
    bench.wait();
    let next = bench.opens()[0];
    assert_eq!((next.slot, bench.pool.handle_greeted(over, service(1))), (over.slot, over));
    let next = bench.pool.handle_greeted(next, service(1));
    assert_eq!(next.generation, over.generation + 1);
    bench.pool.handle_opened(next, next.id, bench.now);
    bench.pool.handle_pinned(over);
    assert_eq!(bench.pool.stats().pinned, 0);
}

#[test]
fn pool_without_a_load_balancer_knows_no_services() {
    let mut bench = Bench::ready(config());
    bench.wait();
    let open = bench.opens()[0];
    assert_eq!(bench.pool.handle_greeted(open, service(1)), open);
    bench.pool.handle_opened(open, open.id, bench.now);
    bench.pool.handle_pinned(open);
    bench.clear(open, 1);
    assert_eq!(bench.cleared(), []);
    assert_eq!(bench.pool.stats().pinned, 0);
}

#[test]
fn wait_queue_timeout_counts_what_connections_are_used_for() {
    let mut bench = Bench::balanced(PoolConfig { max_size: Some(3), ..config() });
    let leases = [bench.check_out_of(1), bench.check_out_of(2), bench.check_out_of(1)];
    bench.pool.handle_pinned(leases[0]);
    bench.pool.handle_pinned(leases[1]);
    assert_eq!(bench.pool.stats().pinned, 2);
    assert_eq!(late_text(&mut bench), expected(2, 1));
    bench.back(leases[0]);
    bench.text();
    // The next holder is no cursor.
    bench.check_out();
    assert_eq!(late_text(&mut bench), expected(1, 2));
}

fn expected(cursors: usize, others: usize) -> String {
    format!(
        "Timeout waiting for connection from the connection pool. maxPoolSize: 3, connections in use by cursors: {cursors}, connections \
         in use by transactions: 0, connections in use by other operations: {others}"
    )
}

fn late_text(bench: &mut Bench) -> String {
    bench.wait_until(Some(ms(100)));
    bench.later(ms(100));
    match bench.actions().as_slice() {
        [PoolAction::Refuse(_, error)] => {
            assert_eq!((error.kind(), error.limit().map(|limit| limit.name)), (ErrorKind::Timeout, Some("waitQueueTimeoutMS")));
            error.message().to_owned()
        }
        other => panic!("{other:?}"),
    }
}

/// Every fact that names a service, in every state of a connection behind a load balancer, against the recorded matrix.
#[test]
fn services_and_events_match_the_recorded_matrix() {
    type Step = (&'static str, fn(&mut Bench, Lease));
    type Make = fn(&mut Bench) -> Lease;
    let states: [(&str, Make); 7] = [
        ("Opening", |bench| {
            bench.wait();
            bench.opens()[0]
        }),
        ("Opening, greeted", |bench| bench.greeted(1)),
        ("Idle", |bench| {
            let lease = bench.check_out_of(1);
            bench.back(lease);
            lease
        }),
        ("InUse", |bench| bench.check_out_of(1)),
        ("InUse, pinned", |bench| {
            let lease = bench.check_out_of(1);
            bench.pool.handle_pinned(lease);
            lease
        }),
        ("Draining", |bench| {
            let lease = bench.check_out_of(1);
            bench.pool.handle_checkin(lease, lease.id, Health::ReplyOutstanding, bench.now);
            lease
        }),
        ("Closed", |bench| {
            let lease = bench.check_out_of(1);
            bench.pool.handle_close(&closed(), false, bench.now);
            lease
        }),
    ];
    let steps: [Step; 9] = [
        ("greeted", |bench, lease| {
            bench.pool.handle_greeted(lease, service(2));
        }),
        ("pinned", |bench, lease| bench.pool.handle_pinned(lease)),
        ("clear its service", |bench, lease| bench.clear(lease, 1)),
        ("clear another service", |bench, lease| bench.clear(lease, 2)),
        ("clear its service twice", |bench, lease| {
            bench.clear(lease, 1);
            bench.clear(lease, 1);
        }),
        ("opened", |bench, lease| bench.pool.handle_opened(lease, lease.id, bench.now)),
        ("open failed", |bench, lease| bench.pool.handle_open_failed(lease, &failure(), bench.now)),
        ("checkin", |bench, lease| bench.back(lease)),
        ("cleared, then checkin broken", |bench, lease| {
            bench.clear(lease, 1);
            bench.pool.handle_checkin(lease, lease.id, Health::Broken, bench.now);
        }),
    ];
    let mut matrix = String::new();
    for (state, make) in states {
        for (name, step) in steps {
            let mut bench = Bench::balanced(config());
            let lease = make(&mut bench);
            bench.actions();
            bench.published();
            step(&mut bench, lease);
            let (text, cleared, stats) = (bench.text(), bench.cleared().len(), bench.pool.stats());
            let after = format!(
                "cleared {cleared} ready {} opening {} idle {} in use {} pinned {} draining {} waiting {}",
                stats.ready, stats.opening, stats.idle, stats.in_use, stats.pinned, stats.draining, stats.waiting
            );
            writeln!(matrix, "{state} x {name}: [{text}] -> {after}").expect("string");
        }
    }
    crate::matrix::compare("pool-services", &matrix);
}
