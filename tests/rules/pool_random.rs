//! The pool against its model, on random sequences of steps.

use std::time::{Duration, Instant};

use mongolink::pool::{Health, PoolConfig};
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::pool_pair::{Pair, Step};
use crate::support::{for_seeds, ms};

const SEEDS: u64 = 4_000;
const STEPS: usize = 60;

#[test]
fn pool_does_what_the_model_does() {
    let began = Instant::now();
    for_seeds(SEEDS, |rng| {
        let mut pair = Pair::new(config(rng), began);
        pair.step(Step::Ready);
        for _ in 0..STEPS {
            let step = operation(rng, &pair);
            if pair.applies(step) {
                pair.step(step);
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

fn operation(rng: &mut SmallRng, pair: &Pair) -> Step {
    let which = rng.random_range(0..3);
    let health = match rng.random_range(0..6) {
        0 => Health::Broken,
        1 | 2 => Health::ReplyOutstanding,
        _ => Health::Good,
    };
    match rng.random_range(0..40) {
        0..=7 => Step::CheckOut(rng.random_bool(0.6).then(|| ms(rng.random_range(0..3_000)))),
        8 | 9 => Step::CheckOutWithin(ms(rng.random_range(0..3_000))),
        10 | 11 => Step::Cancel(which),
        12 => Step::Alive(which),
        13 => Step::DeadOnLook(which),
        14..=19 => Step::Opened(which),
        20 => Step::OpenFailed { which, clear: rng.random_bool(0.3) },
        21 => Step::FailsToOpen(which),
        22..=26 => Step::CheckIn(which, health),
        27 | 28 => Step::DrainEnds(which, health),
        29 | 30 => Step::Ready,
        31 => Step::Clear { interrupt: rng.random_bool(0.5) },
        32 => Step::Resumed,
        33 if rng.random_bool(0.1) => Step::Close { interrupt: rng.random_bool(0.5) },
        34 => [Step::Unknown, Step::Refill, Step::Refill][rng.random_range(0..3)],
        35 if rng.random_bool(0.3) => Step::RoundTrip(ms([0, 5, 30, 400][rng.random_range(0..4)])),
        35 => Step::Late(span(rng)),
        36 | 37 => Step::Pass(pair.timer().map_or(Duration::ZERO, |at| at.saturating_duration_since(pair.now))),
        _ => Step::Pass(span(rng)),
    }
}

/// Draws a span of time; some meet the pool's limits exactly.
fn span(rng: &mut SmallRng) -> Duration {
    let steps = [0, 1, 20, 49, 50, 999, 1_000, 1_001, 5_000, 10_000];
    if rng.random_bool(0.4) { ms(steps[rng.random_range(0..steps.len())]) } else { ms(rng.random_range(0..1_500)) }
}

/// Closes the pool and returns everything: nothing is left.
fn end(pair: &mut Pair) {
    pair.step(Step::Close { interrupt: true });
    let last =
        [Step::Refill, Step::Alive(0), Step::Opened(0), Step::CheckIn(0, Health::Good), Step::DrainEnds(0, Health::ReplyOutstanding)];
    for step in last {
        while pair.applies(step) {
            pair.step(step);
        }
    }
    assert!(pair.is_empty() && pair.timer().is_none(), "nothing is left of a closed pool");
    pair.step(Step::CheckOut(None));
    pair.step(Step::Ready);
    pair.step(Step::Pass(ms(60_000)));
    assert!(pair.is_empty() && pair.timer().is_none(), "a closed pool stays closed");
}
