//! Does the pool do what the model does, on any sequence of operations?

use std::time::{Duration, Instant};

use mongolink::pool::{Health, PoolConfig};
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::pool_pair::{Op, Pair};
use crate::support::{for_seeds, ms};

const SEEDS: u64 = 4_000;
const STEPS: usize = 60;

#[test]
fn pool_does_what_the_plainest_pool_does() {
    let began = Instant::now();
    for_seeds(SEEDS, |rng| {
        let mut pair = Pair::new(config(rng), began);
        pair.step(Op::Ready);
        for _ in 0..STEPS {
            let op = operation(rng, &pair);
            if pair.applies(op) {
                pair.step(op);
            }
        }
        end(&mut pair);
    });
}

fn config(rng: &mut SmallRng) -> PoolConfig {
    let max_size = rng.random_bool(0.9).then(|| rng.random_range(1..6));
    PoolConfig {
        max_size,
        min_size: rng.random_range(0..=max_size.unwrap_or(3).min(3)),
        max_connecting: rng.random_range(1..4),
        max_idle_time: rng.random_bool(0.5).then(|| ms(rng.random_range(1..4_000))),
        open_timeout: rng.random_bool(0.7).then(|| ms(rng.random_range(1..6_000))),
        drain_limit: ms([10_000, 10_000, 400, 0][rng.random_range(0..4)]),
    }
}

fn operation(rng: &mut SmallRng, pair: &Pair) -> Op {
    let which = rng.random_range(0..3);
    let health = match rng.random_range(0..6) {
        0 => Health::Broken,
        1 | 2 => Health::ReplyOutstanding,
        _ => Health::Good,
    };
    match rng.random_range(0..40) {
        0..=7 => Op::CheckOut(rng.random_bool(0.6).then(|| ms(rng.random_range(0..3_000)))),
        8 | 9 => Op::CheckOutWithin(ms(rng.random_range(0..3_000))),
        10 | 11 => Op::Cancel(which),
        12 => Op::Alive(which),
        13 => Op::DeadOnLook(which),
        14..=19 => Op::Opened(which),
        20 => Op::OpenFailed { which, clear: rng.random_bool(0.3) },
        21 => Op::FailsToOpen(which),
        22..=26 => Op::CheckIn(which, health),
        27 | 28 => Op::DrainEnds(which, health),
        29 | 30 => Op::Ready,
        31 => Op::Clear { interrupt: rng.random_bool(0.5) },
        32 => Op::Resumed,
        33 if rng.random_bool(0.1) => Op::Close { interrupt: rng.random_bool(0.5) },
        34 => [Op::Unknown, Op::Refill, Op::Refill][rng.random_range(0..3)],
        35 if rng.random_bool(0.3) => Op::RoundTrip(ms([0, 5, 30, 400][rng.random_range(0..4)])),
        35 => Op::Late(span(rng)),
        36 | 37 => Op::Pass(pair.timer().map_or(Duration::ZERO, |at| at.saturating_duration_since(pair.now))),
        _ => Op::Pass(span(rng)),
    }
}

/// Time in steps that meet the pool's limits exactly, now and then.
fn span(rng: &mut SmallRng) -> Duration {
    let steps = [0, 1, 20, 49, 50, 999, 1_000, 1_001, 5_000, 10_000];
    if rng.random_bool(0.4) { ms(steps[rng.random_range(0..steps.len())]) } else { ms(rng.random_range(0..1_500)) }
}

/// Ends the pool, and gives everything back: nothing is left.
fn end(pair: &mut Pair) {
    pair.step(Op::Close { interrupt: true });
    let last = [Op::Refill, Op::Alive(0), Op::Opened(0), Op::CheckIn(0, Health::Good), Op::DrainEnds(0, Health::ReplyOutstanding)];
    for op in last {
        while pair.applies(op) {
            pair.step(op);
        }
    }
    assert!(pair.is_empty() && pair.timer().is_none(), "nothing is left of a closed pool");
    pair.step(Op::CheckOut(None));
    pair.step(Op::Ready);
    pair.step(Op::Pass(ms(60_000)));
    assert!(pair.is_empty() && pair.timer().is_none(), "a closed pool stays closed");
}
