use super::*;
use crate::error::Stage;
use crate::pool::login::{LOGIN_PAUSE_MAX, LOGIN_PAUSE_MIN};

fn refused() -> Error {
    Error::new(ErrorKind::Auth, "wrong password").at(Stage::Auth)
}

impl Bench {
    /// Lets an opening fail, and clears the pool as the topology does after a refused login.
    fn login_fails(&mut self, lease: Lease, clears: bool) {
        self.pool.handle_open_failed(lease, &refused(), self.now);
        if clears {
            self.pool.handle_clear(&refused(), false, self.now);
        }
        self.pool.handle_refill(self.now);
    }

    /// Requests a connection, and lets its login fail.
    fn try_and_fail(&mut self) {
        let waiter = self.wait();
        let [lease] = self.opens()[..] else { panic!("one connection is opened for {waiter:?}") };
        self.login_fails(lease, false);
        assert_eq!(self.text(), format!("refuse {} Auth", waiter.0));
    }
}

#[test]
fn refused_login_fails_all_waiters_and_all_new_checkouts() {
    for clears in [false, true] {
        let mut bench = Bench::ready(PoolConfig { max_connecting: 1, ..config() });
        let waiters = [bench.wait(), bench.wait(), bench.wait()];
        let [lease] = bench.opens()[..] else { panic!("one at a time") };
        bench.login_fails(lease, clears);
        let mut published = bench.actions().iter().map(describe).collect::<Vec<_>>();
        published.sort();
        assert_eq!(published, waiters.map(|waiter| format!("refuse {} Auth", waiter.0)), "clears: {clears}");
        assert_eq!((bench.refused().kind(), bench.refused().stage()), (ErrorKind::Auth, Some(Stage::Auth)));
        bench.pool.handle_ready(bench.now);
        bench.later(LOGIN_PAUSE_MIN - ms(1));
        let published = bench.refused();
        assert_eq!((published.kind(), published.message()), (ErrorKind::Auth, "wrong password"));
        assert_eq!(bench.text(), "", "nothing is opened in the pause");
        bench.later(ms(1));
        bench.wait();
        assert_eq!(bench.opens().len(), 1, "the pause is over");
    }
}

#[test]
fn pause_doubles_up_to_its_limit_and_ends_with_a_login() {
    let mut bench = Bench::ready(config());
    for pause in [100, 200, 400, 800, 1600, 3200, 5000, 5000].map(ms) {
        bench.try_and_fail();
        bench.later(pause - ms(1));
        assert_eq!(bench.refused().kind(), ErrorKind::Auth, "{pause:?}");
        bench.later(ms(1));
    }
    assert_eq!(LOGIN_PAUSE_MAX, ms(5000));
    let lease = bench.check_out_new();
    bench.pool.handle_checkin(lease, lease.id, Health::Broken, bench.now);
    bench.text();
    bench.try_and_fail();
    bench.later(LOGIN_PAUSE_MIN);
    bench.wait();
    assert_eq!(bench.opens().len(), 1, "after a login that succeeded it is the first again");
}

#[test]
fn logins_refused_at_the_same_time_count_once() {
    let mut bench = Bench::ready(config());
    bench.wait();
    bench.wait();
    let [one, other] = bench.opens()[..] else { panic!("two connections") };
    bench.login_fails(one, false);
    bench.login_fails(other, false);
    bench.text();
    bench.later(LOGIN_PAUSE_MIN);
    bench.wait();
    assert_eq!(bench.opens().len(), 1);
}

#[test]
fn pause_does_not_affect_open_connections() {
    let mut bench = Bench::ready(config());
    let lease = bench.check_out_new();
    bench.try_and_fail();
    assert_eq!(bench.refused().kind(), ErrorKind::Auth);
    bench.pool.handle_checkin(lease, lease.id, Health::Good, bench.now);
    assert_eq!(bench.check_out().1, lease.id);
}

#[test]
fn pause_holds_for_the_least_size_too() {
    let mut bench = Bench::ready(PoolConfig { min_size: 1, max_connecting: 1, ..config() });
    for _ in 0..6 {
        let [lease] = bench.opens()[..] else { panic!("one for minPoolSize") };
        bench.login_fails(lease, true);
        bench.pool.handle_ready(bench.now);
        let (at, name) = bench.pool.poll_timeout().expect("a timer");
        assert_eq!((bench.text().as_str(), name), ("", "minPoolSize"));
        bench.later(at - bench.now - ms(1));
        assert_eq!(bench.text(), "");
        bench.later(ms(1));
    }
}

#[test]
fn other_failures_cause_no_pause() {
    let mut bench = Bench::ready(config());
    for error in [Error::timeout(Stage::Auth, "connectTimeoutMS", ms(1), ms(1)), Error::new(ErrorKind::Command, "no").at(Stage::Hello)] {
        let waiter = bench.wait();
        let [lease] = bench.opens()[..] else { panic!("a connection is opened for {waiter:?}") };
        bench.pool.handle_open_failed(lease, &error, bench.now);
        bench.pool.handle_refill(bench.now);
        bench.text();
    }
}

#[test]
fn login_that_is_cut_off_or_answered_with_nonsense_causes_a_pause() {
    for kind in [ErrorKind::Closed, ErrorKind::Protocol, ErrorKind::Io(std::io::ErrorKind::ConnectionReset)] {
        let mut bench = Bench::ready(config());
        bench.wait();
        let [lease] = bench.opens()[..] else { panic!("a connection is opened") };
        bench.pool.handle_open_failed(lease, &Error::new(kind, "no").at(Stage::Auth), bench.now);
        bench.pool.handle_refill(bench.now);
        assert!(bench.opens().is_empty(), "{kind:?}");
    }
}
