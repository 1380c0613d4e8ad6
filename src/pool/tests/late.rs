//! Late replies while callers wait.

use super::*;

/// Makes a full pool. Its connections with a time have been draining since that time, counted from the start.
fn full(drains: &[Option<u64>], max_connecting: u32) -> (Bench, Vec<Lease>) {
    let max_size = Some(drains.len() as u32);
    let mut bench = Bench::ready(PoolConfig { max_size, max_connecting, ..config() });
    let leases: Vec<Lease> = drains.iter().map(|_| bench.check_out_new()).collect();
    let start = bench.now;
    let mut late: Vec<_> = leases.iter().zip(drains).filter_map(|(lease, since)| Some((since.as_ref()?, lease))).collect();
    late.sort_by_key(|(since, _)| **since);
    for (since, lease) in late {
        bench.now = start + ms(*since);
        bench.pool.handle_checkin(*lease, lease.id, Health::ReplyOutstanding, bench.now);
    }
    bench.text();
    (bench, leases)
}

#[test]
fn oldest_drain_of_a_full_pool_makes_room_for_a_waiting_caller() {
    let (mut bench, leases) = full(&[Some(10), Some(0), None], 2);
    bench.pool.handle_round_trip(Some(ms(30)), bench.now);
    bench.wait();
    assert_eq!(bench.text(), "", "four round trips are not over");
    assert_eq!(bench.pool.poll_timeout(), Some((bench.now + ms(110), "draining")));
    bench.later(ms(109));
    assert_eq!(bench.text(), "");
    bench.later(ms(1));
    assert_eq!(bench.text(), "interrupt 2", "connection 2 has drained longest");
    bench.later(ms(100));
    assert_eq!(bench.text(), "", "one caller needs one place");
    bench.pool.handle_checkin(leases[1], 2, Health::Broken, bench.now);
    assert_eq!(bench.text(), "close 2 open 4");
}

#[test]
fn drain_has_fifty_milliseconds_however_short_the_round_trip() {
    for round_trip in [None, Some(Duration::from_micros(100))] {
        let (mut bench, _) = full(&[Some(0)], 2);
        bench.pool.handle_round_trip(round_trip, bench.now);
        bench.wait();
        bench.later(ms(49));
        assert_eq!(bench.text(), "");
        bench.later(ms(1));
        assert_eq!(bench.text(), "interrupt 1");
    }
}

#[test]
fn drains_stay_while_nobody_waits_or_the_pool_has_room() {
    let (mut bench, _) = full(&[Some(0), Some(0)], 2);
    bench.later(ms(4000));
    assert_eq!(bench.text(), "", "there is no waiter");
    let mut bench = Bench::ready(config());
    let lease = bench.check_out_new();
    bench.pool.handle_checkin(lease, 1, Health::ReplyOutstanding, bench.now);
    bench.wait();
    bench.later(ms(4000));
    assert_eq!(bench.text(), "drain 1 open 2", "a second connection may be opened");
}

#[test]
fn no_more_drains_make_room_than_connections_may_be_opened() {
    let (mut bench, leases) = full(&[Some(0), Some(1), Some(2)], 2);
    for _ in 0..3 {
        bench.wait();
    }
    bench.later(ms(60));
    assert_eq!(bench.text(), "interrupt 1 interrupt 2", "maxConnecting");
    bench.pool.handle_checkin(leases[0], 1, Health::Broken, bench.now);
    assert_eq!(bench.text(), "close 1 open 4");
    bench.pool.handle_opened(Lease { slot: leases[0].slot, id: 4, generation: 0 }, 4, bench.now);
    assert_eq!(bench.text(), "deliver 4 to 3 interrupt 3");
}

#[test]
fn late_reply_in_time_serves_the_waiting_caller() {
    let (mut bench, leases) = full(&[Some(0)], 2);
    bench.wait();
    bench.later(ms(49));
    bench.pool.handle_checkin(leases[0], 1, Health::Good, bench.now);
    assert_eq!(bench.text(), "deliver 1 to 1");
}

#[test]
fn drain_limit_is_an_option_and_zero_closes_at_once() {
    for (limit, last) in [(ms(300), 300), (Duration::ZERO, 0)] {
        let mut bench = Bench::ready(PoolConfig { drain_limit: limit, ..config() });
        let lease = bench.check_out_new();
        bench.pool.handle_checkin(lease, 1, Health::ReplyOutstanding, bench.now);
        assert_eq!(bench.text(), "drain 1");
        assert_eq!(bench.pool.poll_timeout(), Some((bench.now + ms(last), "draining")));
        bench.later(ms(last));
        let actions = bench.actions();
        let [PoolAction::Interrupt(_, error)] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(error.limit().map(|limit| limit.name), Some("drain_limit"));
    }
}
