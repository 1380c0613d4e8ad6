//! Do the rules hold, whatever happens?
//!
//! A seeded simulation: the shipped pure parts of one or several clients against the sandbox's servers, on one virtual
//! clock and one queue of events. No sleeping, no sockets; a seed decides everything. What must hold is in `invariants`,
//! what goes wrong in `plan`.
//!
//! `MONGOLINK_SIM_SEEDS` says how many seeds are run, `MONGOLINK_SEED=n` runs that one alone and prints all of it. Seeds that
//! have failed once are pinned in `fixtures/seeds/`.

#[path = "simulation.rs"]
mod simulation;

use std::path::Path;

use simulation::{plan, run};

/// How many seeds are run if nobody says how many.
const SEEDS: u64 = 2_000;

/// The tests use as many threads as `tests/run` has cores for them.
const THREADS: usize = 2;

#[test]
fn invariants_hold_on_every_seed() {
    if let Some(seed) = chosen() {
        return replay(seed);
    }
    let count = std::env::var("MONGOLINK_SIM_SEEDS").map_or(SEEDS, |count| count.parse().expect("MONGOLINK_SIM_SEEDS is a number"));
    let sum = run::run_seeds(1, count, THREADS, 5, &|_| {});
    println!("{sum}");
    for failure in &sum.failures {
        println!("\n{failure}");
    }
    assert!(sum.failures.is_empty(), "{} of {} seeds failed", sum.failures.len(), sum.seeds);
}

#[test]
fn pinned_seeds_stay_fixed() {
    if chosen().is_some() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/seeds/sim.txt");
    let text = std::fs::read_to_string(&path).expect("the pinned seeds");
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty());
    let failures: Vec<_> = lines
        .filter_map(|line| {
            let (seed, cause) = line.split_once('#').unwrap_or((line, ""));
            let seed = seed.trim().parse().unwrap_or_else(|_| panic!("no seed: {line:?}"));
            run::run_seed(seed).err().map(|failure| format!("{failure}\npinned for:{cause}"))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn same_seed_same_run() {
    if chosen().is_some() {
        return;
    }
    // The last digit says what kind of world it is.
    for seed in [1, 2, 3, 7, 8, 9] {
        let (first, _) = run::run_traced(seed);
        let (second, _) = run::run_traced(seed);
        assert!(first.len() > 50, "seed {seed}: {} lines", first.len());
        assert_eq!(first, second, "seed {seed}");
    }
}

/// Runs one seed and prints its whole timeline.
fn replay(seed: u64) {
    let (lines, outcome) = run::run_traced(seed);
    println!("{:#?}", plan::Plan::of(seed));
    for line in lines {
        println!("{line}");
    }
    match outcome {
        Ok(figures) => println!("seed {seed}: {figures:?}"),
        Err((invariant, finding)) => panic!("seed {seed} breaks {invariant}: {finding}"),
    }
}

fn chosen() -> Option<u64> {
    std::env::var("MONGOLINK_SEED").ok().map(|seed| seed.parse().expect("MONGOLINK_SEED is a number"))
}
