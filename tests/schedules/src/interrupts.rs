//! The interrupt of a connection: a waiting task always learns of it.

use shuttle::sync::Arc;
use shuttle::{future, thread};

use crate::SCHEDULES;
use crate::io::interrupt::Interrupt;

#[test]
fn waiting_task_is_woken_whenever_the_interrupt_fires() {
    shuttle::check_random(
        || {
            let interrupt = Arc::new(Interrupt::default());
            let fired = Arc::clone(&interrupt);
            let other = thread::spawn(move || fired.fire("first".to_owned()));
            // A lost wake-up leaves this task waiting for ever, which shuttle reports as a deadlock.
            let error = future::block_on(interrupt.fired());
            other.join().expect("the thread that fires");
            assert_eq!(error, "first");
        },
        SCHEDULES,
    );
}

#[test]
fn first_of_two_interrupts_counts_for_all_waits() {
    shuttle::check_random(
        || {
            let interrupt = Arc::new(Interrupt::default());
            let fire = |error: &'static str| {
                let interrupt = Arc::clone(&interrupt);
                thread::spawn(move || interrupt.fire(error.to_owned()))
            };
            let threads = [fire("one"), fire("other")];
            let first = future::block_on(interrupt.fired());
            for thread in threads {
                thread.join().expect("a thread that fires");
            }
            assert_eq!(future::block_on(interrupt.fired()), first);
        },
        SCHEDULES,
    );
}
