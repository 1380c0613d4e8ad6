//! A clock that the test moves: moments are reached by `expire`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Instant;

#[derive(Default)]
struct Clock {
    now: Option<Instant>,
    /// The sleeping task.
    sleeper: Option<Waker>,
}

// One operating-system thread runs all threads of a schedule.
std::thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::default();
}

/// Starts a schedule's time.
pub(crate) fn reset(start: Instant) {
    CLOCK.with_borrow_mut(|clock| *clock = Clock { now: Some(start), sleeper: None });
}

/// Moves the time to a moment.
pub(crate) fn expire(at: Instant) {
    let sleeper = CLOCK.with_borrow_mut(|clock| {
        clock.now = clock.now.max(Some(at));
        clock.sleeper.take()
    });
    if let Some(sleeper) = sleeper {
        sleeper.wake();
    }
}

pub(crate) fn now() -> Instant {
    CLOCK.with_borrow(|clock| clock.now.expect("a schedule's time"))
}

pub(crate) async fn sleep_until(at: Option<Instant>) {
    poll_fn(|context| {
        CLOCK.with_borrow_mut(|clock| {
            if at.is_some_and(|at| clock.now >= Some(at)) {
                return Poll::Ready(());
            }
            clock.sleeper = Some(context.waker().clone());
            Poll::Pending
        })
    })
    .await;
}
