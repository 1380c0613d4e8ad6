use super::*;
use crate::error::Stage;
use crate::pool::login::{LOGIN_PAUSE_MAX, LOGIN_PAUSE_MIN};

fn refused() -> Error {
    Error::new(ErrorKind::Auth, "wrong password").at(Stage::Auth)
}

impl Bench {
    /// Lets an opening fail with a refused login.
    fn login_fails(&mut self, lease: Lease) {
        self.pool.handle_open_failed(lease, &refused(), self.now);
        self.pool.handle_refill(self.now);
    }

    /// Requests a connection, and lets its login fail.
    fn try_and_fail(&mut self) {
        let waiter = self.wait();
        let [lease] = self.opens()[..] else { panic!("one connection is opened for {waiter:?}") };
        self.login_fails(lease);
        assert_eq!(self.text(), format!("refuse {} Auth", waiter.0));
    }
}

#[test]
fn callers_are_refused_with_the_error_of_the_login() {
    let mut bench = Bench::ready(config());
    bench.try_and_fail();
    let error = bench.refused();
    assert_eq!((error.kind(), error.stage(), error.message()), (ErrorKind::Auth, Some(Stage::Auth), "wrong password"));
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
    bench.login_fails(one);
    bench.login_fails(other);
    bench.text();
    bench.later(LOGIN_PAUSE_MIN);
    bench.wait();
    assert_eq!(bench.opens().len(), 1);
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
