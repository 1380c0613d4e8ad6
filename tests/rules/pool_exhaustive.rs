//! Does the pool keep its promises in all sequences of six operations?
//!
//! On a pool of two connections and two waiters, every operation in every place; left out is only what has nobody to
//! happen to. One span of time serves all: it is past the look of an idle connection and the wait of an impatient caller
//! at once, past the limits of opening and draining the second time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use mongolink::pool::{Health, PoolConfig};

use crate::pool_pair::{Op, Pair};

const LENGTH: usize = 6;

const SPAN: Duration = Duration::from_secs(6);

const OPERATIONS: [Op; 33] = [
    Op::CheckOut(None),
    Op::CheckOut(Some(Duration::from_secs(5))),
    Op::CheckOutWithin(Duration::from_secs(5)),
    Op::Cancel(0),
    Op::Cancel(1),
    Op::Alive(0),
    Op::Alive(1),
    Op::DeadOnLook(0),
    Op::DeadOnLook(1),
    Op::Opened(0),
    Op::Opened(1),
    Op::OpenFailed { which: 0, clear: false },
    Op::OpenFailed { which: 1, clear: false },
    Op::FailsToOpen(0),
    Op::FailsToOpen(1),
    Op::Refill,
    Op::CheckIn(0, Health::Good),
    Op::CheckIn(1, Health::Good),
    Op::CheckIn(0, Health::ReplyOutstanding),
    Op::CheckIn(1, Health::ReplyOutstanding),
    Op::CheckIn(0, Health::Broken),
    Op::CheckIn(1, Health::Broken),
    Op::DrainEnds(0, Health::Good),
    Op::DrainEnds(1, Health::Good),
    Op::DrainEnds(0, Health::Broken),
    Op::DrainEnds(1, Health::Broken),
    Op::Ready,
    Op::Clear { interrupt: false },
    Op::Clear { interrupt: true },
    Op::Resumed,
    Op::Close { interrupt: false },
    Op::Close { interrupt: true },
    Op::Pass(SPAN),
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

/// Takes every step that can follow a sequence, and goes on from each.
fn extend(sequence: &mut Vec<Op>, began: Instant, count: &mut usize) {
    let now = after(sequence, began);
    let crowded = |op: &Op| matches!(op, Op::CheckOut(_) | Op::CheckOutWithin(_)) && now.waiting.len() == 2;
    for op in OPERATIONS.into_iter().filter(|op| now.applies(*op) && !crowded(op)) {
        let mut pair = after(sequence, began);
        sequence.push(op);
        *count += 1;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| pair.step(op))) {
            eprintln!("failed at the end of {sequence:?}");
            resume_unwind(panic);
        }
        if sequence.len() < LENGTH {
            extend(sequence, began, count);
        }
        sequence.pop();
    }
}

/// Makes a pool that has lived through a sequence, each step of which has been checked before.
fn after(sequence: &[Op], began: Instant) -> Pair {
    let mut pair = Pair::new(config(), began);
    sequence.iter().for_each(|op| pair.replay(*op));
    pair
}
