//! The pool against its model, on all sequences of six steps.
//!
//! A pool of two connections and two waiters; every step in every place where it applies. Time passes in one span: the first
//! exceeds the time after which idle connections are checked and a wait queue time-out, the second also the limits of
//! opening and draining.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use mongolink::pool::{Health, PoolConfig};

use crate::pool_pair::{Pair, Step};

const LENGTH: usize = 6;

const SPAN: Duration = Duration::from_secs(6);

const STEPS: [Step; 33] = [
    Step::CheckOut(None),
    Step::CheckOut(Some(Duration::from_secs(5))),
    Step::CheckOutWithin(Duration::from_secs(5)),
    Step::Cancel(0),
    Step::Cancel(1),
    Step::Alive(0),
    Step::Alive(1),
    Step::DeadOnLook(0),
    Step::DeadOnLook(1),
    Step::Opened(0),
    Step::Opened(1),
    Step::OpenFailed { which: 0, clear: false },
    Step::OpenFailed { which: 1, clear: false },
    Step::FailsToOpen(0),
    Step::FailsToOpen(1),
    Step::Refill,
    Step::CheckIn(0, Health::Good),
    Step::CheckIn(1, Health::Good),
    Step::CheckIn(0, Health::ReplyOutstanding),
    Step::CheckIn(1, Health::ReplyOutstanding),
    Step::CheckIn(0, Health::Broken),
    Step::CheckIn(1, Health::Broken),
    Step::DrainEnds(0, Health::Good),
    Step::DrainEnds(1, Health::Good),
    Step::DrainEnds(0, Health::Broken),
    Step::DrainEnds(1, Health::Broken),
    Step::Ready,
    Step::Clear { interrupt: false },
    Step::Clear { interrupt: true },
    Step::Resumed,
    Step::Close { interrupt: false },
    Step::Close { interrupt: true },
    Step::Pass(SPAN),
];

fn config() -> PoolConfig {
    let open_timeout = Some(Duration::from_secs(8));
    PoolConfig {
        max_size: Some(2),
        min_size: 0,
        max_connecting: 2,
        max_idle_time: None,
        open_timeout,
        drain_limit: Duration::from_secs(10),
    }
}

#[test]
fn all_short_sequences_on_a_pool_of_two() {
    let began = Instant::now();
    let mut sequence = Vec::new();
    let mut count = 0;
    extend(&mut sequence, began, &mut count);
    println!("{count} sequences");
    assert!(count > 10_000, "only {count} sequences");
}

/// Takes every step that can follow a sequence, and continues from each.
fn extend(sequence: &mut Vec<Step>, began: Instant, count: &mut usize) {
    let now = after(sequence, began);
    let crowded = |step: &Step| matches!(step, Step::CheckOut(_) | Step::CheckOutWithin(_)) && now.waiting.len() == 2;
    for step in STEPS.into_iter().filter(|step| now.applies(*step) && !crowded(step)) {
        let mut pair = after(sequence, began);
        sequence.push(step);
        *count += 1;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| pair.step(step))) {
            eprintln!("failed at the end of {sequence:?}");
            resume_unwind(panic);
        }
        if sequence.len() < LENGTH {
            extend(sequence, began, count);
        }
        sequence.pop();
    }
}

/// Makes a pool that has taken the steps of a sequence, which have been checked before.
fn after(sequence: &[Step], began: Instant) -> Pair {
    let mut pair = Pair::new(config(), began);
    sequence.iter().for_each(|step| pair.replay(*step));
    pair
}
